"Alternatives and controls: against plain versions, through save and load, and what the measures say of known changes."

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gfa_fastai.adapt.adapter import Adapter
from gfa_fastai.adapt.by_name import FITTED, SIMPLE, load_adapter, make_adapter
from gfa_fastai.adapt.fda import new_loss_network
from gfa_fastai.adapt.light import GridNet, LightFDA, slice_grid
from gfa_fastai.adapt.measures import (
    domain_gap,
    drift,
    equal_divergence,
    no_painted_texture,
    spatial_means,
    texture_energy,
)
from gfa_fastai.adapt.media import find_media, transfer_media
from gfa_fastai.adapt.methods import ColourMatch, FourierSwap, Identity, Recompress, fourier_swap
from gfa_fastai.inputs.videos import clip_frames, save_video

RNG = np.random.default_rng(0)


def noise(*size, low=0, high=256):
    return RNG.integers(low, high, (*size, 3), dtype=np.uint8)


def faces(n, size=(40, 48), seed=0):
    x = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return [(i * 255).byte().permute(1, 2, 0).numpy() for i in F.interpolate(x, size, mode='bicubic').clamp(0, 1)]


TARGET = noise(30, 50, low=60, high=200)


@pytest.mark.parametrize('method', [*SIMPLE, *FITTED])
def test_save_load_and_sizes(method, tmp_path):
    ims = [*faces(2), noise(33, 21), noise(16, 16), noise(17, 40)]
    made = make_adapter(
        method, TARGET, faces(4), steps=2, progress=False, **(dict(size=32) if method in FITTED else {})
    )
    out = made.transform(ims)
    assert [o.shape for o in out] == [i.shape for i in ims] and all(o.dtype == np.uint8 for o in out)
    again = load_adapter(made.save(tmp_path / 'm.safetensors'))
    assert type(again) is type(made) and again.fingerprint() == made.fingerprint()
    assert all((a == b).all() for a, b in zip(again.transform(ims), out))


def test_identity_and_recompress():
    im = noise(40, 40)
    assert (Identity().transform([im])[0] == im).all()
    file = io.BytesIO()
    Image.fromarray(im).save(file, 'JPEG', quality=60)
    assert (Recompress(60).transform([im])[0] == np.asarray(Image.open(file))).all()
    with pytest.raises(ValueError, match='quality is 0; it is a whole number, from 1 to 100'):
        Recompress(0)


def test_colour_match_in_rgb():
    im = noise(60, 60, low=100, high=150)
    out, want = ColourMatch(TARGET, 'rgb').transform([im])[0].reshape(-1, 3), TARGET.reshape(-1, 3)
    np.testing.assert_allclose(out.mean(0), want.mean(0), atol=1)
    np.testing.assert_allclose(out.std(0), want.std(0), atol=1)


def test_colour_match_in_lab():
    im, target = noise(60, 60, low=100, high=150), noise(40, 40, low=110, high=140)

    def lab(x):
        return cv2.cvtColor(np.float32(x) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)

    out = lab(ColourMatch(target).transform([im])[0])
    np.testing.assert_allclose(out.mean(0), lab(target).mean(0), atol=0.7)
    np.testing.assert_allclose(out.std(0), lab(target).std(0), atol=0.7)
    half = ColourMatch(target, strength=0.5).transform([im])[0]
    np.testing.assert_allclose(lab(half).mean(0), (lab(target).mean(0) + lab(im).mean(0)) / 2, atol=0.7)


def test_a_picture_of_one_colour_does_not_break():
    flat = np.full((32, 32, 3), 128, np.uint8)
    for m in (ColourMatch(TARGET), ColourMatch(TARGET, 'rgb'), FourierSwap(TARGET, 0.05)):
        assert m.transform([flat])[0].shape == flat.shape
    for target in (flat, np.zeros_like(flat)):
        assert ColourMatch(target).transform([TARGET])[0].std() < 3


@pytest.mark.parametrize('size', [(16, 16), (17, 16), (16, 19), (21, 33)])
@pytest.mark.parametrize('beta', [0, 0.02, 0.1, 0.3])
def test_fourier_swap_against_plain_fft(size, beta):
    x, t = RNG.random((2, 3, *size)), RNG.random((1, 3, *size))
    X, T = (np.fft.fftshift(np.fft.fft2(o), axes=(-2, -1)) for o in (x, t))
    b, h, w = int(beta * min(size)), size[0] // 2, size[1] // 2
    amp = abs(X)
    amp[..., h - b : h + b + 1, w - b : w + b + 1] = abs(T)[..., h - b : h + b + 1, w - b : w + b + 1]
    want = np.fft.ifft2(np.fft.ifftshift(amp * np.exp(1j * np.angle(X)), axes=(-2, -1)))
    assert abs(want.imag).max() < 1e-9
    np.testing.assert_allclose(
        fourier_swap(torch.from_numpy(x), torch.from_numpy(t), beta).numpy(), want.real, atol=1e-9
    )


def test_grid_against_grid_sample():
    x, grid = torch.rand(2, 3, 23, 31, dtype=torch.float64), torch.randn(2, 12, 5, 6, 7, dtype=torch.float64)
    g = (x * torch.tensor([0.3, 0.59, 0.11]).double().view(1, 3, 1, 1)).sum(1)
    yy, xx = torch.meshgrid(torch.linspace(-1, 1, 23).double(), torch.linspace(-1, 1, 31).double(), indexing='ij')
    at = torch.stack([xx.expand(2, -1, -1), yy.expand(2, -1, -1), 2 * g - 1], -1)[:, None]
    A = F.grid_sample(grid, at, align_corners=True)[:, :, 0].view(2, 3, 4, 23, 31)
    want = x + (A[:, :, :3] * x[:, None]).sum(2) + A[:, :, 3]
    for rows in (1, 7, 16, 100):
        torch.testing.assert_close(slice_grid(x, grid, rows), want, rtol=1e-5, atol=1e-6)


def test_grid_net_starts_from_nothing_and_learns():
    x = torch.rand(2, 3, 40, 50)
    assert torch.equal(GridNet()(x), x)
    dark = [(0.4 * im).astype(np.uint8) for im in faces(8)]
    light = LightFDA(faces(1, seed=5)[0], size=32).fit(dark, steps=60, progress=False)
    assert light.info['domain'] < light.info['domain_before'] and np.mean(light.transform(dark)) > np.mean(dark)
    assert np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(light.transform(dark), dark)]) > 0.95


def test_gap_in_closed_form():
    phi = new_loss_network()
    a, b = faces(6), faces(6, seed=1)
    assert domain_gap(a, a, phi) == pytest.approx(0, abs=1e-9) and domain_gap(a, b, phi) == pytest.approx(
        domain_gap(b, a, phi)
    )
    from scipy import integrate, stats

    ma, mb = (spatial_means(o, phi, ('relu1_2',))['relu1_2'] for o in (a, b))
    c = int(torch.minimum(ma.var(0), mb.var(0)).argmax())
    p, q = (stats.norm(m[:, c].mean(), m[:, c].std()) for m in (ma, mb))
    lo, hi = (
        min(p.mean() - 12 * p.std(), q.mean() - 12 * q.std()),
        max(p.mean() + 12 * p.std(), q.mean() + 12 * q.std()),
    )
    want = integrate.quad(lambda t: (p.pdf(t) - q.pdf(t)) * (p.logpdf(t) - q.logpdf(t)), lo, hi, limit=400)[0]
    va, vb, d2 = p.var(), q.var(), (p.mean() - q.mean()) ** 2
    assert (va + d2) / (2 * vb) + (vb + d2) / (2 * va) - 1 == pytest.approx(want, rel=1e-3)


def test_measures_of_known_changes():
    phi, im = (
        new_loss_network(),
        np.clip(faces(1, (96, 96))[0] + RNG.normal(0, 10, (96, 96, 3)), 0, 255).astype(np.uint8),
    )
    same = drift([im], [im], phi)
    assert same['content'] == 0 and same['identity'] == pytest.approx(0, abs=1e-6) and same['texture'] == 1
    smooth = cv2.GaussianBlur(im, (0, 0), 1.5)
    assert drift([im], [smooth], phi)['content'] > 0 and texture_energy(smooth) < 0.8 * texture_energy(im)
    assert no_painted_texture(im, im) and not no_painted_texture(im, smooth) and not no_painted_texture(smooth, im)
    assert equal_divergence(1.05, 1) and not equal_divergence(1.06, 1) and equal_divergence(0.5, 1)


def test_fitted_methods_are_kept(tmp_path):
    kw = dict(steps=2, file=tmp_path / 'm.safetensors', progress=False, size=32)
    first = make_adapter('light', TARGET, faces(4), **kw)
    stamp = (tmp_path / 'm.safetensors').stat().st_mtime_ns
    assert (
        make_adapter('light', TARGET, faces(4), **kw).fingerprint() == first.fingerprint()
        and (tmp_path / 'm.safetensors').stat().st_mtime_ns == stamp
    )
    assert make_adapter('light', TARGET, faces(4, seed=3), **kw).fingerprint() != first.fingerprint()
    (tmp_path / 'm.safetensors').write_bytes(b'damaged')
    assert make_adapter('light', TARGET, faces(4), **kw).fingerprint() == first.fingerprint()


def test_light_imitates_a_fitted_method(tmp_path):
    images = faces(8, (48, 48))
    teacher = FourierSwap(TARGET, 0.05)

    class Warmer(Adapter):
        def apply(self, x):
            return (x * x.new_tensor([1.2, 1.0, 0.8]).view(1, 3, 1, 1)).clamp(0, 1)

    def off(m):
        return np.mean([abs(a.astype(float) - b) for a, b in zip(m.transform(images), Warmer().transform(images))])

    light = LightFDA(size=32).imitate(Warmer(), images, steps=120, progress=False)
    assert off(light) < 0.4 * off(Identity())
    again = LightFDA.load(light.save(tmp_path / 'l.safetensors'))
    assert again.fingerprint() == light.fingerprint() and again.info['imitates'] == Warmer().fingerprint()
    a, b = (
        LightFDA(TARGET, size=32).imitate(Warmer(), images, steps=3, progress=False).fingerprint() for _ in range(2)
    )
    assert a == b
    kw = dict(steps=2, file=tmp_path / 'm.safetensors', progress=False, size=32)
    plain, pupil, other = (
        make_adapter('light', TARGET, images, teacher=t, **kw).fingerprint() for t in (None, Warmer(), teacher)
    )
    assert (
        len({plain, pupil, other}) == 3
        and make_adapter('light', TARGET, images, teacher=teacher, **kw).fingerprint() == other
    )
    with pytest.raises(ValueError, match='Recompress works on bytes.*give a network'):
        LightFDA(TARGET, size=32).imitate(Recompress(), images, steps=2, progress=False)
    with pytest.raises(ValueError, match='fda imitates nothing'):
        make_adapter('fda', TARGET, images, teacher=teacher, **kw)


def test_bad_arguments(tmp_path):
    with pytest.raises(
        ValueError,
        match="method 'paint' is not known, choose one of identity, recompress, colour, fourier, fda, light",
    ):
        make_adapter('paint', TARGET)
    with pytest.raises(ValueError, match='method fourier needs a target image'):
        make_adapter('fourier', None)
    with pytest.raises(ValueError, match="space 'hsv' is not known"):
        ColourMatch(TARGET, 'hsv')
    with pytest.raises(ValueError, match='beta is 0.7'):
        FourierSwap(TARGET, 0.7)
    with pytest.raises(ValueError, match='strength is nan'):
        ColourMatch(TARGET, strength=float('nan'))


def test_find_media(tmp_path):
    for n in ('a.jpg', 'b.PNG', 'c.txt', 'd.mp4', '.hidden.jpg', 'out/e.jpg', 'sub/f.jpeg'):
        (tmp_path / n).parent.mkdir(exist_ok=True)
        (tmp_path / n).touch()
    images, videos, skipped = find_media([tmp_path, tmp_path / 'c.txt', tmp_path / 'none'], tmp_path / 'out')
    assert [str(n) for _, n in images] == ['a.jpg', 'b.PNG', str(Path('sub') / 'f.jpeg')] and [
        str(n) for _, n in videos
    ] == ['d.mp4']
    assert [Path(p).name for p, _ in skipped] == ['c.txt', 'none']


NAMES = [('a/face.jpg', 'b/face.jpg'), ('in/x.jpg', 'in/x.png', 'in/x.bmp'), ('a/x.png', 'b/x_2.png', 'c/x.jpg')]


@pytest.mark.parametrize('names', NAMES)
def test_two_sources_of_one_name_have_two_results(tmp_path, names):
    for seed, n in enumerate(names):
        (tmp_path / n).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 20, 3), 40 * seed, np.uint8)).save(tmp_path / n, quality=100)
    made, skipped = transfer_media(Identity(), [tmp_path / n for n in names], tmp_path / 'out', progress=False)
    assert len(made) == len(names) and not skipped
    greys = sorted(round(np.asarray(Image.open(p)).mean() / 40) for p in made)
    assert greys == list(range(len(names)))


def test_output_inside_the_input(tmp_path):
    "The second identical call finds what the first has made, and does not take it for input."
    (tmp_path / 'sub').mkdir()
    for n in ('a.png', 'sub/b.png'):
        Image.fromarray(noise(20, 20)).save(tmp_path / n)
    save_video(tmp_path / 'c.mp4', [noise(32, 48) for _ in range(5)], 10)
    out = tmp_path / 'sub' / 'out'
    first = transfer_media(Identity(), [tmp_path], out, progress=False)
    stamps = {p: p.stat().st_mtime_ns for p in first[0]}
    assert transfer_media(Identity(), [tmp_path], out, progress=False) == first and len(first[0]) == 3
    assert stamps == {p: p.stat().st_mtime_ns for p in first[0]}
    for folder in (tmp_path / 'sub', tmp_path):
        with pytest.raises(ValueError, match='is or holds the input'):
            transfer_media(Identity(), [tmp_path / 'sub'], folder, progress=False)


def test_a_source_is_never_overwritten(tmp_path):
    Image.fromarray(noise(20, 20)).save(tmp_path / 'a.png')
    before = (tmp_path / 'a.png').read_bytes()
    made, _ = transfer_media(Recompress(10), [tmp_path / 'a.png'], tmp_path, progress=False)
    assert (tmp_path / 'a.png').read_bytes() == before and [p.name for p in made] == ['a_2.png']


@pytest.mark.parametrize('fps', [10, 15, 29.97])
def test_videos_keep_their_frame_rate(tmp_path, fps):
    writer = cv2.VideoWriter(str(tmp_path / 'v.avi'), cv2.VideoWriter_fourcc(*'MJPG'), fps, (48, 32))
    for i in range(9):
        writer.write(np.full((32, 48, 3), 25 * i, np.uint8))
    writer.release()
    made, skipped = transfer_media(Identity(), [tmp_path / 'v.avi'], tmp_path / 'out', bs=4, progress=False)
    assert not skipped and [round(f.mean() / 25) for f in clip_frames(made[0])] == list(range(9))
    assert cv2.VideoCapture(str(made[0])).get(cv2.CAP_PROP_FPS) == pytest.approx(fps, abs=0.01)


def test_videos_that_cannot_be_read(tmp_path):
    (tmp_path / 'bad.mp4').write_bytes(b'x' * 2000)
    (tmp_path / 'empty.mp4').touch()
    paths = [tmp_path / 'bad.mp4', tmp_path / 'empty.mp4']
    made, skipped = transfer_media(Identity(), paths, tmp_path / 'out', progress=False)
    assert not made and [p for p, _ in skipped] == list(map(str, paths))
    assert 'not a readable video' in skipped[0][1] and 'empty' in skipped[1][1]
