"""Draw the picture at the top of the front page, nbs/images/front.png: python scripts/front_picture.py

Rendered people that the small model has not seen, with the score that it gives each."""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from gfa_fastai.inputs.images import read_image
from gfa_fastai.pages import PALETTE, figure_style
from gfa_fastai.synth.benchmark import make_synthpad
from gfa_fastai.use.authenticate import FaceAuthenticator

PICTURE = Path(__file__).resolve().parents[1] / 'nbs/images/front.png'
ROWS = [''], ['print', 'warped', 'cut'], ['replay']


def draw(folder: str):
    "The first picture of each kind and camera, whatever its score."
    people = dict(domains=['phone', 'slr'], size=200, seed=1, subjects=(1, 1, 3))
    df = make_synthpad(folder, 'tiny', progress=False, **people).query("role == 'probe'")
    readings = FaceAuthenticator.load('small', device='cpu').read_faces(df.path.tolist())
    df = df.assign(score=[r.live for r in readings])[[r.code is None for r in readings]]
    chosen = pd.concat([df[df.pai.isin(kinds)].drop_duplicates('dataset').head(2) for kinds in ROWS])
    figure_style()
    fig, axs = plt.subplots(1, len(chosen), figsize=(2 * len(chosen), 2.4), layout='constrained')
    for ax, r in zip(axs, chosen.itertuples()):
        ax.imshow(read_image(r.path))
        ax.axis('off')
        ax.set_title(
            f'{r.pai or "live"}: score {r.score:.2f}', fontsize=11, color=PALETTE[0] if not r.pai else '#BB3344'
        )
    fig.savefig(PICTURE, dpi=80)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        draw(folder)
