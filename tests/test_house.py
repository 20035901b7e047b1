"""How the house is built: layers, names, exports, packaging. One test a rule; it names every file that breaks it."""

import ast
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import matplotlib.pyplot as plt
import pytest
from house import (BOOK, CFG, ENGINE, LIB, MODULES, NBS, NOTEBOOKS, ROOT, SYNTHPAD, cells_of, code_of, is_exported,
                   library_imports, links, module_of, name_of, parse, rel, report, source, text_of, tracked,
                   without_directives)  # fmt: skip

LESSON = ['pages', 'samples', 'metrics', 'model', 'tpc', 'fda', 'data', 'learner', 'divergence', 'evaluation']
PACKAGES = ['inputs', 'synth', 'train', 'adapt', 'compare', 'use', 'run']  # each may import those before it


# --- rooms


def floor(module):
    "How high a module stands: the lesson in its order, then the packages in theirs."
    if module in LESSON:
        return LESSON.index(module)
    return len(LESSON) + PACKAGES.index(module.split('.')[0])


def test_every_module_has_its_room():
    names = {name_of(path) for path in MODULES}
    lost = [n for n in names if n not in LESSON and n.split('.')[0] not in PACKAGES]
    assert not lost, f'neither a lesson nor in a package: {lost}'
    assert set(LESSON) <= names, f'lessons without a module: {set(LESSON) - names}'


def test_arrows_run_one_way():
    def rule(path):
        "A module imports from the floors below it, or from its own package; nobody imports the commands."
        own = name_of(path)
        for other, _ in library_imports(path):
            if not other or other.startswith('_'):
                continue  # the package itself, its version
            same_package = '.' in own and own.split('.')[0] == other.split('.')[0]
            if other == 'run.cli':
                yield 'imports run.cli'
            elif not same_package and floor(other) >= floor(own):
                yield f'imports {other}'

    report(rule, MODULES)


def test_no_circles():
    arrows = {name_of(path): {o for o, _ in library_imports(path) if o} for path in MODULES}
    done, circles = set(), []

    def visit(module, way):
        if module in way:
            circles.append(' -> '.join([*way[way.index(module) :], module]))
        elif module not in done:
            for other in sorted(arrows.get(module, ())):
                visit(other, [*way, module])
            done.add(module)

    for module in arrows:
        visit(module, [])
    assert not circles, circles


def test_no_private_name_crosses_a_module():
    def rule(path):
        "What two rooms need has a public name in the lower one."
        for module, names in library_imports(path):
            for name in names:
                if name.startswith('_') and name != '__version__':
                    yield f'imports {name} of {module}'

    report(rule, MODULES)

    def on_pages(path):
        "A page uses no private name of another module."
        for code in code_of(path):
            for module, names in re.findall(rf'^\s*from {LIB.name}\.([\w.]+) import ([^#\n]+)', code, flags=re.M):
                for name in re.findall(r'(?<!\w)_[a-z]\w*', names):
                    yield f'imports {name} of {module}'

    report(on_pages, NOTEBOOKS)


def test_lessons_import_no_machinery_at_run_time():
    heavy = {'cv2', 'onnxruntime', 'sklearn.svm', 'h5py', *(f'{LIB.name}.{package}' for package in PACKAGES)}
    code = 'import importlib\n'
    for module in LESSON:  # in one process: what one of them loads, the next ones show as well
        code += f"importlib.import_module('{LIB.name}.{module}')\nprint('{module}', *sys.modules)\n"
    done = python(code)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        module, *loaded = line.split()
        wrong = [o for o in loaded if o in heavy or o.startswith(tuple(f'{h}.' for h in heavy))]
        assert not wrong, f'importing {module} loads {wrong}'


@pytest.mark.parametrize('module', ['samples', 'metrics', 'evaluation'])
def test_imports_without_torch(module):
    done = python(f'import {LIB.name}.{module}\nprint(*{{"torch", "fastai"}} & set(sys.modules))')
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(), f'importing {module} imports {done.stdout}'


def test_every_module_imports():
    "An exported cell that also runs something works in its notebook and fails here."
    lines = [f'importlib.import_module({LIB.name + "." + name_of(path)!r})' for path in MODULES]
    done = python('import importlib\n' + '\n'.join(lines))
    assert done.returncode == 0, done.stderr


def test_the_package_imports_next_to_nothing():
    done = python(f'import {LIB.name}\nprint(*sys.modules)')
    assert done.returncode == 0, done.stderr
    assert not {'torch', 'pandas', 'numpy', 'fastai', 'fastcore', 'matplotlib'} & set(done.stdout.split())


def test_a_name_is_defined_once():
    where = {}
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__':
                for name in ast.literal_eval(node.value):
                    where.setdefault(name, []).append(name_of(path))
    twice = {k: v for k, v in where.items() if len(v) > 1}
    assert not twice, twice


def test_no_array_as_a_default():
    def rule(path):
        "The docs cannot show a signature whose default is an array: use None."
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.FunctionDef):
                for default in [*node.args.defaults, *node.args.kw_defaults]:
                    if isinstance(default, ast.Call) and re.match(r'(np|torch)\.', ast.unparse(default.func)):
                        yield f'{node.name}: {ast.unparse(default)}'

    report(rule, MODULES)


def python(code):
    "Run `code` in a fresh interpreter on the package of this checkout."
    start = f'import sys; sys.path.insert(0, {str(ROOT)!r})\n'
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', start + code], capture_output=True, text=True)


# --- pages as sources


def test_columns():
    def rule(path):
        "88 columns on pages that are read, 120 in machinery and tests; directives and addresses do not count."
        if path.suffix == '.ipynb':
            limit = 120 if path in ENGINE + SYNTHPAD else 88
            lines = [line for code in code_of(path) for line in code.splitlines()]
        else:
            limit, lines = 120, path.read_text(encoding='utf-8').splitlines()
        for line in lines:
            if len(line) > limit and not line.startswith('#|') and 'https://' not in line:
                yield f'{len(line)} columns: {line.strip()[:70]}'

    scripts = [p for folder in ('tests', 'benchmarks', 'scripts') for p in sorted((ROOT / folder).glob('*.py'))]
    report(rule, NOTEBOOKS + scripts)


def test_imports_have_cells_of_their_own():
    def rule(path):
        "nbdev executes each cell that imports, alone, when it builds the docs."
        for code in code_of(path):
            tree = parse(code)
            if tree is None or is_exported(code) or "'google.colab' in sys" in code:
                continue
            importing = any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(tree))
            if importing and not all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body):
                yield without_directives(code).strip().splitlines()[0]

    report(rule, NOTEBOOKS)


def test_a_page_is_named_as_its_module():
    def rule(path):
        "nbs/04_model.ipynb exports `model`, nbs/engine/files.ipynb exports `inputs.files`."
        module = module_of(path)
        stem = re.sub(r'^\d\d_', '', path.stem)
        if module is None:
            if path in ENGINE:
                yield 'exports no module'
        elif stem not in (module.replace('.', '_'), module.split('.')[-1]):
            yield f'exports {module}'

    report(rule, NOTEBOOKS)
    exported = [m for path in NOTEBOOKS if (m := module_of(path))]
    assert sorted(exported) == sorted(name_of(path) for path in MODULES)


def test_lessons_come_in_the_order_of_the_book():
    found = [m for path in BOOK if (m := module_of(path))]
    assert found == [m for m in LESSON if m != 'pages']


GONE = set(  # what fastcore 2 has no more, which `from fastai.vision.all import *` brings with fastcore 1
    'clean_type_str do_request dspread parallel_gen run_procs spread string_classes urlcheck urlrequest urlsend'.split()
)


def test_pages_need_nothing_that_colab_lacks():
    def rule(path):
        "No nbdev, no bar that is a widget, no name that fastcore 2 removed; sliders by `explore`, which draws without."
        read, made = set(), set()
        for code in code_of(path):
            missing = r'^\s*(?:from|import)\s+(?:nbdev|execnb|tqdm\.(?:auto|notebook|autonotebook))\b.*'
            yield from re.findall(missing, code, flags=re.M)
            if path.stem != 'pages' and 'ipywidgets' in code:
                yield 'ipywidgets'
            for node in ast.walk(parse(code) or ast.Module([], [])):
                if isinstance(node, ast.Name):
                    (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
                elif isinstance(node, (ast.FunctionDef, ast.arg)):
                    made.add(getattr(node, 'name', None) or getattr(node, 'arg', None))
                elif isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] in ('fastcore', 'fastai'):
                    read |= {name.name for name in node.names}
        yield from sorted((read - made) & GONE)

    report(rule, NOTEBOOKS)


def test_outputs_are_plain():
    "Text, HTML, Markdown and pictures: what every front end shows, without a widget and without JavaScript."
    plain = {'text/plain', 'text/html', 'text/markdown', 'image/png', 'image/jpeg'}

    def rule(path):
        for i, cell in enumerate(cells_of(path)):
            for data in [output.get('data', {}) for output in cell.get('outputs', [])]:
                yield from [f'cell {i}: {kind}' for kind in set(data) - plain]
                if re.search(r'<script\b|\bon(load|click|error)\s*=', ''.join(data.get('text/html', ''))):
                    yield f'cell {i}: JavaScript'

    report(rule, NOTEBOOKS)


def texts(output):
    "The texts of a stored output, pictures left out."
    data = output.get('data', {})
    found = [output.get('text', ''), *(v for k, v in data.items() if k.startswith('text/') or 'svg' in k)]
    return [re.sub(r'data:image/[^"\')\s]+', '', ''.join(o)) for o in found]


PLACE = r'(?<![\w.\-/:])/(home|root|work|tmp|Users|private|mnt|opt|var|usr|content)/[^\s"\'<]*|\b[A-Z]:\\\w+'


def test_stored_outputs():
    def rule(path):
        "No error, no warning, no path of a machine among the stored outputs."
        for i, cell in enumerate(cells_of(path)):
            for output in cell.get('outputs', []):
                if output['output_type'] == 'error':
                    yield f'cell {i} is stored with an error'
                for text in texts(output):
                    if found := re.search(PLACE, text):
                        yield f'cell {i}: a path of a machine: {found[0]}'
                    if output.get('name') == 'stderr' and 'Warning' in text:
                        yield f'cell {i}: a warning: {text[:100]}'

    report(rule, NOTEBOOKS)


def test_pages_are_executed():
    def rule(path):
        "A page that draws or prints is committed with its outputs."
        if not any(cell.get('outputs') for cell in cells_of(path)) and len(code_of(path)) > 4:
            yield 'no cell has an output'

    report(rule, NOTEBOOKS)


# --- exports


def copy_of_sources(to):
    "What export reads and writes, copied, so that a test changes nothing in the checkout."
    junk = shutil.ignore_patterns('.ipynb_checkpoints', '__pycache__')
    shutil.copytree(NBS, to / 'nbs', ignore=junk)
    shutil.copytree(LIB, to / LIB.name, ignore=junk)
    for name in 'settings.ini', '_quarto.yml', 'pyproject.toml':
        shutil.copy(ROOT / name, to / name)
    return to


def nbdev_run(line, where):
    "Run a line of nbdev in the folder `where`."
    if not importlib.util.find_spec('nbdev'):
        pytest.skip('nbdev is not installed here: only `.[dev]` brings it')
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}  # where it is set, nbdev_export does nothing
    done = subprocess.run([sys.executable, '-c', line], cwd=where, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def changed(old, new, pattern):
    "The files that differ between two folders."
    files = {p.relative_to(o) for o in (old, new) for p in o.rglob(pattern)}
    files = {p for p in files if not {'__pycache__', '.ipynb_checkpoints'} & set(p.parts)}

    def same(p):
        return (old / p).exists() and (new / p).exists() and (old / p).read_bytes() == (new / p).read_bytes()

    return sorted(p.as_posix() for p in files if not same(p))


def test_exported_modules_in_step(tmp_path):
    copy = copy_of_sources(tmp_path)
    for path in (copy / LIB.name).rglob('*.py'):  # a module that no notebook exports any more would stay
        if path.name != '__init__.py':
            path.unlink()
    nbdev_run('from nbdev.doclinks import nbdev_export; nbdev_export()', copy)
    different = changed(LIB, copy / LIB.name, '*.py')
    assert not different, f'not what the notebooks export: edit the notebook and run `nbdev_export`: {different}'


def test_notebooks_are_clean(tmp_path):
    copy = copy_of_sources(tmp_path)
    nbdev_run('from nbdev.clean import nbdev_clean; nbdev_clean()', copy)
    assert not changed(NBS, copy / 'nbs', '*.ipynb'), 'not clean: run `nbdev_clean`'


def test_code_is_laid_out():
    if not shutil.which('ruff'):
        pytest.skip('ruff is not installed here: only `.[dev]` brings it')
    line = ['ruff', 'format', '--no-cache', '--check', '--quiet', 'nbs', 'tests', 'benchmarks', 'scripts', 'setup.py']
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f'run `ruff format`: {done.stdout}{done.stderr}'


# --- packaging and docs


def test_quarto_settings_are_found():
    "nbdev looks for nbs/_quarto.yml; the one at the top is for people."
    assert (NBS / '_quarto.yml').read_bytes() == (ROOT / '_quarto.yml').read_bytes()
    assert 'commonmark' not in (ROOT / '_quarto.yml').read_text(encoding='utf-8')  # renames a file that is not there


def test_no_link_is_tracked():
    links_ = [rel(p) for p in tracked() if p.is_symlink()]
    assert not links_, f'a clone without links reads their text: {links_}'


def test_results_lie_in_one_place():
    strays = [rel(p) for p in tracked() if p.suffix == '.csv' and NBS in p.parents]
    assert not strays, f'tables belong into {rel(LIB)}/results: {strays}'
    assert (LIB / 'results/references.bib').read_bytes() == (NBS / 'references.bib').read_bytes()


def script(name):
    "A script of this project as a module."
    spec = importlib.util.spec_from_file_location(name, ROOT / f'scripts/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_cut_picture_is_seen():
    is_cut = script('run_plain').is_cut

    def png(label):
        fig, out = plt.figure(figsize=(2, 1)), io.BytesIO()
        fig.text(0.5, 0.5, label, ha='center')
        fig.savefig(out, transparent=True)
        plt.close(fig)
        return out.getvalue()

    assert is_cut(png('longer than its figure ' * 3)) and not is_cut(png('short'))


def test_readme_in_step():
    want = script('readme').readme(json.loads((NBS / CFG['readme_nb']).read_text(encoding='utf-8')))
    assert (ROOT / 'README.md').read_text(encoding='utf-8') == want, 'run `python scripts/readme.py`'


def test_readme_rule():
    def code(text, *outputs):
        return dict(cell_type='code', source=text, outputs=list(outputs))

    printed = dict(output_type='stream', name='stdout', text=['7\n', '8\n'])
    picture = dict(output_type='display_data', data={'image/png': 'x', 'text/plain': '<Figure>'})
    cells = [
        dict(cell_type='markdown', source='See [a](10_a.ipynb#b), [c](../C.md), [d](https://e.f) and `[g](h.md)`.'),
        code('#| hide\nimport os', printed),
        code('#| eval: false\n1 + 6', printed, picture),
        code('#| echo: false\nplot()', printed),
    ]
    want = 'See [a](nbs/10_a.ipynb#b), [c](C.md), [d](https://e.f) and `[g](h.md)`.\n\n'
    want += '```python\n1 + 6\n```\n\n    7\n    8\n\n    7\n    8\n'
    assert script('readme').readme(dict(cells=cells)).split('\n\n', 1)[1] == want


def test_commands_exist():
    cli = ast.parse((LIB / 'run/cli.py').read_text(encoding='utf-8'))
    defined = {node.name for node in cli.body if isinstance(node, ast.FunctionDef)}
    for command, where in (o.split('=') for o in CFG['console_scripts'].split()):
        assert where == f'{LIB.name}.run.cli:{command}'
        assert command in defined, f'{command} is not in run/cli.py'


def test_pyproject_in_step():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    assert project['name'] == CFG['lib_name'] and project['requires-python'] == f'>={CFG["min_python"]}'
    version = re.search(r'__version__ = "([^"]+)"', (LIB / '__init__.py').read_text(encoding='utf-8'))[1]
    assert version == CFG['version']


def test_links_lead_somewhere():
    def rule(path):
        "A relative link leads to a file."
        text = path.read_text(encoding='utf-8') if path.suffix == '.md' else text_of(path)
        for target in links(text):
            if not (path.parent / target).exists():
                yield target

    report(rule, [p for p in tracked() if p.suffix == '.md' or p in NOTEBOOKS])


def test_nothing_heavy_or_locked():
    "No big files, and no lock files: those carry download addresses."
    lock = r'.*\.lock|.*[.-]lock\.(ya?ml|json|txt)|pylock.*\.toml|requirements.*\.txt'
    for path in tracked():
        most = 1.5e6 if path.suffix == '.ipynb' else 5e6
        assert path.stat().st_size < most, f'{rel(path)} is over {most / 1e6} MB'
        assert not re.fullmatch(lock, path.name), f'{rel(path)}: settings.ini is where requirements are'


def test_the_gate_and_the_docs_workflow_name_what_is_there():
    gate = (ROOT / '.ci/run').read_text(encoding='utf-8')
    assert 'scripts/docs.py proc' in gate and 'nbdev_test' in gate
    workflow = (ROOT / '.github/workflows/docs.yml').read_text(encoding='utf-8')
    assert 'scripts/docs.py render' in workflow and 'quarto' in workflow


# --- what CONTRIBUTING promises


def test_ten_lines_of_contributing_run(tmp_path):
    "The reader and the baseline of CONTRIBUTING.md, as they stand there."
    import numpy as np
    from PIL import Image

    from gfa_fastai.compare.baselines import BASELINES
    from gfa_fastai.inputs.datasets import READERS

    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    dataset, baseline = re.findall(r'^```python\n(.*?)^```', text, flags=re.M | re.S)
    names = {}
    try:
        exec(dataset, names)
        exec(baseline, names)
        for o in 'train/real/ann_1', 'train/fake/ann_2', 'dev/real/ben_1', 'test/real/carl_1', 'test/fake/carl_2':
            clip = tmp_path / f'{o}.mp4'
            clip.parent.mkdir(parents=True, exist_ok=True)
            clip.touch()
        df = READERS['mine'](tmp_path)
        assert df.groupby('split').subject.unique().str[0].to_dict() == dict(dev='ben', test='carl', train='ann')
        assert (df.label == 'live').sum() == 3
        rng = np.random.default_rng(0)
        for i, label in enumerate(df.label):
            pixels = rng.integers(0, 100, (32, 32, 3)) + 100 * (label == 'live')
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f'{i}.png')
        paths = [str(tmp_path / f'{i}.png') for i in range(len(df))]
        frames = df.assign(frame_path=paths, face_path=paths)
        model = names['make_baseline']('Mean colour', progress=False, workers=1).fit(frames)
        scores = model.score(frames)
        assert scores.score[scores.label == 'live'].min() > scores.score[scores.label == 'attack'].max()
    finally:
        READERS.pop('mine', None)
        BASELINES.pop('Mean colour', None)
