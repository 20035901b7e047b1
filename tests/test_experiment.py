"The two experiments on TPC: their shares and gates on errors that are known, and a small cell of each, recomputed."

import numpy as np
import pandas as pd
import pytest

from gfa_fastai.pages import results_file
from gfa_fastai.run.in_vitro import (
    ARMS_IN_VITRO,
    draw_cues,
    seeds_needed,
    share_closed,
    train_in_vitro,
    verdict_of,
)


def noisy(mean, seeds=12, people=50, spread=0.02, seed=0):
    return np.random.default_rng(seed).normal(mean, spread, (seeds, people))


@pytest.mark.parametrize('mean, share', [(0.30, 0.0), (0.20, 0.5), (0.10, 1.0), (0.40, -0.5)])
def test_share_of_the_gap(mean, share):
    value, low, high = share_closed(noisy(0.30), noisy(mean, seed=1), noisy(0.10, seed=2))
    assert abs(value - share) < 0.03 and low < value < high and high - low < 0.2


def test_share_is_wider_at_a_higher_level_and_with_fewer_seeds():
    def width(seeds, level):
        errors = [noisy(mean, seeds, seed=k) for k, mean in enumerate((0.3, 0.2, 0.1))]
        _, low, high = share_closed(*errors, level=level)
        return high - low

    assert width(4, 0.95) > width(40, 0.95)
    assert width(12, 0.99) > width(12, 0.8)


@pytest.mark.parametrize(
    'intervals, verdict',
    [
        ([(0.2, 0.4), (-0.1, 0.1)], 'reproduced'),
        ([(-0.2, 0.1), (-0.1, 0.12)], 'refuted here'),
        ([(-0.2, 0.1), (0.1, 0.2)], 'undecided'),
    ],
)
def test_verdict(intervals, verdict):
    shares = pd.DataFrame([((low + high) / 2, low, high) for low, high in intervals], columns=['share', 'low', 'high'])
    assert verdict_of(shares) == verdict


def test_seeds_needed_grow_with_the_square_of_the_width():
    def needed(half):
        return seeds_needed(pd.DataFrame([dict(share=0.05, low=0.05 - half, high=0.05 + half)]), 10)

    assert needed(0.1) in (10, 11) and needed(0.2) in (40, 41)  # rounded up


def test_the_strong_cue_is_where_it_should_be():
    import torch

    for how, gap in (('with attacks', 4.0), ('at random', 0.0), ('absent', 0.0)):
        x, live = draw_cues(20_000, torch.Generator().manual_seed(0), how)
        means = x[live == 0].mean(0) - x[live == 1].mean(0)
        assert abs(means[0] - gap) < 0.1 and abs(means[1:] - 0.7).max() < 0.1
        assert (x[:, 0].std() > 2) == (how != 'absent')


def test_in_vitro_recomputed():
    "Two networks of the committed table from their seed alone; the share of them that differ is rounding."
    arms = ARMS_IN_VITRO[ARMS_IN_VITRO['arm'].isin(['none', 'TPC 6'])]
    again = train_in_vitro([3], arms).set_index('arm')
    kept = pd.read_csv(results_file('in_vitro.csv')).query('seed == 3').set_index('arm')
    for arm in again.index:
        assert abs(again.loc[arm, 'elsewhere_error'] - kept.loc[arm, 'elsewhere_error']) < 0.01
        assert abs(again.loc[arm, 'home_error'] - kept.loc[arm, 'home_error']) < 0.005
