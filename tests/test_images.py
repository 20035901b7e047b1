"The one loader of pictures: the same pixels by every way in, or an error that says why not."

import io
import os
import socket
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageCms
from gfa_fastai.inputs import images
from gfa_fastai.inputs.images import IMAGES, MAX_PIXELS, read_image, resize_square, shrink_image, write_png
from pictures import bad_files


def noise(h=40, w=50, seed=0):
    "A smooth random picture: JPEG keeps it nearly as it is."
    return cv2.resize(np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8), (w, h))


def grey(x):
    return np.repeat(x[..., :1], 3, 2)


def every_way(path):
    "One picture, read in each way that there is."
    with Image.open(path) as opened:
        ways = [str(path), path, path.read_bytes(), bytearray(path.read_bytes()), opened]
        return [read_image(w) for w in ways]


def same(path):
    first, *others = every_way(path)
    assert first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
    assert all(np.array_equal(first, o) for o in others)
    return first


# --- what is read, in every way


ORIENTATIONS = [
    (1, lambda x: x),
    (2, lambda x: x[:, ::-1]),
    (3, lambda x: x[::-1, ::-1]),
    (4, lambda x: x[::-1]),
    (5, lambda x: x.transpose(1, 0, 2)),
    (6, lambda x: np.rot90(x, -1)),
    (7, lambda x: x[::-1, ::-1].transpose(1, 0, 2)),
    (8, lambda x: np.rot90(x)),
]


@pytest.mark.parametrize('ending', ['png', 'jpg', 'webp', 'tif', 'avif'])
def test_exif_puts_upright(tmp_path, ending):
    path = tmp_path / f'a.{ending}'
    if f'.{ending}' not in IMAGES:
        pytest.skip('this Pillow does not decode it')
    for tag, turn in ORIENTATIONS:
        exif = Image.Exif()
        exif[0x0112] = tag
        Image.fromarray(noise()).save(path, exif=exif, quality=95)
        want = turn(noise())
        got = same(path)
        assert got.shape == want.shape and np.abs(got.astype(int) - want).mean() < 4, tag
        assert np.array_equal(read_image(Image.open(path).copy()), got)


def test_modes_without_loss(tmp_path):
    x = noise()
    one = Image.fromarray(x[..., 0])
    cases = dict(
        rgb=(Image.fromarray(x), x),
        grey=(one, grey(x)),
        opaque=(Image.fromarray(np.dstack([x, np.full(x.shape[:2], 255, np.uint8)])), x),
        la=(one.convert('LA'), grey(x)),
        black_and_white=(one.convert('1'), grey(np.asarray(one.convert('1'))[..., None] * np.uint8(255))),
        deep=(Image.fromarray(x[..., 0].astype(np.uint16) * 257), grey(x)),
        palette=(Image.fromarray(x).convert('P'), np.asarray(Image.fromarray(x).convert('P').convert('RGB'))),
    )
    for name, (im, want) in cases.items():
        im.save(tmp_path / f'{name}.png')
        assert np.array_equal(same(tmp_path / f'{name}.png'), want), name
        assert np.array_equal(read_image(im), want), name
    assert Image.open(tmp_path / 'deep.png').mode.startswith('I')
    cv2.imwrite(str(tmp_path / 'deep_rgb.png'), x[..., ::-1].astype(np.uint16) * 257)
    assert np.array_equal(same(tmp_path / 'deep_rgb.png'), x)


@pytest.mark.parametrize(
    'mode,ending',
    [
        ('P', 'bmp'),
        ('P', 'gif'),
        ('CMYK', 'jpg'),
        ('CMYK', 'tif'),
        ('YCbCr', 'jpg'),
        ('YCbCr', 'tif'),
        ('L', 'jpg'),
        ('RGB', 'webp'),
        ('RGB', 'jfif'),
        ('RGB', 'ppm'),
        ('L', 'pgm'),
        ('RGB', 'jp2'),
        ('RGB', 'avif'),
        ('I;16', 'tif'),
    ],
)
def test_modes_of_formats(tmp_path, mode, ending):
    if f'.{ending}' not in IMAGES:
        pytest.skip('this Pillow does not decode it')
    im = Image.fromarray(noise())
    im = Image.fromarray(np.uint16(noise()[..., 0]) * 257) if mode == 'I;16' else im.convert(mode)
    im.save(tmp_path / f'x.{ending}')
    want = grey(noise()) if mode == 'I;16' else np.asarray(im.convert('RGB'))
    assert np.abs(same(tmp_path / f'x.{ending}').astype(int) - want).mean() < 4
    assert np.array_equal(read_image(im), want)


def test_arrays_and_tensors(tmp_path):
    x = noise()
    forms = [x, np.uint16(x) * 257, torch.from_numpy(x.copy()).permute(2, 0, 1) / 255, Image.fromarray(x)]
    forms.append(forms[2][None])
    for form in forms:
        assert np.array_equal(read_image(form), x)
    for form in (x[..., 0], x[..., :1], np.uint16(x[..., 0]) * 257):
        assert np.array_equal(read_image(form), grey(x))


@pytest.mark.parametrize(
    'tag', [b'II*\0', bytes(range(7, 47)), b'II*\0\x08\0\0\0' + struct.pack('<H', 200) + b'\x12\x01']
)
def test_damaged_exif_does_not_matter(tmp_path, tag):
    out = io.BytesIO()
    Image.fromarray(noise()).save(out, 'JPEG')
    data, tag = out.getvalue(), b'Exif\0\0' + tag
    (tmp_path / 'a.jpg').write_bytes(data[:2] + b'\xff\xe1' + (len(tag) + 2).to_bytes(2, 'big') + tag + data[2:])
    assert same(tmp_path / 'a.jpg').shape == (40, 50, 3)


def test_names_do_not_matter(tmp_path):
    "The format is that of the bytes; names may be of any bytes."
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9.jpg'))
    Image.fromarray(noise()).save(tmp_path / 'a.png')
    (tmp_path / 'a.png').rename(path)
    assert np.array_equal(same(path), noise())
    with pytest.raises(ValueError, match='does not exist'):
        read_image(os.fsdecode(b'caf\xe9.jpg'))


# --- transparency


def see_through():
    "A picture whose left half is wholly transparent, the right half half so; and as it looks on white."
    alpha = np.zeros((40, 50), np.uint8)
    alpha[:, 25:] = 128
    share = alpha[..., None] / 255
    return np.dstack([noise(), alpha]), noise() * share + 255 * (1 - share)


@pytest.mark.parametrize('ending', ['png', 'webp', 'tif'])
def test_transparency_lies_on_white(tmp_path, ending):
    rgba, want = see_through()
    Image.fromarray(rgba).save(tmp_path / f'a.{ending}', **(dict(lossless=True) if ending == 'webp' else {}))
    assert np.abs(same(tmp_path / f'a.{ending}') - want).max() <= 1
    assert np.abs(read_image(rgba) - want).max() <= 1
    la = Image.fromarray(rgba).convert('LA')
    la.save(tmp_path / 'la.png')
    assert (same(tmp_path / 'la.png')[:, :25] == 255).all()


def test_a_colour_that_is_transparent(tmp_path):
    x = noise()
    x[:10] = 7
    cases = dict(
        p=(Image.fromarray(x).convert('P', dither=0), 'gif'),
        l=(Image.fromarray(x[..., 0]), 'png'),
        rgb=(Image.fromarray(x), 'png'),
    )
    cases['deep'] = Image.fromarray(x[..., 0].astype(np.uint16)), 'png'
    for name, (im, ending) in cases.items():
        path, hidden = tmp_path / f'{name}.{ending}', (7, 7, 7) if name == 'rgb' else int(np.asarray(im)[0, 0])
        im.save(path, transparency=hidden)
        assert (same(path)[:10] == 255).all() and same(path)[10:].min() < 255, name


# --- profiles of colour


def profile(red, green, blue, gamma=2.2):
    "An ICC profile of a screen."

    def s15(v):
        return struct.pack('>i', round(v * 65536))

    def xyz(*v):
        return b'XYZ \0\0\0\0' + b''.join(map(s15, v))

    curve = b'curv\0\0\0\0' + struct.pack('>IH', 1, round(gamma * 256))
    tags = {
        b'desc': b'desc\0\0\0\0' + struct.pack('>I', 3) + b'P3\0' + b'\0' * 78,
        b'wtpt': xyz(0.9642, 1, 0.8249),
        b'rXYZ': xyz(*red),
        b'gXYZ': xyz(*green),
        b'bXYZ': xyz(*blue),
        b'rTRC': curve,
        b'gTRC': curve,
        b'bTRC': curve,
        b'cprt': b'text\0\0\0\0x\0',
    }
    at, table, body = 132 + 12 * len(tags), b'', b''
    for k, d in tags.items():
        d += b'\0' * (-len(d) % 4)
        table += k + struct.pack('>II', at + len(body), len(d))
        body += d
    head = struct.pack('>I4sI4s4s4s', at + len(body), b'    ', 0x02100000, b'mntr', b'RGB ', b'XYZ ') + b'\0' * 12
    head += b'acsp' + b'\0' * 28 + s15(0.9642) + s15(1) + s15(0.8249) + b'\0' * 48
    return head + struct.pack('>I', len(tags)) + table + body


DISPLAY_P3 = profile((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE_RGB = profile((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))


def in_srgb(im, icc):
    own = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return np.asarray(ImageCms.profileToProfile(im, own, ImageCms.createProfile('sRGB'), outputMode='RGB')).astype(int)


@pytest.mark.parametrize('icc', [DISPLAY_P3, ADOBE_RGB])
@pytest.mark.parametrize('ending', ['png', 'jpg', 'webp', 'tif'])
def test_profiles_are_converted(tmp_path, icc, ending):
    path, skin = tmp_path / f'a.{ending}', Image.new('RGB', (40, 30), (205, 130, 100))
    skin.save(path, icc_profile=icc)
    assert np.abs(in_srgb(skin, icc) - np.asarray(skin)).max() > 8  # (it matters)
    assert np.abs(same(path) - in_srgb(skin, icc)).max() <= 4


def test_a_profile_with_transparency_or_palette(tmp_path):
    skin = Image.new('RGB', (40, 30), (205, 130, 100))
    want = in_srgb(skin, DISPLAY_P3)
    rgba = skin.convert('RGBA')
    rgba.paste((0, 0, 0, 0), (0, 0, 20, 30))
    rgba.save(tmp_path / 'rgba.png', icc_profile=DISPLAY_P3)
    got = same(tmp_path / 'rgba.png')
    assert (got[:, :20] == 255).all() and np.abs(got[:, 20:] - want[:, 20:]).max() <= 4
    skin.quantize(4).save(tmp_path / 'p.png', icc_profile=DISPLAY_P3)
    assert np.abs(same(tmp_path / 'p.png') - want).max() <= 4


def adobe_by_exif(im, index='R03', space=65535):
    "EXIF as cameras write it for Adobe RGB without a profile."
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = space
    exif.get_ifd(0x8769)[0xA005] = {1: index}
    out = io.BytesIO()
    im.save(out, 'JPEG', quality=95, subsampling=0, exif=exif)
    return out.getvalue()


@pytest.mark.parametrize('colour', [(205, 130, 100), (60, 140, 70), (128, 128, 128), (30, 40, 200)])
def test_adobe_rgb_that_exif_alone_says(tmp_path, colour):
    path, flat = tmp_path / 'a.jpg', Image.new('RGB', (40, 300), colour)
    path.write_bytes(adobe_by_exif(flat))
    assert np.abs(same(path) - in_srgb(flat, ADOBE_RGB)).max() <= 4
    for other in (adobe_by_exif(flat, 'R98'), adobe_by_exif(flat, space=1)):
        assert np.abs(read_image(other).astype(int) - np.asarray(flat)).max() <= 2


def test_heic_where_its_package_is_there(tmp_path, monkeypatch):
    "A stand-in for pillow-heif registers its format: the ending is known, and such a file is read."
    path = tmp_path / 'a.heic'
    Image.fromarray(noise()).save(path, 'PNG')  # (what the stand-in decodes)
    png = Image.OPEN['PNG'][0]

    def register_heif_opener():
        Image.register_open('HEIF', png, lambda start: start[:4] == b'\x89PNG')
        Image.register_extension('HEIF', '.heic')

    for registry in ('OPEN', 'EXTENSION'):
        monkeypatch.setattr(Image, registry, dict(getattr(Image, registry)))
    monkeypatch.setattr(Image, 'ID', ['HEIF'])
    monkeypatch.setitem(sys.modules, 'pillow_heif', SimpleNamespace(register_heif_opener=register_heif_opener))
    assert '.heic' in images._readable_endings() and '.hif' not in images._readable_endings()
    assert np.array_equal(read_image(path), noise())


def test_profiles_that_change_nothing(tmp_path):
    "sRGB itself, a damaged one, one of another kind of picture: the pixels stay."
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    cmyk = DISPLAY_P3[:16] + b'CMYK' + DISPLAY_P3[20:]
    for icc in (srgb, b'junk', DISPLAY_P3[:200], cmyk):
        Image.fromarray(noise()).save(tmp_path / 'a.png', icc_profile=icc)
        assert np.array_equal(same(tmp_path / 'a.png'), noise())


def test_a_grey_picture_with_a_profile_for_colours(tmp_path):
    bright = profile((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141), gamma=1.0)
    Image.new('L', (40, 30), 100).save(tmp_path / 'a.png', icc_profile=bright)
    assert same(tmp_path / 'a.png')[0, 0, 0] > 150


# --- what is refused


def test_bad_files(tmp_path):
    for name, message in bad_files(tmp_path, noise(48, 64)).items():
        with pytest.raises(ValueError, match=f'{name}: .*{message}'):
            read_image(tmp_path / name)
        if (tmp_path / name).is_file():
            with pytest.raises(ValueError, match=message):
                read_image((tmp_path / name).read_bytes())


@pytest.mark.parametrize('kind', ['GIF', 'PNG', 'WEBP', 'TIFF', 'AVIF'])
def test_animations_and_pages_are_refused(tmp_path, kind):
    if f'.{kind.lower()}' not in IMAGES:
        pytest.skip('this Pillow does not decode it')
    file = tmp_path / f'a.{kind.lower()}'
    Image.fromarray(noise()).save(file, kind, save_all=True, append_images=[Image.fromarray(noise(seed=1))])
    for source in (file, file.read_bytes(), Image.open(file)):
        with pytest.raises(ValueError, match='it holds several pictures'):
            read_image(source)
    page = Image.open(file)
    page.seek(1)
    assert np.abs(read_image(page.copy()).astype(int) - noise(seed=1)).mean() < 8  # one of them is one


def test_a_phone_s_mpo_is_one_photograph(tmp_path):
    Image.fromarray(noise()).save(
        tmp_path / 'a.mpo', 'MPO', save_all=True, append_images=[Image.fromarray(noise(20, 25))]
    )
    (tmp_path / 'a.mpo').rename(tmp_path / 'a.jpg')
    assert same(tmp_path / 'a.jpg').shape == (40, 50, 3)


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(width, height, *chunks):
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + b''.join(chunks) + chunk(b'IEND', b'')


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('side', [9001, 12000, 13000, 30000, 2**31 - 1])
def test_claimed_sizes(tmp_path, side):
    (tmp_path / 'bomb.png').write_bytes(png(side, side, chunk(b'IDAT', zlib.compress(b''))))
    with pytest.raises(ValueError, match=r'bomb.png: (it has|it claims more)|not a readable'):
        read_image(tmp_path / 'bomb.png')


def test_sizes_of_what_is_open_already(monkeypatch):
    monkeypatch.setattr(images, 'MAX_PIXELS', 1000)
    for source in (noise(), Image.fromarray(noise())):
        with pytest.raises(ValueError, match='it has 50x40 pixels, more than'):
            read_image(source)
    assert MAX_PIXELS > 50e6


def test_files_of_implausible_size(tmp_path):
    with open(tmp_path / 'a.jpg', 'wb') as f:
        f.truncate(2_000_000_000)  # (a hole: it takes no room)
    with pytest.raises(ValueError, match='a.jpg: it has 2000 MB, too many'):
        read_image(tmp_path / 'a.jpg')


@pytest.mark.parametrize('kind', [b'zTXt', b'iCCP', b'IDAT'])
def test_bombs_in_png_chunks(tmp_path, kind):
    "100 MB of nothing in a chunk: refused, or not unpacked."
    bomb = zlib.compress(bytes(100_000_000), 9)
    pixels = chunk(b'IDAT', zlib.compress((b'\0' + bytes(180)) * 80))
    chunks = [chunk(b'IDAT', bomb)] if kind == b'IDAT' else [chunk(kind, b'a\0\0' + bomb), pixels]
    (tmp_path / 'b.png').write_bytes(png(60, 80, *chunks))
    try:
        assert read_image(tmp_path / 'b.png').shape == (80, 60, 3)
    except ValueError as e:
        assert 'b.png' in str(e)


def test_postscript_is_not_run(tmp_path, monkeypatch):
    "Whatever the file is called: Pillow would hand it to Ghostscript."
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *args, **kw: pytest.fail('Ghostscript was called'))
    data = (
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 80\n%%EndComments\n(x) (w) file closefile\nshowpage\n%%EOF\n'
    )
    for name in 'a.eps', 'b.jpg':
        (tmp_path / name).write_bytes(data)
        for source in (tmp_path / name, data):
            with pytest.raises(ValueError, match='not a readable image'):
                read_image(source)


@pytest.mark.skipif(os.name == 'nt', reason='POSIX')
def test_only_regular_files_are_opened(tmp_path):
    "Reading the others would wait for ever."
    os.mkfifo(tmp_path / 'pipe.jpg')
    here = Path.cwd()
    os.chdir(tmp_path)  # (names of sockets are short)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind('socket.jpg')
    os.chdir(here)
    (tmp_path / 'link.jpg').symlink_to(tmp_path / 'pipe.jpg')
    for path in (*(tmp_path / n for n in ('pipe.jpg', 'socket.jpg', 'link.jpg')), '/dev/zero'):
        with pytest.raises(ValueError, match='no regular file'):
            read_image(path)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('ending', ['jpg', 'png', 'webp', 'tif', 'bmp', 'gif', 'ppm'])
def test_damaged_files_raise_nothing_else(tmp_path, ending):
    rng = np.random.default_rng(1)
    Image.fromarray(noise()).save(tmp_path / f'x.{ending}')
    data = (tmp_path / f'x.{ending}').read_bytes()
    for _ in range(60):
        b = bytearray(data)
        for i in (rng.integers(len(b)), rng.integers(min(len(b), 200))):
            b[i] = rng.integers(256)
        (tmp_path / 'y').write_bytes(b[: rng.integers(len(b))] if rng.uniform() < 0.3 else b)
        try:
            assert read_image(tmp_path / 'y').ndim == 3
        except ValueError as e:
            assert str(e)


@pytest.mark.parametrize(
    'bad, words',
    [
        (noise() / 255, 'float64'),
        (noise().astype(np.int64), 'int64'),
        (np.zeros((40, 50), bool), 'bool'),
        (np.zeros((4, 40, 50, 3), np.uint8), 'shape'),
        (np.zeros((8, 50, 3), np.uint8), 'only 50x8'),
        (np.zeros((40, 50, 2), np.uint8), 'shape'),
        (np.zeros((0, 0, 3), np.uint8), 'only 0x0'),
        (None, 'a NoneType is no picture'),
        (7, 'a int is no picture'),
        ([1, 2], 'a list is no picture'),
        ('nowhere.jpg', 'nowhere.jpg: the file does not exist'),
        (torch.full((3, 40, 50), 7.0), 'floats in 0..1'),
        (torch.full((3, 40, 50), float('nan')), 'floats in 0..1'),
        (torch.zeros(2, 3, 40, 50), 'floats in 0..1'),
        (torch.zeros(3, 40, 50, dtype=torch.uint8), 'floats in 0..1'),
        (b'', 'empty'),
        ('a\0b', 'not readable'),
    ],
)
def test_what_is_no_picture(bad, words):
    with pytest.raises(ValueError, match=words):
        read_image(bad)


# --- the others


def test_sizes():
    x = noise(40, 60)
    assert resize_square(x, 20).shape == (20, 20, 3) and resize_square(x, 80).shape == (80, 80, 3)
    square = x[:40, :40]
    assert resize_square(square, 40) is square and shrink_image(x, 40) is x
    assert shrink_image(x, 20).shape == (20, 30, 3) and shrink_image(x, 80).shape == (80, 120, 3)


def test_png_with_fields(tmp_path):
    write_png(tmp_path / 'a' / 'b.png', noise(), box='1 2')
    im = Image.open(tmp_path / 'a' / 'b.png')
    assert im.text['box'] == '1 2' and np.array_equal(np.asarray(im), noise()) and len(im.text['sha1']) == 40
