"""Which numbers in prose change where the pages are executed on another machine?

python scripts/second_environment.py --threads 2 nbs/05_tpc.ipynb ...       another number of threads
python scripts/second_environment.py --processor avx2 nbs/05_tpc.ipynb ...  the instructions of an older processor
python scripts/second_environment.py --python OTHER_ENVIRONMENT/bin/python nbs/05_tpc.ipynb ...   another PyTorch

Each page is executed there, on the package of this checkout, and nothing is written. A number in a markdown cell is
looked for in the stored outputs of the page, the nearest cell first: 9 % is found in 0.0912, 9.12 and 9 %. The same
cell must show it in the new outputs as well. Every number that it does not show any more is listed, and the exit
status is 1. --outputs lists each output whose numbers changed, too: words such as "half" or "most" are yours to judge.

Formulas, code, links, years, and the numbers of equations, tables and figures are left out."""

import argparse, difflib, importlib.util, json, os, re, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORDS = 'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen'.split()
NUMBER = r'(?<![\w.])[-\u2212]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?:\s*(?:%|points\b))?(?![\w])'
NAMED = r'(?:Eqs?\.|Tables?|Figures?|Figs?\.|Sections?|chapters?|arXiv|version|Python|VGG|NVIDIA|ISO)\s*'


# --- numbers


def prose_of(cell):
    "The text of a markdown cell without what is no claim."
    text = ''.join(cell['source'])
    text = re.sub(r'^(```|~~~).*?^\1|\$\$.*?\$\$', ' ', text, flags=re.M | re.S)
    text = re.sub(r'`[^`\n]*`|(?<![\\$])\$[^$\n]+\$|\]\([^)]*\)|\[@[^\]]*\]|<[^>]+>', ' ', text)
    text = re.sub(rf'{NAMED}[\d.]+(?:(?:,| to| and| or|-)\s*[\d.]+)*', ' ', text)
    text = re.sub(r'^\s*\d+\. ', ' ', text, flags=re.M)  # numbers of a list
    return re.sub(r'\b(?:19|20)\d\d\b', ' ', text)


def value_of(written):
    "(value, decimals, whether a percentage) of a number as it is written."
    number = re.sub(r'[^\d]*$', '', written).replace(',', '').replace('\u2212', '-')
    mantissa = number.split('e')[0]
    decimals = len(mantissa.split('.')[1]) if '.' in mantissa else 0
    if 'e' in number:
        decimals -= int(number.split('e')[1])
    return float(number), decimals, written.endswith(('%', 'points'))


def claims_of(cell):
    "Pairs (as it is written, the words around it) of the numbers in a markdown cell."
    text = prose_of(cell)
    for m in re.finditer(NUMBER, text):
        yield m[0], ' '.join(text[max(0, m.start() - 60) : m.end() + 40].split())
    for m in re.finditer(rf'\b({"|".join(WORDS[3:])})\b', text, flags=re.I):
        yield str(WORDS.index(m[0].lower())), ' '.join(text[max(0, m.start() - 60) : m.end() + 40].split())


def printed(cell):
    "What a code cell shows as text."
    texts = []
    for output in cell.get('outputs', []):
        data = output.get('data', {})
        shown = output.get('text') or data.get('text/markdown') or data.get('text/plain') or ''
        texts.append(''.join(shown))
    return '\n'.join(texts)


def numbers_of(text):
    "The numbers of a printed text, as values."
    text = re.sub(r'\x1b\[[\d;]*m', '', text)
    found = re.findall(r'[-\u2212]?\d[\d,]*(?:\.\d*)?(?:e[-+]?\d+)?\s*%?|[-\u2212]?\.\d+', text)
    return [value_of(o.rstrip('.,')) for o in found if re.search(r'\d', o)]


def shows(numbers, written):
    """Whether the number `written` in prose is among `numbers`, rounded as it is written. A whole number that is no
    percentage counts something, and is not rounded."""
    value, decimals, percent = value_of(written)
    half = 0.5000001 * 10.0**-decimals if decimals or percent else 1e-9

    def equal(number):
        scales = (1, 100, 0.01) if percent or number[2] else (1,)
        return any(abs(abs(number[0] * s) - abs(value)) <= half for s in scales)

    return any(equal(number) for number in numbers)


# --- two executions of a page


def lost_claims(old, new):
    """Numbers in prose that stand in the outputs of `old` and not in those of `new`: (cell, number, words, cell of the
    output)."""
    before = {i: numbers_of(printed(c)) for i, c in enumerate(old['cells']) if c['cell_type'] == 'code'}
    after = {i: numbers_of(printed(c)) for i, c in enumerate(new['cells']) if c['cell_type'] == 'code'}
    for i, cell in enumerate(old['cells']):
        if cell['cell_type'] != 'markdown':
            continue
        for written, words in claims_of(cell):
            showing = [j for j, numbers in before.items() if shows(numbers, written)]
            if not showing:
                continue
            nearest = min(showing, key=lambda j: abs(j - i))
            if not shows(after[nearest], written):
                yield i, written, words, nearest


def changed_outputs(old, new):
    "Lines of outputs that differ: (cell, lines of a difference)."
    for i, (a, b) in enumerate(zip(old['cells'], new['cells'])):
        if a['cell_type'] == 'code' and printed(a) != printed(b):
            lines = difflib.unified_diff(printed(a).splitlines(), printed(b).splitlines(), n=0, lineterm='')
            yield i, [line for line in lines if not line.startswith(('---', '+++', '@@'))]


def execute_there(path, python, threads, processor, to):
    "The notebook at `path`, executed by another interpreter; SystemExit with its words where that fails."
    env = {**os.environ, 'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads)}
    env |= dict(PYTHONPATH=str(ROOT), PYTHONWARNINGS='ignore', MPLBACKEND='agg')
    if processor:
        env |= dict(ATEN_CPU_CAPABILITY=processor, ONEDNN_MAX_CPU_ISA=processor.upper())
        env |= dict(
            MKL_ENABLE_INSTRUCTIONS=processor.upper(), NPY_DISABLE_CPU_FEATURES='X86_V4 AVX512_ICL AVX512F AVX512_SKX'
        )
    line = [str(python), __file__, '--here', str(path), str(to)]
    done = subprocess.run(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')
    if done.returncode:
        sys.exit(f'{path} failed there:\n{done.stdout[-3000:]}')
    return json.loads(Path(to).read_text(encoding='utf-8'))


def execute_here(path, to):
    "Execute the notebook at `path` in this process and write it to `to`."
    from execnb.nbio import write_nb

    spec = importlib.util.spec_from_file_location('execute', Path(__file__).with_name('execute.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    write_nb(module.executed(path), to)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--here']:
        sys.exit(execute_here(Path(sys.argv[2]).resolve(), Path(sys.argv[3])))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('notebooks', nargs='+', type=Path)
    p.add_argument('--python', default=sys.executable, help='the interpreter of another environment')
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--processor', choices=['avx2', 'default'], help='use no newer instructions than these')
    p.add_argument('--outputs', action='store_true', help='list each output that changed, too')
    p.add_argument('--keep', type=Path, help='a folder for the executed pages')
    a = p.parse_args()
    lost = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = (a.keep or Path(folder)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for path in a.notebooks:
            old = json.loads(path.read_text(encoding='utf-8'))
            to = folder / '_'.join(path.parts)
            new = execute_there(path.resolve(), a.python, a.threads, a.processor, to)
            found = list(lost_claims(old, new))
            lost += len(found)
            print(f'{path}: {len(found)} numbers in prose changed', flush=True)
            for i, written, words, j in found:
                print(f'  cell {i}: {written} (output of cell {j} before): ...{words}...')
            for i, lines in changed_outputs(old, new) if a.outputs else ():
                print(f'  output of cell {i}:')
                print('\n'.join(f'    {line[:160]}' for line in lines[:12]))
    sys.exit(1 if lost else 0)
