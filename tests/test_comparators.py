"Networks beside GFA-CNN: losses by hand, depth maps, the estimator, bad input."

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pictures import picture_table
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from gfa_fastai.compare.comparators import (
    COMPARATORS,
    Comparator,
    DepthNet,
    SpoofNet,
    cnn_loss,
    confusion_loss,
    depth_energy,
    depth_loss,
    live_probability,
    mmd_cnn_loss,
    table_tensors,
)
from gfa_fastai.evaluation import SCORE_COLUMNS, score_samples

torch.set_num_threads(1)


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    "With a depth map for each live row: a ramp, brighter below and to the right."
    root = tmp_path_factory.mktemp('pictures')
    df = picture_table(root)
    ramp = np.add.outer(np.arange(32) * 4, np.arange(32) * 2).astype(np.uint8)
    Image.fromarray(ramp).save(root / 'depth.png')
    return df.assign(depth=np.where(df.label == 'live', str(root / 'depth.png'), ''))


def small(name, **kw):
    return Comparator(name, **{**dict(steps=4, bs=4, width=0.0625, device='cpu', progress=False), **kw})


def test_two_outputs_are_one():
    z, y = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1] * 3)
    torch.testing.assert_close(
        cnn_loss((z,), y, None, None), F.binary_cross_entropy_with_logits(z[:, 1] - z[:, 0], y.float())
    )
    torch.testing.assert_close(live_probability((z,)), (z[:, 1] - z[:, 0]).sigmoid())


def test_added_terms():
    z, fc2, y, g = (
        torch.zeros(4, 2),
        torch.tensor([[0.0], [0], [9], [9]]),
        torch.tensor([0, 1, 0, 1]),
        torch.tensor([0, 0, 1, 1]),
    )
    plain = cnn_loss((z, fc2), y, g, None)
    assert math.isclose(plain, math.log(2), rel_tol=1e-6)
    near, far = (mmd_cnn_loss((z, x), y, g, None, weight=2) - plain for x in (fc2[[0, 2, 0, 2]], fc2))
    assert (
        abs(near) < 1e-6
        and math.isclose(far, 200 * (mmd_cnn_loss((z, fc2), y, g, None) - plain), rel_tol=1e-3)
        and far > 1
    )
    sure = torch.tensor([[40.0, 0], [0, 40.0]])
    torch.testing.assert_close(
        confusion_loss((sure, None), torch.tensor([0, 1]), None, None, weight=3), torch.tensor(3 * 2**0.5 / 2)
    )


def test_depth_is_a_mean_square():
    d = torch.rand(3, 32, 32)
    torch.testing.assert_close(depth_loss(d, None, None, torch.zeros_like(d)), d.square().mean())
    torch.testing.assert_close(depth_energy(d), d.square().mean((1, 2)))


@pytest.mark.parametrize('size', [32, 48, 100])
def test_depth_net_shapes(size):
    net = DepthNet(width=0.0625)
    assert net(torch.zeros(2, 3, size, size, dtype=torch.uint8)).shape == (2, 32, 32)


def test_spoof_net_is_one_branch_of_gfacnn():
    net, x = SpoofNet(32, 0.0625).eval(), torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(net(x), net.net.spoof(x.float() / 255))
    assert not any(p.requires_grad for p in net.net.id_head.parameters())


def test_tensors(table):
    df = table.head(8)
    x, y, g, d = table_tensors(df, depth=True).tensors
    for k, r in enumerate(df.itertuples()):
        np.testing.assert_array_equal(x[k].permute(1, 2, 0), np.asarray(Image.open(r.frame_path)))
        want = np.asarray(Image.open(r.depth)) / 255 if r.depth else np.zeros((32, 32))
        np.testing.assert_allclose(d[k], want, atol=1e-6)
    assert y.tolist() == [1, 1, 0, 0] * 2 and g.tolist() == [0, 1] * 4
    assert table_tensors(df.drop(columns=['depth', 'camera'])).tensors[2].unique().tolist() == [
        0
    ]  # no cameras: datasets


@pytest.mark.parametrize('flip,axis', [('h', 1), ('v', 0)])
def test_depth_is_flipped_with_its_picture(table, flip, axis):
    df = table[table.label == 'live'].head(2)
    a, b = (table_tensors(t, depth=True).tensors for t in (df.assign(flip=''), df.assign(flip=flip)))
    torch.testing.assert_close(b[0], a[0].flip(2 + axis))
    torch.testing.assert_close(b[3], a[3].flip(1 + axis))


def test_bad_depth(table, tmp_path):
    with pytest.raises(ValueError, match='column depth missing: paths of 32x32 maps'):
        small('Auxiliary (depth)').fit(table.drop(columns='depth'))
    with pytest.raises(ValueError, match='a live image without depth'):
        small('Auxiliary (depth)').fit(table.assign(depth=''))
    with pytest.raises(ValueError, match='gone.png: the file does not exist'):
        table_tensors(table.assign(depth=str(tmp_path / 'gone.png')), depth=True)
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(tmp_path / 'odd.png')
    with pytest.raises(ValueError, match='odd.png: a depth map of 40x20; 32x32 is needed'):
        table_tensors(table.assign(depth=str(tmp_path / 'odd.png')), depth=True)
    small('CNN').fit(table.drop(columns='depth'))  # others do without


@pytest.mark.parametrize('name', COMPARATORS)
def test_every_comparator(table, name):
    c = small(name)
    assert (
        c.fit(table) is c
        and len(c.learner_.recorder.losses) == 4
        and all(map(math.isfinite, c.learner_.recorder.losses))
    )
    scores = c.score(table)
    assert list(scores) == SCORE_COLUMNS and len(scores) == len(table) and np.isfinite(scores.score).all()
    np.testing.assert_allclose(c.score(table, bs=3).score, scores.score, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        small(name).fit(table).score(table).score, scores.score, rtol=1e-4, atol=1e-6
    )  # the same seed
    assert np.abs(small(name, seed=1).fit(table).score(table).score - scores.score).max() > 1e-6


def test_scores_are_those_of_score_samples(table):
    c = small('CNN').fit(table)
    pd.testing.assert_frame_equal(
        c.score(table), score_samples(c.learner_.model.net, table, progress=False), check_exact=False, rtol=1e-4
    )


def test_it_learns(table):
    from gfa_fastai.evaluation import evaluate_scores

    scores = small('Auxiliary (depth)', steps=60, bs=8, lr=3e-3).fit(table).score(table)
    assert evaluate_scores(scores, 'dev', n=1).auc > 0.9


def test_only_training_rows_are_learned(table):
    half = table.assign(depth=np.where(table.split == 'train', table.depth, ''))
    np.testing.assert_array_equal(
        small('Auxiliary (depth)').fit(half).score(table).score,
        small('Auxiliary (depth)').fit(table).score(table).score,
    )


def test_bad_training(table):
    for label, lacks in (('live', 'attack'), ('attack', 'live')):
        with pytest.raises(ValueError, match=f"split 'train' has no {lacks} rows"):
            small('CNN').fit(table[table.label == label])
    with pytest.raises(
        ValueError, match='CNN . MMD: all training rows are of one group.*column camera with two or more'
    ):
        small('CNN + MMD').fit(table.drop(columns='camera'))
    with pytest.raises(ValueError, match='bs is 99 and there are 16 training rows.*Use a smaller bs'):
        small('CNN', bs=99).fit(table)
    with pytest.raises(ValueError, match='steps is 0'):
        small('CNN', steps=0).fit(table)
    with pytest.raises(ValueError, match='weight=3, but its loss has one term only'):
        small('CNN', weight=3).fit(table)
    with pytest.raises(ValueError, match='weight is -1; it is the weight of the second term'):
        small('CNN + MMD', weight=-1).fit(table)
    for name, value in dict(width=0, lr=-1.0, bs=0).items():
        with pytest.raises(ValueError, match=f'CNN: {name} is {value}'):
            small('CNN', **{name: value}).fit(table)
    with pytest.raises(ValueError, match="'ResNet' is not known, choose one of CNN"):
        small('ResNet').fit(table)
    with pytest.raises(ValueError, match='column frame_path missing. Run extract_frames'):
        small('CNN').fit(table.drop(columns='frame_path'))


def test_frames_of_several_sizes(table, tmp_path):
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / 'large.png')
    paths = [str(tmp_path / 'large.png'), *table.frame_path[1:]]
    with pytest.raises(ValueError, match='frames of 2 sizes.*extract_frames brings them to one'):
        small('CNN').fit(table.assign(frame_path=paths))


def test_estimator_of_scikit_learn():
    c = clone(small('CNN', seed=3))
    assert c.get_params()['seed'] == 3
    with pytest.raises(NotFittedError):
        c.score(pd.DataFrame())
