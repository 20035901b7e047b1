"Videos: which frames there are, which way is up, what a header is worth, and what is refused."

import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from gfa_fastai.inputs import videos
from gfa_fastai.inputs.videos import (
    VIDEOS,
    choose_frames,
    clip_frames,
    is_cut_off,
    is_video,
    save_video,
    video_frames,
    video_header,
)
from pictures import CODECS, moving, near, video, wrong_header


@pytest.mark.parametrize('ext', CODECS)
def test_every_frame_in_order(tmp_path, ext):
    images, about = moving(30), {}
    got = list(video_frames(video(tmp_path / f'v{ext}', images), about=about))
    assert [i for i, _ in got] == list(range(30)) and about['total'] == 30
    header = about['header']
    assert header.frames == 30 and header.fps == 25 and not header.remarks()
    assert not is_cut_off(header, 30, about['seconds'])
    assert all(
        g.shape == images[0].shape and g.dtype == np.uint8 and g.flags.c_contiguous and near(g, images[i])
        for i, g in got
    )
    some = dict(video_frames(tmp_path / f'v{ext}', [3, 17, 29]))
    assert list(some) == [3, 17, 29] and all(np.array_equal(some[i], got[i][1]) for i in some)


def test_nothing_is_read_behind_the_last_wanted(tmp_path):
    about = {}
    assert (
        len(list(video_frames(video(tmp_path / 'v.avi', moving(20)), range(0, 5), about=about))) == 5
        and 'total' not in about
    )


def test_choice():
    for total in (1, 2, 7, 24, 450):
        assert list(choose_frames(total)) == list(range(total))
        for n in (1, 2, 3, 8, 500):
            assert list(choose_frames(total, every=n)) == list(range(0, total, n))
            assert list(choose_frames(total, first=n)) == list(range(min(total, n)))
            got = choose_frames(total, spread=n)
            assert len(got) == min(n, total) and got == sorted(set(got)) and 0 <= got[0] and got[-1] < total
            gaps = np.diff([-got[0] - 1, *got, 2 * total - got[-1] - 1] if len(got) < total else got)
            assert len(gaps) < 2 or gaps[1:-1].max(initial=0) - gaps[1:-1].min(initial=total) <= 1
            assert choose_frames(total, spread=n, first=5) == choose_frames(min(total, 5), spread=n)


def test_rotation_that_the_file_says(tmp_path):
    "A phone's tag is obeyed; a table that says 180 replaces it, so that nothing is turned twice."
    images = moving(6)
    b = bytearray(video(tmp_path / 'v.mp4', [i[::-1, ::-1] for i in images]).read_bytes())
    k = b.index(b'tkhd') + 4 + 40
    b[k : k + 36] = b''.join(
        v.to_bytes(4, 'big', signed=True) for v in (-65536, 0, 0, 0, -65536, 0, 96 << 16, 64 << 16, 1 << 30)
    )
    (tmp_path / 'v.mp4').write_bytes(b)
    for rotate in (0, 180):
        ((_, got),) = video_frames(tmp_path / 'v.mp4', [2], rotate)
        assert near(got, images[2])


# --- which way is up


TURNS = dict(
    none=((1, 0, 0, 1), lambda x: x),
    half=((-1, 0, 0, -1), lambda x: x[::-1, ::-1]),
    mirror=((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    upside_down_mirror=((1, 0, 0, -1), lambda x: x[::-1]),
    right=((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    left=((0, -1, 1, 0), np.rot90),
    transpose=((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
    transverse=((0, -1, -1, 0), lambda x: x[::-1, ::-1].transpose(1, 0, 2)),
)


def set_matrix(path, a, b, c, d, box=b'tkhd', at=40):
    "Write a display matrix into an .mp4."
    data = bytearray(path.read_bytes())
    k = data.index(box) + 4 + at
    data[k : k + 36] = struct.pack('>9i', a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize('name', TURNS)
@pytest.mark.parametrize('ending', ['.mp4', '.mov'])
def test_matrices_turn_and_mirror(tmp_path, name, ending):
    matrix, turn = TURNS[name]
    images = moving(4)
    set_matrix(video(tmp_path / f'v{ending}', images), *matrix)
    ((_, got),) = video_frames(tmp_path / f'v{ending}', [2])
    want = turn(images[2])
    assert got.shape == want.shape and near(got, want) and got.flags.c_contiguous


def test_a_matrix_of_the_movie(tmp_path):
    images = moving(3)
    set_matrix(video(tmp_path / 'v.mp4', images), -1, 0, 0, -1, b'mvhd', 36)
    ((_, got),) = video_frames(tmp_path / 'v.mp4', [1])
    assert near(got, images[1][::-1, ::-1])


def test_a_matrix_that_does_something_else(tmp_path):
    images = moving(3)
    path = video(tmp_path / 'v.mp4', images)
    data = bytearray(path.read_bytes())
    k = data.index(b'tkhd') + 4 + 40
    data[k : k + 36] = struct.pack('>9i', 46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)  # 45 degrees
    path.write_bytes(data)
    assert near(next(video_frames(path))[1], images[0])


# --- how many frames


def set_edit(path, shown, stored):
    "Let an edit list show the last frames alone, of those that are stored at 25 frames/s."
    data = bytearray(path.read_bytes())
    k = data.index(b'elst') + 12
    data[k : k + 8] = struct.pack('>Ii', shown * 40, (stored - shown) * 512)
    path.write_bytes(data)


@pytest.mark.parametrize('shown', [60, 20, 9, 4, 1])
def test_clips_that_were_trimmed_are_whole(tmp_path, shown):
    path = video(tmp_path / 'v.mp4', moving(80))
    set_edit(path, shown, 80)
    about = {}
    n = len(list(video_frames(path, about=about)))
    assert abs(n - shown) <= 1 and abs(about['header'].frames - n) <= 1
    assert not is_cut_off(about['header'], n, about['seconds'])
    assert len(list(clip_frames(path, 8))) == min(8, n)


@pytest.mark.parametrize('promised', [1, 8, 19, 21, 60, 500])
def test_headers_that_count_wrong(tmp_path, promised):
    images = moving(20)
    wrong_header(video(tmp_path / 'v.avi', images), promised)
    got = list(clip_frames(tmp_path / 'v.avi', 8))
    assert len(got) == 8 and all(near(g, images[i]) for g, i in zip(got, choose_frames(20, spread=8)))
    assert len(list(clip_frames(tmp_path / 'v.avi'))) == 20


@pytest.mark.parametrize('cut', [0.3, 0.5, 0.8])
def test_files_that_are_cut_off(tmp_path, cut):
    data = video(tmp_path / 'v.avi', moving(40)).read_bytes()
    (tmp_path / 'v.avi').write_bytes(data[: int(cut * len(data))])
    about = {}
    n = len(list(video_frames(tmp_path / 'v.avi', about=about)))
    assert 0 < n < 40 and about['header'].whole is False
    assert is_cut_off(about['header'], n, about['seconds'])
    assert len(list(clip_frames(tmp_path / 'v.avi', 4))) == 4


def front_index(path):
    "Move the index of an .mp4 to its front, as for streaming."
    data = path.read_bytes()
    at, boxes = 0, {}
    while at < len(data):
        size, kind = struct.unpack_from('>I4s', data, at)
        boxes[kind] = data[at : at + size]
        at += size
    moov = bytearray(boxes[b'moov'])
    k = moov.index(b'stco') + 8
    for i in range(struct.unpack_from('>I', moov, k)[0]):
        (old,) = struct.unpack_from('>I', moov, k + 4 + 4 * i)
        moov[k + 4 + 4 * i : k + 8 + 4 * i] = struct.pack('>I', old + len(moov))
    rest = b''.join(b for kind, b in boxes.items() if kind not in (b'ftyp', b'moov'))
    path.write_bytes(boxes[b'ftyp'] + moov + rest)


def test_an_mp4_whose_index_is_at_the_front(tmp_path):
    path = video(tmp_path / 'v.mp4', moving(40))
    front_index(path)
    assert len(list(video_frames(path))) == 40 and video_header(path).whole
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    about = {}
    n = len(list(video_frames(path, about=about)))
    assert 0 < n < 40 and is_cut_off(about['header'], n, about['seconds'])


# --- colours


@pytest.mark.parametrize('transfer, said', [(1, ''), (16, 'PQ'), (18, 'HLG'), (14, '')])
@pytest.mark.parametrize('kind', [b'nclx', b'nclc'])
def test_hdr_is_said(tmp_path, transfer, said, kind):
    path = video(tmp_path / 'v.mp4', moving(3))
    data = bytearray(path.read_bytes())
    k = data.index(b'pasp') if b'pasp' in data else data.index(b'esds')  # a box of the sample entry gives its place
    (size,) = struct.unpack_from('>I', data, k - 4)
    assert size >= 16
    colours = struct.pack('>I4s4sHHH', 18, b'colr', kind, 9, transfer, 9)
    if size < 18 + 8:
        pytest.skip('no box of this size to replace')
    data[k - 4 : k - 4 + 18] = colours
    data[k + 14 : k + 22] = struct.pack('>I4s', size - 18, b'free')
    path.write_bytes(data)
    assert video_header_of(path).hdr == said


def video_header_of(path):
    "The header without a decoder, which may not know such a file."
    return videos._read_header(path)


def test_hdr_is_said_where_frames_are_taken(tmp_path, monkeypatch):
    path = video(tmp_path / 'v.mp4', moving(3))
    monkeypatch.setattr(videos, '_colours_of', lambda data, track: 'HLG')
    assert 'HDR (HLG)' in video_header(path).remarks()[0]
    with pytest.warns(UserWarning, match=r'v.mp4: its colours are HDR .HLG. and come out wrong'):
        assert len(list(clip_frames(path, 2))) == 2


# --- what is read, and what is not


def test_endings():
    assert {'.3gp', '.mts', '.mpg', '.m4v', '.mp4', '.mov', '.avi', '.mkv', '.webm'} <= VIDEOS
    assert is_video('a.MTS') and is_video(Path('b/c.3gp')) and not is_video('a.jpg')


@pytest.mark.parametrize('ending', ['.3gp', '.m4v', '.mkv', '.mpg', '.mts', '.webm'])
def test_other_containers(tmp_path, ending):
    codec = {'.mpg': 'mpg1', '.mts': 'mp2v', '.webm': 'VP80'}.get(ending, 'mp4v')
    path, images = tmp_path / f'v{ending}', moving(20)
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (96, 64))
    for image in images:
        out.write(np.ascontiguousarray(image[..., ::-1]))
    out.release()
    if not path.exists() or not path.stat().st_size:
        pytest.skip('this OpenCV does not write it')
    about = {}
    got = [image for _, image in video_frames(path, about=about)]
    assert len(got) == 20 and near(got[7], images[7], 8)
    assert not is_cut_off(about['header'], 20, about['seconds'])
    assert len(list(clip_frames(path, 8))) == 8


@pytest.mark.parametrize(
    'content, words',
    [
        (b'', 'empty'),
        (b'Dear Sir', r'not a readable video \(8 bytes\)'),
        (b'#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n', 'not a readable video'),
        (b"ffconcat version 1.0\nfile '/etc/hostname'\n", 'not a readable video'),
        (b'<?xml version="1.0"?><MPD></MPD>', 'not a readable video'),
        (b'\0\0\0\x08moov' * 3, 'not a readable video'),
        (struct.pack('>I4sQ', 1, b'moov', 2**63) * 50, 'not a readable video'),
        (struct.pack('>I4s', 0, b'ftyp') * 50, 'not a readable video'),
    ],
)
def test_what_is_no_video(tmp_path, content, words):
    (tmp_path / 'v.mp4').write_bytes(content)
    for read in (video_header, lambda p: next(video_frames(p)), lambda p: next(clip_frames(p, 8))):
        with pytest.raises(ValueError, match=f'v.mp4: .*{words}'):
            read(tmp_path / 'v.mp4')


@pytest.mark.skipif(os.name == 'nt', reason='POSIX')
def test_a_pipe_is_no_video(tmp_path):
    os.mkfifo(tmp_path / 'v.mp4')
    with pytest.raises(ValueError, match='no regular file'):
        video_header(tmp_path / 'v.mp4')


def test_damaged_headers_raise_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    for ending in ('.mp4', '.avi'):
        data = video(tmp_path / f'v{ending}', moving(5)).read_bytes()
        for _ in range(40):
            b = bytearray(data)
            for i in rng.integers(len(b), size=4):
                b[i] = rng.integers(256)
            (tmp_path / f'w{ending}').write_bytes(b)
            try:
                video_header_of(tmp_path / f'w{ending}')
            except ValueError as e:
                assert 'begins like none' in str(e)


def test_names_that_are_not_utf8(tmp_path):
    "OpenCV ends the process on such a name, so this one is tried in another process."
    video(tmp_path / 'v.mp4', moving(5))
    folder = os.fsencode(tmp_path) + b'/caf\xe9'
    os.mkdir(folder)
    os.rename(tmp_path / 'v.mp4', folder + b'/\xff.mp4')
    code = (
        'import sys; from gfa_fastai.inputs.videos import *; '
        'print(len(list(video_frames(sys.argv[1]))), save_video(sys.argv[2], clip_frames(sys.argv[1])))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, folder + b'/\xff.mp4', folder + b'/\xfe.mp4'], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.split() == ['5', '5'], done.stderr
    assert sorted(os.listdir(folder)) == [b'\xfe.mp4', b'\xff.mp4']


# --- writing


def test_a_copy_keeps_the_frame_rate(tmp_path):
    for fps in (5, 10, 29.97, 60):
        save_video(tmp_path / 'a.mp4', moving(6), fps)
        save_video(tmp_path / 'b.mp4', clip_frames(tmp_path / 'a.mp4'), video_header(tmp_path / 'a.mp4').fps)
        assert abs(video_header(tmp_path / 'b.mp4').fps - fps) < 0.01


def test_a_video_that_is_not_finished(tmp_path, monkeypatch):
    "OpenCV says nothing where the disk is full."

    class Writer:
        def isOpened(self):
            return True

        def write(self, image):
            pass

        release = isOpened

    monkeypatch.setattr(cv2, 'VideoWriter', lambda *args: Writer())
    monkeypatch.setattr(cv2, 'VideoWriter_fourcc', lambda *args: 0, raising=False)
    with pytest.raises(RuntimeError, match='did not finish'):
        save_video(tmp_path / 'a.mp4', moving(2))
    assert not list(tmp_path.iterdir())


def test_no_warning_for_ordinary_clips(tmp_path):
    video(tmp_path / 'v.mp4', moving(3))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(list(clip_frames(tmp_path / 'v.mp4'))) == 3
