"The two-stream DataLoaders: what is in a batch, what order, and what fastai's users do with them."

import multiprocessing
import pickle
import random
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from fastai.vision.all import (
        Contrast,
        DataLoaders,
        Flip,
        Hue,
        Learner,
        RandomErasing,
        RandomResizedCropGPU,
        aug_transforms,
        plt,
        set_seed,
    )
from gfa_fastai.data import UNKNOWN, PairDL, gfa_dataloaders, table_rows
from gfa_fastai.inputs.frames import extract_frames
from gfa_fastai.samples import CLASSES, person_key
from gfa_fastai.samples import balance_flips
from gfa_fastai.synth.benchmark import make_synthpad


@pytest.fixture(scope='module')
def frames(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('data')
    return extract_frames(
        make_synthpad(tmp / 's', 'tiny', domains=['webcam'], subjects=(4, 2, 2), frames=1, workers=1, progress=False)
        .query("role == 'probe'")
        .reset_index(drop=True),
        tmp / 'c',
        size=32,
        progress=False,
    )


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close('all')


def loaders(frames, bs=8, device='cpu', **kw):
    return gfa_dataloaders(frames, bs=bs, device=device, **kw)


def pixels(path):
    return torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1) / 255


def close(a, b):
    return torch.allclose(a.as_subclass(torch.Tensor), b, atol=1e-5)  # fastai resamples by the identity


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for o, p in zip(a, b) for x, y in zip(o, p))


def flipped(x, flip):
    return x.flip(-1) if flip == 'h' else x.flip(-2) if flip == 'v' else x


def test_every_row_as_its_table_says(frames):
    "Against the table, row by row: pictures, flips, label, subject."
    dls = loaders(frames, bs=1, flips=3)
    df, items = dls.samples, dls.train.dataset
    train = df[df.split == 'train'].reset_index(drop=True)
    assert len(items) == len(train) and set(train.flip) == {'', 'h', 'v'} and 'test' not in set(df.split)
    dl = dls.train.new(shuffle=False, drop_last=False, bs=5)
    batches = [torch.cat(o) for o in zip(*dl)]
    for r, frame, face, label, subject in zip(train.itertuples(), *batches):
        assert torch.equal(frame, flipped(pixels(r.frame_path), r.flip)) and torch.equal(
            face, flipped(pixels(r.face_path), r.flip)
        )
        assert CLASSES[label] == r.label
        assert int(subject) == (UNKNOWN if r.flip else dls.vocab.index(f'{r.dataset}/{r.subject}'))
    assert set(dls.vocab) == set(person_key(frames[frames.split == 'train'])) and len(batches[0]) == len(train)


def test_validation_rows(frames):
    dls = loaders(frames, bs=3)
    batches = list(dls.valid)
    dev = frames[frames.split == 'dev']
    assert sum(len(b[2]) for b in batches) == len(dev) and max(len(b[2]) for b in batches) == 6
    assert [CLASSES[l] for b in batches for l in b[2]] == dev.label.tolist() and {
        int(s) for b in batches for s in b[3]
    } == {UNKNOWN}


def test_an_epoch_has_each_row_once_and_whole_batches(frames):
    dls = loaders(frames, bs=10)
    n = (dls.samples.split == 'train').sum()
    for _ in range(2):
        batches = list(dls.train)
        assert len(batches) == n // 10 and {len(b[2]) for b in batches} == {10}
        assert max(Counter(o.numpy().tobytes() for b in batches for o in b[0]).values()) == 1


@pytest.mark.parametrize('balanced', [False, True])
def test_seeded(frames, balanced):
    def epochs(seed):
        set_seed(seed)
        dls = loaders(frames, balanced=balanced)
        return [b for _ in range(2) for b in dls.train]

    a = epochs(0)
    assert same(a, epochs(0)) and not same(a, epochs(1)) and not same(a[: len(a) // 2], a[len(a) // 2 :])
    dls = loaders(frames, balanced=balanced)  # as the learner reseeds each epoch
    runs = []
    for _ in range(2):
        dls.train.rng = random.Random(5)
        runs.append(list(dls.train))
    assert same(*runs)


def test_balanced(frames):
    share = lambda dl: np.mean([float(b[2].float().mean()) for _ in range(6) for b in dl])
    set_seed(0)
    plain, even = loaders(frames, flips=1), loaders(frames, flips=1, balanced=True)
    w = even.train.weights
    live = (even.samples.label[even.samples.split == 'train'] == 'live').to_numpy()
    assert len(w) == len(even.train_ds) and np.isclose(w[live].sum(), w[~live].sum()) and plain.train.weights is None
    assert share(plain.train) == pytest.approx(1 / 3, abs=0.05) and share(even.train) == pytest.approx(0.5, abs=0.1)
    assert share(even.train.new(bs=4)) == pytest.approx(0.5, abs=0.1)  # kept by new, for the same rows
    assert even.valid.weights is None and even.train.new(even.valid_ds).weights is None
    assert same(list(even.train.new(shuffle=False)), list(plain.train.new(shuffle=False)))


@pytest.mark.parametrize('flips,classes', [(1, 'live'), (2, 'live'), (3, 'both'), ('auto', 'live')])
def test_flip_arguments(frames, flips, classes):
    df = loaders(frames, flips=flips, flip_classes=classes).samples
    want = balance_flips(frames[frames.split != 'test'], flips, classes)
    assert df.flip.tolist() == want.flip.tolist() and df.path.tolist() == want.path.tolist()


def test_a_table_that_is_flipped_already(frames):
    assert len(loaders(balance_flips(frames)).samples) == len(loaders(frames).samples)


def test_augmentation_is_the_same_for_frame_and_face(frames):
    "Of one picture twice a transform makes one picture twice, and another one; validation rows stay as they are."
    twice = frames.assign(face_path=frames.frame_path)
    for tfms in (
        aug_transforms(flip_vert=True, max_warp=0.3, p_affine=1.0, p_lighting=1.0),
        Flip(p=1.0),
        [Contrast(0.6, p=1.0), Hue(p=1.0)],
        RandomResizedCropGPU(32, min_scale=0.3),
    ):
        set_seed(1)
        dls = loaders(twice, batch_tfms=tfms)
        frame, face, *_ = dls.train.one_batch()
        assert torch.equal(frame, face)
        originals = [pixels(p) for p in frames.frame_path]
        assert not all(any(close(f, o) for o in originals) for f in frame)
        if isinstance(tfms, RandomResizedCropGPU):
            continue
        valid = next(iter(dls.valid))[0]
        assert close(valid[0], pixels(frames.frame_path[frames.split == 'dev'].iloc[0]))


def test_random_erasing_is_not(frames):
    "The exception that the chapter names."
    frame, face, *_ = loaders(
        frames.assign(face_path=frames.frame_path), batch_tfms=RandomErasing(p=1.0)
    ).train.one_batch()
    assert not torch.equal(frame, face)


def test_augmentation_differs_between_items(frames):
    one = frames.assign(frame_path=frames.frame_path[0], face_path=frames.frame_path[0])
    frame, *_ = loaders(one, batch_tfms=aug_transforms(p_affine=1.0, p_lighting=1.0), flips=1).train.one_batch()
    assert len({o.numpy().tobytes() for o in frame}) == len(frame)


def test_test_dl(frames):
    "A table of the test people, in its order, with labels and without; augmentation and flips stay out."
    dls = loaders(frames, batch_tfms=aug_transforms(p_affine=1.0), balanced=True)
    test = frames[frames.split == 'test']
    for items in (test, table_rows(test)):
        dl = dls.test_dl(items, with_labels=True, bs=7)
        frame, face, label, subject = (torch.cat(o) for o in zip(*dl))
        assert (
            isinstance(dl, PairDL)
            and len(frame) == len(test)
            and [CLASSES[l] for l in label] == test.label.tolist()
            and set(subject.tolist()) == {UNKNOWN}
        )
        for a, b, r in zip(frame, face, test.itertuples()):
            assert close(a, pixels(r.frame_path)) and close(b, pixels(r.face_path))
        assert [len(b) for b in dls.test_dl(items, bs=7)] == [2] * 2
    known = dls.test_dl(frames[frames.split == 'train'], with_labels=True)
    assert [dls.vocab[s] for b in known for s in b[3]] == person_key(frames[frames.split == 'train']).tolist()
    with pytest.raises(ValueError, match='frame_path, face_path missing. Run extract_frames'):
        dls.test_dl(test.drop(columns=['frame_path', 'face_path']))


def test_get_preds_on_a_table(frames):
    "fastai's own tools: the labels that they return are the table's."

    class Mean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(1))

        def forward(self, frame, face):
            return self.w * torch.stack([frame.mean((1, 2, 3)), face.mean((1, 2, 3))], 1)

    learn = Learner(loaders(frames), Mean(), loss_func=lambda p, label, subject, reduction='mean': p.sum())
    test = frames[frames.split == 'test']
    with learn.no_bar():
        preds, (label, subject) = learn.get_preds(dl=learn.dls.test_dl(test, with_labels=True))
    want = torch.stack(
        [torch.stack([pixels(r.frame_path).mean(), pixels(r.face_path).mean()]) for r in test.itertuples()]
    )
    torch.testing.assert_close(torch.Tensor(preds), want)
    assert [CLASSES[l] for l in label] == test.label.tolist()


@pytest.mark.parametrize(
    'kw,cells',
    [
        (dict(), 8),
        (dict(max_n=3), 3),
        (dict(nrows=2, ncols=2), 4),
        (dict(ncols=2, max_n=4), 4),
        (dict(figsize=(3, 2)), 8),
        (dict(unique=True), 8),
    ],
)
def test_show_batch(frames, kw, cells):
    dls = loaders(frames)
    dls.show_batch(**kw)
    shown = [ax for ax in plt.gcf().axes if ax.images]
    assert len(shown) == cells and all(ax.images[0].get_array().shape == (32, 64, 3) for ax in shown)
    for ax in shown:
        label, subject = ax.get_title().split(', ')
        assert label in CLASSES and subject in [*dls.vocab, '?']
    if 'figsize' in kw:
        assert tuple(plt.gcf().get_size_inches()) == kw['figsize']
    if kw.get('unique'):
        assert (
            len({ax.get_title() for ax in shown}) == 1
            and len({ax.images[0].get_array().tobytes() for ax in shown}) == 1
        )


def test_show_batch_pairs_belong_together(frames):
    "What is drawn is frame and face of one row, with its labels."
    dls = loaders(frames)
    b = dls.train.one_batch()
    dls.show_batch(b, max_n=4)
    for i, ax in enumerate(plt.gcf().axes):
        drawn = torch.as_tensor(np.asarray(ax.images[0].get_array()))
        assert torch.allclose(drawn, torch.cat([b[0][i], b[1][i]], 2).permute(1, 2, 0).as_subclass(torch.Tensor))
        assert ax.get_title().startswith(CLASSES[b[2][i]])


def test_show_results_and_unlabelled(frames):
    dls = loaders(frames)
    b = dls.valid.one_batch()
    said = 1 - b[2]
    said[0] = b[2][0]  # right for the first only
    dls.valid.show_results(b, (said, torch.zeros_like(said), None), max_n=4)
    axes = plt.gcf().axes
    assert [ax.title.get_color() for ax in axes] == ['black'] + ['#CC3311'] * 3 and dls.vocab[0] in axes[0].get_title()
    dls.test_dl(frames[frames.split == 'test']).show_batch(max_n=2)
    assert [ax.get_title() for ax in plt.gcf().axes] == ['', '']


def test_pickles(frames):
    "What export needs."
    empty = pickle.loads(pickle.dumps(loaders(frames).new_empty()))
    assert isinstance(empty, DataLoaders) and empty.train.vocab == loaders(frames).vocab


def test_a_changed_file_is_read_again(frames, tmp_path):
    "Decoded pictures are kept in memory, and not longer than they are true."
    import os
    from gfa_fastai.data import LoadImage, Row

    path, load_frame = tmp_path / 'a.png', LoadImage('frame_path')

    def loaded(value, at):
        Image.new('RGB', (8, 8), (value,) * 3).save(path)
        os.utime(path, ns=(at, at))
        return load_frame(Row(frame_path=str(path), flip=''))

    first = loaded(10, 1)
    assert load_frame(Row(frame_path=str(path), flip='')) is first  # kept
    assert (
        np.asarray(load_frame(Row(frame_path=str(path), flip='v'))).max() == 10
        and load_frame(Row(frame_path=str(path), flip='')) is first
    )
    assert np.asarray(loaded(200, 2)).min() == 200 and np.asarray(first).max() == 10


def test_workers(frames):
    "Loader processes give the batches that this process gives."
    runs = []
    for n in (0, 2):
        set_seed(3)
        runs.append(list(loaders(frames, num_workers=n, balanced=True).train))
    assert same(*runs)


@pytest.mark.parametrize(
    'change,kw,message',
    [
        (lambda f: f.drop(columns=['face_path']), {}, 'face_path missing. Run extract_frames'),
        (lambda f: f.drop(columns=['subject']), {}, 'subject missing'),
        (lambda f: f[f.label == 'live'], {}, "split 'train' has no attack rows"),
        (lambda f: f[f.split != 'dev'], {}, "split 'dev' has no live rows"),
        (lambda f: f.assign(split=['dev', *f.split[1:]]), {}, 'is in dev and train'),
        (lambda f: f, dict(bs=97), 'bs is 97, but there are 32 training rows.*smaller bs, or more images'),
        (lambda f: f, dict(bs=0), 'bs is 0'),
        (lambda f: f, dict(device='x'), "device 'x' cannot be used"),
        (lambda f: f, dict(bs=2.5), 'bs is 2.5'),
        (lambda f: f, dict(bs='8'), "bs is '8'"),
        (lambda f: list(f.path), {}, 'expected a pandas DataFrame, got list'),
        (lambda f: f, dict(flips=4), 'copies is 4'),
        (lambda f: f, dict(flip_classes='x'), "classes is 'x'"),
    ],
)
def test_refused(frames, change, kw, message):
    with pytest.raises(ValueError, match=message):
        loaders(change(frames), **kw)


def test_all_rows_in_one_batch(frames):
    n = (loaders(frames).samples.split == 'train').sum()
    assert len(next(iter(loaders(frames, bs=int(n)).train))[2]) == n


def test_bytes_go_to_the_device(frames):
    "Pixels are uint8 until they are there; flips and floats are made on the device."
    dl = loaders(frames, num_workers=0).train
    batch = dl.create_batch([dl.do_item(i) for i in range(3)])
    assert [o.dtype for o in batch[:2]] == [torch.uint8] * 2 and [o.dtype for o in dl.after_batch(batch)[:2]] == [
        torch.float32
    ] * 2
    assert not dl.pin_memory  # nothing to gain on a CPU


def test_two_datasets_with_the_same_names(frames):
    "A person is a dataset and a subject."
    both = pd.concat([frames, frames.assign(dataset='other', path='other/' + frames.path)], ignore_index=True)
    dls = loaders(both, flips=1)
    assert len(dls.vocab) == 2 * frames.subject[frames.split == 'train'].nunique()
    dl = dls.train.new(shuffle=False, drop_last=False)
    subjects = torch.cat([b[3] for b in dl]).tolist()
    train = dls.samples[dls.samples.split == 'train']
    assert [dls.vocab[s] for s in subjects] == person_key(train).tolist()


@pytest.mark.parametrize('column', ['frame_path', 'face_path'])
def test_sizes_of_a_batch(frames, tmp_path, column):
    def with_images_of(side, rows):
        df = frames.copy()
        Image.new('RGB', (side, side)).save(tmp_path / f'{side}.png')
        df.loc[df.index[rows], column] = str(tmp_path / f'{side}.png')
        return df

    name = column.partition('_')[0]
    n = (frames.split == 'train').sum()
    with pytest.raises(
        ValueError,
        match=rf'{name}s of a batch have different sizes: 32x32 pixels as .*\.png; '
        r'40x40 pixels as .*40\.png\. .*one size',
    ):
        list(loaders(with_images_of(40, slice(0, 3)), bs=int(n), flips=1).train)
    with pytest.raises(
        ValueError, match=f'{name}s have 24x24 pixels as .*24.png, and the network needs 32.*larger size'
    ):
        loaders(with_images_of(24, slice(None))).one_batch()


def test_batches_are_plain_tensors(frames):
    dls = loaders(frames, batch_tfms=aug_transforms())
    for dl in (*dls, dls.test_dl(frames, with_labels=True)):
        assert {type(x) for x in dl.one_batch()} == {torch.Tensor}
