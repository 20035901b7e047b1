"""Execute notebooks top to bottom and store their outputs: python scripts/execute.py nbs/03_metrics.ipynb ..."""

import argparse, os, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def executed(path: Path):
    "The notebook at `path` with new outputs, run in its own folder on the package beside it."
    from execnb.nbio import read_nb
    from execnb.shell import CaptureShell

    nb = read_nb(path)
    sys.path.insert(0, str(ROOT))
    os.chdir(path.parent)
    os.environ['IN_TEST'] = '1'
    shell = CaptureShell(path, mpl_format='png')
    try:
        shell.run_all(nb, exc_stop=True)
    except Exception:
        sys.exit(shell.prettytb(fname=path))
    return nb


def execute(path: Path):
    "Run the notebook at `path` and write it back with outputs."
    from execnb.nbio import write_nb

    write_nb(executed(path), path)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('notebooks', nargs='+', type=Path)
    p.add_argument('--here', action='store_true', help='in this process (one notebook; used by the script itself)')
    a = p.parse_args()
    if a.here:
        sys.exit(execute(a.notebooks[0].resolve()))
    for path in a.notebooks:  # a process each: notebooks share no state
        print(path, flush=True)
        subprocess.run(
            [sys.executable, __file__, str(path), '--here'],
            check=True,
            env={**os.environ, 'PYTHONWARNINGS': 'ignore'},
        )
    subprocess.run(['nbdev_clean'], check=True, cwd=ROOT)
