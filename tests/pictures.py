"Small pictures and a samples table of them: smooth ones are live, ones with a grid are attacks."

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
