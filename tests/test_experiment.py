"The two experiments on TPC: their shares and gates on errors that are known, and a small cell of each, recomputed."

from pathlib import Path

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


# --- real cameras


def counted(errors, of):
    return ' '.join(str(int(n)) for n in np.round(errors * np.asarray(of)))


def cameras_table(rates, seeds=5, people=(6, 15), spread=0.0):
    "A table of two directions whose error rates by arm are known."
    from gfa_fastai.run.real_cameras import ARMS_REAL, CONTROLS

    rng, rows = np.random.default_rng(0), []
    for (train, test), n in zip((('msu', 'nuaa'), ('nuaa', 'msu')), people):
        for arm in [*ARMS_REAL['arm'], *CONTROLS]:
            for seed in range(seeds) if arm in rates else [None]:
                p = np.clip(rates.get(arm, 0.5) + spread * rng.normal(size=n), 0, 1)
                wrong = dict(accepted=counted(p, [100] * n), rejected=counted(p, [100] * n))
                many = dict(attacks=counted(np.ones(n), [100] * n), lives=counted(np.ones(n), [100] * n))
                rows.append(dict(train=train, test=test, arm=arm, seed=seed, home_auc=0.9, auc=0.6, **wrong, **many))
    return pd.DataFrame(rows).assign(gap_before=1.0, gap_after=0.7)


def test_contrasts_of_real_cameras():
    from gfa_fastai.compare.repeats import interval_of
    from gfa_fastai.run.real_cameras import contrast_draws, finished_real_seeds, gates_of, word

    table = cameras_table({'plain': 0.40, 'TPC': 0.36, 'FDA': 0.38, 'both': 0.30})
    seeds = finished_real_seeds(table)
    assert seeds == list(range(5)) and finished_real_seeds(table.drop(index=table.index[0])) == list(range(1, 5))
    points = {k: interval_of(v)[0] for k, v in contrast_draws(table, seeds).items()}
    assert points == pytest.approx({'TPC': -6.0, 'FDA': -4.0, 'together': -10.0})
    gates = gates_of(table, seeds)
    assert gates['learned'] and gates['moved'] and not gates_of(table.assign(gap_after=0.9), seeds)['moved']
    assert not gates_of(table.assign(home_auc=0.7), seeds)['learned']
    assert [word(*v) for v in ((-5, -9, -1), (5, 1, 9), (0.5, -1.5, 1.9), (-5, -11, 1), (-1, -1.5, -0.5))] == [
        'helps',
        'hurts',
        'no effect',
        'cannot tell',
        'no effect',
    ]


def test_real_cameras_go_on_from_the_table(tmp_path):
    "Two made-up cameras: what the table has is not trained again, and the rest comes out as before."
    from PIL import Image
    from gfa_fastai.run.real_cameras import REAL_CAMERAS, read_real_cameras, run_real_cameras

    rng = np.random.default_rng(0)
    for camera in ('hall', 'door'):
        for k in range(3):
            for where in ('live', 'attack/print'):
                file = tmp_path / camera / where / f'p{k}' / 'a.png'
                file.parent.mkdir(parents=True)
                Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(file)
    data, file = {c: tmp_path / c for c in ('hall', 'door')}, tmp_path / 'table.csv'
    settings = REAL_CAMERAS | dict(size=32, steps=1, fit=1, seeds=(0,))

    def run():
        made = run_real_cameras(file, data, tmp_path / 'work', settings, progress=False)
        return made.drop(columns='cpu_seconds')

    whole = run()
    assert whole['arm'].tolist()[4:] == ['plain', 'TPC', 'FDA', 'both'] * 2 and whole['seed'].isna().sum() == 4
    assert str(tmp_path) not in file.read_text()
    read_real_cameras(file).iloc[:7].to_csv(file, index=False)
    pd.testing.assert_frame_equal(run(), whole)


# --- wide styles


def test_cameras_of_wide_styles():
    "Home leaves a picture as it is; a cast, a tone curve, blur and JPEG each do what the table says."
    from gfa_fastai.run.wide_styles import in_style

    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(60, 200, (6, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    noise = rng.integers(60, 200, (48, 48, 3)).astype(np.uint8)
    mean = {c: in_style(smooth, c).astype(float).mean((0, 1)) for c in ('home', 'warm', 'cold', 'soft', 'coarse')}
    assert abs(mean['home'] - smooth.mean((0, 1))).max() < 4
    assert mean['warm'][0] > mean['home'][0] + 10 and mean['cold'][0] < mean['home'][0] - 10
    assert mean['cold'][2] > mean['warm'][2] - 10 and mean['soft'][1] > mean['home'][1] > mean['coarse'][1]
    energy = {c: np.diff(in_style(noise, c).astype(float), axis=1).std() for c in mean}
    assert energy['soft'] < 0.4 * energy['home']


def wide_table(none=0.3, oracle=0.1, gap=0.5, home=0.05, people=60, seeds=3, **presets):
    "A table whose errors elsewhere are known."
    from gfa_fastai.run.wide_styles import ARMS_WIDE

    rng, rows = np.random.default_rng(0), []
    rates = dict(colour=0.2) | presets | dict(none=none, oracle=oracle)
    for seed in range(seeds):
        for arm in ARMS_WIDE:
            p = rates.get(arm, none)
            wrong = {k: ' '.join(map(str, rng.binomial(n, p, people))) for k, n in (('accepted', 16), ('rejected', 8))}
            judged = dict(gap_before=1.0, gap_after=gap, content=0.3) if arm not in ('none', 'oracle') else {}
            rows.append(dict(arm=arm, seed=seed, home_error=home, **wrong, **judged))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    'how, verdict',
    [
        (dict(paper=0.2), 'reproduced'),
        (dict(people=1000), 'refuted here'),
        (dict(home=0.25), 'void'),
        (dict(paper=0.2, gap=0.9), 'void'),
        (dict(oracle=0.28), 'void'),
    ],
)
def test_verdict_in_wide_styles(how, verdict):
    from gfa_fastai.run.wide_styles import errors_in_style, finished_wide_seeds, verdict_wide

    table = wide_table(**how)
    seeds = finished_wide_seeds(table)
    assert seeds == [0, 1, 2] and finished_wide_seeds(table.iloc[:-1]) == [0, 1]
    assert abs(errors_in_style(table, 'none', seeds).mean() - 0.3) < 0.02
    assert finished_wide_seeds(table.iloc[:6]) == [0]
    assert verdict_wide(table, seeds) == verdict


def test_wide_styles_go_on_from_the_table(tmp_path):
    from gfa_fastai.run.wide_styles import ARMS_WIDE, IN_WIDE, read_wide, run_wide

    file, settings = tmp_path / 'table.csv', IN_WIDE | dict(subjects=(2, 2, 3), steps=1, fit=1, seeds=(0,))

    def run(work):
        return run_wide(file, tmp_path / work, settings, progress=False).drop(columns='cpu_seconds')

    whole = run('work')
    assert tuple(whole['arm']) == ARMS_WIDE and whole['gap_after'].notna().sum() == 4
    assert [len(text.split()) for text in whole['accepted']] == [3] * 6
    read_wide(file).iloc[:4].to_csv(file, index=False)
    pd.testing.assert_frame_equal(run('elsewhere'), whole)  # people and networks are made again, to the last digit


def test_real_cameras_recomputed_from_the_table():
    "The contrasts of the committed table by plain loops, and its controls against its own counts."
    from gfa_fastai.run.real_cameras import ARMS_REAL, CONTROLS, contrast_draws, finished_real_seeds, read_real_cameras

    table = read_real_cameras(results_file('real_cameras.csv'))
    seeds = finished_real_seeds(table)

    def hter(row):
        wrong = {c: sum(map(int, row[c].split())) for c in ('accepted', 'attacks', 'rejected', 'lives')}
        return 50 * (wrong['accepted'] / wrong['attacks'] + wrong['rejected'] / wrong['lives'])

    assert set(table['arm']) <= {*ARMS_REAL['arm'], *CONTROLS} and not table.duplicated(['train', 'arm', 'seed']).any()
    rates = table.assign(hter=table.apply(hter, axis=1))
    mean = rates[rates['seed'].isin(seeds)].groupby('arm')['hter'].mean()
    points = {k: v[0] for k, v in contrast_draws(table, seeds).items()}
    assert points['together'] == pytest.approx(mean['both'] - mean['plain'])
    assert points['TPC'] == pytest.approx((mean['TPC'] + mean['both'] - mean['plain'] - mean['FDA']) / 2)
    assert points['FDA'] == pytest.approx((mean['FDA'] + mean['both'] - mean['plain'] - mean['TPC']) / 2)


PHOTOS = Path(__file__).resolve().parents[2] / 'shared/data'


@pytest.mark.skipif(not PHOTOS.is_dir(), reason='no photographs at ../shared/data')
def test_a_control_of_real_cameras_recomputed():
    from gfa_fastai.run.real_cameras import control_row, read_real_cameras
    from gfa_fastai.run.reproduce import read_data

    table = read_real_cameras(results_file('real_cameras.csv'))
    kept = table[(table['train'] == 'nuaa') & (table['arm'] == 'sharpness alone')].iloc[0]
    rows = [read_data(PHOTOS / f'{name}_small', draw=False) for name in ('nuaa', 'msu')]
    again = control_row('sharpness alone', *(r.assign(frame_path=r['path']) for r in rows))
    assert {k: again[k] for k in ('accepted', 'rejected', 'lives')} == kept[['accepted', 'rejected', 'lives']].to_dict()


# --- Table 1 from random weights


def random_table(plain=0.3, oracle=0.1, home=0.1, gap=0.5, people=80, seeds=10, **arms):
    "A table whose errors are known, before four cameras."
    from gfa_fastai.run.random_start import DOMAIN_NAMES, RANDOM_START, networks_of

    rng, rows = np.random.default_rng(0), []
    rates = dict(TPC=plain, FDA=plain, both=plain) | arms | dict(plain=plain, oracle=oracle)
    for seed in range(seeds):
        for train, arm in networks_of(RANDOM_START):
            for test in DOMAIN_NAMES:
                p = home if train == test else rates[arm['arm']]
                row = dict(train=train, arm=arm['arm'], seed=seed, test=test, auc=0.9, attacks=6, lives=3)
                row |= {k: ''.join(map(str, rng.binomial(n, p, people))) for k, n in (('accepted', 6), ('rejected', 3))}
                rows.append(row | (dict(gap_before=1.0, gap_after=gap) if arm['fda'] else {}))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    'how, verdicts',
    [
        (dict(TPC=0.2), ('reproduced', 'refuted here', 'refuted here')),
        (dict(TPC=0.28, FDA=0.2), ('refuted here', 'reproduced', 'refuted here')),
        (dict(TPC=0.2, gap=0.9), ('reproduced', 'void', 'void')),
        (dict(TPC=0.2, home=0.2), ('void',) * 3),
        (dict(TPC=0.2, oracle=0.29), ('void',) * 3),
        (dict(TPC=0.2, seeds=9), ('undecided',) * 3),
    ],
)
def test_verdict_from_random_weights(how, verdicts):
    from gfa_fastai.run.random_start import finished_random_seeds, gates_random, verdicts_random

    table = random_table(**how)
    seeds = finished_random_seeds(table)
    assert seeds == list(range(how.get('seeds', 10))) and finished_random_seeds(table.iloc[:-1]) == seeds[:-1]
    assert abs(gates_random(table, seeds)['error_at_home'] - 100 * how.get('home', 0.1)) < 1
    assert tuple(verdicts_random(table, seeds).values()) == verdicts


def test_random_start_goes_on_from_the_table(tmp_path):
    "Two people a split: what the table has is not trained again, and the rest comes out to the last digit."
    from gfa_fastai.run.random_start import DOMAIN_NAMES, RANDOM_START, read_random_start, run_random_start, tested_in

    small = dict(subjects=(2, 2, 2), size=32, steps=1, fit=1, fit_width=0.0625, seeds=(0,))
    file, settings = tmp_path / 'table.csv', RANDOM_START | small

    def run(work):
        return run_random_start(file, tmp_path / work, settings, progress=False).drop(columns='cpu_seconds')

    whole = run('work')
    assert len(whole) == 9 * len(DOMAIN_NAMES) and whole['gap_after'].notna().sum() == 4 * len(DOMAIN_NAMES)
    assert whole['attacks'].eq(6).all() and whole['lives'].eq(3).all() and whole['accepted'].str.len().eq(2).all()
    assert [len(tested_in(whole, a, [0])) for a in ('plain', 'both', 'oracle')] == [6, 6, 6]
    home = tested_in(whole, 'plain', [0], 'at home')
    assert [(t.train, t.test) for t in home] == [('webcam', 'webcam'), ('phone', 'phone')]
    read_random_start(file).iloc[: 3 * len(DOMAIN_NAMES)].to_csv(file, index=False)
    pd.testing.assert_frame_equal(run('elsewhere'), whole)


# --- Two tasks or one


def tasks_table(both=0.2, alone=0.15, lost=0.05, share=0.5, fall=1.0, seeds=10, people=200):
    "A table whose errors are known, before two cameras; `share` of what is lost is avoided by both tasks."
    from gfa_fastai.run.two_tasks import ARMS_TASKS, packed

    rng, rows = np.random.default_rng(0), []
    losses = dict(zip(ARMS_TASKS, (lost * (1 - share), None, lost, lost)))

    def errors(rate, attacks, lives):
        n = people
        columns = rng.binomial(attacks, rate, n), np.full(n, attacks), rng.binomial(lives, rate, n), np.full(n, lives)
        return packed(np.stack(columns, 1))

    for seed in range(seeds):
        for train in ('webcam', 'phone'):
            for arm in ARMS_TASKS:
                spoof = dict(zip(ARMS_TASKS, (both, alone))).get(arm)
                steps = 100 * (fall if arm == 'both tasks' else 1.0) * rng.uniform(0.95, 1.05)
                network = dict(train=train, arm=arm, seed=seed, fall=steps)
                for test in ('webcam', 'phone'):
                    row = network | dict(test=test)
                    if spoof is not None:
                        rows.append(row | dict(measure='spoof') | errors(spoof, 60, 30))
                    if losses[arm] is not None:
                        rows.append(row | dict(measure='live') | errors(0.03, 600, 30))
                        rows.append(row | dict(measure='attack') | errors(0.03 + losses[arm], 1200, 60))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    'how, verdicts',
    [
        (dict(), ('reproduced', 'refuted here', 'reproduced')),
        (dict(both=0.15, share=0.1, fall=1.5), ('refuted here', 'reproduced', 'refuted here')),
        (dict(fall=np.nan), ('reproduced', 'void', 'reproduced')),
        (dict(lost=0.01), ('reproduced', 'refuted here', 'void')),
        (dict(both=0.3), ('void',) * 3),
        (dict(seeds=9), ('undecided',) * 3),
    ],
)
def test_verdict_on_two_tasks(how, verdicts):
    from gfa_fastai.run.two_tasks import verdicts_tasks

    assert tuple(verdicts_tasks(tasks_table(**how)).values()) == verdicts


def test_verdict_on_two_tasks_from_the_committed_errors():
    from gfa_fastai.run.two_tasks import ARMS_TASKS, TWO_TASKS, read_two_tasks, unpacked, verdicts_tasks

    table = read_two_tasks(results_file('two_tasks.csv'))
    networks = table.drop_duplicates(['train', 'arm', 'seed'])
    assert networks.groupby('arm').size().to_dict() == dict.fromkeys(ARMS_TASKS, 20)
    people = TWO_TASKS['subjects'][2]
    assert all(unpacked(row).shape == (people, 4) for row in table.to_dict('records'))
    assert list(verdicts_tasks(table).values()) == ['reproduced', 'refuted here', 'refuted here']


def test_two_tasks_go_on_from_the_table(tmp_path):
    from gfa_fastai.run.two_tasks import ARMS_TASKS, TWO_TASKS, read_two_tasks, run_two_tasks

    file, settings = tmp_path / 'table.csv', TWO_TASKS | dict(subjects=(3, 2, 3), epochs=1, bs=8, seeds=(0,), size=32)

    def run():
        return run_two_tasks(file, tmp_path / 'work', settings, progress=False).drop(columns='cpu_seconds')

    whole = run()
    assert len(whole) == 2 * (6 + 2 + 4 + 4)
    assert whole.drop_duplicates(['train', 'arm'])['arm'].tolist() == 2 * list(ARMS_TASKS)
    read_two_tasks(file).iloc[:8].to_csv(file, index=False)
    pd.testing.assert_frame_equal(run(), whole)
