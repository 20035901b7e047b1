"Training in two processes on the CPU (gloo): the same as in one with the doubled batch; checkpoints, errors."

import os, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from gfa_fastai.train.distributed import share_dl, share_rows

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip('accelerate')
if not torch.distributed.is_available():
    pytest.skip('this PyTorch has no torch.distributed', allow_module_level=True)


def table(folder, people=6, size=32):
    "A training set of noise with the class in its brightness: a samples table with its pictures."
    rng, rows = np.random.default_rng(0), []
    for p in range(people):
        for label in ('live', 'attack'):
            for k in range(4 if p < 4 else 3):  # 12 development rows: no multiple of two batches of 8
                path = str(folder / f'{p}_{label}_{k}.png')
                Image.fromarray(
                    (rng.integers(0, 160, (size, size, 3)) + (90 if label == 'live' else 0)).astype(np.uint8)
                ).save(path)
                rows.append(
                    dict(
                        dataset='noise',
                        split='train' if p < 4 else 'dev',
                        subject=f'p{p}',
                        label=label,
                        pai='' if label == 'live' else 'print',
                        video=f'{p}_{label}_{k}',
                        frame=0,
                        path=path,
                        role='probe',
                        frame_path=path,
                        face_path=path,
                    )
                )
    return pd.DataFrame(rows)


JOB = '''
import sys, types
import numpy as np, pandas as pd, torch
from fastai.callback.core import Callback
from gfa_fastai.data import gfa_dataloaders
from gfa_fastai.train.distributed import gather_rows, on_first, start_processes
from gfa_fastai.train.checkpoint import fit_resumable
from functools import partial
from gfa_fastai.learner import GFALoss, gfa_learner, terms_table
from gfa_fastai.model import GFACNN
from gfa_fastai.tpc import tpc_loss

folder, n = sys.argv[1], int(sys.argv[2])
several = start_processes()
rank = torch.distributed.get_rank() if several else 0
out = dict(several=several)

# the gradient of TPC through a linear map, a part of the rows in each process; averaged as DDP does
g = torch.Generator().manual_seed(0)
x, w = torch.randn(8, 6, generator=g), torch.randn(6, 5, generator=g, requires_grad=True)
def gradient(gather):
    w.grad = None
    own = x.chunk(n)[rank] @ w
    tpc_loss(gather(own)).backward()
    if several: torch.distributed.all_reduce(w.grad); w.grad /= n
    return w.grad.clone()
out['gathered'], out['apart'] = gradient(gather_rows), gradient(lambda o: o)

def learner(dropout):
    dls = gfa_dataloaders(pd.read_pickle(f'{folder}/table.pkl'), bs=8//n, device='cpu')
    small = partial(GFACNN, width=.125, fc_dim=16, pool=1, dropout=dropout)
    return gfa_learner(dls, small, GFALoss(lambda_tpc=1e-3), seed=3)

def fitted(gather_tpc=True, resumable=None, epochs=2, stop=None, dropout=0.):
    learn = learner(dropout)
    if stop is not None:
        left = iter(range(stop))
        def after_step(cb):
            if next(left, None) is None: raise KeyboardInterrupt
        learn.add_cb(Callback(after_step=after_step))
    with learn.distrib_ctx(gather_tpc=gather_tpc), learn.no_bar(), learn.no_logging():
        if resumable:
            try: rows = fit_resumable(learn, epochs, f'{folder}/{resumable}', seed=5, every=0)
            except KeyboardInterrupt: return None
        else: learn.fit(epochs); rows = list(learn.recorder.values)
        preds, targets = learn.get_preds()
    assert learn.processes == 1 and learn.rank == 0 and not hasattr(learn.model, 'module')
    assert type(learn.dls.train).__name__ == 'PairDL'
    out = dict(terms=terms_table(learn), epochs=rows, scores=preds[0], labels=targets[0])
    return dict(out, weights=learn.model.state_dict(), steps=learn.halve_lr.steps)

out['plain'] = fitted()
out['own'] = fitted(gather_tpc=False)
out['whole'] = fitted(resumable=f'whole{n}.pt', dropout=.5)
for stop in (5, 0): fitted(resumable=f'killed{n}.pt', dropout=.5, stop=stop)
out['resumed'] = fitted(resumable=f'killed{n}.pt', dropout=.5)
out['carried on'] = fitted(resumable='carried.pt', epochs=1 if several else 2)    # begun by two, ended by one
out['first'] = on_first(lambda: rank)
ranks = gather_rows(torch.tensor([[float(rank)]]))
on_first(pd.to_pickle, dict(out, ranks=ranks), f'{folder}/{n}.pkl')
if several:
    def fails(): raise ValueError('no such folder')
    try: on_first(fails)
    except ValueError as e: assert rank == 0; print('the first says:', e)
    except SystemExit as e: assert rank == 1 and e.code == 2; print('the other leaves with', e.code)
'''


def launch(script, *args, processes=1, command=()):
    env = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]),
        'OMP_NUM_THREADS': '1',
        'PYTHONWARNINGS': 'ignore',
    }
    if torch.cuda.device_count() < processes:  # two cannot share a GPU
        env['CUDA_VISIBLE_DEVICES'] = ''
    run = (
        [*command]
        if command
        else (
            ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(processes)] if processes > 1 else []
        )
    )
    return subprocess.run([sys.executable, *run, str(script), *map(str, args)], env=env, capture_output=True, text=True)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "What two processes and one made of the same job."
    folder = tmp_path_factory.mktemp('two')
    table(folder).to_pickle(folder / 'table.pkl')
    (folder / 'job.py').write_text(JOB)
    said = {}
    for n in (2, 1):
        done = launch(folder / 'job.py', folder, n, processes=n)
        assert done.returncode == 0, done.stderr[-3000:]
        said[n] = done.stdout
    return pd.read_pickle(folder / '1.pkl'), pd.read_pickle(folder / '2.pkl'), said, folder


def test_there_were_two(runs):
    one, two, said, _ = runs
    assert not one['several'] and two['several'] and two['ranks'].flatten().tolist() == [0, 1]


def test_gradient_of_gathered_tpc_is_that_of_one_process(runs):
    one, two, *_ = runs
    assert torch.allclose(one['gathered'], two['gathered'], rtol=1e-5)
    assert not torch.allclose(one['apart'], two['apart'], rtol=0.1), 'TPC inside each process is another loss'


@pytest.mark.parametrize('column', ['anti', 'ident', 'tpc', 'fc2_std', 'id_accuracy', 'lr'])
def test_same_losses_as_one_process_with_the_doubled_batch(runs, column):
    one, two = (r['plain']['terms'][column] for r in runs[:2])
    assert len(one) == len(two) > 4
    np.testing.assert_allclose(two, one, rtol=2e-4, atol=1e-6)


def test_same_weights_metrics_and_predictions(runs):
    one, two = (r['plain'] for r in runs[:2])
    for k, v in one['weights'].items():
        assert torch.allclose(v, two['weights'][k], atol=1e-4), k
    assert one['steps'] == two['steps'] == len(one['terms'])
    np.testing.assert_allclose(
        np.array(two['epochs'], float), np.array(one['epochs'], float), rtol=1e-4
    )  # losses, accuracy, and the EER of all scores
    assert len(two['scores']) == 12 and torch.allclose(
        one['scores'], two['scores'], atol=1e-4
    )  # no row twice, none missing, in order
    assert torch.equal(one['labels'], two['labels'])


def test_tpc_of_each_process_is_another_training(runs):
    one, two = (r['own'] for r in runs[:2])
    assert not np.allclose(one['terms']['tpc'], two['terms']['tpc'], rtol=0.05)
    assert (
        two['terms']['tpc'][:1] < 0.7 * one['terms']['tpc'][:1]
    ).all()  # fewer pairs: 12 of 56, in the mean of two processes
    np.testing.assert_allclose(
        two['terms']['anti'][0], one['terms']['anti'][0], rtol=1e-5
    )  # the others are means: as before, in the first step


@pytest.mark.parametrize('processes', [0, 1])
def test_killed_and_resumed_ends_in_the_same_bits(runs, processes):
    r = runs[processes]
    for k, v in r['whole']['weights'].items():
        assert torch.equal(v, r['resumed']['weights'][k]), k
    assert r['whole']['terms'].equals(r['resumed']['terms']) and r['whole']['epochs'] == r['resumed']['epochs']


def test_one_process_goes_on_with_what_two_began(runs):
    one, two = runs[:2]
    a, b = one['carried on'], two['carried on']
    assert len(a['terms']) == 2 * len(b['terms'])
    np.testing.assert_allclose(a['terms'][: len(b['terms'])], b['terms'], rtol=1e-6)
    assert not list(runs[3].glob('.part-*'))


def test_what_the_first_does_the_others_get(runs):
    _, two, said, _ = runs
    assert two['first'] == 0
    assert 'the first says: no such folder' in said[2] and 'the other leaves with 2' in said[2]


# --- shares, in this process


@pytest.mark.parametrize('n', [1, 5, 16, 17, 31, 32, 33])
@pytest.mark.parametrize('bs,processes', [(1, 2), (4, 2), (3, 5)])
def test_shares_make_the_batches_of_one_process(n, bs, processes):
    rows, whole = list(range(n)), bs * processes
    for drop_last in (True, False):
        shares = [share_rows(rows, bs, processes, r, drop_last) for r in range(processes)]
        assert len({len(s) for s in shares}) == 1, 'all have as many'
        cut = [[s[i : i + bs] for i in range(0, len(s), bs)] for s in shares]
        gathered = [sum(parts, []) for parts in zip(*cut)]
        want = [rows[i : i + whole] for i in range(0, n, whole)]
        if drop_last:
            want = [b for b in want if len(b) == whole]
        assert [g[: len(w)] for g, w in zip(gathered, want)] == want and len(gathered) == len(want)
        assert all(set(g[len(w) :]) <= {w[-1]} for g, w in zip(gathered, want))


def test_share_of_too_few_rows(tmp_path):
    from gfa_fastai.data import gfa_dataloaders

    dls = gfa_dataloaders(table(tmp_path), bs=8, device='cpu')
    with pytest.raises(ValueError, match='bs is 8 on each of 50 processes, 400 rows for a step.*Use a smaller bs'):
        share_dl(dls.train, 50, 0)
    share = share_dl(dls.train, 2, 1)
    assert share_dl(share, 2, 1) is share and len(share) == len(dls.train) // 2


# --- errors that help


def python(code, **env):
    return subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONWARNINGS': 'ignore', **env},
        capture_output=True,
        text=True,
    )


def test_without_accelerate():
    "The module imports; several processes without the package are an error that says what to install."
    code = (
        "import sys; sys.modules['accelerate'] = None\n"
        "from gfa_fastai.train.distributed import start_processes\nassert not start_processes()\n"
        "import os; os.environ.update(WORLD_SIZE='2', RANK='0')\nstart_processes()"
    )
    done = python(code)
    assert (
        "ImportError: training in several processes needs the package accelerate: pip install accelerate" in done.stderr
    )


def test_precision_of_accelerate_is_refused(monkeypatch):
    from gfa_fastai.train.distributed import start_processes

    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'fp16')
    with pytest.raises(ValueError, match="--mixed_precision no.*precision='fp16'"):
        start_processes()


def test_more_processes_than_gpus_are_refused(monkeypatch):
    from gfa_fastai.train.distributed import start_processes

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    for name in ('WORLD_SIZE', 'LOCAL_WORLD_SIZE'):
        monkeypatch.setenv(name, '2')
    with pytest.raises(ValueError, match=r'2 processes and 1 GPU\(s\).*--num_processes 1.*CUDA_VISIBLE_DEVICES='):
        start_processes()


def test_fastais_own_context_is_refused(tmp_path):
    from gfa_fastai.data import gfa_dataloaders
    from fastai.vision.all import Callback
    from functools import partial
    from gfa_fastai.learner import gfa_learner
    from gfa_fastai.model import GFACNN
    from gfa_fastai.train.guards import guarded

    class DistributedTrainer(Callback):
        pass

    dls = gfa_dataloaders(table(tmp_path), bs=8, device='cpu')
    learn = guarded(gfa_learner(dls, partial(GFACNN, width=0.125, fc_dim=8, pool=1), cbs=DistributedTrainer()))
    with pytest.raises(ValueError, match='import gfa_fastai.train.distributed'):
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)
