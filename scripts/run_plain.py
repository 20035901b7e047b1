"""Run notebooks in plain IPython, without nbdev, writing nothing: python scripts/run_plain.py [--alone]
nbs/03_metrics.ipynb ...

With --alone each notebook is copied into an empty folder and runs there, on the installed package, as on a bare
Colab: no file beside it, no checkout on the path.

Skipped, as nbdev_test skips them: cells flagged slow, cuda, data or notest, and `#| eval: false`."""

import json, os, re, shutil, subprocess, sys, tempfile, time
from pathlib import Path

SKIP = {'slow', 'cuda', 'data', 'notest', 'eval: false'}


def skipped(source: str) -> bool:
    "Whether a directive at the head of the cell keeps it from running."
    heads = [re.sub(r'\s*:\s*', ': ', l[2:].strip()).lower() for l in source.splitlines() if l.startswith('#|')]
    return bool(SKIP & {h if ':' in h else h.split(' ')[0] for h in heads})


def run(path: Path):
    """Run the notebook at `path` in its own folder, on the package of this checkout where it lies in it; leave with the
    first error."""
    from IPython.core.interactiveshell import InteractiveShell

    checkout, scripts = Path(__file__).resolve().parents[1], Path(__file__).resolve().parent
    sys.path[:] = [o for o in sys.path if Path(o or '.').resolve() != scripts]
    if checkout in path.parents:
        sys.path.insert(0, str(checkout))
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    os.chdir(path.parent)
    shell = InteractiveShell.instance(colors='NoColor')
    for i, cell in enumerate(cells):
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code' or skipped(source):
            continue
        if not shell.run_cell(source).success:
            sys.exit(f'{path.name}: cell {i} failed:\n{source}')


def start(name: str, alone: bool):
    "The finished process that ran a notebook, in a fresh empty folder if it is to be `alone`."
    env = {'MPLBACKEND': 'agg', 'IN_TEST': '1', 'PYTHONWARNINGS': 'ignore', **os.environ}
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copy(name, folder) if alone else name
        return subprocess.run(
            [sys.executable, __file__, '--here', path],
            env=env,
            text=True,
            errors='replace',
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


if __name__ == '__main__':
    if sys.argv[1:2] == ['--here']:
        sys.exit(run(Path(sys.argv[2]).resolve()))
    alone, failed = sys.argv[1:2] == ['--alone'], []
    for name in sys.argv[1 + alone :]:  # a process each: notebooks share no state
        begun = time.time()
        done = start(name, alone)
        print(f'{"failed" if done.returncode else "ok":6} {time.time() - begun:5.0f} s  {name}', flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout[-5000:])
    sys.exit(f'failed: {" ".join(failed)}' if failed else 0)
