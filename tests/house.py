"""What the tests of the house and of the book share: pages, modules, and one report for a rule that many files
must keep."""

import ast
import configparser
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_parser = configparser.ConfigParser(delimiters=['='])
_parser.read(ROOT / 'settings.ini', encoding='utf-8')
CFG = _parser['DEFAULT']
LIB = ROOT / CFG['lib_path']
NBS = ROOT / 'nbs'
HOME = f'https://github.com/{CFG["user"]}/{CFG["repo"]}'

NOTEBOOKS = sorted(p for p in NBS.rglob('*.ipynb') if not any(o[0] in '_.' for o in p.relative_to(ROOT).parts))
BOOK = [p for p in NOTEBOOKS if p.parent == NBS and re.match(r'\d\d_', p.name)]
ENGINE, SYNTHPAD, PAPER, GUIDES = (
    [p for p in NOTEBOOKS if p.parent.name == folder] for folder in ('engine', 'synthpad', 'paper', 'guides')
)
MODULES = sorted(p for p in LIB.rglob('*.py') if not p.name.startswith('_'))


def rel(path):
    return path.relative_to(ROOT).as_posix()


def report(rule, files):
    "Fail with every file that breaks a rule: `rule(path)` gives the faults of one file, in words."
    faults = [f'{rel(path)}: {fault}' for path in files for fault in rule(path) or ()]
    assert not faults, f'{rule.__doc__ or rule.__name__}\n' + '\n'.join(faults)


def cells_of(path):
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def source(cell):
    return ''.join(cell['source'])


def code_of(path):
    return [source(c) for c in cells_of(path) if c['cell_type'] == 'code']


def text_of(path):
    return '\n\n'.join(source(c) for c in cells_of(path) if c['cell_type'] == 'markdown')


def prose(path):
    "The markdown of a page, code left out."
    return re.sub(r'^(```|~~~).*?^\1|``.*?``|`[^`\n]*`', '', text_of(path), flags=re.M | re.S)


def is_exported(code):
    return bool(re.search(r'^#\|\s*exports?\s*$', code, flags=re.M))


def without_directives(code):
    return '\n'.join(line for line in code.splitlines() if not line.startswith('#|'))


def parse(code):
    "The syntax tree of a cell; None where it holds magics."
    try:
        return ast.parse(without_directives(code))
    except SyntaxError:
        return None


def module_of(path):
    "The module that a page exports, as `synth.faces`; None where it exports none."
    found = [m[1] for code in code_of(path) if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', code, flags=re.M))]
    assert len(found) < 2, f'{rel(path)}: {len(found)} cells with default_exp'
    return found[0] if found else None


def name_of(path):
    "The name of a module of the library, as `synth.faces`."
    return '.'.join(path.relative_to(LIB).with_suffix('').parts)


def library_imports(path):
    "Pairs (module, names) that a module imports from this library, wherever in it, relative imports resolved."
    package = [LIB.name, *path.relative_to(LIB).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split('.')[0] == LIB.name:
                    yield alias.name.removeprefix(LIB.name).lstrip('.'), []
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        full = '.'.join([*base, *([node.module] if node.module else [])])
        if full.split('.')[0] != LIB.name:
            continue
        names = [alias.name for alias in node.names]
        if (ROOT / full.replace('.', '/')).is_dir():  # `from gfa_fastai.inputs import datasets`
            for name in names:
                yield f'{full}.{name}'.removeprefix(LIB.name).lstrip('.'), []
        else:
            yield full.removeprefix(LIB.name).lstrip('.'), names


def tracked():
    "The files that git knows, or would add."
    line = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip('not a git checkout')
    return [path for name in done.stdout.split('\0') if name and (path := ROOT / name).exists()]


def links(text):
    "Targets of the relative links in markdown, code and formulas left out."
    text = re.sub(r'^(```|~~~).*?^\1|``.*?``|`[^`\n]*`|\$\$.*?\$\$|(?<![\\$])\$[^$\n]+\$', '', text, flags=re.M | re.S)
    found = re.findall(r'\]\(\s*<?([^)\s>]+)', text) + re.findall(r'\b(?:src|href)="([^"]+)"', text)
    relative = [o for o in found if not re.match(r'[a-z][a-z0-9+.-]*:|#|//', o)]
    return [target for o in relative if (target := re.split(r'[#?]', o)[0])]
