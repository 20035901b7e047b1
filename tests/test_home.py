"Where the repository lives is one setting, and `scripts/home.py` writes it wherever it is said."

import re
import shutil

import pytest
from house import LIB, NBS, NOTEBOOKS, ROOT, code_of, links, rel, report, text_of, tracked
from test_house import script

home = script('home')
CHANGED_BY_HOME = ['README.md', '_quarto.yml', 'gfa_fastai/_modidx.py', 'nbs/_quarto.yml', 'settings.ini']


@pytest.fixture
def copy(tmp_path):
    "The files that say where the repository lives, copied."
    shutil.copytree(NBS, tmp_path / 'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints', '__pycache__'))
    (tmp_path / LIB.name).mkdir()
    for name in 'README.md', '_quarto.yml', f'{LIB.name}/_modidx.py', 'settings.ini':
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_every_file_says_what_the_setting_says():
    changed = home.write_home(home.read_home(), check=True)
    assert not changed, f'run `python scripts/home.py`: {changed}'


def test_a_new_home_reaches_every_page_and_can_be_taken_back(copy):
    before, setting = contents(copy), home.read_home(copy)
    elsewhere = home.Home('ann-example', 'liveness', 'dev')
    changed = home.write_home(elsewhere, copy)
    assert sorted(changed) == sorted(CHANGED_BY_HOME + [rel(p) for p in NOTEBOOKS])
    assert home.read_home(copy) == elsewhere
    for path in NOTEBOOKS:
        page = copy / rel(path)
        badges = re.findall(r'href="(https://colab[^"]+)"', text_of(page))
        assert badges == [f'https://colab.research.google.com/github/ann-example/liveness/blob/dev/{rel(path)}']
        installs = [code for code in code_of(page) if 'google.colab' in code and '%pip' in code]
        assert len(installs) == 1 and '-q git+https://github.com/ann-example/liveness' in installs[0]
    readme = (copy / 'README.md').read_text(encoding='utf-8')
    assert '\npip install git+https://github.com/ann-example/liveness\n' in readme
    assert '](https://github.com/ann-example/liveness/blob/dev/CONTRIBUTING.md)' in readme
    assert '](https://ann-example.github.io/liveness)' in readme
    home.write_home(setting, copy)
    assert contents(copy) == before


def test_no_address_yet(copy):
    home.write_home(home.Home(''), copy)
    for path in NOTEBOOKS:
        page = copy / rel(path)
        assert 'colab-badge' not in text_of(page), 'a badge that leads nowhere'
        assert 'git+https' not in text_of(page) + ''.join(code_of(page)), rel(path)
    readme = (copy / 'README.md').read_text(encoding='utf-8')
    assert '\npip install -e .\n' in readme
    for target in links(readme):
        assert (ROOT / target).exists(), target


def test_no_other_address():
    own = home.read_home().url or None

    def rule(path):
        "An address of this library in a file that scripts/home.py does not know."
        for found in re.findall(r'https://github\.com/[\w.-]+/gfa_fastai\b', path.read_text(encoding='utf-8')):
            if found != own:
                yield found

    texts = {'.md', '.ipynb', '.py', '.yml', '.ini', '.toml', '.sh', '.in'}
    report(rule, [p for p in tracked() if p.suffix in texts and p != ROOT / 'tests/test_home.py'])
