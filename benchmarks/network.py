"""Rows `trunk`, `step`, `data`, `optimiser`, `recompute` and `divergence`: the two-headed network, and what is
around its step.

Networks: with --quick a slim one at 48 pixels, on a CPU that of the quick reproduction (a quarter of the width,
64 pixels), on a GPU the paper's (width 1, 224 pixels). Batches of 32 pairs of frame and face. `step`: same
network, same batches, same loss, same optimiser, by a loop as one writes it by hand, with the loss read off
each step; goal: the learner takes 1.05 of it at most."""

import statistics
import tempfile
from pathlib import Path

import torch
from fastai.vision.all import Adam, Callback, CancelValidException, DataLoaders, to_device

from benchmarks.measure import against, clock, line, turns
from gfa_fastai.learner import GFALoss, gfa_learner, tf_adam
from gfa_fastai.train.checkpoint import fit_resumable
from gfa_fastai.train.guards import guarded
from gfa_fastai.model import GFACNN, run_head
from gfa_fastai.train.memory import training_memory

SIZES = dict(
    tiny=dict(px=48, width=0.125, bs=16, pool=2),
    quick=dict(px=64, width=0.25, bs=32, pool=2),
    full=dict(px=224, width=1.0, bs=32, pool=7),
)
N_SUBJECTS = 8


def size_of(a):
    return 'tiny' if a.quick else 'full' if a.device == 'cuda' else 'quick'


def case_of(name):
    s = SIZES[name]
    return f'{s["bs"]} pairs, {s["px"]} px, width {s["width"]:g}'


def waiting(a):
    return torch.cuda.synchronize if a.device == 'cuda' else lambda: None


class Batches(list):
    "Batches in memory, as a DataLoader."

    n_inp, dataset = 2, ()


class NoValidation(Callback):
    def before_validate(self):
        raise CancelValidException()


def make_batches(px, bs, steps, device, **_):
    "So many batches of noise."
    g = torch.Generator().manual_seed(0)

    def one():
        return (
            torch.rand(bs, 3, px, px, generator=g),
            torch.rand(bs, 3, px, px, generator=g),
            torch.randint(2, (bs,), generator=g),
            torch.randint(N_SUBJECTS, (bs,), generator=g),
        )

    few = [to_device(one(), device) for _ in range(4)]
    batches = Batches(few[i % 4] for i in range(steps))
    batches.bs, batches.device = bs, torch.device(device)
    return batches


def network(device, size):
    torch.manual_seed(0)
    model = GFACNN(N_SUBJECTS, width=size['width'], pool=size['pool']).to(device)
    model.trunk.to(memory_format=torch.channels_last)
    return model


def by_hand(batches, device, size, half=False, opt=None):
    "The loop that a PyTorch user would write, with the loss read off each step, as one does for a log."
    model, loss = network(device, size), GFALoss()
    opt, log = (opt or (lambda p: torch.optim.Adam(p, lr=3e-4, fused=True)))(model.parameters()), []
    model.train()

    def go():
        for frame, face, label, subject in batches:
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
                out = model(frame, face)
            l = loss(out, label, subject)
            l.backward()
            opt.step()
            opt.zero_grad()
            log.append(l.item())

    return go


def learner(dls, device, size, resumable=False, **kw):
    "The same by gfa_learner, guarded; `resumable`: by fit_resumable, with its checkpoints every 20 seconds."
    learn = guarded(gfa_learner(dls, network(device, size), metrics=None, cbs=NoValidation()), **kw)
    learn.logger = lambda *args: None
    learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
    folder = tempfile.TemporaryDirectory()

    def go():
        learn.terms.clear()
        if not resumable:
            return learn.fit(1)
        path = Path(folder.name) / 'run.pt'
        path.unlink(missing_ok=True)
        fit_resumable(learn, 1, path)

    return go


def loaders(batches):
    dls = DataLoaders(batches, batches)
    dls.vocab = list(range(N_SUBJECTS))
    return dls


def step(a):
    "The row of the report: milliseconds per step."
    name, steps = size_of(a), 4 if a.quick else 6
    size = SIZES[name]
    batches = make_batches(**size, steps=steps, device=a.device)

    def new(**kw):
        return learner(loaders(batches), a.device, size, **kw)

    ways = {
        'loop by hand': by_hand(batches, a.device, size),
        'learn.fit': new(),
        'fit_resumable': new(resumable=True),
        'loop by hand, bf16': by_hand(batches, a.device, size, half=True),
        'learn.fit, bf16': new(precision='bf16'),
    }
    seen = turns(ways, a.rounds, clock(a.device, a.threads), waiting(a))
    lines = [line('step', case_of(name), k, seen[k], per=steps) for k in ways if 'hand' in k]
    goals = [
        ('learn.fit', 'loop by hand', 1 / 1.05),
        ('fit_resumable', 'loop by hand', 1 / 1.05),
        ('learn.fit, bf16', 'loop by hand, bf16', 1 / 1.05),
        ('learn.fit, bf16', 'loop by hand', None),
    ]
    return lines + [
        line('step', case_of(name), k, seen[k], anchor, seen[anchor], g, per=steps) for k, anchor, g in goals
    ]


def trunk(a):
    "The row of the report: forward and backward; goal: never slower."
    name = size_of(a)
    size = SIZES[name]
    model, (frame, face, *_) = network(a.device, size), make_batches(**size, steps=1, device=a.device)[0]

    def two():
        return run_head(model.spoof_head, model.features(frame))[0], run_head(model.id_head, model.features(face))[0]

    def go(f):
        def run():
            model.zero_grad()
            sum(o.square().sum() for o in f()).backward()

        return run

    seen = turns(
        {'two passes': go(two), 'one pass': go(lambda: model(frame, face)[:2])},
        a.rounds,
        clock(a.device, a.threads),
        waiting(a),
    )
    return against(
        'trunk',
        case_of(name),
        seen,
        'one pass',
        {'two passes': 0.98},
        note='(goal: within noise)' if a.device == 'cpu' else '',
    )


def optimiser(a):
    "The row of the report: one step of Adam over all parameters."
    size = dict(SIZES['tiny' if a.quick else 'full' if a.device == 'cuda' else 'quick'], pool=2 if a.quick else 7)

    def new(make):
        model = network(a.device, size)
        for p in model.parameters():
            p.grad = torch.full_like(p, 1e-3)
        opt = make([p for p in model.parameters()])
        return opt.step

    seen = turns(
        {
            "fastai's Adam": new(lambda p: Adam(p, lr=3e-4)),
            "torch's Adam": new(lambda p: torch.optim.Adam(p, lr=3e-4)),
            'fused, as in gfa_learner': new(lambda p: tf_adam(p)),
        },
        a.rounds,
        clock(a.device, a.threads),
        waiting(a),
    )
    n = sum(p.numel() for p in network('cpu', size).parameters()) / 1e6 if a.device == 'cpu' else 254
    return against(
        'optimiser',
        f'{n:.0f} M parameters',
        seen,
        'fused, as in gfa_learner',
        {"fastai's Adam": 1.0, "torch's Adam": None},
    )


def recompute(a):
    "The row of the report: a step with and without gradient checkpointing, and what it needs at full width."
    name = size_of(a)
    size = SIZES[name]
    batches = make_batches(**size, steps=2, device=a.device)
    ways = {
        k: learner(loaders(batches), a.device, size, recompute=v)
        for k, v in (('keeping all', False), ('recomputing blocks', True))
    }
    seen, peak = turns(ways, a.rounds, clock(a.device, a.threads), waiting(a)), {}
    if a.device == 'cuda':
        for k, go in ways.items():
            torch.cuda.reset_peak_memory_stats()
            go()
            peak[k] = f'{torch.cuda.max_memory_allocated() / 1e9:.1f} GB at the peak; '

    def note(k):
        return (
            peak.get(k, '')
            + ', '.join(
                f'{8 * n} bits {training_memory(32, number_bytes=n, recompute="re" in k)["total"]:.1f} GB'
                for n in (4, 2)
            )
            + ' counted for 32 pairs at 224 px, width 1'
        )

    lines = against('recompute', case_of(name), seen, 'recomputing blocks', {'keeping all': None}, per=2)
    for l in lines:
        l['note'] = note(l['what'])
    return lines


def data(a):
    "The row of the report: a step of the learner from batches in memory, and from files."
    from gfa_fastai.data import gfa_dataloaders

    name = size_of(a)
    size, steps = SIZES[name], 4
    with tempfile.TemporaryDirectory() as tmp:
        frames = noise_files(Path(tmp), size['bs'] * steps, size['px'])
        files = gfa_dataloaders(frames, bs=size['bs'], flips=1, device=a.device)
        memory = Batches(b for b in files.train)
        memory.bs, memory.device = size['bs'], torch.device(a.device)
        batches = loaders(memory)
        batches.vocab = files.vocab
        ways, n = {}, len(files.vocab)
        for k, dls in (('in memory', batches), ('from files', files)):
            model = GFACNN(n, width=size['width'], pool=size['pool'])
            learn = gfa_learner(dls, model=model, metrics=None, cbs=NoValidation())
            learn.logger = lambda *args: None
            learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
            ways[k] = lambda learn=learn: learn.fit(1)
        ways['loading alone'] = lambda: [None for _ in files.train]
        seen = turns(ways, a.rounds, clock(a.device, a.threads), waiting(a))
    share = statistics.median(x / y for x, y in zip(seen['loading alone'], seen['from files']))
    return against(
        'data',
        case_of(name),
        seen,
        'from files',
        {'in memory': None},
        per=steps,
        note=f'loading is {100 * share:.0f} % of the step, in the process that trains',
    )


def noise_files(folder, n, px):
    "A samples table of pictures of noise: training and development rows."
    import numpy as np, pandas as pd
    from PIL import Image

    rng, rows = np.random.default_rng(0), []
    for i in range(n + 8):
        path = folder / f'{i}.png'
        Image.fromarray(rng.integers(0, 256, (px, px, 3), dtype=np.uint8)).save(path)
        label, split = ('live', 'attack')[i // 2 % 2], 'train' if i < n else 'dev'
        rows.append(
            dict(
                dataset='noise',
                split=split,
                subject=f'{split}{i % N_SUBJECTS}',
                label=label,
                pai='' if label == 'live' else 'print',
                video=str(i),
                frame=0,
                role='probe',
                path=str(path),
                frame_path=str(path),
                face_path=str(path),
            )
        )
    return pd.DataFrame(rows)


def divergence(a):
    "The row of the report: channel statistics of all 13 layers, in one streaming pass, and in a pass for each."
    from gfa_fastai.divergence import channel_stats
    from gfa_fastai.model import LAYER_NAMES
    from gfa_fastai.inputs.weights import vgg16_trunk

    n, px = (16, 32) if a.quick else (64, 64)
    net, x = vgg16_trunk(0.25).to(a.device).eval(), torch.rand(n, 3, px, px)
    layers = [k for k in LAYER_NAMES if k.startswith('relu')]
    seen = turns(
        {
            'a pass for each layer': lambda: [channel_stats(net, x, layers=[l]) for l in layers],
            'one pass': lambda: channel_stats(net, x, layers=layers),
        },
        a.rounds,
        clock(a.device, a.threads),
        waiting(a),
    )
    return against('divergence', f'{n} images of {px} px, width 0.25', seen, 'one pass', {'a pass for each layer': 1.0})


KINDS = dict(
    convolution=('convolution',),
    matrix=('mm',),
    pooling=('pool',),
    ReLU=('relu', 'threshold', 'clamp_min'),
    copies=('copy_', 'cat', 'fill_', 'zero_'),
)


def profile(step):
    "Milliseconds of a call by kind of operation."
    from torch.profiler import ProfilerActivity, profile as record

    with record(activities=[ProfilerActivity.CPU]) as p:
        step()
    out = dict.fromkeys([*KINDS, 'the rest'], 0.0)
    for e in p.key_averages():
        out[next((k for k, parts in KINDS.items() if any(part in e.key for part in parts)), 'the rest')] += (
            e.self_cpu_time_total / 1e3
        )
    return out


def one_step(batch, device, size, tpc=False, one=False, fused=False, last=False, half=False):
    "A training step as a first draft has it, or with some of the changes."
    from benchmarks.tpc import loop

    torch.manual_seed(0)
    model = GFACNN(N_SUBJECTS, width=size['width'], pool=size['pool']).to(device).train()
    if last:
        model.trunk.to(memory_format=torch.channels_last)
    opt, loss = torch.optim.Adam(model.parameters(), lr=3e-4, fused=fused), GFALoss(tpc=tpc)
    frame, face, label, subject = batch

    def forward():
        if one:
            return model(frame, face)
        spoof, fc2 = run_head(model.spoof_head, model.features(frame))
        return spoof, run_head(model.id_head, model.features(face))[0], fc2

    def step():
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
            out = forward()
        l = loss(out, label, subject)
        if not tpc:
            l = l + 2.5e-5 * loop(out[2])
        l.backward()
        opt.step()
        opt.zero_grad()

    return step


def ladder(a):
    """The row of the report: from a first draft to the learner's step, one change at a time; `times` the draft, and
    where the time goes at both ends."""
    name = size_of(a)
    size = SIZES[name]
    batch, on = make_batches(**size, steps=1, device=a.device)[0], {}
    ways = {'first draft': one_step(batch, a.device, size)}
    for k, what in dict(
        tpc='TPC in closed form', one='one trunk pass', fused='fused Adam', last='channels-last', half='bf16'
    ).items():
        on[k] = True
        ways[what] = one_step(batch, a.device, size, **on)
    seen = turns(ways, a.rounds, clock(a.device, a.threads), waiting(a))
    lines = [
        line('ladder', case_of(name), k, s, None if k == 'first draft' else 'first draft', seen['first draft'])
        for k, s in seen.items()
    ]
    for k in ('first draft', 'bf16'):
        parts = profile(ways[k])
        lines += [line('ladder', f'profile of {k}', kind, [ms / 1e3]) for kind, ms in parts.items()]
    return lines
