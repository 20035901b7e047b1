"Reading images strictly, finding and cropping faces, and the cache, which survives kills and damage."
import io
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gfa_fastai import frames as frames_module
from gfa_fastai.datasets import read_folder
from gfa_fastai.frames import MIN_SIDE, crop_face, detect_face, extract_frames, frames_summary, read_image
from gfa_fastai.samples import split_by_subject

PHOTOS = Path(__file__).resolve().parents[2]/'shared/data/nuaa_small'


@pytest.fixture
def picture():
    "A smooth random picture: JPEG keeps it nearly as it is."
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8), (0, 0), 3)

def table(*paths, **columns):
    return pd.DataFrame([dict(dataset='d', split='train', subject=f's{i}', label='live', video=f'v{i}', path=str(p)) for i,p in enumerate(paths)]).assign(**columns)

def many(folder, picture, n, size=None):
    "`n` good images, all different."
    folder.mkdir(exist_ok=True)
    for i in range(n): Image.fromarray(np.roll(picture, i, 1)).resize(size or picture.shape[1::-1]).save(folder/f'{i:03d}.png')
    return sorted(folder.iterdir())

def extract(samples, cache, size=32, **kw): return extract_frames(samples, cache, size=size, progress=False, **kw)

# --- reading

def test_modes(tmp_path, picture):
    grey = picture[..., 0]
    three = np.repeat(grey[..., None], 3, 2)
    rgba = np.dstack([picture, np.full(grey.shape, 7, np.uint8)])
    deep = grey.astype(np.uint16)*257
    cases = dict(rgb=(Image.fromarray(picture), picture), grey=(Image.fromarray(grey), three), rgba=(Image.fromarray(rgba), picture), la=(Image.fromarray(grey).convert('LA'), three),
                 black_and_white=(Image.fromarray(grey).convert('1'), np.repeat(np.asarray(Image.fromarray(grey).convert('1'))[..., None]*np.uint8(255), 3, 2)), deep=(Image.fromarray(deep), three))
    for name,(im,want) in cases.items():
        im.save(tmp_path/f'{name}.png')
        got = read_image(tmp_path/f'{name}.png')
        assert got.dtype == np.uint8 and np.array_equal(got, want), name
    assert Image.open(tmp_path/'deep.png').mode.startswith('I')
    cv2.imwrite(str(tmp_path/'deep_rgb.png'), picture[..., ::-1].astype(np.uint16)*257)
    assert np.array_equal(read_image(tmp_path/'deep_rgb.png'), picture)

@pytest.mark.parametrize('mode,ext', [('P', 'png'), ('P', 'bmp'), ('CMYK', 'jpg'), ('CMYK', 'tif'), ('YCbCr', 'jpg'), ('L', 'jpg'), ('RGB', 'webp')])
def test_modes_nearly(tmp_path, picture, mode, ext):
    Image.fromarray(picture).convert(mode).save(tmp_path/f'x.{ext}')
    want = np.asarray(Image.fromarray(picture).convert(mode).convert('RGB'))
    got = read_image(tmp_path/f'x.{ext}')
    assert got.shape == picture.shape and np.abs(got.astype(int)-want).mean() < (0 if mode == 'P' or ext == 'tif' else 3) + 1e-9

@pytest.mark.parametrize('tag,turn', [(1, lambda x: x), (2, lambda x: x[:, ::-1]), (3, lambda x: x[::-1, ::-1]), (4, lambda x: x[::-1]), (5, lambda x: x.transpose(1, 0, 2)),
                                      (6, lambda x: np.rot90(x, -1)), (7, lambda x: x[::-1, ::-1].transpose(1, 0, 2)), (8, lambda x: np.rot90(x))])
def test_rotation_tag(tmp_path, picture, tag, turn):
    exif = Image.Exif(); exif[0x0112] = tag
    Image.fromarray(picture).save(tmp_path/'x.png', exif=exif)
    assert np.array_equal(read_image(tmp_path/'x.png'), turn(picture))

def bad_files(folder, picture):
    "Every kind of bad file, and what is said about it."
    Image.fromarray(picture).save(folder/'whole.jpg'); data = (folder/'whole.jpg').read_bytes(); (folder/'whole.jpg').unlink()
    (folder/'half.jpg').write_bytes(data[:len(data)//2]); (folder/'empty.jpg').touch(); (folder/'letter.jpg').write_text('Dear Sir')
    Image.fromarray(picture[:1, :1]).save(folder/'dot.png'); Image.fromarray(picture[:MIN_SIDE-1]).save(folder/'strip.png')
    Image.fromarray(picture[..., 0].astype(np.float32)).save(folder/'float.tif')
    Image.fromarray(picture[..., 0].astype(np.int32)*70_000).save(folder/'wide.tif')
    (folder/'folder.jpg').mkdir()
    return {'half.jpg': 'not a readable image.*[Tt]runcated', 'empty.jpg': r'the file is empty \(0 bytes\)', 'letter.jpg': r"not a readable image \(8 bytes\): cannot identify image file 'letter.jpg'",
            'dot.png': 'only 1x1 pixels; at least 16', 'strip.png': 'only 64x15 pixels', 'float.tif': 'floats of unknown range', 'wide.tif': 'more than 16 bits',
            'folder.jpg': 'directory', 'gone.jpg': 'the file does not exist'}

def test_bad_files(tmp_path, picture):
    for name,message in bad_files(tmp_path, picture).items():
        with pytest.raises(ValueError, match=message): read_image(tmp_path/name)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('ext', ['jpg', 'png', 'webp', 'tif', 'bmp'])
def test_damaged_files_raise_nothing_else(tmp_path, picture, ext):
    rng = np.random.default_rng(1)
    Image.fromarray(picture).save(tmp_path/f'x.{ext}')
    data = (tmp_path/f'x.{ext}').read_bytes()
    for _ in range(60):
        b = bytearray(data)
        for i in (rng.integers(len(b)), rng.integers(min(len(b), 200))): b[i] = rng.integers(256)
        (tmp_path/'y').write_bytes(b[:rng.integers(len(b))] if rng.uniform() < .3 else b)
        try: assert read_image(tmp_path/'y').ndim == 3
        except ValueError as e: assert str(e)

# --- faces and crops

def brute_crop(image, box, margin):
    "The square around a box, pixel by pixel, with the border's pixels outside."
    x, y, w, h = box
    side = round((1+margin)*max(w, h)); left, top = round(x+w/2-side/2), round(y+h/2-side/2)
    H, W = image.shape[:2]
    return np.array([[image[min(max(r, 0), H-1), min(max(c, 0), W-1)] for c in range(left, left+side)] for r in range(top, top+side)])

@pytest.mark.parametrize('box,margin', [((20, 10, 20, 20), 0), ((20, 10, 20, 16), .3), ((-5, -8, 20, 20), .3), ((55, 40, 20, 12), .5), ((0, 0, 64, 48), 1.), ((10.3, 7.9, 11.5, 13.2), .3)])
def test_crop_against_brute_force(picture, box, margin):
    want = brute_crop(picture, box, margin)
    assert np.array_equal(crop_face(picture, box, len(want), margin), want)

def test_resize_averages(picture):
    "Halving is the mean of 2x2 pixels; a side is never enlarged by skipping pixels of the other."
    half = frames_module._resize(picture[:, :48], 24)
    mean = picture[:, :48].reshape(24, 2, 24, 2, 3).mean((1, 3))
    assert np.abs(half-mean).max() <= .5
    stripes = np.zeros((20, 640, 3), np.uint8); stripes[:, ::2] = 255        # finer than the result can show: grey, not stripes
    assert np.abs(frames_module._resize(stripes, 64).astype(int)-127).max() <= 1

def test_no_face_in_noise_and_fallback_is_the_central_square(tmp_path, picture):
    flat = np.full((60, 100, 3), 128, np.uint8); flat[:, 20:80] = 90
    assert detect_face(flat) is None
    Image.fromarray(flat).save(tmp_path/'flat.png')
    f = extract(table(tmp_path/'flat.png'), tmp_path/'c', size=60)
    assert f.face[0] == 'fallback' and np.array_equal(read_image(f.face_path[0]), flat[:, 20:80])
    assert f.attrs['counts'] == dict(images=1, skipped=0, box=0, detected=0, fallback=1)
    assert 'not found in 1 (live 1; the central square was taken); 0 unusable' in frames_summary(f)

def test_box_is_about_the_upright_image(tmp_path, picture):
    exif = Image.Exif(); exif[0x0112] = 6                                  # stored 64x48, upright 48x64
    Image.fromarray(picture).save(tmp_path/'x.png', exif=exif)
    f = extract(table(tmp_path/'x.png', box='8 40 20 20'), tmp_path/'c', size=20, margin=0)
    assert np.array_equal(read_image(f.face_path[0]), np.rot90(picture, -1)[40:60, 8:28]) and f.face[0] == 'box'

@pytest.mark.parametrize('box', ['500 10 20 20', '-300 10 20 20', '0 0 1e9 1e9', '10 100 8 8'])
def test_box_that_does_not_fit(tmp_path, picture, box):
    with pytest.raises(ValueError, match='is not on the image of 64x48 pixels.*upright'): extract(table(*many(tmp_path/'i', picture, 1), box=box), tmp_path/'c')

# --- whole tables

def test_pictures_and_order(tmp_path, picture):
    paths = many(tmp_path/'i', picture, 9)[::-1]
    f = extract(table(*paths, box='10 5 20 20', camera='front'), tmp_path/'c')
    assert f.path.tolist() == list(map(str, paths)) and (f.camera == 'front').all() and f.attrs['skipped'] == []
    for r in f.itertuples():
        image = read_image(r.path)
        assert np.array_equal(read_image(r.frame_path), frames_module._resize(image, 32)) and np.array_equal(read_image(r.face_path), crop_face(image, r.box, 32))

def test_two_people_in_one_image(tmp_path, picture):
    path, = many(tmp_path/'i', picture, 1)
    f = extract(table(path, path, box=['0 0 20 20', '30 20 20 20'], frame=[0, 1]), tmp_path/'c')
    assert f.face_path.nunique() == 2 and f.box.tolist() == [(0., 0., 20., 20.), (30., 20., 20., 20.)]

def test_flipped_rows_share_the_cache(tmp_path, picture):
    path, = many(tmp_path/'i', picture, 1)
    f = extract(table(path, path, subject='a', video='v', flip=['', 'h']), tmp_path/'c')
    assert len(f) == 2 and f.frame_path.nunique() == 1 and f.attrs['counts']['images'] == 1

def test_bad_ones_are_skipped_and_named(tmp_path, picture):
    (tmp_path/'bad').mkdir()
    bad, good = bad_files(tmp_path/'bad', picture), many(tmp_path/'good', picture, 12)
    t = table(*good[:6], *(tmp_path/'bad'/n for n in bad), *good[6:])
    with pytest.raises(ValueError, match=r'9 of 21 images cannot be used, 42.9% \(up to 1% may be skipped\).*half.jpg: not a readable.*and 4 more.*--max-bad\) of 0.43'): extract(t, tmp_path/'c')
    f = extract(t, tmp_path/'c', max_bad=.43)
    assert f.path.tolist() == list(map(str, good)) and f.index.tolist() == list(range(12))
    for (path,reason),(name,message) in zip(f.attrs['skipped'], bad.items()):
        assert Path(path).name == name
        with pytest.raises(ValueError, match=message): raise ValueError(reason)
    assert f.attrs['counts']['skipped'] == 9 and '9 unusable images skipped' in frames_summary(f)

@pytest.mark.parametrize('n,stops', [(50, True), (99, True), (100, False), (101, False)])
def test_one_per_cent(tmp_path, picture, n, stops):
    t = table(*many(tmp_path/'i', picture, n-1), tmp_path/'gone.png', box='10 5 20 20')
    if not stops: assert len(extract(t, tmp_path/'c', size=16)) == n-1
    else:
        with pytest.raises(ValueError, match=rf'1 of {n} images .*gone.png: the file does not exist. Mend or remove them, or let more be skipped with max_bad \(--max-bad\) of 0.02'): extract(t, tmp_path/'c', size=16)

def test_nothing_left(tmp_path):
    with pytest.raises(ValueError, match='2 of 2 images cannot be used'): extract(table('a.png', 'b.png'), tmp_path/'c', max_bad=1)

@pytest.mark.parametrize('kw', [dict(size=0), dict(size=8), dict(margin=-1.)])
def test_arguments(tmp_path, picture, kw):
    with pytest.raises(ValueError, match='size is 16 pixels or more, margin 0 or more'): extract(table(*many(tmp_path/'i', picture, 1)), tmp_path/'c', **kw)

def test_table_is_validated(tmp_path):
    with pytest.raises(ValueError, match='is in test and train'): extract(table('a', 'b', subject='s', split=['train', 'test']), tmp_path/'c')

def test_unicode_and_odd_names(tmp_path, picture):
    names = ['\u5c0f\u660e.JPG', 'na\u00efve caf\u00e9.png', "it's 100%.png", os.fsdecode(b'caf\xe9.png')]
    for n in names: Image.fromarray(picture).save(tmp_path/n)
    assert len(extract(table(*(tmp_path/n for n in names)), tmp_path/'c\u00e4che')) == len(names)

# --- the cache

def stamps(cache): return {p: p.stat().st_mtime_ns for p in Path(cache).rglob('*.png')}

def test_second_call_makes_nothing(tmp_path, picture, monkeypatch):
    t = table(*many(tmp_path/'i', picture, 4))
    first = extract(t, tmp_path/'c'); before = stamps(tmp_path/'c')
    monkeypatch.setattr(frames_module, 'read_image', lambda p: pytest.fail('decoded again'))
    pd.testing.assert_frame_equal(first, extract(t, tmp_path/'c'))
    assert stamps(tmp_path/'c') == before and len(before) == 8

def test_key(tmp_path, picture):
    "The bytes, the box, the size and the margin make an entry; names and times do not."
    a, b = tmp_path/'a.bmp', tmp_path/'b.bmp'
    def write(path, image, when): Image.fromarray(image).save(path); os.utime(path, (when, when))
    write(a, picture, 10**9); write(b, picture, 10**9)
    f = extract(table(a, b), tmp_path/'c')
    assert f.path.nunique() == 2 and f.frame_path.nunique() == 1
    seen = set(f.frame_path)
    def new(path=a, box=None, **kw):
        made = extract(table(path, box=box), tmp_path/'c', **kw).frame_path[0]
        fresh = made not in seen; seen.add(made); return fresh
    assert not new() and new(box='10 5 20 20') and new(box='10 5 20 21') and new(size=24) and new(margin=.5)
    write(b, picture, 2*10**9)
    assert not new(b)
    write(b, 255-picture, 2*10**9)                                          # of the same size, at the same time
    assert new(b) and np.array_equal(read_image(extract(table(b), tmp_path/'c', size=48).frame_path[0]), frames_module._resize(255-picture, 48))

def test_damaged_entries_are_made_again(tmp_path, picture):
    t = table(*many(tmp_path/'i', picture, 1))
    f = extract(t, tmp_path/'c'); files = {p: p.read_bytes() for p in (Path(f.frame_path[0]), Path(f.face_path[0]))}
    rng = np.random.default_rng(0)
    for k in range(60):
        p = list(files)[k % 2]; b = bytearray(files[p]); b[rng.integers(len(b))] ^= 1 << rng.integers(8)
        p.write_bytes(b if k % 3 else b[:rng.integers(len(b))])
        if k == 59: p.unlink()
        pd.testing.assert_frame_equal(f, extract(t, tmp_path/'c'))
        assert all(np.array_equal(read_image(q), np.asarray(Image.open(io.BytesIO(d)))) for q,d in files.items())

@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='no SIGKILL on this system')
def test_kill_leaves_whole_files(tmp_path, picture):
    paths = many(tmp_path/'i', picture, 60, size=(640, 480))
    t = table(*paths, box='100 50 200 200'); t.to_csv(tmp_path/'t.csv', index=False)
    code = f'import pandas as pd\nfrom gfa_fastai.frames import extract_frames\nextract_frames(pd.read_csv({str(tmp_path/"t.csv")!r}), {str(tmp_path/"c")!r}, size=224, progress=False)'
    child = subprocess.Popen([sys.executable, '-c', code], cwd=Path(__file__).resolve().parents[1])
    while child.poll() is None and len(stamps(tmp_path/'c')) < 6: time.sleep(.002)
    child.kill(); child.wait()
    left = stamps(tmp_path/'c')
    assert 6 <= len(left) < 120, 'the child was not killed in the middle'
    for p in left: assert read_image(p).shape == (224, 224, 3)
    assert all(p.suffix in ('.png', '.tmp') for p in (tmp_path/'c').rglob('*') if p.is_file())
    f, clean = extract(t, tmp_path/'c', size=224), extract(t, tmp_path/'clean', size=224)
    assert all(Path(a).read_bytes() == Path(b).read_bytes() for c in ('frame_path', 'face_path') for a,b in zip(f[c], clean[c]))

def test_two_at_once(tmp_path, picture):
    t = table(*many(tmp_path/'i', picture, 10))
    with ThreadPoolExecutor(3) as pool: a, *rest = pool.map(lambda _: extract(t, tmp_path/'c'), range(3))
    for b in rest: pd.testing.assert_frame_equal(a, b)
    assert not list((tmp_path/'c').rglob('*.tmp'))

def test_cache_that_cannot_be_written(tmp_path, picture, monkeypatch):
    t = table(*many(tmp_path/'i', picture, 2)); (tmp_path/'file').touch()
    for c in ('file', 'file/below'):
        with pytest.raises(OSError, match='cannot write to the folder .*file.*Choose another folder'): extract(t, tmp_path/c)
    def full(*args, **kw): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(OSError, match='cannot write .*cache.*No space left on device.*Make room'): extract(t, tmp_path/'cache')

# --- real faces

def test_real_photographs(tmp_path):
    if not PHOTOS.is_dir(): pytest.skip('the photographs are not beside this checkout')
    df = split_by_subject(read_folder(PHOTOS), test_subjects=['0012', '0014'], dev_subjects=['0011'])
    assert len(df) == 288
    some = df.groupby(['subject', 'label']).head(6).reset_index(drop=True)
    f = extract(some, tmp_path/'c', size=64)
    counts = f.attrs['counts']
    assert len(f) == counts['images'] == 72 and counts['skipped'] == counts['box'] == 0
    assert counts['detected'] > .75*len(f), frames_summary(f)
    boxes = np.array(f.box[f.face == 'detected'].tolist())
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 0]+boxes[:, 2] <= 640).all() and (boxes[:, 1]+boxes[:, 3] <= 480).all()
    again = np.array([detect_face(read_image(p)) for p in f.path[f.face == 'detected'].head(5)])
    assert np.array_equal(again, boxes[:5])
