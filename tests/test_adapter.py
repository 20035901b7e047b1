"The interface of all methods: any image in, a cache that can be trusted, files that say what is wrong with them."

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from gfa_fastai.adapt.adapter import Adapter, read_result, write_result
from gfa_fastai.adapt.by_name import METHODS, load_adapter, make_adapter
from gfa_fastai.adapt.fda import FDA
from gfa_fastai.adapt.light import LightFDA
from gfa_fastai.adapt.methods import ColourMatch, FourierSwap, Identity, Recompress
from gfa_fastai.inputs.files import PART

ROOT = Path(__file__).resolve().parents[1]


class Halve(Adapter):
    "Half as bright."

    def __init__(self, factor=0.5):
        super().__init__()
        self.factor, self.batches = factor, []

    def config(self):
        return dict(factor=self.factor)

    def apply(self, x):
        self.batches.append(len(x))
        return self.factor * x


def picture(path, size=(40, 32), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return str(path)


@pytest.fixture
def samples(tmp_path):
    "Twelve images of two people, of two sizes."
    rows = [
        dict(
            dataset='d',
            split='test',
            subject=f's{i % 2}',
            label=('live', 'attack')[i // 2 % 2],
            pai='print' if i // 2 % 2 else '',
            video=f'v{i}',
            path=picture(tmp_path / 'in' / f'{i}.png', ((40, 32), (64, 48))[i % 3 == 0], i),
        )
        for i in range(12)
    ]
    return pd.DataFrame(rows)


def test_every_kind_of_file(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (33, 41, 3), dtype=np.uint8)
    im, kinds = Image.fromarray(rgb), {}
    for mode, name in (
        ('L', 'grey.png'),
        ('RGBA', 'alpha.png'),
        ('P', 'palette.png'),
        ('CMYK', 'cmyk.jpg'),
        ('1', 'bits.png'),
    ):
        im.convert(mode).save(tmp_path / name)
        kinds[name] = mode
    cv2.imwrite(str(tmp_path / 'sixteen.png'), (rgb[..., 0].astype(np.uint16) * 257))
    kinds['sixteen.png'] = 'I;16'
    out = Halve().transform([tmp_path / n for n in kinds])
    assert [o.shape for o in out] == [(33, 41, 3)] * len(kinds) and all(o.dtype == np.uint8 for o in out)
    np.testing.assert_allclose(out[list(kinds).index('grey.png')][..., 0], np.asarray(im.convert('L')) / 2, atol=0.51)
    np.testing.assert_allclose(out[-1][..., 0], rgb[..., 0] / 2, atol=0.51)


def test_batches_by_size_and_order(samples):
    h = Halve()
    out = h.transform(samples['path'].tolist(), bs=3)
    assert sorted(h.batches, reverse=True) == [3, 3, 3, 2, 1] or sum(h.batches) == 12
    for o, p in zip(out, samples['path']):
        np.testing.assert_allclose(o, np.asarray(Image.open(p)) / 2, atol=0.51)


@pytest.mark.parametrize('codec', ['png', 'jpeg'])
def test_table(samples, tmp_path, codec):
    table = Halve().transform(samples, tmp_path / 'cache', codec=codec, progress=False)
    assert (table['source_path'] == samples['path']).all() and table['path'].str.endswith(
        dict(png='.png', jpeg='.jpg')[codec]
    ).all()
    assert table.attrs['adapted'] == dict(method='Halve', factor=0.5) and table.attrs['skipped'] == []
    for new, old in zip(table['path'], table['source_path']):
        assert abs(np.asarray(Image.open(new)).astype(float) - np.asarray(Image.open(old)) / 2).mean() < (
            1 if codec == 'png' else 25
        )
    assert not list((tmp_path / 'cache').rglob(f'{PART}*'))


def test_frames_are_transferred_and_faces_are_not(samples, tmp_path):
    df = samples.assign(frame_path=samples['path'], face_path=samples['path'])
    table = Halve().transform(df, tmp_path / 'cache', progress=False)
    assert (
        (table['path'] == df['path']).all()
        and (table['face_path'] == df['face_path']).all()
        and (table['frame_path'] != df['frame_path']).all()
    )


def test_nothing_is_made_twice(samples, tmp_path):
    h = Halve()
    h.transform(samples, tmp_path / 'cache', progress=False)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / 'cache').rglob('*.png')}
    again = Halve()
    again.transform(samples, tmp_path / 'cache', progress=False)
    assert again.batches == [] and files == {p: p.stat().st_mtime_ns for p in (tmp_path / 'cache').rglob('*.png')}


def test_what_the_key_depends_on(samples, tmp_path):
    def names(h, **kw):
        return set(h.transform(samples, tmp_path / 'cache', progress=False, **kw)['path'])

    first = names(Halve())
    assert not first & names(Halve(0.4)) and not first & names(Halve(), codec='jpeg')
    assert not names(Halve(), codec='jpeg', quality=90) & names(Halve(), codec='jpeg', quality=75)
    moved = samples.assign(path=[str(Path(p).rename(Path(p).with_name('x' + Path(p).name))) for p in samples['path']])
    assert (
        set(Halve().transform(moved, tmp_path / 'cache', progress=False)['path']) == first
    )  # moved files are the same files
    picture(Path(moved['path'].iloc[0]), seed=99)
    assert len(set(Halve().transform(moved, tmp_path / 'cache', progress=False)['path']) - first) == 1


@pytest.mark.parametrize('name', ['r.png', 'r.jpg'])
@pytest.mark.parametrize('damage', ['cut', 'bytes', 'empty', 'text', 'other'])
def test_damaged_results_are_noticed(tmp_path, name, damage):
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / name
    write_result(path, image, key='k')
    assert read_result(path)[1]['key'] == 'k'
    whole = path.read_bytes()
    if damage == 'other':
        Image.fromarray(image).save(path)
    else:
        path.write_bytes(
            dict(
                cut=whole[:-100],
                bytes=whole[: len(whole) // 2] + b'\0\1\2\3' + whole[len(whole) // 2 + 4 :],
                empty=b'',
                text=b'hello',
            )[damage]
        )
    assert read_result(path) is None


def test_unusable_images_are_skipped_and_listed(samples, tmp_path):
    paths = samples['path'].tolist()
    Path(paths[3]).write_bytes(Path(paths[3]).read_bytes()[:200])  # truncated
    Path(paths[4]).unlink()
    Image.new('RGB', (8, 8)).save(paths[5])
    table = Halve().transform(samples, tmp_path / 'cache', max_bad=0.5, progress=False)
    assert len(table) == 9 and dict(table.attrs['skipped']).keys() == set(paths[3:6])
    said = dict(table.attrs['skipped'])
    assert (
        'not a readable image' in said[paths[3]]
        and 'does not exist' in said[paths[4]]
        and 'only 8x8 pixels' in said[paths[5]]
    )
    with pytest.raises(ValueError, match=r'3 of 12 images cannot be used, 25.0% .*max_bad'):
        Halve().transform(samples, tmp_path / 'cache', progress=False)


def test_bad_arguments(samples, tmp_path):
    with pytest.raises(ValueError, match='needs cache'):
        Halve().transform(samples)
    with pytest.raises(ValueError, match="codec 'gif' is not known, choose one of png, jpeg"):
        Halve().transform(samples, tmp_path / 'c', codec='gif')
    with pytest.raises(ValueError, match='quality is 0; it is a whole number, from 1 to 100'):
        Halve().transform(samples, tmp_path / 'c', codec='jpeg', quality=0)
    with pytest.raises(ValueError, match='bs is 0'):
        Halve().transform(samples['path'].tolist(), bs=0)
    with pytest.raises(ValueError, match='pass a list of files'):
        Halve().transform(str(tmp_path))
    with pytest.raises(ValueError, match='no images'):
        Halve().transform([])
    with pytest.raises(ValueError, match='an array of float64'):
        Halve().transform([np.zeros((9, 9))])
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='cannot write to the folder'):
        Halve().transform(samples, tmp_path / 'file')


@pytest.mark.parametrize('codec', ['png', 'jpeg'])
def test_full_disk(samples, tmp_path, monkeypatch, codec):
    "Says so, leaves no half file, and goes on when there is room."

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as m:
        m.setattr(Path, 'write_bytes', full)
        with pytest.raises(OSError, match='no space left on the disk.*Free some'):
            Halve().transform(samples, tmp_path / 'cache', codec=codec, progress=False)
    assert not [p for p in (tmp_path / 'cache').rglob('*') if p.is_file()]
    assert len(Halve().transform(samples, tmp_path / 'cache', codec=codec, progress=False)) == 12


CODE = '''
import sys, time, pandas as pd
from gfa_fastai.adapt.adapter import Adapter
class Slow(Adapter):
    def apply(self, x): time.sleep(.15); return .5*x
Slow().transform(pd.read_csv(sys.argv[1], keep_default_na=False), sys.argv[2], bs=1, progress=False)
'''


@pytest.mark.skipif(os.name == 'nt', reason='POSIX signals')
def test_killed_and_started_again(samples, tmp_path):
    samples.to_csv(tmp_path / 's.csv', index=False)

    def start(cache):
        return subprocess.Popen(
            [sys.executable, '-c', CODE, str(tmp_path / 's.csv'), str(cache)],
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
        )

    p, end = start(tmp_path / 'a'), time.time() + 120
    while time.time() < end and p.poll() is None and len(list((tmp_path / 'a').rglob('*.png'))) < 3:
        time.sleep(0.02)
    p.send_signal(signal.SIGKILL)
    p.wait()
    kept = {f: f.stat().st_mtime_ns for f in (tmp_path / 'a').rglob('*.png') if read_result(f)}
    assert 3 <= len(kept) < 12
    assert start(tmp_path / 'a').wait(120) == 0
    done = {f.name: f.read_bytes() for f in (tmp_path / 'a').rglob('*.png')}
    assert len(done) == 12 and all(f.stat().st_mtime_ns == t for f, t in kept.items())
    assert start(tmp_path / 'b').wait(120) == 0
    assert done == {f.name: f.read_bytes() for f in (tmp_path / 'b').rglob('*.png')}


# -- files


def test_save_and_load(tmp_path):
    path = Halve(0.3).save(tmp_path / 'sub' / 'h.safetensors')
    assert Halve.load(path).factor == 0.3 and [p.name for p in path.parent.iterdir()] == ['h.safetensors']
    header = dict(adapt_format='1', method='Halve', config='{"factor": 0.3}')
    for change, words in (
        (dict(adapt_format='7'), 'adaptation format 7, this release reads 1'),
        (dict(method='Nobody'), "holds the method 'Nobody', not one of Halve"),
        (dict(config='{"speed": 1}'), 'tensors and configuration do not fit'),
        (dict(config='{'), 'tensors and configuration do not fit'),
        (dict(config='[1]'), 'its configuration is no dictionary'),
        (dict(config='[' * 100_000), 'tensors and configuration do not fit'),
    ):
        save_file({'none': torch.zeros(1)}, tmp_path / 'x.safetensors', metadata=header | change)
        with pytest.raises(ValueError, match=words):
            Halve.load(tmp_path / 'x.safetensors')
    for data in (path.read_bytes()[:-2], b'', b'x' * 7, b'\xff' * 300):
        (tmp_path / 'y.safetensors').write_bytes(data)
        with pytest.raises(ValueError, match='y.safetensors is not a whole safetensors file'):
            Halve.load(tmp_path / 'y.safetensors')
    with pytest.raises(FileNotFoundError, match='no saved adaptation'):
        Halve.load(tmp_path / 'z.safetensors')
    with pytest.raises(ValueError, match='is a folder, and one file is needed'):
        Halve.load(tmp_path)


def test_a_flipped_bit_is_noticed(tmp_path):
    "In a tensor, where all values stay finite; a file of version 1, without a digest, is read."
    image = np.full((32, 32, 3), 90, np.uint8)
    path = make_adapter('fourier', image).save(tmp_path / 'a.safetensors')
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match='a.safetensors was damaged after it was written'):
        load_adapter(path)
    made = make_adapter('fourier', image).save(path)
    with safe_open(path, framework='pt') as f:
        header, state = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
    del header['sha256']
    save_file(state, made, metadata=header)
    assert load_adapter(made).fingerprint() == make_adapter('fourier', image).fingerprint()


@pytest.mark.skipif(os.name == 'nt', reason='POSIX pipes')
def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / 'p.safetensors')
    with pytest.raises(ValueError, match='no regular file'):
        load_adapter(tmp_path / 'p.safetensors')


def saved(adapter, path, tensors=None, **config):
    "The file of an adapter with other settings or tensors."
    adapter.save(path)
    with safe_open(path, framework='pt') as f:
        header, state = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
    del header['sha256']
    header['config'] = json.dumps(json.loads(header['config']) | config)
    save_file(state | (tensors or {}), path, metadata=header)
    return path


IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def every_method():
    "One of each, fitted as far as it has to be."
    return dict(
        Identity=Identity(),
        Recompress=Recompress(),
        ColourMatch=ColourMatch(IMAGE),
        FourierSwap=FourierSwap(IMAGE),
        FDA=FDA(IMAGE, width=0.125, size=16, info=dict(steps=1)),
        LightFDA=LightFDA(IMAGE, size=16, info=dict(steps=1)),
    )


@pytest.mark.parametrize('method', METHODS)
def test_a_file_chooses_nothing(method, tmp_path, monkeypatch):
    "A target or weights that a header names are never opened: state comes from the file's own numbers."
    adapter = every_method()[method]
    bait = tmp_path / 'bait.png'
    Image.fromarray(IMAGE).save(bait)
    loss_network = dict(loss_network=dict(weights=str(bait))) if method in ('FDA', 'LightFDA') else {}
    path = saved(adapter, tmp_path / 'm.safetensors', target=str(bait), **loss_network)
    bait.unlink()  # whoever opens it says that it is not there
    if method == 'ColourMatch':
        with pytest.raises(ValueError, match='tensors and configuration do not fit') as e:
            load_adapter(path)
        assert 'bait' not in str(e.value)
        return
    made = load_adapter(path)
    assert made.fingerprint() and len(made.run([IMAGE])) == 1
    if loss_network:
        with pytest.raises(ValueError, match='is named by the file that this FDA was loaded from'):
            made.fit([IMAGE], steps=1, progress=False)


BAD = [
    ('ColourMatch', {}, dict(target=[[0, 0, 0]])),
    ('ColourMatch', {}, dict(target=[[0, 0, 0], [1, 1, float('nan')]])),
    ('ColourMatch', {}, dict(target=None)),
    ('ColourMatch', {}, dict(space='hsv')),
    ('FourierSwap', dict(target=torch.zeros(3)), {}),
    ('FourierSwap', dict(target=torch.full((1, 3, 4, 4), float('nan'))), {}),
    ('FourierSwap', dict(target=torch.zeros(1, 3, 4, 4, dtype=torch.int32)), {}),
    ('FourierSwap', {}, dict(beta='much')),
    ('Recompress', {}, dict(quality=1000)),
    ('FDA', {'net.layers.0.weight': torch.zeros(1)}, {}),
    ('FDA', {'net.layers.0.bias': torch.full((4,), float('inf'))}, {}),
    ('FDA', dict(target=torch.zeros(4, 4, 3)), {}),
    ('FDA', {}, dict(width=1e9)),
    ('FDA', {}, dict(size='a')),
    ('FDA', {}, dict(weights=[1, 2])),
    ('FDA', {}, dict(info=7)),
    ('LightFDA', {'net.last.weight': torch.zeros(48, 32, 1, 1, dtype=torch.complex64)}, {}),
    ('Identity', {}, dict(colour='red')),
]


@pytest.mark.parametrize('method,tensors,config', BAD)
def test_malformed_files(method, tensors, config, tmp_path):
    path = saved(every_method()[method], tmp_path / 'm.safetensors', tensors, **config)
    with pytest.raises(ValueError, match='m.safetensors: tensors and configuration do not fit'):
        load_adapter(path)


def test_a_file_that_lacks_a_tensor(tmp_path):
    for adapter in (FourierSwap(IMAGE), FDA(IMAGE, width=0.125, size=16)):
        path = adapter.save(tmp_path / 'm.safetensors')
        with safe_open(path, framework='pt') as f:
            header = f.metadata()
        del header['sha256']
        save_file({'none': torch.zeros(1)}, path, metadata=header)
        with pytest.raises(ValueError, match='tensors and configuration do not fit'):
            load_adapter(path)
