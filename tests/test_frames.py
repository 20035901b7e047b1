"Reading images and videos strictly, finding and cropping faces, and the cache, which survives kills and damage."

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

from gfa_fastai.inputs import frames as frames_module
from gfa_fastai.inputs.datasets import read_folder
from gfa_fastai.inputs.images import MIN_SIDE, read_image, resize_square
from gfa_fastai.inputs.videos import choose_frames, video_frames
from gfa_fastai.inputs import faces as faces_module
from gfa_fastai.inputs.faces import crop_face, detect_face, find_faces, yunet_file
from gfa_fastai.inputs.frames import extract_frames, face_counts, frames_summary, smooth_boxes
from gfa_fastai.samples import split_by_subject
from pictures import CODECS, bad_files, moving, near, video, wrong_header

PHOTOS = Path(__file__).resolve().parents[2] / 'shared/data/nuaa_small'


@pytest.fixture
def picture():
    "A smooth random picture: JPEG keeps it nearly as it is."
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8), (0, 0), 3)


def table(*paths, **columns):
    return pd.DataFrame(
        [
            dict(dataset='d', split='train', subject=f's{i}', label='live', video=f'v{i}', path=str(p))
            for i, p in enumerate(paths)
        ]
    ).assign(**columns)


def many(folder, picture, n, size=None):
    "`n` good images, all different."
    folder.mkdir(exist_ok=True)
    for i in range(n):
        Image.fromarray(np.roll(picture, i, 1)).resize(size or picture.shape[1::-1]).save(folder / f'{i:03d}.png')
    return sorted(folder.iterdir())


def extract(samples, cache, size=32, **kw):
    return extract_frames(samples, cache, size=size, progress=False, **kw)


# --- faces and crops


def brute_crop(image, box, margin):
    "The square around a box, pixel by pixel, with the border's pixels outside."
    x, y, w, h = box
    side = round((1 + margin) * max(w, h))
    left, top = round(x + w / 2 - side / 2), round(y + h / 2 - side / 2)
    H, W = image.shape[:2]
    return np.array(
        [
            [image[min(max(r, 0), H - 1), min(max(c, 0), W - 1)] for c in range(left, left + side)]
            for r in range(top, top + side)
        ]
    )


@pytest.mark.parametrize(
    'box,margin',
    [
        ((20, 10, 20, 20), 0),
        ((20, 10, 20, 16), 0.3),
        ((-5, -8, 20, 20), 0.3),
        ((55, 40, 20, 12), 0.5),
        ((0, 0, 64, 48), 1.0),
        ((10.3, 7.9, 11.5, 13.2), 0.3),
    ],
)
def test_crop_against_brute_force(picture, box, margin):
    want = brute_crop(picture, box, margin)
    assert np.array_equal(crop_face(picture, box, len(want), margin), want)


def test_resize_averages(picture):
    "Halving is the mean of 2x2 pixels; a side is never enlarged by skipping pixels of the other."
    half = resize_square(picture[:, :48], 24)
    mean = picture[:, :48].reshape(24, 2, 24, 2, 3).mean((1, 3))
    assert np.abs(half - mean).max() <= 0.5
    stripes = np.zeros((20, 640, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the result can show: grey, not stripes
    assert np.abs(resize_square(stripes, 64).astype(int) - 127).max() <= 1


def test_no_face_in_noise_and_fallback_is_the_central_square(tmp_path, picture):
    flat = np.full((60, 100, 3), 128, np.uint8)
    flat[:, 20:80] = 90
    assert detect_face(flat) is None
    Image.fromarray(flat).save(tmp_path / 'flat.png')
    f = extract(table(tmp_path / 'flat.png'), tmp_path / 'c', size=60)
    assert f.face[0] == 'fallback' and np.array_equal(read_image(f.face_path[0]), flat[:, 20:80])
    assert f.attrs['counts'] == dict(images=1, skipped=0, box=0, detected=0, fallback=1)
    assert 'not found in 1 (live 1; the central square was taken); 0 unusable' in frames_summary(f)


def test_box_is_about_the_upright_image(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 64x48, upright 48x64
    Image.fromarray(picture).save(tmp_path / 'x.png', exif=exif)
    f = extract(table(tmp_path / 'x.png', box='8 40 20 20'), tmp_path / 'c', size=20, margin=0)
    assert np.array_equal(read_image(f.face_path[0]), np.rot90(picture, -1)[40:60, 8:28]) and f.face[0] == 'box'


@pytest.mark.parametrize('box', ['500 10 20 20', '-300 10 20 20', '0 0 1e9 1e9', '10 100 8 8'])
def test_box_that_does_not_fit(tmp_path, picture, box):
    with pytest.raises(ValueError, match='is not on the image of 64x48 pixels.*upright'):
        extract(table(*many(tmp_path / 'i', picture, 1), box=box), tmp_path / 'c')


# --- whole tables


def test_pictures_and_order(tmp_path, picture):
    paths = many(tmp_path / 'i', picture, 9)[::-1]
    f = extract(table(*paths, box='10 5 20 20', camera='front'), tmp_path / 'c')
    assert f.path.tolist() == list(map(str, paths)) and (f.camera == 'front').all() and f.attrs['skipped'] == []
    for r in f.itertuples():
        image = read_image(r.path)
        assert np.array_equal(read_image(r.frame_path), resize_square(image, 32)) and np.array_equal(
            read_image(r.face_path), crop_face(image, r.box, 32)
        )


def test_two_people_in_one_image(tmp_path, picture):
    (path,) = many(tmp_path / 'i', picture, 1)
    f = extract(table(path, path, box=['0 0 20 20', '30 20 20 20'], frame=[0, 1]), tmp_path / 'c')
    assert f.face_path.nunique() == 2 and f.box.tolist() == [(0.0, 0.0, 20.0, 20.0), (30.0, 20.0, 20.0, 20.0)]


def test_flipped_rows_share_the_cache(tmp_path, picture):
    (path,) = many(tmp_path / 'i', picture, 1)
    f = extract(table(path, path, subject='a', video='v', flip=['', 'h']), tmp_path / 'c')
    assert len(f) == 2 and f.frame_path.nunique() == 1 and f.attrs['counts']['images'] == 1


def test_bad_ones_are_skipped_and_named(tmp_path, picture):
    (tmp_path / 'bad').mkdir()
    bad, good = bad_files(tmp_path / 'bad', picture), many(tmp_path / 'good', picture, 12)
    t = table(*good[:6], *(tmp_path / 'bad' / n for n in bad), *good[6:])
    with pytest.raises(
        ValueError,
        match=r'9 of 21 images cannot be used, 42.9% \(up to 1% may be skipped\).*half.jpg: not a readable.*and 4 more'
        r'.*--max-bad\) of 0.43',
    ):
        extract(t, tmp_path / 'c')
    f = extract(t, tmp_path / 'c', max_bad=0.43)
    assert f.path.tolist() == list(map(str, good)) and f.index.tolist() == list(range(12))
    for (path, reason), (name, message) in zip(f.attrs['skipped'], bad.items()):
        assert Path(path).name == name
        with pytest.raises(ValueError, match=message):
            raise ValueError(reason)
    assert f.attrs['counts']['skipped'] == 9 and '9 unusable images skipped' in frames_summary(f)


@pytest.mark.parametrize('n,stops', [(50, True), (99, True), (100, False), (101, False)])
def test_one_per_cent(tmp_path, picture, n, stops):
    t = table(*many(tmp_path / 'i', picture, n - 1), tmp_path / 'gone.png', box='10 5 20 20')
    if not stops:
        assert len(extract(t, tmp_path / 'c', size=16)) == n - 1
    else:
        with pytest.raises(
            ValueError,
            match=rf'1 of {n} images .*gone.png: the file does not exist: check the path. '
            r'Mend or remove them, or let more be skipped with max_bad \(--max-bad\) of 0.02',
        ):
            extract(t, tmp_path / 'c', size=16)


def test_nothing_left(tmp_path):
    with pytest.raises(ValueError, match='2 of 2 images cannot be used'):
        extract(table('a.png', 'b.png'), tmp_path / 'c', max_bad=1)


@pytest.mark.parametrize('kw', [dict(size=0), dict(size=8), dict(margin=-1.0)])
def test_arguments(tmp_path, picture, kw):
    with pytest.raises(ValueError, match='size is 16 pixels or more, margin 0 or more'):
        extract(table(*many(tmp_path / 'i', picture, 1)), tmp_path / 'c', **kw)


def test_table_is_validated(tmp_path):
    with pytest.raises(ValueError, match='is in test and train'):
        extract(table('a', 'b', subject='s', split=['train', 'test']), tmp_path / 'c')


def test_unicode_and_odd_names(tmp_path, picture):
    names = ['\u5c0f\u660e.JPG', 'na\u00efve caf\u00e9.png', "it's 100%.png", os.fsdecode(b'caf\xe9.png')]
    for n in names:
        Image.fromarray(picture).save(tmp_path / n)
    assert len(extract(table(*(tmp_path / n for n in names)), tmp_path / 'c\u00e4che')) == len(names)


# --- the cache


def stamps(cache):
    return {p: p.stat().st_mtime_ns for p in Path(cache).rglob('*.png') if p.name[0] != '.'}


def test_second_call_makes_nothing(tmp_path, picture, monkeypatch):
    t = table(*many(tmp_path / 'i', picture, 4))
    first = extract(t, tmp_path / 'c')
    before = stamps(tmp_path / 'c')
    monkeypatch.setattr(frames_module, 'read_image', lambda p: pytest.fail('decoded again'))
    pd.testing.assert_frame_equal(first, extract(t, tmp_path / 'c'))
    assert stamps(tmp_path / 'c') == before and len(before) == 8


def test_key(tmp_path, picture):
    "The bytes, the box, the size and the margin make an entry; names and times do not."
    a, b = tmp_path / 'a.bmp', tmp_path / 'b.bmp'

    def write(path, image, when):
        Image.fromarray(image).save(path)
        os.utime(path, (when, when))

    write(a, picture, 10**9)
    write(b, picture, 10**9)
    f = extract(table(a, b), tmp_path / 'c')
    assert f.path.nunique() == 2 and f.frame_path.nunique() == 1
    seen = set(f.frame_path)

    def new(path=a, box=None, **kw):
        made = extract(table(path, box=box), tmp_path / 'c', **kw).frame_path[0]
        fresh = made not in seen
        seen.add(made)
        return fresh

    assert not new() and new(box='10 5 20 20') and new(box='10 5 20 21') and new(size=24) and new(margin=0.5)
    write(b, picture, 2 * 10**9)
    assert not new(b)
    write(b, 255 - picture, 2 * 10**9)  # of the same size, at the same time
    assert new(b) and np.array_equal(
        read_image(extract(table(b), tmp_path / 'c', size=48).frame_path[0]), resize_square(255 - picture, 48)
    )


def test_damaged_entries_are_made_again(tmp_path, picture):
    t = table(*many(tmp_path / 'i', picture, 1))
    f = extract(t, tmp_path / 'c')
    files = {p: p.read_bytes() for p in (Path(f.frame_path[0]), Path(f.face_path[0]))}
    rng = np.random.default_rng(0)
    for k in range(60):
        p = list(files)[k % 2]
        b = bytearray(files[p])
        b[rng.integers(len(b))] ^= 1 << rng.integers(8)
        p.write_bytes(b if k % 3 else b[: rng.integers(len(b))])
        if k == 59:
            p.unlink()
        pd.testing.assert_frame_equal(f, extract(t, tmp_path / 'c'))
        assert all(np.array_equal(read_image(q), np.asarray(Image.open(io.BytesIO(d)))) for q, d in files.items())


@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='no SIGKILL on this system')
def extract_elsewhere(table, cache, size):
    "extract_frames in a process of its own."
    code = (
        'import sys, pandas as pd\nfrom gfa_fastai.inputs.frames import extract_frames\n'
        'extract_frames(pd.read_csv(sys.argv[1]), sys.argv[2], size=int(sys.argv[3]), progress=False)'
    )
    command = [sys.executable, '-c', code, str(table), str(cache), str(size)]
    return subprocess.Popen(command, cwd=Path(__file__).resolve().parents[1])


def test_kill_leaves_whole_files(tmp_path, picture):
    paths = many(tmp_path / 'i', picture, 60, size=(640, 480))
    t = table(*paths, box='100 50 200 200')
    t.to_csv(tmp_path / 't.csv', index=False)
    child = extract_elsewhere(tmp_path / 't.csv', tmp_path / 'c', 224)
    while child.poll() is None and len(stamps(tmp_path / 'c')) < 6:
        time.sleep(0.002)
    child.kill()
    child.wait()
    left = stamps(tmp_path / 'c')
    assert 6 <= len(left) < 120, 'the child was not killed in the middle'
    for p in left:
        assert read_image(p).shape == (224, 224, 3)
    f, clean = extract(t, tmp_path / 'c', size=224), extract(t, tmp_path / 'clean', size=224)
    assert all(
        Path(a).read_bytes() == Path(b).read_bytes()
        for c in ('frame_path', 'face_path')
        for a, b in zip(f[c], clean[c])
    )


def test_two_at_once(tmp_path, picture):
    t = table(*many(tmp_path / 'i', picture, 10))
    with ThreadPoolExecutor(3) as pool:
        a, *rest = pool.map(lambda _: extract(t, tmp_path / 'c'), range(3))
    for b in rest:
        pd.testing.assert_frame_equal(a, b)
    assert not list((tmp_path / 'c').rglob('.part-*'))


def test_cache_that_cannot_be_written(tmp_path, picture, monkeypatch):
    t = table(*many(tmp_path / 'i', picture, 2))
    (tmp_path / 'file').touch()
    for c in ('file', 'file/below'):
        with pytest.raises(OSError, match='cannot write to the folder .*file.*Choose another folder'):
            extract(t, tmp_path / c)

    def full(*args, **kw):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match='cannot write .*cache.*no space left on the disk'):
        extract(t, tmp_path / 'cache')


# --- videos


@pytest.fixture
def boxes_of(monkeypatch):
    "A stand-in for the reader of annotations: lines `frame x y w h`."

    def read(path, form):
        if form != 'lines':
            raise ValueError(f'unknown format {form!r}')
        return {int(r[0]): tuple(map(float, r[1:])) for r in map(str.split, Path(path).read_text().splitlines())}

    monkeypatch.setattr(frames_module.datasets, 'read_boxes', read, raising=False)


def annotate(path, boxes):
    path.write_text('\n'.join(' '.join(map(str, (i, *b))) for i, b in boxes.items()))
    return str(path)


@pytest.mark.parametrize(
    'kw,limit,want',
    [
        ({}, None, range(20)),
        (dict(every=6), None, [0, 6, 12, 18]),
        (dict(spread=4), None, [2, 7, 12, 17]),
        (dict(first=3), None, [0, 1, 2]),
        ({}, 5, range(5)),
        (dict(first=3), 5, range(3)),
        (dict(spread=2), 8, [2, 6]),
        (dict(every=3), '7', [0, 3, 6]),
        (dict(spread=30), None, range(20)),
    ],
)
def test_chosen_frames_of_a_table(tmp_path, kw, limit, want):
    t = table(video(tmp_path / 'v.MP4'.lower(), moving(20)), quality='high')
    f = extract(t.assign(**({} if limit is None else dict(max_frames=limit))), tmp_path / 'c', **kw)
    assert (
        f.frame.tolist() == list(want)
        and f.frame.dtype == 'int64'
        and (f.quality == 'high').all()
        and (f.path == t.path[0]).all()
    )
    images = moving(20)
    for r in f.itertuples():
        assert near(read_image(r.frame_path), resize_square(images[r.frame], 32))


@pytest.mark.parametrize(
    'kw',
    [
        dict(every=0),
        dict(spread=0),
        dict(size='a'),
        dict(max_bad=2),
        dict(max_bad=-1),
        dict(first=-1),
        dict(every=2.5),
        dict(smooth=-1),
        dict(workers=0),
        dict(every=2, spread=3),
        dict(border='black'),
    ],
)
def test_arguments_for_videos(tmp_path, kw):
    with pytest.raises(ValueError, match='extract_frames: '):
        extract(table('v.avi'), tmp_path / 'c', **kw)


@pytest.mark.parametrize('promised', [1, 8, 19, 21, 60, 500])
def test_header_is_not_believed(tmp_path, promised):
    path = video(tmp_path / 'v.avi', moving(20))
    wrong_header(path, promised)
    for kw, want in (
        ({}, range(20)),
        (dict(spread=4), choose_frames(20, spread=4)),
        (dict(spread=4, first=6), choose_frames(6, spread=4)),
        (dict(every=19), range(0, 20, 19)),
    ):
        f = extract(table(path), tmp_path / 'c', **kw)
        assert f.frame.tolist() == list(want)
        assert len(list((tmp_path / 'c').glob(f'*/{Path(f.frame_path[0]).parent.name}/*.png'))) == 2 * len(f)
        assert not f.attrs['notes']  # it is whole


def test_upside_down(tmp_path):
    images = moving(6)
    video(tmp_path / 'up.avi', images)
    video(tmp_path / 'down.avi', [i[::-1, ::-1] for i in images])
    up, down = (
        extract(table(tmp_path / n, rotate=r, box='10 20 30 30'), tmp_path / 'c')
        for n, r in (('up.avi', 0), ('down.avi', 180))
    )
    for a, b in zip(up.itertuples(), down.itertuples()):
        assert near(read_image(a.frame_path), read_image(b.frame_path), 2) and near(
            read_image(a.face_path), read_image(b.face_path), 2
        )
    Image.fromarray(images[0][::-1, ::-1]).save(tmp_path / 'down.png')
    Image.fromarray(images[0]).save(tmp_path / 'up.png')
    a, b = (
        extract(table(tmp_path / n, rotate=r, box='10 20 30 30'), tmp_path / 'c')
        for n, r in (('up.png', ''), ('down.png', '180'))
    )
    assert np.array_equal(read_image(a.face_path[0]), read_image(b.face_path[0]))


@pytest.mark.parametrize(
    'column,value,message',
    [
        ('rotate', 90, 'It is 0, or 180'),
        ('rotate', 'x', 'It is 0, or 180'),
        ('max_frames', 0, '1 or more'),
        ('max_frames', 1.5, '1 or more'),
    ],
)
def test_columns_that_make_no_sense(tmp_path, column, value, message):
    with pytest.raises(ValueError, match=f"column '{column}' has .*row 0 .*v.avi.*{message}"):
        extract(table('v.avi', **{column: [value]}), tmp_path / 'c')


# --- boxes in videos


def test_annotated_boxes_are_used_as_they_are(tmp_path, boxes_of):
    path, images = video(tmp_path / 'v.mov', moving(10)), moving(10)
    boxes = {i: (10.0 + 3 * i, 5.0 + i, 20.0, 24.0) for i in range(10)}
    f = extract(table(path, annotation=annotate(tmp_path / 'v.face', boxes), annotation_format='lines'), tmp_path / 'c')
    assert (f.face == 'box').all() and f.box.tolist() == list(boxes.values()) and f.attrs['notes'] == []
    decoded = dict(video_frames(path))
    for r in f.itertuples():
        assert np.array_equal(read_image(r.face_path), crop_face(decoded[r.frame], boxes[r.frame], 32, 0.3, 'reflect'))


def test_annotations_with_gaps(tmp_path, boxes_of):
    "Shorter or longer than the video, frames missing, zeros left out by the reader, boxes that are nowhere."
    path = video(tmp_path / 'v.avi', moving(70))
    boxes = {
        0: (10.0, 10.0, 20.0, 20.0),
        4: (18.0, 10.0, 20.0, 20.0),
        20: (18.0, 20.0, 20.0, 20.0),
        21: (900.0, 20.0, 20.0, 20.0),
        90: (10.0, 10.0, 20.0, 20.0),
    }
    f = extract(table(path, annotation=annotate(tmp_path / 'v.face', boxes), annotation_format='lines'), tmp_path / 'c')
    assert len(f) == 70 and f.face[0] == f.face[4] == f.face[20] == 'box'
    assert f.box[2] == (14.0, 10.0, 20.0, 20.0) and f.box[12] == (18.0, 15.0, 20.0, 20.0) and f.box[21] != boxes[21]
    assert (
        (f.face[21:46] == 'tracked').all() and (f.face[46:65] == 'fallback').all() and (f.face[65:] == 'tracked').all()
    )
    assert [n for _, n in f.attrs['notes']] == [
        '1 of 5 annotated boxes are not on its frames',
        '67 of 70 frames have no annotated box',
        'the annotation goes on to frame 90; the last frame is 69',
    ]
    assert f.attrs['counts'] == dict(images=70, skipped=0, box=3, detected=0, tracked=48, fallback=19, videos=1)
    assert (
        '70 frames, of 1 videos: face given by the table in 3, detected in 0, '
        'carried over from frames beside it in 48, not found in 19 (live 19' in frames_summary(f)
    )


@pytest.mark.parametrize(
    'name,form,message',
    [
        (
            'gone.face',
            'lines',
            'its annotation .*gone.face does not exist; mend it, or leave the column annotation empty',
        ),
        ('v.face', 'runes', "unknown format 'runes'"),
        ('bad.face', 'lines', 'cannot be used'),
    ],
)
def test_annotations_that_cannot_be_used(tmp_path, boxes_of, name, form, message):
    annotate(tmp_path / 'v.face', {0: (1, 1, 9, 9)})
    (tmp_path / 'bad.face').write_text('one two')
    with pytest.raises(ValueError, match=f'1 of 1 videos cannot be used.*{message}'):
        extract(
            table(video(tmp_path / 'v.avi', moving(3)), annotation=str(tmp_path / name), annotation_format=form),
            tmp_path / 'c',
        )


@pytest.mark.parametrize('boxes', [{}, {i: (0, 0, 0, 0) for i in range(3)}])
def test_an_annotation_without_boxes_is_said(tmp_path, boxes):
    path = tmp_path / 'v.face'
    path.write_text(''.join(f'{i} {" ".join(map(str, b))}\n' for i, b in boxes.items()))
    for _ in range(2):  # decoded, and from the cache
        f = extract(
            table(video(tmp_path / 'v.avi', moving(3)), annotation=str(path), annotation_format='replay'),
            tmp_path / 'c',
        )
        assert (
            len(f) == 3
            and not (f.face == 'box').any()
            and [n for _, n in f.attrs['notes']] == [f'its annotation {path} has no box; faces were looked for']
        )


def test_annotation_of_an_image(tmp_path, picture):
    with pytest.raises(ValueError, match='an image has an annotation file: row 0.*column box'):
        extract(table(*many(tmp_path / 'i', picture, 1), annotation='x.face'), tmp_path / 'c')


def test_one_box_for_a_video(tmp_path):
    path = video(tmp_path / 'v.avi', moving(4))
    f = extract(table(path, box='8 9 30 30'), tmp_path / 'c')
    assert (f.face == 'box').all() and f.box.tolist() == [(8.0, 9.0, 30.0, 30.0)] * 4
    with pytest.raises(ValueError, match='its box .* is not on the image of 96x64'):
        extract(table(path, box='500 9 30 30'), tmp_path / 'c')


@pytest.mark.parametrize('box', [(-9, -5, 30, 30), (70, 40, 40, 30), (0, 0, 96, 64), (40.4, 20.2, 11.3, 7.7)])
def test_crop_reflects(box):
    image = moving(1)[0]
    x, y, w, h = box
    side = round(1.5 * max(w, h))
    left, top = round(x + w / 2 - side / 2), round(y + h / 2 - side / 2)
    want = np.pad(image, ((200, 200), (200, 200), (0, 0)), mode='reflect')[
        top + 200 : top + 200 + side, left + 200 : left + 200 + side
    ]
    assert np.array_equal(crop_face(image, box, side, 0.5, 'reflect'), want)


def test_smoothing_against_brute_force():
    rng = np.random.default_rng(0)
    boxes = {int(i): tuple(rng.uniform(10, 50, 4)) for i in rng.permutation(60)[:40]}
    for radius in (0, 1, 5, 100):
        got = smooth_boxes(boxes, radius)
        assert list(got) == sorted(boxes)
        for i in boxes:
            near = np.array([(x + w / 2, y + h / 2, w, h) for j, (x, y, w, h) in boxes.items() if abs(i - j) <= radius])
            cx, cy, w, h = np.median(near, 0)
            assert got[i] == pytest.approx((cx - w / 2, cy - h / 2, w, h))
    assert smooth_boxes({}) == {} and smooth_boxes({3: (1.0, 2.0, 4.0, 4.0)}) == {3: (1.0, 2.0, 4.0, 4.0)}


def test_detected_boxes_are_smoothed_and_carried(tmp_path, monkeypatch):
    "A detector that trembles, jumps once, and misses a second and more at the end."
    images = moving(60)
    path = video(tmp_path / 'v.avi', images)

    def detect(image):
        i = int(np.abs(np.array([np.abs(m.astype(int) - image).mean() for m in images])).argmin())
        return (
            None
            if i in (7, 8) or i > 30
            else (60.0, 5.0, 20.0, 20.0)
            if i == 15
            else (20.0 + 0.5 * i, 10.0 + (-1) ** i, 30.0, 30.0)
        )

    monkeypatch.setattr(faces_module, 'detect_face', detect)
    f = extract(table(path), tmp_path / 'c')
    truth = np.array([20 + 0.5 * i for i in range(60)])
    assert (
        f.face.tolist() == ['detected'] * 7 + ['tracked'] * 2 + ['detected'] * 22 + ['tracked'] * 25 + ['fallback'] * 4
    )
    x = np.array([b[0] for b in f.box])
    assert np.abs(x - truth)[:31].max() <= 1.6
    raw = extract(table(path), tmp_path / 'c', smooth=0)
    assert raw.box[15] == (60.0, 5.0, 20.0, 20.0)
    monkeypatch.setattr(frames_module, 'KEEP_BYTES', 0)  # a second pass instead of keeping
    pd.testing.assert_frame_equal(
        f.drop(columns=['frame_path', 'face_path']),
        (again := extract(table(path), tmp_path / 'd')).drop(columns=['frame_path', 'face_path']),
    )
    for c in ('frame_path', 'face_path'):
        assert all(Path(a).read_bytes() == Path(b).read_bytes() for a, b in zip(f[c], again[c]))


def test_large_pictures_are_searched_reduced(tmp_path, monkeypatch):
    seen = []

    def detect(image):
        seen.append(image.shape)
        return (10.0, 20.0, 100.0, 90.0)

    monkeypatch.setattr(faces_module, 'detect_face', detect)
    f = extract(table(video(tmp_path / 'v.avi', moving(2, (960, 720)))), tmp_path / 'c', first=1)
    assert seen == [(360, 480, 3)] and f.box[0] == (20.0, 40.0, 200.0, 180.0)


def test_yunet(tmp_path, picture, monkeypatch):
    made = []

    class Net:
        def setInputSize(self, size):
            self.size = size

        def detect(self, image):
            assert image.shape[1::-1] == self.size and image.flags.c_contiguous
            made.append(image)
            return 1, np.array([[1, 2, 8, 9, *[0] * 10, 0.9], [3, 4, 20, 21, *[0] * 10, 0.8]], np.float32)

    monkeypatch.setattr(cv2.FaceDetectorYN, 'create', lambda model, config, size, score_threshold: Net())
    (tmp_path / 'yunet.onnx').write_bytes(b'net')
    assert detect_face(picture, tmp_path / 'yunet.onnx') == (3.0, 4.0, 20.0, 21.0)
    assert np.array_equal(made[-1], picture[..., ::-1])  # BGR, as OpenCV has it
    t = table(*many(tmp_path / 'i', picture, 2), video(tmp_path / 'v.avi', moving(3)))
    f = extract(t, tmp_path / 'c', detector=tmp_path / 'yunet.onnx')
    assert (f.face == 'detected').all() and len(f) == 5 and set(f.box) == {(3.0, 4.0, 20.0, 21.0)}
    assert not set(f.frame_path) & set(extract(t, tmp_path / 'c').frame_path)


def test_yunet_that_is_none(tmp_path, picture):
    with pytest.raises(FileNotFoundError, match='no YuNet model at .*nix.onnx. Download'):
        extract(table(*many(tmp_path / 'i', picture, 1)), tmp_path / 'c', detector=tmp_path / 'nix.onnx')
    (tmp_path / 'a.onnx').write_text('a letter')
    with pytest.raises(ValueError, match='a.onnx is no YuNet model'):
        detect_face(picture, tmp_path / 'a.onnx')


def test_yunet_is_found_by_name(tmp_path, monkeypatch, picture):
    "In the folder of caches, or where the variable says; the error has the address and the digest of the public file."
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('GFA_YUNET', raising=False)
    with pytest.raises(FileNotFoundError, match=r'opencv_zoo/raw/main.*yunet_2023mar.onnx') as e:
        detect_face(picture, 'yunet')
    assert '8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4' in str(e.value)
    assert str(tmp_path / 'cache' / 'gfa_fastai') in str(e.value)
    kept = tmp_path / 'cache' / 'gfa_fastai' / 'face_detection_yunet_2023mar.onnx'
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b'half a net')
    assert yunet_file('yunet') == kept
    with pytest.raises(ValueError, match='Its SHA-256 is [0-9a-f]{64}, that of the published'):
        detect_face(picture, 'yunet')
    monkeypatch.setenv('GFA_YUNET', str(tmp_path / 'mine.onnx'))
    with pytest.raises(FileNotFoundError, match='no YuNet model at .*mine.onnx'):
        yunet_file('yunet')
    (tmp_path / 'mine.onnx').write_bytes(b'net')
    assert yunet_file('yunet') == tmp_path / 'mine.onnx'


@pytest.mark.parametrize('file', ['image', 'video'])
def test_the_face_and_its_surround(tmp_path, file):
    "A square around the face, of its own pixels where the face is small; another entry of the cache."
    pictures = moving(3, (96, 64))
    image = pictures[0]
    path = tmp_path / ('a.png' if file == 'image' else 'v.avi')
    if file == 'image':
        Image.fromarray(image).save(path)
    else:
        video(path, pictures)
        image = next(iter(video_frames(path, [0])))[1]
    t = table(path)
    t['box'] = [(30.0, 20.0, 20.0, 24.0)]
    whole = extract(t, tmp_path / 'c', size=32, first=1)
    near_face = extract(t, tmp_path / 'c', size=32, surround=2, first=1)
    assert np.array_equal(read_image(whole.frame_path[0]), resize_square(image, 32))
    assert np.array_equal(read_image(near_face.frame_path[0]), resize_square(image[8:56, 16:64], 32))
    small = extract(t, tmp_path / 'c', size=60, surround=2, first=1)
    assert np.array_equal(read_image(small.frame_path[0]), image[2:62, 10:70])  # not enlarged: more of the surround
    assert 'crops of faces had fewer than 60 pixels and were enlarged' in frames_summary(small)
    assert 'enlarged' not in frames_summary(extract(t, tmp_path / 'c', size=31, margin=0.3, first=1))
    for bad in (0.5, 30, 'x'):
        with pytest.raises(ValueError, match='surround'):
            extract(t, tmp_path / 'c', size=32, surround=bad)


# --- bad videos


def bad_videos(folder):
    "Every kind of video that cannot be used, and what is said about it."
    (folder / 'empty.avi').touch()
    (folder / 'letter.mp4').write_text('Dear Sir')
    (folder / 'folder.mov').mkdir()
    data = video(folder / 'x.mp4', moving(10)).read_bytes()
    (folder / 'x.mp4').unlink()
    (folder / 'cut.mp4').write_bytes(data[: len(data) * 2 // 3])
    (folder / 'cut.mov').write_bytes(data[:200])
    data = video(folder / 'x.avi', moving(10)).read_bytes()
    (folder / 'x.avi').unlink()
    (folder / 'header.avi').write_bytes(data[: data.index(b'movi') + 4])
    video(folder / 'slit.avi', moving(3, (96, 8)))
    return {
        'empty.avi': r'the file is empty \(0 bytes\)',
        'letter.mp4': r'not a readable video \(8 bytes\)',
        'folder.mov': 'it is a folder',
        'cut.mp4': 'not a readable video .*cut off.*copy it again',
        'cut.mov': 'not a readable video',
        'header.avi': 'not a readable video|no frame of it can be decoded',
        'slit.avi': 'only 96x8 pixels',
        'gone.avi': 'the file does not exist',
    }


def test_bad_videos(tmp_path):
    (tmp_path / 'v').mkdir()
    bad, good = (
        bad_videos(tmp_path / 'v'),
        [video(tmp_path / f'{i}.avi', moving(3, (96 + 2 * i, 64))) for i in range(4)],
    )
    t = table(*good, *(tmp_path / 'v' / n for n in bad))
    with pytest.raises(ValueError, match='8 of 12 videos cannot be used.*and 3 more'):
        extract(t, tmp_path / 'c')
    f = extract(t, tmp_path / 'c', max_bad=0.9)
    assert f.path.unique().tolist() == [str(g) for g in good] and len(f) == 12
    for (path, reason), (name, message) in zip(f.attrs['skipped'], bad.items()):
        assert Path(path).name == name
        with pytest.raises(ValueError, match=message):
            raise ValueError(reason)
    assert face_counts(f).skipped.tolist() == [8] and '8 unusable files skipped' in frames_summary(f)


def test_cut_off_and_one_frame(tmp_path):
    images = moving(20)
    data = video(tmp_path / 'v.avi', images).read_bytes()
    (tmp_path / 'v.avi').write_bytes(data[: len(data) // 2])
    video(tmp_path / 'one.mp4', images[:1])
    f = extract(table(tmp_path / 'v.avi', tmp_path / 'one.mp4'), tmp_path / 'c')
    n = len(f) - 1
    assert 5 <= n <= 12 and f.frame.tolist() == [*range(n), 0]
    for r in f.itertuples():
        assert near(read_image(r.frame_path), resize_square(images[r.frame], 32))
    ((path, note),) = f.attrs['notes']
    assert (
        path.endswith('v.avi')
        and note.startswith(f'it ends after {n + 1} of the 20 frames')
        and '1 remark' in frames_summary(f)
    )
    assert extract(table(tmp_path / 'one.mp4'), tmp_path / 'c', spread=8).frame.tolist() == [0]


def test_odd_names_of_videos(tmp_path):
    names = ['\u5c0f\u660e.AVI', 'na\u00efve caf\u00e9 100% %02d.avi', os.fsdecode(b'caf\xe9.avi')]
    source = video(tmp_path / 'v.avi', moving(3)).read_bytes()
    for n in names:
        (tmp_path / n).write_bytes(source)
    assert len(extract(table(*(tmp_path / n for n in names)), tmp_path / 'c\u00e4che')) == 9


# --- tables with videos


def test_images_and_videos_in_one_table(tmp_path, picture):
    v = video(tmp_path / 'v.avi', moving(3))
    i, j = many(tmp_path / 'i', picture, 2)
    f = extract(
        table(i, v, j).assign(dataset=['a', 'b', 'a'], label=['live', 'attack', 'live'], frame=[7, 0, 8]),
        tmp_path / 'c',
    )
    assert f.frame.tolist() == [7, 0, 1, 2, 8] and f.label.tolist() == ['live', 'attack', 'attack', 'attack', 'live']
    c = face_counts(f)
    assert c[['dataset', 'label', 'frames', 'fallback', 'not_found']].values.tolist() == [
        ['a', 'live', 2, 2, 1.0],
        ['b', 'attack', 3, 3, 1.0],
    ]


def test_rows_that_name_their_frame(tmp_path):
    v = video(tmp_path / 'v.avi', moving(12))
    f = extract(table(v), tmp_path / 'c', spread=3)
    again = extract(f, tmp_path / 'c', size=24)
    assert (
        again.frame.tolist() == f.frame.tolist() == [2, 6, 10]
        and again.box.tolist() == f.box.tolist()
        and (again.face == 'box').all()
    )
    t = table(v, v, subject='s', video='v', frame=[9, 4])
    assert extract(t, tmp_path / 'c').frame.tolist() == [9, 4]
    with pytest.raises(ValueError, match='it has no frame 99; the last one is 11'):
        extract(t.assign(frame=[4, 99]), tmp_path / 'c')
    flipped = extract(table(v, v, subject='s', video='v', flip=['', 'h']), tmp_path / 'c', first=2)
    assert (
        flipped.frame.tolist() == [0, 1, 0, 1]
        and flipped.flip.tolist() == ['', '', 'h', 'h']
        and flipped.frame_path.nunique() == 2
    )


def test_second_call_decodes_nothing(tmp_path, monkeypatch):
    for i in range(3):
        video(tmp_path / f'{i}.avi', moving(4 + i))
    t = table(*sorted(tmp_path.glob('*.avi')))
    first = extract(t, tmp_path / 'c')
    before = stamps(tmp_path / 'c')
    for k, p in enumerate(t.path):
        Path(p).rename(tmp_path / f'moved{k}.avi')
    monkeypatch.setattr(cv2, 'VideoCapture', lambda *a: pytest.fail('decoded again'))
    again = extract(t.assign(path=[str(tmp_path / f'moved{k}.avi') for k in range(3)]), tmp_path / 'c')
    pd.testing.assert_frame_equal(first.drop(columns='path'), again.drop(columns='path'))
    assert (
        stamps(tmp_path / 'c') == before
        and len(before) == 2 * (4 + 5 + 6)
        and first.attrs['counts'] == again.attrs['counts']
    )


def test_key_of_a_video(tmp_path, boxes_of):
    v = video(tmp_path / 'v.avi', moving(6))
    seen = set()

    def new(kw={}, **columns):
        made = extract(table(v, **columns), tmp_path / 'c', **kw).frame_path[0]
        fresh = made not in seen
        seen.add(made)
        return fresh

    face = annotate(tmp_path / 'v.face', {0: (10, 10, 20, 20)})
    assert (
        new()
        and not new()
        and new(box='10 5 20 20')
        and new(rotate=180)
        and new(max_frames=4)
        and not new(max_frames=4)
    )
    assert all(
        new(kw)
        for kw in (
            dict(size=24),
            dict(margin=0.5),
            dict(every=2),
            dict(spread=2),
            dict(smooth=1),
            dict(border='replicate'),
        )
    ) and not new(dict(workers=1))
    assert new(annotation=face, annotation_format='lines') and not new(annotation=face, annotation_format='lines')
    annotate(tmp_path / 'v.face', {0: (10, 10, 20, 21)})
    assert new(annotation=face, annotation_format='lines')
    video(v, moving(5))
    assert new()


def test_another_version_makes_other_entries(tmp_path, picture, monkeypatch):
    t = table(*many(tmp_path / 'i', picture, 1), video(tmp_path / 'v.avi', moving(2)))
    before = extract(t, tmp_path / 'c')
    monkeypatch.setattr(frames_module, 'ENTRY', frames_module.ENTRY + 1)
    assert not set(before.frame_path) & set(extract(t, tmp_path / 'c').frame_path)


def test_remarks_of_a_table(tmp_path, picture, monkeypatch):
    "HDR colours are said, and so is what a reader left out."
    monkeypatch.setattr(frames_module.video_header.__globals__['VideoHeader'], 'remarks', lambda self: ['HDR'])
    t = table(video(tmp_path / 'v.avi', moving(2)))
    t.attrs['left_out'] = 'live: 2 .heic'
    f = extract(t, tmp_path / 'c')
    assert f.attrs['notes'] == [(str(tmp_path / 'v.avi'), 'HDR')]
    assert '1 remark' in frames_summary(f) and 'live: 2 .heic' in frames_summary(f)


def test_damaged_videos_in_the_cache_are_made_again(tmp_path):
    t = table(video(tmp_path / 'v.avi', moving(4)))
    f = extract(t, tmp_path / 'c')
    folder = Path(f.frame_path[0]).parent
    files = {p: p.read_bytes() for p in sorted(folder.iterdir())}
    assert len(files) == 9
    rng = np.random.default_rng(0)
    for k, p in enumerate([*files] * 3):
        b = bytearray(files[p])
        b[rng.integers(len(b))] ^= 1 << rng.integers(8)
        if k % 3 == 0:
            p.unlink()
        else:
            p.write_bytes(b[: rng.integers(len(b))] if k % 3 == 1 else b)
        pd.testing.assert_frame_equal(f, extract(t, tmp_path / 'c'))
        assert {p: p.read_bytes() for p in sorted(folder.iterdir())} == files


def test_number_of_threads_changes_nothing(tmp_path):
    t = table(*(video(tmp_path / f'{i}{e}', moving(5 + i)) for i, e in enumerate([*CODECS] * 2)))
    one, many_ = extract(t, tmp_path / '1', workers=1), extract(t, tmp_path / '4', workers=4)
    assert all(
        Path(a).read_bytes() == Path(b).read_bytes()
        for c in ('frame_path', 'face_path')
        for a, b in zip(one[c], many_[c])
    )


@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='no SIGKILL on this system')
def test_kill_among_videos(tmp_path):
    t = table(
        *(video(tmp_path / f'{i:02d}.mp4', moving(20, (320 + 2 * i, 240))) for i in range(12)), box='100 50 100 100'
    )
    t.to_csv(tmp_path / 't.csv', index=False)
    child = extract_elsewhere(tmp_path / 't.csv', tmp_path / 'c', 160)

    def finished():
        return len(list((tmp_path / 'c').rglob('index.json')))

    while child.poll() is None and finished() < 2:
        time.sleep(0.002)
    child.kill()
    child.wait()
    assert 2 <= finished() < 12, 'the child was not killed in the middle'
    whole = {p: p.stat().st_mtime_ns for i in (tmp_path / 'c').rglob('index.json') for p in i.parent.iterdir()}
    f, clean = extract(t, tmp_path / 'c', size=160), extract(t, tmp_path / 'clean', size=160)
    assert len(f) == 240 and all(
        Path(a).read_bytes() == Path(b).read_bytes()
        for c in ('frame_path', 'face_path')
        for a, b in zip(f[c], clean[c])
    )
    assert all(p.stat().st_mtime_ns == t for p, t in whole.items())  # what was finished was not made again


def test_cache_of_videos_that_cannot_be_written(tmp_path, monkeypatch):
    t = table(video(tmp_path / 'v.avi', moving(2)))

    def full(*args, **kw):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match='cannot write .*cache.*no space left on the disk'):
        extract(t, tmp_path / 'cache')


# --- real faces


def test_real_photographs(tmp_path):
    if not PHOTOS.is_dir():
        pytest.skip('the photographs are not beside this checkout')
    df = split_by_subject(read_folder(PHOTOS), test_subjects=['0012', '0014'], dev_subjects=['0011'])
    assert len(df) == 288
    some = df.groupby(['subject', 'label']).head(6).reset_index(drop=True)
    f = extract(some, tmp_path / 'c', size=64)
    counts = f.attrs['counts']
    assert len(f) == counts['images'] == 72 and counts['skipped'] == counts['box'] == 0
    assert counts['detected'] > 0.75 * len(f), frames_summary(f)
    boxes = np.array(f.box[f.face == 'detected'].tolist())
    assert (
        (boxes[:, :2] >= 0).all()
        and (boxes[:, 0] + boxes[:, 2] <= 640).all()
        and (boxes[:, 1] + boxes[:, 3] <= 480).all()
    )
    again = np.array([detect_face(read_image(p)) for p in f.path[f.face == 'detected'].head(5)])
    assert np.array_equal(again, boxes[:5])


def test_opencv_5_has_no_cascade(monkeypatch, picture):
    "Said with its remedy, wherever a face is looked for."
    monkeypatch.setattr(faces_module, '_local', type('Local', (), {})())
    monkeypatch.delattr(cv2, 'CascadeClassifier')
    for find in (detect_face, find_faces):
        with pytest.raises(ImportError, match=r'no face cascades.*pip install "opencv-python<5"'):
            find(picture)
