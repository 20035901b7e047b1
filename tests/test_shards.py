"Scoring a large folder in shares: the same scores, killed shares go on, merged at one stroke; and gfa_train in two processes."

import os, subprocess, sys
from functools import partial
from pathlib import Path
import cv2, numpy as np, pandas as pd, pytest, torch
from gfa_fastai.run import cli
from gfa_fastai.run import reproduce
from gfa_fastai.model import GFACNN
from gfa_fastai.inputs.models import load_model, save_model
from gfa_fastai.run.score import cut_pieces, own_shard, score_folder

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


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(reproduce, 'cut_pieces', partial(cut_pieces, rows=10))


VIDEO = dict(video_pattern='^([ab])_')


def hidden(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith('.')]


def test_shares_are_the_whole(photos, model, tmp_path):
    whole = score_folder(model, photos, tmp_path / 'whole.csv', progress=False, **VIDEO)
    for n in (2, 3):
        out = tmp_path / f'{n}.csv'
        for k in range(n, 1, -1):
            assert (
                score_folder(model, photos, out, shard=f'{k}/{n}', progress=False, **VIDEO) is None and not out.exists()
            )
        scores = score_folder(model, photos, out, shard=f'1/{n}', progress=False, **VIDEO)
        pd.testing.assert_frame_equal(scores, whole, check_exact=True)
        assert out.read_bytes() == (tmp_path / 'whole.csv').read_bytes()
        assert scores.attrs == whole.attrs == dict(skipped=[], known=['0001', '0002'])
    assert not hidden(tmp_path), 'no piece is left behind'


def test_shares_from_the_environment(photos, model, tmp_path, monkeypatch):
    "As accelerate launch and torchrun say it."
    score_folder(model, photos, tmp_path / 'whole.csv', progress=False)
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank, there in ((0, False), (1, True)):
        monkeypatch.setenv('RANK', str(rank))
        assert own_shard() == (rank, 2)
        assert (score_folder(model, photos, tmp_path / 's.csv', progress=False) is not None) == there
    assert (tmp_path / 's.csv').read_bytes() == (tmp_path / 'whole.csv').read_bytes()


def test_two_finish_at_once(photos, model, tmp_path, monkeypatch):
    "Another process merges between this one's last piece and its own look: the scores are read, not made again."
    whole, real = score_folder(model, photos, tmp_path / 'whole.csv', progress=False), reproduce.merge_pieces

    def after_another(*args):
        real(*args)
        return real(*args)

    monkeypatch.setattr(reproduce, 'merge_pieces', after_another)
    pd.testing.assert_frame_equal(score_folder(model, photos, tmp_path / 's.csv', progress=False), whole)
    assert (tmp_path / 's.csv').read_bytes() == (tmp_path / 'whole.csv').read_bytes() and not hidden(tmp_path)


def test_killed_share_goes_on(photos, model, tmp_path, monkeypatch):
    whole, real, seen = score_folder(model, photos, tmp_path / 'whole.csv', progress=False), reproduce.score_samples, []

    def stopped(net, rows, **kw):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(rows))
        return real(net, rows, **kw)

    monkeypatch.setattr(reproduce, 'score_samples', stopped)
    with pytest.raises(KeyboardInterrupt):
        score_folder(model, photos, tmp_path / 's.csv', progress=False)
    (parts,) = tmp_path.glob('.s.csv-*.parts')
    assert sorted(p.name for p in parts.iterdir()) == ['0.json', '1.json'] and not (tmp_path / 's.csv').exists()
    again = []

    def counted(net, rows, **kw):
        again.append(len(rows))
        return real(net, rows, **kw)

    monkeypatch.setattr(reproduce, 'score_samples', counted)
    pd.testing.assert_frame_equal(
        score_folder(model, photos, tmp_path / 's.csv', progress=False), whole, check_exact=True
    )
    assert sum(again) + sum(seen) == len(whole) and seen, 'nothing is scored twice'
    assert not hidden(tmp_path)


def test_pieces_of_other_data_are_not_merged(photos, model, tmp_path):
    assert score_folder(model, photos, tmp_path / 's.csv', shard='1/2', progress=False) is None
    cv2.imwrite(str(photos / 'live' / '0000' / 'a_0.png'), np.zeros((41, 40, 3), np.uint8))
    assert score_folder(model, photos, tmp_path / 's.csv', shard='2/2', progress=False) is None
    whole = score_folder(model, photos, tmp_path / 'whole.csv', progress=False)
    pd.testing.assert_frame_equal(
        score_folder(model, photos, tmp_path / 's.csv', shard='1/2', progress=False), whole, check_exact=True
    )


def test_bad_files_count_over_all_shares(photos, model, tmp_path):
    "One of 48: too many for 1 %, fine for 5 %, however it is shared."
    (photos / 'live' / '0003' / 'a_1.png').write_bytes(b'no picture')
    for kw in ({}, dict(shard='1/1')):
        with pytest.raises(ValueError, match='1 of 48 files cannot be used'):
            score_folder(model, photos, tmp_path / 's.csv', progress=False, **kw)
    whole = score_folder(model, photos, tmp_path / 'whole.csv', max_bad=0.05, progress=False)
    assert len(whole) == 47 and len(whole.attrs['skipped']) == 1
    score_folder(model, photos, tmp_path / 's.csv', max_bad=0.05, shard='1/2', progress=False)
    got = score_folder(model, photos, tmp_path / 's.csv', max_bad=0.05, shard='2/2', progress=False)
    assert got.equals(whole) and got.attrs == whole.attrs


def test_pieces_hold_whole_recordings():
    rng = np.random.default_rng(0)
    df = pd.DataFrame(
        dict(
            dataset='d',
            split='test',
            subject='s',
            video=rng.integers(0, 40, 500).astype(str),
            path=[str(i) for i in range(500)],
        )
    )
    for rows in (1, 7, 100, 499, 500, 1000):
        pieces = cut_pieces(df, rows)
        assert sorted(p for piece in pieces for p in piece['path']) == sorted(df['path'])
        assert (
            all(len(p) for p in pieces)
            and max(len([p for p in pieces if v in set(p['video'])]) for v in df['video'].unique()) == 1
        )


def test_command(photos, model, tmp_path, capsys):
    args = [str(a) for a in (model, photos, '--out', tmp_path / 's.csv')]
    assert cli.gfa_score([*args, '--shard', '1/2']) == 0 and 'as soon as the others are done' in capsys.readouterr().out
    assert cli.gfa_score([*args, '--shard', '2/2']) == 0 and '48 images of 6 people' in capsys.readouterr().out
    assert (
        cli.gfa_score([*args, '--shard', '3/2']) == 2
        and "shard '3/2' is no share: give 1/4, 2/4" in capsys.readouterr().err
    )


def test_an_arm_leaves_nothing_in_memory(tmp_path):
    "A Learner refers to itself: without a collection the weights and Adam's means of all arms would lie on a GPU together."
    import gc
    from gfa_fastai.learner import GFALearner
    from pictures import picture_table

    settings = reproduce.run_settings('tiny', steps=2, fda=False) | dict(bs=4, size=32, train=['d'], domains=['d'])
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
