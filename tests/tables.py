"Scores tables of nobody's network, for the tests of evaluation and protocols."

import numpy as np
import pandas as pd

from gfa_fastai.evaluation import SCORE_COLUMNS


def table(seed=0, dataset='d', people=(6, 7), frames=3, shift=0.0, pais=('print', 'replay')):
    "Random scores: two live videos and one of each attack for every person."
    rng, rows = np.random.default_rng(seed), []
    for s in range(sum(people)):
        for v, pai in enumerate(['', '', *pais]):
            for f in range(frames):
                rows.append(
                    (
                        dataset,
                        'dev' if s < people[0] else 'test',
                        f'{dataset}{s:03d}',
                        f'{dataset}{s}-{v}',
                        f,
                        'attack' if pai else 'live',
                        pai,
                        shift + rng.normal(0 if pai else 1.2),
                    )
                )
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)
