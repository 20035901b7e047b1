"""How fast it is, and against what: python -m benchmarks [ROW ...]

Every row is a piece of work of this library beside its anchors, the plain or the usual way to do the same: in
one run, on the same data, in turns. `ms` is the median (lowest to highest round), `times` how many times as
fast as the anchor in the same round, `goal` the least that is wanted. With one thread on a CPU it is processor
time. Absolute times hold for this machine alone; compare within a row. Never part of the tests.

python -m benchmarks                       # all rows but those that take long
    python -m benchmarks tpc fda --quick
    python -m benchmarks --json speed.json"""

import argparse
import sys
import time
import warnings

warnings.simplefilter('ignore')
from benchmarks.measure import machine, save, table

ROWS = dict(  # name -> (module, function, what)
    tpc=('tpc', 'rows', 'TPC, forward and backward, against the loop over pairs and distance matrices'),
    trunk=('network', 'trunk', 'one trunk pass for frames and faces against two'),
    step=('network', 'step', 'a training step of the learner against a loop by hand, in fp32 and bf16'),
    ladder=(
        'network',
        'ladder',
        'from a first draft of the step to the learner\'s, one change at a time, with profiles',
    ),
    data=('network', 'data', 'a training step with its batches in memory, and with loading them'),
    optimiser=('network', 'optimiser', "fused Adam against fastai's own and PyTorch's plain one"),
    recompute=('network', 'recompute', 'gradient checkpointing: what it costs, what it saves'),
    fda=(
        'fda',
        'rows',
        (
            'images through the transform network, in fp32 and bf16, and through the light one, against the common'
            ' PyTorch network'
        ),
    ),
    where=('fda', 'where', 'where the time of the transform network goes, and what bounds it'),
    roofline=('roofline', 'rows', 'the transform network, layer by layer, against the roof of the processor'),
    fit=('fda', 'fit', 'a training step of FDA and of LightFDA'),
    eer=('evaluation', 'rows', 'EER of many scores against scikit-learn and bob.measure'),
    report=('evaluation', 'report', 'a whole evaluation report'),
    divergence=('network', 'divergence', 'divergence at 13 layers: one pass against one for each layer'),
    frames=('frames', 'rows', 'frames of videos: against decoding all, on one thread and on more'),
    startup=('startup', 'rows', 'starting a command, importing the package'),
    growth=('growth', 'rows', 'how cost grows with images, subjects, batch and image size; memory'),
    authenticate=('startup', 'authenticate', 'latency of authentication (benchmarks/authenticate.py as it is)'),
    reproduce=('startup', 'reproduce', 'gfa_reproduce --preset quick; a quarter of an hour'),
)
LONG = ('reproduce', 'authenticate', 'report')


def main(argv=None):
    p = argparse.ArgumentParser(
        'python -m benchmarks',
        description=__doc__ + '\nrows:\n' + '\n'.join(f'  {k:13} {v[2]}' for k, v in ROWS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument('rows', nargs='*', metavar='ROW', help=f'which (default: all but {", ".join(LONG)})')
    p.add_argument('--quick', action='store_true', help='small sizes and few rounds: to see that it runs')
    p.add_argument('--rounds', type=int, default=None, help='of timing (default: 5, with --quick 2)')
    p.add_argument('--threads', type=int, default=1, help='of PyTorch (default: %(default)s)')
    p.add_argument('--device', default='cpu', choices=['cpu', 'cuda'], help='default: %(default)s')
    p.add_argument(
        '--json',
        metavar='FILE',
        help='write the report there, too; rows that it holds already and that are not run now are kept',
    )
    a = p.parse_args(argv)
    if unknown := [r for r in a.rows if r not in ROWS]:
        p.error(f'no row {unknown[0]!r}; there are {", ".join(ROWS)}')
    a.rounds = a.rounds or (2 if a.quick else 5)
    if min(a.threads, a.rounds) < 1:
        p.error('threads and rounds start at 1')
    import torch

    if a.device == 'cuda' and not torch.cuda.is_available():
        p.error('there is no GPU of NVIDIA here')
    torch.set_num_threads(a.threads)
    return run(a)


def run(a):
    "Run the rows that were asked for; their report."
    from importlib import import_module

    report = dict(machine=machine(a.device, a.threads), quick=a.quick, rounds=a.rounds, seconds={}, lines=[])
    print('  '.join(f'{k} {v}' for k, v in report['machine'].items() if k != 'versions' and v is not None))
    print('  '.join(f'{k} {v}' for k, v in report['machine']['versions'].items() if v))
    for name in a.rows or [r for r in ROWS if r not in LONG]:
        module, function, what = ROWS[name]
        start = time.perf_counter()
        print(f'\n{name}: {what}', flush=True)
        lines = getattr(import_module(f'benchmarks.{module}'), function)(a)
        print(table(lines), flush=True)
        report['lines'] += lines
        report['seconds'][name] = round(time.perf_counter() - start, 1)
        if a.json:
            save(a.json, merged(a.json, report))
    missed = [f'{l["row"]} ({l["case"]}, {l["anchor"]})' for l in report['lines'] if l['met'] is False]
    print(f'\ngoals missed: {"; ".join(missed) or "none"}')
    return report


def merged(path, report):
    "The report with the rows of the file that were not run now, each with the machine that it was run on."
    import json
    from pathlib import Path

    try:
        old = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        old = dict(lines=[], seconds={}, machines={})
    now = set(report['seconds'])
    lines = [l for l in old['lines'] if l['row'] not in now] + report['lines']
    machines = {k: v for k, v in old.get('machines', {}).items() if k not in now} | {
        k: dict(report['machine'], quick=report['quick'], rounds=report['rounds']) for k in now
    }
    return dict(lines=lines, seconds=old['seconds'] | report['seconds'], machines=machines)


if __name__ == '__main__':
    main()
    sys.exit()
