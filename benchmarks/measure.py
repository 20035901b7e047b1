"""What every row of the benchmarks needs: taking turns, medians, a table, and what machine it was."""

import json
import os
import platform
import sys
import time
from pathlib import Path
from statistics import median

COLUMNS = ['row', 'case', 'what', 'ms', 'low', 'high', 'anchor', 'times', 'goal', 'met', 'note']


def clock(device='cpu', threads=1):
    """Processor time where one thread of a CPU works (others at work on the machine disturb it less), else the time of
    day."""
    return time.process_time if str(device) == 'cpu' and threads == 1 else time.perf_counter


def turns(forms, rounds, now=time.process_time, wait=lambda: None):
    "Seconds of each form, `rounds` times in turn, after a first round that warms up."
    seen = {k: [] for k in forms}
    for r in range(rounds + 1):
        for k, f in forms.items():
            wait()
            start = now()
            f()
            wait()
            if r:
                seen[k].append(now() - start)
    return seen


def line(row, case, what, seconds, anchor=None, anchor_seconds=None, goal=None, note='', per=1):
    """A line of the report: milliseconds (median, lowest and highest round), over `per` pieces of work. `times`:
    how many times as fast as the anchor, the median over rounds of the ratio in the same round. `goal`: the
    least that `times` should be."""
    ms = [1e3 * s / per for s in seconds]
    out = dict(
        row=row,
        case=case,
        what=what,
        ms=median(ms),
        low=min(ms),
        high=max(ms),
        anchor=anchor or '',
        times=None,
        goal=goal,
        met=None,
        note=note,
    )
    if anchor:
        out['times'] = median(a / b for a, b in zip(anchor_seconds, seconds))
    if goal is not None:
        out['met'] = out['times'] >= goal
    return out


def against(row, case, seen, ours, goals, per=1, note=''):
    "Lines for all forms: the anchors, then ours against each anchor; `goals`: anchor -> the least ratio, or None."
    out = [line(row, case, k, s, per=per) for k, s in seen.items() if k != ours]
    return out + [line(row, case, ours, seen[ours], a, seen[a], g, note, per) for a, g in goals.items()]


def cpu_name():
    "Name of the processor, and which of the instructions that matter here it has."
    try:
        text = Path('/proc/cpuinfo').read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {k.strip(): v.strip() for k, _, v in (l.partition(':') for l in text.splitlines())}
    has = [f for f in ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16') if f in fields.get('flags', '').split()]
    return ', '.join([fields.get('model name', platform.machine()), *has])


def machine(device, threads):
    "Machine and versions, for the report."
    from importlib.metadata import PackageNotFoundError, version
    import torch

    def of(name):
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None
    return dict(
        cpu=cpu_name(),
        cores=os.cpu_count(),
        threads=threads,
        device=device,
        gpu=torch.cuda.get_device_name() if device == 'cuda' else None,
        load=load,
        system=platform.system(),
        python=platform.python_version(),
        versions={
            n: of(n)
            for n in (
                'torch',
                'torchvision',
                'fastai',
                'numpy',
                'pandas',
                'scikit-learn',
                'opencv-python',
                'gfa_fastai',
                'bob.measure',
            )
        },
    )


def table(lines):
    "The lines as text."
    import pandas as pd

    df = pd.DataFrame(lines, columns=COLUMNS)

    def number(v, form):
        return '' if v is None or v != v else format(v, form)

    df['ms'] = [
        f'{number(a, ".4g")} ({number(b, ".4g")} to {number(c, ".4g")})' if a == a and a is not None else ''
        for a, b, c in zip(df.ms, df.low, df.high)
    ]
    df['times'], df['goal'] = [number(v, '.3g') for v in df.times], [number(v, '.3g') for v in df.goal]
    df['met'] = ['' if v is None else 'yes' if v else 'NO' for v in df.met]
    return df.drop(columns=['low', 'high']).to_string(index=False, justify='left')


def save(path, report):
    "Write a report as JSON, whole or not at all."
    path = Path(path)
    part = path.with_name(f'.{path.name}.part')
    part.write_text(json.dumps(report, indent=1, default=lambda o: o.item()) + '\n')
    part.replace(path)


def child(code, *args):
    "Run Python code in a process of its own; what it prints, parsed as JSON."
    import subprocess

    done = subprocess.run([sys.executable, '-c', code, *map(str, args)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
