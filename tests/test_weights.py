"The VGG16 trunk: equal to torchvision's, loadable from files of every make, and clear about what does not fit."

import io
import os
import pickle
import struct
import sys
import time
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import nn

from gfa_fastai.inputs import weights as vgg
from gfa_fastai.model import GFACNN
from gfa_fastai.inputs.models import load_model, save_model
from gfa_fastai.inputs.weights import (
    CAFFE_MEAN,
    VGGFACE_MEAN,
    VGGFACE_STD,
    fc_from_keras,
    load_trunk,
    read_t7,
    read_weights,
    torchvision_names,
    build_gfacnn,
    fill_classifier,
    vgg16_trunk,
)
from gfa_fastai.model import IMAGENET_MEAN, IMAGENET_STD, LAYER_NAMES, VGG16_BLOCKS

CONVS = [n for n in LAYER_NAMES if n.startswith('conv')]


@pytest.fixture(scope='module')
def published():
    "torchvision's whole VGG16 with random weights and biases that are not zero."
    torch.manual_seed(0)
    return torchvision.models.vgg16(weights=None, init_weights=False).eval()


@pytest.fixture
def slim():
    torch.manual_seed(1)
    trunk = vgg16_trunk(0.125)
    for p in trunk.parameters():
        nn.init.normal_(p, 0, 0.1)
    return trunk


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def test_equal_to_torchvision(published):
    trunk = load_trunk(vgg16_trunk(), published.state_dict())
    assert list(trunk.state_dict()) == list(published.features.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(trunk(x), published.features(x))


def test_same_modules_at_same_indices(published):
    assert [type(l) for l in vgg16_trunk(0.125)] == [type(l) for l in published.features]


def test_gradients_equal_torchvision(published):
    trunk = load_trunk(vgg16_trunk(), published.state_dict())
    x = torch.randn(1, 3, 32, 32)
    ours, theirs = (torch.autograd.grad(net(x).square().sum(), net[0].weight)[0] for net in (trunk, published.features))
    torch.testing.assert_close(ours, theirs)


def test_layer_names():
    assert len(LAYER_NAMES) == 31 and list(LAYER_NAMES.values()) == list(range(31))
    assert [LAYER_NAMES[n] for n in CONVS] == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    trunk = vgg16_trunk(0.125)
    kinds = dict(conv=nn.Conv2d, relu=nn.ReLU, pool=nn.MaxPool2d)
    for name, i in LAYER_NAMES.items():
        assert isinstance(trunk[i], kinds[name[:4]]), name
    assert LAYER_NAMES['relu3_3'] == 15 and LAYER_NAMES['pool5'] == 30


@pytest.mark.parametrize('width', [1 / 64, 0.1, 0.125, 0.25])
def test_width(width):
    trunk = vgg16_trunk(width)
    wanted = [max(1, round(c * width)) for convs in VGG16_BLOCKS for c in convs]
    assert [trunk[LAYER_NAMES[n]].out_channels for n in CONVS] == wanted
    assert trunk.out_channels == wanted[-1]
    assert trunk(torch.zeros(1, 3, 64, 96)).shape == (1, wanted[-1], 2, 3)


@pytest.mark.parametrize('width', [0, -1, float('nan')])
def test_width_must_be_positive(width):
    with pytest.raises(ValueError, match='width must be above 0'):
        vgg16_trunk(width)


def test_initialisation_is_torchvisions():
    torch.manual_seed(0)
    trunk = vgg16_trunk(0.5)
    for n in CONVS[1:]:
        conv = trunk[LAYER_NAMES[n]]
        assert conv.weight.std().item() == pytest.approx((2 / (9 * conv.out_channels)) ** 0.5, rel=0.05), n
        assert not conv.bias.any()


def test_same_seed_same_trunk():
    a, b = (torch.manual_seed(3) and vgg16_trunk(0.125).state_dict() for _ in range(2))
    assert same(a, b)


def test_hooks_see_the_convolution():
    "A ReLU in place would have changed what the hook kept."
    trunk, kept = vgg16_trunk(0.125), []
    trunk[2].register_forward_hook(lambda m, i, o: kept.append(o))
    trunk(torch.randn(1, 3, 32, 32))
    assert kept[0].min() < 0


# -- weights from files


@pytest.mark.parametrize('naming', ['bare', 'features.', 'trunk.', 'dag', 'module.', 'module.features.'])
@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', '.pt'])
def test_weights_from_file(slim, tmp_path, naming, suffix):
    by_index = {str(i): n for n, i in LAYER_NAMES.items()}

    def name(key):
        i, kind = key.split('.')
        return {'bare': key, 'dag': f'{by_index[i]}.{kind}'}.get(naming, naming + key)

    state = {name(k): v.clone() for k, v in slim.state_dict().items()}
    state['fc8.weight' if naming == 'dag' else 'classifier.6.weight'] = torch.zeros(
        3, 3
    )  # what is not of the trunk is ignored
    path = tmp_path / f'w{suffix}'
    (save_file if suffix == '.safetensors' else torch.save)(state, path)
    assert same(vgg16_trunk(0.125, weights=path).state_dict(), slim.state_dict())
    assert same(vgg16_trunk(0.125, weights=str(path)).state_dict(), slim.state_dict())


def test_names():
    assert list(torchvision_names({'conv3_3.bias': 1, 'fc6.weight': 2, 'classifier.6.bias': 3, 'mean': 4})) == [
        'features.14.bias',
        'classifier.0.weight',
        'classifier.6.bias',
        'mean',
    ]


def test_wrong_width_says_which(slim, tmp_path):
    path = tmp_path / 'slim.safetensors'
    save_file(slim.state_dict(), path)
    with pytest.raises(ValueError) as e:
        vgg16_trunk(0.25, weights=path)
    for part in (str(path), "'0.weight'", '(8, 3, 3, 3)', '(16, 3, 3, 3)', 'width=0.125'):
        assert part in str(e.value)


def test_missing_tensor_and_batch_norm(slim):
    state = slim.state_dict()
    del state['17.bias']
    with pytest.raises(ValueError, match="no tensor '17.bias'"):
        load_trunk(vgg16_trunk(0.125), state)
    bn = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs['D'], batch_norm=True).state_dict()
    with pytest.raises(ValueError, match='without batch norm'):
        load_trunk(vgg16_trunk(), bn)


def test_failed_load_changes_nothing(slim):
    target = vgg16_trunk(0.125)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    state = slim.state_dict()
    state['28.bias'] = torch.zeros(5)
    with pytest.raises(ValueError, match="'28.bias'"):
        load_trunk(target, state)
    assert same(before, target.state_dict())


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='check the path'):
        vgg16_trunk(0.125, weights=tmp_path / 'none.pth')


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', '.pt'])
@pytest.mark.parametrize('content', [b'', b'not weights', bytes(200)])
def test_damaged_file(tmp_path, suffix, content):
    path = tmp_path / f'w{suffix}'
    path.write_bytes(content)
    with pytest.raises(ValueError) as e:
        read_weights(path)
    assert str(path) in str(e.value)


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_truncated_file(slim, tmp_path, suffix):
    path = tmp_path / f'w{suffix}'
    (save_file if suffix == '.safetensors' else torch.save)(slim.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-50_000])
    with pytest.raises(ValueError) as e:
        read_weights(path)
    assert str(path) in str(e.value)


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_nothing_is_unpickled(slim, tmp_path):
    bomb = Bomb()
    bomb.path = str(tmp_path / 'exploded')
    path = tmp_path / 'w.pt'
    torch.save({**slim.state_dict(), 'x': bomb}, path)
    with pytest.raises(ValueError, match='holds more than tensors'):
        vgg16_trunk(0.125, weights=path)
    assert not (tmp_path / 'exploded').exists()


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.bin', '.safetensors', '.h5', '.t7'])
@pytest.mark.parametrize('protocol', [2, 4])
def test_a_pickle_under_any_name(tmp_path, suffix, protocol):
    bomb = Bomb()
    bomb.path = str(tmp_path / 'exploded')
    path = tmp_path / f'w{suffix}'
    path.write_bytes(pickle.dumps(bomb, protocol))
    with pytest.raises(ValueError, match=f'{path} holds more than tensors, or is damaged'):
        read_weights(path)
    assert not (tmp_path / 'exploded').exists()


@pytest.mark.parametrize(
    'body',
    [
        b'a',
        b'.',
        b'c\n\n.',
        b'(t.',
        b'I1\nR.',
        b'\x8c\xff',
        b'}(I1\nu.',
        b'\x94' * 9 + b'.',
        b'h\xff.',
        b'N\x85R.',
        b'cos\nsystem\n.',
    ],
)
def test_pickles_that_lie(tmp_path, body):
    path = tmp_path / 'w.pth'
    path.write_bytes(b'\x80\x02' + body)
    with pytest.raises(ValueError, match=str(path)):
        read_weights(path)


def test_scale_of_weights_from_data_parallel(slim, tmp_path):
    names = {str(i): n for n, i in LAYER_NAMES.items()}
    state = {f'module.{names[k.split(".")[0]]}.{k.split(".")[1]}': v for k, v in slim.state_dict().items()}
    torch.save(state, tmp_path / 'w.pth')
    assert vgg16_trunk(0.125, weights=tmp_path / 'w.pth').mean == VGGFACE_MEAN


def test_checkpoint_and_unknown_suffix(slim, tmp_path):
    path = tmp_path / 'w.pt'
    torch.save({'model': slim.state_dict(), 'epoch': 3}, path)
    with pytest.raises(ValueError, match='no plain state dict'):
        read_weights(path)
    path = tmp_path / 'w.h5'
    path.write_bytes(b'x')
    with pytest.raises(ValueError, match="unknown kind '.h5'"):
        read_weights(path)


# -- files of other makes: each written from known weights, and compared with the network that it describes

POOL, PEOPLE = 2, 5  # 64 px leave 2x2 positions, so that the first FC layer has an order to get wrong


@pytest.fixture(scope='module')
def known():
    "A slim VGG16 for RGB as arrays: thirteen (weight, bias) of convolutions, three of FC layers; PyTorch's layouts."
    g = torch.Generator().manual_seed(4)
    convs, n_in = [], 3
    for out in (max(1, round(c * 0.125)) for convs_ in VGG16_BLOCKS for c in convs_):
        convs.append(
            (torch.randn(out, n_in, 3, 3, generator=g) * (2 / (9 * n_in)) ** 0.5, torch.randn(out, generator=g) * 0.1)
        )
        n_in = out
    n_in, fcs = n_in * POOL * POOL, []
    for out in (24, 24, PEOPLE):
        fcs.append((torch.randn(out, n_in, generator=g) * (2 / n_in) ** 0.5, torch.randn(out, generator=g) * 0.1))
        n_in = out
    return [[(w.numpy(), b.numpy()) for w, b in part] for part in (convs, fcs)]


def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(9))


def reference(x, known):
    "Features and outputs, layer by layer in float64; x is (B, 3, H, W) as the weights want it."
    x, at = x.double(), iter(known[0])
    for convs in VGG16_BLOCKS:
        for _ in convs:
            x = F.relu(F.conv2d(x, *(torch.tensor(a).double() for a in next(at)), padding=1))
        x = F.max_pool2d(x, 2)
    features, x = x, x.flatten(1)
    for i, (w, b) in enumerate(known[1]):
        x = F.linear(F.relu(x) if i else x, torch.tensor(w).double(), torch.tensor(b).double())
    return features, x


def compare(path, known, mean, std=(1 / 255,) * 3, bgr=False, fc=True):
    "What `vgg16_trunk` and `build_gfacnn` make of a file, against the network of the file on its own input."
    mean = torch.tensor(mean).view(1, 3, 1, 1)
    x = (image() - mean) / torch.tensor(std).view(1, 3, 1, 1)
    weights = known
    if bgr:
        x, weights = (
            x.flip(1),
            [[(known[0][0][0][:, ::-1].copy(), known[0][0][1]), *known[0][1:]], known[1]],
        )  # the file's own network
    features, outputs = reference(x, weights)
    trunk = vgg16_trunk(0.125, weights=path)
    with torch.no_grad():
        got = trunk((image() - torch.tensor(trunk.mean).view(1, 3, 1, 1)) / torch.tensor(trunk.std).view(1, 3, 1, 1))
        assert (got - features).norm() / features.norm() < 1e-5
        model = build_gfacnn(PEOPLE, width=0.125, fc_dim=24, pool=POOL, weights=path).eval()
        assert (model.trunk((image() - model.mean) / model.std) - features).norm() / features.norm() < 1e-5
        if fc:
            assert (model.identify(image())[0] - outputs).norm() / outputs.norm() < 1e-5
    assert model.mean.flatten().tolist() == pytest.approx(mean.flatten().tolist())
    assert model.std.flatten().tolist() == pytest.approx(list(std))


def dag(known):
    names = [*CONVS, *(['fc6', 'fc7', 'fc8'] if known[1] else [])]
    return {
        f'{n}.{k}': torch.tensor(a)
        for n, layer in zip(names, [*known[0], *known[1]])
        for k, a in zip(('weight', 'bias'), layer)
    }


@pytest.mark.parametrize('old', [False, True])
def test_vgg_face_dag(tmp_path, known, old):
    torch.save(dag(known), tmp_path / 'vgg_face_dag.pth', _use_new_zipfile_serialization=not old)
    compare(tmp_path / 'vgg_face_dag.pth', known, VGGFACE_MEAN)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_torchvision_file(tmp_path, known, suffix):
    path = tmp_path / f'vgg16-397923af{suffix}'
    (save_file if suffix == '.safetensors' else torch.save)(torchvision_names(dag(known)), path)
    compare(path, known, IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize(
    'outputs, names, mean',
    [
        (2622, 'torchvision', VGGFACE_MEAN),
        (1000, 'torchvision', IMAGENET_MEAN),
        (1000, 'dag', IMAGENET_MEAN),
        (7, 'dag', VGGFACE_MEAN),
    ],
)
def test_scale_by_names_and_outputs(known, outputs, names, mean):
    state = dict(dag(known), **{'fc8.weight': torch.zeros(outputs, 24)})
    assert vgg16_trunk(0.125, torchvision_names(state) if names == 'torchvision' else state).mean == mean


def write_keras(path, known, names=None, dense=False, bgr=False, style='weights', layer_names=True):
    "An .h5 file as Keras writes it."
    h5py = pytest.importorskip('h5py')
    names = names or [
        'conv2d',
        *(f'conv2d_{i}' for i in range(1, 13 if dense else 16)),
        *(['dense', 'dense_1', 'dense_2'] if dense else []),
    ]
    layers = []
    for i, (name, (w, b)) in enumerate(zip(names, [*known[0], *known[1]])):
        if i == 0 and bgr:
            w = w[:, ::-1]
        if i < 13:
            w = w.transpose(2, 3, 1, 0)
        else:
            k = POOL if i == 13 else 1
            w = w.reshape(len(b), -1, k, k).transpose(2, 3, 1, 0)
            if dense:
                w = w.reshape(-1, len(b))  # Flatten in rows, columns, channels
        layers.append((name, w, b))
    with h5py.File(path, 'w') as f:
        root = f.create_group('model_weights') if style == 'model' else f
        if layer_names:
            root.attrs['layer_names'] = [n.encode() for n, *_ in layers]
        for name, w, b in layers[::-1]:
            at = {
                'weights': f'{name}/{name}',
                'model': f'{name}/{name}',
                'keras3': f'layers/{name}/vars',
                'keras1': name,
            }[style]
            kernel, bias = {'keras3': ('0', '1'), 'keras1': (f'{name}_W', f'{name}_b')}.get(
                style, ('kernel:0', 'bias:0')
            )
            root[f'{at}/{kernel}'], root[f'{at}/{bias}'] = np.ascontiguousarray(w), b
        if style == 'model':
            f['optimizer_weights/adam/m'] = np.zeros((3, 3))
    return path


PAPER = [*CONVS, 'fc6', 'fc7', 'fc8']


@pytest.mark.parametrize(
    'style, layer_names', [('weights', True), ('weights', False), ('model', True), ('keras3', False)]
)
def test_keras_vgg_face_weights(tmp_path, known, style, layer_names):
    compare(
        write_keras(tmp_path / 'vgg_face_weights.h5', known, style=style, layer_names=layer_names), known, VGGFACE_MEAN
    )


@pytest.mark.parametrize('style', ['weights', 'keras1'])
@pytest.mark.parametrize('dense', [False, True])
def test_keras_with_the_papers_names(tmp_path, known, style, dense):
    compare(
        write_keras(tmp_path / 'w.h5', known, PAPER, dense=dense, bgr=dense, style=style, layer_names=False),
        known,
        VGGFACE_MEAN,
        bgr=dense,
    )


def test_keras_applications(tmp_path, known):
    names = [n.replace('conv', 'block').replace('_', '_conv') for n in CONVS] + ['fc1', 'fc2', 'predictions']
    compare(
        write_keras(tmp_path / 'vgg16_weights_tf_dim_ordering_tf_kernels.h5', known, names, dense=True, bgr=True),
        known,
        CAFFE_MEAN,
        bgr=True,
    )


@pytest.mark.parametrize('names', [None, PAPER])
def test_keras_without_fc_says_that_it_guesses(tmp_path, known, names):
    trunk = [known[0], []]
    with pytest.warns(UserWarning, match='does not tell whether it wants RGB or BGR, and is taken as RGB'):
        state = read_weights(write_keras(tmp_path / 'w.h5', trunk, names))
    assert torch.equal(state['features.0.weight'], torch.tensor(known[0][0][0])) and len(state) == 28


@pytest.mark.parametrize('channels', [1, 3, 8])
@pytest.mark.parametrize('k', [1, 2, 7])
def test_fc_from_keras_against_loops(channels, k):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(k, k, channels, 4))
    for got in (fc_from_keras(kernel, channels), fc_from_keras(kernel.reshape(-1, 4), channels)):
        for f in range(4):
            for c in range(channels):
                for i in range(k):
                    for j in range(k):
                        assert got[f, c * k * k + i * k + j] == kernel[i, j, c, f]
    with pytest.raises(ValueError, match='does not follow'):
        fc_from_keras(np.zeros((k * k * channels + 1, 4)), channels)


class T7Writer:
    "Torch7's binary format, as its File:writeObject puts it out."

    def __init__(self):
        self.out, self.n = io.BytesIO(), 0

    def raw(self, fmt, *v):
        self.out.write(struct.pack('<' + fmt, *v))
        return self

    def text(self, s):
        return self.raw(f'i{len(s)}s', len(s), s.encode())

    def ref(self, kind):
        self.n += 1
        return self.raw('ii', kind, self.n)

    def thing(self, name):
        return self.ref(4).text('V 1').text(name)

    def string(self, s):
        return self.raw('i', 2).text(s)

    def number(self, v):
        return self.raw('id', 1, v)

    def tensor(self, a, kind='Float', offset=0):
        a = np.asarray(a, {'Float': '<f4', 'Double': '<f8', 'Cuda': '<f4'}[kind])
        self.thing(f'torch.{kind}Tensor').raw(
            f'i{a.ndim}q{a.ndim}qq',
            a.ndim,
            *a.shape,
            *(s // a.itemsize for s in np.empty(a.shape, a.dtype).strides),
            offset + 1,
        )
        self.thing(f'torch.{kind}Storage').raw('q', a.size + offset)
        self.out.write(b'\7' * offset * a.itemsize + np.ascontiguousarray(a).tobytes())

    def table(self, pairs):
        self.ref(3).raw('i', len(pairs))
        for key, write in pairs:
            (self.string if isinstance(key, str) else self.number)(key)
            write()
        return self

    def module(self, name, w=None, b=None, kind='Float', offset=0, **more):
        pairs = [
            ('train', lambda: self.raw('ii', 5, 0)),
            ('_type', lambda: self.string(f'torch.{kind}Tensor')),
            *more.items(),
        ]
        if w is not None:
            pairs += [
                ('weight', lambda: self.tensor(w, kind, offset)),
                ('bias', lambda: self.tensor(b, kind)),
                ('gradWeight', lambda: self.raw('i', 0)),
            ]
        self.thing(name).table(pairs)

    def save(self, path):
        path.write_bytes(self.out.getvalue())
        return path


def write_t7(path, known, kind='Float', flat=False, conv='nn.SpatialConvolution', nested=False, bgr=True):
    "VGG_FACE.t7: a Sequential for BGR, FC layers as Linear."
    t, convs = T7Writer(), iter(known[0])
    makers = []
    for block in VGG16_BLOCKS:
        for _ in block:
            w, b = next(convs)
            if len(makers) == 0 and bgr:
                w = w[:, ::-1]
            makers += [
                lambda w=w, b=b: t.module(conv, w.reshape(len(b), -1) if flat else w, b, kind, offset=3),
                lambda: t.module('nn.ReLU'),
            ]
        makers.append(lambda: t.module('nn.SpatialMaxPooling'))
    makers.append(lambda: t.module('nn.View'))
    for w, b in known[1]:
        makers += [lambda w=w, b=b: t.module('nn.Linear', w, b, kind), lambda: t.module('nn.Dropout')]

    def sequential():
        t.module('nn.Sequential', modules=lambda: t.table([(i, m) for i, m in enumerate(makers, 1)]))

    if nested:
        t.table([('epoch', lambda: t.number(3)), ('model', sequential)])
    else:
        sequential()
    return t.save(path)


@pytest.mark.parametrize(
    'how',
    [
        {},
        dict(kind='Double'),
        dict(kind='Cuda', conv='cudnn.SpatialConvolution'),
        dict(flat=True, conv='nn.SpatialConvolutionMM'),
        dict(nested=True),
    ],
)
def test_torch7(tmp_path, known, how):
    compare(write_t7(tmp_path / 'VGG_FACE.t7', known, **how), known, VGGFACE_MEAN, bgr=True)


def test_converted_from_torch7(tmp_path, known):
    "VGG_FACE.pth as it circulates: a state dict with the numbers of the Torch7 layers, for BGR."
    names = [
        *(
            k.removeprefix('features.').rsplit('.', 1)[0]
            for k in torchvision_names(dag([known[0], []]))
            if k.endswith('weight')
        ),
        '32.1',
        '35.1',
        '38.1',
    ]
    flipped = [[(known[0][0][0][:, ::-1].copy(), known[0][0][1]), *known[0][1:]], known[1]]
    torch.save(
        {
            f'{n}.{k}': torch.tensor(a)
            for n, layer in zip(names, [*flipped[0], *flipped[1]])
            for k, a in zip(('weight', 'bias'), layer)
        },
        tmp_path / 'VGG_FACE.pth',
    )
    compare(tmp_path / 'VGG_FACE.pth', known, VGGFACE_MEAN, bgr=True)


def test_t7_objects(tmp_path):
    "Every kind of value, a shared table, a cycle, a transposed tensor and a string that is no ASCII."
    t = T7Writer()
    t.ref(3).raw('i', 6)
    t.string('n').number(2.5)
    t.string('yes').raw('ii', 5, 1)
    t.string('none').raw('i', 0)
    t.string('self').raw('ii', 3, 1)
    t.string('x').thing('torch.DoubleTensor').raw('i2q2qq', 2, 3, 2, 1, 3, 2)
    t.thing('torch.DoubleStorage').raw('q7d', 7, *range(7))
    t.string('bytes').raw('ii2s', 2, 2, b'\xff\x00')
    o = read_t7(t.save(tmp_path / 'o.t7'))
    assert (o['n'], o['yes'], o['none'], o['bytes']) == (2.5, True, None, '\xff\0') and o['self'] is o
    assert o['x'].tolist() == [[1, 4], [2, 5], [3, 6]]


def hostile_t7():
    def function(t):
        t.ref(8).raw('i4s', 4, b'\x1bLua')

    def huge_storage(t):
        t.thing('torch.FloatTensor').raw('iqqq', 1, 1, 1, 1).thing('torch.FloatStorage').raw('q', 1 << 60)

    def outside(t):
        t.thing('torch.FloatTensor').raw('i2q2qq', 2, 2, 2, 100, 1, 1).thing('torch.FloatStorage').raw(
            'q4f', 4, *[0] * 4
        )

    def negative(t):
        t.thing('torch.FloatTensor').raw('iqqq', 1, 4, -1, 4).thing('torch.FloatStorage').raw('q4f', 4, *[0] * 4)

    def stretched(t):
        t.thing('torch.FloatTensor').raw('iqqq', 1, 1 << 40, 0, 1).thing('torch.FloatStorage').raw('q4f', 4, *[0] * 4)

    def no_storage(t):
        t.thing('torch.FloatTensor').raw('iqqq', 1, 4, 1, 1).string('storage')

    def negative_text(t):
        t.raw('ii', 2, -5)

    def negative_storage(t):
        t.thing('torch.FloatStorage').raw('q', -8)

    def endless(t):
        t.ref(3).raw('i', 2**31 - 1)

    def half(t):
        t.thing('torch.HalfTensor')

    def other_kind(t):
        t.raw('i', 77)

    def deep(t):
        for _ in range(5000):
            t.ref(3).raw('i', 1).string('a')
        t.raw('i', 0)

    return [v for v in locals().values() if callable(v)]


@pytest.mark.parametrize('make', hostile_t7(), ids=lambda f: f.__name__)
def test_t7_that_lies(tmp_path, make):
    t = T7Writer()
    t.thing('nn.Linear').ref(3).raw('i', 1).string('weight')
    make(t)
    with pytest.raises(ValueError, match=r'a\.t7: these are not the weights of a VGG16'):
        read_weights(t.save(tmp_path / 'a.t7'))


def test_other_files_that_do_not_fit(tmp_path, known):
    "Too few layers, another width, another layout: the message says what."
    few = [known[0][:5], []]
    with pytest.raises(ValueError, match='it has 5 convolutions of 3x3, VGG16 has 13'):
        read_weights(few_t7(tmp_path / 'a.t7', known))
    with pytest.raises(ValueError, match=r'it has 5 convolutions of 3x3 in Keras.*VGG16 has 13'):
        read_weights(write_keras(tmp_path / 'a.h5', few))
    with pytest.raises(ValueError, match='width=0.125'):
        vgg16_trunk(0.25, weights=write_keras(tmp_path / 'b.h5', known))
    h5py = pytest.importorskip('h5py')
    with h5py.File(tmp_path / 'c.h5', 'w') as f:
        f['a/kernel:0'] = np.zeros((3, 3, 3, 8))
    with pytest.raises(ValueError, match="layer 'kernel:0' is not one kernel|layer 'a' is not one kernel"):
        read_weights(tmp_path / 'c.h5')


def few_t7(path, known):
    t = T7Writer()
    t.module(
        'nn.Sequential',
        modules=lambda: t.table(
            [(i, lambda w=w, b=b: t.module('nn.SpatialConvolution', w, b)) for i, (w, b) in enumerate(known[0][:5], 1)]
        ),
    )
    return t.save(path)


def test_keras_links_are_not_followed(tmp_path, known):
    h5py = pytest.importorskip('h5py')
    write_keras(tmp_path / 'secret.h5', known)
    for k, link in enumerate((h5py.ExternalLink('secret.h5', '/conv2d'), h5py.SoftLink('/conv2d_1'))):
        write_keras(tmp_path / 'w.h5', known)
        with h5py.File(tmp_path / 'w.h5', 'a') as f:
            f[f'more{k}'] = link
        with pytest.raises(ValueError, match='is a link to another place'):
            read_weights(tmp_path / 'w.h5')
    with h5py.File(tmp_path / 'e.h5', 'w') as f:
        f.create_dataset('a/k', (3, 3), 'f4', external=[(str(tmp_path / 'secret.h5'), 0, 36)])
    with pytest.raises(ValueError, match='lies in another file'):
        read_weights(tmp_path / 'e.h5')
    with h5py.File(tmp_path / 'cycle.h5', 'w') as f:
        f.create_group('a')['b'] = f
    with pytest.raises(ValueError, match='second name for something in the file'):
        read_weights(tmp_path / 'cycle.h5')


@pytest.mark.parametrize('kind', ['h5', 't7'])
def test_cut_off_and_renamed(tmp_path, known, kind):
    path = (write_keras if kind == 'h5' else write_t7)(tmp_path / f'w.{kind}', known)
    data = path.read_bytes()
    (tmp_path / 'renamed.bin').write_bytes(data)
    compare(tmp_path / 'renamed.bin', known, VGGFACE_MEAN, bgr=kind == 't7')  # by content, not by name
    for n in (9, 40, len(data) // 2, len(data) - 5000):
        path.write_bytes(data[:n])
        with pytest.raises(
            ValueError, match=rf'w\.{kind}: these are not the weights|w\.{kind}: weights of unknown kind'
        ):
            read_weights(path)


def test_h5py_is_asked_for(tmp_path, known, monkeypatch):
    path = write_keras(tmp_path / 'w.h5', known)
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(ImportError, match='w.h5 is a Keras file .*pip install h5py'):
        vgg16_trunk(0.125, weights=path)


def test_heads_take_what_fits(tmp_path, known):
    torch.save(dag(known), tmp_path / 'w.pth')
    fc = [torch.tensor(w) for w, _ in known[1]]

    def took(model):
        return [
            [torch.equal(head[i].weight, w) for i, w in zip((0, 3, 6), fc) if head[i].weight.shape == w.shape]
            for head in (model.spoof_head, model.id_head)
        ]

    make = dict(width=0.125, fc_dim=24, pool=POOL, weights=tmp_path / 'w.pth')
    assert took(build_gfacnn(PEOPLE, **make)) == [[True, True], [True, True, True]] and took(
        build_gfacnn(9, **make)
    ) == [
        [True, True],
        [True, True],
    ]
    assert took(build_gfacnn(PEOPLE, **make, heads='id')) == [[False, False], [True, True, True]] and took(
        build_gfacnn(PEOPLE, **make, heads=())
    ) == [[False] * 2, [False] * 3]
    assert took(build_gfacnn(PEOPLE, **dict(make, pool=1))) == [
        [False],
        [False, False],
    ]  # FC2 alone would fit, and is not taken alone
    with pytest.raises(ValueError, match="'liveness' is no head|liveness"):
        build_gfacnn(PEOPLE, **make, heads='liveness')
    m = GFACNN(PEOPLE, width=0.125, fc_dim=24, pool=POOL)
    assert m.mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)
    fill_classifier(m, tmp_path / 'w.pth')
    assert m.mean.flatten().tolist() == pytest.approx(VGGFACE_MEAN)
    again, _ = load_model(save_model(m, tmp_path / 'm.safetensors'))
    assert again.mean.flatten().tolist() == pytest.approx(VGGFACE_MEAN)
    assert vgg16_trunk(0.125, weights=tmp_path / 'm.safetensors').mean == pytest.approx(
        VGGFACE_MEAN
    )  # our own files say it


# -- sizes that a file claims


def read_within(path, seconds=10):
    "The message of a file that is refused; it must be refused fast."
    start = time.process_time()
    with pytest.raises(ValueError, match=path.name) as e:
        read_weights(path)
    assert time.process_time() - start < seconds
    return str(e.value)


def test_keras_arrays_without_their_bytes(tmp_path):
    h5py = pytest.importorskip('h5py')
    path = tmp_path / 'w.h5'
    with h5py.File(path, 'w') as f:
        f.create_dataset('conv2d/kernel', (3, 3, 40_000, 12_000), 'f4', chunks=True)  # 17 GB of invented zeros
        f.create_dataset('conv2d/bias', (12_000,), 'f4')
    assert path.stat().st_size < 10_000
    assert 'its bytes are not in the file' in read_within(path)
    with h5py.File(path, 'w') as f:
        f.create_dataset('conv2d/kernel', data=np.zeros((3, 3, 3000, 3000), 'f4'), compression='gzip')
    assert 'its bytes are not in the file' in read_within(path)


def test_keras_fan_of_hard_links(tmp_path):
    h5py = pytest.importorskip('h5py')
    path = tmp_path / 'w.h5'
    with h5py.File(path, 'w') as f:
        group = f.create_group('g0')
        for level in range(1, 25):  # two names for each group: 2**24 ways down
            below = group.create_group('a')
            group['b'] = below
            group = below
        group['k'] = np.zeros((3, 3, 3, 8), 'f4')
    message = read_within(path)
    assert 'second name' in message or 'too many parts' in message
    with h5py.File(path, 'w') as f:
        f['a'] = np.zeros(10**6, 'f4')
        for i in range(5000):
            f[f'b{i}'] = f['a']  # 20 GB in 4 MB
    assert 'second name' in read_within(path)


@pytest.mark.parametrize('dtype', ['c8', 'i4', 'S5', '?'])
def test_keras_layers_of_other_types(tmp_path, dtype):
    h5py = pytest.importorskip('h5py')
    with h5py.File(tmp_path / 'w.h5', 'w') as f:
        f['conv2d/kernel'], f['conv2d/bias'] = np.zeros((3, 3, 3, 8), dtype), np.zeros(8, dtype)
        f['scalar'] = 3.0
    assert '0 convolutions' in read_within(tmp_path / 'w.h5')


def t7_tensor(n, sizes, strides, numbers=1000):
    "The bytes of a Torch7 tensor that claims what it is told to."
    head = struct.pack('<iii', 4, 1, 3) + b'V 1' + struct.pack('<i', 17) + b'torch.FloatTensor'
    storage = struct.pack('<iii', 4, 2, 3) + b'V 1' + struct.pack('<i', 18) + b'torch.FloatStorage'
    body = struct.pack(f'<i{len(sizes)}q{len(strides)}qq', n, *sizes, *strides, 1)
    return head + body + storage + struct.pack('<q', numbers) + bytes(4 * numbers)


@pytest.mark.parametrize(
    'n, sizes, strides, message',
    [
        (100_000, [2**62] * 100_000, [0] * 100_000, 'has 100000 dimensions'),
        (-1, [], [], 'has -1 dimensions'),
        (8, [2**62] * 8, [0] * 8, 'does not fit its storage'),
        (2, [1001, 1], [1, 1], 'does not fit its storage'),
        (2, [40, 40], [0, 0], 'does not fit its storage'),
        (2, [2, 2], [-1, 1], 'does not fit its storage'),
        (1, [2], [2**62], 'does not fit its storage'),
    ],
)
def test_torch7_tensors_that_claim_too_much(tmp_path, n, sizes, strides, message):
    path = tmp_path / 'w.t7'
    path.write_bytes(t7_tensor(n, sizes, strides))
    assert message in read_within(path, 2)


def test_torch7_tables_and_storages_that_claim_too_much(tmp_path):
    path = tmp_path / 'w.t7'
    path.write_bytes(struct.pack('<iii', 3, 1, 2**31 - 1) + bytes(2_000_000))
    assert '200,000 objects' in read_within(path, 5)
    path.write_bytes(t7_tensor(1, [1], [1])[:-4000].replace(struct.pack('<q', 1000), struct.pack('<q', 2**60)))
    assert 'ends too early' in read_within(path, 2)
    path.write_bytes(struct.pack('<iii', 3, 1, 1) * 5000)
    read_within(path, 2)


def legacy(state):
    "A file of PyTorch's old format."
    data = io.BytesIO()
    torch.save(state, data, _use_new_zipfile_serialization=False)
    return data.getvalue()


def test_pytorch_files_that_claim_too_much(slim, tmp_path):
    path = tmp_path / 'w.pth'
    path.write_bytes(legacy(slim.state_dict()))
    assert same(read_weights(path), slim.state_dict())
    path.write_bytes(
        legacy({'a': torch.zeros(77_777)})[:2000].replace(struct.pack('<i', 77_777), struct.pack('<i', 2**31 - 1))
    )
    read_within(path, 2)
    torch.save({'a': torch.zeros(1).expand(10**9)}, path)
    assert path.stat().st_size < 10_000
    read_within(path, 2)
    torch.save({'a': torch.zeros(5_000_000)}, tmp_path / 'plain.pth')
    with zipfile.ZipFile(tmp_path / 'plain.pth') as a, zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as b:
        for part in a.infolist():
            b.writestr(part.filename, a.read(part))
    read_within(path, 2)


@pytest.mark.parametrize(
    'change, message',
    [
        ({3: torch.zeros(2)}, 'which is no text'),
        ({'features.0.weight': torch.tensor(1.0)}, r"'0.weight' has shape \(\)"),
        ({'features.28.bias': torch.tensor(1.0)}, r"'28.bias' has shape \(\)"),
        ({'features.0.bias': torch.zeros(8, dtype=torch.complex64)}, 'complex numbers'),
        ({'mean': torch.zeros(3, dtype=torch.complex64), 'std': torch.ones(3)}, 'complex numbers'),
        ({'features.0.bias': torch.full((8,), float('nan'))}, 'NaN or infinite'),
        ({'features.0.bias': torch.zeros(8).to_sparse()}, 'no plain tensor|holds more than tensors'),
    ],
)
def test_state_dicts_that_are_none(slim, tmp_path, change, message):
    state = {f'features.{k}': v for k, v in slim.state_dict().items()} | change
    torch.save(state, tmp_path / 'w.pth')
    for source in (state, tmp_path / 'w.pth'):
        with pytest.raises(ValueError, match=message):
            vgg16_trunk(0.125, weights=source)
        with pytest.raises(ValueError, match=message):
            build_gfacnn(3, source, width=0.125, pool=1)


def test_unused_tensors_may_have_any_shape(slim):
    state = dict(slim.state_dict(), **{'fc8.weight': torch.tensor(1.0), 'mean': torch.tensor(2.0), '.': torch.zeros(1)})
    assert same(vgg16_trunk(0.125, state).state_dict(), slim.state_dict())


def test_layers_converted_from_torch7_that_lack_one(tmp_path):
    path = tmp_path / 'w.pth'
    torch.save({'32.1.weight': torch.zeros(3, 3)}, path)
    assert 'layer 32.1 has no weight and bias' in read_within(path)


@pytest.mark.skipif(sys.platform == 'win32', reason='POSIX pipes')
def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / 'w.pth')
    assert 'no regular file' in read_within(tmp_path / 'w.pth')


@pytest.mark.parametrize(
    'kwargs, message', [(dict(width=0), 'width must be above 0'), (dict(width=1e9), 'width must be')]
)
def test_settings_of_a_network(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build_gfacnn(3, **kwargs)
    with pytest.raises(ValueError, match='n_subjects is 0'):
        build_gfacnn(0, width=0.125)
    with pytest.raises(ValueError, match='dropout is 1'):
        build_gfacnn(3, width=0.125, dropout=1)


# -- weights by name


def test_imagenet_needs_width_1():
    with pytest.raises(ValueError, match='fit width 1 only, got width=0.25'):
        vgg16_trunk(0.25, weights='imagenet')


def test_imagenet_offline(monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError('no route to host')

    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', offline)
    with pytest.raises(ConnectionError) as e:
        vgg16_trunk(weights='imagenet')
    for part in ('download.pytorch.org', 'no route to host', "weights='vgg16-", 'weights=None'):
        assert part in str(e.value)


def test_imagenet_is_checked_and_not_unpickled(monkeypatch, published):
    seen = {}

    def download(url, **kwargs):
        seen.update(kwargs)
        return published.state_dict()

    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', download)
    assert same(vgg16_trunk(weights='imagenet').state_dict(), published.features.state_dict())
    assert seen['weights_only'] and seen['check_hash']


def test_small(monkeypatch, slim, tmp_path):
    monkeypatch.setattr(vgg, 'files', lambda package: tmp_path)
    with pytest.raises(FileNotFoundError) as e:
        vgg16_trunk(0.125, weights='small')
    for part in ('small_trunk.safetensors', 'weights=None'):
        assert part in str(e.value)
    (tmp_path / 'weights').mkdir()
    save_file(slim.state_dict(), tmp_path / 'weights' / 'small_trunk.safetensors')
    assert same(vgg16_trunk(0.125, weights='small').state_dict(), slim.state_dict())
    with pytest.raises(ValueError, match='small: .*width=0.125'):
        vgg16_trunk(0.25, weights='small')


def test_vggface_scale():
    x = torch.rand(5, 3)
    published = 255 * x - torch.tensor([129.186, 104.762, 93.594])
    torch.testing.assert_close(
        (x - torch.tensor(VGGFACE_MEAN)) / torch.tensor(VGGFACE_STD), published, atol=1e-3, rtol=1e-4
    )
