"""Row `frames`: how fast extract_frames goes through a folder of videos, on one thread and on more, and what
memory it takes.

The videos are generated: a drawn face that moves, over a textured background. Each number of threads gets a
process and a cache of its own, and the videos in three portions, a tenth, a third and the rest: the peak of
memory after each says whether it grows with their number. The anchor is OpenCV alone, one thread that decodes
every frame. By the time of day, which minds who else is at work."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from benchmarks.measure import line


def picture(texture, n, i):
    "Frame `i` of video `n`: a face drawn from ellipses, on a piece of the texture."
    h, w = texture.shape[0] // 2, texture.shape[1] // 2
    image = texture[n % 37 : n % 37 + h, n % 53 : n % 53 + w].copy()
    r = h // 5
    at = int(w * (0.35 + 0.3 * np.sin(0.05 * i + n) ** 2)), int(h * (0.45 + 0.05 * np.cos(0.07 * i)))

    def oval(dx, dy, a, b, colour):
        cv2.ellipse(
            image,
            (int(at[0] + dx * r), int(at[1] + dy * r)),
            (max(1, int(a * r)), max(1, int(b * r))),
            0,
            0,
            360,
            colour,
            -1,
            cv2.LINE_AA,
        )

    oval(0, -0.25, 1.1, 1.35, (40, 40, 55))
    oval(0, 0, 0.9, 1.2, (140, 170, 215))
    for s in (-1, 1):
        oval(0.38 * s, -0.22, 0.2, 0.1, (240, 240, 240))
        oval(0.38 * s, -0.22, 0.09, 0.1, (60, 50, 40))
        oval(0.38 * s, -0.45, 0.25, 0.05, (50, 50, 70))
    oval(0, 0.2, 0.1, 0.25, (120, 145, 190))
    oval(0, 0.62, 0.35, 0.1, (90, 90, 170))
    return image


def generate(folder, videos, frames, size, ext):
    "Write the videos; a samples table."
    rng, (w, h), rows = np.random.default_rng(0), size, []
    texture = cv2.resize(
        rng.integers(60, 200, (h // 8, w // 8, 3), dtype=np.uint8),
        (2 * w + 64, 2 * h + 64),
        interpolation=cv2.INTER_CUBIC,
    )
    for n in range(videos):
        path = folder / f'{n:04d}.{ext}'
        out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*('MJPG' if ext == 'avi' else 'mp4v')), 30, (w, h))
        for i in range(frames):
            out.write(cv2.resize(picture(texture, n, i), (w, h)))
        out.release()
        rows.append(
            dict(
                dataset='bench',
                split='train',
                subject=f's{n}',
                label='live' if n % 2 else 'attack',
                video=f'v{n}',
                path=str(path),
            )
        )
    return pd.DataFrame(rows)


CHILD = """
import json, resource, sys, time, cv2, pandas as pd
from gfa_fastai.inputs.frames import extract_frames
from gfa_fastai.inputs.videos import video_frames
table, cache, workers, every = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == 'darwin' else 2**10)
cv2.setNumThreads(1)
t = pd.read_csv(table)
start, n = time.process_time(), sum(1 for p in t.path[:10] for _ in video_frames(p))
decode = (time.process_time()-start)/n
cuts = [0, len(t)//10, len(t)//3, len(t)]
base, n, peaks = peak(), 0, []
start, cpu = time.perf_counter(), time.process_time()
settings = dict(workers=workers, every=every, progress=False)
for a,b in zip(cuts, cuts[1:]):
    n += len(extract_frames(t.iloc[a:b], cache, **settings))
    peaks.append(round(peak()-base))
took, used = time.perf_counter()-start, time.process_time()-cpu
start = time.perf_counter()
extract_frames(t, cache, **settings)
print(json.dumps(dict(frames=n, took=took, used=used, peaks=peaks, again=time.perf_counter()-start, decode=decode)))
"""


def rows(a, every=(1, 5)):
    "The row of the report: milliseconds for a frame of the videos."
    videos, frames, size = (10, 10, (160, 120)) if a.quick else (60, 40, (640, 480))
    cores, lines = os.cpu_count(), []
    workers = sorted({min(2**k, cores) for k in range(8)})
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        (tmp / 'videos').mkdir()
        generate(tmp / 'videos', videos, frames, size, 'mp4').to_csv(tmp / 't.csv', index=False)
        for e in every:
            first = None
            for w in workers if e == 1 else workers[:1]:
                done = subprocess.run(
                    [sys.executable, '-c', CHILD, tmp / 't.csv', tmp / f'cache{w}-{e}', str(w), str(e)],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                r = json.loads(done.stdout.splitlines()[-1])
                per = videos * frames
                case = f'{videos} videos of {frames} frames, {size[0]}x{size[1]}, every {e}'
                if first is None and e == 1:
                    lines.append(line('frames', case, 'OpenCV, decoding all', [r['decode']]))
                first = first or r
                note = (
                    f'{r["used"] / per * 1e3:.1f} ms of processor; peak after 1/10, 1/3, all:'
                    f' +{", +".join(map(str, r["peaks"]))} MB; again {r["again"]:.1f} s'
                )
                lines.append(
                    line(
                        'frames',
                        case,
                        f'extract_frames, {w} thread(s)',
                        [r['took'] / per],
                        None if w == 1 else '1 thread',
                        [first['took'] / per],
                        note=note,
                    )
                )
    return lines
