"Eq. 2 against brute force in float64: readings, gradients, precision, draws; the other regularisers."

import math
import pickle
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gfa_fastai.tpc import (
    TPCLoss,
    count_pairs,
    entropic_confusion,
    feature_std,
    mmd_loss,
    pairwise_confusion,
    paper_scale,
    random_pairs,
    row_shares,
    tpc_halves,
    tpc_loss,
    tpc_random,
)


def rows(n=6, dim=5, seed=0, dtype=torch.float64):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def all_pairs(n):
    return list(permutations(range(n), 2))


def half_pairs(n):
    return [(i, i + n // 2) for i in range(n // 2)]


READINGS = dict(all=all_pairs, halves=half_pairs)


def total(x, pairs='all', reduction='sum', n_pairs=None, generator=None):
    "Eq. 2 in a reading, through the module."
    return TPCLoss(pairs, reduction, n_pairs, generator=generator)(x)


def brute(x, pairs, reduction='sum'):
    "Eq. 2 over the given pairs, one at a time, in float64."
    x = x.double()
    d = [sum((x[i] - x[j]) ** 2) for i, j in pairs]
    return sum(d) / (len(d) if reduction == 'mean' else 1)


def close(a, b, rtol=1e-12):
    a, b = (o if isinstance(o, torch.Tensor) else torch.tensor(o, dtype=torch.float64) for o in (a, b))
    torch.testing.assert_close(a.double(), b.double(), rtol=rtol, atol=1e-12)


# -- the readings


@pytest.mark.parametrize('reduction', ['sum', 'mean'])
@pytest.mark.parametrize('pairs', READINGS)
@pytest.mark.parametrize('n', [2, 3, 6, 7])
def test_reading_against_brute_force(n, pairs, reduction):
    x, chosen = rows(n), READINGS[pairs](n)
    assert count_pairs(n, pairs) == len(chosen)
    close(total(x, pairs, reduction), brute(x, chosen, reduction))


@pytest.mark.parametrize('pairs', READINGS)
@pytest.mark.parametrize('n', [2, 3, 6, 7])
def test_gradient_against_brute_force(n, pairs):
    x = rows(n).requires_grad_()
    (ours,) = torch.autograd.grad(total(x, pairs), x)
    (theirs,) = torch.autograd.grad(brute(x, READINGS[pairs](n)), x)
    close(ours, theirs)
    if pairs == 'all':
        close(ours, 4 * n * (x - x.mean(0)))
    if pairs == 'halves' and n % 2:
        assert not ours[-1].any()  # the row without a partner


@pytest.mark.parametrize(
    'kw',
    [{}, dict(reduction='mean'), dict(reduction='none'), dict(pairs='halves'), dict(pairs='halves', reduction='none')],
)
def test_first_and_second_derivatives(kw):
    x = rows(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda o: total(o, **kw), x) and torch.autograd.gradgradcheck(
        lambda o: total(o, **kw), x
    )


@pytest.mark.parametrize('pairs', READINGS)
@pytest.mark.parametrize('n', [1, 2, 6, 7])
def test_none_averages_to_the_sum(n, pairs):
    x = rows(n)
    shares = total(x, pairs, 'none')
    assert shares.shape == (n,) and (shares >= 0).all()
    close(shares.mean(), total(x, pairs))


def test_none_points_at_the_odd_one_out():
    x = rows(8)
    x[5] += 9
    assert total(x, reduction='none').argmax() == 5 and total(x, 'halves', 'none').topk(
        2
    ).indices.sort().values.tolist() == [1, 5]


def test_moves_turns_and_labels_do_not_matter():
    x, (turn, _) = rows(7), torch.linalg.qr(rows(5, seed=1))
    for same in (x + 3, x @ turn, x.flip(0)):
        close(total(same), total(x))
    close(total(3 * x), 9 * total(x))


def test_equations_are_the_module():
    x = rows(7)
    close(tpc_loss(x), brute(x, all_pairs(7)))
    close(tpc_halves(x), brute(x, half_pairs(7)))
    i, j = random_pairs(7, 9, seeded(2))
    close(tpc_random(x, 9, seeded(2)), brute(x, zip(i.tolist(), j.tolist())))
    for pairs, sums in dict(all=tpc_loss(x), halves=tpc_halves(x)).items():
        close(total(x, pairs), sums)
        close(row_shares(x, pairs).mean(), sums)
    close(total(x, 'random', n_pairs=9, generator=seeded(2)), tpc_random(x, 9, seeded(2)))


# -- few rows


@pytest.mark.parametrize(
    'kw',
    [
        {},
        dict(pairs='halves'),
        dict(pairs='random', n_pairs=3),
        dict(reduction='mean'),
        dict(pairs='halves', reduction='mean'),
    ],
)
@pytest.mark.parametrize('n', [0, 1])
def test_no_pair_is_a_zero_with_a_graph(n, kw):
    x = rows(n).requires_grad_()
    loss = total(x, **kw)
    loss.backward()
    assert loss.item() == 0 and loss.shape == () and x.grad.shape == x.shape and not x.grad.any()
    assert count_pairs(n, kw.get('pairs', 'all'), kw.get('n_pairs')) == 0


@pytest.mark.parametrize('pairs', READINGS)
@pytest.mark.parametrize('n', [0, 1])
def test_none_of_few_rows(n, pairs):
    assert torch.equal(total(rows(n), pairs, 'none'), torch.zeros(n).double())


def test_two_rows():
    x, d = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), 25.0
    assert [total(x).item(), total(x, 'halves').item(), total(x, reduction='mean').item()] == [2 * d, d, d]
    assert total(x, 'random', n_pairs=7, generator=seeded()).item() == 7 * d  # never a row with itself


# -- random pairs


def test_random_pairs_are_different_and_uniform():
    "Rows are powers of 2 on a line: a distance names its pair."
    n, draws = 5, 8000
    x, gen = (2.0 ** torch.arange(n, dtype=torch.float64))[:, None], seeded()
    name = {(x[i] - x[j]).square().item(): (i, j) for i in range(n) for j in range(i)}
    assert len(name) == 10
    seen = [
        name[total(x, 'random', n_pairs=1, generator=gen).item()] for _ in range(draws)
    ]  # i = j would be a KeyError: 0
    counts = [seen.count(p) for p in name.values()]
    assert sum((c - draws / 10) ** 2 / (draws / 10) for c in counts) < 27.9  # chi square, 9 degrees: p > 0.001


def test_random_draws_both_orders_and_every_row():
    i, j = random_pairs(4, 4000, seeded())
    counts = torch.zeros(4, 4).index_put((i, j), torch.tensor(1.0), accumulate=True)
    apart = ~torch.eye(4, dtype=bool)
    assert not counts.diagonal().any()
    assert (counts[apart] - 4000 / 12).abs().max() < 5 * (4000 / 12) ** 0.5


def test_random_follows_its_generator():
    x = rows(9)

    def loss(seed):
        return total(x, 'random', n_pairs=5, generator=seeded(seed)).item()

    assert loss(1) == loss(1) != loss(2)
    gen = seeded(1)
    assert total(x, 'random', n_pairs=5, generator=gen) != total(x, 'random', n_pairs=5, generator=gen)
    before = torch.get_rng_state()
    loss(3)
    assert torch.equal(before, torch.get_rng_state())  # the global one is left alone
    torch.manual_seed(4)
    a = total(x, 'random', n_pairs=5)
    torch.manual_seed(4)
    assert a == total(x, 'random', n_pairs=5)


def test_random_expects_the_mean_of_all():
    x = rows(6)
    close(total(x, 'random', 'mean', 200_000, seeded()), total(x, reduction='mean'), rtol=0.01)
    close(total(x, 'random', 'sum', 40, seeded()), 40 * total(x, 'random', 'mean', 40, seeded()))


def test_gradient_of_random_pairs():
    x = rows(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda o: total(o, 'random', n_pairs=12, generator=seeded()), x)


# -- precision


@pytest.mark.parametrize('kw', [{}, dict(pairs='halves'), dict(pairs='random', n_pairs=200), dict(reduction='none')])
@pytest.mark.parametrize('seed', range(4))
def test_float32_far_from_zero(seed, kw):
    "Mean 100, standard deviation 0.1: where the uncentred form and Gram products lose their digits."

    def loss(x):
        return total(x, **kw, **(dict(generator=seeded()) if 'n_pairs' in kw else {}))

    x = 100 + 0.1 * rows(32, 4096, seed, torch.float32)
    assert (loss(x).mean() / loss(x.double()).mean() - 1).abs() <= 1e-6
    assert (loss(x) / loss(x.double()) - 1).abs().max() <= 1e-5  # a single share is linear in the mean's rounding
    x.requires_grad_()
    (grad,) = torch.autograd.grad(loss(x).sum(), x)
    xd = x.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(loss(xd).sum(), xd)
    assert (grad - exact).norm() <= 1e-4 * exact.norm()  # x - mean: the mean's last digit is 8e-6 of 100


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_input(dtype):
    x = (30 * rows(32, 4096, dtype=torch.float32)).to(dtype).requires_grad_()
    loss = total(x)
    assert loss.dtype == torch.float32 and loss > 65504
    close(loss, total(x.detach().double()), rtol=1e-6)
    total(x, reduction='mean').backward()
    assert x.grad.dtype == dtype and x.grad.isfinite().all() and x.grad.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    'loss',
    [
        TPCLoss(),
        TPCLoss(scale='paper'),
        feature_std,
        pairwise_confusion,
        entropic_confusion,
    ],
)
def test_autocast_changes_nothing(loss, dtype):
    x = rows(8, 16, dtype=torch.float32)
    with torch.autocast('cpu', dtype):
        inside = loss(x)
    assert inside.dtype == torch.float32 and torch.equal(inside, loss(x))


def test_double_stays_double():
    x = rows()
    for loss in (
        total(x),
        total(x, reduction='none'),
        pairwise_confusion(x),
        entropic_confusion(x),
        mmd_loss(x, torch.arange(6) % 2),
    ):
        assert loss.dtype == torch.float64


# -- where it is used


def test_gradient_reaches_the_features():
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU())
    for kw in ({}, dict(pairs='halves'), dict(pairs='random', n_pairs=9), dict(reduction='none')):
        net.zero_grad()
        total(net(rows(dtype=torch.float32)), **kw).sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_step_shrinks_the_features_and_keeps_their_mean():
    x = rows(8).requires_grad_()
    (grad,) = torch.autograd.grad(total(x), x)
    after = x - grad / (8 * 8)  # half way: 4 N (x - mean)/(8 N)
    close(after.mean(0), x.mean(0))
    close(after - after.mean(0), 0.5 * (x - x.mean(0)))


def test_tensor_subclasses_are_stripped():
    from fastai.torch_core import TensorBase
    from fastai.vision.core import TensorCategory

    x, y = rows(dtype=torch.float32), torch.tensor([0, 1, 0, 1, 1, 0])
    for loss in (TPCLoss(), TPCLoss('halves'), TPCLoss(reduction='none')):
        out = loss(TensorBase(x))
        assert type(out) is torch.Tensor and torch.equal(out, loss(x))
    assert mmd_loss(TensorBase(x), TensorCategory(y)) == mmd_loss(x, y)
    leaf = TensorBase(x).requires_grad_()
    total(leaf).backward()
    close(leaf.grad.as_subclass(torch.Tensor), 4 * 6 * (x - x.mean(0)), rtol=1e-5)


@pytest.mark.parametrize('kw', [{}, dict(pairs='halves'), dict(reduction='none')])
def test_vmap(kw):
    x = rows(4 * 7, 3).view(4, 7, 3)
    close(torch.vmap(lambda o: total(o, **kw))(x), torch.stack([total(o, **kw) for o in x]))
    close(torch.vmap(TPCLoss(scale='paper', **kw))(x), torch.stack([TPCLoss(scale='paper', **kw)(o) for o in x]))
    close(
        torch.vmap(torch.func.grad(lambda o: total(o, **kw).sum()))(x[:, :, :2]),
        torch.stack([torch.func.grad(lambda o: total(o, **kw).sum())(o) for o in x[:, :, :2]]),
    )


# -- strength


def test_paper_scale():
    assert paper_scale(32, 4096) == 1 and paper_scale(32, 4096, reduction='none') == 1
    assert paper_scale(32, 4096, 'halves') == 62 and paper_scale(32, 4096, reduction='mean') == 992
    assert paper_scale(32, 1024) == 4 and paper_scale(32, 4096, 'random', n_pairs=496) == 2
    assert paper_scale(9, 4096, 'random', 'mean', 5) == 992


@pytest.mark.parametrize(
    'kw',
    [
        {},
        dict(pairs='halves'),
        dict(pairs='halves', reduction='mean'),
        dict(reduction='mean'),
        dict(pairs='random', n_pairs=300),
    ],
)
@pytest.mark.parametrize('n,dim', [(32, 4096), (16, 1024), (48, 512)])
def test_scaled_readings_pull_alike(n, dim, kw):
    s, gen, loss = 0.5, seeded(), TPCLoss(scale='paper', **kw)
    mean = sum(loss(s * torch.randn(n, dim, generator=gen)).item() for _ in range(8)) / 8
    assert 2.5e-5 * mean == pytest.approx(203.2 * s**2, rel=0.03)


@pytest.mark.parametrize(
    'scale,factor', [(None, 1.0), (0.25, 0.25), (0.0, 0.0), ('paper', paper_scale(6, 5, 'halves'))]
)
def test_module(scale, factor):
    x, loss = rows(), TPCLoss('halves', scale=scale)
    close(loss(x), factor * total(x, 'halves'))
    assert loss.factor(*x.shape) == factor
    assert "pairs='halves'" in repr(loss) and not list(loss.parameters())
    close(pickle.loads(pickle.dumps(loss))(x), loss(x))


def test_module_of_few_rows():
    for kw in ({}, dict(pairs='random', n_pairs=4), dict(pairs='halves')):
        for n in (0, 1):
            assert TPCLoss(scale='paper', **kw)(rows(n)).item() == 0


def test_module_takes_its_own_generator():
    x = rows(9)
    a, b = (TPCLoss('random', n_pairs=6, generator=seeded(3)) for _ in range(2))
    assert [a(x).item() for _ in range(3)] == [b(x).item() for _ in range(3)]


def test_feature_std():
    x = rows(7, 4).requires_grad_()
    s = feature_std(x)
    close(s, math.sqrt(sum(torch.var(x[:, k]).item() for k in range(4)) / 4), rtol=1e-6)
    assert not s.requires_grad
    close(total(x), 2 * 7 * 6 * 4 * s**2, rtol=1e-6)
    assert feature_std(rows(1)).isnan() and feature_std(torch.ones(4, 3)) == 0


# -- relatives


@pytest.mark.parametrize('squared', [False, True])
@pytest.mark.parametrize('n', [2, 5, 6])
def test_pairwise_confusion(n, squared):
    z, y = rows(n, 3), torch.arange(n) % 3 == 0
    p = z.softmax(1)
    d = [(p[i] - p[j]).norm() ** (2 if squared else 1) for i, j in half_pairs(n)]
    close(pairwise_confusion(z, squared), sum(d) / n)
    close(pairwise_confusion(z, squared, labels=y), sum(v for v, (i, j) in zip(d, half_pairs(n)) if y[i] != y[j]) / n)


def test_pairwise_confusion_of_equal_rows_has_a_gradient():
    z = torch.ones(4, 2, requires_grad=True)
    pairwise_confusion(z).backward()
    assert z.grad.isfinite().all()
    assert torch.autograd.gradcheck(lambda o: pairwise_confusion(o, True), rows(4, 3).requires_grad_())
    assert pairwise_confusion(rows(1)).item() == 0


def test_entropic_confusion():
    z = rows(5, 3)
    p = z.softmax(1)
    close(entropic_confusion(z), sum(v * v.log() for v in p.flatten()) / 5)
    close(entropic_confusion(torch.zeros(4, 3).double()), -math.log(3))
    assert abs(entropic_confusion(torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])).item()) == 0  # sure: no entropy, no nan
    assert torch.autograd.gradcheck(entropic_confusion, z.requires_grad_())


def mmd_by_hand(x, group, bandwidths=(0.25, 0.5, 1.0, 2.0, 4.0)):
    d2 = torch.tensor([[sum((a - b) ** 2) for b in x] for a in x])

    def mean(a, b):
        return sum(math.exp(-d2[i, j] / (2 * s * d2.mean())) for i in a for j in b for s in bandwidths) / (
            len(a) * len(b) * len(bandwidths)
        )

    of = [[i for i, g in enumerate(group) if g == k] for k in sorted(set(group))]
    out = [mean(a, a) + mean(b, b) - 2 * mean(a, b) for n, a in enumerate(of) for b in of[:n]]
    return sum(out) / len(out)


@pytest.mark.parametrize('group', [[0, 0, 1, 1, 1, 0], [3, 7, 3, 3, 3, 3], [0, 1, 2, 0, 1, 2]])
def test_mmd_against_brute_force(group):
    close(mmd_loss(rows(), torch.tensor(group)), mmd_by_hand(rows(), group), rtol=1e-9)


def test_mmd_properties():
    x, g = rows(40, 8), torch.arange(40) % 2

    def apart(shift, x=x):
        return mmd_loss(x + shift * g[:, None], g).item()

    assert 0 <= apart(0) < apart(0.5) < apart(1) < apart(2)
    assert mmd_loss(x.repeat(2, 1), torch.arange(80) // 40).item() == pytest.approx(
        0, abs=1e-12
    )  # the same rows in both groups
    assert mmd_loss(x, torch.zeros(40)).item() == 0
    assert mmd_loss(torch.ones(4, 2), torch.arange(4) % 2).item() == 0
    close(mmd_loss(1000 * x, g), mmd_loss(x, g), rtol=1e-9)
    close(mmd_loss(x + 50, g), mmd_loss(x, g), rtol=1e-9)
    close(mmd_loss(x, 1 - g), mmd_loss(x, g))
    far = 100 + 0.1 * x
    close(mmd_loss(far.float(), g), mmd_loss(far.float().double(), g), rtol=1e-4)
    leaf = x.clone().requires_grad_()
    mmd_loss(leaf + g[:, None], g).backward()
    pull = -leaf.grad
    assert (pull[g == 0].mean(0) > 0).all() and (pull[g == 1].mean(0) < 0).all()  # towards each other


# -- bad input

x = torch.ones(4, 3)


@pytest.mark.parametrize(
    'call,says',
    [
        (lambda: total(x, 'every'), "pairs='every' is not known, choose one of 'all', 'halves', 'random'"),
        (lambda: total(x, reduction='max'), "reduction='max' is not known, choose one of 'sum', 'mean', 'none'"),
        (lambda: total(x, 'random'), 'needs n_pairs.*got None'),
        (lambda: total(x, 'random', n_pairs=0), 'needs n_pairs.*got 0'),
        (lambda: total(x, 'random', n_pairs=2.5), 'needs n_pairs.*got 2.5'),
        (lambda: total(x, n_pairs=5), "n_pairs=5 goes with pairs='random' only"),
        (lambda: total(x, 'random', 'none', n_pairs=5), "reduction='none' needs"),
        (lambda: total(x[0]), r'got shape \(3,\)'),
        (lambda: total(x[None]), r'got shape \(1, 4, 3\): use .flatten\(1\)'),
        (lambda: total(x.long()), r'got torch.int64: pass psi.float\(\)'),
        (lambda: total(x.tolist()), 'got list'),
        (lambda: TPCLoss('every'), "pairs='every' is not known"),
        (lambda: TPCLoss(reduction='max'), "reduction='max' is not known"),
        (lambda: TPCLoss('random'), 'needs n_pairs'),
        (lambda: TPCLoss(scale='big'), "scale='big' is not known"),
        (lambda: TPCLoss(scale=-1), 'scale=-1 is not known'),
        (lambda: TPCLoss(scale=math.nan), 'scale=nan is not known'),
        (lambda: TPCLoss(pairs=['all']), 'is not known'),
        (lambda: TPCLoss(scale='paper')(x[0]), 'got shape'),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()
