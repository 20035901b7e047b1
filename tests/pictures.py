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
