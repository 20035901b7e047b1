"""Rows `startup`, `authenticate` and `reproduce`: processes of their own, `startup` by their processor time, the
others by the time of day."""

import os
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
    return lambda: subprocess.run([sys.executable, *args], check=True, stdout=subprocess.DEVNULL)


def rows(a):
    "The row of the report; goal: --help in two seconds (`times`: how many times below it)."
    command = (
        'import sys; sys.argv = ["gfa_evaluate", "--help"]; from gfa_fastai.run.cli import gfa_evaluate; gfa_evaluate()'
    )
    seen = turns(
        {
            'python -c pass': process('-c', 'pass'),
            'import gfa_fastai': process('-c', 'import gfa_fastai'),
            'gfa_evaluate --help': process('-c', command),
            'import torch': process('-c', 'import torch'),
        },
        a.rounds,
        lambda: sum(os.times()[2:4]),
    )
    lines = [line('startup', 'a process', k, s) for k, s in seen.items() if k != 'gfa_evaluate --help']
    lines.append(
        line(
            'startup',
            'a process',
            'gfa_evaluate --help',
            seen['gfa_evaluate --help'],
            'two seconds',
            [2.0] * a.rounds,
            1.0,
        )
    )
    lines[1]['note'] = 'imports ' + ', '.join(child(IMPORTS))
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
