"""The switches of pages outside of the paper: what stands behind them, at toy size.

That takes minutes, so it is not in the gate: `SWITCHES=1 pytest tests/test_switches.py` runs it, and so does the
workflow of Colab, weekly. In the gate is that the switches and what is made small are still there."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch
from house import NBS, NOTEBOOKS, ROOT, code_of, rel
from test_paper import ON, RUN

from gfa_fastai.inputs.files import write_json

RESULTS = ROOT / 'gfa_fastai' / 'results'
PAGES = {  # page: (what is replaced, files that it makes)
    'engine/comparators': (
        [
            ON,
            (
                "make_synthpad(folder, 'quick', **kw)",
                "make_synthpad(folder, 'tiny', **dict(domains=['webcam', 'phone'], subjects=(4, 2, 2)) | kw)",
            ),
            ('subjects=(40, 15, 25), frames=4', 'subjects=(4, 2, 2), frames=3'),
            ('steps=400, width=0.25, **kw', 'steps=4, width=0.125, bs=8, **kw'),
        ],
        ['results/comparators.csv', 'results/comparators_roc.csv'],
    ),
    'engine/measures': (
        [
            ON,
            ('subjects=(40, 2, 40)', 'subjects=(3, 1, 3)'),
            ("sources, 1000, precision='bf16'", "sources, 2, precision='bf16'"),
            ('fit(sources, 1000, **quiet)', 'fit(sources, 2, **quiet)'),
            ('imitate(own, sources, **quiet)', 'imitate(own, sources, steps=2, **quiet)'),
        ],
        ['results/adapters.csv'],
    ),
    'synthpad/difficulty': (
        [
            ON,
            ("make_synthpad(f'{d}/synthpad', 'standard')", "make_synthpad(f'{d}/synthpad', 'tiny')"),
            ('steps=1800, looks=9, size=64, width=0.25, bs=32', 'steps=4, looks=2, size=64, width=0.0625, bs=8'),
        ],
        ['results/synthpad_difficulty.csv'],
    ),
    'synthpad/audits': (
        [
            ON,
            ("make_synthpad(here / 'quick', 'quick'", "make_synthpad(here / 'quick', 'tiny', subjects=(4, 2, 2)"),
            ("make_synthpad(here / 'blank', 'quick'", "make_synthpad(here / 'blank', 'tiny', subjects=(4, 2, 2)"),
            ('def fit(df, steps=400', 'def fit(df, steps=4'),
        ],
        [f'results/synthpad_audits{end}' for end in ('.json', '_matrix.csv', '_shortcuts.csv')],
    ),
    'guides/small_trunk': (
        [
            ON,
            ("make_synthpad(f'{d}/synthpad', 'quick')", "make_synthpad(f'{d}/synthpad', 'tiny')"),
            ('steps=2400, bs=64', 'steps=4, bs=8'),
        ],
        ['results/small_trunk.json', 'results/small_trunk.safetensors'],
    ),
    'guides/small_model': (
        [
            ON,
            ("make_synthpad(WORK / 'synthpad', 'quick')", "make_synthpad(WORK / 'synthpad', 'tiny')"),
            ('epochs=8', 'epochs=1'),
            ('least=2.0', 'least=0.01'),
        ],
        ['results/small_model.json', 'results/small_model.safetensors'],
    ),
    'guides/recapture_model': (
        [
            ON,
            ('else render_scenes(1280)', 'else render_scenes(6)'),
            ('n=8400, seed=1', 'n=32, seed=1'),
            ('people < 1200', 'people < 3'),
            ('epochs=12, lr=3e-3', 'epochs=1, lr=3e-3'),
            ('seed=0, bs=32', 'seed=0, bs=4'),
        ],
        ['results/recapture_model.json', 'results/recapture_model.safetensors'],
    ),
    'guides/train_on_a_gpu': (
        [
            ('FULL = False', 'FULL = True'),
            ("'full' if FULL else 'tiny'", "'tiny'"),
            ('({} if FULL else small)', 'small'),
            ('None if FULL else dict(width=0.125, steps=4)', 'dict(width=0.125, steps=4)'),
        ],
        ['gpu_run/numbers.json'],
    ),
}


def test_every_page_with_a_switch_is_tried():
    "Pages of the paper: test_paper."
    switched = {
        path
        for path in NOTEBOOKS
        if path.parent.name != 'paper' and any(re.match('(MEASURE|FULL) = False', code) for code in code_of(path))
    }
    assert {rel(path) for path in switched} == {f'nbs/{page}.ipynb' for page in PAGES}


@pytest.mark.parametrize('page', PAGES)
def test_what_is_made_small_is_there(page):
    code = '\n'.join(code_of(NBS / f'{page}.ipynb'))
    assert [old for old, _ in PAGES[page][0] if old not in code] == []


def test_costs_of_a_gpu_run_survive_a_disconnection(tmp_path):
    "A piece that an earlier session finished keeps its minutes; one that was cut off says that it was."
    cell = next(code for code in code_of(NBS / 'guides/train_on_a_gpu.ipynb') if 'def timed(' in code)
    cell = cell.partition('\n\n\nfda = ')[0]

    def session():
        names = dict(keep=tmp_path, json=json, time=time, torch=torch, write_json=write_json, pictures_took=2.0)
        exec(cell, names)
        return names

    def cut_off():
        raise KeyboardInterrupt

    first = session()
    assert first['timed']('one', lambda: time.sleep(0.02)) is None
    with pytest.raises(KeyboardInterrupt):
        first['timed']('two', cut_off)
    second = session()
    assert second['timed']('one', lambda: 'read') == 'read' and second['timed']('two', lambda: 'went on') == 'went on'
    costs = second['costs']
    assert costs['one'] == first['costs']['one'] and costs['one']['minutes'] > 0.02 / 60
    assert [costs[name]['starts'] for name in ('one', 'two')] == [1, 2] and 'minutes' in costs['two']


@pytest.mark.skipif(not os.environ.get('SWITCHES'), reason='takes minutes: SWITCHES=1')
@pytest.mark.parametrize('page', PAGES)
def test_switched_on(page, tmp_path):
    change, files = PAGES[page]
    before = {p.name: p.read_bytes() for p in RESULTS.iterdir()}
    (tmp_path / 'change.json').write_text(json.dumps(change), encoding='utf-8')
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
    done = subprocess.run(
        [sys.executable, '-c', RUN, NBS / f'{page}.ipynb', 'change.json'],
        cwd=tmp_path,
        env=env,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert all((tmp_path / f).stat().st_size > 100 for f in files)
    assert before == {p.name: p.read_bytes() for p in RESULTS.iterdir()}  # our own results are as they were
