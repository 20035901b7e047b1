"""The docs, as nbdev makes them, with entries that are easier to read:

python scripts/docs.py proc      process the pages for Quarto into _proc, and check what comes out
python scripts/docs.py render    the same, then Quarto renders them into _docs
python scripts/docs.py preview   show them in a browser while you edit

What is different from nbdev_docs:

- On a page of the book the exported code is shown where it is explained, once: its entry is a heading, and the
  signature is the one in the code. Cells that define private names only are folded.
- On other pages an entry has its signature, and the source after it is folded.
- A function without a docstring has none in its entry either (Python would give "Call self as a function").
- Comments in a signature hold no raw links. Links between pages are relative, so that they hold before the docs have
  an address; a link to the source is left out as long as the repository has none (scripts/home.py).
- Each entry is a section of its own for the search: who looks for tpc_loss finds its entry first."""

import argparse, ast, json, os, re, shutil, subprocess, sys
from pathlib import Path
from urllib.parse import urljoin

from nbdev.config import get_config
from nbdev.process import Processor
from nbdev.processors import FilterDefaults
from nbdev.showdoc import showdoc_nm

ROOT = Path(__file__).resolve().parents[1]
HEAD = re.compile(r'\A---\n\n(?:\[source\]\((?P<source>[^)]*)\)\{[^}]*\}\n\n)?#+ (?P<name>\S+)\n\n', flags=re.S)


def definitions(cells):
    "(name, docstring) of everything that the code cells define, methods as Class.method."
    for cell in cells:
        tree = cell.parsed_() if cell.cell_type == 'code' else None
        for node in tree or ():
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from documented(node)


def documented(node, owner=''):
    "(name, docstring) of a definition and of the methods in it; a patched method has the name of its class."
    names = [f'{owner}.{node.name}'] if owner else showdoc_nm(node)
    own = ast.get_docstring(node)
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef)] if isinstance(node, ast.ClassDef) else []
    if own is None:
        own = next((ast.get_docstring(n) for n in methods if n.name == '__init__'), None)
    for name in [names] if isinstance(names, str) else names:
        yield name, own
    for method in methods:
        yield from documented(method, node.name)


def without_links(text):
    "The text with markdown links turned back into code, inside fences only."
    fences = re.split(r'(^```.*?^```)', text, flags=re.M | re.S)
    fences[1::2] = [re.sub(r'\[(`[^`\n]+`)\]\([^)\s]*\)', r'\1', fence) for fence in fences[1::2]]
    return ''.join(fences)


def entry(text, docstring, inside=False, bare=False):
    """The markdown of an entry. `docstring`: its own, or None. `inside`: it does not end the section that it stands in.
    `bare`: the heading alone, for code that is shown after it."""
    head = HEAD.match(text)
    if not head:
        return text
    known = head['source'] and head['source'].startswith('https:')
    source = f'[source]({head["source"]}){{.source}}\n\n' if known else ''
    rest = without_links(text[head.end() :])
    if not docstring:
        rest = re.sub(r'(^```python\n.*?^```).*\Z', r'\1', rest, flags=re.M | re.S)
    text = f'## {head["name"]} {{.api}}\n\n{source}{"" if bare else rest}'.rstrip()
    return f'::: {{.entry}}\n{text}\n:::' if inside else text


def relative_links(text, page, docs):
    "Links into the docs at the address `docs`, relative to the page."
    here = os.path.dirname(page) or '.'

    def relative(m):
        path, _, anchor = m[1].partition('#')
        return f']({os.path.relpath(path, here)}{"#" + anchor if anchor else ""})'.replace(os.sep, '/')

    return re.sub(rf'\]\({re.escape(docs)}([^)\s]+)\)', relative, text)


def single_links(text):
    "The text with links inside a link taken out: nbdev links a name in code that the page links already."
    return re.sub(r'\[([^\[\]\n]*)\[(`[^`\n]+`)\]\([^)\s]*\)([^\[\]\n]*)\](?=\()', r'[\1\2\3]', text)


class ShowLessons(Processor):
    "On a page of the book exported code is shown."

    def begin(self):
        if not is_lesson(self.nb):
            return
        for cell in self.nb.cells:
            if 'export' in cell.directives_ and not imports_only(cell):
                cell.directives_['exports'] = cell.directives_.pop('export')


class Entries(Processor):
    "Entries as this script has them; the last processor."

    def begin(self):
        cfg, lesson = get_config(), is_lesson(self.nb)
        docs = urljoin(f'{cfg.get("doc_host", "")}/', cfg.doc_baseurl) + '/'
        page = Path(self.nb.path_).resolve().relative_to(Path(cfg.nbs_path).resolve()).as_posix()
        known = dict(self.nb.docstrings_)
        cells = in_order(self.nb.cells, list(known))
        for i, cell in enumerate(cells):
            if 'exports' in (cell.get('directives_') or {}):
                fold(cell, lesson)
            for output in cell.get('outputs', []):
                if 'text/markdown' not in output.get('data', {}):
                    continue
                text = ''.join(output['data']['text/markdown'])
                if is_entry(cell):
                    name = (HEAD.match(text) or {'name': ''})['name']
                    shown = lesson and is_shown(cells[i + 1 :], name)
                    text = entry(text, known.get(name), inside=lesson, bare=shown)
                output['data']['text/markdown'] = relative_links(text, page, docs).splitlines(True)
            if cell.cell_type == 'markdown':
                cell.source = relative_links(single_links(cell.source), page, docs)
        self.nb.cells = cells


class Remember(Processor):
    "Keep the docstrings of the page's code before any cell is taken away."

    def begin(self):
        self.nb.docstrings_ = list(definitions(self.nb.cells))


def is_lesson(nb):
    "Whether a notebook is a chapter of the book."
    path = Path(nb.path_)
    return path.parent.name == 'nbs' and bool(re.match(r'\d\d_', path.name))


def imports_only(cell):
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in cell.parsed_() or ())


def is_entry(cell):
    return cell.cell_type == 'code' and re.search(r'^show_doc\(', cell.source, flags=re.M)


def names_in(cell):
    return {name for name, _ in definitions([cell])}


def is_shown(cells, name):
    "Whether the code of `name` comes next, after other entries of the same cell."
    for cell in cells:
        if not is_entry(cell):
            return 'exports' in (cell.get('directives_') or {}) and name in names_in(cell)
    return False


def name_of(cell):
    return re.search(r'^show_doc\(([\w.]+)', cell.source, flags=re.M)[1]


def in_order(cells, names):
    """The cells, with neighbouring entries in the order of `names`, and an exported source after its own entries."""
    out, run, places = [], [], {name: i for i, name in enumerate(names)}

    def place():
        entries = sorted(run, key=lambda cell: places.get(name_of(cell), len(places)))
        run.clear()
        source = out.pop() if out and 'exports' in (out[-1].get('directives_') or {}) else None
        own = names_in(source) if source is not None else set()
        out.extend(cell for cell in entries if name_of(cell) in own)
        out.extend([source] if source is not None else [])
        out.extend(cell for cell in entries if name_of(cell) not in own)

    for cell in cells:
        if getattr(cell, 'has_sd', False):
            run.append(cell)
            continue
        place()
        out.append(cell)
    place()
    return out


def fold(cell, lesson):
    "nbdev leaves exported source open: on pages of the book that stays without a summary, elsewhere it is closed."
    names = names_in(cell)
    public = not names or any(not name.startswith('_') for name in names)
    source = re.sub(r'^#\| code-(fold|summary):.*\n', '', cell.source, flags=re.M)
    closed = '#| code-fold: true\n#| code-summary: "Source"\n'
    cell.source = source if lesson and public else closed + source


class Pages(FilterDefaults):
    "The processors of nbdev, with ours."

    def base_procs(self):
        theirs = [proc for proc in super().base_procs() if proc.__name__ != 'mv_exports']
        return [Remember, ShowLessons, *theirs, Entries]


# --- what must not come out


def faults(path):
    "What is wrong with a processed page."
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        texts = [''.join(cell['source'])] if cell['cell_type'] == 'markdown' else []
        texts += [''.join(o.get('data', {}).get('text/markdown', '')) for o in cell.get('outputs', [])]
        for text in texts:
            if re.search(r'Call self as a function|Initialize self\.|See help\(type', text):
                yield f'an inherited docstring: {text[:80]!r}'
            if re.search(r'\[[^\[\]\n]*\[`[^`\n]+`\]\([^)\s]*\)[^\[\]\n]*\]\(', text):
                yield f'a link in a link: {text[:80]!r}'
            for fence in re.findall(r'^```.*?^```', text, flags=re.M | re.S):
                if re.search(r'\]\([^)\s]+#', fence):
                    yield f'a raw link in code: {fence[:80]!r}'
            if not get_config().git_url and re.search(r'\]\(/', text):
                yield f'a link to nowhere: {re.search(r"[^ ]*[]][(]/[^)]*", text)[0]!r}'


def use_our_processors():
    import nbdev.serve

    sys.path.insert(0, str(Path(__file__).parent))
    from docs import Pages  # by this name the processes that nbdev starts find it, too

    nbdev.serve.FilterDefaults = Pages


def process():
    "Process the pages; SystemExit with the faults of what comes out."
    import nbdev.quarto

    use_our_processors()
    nbdev.quarto._ensure_quarto = lambda: None  # not needed to process
    shutil.rmtree(ROOT / '_proc', ignore_errors=True)
    nbdev.quarto.nbdev_proc_nbs.__wrapped__(n_workers=min(4, os.cpu_count() or 1))
    found = [f'{p.relative_to(ROOT)}: {f}' for p in sorted((ROOT / '_proc').rglob('*.ipynb')) for f in faults(p)]
    if found:
        sys.exit('\n'.join(found))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['proc', 'render', 'preview'])
    a = p.parse_args()
    os.chdir(ROOT)
    if a.what == 'preview':
        import nbdev.quarto

        use_our_processors()
        nbdev.quarto.nbdev_preview.__wrapped__()
    else:
        process()
    if a.what == 'render':
        subprocess.run(['quarto', 'render', '--no-cache'], cwd=ROOT / '_proc', check=True)
        shutil.rmtree(ROOT / '_docs', ignore_errors=True)
        shutil.copytree(ROOT / '_proc/_docs', ROOT / '_docs')
