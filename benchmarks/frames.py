"""How fast extract_frames goes through a folder of videos, on one thread and on more, and what memory it takes: python benchmarks/frames.py

A hundred videos are generated: a drawn face that moves, over a textured background. Each number of threads gets a process
and a cache of its own, and the videos in three portions, a tenth, a third and the rest: the peak of memory after each says
whether it grows with their number. `per core` is frames per second of processor time, which does not mind who else uses the
machine; `frames/s` is by the clock and does. The line above the table is OpenCV alone, one thread that decodes every frame."""
import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from gfa_fastai.frames import extract_frames, frames_summary, video_frames


def picture(texture, n, i):
    "Frame `i` of video `n`: a face drawn from ellipses, on a piece of the texture."
    h, w = texture.shape[0]//2, texture.shape[1]//2
    image = texture[n % 37:n % 37+h, n % 53:n % 53+w].copy()
    r = h//5
    at = int(w*(.35+.3*np.sin(.05*i+n)**2)), int(h*(.45+.05*np.cos(.07*i)))
    def oval(dx, dy, a, b, colour): cv2.ellipse(image, (int(at[0]+dx*r), int(at[1]+dy*r)), (max(1, int(a*r)), max(1, int(b*r))), 0, 0, 360, colour, -1, cv2.LINE_AA)
    oval(0, -.25, 1.1, 1.35, (40, 40, 55)); oval(0, 0, .9, 1.2, (140, 170, 215))
    for s in (-1, 1): oval(.38*s, -.22, .2, .1, (240, 240, 240)); oval(.38*s, -.22, .09, .1, (60, 50, 40)); oval(.38*s, -.45, .25, .05, (50, 50, 70))
    oval(0, .2, .1, .25, (120, 145, 190)); oval(0, .62, .35, .1, (90, 90, 170))
    return image

def generate(folder, videos, frames, size, ext):
    "Write the videos; a samples table."
    rng, (w, h), rows = np.random.default_rng(0), size, []
    texture = cv2.resize(rng.integers(60, 200, (h//8, w//8, 3), dtype=np.uint8), (2*w+64, 2*h+64), interpolation=cv2.INTER_CUBIC)
    for n in range(videos):
        path = folder/f'{n:04d}.{ext}'
        out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*('MJPG' if ext == 'avi' else 'mp4v')), 30, (w, h))
        for i in range(frames): out.write(cv2.resize(picture(texture, n, i), (w, h)))
        out.release()
        rows.append(dict(dataset='bench', split='train', subject=f's{n}', label='live' if n % 2 else 'attack', video=f'v{n}', path=str(path)))
    return pd.DataFrame(rows)

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == 'darwin' else 2**10)

def child(table, cache, workers, every):
    "The run of one process: time, processor time, peaks of memory."
    cv2.setNumThreads(1)
    t = pd.read_csv(table)
    cuts = [0, len(t)//10, len(t)//3, len(t)]
    base, start, cpu, n, peaks = peak(), time.perf_counter(), time.process_time(), 0, []
    for a,b in zip(cuts, cuts[1:]):
        f = extract_frames(t.iloc[a:b], cache, workers=workers, every=every, progress=workers > 1)
        n += len(f); peaks.append(peak()-base)
    took, used = time.perf_counter()-start, time.process_time()-cpu
    start = time.perf_counter(); again = extract_frames(t, cache, workers=workers, every=every, progress=False)
    print(json.dumps(dict(frames=n, took=took, used=used, peaks=peaks, again=time.perf_counter()-start, summary=frames_summary(again))))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--videos', type=int, default=100, help='default: %(default)s')
    p.add_argument('--frames', type=int, default=60, help='of each video (default: %(default)s)')
    p.add_argument('--size', default='640x480', help='width x height in pixels (default: %(default)s)')
    p.add_argument('--ext', choices=['avi', 'mov', 'mp4'], default='mp4', help='default: %(default)s')
    p.add_argument('--every', type=int, default=1, help='take every n-th frame (default: %(default)s)')
    p.add_argument('--workers', type=int, nargs='+', default=None, help='threads (default: 1, 2, 4, ... up to the cores)')
    p.add_argument('--child', nargs=3, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child: return child(a.child[0], a.child[1], int(a.child[2]), a.every)
    cores = os.cpu_count()
    workers = a.workers or sorted({min(2**k, cores) for k in range(8)})
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp); (tmp/'videos').mkdir()
        t = generate(tmp/'videos', a.videos, a.frames, tuple(map(int, a.size.split('x'))), a.ext)
        t.to_csv(tmp/'t.csv', index=False)
        start = time.process_time(); n = sum(1 for path in t.path[:10] for _ in video_frames(path)); used = time.process_time()-start
        print(f'{a.videos} videos of {a.frames} frames, {a.size}, .{a.ext}; OpenCV {cv2.__version__}, {cores} cores, {platform.machine()}')
        print(f'decoding alone: {n/used:.0f} frames/s of processor time')
        rows = []
        for w in workers:
            done = subprocess.run([sys.executable, __file__, '--every', str(a.every), '--child', str(tmp/'t.csv'), str(tmp/f'cache{w}'), str(w)], stdout=subprocess.PIPE, text=True, check=True)
            r = json.loads(done.stdout)
            rows.append({'threads': w, 'frames': r['frames'], 's': round(r['took'], 1), 'frames/s': round(r['frames']/r['took']), 'per core': round(r['frames']/r['used']),
                         'cores used': round(r['used']/r['took'], 2), 'speed-up': round(rows[0]['s']/r['took'], 2) if rows else 1., **{f'MB {k}': round(m) for k,m in zip(('1/10', '1/3', 'all'), r['peaks'])}, 'again, s': round(r['again'], 1)})
        print(pd.DataFrame(rows).to_string(index=False))
        print(r['summary'])

if __name__ == '__main__': main()
