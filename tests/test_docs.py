"What scripts/docs.py makes of nbdev's entries. The gate processes all pages and looks for faults in them."

import pytest
from test_house import script

pytest.importorskip('nbdev', reason='nbdev is not installed here: only `.[dev]` brings it')
docs = script('docs')

ENTRY = (
    '---\n\n[source](https://github.com/a/b/blob/main/t.py#L17){target="_blank"}\n\n### tpc_loss\n\n'
    '```python\ndef tpc_loss(\n    psi, # as [`paper_scale`](x.html#paper_scale) has it\n)->Tensor:\n```\n\n'
    '*Eq. 2, see [`gram_matrix`](y.html).*'
)


def test_an_entry_is_a_section_of_its_own():
    text = docs.entry(ENTRY, 'Eq. 2, see `gram_matrix`.')
    assert text.startswith('## tpc_loss {.api}\n\n[source](https://github.com/a/b/blob/main/t.py#L17){.source}\n')
    assert text.count('def tpc_loss') == 1 and text.endswith('*Eq. 2, see [`gram_matrix`](y.html).*')
    assert docs.entry(ENTRY, None, inside=True).startswith('::: {.entry}\n## tpc_loss {.api}')


def test_no_raw_link_in_a_signature():
    assert '# as `paper_scale` has it' in docs.entry(ENTRY, 'Eq. 2')


def test_no_inherited_docstring():
    text = docs.entry(ENTRY.replace('*Eq. 2, see [`gram_matrix`](y.html).*', '*Call self as a function.*'), None)
    assert text.endswith('```') and 'Call self' not in text


def test_no_signature_where_the_code_is_shown():
    text = docs.entry(ENTRY, 'Eq. 2', inside=True, bare=True)
    assert 'def ' not in text and text.endswith(':::') and '## tpc_loss' in text


def test_no_source_link_without_an_address():
    assert '[source]' not in docs.entry(ENTRY.replace('https://github.com/a/b', ''), 'Eq. 2')


def test_no_link_in_a_link():
    nested = 'a [[`F`](e.html#f)](g.ipynb), [the [`X`](y.html) page](z.ipynb), [`a`](b) [`c`](d)'
    assert docs.single_links(nested) == 'a [`F`](g.ipynb), [the `X` page](z.ipynb), [`a`](b) [`c`](d)'


def test_links_between_pages_are_relative():
    text = (
        'See [`a`](https://x.github.io/g/engine/files.html#a) and [`b`](https://x.github.io/g/tpc.html), [c](d.html).'
    )
    found = docs.relative_links(text, 'guides/gpus.ipynb', 'https://x.github.io/g/')
    assert found == 'See [`a`](../engine/files.html#a) and [`b`](../tpc.html), [c](d.html).'
    assert '](engine/files.html#a)' in docs.relative_links(text, '05_tpc.ipynb', 'https://x.github.io/g/')


def processed(tmp_path, page, *sources):
    "Sources of the cells of a page at `page`, and what the entries say, after all processors but the execution."
    from execnb.nbio import mk_cell, new_nb, read_nb, write_nb
    from nbdev.process import NBProcessor

    path = tmp_path / page
    path.parent.mkdir(parents=True)
    write_nb(new_nb([mk_cell(source) for source in sources]), path)
    nb = read_nb(path)
    left_out = 'exec_show_docs', 'FrontmatterProc', 'insert_warning', 'add_links'
    procs = [proc for proc in docs.Pages().base_procs() if proc.__name__ not in left_out]
    NBProcessor(nb=nb, procs=procs[:-1]).process()
    return docs.in_order(nb.cells, [name for name, _ in nb.docstrings_])


LESSON = '#| export\ndef b():\n    "First."\n\n\ndef a():\n    "Second."'


def test_a_chapter_shows_its_exported_code(tmp_path):
    cells = processed(tmp_path, 'nbs/05_tpc.ipynb', '#| export\nimport re', LESSON)
    assert [docs.is_entry(c) and docs.name_of(c) for c in cells] == ['b', 'a', None]
    assert cells[-1].source.endswith(LESSON.removeprefix('#| export\n'))


def test_other_pages_show_the_entry(tmp_path):
    cells = processed(tmp_path, 'nbs/engine/files.ipynb', LESSON, '#| exports\ndef c():\n    "Third."')
    assert [docs.is_entry(c) and docs.name_of(c) for c in cells] == ['b', 'a', 'c', None]
    docs.fold(cells[-1], lesson=False)
    assert cells[-1].source.startswith('#| code-fold: true\n#| code-summary: "Source"\ndef c')
    assert cells[-1].source.count('code-fold') == 1
