"The benchmark program: it runs, says what it measured and keeps what it has. Never how fast."

import json
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / 'benchmarks').exists(), reason='benchmarks are not in the sdist')


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import __main__ as program

    return program


def test_a_row_as_table_and_json(program, tmp_path, capsys):
    path = tmp_path / 'b.json'
    path.write_text(
        json.dumps(
            dict(
                lines=[dict(row='fda', what='kept'), dict(row='tpc', what='replaced')],
                seconds=dict(fda=1.0),
                machines=dict(fda=dict(cpu='another')),
            )
        )
    )
    program.main(['tpc', '--quick', '--rounds', '1', '--json', str(path)])
    report, out = json.loads(path.read_text()), capsys.readouterr().out
    assert 'loop over pairs' in out and 'goals missed' in out
    assert [l['what'] for l in report['lines'] if l['row'] == 'fda'] == ['kept'] and 'replaced' not in {
        l['what'] for l in report['lines']
    }
    assert (
        report['machines']['fda']['cpu'] == 'another'
        and report['machines']['tpc']['versions']['torch']
        and report['machines']['tpc']['threads'] == 1
    )
    ours = [l for l in report['lines'] if l['what'] == 'tpc_loss' and l['anchor']]
    assert len(ours) == 5 and all(l['low'] <= l['ms'] <= l['high'] and l['times'] > 0 for l in ours)


def test_every_row_is_there(program):
    from importlib import import_module

    for module, function, _ in program.ROWS.values():
        assert callable(getattr(import_module(f'benchmarks.{module}'), function))
    assert set(program.LONG) < set(program.ROWS)


def test_ratios_are_of_the_same_round(program):
    from benchmarks.measure import line, turns

    l = line('r', 'c', 'ours', [1.0, 2.0, 4.0], 'theirs', [2.0, 4.0, 12.0], goal=2.0)
    assert l['times'] == 2 and l['met'] and (l['ms'], l['low'], l['high']) == (2000, 1000, 4000)
    calls = []
    turns({k: lambda k=k: calls.append(k) for k in 'ab'}, 2)
    assert ''.join(calls) == 'ababab'


@pytest.mark.parametrize(
    'args,message',
    [(['speed'], "no row 'speed'; there are tpc"), (['--threads', '0'], 'threads and rounds start at 1')],
)
def test_bad_arguments(program, args, message, capsys):
    with pytest.raises(SystemExit):
        program.main(args)
    assert message in capsys.readouterr().err


def test_the_same_function_is_compared(program):
    "The common network with our weights gives our numbers."
    import torch
    from benchmarks.fda import common, same_weights
    from gfa_fastai.fda import TransformNet

    ours, theirs = TransformNet(out='linear').eval(), common().eval()
    same_weights(ours.layers, theirs)
    x = torch.rand(1, 3, 32, 36, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            ours(x), theirs((x - ours.mean) / ours.std) * ours.std + ours.mean, rtol=0, atol=1e-5
        )


def test_the_gpu_kit_goes_on_where_it_was(program, tmp_path, monkeypatch, capsys):
    "A dry run on the CPU: piece by piece in its order, each with its numbers, and only what is missing is made again."
    from benchmarks import gpu
    from fastai.torch_core import defaults

    monkeypatch.setattr(defaults, 'use_cuda', None)
    words = ['--tiny', '--device', 'cpu', '--out', str(tmp_path)]
    done = [gpu.main(['next', *words]) for _ in range(4)]
    assert done == ['checks', 'speed', 'pictures', 'webcam-tpc_off-seed0']
    found = {name: json.loads((tmp_path / f'{name}.json').read_text()) for name in done}
    assert all(report['machine']['versions']['torch'] for report in found.values())
    assert 0 < found['checks']['found']['relative_difference']['bf16'] < 0.1
    assert found['speed']['found']['step of 4 pairs, fp32, s'] > 0
    assert set(found[done[3]]['found']['hter']) == {'webcam', 'phone'}
    (tmp_path / 'pictures.json').unlink()
    assert gpu.main(['next', *words]) == 'pictures' and gpu.main(['next', *words]) == 'webcam-tpc_on-seed0'
    capsys.readouterr()
    gpu.main(['list', *words])
    assert capsys.readouterr().out.split().count('open') == 5


def test_the_gpu_kit_has_the_experiment(program, tmp_path):
    "The piece of In vivo: all arms of a shortcut, and none again where they are in the table."
    from types import SimpleNamespace
    from benchmarks import gpu
    from gfa_fastai.run.in_vivo import ARMS_IN_VIVO, IN_VIVO

    a = SimpleNamespace(out=tmp_path, tiny=True, device='cpu')
    piece = gpu.all_pieces(a)['in_vivo-screen-seed0']
    found = piece(a)
    assert [row['arm'] for row in found['networks']] == ARMS_IN_VIVO['arm'].tolist()
    assert found['settings']['width'] == IN_VIVO['width'] and json.dumps(found)
    before = (tmp_path / 'in_vivo.csv').stat().st_mtime_ns
    assert piece(a) == found and (tmp_path / 'in_vivo.csv').stat().st_mtime_ns == before
    full = gpu.settings_in_vivo(SimpleNamespace(out=tmp_path, tiny=False, device='cpu'))
    assert (full['width'], full['size']) == (1.0, 224)


def test_the_gpu_kit_needs_a_gpu(program, tmp_path, monkeypatch, capsys):
    import torch
    from benchmarks import gpu

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit):
        gpu.main(['next', '--out', str(tmp_path)])
    assert '--device cpu --tiny is a dry run' in capsys.readouterr().err and not list(tmp_path.iterdir())
