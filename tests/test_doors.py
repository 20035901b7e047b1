"""The doors, the functions that people call with things from outside: each with each kind of bad input.

A door answers with a ValueError or an OSError that says something. It does not hang, and no error from inside
gets out."""

import functools
import os

import numpy as np
import pandas as pd
import pytest
import torch

from gfa_fastai.adapt.by_name import load_adapter
from gfa_fastai.adapt.fda import FDA
from gfa_fastai.compare.baselines import make_baseline
from gfa_fastai.compare.protocols import evaluate_protocols
from gfa_fastai.compare.recognition import verify_pairs
from gfa_fastai.data import gfa_dataloaders
from gfa_fastai.divergence import feature_divergence
from gfa_fastai.evaluation import compare_systems, evaluate_scores
from gfa_fastai.inputs.batches import picture_batches
from gfa_fastai.inputs.datasets import READERS
from gfa_fastai.inputs.faces import face_finder
from gfa_fastai.inputs.frames import extract_frames
from gfa_fastai.inputs.images import read_image
from gfa_fastai.inputs.models import load_model
from gfa_fastai.inputs.tables import load_samples, load_scores, read_table
from gfa_fastai.inputs.videos import video_frames
from gfa_fastai.inputs.weights import read_weights, vgg16_trunk
from gfa_fastai.learner import gfa_learner
from gfa_fastai.model import GFACNN, new_trunk
from gfa_fastai.run.reproduce import run_settings
from gfa_fastai.samples import balance_flips, split_by_subject, validate_samples
from gfa_fastai.synth.benchmark import make_synthpad
from gfa_fastai.tpc import TPCLoss
from gfa_fastai.train.checkpoint import load_checkpoint
from gfa_fastai.use.authenticate import FaceAuthenticator

pytestmark = pytest.mark.filterwarnings('ignore')


def refused(door, value):
    "That `door(value)` ends with an error for people."
    with pytest.raises((ValueError, OSError)) as caught:
        door(value)
    words = str(caught.value)
    assert len(words) > 15, words
    assert 'object has no attribute' not in words and 'unpack' not in words, words


# --- files


def make_bad_file(kind, folder):
    "A path that is no good picture, video, model or table."
    path = folder / f'{kind}.jpg'
    if kind == 'empty':
        path.touch()
    elif kind == 'noise':
        path.write_bytes(np.random.default_rng(0).bytes(3000))
    elif kind == 'text':
        path.write_text('this is no picture\n' * 20)
    elif kind == 'folder':
        path.mkdir()
    elif kind == 'pipe':
        os.mkfifo(path)
    return path  # 'missing' is not made


FILE_DOORS = {
    'read_image': read_image,
    'video_frames': lambda path: list(video_frames(path)),
    'face_finder': face_finder,
    'picture_batches': lambda path: list(picture_batches([path, path])),
    'read_weights': read_weights,
    'vgg16_trunk': lambda path: vgg16_trunk(0.25, path),
    'load_model': load_model,
    'load_adapter': load_adapter,
    'FaceAuthenticator.load': FaceAuthenticator.load,
    'FDA.target': lambda path: FDA(path, width=0.1),
    'read_table': read_table,
    'load_samples': load_samples,
    'load_scores': load_scores,
}


@pytest.mark.parametrize('kind', ['missing', 'empty', 'noise', 'text', 'folder', 'pipe'])
@pytest.mark.parametrize('door', FILE_DOORS)
def test_files(door, kind, tmp_path):
    if door == 'read_table' and kind in ('text', 'noise'):
        pytest.skip('a text of one column is a table')
    refused(FILE_DOORS[door], make_bad_file(kind, tmp_path))


@pytest.mark.parametrize('kind', ['empty', 'noise', 'text', 'folder', 'pipe'])
def test_a_checkpoint_that_is_none_is_set_aside_or_refused(kind, tmp_path):
    path = make_bad_file(kind, tmp_path)
    try:
        assert load_checkpoint(path, {}) is None
    except (ValueError, OSError) as e:
        assert len(str(e)) > 15


# --- folders


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('kind', ['missing', 'empty', 'strange', 'a file'])
def test_folders(reader, kind, tmp_path):
    root = tmp_path / 'root'
    if kind == 'a file':
        root.touch()
    elif kind != 'missing':
        root.mkdir()
    if kind == 'strange':
        (root / 'notes').mkdir()
        (root / 'notes/readme.txt').write_text('nothing to see')
    refused(READERS[reader], root)


# --- pictures in memory

PICTURES = {
    'nothing': None,
    'number': 3,
    'flat': np.zeros((5,), np.uint8),
    'four dimensions': np.zeros((2, 4, 5, 3), np.uint8),
    'two channels': np.zeros((40, 40, 2), np.uint8),
    'tiny': np.zeros((3, 3, 3), np.uint8),
    'NaN': np.full((40, 40, 3), np.nan),
    'words': np.full((40, 40, 3), 'a'),
    'bytes': b'no picture',
}


@pytest.mark.parametrize('kind', PICTURES)
def test_pictures(kind):
    refused(read_image, PICTURES[kind])


# --- tables


def samples():
    "A good table of nine people."
    rows = []
    for split in ('train', 'dev', 'test'):
        for i in range(3):
            for label in ('live', 'attack'):
                person = f'{split}{i}'
                row = dict(dataset='d', split=split, subject=person, label=label)
                rows.append(row | dict(video=person + label, path=f'{person}{label}.png'))
    df = pd.DataFrame(rows)
    return df.assign(frame_path=df['path'], face_path=df['path'])


def scores():
    "A good table of scores."
    df = samples().assign(frame=0, pai='', score=np.linspace(0, 1, 18))
    df.loc[df['label'] == 'attack', 'pai'] = 'print'
    return df[['dataset', 'split', 'subject', 'video', 'frame', 'label', 'pai', 'score']]


BAD_TABLES = {
    'nothing': lambda df: None,
    'list': lambda df: [1, 2],
    'no rows': lambda df: df.iloc[:0],
    'no label': lambda df: df.drop(columns='label'),
    'no subject': lambda df: df.drop(columns='subject'),
    'another word for a label': lambda df: df.assign(label='real'),
    'another word for a split': lambda df: df.assign(split='validation'),
    'an empty name': lambda df: df.assign(subject=''),
    'only live': lambda df: df[df['label'] == 'live'],
}
SAMPLE_DOORS = {
    'validate_samples': validate_samples,
    'split_by_subject': split_by_subject,
    'extract_frames': lambda df: extract_frames(df, 'cache', progress=False),
    'gfa_dataloaders': functools.partial(gfa_dataloaders, bs=2, device='cpu'),
    'make_baseline': lambda df: make_baseline('Colour statistics', progress=False, workers=1).fit(df),
}
SCORE_DOORS = {
    'evaluate_scores': evaluate_scores,
    'compare_systems': lambda df: compare_systems(df, df),
    'evaluate_protocols': lambda df: evaluate_protocols({'d': df}),
}


@pytest.mark.parametrize('kind', BAD_TABLES)
@pytest.mark.parametrize('door', SAMPLE_DOORS)
def test_samples(door, kind, tmp_path, monkeypatch):
    if (door, kind) in {('validate_samples', 'only live'), ('split_by_subject', 'another word for a split')}:
        pytest.skip('fine here')
    monkeypatch.chdir(tmp_path)
    refused(SAMPLE_DOORS[door], BAD_TABLES[kind](samples()))


@pytest.mark.parametrize('kind', [*BAD_TABLES, 'NaN', 'words', 'no score'])
@pytest.mark.parametrize('door', SCORE_DOORS)
def test_scores(door, kind):
    more = {
        'NaN': lambda df: df.assign(score=np.nan),
        'words': lambda df: df.assign(score='high'),
        'no score': lambda df: df.drop(columns='score'),
    }
    refused(SCORE_DOORS[door], (BAD_TABLES | more)[kind](scores()))


def test_pairs():
    net = GFACNN(2, width=0.05, pool=1).eval()
    for table in (None, pd.DataFrame(dict(score=[1.0])), pd.DataFrame()):
        refused(functools.partial(verify_pairs, net), table)


# --- settings

SETTINGS = {
    'pairs': lambda: TPCLoss(pairs='some'),
    'scale': lambda: TPCLoss(scale=-1),
    'preset': lambda: FDA(preset='mine'),
    'width of FDA': lambda: FDA(width=-1),
    'size of FDA': lambda: FDA(size=2),
    'precision of FDA': lambda: FDA(precision='int8'),
    'copies': lambda: balance_flips(samples(), 7),
    'bs': lambda: gfa_dataloaders(samples(), bs=0, device='cpu'),
    'share': lambda: split_by_subject(samples(), test=1.5),
    'unknown people': lambda: split_by_subject(samples(), test_subjects=['nobody']),
    'dls': lambda: gfa_learner(None),
    'threshold': lambda: evaluate_scores(scores(), threshold_from='elsewhere'),
    'baseline': lambda: make_baseline('Nothing'),
    'width of a trunk': lambda: vgg16_trunk(-1, None),
    'live_threshold': lambda: FaceAuthenticator.load('small', live_threshold=-1),
    'similarity_threshold': lambda: FaceAuthenticator.load('small', similarity_threshold=3),
    'device': lambda: FaceAuthenticator.load('small', device='x'),
    'preset of a run': lambda: run_settings('fast'),
    'steps of a run': lambda: run_settings('tiny', training=dict(steps=0)),
    'a group that is not there': lambda: run_settings('tiny', training=dict(speed=3)),
    'domain': lambda: make_synthpad('nowhere', 'tiny', domains=['moon'], progress=False),
    'size of frames': lambda: extract_frames(samples(), 'cache', size=2, progress=False),
    'max_bad': lambda: run_settings('tiny', data=dict(max_bad=2)),
    'one image for a distribution': lambda: feature_divergence(
        new_trunk(0.1), torch.zeros(1, 3, 32, 32), torch.zeros(9, 3, 32, 32)
    ),
}


@pytest.mark.parametrize('name', SETTINGS)
def test_settings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(lambda _: SETTINGS[name](), None)
