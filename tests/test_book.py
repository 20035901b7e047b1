"""What holds for the pages as a book, checked without Quarto: order, links, anchors, pictures, badges, references, anatomy."""

import ast, json, re, unicodedata
from pathlib import Path
import pandas as pd, pytest, yaml
from test_project import CFG, CHAPTERS, NOTEBOOKS, ROOT, code_of, each, links, load, rel, src

NBS = ROOT / 'nbs'
GUIDES, PAPER = [[p for p in NOTEBOOKS if p.parent.name == o] for o in ('guides', 'paper')]
PAGES = [p for p in NOTEBOOKS if p != NBS / 'index.ipynb']
COVERS = [NBS / 'index.ipynb', NBS / 'paper/index.ipynb']  # they lead to pages and have no lesson of their own


def prose(path):
    "The markdown of a page, code and formulas left out."
    text = '\n\n'.join(src(c) for c in load(path) if c['cell_type'] == 'markdown')
    return re.sub(r'^(```|~~~).*?^\1|``.*?``|`[^`\n]*`', '', text, flags=re.M | re.S)


def pictures(cell):
    "How many pictures a cell has among its outputs."
    return sum(any(k.startswith('image/') for k in o.get('data', {})) for o in cell.get('outputs', []))


# --- order


def sidebar():
    "The targets of the sidebar, in reading order."

    def walk(items):
        for o in items:
            if isinstance(o, str):
                yield o
            else:
                yield from ([o['href']] if 'href' in o else [])
                yield from walk(o.get('contents', []))

    return list(
        walk(yaml.safe_load((NBS / 'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents'])
    )


def test_sidebar_lists_every_page_once():
    found, want = sidebar(), sorted(p.relative_to(NBS).as_posix() for p in NOTEBOOKS)
    assert sorted(found) == want, (
        f'not in nbs/sidebar.yml: {set(want) - set(found)}; in it and not there, or twice: {[o for o in found if o not in want or found.count(o) > 1]}'
    )


def test_sidebar_tells_the_story():
    "The opening page first, then the chapters by number; the last of them are the commands."
    found = sidebar()
    assert found[:2] == ['index.ipynb', 'guides/presentation_attacks.ipynb']
    chapters = [o for o in found if re.match(r'[1-9]\d_', o)]  # 05, how pages are made, is an appendix
    assert chapters == sorted(chapters)


def test_quarto_reads_the_sidebar():
    "nbdev leaves nbs/sidebar.yml alone only where settings.ini says custom_sidebar."
    assert CFG['custom_sidebar'] == 'True'
    assert 'sidebar.yml' in yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8'))['metadata-files']


@each(CHAPTERS + GUIDES)
def test_front_page_leads_to_every_page(path):
    assert rel(path).removeprefix('nbs/') in prose(NBS / 'index.ipynb'), 'the map of nbs/index.ipynb does not name it'


# --- links and anchors


def slug(heading):
    "The anchor of a heading, as pandoc makes it."
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading)  # links leave their text
    text = re.sub(r'[*`]|\{#[^}]*\}\s*$', '', text).strip().lower()
    text = ''.join(c for c in text if c in '_-. ' or unicodedata.category(c)[0] in 'LN')
    return re.sub(r'^[^^a-z]*?(?=[a-z])', '', re.sub(r'\s+', '-', text))


def anchors(path):
    "Every anchor of a page: headings, ids that are set, and the names of its API."
    text = prose(path)
    ids = re.findall(r'(?:id|name)="([^"]+)"|\{#([\w:-]+)', text)
    return {
        slug(h)
        for h in re.findall(
            r'^#+ +(.+?)\s*$',
            re.sub(r'`', '', '\n\n'.join(src(c) for c in load(path) if c['cell_type'] == 'markdown')),
            flags=re.M,
        )
    } | {a or b for a, b in ids}


def test_slug():
    for heading, want in {
        'Two errors': 'two-errors',
        'Eq. 2 as it stands': 'eq.-2-as-it-stands',
        '3. The *wrong* way: `argmin`': 'the-wrong-way-argmin',
    }.items():
        assert slug(heading) == want


@each(NOTEBOOKS)
def test_anchors_resolve(path):
    broken = []
    for target in re.findall(r'\]\(\s*<?([^)\s>]*#[^)\s>]+)', prose(path)):
        if re.match(r'[a-z][a-z0-9+.-]*:', target):
            continue
        file, anchor = target.split('#', 1)
        page = (path.parent / file).resolve() if file else path
        if page.suffix == '.ipynb' and page.exists() and anchor not in anchors(page):
            broken.append(target)
    assert not broken, f'no such heading or id: {broken}'


@each(NOTEBOOKS)
def test_pages_link_to_pages(path):
    "What lies outside nbs/ is no part of the rendered book: link to it in the repository, by its address."
    outside = [o for o in links(prose(path)) if NBS not in (path.parent / o).resolve().parents]
    assert not outside, f'use https://github.com/{CFG["user"]}/{CFG["repo"]}/blob/{CFG["branch"]}/...: {outside}'


@each(NOTEBOOKS)
def test_links_into_the_repository_exist(path):
    for kind, o in re.findall(
        rf'https://github\.com/{CFG["user"]}/{CFG["repo"]}/(blob|tree)/{CFG["branch"]}/([^)\s#"\'>]*)', prose(path)
    ):
        assert (ROOT / o).exists(), f'{o} is not in the repository'


@each(NOTEBOOKS)
def test_every_page_opens_in_colab(path):
    assert (
        f'https://colab.research.google.com/github/{CFG["user"]}/{CFG["repo"]}/blob/{CFG["branch"]}/{rel(path)}'
        in '\n'.join(map(src, load(path)))
    )


# --- pictures

HIDDEN = re.compile(r'^#\|\s*hide\s*$', flags=re.M)


def said(cell, key):
    "What a cell says in `#| key: \"...\"`, YAML on one line, as a list; None where it says nothing."
    found = re.search(rf'^#\|\s*{key}:\s*(.+)$', src(cell), flags=re.M)
    if found is None:
        return None
    texts = yaml.safe_load(found[1])
    return texts if isinstance(texts, list) else [texts]


@each(NOTEBOOKS)
def test_alt_texts(path):
    "Each cell that draws says in `#| fig-alt: \"...\"` what is to be seen; a list where it draws several pictures."
    for i, cell in enumerate(load(path)):
        n = pictures(cell)
        for m in re.findall(r'!\[([^\]]*)\]\((?!https://colab)', src(cell)) if cell['cell_type'] == 'markdown' else []:
            assert len(m) > 14, f'cell {i}: an image without alt text'
        for m in re.findall(r'<img\b[^>]*>', src(cell)) if cell['cell_type'] == 'markdown' else []:
            assert 'alt="' in m, f'cell {i}: {m}'
        if not n:
            continue
        alts = said(cell, 'fig-alt')
        assert alts, f'cell {i} draws and has no #| fig-alt:\n{src(cell)[:200]}'
        assert len(alts) == n, f'cell {i}: {n} pictures, {len(alts)} alt texts'
        assert all(isinstance(o, str) and len(o) >= 15 for o in alts), f'cell {i}: say what is to be seen: {alts}'


@each(NOTEBOOKS)
def test_captions(path):
    "And in `#| fig-cap: \"...\"` how it is to be read, which is another sentence than the alt text."
    for i, cell in enumerate(load(path)):
        n = pictures(cell)
        if not n or HIDDEN.search(src(cell)):
            continue
        captions = said(cell, 'fig-cap')
        assert captions, f'cell {i} draws and has no #| fig-cap:\n{src(cell)[:200]}'
        assert len(captions) == n, f'cell {i}: {n} pictures, {len(captions)} captions'
        assert all(isinstance(o, str) and len(o) >= 15 for o in captions), f'cell {i}: say how to read it: {captions}'
        assert not set(captions) & set(said(cell, 'fig-alt') or []), f'cell {i}: the caption repeats the alt text'


WORDS = {  # what an acronym in a figure stands for, as the glossary has it
    'ACER': 'average classification error rate',
    'APCER': 'attack presentation classification error rate',
    'AUC': 'area under',
    'BPCER': 'bona fide presentation classification error rate',
    'CNN': 'convolutional neural network',
    'DET': 'detection error trade-off',
    'DoG': 'difference of Gaussians',
    'EER': 'equal error rate',
    'FAR': 'false acceptance',
    'FC2': 'second fully connected layer',
    'FDA': 'fast domain adaptation',
    'FRR': 'false rejection',
    'FV': 'Fisher vector',
    'HTER': 'half total error rate',
    'IDA': 'image distortion analysis',
    'KL': 'Kullback-Leibler',
    'LBP': 'local binary pattern',
    'LPQ': 'local phase quanti',
    'MLP': 'multilayer perceptron',
    'MMD': 'maximum mean discrepancy',
    'PAD': 'presentation attack detection',
    'PAI': 'presentation attack instrument',
    'PCA': 'principal component',
    'ROC': 'receiver operating characteristic',
    'SIFT': 'scale-invariant feature transform',
    'SVM': 'support vector machine',
    'TAR': 'true acceptance',
    'TPC': 'total pairwise confusion',
    't-SNE': 'neighbour embedding',
}
DRAWN = {  # what functions of the library write into a figure
    'plot_roc': 'ROC FAR AUC',
    'plot_det': 'DET FAR FRR EER',
    'report_figure': 'ROC DET FAR FRR AUC EER HTER',
    'curves_figure': 'ROC FAR FRR AUC',
    'histograms_figure': 'FAR FRR',
    'terms_figure': 'FC2',
    'plot_terms': 'FC2',
}


@each(NOTEBOOKS)
def test_acronyms_in_figures_are_spelled_out(path):
    "In the prose before the figure, or in its caption; who comes from a search reads no glossary first."
    told = ''
    for i, cell in enumerate(load(path)):
        if cell['cell_type'] == 'markdown':
            told += src(cell) + '\n'
            continue
        if not pictures(cell) or HIDDEN.search(src(cell)):
            continue
        told += ' '.join(said(cell, 'fig-cap') or []) + '\n'
        written = ' '.join(
            n.value for n in ast.walk(ast.parse(src(cell))) if isinstance(n, ast.Constant) and isinstance(n.value, str)
        )
        written += ''.join(f' {v}' for k, v in DRAWN.items() if re.search(rf'\b{k}\(', src(cell)))
        unsaid = [
            k
            for k, v in WORDS.items()
            if re.search(rf'(?<![\w/]){k}(?![\w.])', written) and v.lower() not in told.lower().replace('\n', ' ')
        ]
        assert not unsaid, f'cell {i}: spell out {unsaid} in its #| fig-cap: or in the prose before it'


BY_HAND = (
    r"(figure\.dpi|figure\.facecolor|axes\.spines\.(top|right)|axes\.prop_cycle)"  # the keys that figure_style sets
)


@each(NOTEBOOKS)
def test_one_style(path):
    "A page that draws calls figure_style() before its first figure, and sets by hand nothing that it sets."
    cells = load(path)
    drawn = [i for i, c in enumerate(cells) if pictures(c)]
    if not drawn:
        return
    assert any(
        re.search(r'^figure_style\(\)', src(c), flags=re.M) for c in cells[: drawn[0] + 1] if c['cell_type'] == 'code'
    ), 'figure_style() of gfa_fastai.pages, before the first figure'
    for i, c in enumerate(cells):
        if c['cell_type'] != 'code' or 'def figure_style' in src(c):
            continue
        assert not (m := re.search(BY_HAND, src(c))), f'cell {i} sets {m[1]}: figure_style() does'


@each(PAGES)
def test_a_picture_on_every_page(path):
    cells = load(path)
    drawn = [
        i
        for i, c in enumerate(cells)
        if pictures(c)
        and not re.match(r'#\|\s*hide\s*$', src(c), flags=re.M)
        or '![' in re.sub(r'\[!\[.*?\]\(.*?\)\]\(.*?\)', '', src(c))
        and c['cell_type'] == 'markdown'
    ]
    assert drawn, 'no figure'
    if path in CHAPTERS:
        assert drawn[0] <= 9, f'the first figure is in cell {drawn[0]}: bring one into the first screen'


# --- equations


@each(NOTEBOOKS)
def test_equations_carry_the_number_of_the_paper(path):
    "As `\\qquad (2)` at their end; the paper has Eq. 1 to 8, and a number is one formula on a page."
    text, seen = prose(path), {}
    for eq in re.findall(r'\$\$(.+?)\$\$', text, flags=re.S):
        assert '\\tag' not in eq, f'write \\qquad (n) at the end: {eq}'
        m = re.search(r'^(.*?)(\\q?quad|\\[,;: ]|~|\s)\s*\((\d+)\)[\s.,]*$', eq, flags=re.S)
        if m is None:
            continue
        formula, space, n = re.sub(r'\s', '', m[1]), m[2], int(m[3])
        assert eq.rstrip().endswith(rf'\qquad ({n})'), f'write \\qquad ({n}) at the end: {eq}'
        assert 1 <= n <= 8, f'the paper has no Eq. {n}: {eq}'
        assert seen.setdefault(n, formula) == formula, f'two formulas are called ({n})'
    named = [
        int(n)
        for m in re.findall(r'\bEqs?\.\s*(\d+(?:\s*(?:to|and|or|,|-|\u2013)\s*\d+)*)', text)
        for n in re.findall(r'\d+', m)
    ]
    assert all(1 <= n <= 8 for n in named), f'the paper has Eq. 1 to 8: {sorted(set(named))}'


# --- references


def bibliography():
    "The keys of nbs/references.bib."
    return re.findall(r'^@\w+\{\s*([^,\s]+)\s*,', (NBS / 'references.bib').read_text(encoding='utf-8'), flags=re.M)


def cited(path):
    "The keys that a page cites."
    return re.findall(r'(?<![\w.])@([a-z]+\d{4}[a-z]*)', prose(path))


def test_references_are_cited_and_citations_exist():
    keys = bibliography()
    assert len(keys) == len(set(keys)), 'a key twice'
    found = {k for p in NOTEBOOKS for k in cited(p)}
    assert not found - set(keys), f'cited and not in nbs/references.bib: {sorted(found - set(keys))}'
    assert not set(keys) - found, f'in nbs/references.bib and cited nowhere: {sorted(set(keys) - found)}'


def test_references_are_complete():
    text = (NBS / 'references.bib').read_text(encoding='utf-8')
    for entry in re.split(r'^(?=@)', text, flags=re.M)[1:]:
        for field in 'author', 'title', 'year':
            assert re.search(rf'^\s*{field}\s*=\s*\{{.+\}}', entry, flags=re.M), f'no {field}: {entry}'
        assert re.search(r'^\s*(journal|booktitle|publisher|institution|eprint|howpublished)\s*=', entry, flags=re.M), (
            f'where did it appear? {entry}'
        )


@each(NOTEBOOKS)
def test_citations_read_without_quarto(path):
    "On Colab `[@key]` stays as it is: the names and the year stand before it."
    for before in re.findall(r'(.{0,60})\[@', prose(path).replace('\n', ' ')):
        assert re.search(r'(\d{4}|30107(-\d)?)[a-z]?\)?[\s*_,]*$', before), (
            f'...{before}[@: put the authors and the year before it'
        )


# --- anatomy


@each(CHAPTERS)
def test_anatomy(path):
    text = prose(path)
    assert re.search(r'^\*\*(In this chapter|On this page)\*\*\n\n([-*]|\d\.) ', text, flags=re.M), (
        'what will the reader learn? **In this chapter** and a list'
    )
    order = [
        m.start() if (m := re.search(rf'^##+ {o}\s*$', text, flags=re.M)) else None
        for o in ('Summary', 'Exercises', 'Where we differ from the papers?')
    ]
    assert None not in order, 'Summary, Exercises, Where we differ from the paper: one is missing'
    assert order[0] < order[1], 'Summary, then Exercises'


@each(NOTEBOOKS)
def test_prose_between_code(path):
    "No five cells of code in a row without a word between them; directives, set-up for Colab and imports do not count."
    run = 0
    for i, cell in enumerate(load(path)):
        if cell['cell_type'] == 'markdown':
            run = 0
            continue
        plain = [
            l for l in src(cell).splitlines() if l.strip() and not l.startswith(('#|', 'import ', 'from ', ' ', ')'))
        ]
        if not plain or 'google.colab' in src(cell):
            continue
        run += 1
        assert run < 5, f'cells {i - run + 1} to {i} are code alone: a sentence between them'


# --- files that pages read


@each(NOTEBOOKS)
def test_results_are_read_on_colab_too(path):
    "There the notebook is alone: what is committed beside a page is read through results_file, and the package carries it."
    for s in code_of(path):
        if re.search(r'^#\|\s*slow', s, flags=re.M):
            continue
        for name in re.findall(r"""(?:read_csv|open)\(\s*['"]([^'"{}]+)['"]""", s):
            assert not (path.parent / name).exists(), f'{name}: read results_file({Path(name).name!r}) instead'


def test_the_package_carries_what_pages_read():
    beside = {
        p.name: p
        for p in NBS.rglob('*')
        if p.suffix in ('.csv', '.json', '.bib') and not any(o[0] in '_.' for o in p.relative_to(NBS).parts)
    }
    carried = {p.name: p for p in (ROOT / CFG['lib_path'] / 'results').iterdir()}
    assert set(beside) == set(carried), (
        'gfa_fastai/results holds a link to each table beside a page: ln -s ../../nbs/NAME gfa_fastai/results/'
    )
    for name, p in carried.items():
        assert p.read_bytes() == beside[name].read_bytes(), f'{name} is another file in gfa_fastai/results'


def test_each_result_of_the_paper_says_what_made_it():
    made = json.loads((NBS / 'paper' / 'results.json').read_text(encoding='utf-8'))
    files = [f for r in made for f in r['files']]
    assert sorted(files) == sorted(
        p.name for p in (NBS / 'paper').iterdir() if p.suffix in ('.csv', '.json') and p.name != 'results.json'
    )
    for r in made:
        assert (
            all(r[k] for k in ('command', 'seeds', 'hardware', 'versions', 'benchmark', 'date'))
            and (NBS / 'paper' / f'{r["page"]}.ipynb').exists()
        ), r['files']
        seeds = [
            set(df['seed'])
            for df in map(pd.read_csv, (NBS / 'paper' / f for f in r['files'] if f.endswith('.csv')))
            if 'seed' in df
        ]
        assert all(s <= set(r['seeds']) for s in seeds), r['files']


# --- what CONTRIBUTING promises


def test_ten_lines_of_contributing_run(tmp_path):
    "The reader and the baseline of CONTRIBUTING.md, as they stand there."
    import numpy as np
    from PIL import Image
    from gfa_fastai.compare.baselines import BASELINES
    from gfa_fastai.inputs.datasets import READERS

    dataset, baseline = re.findall(
        r'^```python\n(.*?)^```', (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8'), flags=re.M | re.S
    )
    said = {}
    try:
        exec(dataset, said)
        exec(baseline, said)
        for o in 'train/real/ann_1', 'train/fake/ann_2', 'dev/real/ben_1', 'test/real/carl_1', 'test/fake/carl_2':
            (p := tmp_path / f'{o}.mp4').parent.mkdir(parents=True, exist_ok=True)
            p.touch()
        df = READERS['mine'](tmp_path)
        assert df.groupby('split').subject.unique().str[0].to_dict() == dict(dev='ben', test='carl', train='ann')
        assert (df.label == 'live').sum() == 3
        rng = np.random.default_rng(0)
        for i, label in enumerate(df.label):
            x = rng.integers(0, 100, (32, 32, 3)) + 100 * (label == 'live')
            Image.fromarray(x.astype(np.uint8)).save(tmp_path / f'{i}.png')
        frames = df.assign(frame_path=[str(tmp_path / f'{i}.png') for i in range(len(df))]).assign(
            face_path=lambda d: d.frame_path
        )
        model = said['make_baseline']('Mean colour', progress=False, workers=1).fit(frames)
        scores = model.score(frames)
        assert scores.score[scores.label == 'live'].min() > scores.score[scores.label == 'attack'].max()
    finally:
        READERS.pop('mine', None)
        BASELINES.pop('Mean colour', None)
