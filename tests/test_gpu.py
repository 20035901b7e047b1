"""The library on a GPU: on the card where there is one, else on the pretend one of pretend_gpu.py.

The checks are in gpu_checks.py. They run in a process of their own, because pretending cannot be undone."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def names():
    tree = ast.parse((HERE / 'gpu_checks.py').read_text(encoding='utf-8'))
    checks = next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == 'CHECKS')
    return [check.id for check in checks.elts]


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    "Name of a check -> what it raised, '' where nothing."
    out = tmp_path_factory.mktemp('gpu') / 'results.json'
    env = {**os.environ, 'PYTHONPATH': str(HERE.parent), 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
    done = subprocess.run([sys.executable, HERE / 'gpu_checks.py', out], env=env, capture_output=True, text=True)
    assert out.exists(), done.stderr[-3000:]
    return json.loads(out.read_text())


def test_the_papers_network_fits_a_t4_by_the_count():
    from gfa_fastai.train.memory import training_memory

    plain, again = (training_memory(32, number_bytes=2, recompute=r) for r in (False, True))
    assert again['total'] < plain['total'] < 15 and again['weights'] == plain['weights'] > 4


@pytest.mark.parametrize('name', names())
def test_on_a_gpu(results, name):
    assert results[name] == ''
