"""Rows `startup`, `authenticate` and `reproduce`: processes of their own, `startup` by their processor time, the
others by the time of day."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import child, line, turns

IMPORTS = """
import json, sys
before = set(sys.modules)
import gfa_fastai
print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules)-before})))
"""


def process(*args):
    "A function that runs Python with these arguments and waits."
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return lambda: subprocess.run([sys.executable, *map(str, args)], check=True, **quiet)


COMMANDS = 'reproduce', 'synth', 'train', 'score', 'evaluate', 'transfer', 'authenticate'

NETWORK = """
import json, sys, time, numpy as np, torch
from pathlib import Path
from PIL import Image
from gfa_fastai.inputs.models import load_model, small_model
images = [np.array(Image.open(p)) for p in sorted(Path(sys.argv[1]).rglob('*-frame.png'))]
x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
net, seen = load_model(small_model())[0], []
with torch.inference_mode():
    for _ in range(4):
        start = time.process_time()
        for i in range(0, len(x), 64):
            net.spoof(x[i : i + 64])
        seen.append(time.process_time() - start)
print(json.dumps(sorted(seen[1:])[1]))
"""


def command(name, *args):
    "A function that runs a command in a process of its own; a face that is turned away is an answer, too."
    code = f'import sys; from gfa_fastai.run.cli import gfa_{name}; sys.exit(gfa_{name}(sys.argv[1:]) > 1)'
    return process('-c', code, *args)


def pictures(folder, n=300, side=64):
    "A folder of rendered faces, as gfa_score wants it: live and attack, a folder for each person."
    from gfa_fastai.synth.benchmark import make_synthpad

    made = make_synthpad(folder / 'made', size=side, domains='webcam', subjects=(-(-n // 10), 0, 0), progress=False)
    for row in made[:n].itertuples():
        to = folder / 'pictures' / row.label / row.subject / Path(row.path).name
        to.parent.mkdir(parents=True, exist_ok=True)
        Path(row.path).rename(to)
    return folder / 'pictures'


def rows(a):
    "The row of the report; goals: --help within 0.3 s over the interpreter, an answer within 1.5 s over PyTorch."
    import cv2
    from benchmarks.authenticate import scene

    with tempfile.TemporaryDirectory() as tmp:
        tmp, n = Path(tmp), 20 if a.quick else 300
        cv2.imwrite(str(tmp / 'face.png'), scene()[..., ::-1])
        photos = pictures(tmp, n)

        def score():
            shutil.rmtree(tmp / 'scored', ignore_errors=True)
            command('score', 'small', photos, '--out', tmp / 'scored' / 'scores.csv')()

        forms = {f'gfa_{name} --help': command(name, '--help') for name in COMMANDS}
        identify = command('authenticate', 'identify', tmp / 'face.png', '--gallery', tmp / 'gallery.json')
        seen = turns(
            {
                'python -c pass': process('-c', 'pass'),
                'import gfa_fastai': process('-c', 'import gfa_fastai'),
                'import torch': process('-c', 'import torch'),
                **forms,
                'gfa_authenticate identify': identify,
                f'gfa_score, {n} pictures': score,
            },
            a.rounds,
            lambda: sum(os.times()[2:4]),
        )
        network = child(NETWORK, tmp / 'scored' / 'cache')
    goals = {k: ('python -c pass', 0.3) for k in forms} | {'gfa_authenticate identify': ('import torch', 1.5)}
    lines = [line('startup', 'a process', k, s) for k, s in seen.items() if k not in goals]
    lines[1]['note'] = 'imports ' + ', '.join(child(IMPORTS))
    lines[-1]['note'] = f'of it {1e3 * network:.0f} ms in the network'
    for k, (anchor, more) in goals.items():
        limit = [s + more for s in seen[anchor]]
        lines.append(line('startup', 'a process', k, seen[k], f'{anchor} and {more} s', limit, 1.0))
    return lines


def authenticate(a):
    "The row of the report: what benchmarks/authenticate.py prints."
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name('authenticate.py'))],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    print(done.stdout, end='')
    return [
        line(
            'authenticate',
            'the program',
            'all of it',
            [time.perf_counter() - start],
            note='; '.join(done.stdout.splitlines()),
        )
    ]


def reproduce(a):
    "The row of the report; goal: a quarter of an hour."
    command = 'import sys; from gfa_fastai.run.cli import gfa_reproduce; gfa_reproduce(sys.argv[1:])'
    with tempfile.TemporaryDirectory() as tmp:
        start = time.perf_counter()
        process('-c', command, '--preset', 'quick', '--out', str(Path(tmp) / 'out'))()
        took = time.perf_counter() - start
    return [line('reproduce', 'preset quick', 'gfa_reproduce', [took], '15 minutes', [900.0], 1.0)]
