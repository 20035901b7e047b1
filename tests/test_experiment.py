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


@pytest.fixture(scope='module')
def toy():
    "Settings of a run of seconds."
    from gfa_fastai.run.in_vivo import IN_VIVO

    return IN_VIVO | dict(subjects=(4, 2, 4), steps=2, seeds=(0, 1))


def test_in_vivo_goes_on_from_the_table_alone(toy, tmp_path):
    from gfa_fastai.run.in_vivo import ARMS_IN_VIVO, missing_networks, read_in_vivo, run_in_vivo

    arms, file = ARMS_IN_VIVO.iloc[[0, 1, 2, 5, 8]], tmp_path / 'table.csv'

    def run(work):
        return run_in_vivo(file, tmp_path / work, toy, arms, ('screen',), progress=False).drop(columns='cpu_seconds')

    whole = run('work')
    assert len(whole) == 10 and whole['seed'].tolist() == [0] * 5 + [1] * 5  # seed by seed, through all arms
    assert (whole['accepted'].str.len() == 4).all() and (whole['rejected'].str.len() == 4).all()
    read_in_vivo(file).iloc[:7].to_csv(file, index=False)
    assert [arm['arm'] for _, _, arm in missing_networks(read_in_vivo(file), toy, arms, ('screen',))] == [
        'positive control',
        'TPC 102',
        'TPC 102, clean',
    ]
    pd.testing.assert_frame_equal(run('elsewhere'), whole)  # images and networks are made again, to the last digit
    errors = whole.set_index(['arm', 'seed'])
    assert (errors.loc['TPC 102'] != errors.loc['TPC 102, clean'])['fc2_std'].all()


def made_up(arms, none=0.30, oracle=0.10, control=0.12, tpc=0.30, home=0.05, seeds=12, people=100):
    "A table whose errors elsewhere are known."
    rng, rows = np.random.default_rng(0), []
    means = {'none': none, 'oracle': oracle, 'positive control': control}
    for shortcut in ('screen', 'colour'):
        for seed in range(seeds):
            for arm in arms['arm']:
                p = means.get(arm, tpc)
                digits = {
                    k: ''.join(map(str, rng.binomial(n, p, people))) for k, n in (('accepted', 4), ('rejected', 2))
                }
                rows.append(
                    dict(weak=0.5, shortcut=shortcut, arm=arm, seed=seed, home_error=home, plain_error=p, **digits)
                )
    return pd.DataFrame(rows).assign(train_loss=0.05, steps=1500)


def test_gate_shares_and_verdict_in_vivo():
    from gfa_fastai.run.in_vivo import ARMS_IN_VIVO, finished_seeds, gate_in_vivo, shares_in_vivo

    table = made_up(ARMS_IN_VIVO)
    seeds = finished_seeds(table)
    assert seeds == list(range(12)) and finished_seeds(table.iloc[:-1]) == list(range(11))
    assert gate_in_vivo(table, seeds)['met']
    assert not gate_in_vivo(made_up(ARMS_IN_VIVO, control=0.25), seeds)['met']
    assert not gate_in_vivo(made_up(ARMS_IN_VIVO, home=0.2), seeds)['met']
    worse = made_up(ARMS_IN_VIVO, tpc=0.32)
    assert verdict_of(shares_in_vivo(worse, seeds)) == 'refuted here'
    assert verdict_of(shares_in_vivo(made_up(ARMS_IN_VIVO, tpc=0.2), seeds)) == 'reproduced'


def test_strengths_are_compared_at_their_own_steps():
    from gfa_fastai.run.in_vivo import ARMS_IN_VIVO, compare_strengths

    arms = ARMS_IN_VIVO[:3]
    weaker = made_up(arms, none=0.4, control=0.35).assign(weak=0.3)  # a larger gap, and the control does not close it
    twice = made_up(arms, none=0.5).assign(steps=3000)
    found = compare_strengths(pd.concat([made_up(arms), weaker, twice]), steps=1500)
    assert found['met'].to_dict() == {0.3: False, 0.5: True}
    assert found.loc[0.3, 'gap'] > found.loc[0.5, 'gap'] and abs(found.loc[0.5, 'gap'] - 20) < 2
