"The pages of the paper on other data, at a small size: their switches are set, and nothing else is changed."

import json, os, shutil, subprocess, sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / 'nbs' / 'paper'
RESULTS = ROOT / 'gfa_fastai' / 'results'
SAMPLES = (
    "from gfa_fastai.run.reproduce import read_data, with_splits\ndef samples(): return with_splits(read_data(['hall',"
    " 'door']))\n"
)
ON = ('MEASURE = False', 'MEASURE = True')
BOTH = ('DATA = None', "DATA = ['hall', 'door']")
OTHER = {  # page: (its cell 'The data of this page' as it becomes, or what is replaced; files that it makes)
    'table_4_cross': (
        [ON, BOTH, ('SIZE, STEPS, SEEDS = 64, 400, 3', 'SIZE, STEPS, SEEDS = 48, 2, 2')],
        ['results/table_4.csv'],
    ),
    'table_2_3_intra': (
        [
            ON,
            ('DATA = None', "DATA = 'hall'"),
            ("READER = 'oulu_npu'", "READER = 'folder'"),
            ('SIZE, STEPS, SEEDS = 64, 800, 3', 'SIZE, STEPS, SEEDS = 48, 2, 2'),
            ("{1: 'session', 2: 'medium', 3: 'camera', 4: 'all'}", "{1: 'one', 2: 'two'}"),
        ],
        ['results/table_3.csv'],
    ),
    'two_tasks': (
        [
            ON,
            BOTH,
            ('spread=4, progress=False)', 'spread=1, progress=False)'),
            ('epochs=13', 'epochs=2'),
            ('seeds=range(10)', 'seeds=range(2)'),
            ('    bs=32,', '    bs=8,'),
        ],
        ['results/two_tasks.csv'],
    ),
    'conditions': (
        [
            ON,
            ("TRAIN, PEOPLE, SEEDS = 'webcam', (60, 15, 25), 3", "TRAIN, PEOPLE, SEEDS = 'webcam', (4, 2, 3), 2"),
            ('[100, 200, 400, 800], [0.0, 2.5e-8, 2.5e-7, 2.5e-6, 2.5e-5]', '[1, 2], [0.0, 2.5e-5]'),
            ('FIT = 200', 'FIT = 2'),
            ("'pattern gap': ['0.0', 'base', '1.5']", "'pattern gap': ['0.0', 'base']"),
            ("'style gap': ['0.0', 'base', '1.5']", "'style gap': ['base']"),
            ("'people': ['20', 'base', '180']", "'people': ['base']"),
            ("'first weights': ['base', 'identities', 'attacks']", "'first weights': ['base', 'attacks']"),
        ],
        ['results/conditions_grid.csv', 'results/conditions_one.csv'],
    ),
    'figure_3': (
        [
            ON,
            ('DATA = None', "DATA = 'hall'"),
            ('SIZE, EPOCHS = 64, 5', 'SIZE, EPOCHS = 48, 1'),
            ('NETWORKS = None', "NETWORKS = {'with TPC, halves': 'run'}"),
            ("run_settings('standard'", "run_settings('tiny'"),
        ],
        ['results/figure_3.csv', 'results/figure_3_standard.csv'],
    ),
    'figure_4_patterns': (
        [
            ON,
            (
                "TRAINS, ASKED = ['webcam', 'phone'], list(PATTERNS)",
                "TRAINS, ASKED = ['webcam'], ['halftone', 'moire']",
            ),
            ('PEOPLE, SIZE = (1, 1, 25), 64', 'PEOPLE, SIZE = (1, 1, 2), 48'),
        ],
        ['results/figure_4.csv'],
    ),
    'figure_5': (
        [
            ON,
            ('DATA = None', "DATA = ['hall', 'door']"),
            ('LONG = None', "LONG = 'fit.safetensors'"),
            ('STEPS, SIZE = 150, 96', 'STEPS, SIZE = 2, 48'),
            ('PEOPLE, VIEW = (30, 8), 224', 'PEOPLE, VIEW = (1, 1), 48'),
        ],
        ['results/figure_5.csv'],
    ),
    'figure_6': (
        [
            ON,
            ('RUN = None', "RUN = 'run'"),
            (
                "WIDTH, STEPS, SIZE, WEIGHTS = 0.5, 150, 64, 'small'",
                "WIDTH, STEPS, SIZE, WEIGHTS = 0.125, 2, 48, 'small'",
            ),
            ("PEOPLE, PRESET = 20, 'standard'", "PEOPLE, PRESET = 2, 'tiny'"),
        ],
        ['results/figure_6.csv', 'results/figure_6_standard.csv'],
    ),
    'figure_7': (
        [
            ON,
            (
                "SIZES = {'320x240': (240, 320), '720x480': (480, 720), '720x1280': (1280, 720)}",
                "SIZES = {'320x240': (48, 64), '720x480': (64, 96), '720x1280': (128, 72)}",
            ),
            ('WIDTH, STEPS, SHORT, SEEDS = 0.25, 4000, 100, 3', 'WIDTH, STEPS, SHORT, SEEDS = 0.125, 2, 2, 2'),
            ('PEOPLE, VIEW = (1, 0, 6), 224', 'PEOPLE, VIEW = (1, 0, 2), 44'),
        ],
        ['results/figure_7.csv', 'results/figure_7_drawn.csv'],
    ),
    'figure_8': (
        [
            ON,
            ('DATA = None', "DATA = ['hall', 'door']"),
            ('SIZE, EPOCHS, SEEDS = 64, 5, 3', 'SIZE, EPOCHS, SEEDS = 48, 1, 2'),
        ],
        ['results/figure_8.csv', 'results/figure_8_roc.csv'],
    ),
    'table_1_ablation': (
        [
            ON,
            BOTH,
            ("PRESET = 'standard'", "PRESET = 'tiny'"),
            ('SIZE, STEPS, SEEDS = 64, 400, 3', 'SIZE, STEPS, SEEDS = 48, 2, 1'),
            ("training=dict(precision='bf16')", 'training=dict(steps=2, seeds=1)'),
        ],
        [f'results/table_1_{n}.csv' for n in ('scores', 'terms', 'classical', 'controls', 'flips')],
    ),
}
RENDERED = {'conditions', 'figure_3', 'figure_4_patterns', 'figure_6', 'figure_7'}  # on SynthPAD
RUN = '''
import json, os, sys
from pathlib import Path
from execnb.nbio import read_nb
from execnb.shell import CaptureShell
os.environ['IN_TEST'] = '1'
nb = read_nb(sys.argv[1]); change = json.loads(Path(sys.argv[2]).read_text(encoding='utf-8'))
left = [] if isinstance(change, str) else [old for old, _ in change]
def left_out(c):
    if isinstance(change, str):
        if c.source.startswith('# The data of this page'): c.source = change
    elif c.cell_type == 'code':
        for old, new in change:
            if old in c.source: c.source = c.source.replace(old, new); left.remove(old)
    if c.cell_type != 'code':
        return True
    return 'TemporaryDirectory() as d:\\n    small' in c.source  # the tiny twin is tried by nbdev_test
shell = CaptureShell(mpl_format='png')
try: shell.run_all(nb, exc_stop=True, preproc=left_out)
except Exception: sys.exit(shell.prettytb(fname=sys.argv[1]))
if left: sys.exit(f'nothing to replace: {left}')
'''


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "Two folders of pictures of the same twelve people, with live faces, prints and replays, and no splits."
    from gfa_fastai.synth.benchmark import make_synthpad

    root = tmp_path_factory.mktemp('folders')
    df = make_synthpad(
        root / 'pad', 'tiny', seed=7, domains=['slr', 'laptop'], subjects=(6, 3, 3), workers=1, progress=False
    )
    for r in df[df.role == 'probe'].itertuples():
        kind = Path('live') if r.label == 'live' else Path('attack') / r.pai
        path = root / ('hall' if r.dataset == 'slr' else 'door') / kind / r.subject[-2:] / Path(r.path).name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(r.path, path)
    return root


def make_network(folder, **info):
    "A network as a run folder has it, untrained."
    import torch
    from gfa_fastai.inputs.models import save_model
    from gfa_fastai.model import GFACNN

    folder.mkdir(parents=True)
    torch.manual_seed(info['seed'])
    save_model(GFACNN(2, width=0.125, pool=1), folder / 'model.safetensors', train='webcam', steps=0, **info)


def make_fit(path):
    "A small network of FDA, hardly fitted."
    import numpy as np
    from gfa_fastai.adapt.fda import FDA

    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3)).astype(np.uint8)
    FDA(pictures[0], width=0.125, size=32, scale='own').fit(list(pictures[1:]), steps=1, progress=False).save(path)


def test_every_page_that_measures_is_tried():
    "Pages with a switch, but for those that export a module: its own tests try them."
    switched, exports = set(), set()
    for p in PAPER.glob('*.ipynb'):
        code = [''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells']]
        if any(s.startswith(('# The data of this page', 'MEASURE = False')) for s in code):
            switched.add(p.stem)
        if any(s.startswith('#| default_exp') for s in code):
            exports.add(p.stem)
    assert switched - exports <= set(OTHER) <= switched


@pytest.mark.parametrize('page', OTHER)
def test_page_on_other_data(page, folders, tmp_path):
    change, files = OTHER[page]
    results_before = {p.name: p.read_bytes() for p in RESULTS.iterdir()}
    for name in 'hall', 'door':
        (tmp_path / name).symlink_to(folders / name)
    if page == 'table_2_3_intra':  # Table 2 is drawn from the rows of Table 4
        df = pd.read_csv(RESULTS / 'table_4.csv', dtype=dict(version=str))
        (tmp_path / 'results').mkdir()
        df[df.train.isin(['webcam', 'slr']) & df.test.isin(['webcam', 'slr'])].replace(
            dict(webcam='hall', slr='door')
        ).to_csv(tmp_path / 'results/table_4.csv', index=False)
    run = dict(figure_3='run', figure_4_patterns='runs/standard').get(page)
    for tpc in ('off', 'on') if run else ():  # they ask networks of Table 1
        for seed in 0, 1:
            make_network(tmp_path / run / f'arms/webcam-tpc_{tpc}-seed{seed}', tpc=tpc == 'on', seed=seed)
    if page == 'figure_6':  # fits and networks of Table 1
        make_fit(tmp_path / 'run/fda/webcam.safetensors')
        for seed in 1, 2, 3:
            make_network(tmp_path / f'run/arms/webcam-tpc_off-seed{seed}', seed=seed)
    if page == 'figure_5':  # and a fit of the preset `full`
        make_fit(tmp_path / 'fit.safetensors')
    (tmp_path / 'change.json').write_text(json.dumps(change), encoding='utf-8')
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
    done = subprocess.run(
        [sys.executable, '-c', RUN, PAPER / f'{page}.ipynb', 'change.json'],
        cwd=tmp_path,
        env=env,
        text=True,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for f in files:
        text = (tmp_path / f).read_text(encoding='utf-8')
        assert ('webcam' not in text or page in RENDERED) and len(text.splitlines()) > 2, f
    assert results_before == {p.name: p.read_bytes() for p in RESULTS.iterdir()}  # our own tables are as they were
