"Exported networks give the same answers; what is not installed, not a network or damaged says so."

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from gfa_fastai.inputs.images import resize_square
from gfa_fastai.use.authenticate import FaceAuthenticator, both_answers
from gfa_fastai.use.export import (
    PictureNetwork,
    explain,
    export_onnx,
    linear_resize,
    onnx_answers,
    open_onnx,
    resize_in_graph,
)
from gfa_fastai.model import GFACNN


def authenticator(adapter=None, **kwargs):
    torch.manual_seed(0)
    m = GFACNN(3, **{**dict(width=0.125, pool=2, fc_dim=16), **kwargs}).eval()
    torch.nn.init.normal_(m.spoof_head[6].weight, 0, 0.3)
    return FaceAuthenticator(m, dict(size=64, margin=0.3), adapter, live_threshold=0.5, device='cpu')


def pictures(n, seed=0):
    "Smooth and rough ones, black and white ones among them."
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)
    x[0], x[-1] = 0, 255
    return x


@pytest.fixture(scope='module')
def onnx_file(tmp_path_factory):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    auth = authenticator()
    return auth, export_onnx(auth, tmp_path_factory.mktemp('onnx') / 'sub' / 'm.onnx')


@pytest.mark.parametrize('n', [1, 2, 7])
def test_onnx_agrees_at_any_batch_size(onnx_file, n):
    auth, path = onnx_file
    x, y = pictures(n), pictures(n, 1)
    for a, b in zip(onnx_answers(open_onnx(path, 1), x, y), both_answers(auth.model, x, y)):
        assert a.shape == b.shape and np.abs(a - b).max() < 1e-4


def test_onnx_says_how_it_is_to_be_used(onnx_file):
    auth, path = onnx_file
    facts = open_onnx(path).get_modelmeta().custom_metadata_map
    assert (
        facts['size'] == '64'
        and facts['margin'] == '0.3'
        and facts['live_threshold'] == '0.5'
        and facts['model'] == auth.gallery.model
    )
    assert [p.name for p in path.parent.iterdir()] == ['m.onnx']


def test_adaptation_is_in_the_graph():
    from gfa_fastai.adapt.methods import Recompress
    from gfa_fastai.adapt.fda import FDA

    fda = FDA(pictures(1)[0], width=0.25, size=64, info=dict(steps=1))
    fda.device = 'cpu'
    fda.net.to('cpu')
    auth, x, y = authenticator(fda), pictures(3), pictures(3, 1)
    want = both_answers(auth.model, np.stack(fda.run(list(x))), y)
    with torch.no_grad():
        got = PictureNetwork(auth)(torch.from_numpy(x), torch.from_numpy(y))
    for a, b in zip(got, want):
        assert np.abs(a.numpy() - b).max() < 1e-3  # a rounding at the half may go the other way
    with pytest.raises(ValueError, match='Recompress is no network'):
        export_onnx(authenticator(Recompress(80)), 'never.onnx')


def test_what_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(ImportError, match='onnx is not installed.*pip install onnx onnxscript'):
        export_onnx(authenticator(), tmp_path / 'm.onnx')
    monkeypatch.setitem(sys.modules, 'captum.attr', None)
    with pytest.raises(ImportError, match='pip install captum'):
        explain(authenticator(), np.full((64, 64, 3), 128, np.uint8))
    assert not list(tmp_path.iterdir())


def test_bad_files(onnx_file, tmp_path):
    (tmp_path / 'm.onnx').write_bytes(onnx_file[1].read_bytes()[:500])
    with pytest.raises(ValueError, match='m.onnx is no ONNX file'):
        open_onnx(tmp_path / 'm.onnx')
    with pytest.raises(FileNotFoundError, match='no model at'):
        open_onnx(tmp_path / 'none.onnx')


@pytest.mark.parametrize('layer', ['relu3_3', 'relu5_3'])
def test_explain(layer):
    pytest.importorskip('captum')
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    cam, photo, r = explain(authenticator(), image, layer)
    assert cam.shape == (90, 120) and np.abs(cam).max() <= 1 and np.array_equal(photo, image) and r.code
    with pytest.raises(ValueError, match="layer 'relu9' is not known"):
        explain(authenticator(), image, 'relu9')


@pytest.mark.parametrize('size', [48, 64, 224])
@pytest.mark.parametrize(
    'shape',
    [
        (64, 64),
        (448, 448),
        (480, 640),
        (1080, 1920),
        (192, 256),
        (37, 41),
        (300, 50),
        (50, 300),
        (225, 226),
        (1, 500),
        (500, 1),
        (1, 1),
    ],
)
def test_resize_is_opencvs(size, shape):
    "Never off by more than one grey level, and that in few places."
    im = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for im in (
        im,
        np.full_like(im, 255),
        np.tile(np.linspace(0, 255, shape[1]).astype(np.uint8)[None, :, None], (shape[0], 1, 3)),
    ):
        got = resize_in_graph(torch.from_numpy(im).permute(2, 0, 1)[None], size)
        assert got.shape == (1, 3, size, size)
        d = np.abs(got[0].permute(1, 2, 0).numpy() - resize_square(im, size))
        assert d.max() <= 1 and (d > 0).mean() < 0.02


@pytest.mark.parametrize('shape', [(31, 31), (17, 64), (64, 17), (50, 40), (3, 5), (1, 1), (223, 223)])
def test_growing_is_opencvs_to_the_byte(shape):
    "Bilinear enlargement is whole numbers on both sides, the first and last row among them."
    im = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    want = cv2.resize(im, (224, 224), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(
        linear_resize(torch.from_numpy(im).permute(2, 0, 1)[None], 224)[0].permute(1, 2, 0).numpy(), want
    )


@pytest.mark.parametrize(
    'frame, face, near',
    [
        ((448, 448), (128, 128), 1e-4),
        ((192, 256), (64, 64), 1e-4),
        ((1080, 1920), (640, 640), 1e-4),
        ((50, 40), (31, 31), 1e-4),
        ((64, 17), (9, 64), 1e-4),
        ((480, 640), (201, 201), 2e-4),
    ],
)
def test_onnx_takes_any_size(onnx_file, frame, face, near):
    """Noise, and random weights: the hardest for the resizing in the graph. A side that shrinks by no whole number
    leaves some bytes one off (test_resize_is_opencvs)."""
    auth, path = onnx_file
    rng = np.random.default_rng(1)
    x, y = (rng.integers(0, 256, (2, *s, 3), dtype=np.uint8) for s in (frame, face))
    want = both_answers(auth.model, *(np.stack([resize_square(o, 64) for o in p]) for p in (x, y)))
    for a, b in zip(onnx_answers(open_onnx(path, 1), x, y), want):
        assert np.abs(a - b).max() < near


def test_small_model_by_onnx_from_whole_pictures(tmp_path):
    "Rendered people in a larger room: the file gets the picture and the crop as they are."
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    from gfa_fastai.synth.faces import EVEN, NEUTRAL, draw_clothes, identity, render_scene

    auth = FaceAuthenticator.load('small', device='cpu')
    session = open_onnx(export_onnx(auth, tmp_path / 'small.onnx'), 1)
    for seed, (h, w) in enumerate([(240, 320), (300, 200), (480, 640)]):
        room = np.full((h, w, 3), 0.25, np.float32)
        linear = render_scene(
            identity(seed),
            NEUTRAL,
            np.eye(3),
            (w / 2, 0.45 * h),
            h / 5,
            EVEN,
            room,
            draw_clothes(np.random.default_rng(seed)),
        )[0]
        photo, side = (255 * np.clip(linear, 0, 1) ** (1 / 2.2)).round().astype(np.uint8), h // 2
        crop = photo[h // 5 : h // 5 + side, w // 2 - side // 2 : w // 2 - side // 2 + side]
        frame, face = (np.stack([resize_square(p, auth.size)]) for p in (photo, crop))
        for a, b in zip(onnx_answers(session, photo[None], crop[None]), both_answers(auth.model, frame, face)):
            assert np.abs(a - b).max() < 1e-4
