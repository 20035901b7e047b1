"""Execute notebooks top to bottom and store their outputs: python scripts/execute.py nbs/03_metrics.ipynb ...

Cells flagged `#| slow`, `#| cuda` or `#| data` are not run: they keep the outputs that they have."""

import argparse, os, subprocess, sys
from pathlib import Path

ROOT, KEPT = Path(__file__).resolve().parents[1], {'slow', 'cuda', 'data', 'notest'}


def flags(source: str) -> set:
    "The directives at the head of a cell, as `{'slow'}` for `#| slow`."
    heads = [line[2:].split() for line in source.splitlines() if line.startswith('#|')]
    return {h[0].rstrip(':') for h in heads if h}


def executed(path: Path, force: set = frozenset()):
    "The notebook at `path` with new outputs, run in its own folder on the package beside it."
    from execnb.nbio import read_nb
    from execnb.shell import CaptureShell

    def kept(cell):
        return cell.cell_type != 'code' or bool((KEPT - force) & flags(cell.source))

    nb = read_nb(path)
    sys.path.insert(0, str(ROOT))
    os.chdir(path.parent)
    os.environ['IN_TEST'] = '1'
    shell = CaptureShell(path, mpl_format='png')
    try:
        shell.run_all(nb, exc_stop=True, preproc=kept)
    except Exception:
        sys.exit(shell.prettytb(fname=path))
    return nb


def execute(path: Path, force: set):
    "Run the notebook at `path` and write it back with outputs."
    from execnb.nbio import write_nb

    write_nb(executed(path, force), path)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('notebooks', nargs='+', type=Path)
    p.add_argument('--flags', default='', help='flags to run all the same, as "slow cuda"')
    p.add_argument('--here', action='store_true', help='in this process (one notebook; used by the script itself)')
    a = p.parse_args()
    if a.here:
        sys.exit(execute(a.notebooks[0].resolve(), set(a.flags.split())))
    for path in a.notebooks:  # a process each: notebooks share no state
        print(path, flush=True)
        subprocess.run(
            [sys.executable, __file__, str(path), '--here', '--flags', a.flags],
            check=True,
            env={**os.environ, 'PYTHONWARNINGS': 'ignore'},
        )
    subprocess.run(['nbdev_clean'], check=True, cwd=ROOT)
