"""What holds for the pages as a book, checked without Quarto: order, links, anchors, pictures, badges, references,
anatomy.

One test a rule; it names every page that breaks it."""

import ast
import json
import re
import unicodedata
from pathlib import Path

import pandas as pd
import yaml
from house import (BOOK, CFG, ENGINE, GUIDES, HOME, LIB, NBS, NOTEBOOKS, PAPER, ROOT, SYNTHPAD, cells_of,
                   code_of, links, module_of, prose, rel, report, source, text_of)  # fmt: skip

COVERS = [NBS / 'index.ipynb', NBS / 'paper/index.ipynb']  # they lead to pages and have no lesson of their own
READ = [p for p in NOTEBOOKS if p not in ENGINE]  # pages that are read, and not looked up
CHAPTERS = [p for p in BOOK + SYNTHPAD if module_of(p)]


def pictures(cell):
    "How many pictures a cell has among its outputs."
    return sum(any(k.startswith('image/') for k in o.get('data', {})) for o in cell.get('outputs', []))


# --- order


def sidebar():
    "The targets of the sidebar, in reading order."

    def walk(items):
        for item in items:
            if isinstance(item, str):
                yield item
                continue
            if 'href' in item:
                yield item['href']
            yield from walk(item.get('contents', []))

    text = (NBS / 'sidebar.yml').read_text(encoding='utf-8')
    return list(walk(yaml.safe_load(text)['website']['sidebar']['contents']))


def test_sidebar_lists_every_page_once():
    found, want = sidebar(), [p.relative_to(NBS).as_posix() for p in NOTEBOOKS]
    assert sorted(found) == sorted(want), (
        f'not in nbs/sidebar.yml: {set(want) - set(found)}; not there: {set(found) - set(want)}; '
        f'twice: {[o for o in found if found.count(o) > 1]}'
    )


def test_sidebar_tells_the_story():
    "The front page, the book by number, and the engine at the end."
    found = sidebar()
    assert found[0] == 'index.ipynb'
    chapters = [o for o in found if re.match(r'\d\d_', o)]
    assert chapters == sorted(chapters)
    first_engine = min(i for i, o in enumerate(found) if o.startswith('engine/'))
    assert all(not o.startswith(('paper/', 'synthpad/')) and not re.match(r'\d\d_', o) for o in found[first_engine:])


def test_the_first_steps_come_first():
    "A guide that is wanted on the first day is not below the fold of the sidebar."
    assert 'guides/quickstart.ipynb' in sidebar()[:3]


def test_quarto_reads_the_sidebar():
    "nbdev leaves nbs/sidebar.yml alone only where settings.ini says custom_sidebar."
    assert CFG['custom_sidebar'] == 'True'
    assert 'sidebar.yml' in yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8'))['metadata-files']


def test_front_page_leads_to_the_book():
    front = prose(NBS / 'index.ipynb')
    lost = [rel(p) for p in BOOK + GUIDES if rel(p).removeprefix('nbs/') not in front]
    assert not lost, f'the map of nbs/index.ipynb does not name {lost}'


# --- first cells


def test_title():
    def rule(path):
        "The first cell is `# Title` and `> one line`, alone: text after them in the same cell does not render."
        first = cells_of(path)[0]
        if first['cell_type'] != 'markdown' or not re.fullmatch(r'# [^\n]+\n\n> [^\n]+\n*', source(first)):
            yield source(first)[:100]

    report(rule, NOTEBOOKS)


def test_installs_on_colab_only():
    def rule(path):
        "A page that imports the library installs it on Colab, and nowhere else."
        installs = [code for code in code_of(path) if re.search(r'^\s*[%!]\s*(uv )?pip ', code, flags=re.M)]
        if not installs and any(f'from {LIB.name}' in code for code in code_of(path)):
            yield 'no install cell'
        for code in installs:
            if not re.search(r"^if 'google\.colab' in sys\.modules:\s*\n\s+[%!]", code, flags=re.M):
                yield 'an install that is not guarded'
            if not code.startswith('#| hide'):
                yield 'an install cell is hidden from the docs'

    report(rule, NOTEBOOKS)


# --- links and anchors


def slug(heading):
    "The anchor of a heading, as pandoc makes it."
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading)  # links leave their text
    text = re.sub(r'[*`]|\{#[^}]*\}\s*$', '', text).strip().lower()
    text = ''.join(c for c in text if c in '_-. ' or unicodedata.category(c)[0] in 'LN')
    return re.sub(r'^[^^a-z]*?(?=[a-z])', '', re.sub(r'\s+', '-', text))


def anchors(path):
    "Every anchor of a page: headings, and ids that are set."
    ids = re.findall(r'(?:id|name)="([^"]+)"|\{#([\w:-]+)', prose(path))
    headings = re.findall(r'^#+ +(.+?)\s*$', text_of(path).replace('`', ''), flags=re.M)
    return {slug(h) for h in headings} | {a or b for a, b in ids}


def test_slug():
    assert slug('Two errors') == 'two-errors'
    assert slug('Eq. 2 as it stands') == 'eq.-2-as-it-stands'
    assert slug('3. The *wrong* way: `argmin`') == 'the-wrong-way-argmin'


def test_anchors_resolve():
    def rule(path):
        "A link with an anchor leads to a heading or an id."
        for target in re.findall(r'\]\(\s*<?([^)\s>]*#[^)\s>]+)', prose(path)):
            if re.match(r'[a-z][a-z0-9+.-]*:', target):
                continue
            file, anchor = target.split('#', 1)
            page = (path.parent / file).resolve() if file else path
            if page.suffix == '.ipynb' and page.exists() and anchor not in anchors(page):
                yield target

    report(rule, NOTEBOOKS)


def test_pages_link_to_pages():
    def rule(path):
        "What lies outside nbs/ is no part of the rendered book: scripts/home.py writes links to it."
        for target in links(prose(path)):
            file = (path.parent / target).resolve()
            if NBS not in file.parents and (CFG['user'] or not file.exists()):
                yield target

    report(rule, NOTEBOOKS)


def test_links_into_the_repository_exist():
    def rule(path):
        "An address in the repository leads to a file of it."
        for o in re.findall(rf'{re.escape(HOME)}/(?:blob|tree)/{CFG["branch"]}/([^)\s#"\'>]*)', prose(path)):
            if not (ROOT / o).exists():
                yield o

    report(rule, NOTEBOOKS)


def test_chapters_are_linked_by_title():
    def rule(path):
        "Numbers of chapters change: link the page by its title."
        yield from re.findall(r'\b[Cc]hapters? \d+[^.\n]{0,30}', prose(path))

    report(rule, NOTEBOOKS)


# --- pictures

HIDDEN = re.compile(r'^#\|\s*hide\s*$', flags=re.M)


def directive(cell, key):
    "What a cell says in `#| key: \"...\"`, YAML on one line, as a list; None where it says nothing."
    found = re.search(rf'^#\|\s*{key}:\s*(.+)$', source(cell), flags=re.M)
    if found is None:
        return None
    texts = yaml.safe_load(found[1])
    return texts if isinstance(texts, list) else [texts]


def faults_of(cell, key, n):
    "What is wrong with the texts of the `n` pictures of a cell."
    texts = directive(cell, key)
    if not texts:
        yield f'draws and has no #| {key}: {source(cell)[:80]!r}'
    elif len(texts) != n:
        yield f'{n} pictures, {len(texts)} of #| {key}'
    elif not all(isinstance(o, str) and len(o) >= 15 for o in texts):
        yield f'#| {key} says too little: {texts}'


def test_alt_texts():
    def rule(path):
        "Each cell that draws says in #| fig-alt what is to be seen; a list where it draws several pictures."
        for i, cell in enumerate(cells_of(path)):
            if n := pictures(cell):
                yield from (f'cell {i} {fault}' for fault in faults_of(cell, 'fig-alt', n))
            if cell['cell_type'] == 'markdown':
                shown = re.sub(r'`[^`\n]*`', '', source(cell))
                for alt in re.findall(r'!\[([^\]]*)\]\(', shown):
                    if len(alt) < 13:
                        yield f'cell {i}: an image with the alt text {alt!r}'
                for tag in re.findall(r'<img\b[^>]*>', source(cell)):
                    if 'alt="' not in tag:
                        yield f'cell {i}: {tag}'

    report(rule, NOTEBOOKS)


def test_captions():
    def rule(path):
        "And in #| fig-cap how it is to be read, which is another sentence than the alt text."
        for i, cell in enumerate(cells_of(path)):
            n = pictures(cell)
            if not n or HIDDEN.search(source(cell)):
                continue
            yield from (f'cell {i} {fault}' for fault in faults_of(cell, 'fig-cap', n))
            if set(directive(cell, 'fig-cap') or []) & set(directive(cell, 'fig-alt') or []):
                yield f'cell {i}: the caption repeats the alt text'

    report(rule, NOTEBOOKS)


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


def test_acronyms_in_figures_are_spelled_out():
    def rule(path):
        "In the prose before the figure, or in its caption; who comes from a search reads no glossary first."
        told = ''
        for i, cell in enumerate(cells_of(path)):
            if cell['cell_type'] == 'markdown':
                told += source(cell) + '\n'
                continue
            if not pictures(cell) or HIDDEN.search(source(cell)):
                continue
            told += ' '.join(directive(cell, 'fig-cap') or []) + '\n'
            constants = [n.value for n in ast.walk(ast.parse(source(cell))) if isinstance(n, ast.Constant)]
            written = ' '.join(o for o in constants if isinstance(o, str))
            written += ''.join(f' {v}' for k, v in DRAWN.items() if re.search(rf'\b{k}\(', source(cell)))
            known = told.lower().replace('\n', ' ')
            for short, words in WORDS.items():
                if re.search(rf'(?<![\w/]){short}(?![\w.])', written) and words.lower() not in known:
                    yield f'cell {i}: spell out {short}'

    report(rule, READ)


STYLE = r'(figure\.dpi|figure\.facecolor|axes\.spines\.(top|right)|axes\.prop_cycle)'  # keys that figure_style sets


def test_one_style():
    def rule(path):
        "A page that draws calls figure_style() before its first figure, and sets by hand nothing that it sets."
        cells = cells_of(path)
        drawn = [i for i, cell in enumerate(cells) if pictures(cell)]
        before = [source(c) for c in cells[: drawn[0] + 1]] if drawn else []
        if drawn and not any(re.search(r'^figure_style\(\)', code, flags=re.M) for code in before):
            yield 'no figure_style() before the first figure'
        for i, cell in enumerate(cells):
            if cell['cell_type'] == 'code' and 'def figure_style' not in source(cell):
                if found := re.search(STYLE, source(cell)):
                    yield f'cell {i} sets {found[1]}'

    report(rule, NOTEBOOKS)


def test_a_picture_on_every_page():
    def rule(path):
        "A page that is read has a picture, and a chapter has one in its first screen."
        drawn = []
        for i, cell in enumerate(cells_of(path)):
            linked = re.sub(r'\[!\[.*?\]\(.*?\)\]\(.*?\)', '', source(cell))  # the badge is none
            shown = pictures(cell) and not HIDDEN.search(source(cell))
            if shown or (cell['cell_type'] == 'markdown' and '![' in linked):
                drawn.append(i)
        if not drawn:
            yield 'no picture'
        elif path in BOOK and drawn[0] > 12:
            yield f'the first picture is in cell {drawn[0]}'

    report(rule, [p for p in READ if p != NBS / 'index.ipynb'])


COLUMN = 78  # characters of code that the rendered docs show at once


def test_printed_lines_fit_the_column():
    def rule(path):
        "What a cell prints on a page that is read in order is not wider than the column of the docs."
        for i, cell in enumerate(cells_of(path)):
            printed = [''.join(o['text']) for o in cell.get('outputs', []) if o['output_type'] == 'stream']
            wide = [line for text in printed for line in text.splitlines() if len(line) > COLUMN]
            if wide:
                yield f'cell {i}: {len(wide[0])} columns: {wide[0][:60]}'

    report(rule, [p for p in BOOK + GUIDES if p.stem != "speed"])


# --- equations


def test_equations_carry_the_number_of_the_paper():
    def rule(path):
        "As `\\qquad (2)` at their end; the paper has Eq. 1 to 8, and a number is one formula on a page."
        text, seen = prose(path), {}
        for eq in re.findall(r'\$\$(.+?)\$\$', text, flags=re.S):
            if '\\tag' in eq:
                yield f'write \\qquad (n) at the end: {eq}'
            found = re.search(r'^(.*?)(\\q?quad|\\[,;: ]|~|\s)\s*\((\d+)\)[\s.,]*$', eq, flags=re.S)
            if found is None:
                continue
            formula, n = re.sub(r'\s', '', found[1]), int(found[3])
            if not eq.rstrip().endswith(rf'\qquad ({n})'):
                yield f'write \\qquad ({n}) at the end: {eq}'
            if not 1 <= n <= 8:
                yield f'the paper has no Eq. {n}'
            if seen.setdefault(n, formula) != formula:
                yield f'two formulas are called ({n})'
        for names in re.findall(r'\bEqs?\.\s*(\d+(?:\s*(?:to|and|or|,|-|\u2013)\s*\d+)*)', text):
            if not all(1 <= int(n) <= 8 for n in re.findall(r'\d+', names)):
                yield f'the paper has no Eq. {names}'

    report(rule, NOTEBOOKS)


def glyphs(formula):
    "About how many characters wide a formula is."
    formula = re.sub(r'\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}', lambda m: max(m[1], m[2], key=len), formula)
    formula = re.sub(r'\\(?:[a-zA-Z]*Vert|cdot|times)', '|', formula)
    formula = re.sub(
        r'\\(?:mathrm|mathbf|mathcal|text|operatorname|hat|bar|left|right|[bB]igg?[lr]?)(?![a-z])', '', formula
    )
    formula = re.sub(r'\\[a-zA-Z]+', 'x', formula)
    return len(re.sub(r'[\\{}^_\s]', '', formula))


def test_inline_formulas_fit_a_phone():
    def rule(path):
        "A formula of more than 26 characters is displayed: inline it runs out of a phone's column."
        text = re.sub(r'\$\$.*?\$\$', '', prose(path), flags=re.S)
        for formula in re.findall(r'(?<![\\$])\$([^$\n]+)\$', text):
            if glyphs(formula) > 26:
                yield formula

    report(rule, NOTEBOOKS)


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
    place = r'^\s*(journal|booktitle|publisher|institution|eprint|howpublished)\s*='
    for entry in re.split(r'^(?=@)', text, flags=re.M)[1:]:
        for field in 'author', 'title', 'year':
            assert re.search(rf'^\s*{field}\s*=\s*\{{.+\}}', entry, flags=re.M), f'no {field}: {entry}'
        assert re.search(place, entry, flags=re.M), f'where did it appear? {entry}'


def test_citations_read_without_quarto():
    def rule(path):
        "On Colab `[@key]` stays as it is: the names and the year stand before it."
        for before in re.findall(r'(.{0,60})\[@', prose(path).replace('\n', ' ')):
            if not re.search(r'(\d{4}|30107(-\d)?)[a-z]?\)?[\s*_,]*$', before):
                yield f'...{before}[@'

    report(rule, NOTEBOOKS)


# --- anatomy


def test_anatomy():
    def rule(path):
        "A chapter says what the reader will be able to do, sums up, asks, and says where we differ from the paper."
        text = text_of(path)
        if not any(re.search(r'^([-*]|\d\.) ', source(c), flags=re.M) for c in cells_of(path)[:6]):
            yield 'no list of what the reader will be able to do, in the first cells'
        for heading in 'Summary', 'Exercises', 'Where we differ from the papers?':
            if not re.search(rf'^##+ {heading}\s*$', text, flags=re.M):
                yield f'no section {heading}'
        exercises = re.split(r'^##+ Exercises\s*$', text, flags=re.M)[-1]
        if exercises.count('<details>') < 3:
            yield 'fewer than three exercises with folded answers'
        if text.count('<details>') != text.count('</details>'):
            yield 'a <details> that is not closed'

    report(rule, CHAPTERS)

    def looked_up(path):
        "A page of the engine ends with a summary."
        if not re.search(r'^##+ Summary\s*$', text_of(path), flags=re.M):
            yield 'no section Summary'

    report(looked_up, ENGINE)


def test_prose_between_code():
    def rule(path):
        "No five cells of code in a row without a word between them; directives and imports do not count."
        run = 0
        for i, cell in enumerate(cells_of(path)):
            if cell['cell_type'] == 'markdown':
                run = 0
                continue
            skipped = ('#|', 'import ', 'from ', ' ', ')')
            plain = [line for line in source(cell).splitlines() if line.strip() and not line.startswith(skipped)]
            if not plain or 'google.colab' in source(cell) or HIDDEN.search(source(cell)):
                continue
            run += 1
            if run == 5:
                yield f'cells up to {i} are code alone'

    report(rule, READ)


def test_data_is_not_shown_above_its_own_table():
    def rule(path):
        "A cell of many literals is data: keep it in gfa_fastai/results, or hide the code (#| echo: false)."
        for i, cell in enumerate(cells_of(path)):
            code = source(cell)
            if cell['cell_type'] != 'code' or re.search(r'^#\|\s*(exports?|hide|echo: false)', code, flags=re.M):
                continue
            literals = re.findall(r"""^\s*(?:'.*'|".*"),?$""", code, flags=re.M)
            if len(literals) > 20:
                yield f'cell {i}: {len(literals)} lines of literals'

    report(rule, READ)


# --- every cell runs


def test_no_cell_has_a_flag_that_keeps_it_from_running():
    "Colab knows no flags: what takes long, or needs data, a camera or a GPU, stands behind a switch."

    def rule(path):
        for i, cell in enumerate(cells_of(path)):
            if flag := re.search(r'^#\|\s*(slow|cuda|data|notest|eval\s*:\s*false)\b', source(cell), flags=re.M):
                yield f'cell {i} has the flag {flag[1]}'

    report(rule, NOTEBOOKS)


# --- results


def test_each_result_of_the_paper_says_what_made_it():
    folder = LIB / 'results'
    made = json.loads((folder / 'results.json').read_text(encoding='utf-8'))
    for entry in made:
        files = [folder / name for name in entry['files']]
        assert all(p.exists() for p in files), entry['files']
        assert all(entry[k] for k in ('command', 'seeds', 'hardware', 'versions', 'benchmark', 'date')), entry['files']
        assert any((NBS / f / f'{entry["page"]}.ipynb').exists() for f in ('paper', 'synthpad', 'guides')), entry[
            'page'
        ]
        tables = [pd.read_csv(p) for p in files if p.suffix == '.csv']
        seeds = {seed for df in tables if 'seed' in df for seed in df['seed'].dropna()}
        assert seeds <= set(entry['seeds']), entry['files']
    described = {name for entry in made for name in entry['files']}
    paper = re.compile(r'(table_|figure_|conditions|section_|synthpad_)')
    strays = {p.name for p in folder.iterdir() if paper.match(p.name)} - described
    assert not strays, f'results that nothing describes: {strays}'
