"""Run notebooks in plain IPython, without nbdev, writing nothing: python scripts/run_plain.py nbs/10_metrics.ipynb ...

Skipped, as nbdev_test skips them: cells flagged slow, cuda, data or notest, and `#| eval: false`."""
import json, os, re, subprocess, sys, time
from pathlib import Path

SKIP = {'slow', 'cuda', 'data', 'notest', 'eval: false'}

def skipped(source:str) -> bool:
    "Whether a directive at the head of the cell keeps it from running."
    heads = [re.sub(r'\s*:\s*', ': ', l[2:].strip()).lower() for l in source.splitlines() if l.startswith('#|')]
    return bool(SKIP & {h if ':' in h else h.split(' ')[0] for h in heads})

def run(path:Path):
    "Run the notebook at `path` in its own folder; leave with the first error."
    from IPython.core.interactiveshell import InteractiveShell
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    os.chdir(path.parent)
    shell = InteractiveShell.instance(colors='NoColor')
    for i, cell in enumerate(cells):
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code' or skipped(source): continue
        if not shell.run_cell(source).success: sys.exit(f'{path.name}: cell {i} failed:\n{source}')

if __name__ == '__main__':
    if sys.argv[1:2] == ['--here']: sys.exit(run(Path(sys.argv[2]).resolve()))
    failed, env = [], {'MPLBACKEND': 'agg', 'IN_TEST': '1', 'PYTHONWARNINGS': 'ignore', **os.environ}
    for name in sys.argv[1:]:  # a process each: notebooks share no state
        start = time.time()
        done = subprocess.run([sys.executable, __file__, '--here', name], env=env, text=True, errors='replace',
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        print(f'{"failed" if done.returncode else "ok":6} {time.time()-start:5.0f} s  {name}', flush=True)
        if done.returncode: failed.append(name); print(done.stdout[-5000:])
    sys.exit(f'failed: {" ".join(failed)}' if failed else 0)
