"Embeddings, LFW's protocol and gallery/probe against loops; intervals; the recognition-only loss; bad input."

import itertools

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gfa_fastai.data import UNKNOWN
from gfa_fastai.inputs.datasets import read_lfw_pairs
from gfa_fastai.metrics import MIN_SUBJECTS
from gfa_fastai.model import GFACNN
from gfa_fastai.compare.recognition import (
    LAYERS,
    GalleryScores,
    IdentityLoss,
    accuracy_threshold,
    crop_pairs,
    embed,
    gallery_probe,
    gallery_scores,
    gallery_table,
    people_interval,
    pick_gallery,
    similarity,
    tar_at_far,
    verify_pairs,
)

torch.set_num_threads(1)


def net(seed=0):
    torch.manual_seed(seed)
    return GFACNN(5, width=0.125, fc_dim=16, pool=1).eval()


def images(n=4, side=32, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


# -- embeddings


@pytest.mark.parametrize('layer', [None, *LAYERS])
@pytest.mark.parametrize('flip', [False, True])
def test_embed_is_the_layer(layer, flip):
    model, x = net(), images()

    def plain(x):
        f = model.features(x)
        h1 = F.relu(model.id_head[0](f))
        h2 = F.relu(model.id_head[3](h1))
        return {'trunk': f, 'fc1': h1, 'fc2': h2, None: h2, 'logits': model.id_head[6](h2)}[layer]

    with torch.no_grad():
        want = (plain(x) + plain(x.flip(3))) / 2 if flip else plain(x)
    got = embed(model, x, layer, flip, bs=3)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_flip_makes_mirror_images_equal():
    x = images()
    np.testing.assert_allclose(embed(net(), x), embed(net(), x.flip(3)), rtol=1e-5, atol=1e-6)
    assert not np.allclose(embed(net(), x, flip=False), embed(net(), x.flip(3), flip=False), rtol=1e-4)


def test_embed_takes_any_network_and_leaves_it_as_it_was():
    np.testing.assert_allclose(embed(lambda x: x.mean((2, 3)), images(), flip=False), images().mean((2, 3)), rtol=1e-5)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 32 * 32, 4)).train()
    assert np.array_equal(embed(model, images()), embed(model, images())) and model.training
    with pytest.raises(ValueError):
        embed(model, torch.full((2, 3, 32, 32), 3.0))
    assert model.training


@pytest.mark.parametrize(
    'run,match',
    [
        (lambda x: x, r'expected \(B, D\)'),
        (lambda x: x.flatten(1)[:1], r'expected \(B, D\)'),
        (lambda x: (x, x) and None, None),
        (lambda x: x.flatten(1) * float('nan'), '4 of 4 embeddings are NaN'),
    ],
)
def test_networks_that_are_none(run, match):
    with pytest.raises((ValueError, TypeError), match=match):
        embed(run, images())


def test_layer_goes_with_a_gfacnn():
    with pytest.raises(ValueError, match="layer='fc9' is not known"):
        embed(net(), images(), 'fc9')
    with pytest.raises(ValueError, match='is for a GFACNN'):
        embed(lambda x: x.flatten(1), images(), 'fc2')


def test_similarity():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    for i, j in itertools.product(range(4), range(5)):
        assert similarity(a, b, 'cosine', True)[i, j] == pytest.approx(
            a[i] @ b[j] / np.linalg.norm(a[i]) / np.linalg.norm(b[j])
        )
        assert similarity(a, b, 'l2', True)[i, j] == pytest.approx(-np.linalg.norm(a[i] - b[j]))
    for m in ('cosine', 'l2'):
        np.testing.assert_allclose(similarity(a, b[:4], m), np.diag(similarity(a, b, m, True)), atol=1e-7)
    assert (similarity(np.zeros((2, 3)), a[:2]) == 0).all()
    with pytest.raises(ValueError, match="metric='dot'"):
        similarity(a, a, 'dot')


# -- thresholds and rates


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('balanced', [False, True])
def test_best_threshold_against_all(seed, balanced):
    rng = np.random.default_rng(seed)
    imp, gen = rng.integers(0, 12, 30).astype(float), rng.integers(4, 16, 11).astype(float)  # many ties

    def accuracy(t):
        a, b = (imp < t).mean(), (gen >= t).mean()
        return (a + b) / 2 if balanced else (a * 30 + b * 11) / 41

    t = accuracy_threshold(imp, gen, balanced)
    assert accuracy(t) == pytest.approx(max(accuracy(c) for c in np.arange(-1, 18, 0.5)))


def test_best_threshold_lies_in_the_middle_of_a_gap():
    assert accuracy_threshold([0.0, 1.0], [3.0, 4.0]) == 2


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('far', [0.03, 0.1, 0.25, 1.0])
def test_tar_by_order_statistics(seed, far):
    rng = np.random.default_rng(seed)
    imp, gen = rng.integers(0, 30, 97).astype(float), rng.integers(10, 40, 50).astype(float)
    tar, t = tar_at_far(imp, gen, far)
    assert (imp >= t).mean() <= far
    candidates = [c for c in np.arange(-1, 42, 0.5) if (imp >= c).mean() <= far]
    assert tar == max((gen >= c).mean() for c in candidates)


def test_too_few_impostors_say_nothing():
    assert (
        np.isnan(tar_at_far(np.arange(99.0), np.arange(9.0), 0.01)[0])
        and tar_at_far(np.arange(100.0), np.arange(9.0), 0.01)[0] == 0
    )
    with pytest.raises(ValueError, match='no share'):
        tar_at_far([1.0, 2.0], [3.0], 0)


def test_interval_against_a_loop():
    rng = np.random.default_rng(0)
    people = [f'p{i}' for i in range(8)]
    a, b = rng.choice(people, 200), rng.choice(people, 200)
    v = rng.random(200)
    got = people_interval(v, a, b, n=4000, seed=1)
    means = []
    for _ in range(2000):
        w = dict(zip(people, rng.multinomial(8, np.full(8, 1 / 8))))
        weight = np.array([w[x] if x == y else w[x] * w[y] for x, y in zip(a, b)])
        if weight.sum():
            means.append((weight * v).sum() / weight.sum())
    np.testing.assert_allclose(got, np.quantile(means, [0.025, 0.975]), atol=0.012)


def test_interval_is_wider_than_that_of_pairs():
    rng = np.random.default_rng(1)
    who = np.repeat([f'p{i}' for i in range(10)], 50)
    v = np.repeat(rng.random(10), 50)
    low, high = people_interval(v, who, who)
    assert low < v.mean() < high and high - low > 4 * v.std() / 500**0.5
    assert np.isnan(people_interval(v[:4], list('aabb'), list('aabb'))).all()


def test_interval_of_two_classes_is_of_the_mean_of_both():
    who = [f'p{i}' for i in range(6)]
    a, b = map(np.array, zip(*itertools.product(who, who)))
    same = a == b
    value = np.where(same, 1.0, 0.0)
    assert people_interval(value, a, b, kind=same) == (0.5, 0.5)
    low, high = people_interval((a < 'p3').astype(float), a, b, kind=same)
    assert 0 <= low < 0.5 < high <= 1


# -- pairs


def pairs_table(seed=0, folds=10, n=30):
    rng, rows = np.random.default_rng(seed), []
    for f in range(folds):
        for i in range(n):
            same = i % 2
            rows.append(
                (
                    f'a{f}-{i}',
                    f'b{f}-{i}',
                    same,
                    f,
                    f'{f}p{i // 3}',
                    f'{f}p{i // 3 if same else i // 3 + 1}',
                    rng.normal(same * 1.5),
                )
            )
    return pd.DataFrame(rows, columns='path_a path_b same fold subject_a subject_b similarity'.split())


def test_protocol_against_loops():
    df, right = pairs_table(), []
    for f in range(10):
        rest, here = df[df.fold != f], df[df.fold == f]
        best = max(((rest.similarity >= t) == (rest.same == 1)).mean() for t in rest.similarity)
        t = accuracy_threshold(rest.similarity[rest.same == 0], rest.similarity[rest.same == 1])
        assert ((rest.similarity >= t) == (rest.same == 1)).mean() == pytest.approx(best)
        right.append(((here.similarity >= t) == (here.same == 1)).mean())
    got = verify_pairs(None, df)
    assert got.accuracy == pytest.approx(np.mean(right)) and got.error == pytest.approx(np.std(right, ddof=1) / 10**0.5)
    assert got.folds.accuracy.tolist() == pytest.approx(right) and got.interval[0] < got.accuracy < got.interval[1]
    imp, gen = got.scores()
    assert len(imp) == len(gen) == 150 and np.isnan(got.rates['tar@0.001']) and 'FAR 0.001' in got.notes[0]
    assert got.rates.auc == pytest.approx(np.mean(imp[None] < gen[:, None]))
    assert '10 folds' in repr(got)


def test_threshold_of_a_fold_does_not_see_the_fold():
    df = pairs_table()
    moved = df.assign(similarity=df.similarity + 100 * (df.fold == 3))
    assert verify_pairs(None, moved).folds.accuracy[3] == pytest.approx(0.5)


def test_people_are_optional():
    got = verify_pairs(None, pairs_table().drop(columns=['subject_a', 'subject_b']))
    assert np.isnan(got.interval).all() and 'no interval' in got.notes[-1]


@pytest.mark.parametrize(
    'change,match',
    [
        (lambda d: d.drop(columns='fold'), r'column\(s\) fold missing'),
        (lambda d: d[:0], 'the table is empty'),
        (lambda d: d[d.fold == 0], '1 fold; the threshold comes from other folds'),
        (lambda d: d[(d.fold > 0) | (d.same == 1)], 'fold 0 has pairs of one kind only'),
        (lambda d: d.assign(same=2), "column 'same' has 2: 300 of 300"),
        (
            lambda d: d.assign(similarity=d.similarity.where(d.index != 7)),
            "column 'similarity' has nan: 1 of 300 rows, the first is row 7",
        ),
        (lambda d: d.assign(similarity=np.inf), "column 'similarity' has inf"),
        (lambda d: d.to_dict(), 'expected a pandas DataFrame, got dict'),
    ],
)
def test_pairs_that_are_none(change, match):
    with pytest.raises(ValueError, match=match):
        verify_pairs(None, change(pairs_table()))
    with pytest.raises(ValueError, match="metric='l1' is not known, choose one of cosine, l2"):
        verify_pairs(None, pairs_table(), metric='l1')


@pytest.fixture
def photos(tmp_path):
    "Pictures of six people: each a colour, with some noise."
    rng, rows = np.random.default_rng(0), []
    for s in range(6):
        base = rng.integers(30, 220, 3)
        for v in range(4):
            path = tmp_path / f'{s}-{v}.png'
            cv2.imwrite(str(path), np.clip(base + rng.normal(0, 6, (40, 40, 3)), 0, 255).astype(np.uint8))
            label, pai = ('live', '') if v < 3 else ('attack', 'print')
            rows.append(
                dict(
                    dataset='d',
                    split='test',
                    subject=f's{s}',
                    label=label,
                    pai=pai,
                    video=f's{s}-{v}',
                    frame=0,
                    path=str(path),
                    face_path=str(path),
                    role='gallery' if v == 0 else 'probe',
                )
            )
    return pd.DataFrame(rows)


def colours(x):
    return x.mean((2, 3)) - 0.5


def test_verify_pairs_with_a_network_on_files(photos, tmp_path):
    p = {(s, v): photos.path[4 * s + v] for s in range(6) for v in range(4)}
    rows = [(p[s, 0], p[s, 1], 1, s // 2) for s in range(6)] + [
        (p[s, 0], p[(s + 1) % 6, 0], 0, s // 2) for s in range(6)
    ]
    df = pd.DataFrame(rows, columns=['path_a', 'path_b', 'same', 'fold'])
    got = verify_pairs(colours, df, metric='l2')
    assert got.accuracy == 1 and got.rates.auc == 1 and list(df.columns) == ['path_a', 'path_b', 'same', 'fold']
    cropped = crop_pairs(df, tmp_path / 'c', size=32)
    assert (
        cropped.photo_a.tolist() == df.path_a.tolist()
        and cv2.imread(cropped.path_a[0]).shape == (32, 32, 3)
        and cropped.attrs['fallback'] == 12
    )
    with pytest.raises(ValueError, match='none.png: the file does not exist'):
        crop_pairs(df.assign(path_a='none.png'), tmp_path / 'c')


def test_the_pairs_of_lfw_go_straight_in(tmp_path):
    "read_lfw_pairs, crop_pairs and verify_pairs speak of the same columns."
    rng, lines = np.random.default_rng(0), ['3\t2']
    for k in range(3):
        a, b = f'Ann_{k}', f'Bo_{k}'
        lines += [f'{a}\t1\t2', f'{b}\t1\t2', f'{a}\t1\t{b}\t1', f'{b}\t2\t{a}\t2']
        for name in (a, b):
            base = rng.integers(30, 220, 3)
            (tmp_path / 'lfw' / name).mkdir(parents=True)
            for i in (1, 2):
                cv2.imwrite(
                    str(tmp_path / f'lfw/{name}/{name}_{i:04d}.jpg'),
                    np.clip(base + rng.normal(0, 3, (40, 40, 3)), 0, 255).astype(np.uint8),
                )
    (tmp_path / 'pairs.txt').write_text('\r\n'.join(lines))
    pairs = read_lfw_pairs(tmp_path)
    for table in (pairs, crop_pairs(pairs, tmp_path / 'c', size=32)):
        got = verify_pairs(colours, table, metric='l2')
        assert len(got.pairs) == 12 and got.rates.auc == 1 and list(got.folds.index) == [1, 2, 3]
        assert not np.isnan(got.interval[0])  # the people are named


# -- gallery and probe


def test_gallery_against_loops(photos):
    (s,) = gallery_scores(colours, photos, metric='l2')
    e = {
        r.path: (
            colours(torch.from_numpy(cv2.imread(r.path)[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255)[
                0
            ].numpy()
        )
        for r in photos.itertuples()
    }
    gallery = photos[photos.role == 'gallery']
    assert s.people == sorted(gallery.subject) and len(s.probes) == 18
    for i, r in enumerate(s.probes.itertuples()):
        for j, who in enumerate(s.people):
            assert s.similarity[i, j] == pytest.approx(
                -np.linalg.norm(e[r.path] - e[gallery[gallery.subject == who].path.iloc[0]]), abs=1e-5
            )
    t = gallery_table([s])
    assert t.index.tolist() == [('d', 'live'), ('d', 'attack'), ('d', 'all')]
    assert t.rank1['d', 'live'] == np.mean(
        [s.people[s.similarity[i].argmax()] == w for i, w in enumerate(s.probes.subject) if s.probes.label[i] == 'live']
    )
    assert t.images['d', 'all'] == 18 and t.images['d', 'live'] == 12 and t.people['d', 'attack'] == 6
    imp, gen = s.scores('live')
    assert len(gen) == 12 and len(imp) == 60
    assert t.auc['d', 'live'] == pytest.approx(np.mean((imp[None] < gen[:, None]) + 0.5 * (imp[None] == gen[:, None])))
    pd.testing.assert_frame_equal(gallery_probe(colours, photos, metric='l2'), t)


def made(sim, subjects, labels, people):
    return GalleryScores(
        'd',
        pd.DataFrame(dict(subject=subjects, label=labels, pai=['' if l == 'live' else 'print' for l in labels])),
        people,
        np.asarray(sim, float),
    )


def test_ties_count_in_part():
    s = made([[1, 1, 0], [0, 0, 0], [2, 3, 1]], ['a', 'b', 'c'], ['live'] * 3, ['a', 'b', 'c'])
    assert gallery_table([s]).rank1['d', 'live'] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)


def test_threshold_comes_from_other_people():
    rng, people = np.random.default_rng(0), [f'p{i}' for i in range(20)]
    sim = rng.normal(size=(20, 20)) + 3 * np.eye(20)
    calm = gallery_table([made(sim, people, ['live'] * 20, people)], folds=10, n=50)
    loud = sim.copy()
    loud[0] += 100  # a probe that is like everybody: its own decisions suffer, nobody else's threshold moves
    t = gallery_table([made(loud, people, ['live'] * 20, people)], folds=10, n=50)
    assert t.accuracy.iloc[0] < calm.accuracy.iloc[0]
    assert t.accuracy.iloc[0] > calm.accuracy.iloc[0] - 0.5 / 20 * 1.2 - 0.03


def test_accuracy_is_balanced():
    people = [f'p{i}' for i in range(10)]
    nothing = gallery_table([made(np.zeros((10, 10)), people, ['live'] * 10, people)])
    assert (
        nothing.accuracy.iloc[0] == pytest.approx(0.5)
        and nothing.rank1.iloc[0] == pytest.approx(0.1)
        and nothing.auc.iloc[0] == 0.5
    )


def test_match_uses_the_threshold_of_live_probes():
    rng, people = np.random.default_rng(1), [f'p{i}' for i in range(12)]
    live, attack = (
        rng.normal(size=(12, 12)) + 4 * np.eye(12),
        rng.normal(size=(12, 12)) + 2 * np.eye(12) - 50,
    )  # attacks far below in every pair
    s = made(np.concatenate([live, attack]), people * 2, ['live'] * 12 + ['attack'] * 12, people)
    t = gallery_table([s])
    assert (
        t.match['d', 'attack'] == 0
        and t.match['d', 'live'] == tar_at_far(*s.scores('live'), 0.01)[0]
        and t.rank1['d', 'attack'] > 0.5
    )


def test_few_people_get_no_interval(photos):
    t = gallery_probe(colours, photos[photos.subject.isin(['s0', 's1', 's2'])], metric='l2')
    assert t.filter(like='_low').isna().all(axis=None) and t.rank1.notna().all() and MIN_SUBJECTS > 3


def test_several_enrolment_photos_are_averaged(photos):
    df = photos.assign(role=['gallery' if v.endswith(('-0', '-1')) else 'probe' for v in photos.video])
    (s,) = gallery_scores(colours, df, metric='l2')
    e = embed(colours, df[df.role == 'gallery'].face_path.tolist()).reshape(6, 2, 3).mean(1)
    np.testing.assert_allclose(
        s.similarity, similarity(embed(colours, df[df.role == 'probe'].face_path.tolist()), e, 'l2', True), rtol=1e-4
    )


def test_pick_gallery(photos):
    df = photos.assign(
        role='probe', video=[v.replace('-1', '-0') for v in photos.video], frame=[i % 4 for i in range(24)]
    )
    got = pick_gallery(df)
    assert (
        (got.role == 'gallery').sum() == 6 and (got[got.role == 'gallery'].frame == 0).all() and len(got) == 18
    )  # frame 1 of the same recording is gone
    with pytest.raises(ValueError, match="1 people have no live frame to enrol, the first is 'd/s2'"):
        pick_gallery(df[(df.subject != 's2') | (df.label == 'attack')])


@pytest.mark.parametrize(
    'change,match',
    [
        (lambda d: d[d.role == 'probe'], "no rows of role 'gallery'"),
        (lambda d: d[d.role == 'gallery'], 'has no probes'),
        (lambda d: d[d.subject == 's1'], 'one person in its gallery'),
        (lambda d: d.drop(index=0), "1 people have probes but no gallery photo, the first is 's0'"),
        (lambda d: d.assign(split='train'), "no rows of split 'test'"),
        (lambda d: d.drop(columns='face_path'), 'column face_path missing'),
    ],
)
def test_galleries_that_are_none(photos, change, match):
    with pytest.raises(ValueError, match=match):
        gallery_probe(colours, change(photos))


def test_datasets_stay_apart(photos):
    "A person is (dataset, subject): the same names in two datasets are other people, and other videos."
    other = photos.assign(dataset='e', video=photos.video.str[::-1])
    other.loc[other.subject == 's0', 'video'] = photos.video[4:8].to_numpy()  # names that another person's have in 'd'
    own, alone = pick_gallery(pd.concat([photos, other], ignore_index=True)), pick_gallery(other)
    pd.testing.assert_frame_equal(own[own.dataset == 'e'].reset_index(drop=True), alone)
    both = pd.concat([photos, photos.assign(dataset='e')], ignore_index=True)
    t = gallery_probe(colours, both, metric='l2')
    pd.testing.assert_frame_equal(t.loc['d'], t.loc['e'])


# -- the baseline's loss


def test_identity_loss_is_cross_entropy():
    torch.manual_seed(0)
    pred = (
        torch.randn(6, 2, requires_grad=True),
        torch.randn(6, 5, requires_grad=True),
        torch.rand(6, 8, requires_grad=True),
    )
    label, who = torch.tensor([1, 0, 1, 0, 1, 1]), torch.tensor([0, 1, 2, 3, UNKNOWN, 4])
    loss = IdentityLoss()
    value = loss(pred, label, who)
    assert value.item() == pytest.approx(F.cross_entropy(pred[1], who, ignore_index=UNKNOWN).item(), rel=1e-6)
    assert IdentityLoss(True)(pred, label, who).item() == pytest.approx(
        F.cross_entropy(pred[1][[0, 2, 5]], who[[0, 2, 5]]).item(), rel=1e-6
    )
    assert loss(pred, label, who, reduction='none').mean().item() == pytest.approx(value.item(), rel=1e-6)
    value.backward()
    assert pred[0].grad is None and pred[2].grad is None and pred[1].grad[4].abs().sum() == 0
    assert loss.ident.item() == pytest.approx(value.item(), rel=1e-6) and loss.weights()['anti'] == 0
    assert IdentityLoss(True)(pred, torch.zeros(6, dtype=torch.long), who).item() == 0  # a batch without live faces
