"The VGG16 trunk: equal to torchvision's, loadable from every naming, and clear about what does not fit."
import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from gfa_fastai import vgg
from gfa_fastai.vgg import (LAYER_NAMES, VGG16_BLOCKS, VGGFACE_MEAN, VGGFACE_STD, load_trunk, read_weights,
                            torchvision_names, vgg16_trunk)

CONVS = [n for n in LAYER_NAMES if n.startswith('conv')]


@pytest.fixture(scope='module')
def published():
    "torchvision's whole VGG16 with random weights and biases that are not zero."
    torch.manual_seed(0)
    return torchvision.models.vgg16(weights=None, init_weights=False).eval()

@pytest.fixture
def slim():
    torch.manual_seed(1)
    trunk = vgg16_trunk(.125)
    for p in trunk.parameters(): nn.init.normal_(p, 0, .1)
    return trunk

def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def test_equal_to_torchvision(published):
    trunk = load_trunk(vgg16_trunk(), published.state_dict())
    assert list(trunk.state_dict()) == list(published.features.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(): assert torch.equal(trunk(x), published.features(x))

def test_same_modules_at_same_indices(published):
    assert [type(l) for l in vgg16_trunk(.125)] == [type(l) for l in published.features]

def test_gradients_equal_torchvision(published):
    trunk = load_trunk(vgg16_trunk(), published.state_dict())
    x = torch.randn(1, 3, 32, 32)
    ours, theirs = (torch.autograd.grad(net(x).square().sum(), net[0].weight)[0] for net in (trunk, published.features))
    torch.testing.assert_close(ours, theirs)

def test_layer_names():
    assert len(LAYER_NAMES) == 31 and list(LAYER_NAMES.values()) == list(range(31))
    assert [LAYER_NAMES[n] for n in CONVS] == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    trunk = vgg16_trunk(.125)
    kinds = dict(conv=nn.Conv2d, relu=nn.ReLU, pool=nn.MaxPool2d)
    for name,i in LAYER_NAMES.items(): assert isinstance(trunk[i], kinds[name[:4]]), name
    assert LAYER_NAMES['relu3_3'] == 15 and LAYER_NAMES['pool5'] == 30

@pytest.mark.parametrize('width', [1/64, .1, .125, .25])
def test_width(width):
    trunk = vgg16_trunk(width)
    wanted = [max(1, round(c*width)) for convs in VGG16_BLOCKS for c in convs]
    assert [trunk[LAYER_NAMES[n]].out_channels for n in CONVS] == wanted
    assert trunk.out_channels == wanted[-1]
    assert trunk(torch.zeros(1, 3, 64, 96)).shape == (1, wanted[-1], 2, 3)

@pytest.mark.parametrize('width', [0, -1, float('nan')])
def test_width_must_be_positive(width):
    with pytest.raises(ValueError, match='width must be above 0'): vgg16_trunk(width)

def test_initialisation_is_torchvisions():
    torch.manual_seed(0)
    trunk = vgg16_trunk(.5)
    for n in CONVS[1:]:
        conv = trunk[LAYER_NAMES[n]]
        assert conv.weight.std().item() == pytest.approx((2/(9*conv.out_channels))**.5, rel=.05), n
        assert not conv.bias.any()

def test_same_seed_same_trunk():
    a, b = (torch.manual_seed(3) and vgg16_trunk(.125).state_dict() for _ in range(2))
    assert same(a, b)

def test_hooks_see_the_convolution():
    "A ReLU in place would have changed what the hook kept."
    trunk, kept = vgg16_trunk(.125), []
    trunk[2].register_forward_hook(lambda m, i, o: kept.append(o))
    trunk(torch.randn(1, 3, 32, 32))
    assert kept[0].min() < 0


# -- weights from files

@pytest.mark.parametrize('naming', ['bare', 'features.', 'trunk.', 'dag'])
@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', '.pt'])
def test_weights_from_file(slim, tmp_path, naming, suffix):
    by_index = {str(i): n for n,i in LAYER_NAMES.items()}
    def name(key):
        i, kind = key.split('.')
        return {'bare': key, 'dag': f'{by_index[i]}.{kind}'}.get(naming, naming+key)
    state = {name(k): v.clone() for k,v in slim.state_dict().items()}
    state['fc8.weight' if naming == 'dag' else 'classifier.6.weight'] = torch.zeros(3, 3)  # what is not of the trunk is ignored
    path = tmp_path/f'w{suffix}'
    (save_file if suffix == '.safetensors' else torch.save)(state, path)
    assert same(vgg16_trunk(.125, weights=path).state_dict(), slim.state_dict())
    assert same(vgg16_trunk(.125, weights=str(path)).state_dict(), slim.state_dict())

def test_names():
    assert list(torchvision_names({'conv3_3.bias': 1, 'fc6.weight': 2, 'classifier.6.bias': 3, 'mean': 4})) \
        == ['features.14.bias', 'classifier.0.weight', 'classifier.6.bias', 'mean']

def test_wrong_width_says_which(slim, tmp_path):
    path = tmp_path/'slim.safetensors'
    save_file(slim.state_dict(), path)
    with pytest.raises(ValueError) as e: vgg16_trunk(.25, weights=path)
    for part in (str(path), "'0.weight'", '(8, 3, 3, 3)', '(16, 3, 3, 3)', 'width=0.125'): assert part in str(e.value)

def test_missing_tensor_and_batch_norm(slim):
    state = slim.state_dict(); del state['17.bias']
    with pytest.raises(ValueError, match="no tensor '17.bias'"): load_trunk(vgg16_trunk(.125), state)
    bn = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs['D'], batch_norm=True).state_dict()
    with pytest.raises(ValueError, match='without batch norm'): load_trunk(vgg16_trunk(), bn)

def test_failed_load_changes_nothing(slim):
    target = vgg16_trunk(.125); before = {k: v.clone() for k,v in target.state_dict().items()}
    state = slim.state_dict(); state['28.bias'] = torch.zeros(5)
    with pytest.raises(ValueError, match="'28.bias'"): load_trunk(target, state)
    assert same(before, target.state_dict())

def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='check the path'): vgg16_trunk(.125, weights=tmp_path/'none.pth')

@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', '.pt'])
@pytest.mark.parametrize('content', [b'', b'not weights', bytes(200)])
def test_damaged_file(tmp_path, suffix, content):
    path = tmp_path/f'w{suffix}'; path.write_bytes(content)
    with pytest.raises(ValueError) as e: read_weights(path)
    assert str(path) in str(e.value)

@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_truncated_file(slim, tmp_path, suffix):
    path = tmp_path/f'w{suffix}'
    (save_file if suffix == '.safetensors' else torch.save)(slim.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-50_000])
    with pytest.raises(ValueError) as e: read_weights(path)
    assert str(path) in str(e.value)

class Bomb:
    def __reduce__(self): return Path.touch, (Path(self.path),)

def test_nothing_is_unpickled(slim, tmp_path):
    bomb = Bomb(); bomb.path = str(tmp_path/'exploded')
    path = tmp_path/'w.pt'; torch.save({**slim.state_dict(), 'x': bomb}, path)
    with pytest.raises(ValueError, match='holds more than tensors'): vgg16_trunk(.125, weights=path)
    assert not (tmp_path/'exploded').exists()

def test_checkpoint_and_unknown_suffix(slim, tmp_path):
    path = tmp_path/'w.pt'; torch.save({'model': slim.state_dict(), 'epoch': 3}, path)
    with pytest.raises(ValueError, match='no plain state dict'): read_weights(path)
    path = tmp_path/'w.h5'; path.write_bytes(b'x')
    with pytest.raises(ValueError, match="unknown kind '.h5'"): read_weights(path)


# -- weights by name

def test_imagenet_needs_width_1():
    with pytest.raises(ValueError, match='fit width 1 only, got width=0.25'): vgg16_trunk(.25, weights='imagenet')

def test_imagenet_offline(monkeypatch):
    def offline(*args, **kwargs): raise urllib.error.URLError('no route to host')
    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', offline)
    with pytest.raises(ConnectionError) as e: vgg16_trunk(weights='imagenet')
    for part in ('download.pytorch.org', 'no route to host', "weights='vgg16-", 'weights=None'): assert part in str(e.value)

def test_imagenet_is_checked_and_not_unpickled(monkeypatch, published):
    seen = {}
    def download(url, **kwargs): seen.update(kwargs); return published.state_dict()
    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', download)
    assert same(vgg16_trunk(weights='imagenet').state_dict(), published.features.state_dict())
    assert seen['weights_only'] and seen['check_hash']

def test_small(monkeypatch, slim, tmp_path):
    monkeypatch.setattr(vgg, 'files', lambda package: tmp_path)
    with pytest.raises(FileNotFoundError) as e: vgg16_trunk(.125, weights='small')
    for part in ('small_trunk.safetensors', 'weights=None'): assert part in str(e.value)
    (tmp_path/'weights').mkdir(); save_file(slim.state_dict(), tmp_path/'weights'/'small_trunk.safetensors')
    assert same(vgg16_trunk(.125, weights='small').state_dict(), slim.state_dict())
    with pytest.raises(ValueError, match='small: .*width=0.125'): vgg16_trunk(.25, weights='small')

def test_vggface_scale():
    x = torch.rand(5, 3)
    published = 255*x - torch.tensor([129.186, 104.762, 93.594])
    torch.testing.assert_close((x - torch.tensor(VGGFACE_MEAN))/torch.tensor(VGGFACE_STD), published, atol=1e-3, rtol=1e-4)
