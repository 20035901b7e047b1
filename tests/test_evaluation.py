"Scores to error rates: against pandas by hand, brute force, and every kind of bad table."

import copy, json, pickle, subprocess, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gfa_fastai.evaluation import (
    CONVENTIONS,
    HOW,
    NAMES,
    SCORE_COLUMNS,
    compare_systems,
    compare_thresholds,
    difference_markdown,
    evaluate_scores,
    find_threshold,
    log_odds,
    percent,
    report_markdown,
    thresholds_table,
    validate_scores,
    video_scores,
    score_text,
    with_interval,
)
from gfa_fastai.run.webpage import figure_png, page_html, report_figure
from gfa_fastai.inputs.tables import load_scores, save_four_column, save_scores
from tables import table
from gfa_fastai.metrics import (
    acer,
    apcer,
    auc,
    bootstrap_subjects,
    bpcer,
    bpcer_at_apcer,
    eer,
    eer_threshold,
    far_frr,
    hter,
    tpr_at_fpr,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def probabilities(*args, **kwargs):
    return table(*args, **kwargs).assign(score=lambda d: sigmoid(2 * d.score - 1))


def classes(df):
    return [df.loc[df.label == l, 'score'].to_numpy() for l in ('attack', 'live')]


def videos(df, split, how='mean'):
    "Scores of videos, by loops."
    d, out = df[df.split == split], []
    for v in sorted(d.video.unique()):
        g = d[d.video == v]
        score = sigmoid(np.mean(np.log(g.score / (1 - g.score)))) if how == 'logodds' else getattr(np, how)(g.score)
        out.append((v, g.subject.iloc[0], g.label.iloc[0], g.pai.iloc[0], score))
    return pd.DataFrame(out, columns=['video', 'subject', 'label', 'pai', 'score'])


# -- videos and thresholds


@pytest.mark.parametrize('how', HOW)
def test_video_scores(how):
    df = probabilities()
    got = video_scores(df, how).set_index('video').score
    want = pd.concat([videos(df, s, how) for s in ('dev', 'test')]).set_index('video').score
    pd.testing.assert_series_equal(got.sort_index(), want.sort_index(), check_names=False)


def test_log_odds():
    assert log_odds([0.5, 0.75]).tolist() == pytest.approx([0, np.log(3)])
    ends = log_odds([0.0, 1.0, 1 - 2**-53])
    assert np.isfinite(ends).all() and ends[0] == pytest.approx(-ends[1]) and ends[1] == ends[2]
    for bad in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match='1 of 3 scores are not between 0 and 1'):
            log_odds([0.2, bad, 0.3])
    with pytest.raises(ValueError, match='no probabilities'):
        evaluate_scores(table(), how='logodds')


def test_log_odds_keep_the_order_that_a_mean_of_halves_loses():
    "Two frames that disagree: their mean is a half whatever they said."
    df = pd.DataFrame(
        [
            ('d', 'test', 's', v, f, 'live', '', p)
            for v, pair in (('a', (0.999999, 0.1)), ('b', (0.9, 0.000001)))
            for f, p in enumerate(pair)
        ],
        columns=SCORE_COLUMNS,
    )
    mean, odds = (video_scores(df, h).set_index('video').score for h in ('mean', 'logodds'))
    assert mean['a'] - mean['b'] < 0.1 + 1e-4 and odds['a'] > 0.99 and odds['b'] < 0.01


def test_videos_of_one_name_in_two_datasets_stay_apart():
    both = pd.concat([table(dataset='a'), table(dataset='b')]).assign(video=lambda d: d.video.str[1:])
    assert len(video_scores(both)) == 2 * len(video_scores(both[both.dataset == 'a']))


@pytest.mark.parametrize('how', [*HOW, 'frame'])
def test_origins(how):
    new, old = probabilities(1, 'new', shift=0.7), probabilities(2, 'old')

    def want(df, split):
        return eer_threshold(*classes(df[df.split == split] if how == 'frame' else videos(df, split, how)))

    for c, df, split in (('dev', new, 'dev'), ('source', old, 'dev'), ('test', new, 'test')):
        t, words = find_threshold(new, c, old, how)
        assert t == pytest.approx(want(df, split), rel=1e-12)
        assert (
            words.startswith({'dev': 'target-dev', 'source': 'source-dev', 'test': 'test-EER'}[c])
            and df.dataset[0] in words
        )
    assert find_threshold(new, 0.25) == (0.25, 'given: 0.25')


def test_the_threshold_does_not_see_the_test():
    a, b = table(3), table(3)
    b.loc[b.split == 'test', 'score'] += 5
    for c in ('dev', 'source'):
        assert find_threshold(a, c, a)[0] == find_threshold(b, c, b)[0]
    assert find_threshold(a, 'test')[0] != find_threshold(b, 'test')[0]


# -- the report


@pytest.mark.parametrize('seed', range(5))
def test_report_against_metrics(seed):
    new, old = table(seed, 'new', shift=0.4), table(seed + 50, 'old')
    r = evaluate_scores(new, 'source', old, n=50)
    v = videos(new, 'test')
    a, l = classes(v)
    pai = v.pai[v.label == 'attack']
    t = r.threshold
    want = dict(
        zip(('far', 'frr'), far_frr(a, l, t)),
        hter=hter(a, l, t),
        apcer=apcer(a, t, pai),
        bpcer=bpcer(l, t),
        acer=acer(a, l, t, pai),
        auc=auc(a, l),
        eer=eer(a, l),
        bpcer10=bpcer_at_apcer(a, l, 0.1, pai),
        bpcer20=bpcer_at_apcer(a, l, 0.05, pai),
        bpcer100=bpcer_at_apcer(a, l, 0.01, pai),
        tpr_at_fpr1=tpr_at_fpr(a, l, 0.01),
    )
    assert set(want) == set(NAMES) and r.rates.index.tolist() == list(NAMES)
    for k, x in want.items():
        assert getattr(r, k) == pytest.approx(x, abs=1e-12), k
    fa, fl = classes(new[new.split == 'test'])
    ft = eer_threshold(*classes(old[old.split == 'dev']))
    assert r.rates.loc['hter', 'frames'] == pytest.approx(hter(fa, fl, ft), abs=1e-12)
    assert r.counts == dict(subjects=7, live_videos=14, attack_videos=14, frames=84)
    assert r.species.apcer.to_dict() == pytest.approx({p: apcer(a[pai == p], t) for p in ('print', 'replay')})
    fp = new.pai[(new.split == 'test') & (new.label == 'attack')]
    frame = dict(
        zip(('far', 'frr'), far_frr(fa, fl, ft)),
        acer=acer(fa, fl, ft, fp),
        apcer=apcer(fa, ft, fp),
        auc=auc(fa, fl),
        eer=eer(fa, fl),
        bpcer20=bpcer_at_apcer(fa, fl, 0.05, fp),
    )
    for k, x in frame.items():
        assert r.rates.loc[k, 'frames'] == pytest.approx(x, abs=1e-12), k
    assert r.rates.loc['hter', ['low', 'value', 'high']].is_monotonic_increasing


def test_intervals_are_those_of_metrics():
    df = table(1)
    r, v = evaluate_scores(df, n=200, seed=3), video_scores(validate_scores(df)).query("split == 'test'")
    b = bootstrap_subjects(v.score, v.label == 'live', v.subject, r.threshold, v.pai, n=200, seed=3)
    pd.testing.assert_frame_equal(r.rates.loc[b.index, ['value', 'low', 'high']], b, atol=1e-12)
    own = ['eer', 'bpcer10', 'bpcer20', 'bpcer100', 'tpr_at_fpr1']
    assert r.rates.loc[own, ['low', 'high']].isna().all(axis=None) and r.rates.drop(own)[['low', 'high']].notna().all(
        axis=None
    )


def test_species_table():
    df = table(2, people=(6, 8), pais=('print', 'replay', 'mask'))
    df = df[(df.pai != 'mask') | (df.subject < 'd010')]  # four test people with masks
    r = evaluate_scores(df, n=100)
    v, f = video_scores(validate_scores(df)).query("split == 'test'"), df[df.split == 'test']
    live = v.score[v.label == 'live']
    assert (
        r.species.index.tolist() == ['mask', 'print', 'replay']
        and r.species.videos.tolist() == [4, 8, 8]
        and r.species.subjects.tolist() == [4, 8, 8]
    )
    t = eer_threshold(*classes(df[df.split == 'dev']))
    for p, row in r.species.iterrows():
        own = v.score[v.pai == p]
        assert (
            row.apcer == np.mean(own >= r.threshold)
            and row.auc == pytest.approx(auc(own, live))
            and row.frames == np.mean(f.score[f.pai == p] >= t)
        )
    assert r.species.low.isna().tolist() == [True, False, False]
    assert (r.species.low <= r.species.apcer)[1:].all() and (r.species.high >= r.species.apcer)[1:].all()
    assert r.to_dict()['species']['mask']['low'] is None and '| mask      | 4 ' in report_markdown(r)


def test_a_species_that_the_threshold_never_saw_is_named():
    df = table(2, pais=('print', 'replay', 'mask'))
    seen = df[(df.split == 'test') | (df.pai != 'mask')]
    assert any(
        n == 'Species of the test that the rows of the threshold do not have: mask.'
        for n in evaluate_scores(seen, n=20).notes
    )
    for r in (
        evaluate_scores(df, n=20),
        evaluate_scores(seen, 'test', n=20),
        evaluate_scores(seen, 0.4, n=20),
        evaluate_scores(seen, 'source', df.assign(dataset='e'), n=20),
    ):
        assert not any('do not have' in n for n in r.notes)


def test_grouped_species():
    df = table(3, pais=('print1', 'print2', 'video1'))
    group = {'print1': 'print', 'print2': 'print'}
    r, by_hand = evaluate_scores(df, n=50, species=group), evaluate_scores(df.assign(pai=df.pai.replace(group)), n=50)
    pd.testing.assert_frame_equal(r.rates, by_hand.rates)
    pd.testing.assert_frame_equal(r.species, by_hand.species)
    assert r.species.index.tolist() == ['print', 'video1'] and 'print1 into print, print2 into print' in r.notes[-1]
    assert r.far == evaluate_scores(df, n=50).far and r.apcer <= evaluate_scores(df, n=50).apcer
    with pytest.raises(ValueError, match='no attack is of prnt; there are print1, print2, video1'):
        evaluate_scores(df, species={'prnt': 'print'})
    with pytest.raises(ValueError, match='no attack is of prnt'):
        compare_systems(df, df, species={'prnt': 'print'})
    assert compare_systems(df, df.assign(score=df.score + 0.1), species=group, n=20).loc[
        'apcer', 'value'
    ] == pytest.approx(r.apcer - evaluate_scores(df.assign(score=df.score + 0.1), n=20, species=group).apcer)


def test_order_of_rows_does_not_matter():
    df = table(4)
    a, b = evaluate_scores(df, n=100), evaluate_scores(df.sample(frac=1, random_state=1), n=100)
    pd.testing.assert_frame_equal(a.rates, b.rates)


def test_few_people_no_interval_in_words():
    r = evaluate_scores(table(people=(6, 4)))
    assert r.rates[['low', 'high']].isna().all(axis=None)
    assert any('No interval' in n and '4 test subject(s) with live videos' in n for n in r.notes)
    assert not any('[' in line for line in report_markdown(r).splitlines() if line.startswith('|'))
    assert not any('No interval' in n for n in evaluate_scores(table(people=(6, 5))).notes)


def test_few_live_people_among_many():
    df = table(people=(6, 8))
    r = evaluate_scores(df[~((df.split == 'test') & (df.label == 'live') & (df.subject > 'd008'))])
    assert (
        np.isnan(r.rates.loc['frr', 'low']) and np.isnan(r.rates.loc['hter', 'low']) and r.rates.loc['far', 'low'] >= 0
    )
    assert any('3 test subject(s) with live videos' in n for n in r.notes)


def test_notes():
    df = table(frames=1)
    assert any('One frame for each video' in n for n in evaluate_scores(df).notes)
    assert any('unspecified' in n for n in evaluate_scores(df.assign(pai='')).notes)
    two = pd.concat([table(dataset='a'), table(dataset='b')])
    assert any('Pooled over the datasets a, b' in n for n in evaluate_scores(two).notes)


def test_report_is_plain_data():
    r = evaluate_scores(table(people=(6, 3)))
    d = json.loads(json.dumps(r.to_dict()))
    assert d['rates']['hter'] == dict(value=r.hter, low=None, high=None, frames=r.rates.loc['hter', 'frames'])
    for other in (copy.deepcopy(r), pickle.loads(pickle.dumps(r))):
        assert other.hter == r.hter
    with pytest.raises(AttributeError):
        r.accuracy
    assert r._repr_markdown_() == report_markdown(r)


def test_percent():
    assert (
        percent(-0.0004) == '0.0'
        and percent(0.1234) == '12.3'
        and percent(np.nan) == '-'
        and percent(0.1, 0.05, 0.2) == '10.0 [5.0, 20.0]'
    )


def test_compare_thresholds():
    new, old = table(1, 'new'), table(2, 'old')
    r = compare_thresholds(new, old, n=50)
    assert list(r) == ['source-dev', 'target-dev', 'test-EER'] and len(thresholds_table(r)) == 3
    for c, k in zip(CONVENTIONS, r):
        assert r[k].threshold == find_threshold(new, c, old)[0]
    assert list(compare_thresholds(new[new.split == 'test'], old, n=50)) == ['source-dev', 'test-EER']
    assert list(compare_thresholds(new, n=50)) == ['target-dev', 'test-EER']
    no_live = new[(new.split == 'test') | (new.label == 'attack')]
    assert list(compare_thresholds(no_live, old, n=50)) == ['source-dev', 'test-EER']


# -- two systems


def test_compare_systems():
    a, b = table(1), table(1).assign(score=lambda d: d.score + np.random.default_rng(9).normal(size=len(d)))
    d = compare_systems(a, b, n=200)
    ra, rb = evaluate_scores(a, n=50), evaluate_scores(b, n=50)
    for k in ('hter', 'far', 'frr', 'apcer', 'acer', 'auc'):
        assert d.loc[k, 'value'] == pytest.approx(getattr(ra, k) - getattr(rb, k), abs=1e-12)
    back = compare_systems(b, a, n=200)
    assert back.loc['hter', 'low'] == pytest.approx(-d.loc['hter', 'high']) and back.loc[
        'hter', 'high'
    ] == pytest.approx(-d.loc['hter', 'low'])


def test_compare_systems_pairs_by_video_not_by_row():
    a = table(1)
    assert (compare_systems(a, a.sample(frac=1, random_state=0), n=50)[['value', 'low', 'high']] == 0).all(axis=None)
    with pytest.raises(ValueError, match="test videos are in one table only, the first is 'd10-0'"):
        compare_systems(a, a[a.video != 'd10-0'])


def test_compare_systems_says_what_differs():
    a = table(1)
    with pytest.raises(
        ValueError,
        match=r"2 videos have another label or species in the other table, the first is 'd10-2' \(dataset d, "
        r"subject d010\)",
    ):
        compare_systems(a, a.assign(pai=a.pai.where(a.video != 'd10-2', 'replay')))
    with pytest.raises(ValueError, match='in one table only'):
        compare_systems(a, a.assign(dataset='other'))


def test_difference_in_words():
    a = table(1, people=(6, 30))
    words = difference_markdown(
        compare_systems(a, a.assign(score=a.score + 0.8 * np.where(a.label == 'live', 1, -1)), n=200)
    )
    assert 'differs' in words and words.count('points') == 1
    assert difference_markdown(compare_systems(a, a, n=50)).count('not told apart') == 7
    few = table(1, people=(6, 3))
    assert difference_markdown(compare_systems(few, few, n=50)).count('no interval: too few people') == 7


# -- curves and pages


@pytest.mark.parametrize('make', [table, probabilities])
def test_report_figure(make):
    import matplotlib.pyplot as plt

    new = validate_scores(make(1))
    r = evaluate_scores(new, n=20)
    fig = report_figure(r, new)
    hist, roc, det = fig.axes
    assert roc.lines[-1].get_xydata().tolist() == [[100 * r.far, 100 * (1 - r.frr)]]
    assert ('probability' in hist.get_xlabel()) == (make is probabilities)
    assert hist.lines[-1].get_label() == f'threshold {score_text(r.threshold)}'  # one scale in figure and text
    for ax in fig.axes:
        assert ax.get_title() and ax.get_xlabel() and '(%' in ax.get_ylabel()
    report_figure(evaluate_scores(new, 'test', n=20), new[new.split == 'test'])
    by_frame = report_figure(evaluate_scores(new, how='frame', n=20), new.drop(columns='pai'))
    assert [t.get_text().split(',')[0] for t in by_frame.axes[1].get_legend().texts] == ['frames']
    perfect = new.assign(score=np.where(new.label == 'live', 0.9, 0.1))
    report_figure(evaluate_scores(perfect, n=20), perfect).canvas.draw()
    plt.close('all')


def test_page():
    import matplotlib.pyplot as plt

    df = table(pais=('print', '<script>alert(1)</script>', 'a|b'))
    r = evaluate_scores(df, n=20)
    fig = report_figure(r, validate_scores(df))
    figures = '![curves "here"](a)\n![elsewhere](b)'
    page = page_html('a < b & c', f'{figures}\n\n{report_markdown(r)}', {'a': figure_png(fig)})
    assert (
        '<script' not in page and '<title>a &lt; b &amp; c</title>' in page and 'alt="curves &quot;here&quot;"' in page
    )
    assert (
        page.count('<table>') == 2
        and page.count('<img') == 1
        and 'http' not in page
        and not plt.fignum_exists(fig.number)
    )
    assert '>a|b</td>' in page
    assert '<img' not in page_html('none', 'text')


HOSTILE = [
    '![x](http://example.com/x.png)',
    '<img src=//example.com/x.png>',
    'a | b |\n| forged | 1 | 2 |',
    'red \x1b[31m text',
    '[click](javascript:alert(1))',
    '`code` **bold**',
    'caf\udce9',
    '&lt;b&gt;',
]


@pytest.mark.parametrize('name', HOSTILE)
def test_names_are_text_in_reports(name):
    "As a species, a dataset, a video: no markup, no row of a table, no control character, no remote picture."
    df = table(pais=('print', name)).assign(dataset=name)
    seen = df[(df.split == 'test') | (df.pai != name)]  # so that a note names the species
    r = evaluate_scores(seen, n=20)
    text = report_markdown(r)
    plain = report_markdown(
        evaluate_scores(seen.assign(pai=seen.pai.replace(name, 'replay')).assign(dataset='d'), n=20)
    )
    assert len(text.splitlines()) == len(plain.splitlines()) and '\x1b' not in text
    page = page_html(name, text)
    assert '<img' not in page and '<a ' not in page and page.count('<tr>') == page_html('d', plain).count('<tr>')
    page.encode()
    json.dumps(r.to_dict()).encode()
    pd.DataFrame({'x': [name]}).to_markdown()


@pytest.mark.parametrize('link', ['http://a.b/x.png', 'https://a.b/x.png', '//a.b/x.png', 'file:///x.png', 'ftp://a/x'])
def test_no_remote_pictures(link):
    assert '<img' not in page_html('t', f'![x]({link})', {'other': b''})


def test_with_interval():
    assert with_interval(1.26, -0.04, 3) == '1.3 [0.0, 3.0]' and with_interval(np.nan) == '-'
    assert with_interval(1.26, -0.04, 3, '+.2f') == '+1.26 [-0.04, +3.00]' and with_interval(0.5) == '0.5'


def test_the_score_side_does_without_torch(tmp_path):
    save_scores(table(), tmp_path / 'scores.csv')
    code = """
import sys
from gfa_fastai.evaluation import *
from gfa_fastai.inputs.tables import load_scores
from gfa_fastai.run.webpage import *
s = load_scores(sys.argv[1])
r = evaluate_scores(s)
compare_systems(s, s)
page_html('t', report_markdown(r), {'f': figure_png(report_figure(r, s))})
print([m for m in ('torch', 'fastai') if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / 'scores.csv')],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.strip() == '[]', done.stderr


# -- files


def test_four_columns_by_hand(tmp_path):
    (tmp_path / 'dev-4col.txt').write_text(
        '# a comment\n007 007 v1 .9\n007 007 v1 .7\n\n007 print v2 1e-3\n008 007 v3 -2.5\n008 attack v4 0.1\n'
    )
    df = load_scores(tmp_path / 'dev-4col.txt')
    assert df.values.tolist() == [
        ['scores', 'dev', '007', 'v1', 0, 'live', '', 0.9],
        ['scores', 'dev', '007', 'v1', 1, 'live', '', 0.7],
        ['scores', 'dev', '007', 'v2', 0, 'attack', 'print', 0.001],
        ['scores', 'dev', '008', 'v3', 0, 'attack', 'impostor', -2.5],
        ['scores', 'dev', '008', 'v4', 0, 'attack', 'unspecified', 0.1],
    ]
    assert load_scores(tmp_path / 'dev-4col.txt', split='test', dataset='mine')[
        ['split', 'dataset']
    ].drop_duplicates().values.tolist() == [['test', 'mine']]


def test_four_columns_give_the_golden_values(tmp_path):
    r = np.random.RandomState(0)
    a, l = r.normal(0, 1, 300), r.normal(1.5, 1, 60)
    (tmp_path / 'eval.txt').write_text(
        ''.join(f'p{i % 7} print a{i} {s!r}\n' for i, s in enumerate(a.tolist()))
        + ''.join(f'p{i % 7} p{i % 7} l{i} {s!r}\n' for i, s in enumerate(l.tolist()))
    )
    got = evaluate_scores(load_scores(tmp_path / 'eval.txt'), 'test', n=20)
    assert (got.threshold, got.eer, got.auc) == (
        pytest.approx(0.732473, abs=5e-7),
        pytest.approx(0.233333, abs=5e-7),
        pytest.approx(0.816, abs=1e-12),
    )


def test_four_columns_round_trip(tmp_path):
    df = validate_scores(table().assign(score=lambda d: d.score / 3)).query("split == 'test'").reset_index(drop=True)
    df.loc[df.pai == 'replay', 'pai'] = 'unspecified'
    save_four_column(df, tmp_path / 'deep' / 'test.txt')
    pd.testing.assert_frame_equal(load_scores(tmp_path / 'deep' / 'test.txt', dataset='d'), df, check_exact=True)
    assert [p.name for p in (tmp_path / 'deep').iterdir()] == ['test.txt']


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda d: d, '2 values of split'),
        (lambda d: pd.concat([d, d.assign(dataset='e')]).query("split == 'dev'"), '2 values of dataset'),
        (lambda d: d[d.split == 'dev'].assign(subject='a b'), 'white space .* in subject'),
        (lambda d: d[d.split == 'dev'].assign(video='#' + d.video), 'in video'),
        (
            lambda d: d[d.split == 'dev'].replace({'pai': {'print': 'd001'}}),
            'a species that is also the name of a person',
        ),
        (
            lambda d: d[d.split == 'dev'].assign(pai='').replace({'subject': {'d001': 'attack'}}),
            'a species that is also the name',
        ),
    ],
)
def test_four_columns_that_cannot_hold_it(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_four_column(change(table()), tmp_path / 's.txt')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'name, split',
    [
        ('scores_dev.csv', 'dev'),
        ('test-4col.txt', 'test'),
        ('EVAL.txt', 'test'),
        ('devel1.csv', 'dev'),
        ('s.csv', None),
        ('dev_test.csv', None),
        ('latest.csv', None),
    ],
)
def test_split_from_the_name(name, split, tmp_path):
    df = table().query("split == 'dev'")
    if name.endswith('csv'):
        df.drop(columns=['split', 'dataset']).to_csv(tmp_path / name, index=False)
    else:
        save_four_column(df, tmp_path / name)
    if split:
        assert set(load_scores(tmp_path / name).split) == {split}
    else:
        with pytest.raises(ValueError, match=f'{name}: scores: it does not say which split'):
            load_scores(tmp_path / name)
        assert set(load_scores(tmp_path / name, split='dev').split) == {'dev'}


def test_round_trip(tmp_path):
    df = validate_scores(table().assign(subject=lambda d: d.subject.str[1:], score=lambda d: d.score / 3))
    save_scores(df, tmp_path / 'deep' / 's.csv')
    pd.testing.assert_frame_equal(load_scores(tmp_path / 'deep' / 's.csv'), df, check_exact=True)
    assert [p.name for p in (tmp_path / 'deep').iterdir()] == ['s.csv']
    save_scores(df[df.split == 'dev'], tmp_path / 'dev.csv')
    save_scores(df[df.split == 'test'], tmp_path / 'test.csv')
    both = load_scores(tmp_path / 'dev.csv', tmp_path / 'test.csv')
    assert evaluate_scores(both, n=50).hter == evaluate_scores(df, n=50).hter


def test_names_that_look_like_nothing(tmp_path):
    df = table().replace({'subject': {'d000': 'NA', 'd001': 'None', 'd002': '007'}})
    save_scores(df, tmp_path / 's.csv')
    assert {'NA', 'None', '007'} <= set(load_scores(tmp_path / 's.csv').subject)


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'not a CSV table'),
        (b'\xff\xfe\x00\x01', 'not a CSV table|missing'),
        (b'a,b\n1,2\n', 'missing'),
        (b'dataset,split,subject,video,label,score\n', 'empty'),
        (b'dataset,split,subject,video,label,score\nd,test,s,v,live,\n', 'NaN, infinite or no number'),
        (b'dataset,split,subject,video,label,score\nd,test,s,v,live,high\n', 'NaN, infinite or no number'),
        (b'dataset,split,subject,video,label,score\nd,test,s,v,live,inf\n', 'NaN, infinite or no number'),
        (b'a a v .1\na a v\n', r'line 2 has 3 fields and not four'),
        (b'a a v nan\n', 'which split|NaN'),
        (b'a a v x\n', 'which split|no number'),
        (b'\n\n', 'not a CSV table'),
    ],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / 's.csv').write_bytes(content)
    with pytest.raises(ValueError, match=message) as e:
        load_scores(tmp_path / 's.csv')
    assert 's.csv' in str(e.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no scores at .*none.csv'):
        load_scores(tmp_path / 'none.csv')


# -- bad tables


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda d: d.drop(columns=['score', 'video']), 'video, score missing; there are dataset'),
        (lambda d: d[:0], 'the table is empty'),
        (lambda d: d.assign(label='fake'), 'label that is none of live, attack'),
        (lambda d: d.assign(split='eval'), 'split that is none of train, dev, test'),
        (
            lambda d: d.assign(score=np.where(np.arange(len(d)) == 5, np.nan, d.score)),
            r'1 of 156 rows .* first is row 5 \(subject d000',
        ),
        (lambda d: d.assign(score=np.inf), '156 of 156 rows'),
        (lambda d: d.assign(subject=None), 'no subject'),
        (lambda d: d.assign(subject='one'), "subject 'one' has more than one split"),
        (lambda d: d.assign(video=d.subject), "has more than one label"),
        (lambda d: d.assign(pai=np.where(d.frame == 1, 'mask', d.pai)), "has more than one pai"),
        (lambda d: pd.concat([d, d[['score']]], axis=1), 'column score is there twice'),
        (lambda d: pd.concat([d, d[d.split == 'test'].head(3)]), '3 of 159 rows have a frame that is there already'),
        (lambda d: 'a table', 'expected a pandas DataFrame, got str'),
    ],
)
def test_bad_tables(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate_scores(change(table()))


@pytest.mark.parametrize(
    'keep, kwargs, message',
    [
        (lambda d: d[d.split == 'dev'], {}, "split 'test' has no attack rows"),
        (lambda d: d[d.split == 'test'], {}, "split 'dev' of the target dataset has no attack rows"),
        (lambda d: d[(d.split == 'dev') | (d.label == 'live')], {}, "split 'test' has no attack rows"),
        (lambda d: d[d.label == 'attack'], {}, 'no live rows'),
        (lambda d: d, dict(threshold_from='source'), 'needs source='),
        (lambda d: d, dict(threshold_from='best'), "threshold_from='best' is not known"),
        (lambda d: d, dict(threshold_from=float('nan')), 'NaN'),
        (lambda d: d, dict(threshold_from=None), 'threshold_from=None is not known'),
        (lambda d: d, dict(threshold_from=True), 'threshold_from=True is not known'),
        (lambda d: d, dict(how='sum'), "how='sum' is not known"),
    ],
)
def test_bad_calls(keep, kwargs, message):
    with pytest.raises(ValueError, match=message):
        evaluate_scores(keep(table()), **kwargs)


def test_frames_without_numbers_get_some():
    assert validate_scores(table().drop(columns='frame')).frame.tolist() == table().frame.tolist()


def test_input_is_left_alone():
    df = table()
    before = df.copy()
    evaluate_scores(df, n=50)
    compare_systems(df, df, n=50)
    video_scores(df)
    pd.testing.assert_frame_equal(df, before)


# -- scores from a network


@pytest.fixture(scope='module')
def frames(tmp_path_factory):
    from gfa_fastai.inputs.frames import extract_frames
    from gfa_fastai.synth.benchmark import make_synthpad

    d = tmp_path_factory.mktemp('synthpad')
    return extract_frames(
        make_synthpad(d / 'data', 'tiny', domains=['webcam'], subjects=(2, 1, 1), frames=2, workers=1, progress=False)
        .query("role == 'probe'")
        .reset_index(drop=True),
        d / 'cache',
        size=48,
        progress=False,
    )


@pytest.fixture(scope='module')
def model():
    import torch
    from gfa_fastai.model import GFACNN

    torch.manual_seed(0)
    m = GFACNN(2, width=0.125, pool=1)
    torch.nn.init.normal_(m.spoof_head[6].weight, 0, 0.3)
    return m


def test_score_samples(frames, model):
    import torch
    from PIL import Image
    from gfa_fastai.evaluation import score_samples

    model.train()
    s = score_samples(model, frames, bs=7, progress=False)
    assert model.training and len(s) == len(frames) and list(s.columns) == SCORE_COLUMNS
    model.eval()
    for i in (0, 11, len(s) - 1):
        x = torch.from_numpy(np.array(Image.open(frames.frame_path[i]))).permute(2, 0, 1)[None] / 255
        assert s.score[i] == pytest.approx(model.live_score(x).item(), abs=1e-6)
    pd.testing.assert_frame_equal(s, score_samples(model, frames, bs=64, progress=False), atol=1e-9)


def test_score_samples_leaves_out_flips_and_gallery(frames, model):
    from gfa_fastai.evaluation import score_samples
    from gfa_fastai.samples import balance_flips

    assert len(score_samples(model, balance_flips(frames, 3), progress=False)) == len(frames)
    some = frames.assign(role=np.where(frames.index < 3, 'gallery', 'probe'))
    assert len(score_samples(model, some, progress=False)) == len(frames) - 3


def test_score_samples_bad_input(frames, model):
    import torch
    from gfa_fastai.evaluation import score_samples

    with pytest.raises(ValueError, match='Run extract_frames'):
        score_samples(model, frames.drop(columns='frame_path'), progress=False)
    with pytest.raises(ValueError, match='empty'):
        score_samples(model, frames[:0], progress=False)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.spoof_head[6].bias.fill_(float('nan'))
    with pytest.raises(ValueError, match='NaN, infinite or no number'):
        score_samples(broken, frames, progress=False)
