"""What holds for the project as a whole: notebooks, exported modules, README, packaging, links."""

import ast, configparser, importlib.util, json, os, re, shutil, statistics, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
_parser = configparser.ConfigParser(delimiters=['='])
_parser.read(ROOT / 'settings.ini', encoding='utf-8')
CFG = _parser['DEFAULT']
LIB = ROOT / CFG['lib_path']

NOTEBOOKS = sorted(
    p for p in (ROOT / 'nbs').rglob('*.ipynb') if not any(o[0] in '_.' for o in p.relative_to(ROOT).parts)
)
CHAPTERS = [p for p in NOTEBOOKS if re.match(r'\d\d_', p.name)]
MODULES = sorted(p for p in LIB.rglob('*.py') if not p.name.startswith('_'))


def rel(path):
    return path.relative_to(ROOT).as_posix()


def each(paths):
    return pytest.mark.parametrize('path', paths, ids=rel)


def load(path):
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def src(cell):
    return ''.join(cell['source'])


def code_of(path):
    return [src(c) for c in load(path) if c['cell_type'] == 'code']


def module_of(path):
    "The module that a notebook exports, as `synth.faces`; None where it exports none."
    found = [m[1] for s in code_of(path) if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', s, flags=re.M))]
    assert len(found) < 2, f'{rel(path)}: {len(found)} cells with default_exp'
    return found[0] if found else None


def texts(output):
    "The texts of a stored output, pictures left out."
    out = [output.get('text', '')] + [
        v for k, v in output.get('data', {}).items() if k.startswith('text/') or 'svg' in k
    ]
    return [re.sub(r'data:image/[^"\')\s]+', '', ''.join(o)) for o in out]


# --- notebooks


@each(NOTEBOOKS)
def test_title(path):
    "The first cell is `# Title` and `> one line`, alone: text after them in the same cell does not render."
    first = load(path)[0]
    assert first['cell_type'] == 'markdown' and re.fullmatch(r'# [^\n]+\n\n> [^\n]+\n*', src(first)), src(first)


@each(NOTEBOOKS)
def test_colab_badge(path):
    want = f'https://colab.research.google.com/github/{CFG["user"]}/{CFG["repo"]}/blob/{CFG["branch"]}/{rel(path)}'
    found = re.findall(r'\]\((https://colab\.research\.google\.com/github/[^)\s]*)\)', '\n'.join(map(src, load(path))))
    if path in CHAPTERS:
        assert found, f'no Colab badge: it should lead to {want}'
    assert set(found) <= {want}, f'the badge should lead to {want}'


@each(NOTEBOOKS)
def test_installs_on_colab_only(path):
    installs = [s for s in code_of(path) if re.search(r'^\s*[%!]\s*(uv )?pip ', s, flags=re.M)]
    if path in CHAPTERS:
        assert installs, 'no install cell for Colab'
    for s in installs:
        assert re.search(r"^if 'google\.colab' in sys\.modules:\s*\n\s+[%!]", s, flags=re.M), (
            f'an install that is not guarded:\n{s}'
        )
        assert s.startswith('#| hide'), f'an install cell is hidden from the docs:\n{s}'
        assert set(re.findall(r'git\+(\S+)', s)) == {f'https://github.com/{CFG["user"]}/{CFG["repo"]}'}, s


@each(NOTEBOOKS)
def test_no_nbdev_import(path):
    for s in code_of(path):
        assert not re.search(r'^\s*(from|import)\s+(nbdev|execnb)\b', s, flags=re.M), s


@each(NOTEBOOKS)
def test_stored_outputs(path):
    "No error, no warning, no path of a machine among the stored outputs."
    for i, cell in enumerate(load(path)):
        for o in cell.get('outputs', []):
            assert o['output_type'] != 'error', f'cell {i} is stored with an error'
            for text in texts(o):
                found = re.search(
                    r'(?<![\w.\-/:])/(home|root|work|tmp|Users|private|mnt|opt|var|usr|content)/[^\s"\'<]*|\b[A-Z]:\\\w+',
                    text,
                )
                assert not found, f'cell {i}: a path of a machine in an output: {found[0]}'
                assert not (o.get('name') == 'stderr' and 'Warning' in text), (
                    f'cell {i}: a warning in an output: {text[:200]}'
                )


@each(NOTEBOOKS)
def test_size(path):
    assert path.stat().st_size < 1.5e6, f'{path.stat().st_size / 1e6:.2f} MB: smaller figures'


@each(CHAPTERS)
def test_closing_sections(path):
    text = '\n'.join(src(c) for c in load(path) if c['cell_type'] == 'markdown')
    for heading in 'Summary', 'Exercises':
        assert re.search(rf'^##+ {heading}\s*$', text, flags=re.M), f'no section {heading}'
    exercises = re.split(r'^##+ Exercises\s*$', text, flags=re.M)[-1]
    assert exercises.count('<details>') >= 3, 'three exercises or more, their answers folded by <details>'
    assert text.count('<details>') == text.count('</details>')


@each(CHAPTERS)
def test_file_name_is_module_name(path):
    module = module_of(path)
    assert module, 'a chapter exports a module: no default_exp'
    assert path.stem[3:] in (module.replace('.', '_'), module.split('.')[-1]), f'{path.name} exports {module}'


@each(CHAPTERS)
def test_chapters_import_from_above(path):
    "A chapter defines its own module and builds on those with a smaller number."
    numbers, own = module_numbers(), module_of(path)
    for s in code_of(path):
        for name in re.findall(rf'^\s*(?:from|import)\s+{CFG["lib_name"]}\.([\w.]+)', s, flags=re.M):
            above = [n for m, n in numbers.items() if name == m or name.startswith(m + '.') or m.startswith(name + '.')]
            assert above and max(above) < numbers[own], f'{own} may not import {name}:\n{s}'


# --- exported modules


def copy_of_sources(to):
    "What export reads and writes, copied, so that a test changes nothing in the checkout."
    shutil.copytree(
        ROOT / 'nbs', to / 'nbs', symlinks=True, ignore=shutil.ignore_patterns('.ipynb_checkpoints', '__pycache__')
    )
    shutil.copytree(LIB, to / LIB.name, ignore=shutil.ignore_patterns('__pycache__'))
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
    files = [p for p in files if '__pycache__' not in p.parts and '.ipynb_checkpoints' not in p.parts]
    return sorted(
        p.as_posix()
        for p in files
        if not ((old / p).exists() and (new / p).exists() and (old / p).read_bytes() == (new / p).read_bytes())
    )


def test_exported_modules_in_step(tmp_path):
    copy = copy_of_sources(tmp_path)
    for p in (copy / LIB.name).rglob('*.py'):  # a module that no notebook exports any more would stay
        if p.name != '__init__.py':
            p.unlink()
    nbdev_run('from nbdev.doclinks import nbdev_export; nbdev_export()', copy)
    assert not changed(LIB, copy / LIB.name, '*.py'), (
        'not what the notebooks export: edit the notebook and run `nbdev_export`'
    )


def test_notebooks_are_clean(tmp_path):
    copy = copy_of_sources(tmp_path)
    nbdev_run('from nbdev.clean import nbdev_clean; nbdev_clean()', copy)
    assert not changed(ROOT / 'nbs', copy / 'nbs', '*.ipynb'), 'not clean: run `nbdev_clean`'


def module_numbers():
    "Chapter number of each module, by its name: what may be imported by which."
    return {m: int(p.name[:2]) for p in CHAPTERS if (m := module_of(p))}


def name_of(path):
    return '.'.join(path.relative_to(LIB).with_suffix('').parts)


def imports(path):
    "The modules of this library that a module imports, wherever in it."
    package = [LIB.name, *path.relative_to(LIB).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = '.'.join(base + ([node.module] if node.module else []))
            names = [f'{base}.{a.name}' for a in node.names] if (ROOT / base.replace('.', '/')).is_dir() else [base]
        else:
            continue
        for n in names:
            if n == LIB.name or n.startswith(LIB.name + '.'):
                yield n[len(LIB.name) + 1 :]


@each(MODULES)
def test_layers(path):
    "A module imports only from those whose chapter has a smaller number; nobody imports cli."
    numbers, own = module_numbers(), name_of(path)
    assert own in numbers, f'{own} is exported by no chapter'
    for name in imports(path):
        if not name or name.startswith('__'):
            continue  # the package itself, its version
        assert name != 'cli', 'nobody imports cli'
        assert name in numbers, f'{own} imports {name}, which no chapter exports'
        assert numbers[name] < numbers[own], f'{own} (chapter {numbers[own]}) imports {name} (chapter {numbers[name]})'


def test_a_name_is_defined_once():
    where = {}
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__':
                for name in ast.literal_eval(node.value):
                    where.setdefault(name, []).append(name_of(path))
    twice = {k: v for k, v in where.items() if len(v) > 1}
    assert not twice, twice


def python(code):
    "Run `code` in a fresh interpreter on the package of this checkout."
    return subprocess.run(
        [sys.executable, '-c', f'import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}'], capture_output=True, text=True
    )


@pytest.mark.parametrize('module', ['metrics', 'samples', 'evaluation'])
def test_imports_without_torch(module):
    if not (LIB / f'{module}.py').exists():
        pytest.skip(f'{module} is not written yet')
    done = python(f'import {LIB.name}.{module}\nprint(*{{"torch", "fastai"}} & set(sys.modules))')
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(), f'importing {module} imports {done.stdout}'


def test_every_module_imports():
    "An exported cell that also runs something works in its notebook and fails here."
    done = python(
        'import importlib\n' + '\n'.join(f'importlib.import_module({LIB.name + "." + name_of(p)!r})' for p in MODULES)
    )
    assert done.returncode == 0, done.stderr


def test_the_package_imports_next_to_nothing():
    done = python(
        f"before = set(sys.modules)\nimport {LIB.name}\nprint(*sorted(m for m in set(sys.modules)-before if not m.startswith({LIB.name!r})))"
    )
    assert done.returncode == 0, done.stderr
    assert not {'torch', 'pandas', 'numpy', 'fastai', 'fastcore', 'matplotlib'} & set(done.stdout.split())


# --- packaging and docs


def test_quarto_settings_are_found():
    "nbdev looks for nbs/_quarto.yml only; ours lies at the top."
    link = ROOT / 'nbs/_quarto.yml'
    assert link.is_symlink() and os.readlink(link) == '../_quarto.yml'


def script(name):
    "A script of this project as a module."
    spec = importlib.util.spec_from_file_location(name, ROOT / f'scripts/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_in_step():
    want = script('readme').readme(json.loads((ROOT / 'nbs' / CFG['readme_nb']).read_text(encoding='utf-8')))
    assert (ROOT / 'README.md').read_text(encoding='utf-8') == want, 'run `python scripts/readme.py`'


def test_readme_rule():
    def code(source, *outputs):
        return dict(cell_type='code', source=source, outputs=list(outputs))

    printed, picture = (
        dict(output_type='stream', name='stdout', text=['7\n', '8\n']),
        dict(output_type='display_data', data={'image/png': 'x', 'text/plain': '<Figure>'}),
    )
    cells = [
        dict(cell_type='markdown', source='See [a](10_a.ipynb#b), [c](../C.md), [d](https://e.f) and `[g](h.md)`.'),
        code('#| hide\nimport os', printed),
        code('#| eval: false\n1 + 6', printed, picture),
        code('#| echo: false\nplot()', printed),
    ]
    assert (
        script('readme').readme(dict(cells=cells)).split('\n\n', 1)[1]
        == 'See [a](nbs/10_a.ipynb#b), [c](C.md), [d](https://e.f) and `[g](h.md)`.\n\n```python\n1 + 6\n```\n\n    7\n    8\n\n    7\n    8\n'
    )


def test_commands_exist():
    commands = dict(o.split('=') for o in CFG['console_scripts'].split())
    if not (LIB / 'cli.py').exists():
        pytest.skip('cli is not written yet')
    defined = {
        n.name for n in ast.parse((LIB / 'cli.py').read_text(encoding='utf-8')).body if isinstance(n, ast.FunctionDef)
    }
    for command, where in commands.items():
        assert where == f'{LIB.name}.cli:{command}'
        assert command in defined, f'{command} is not in cli.py'


def test_pyproject_in_step():
    import tomllib

    project = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    assert project['name'] == CFG['lib_name'] and project['requires-python'] == f'>={CFG["min_python"]}'
    version = re.search(r'__version__ = "([^"]+)"', (LIB / '__init__.py').read_text(encoding='utf-8'))[1]
    assert version == CFG['version']


def tracked():
    "The files that git knows, or would add."
    done = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip('not a git checkout')
    return [p for o in done.stdout.split('\0') if o and ((p := ROOT / o).exists())]


def links(text):
    "Targets of the relative links in markdown, code and formulas left out."
    text = re.sub(r'^(```|~~~).*?^\1|``.*?``|`[^`\n]*`|\$\$.*?\$\$|(?<![\\$])\$[^$\n]+\$', '', text, flags=re.M | re.S)
    found = re.findall(r'\]\(\s*<?([^)\s>]+)', text) + re.findall(r'\b(?:src|href)="([^"]+)"', text)
    return [t for o in found if not re.match(r'[a-z][a-z0-9+.-]*:|#|//', o) and (t := re.split(r'[#?]', o)[0])]


def test_links_lead_somewhere():
    broken = []
    for path in tracked():
        if path.suffix == '.md':
            text = path.read_text(encoding='utf-8')
        elif path in NOTEBOOKS:
            text = '\n\n'.join(src(c) for c in load(path) if c['cell_type'] == 'markdown')
        else:
            continue
        broken += [f'{rel(path)}: {o}' for o in links(text) if not (path.parent / o).exists()]
    assert not broken, broken


def test_nothing_heavy_or_locked():
    "No big files, and no lock files: those carry download addresses."
    for path in tracked():
        assert path.is_symlink() or path.stat().st_size < 5e6, f'{rel(path)} is over 5 MB'
        locked = re.fullmatch(
            r'.*\.lock|.*[.-]lock\.(ya?ml|json|txt)|pylock.*\.toml|constraints.*\.txt|requirements.*\.txt', path.name
        )
        assert not locked, f'{rel(path)}: settings.ini is where requirements are'
