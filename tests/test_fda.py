"FDA: losses against float64 references, one function in two forms, fits that can be stopped."

import math
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from fastai.callback.core import Callback
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gfa_fastai.adapt import fda as adapt_fda
from gfa_fastai.adapt.fast import FastNorm, fast_form
from gfa_fastai.adapt.fda import FDA, FDA_PRESETS, choose_target, gram_gap, mean_grams, new_loss_network
from gfa_fastai.fda import (
    FDALoss,
    LossNetwork,
    TransformNet,
    content_loss,
    domain_loss,
    fda_learner,
    gram_matrix,
    natural_lambdas,
    tv_loss,
)
from gfa_fastai.inputs.weights import VGGFACE_MEAN, VGGFACE_STD, vgg16_trunk
from gfa_fastai.model import new_trunk

GEN = torch.Generator().manual_seed(0)
NORMS = ('paper', 'mean', 'relative')
SLIM = dict(weights=None, width=1 / 16)  # a loss network that takes no time


def rand(*s, **kw):
    return torch.rand(*s, generator=GEN, **kw)


def randn(*s, **kw):
    return torch.randn(*s, generator=GEN, **kw)


def faces(n, size=40, seed=0):
    "Smooth random pictures."
    x = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    x = F.interpolate(x, (size, size), mode='bicubic').clamp(0, 1)
    return [(i * 255).byte().permute(1, 2, 0).numpy() for i in x]


def net_of(*args, seed=0, **kw):
    "A TransformNet whose every parameter is random."
    net = TransformNet(*args, **kw)
    gen = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        nn.init.normal_(p, 0, 0.1, generator=gen)
    return net


# -- the lesson stands alone


def test_the_lesson_loads_no_machinery():
    code = (
        'import sys, gfa_fastai.fda; '
        'print([m for m in sys.modules if m == "cv2" or m.startswith("gfa_fastai.") and m.count(".") > 1])'
    )
    root = Path(__file__).resolve().parents[1]
    out = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == '[]'


# -- losses


@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (2, 5, 3, 7), (3, 16, 20, 20)])
def test_gram_against_float64(shape):
    x = randn(shape, dtype=torch.float64)
    want = torch.einsum('bchw,bdhw->bcd', x, x) / math.prod(shape[1:])
    torch.testing.assert_close(gram_matrix(x), want)
    torch.testing.assert_close(gram_matrix(x.float()).double(), want, rtol=1e-5, atol=1e-6)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(gram_matrix(x.float()).double(), want, rtol=1e-5, atol=1e-6)


def test_gram_in_half_precision_is_finite():
    x = 60 * rand(1, 8, 256, 256).half()
    assert gram_matrix(x).isfinite().all() and gram_matrix(x).dtype == torch.float32
    torch.testing.assert_close(gram_matrix(x), gram_matrix(x.double()).float(), rtol=1e-4, atol=1e-2)


def test_gram_in_any_memory_order():
    x = rand(2, 6, 5, 4)
    torch.testing.assert_close(gram_matrix(x.contiguous(memory_format=torch.channels_last)), gram_matrix(x))


def test_losses_by_hand():
    a, b = rand(2, 3, 4, 5, dtype=torch.float64), rand(2, 3, 4, 5, dtype=torch.float64)
    assert content_loss(a, b).item() == pytest.approx(np.mean([((a[i] - b[i]) ** 2).sum() / 60 for i in range(2)]))
    g = gram_matrix(b[:1])
    squared = np.mean([((gram_matrix(a[i : i + 1]) - g) ** 2).sum() for i in range(2)])
    for norm, by in (('paper', 60), ('mean', 9), ('relative', (g**2).sum())):
        assert domain_loss(a, g, norm).item() == pytest.approx(squared / by)
    down, across = a[:, :, 1:] - a[:, :, :-1], a[..., 1:] - a[..., :-1]
    assert tv_loss(a).item() == pytest.approx((down**2).mean() + (across**2).mean())


@pytest.mark.parametrize('norm', NORMS)
def test_gradients(norm):
    a = rand(2, 3, 4, 5, dtype=torch.float64).requires_grad_()
    b = rand(2, 3, 4, 5, dtype=torch.float64)
    g = gram_matrix(rand(1, 3, 6, 6, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda x: domain_loss(x, g, norm), a)
    assert torch.autograd.gradcheck(lambda x: content_loss(x, b), a)
    assert torch.autograd.gradcheck(tv_loss, a)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_losses_are_float32_under_autocast(dtype):
    "Features of 60 and more: their sums of squares overflow float16, and bfloat16 would keep two digits of them."
    f, g = 60 * rand(2, 8, 64, 64), 60 * rand(2, 8, 64, 64)
    with torch.autocast('cpu', dtype):
        half = F.conv2d(f, torch.eye(8).view(8, 8, 1, 1))  # features as autocast gives them
        assert half.dtype == dtype and gram_matrix(half).dtype == torch.float32
        torch.testing.assert_close(gram_matrix(half), gram_matrix(half.double()).float(), rtol=1e-5, atol=1e-3)
        terms = [content_loss(half, g.to(dtype)), tv_loss(half)]
        terms += [domain_loss(half, gram_matrix(g[:1]), norm) for norm in NORMS]
    assert all(t.dtype == torch.float32 and t.isfinite() for t in terms)
    torch.testing.assert_close(terms[0].double(), content_loss(half.double(), g.to(dtype).double()), rtol=1e-5, atol=0)


# -- the loss network


def test_loss_network_equals_torchvision():
    from torchvision.models import vgg16, vgg19
    from torchvision.models.feature_extraction import create_feature_extractor

    nodes = dict(
        vgg16={'features.3': 'relu1_2', 'features.15': 'relu3_3'},
        vgg19={'features.1': 'relu1_1', 'features.22': 'relu4_2'},
    )
    for arch, build in dict(vgg16=vgg16, vgg19=vgg19).items():
        torch.manual_seed(1)
        theirs = build(weights=None, init_weights=False).eval()
        state = {k.removeprefix('features.'): v for k, v in theirs.state_dict().items() if k.startswith('features.')}
        for m in theirs.modules():
            if isinstance(m, nn.ReLU):
                m.inplace = False
        ours = new_loss_network(None, arch, width=1.0, mean=(0, 0, 0), std=(1, 1, 1))
        ours.trunk.load_state_dict(state)
        x = rand(1, 3, 48, 48)
        with torch.no_grad():
            want, got = create_feature_extractor(theirs, nodes[arch])(x), ours(x, tuple(nodes[arch].values()))
        for name in nodes[arch].values():
            torch.testing.assert_close(got[name], want[name])


def test_loss_network_stops_early_and_is_fixed():
    trunk = new_trunk(1 / 16)
    net, calls = LossNetwork(trunk), []
    for i, layer in enumerate(net.trunk):
        layer.register_forward_hook(lambda *a, i=i: calls.append(i))
    net(rand(1, 3, 32, 32), ('relu2_2',))
    assert max(calls) == list(trunk.names).index('relu2_2')
    assert not any(p.requires_grad for p in net.parameters())
    assert all(p.requires_grad for p in trunk.parameters())  # what was handed in can still be trained


def test_loss_network_by_its_settings(tmp_path):
    a, b, c = (new_loss_network(None, seed=s).trunk[0].weight for s in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
    torch.save(vgg16_trunk(0.25).state_dict(), tmp_path / 't.pt')
    face = new_loss_network(tmp_path / 't.pt', width=0.25, mean=VGGFACE_MEAN, std=VGGFACE_STD)
    assert face.std.max() < 0.01
    with pytest.raises(ValueError, match="arch 'resnet' is not known, choose one of vgg16, vgg19"):
        new_loss_network(arch='resnet')
    with pytest.raises(ValueError, match='the shipped small trunk is a VGG16'):
        new_loss_network('small', 'vgg19')
    with pytest.raises(FileNotFoundError, match='no file of weights'):
        new_loss_network(tmp_path / 'none.pt')


# -- the transform network and its fast form

FORMS = [
    (up, pad, out) for up in ('resize', 'transposed') for pad in ('reflect', 'zeros') for out in ('tanh', 'residual')
]


@pytest.mark.parametrize('up,pad,out', [*FORMS, ('resize', 'reflect', 'linear')])
def test_two_forms_of_one_function(up, pad, out):
    net, x = net_of(0.25, 2, up, pad, out), rand(2, 3, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(fast_form(net)(x), net(x), rtol=1e-5, atol=1e-5)
        y = net.double()(x.double())
        torch.testing.assert_close(fast_form(net)(x.double()), y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('width', [0.0625, 0.25, 0.5])
def test_two_forms_as_they_start_are_equal_to_a_millionth(width):
    torch.manual_seed(0)
    net, x = TransformNet(width, out='tanh'), rand(2, 3, 48, 32)
    with torch.no_grad():
        off = (fast_form(net)(x) - net(x)).abs()
    assert off.mean() < 1e-6 and off.max() < 5e-6  # float32, of an output in 0..1


def test_two_forms_under_autocast():
    net, x = net_of(0.25, out='tanh'), rand(2, 3, 32, 32)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        y, fast = net(x), fast_form(net)(x)
    assert y.dtype == fast.dtype == torch.float32
    torch.testing.assert_close(fast, y, rtol=0.05, atol=0.05)


def test_the_fast_form_shares_its_parameters():
    net = TransformNet(0.125, 1)
    fast = fast_form(net)
    assert all(a is b for a, b in zip(fast.parameters(), net.parameters(), strict=True))
    x = rand(1, 3, 16, 16)
    nn.init.normal_(net.layers[-1].weight)
    torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)


def test_gradients_of_both_forms_agree():
    net, x, grads = net_of(0.125, 1, out='linear').double(), rand(1, 3, 16, 20, dtype=torch.float64), []
    for form in (net, fast_form(net)):
        net.zero_grad()
        form(x).square().sum().backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (9, 100), (16, 16), (31, 33), (64, 48)])
def test_any_size(size):
    y = fast_form(TransformNet(0.125, 1, out='tanh'))(rand(2, 3, *size))
    assert y.shape == (2, 3, *size) and y.isfinite().all()


def test_memory_order_of_an_image_does_not_count():
    fast, x = fast_form(net_of(0.25, out='linear')), rand(1, 3, 40, 44)
    with torch.no_grad():
        assert torch.equal(fast(x), fast(x.contiguous(memory_format=torch.channels_last)))


def test_parameters_and_work():
    def count(net):
        with torch.no_grad(), FlopCounterMode(display=False) as c:
            net(torch.rand(1, 3, 256, 256))
        return c.get_total_flops() / 2e9

    net = TransformNet()
    assert sum(p.numel() for p in net.parameters()) == 1_679_235
    assert count(net) == pytest.approx(10.1, abs=0.05) and count(fast_form(net)) < 9


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('out', ['tanh', 'linear', 'residual'])
def test_flat_images_under_autocast(out, dtype):
    "Black, white and grey: no variance for the norms to divide by. (A gradient may overflow float16 here.)"
    net = fast_form(net_of(0.25, 1, out=out))
    x = torch.tensor([0.0, 1.0, 0.5]).view(3, 1, 1, 1).expand(3, 3, 32, 32).contiguous()
    loss = FDALoss(new_loss_network(), rand(1, 3, 40, 40), 'relu2_2', ('relu1_2', 'relu2_2'), 'relative', (1, 1, 1))
    with torch.autocast('cpu', dtype):
        y = net(x)
        value = loss(y, x)
    value.backward()
    assert y.dtype == torch.float32 and y.isfinite().all() and value.isfinite()
    if dtype == torch.bfloat16:
        assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize('mean,std', [(0, 1), (10, 0.1), (100, 0.1)])
@pytest.mark.parametrize('memory', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('gradients', [True, False])
def test_norm_in_any_memory_order_is_that_of_float64(mean, std, memory, gradients):
    "PyTorch's own group norm on a CPU loses all digits in channels-last order where the mean is large."
    x = mean + std * randn(2, 8, 32, 32)
    with torch.set_grad_enabled(gradients):
        y = FastNorm(nn.InstanceNorm2d(8, affine=True))(x.contiguous(memory_format=memory)).detach()
    assert y.is_contiguous(memory_format=memory)
    torch.testing.assert_close(y.double(), F.instance_norm(x.double()), rtol=0, atol=3e-6 * (1 + mean / std))


def test_norm_sums_in_float32_under_autocast():
    x = (100 + randn(1, 4, 256, 256)).bfloat16()  # sums of a hundred thousand numbers
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        y = FastNorm(nn.InstanceNorm2d(4, affine=True))(x)
    torch.testing.assert_close(y.double(), F.instance_norm(x.double()), rtol=0.01, atol=0.02)


# -- Eq. 5


def test_eq5():
    phi, x, y, t = new_loss_network(), rand(2, 3, 32, 32), rand(2, 3, 32, 32), rand(1, 3, 48, 40)
    loss = FDALoss(phi, t, 'relu3_3', ('relu1_2', 'relu2_2'), 'paper', (2.0, 3.0, 5.0))
    want = 2 * content_loss(phi(y, ['relu3_3'])['relu3_3'], phi(x, ['relu3_3'])['relu3_3']) + 5 * tv_loss(y)
    for l in ('relu1_2', 'relu2_2'):
        want += 3 * domain_loss(phi(y, [l])[l], gram_matrix(phi(t, [l])[l]))
    torch.testing.assert_close(loss(y, x), want)
    assert not any(p.requires_grad for p in loss.parameters())


def test_natural_lambdas_make_every_term_one():
    x, ratios = rand(4, 3, 32, 32), (3.0, 0.5, 2.0)
    loss = FDALoss(new_loss_network(), rand(1, 3, 32, 32))
    content, domain, tv = natural_lambdas(loss, x, ratios)
    loss.lambdas = (0.0, domain, 0.0)
    assert loss(x, x).item() == pytest.approx(0.5)
    loss.lambdas = (0.0, 0.0, tv)
    assert loss(x, x).item() == pytest.approx(2.0)
    keep = loss.phi(x, [loss.content])[loss.content]
    assert content == pytest.approx(3 / keep.var((2, 3)).mean().item())


def test_the_learner_of_the_lesson_lowers_the_loss():
    torch.manual_seed(0)
    x = torch.stack([torch.from_numpy(f).permute(2, 0, 1) / 255 for f in faces(8, 32)])
    loss = FDALoss(new_loss_network(), rand(1, 3, 32, 32), norm='relative')
    loss.lambdas = natural_lambdas(loss, x)
    net = TransformNet(0.25)
    learn = fda_learner(net, loss, [(i, i) for i in x], bs=4)
    with learn.no_bar(), learn.no_logging():
        learn.fit(10)
    with torch.no_grad():
        assert loss(net(x), x) < 0.95 * loss(x, x)


# -- FDA


@pytest.mark.parametrize('preset', FDA_PRESETS)
def test_every_preset_trains(preset):
    f = FDA(faces(1)[0], preset, width=0.125, size=32, loss_network=SLIM)
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


class StopAfterRound(Callback):
    "Ends a fit as Ctrl-C does."

    order = 90

    def __init__(self, rounds):
        self.rounds = rounds

    def after_epoch(self):
        if self.epoch + 1 == self.rounds:
            raise KeyboardInterrupt


def small_fit(path=None, steps=30, **kw):
    f = FDA(faces(1)[0], width=0.125, size=16, loss_network=SLIM)
    return f.fit(faces(4), steps=steps, bs=1, checkpoint=path, progress=False, **kw)


@pytest.mark.parametrize('rounds', [1, 2, 3])  # 3: stopped when all is done but the end of the fit
def test_a_stopped_fit_goes_on(tmp_path, monkeypatch, rounds):
    monkeypatch.setattr(adapt_fda, 'ROUND', 10)
    whole, path = small_fit(), tmp_path / 'c.pt'
    with pytest.raises(KeyboardInterrupt):
        small_fit(path, cbs=[StopAfterRound(rounds)])
    assert path.exists()
    with pytest.raises(ValueError, match='is of another run .steps 30 there, 29 here'):
        small_fit(path, 29)
    again = small_fit(path)
    assert not path.exists() and again.terms.equals(whole.terms) and again.info == whole.info
    for a, b in zip(whole.net.parameters(), again.net.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize('damage', ['empty', 'cut', 'a bit'])
def test_a_damaged_checkpoint_is_set_aside(tmp_path, capsys, damage):
    path = tmp_path / 'c.pt'
    with pytest.raises(KeyboardInterrupt):
        small_fit(path, 4, cbs=[StopAfterRound(1)])
    whole = bytearray(path.read_bytes())
    if damage == 'a bit':
        with zipfile.ZipFile(path) as z:  # in the middle of the largest tensor, and not in the padding of the file
            tensors = [record for record in z.infolist() if '/data/' in record.filename]
            tensor = z.read(max(tensors, key=lambda record: record.file_size))
        whole[whole.index(tensor) + len(tensor) // 2] ^= 1
    path.write_bytes(dict(empty=b'', cut=whole[:500]).get(damage, whole))
    again = small_fit(path, 4)
    assert 'no whole checkpoint' in capsys.readouterr().out and (tmp_path / 'c.pt.damaged').exists()
    assert again.fingerprint() == small_fit(steps=4).fingerprint()


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
        o.fast.register_forward_hook(lambda m, i, y: seen.append(tuple(i[0].shape[2:])))
    large, same, small = rand(1, 3, 64, 96), rand(1, 3, 32, 48), rand(1, 3, 20, 48)
    for x in (large, same, small):
        f.apply(x)
        own.apply(x)
    assert seen == [(32, 48), (64, 96), (32, 48), (32, 48), (20, 48), (20, 48)]
    assert torch.equal(f.apply(same), own.apply(same))
    change = f.apply(large) - large  # smooth: the lines are those of the image
    little = F.avg_pool2d(large, 2)
    d = F.interpolate(f.fast(little) - little, (64, 96), mode='bilinear')
    torch.testing.assert_close(change, d, rtol=1e-4, atol=1e-5)
    assert f.apply(rand(2, 3, 33, 77)).shape == (2, 3, 33, 77)


def test_scale_is_saved_and_counts(tmp_path):
    own = fitted(scale='own')
    again = FDA.load(own.save(tmp_path / 'own.safetensors'))
    assert again.scale == 'own' and again.fingerprint() == own.fingerprint() != fitted().fingerprint()


@pytest.mark.parametrize('preset', ['paper', 'johnson', 'authors'])
def test_networks_that_draw_the_whole_image_see_it_as_it_is(preset):
    f, x = fitted(preset=preset), rand(1, 3, 64, 80)
    assert torch.equal(f.apply(x), f.fast(x))


def test_target_is_chosen_by_rule_and_recorded():
    ordinary, phi = faces(9, seed=1), new_loss_network()
    extremes = [np.full((40, 40, 3), 255, np.uint8), *ordinary, np.zeros((40, 40, 3), np.uint8)]
    assert choose_target(extremes, phi) not in (0, 10)
    f = FDA(width=0.125, size=32).fit(ordinary, steps=2, progress=False)
    assert f.info['target'].startswith('medoid in feature statistics, image')
    assert f.info['chosen'] == choose_target(ordinary, phi)
    assert f.describe()['info']['target'] == f.info['target']


BAD = [
    (dict(preset='fast'), "preset 'fast' is not known, choose one of careful, paper, authors, johnson"),
    (dict(scale='big'), "scale 'big' is not known, choose one of trained, own"),
    (dict(precision='int8'), "FDA: precision 'int8' is not known, choose one of fp32, bf16, fp16"),
    (dict(size=8), 'size is 8; it is a whole number, from 16 to'),
    (dict(width=0), 'width is 0; it is a number, from 0.001 to 8'),
    (dict(weights=(1, math.nan, 0)), 'give three numbers of content, domain, total variation'),
    (dict(loss_network=dict(depth=3)), "setting of the loss network 'depth' is not known, choose one of weights, arch"),
    (dict(weights=(1, 2)), 'give three numbers of content, domain, total variation'),
]


@pytest.mark.parametrize('kw,words', BAD)
def test_bad_settings(kw, words):
    with pytest.raises(ValueError, match=words):
        FDA(**kw)


def test_bad_targets_and_images(tmp_path):
    with pytest.raises(ValueError, match='is a folder, and one'):
        FDA(tmp_path)
    with pytest.raises(ValueError, match='none.png: the file does not exist'):
        FDA(tmp_path / 'none.png')
    (tmp_path / 'text.png').write_text('no picture')
    with pytest.raises(ValueError, match='text.png: '):
        FDA(tmp_path / 'text.png')
    with pytest.raises(ValueError, match='not fitted: call fit'):
        FDA(faces(1)[0], width=0.125).transform(faces(1))
    with pytest.raises(ValueError, match='FDA.fit: no images'):
        FDA(width=0.125).fit([])
    for bad in (dict(steps=0), dict(bs=0), dict(lr=0.0), dict(lr=math.nan)):
        with pytest.raises(ValueError, match='all have to be above 0'):
            FDA(faces(1)[0], width=0.125, size=32).fit(faces(2), progress=False, **bad)
    with pytest.raises(ValueError, match="precision is 'int8'; known are"):
        FDA(faces(1)[0], width=0.125, size=32).fit(faces(2), steps=1, precision='int8', progress=False)


def test_unusable_images_in_a_fit(tmp_path):
    paths = [tmp_path / f'{i}.png' for i in range(4)]
    for p, im in zip(paths, faces(4)):
        Image.fromarray(im).save(p)
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    f = FDA(faces(1)[0], width=0.125, size=32).fit(paths, steps=4, progress=False)
    assert f.info['unusable'] == 1
    for p in paths:
        p.write_text('x')
    with pytest.raises(ValueError, match='can be used'):
        FDA(faces(1)[0], width=0.125, size=32).fit(paths, steps=4, progress=False)


def test_a_loss_that_is_not_finite_stops():
    f = FDA(faces(1)[0], 'johnson', width=0.125, size=32, weights=(1e30, 1e38, 0))
    with pytest.raises(FloatingPointError, match='lower lr'):
        f.fit(faces(4), steps=40, lr=1e6, progress=False)


def test_bf16_learns_what_float32_learns():
    dark, ends = [(0.4 * im).astype(np.uint8) for im in faces(8)], {}
    for precision in ('fp32', 'bf16'):
        f = FDA(faces(1, seed=5)[0], width=0.125, size=16)
        f.fit(dark, steps=40, bs=2, precision=precision, progress=False)
        assert np.isfinite(f.terms).all(axis=None) and all(p.dtype == torch.float32 for p in f.net.parameters())
        ends[precision] = f.info['domain']
    assert f.info['domain'] < 0.8 * f.info['domain_before'] and ends['bf16'] == pytest.approx(ends['fp32'], rel=0.15)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU, on which fp16 fits')
def test_fp16_fit_needs_a_gpu():
    with pytest.raises(ValueError, match="precision 'fp16' is not available on"):
        FDA(faces(1)[0], width=0.125, size=32).fit(faces(2), steps=1, precision='fp16', progress=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_fp16_fit():
    f = FDA(faces(1)[0], width=0.125, size=32).fit(faces(4), steps=20, precision='fp16', progress=False)
    assert np.isfinite(f.terms).all(axis=None)


def test_gram_gap():
    phi = new_loss_network()
    target = mean_grams(faces(4), phi)
    assert gram_gap(faces(4), target, phi) < 1e-6 < 0.01 < gram_gap(faces(4, seed=2), target, phi)


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


def test_precision_is_saved_and_has_a_cache_of_its_own(small_fda, tmp_path, monkeypatch):
    plain, config = small_fda.fingerprint(), small_fda.config()
    assert 'precision' not in config  # caches of earlier releases stay good
    monkeypatch.setattr(small_fda, 'precision', 'bf16')
    again = FDA.load(small_fda.save(tmp_path / 'f.safetensors'))
    assert again.precision == 'bf16' and again.fingerprint() == small_fda.fingerprint() != plain


def test_terms_read_late_are_the_same(monkeypatch):
    "A GPU is asked for the terms every ten steps only: nothing is lost, the last steps neither."

    def rows(every):
        monkeypatch.setattr(adapt_fda, 'FitLog', lambda bar, **kw: log(bar, every))
        return FDA(faces(1, seed=5)[0], width=0.125, size=16).fit(faces(4), steps=7, bs=2, progress=False).terms

    log = adapt_fda.FitLog
    a, b = rows(1), rows(3)
    assert len(a) == len(b) == 7 and (a == b).all(axis=None)
