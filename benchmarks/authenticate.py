"""How fast a face is authenticated: python benchmarks/authenticate.py [--full]

Start-up (imports beyond PyTorch, loading a model), the latency of `verify` for one photograph of 640x480
pixels, split into detector, network and the rest, and pictures a second through the network in batches; for the
shipped small model and, with --full, for a network of the paper's size with random weights. One thread unless
OMP_NUM_THREADS says otherwise."""

import argparse
import os
import subprocess
import sys
import time

os.environ.setdefault('OMP_NUM_THREADS', '1')

START = (
    'import time; t = time.perf_counter(); import torch; u = time.perf_counter(); from gfa_fastai.use.authenticate'
    ' import FaceAuthenticator; v = time.perf_counter(); FaceAuthenticator.load("small", device="cpu"); print(u-t, v-u,'
    ' time.perf_counter()-v)'
)


def timed(f, least=2.0):
    "Median seconds of a call."
    f()
    times = []
    while sum(times) < least or len(times) < 5:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def scene(h=480, w=640):
    "A rendered face in a larger room."
    import numpy as np
    from gfa_fastai.synth.faces import EVEN, NEUTRAL, draw_clothes, identity, render_scene

    room = np.full((h, w, 3), 0.25, np.float32)
    linear = render_scene(
        identity(1), NEUTRAL, np.eye(3), (w / 2, 0.45 * h), h / 5, EVEN, room, draw_clothes(np.random.default_rng(1))
    )[0]
    return (255 * np.clip(linear, 0, 1) ** (1 / 2.2)).round().astype(np.uint8)


def measure(name, auth, image, batches=(1, 8, 32)):
    "Lines of the report for one authenticator."
    import numpy as np
    from gfa_fastai.use.authenticate import both_answers
    from gfa_fastai.inputs.faces import find_faces

    rng = np.random.default_rng(0)
    reading = auth.read_faces([image])[0]
    if reading.code:
        sys.exit(f'the picture of the benchmark is turned away: {reading.reason}')
    auth.gallery.add('somebody', reading.embedding)
    whole, faces = timed(lambda: auth.verify(image)), timed(lambda: find_faces(image))
    x = {n: rng.integers(0, 256, (n, auth.size, auth.size, 3), dtype=np.uint8) for n in batches}
    net = {n: timed(lambda: both_answers(auth.model, x[n], x[n])) for n in batches}
    print(
        f'{name}: verify {1000 * whole:.0f} ms (detector {1000 * faces:.0f}, network {1000 * net[1]:.1f}, the rest'
        f' {1000 * (whole - faces - net[1]):.0f}); '
        + ', '.join(f'{n / t:.0f} pictures/s in batches of {n}' for n, t in net.items())
    )


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        '--full', action='store_true', help='also a network of width 1 at 224 pixels (1 GB of random weights)'
    )
    a = p.parse_args()
    torch_s, own, load = map(
        float, subprocess.run([sys.executable, '-c', START], capture_output=True, text=True, check=True).stdout.split()
    )
    print(f'start-up: PyTorch {torch_s:.1f} s, then imports {own:.2f} s and the small model {load:.2f} s')
    from gfa_fastai.use.authenticate import FaceAuthenticator
    from gfa_fastai.model import GFACNN

    image = scene()
    small = FaceAuthenticator.load('small', device='cpu')
    measure('small', small, image)
    if a.full:
        measure(
            'width 1, 224 px',
            FaceAuthenticator(
                GFACNN(15).eval(),
                dict(size=224, margin=0.3),
                live_threshold=0.5,
                similarity_threshold=0.5,
                device='cpu',
            ),
            image,
            (1, 8),
        )
