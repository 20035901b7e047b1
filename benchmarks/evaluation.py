"""What error rates cost: the EER of many scores against scikit-learn's ROC curve, and a whole report: python benchmarks/evaluation.py

Times depend on the machine and on who else is using it; both of a pair are run in turn, and the ratio is that of the medians."""
import argparse
import platform
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from gfa_fastai.evaluation import compare_thresholds, evaluate_scores, load_scores, page_html, report_figure, report_markdown, save_scores
from gfa_fastai.metrics import auc, eer

def clock(f, *args):
    "Seconds that a call takes, and what it returns."
    start = time.perf_counter()
    out = f(*args)
    return time.perf_counter()-start, out

def table(subjects, videos, frames, seed=0):
    "Scores with people, videos and frames of their own luck: a third of the people in dev, a third of the videos live, four species."
    rng, n = np.random.default_rng(seed), subjects*videos*frames
    who, video = np.repeat(np.arange(subjects), videos*frames), np.repeat(np.arange(subjects*videos), frames)
    live = video % videos < videos//3
    odds = rng.normal(0, .8, subjects)[who] + rng.normal(0, .8, subjects*videos)[video] + rng.normal(0, .8, n) + np.where(live, 1.5, -1.5)
    return pd.DataFrame(dict(dataset='d', split=np.where(who < subjects//3, 'dev', 'test'), subject=who.astype(str), video=video.astype(str), frame=np.tile(np.arange(frames), subjects*videos),
                             label=np.where(live, 'live', 'attack'), pai=np.where(live, '', np.array(['print', 'replay', 'mask', 'cut'])[video % 4]), score=1/(1+np.exp(-odds))))

def whole_report(folder):
    "From files to a page: everything that gfa_evaluate does."
    scores = load_scores(folder/'scores.csv')
    report = evaluate_scores(scores)
    page = page_html('report', report_markdown(report), {'figures': report_figure(report, scores)})
    compare_thresholds(scores)
    return page

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--scores', type=int, default=10**6, help='scores of each class for the EER')
    p.add_argument('--repeats', type=int, default=5, help='runs of each')
    p.add_argument('--subjects', type=int, default=500)
    p.add_argument('--videos', type=int, default=20, help='of each subject')
    p.add_argument('--frames', type=int, default=10, help='of each video')
    a = p.parse_args()
    print(f'{platform.platform()}, numpy {np.__version__}, pandas {pd.__version__}')
    rng = np.random.default_rng(0)
    attack, live = rng.normal(0, 1, a.scores), rng.normal(1.5, 1, a.scores)
    y, s = np.r_[np.zeros(a.scores), np.ones(a.scores)], np.r_[attack, live]
    times = [(clock(eer, attack, live)[0], clock(roc_curve, y, s)[0], clock(auc, attack, live)[0]) for _ in range(a.repeats)]
    ours, theirs, area = (median(t) for t in zip(*times))
    print(f'{a.scores:,} + {a.scores:,} scores: EER {ours:.3f} s, roc_curve {theirs:.3f} s, ratio {ours/theirs:.2f}; AUC {area:.3f} s')
    with tempfile.TemporaryDirectory() as tmp:
        df = table(a.subjects, a.videos, a.frames)
        save_scores(df, Path(tmp)/'scores.csv')
        print(f'{len(df):,} frames, {a.subjects} subjects, 1,000 resamples:')
        print(f'  evaluate_scores {clock(evaluate_scores, df)[0]:.2f} s; judged frame by frame {clock(lambda: evaluate_scores(df, how="frame"))[0]:.2f} s')
        print(f'  from the file to the page, with every threshold {clock(whole_report, Path(tmp))[0]:.2f} s')
