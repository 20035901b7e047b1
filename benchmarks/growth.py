"""Row `growth`: how cost grows with the number of images, people, the batch and the size of images, and what
memory does; and with the number of processes (threads: row `frames`).

Every case is a process of its own, so that its peak of memory is its own: milliseconds of processor time for an
image, and in the note the growth of the peak over what imports took. Of several processes it is the time of
day, the start of the processes with it. Nothing should be worse than linear in the number of images, and memory
should not grow with it."""

import os

from benchmarks.measure import child, line

HEAD = """
import json, resource, sys, tempfile, time, warnings; warnings.simplefilter('ignore')
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == 'darwin' else 2**10)
def report(f, n):
    base, start = peak(), time.process_time()
    f(); print(json.dumps(dict(seconds=time.process_time()-start, n=n, mb=peak()-base)))
n = int(sys.argv[1])
"""

IMAGES = (
    HEAD
    + """
from gfa_fastai.divergence import channel_stats
from gfa_fastai.inputs.batches import picture_batches
from gfa_fastai.inputs.weights import vgg16_trunk
from PIL import Image
with tempfile.TemporaryDirectory() as tmp:
    rng, files = np.random.default_rng(0), []
    for i in range(n):
        files.append(f'{tmp}/{i}.png')
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(files[-1])
    net = vgg16_trunk(.125)
    channel_stats(net, picture_batches(files[:32], bs=32))
    report(lambda: channel_stats(net, picture_batches(files, bs=32)), n)
"""
)
TRANSFER = (
    HEAD
    + """
from gfa_fastai.adapt.adapter import Adapter, run_files
from gfa_fastai.adapt.fda import FDA
from PIL import Image
with tempfile.TemporaryDirectory() as tmp:
    rng, todo = np.random.default_rng(0), []
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(f'{tmp}/{i}.png')
        todo.append((f'{tmp}/{i}.png', Path(f'{tmp}/out{i}.png'), str(i)))
    fda = FDA(width=.25, size=48)
    fda.info['steps'] = 0
    fda.run([np.zeros((48, 48, 3), np.uint8)]*8)
    report(lambda: run_files(fda, todo), n)
"""
)
SUBJECTS = (
    HEAD
    + """
rng = np.random.default_rng(0)
import pandas as pd
from gfa_fastai.evaluation import evaluate_scores
who = np.repeat(np.arange(n), 20)
live = np.tile(np.arange(20) < 7, n)
logit = rng.normal(size=len(who)) + 2*live - 1
df = pd.DataFrame(dict(
    dataset='d',
    split=np.where(who < n//3, 'dev', 'test'),
    subject=who.astype(str),
    video=[f'{w}-{i}' for w, i in zip(who, np.tile(np.arange(20), n))],
    frame=0,
    label=np.where(live, 'live', 'attack'),
    pai=np.where(live, '', 'print'),
    score=1/(1+np.exp(-logit)),
))
report(lambda: evaluate_scores(df), len(df))
"""
)
STEP = (
    HEAD
    + """
from gfa_fastai.learner import GFALoss
from gfa_fastai.model import GFACNN
px = int(sys.argv[2])
model, loss = GFACNN(8, width=.125, pool=2), GFALoss()
opt = torch.optim.Adam(model.parameters(), fused=True)
def step(bs):
    out = model(torch.rand(bs, 3, px, px), torch.rand(bs, 3, px, px))
    loss(out, torch.arange(bs) % 2, torch.arange(bs) % 8).backward(); opt.step(); opt.zero_grad()
step(2)
report(lambda: [step(n) for _ in range(3)], 3*n)
"""
)

PROCESSES = (
    HEAD
    + """
from gfa_fastai.synth.benchmark import make_synthpad
with tempfile.TemporaryDirectory() as tmp:
    start = time.perf_counter()
    people = int(sys.argv[2]), 0, 0
    settings = dict(domains=['webcam'], subjects=people, size=64, progress=False)
    made = make_synthpad(tmp, 'quick', workers=n, **settings)
    print(json.dumps(dict(seconds=time.perf_counter()-start, n=len(made), mb=0)))
"""
)


def rows(a):
    "The row of the report."
    workers = [n for n in (1, 2, 4, 8) if n <= max(2, os.cpu_count() or 1)]
    cases = [
        ('images, divergence', IMAGES, [(n,) for n in ((16, 64) if a.quick else (100, 1000))], lambda n: n),
        ('images, transfer', TRANSFER, [(n,) for n in ((8, 32) if a.quick else (64, 640))], lambda n: n),
        ('subjects, report', SUBJECTS, [(n,) for n in ((12, 24) if a.quick else (50, 200, 800))], lambda n: n),
        ('batch, step', STEP, [(n, 64) for n in ((2, 4) if a.quick else (8, 16, 32, 64))], lambda n, px: n),
        ('image size, step', STEP, [(8, px) for px in ((32, 48) if a.quick else (32, 64, 128))], lambda n, px: px),
        ('processes, making images', PROCESSES, [(n, 4 if a.quick else 60) for n in workers], lambda n, people: n),
    ]
    lines = []
    for name, code, sizes, of in cases:
        for s in sizes:
            runs = [child(code, *s) for _ in range(3)]
            lines.append(
                line(
                    'growth',
                    name,
                    str(of(*s)),
                    [r['seconds'] for r in runs],
                    per=runs[0]['n'],
                    note='time of day' if code is PROCESSES else f'+{max(0, *(r["mb"] for r in runs)):.0f} MB',
                )
            )
    return lines
