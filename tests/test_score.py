"""Scoring a folder: a killed job goes on, other pictures are not mixed in, bad files are counted; and gfa_train in
two processes."""

import os, subprocess, sys
from pathlib import Path
import cv2, numpy as np, pandas as pd, pytest, torch
from gfa_fastai.model import GFACNN
from gfa_fastai.inputs.models import load_model, save_model
from gfa_fastai.run import cli, reproduce, score
from gfa_fastai.run.score import score_folder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def photos(tmp_path):
    "Six people, four live and four attack pictures each; two files a recording."
    rng = np.random.default_rng(0)
    for person in range(6):
        for label in ('live', 'spoof'):
            for i in range(4):
                path = tmp_path / 'photos' / label / f'{person:04d}' / f'{"ab"[i // 2]}_{i}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(
                    str(path), rng.integers(0, 160, (40, 40, 3), dtype=np.uint8) + np.uint8(80 * (label == 'live'))
                )
    return tmp_path / 'photos'


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    return save_model(
        GFACNN(3, width=0.125, fc_dim=8, pool=1),
        tmp_path / 'model.safetensors',
        size=32,
        margin=0.3,
        people=['0001', '0002', 'x'],
    )


def hidden(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith('.')]


def test_blocks_do_not_show(photos, model, tmp_path):
    whole = score_folder(model, photos, tmp_path / 'whole.csv', progress=False)
    blocks = score_folder(model, photos, tmp_path / 'blocks.csv', progress=False, rows=10)
    pd.testing.assert_frame_equal(blocks, whole)
    assert len(whole) == 48 and set(whole.loc[whole['in_training'], 'subject']) == {'0001', '0002'}
    assert 'in_training' in (tmp_path / 'whole.csv').read_text().splitlines()[0] and not hidden(tmp_path)


def test_killed_job_goes_on(photos, model, tmp_path, monkeypatch):
    whole, real, seen = score_folder(model, photos, tmp_path / 'whole.csv', progress=False), score.score_samples, []

    def stopped(net, rows, **kw):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(rows))
        return real(net, rows, **kw)

    monkeypatch.setattr(score, 'score_samples', stopped)
    with pytest.raises(KeyboardInterrupt):
        score_folder(model, photos, tmp_path / 's.csv', progress=False, rows=10)
    assert not (tmp_path / 's.csv').exists() and len(hidden(tmp_path)) == 1
    again = []

    def counted(net, rows, **kw):
        again.append(len(rows))
        return real(net, rows, **kw)

    monkeypatch.setattr(score, 'score_samples', counted)
    scores = score_folder(model, photos, tmp_path / 's.csv', progress=False, rows=10)
    pd.testing.assert_frame_equal(scores, whole)
    assert sum(again) + sum(seen) == len(whole) and not hidden(tmp_path), 'nothing is scored twice'


def test_blocks_of_other_pictures_are_not_used(photos, model, tmp_path, monkeypatch):
    real = score.score_samples
    monkeypatch.setattr(score, 'validate_scores', lambda df: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # all blocks are there, and the job is stopped before it puts them together
        score_folder(model, photos, tmp_path / 's.csv', progress=False)
    monkeypatch.undo()
    assert len(hidden(tmp_path)) == 1 and score.score_samples is real
    cv2.imwrite(str(photos / 'live' / '0000' / 'a_0.png'), np.zeros((41, 40, 3), np.uint8))
    whole = score_folder(model, photos, tmp_path / 'whole.csv', progress=False)
    pd.testing.assert_frame_equal(score_folder(model, photos, tmp_path / 's.csv', progress=False), whole)


def test_bad_files_are_counted(photos, model, tmp_path):
    "One of 48: too many for 1 %, fine for 5 %."
    (photos / 'live' / '0003' / 'a_1.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='1 of 48 images cannot be used'):
        score_folder(model, photos, tmp_path / 's.csv', progress=False)
    scores = score_folder(model, photos, tmp_path / 's.csv', max_bad=0.05, progress=False)
    assert len(scores) == 47 and len(scores.attrs['skipped']) == 1


def test_faces_are_not_looked_for_by_a_network_of_whole_frames(photos, model, tmp_path, monkeypatch):
    from gfa_fastai.inputs import faces

    def no_detector(path):
        raise AssertionError('a face was looked for')

    monkeypatch.setattr(faces, '_detector', no_detector)
    assert len(score_folder(model, photos, tmp_path / 'scores.csv', progress=False)) == 48


def test_command(photos, model, tmp_path, capsys):
    args = [str(a) for a in (model, photos, '--out', tmp_path / 's.csv')]
    assert cli.gfa_score(args) == 0
    said = capsys.readouterr().out
    assert (
        '48 images of 6 people' in said
        and '2 of the test people have the name of somebody' in said
        and '0001, 0002' in said
    )


def test_an_arm_leaves_nothing_in_memory(tmp_path):
    """A Learner refers to itself: without a collection the weights and Adam's means of all arms would lie on a GPU
    together."""
    import gc
    from gfa_fastai.learner import GFALearner
    from pictures import picture_table

    settings = reproduce.run_settings('tiny', training=dict(steps=2, bs=4), adaptation=False)
    settings['data'] |= dict(size=32, train=['d'], domains=['d'])
    frames = picture_table(tmp_path)
    for arm in reproduce.list_arms(frames, settings):
        reproduce.run_arm(arm, frames, tmp_path, settings)
    assert sum(isinstance(o, GFALearner) for o in gc.get_objects()) == 0


def test_reproduce_is_one_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert cli.gfa_reproduce(['--preset', 'tiny', '--out', str(tmp_path / 'run')]) == 2
    assert 'start it without accelerate launch' in capsys.readouterr().err and not (tmp_path / 'run').exists()


def launch(*args):
    script = "import sys; from gfa_fastai.run.cli import gfa_train; sys.exit(gfa_train())"
    (file := Path(args[1]) / 'start.py').write_text(script)
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    run = [
        '-m',
        'accelerate.commands.launch',
        '--multi_gpu',
        '--num_processes',
        '2',
        '--num_machines',
        '1',
        '--mixed_precision',
        'no',
        '--dynamo_backend',
        'no',
        '--main_process_port',
        '0',
    ]
    return subprocess.run(
        [sys.executable, *run, str(file), *map(str, args[0])], env=env, capture_output=True, text=True
    )


def test_train_in_two_processes(photos, tmp_path):
    pytest.importorskip('accelerate')
    done = launch(
        [
            photos,
            '--out',
            tmp_path / 'm',
            '--preset',
            'tiny',
            '--steps',
            4,
            '--bs',
            4,
            '--test-subjects',
            '0000',
            '--dev-subjects',
            '0001',
        ],
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('model:') == 1, 'one of them speaks'
    net, meta = load_model(tmp_path / 'm' / 'model.safetensors')
    terms = pd.read_csv(tmp_path / 'm' / 'terms.csv')
    assert (
        meta['processes'] == 2
        and meta['steps'] == len(terms) >= 4
        and set(meta['thresholds']) == {'live', 'similarity'}
    )
    assert len(pd.read_csv(tmp_path / 'm' / 'scores.csv')) == 16 and not (tmp_path / 'm' / 'checkpoint.pt').exists()


def test_wrong_settings_are_said_once(tmp_path):
    pytest.importorskip('accelerate')
    done = launch([tmp_path / 'nothing', '--out', tmp_path / 'm'], tmp_path)
    assert done.returncode != 0 and done.stderr.count('no folder at') == 1, done.stderr[-3000:]
