"FDA: losses against float64 references, a network that is one function in two forms, fits that can be stopped, files that say what is wrong."

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gfa_fastai import fda
from gfa_fastai.adapt.fda import FDA, FDA_PRESETS, choose_target, gram_gap, mean_grams
from gfa_fastai.fda import (
    FDALoss,
    LossNetwork,
    ShowTransfer,
    TransformNet,
    VGG19_BLOCKS,
    content_loss,
    domain_loss,
    gram_matrix,
    tv_loss,
)
from gfa_fastai.inputs.weights import VGGFACE_MEAN, VGGFACE_STD, vgg16_trunk

GEN = torch.Generator().manual_seed(0)


def rand(*s, **kw):
    return torch.rand(*s, generator=GEN, **kw)


def faces(n, size=40, seed=0):
    "Smooth random pictures."
    x = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return [
        (i * 255).byte().permute(1, 2, 0).numpy() for i in F.interpolate(x, (size, size), mode='bicubic').clamp(0, 1)
    ]


# -- losses


@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (2, 5, 3, 7), (3, 16, 20, 20)])
def test_gram_against_float64(shape):
    x = torch.randn(shape, generator=GEN, dtype=torch.float64)
    want = torch.einsum('bchw,bdhw->bcd', x, x) / math.prod(shape[1:])
    torch.testing.assert_close(gram_matrix(x), want)
    torch.testing.assert_close(gram_matrix(x.float()).double(), want, rtol=1e-5, atol=1e-6)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(gram_matrix(x.float()).double(), want, rtol=1e-5, atol=1e-6)


def test_gram_in_half_precision_is_finite():
    x = 60 * rand(1, 8, 256, 256).half()
    assert gram_matrix(x).isfinite().all() and gram_matrix(x).dtype == torch.float32
    torch.testing.assert_close(gram_matrix(x), gram_matrix(x.double()).float(), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize('memory', [torch.contiguous_format, torch.channels_last])
def test_gram_in_any_memory_order(memory):
    x = rand(2, 6, 5, 4)
    torch.testing.assert_close(gram_matrix(x.contiguous(memory_format=memory)), gram_matrix(x))


def test_losses_by_hand():
    a, b = rand(2, 3, 4, 5, dtype=torch.float64), rand(2, 3, 4, 5, dtype=torch.float64)
    assert content_loss(a, b).item() == pytest.approx(np.mean([((a[i] - b[i]) ** 2).sum() / 60 for i in range(2)]))
    g = gram_matrix(b[:1])
    sq = np.mean([((gram_matrix(a[i : i + 1]) - g) ** 2).sum() for i in range(2)])
    for norm, by in (('paper', 60), ('mean', 9), ('relative', (g**2).sum())):
        assert domain_loss(a, g, norm).item() == pytest.approx(sq / by)
    assert tv_loss(a).item() == pytest.approx(
        ((a[:, :, 1:] - a[:, :, :-1]) ** 2).mean() + ((a[..., 1:] - a[..., :-1]) ** 2).mean()
    )


@pytest.mark.parametrize('norm', fda.NORMS)
def test_gradients(norm):
    a, b, g = (
        rand(2, 3, 4, 5, dtype=torch.float64).requires_grad_(),
        rand(2, 3, 4, 5, dtype=torch.float64),
        gram_matrix(rand(1, 3, 6, 6, dtype=torch.float64)),
    )
    assert torch.autograd.gradcheck(lambda x: domain_loss(x, g, norm), a)
    assert torch.autograd.gradcheck(lambda x: content_loss(x, b), a) and torch.autograd.gradcheck(tv_loss, a)


def test_bad_features():
    with pytest.raises(ValueError, match=r'gram_matrix: expected features \(B, C, H, W\), got \(3, 4\)'):
        gram_matrix(rand(3, 4))
    with pytest.raises(ValueError, match='expected a float tensor of features, got torch.uint8'):
        gram_matrix(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match='both images must have one size'):
        content_loss(rand(1, 3, 4, 4), rand(1, 3, 4, 5))
    with pytest.raises(ValueError, match=r'need \(1, 3, 3\): pass gram_matrix of the target image'):
        domain_loss(rand(1, 3, 4, 4), rand(1, 4, 4))
    with pytest.raises(ValueError, match="norm 'sum' is not known, choose one of paper, mean, relative"):
        domain_loss(rand(1, 3, 4, 4), rand(1, 3, 3), 'sum')


# -- the loss network


def test_loss_network_equals_torchvision():
    from torchvision.models import vgg16, vgg19
    from torchvision.models.feature_extraction import create_feature_extractor

    for arch, build, nodes in (
        ('vgg16', vgg16, {'features.3': 'relu1_2', 'features.15': 'relu3_3'}),
        ('vgg19', vgg19, {'features.1': 'relu1_1', 'features.22': 'relu4_2'}),
    ):
        torch.manual_seed(1)
        theirs = build(weights=None, init_weights=False).eval()
        ours = LossNetwork(None, arch, width=1.0, mean=(0, 0, 0), std=(1, 1, 1))
        ours.trunk.load_state_dict(
            {k.removeprefix('features.'): v for k, v in theirs.state_dict().items() if k.startswith('features.')}
        )
        for m in theirs.modules():
            if isinstance(m, nn.ReLU):
                m.inplace = False
        x = rand(1, 3, 48, 48)
        with torch.no_grad():
            want, got = create_feature_extractor(theirs, nodes)(x), ours(x, nodes.values())
        for name in nodes.values():
            torch.testing.assert_close(got[name], want[name])


def test_loss_network_stops_early_and_is_fixed():
    net, calls = LossNetwork(None), []
    for i, layer in enumerate(net.trunk):
        layer.register_forward_hook(lambda *a, i=i: calls.append(i))
    net(rand(1, 3, 32, 32), ('relu2_2',))
    assert (
        max(calls) == net.index['relu2_2']
        and not net.train().training
        and not any(p.requires_grad for p in net.parameters())
    )


def test_loss_network_sources(tmp_path):
    assert torch.equal(LossNetwork(None, seed=3).trunk[0].weight, LossNetwork(None, seed=3).trunk[0].weight)
    assert not torch.equal(LossNetwork(None, seed=3).trunk[0].weight, LossNetwork(None, seed=4).trunk[0].weight)
    torch.save(vgg16_trunk(0.25).state_dict(), tmp_path / 't.pt')
    face = LossNetwork(tmp_path / 't.pt', width=0.25, mean=VGGFACE_MEAN, std=VGGFACE_STD)
    assert face.std.max() < 0.01 and face.config['weights'].endswith('t.pt')
    with pytest.raises(ValueError, match="arch 'resnet' is not known, choose one of vgg16, vgg19"):
        LossNetwork(arch='resnet')
    with pytest.raises(ValueError, match="the shipped small trunk is a VGG16"):
        LossNetwork('small', 'vgg19')
    with pytest.raises(FileNotFoundError, match='no file of weights'):
        LossNetwork(tmp_path / 'none.pt')
    with pytest.raises(ValueError, match=r'an image of 12x8 pixels has nothing left at relu5_3'):
        LossNetwork()(rand(1, 3, 8, 12), ('relu5_3',))


def test_vgg19_has_sixteen_convolutions():
    net = LossNetwork(None, 'vgg19', width=1 / 16)
    assert sum(isinstance(m, nn.Conv2d) for m in net.trunk) == 16 == sum(map(len, VGG19_BLOCKS))


# -- the transform network


@pytest.mark.parametrize('up', ['resize', 'transposed'])
@pytest.mark.parametrize('pad', ['reflect', 'zero'])
@pytest.mark.parametrize('out', ['tanh', 'linear', 'residual'])
def test_two_forms_of_one_function(up, pad, out):
    net = TransformNet(0.25, 2, up, pad, out, seed=1).double()
    for p in net.parameters():
        nn.init.normal_(p, 0, 0.1, generator=GEN)
    for size in ((32, 40), (17, 50)):
        x = rand(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(net.fast(False)(x), net.fast()(x))


def test_gradients_of_both_forms_agree():
    net, x, grads = TransformNet(0.125, 1, out='linear').double(), rand(1, 3, 16, 20, dtype=torch.float64), []
    for fast in (True, False):
        net.zero_grad()
        net.fast(fast)(x).square().sum().backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (9, 100), (16, 16), (31, 33), (64, 48)])
def test_any_size(size):
    y = TransformNet(0.125, 1, out='tanh')(rand(2, 3, *size))
    assert y.shape == (2, 3, *size) and y.isfinite().all()


def test_parameters_and_work():
    from torch.utils.flop_counter import FlopCounterMode

    def count(net):
        with torch.no_grad(), FlopCounterMode(display=False) as c:
            net(torch.rand(1, 3, 256, 256))
        return c.get_total_flops() / 2e9

    net = TransformNet(out='linear')
    assert sum(p.numel() for p in net.parameters()) == 1_679_235
    assert count(net.fast(False)) == pytest.approx(10.1, abs=0.05) and count(net.fast()) < 9


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    net, phi = TransformNet(0.25, 1, out='tanh'), LossNetwork()
    x = rand(2, 3, 32, 32)
    loss = FDALoss(phi, rand(1, 3, 40, 40), 'relu2_2', ('relu1_2', 'relu2_2'), 'paper', (1.0, 1.0, 1.0))
    with torch.autocast('cpu', dtype):
        out = loss(net(x), x)
    out.backward()
    assert out.dtype == torch.float32 and out.isfinite() and all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_grams_and_losses_are_float32_under_autocast(dtype):
    "Features of 60 and more: their sums of squares overflow float16, and bfloat16 would keep two digits of them."
    f, g = 60 * rand(2, 8, 64, 64), 60 * rand(2, 8, 64, 64)
    want = gram_matrix(f.double())
    with torch.autocast('cpu', dtype):
        half = F.conv2d(f, torch.eye(8).view(8, 8, 1, 1))  # features as autocast gives them
        assert half.dtype == dtype and gram_matrix(half).dtype == torch.float32
        torch.testing.assert_close(gram_matrix(half), gram_matrix(half.double()).float(), rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(gram_matrix(f).double(), want, rtol=1e-5, atol=1e-4)
        terms = [
            content_loss(half, g.to(dtype)),
            *[domain_loss(half, gram_matrix(g[:1]), n) for n in fda.NORMS],
            tv_loss(half),
        ]
    assert all(t.dtype == torch.float32 and t.isfinite() for t in terms)
    torch.testing.assert_close(terms[0].double(), content_loss(half.double(), g.to(dtype).double()), rtol=1e-5, atol=0)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_target_grams_are_float32_and_the_same_under_autocast(dtype):
    phi, target = LossNetwork(), rand(1, 3, 40, 40)
    plain = FDALoss(phi, target, 'relu2_2', ('relu1_2', 'relu3_3'))
    with torch.autocast('cpu', dtype):
        cast = FDALoss(phi, target, 'relu2_2', ('relu1_2', 'relu3_3'))
    for a, b in zip(plain.grams.values(), cast.grams.values()):
        assert b.dtype == torch.float32
        torch.testing.assert_close(b, a, rtol=0.05, atol=0.02 * a.abs().max().item())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('out', ['tanh', 'linear', 'residual'])
def test_flat_pictures_under_autocast(out, dtype):
    "Black, white and grey: no variance for the norms to divide by. (In float16 a gradient may overflow here; a gradient scaler skips such a step.)"
    net = TransformNet(0.25, 1, out=out)
    for p in net.parameters():
        nn.init.normal_(p, 0, 0.1, generator=GEN)
    x = torch.tensor([0.0, 1.0, 0.5]).view(3, 1, 1, 1).expand(3, 3, 32, 32).contiguous()
    loss = FDALoss(LossNetwork(), rand(1, 3, 40, 40), 'relu2_2', ('relu1_2', 'relu2_2'), 'relative', (1.0, 1.0, 1.0))
    with torch.autocast('cpu', dtype):
        y = net(x)
        value = loss(y, x)
    value.backward()
    assert y.dtype == torch.float32 and y.isfinite().all() and value.isfinite()
    if dtype == torch.bfloat16:
        assert all(p.grad.isfinite().all() for p in net.parameters())


def test_bad_images():
    with pytest.raises(ValueError, match=r'expected float RGB images \(B, 3, H, W\) in 0..1, got \(1, 4, 8, 8\)'):
        TransformNet(0.125)(rand(1, 4, 8, 8))
    with pytest.raises(ValueError, match="up='bicubic' is not known, choose one of resize, transposed"):
        TransformNet(up='bicubic')


# -- the whole


def test_eq5():
    phi, x, y, t = LossNetwork(), rand(2, 3, 32, 32), rand(2, 3, 32, 32), rand(1, 3, 48, 40)
    loss = FDALoss(phi, t, 'relu3_3', ('relu1_2', 'relu2_2'), 'paper', (2.0, 3.0, 5.0))
    want = 2 * content_loss(phi(y, ['relu3_3'])['relu3_3'], phi(x, ['relu3_3'])['relu3_3']) + 5 * tv_loss(y)
    for l in ('relu1_2', 'relu2_2'):
        want += 3 * domain_loss(phi(y, [l])[l], gram_matrix(phi(t, [l])[l]))
    torch.testing.assert_close(loss(y, x), want)
    assert not any(p.requires_grad for p in loss.parameters())


@pytest.mark.parametrize('preset', FDA_PRESETS)
def test_every_preset_trains(preset):
    f = FDA(faces(1)[0], preset, width=0.125, size=32, loss_network=dict(weights=None, width=1 / 16))
    before = [p.clone() for p in f.net.parameters()]
    f.fit(faces(4), steps=2, bs=2, progress=False)
    assert any(not torch.equal(a, b) for a, b in zip(before, f.net.parameters())) and f.terms.notna().all().all()
    assert f.transform(faces(1))[0].shape == (40, 40, 3) and len(f.info['lambdas']) == 3


def test_fit_lowers_the_domain_loss_and_keeps_the_content():
    dark = [(0.4 * im).astype(np.uint8) for im in faces(8)]
    f = FDA(faces(1, seed=5)[0], width=0.25, size=32).fit(dark, steps=60, progress=False)
    assert f.info['domain'] < 0.8 * f.info['domain_before']
    out = f.transform(dark[:4])
    assert np.mean(out) > 1.1 * np.mean(dark[:4])  # brighter, as the target
    assert np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(out, dark)]) > 0.9


def test_the_same_seed_gives_the_same_network():
    a, b, c = (FDA(faces(1)[0], width=0.125, size=32, seed=s).fit(faces(4), steps=3, progress=False) for s in (0, 0, 1))
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()


@pytest.mark.parametrize('rounds', [1, 2, 3])  # 3: stopped when all is done but the writing down of it
def test_a_stopped_fit_goes_on(tmp_path, monkeypatch, rounds):
    monkeypatch.setattr(fda, 'ROUND', 10)

    def make():
        return FDA(faces(1)[0], width=0.125, size=16, loss_network=dict(weights=None, width=1 / 16))

    whole = make().fit(faces(4), steps=30, bs=1, progress=False)

    class Stop(fda.Callback):
        order = 90

        def after_epoch(self):
            if self.epoch + 1 == rounds:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make().fit(faces(4), steps=30, bs=1, checkpoint=tmp_path / 'c.pt', cbs=[Stop()], progress=False)
    assert (tmp_path / 'c.pt').exists()
    with pytest.raises(ValueError, match='belongs to another fit'):
        make().fit(faces(4), steps=29, bs=1, checkpoint=tmp_path / 'c.pt', progress=False)
    again = make().fit(faces(4), steps=30, bs=1, checkpoint=tmp_path / 'c.pt', progress=False)
    assert not (tmp_path / 'c.pt').exists() and again.terms.equals(whole.terms) and again.info == whole.info
    for a, b in zip(whole.net.parameters(), again.net.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize('kept', [0, 20, 500])
def test_a_damaged_checkpoint_says_so(tmp_path, kept):
    def make():
        return FDA(faces(1)[0], width=0.125, size=16, loss_network=dict(weights=None, width=1 / 16))

    class Stop(fda.Callback):
        order = 90

        def after_epoch(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make().fit(faces(4), steps=4, bs=1, checkpoint=tmp_path / 'c.pt', cbs=[Stop()], progress=False)
    (tmp_path / 'c.pt').write_bytes((tmp_path / 'c.pt').read_bytes()[:kept])
    with pytest.raises(ValueError, match='c.pt is no whole checkpoint .*remove it'):
        make().fit(faces(4), steps=4, bs=1, checkpoint=tmp_path / 'c.pt', progress=False)


def test_show_transfer_keeps_the_same_images():
    shown = ShowTransfer(rand(2, 3, 32, 32), every=2)
    FDA(faces(1)[0], width=0.125, size=32).fit(faces(4), steps=4, cbs=[shown], progress=False)
    assert (
        list(shown.pictures) == [0, 2, 4]
        and torch.equal(shown.pictures[0], shown.images)
        and not torch.equal(shown.pictures[4], shown.images)
    )


def test_save_and_load(tmp_path):
    f = FDA(faces(1)[0], width=0.125, size=32).fit(faces(4), steps=2, progress=False)
    g = FDA.load(f.save(tmp_path / 'f.safetensors'))
    assert g.fingerprint() == f.fingerprint() and g.info == f.info and (g.target == f.target).all()
    assert (np.stack(g.transform(faces(2))) == np.stack(f.transform(faces(2)))).all()


def fitted(**kw):
    "A network that changes something, without the time of a fit."
    f = FDA(faces(1)[0], width=0.125, size=32, **kw)
    for p in f.net.parameters():
        nn.init.normal_(p, 0, 0.2, generator=torch.Generator().manual_seed(1))
    f.info['steps'] = 1
    return f


def test_large_images_are_seen_at_the_size_of_the_training():
    seen, f, own = [], fitted(), fitted(scale='own')
    for o in (f, own):
        o.net.register_forward_hook(lambda m, i, y: seen.append(tuple(i[0].shape[2:])))
    large, same, small = rand(1, 3, 64, 96), rand(1, 3, 32, 48), rand(1, 3, 20, 48)
    for x in (large, same, small):
        f.apply(x)
        own.apply(x)
    assert seen == [(32, 48), (64, 96), (32, 48), (32, 48), (20, 48), (20, 48)]
    assert torch.equal(f.apply(same), own.apply(same))
    change = f.apply(large) - large  # smooth: the lines are those of the image
    d = F.interpolate(f.net(F.avg_pool2d(large, 2)) - F.avg_pool2d(large, 2), (64, 96), mode='bilinear')
    torch.testing.assert_close(change, d, rtol=1e-4, atol=1e-5)
    assert f.apply(rand(2, 3, 33, 77)).shape == (2, 3, 33, 77)


def test_scale_is_saved_and_counts(tmp_path):
    own = fitted(scale='own')
    again = FDA.load(own.save(tmp_path / 'own.safetensors'))
    assert again.scale == 'own' and again.fingerprint() == own.fingerprint() != fitted().fingerprint()
    with pytest.raises(ValueError, match="scale 'big' is not known, choose one of trained, own"):
        FDA(scale='big')


@pytest.mark.parametrize('preset', ['paper', 'johnson', 'authors'])
def test_networks_that_draw_the_whole_image_see_it_as_it_is(preset):
    f, x = fitted(preset=preset), rand(1, 3, 64, 80)
    assert torch.equal(f.apply(x), f.net(x))


def test_target_is_chosen_by_rule_and_recorded(tmp_path):
    ordinary = faces(9, seed=1)
    phi = LossNetwork()
    assert choose_target(
        [np.full((40, 40, 3), 255, np.uint8), *ordinary, np.zeros((40, 40, 3), np.uint8)], phi
    ) not in (0, 10)
    f = FDA(width=0.125, size=32).fit(ordinary, steps=2, progress=False)
    assert f.info['target'].startswith('medoid in feature statistics, image') and f.info['chosen'] == choose_target(
        ordinary, phi
    )
    assert f.describe()['info']['target'] == f.info['target']


def test_bad_targets_and_arguments(tmp_path):
    with pytest.raises(ValueError, match='is a folder, and one image is needed'):
        FDA(tmp_path)
    with pytest.raises(ValueError, match='none.png: the file does not exist'):
        FDA(tmp_path / 'none.png')
    (tmp_path / 'text.png').write_text('no picture')
    with pytest.raises(ValueError, match=r'text.png: not a readable image'):
        FDA(tmp_path / 'text.png')
    with pytest.raises(ValueError, match="preset 'fast' is not known, choose one of careful, paper, authors, johnson"):
        FDA(preset='fast')
    with pytest.raises(ValueError, match='not fitted: call fit'):
        FDA(faces(1)[0], width=0.125).transform(faces(1))
    with pytest.raises(ValueError, match='FDA.fit: no images'):
        FDA(width=0.125).fit([])
    with pytest.raises(ValueError, match="precision 'int8' is not known"):
        FDA(faces(1)[0], width=0.125, size=32).fit(faces(2), steps=1, precision='int8', progress=False)


def test_unusable_images_in_a_fit(tmp_path):
    from PIL import Image

    paths = [tmp_path / f'{i}.png' for i in range(4)]
    for p, im in zip(paths, faces(4)):
        Image.fromarray(im).save(p)
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    f = FDA(faces(1)[0], width=0.125, size=32).fit(paths, steps=4, progress=False)
    assert f.info['unusable'] == 1
    paths[0].write_text('x')
    paths[2].write_text('x')
    paths[3].write_text('x')
    with pytest.raises(ValueError, match='can be used'):
        FDA(faces(1)[0], width=0.125, size=32).fit(paths, steps=4, progress=False)


def test_a_loss_that_is_not_finite_stops():
    with pytest.raises(FloatingPointError, match='lower lr'):
        FDA(faces(1)[0], 'johnson', width=0.125, size=32, weights=(1e30, 1e38, 0)).fit(
            faces(4), steps=40, lr=1e6, progress=False
        )


def test_bf16_fit():
    f = FDA(faces(1)[0], width=0.125, size=32).fit(faces(4), steps=3, precision='bf16', progress=False)
    assert f.terms.notna().all().all() and all(p.dtype == torch.float32 for p in f.net.parameters())


def test_bf16_learns_what_float32_learns():
    dark, ends = [(0.4 * im).astype(np.uint8) for im in faces(8)], {}
    for precision in ('fp32', 'bf16'):
        f = FDA(faces(1, seed=5)[0], width=0.125, size=16).fit(
            dark, steps=40, bs=2, precision=precision, progress=False
        )
        assert np.isfinite(f.terms).all(axis=None)
        ends[precision] = f.info['domain']
    assert f.info['domain'] < 0.8 * f.info['domain_before'] and ends['bf16'] == pytest.approx(ends['fp32'], rel=0.15)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU, on which fp16 fits')
def test_fp16_fit_needs_a_gpu():
    "Forward and backward run in float16 on a CPU (above); a fit also needs the gradient scaler."
    with pytest.raises(ValueError, match='precision fp16 needs a GPU of NVIDIA: use bf16 or fp32'):
        FDA(faces(1)[0], width=0.125, size=32).fit(faces(2), steps=1, precision='fp16', progress=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_fp16_fit():
    f = FDA(faces(1)[0], width=0.125, size=32).fit(faces(4), steps=20, precision='fp16', progress=False)
    assert np.isfinite(f.terms).all(axis=None)


def test_gram_gap():
    phi = LossNetwork()
    target = mean_grams(faces(4), phi)
    assert gram_gap(faces(4), target, phi) < 1e-6 < 0.01 < gram_gap(faces(4, seed=2), target, phi)


# -- fast forms


@pytest.mark.parametrize('mean,std', [(0, 1), (10, 0.1), (100, 0.1)])
@pytest.mark.parametrize('memory', [torch.contiguous_format, torch.channels_last])
def test_norm_in_any_memory_order_is_that_of_float64(mean, std, memory):
    "PyTorch's own group norm on a CPU loses all digits in channels-last order where the mean is large."
    x = mean + std * torch.randn(2, 8, 32, 32, generator=GEN)
    y = fda._Norm(8)(x.contiguous(memory_format=memory))
    assert y.is_contiguous(memory_format=memory)
    torch.testing.assert_close(y.double(), F.instance_norm(x.double()), rtol=0, atol=3e-6 * (1 + mean / std))


def test_gradients_of_both_forms_of_the_norm():
    x, norm = (rand(2, 8, 9, 7) + 3).double().requires_grad_(), fda._Norm(8).double()
    nn.init.normal_(norm.weight, 1)
    nn.init.normal_(norm.bias)
    g = torch.randn(2, 8, 9, 7, generator=GEN, dtype=torch.float64)
    a, b = (torch.autograd.grad((f(x) * g).sum(), [x, *norm.parameters()]) for f in (norm, norm.by_moments))
    for i, j in zip(a, b):
        torch.testing.assert_close(i, j)


def test_memory_order_of_a_picture_does_not_count():
    net, x = TransformNet(0.25, out='linear'), rand(1, 3, 40, 44)
    with torch.no_grad():
        assert torch.equal(net(x), net(x.contiguous(memory_format=torch.channels_last)))


@pytest.fixture(scope='module')
def small_fda():
    return FDA(faces(1, seed=5)[0], width=0.25, size=32).fit(faces(8), steps=40, bs=2, progress=False)


@pytest.mark.parametrize('scale', ['trained', 'own'])
def test_bf16_transfers_like_float32(small_fda, scale, monkeypatch):
    monkeypatch.setattr(small_fda, 'scale', scale)
    ims = faces(4, 72, seed=3)
    full = np.stack(small_fda.transform(ims)).astype(int)
    monkeypatch.setattr(small_fda, 'precision', 'bf16')
    half = np.stack(small_fda.transform(ims)).astype(int)
    assert 0 < np.abs(half - full).max() <= 3 and np.abs(half - full).mean() < 0.1
    phi = LossNetwork(None, seed=4)
    target = mean_grams([small_fda.target], phi)
    assert gram_gap(list(half.astype(np.uint8)), target, phi) == pytest.approx(
        gram_gap(list(full.astype(np.uint8)), target, phi), rel=0.01
    )


def test_norm_sums_in_float32_under_autocast():
    x = (100 + torch.randn(1, 4, 256, 256, generator=GEN)).bfloat16()  # sums of a hundred thousand numbers
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        y = fda._Norm(4)(x)
    torch.testing.assert_close(y.double(), F.instance_norm(x.double()), rtol=0.01, atol=0.02)


def test_precision_is_saved_and_has_a_cache_of_its_own(small_fda, tmp_path, monkeypatch):
    plain, config = small_fda.fingerprint(), small_fda.config()
    assert 'precision' not in config  # caches of earlier releases stay good
    monkeypatch.setattr(small_fda, 'precision', 'bf16')
    again = FDA.load(small_fda.save(tmp_path / 'f.safetensors'))
    assert again.precision == 'bf16' and again.fingerprint() == small_fda.fingerprint() != plain


def test_bad_precision(small_fda, monkeypatch):
    with pytest.raises(ValueError, match="FDA: precision 'int8' is not known, choose one of fp32, bf16, fp16"):
        FDA(faces(1)[0], width=0.125, precision='int8')
    monkeypatch.setattr(small_fda, 'precision', 'fp16')
    if small_fda.device.type == 'cpu':
        with pytest.raises(ValueError, match='precision fp16 needs a GPU of NVIDIA: use bf16 or fp32'):
            small_fda.transform(faces(1))


def test_terms_read_late_are_the_same(monkeypatch):
    "A GPU is asked for the terms every ten steps only: nothing is lost, the last steps neither."

    def rows(every):
        monkeypatch.setattr(fda, 'FDATerms', lambda bar: real(bar, every))
        return FDA(faces(1, seed=5)[0], width=0.125, size=16).fit(faces(4), steps=7, bs=2, progress=False).terms

    real = fda._Terms
    a, b = rows(1), rows(3)
    assert len(a) == len(b) == 7 and (a == b).all(axis=None)
