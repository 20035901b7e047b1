"Linear probes on pretrained networks: their own features, weights in caches, files that say what they need."

import json
import numpy as np
import pytest
import torch
from gfa_fastai.compare import detectors, pretrained
from gfa_fastai.compare.pretrained import PRETRAINED, SIDE, FrozenNetwork, Source, network_features, pretrained_network
from gfa_fastai.inputs.frames import extract_frames
from gfa_fastai.inputs.images import write_png
from gfa_fastai.inputs.models import read_tensors
from gfa_fastai.run.cli import gfa_score, gfa_train
from test_detectors import photos  # noqa: F401
from torchvision import models

SMALL = Source('torchvision', 'resnet18', 'IMAGENET1K_V1')


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "Empty folders in place of those where the libraries keep weights, and no network."
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))

    def offline(*args, **kwargs):
        raise OSError('Name or service not known')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', offline)
    pretrained._open_network.cache_clear()
    yield tmp_path / 'hub' / 'checkpoints'
    pretrained._open_network.cache_clear()


def put_weights(hub, seed):
    "Random weights where torchvision looks for those of a small ResNet."
    torch.manual_seed(seed)
    hub.mkdir(parents=True, exist_ok=True)
    name = models.get_model_weights(SMALL.network)[SMALL.weights].url.rpartition('/')[2]
    torch.save(models.get_model(SMALL.network).state_dict(), hub / name)
    pretrained._open_network.cache_clear()


def picture(seed, side=SIDE):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize('method', PRETRAINED)
def test_features_are_those_that_the_librarys_own_layers_give(method):
    source = PRETRAINED[method]
    if source.library == 'timm':
        pytest.importorskip('timm')
    torch.manual_seed(0)
    network = FrozenNetwork(source)
    found = network_features(picture(0, 300), network)
    x = torch.from_numpy(pretrained.resize_square(picture(0, 300), SIDE)).permute(2, 0, 1)[None] / 255
    x = (x - network.mean) / network.std
    inner = network.network
    with torch.inference_mode():
        if source.library == 'timm':
            expected = inner.forward_features(x)[:, 0]
        elif method == 'imagenet':
            layers = [m for name, m in inner.named_children() if name not in ('avgpool', 'fc')]
            expected = torch.nn.Sequential(*layers)(x).mean((2, 3))
        else:
            tokens = torch.cat([inner.class_token, inner._process_input(x)], 1)
            expected = inner.encoder(tokens)[:, 0]
    assert found.shape == dict(imagenet=(2048,), imagenet_vit=(768,), dinov2=(384,), clip=(768,))[method]
    np.testing.assert_allclose(found, expected[0].double(), atol=1e-4)


def test_timms_weights_are_taken_from_a_file(tmp_path, monkeypatch):
    "A file of published form, whose positions are for 518 pixels, serves pictures of 224."
    timm = pytest.importorskip('timm')
    from safetensors.torch import save_file

    torch.manual_seed(1)
    published = timm.create_model('vit_small_patch14_dinov2', num_classes=0)
    save_file(published.state_dict(), tmp_path / 'model.safetensors')
    monkeypatch.setattr(pretrained, 'weights_file', lambda source: tmp_path / 'model.safetensors')
    pretrained._open_network.cache_clear()
    network = pretrained_network('dinov2', fetch=False)
    pretrained._open_network.cache_clear()
    for name in ('blocks.3.mlp.fc1.weight', 'norm.weight', 'cls_token'):
        assert torch.equal(network.network.state_dict()[name], published.state_dict()[name])
    assert network_features(picture(0), network).shape == (384,)


@pytest.mark.parametrize('method', ['imagenet', 'dinov2'])
def test_without_weights_the_error_says_what_is_missing_and_where_it_is(hub, method, monkeypatch, tmp_path, capsys):
    if PRETRAINED[method].library == 'timm':
        hf = pytest.importorskip('huggingface_hub')
        pytest.importorskip('timm')
        monkeypatch.setattr(hf, 'try_to_load_from_cache', lambda *a: None)

        def offline(*args):
            raise OSError('Name or service not known')

        monkeypatch.setattr(hf, 'hf_hub_download', offline)
    with pytest.raises(
        FileNotFoundError, match=rf"{method}: the weights .* published at https.*fetch_weights\('{method}'\)"
    ):
        pretrained_network(method, fetch=False)
    (tmp_path / 'photos' / 'live').mkdir(parents=True)
    assert gfa_train([str(tmp_path / 'photos'), '--out', str(tmp_path / 'run'), '--method', method]) == 2
    said = capsys.readouterr().err
    assert 'published at https' in said and 'cannot be reached (Name or service' in said
    assert not (tmp_path / 'run').exists()


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(pretrained, 'import_module', lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(ValueError, match=r'pip install "gfa_fastai\[pretrained\]"'):
        pretrained_network('clip')


def test_a_detector_of_the_command_needs_its_weights(photos, hub, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setitem(PRETRAINED, 'imagenet', SMALL)
    put_weights(hub, 0)
    given = [photos, '--out', tmp_path / 'run', '--method', 'imagenet', '--folds', '2', '--test-subjects', 'p4,p5']
    assert gfa_train([str(o) for o in given]) == 0
    assert 'imagenet' in capsys.readouterr().out
    path = tmp_path / 'run' / 'model.safetensors'
    header, tensors = read_tensors(path)
    needs = header['config']['needs']
    assert needs['network'] == 'resnet18' and len(needs['sha256']) == 64
    assert path.stat().st_size < 100_000 and all(name.startswith('0.') for name in tensors)
    score = ['gfa', str(path), str(photos), '--out', str(tmp_path / 's.csv')][1:]
    assert gfa_score(score) == 0
    put_weights(hub, 1)
    assert gfa_score(score) == 2
    assert 'other weights than the IMAGENET1K_V1 of resnet18' in capsys.readouterr().err
    for file in hub.iterdir():
        file.unlink()
    assert gfa_score(score) == 2
    assert "fetch_weights('imagenet')" in capsys.readouterr().err


def test_a_file_cannot_name_a_network(photos, hub, tmp_path, monkeypatch):  # noqa: F811
    "Whatever a file says of its network, the one that is opened is in our list."
    from gfa_fastai.inputs.models import write_tensors
    from gfa_fastai.run.reproduce import read_data

    monkeypatch.setitem(PRETRAINED, 'imagenet', SMALL)
    put_weights(hub, 0)
    frames = extract_frames(read_data(photos, draw=False), tmp_path / 'c', SIDE, progress=False).assign(split='train')
    made = detectors.train_detector(frames, 'imagenet', folds=2, progress=False)
    header, tensors = read_tensors(detectors.save_detector(made, tmp_path / 'd.safetensors'))
    for needs in (None, {}, dict(header['config']['needs'], network='resnet50'), 'https://example.org/net.pth'):
        config = json.dumps(header['config'] | dict(needs=needs))
        write_tensors(
            tmp_path / 'd.safetensors', dict(kind='detector', config=config, meta=json.dumps(header['meta'])), tensors
        )
        with pytest.raises(ValueError, match='other weights'):
            detectors.load_detector(tmp_path / 'd.safetensors')
