"Error rates against golden values, the definition in exact fractions, scikit-learn, properties, and bad input."

import subprocess, sys
from fractions import Fraction
from pathlib import Path
import numpy as np, pandas as pd, pytest
from gfa_fastai.metrics import *
from gfa_fastai.metrics import candidates, count_per_subject, rates_of_draws, resample_counts

GOLDEN = {
    'overlap': ([0.1, 0.2, 0.3, 0.45, 0.6], [0.4, 0.5, 0.7, 0.8, 0.9], 0.475, 0.2, 0.88),
    'separated': ([0.1, 0.2, 0.3], [0.7, 0.8, 0.9], 0.5, 0, 1),
    'reversed': ([0.7, 0.8, 0.9], [0.1, 0.2, 0.3], 0.5, 1, 0),
    'all equal': ([0.5] * 3, [0.5] * 3, 0.5, 0.5, 0.5),
    'all equal, unequal numbers': ([0.5] * 7, [0.5] * 2, 0.5, 0.5, 0.5),
}


def random_scores(seed):
    "Few or many scores, with ties or without, well separated, mixed or the wrong way round."
    rng = np.random.default_rng(seed)
    n, m, digits = rng.integers(1, 25), rng.integers(1, 25), rng.integers(0, 4)
    return rng.normal(0, 1, n).round(digits), rng.normal(rng.uniform(-2, 3), 1, m).round(digits)


def slow_threshold(attack, live):
    "The definition: every candidate, in exact fractions."
    attack, live = [float(a) for a in attack], [float(l) for l in live]
    s = sorted({*attack, *live})
    candidates = (
        [s[0]]
        + [(p + q) / 2 if p < (p + q) / 2 <= q else q for p, q in zip(s, s[1:])]
        + [float(np.nextafter(s[-1], np.inf))]
    )

    def difference(t):
        return abs(Fraction(sum(a >= t for a in attack), len(attack)) - Fraction(sum(l < t for l in live), len(live)))

    best = min(map(difference, candidates))
    ties = [t for t in candidates if difference(t) == best]
    if len(ties) > 1 and ties[-1] == candidates[-1]:
        ties.pop()
    return ties[-1]


# --- golden values


@pytest.mark.parametrize('name', GOLDEN)
def test_golden(name):
    a, l, t, e, area = GOLDEN[name]
    assert eer_threshold(a, l) == t
    assert eer(a, l) == e
    assert auc(a, l) == area


def test_golden_gaussian():
    r = np.random.RandomState(0)
    a, l = r.normal(0, 1, 300), r.normal(1.5, 1, 60)
    assert eer_threshold(a, l) == pytest.approx(0.732473, abs=5e-7)
    assert eer(a, l) == pytest.approx(0.233333, abs=5e-7)
    assert auc(a, l) == pytest.approx(0.816, abs=1e-12)


def test_all_equal_accepts_all():
    assert far_frr([0.5] * 3, [0.5] * 3, eer_threshold([0.5] * 3, [0.5] * 3)) == (1, 0)


def test_rates_by_hand():
    attack, live, pai = [0.1, 0.6, 0.7, 0.2], [0.5, 0.9], ['print', 'print', 'mask', 'replay']
    assert far_frr(attack, live, 0.6) == (0.5, 0.5)  # a score at the threshold is accepted
    assert hter(attack, live, 0.6) == 0.5
    assert apcer_per_pai(attack, 0.6, pai) == {'mask': 1, 'print': 0.5, 'replay': 0}
    assert (apcer(attack, 0.6, pai), apcer(attack, 0.6), bpcer(live, 0.6)) == (1, 0.5, 0.5)
    assert (acer(attack, live, 0.6, pai), acer(attack, live, 0.6)) == (0.75, 0.5)
    assert far_frr(attack, live, np.inf) == (0, 1) and far_frr(attack, live, -np.inf) == (1, 0)
    assert apcer_per_pai(attack, 0.6, None) == {'all': 0.5}


# --- against the definition, and scikit-learn


@pytest.mark.parametrize('block', range(10))
def test_eer_threshold_brute_force(block):
    for seed in range(100 * block, 100 * block + 100):
        a, l = random_scores(seed)
        t = eer_threshold(a, l)
        assert t == slow_threshold(a, l), seed
        assert eer(a, l) == np.mean(far_frr(a, l, t))


def test_rate_ties_are_decided_in_integers():
    "2/3 - 1/2 and 1/2 - 1/3 differ in the last digit in floating point; the rule is: of ties the highest."
    assert eer_threshold([0.1, 0.5, 0.9], [0.2, 0.95]) == 0.7


@pytest.mark.parametrize('seed', range(20))
def test_roc_points(seed):
    a, l = random_scores(seed)
    far, frr, t = roc_points(a, l)
    assert len(t) == len(np.unique(np.r_[a, l])) + 1 and (np.diff(t) > 0).all()
    assert [far_frr(a, l, x) for x in t] == list(zip(far, frr))
    assert (far[0], frr[0], far[-1], frr[-1]) == (1, 0, 0, 1)


@pytest.mark.parametrize('seed', range(50))
def test_sklearn(seed):
    from sklearn.metrics import roc_auc_score, roc_curve

    a, l = random_scores(seed)
    y, s = np.r_[np.zeros(len(a)), np.ones(len(l))], np.r_[a, l]
    assert auc(a, l) == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    fpr, tpr, _ = roc_curve(y, s, drop_intermediate=False)
    far, frr, _ = roc_points(a, l)
    np.testing.assert_allclose(far[::-1], fpr, atol=1e-12)
    np.testing.assert_allclose(frr[::-1], 1 - tpr, atol=1e-12)
    at = far_frr(a, l, eer_threshold(a, l))
    assert abs(at[0] - at[1]) == pytest.approx(np.abs(fpr - 1 + tpr).min(), abs=1e-12)
    for f in (0, 0.01, 0.1, 0.5, 1):
        assert tpr_at_fpr(a, l, f) == pytest.approx(tpr[fpr <= f].max(), abs=1e-12)


@pytest.mark.parametrize('target', [0, 0.01, 0.05, 0.1, 1 / 3, 0.5, 1])
def test_apcer_threshold_brute_force(target):
    for seed in range(20):
        a, l = random_scores(seed)
        p = np.random.default_rng(seed).choice(['print', 'replay', 'mask'], len(a))
        for pai in (None, p):
            for pool, kw in ((a, {}), (np.r_[a, l], dict(live=l))):
                slow = min(t for t in candidates(np.unique(pool)) if apcer(a, t, pai) <= target)
                assert apcer_threshold(a, target, pai, **kw) == slow
            assert bpcer_at_apcer(a, l, target, pai) == min(
                bpcer(l, t) for t in candidates(np.unique(np.r_[a, l])) if apcer(a, t, pai) <= target
            )


def test_bpcer20_takes_no_live_sample_more_than_it_must():
    assert bpcer_at_apcer([0, 1, 9], [2, 3, 4, 8], 1 / 3) == 0


# --- properties


@pytest.mark.parametrize('seed', range(20))
def test_order_and_monotone_maps(seed):
    rng, (a, l) = np.random.default_rng(seed), random_scores(seed)
    a2, l2 = rng.permutation(a), rng.permutation(l)
    assert (eer_threshold(a2, l2), auc(a2, l2)) == (eer_threshold(a, l), auc(a, l))
    for f in (np.arctan, np.exp, lambda x: 4 * x + 8):  # the order of the scores is all that counts
        assert (eer(f(a), f(l)), auc(f(a), f(l))) == (eer(a, l), auc(a, l))
    assert eer_threshold(4 * a + 8, 4 * l + 8) == pytest.approx(4 * eer_threshold(a, l) + 8, abs=1e-12)
    assert auc(l, a) == pytest.approx(1 - auc(a, l), abs=1e-12)


@pytest.mark.parametrize('seed', range(20))
def test_splitting_a_species_never_lowers_apcer(seed):
    a, l = random_scores(seed)
    coarse = np.resize(['print', 'replay'], len(a))
    finer = np.char.add(coarse, np.resize(['-a', '-b', '-c'], len(a)))
    for t in (-1, 0, 0.5, 1):
        assert far_frr(a, l, t)[0] <= apcer(a, t, coarse) <= apcer(a, t, finer)


@pytest.mark.parametrize('lo', [0.0, 0.5, 1.0, -1.0, 1e300, 5e-324, -5e-324, -1.7976931348623157e308])
def test_neighbouring_floats(lo):
    "Nothing lies between two neighbours: the upper one is the threshold."
    hi = np.nextafter(lo, np.inf)
    assert far_frr([lo], [hi], eer_threshold([lo], [hi])) == (0, 0)
    assert far_frr([lo], [hi], apcer_threshold([lo], 0, live=[hi])) == (0, 0)


def test_text_is_read_to_the_last_bit():
    "pandas before 3 does not; also what is text in part, or no number."
    x = np.random.default_rng(0).random(1000)
    assert (as_numbers([repr(v) for v in x.tolist()]) == x).all()
    mixed = as_numbers(pd.Series([x[0], repr(float(x[1])), '1_000', 'none', None, True], dtype=object))
    np.testing.assert_array_equal(mixed, [x[0], x[1], np.nan, np.nan, np.nan, 1.0])


def test_huge_scores():
    big = np.finfo(np.float64).max
    with np.errstate(all='raise'):
        assert eer_threshold([-big], [big]) == 0
        assert big * 0.9 < eer_threshold([0.9 * big], [big]) < big
        assert apcer_threshold([big], 0) == np.inf  # the only way to reject it
        assert len(roc_points([1.0, big], [2.0, big])[2]) == 4


def test_float32_and_containers():
    x, y = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1))
    assert far_frr(np.array([x]), np.array([y]), eer_threshold([x], [y])) == (0, 0)
    a, l, t, *_ = GOLDEN['overlap']
    s = pd.Series(a, index=[7, 5, 3, 1, 0])  # rows are taken by position
    assert eer_threshold(s, pd.Series(l)) == eer_threshold(tuple(a), l) == t
    assert apcer_per_pai(s, t, pd.Categorical(['p', 'p', 'r', 'r', 'r'])) == {'p': 0, 'r': 1 / 3}


def test_inputs_stay_as_they_are():
    a, l = np.array([3.0, 1, 2]), np.array([2.0, 5, 4])
    eer_threshold(a, l), auc(a, l), roc_points(a, l), apcer_threshold(a, 0.1, None, l)
    assert a.tolist() == [3, 1, 2] and l.tolist() == [2, 5, 4]


# --- bad input


@pytest.mark.parametrize(
    'f',
    [
        eer_threshold,
        eer,
        auc,
        roc_points,
        tpr_at_fpr,
        lambda a, l: far_frr(a, l, 0.5),
        lambda a, l: hter(a, l, 0.5),
        lambda a, l: acer(a, l, 0.5),
        lambda a, l: bpcer_at_apcer(a, l, 0.05),
        lambda a, l: plot_scores(a, l),
    ],
)
def test_bad_scores(f):
    good = [0.1, 0.2, 0.3]
    with pytest.raises(ValueError, match='attack scores: 0 samples'):
        f([], good)
    with pytest.raises(ValueError, match='live scores: 0 samples'):
        f(good, np.array([]))
    with pytest.raises(
        ValueError, match=r'live scores: 2 of 4 are NaN, infinite or no numbers, the first is row 1 \(nan\)'
    ):
        f(good, [1, np.nan, 2, np.inf])
    with pytest.raises(
        ValueError, match=r'attack scores: 1 of 2 are NaN, infinite or no numbers, the first is row 0 \(-inf\)'
    ):
        f([-np.inf, 1], good)
    with pytest.raises(ValueError, match=r'attack scores: .* shape \(3, 2\)'):
        f(np.zeros((3, 2)), good)
    with pytest.raises(ValueError, match='live scores: .* shape'):
        f(good, 1.0)
    with pytest.raises(
        ValueError, match='live scores: 1 of 3 are NaN, infinite or no numbers, the first is row 2 \(x\)'
    ):
        f(good, [0.1, 0.2, 'x'])


def test_bad_arguments():
    a, l = [0.1, 0.2, 0.3], [0.4, 0.5]
    for t in (None, [0.1, 0.2], 'high'):
        with pytest.raises(ValueError, match='threshold: expected one number'):
            far_frr(a, l, t)
    with pytest.raises(ValueError, match='threshold: it is NaN'):
        bpcer(l, np.nan)
    with pytest.raises(ValueError, match='pai: 2 entries for 3 attack scores: row 2 is the first'):
        apcer(a, 0.5, ['print', 'print'])
    with pytest.raises(ValueError, match='pai: 5 entries for 3 attack scores: row 3 is the first'):
        apcer_threshold(a, 0.05, ['print'] * 5)
    for missing in (None, np.nan, '', pd.NA):
        with pytest.raises(ValueError, match='pai: 1 of 3 attacks have no species, the first is row 1'):
            acer(a, l, 0.5, ['print', missing, 'print'])
    for target in (-0.1, 5, np.nan):
        with pytest.raises(ValueError, match='target|NaN'):
            apcer_threshold(a, target)
    for plot in (plot_roc, plot_det):
        with pytest.raises(ValueError, match='systems: none'):
            plot({})


# --- bootstrap


def table(seed=0, people=8, frames=6):
    "Scores of `people`, of whom some have one class only, with ties and a species that one person has."
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), frames)
    live = (rng.random(len(who)) < 0.5) & (who > 1) | (who > people - 3)
    pai = np.where(live, None, np.where(who == 0, 'mask', rng.choice(['print', 'replay'], len(who))))
    return rng.normal(live, 1).round(1), live, np.array([f'p{w:03d}' for w in who]), pai


def slow_rates(score, live, pai, t):
    "The seven rates from rows; NaN where a class is missing."
    a, l = score[~live], score[live]
    far, worst = (
        (np.mean(a >= t), max(np.mean(a[pai[~live] == p] >= t) for p in set(pai[~live])))
        if len(a)
        else (np.nan, np.nan)
    )
    frr = np.mean(l < t) if len(l) else np.nan
    area = np.mean([(x > y) + 0.5 * (x == y) for x in l for y in a]) if len(a) and len(l) else np.nan
    return [far, frr, (far + frr) / 2, worst, frr, (worst + frr) / 2, area]


def resampled_rows(subject, draw):
    return np.concatenate([np.repeat(np.flatnonzero(subject == s), int(k)) for s, k in zip(np.unique(subject), draw)])


@pytest.mark.parametrize('seed', range(4))
def test_bootstrap_brute_force(seed):
    score, live, subject, pai = table(seed)
    draws, t = resample_counts(8, 300, seed), 0.3
    slow = pd.DataFrame(
        [slow_rates(score[i], live[i], pai[i], t) for i in (resampled_rows(subject, d) for d in draws)],
        columns=RATES,
    )
    got = bootstrap_subjects(score, live, subject, t, pai, n=300, seed=seed, level=0.9)
    assert got.index.tolist() == RATES and got.columns.tolist() == ['value', 'low', 'high']
    np.testing.assert_allclose(got['value'], slow_rates(score, live, pai, t), rtol=1e-12)
    np.testing.assert_allclose(got['low'], slow.quantile(0.05), rtol=1e-12)
    np.testing.assert_allclose(got['high'], slow.quantile(0.95), rtol=1e-12)


def test_undefined_rates_are_nan_and_a_missing_species_is_ignored():
    score, live, subject, pai = table()
    who = np.unique(subject, return_inverse=True)[1]
    species = np.unique(np.where(live, 'mask', pai).astype(str), return_inverse=True)[1]
    draws = np.zeros((3, 8))
    draws[0, 0] = 8
    draws[1, 7] = 8
    draws[2, 2:6] = 2  # attacks only, live only, no mask
    got = rates_of_draws(count_per_subject(score, live, who, species, 0.3), draws)
    assert got.loc[0].notna().to_dict() == dict(
        far=True, frr=False, hter=False, apcer=True, bpcer=False, acer=False, auc=False
    )
    assert got.loc[1].notna().to_dict() == dict(
        far=False, frr=True, hter=False, apcer=False, bpcer=True, acer=False, auc=False
    )
    i = resampled_rows(subject, draws[2])
    assert 'mask' not in set(pai[i]) and got.loc[2].tolist() == pytest.approx(
        slow_rates(score[i], live[i], pai[i], 0.3), rel=1e-12
    )


def test_bootstrap_is_seeded_and_does_not_depend_on_the_order_of_rows():
    score, live, subject, pai = table()
    one = bootstrap_subjects(score, live, subject, 0.3, pai, n=200, seed=1)
    i = np.random.default_rng(0).permutation(len(score))
    pd.testing.assert_frame_equal(one, bootstrap_subjects(score[i], live[i], subject[i], 0.3, pai[i], n=200, seed=1))
    pd.testing.assert_frame_equal(
        one, bootstrap_subjects(list(score), live.astype(int), pd.Series(subject), 0.3, pd.Series(pai), n=200, seed=1)
    )
    assert not one.equals(bootstrap_subjects(score, live, subject, 0.3, pai, n=200, seed=2))


def test_few_subjects_have_no_interval():
    assert MIN_SUBJECTS == 5
    rng = np.random.default_rng(0)
    for people in (1, 4, 5):
        who = np.repeat(np.arange(people), 20)
        got = bootstrap_subjects(rng.normal(size=len(who)), np.arange(len(who)) % 2 == 0, who, 0, n=100)
        assert got['value'].notna().all() and got[['low', 'high']].isna().all(axis=None) == (people < 5)
        assert got[['low', 'high']].notna().all(axis=None) == (people >= 5)
    who, live = np.arange(20), np.arange(20) < 4  # four live people, sixteen others who attack
    got = bootstrap_subjects(rng.normal(size=20), live, who, 0, n=100)
    assert got.index[got['low'].notna()].tolist() == ['far', 'apcer']


def test_interval_grows_with_what_people_share():
    rng = np.random.default_rng(0)
    who, live = np.repeat(np.arange(20), 40), np.tile([True, False], 400)
    score = np.where(live, 1, -1) + rng.normal(0, 0.8, 20)[who] + rng.normal(0, 0.4, 800)
    by_subject, by_frame = (bootstrap_subjects(score, live, w, 0, n=300) for w in (who, np.arange(800)))
    assert ((by_subject.high - by_subject.low) > 1.5 * (by_frame.high - by_frame.low))[['far', 'frr']].all()


@pytest.mark.parametrize('seed', range(3))
def test_paired_bootstrap_brute_force(seed):
    score, live, subject, pai = table(seed)
    other = np.random.default_rng(9).normal(score, 0.5)
    got = paired_bootstrap(score, other, live, subject, 0.3, 0.4, pai, n=200, seed=seed)
    rows = [resampled_rows(subject, d) for d in resample_counts(8, 200, seed)]

    def differences(i):
        return np.subtract(slow_rates(score[i], live[i], pai[i], 0.3), slow_rates(other[i], live[i], pai[i], 0.4))

    slow = pd.DataFrame([differences(i) for i in rows], columns=RATES)
    np.testing.assert_allclose(got['value'], differences(np.arange(len(score))), atol=1e-12)
    np.testing.assert_allclose(got[['low', 'high']], slow.quantile([0.025, 0.975]).T, atol=1e-12)
    assert (paired_bootstrap(score, score, live, subject, 0.3, 0.3, pai, n=50) == 0).all(axis=None)
    pd.testing.assert_frame_equal(
        -got[['low', 'high']],
        paired_bootstrap(other, score, live, subject, 0.4, 0.3, pai, n=200, seed=seed)[['high', 'low']].set_axis(
            ['low', 'high'], axis=1
        ),
    )


def test_bootstrap_bad_input():
    score, live, subject, pai = table()
    n = len(score)
    bad = score.copy()
    bad[17] = np.nan
    with pytest.raises(ValueError, match=rf'1 of {n} are NaN, infinite or no numbers, the first is row 17 \(nan\)'):
        bootstrap_subjects(bad, live, subject, 0.3)
    with pytest.raises(ValueError, match=f'live: {n - 1} entries for {n} scores: row {n - 1}'):
        bootstrap_subjects(score, live[1:], subject, 0.3)
    with pytest.raises(ValueError, match=f'subject: {n - 2} entries for {n} scores'):
        bootstrap_subjects(score, live, subject[2:], 0.3)
    with pytest.raises(ValueError, match=f'pai: {n - 3} entries for {n} scores'):
        bootstrap_subjects(score, live, subject, 0.3, pai[3:])
    with pytest.raises(ValueError, match="neither True nor False, the first is row 0 .*Pass scores"):
        bootstrap_subjects(score, np.where(live, 'live', 'attack'), subject, 0.3)
    with pytest.raises(ValueError, match='live: 1 of .* the first is row 4'):
        bootstrap_subjects(score, [*live[:4], None, *live[5:]], subject, 0.3)
    with pytest.raises(ValueError, match='live: 1 of .* the first is row 2'):
        bootstrap_subjects(score, [*live[:2].astype(int), 2, *live[3:].astype(int)], subject, 0.3)
    with pytest.raises(ValueError, match='subject: 1 of .* name nobody, the first is row 3'):
        bootstrap_subjects(score, live, [*subject[:3], None, *subject[4:]], 0.3)
    with pytest.raises(ValueError, match='attack scores: 0 samples'):
        bootstrap_subjects(score, np.ones(n, bool), subject, 0.3)
    with pytest.raises(ValueError, match='live scores: 0 samples'):
        bootstrap_subjects(score, np.zeros(n, bool), subject, 0.3)
    with pytest.raises(ValueError, match='have no species'):
        bootstrap_subjects(score, live, subject, 0.3, np.where(pai == 'mask', None, pai))
    with pytest.raises(ValueError, match='threshold'):
        bootstrap_subjects(score, live, subject, None)
    with pytest.raises(ValueError, match='level: 95'):
        bootstrap_subjects(score, live, subject, 0.3, level=95)
    with pytest.raises(ValueError, match='n: 0'):
        bootstrap_subjects(score, live, subject, 0.3, n=0)
    with pytest.raises(ValueError, match='system B scores: 1 of'):
        paired_bootstrap(score, bad, live, subject, 0.3, 0.3)
    with pytest.raises(ValueError, match='entries for'):
        paired_bootstrap(score, score[1:], live, subject, 0.3, 0.3)


# --- over seeds


@pytest.mark.parametrize('n', [2, 3, 5, 30])
def test_student_interval(n):
    from scipy import stats

    v = np.random.default_rng(n).normal(3, 2, n)
    mean, low, high = student_interval(pd.Series(v), level=0.9)
    want = stats.t.interval(0.9, n - 1, loc=v.mean(), scale=stats.sem(v))
    assert (mean, low, high) == pytest.approx((v.mean(), *want), rel=1e-12)


def test_student_interval_of_one_value():
    mean, low, high = student_interval([2.5])
    assert mean == 2.5 and np.isnan([low, high]).all()


# --- figures, imports


@pytest.mark.parametrize('name', [*GOLDEN, 'random'])
def test_figures(name):
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    a, l = GOLDEN[name][:2] if name in GOLDEN else random_scores(3)
    fig, axs = plt.subplots(1, 3)
    assert plot_roc({'a': (a, l), 'b': (l, a)}, axs[0]) is axs[0]
    assert plot_det({'a': (a, l), 'b': (l, a)}, axs[1]) is axs[1]
    assert plot_scores(a, l, 0.5, axs[2]) is axs[2]
    fig.canvas.draw()
    for ax in axs:
        assert ax.get_title() and '(%' in ax.get_ylabel() and ax.get_xlabel()
    assert plot_roc({'a': (a, l)}).figure is not fig  # without axes: a figure of its own
    plt.close('all')


def test_det_is_straight_for_gaussians():
    import matplotlib

    matplotlib.use('Agg')
    from scipy.stats import norm

    q = norm.ppf((np.arange(2000) + 0.5) / 2000)
    x, y = plot_det({'gauss': (q, q + 2)}).lines[0].get_data()
    middle = (np.abs(x) < 2) & (np.abs(y) < 2)
    np.testing.assert_allclose((x + y)[middle], -2, atol=0.02)  # two classes at distance 2: a line of slope -1


def test_import_is_light():
    heavy = ('torch', 'fastai', 'sklearn', 'matplotlib')
    code = f'import sys, gfa_fastai.metrics; print([m for m in {heavy} if m in sys.modules])'
    out = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert out.stdout.strip() == '[]'
