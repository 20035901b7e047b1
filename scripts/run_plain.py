"""Run notebooks as a reader's Jupyter or Colab does: every cell, in a kernel, without nbdev, writing nothing.

    python scripts/run_plain.py [--alone] [--minutes 10] [--keep FOLDER] nbs/03_metrics.ipynb ...

With --alone each notebook is copied into an empty folder and runs there, on the installed package, as on Colab: no
file beside it, no checkout on the path. With PRETEND_GPU=1 in the environment, tests/pretend_gpu.py is switched on in
the kernel before the page runs. An output that Colab does not show is an error, and so is a picture that is cut: the
matplotlib of Colab lays some figures out in another way than the newest. Needs nbclient and ipykernel."""

import argparse, base64, io, os, re, resource, shutil, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHOWN = {'text/', 'image/png', 'image/jpeg', 'image/svg+xml', 'application/vnd.jupyter.widget-view+json'}
GPU = 'import sys; sys.path.insert(0, {folder!r}); import pretend_gpu; pretend_gpu.on(); del sys.path[0]'


def is_cut(png: bytes) -> bool:
    "Whether something dark, as a label that is longer than its figure, reaches the border of a picture."
    from PIL import Image

    shown = Image.open(io.BytesIO(png)).convert('RGBA')
    grey = Image.alpha_composite(Image.new('RGBA', shown.size, 'white'), shown).convert('L')
    w, h = grey.size
    sides = (0, 0, w, 1), (0, h - 1, w, h), (0, 0, 1, h), (w - 1, 0, w, h)
    return min(grey.crop(side).getextrema()[0] for side in sides) < 160


def run(path: Path, keep: Path | None):
    "Run the notebook at `path` in its own folder; leave with the first error."
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    class Client(NotebookClient):
        "nbclient at times misses the end of a cell, and waits for ever: one more answer wakes it."

        checks = 0

        async def _async_check_alive(self):  # every second while a cell runs
            await super()._async_check_alive()
            self.checks += 1
            if self.checks % 10 == 0:
                self.kc.shell_channel.send(self.kc.session.msg('kernel_info_request'))

    nb = nbformat.read(path, as_version=4)
    if os.environ.get('PRETEND_GPU'):
        nb.cells.insert(0, nbformat.v4.new_code_cell(GPU.format(folder=str(ROOT / 'tests'))))
    client = Client(nb, timeout=None, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}})
    try:
        client.execute()
    except CellExecutionError as error:
        sys.exit(re.sub(r'\x1b\[[0-9;]*m', '', str(error)))
    finally:
        if keep:
            nbformat.write(nb, keep)
    texts = [o['text'] for c in nb.cells for o in c.get('outputs', []) if o.get('name') == 'stderr']
    for warning in sorted(set(re.findall(r'\w*Warning: .*', ''.join(texts)))):
        print(f'       the reader sees: {warning[:200]}')
    kinds = {k for c in nb.cells for o in c.get('outputs', []) for k in o.get('data', {})}
    if strange := [k for k in sorted(kinds) if not k.startswith(tuple(SHOWN))]:
        sys.exit(f'{path.name}: outputs that Colab does not show: {strange}')
    pngs = [
        (i, o['data'].get('image/png')) for i, c in enumerate(nb.cells) for o in c.get('outputs', []) if 'data' in o
    ]
    if cut := [i for i, png in pngs if png and is_cut(base64.b64decode(png))]:
        sys.exit(f'{path.name}: pictures that are cut at their border, in cells {cut}')


def start(name: str, alone: bool, minutes: float, keep: Path | None):
    "How a notebook ended ('ok', 'failed' or 'slow'), and what it printed; in an empty folder if it is to be `alone`."
    env = dict(os.environ, PYTHONUTF8='1', PYDEVD_DISABLE_FILE_VALIDATION='1')
    env.pop('PYTHONPATH', None)
    if not alone:
        env['PYTHONPATH'] = str(ROOT)
    kept = keep / f'{Path(name).parent.name}_{Path(name).name}' if keep else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(name, folder) if alone else name).resolve()
        command = [sys.executable, __file__, '--here', str(path), *(['--keep', str(kept)] if kept else [])]
        try:
            done = subprocess.run(
                command,
                env=env,
                text=True,
                errors='replace',
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=60 * minutes,
            )
        except subprocess.TimeoutExpired:  # its kernel sees that its parent is gone, and ends too
            return 'slow', f'not done after {minutes:g} minutes'
    return 'failed' if done.returncode else 'ok', done.stdout


def worked() -> float:
    "Seconds that the processes started here have computed: unlike the time that passed, the same on a busy machine."
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('notebooks', nargs='+')
    p.add_argument('--alone', action='store_true', help='each in an empty folder, on the installed package')
    p.add_argument('--minutes', type=float, default=10, help='what a page may take')
    p.add_argument('--keep', type=Path, help='a folder for the executed notebooks')
    p.add_argument('--here', action='store_true', help='in this process (one notebook; used by the script itself)')
    a = p.parse_args()
    if a.here:
        sys.exit(run(Path(a.notebooks[0]), a.keep))
    keep = a.keep and a.keep.resolve()
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
    failed, begun_all = [], time.time()
    for name in a.notebooks:  # a process each: notebooks share no state
        begun, before = time.time(), worked()
        how, printed = start(name, a.alone, a.minutes, keep)
        print(f'{how:6} {time.time() - begun:5.0f} s, of work {worked() - before:5.0f} s  {name}', flush=True)
        print(
            printed[-5000:] if how != 'ok' else re.sub(r'^(?! {7}the reader sees).*\n?', '', printed, flags=re.M),
            end='',
        )
        if how != 'ok':
            failed.append(name)
    print(f'{len(a.notebooks) - len(failed)} of {len(a.notebooks)} pages passed in {time.time() - begun_all:.0f} s')
    sys.exit('\n'.join(['failed:', *failed]) if failed else 0)
