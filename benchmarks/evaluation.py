"""Rows `eer` and `report`: what error rates cost, the EER of many scores and a whole report."""

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from benchmarks.measure import against, line, turns
from gfa_fastai.evaluation import compare_thresholds, evaluate_scores, report_markdown
from gfa_fastai.run.webpage import figure_png, page_html, report_figure
from gfa_fastai.inputs.tables import load_scores, save_scores
from gfa_fastai.metrics import auc, eer


def table(subjects, videos, frames, seed=0):
    """Scores with people, videos and frames of their own luck: a third of the people in dev, a third of the videos
    live, four species."""
    rng, n = np.random.default_rng(seed), subjects * videos * frames
    who, video = np.repeat(np.arange(subjects), videos * frames), np.repeat(np.arange(subjects * videos), frames)
    live = video % videos < videos // 3
    odds = (
        rng.normal(0, 0.8, subjects)[who]
        + rng.normal(0, 0.8, subjects * videos)[video]
        + rng.normal(0, 0.8, n)
        + np.where(live, 1.5, -1.5)
    )
    return pd.DataFrame(
        dict(
            dataset='d',
            split=np.where(who < subjects // 3, 'dev', 'test'),
            subject=who.astype(str),
            video=video.astype(str),
            frame=np.tile(np.arange(frames), subjects * videos),
            label=np.where(live, 'live', 'attack'),
            pai=np.where(live, '', np.array(['print', 'replay', 'mask', 'cut'])[video % 4]),
            score=1 / (1 + np.exp(-odds)),
        )
    )


def whole_report(folder):
    "From files to a page: everything that gfa_evaluate does."
    scores = load_scores(folder / 'scores.csv')
    report = evaluate_scores(scores)
    pictures = {'figures': figure_png(report_figure(report, scores))}
    page = page_html('report', report_markdown(report), pictures)
    compare_thresholds(scores)
    return page


def rows(a):
    "The row of the report; goal: 1/0.37 of the time of roc_curve, which is bob's ratio."
    n, rng = 10**5 if a.quick else 10**6, np.random.default_rng(0)
    attack, live = rng.normal(0, 1, n), rng.normal(1.5, 1, n)
    y, s = np.r_[np.zeros(n), np.ones(n)], np.r_[attack, live]
    forms, goals = (
        {'roc_curve of scikit-learn': lambda: roc_curve(y, s), 'eer': lambda: eer(attack, live)},
        {'roc_curve of scikit-learn': 1 / 0.37},
    )
    try:
        from bob.measure import eer as theirs
    except ImportError:
        note = 'bob.measure is not installed'
    else:
        forms['eer of bob.measure'], goals['eer of bob.measure'], note = lambda: theirs(attack, live), 1, ''
    seen = turns(forms | {'auc': lambda: auc(attack, live)}, a.rounds)
    return against('eer', f'{n:,} + {n:,} scores', seen, 'eer', goals, note=note)


def report(a):
    "The row of the report: everything that gfa_evaluate does, and its parts."
    with tempfile.TemporaryDirectory() as tmp:
        df = table(*(50, 4, 5) if a.quick else (500, 20, 10))
        save_scores(df, Path(tmp) / 'scores.csv')
        seen = turns(
            {
                'evaluate_scores': lambda: evaluate_scores(df),
                'frame by frame': lambda: evaluate_scores(df, how='frame'),
                'from the file to the page': lambda: whole_report(Path(tmp)),
            },
            min(a.rounds, 2),
        )
    return [line('report', f'{len(df):,} frames', k, v) for k, v in seen.items()]
