"The two-head network: one pass or two, psi in the graph, published weights, files."

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from gfa_fastai.inputs import models
from gfa_fastai.adapt.by_name import load_model_adapter
from gfa_fastai.adapt.methods import Recompress
from gfa_fastai.samples import CLASSES
from gfa_fastai.model import GFACNN, fc_head, init_head, new_trunk, run_head
from gfa_fastai.inputs.models import MODEL_FORMAT, load_model, save_model
from gfa_fastai.train.memory import recompute_trunk, training_memory
from gfa_fastai.inputs.weights import VGGFACE_MEAN, VGGFACE_STD, build_gfacnn, fill_classifier, vgg16_trunk


def slim(n_subjects=5, width=0.125, mean=None, std=None, **kwargs):
    "A small model whose outputs are not nearly zero."
    torch.manual_seed(0)
    trunk = new_trunk(width)
    trunk.mean, trunk.std = mean or trunk.mean, std or trunk.std
    m = GFACNN(n_subjects, trunk, **{**dict(pool=2), **kwargs})
    for head in (m.spoof_head, m.id_head):
        nn.init.normal_(head[6].weight, 0, 0.1)
    return m


def images(n=4, px=64, seed=1):
    return torch.rand(n, 3, px, px, generator=torch.Generator().manual_seed(seed))


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


# -- outputs


def test_shapes_and_order():
    m = slim().eval()
    spoof, ident, fc2 = m(images(), images(seed=2))
    assert spoof.shape == (4, 2) and ident.shape == (4, 5) and fc2.shape == (4, 512)
    assert CLASSES == ('attack', 'live')


@pytest.mark.parametrize('pool', [1, 2, 7])
def test_one_pass_equals_two(pool):
    m, frame, face = slim(pool=pool, dropout=0.0), images(), images(seed=2)
    one = m(frame, face)
    spoof, fc2 = m.spoof(frame)
    two = spoof, m.identify(face)[0], fc2
    for a, b in zip(one, two):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    weights = [torch.randn_like(o) for o in one]
    grads = [
        torch.autograd.grad(sum((o * w).sum() for o, w in zip(out, weights)), list(m.parameters()))
        for out in (one, two)
    ]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, atol=1e-5 * float(b.abs().max()) + 1e-8, rtol=1e-3)


def test_sizes_may_differ():
    m, frame, face = slim().eval(), images(px=96), images(px=48)
    spoof, ident, fc2 = m(frame, face)
    torch.testing.assert_close(spoof, m.spoof(frame)[0])
    torch.testing.assert_close(ident, m.identify(face)[0])


def test_one_trunk_pass_when_sizes_agree():
    m, calls = slim().eval(), []
    m.trunk.register_forward_hook(lambda mod, i, o: calls.append(len(o)))
    m(images(), images())
    m(images(), images(px=48))
    assert calls == [8, 4, 4]


def test_branches_do_not_mix():
    m, frame, face = slim().eval(), images(), images(seed=2)
    a, b = m(frame, face), m(frame, 1 - face)
    assert torch.equal(a[0], b[0]) and torch.equal(a[2], b[2]) and not torch.allclose(a[1], b[1])
    c = m(1 - frame, face)
    assert torch.equal(a[1], c[1]) and not torch.allclose(a[0], c[0])


def test_fc2_is_what_the_last_layer_gets():
    m = slim().eval()
    spoof, fc2 = m.spoof(images())
    assert (fc2 >= 0).all() and (fc2 > 0).any()
    torch.testing.assert_close(m.spoof_head[6](fc2), spoof)
    ident, embedding = m.identify(images())
    torch.testing.assert_close(m.id_head[6](embedding), ident)


def test_fc2_is_before_dropout():
    m = slim(dropout=0.5).train()
    m.spoof_head[2].p = 0.0  # the first dropout lies before FC2
    frame = images()
    assert torch.equal(m.spoof(frame)[1], m.spoof(frame)[1])
    assert not torch.equal(m.spoof(frame)[0], m.spoof(frame)[0])


def test_tpc_gradient_reaches_the_trunk():
    m = slim()
    fc2 = m(images(), images())[2]
    (fc2 - fc2.mean(0)).square().sum().backward()
    for p in m.trunk.parameters():
        assert p.grad.abs().sum() > 0
    assert all(p.grad is None for p in m.id_head.parameters())
    assert (
        m.spoof_head[0].weight.grad.any() and m.spoof_head[3].weight.grad.any() and m.spoof_head[6].weight.grad is None
    )


def test_live_score():
    m, frame = slim().eval(), images()
    score = m.live_score(frame)
    assert score.shape == (4,) and score.dtype == torch.float32 and not score.requires_grad
    torch.testing.assert_close(score, F.softmax(m.spoof(frame)[0], 1)[:, 1].detach())
    with torch.no_grad():
        m.spoof_head[6].bias += torch.tensor([-50.0, 50.0])  # certainly live
    assert (m.live_score(frame) > 0.99).all()


def test_autocast_bf16():
    m, frame, face = slim().eval(), images(), images(seed=2)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        spoof, ident, fc2 = m(frame, face)
        score = m.live_score(frame)
    assert spoof.dtype == fc2.dtype == torch.bfloat16 and score.dtype == torch.float32
    torch.testing.assert_close(score, m.live_score(frame), atol=0.02, rtol=0)
    m.train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        spoof, ident, fc2 = m(frame, face)
        loss = spoof.float().sum() + fc2.float().sum()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in m.trunk.parameters())


def test_gradient_reaches_the_picture():
    x = images().requires_grad_()
    slim().eval().spoof(x)[0].sum().backward()
    assert x.grad.abs().sum() > 0


def test_channels_last_changes_nothing():
    m = slim().eval()
    want = m(images(), images(seed=2))
    m = m.to(memory_format=torch.channels_last)
    got = m(*(images(seed=s).to(memory_format=torch.channels_last) for s in (1, 2)))
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_export():
    m, args = slim().eval(), (images(), images(seed=2))
    for a, b in zip(torch.export.export(m, args).module()(*args), m(*args)):
        torch.testing.assert_close(a, b)


# -- normalisation


def test_carries_its_normalisation():
    m, frame = slim(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)).eval(), images()
    x = (frame - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1)
    want = m.spoof_head(m.avgpool(m.trunk(x)).flatten(1))
    torch.testing.assert_close(m.spoof(frame)[0], want)
    assert {'mean', 'std'} <= set(m.state_dict())


def test_vggface_normalisation_gives_published_pixels():
    m, seen = slim(mean=VGGFACE_MEAN, std=VGGFACE_STD).eval(), []
    m.trunk.register_forward_pre_hook(lambda mod, args: seen.append(args[0]))
    m.spoof(images())
    torch.testing.assert_close(
        seen[0], 255 * images() - torch.tensor([129.186, 104.762, 93.594]).view(1, 3, 1, 1), atol=1e-3, rtol=1e-4
    )


# -- size, start


def test_parameters_at_full_width():
    with torch.device('meta'):
        m = GFACNN(15)
    head = 25088 * 4096 + 4096 + 4096 * 4096 + 4096
    assert sum(p.numel() for p in m.parameters()) == 14_714_688 + 2 * head + 4097 * 2 + 4097 * 15
    assert m.config['fc_dim'] == 4096


@pytest.mark.parametrize('width, fc_dim, wanted', [(0.25, None, 1024), (0.125, None, 512), (0.125, 33, 33)])
def test_width_and_fc_dim(width, fc_dim, wanted):
    m = GFACNN(3, width=width, fc_dim=fc_dim, pool=1)
    assert m.spoof_head[3].in_features == m.spoof_head[3].out_features == m.id_head[6].in_features == wanted
    assert m.spoof_head[0].in_features == round(512 * width)


def test_starts_at_even_odds():
    torch.manual_seed(0)
    spoof, ident, fc2 = GFACNN(5, width=0.25, pool=2).eval()(images(8), images(8))
    assert spoof.abs().max() < 1 and ident.abs().max() < 1 and fc2.std() > 0.05


def test_scale_of_fc2_does_not_depend_on_width():
    x = torch.randn(64, 2048, generator=torch.Generator().manual_seed(0)).relu()
    torch.manual_seed(0)
    scale = [run_head(init_head(fc_head(n, n, 2, 0.0)), x[:, :n])[1].square().mean().item() for n in (128, 512, 2048)]
    assert max(scale) / min(scale) < 2  # at a fixed standard deviation of 0.01 it would be 256


def test_learns_from_scratch():
    m, n = GFACNN(2, width=0.125, pool=2, dropout=0.0), 16
    torch.manual_seed(0)
    y = torch.arange(n) % 2
    x = (
        0.5 + 0.05 * torch.randn(n, 3, 32, 32) + 0.1 * torch.sin(1.3 * torch.arange(32)) * (1 - y).view(-1, 1, 1, 1)
    ).clamp(0, 1)
    opt = torch.optim.Adam(m.parameters(), 3e-4)
    for _ in range(60):
        loss = F.cross_entropy(m.spoof(x)[0], y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert loss < 0.1


def test_trunk_weights(tmp_path):
    trunk = vgg16_trunk(0.125)
    save_file(trunk.state_dict(), tmp_path / 't.safetensors')
    assert same(
        build_gfacnn(2, width=0.125, pool=1, weights=tmp_path / 't.safetensors').trunk.state_dict(), trunk.state_dict()
    )


# -- published classifiers


def vgg_state(m, head='id'):
    "The state dict that a VGG16 with this model's trunk and one head would have."
    return {
        k.replace('trunk.', 'features.').replace(f'{head}_head.', 'classifier.'): v.clone()
        for k, v in m.state_dict().items()
        if k.startswith(('trunk.', f'{head}_head.'))
    }


def test_torchvision_vgg16_fits_by_name():
    with torch.device('meta'):
        theirs, ours = torchvision.models.vgg16(weights=None).state_dict(), GFACNN(1000).state_dict()
    for k, v in theirs.items():
        for head in ('id', 'spoof'):
            if head == 'spoof' and k.startswith('classifier.6'):
                continue  # two outputs, not a thousand
            assert ours[k.replace('features.', 'trunk.').replace('classifier.', f'{head}_head.')].shape == v.shape


@pytest.mark.parametrize(
    'heads, n, filled',
    [
        (('spoof', 'id'), 9, ['trunk', 'spoof_head.0', 'spoof_head.3', 'id_head.0', 'id_head.3', 'id_head.6']),
        ('id', 4, ['trunk', 'id_head.0', 'id_head.3']),
        (('spoof',), 9, ['trunk', 'spoof_head.0', 'spoof_head.3']),
    ],
)
def test_load_classifier(heads, n, filled):
    donor, m = slim(9), GFACNN(n, width=0.125, pool=2).eval()
    before = {k: v.clone() for k, v in m.state_dict().items()}
    assert fill_classifier(m, vgg_state(donor), heads) == filled
    for k, v in m.state_dict().items():
        name = k.rsplit('.', 1)[0]
        if name in filled:
            assert torch.equal(v, donor.state_dict()[k.replace('spoof_head', 'id_head')]), k
        elif not k.startswith('trunk'):
            assert torch.equal(v, before[k]), k
    assert same(m.trunk.state_dict(), donor.trunk.state_dict())


def test_load_classifier_dag_names_from_file(tmp_path):
    from gfa_fastai.model import LAYER_NAMES

    donor, m = slim(9), GFACNN(9, width=0.125, pool=2)
    state = {
        f'{n}.{k}': getattr(donor.trunk[i], k).detach()
        for n, i in LAYER_NAMES.items()
        if n.startswith('conv')
        for k in ('weight', 'bias')
    }
    state |= {f'fc{6 + j}.{k}': getattr(donor.id_head[3 * j], k).detach() for j in range(3) for k in ('weight', 'bias')}
    torch.save(state, tmp_path / 'vgg_face_dag.pth')
    fill_classifier(m, tmp_path / 'vgg_face_dag.pth')
    assert same(m.eval().id_head.state_dict(), donor.id_head.state_dict())


def test_load_classifier_without_trunk():
    donor, m = slim(9), GFACNN(9, width=0.125, pool=2)
    trunk = {k: v.clone() for k, v in m.trunk.state_dict().items()}
    fill_classifier(m, vgg_state(donor), trunk=False)
    assert same(trunk, m.trunk.state_dict())


@pytest.mark.parametrize('change', [dict(pool=1), dict(fc_dim=99), dict(width=0.25)])
def test_load_classifier_that_does_not_fit(change):
    m = slim()
    before = {k: v.clone() for k, v in m.state_dict().items()}
    with pytest.raises(ValueError) as e:
        fill_classifier(m, vgg_state(slim(5, **change)))
    for part in ("'classifier.0.weight'", 'spoof_head.0', 'fc_dim=4096, pool=7'):
        assert part in str(e.value)
    assert same(before, m.state_dict())


def test_load_classifier_misuse():
    with pytest.raises(ValueError, match="'liveness'"):
        fill_classifier(slim(), {}, heads='liveness')
    with pytest.raises(ValueError, match='missing'):
        fill_classifier(slim(), vgg16_trunk(0.125).state_dict())


# -- files


def test_round_trip_is_bit_equal(tmp_path):
    m = slim(7, fc_dim=40, dropout=0.3, pool=3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    meta = dict(seed=3, far=0.25, subjects=['ä', 'b'], nested={'a': [1, 2.5, None, True]})
    path = save_model(m, tmp_path / 'new' / 'm.safetensors', **meta)
    again, got = load_model(path)
    assert got == meta and again.config == m.config and not again.training
    assert same(again.state_dict(), m.state_dict())
    m.eval()
    for a, b in zip(again(images(), images()), m(images(), images())):
        assert torch.equal(a, b)
    assert os.listdir(path.parent) == [path.name]


def test_loaded_model_trains_and_saves_again(tmp_path):
    again, _ = load_model(save_model(slim(), tmp_path / 'm.safetensors'))
    assert all(p.requires_grad for p in again.parameters()) and not again.mean.requires_grad
    before = again.trunk[0].weight.detach().clone()
    again.train()(images(), images())[0].sum().backward()
    torch.optim.SGD(again.parameters(), 1.0).step()
    save_model(again, tmp_path / 'm.safetensors')
    assert not torch.equal(load_model(tmp_path / 'm.safetensors')[0].trunk[0].weight, before)


def test_config_is_json_and_file_is_plain_safetensors(tmp_path):
    path = save_model(slim(), tmp_path / 'm.safetensors', a=1)
    assert same(dict(sorted(load_file(path).items())), dict(sorted(slim().state_dict().items())))
    with safe_open(path, framework='pt') as f:
        header = f.metadata()
    assert (
        header['format_version'] == str(MODEL_FORMAT)
        and json.loads(header['config'])['n_subjects'] == 5
        and json.loads(header['meta']) == {'a': 1}
    )


def test_trunk_of_a_saved_model_can_be_loaded(tmp_path):
    m = slim()
    path = save_model(m, tmp_path / 'm.safetensors')
    assert same(vgg16_trunk(0.125, weights=path).state_dict(), m.trunk.state_dict())


@pytest.mark.skipif(os.name == 'nt', reason='POSIX permissions')
def test_file_mode_follows_umask(tmp_path):
    old = os.umask(0o027)
    try:
        path = save_model(slim(), tmp_path / 'm.safetensors')
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_model(slim(), tmp_path / 'm.safetensors', run=1)

    def full(tensors, path, metadata):
        Path(path).write_bytes(b'half of it')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(models, 'save_file', full)
    with pytest.raises(OSError, match='no space left on the disk .* MB or more are needed'):
        save_model(slim(), path, run=2)
    assert load_model(path)[1] == {'run': 1} and os.listdir(tmp_path) == ['m.safetensors']


def test_meta_that_json_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match='meta cannot be written as JSON.*Tensor'):
        save_model(slim(), tmp_path / 'm.safetensors', x=torch.zeros(2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('at', [0.05, 0.3, 0.6, 0.95])
def test_a_flipped_bit_is_found(tmp_path, at):
    path = save_model(slim(fc_dim=8), tmp_path / 'm.safetensors', dataset='somewhere')
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match='m.safetensors'):
        load_model(path)


def test_a_changed_threshold_is_found(tmp_path):
    path = save_model(slim(fc_dim=8), tmp_path / 'm.safetensors', threshold=0.25)
    assert load_model(path)[1]['thresholds']['live']['points'] == {'EER': {'threshold': 0.25}}
    path.write_bytes(path.read_bytes().replace(b'0.25', b'0.35'))
    with pytest.raises(ValueError, match='damaged after it was written'):
        load_model(path)


def test_without_a_digest_only_version_1(tmp_path):
    m, path = slim(fc_dim=8), tmp_path / 'm.safetensors'
    header = dict(config=json.dumps(m.config), meta='{}')
    save_file(m.state_dict(), path, metadata=header | dict(format_version='1'))
    assert same(load_model(path)[0].state_dict(), m.state_dict())
    save_file(m.state_dict(), path, metadata=header | dict(format_version='2'))
    with pytest.raises(ValueError, match='damaged after it was written'):
        load_model(path)


def test_loading_leaves_random_numbers_alone(tmp_path):
    path = save_model(slim(fc_dim=8), tmp_path / 'm.safetensors')
    torch.manual_seed(3)
    want = torch.rand(3)
    torch.manual_seed(3)
    load_model(path)
    assert torch.equal(torch.rand(3), want)


@pytest.mark.parametrize(
    'change',
    [
        dict(n_subjects=10**12),
        dict(fc_dim=10**12),
        dict(pool=10**9),
        dict(width=1e12),
        dict(width=float('inf')),
        dict(width=float('nan')),
        dict(pool=2.0),
        dict(n_subjects=True),
        dict(dropout='x'),
        dict(dropout=float('nan')),
        dict(dropout=-1),
    ],
)
def test_configurations_that_claim_too_much(tmp_path, change):
    m, path = slim(fc_dim=8), tmp_path / 'm.safetensors'
    header = dict(format_version='1', config=json.dumps(m.config | change), meta='{}')
    save_file(m.state_dict(), path, metadata=header)
    with pytest.raises(ValueError, match='tensors and configuration do not fit'):
        load_model(path)


@pytest.mark.skipif(os.name == 'nt', reason='POSIX pipes')
def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / 'm.safetensors')
    with pytest.raises(ValueError, match='no regular file'):
        load_model(tmp_path / 'm.safetensors')


def test_an_adapter_travels_with_the_model(tmp_path):
    path = save_model(slim(fc_dim=8), tmp_path / 'm.safetensors', with_adapter=Recompress(80))
    assert load_model_adapter(path).quality == 80 and models.model_header(path)['adapter']
    assert 'adapter.none' in load_file(path) and load_model(path)[0].config['fc_dim'] == 8
    assert load_model_adapter(save_model(slim(fc_dim=8), path)) is None


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.safetensors: check the path'):
        load_model(tmp_path / 'none.safetensors')


@pytest.mark.parametrize(
    'damage',
    [lambda b: b[:-10], lambda b: b[:20], lambda b: b'', lambda b: b'x' * 100, lambda b: pickle.dumps({'a': 1})],
)
def test_damaged_file(tmp_path, damage):
    path = save_model(slim(fc_dim=8), tmp_path / 'm.safetensors')
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match='m.safetensors is not a whole safetensors file'):
        load_model(path)


def test_other_formats(tmp_path):
    path = tmp_path / 'm.safetensors'
    save_file(slim().state_dict(), path)
    with pytest.raises(ValueError, match='format version None'):
        load_model(path)
    save_file(slim().state_dict(), path, metadata=dict(format_version='99', config='{}', meta='{}'))
    with pytest.raises(ValueError, match='format version 99, this release reads 1 and 2'):
        load_model(path)


@pytest.mark.parametrize(
    'config',
    ['{}', 'not json', '{"n_subjects": 5, "width": 0.25}', '{"n_subjects": 5, "colour": 1}', '{"n_subjects": 0}'],
)
def test_header_that_does_not_fit(tmp_path, config):
    path = tmp_path / 'm.safetensors'
    save_file(slim().state_dict(), path, metadata=dict(format_version='1', config=config, meta='{}'))
    with pytest.raises(ValueError, match='m.safetensors: tensors and configuration do not fit'):
        load_model(path)


# -- sizes of images


def test_smallest_image():
    assert slim().eval().spoof(images(px=32))[0].isfinite().all()


# -- memory


def test_recomputed_gradients_are_the_same():
    frame, face = images(3), images(3, seed=2)
    m = slim(dropout=0.0).train()

    def gradients():
        m.zero_grad()
        sum(o.square().sum() for o in m(frame, face)).backward()
        return [p.grad.clone() for p in m.parameters()]

    plain = gradients()
    trunk = m.trunk
    recompute_trunk(m)
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients()))
    with torch.autocast('cpu', torch.bfloat16):
        half = gradients()
        m.trunk = trunk
        assert all(torch.equal(a, b) for a, b in zip(half, gradients()))


def test_recomputing_any_trunk():
    "Dropout in the trunk draws the same units again, and layers behind the last pooling are not lost."
    trunk, x = new_trunk(0.0625), images(3)
    shorter = nn.Sequential(*list(trunk)[:4], nn.Dropout(0.5), *list(trunk)[4:-1])
    for name in ('width', 'out_channels', 'names', 'mean', 'std'):
        setattr(shorter, name, getattr(trunk, name))
    m = GFACNN(4, shorter, pool=1).train()

    def gradients():
        torch.manual_seed(0)
        y = m.trunk(x)
        return y, torch.autograd.grad(y.square().sum(), list(m.trunk.parameters()))

    plain, wanted = gradients()
    recompute_trunk(m)
    again, found = gradients()
    assert torch.equal(plain, again) and all(torch.equal(a, b) for a, b in zip(wanted, found))


def test_recomputing_keeps_less(monkeypatch):
    m, x = slim(), images(4)

    def kept():
        seen = {}

        def pack(t):
            seen[t.untyped_storage()._cdata] = t
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = m.features(x)
        return sum(t.untyped_storage().nbytes() for t in seen.values())

    plain = kept()
    recompute_trunk(m)
    assert kept() < 0.3 * plain


def test_training_memory_counts_what_autograd_keeps():
    "The estimate on the meta device against the tensors that a real pass keeps."
    m, x = GFACNN(15, width=0.125, pool=2).eval(), images(6, 64)
    own, seen = {p.untyped_storage()._cdata for p in m.parameters()}, {}

    def pack(t):
        if t.untyped_storage()._cdata not in own:
            seen[t.untyped_storage()._cdata] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        m(x[:3], x[3:])
    real, count = sum(t.untyped_storage().nbytes() for t in seen.values()) / 1e9, training_memory(3, 64, 0.125, 2)
    assert count['activations'] == pytest.approx(real + 2 * 6 * 64 * 64 * 8 * 4 / 1e9, rel=0.05)
    assert count['weights'] == pytest.approx(16 * sum(p.numel() for p in m.parameters()) / 1e9)


def test_training_memory_is_linear_in_the_batch():
    a, b = (training_memory(n, 64, 0.125, 2)['activations'] for n in (4, 16))
    assert b == pytest.approx(4 * a, rel=0.02)
    assert training_memory(4, 64, 0.125, 2, number_bytes=2)['activations'] < 0.7 * a
    assert training_memory(4, 64, 0.125, 2, recompute=True)['activations'] < 0.8 * a
    assert training_memory(32, number_bytes=2)['total'] < 15  # full width at 224 pixels, a card of 15 GB
