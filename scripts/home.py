"""Where the repository lives, written wherever it is said.

python scripts/home.py USER/REPO [--branch NAME]   it lives at github.com/USER/REPO
python scripts/home.py none                        it has no address yet
python scripts/home.py                             as settings.ini has it
python scripts/home.py --check                     write nothing; exit status 1 where a file says something else

The setting is `user`, `repo` and `branch` of settings.ini; an empty `user` stands for "no address yet". Without an
address the pages have no Colab badge, the install cells say what to upload, and README's commands are those of a
checkout. README.md is made anew from nbs/index.ipynb."""

import argparse, importlib.util, json, os, re, sys
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Home:
    "Where the repository lives; no `user`: not known."

    user: str
    repo: str = 'gfa_fastai'
    branch: str = 'main'

    @property
    def url(self):
        return f'https://github.com/{self.user}/{self.repo}' if self.user else ''

    @property
    def docs(self):
        return f'https://{self.user}.github.io' if self.user else ''

    def fill(self, text):
        "A text with {url}, {docs} and {name_of_docs} filled in."
        name_of_docs = f'{self.docs}/{self.repo}'.removeprefix('https://')
        words = dict(url=self.url, docs=f'{self.docs}/{self.repo}', name_of_docs=name_of_docs)
        return re.sub(r'\{(url|docs|name_of_docs)\}', lambda m: words[m[1]], text)


# --- sentences and lines that name the address: with it, and without

FORMS = {
    'nbs/index.ipynb': [
        ('pip install git+{url}\n\n# ', 'pip install -e .\n\n# '),
        (
            'In a checkout the first command is `pip install -e .` No dataset and no GPU are needed. '
            'The documentation is at [{name_of_docs}]({docs}).',
            'Run both commands in your copy of the repository. No dataset and no GPU are needed.',
        ),
        ('  url    = {{url}}, version =', '  version ='),
    ],
    'nbs/guides/gpus.ipynb': [
        ('pip install "gfa_fastai[distributed] @ git+{url}"', "pip install -e '.[distributed]'   # in the checkout")
    ],
    'nbs/engine/export.ipynb': [
        ('`pip install "gfa_fastai[export] @ git+{url}"`', "in a checkout `pip install -e '.[export]'`"),
        ('`pip install "gfa_fastai[explain] @ git+{url}"`', "in a checkout `pip install -e '.[explain]'`"),
    ],
    'nbs/guides/troubleshooting.ipynb': [
        ('in a cell: `%pip install git+{url}`', 'in a cell: `%pip install -e FOLDER_OF_THE_CHECKOUT`')
    ],
}
TOOLS = """    tools:
      - icon: github
        href: {url}
        text: Source
"""
FORMS['_quarto.yml'] = FORMS['nbs/_quarto.yml'] = [(TOOLS, '    # no address of the source yet\n')]
ADDRESS = r'https://[\w./-]+?'


def pattern_of(form):
    "A regular expression that finds a form, whatever the address in it."
    parts = re.split(r'\{(?:url|docs|name_of_docs)\}', form)
    return r'[\w:/.-]+?'.join(re.escape(part) for part in parts)


def sentences(text, forms, home):
    "The text with each of its `forms` as `home` has it; ValueError where one is missing."
    for known, unknown in forms:
        pattern = f'{pattern_of(known)}|{pattern_of(unknown)}'
        want = home.fill(known if home.user else unknown)
        text, n = re.subn(pattern, lambda m, want=want: want, text)
        if n == 0:
            raise ValueError(f'not found: {known!r} or {unknown!r}')
    return text


# --- links to files of the repository that are no pages


def repository_links(text, folder, home):
    "Links to files outside nbs/: by their address, or relative to the page's `folder` where there is none."

    def link(m):
        path = m['path'] or os.path.normpath(folder / m['relative'])
        file = ROOT / path
        if not file.exists() or (ROOT / 'nbs') in file.parents:
            return m[0]
        if not home.user:
            return f']({os.path.relpath(file, ROOT / folder)})'.replace(os.sep, '/')
        return f']({home.url}/{"tree" if file.is_dir() else "blob"}/{home.branch}/{path})'.replace(os.sep, '/')

    known = r'https://github\.com/[\w.-]+/[\w.-]+/(?:blob|tree)/[\w.-]+/(?P<path>[^)\s#]+)'
    return re.sub(rf'\]\((?:{known}|(?P<relative>(?:\.\./)+[^)\s#]+))\)', link, text)


# --- the first cells of a page


def badge_cell(page, home):
    "The cell with the Colab badge of `page`, a path such as nbs/05_tpc.ipynb."
    target = f'https://colab.research.google.com/github/{home.user}/{home.repo}/blob/{home.branch}/{page}'
    image = '<img src="https://colab.research.google.com/assets/colab-badge.svg" alt="Open this page in Colab">'
    source = f'<a href="{target}">{image}</a>'
    return dict(cell_type='markdown', id='colab-badge', metadata={}, source=[source])


UPLOAD = """#| hide
# On Colab: install the library. Its repository has no address yet: in your copy, run
# `git archive -o gfa_fastai.zip HEAD`, and upload the file to Colab (Files, left).
import sys

if 'google.colab' in sys.modules:
    %pip install -q gfa_fastai.zip"""
FETCH = """#| hide
# On Colab: install the library (until there is a release, from the repository).
import sys

if 'google.colab' in sys.modules:
    %pip install -q git+{url}"""


def install_cell(source, home):
    "The install cell of a page as `home` has it; the other packages that it installs stay."
    packages = re.search(r'%pip install -q \S+(.*)$', source)[1]
    return home.fill(FETCH if home.user else UPLOAD) + packages


def is_badge(cell):
    return cell['cell_type'] == 'markdown' and 'colab-badge.svg' in ''.join(cell['source'])


def is_install(cell):
    source = ''.join(cell['source'])
    return cell['cell_type'] == 'code' and "if 'google.colab' in sys.modules:\n    %pip install -q " in source


def notebook(text, page, home):
    "The text of the notebook `page` as `home` has it."
    nb = json.loads(text)
    cells = [cell for cell in nb['cells'] if not is_badge(cell)]
    if home.user:
        cells.insert(1, badge_cell(page, home))
    for cell in cells:
        source = ''.join(cell['source'])
        if is_install(cell):
            source = install_cell(source, home)
        elif cell['cell_type'] == 'markdown':
            source = repository_links(source, Path(page).parent, home)
        cell['source'] = source.splitlines(keepends=True)
    if page in FORMS:
        fill_cells(cells, FORMS[page], home)
    return json.dumps(dict(nb, cells=cells), ensure_ascii=False, indent=1, sort_keys=True) + '\n'


def fill_cells(cells, forms, home):
    "Each form in the cell that has it."
    for form in forms:
        found = False
        for cell in cells:
            try:
                source = sentences(''.join(cell['source']), [form], home)
            except ValueError:
                continue
            cell['source'], found = source.splitlines(keepends=True), True
        if not found:
            raise ValueError(f'not found: {form[0]!r} or {form[1]!r}')


# --- settings


def read_home(root=ROOT):
    "The setting."
    text = (root / 'settings.ini').read_text(encoding='utf-8')
    value = {k: re.search(rf'^{k} *=[ \t]*(.*)$', text, flags=re.M)[1].strip() for k in ('user', 'repo', 'branch')}
    return Home(**value)


def settings(text, home):
    "settings.ini as `home` has it."
    lines = dict(
        user=home.user,
        repo=home.repo,
        branch=home.branch,
        git_url='https://github.com/%(user)s/%(repo)s' if home.user else '',
        doc_host='https://%(user)s.github.io' if home.user else '',
    )
    for key, value in lines.items():
        text = re.sub(rf'^{key} *=.*$', f'{key} = {value}'.rstrip(), text, flags=re.M)
    return text


def module_index(text, home):
    "gfa_fastai/_modidx.py, as nbdev_export writes it, with the address of `home`."
    names = {}
    exec(text, names)
    d = names['d']
    d['settings'].update(branch=home.branch, doc_baseurl=f'/{home.repo}', doc_host=home.docs, git_url=home.url)
    return '# Autogenerated by nbdev\n\nd = ' + pformat(d, width=140, indent=2, compact=True) + '\n'


# --- all of it


def files(root, home):
    "Pairs (path, text) of the files that say where the repository lives, as `home` has them."
    read = {p: p.read_text(encoding='utf-8') for p in (root / 'settings.ini', root / 'gfa_fastai/_modidx.py')}
    yield root / 'settings.ini', settings(read[root / 'settings.ini'], home)
    yield root / 'gfa_fastai/_modidx.py', module_index(read[root / 'gfa_fastai/_modidx.py'], home)
    for name in '_quarto.yml', 'nbs/_quarto.yml':
        yield root / name, sentences((root / name).read_text(encoding='utf-8'), FORMS[name], home)
    for path in sorted((root / 'nbs').rglob('*.ipynb')):
        page = path.relative_to(root).as_posix()
        if any(part[0] in '_.' for part in page.split('/')):
            continue
        try:
            text = notebook(path.read_text(encoding='utf-8'), page, home)
        except ValueError as e:
            raise ValueError(f'{page}: {e}') from None
        yield path, text
        if page == 'nbs/index.ipynb':
            yield root / 'README.md', readme(json.loads(text))


def readme(nb):
    "README, by scripts/readme.py."
    spec = importlib.util.spec_from_file_location('readme', Path(__file__).with_name('readme.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.readme(nb)


def write_home(home, root=ROOT, check=False):
    "Write every file that says where the repository lives; the files that changed (or would, with `check`)."
    new = [(path, text) for path, text in files(root, home) if path.read_text(encoding='utf-8') != text]
    for path, text in new:
        if not check:
            path.write_text(text, encoding='utf-8')
    return [path.relative_to(root).as_posix() for path, _ in new]


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        'home', nargs='?', metavar='USER/REPO', help='`none`: no address yet; left out: as settings.ini has it'
    )
    p.add_argument('--branch', help='the branch that links lead to')
    p.add_argument('--check', action='store_true', help='write nothing; exit status 1 where a file says something else')
    a = p.parse_args()
    home = read_home()
    if a.home == 'none':
        home.user = ''
    elif a.home:
        if not re.fullmatch(r'[\w.-]+/[\w.-]+', a.home):
            sys.exit(f'home: {a.home} is not USER/REPO, as octocat/gfa_fastai')
        home.user, home.repo = a.home.split('/')
    home.branch = a.branch or home.branch
    changed = write_home(home, check=a.check)
    if a.check and changed:
        sys.exit('they say something else than settings.ini; run `python scripts/home.py`: ' + ', '.join(changed))
    if not a.check:
        print(f'{home.url or "no address yet"}: {len(changed)} files written')
