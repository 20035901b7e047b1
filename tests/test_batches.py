"Batches of pictures: files, arrays, tensors and tables are the same; order, sizes, memory; bad input."

import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gfa_fastai.inputs.batches import picture_batches


def grey(*sizes):
    return [np.zeros((*s, 3), np.uint8) for s in sizes]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 255, (32, 24, 3), np.uint8)).save(tmp_path / f'{i}.png')
    return [str(tmp_path / f'{i}.png') for i in range(5)]


def all_of(images, **kw):
    return torch.cat(list(picture_batches(images, **kw)))


def test_files_arrays_tensors_and_tables_are_the_same(folder):
    arrays = [np.asarray(Image.open(p)) for p in folder]
    tensor = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    table = pd.DataFrame(dict(face_path=folder, frame_path=folder[::-1], subject=list('abcde'), dataset='d'))
    want = tensor.float() / 255
    opened = [Image.open(p) for p in folder]
    series = pd.Series(folder, index=list('vwxyz'))
    for x in (folder, [Path(p) for p in folder], arrays, np.stack(arrays), opened, series, tensor, want, table):
        torch.testing.assert_close(all_of(x, bs=2), want, rtol=0, atol=1e-6)
    assert torch.equal(all_of(table, column='frame_path'), want.flip(0))


def test_a_table_says_who_is_on_its_images(folder):
    table = pd.DataFrame(dict(face_path=folder, subject=[1, 1, 2, 2, 3], dataset=list('aabbb')))
    assert picture_batches(table).subjects == ['a/1', 'a/1', 'b/2', 'b/2', 'b/3']
    assert picture_batches(table[['face_path']]).subjects is picture_batches(folder).subjects is None


@pytest.mark.parametrize('n,bs', [(5, 1), (5, 2), (5, 5), (23, 1), (23, 64)])
def test_order_and_number(n, bs):
    batches = picture_batches([np.full((16, 16, 3), i, np.uint8) for i in range(n)], bs)
    got = list(batches)
    assert len(got) == len(batches)
    assert (torch.cat(got)[:, 0, 0, 0] * 255).round().int().tolist() == list(range(n))


def test_a_second_pass_is_like_the_first(folder):
    batches = picture_batches(folder, bs=2)
    assert torch.equal(torch.cat(list(batches)), torch.cat(list(batches)))


def test_a_pass_that_is_left_early_leaves_no_threads(folder):
    before = threading.active_count()
    one_pass = iter(picture_batches(folder * 20, bs=1))
    next(one_pass)
    one_pass.close()
    assert threading.active_count() == before


def test_few_batches_are_held(monkeypatch):
    read = []

    def watched(array):
        read.append(1)
        return array

    monkeypatch.setattr('gfa_fastai.inputs.batches.read_image', watched)
    one_pass = iter(picture_batches(grey(*200 * [(16, 16)]), bs=2))
    next(one_pass)
    one_pass.close()
    assert len(read) <= 2 * 10


def test_resized(folder):
    assert all_of(folder, size=48).shape == (5, 3, 48, 48)
    assert all_of(torch.rand(2, 3, 32, 32), size=48).shape == (2, 3, 48, 48)
    assert all_of(grey((32, 32), (40, 60)), size=16).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    'bad,match',
    [
        ([], 'there are none'),
        ('folder', 'expected several'),
        (Path('folder'), 'expected several'),
        (['none.png', 'none2.png'], 'image 0: none.png: the file does not exist'),
        ([*grey((32, 32)), 'none.png'], 'image 1: none.png'),
        ([np.zeros((32, 32, 5), np.uint8)], r'image 0: .*\(32, 32, 5\)'),
        ([np.zeros((32, 32, 3))], 'image 0: .*float64'),
        (grey((32, 32), (40, 32)), 'as 32x32 and 40x32 pixels: give size='),
        (torch.zeros(4, 1, 32, 32), r'shape \(4, 1, 32, 32\); expected a tensor \(N, 3, H, W\)'),
        (torch.zeros(3, 32, 32), 'expected a tensor'),
        (torch.full((4, 3, 32, 32), 255.0), 'in 0..1'),
        (torch.full((4, 3, 32, 32), -0.1), 'in 0..1'),
        (torch.full((4, 3, 32, 32), float('nan')), 'holds NaN'),
        (torch.zeros(4, 3, 32, 32).int(), 'torch.int32'),
        (pd.DataFrame(dict(path=['a'])), 'column face_path missing'),
    ],
)
def test_images_that_are_none(bad, match):
    with pytest.raises(ValueError, match=match):
        list(picture_batches(bad))


def test_sizes_that_differ_between_batches():
    with pytest.raises(ValueError, match='different sizes'):
        list(picture_batches(grey((32, 32), (32, 32), (40, 40), (40, 40)), bs=2))


def test_a_batch_of_nothing():
    with pytest.raises(ValueError, match='bs is 0'):
        picture_batches(grey((32, 32)), bs=0)
    for size in ('a', -3, 0):
        with pytest.raises(ValueError, match=f'size is {size!r}'):
            picture_batches(grey((32, 32)), size=size)
