"Scores to error rates: against pandas by hand, brute force, and every kind of bad table."
import copy, json, pickle

import numpy as np
import pandas as pd
import pytest

from gfa_fastai.evaluation import (CONVENTIONS, HOW, SCORE_COLUMNS, compare_systems, compare_thresholds, evaluate_scores, find_threshold, load_scores,
                                   percent, report_markdown, save_scores, thresholds_table, validate_scores, video_scores)
from gfa_fastai.metrics import acer, apcer, auc, bpcer, eer, eer_threshold, far_frr, hter

def table(seed=0, dataset='d', people=(6, 7), frames=3, shift=0., pais=('print', 'replay')):
    "Random scores: two live videos and one of each attack for every person."
    rng, rows = np.random.default_rng(seed), []
    for s in range(sum(people)):
        for v,pai in enumerate(['', '', *pais]):
            for f in range(frames):
                rows.append((dataset, 'dev' if s < people[0] else 'test', f'{dataset}{s:03d}', f'{dataset}{s}-{v}', f, 'attack' if pai else 'live', pai,
                             shift + rng.normal(0 if pai else 1.2)))
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)

def classes(df): return [df.loc[df.label == l, 'score'].to_numpy() for l in ('attack', 'live')]
def videos(df, split, how='mean'):
    "Scores of videos, by loops."
    d, out = df[df.split == split], []
    for v in sorted(d.video.unique()):
        g = d[d.video == v]
        out.append((v, g.subject.iloc[0], g.label.iloc[0], g.pai.iloc[0], getattr(np, how)(g.score)))
    return pd.DataFrame(out, columns=['video', 'subject', 'label', 'pai', 'score'])

# -- videos and thresholds

@pytest.mark.parametrize('how', HOW)
def test_video_scores(how):
    df = table()
    got = video_scores(df, how).set_index('video').score
    want = pd.concat([videos(df, s, how) for s in ('dev', 'test')]).set_index('video').score
    pd.testing.assert_series_equal(got.sort_index(), want.sort_index(), check_names=False)

def test_videos_of_one_name_in_two_datasets_stay_apart():
    both = pd.concat([table(dataset='a'), table(dataset='b')]).assign(video=lambda d: d.video.str[1:])
    assert len(video_scores(both)) == 2*len(video_scores(both[both.dataset == 'a']))

@pytest.mark.parametrize('how', [*HOW, 'frame'])
def test_origins(how):
    new, old = table(1, 'new', shift=.7), table(2, 'old')
    def want(df, split): return eer_threshold(*classes(df[df.split == split] if how == 'frame' else videos(df, split, how)))
    for c,df,split in (('dev', new, 'dev'), ('source', old, 'dev'), ('test', new, 'test')):
        t, words = find_threshold(new, c, old, how)
        assert t == want(df, split)
        assert words.startswith({'dev': 'target-dev', 'source': 'source-dev', 'test': 'test-EER'}[c]) and df.dataset[0] in words
    assert find_threshold(new, .25) == (.25, 'given: 0.25')

def test_the_threshold_does_not_see_the_test():
    a, b = table(3), table(3)
    b.loc[b.split == 'test', 'score'] += 5
    for c in ('dev', 'source'): assert find_threshold(a, c, a)[0] == find_threshold(b, c, b)[0]
    assert find_threshold(a, 'test')[0] != find_threshold(b, 'test')[0]

# -- the report

@pytest.mark.parametrize('seed', range(5))
def test_report_against_metrics(seed):
    new, old = table(seed, 'new', shift=.4), table(seed+50, 'old')
    r = evaluate_scores(new, 'source', old, n=50)
    v = videos(new, 'test'); a, l = classes(v); pai = v.pai[v.label == 'attack']; t = r.threshold
    want = dict(zip(('far', 'frr'), far_frr(a, l, t)), hter=hter(a, l, t), apcer=apcer(a, t, pai), bpcer=bpcer(l, t), acer=acer(a, l, t, pai), auc=auc(a, l), eer=eer(a, l))
    for k,x in want.items(): assert getattr(r, k) == pytest.approx(x, abs=1e-12), k
    fa, fl = classes(new[new.split == 'test']); ft = eer_threshold(*classes(old[old.split == 'dev']))
    assert r.rates.loc['hter', 'frames'] == pytest.approx(hter(fa, fl, ft), abs=1e-12)
    assert r.counts == dict(subjects=7, live_videos=14, attack_videos=14, frames=84)
    assert r.species.apcer.to_dict() == pytest.approx({p: apcer(a[pai == p], t) for p in ('print', 'replay')})
    assert (r.rates.loc['hter', ['low', 'value', 'high']].is_monotonic_increasing)

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
    assert np.isnan(r.rates.loc['frr', 'low']) and np.isnan(r.rates.loc['hter', 'low']) and r.rates.loc['far', 'low'] >= 0
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
    for other in (copy.deepcopy(r), pickle.loads(pickle.dumps(r))): assert other.hter == r.hter
    with pytest.raises(AttributeError): r.accuracy
    assert r._repr_markdown_() == report_markdown(r)

def test_percent():
    assert percent(.1234) == '12.3' and percent(np.nan) == '-' and percent(.1, .05, .2) == '10.0 [5.0, 20.0]'

def test_compare_thresholds():
    new, old = table(1, 'new'), table(2, 'old')
    r = compare_thresholds(new, old, n=50)
    assert list(r) == ['source-dev', 'target-dev', 'test-EER'] and len(thresholds_table(r)) == 3
    for c,k in zip(CONVENTIONS, r): assert r[k].threshold == find_threshold(new, c, old)[0]
    assert list(compare_thresholds(new[new.split == 'test'], old, n=50)) == ['source-dev', 'test-EER']
    assert list(compare_thresholds(new, n=50)) == ['target-dev', 'test-EER']

# -- two systems

def test_compare_systems():
    a, b = table(1), table(1).assign(score=lambda d: d.score + np.random.default_rng(9).normal(size=len(d)))
    d = compare_systems(a, b, n=200)
    ra, rb = evaluate_scores(a, n=50), evaluate_scores(b, n=50)
    for k in ('hter', 'far', 'frr', 'apcer', 'acer', 'auc'): assert d.loc[k, 'value'] == pytest.approx(getattr(ra, k) - getattr(rb, k), abs=1e-12)
    back = compare_systems(b, a, n=200)
    assert back.loc['hter', 'low'] == pytest.approx(-d.loc['hter', 'high']) and back.loc['hter', 'high'] == pytest.approx(-d.loc['hter', 'low'])

def test_compare_systems_pairs_by_video_not_by_row():
    a = table(1)
    assert (compare_systems(a, a.sample(frac=1, random_state=0), n=50)[['value', 'low', 'high']] == 0).all(axis=None)
    with pytest.raises(ValueError, match="test videos are in one table only, the first is 'd10-0'"): compare_systems(a, a[a.video != 'd10-0'])

# -- files

def test_round_trip(tmp_path):
    df = validate_scores(table().assign(subject=lambda d: d.subject.str[1:], score=lambda d: d.score/3))
    save_scores(df, tmp_path/'deep'/'s.csv')
    pd.testing.assert_frame_equal(load_scores(tmp_path/'deep'/'s.csv'), df, check_exact=True)
    assert [p.name for p in (tmp_path/'deep').iterdir()] == ['s.csv']
    save_scores(df[df.split == 'dev'], tmp_path/'dev.csv'); save_scores(df[df.split == 'test'], tmp_path/'test.csv')
    both = load_scores(tmp_path/'dev.csv', tmp_path/'test.csv')
    assert evaluate_scores(both, n=50).hter == evaluate_scores(df, n=50).hter

def test_names_that_look_like_nothing(tmp_path):
    df = table().replace({'subject': {'d000': 'NA', 'd001': 'None', 'd002': '007'}})
    save_scores(df, tmp_path/'s.csv')
    assert {'NA', 'None', '007'} <= set(load_scores(tmp_path/'s.csv').subject)

@pytest.mark.parametrize('content, message', [
    (b'', 'not a CSV table'), (b'\xff\xfe\x00\x01', 'not a CSV table|missing'), (b'a,b\n1,2\n', 'missing'),
    (b'dataset,split,subject,video,label,score\n', 'empty'),
    (b'dataset,split,subject,video,label,score\nd,test,s,v,live,\n', 'NaN, infinite or no number'),
    (b'dataset,split,subject,video,label,score\nd,test,s,v,live,high\n', 'NaN, infinite or no number'),
])
def test_bad_files(tmp_path, content, message):
    (tmp_path/'s.csv').write_bytes(content)
    with pytest.raises(ValueError, match=message) as e: load_scores(tmp_path/'s.csv')
    assert 's.csv' in str(e.value)

def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no scores at .*none.csv'): load_scores(tmp_path/'none.csv')

# -- bad tables

@pytest.mark.parametrize('change, message', [
    (lambda d: d.drop(columns=['score', 'video']), 'video, score missing; there are dataset'),
    (lambda d: d[:0], 'the table is empty'),
    (lambda d: d.assign(label='fake'), 'label that is none of live, attack'),
    (lambda d: d.assign(split='eval'), 'split that is none of train, dev, test'),
    (lambda d: d.assign(score=np.where(np.arange(len(d)) == 5, np.nan, d.score)), r'1 of 156 rows .* first is row 5 \(subject d000'),
    (lambda d: d.assign(score=np.inf), '156 of 156 rows'),
    (lambda d: d.assign(subject=None), 'no subject'),
    (lambda d: d.assign(subject='one'), "subject 'one' has more than one split"),
    (lambda d: d.assign(video=d.subject), "has more than one label"),
    (lambda d: pd.concat([d, d[d.split == 'test'].head(3)]), '3 of 159 rows have a frame that is there already'),
    (lambda d: 'a table', 'expected a pandas DataFrame, got str'),
])
def test_bad_tables(change, message):
    with pytest.raises(ValueError, match=message): evaluate_scores(change(table()))

@pytest.mark.parametrize('keep, kwargs, message', [
    (lambda d: d[d.split == 'dev'], {}, "split 'test' has no attack rows"),
    (lambda d: d[d.split == 'test'], {}, "split 'dev' of the target dataset has no attack rows"),
    (lambda d: d[(d.split == 'dev') | (d.label == 'live')], {}, "split 'test' has no attack rows"),
    (lambda d: d[d.label == 'attack'], {}, 'no live rows'),
    (lambda d: d, dict(threshold_from='source'), 'needs source='),
    (lambda d: d, dict(threshold_from='best'), "threshold_from='best' is not known"),
    (lambda d: d, dict(threshold_from=float('nan')), 'NaN'),
    (lambda d: d, dict(how='sum'), "how='sum' is not known"),
])
def test_bad_calls(keep, kwargs, message):
    with pytest.raises(ValueError, match=message): evaluate_scores(keep(table()), **kwargs)

def test_frames_without_numbers_get_some():
    assert validate_scores(table().drop(columns='frame')).frame.tolist() == table().frame.tolist()

def test_input_is_left_alone():
    df = table(); before = df.copy()
    evaluate_scores(df, n=50); compare_systems(df, df, n=50); video_scores(df)
    pd.testing.assert_frame_equal(df, before)

# -- scores from a network

@pytest.fixture(scope='module')
def frames(tmp_path_factory):
    from gfa_fastai.frames import extract_frames
    from gfa_fastai.synth.benchmark import make_synthpad
    d = tmp_path_factory.mktemp('synthpad')
    return extract_frames(make_synthpad(d/'data', 'tiny', domains=['webcam'], subjects=(2, 1, 1), frames=2, workers=1, progress=False).query("role == 'probe'").reset_index(drop=True), d/'cache', size=48, progress=False)

@pytest.fixture(scope='module')
def model():
    import torch
    from gfa_fastai.model import GFACNN
    torch.manual_seed(0)
    m = GFACNN(2, width=.125, pool=1)
    torch.nn.init.normal_(m.spoof_head[6].weight, 0, .3)
    return m

def test_score_samples(frames, model):
    import torch
    from PIL import Image
    from gfa_fastai.evaluation import score_samples
    model.train()
    s = score_samples(model, frames, bs=7, progress=False)
    assert model.training and len(s) == len(frames) and list(s.columns) == SCORE_COLUMNS
    model.eval()
    for i in (0, 11, len(s)-1):
        x = torch.from_numpy(np.array(Image.open(frames.frame_path[i]))).permute(2, 0, 1)[None]/255
        assert s.score[i] == pytest.approx(model.live_score(x).item(), abs=1e-6)
    pd.testing.assert_frame_equal(s, score_samples(model, frames, bs=64, progress=False), atol=1e-9)

def test_score_samples_leaves_out_flips_and_gallery(frames, model):
    from gfa_fastai.evaluation import score_samples
    from gfa_fastai.samples import balance_flips
    assert len(score_samples(model, balance_flips(frames, 3), progress=False)) == len(frames)
    some = frames.assign(role=np.where(frames.index < 3, 'gallery', 'probe'))
    assert len(score_samples(model, some, progress=False)) == len(frames)-3

def test_score_samples_bad_input(frames, model):
    import torch
    from gfa_fastai.evaluation import score_samples
    with pytest.raises(ValueError, match='Run extract_frames'): score_samples(model, frames.drop(columns='frame_path'), progress=False)
    with pytest.raises(ValueError, match='empty'): score_samples(model, frames[:0], progress=False)
    broken = copy.deepcopy(model)
    with torch.no_grad(): broken.spoof_head[6].bias.fill_(float('nan'))
    with pytest.raises(ValueError, match='NaN, infinite or no number'): score_samples(broken, frames, progress=False)
