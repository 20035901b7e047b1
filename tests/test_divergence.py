"Eq. 6-8 against numerical integration and kept features; one pass, halves, people; other distances; bad input."

import itertools, os, subprocess, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.stats import norm
from torch import nn

from gfa_fastai.divergence import (
    BLOCKS,
    ChannelStats,
    channel_means,
    channel_stats,
    coral_distance,
    divergence_table,
    domain_distances,
    effective_images,
    feature_divergence,
    find_layers,
    frechet_distance,
    gaussian_divergence,
    kernel_mmd,
    merge_batch,
    plot_divergence,
    pool_groups,
    symmetric_kl,
)
from gfa_fastai.model import GFACNN, IMAGENET_MEAN, IMAGENET_STD, LAYER_NAMES, new_trunk

torch.set_num_threads(1)


def images(n=12, side=32, seed=0, shift=0.0):
    return (torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 0.7 + shift).clamp(0, 1)


def slim(seed=0):
    torch.manual_seed(seed)
    return new_trunk(0.125).eval()


# -- the closed form


def integral(m_a, s_a, m_b, s_b):
    p, q = norm(m_a, s_a), norm(m_b, s_b)
    one = lambda u, v, m, s: quad(lambda x: u.pdf(x) * (u.logpdf(x) - v.logpdf(x)), m - 14 * s, m + 14 * s, limit=200)[
        0
    ]
    return one(p, q, m_a, s_a) + one(q, p, m_b, s_b)


@pytest.mark.parametrize('a,b', itertools.product([(0, 1), (1, 0.5), (-3, 2)], [(0, 1), (1.2, 0.6), (4, 0.1)]))
def test_closed_form_is_the_integral(a, b):
    got = gaussian_divergence(a[0], a[1] ** 2, b[0], b[1] ** 2)
    assert got == pytest.approx(integral(*a, *b), rel=1e-6, abs=1e-9)
    assert gaussian_divergence(b[0], b[1] ** 2, a[0], a[1] ** 2) == pytest.approx(got)  # symmetric
    assert gaussian_divergence(7 + 3 * a[0], 9 * a[1] ** 2, 7 + 3 * b[0], 9 * b[1] ** 2) == pytest.approx(
        got
    )  # of shift and scale free


def test_never_negative_and_exact_where_close():
    rng = np.random.default_rng(0)
    m, v = rng.normal(size=1000), rng.exponential(size=1000)
    assert (gaussian_divergence(m, v, m * (1 + 1e-12), v * (1 + 1e-12)) >= 0).all()
    assert gaussian_divergence(0, 1, 0, 1 + 1e-8) == pytest.approx(1e-16 / 2, rel=1e-6)


def test_silent_channels():
    got = gaussian_divergence([0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 2, 0], [0, 1, 0, 0])
    assert (
        np.isnan(got[0]) and (got[1:] == np.inf).all()
    )  # silent in both; in one; two different constants; in the other


def test_symmetric_kl_against_scipy_moments():
    rng = np.random.default_rng(1)
    a, b = rng.normal(2, 3, (50, 6)), rng.normal(1, 1, (70, 6))
    (ma, sa), (mb, sb) = zip(*[norm.fit(x) for x in a.T]), zip(*[norm.fit(x) for x in b.T])
    want = [integral(*o) for o in zip(ma, sa, mb, sb)]
    np.testing.assert_allclose(symmetric_kl(a, b), want, rtol=1e-6)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_constants_are_silent_whatever_they_are(dtype):
    a = np.ones((777, 2), dtype) * np.array([0.1, 1e6], dtype)
    assert np.isnan(symmetric_kl(a, a[:50])).all()


def test_far_from_zero():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(400, 3)), rng.normal(0.5, 1.3, size=(300, 3))
    np.testing.assert_allclose(symmetric_kl(x + 1e6, y + 1e6), symmetric_kl(x, y), rtol=1e-6)


def test_bias_is_four_over_n():
    rng = np.random.default_rng(3)
    for n in (10, 40):
        got = np.mean([symmetric_kl(*rng.normal(size=(2, n, 400))).mean() for _ in range(20)])
        assert got == pytest.approx(4 / (n - 3), rel=0.05)


# -- one pass


def test_merge_is_numpy_in_any_order_and_batch():
    rng = np.random.default_rng(4)
    x, who = 1e5 + rng.normal(size=(101, 4)), rng.integers(0, 3, 101)
    for bs in (1, 7, 101):
        state = np.zeros(3), np.zeros((3, 4)), np.zeros((3, 4))
        for i in range(0, 101, bs):
            state = merge_batch(state, x[i : i + bs], np.eye(3)[who[i : i + bs]])
        for g in range(3):
            own = x[who == g]
            assert state[0][g] == len(own)
            np.testing.assert_allclose(state[1][g], own.mean(0), rtol=1e-14)
            np.testing.assert_allclose(state[2][g] / len(own), own.var(0), rtol=1e-8)


@torch.no_grad()
def kept(net, x, layer):
    "Spatial means of a layer, all kept, in float64."
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return net[: LAYER_NAMES[layer] + 1]((x - mean) / std).double().mean((2, 3)).numpy()


@pytest.mark.parametrize('bs', [1, 5, 64])
def test_table_against_kept_features(bs):
    net, a, b = slim(), images(20), images(17, seed=1, shift=0.2)
    table = feature_divergence(net, a, b, bs=bs)
    assert list(table.index) == [k for k in LAYER_NAMES if k.startswith('relu')] and len(table) == 13
    for layer, row in table.iterrows():
        fa, fb = kept(net, a, layer), kept(net, b, layer)
        with np.errstate(divide='ignore', invalid='ignore'):
            want = [integral_free(*o) for o in zip(fa.T, fb.T)]
        want = np.array(want)
        assert row.channels == len(want) and row.dead == np.isnan(want).sum() and row.one_sided == np.isinf(want).sum()
        assert row['mean'] == pytest.approx(want[np.isfinite(want)].mean(), rel=2e-3)
        assert row['median'] == pytest.approx(np.median(want[~np.isnan(want)]), rel=2e-3)


def integral_free(x, y):
    "Eq. 7 twice, word for word, silent channels as they are counted."
    if x.std() == 0 or y.std() == 0:
        return np.nan if x.std() == y.std() and x.mean() == y.mean() else np.inf
    kl = lambda p, q: np.log(q.std() / p.std()) + (p.var() + (p.mean() - q.mean()) ** 2) / (2 * q.var()) - 0.5
    return kl(x, y) + kl(y, x)


def test_people_change_the_halves_and_not_the_value():
    net, a, b = slim(), images(24), images(24, seed=1, shift=0.2)
    plain = feature_divergence(net, a, b)
    people = feature_divergence(
        net, a, b, subjects_a=[i // 3 for i in range(24)], subjects_b=[i // 3 for i in range(24)]
    )
    pd.testing.assert_frame_equal(
        plain[['mean', 'median', 'dead', 'one_sided']], people[['mean', 'median', 'dead', 'one_sided']]
    )
    assert (
        plain.attrs['halves'] == 'images' and people.attrs['halves'] == 'subjects' and people.attrs['groups'] == (8, 8)
    )
    assert plain.ess_a.isna().all() and people.ess_a.between(7.99, 24.01).all()
    assert plain[['ab', 'aa', 'bb']].notna().all(axis=None)


def test_the_same_seed_gives_the_same_table():
    net, a, b = slim(), images(20), images(20, seed=1)
    pd.testing.assert_frame_equal(feature_divergence(net, a, b, seed=3), feature_divergence(net, a, b, seed=3))
    assert (feature_divergence(net, a, b, seed=4).aa != feature_divergence(net, a, b, seed=3).aa).any()


def test_too_few_groups_give_no_floor():
    t = feature_divergence(slim(), images(3), images(3, seed=1))
    assert t[['ab', 'aa', 'bb']].isna().all(axis=None) and t['mean'].notna().all()


def test_silent_channels_are_counted():
    net = slim()
    with torch.no_grad():
        net[0].weight[:2] = 0
        net[0].bias[0] = -1
        net[0].bias[1] = -1
        net[2].weight[0] = 0
        net[2].bias[0] = 0.3
    t = feature_divergence(net, images(), images(seed=1))
    assert t.dead['relu1_1'] == 2 and t.dead['relu1_2'] == 1 and np.isfinite(t['mean']['relu1_1'])


def test_pooled_groups_are_numpy():
    net, x = slim(), images(21)
    stats = channel_stats(net, x, subjects=[i % 5 for i in range(21)], layers='relu2_1')
    f = channel_means(net, x, 'relu2_1')['relu2_1'].astype(float)
    n, mean, var = pool_groups(stats, [[1, 0, 1, 0, 0], [0, 1, 0, 1, 1]])
    for r, take in enumerate(((0, 2), (1, 3, 4))):
        own = f[np.isin(np.arange(21) % 5, take)]
        assert n[r] == len(own)
        np.testing.assert_allclose(mean[r], own.mean(0), rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(var[r], own.var(0), rtol=1e-4, atol=1e-12)


def test_effective_images_at_both_ends():
    rng = np.random.default_rng(5)

    def stats(x):
        m = x.mean(1)
        return ChannelStats(
            dict(a=slice(0, x.shape[2])),
            list(range(len(x))),
            np.full(len(x), float(x.shape[1])),
            m,
            ((x - m[:, None]) ** 2).sum(1),
            'subjects',
            (1, 1),
        )

    same = np.repeat(rng.normal(size=(30, 1, 5)), 6, 1)
    np.testing.assert_allclose(effective_images(stats(same)), 30)
    free = effective_images(stats(rng.normal(size=(30, 6, 200))))
    assert 120 < np.median(free) <= 180
    np.testing.assert_allclose(effective_images(stats(rng.normal(size=(30, 1, 5)))), 30)


def test_blocks_are_balanced():
    stats = channel_stats(slim(), images(40), layers='relu1_1')
    assert len(stats.n) == BLOCKS and set(stats.n) <= {2.0, 3.0} and stats.n.sum() == 40


def test_net_is_left_as_it_was():
    net = GFACNN(3, width=0.125, pool=1)
    hooks = [len(m._forward_hooks) for m in net.modules()]
    feature_divergence(net, images(4), images(4, seed=1))
    assert net.training and [len(m._forward_hooks) for m in net.modules()] == hooks
    with pytest.raises(ValueError):
        channel_stats(net, torch.full((4, 3, 32, 32), 2.0))
    assert net.training and [len(m._forward_hooks) for m in net.modules()] == hooks


def test_a_gfacnn_normalises_by_itself():
    trunk = new_trunk(0.125)
    trunk.mean, trunk.std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    net = GFACNN(3, trunk, pool=1).eval()
    x = images(6)
    own = channel_means(net, x, 'relu1_2')['relu1_2']
    bare = channel_means(net.trunk, x, 'relu1_2')['relu1_2']
    np.testing.assert_allclose(own, bare, rtol=1e-4, atol=1e-6)
    trunk.mean = IMAGENET_MEAN
    assert np.abs(channel_means(trunk, x, 'relu1_2')['relu1_2'] - own).max() > 1e-2


def test_other_networks():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3))
    assert list(find_layers(net)) == ['0', '3'] and list(find_layers(net, '1')) == ['1']
    assert feature_divergence(net, images(), images(seed=1)).channels.tolist() == [4, 5]
    with pytest.raises(ValueError, match='no convolution'):
        find_layers(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="no layer 'x'"):
        find_layers(net, ['x'])


def test_half_precision_features_are_averaged_in_float32():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Conv2d(3, 2, 1)
            self.h = nn.Identity()

        def forward(self, x):
            return self.h(self.c(x).half())

    f = channel_means(Half(), images(4, 64), 'h')['h']
    assert f.dtype == np.float32 and len(np.unique(f.astype(np.float16))) <= len(np.unique(f))


# -- bad input


def test_images_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match='would measure their size'):
        feature_divergence(slim(), images(4), images(4, 48))


def test_domains_of_other_layers_are_refused():
    net = slim()
    with pytest.raises(ValueError, match='different layers'):
        divergence_table(
            channel_stats(net, images(4), layers='relu1_1'), channel_stats(net, images(4), layers='relu1_2')
        )


def test_subjects_that_do_not_fit():
    with pytest.raises(ValueError, match='3 names, and another number'):
        channel_stats(slim(), images(4), subjects=list('abc'))
    with pytest.raises(ValueError, match='5 names, and another number'):
        channel_stats(slim(), images(4), subjects=list('abcde'))


@pytest.mark.parametrize(
    'bad,match',
    [
        (images(1), r'1 image\(s\); a distribution needs at least 2'),
        ([], r'0 image\(s\)'),
        (images(0), r'0 image\(s\)'),
        (255 * images(4), 'must be finite and in 0..1'),
        (images(4) - 0.5, 'must be finite and in 0..1'),
        (torch.full((4, 3, 32, 32), float('nan')), 'must be finite'),
        ((255 * images(4)).byte(), 'must be finite and in 0..1'),
        (images(4)[0], r'got \(3, 32, 32\)'),
        (images(4)[:, :1], r'got \(4, 1, 32, 32\)'),
        (['a.png', 'b.png'], 'got str; picture_batches makes them'),
        (pd.DataFrame(dict(face_path=['a.png'])), 'got str; picture_batches makes them'),
    ],
)
def test_images_that_are_none(bad, match):
    with pytest.raises(ValueError, match=match):
        channel_stats(slim(), bad)


def test_batches_say_who_is_on_them():
    class Batches(list):
        subjects = ['a', 'b', 'b', 'a', 'c', 'c']

    batches = Batches(images(6).split(4))
    stats = channel_stats(slim(), batches)
    assert (stats.groups, stats.n.tolist(), stats.by) == (['a', 'b', 'c'], [2, 2, 2], 'subjects')
    other = channel_stats(slim(), batches, subjects=list('xxyyzz'))
    assert other.groups == list('xyz')
    pd.testing.assert_frame_equal(
        feature_divergence(slim(), batches, batches),
        feature_divergence(slim(), images(6), images(6), Batches.subjects, Batches.subjects, bs=4),
    )


def test_damaged_weights_are_named():
    net = slim()
    with torch.no_grad():
        net[LAYER_NAMES['conv3_1']].weight[0, 0, 0, 0] = float('nan')
    with pytest.raises(ValueError, match='layer relu3_1: NaN'):
        feature_divergence(net, images(4), images(4))


MEMORY = '''
import resource, sys, torch
sys.path.insert(0, sys.argv[2])
from gfa_fastai.divergence import channel_stats
from gfa_fastai.model import new_trunk
torch.set_num_threads(1)
torch.manual_seed(0)
def made(n):
    return (torch.rand(50, 3, 64, 64) for _ in range(n // 50))
net = new_trunk(.0625)
channel_stats(net, made(200))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
channel_stats(net, made(int(sys.argv[1])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
'''


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='ru_maxrss is in kilobytes on Linux')
def test_memory_does_not_grow_with_the_images():
    done = subprocess.run(
        [sys.executable, '-c', MEMORY, '2000', str(Path(__file__).resolve().parents[1])],
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 10_000, f'{done.stdout} kB more for ten times the images (kept, they would be 98,304 kB)'


# -- the other distances


def test_mmd_against_loops():
    rng = np.random.default_rng(6)
    a, b, g = rng.normal(size=(9, 3)), rng.normal(0.5, size=(7, 3)), 0.4
    k = lambda x, y: np.exp(-g * cdist(x, y, 'sqeuclidean'))
    off = lambda m: (m.sum() - np.trace(m)) / (len(m) * (len(m) - 1))
    assert kernel_mmd(a, b, g) == pytest.approx(off(k(a, a)) + off(k(b, b)) - 2 * k(a, b).mean())
    both = np.concatenate([a, b])
    assert kernel_mmd(a, b) == pytest.approx(kernel_mmd(a, b, 1 / np.median(cdist(both, both, 'sqeuclidean'))))


def test_mmd_is_unbiased():
    rng = np.random.default_rng(7)
    got = [kernel_mmd(rng.normal(size=(30, 4)), rng.normal(size=(30, 4)), 0.2) for _ in range(200)]
    assert abs(np.mean(got)) < 4 * np.std(got) / 200**0.5


@pytest.mark.parametrize('n', [200, 4])  # more images than channels, and fewer
def test_frechet_against_a_matrix_root(n):
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(n, 6)) @ rng.normal(size=(6, 6)), 1 + rng.normal(size=(n + 1, 6))
    ca, cb = (np.cov(x, rowvar=False, ddof=0) for x in (a, b))
    jitter = 1e-12 * np.eye(6)  # (the root of a singular product is numerically delicate, ours is not)
    want = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * np.real(sqrtm((ca + jitter) @ (cb + jitter))))
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_of_one_channel():
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(50, 1)), rng.normal(2, 3, (60, 1))
    assert frechet_distance(a, b) == pytest.approx((a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2)
    assert coral_distance(a, b) == pytest.approx((a.var(ddof=1) - b.var(ddof=1)) ** 2 / 4)


def test_coral_against_loops():
    rng = np.random.default_rng(10)
    a, b = rng.normal(size=(40, 3)), rng.normal(size=(50, 3)) * 2
    d = np.cov(a, rowvar=False) - np.cov(b, rowvar=False)
    assert coral_distance(a, b) == pytest.approx(sum(d[i, j] ** 2 for i in range(3) for j in range(3)) / 36)
    assert coral_distance(a + 5, b) == pytest.approx(coral_distance(a, b))


def test_all_distances():
    rng = np.random.default_rng(11)
    a, b = rng.normal(size=(40, 3)), rng.normal(size=(50, 3))
    got = domain_distances(a, b)
    assert list(got.index) == ['kl', 'kl_median', 'mmd', 'frechet', 'coral']
    assert got.kl == pytest.approx(symmetric_kl(a, b).mean()) and got.mmd == kernel_mmd(a, b)


def test_plot():
    import matplotlib.pyplot as plt

    t = feature_divergence(slim(), images(), images(seed=1))
    for what in ('mean', 'median'):
        ax = plot_divergence(dict(none=t, other=t), what)
        assert ax.get_yscale() == 'log' and len(ax.get_lines()) == 5 and ax.get_xlabel() and 'nats' in ax.get_ylabel()
    with pytest.raises(ValueError, match='what='):
        plot_divergence(dict(none=t), 'max')
    plt.close('all')
