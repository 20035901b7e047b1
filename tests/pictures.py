"Small pictures and a samples table of them: smooth ones are live, ones with a grid are attacks."

import cv2
import numpy as np
import pandas as pd
from PIL import Image


def picture(live, seed=0, side=32):
    "An RGB image (side, side, 3) uint8."
    rng = np.random.default_rng([seed, live])
    y, x = np.mgrid[:side, :side] / side
    waves = np.stack([100 + 60 * np.sin(6 * (x + k * y) + rng.uniform(0, 6)) for k in (0.5, 1, 2)], -1)
    grid = 0 if live else 40 * ((np.arange(side) % 2)[:, None, None])
    return np.clip(waves + grid + rng.normal(0, 6, waves.shape), 0, 255).astype(np.uint8)


def picture_table(root, people=(4, 3, 3), frames=1, side=32, dataset='d', gallery=False):
    "Two live videos and two attacks for each person, as extract_frames would give them."
    rows = []
    for s in range(sum(people)):
        split = ('train', 'dev', 'test')[np.searchsorted(np.cumsum(people), s, 'right')]
        for v, pai in enumerate(['', '', 'print', 'replay', *(['gallery'] if gallery else [])]):
            for f in range(frames):
                live = pai in ('', 'gallery')
                path = root / f'{dataset}{s}-{v}-{f}.png'
                Image.fromarray(picture(live, 100 * s + 10 * v + f, side)).save(path)
                rows.append(
                    dict(
                        dataset=dataset,
                        split=split,
                        subject=f'{dataset}{s}',
                        label='live' if live else 'attack',
                        pai='' if live else pai,
                        video=f'{dataset}{s}-{v}',
                        frame=f,
                        path=str(path),
                        frame_path=str(path),
                        face_path=str(path),
                        role='gallery' if pai == 'gallery' else 'probe',
                        camera=f'cam{v % 2}',
                    )
                )
    return pd.DataFrame(rows)


def bad_files(folder, picture):
    "Every kind of bad file, and what is said about it."
    Image.fromarray(picture).save(folder / 'whole.jpg')
    data = (folder / 'whole.jpg').read_bytes()
    (folder / 'whole.jpg').unlink()
    (folder / 'half.jpg').write_bytes(data[: len(data) // 2])
    (folder / 'empty.jpg').touch()
    (folder / 'letter.jpg').write_text('Dear Sir')
    Image.fromarray(picture[:1, :1]).save(folder / 'dot.png')
    Image.fromarray(picture[:15]).save(folder / 'strip.png')
    Image.fromarray(picture[..., 0].astype(np.float32)).save(folder / 'float.tif')
    Image.fromarray(picture[..., 0].astype(np.int32) * 70_000).save(folder / 'wide.tif')
    (folder / 'folder.jpg').mkdir()
    return {
        'half.jpg': 'not a readable image.*[Tt]runcated',
        'empty.jpg': r'the file is empty \(0 bytes\)',
        'letter.jpg': r'not a readable image \(8 bytes\): it is none of',
        'dot.png': 'only 1x1 pixels; at least 16',
        'strip.png': 'only 64x15 pixels',
        'float.tif': 'floats of unknown range',
        'wide.tif': 'more than 16 bits',
        'folder.jpg': 'it is a folder',
        'gone.jpg': 'the file does not exist',
    }


CODECS = {'.avi': 'MJPG', '.mov': 'mp4v', '.mp4': 'mp4v'}


def moving(n, size=(96, 64)):
    "`n` RGB pictures, smooth, different from each other, a quarter grey level bright for each frame."
    rng = np.random.default_rng(5)
    base = cv2.resize(rng.integers(40, 180, (6, 8, 3), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)
    return [np.roll(base, 2 * i, 1) // 2 + np.uint8(3 * i) for i in range(n)]


def video(path, images, codec=None):
    out = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*(codec or CODECS[path.suffix])), 25, images[0].shape[1::-1]
    )
    assert out.isOpened()
    for image in images:
        out.write(np.ascontiguousarray(image[..., ::-1]))
    out.release()
    return path


def near(a, b, limit=4):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).mean() < limit


def wrong_header(path, frames):
    "Let the header of an .avi promise another number of frames."
    b = bytearray(path.read_bytes())
    for tag, at in ((b'avih', 8 + 16), (b'strh', 8 + 32)):
        k = b.index(tag) + at
        b[k : k + 4] = frames.to_bytes(4, 'little')
    path.write_bytes(b)
