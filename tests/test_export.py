"Exported networks give the same answers; what is not installed, not a network or damaged says so."
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gfa_fastai import export
from gfa_fastai.authenticate import FaceAuthenticator, both_answers
from gfa_fastai.export import Answers8, explain, export_onnx, export_torch, onnx_answers, open_onnx
from gfa_fastai.model import GFACNN

def authenticator(adapter=None, **kwargs):
    torch.manual_seed(0)
    m = GFACNN(3, **{**dict(width=.125, pool=2, fc_dim=16), **kwargs}).eval()
    torch.nn.init.normal_(m.spoof_head[6].weight, 0, .3)
    return FaceAuthenticator(m, dict(size=64, margin=.3), adapter, live_threshold=.5, device='cpu')

def pictures(n, seed=0):
    "Smooth and rough ones, black and white ones among them."
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)
    x[0], x[-1] = 0, 255
    return x

@pytest.fixture(scope='module')
def onnx_file(tmp_path_factory):
    pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')
    auth = authenticator()
    return auth, export_onnx(auth, tmp_path_factory.mktemp('onnx')/'sub'/'m.onnx')

@pytest.mark.parametrize('n', [1, 2, 7])
def test_onnx_agrees_at_any_batch_size(onnx_file, n):
    auth, path = onnx_file
    x, y = pictures(n), pictures(n, 1)
    for a,b in zip(onnx_answers(open_onnx(path, 1), x, y), both_answers(auth.model, x, y)): assert a.shape == b.shape and np.abs(a-b).max() < 1e-4

def test_onnx_says_how_it_is_to_be_used(onnx_file):
    auth, path = onnx_file
    facts = open_onnx(path).get_modelmeta().custom_metadata_map
    assert facts['size'] == '64' and facts['margin'] == '0.3' and facts['live_threshold'] == '0.5' and facts['model'] == auth.gallery.model
    assert [p.name for p in path.parent.iterdir()] == ['m.onnx']

@pytest.mark.parametrize('precision, near', [('fp16', .01), ('int8', .05)])
def test_smaller_variants(onnx_file, tmp_path, precision, near):
    auth, path = onnx_file
    small = export_onnx(auth, tmp_path/'s.onnx', precision)
    x, y = pictures(4), pictures(4, 1)
    got, want = onnx_answers(open_onnx(small), x, y), both_answers(auth.model, x, y)
    assert np.abs(got[0]-want[0]).max() < near and (got[1]*want[1]).sum(1).min() > 1-near
    assert small.stat().st_size < .6*path.stat().st_size and [p.name for p in tmp_path.iterdir()] == ['s.onnx']
    assert next(auth.model.parameters()).dtype == torch.float32

def test_adaptation_is_in_the_graph():
    from gfa_fastai.adapt import Recompress
    from gfa_fastai.fda import FDA
    fda = FDA(pictures(1)[0], width=.25, size=64, info=dict(steps=1))
    fda.device = 'cpu'; fda.net.to('cpu')
    auth, x, y = authenticator(fda), pictures(3), pictures(3, 1)
    want = both_answers(auth.model, np.stack(fda.run(list(x))), y)
    with torch.no_grad(): got = Answers8(auth)(torch.from_numpy(x), torch.from_numpy(y))
    for a,b in zip(got, want): assert np.abs(a.numpy()-b).max() < 1e-3       # a rounding at the half may go the other way
    with pytest.raises(ValueError, match='Recompress is no network'): export_onnx(authenticator(Recompress(80)), 'never.onnx')

def test_torch_export(tmp_path):
    auth, x, y = authenticator(), pictures(5), pictures(5, 1)
    program = torch.export.load(export_torch(auth, tmp_path/'m.pt2')).module()
    with torch.no_grad(): got = program(torch.from_numpy(x), torch.from_numpy(y))
    for a,b in zip(got, both_answers(auth.model, x, y)): assert np.abs(a.numpy()-b).max() < 1e-5

def test_what_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(ImportError, match=r'onnx is not installed.*pip install "gfa_fastai\[export\]"'): export_onnx(authenticator(), tmp_path/'m.onnx')
    monkeypatch.setitem(sys.modules, 'captum.attr', None)
    with pytest.raises(ImportError, match=r'gfa_fastai\[explain\]'): explain(authenticator(), np.full((64, 64, 3), 128, np.uint8))
    assert not list(tmp_path.iterdir())

def test_bad_files(onnx_file, tmp_path):
    (tmp_path/'m.onnx').write_bytes(onnx_file[1].read_bytes()[:500])
    with pytest.raises(ValueError, match='m.onnx is no ONNX file'): open_onnx(tmp_path/'m.onnx')
    with pytest.raises(FileNotFoundError, match='no model at'): open_onnx(tmp_path/'none.onnx')
    with pytest.raises(ValueError, match="precision 'fp8' is not known"): export_onnx(onnx_file[0], tmp_path/'x.onnx', 'fp8')

@pytest.mark.parametrize('layer', ['relu3_3', 'relu5_3'])
def test_explain(layer):
    pytest.importorskip('captum')
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    cam, photo, r = explain(authenticator(), image, layer)
    assert cam.shape == (90, 120) and np.abs(cam).max() <= 1 and np.array_equal(photo, image) and r.code
    with pytest.raises(ValueError, match="layer 'relu9' is not known"): explain(authenticator(), image, 'relu9')
