"""A training step of gfa_learner against a loop written by hand: same network, same batches, same loss, same optimiser.

    python benchmarks/learner.py                        # small networks; minutes on two cores
    python benchmarks/learner.py --sizes full --steps 20

Ways are timed in turn, round after round, so that whatever else the machine does falls on all of them; the table gives
the median over rounds and the median of the ratios to the loop in the same round. The goal is 1.05 at most."""
import argparse, platform, statistics, tempfile, time, warnings
from pathlib import Path

warnings.simplefilter('ignore')
import pandas as pd, torch
from fastai.vision.all import Callback, CancelValidException, DataLoaders, to_device

from gfa_fastai.learner import GFALoss, fit_resumable, gfa_learner
from gfa_fastai.model import GFACNN

SIZES = dict(tiny=dict(px=48, width=.125, bs=16, pool=2), quick=dict(px=64, width=.25, bs=32, pool=2), full=dict(px=224, width=1., bs=32, pool=7))
N_SUBJECTS = 8

class Batches(list):
    "Batches in memory, as a DataLoader."
    n_inp, dataset = 2, ()

class NoValidation(Callback):
    def before_validate(self): raise CancelValidException()

def make_batches(px, bs, steps, device):
    g = torch.Generator().manual_seed(0)
    def one(): return (torch.rand(bs, 3, px, px, generator=g), torch.rand(bs, 3, px, px, generator=g),
                       torch.randint(2, (bs,), generator=g), torch.randint(N_SUBJECTS, (bs,), generator=g))
    few = [to_device(one(), device) for _ in range(4)]
    batches = Batches(few[i%4] for i in range(steps))
    batches.bs, batches.device = bs, device
    return batches

def sync(device):
    if device.type == 'cuda': torch.cuda.synchronize()

def by_hand(batches, device, size):
    "The loop that a PyTorch user would write, with the loss read off each step, as one does for a log."
    model, loss = network(device, size), GFALoss()
    opt, log = torch.optim.Adam(model.parameters(), lr=3e-4, fused=True), []
    model.train()
    def go():
        for frame, face, label, subject in batches:
            l = loss(model(frame, face), label, subject)
            l.backward(); opt.step(); opt.zero_grad()
            log.append(l.item())
    return go

def network(device, size):
    torch.manual_seed(0)
    model = GFACNN(N_SUBJECTS, width=size['width'], pool=size['pool']).to(device)
    model.trunk.to(memory_format=torch.channels_last)
    return model

def learner(batches, device, size, resumable):
    "The same by gfa_learner; `resumable`: by fit_resumable, with its checkpoints every 20 seconds."
    dls = DataLoaders(batches, batches); dls.vocab = list(range(N_SUBJECTS))
    learn = gfa_learner(dls, model=network(device, size), metrics=None, cbs=NoValidation())
    learn.logger = lambda *args: None
    learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
    folder = tempfile.TemporaryDirectory()
    def go():
        learn.terms.clear()
        if resumable:
            path = Path(folder.name)/'run.pt'; path.unlink(missing_ok=True)
            fit_resumable(learn, 1, path)
        else: learn.fit(1)
    return go

def measure(name, steps, rounds, device):
    "A row per way: milliseconds per step, and the ratio to the loop."
    size = SIZES[name]; batches = make_batches(size['px'], size['bs'], steps, device)
    ways = {'loop by hand': by_hand(batches, device, size), 'learn.fit': learner(batches, device, size, False), 'fit_resumable': learner(batches, device, size, True)}
    times = {k: [] for k in ways}
    for r in range(rounds+1):  # the first round warms up
        for k,go in ways.items():
            sync(device); start = time.perf_counter(); go(); sync(device)
            if r: times[k].append((time.perf_counter()-start)/steps*1e3)
    hand = times['loop by hand']
    return [dict(size=name, way=k, ms_per_step=round(statistics.median(t), 2), ratio=round(statistics.median(a/b for a,b in zip(t, hand)), 3)) for k,t in times.items()]

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sizes', nargs='+', choices=list(SIZES), default=['tiny', 'quick'], help='networks (default: %(default)s)')
    p.add_argument('--steps', type=int, default=40, help='steps a round (default: %(default)s)')
    p.add_argument('--rounds', type=int, default=7, help='rounds (default: %(default)s)')
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='default: %(default)s')
    a = p.parse_args(); device = torch.device(a.device)
    about = torch.cuda.get_device_name() if device.type == 'cuda' else f'{platform.machine()}, {torch.get_num_threads()} thread(s)'
    print(f'PyTorch {torch.__version__} on {device.type} ({about})')
    print(pd.DataFrame([row for name in a.sizes for row in measure(name, a.steps, a.rounds, device)]).to_string(index=False))
