"Features against loops, scikit-image, SciPy and cases by hand; the estimator, its cache, and bad input."

import math
from functools import partial

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pictures import picture, picture_table
from scipy import ndimage, stats
from skimage.feature import local_binary_pattern
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture

from gfa_fastai.compare import baselines as B
from gfa_fastai.compare.baselines import (
    BASELINES,
    Baseline,
    FisherVectors,
    check_image,
    chromatic_moments,
    coalbp,
    colour_bands,
    colour_diversity,
    colour_lbp,
    colour_statistics,
    colour_texture,
    dense_sift,
    dog_filter,
    dog_lbp,
    edge_width,
    extract_features,
    face_parts,
    fisher_vector,
    ida,
    lbp_codes,
    lbp_histogram,
    lbp_plus,
    lbp_top,
    lpq_codes,
    lpq_histogram,
    make_baseline,
    motion,
    multiscale_lbp,
    radial_spectrum,
    specular_features,
)
from gfa_fastai.evaluation import SCORE_COLUMNS, compare_thresholds, evaluate_scores


def noise(h=20, w=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w)).astype(np.uint8)


def quiet(features, classifier=None, **kw):
    return Baseline(
        features, LogisticRegression() if classifier is None else classifier, **dict(progress=False, workers=1, **kw)
    )


@pytest.fixture
def table(tmp_path):
    return picture_table(tmp_path)


# -- texture


def circle(grey, points, radius):
    "Plain LBP codes by SciPy's interpolation."
    a = 2 * np.pi * np.arange(points) / points
    y, x = np.mgrid[radius : grey.shape[0] - radius, radius : grey.shape[1] - radius]
    at = [
        ndimage.map_coordinates(
            grey.astype(float), [y + np.round(-radius * np.sin(t), 5), x + np.round(radius * np.cos(t), 5)], order=1
        )
        for t in a
    ]
    return sum((v >= grey[y, x] - 1e-9).astype(int) << p for p, v in enumerate(at))


@pytest.mark.parametrize('points,radius', [(8, 1), (8, 2), (16, 2)])
def test_lbp_labels_are_the_uniform_codes(points, radius):
    grey = noise()
    plain = circle(grey, points, radius)
    np.testing.assert_array_equal(
        plain, local_binary_pattern(grey, points, radius).astype(int)[radius:-radius, radius:-radius]
    )
    bits = (plain[..., None] >> np.arange(points)) & 1
    changes = (bits != np.roll(bits, 1, -1)).sum(-1)
    labels = lbp_codes(grey, points, radius)
    other = points * (points - 1) + 2
    np.testing.assert_array_equal(labels == other, changes > 2)
    pairs = set(zip(plain[changes <= 2], labels[changes <= 2]))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    np.testing.assert_allclose(
        lbp_histogram(grey, points, radius), np.bincount(labels.ravel(), minlength=other + 1) / labels.size
    )


def test_lbp_does_not_see_brightness():
    "But for neighbours of one value, between which scikit-image interpolates with rounding errors."
    image = picture(True) // 2
    for f in (multiscale_lbp, lambda i: lbp_histogram(i[..., 0])):
        np.testing.assert_allclose(f(image), f(image + 9), atol=0.005)


@pytest.mark.parametrize('side', [24, 31, 64, 65, 224])
def test_face_parts_cover_the_face(side):
    count = np.zeros((side, side), int)
    parts = face_parts(count)
    assert len(parts) == 9 and len({p.shape for p in parts}) == 1
    for p in parts:
        p += 1
    assert count.min() == 1 and count.max() == 4


@pytest.mark.parametrize('inner,outer', [*B.DOG_BANDS, (1, 3)])
def test_dog_of_an_impulse(inner, outer):
    "By hand: the product of two normalised rows, narrow minus wide."
    x = np.zeros((41, 41))
    x[20, 20] = 1

    def row(sigma):
        k = np.exp(-(np.arange(-20, 21) ** 2) / (2 * sigma**2))
        return k / k.sum()

    want = np.outer(row(inner), row(inner)) - np.outer(row(outer), row(outer))
    got = dog_filter(x, inner, outer)
    np.testing.assert_allclose(got, want, atol=2e-4)
    assert abs(got.sum()) < 1e-9 and got[20, 20] == got.max()
    np.testing.assert_allclose(got, got.T)


def test_dog_is_nothing_where_nothing_changes():
    np.testing.assert_allclose(dog_filter(np.full((20, 20), 77.0), 1, 2), 0, atol=1e-9)


@pytest.mark.parametrize('x,code', [(2, 85), (3, 85), (1, 247)])
def test_lpq_of_5x5_by_hand(x, code):
    "One white pixel in the middle, to the right, to the left."
    image = np.zeros((5, 5), np.uint8)
    image[2, x] = 200
    assert lpq_codes(image, 5).tolist() == [[code]]


@pytest.mark.parametrize('window', [3, 5, 7])
def test_lpq_is_the_sum(window):
    grey, r = noise(12, 14), window // 2
    got = lpq_codes(grey, window)
    for y in range(r, 12 - r):
        for x in range(r, 14 - r):
            code = 0
            for k, (u, v) in enumerate(((1, 0), (0, 1), (1, 1), (1, -1))):
                F = sum(
                    grey[y + j, x + i] * np.exp(-2j * np.pi * (u * i + v * j) / window)
                    for j in range(-r, r + 1)
                    for i in range(-r, r + 1)
                )
                code |= int(F.real > 1e-6) << 2 * k | int(F.imag > 1e-6) << 2 * k + 1
            assert got[y - r, x - r] == code
    assert math.isclose(lpq_histogram(grey, window).sum(), 1)


def test_lpq_of_a_plain_patch_is_not_chance():
    "Rounding errors of a flat patch have signs; they must not be codes."
    assert set(np.unique(lpq_codes(np.full((20, 20), 113, np.uint8)))) == {0}


@pytest.mark.parametrize('radius,distance', [(1, 2), (2, 4), (4, 8)])
def test_coalbp_in_loops(radius, distance):
    grey = noise(26, 24)
    c = lbp_plus(grey, radius)
    h, w = c.shape
    for y in range(h):
        for x in range(w):
            m, n = y + radius, x + radius
            around = grey[m, n + radius], grey[m - radius, n], grey[m, n - radius], grey[m + radius, n]
            assert c[y, x] == sum(int(v >= grey[m, n]) << k for k, v in enumerate(around))
    want = []
    for dy, dx in ((0, distance), (-distance, distance), (distance, 0), (distance, distance)):
        H = np.zeros((16, 16))
        for y in range(h):
            for x in range(w):
                if 0 <= y + dy < h and 0 <= x + dx < w:
                    H[c[y, x], c[y + dy, x + dx]] += 1
        want.append(H.ravel() / H.sum())
    np.testing.assert_allclose(coalbp(grey, radius, distance), np.concatenate(want))


# -- distortion


def test_colour_bands_of_known_colours():
    bands = colour_bands(np.array([[[255, 0, 0], [128, 128, 128], [0, 0, 255]]], np.uint8))
    assert bands['S'].tolist() == [[255, 0, 255]] and bands['Y'].tolist() == [[76, 128, 29]]
    assert bands['Cb'][0, 1] == bands['Cr'][0, 1] == 128


def test_moments_against_scipy():
    image = picture(False, 3)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    m = chromatic_moments(image).reshape(3, 5)
    for k in range(3):
        x = hsv[..., k].ravel() / 255
        np.testing.assert_allclose(
            m[k],
            [x.mean(), x.std(), stats.skew(x), np.mean(hsv[..., k] < 16), np.mean(hsv[..., k] >= 240)],
            rtol=1e-6,
            atol=1e-9,
        )


def test_diversity_counts_colours():
    image = np.zeros((10, 10, 3), np.uint8)
    image[:3], image[3:5], image[5] = (8, 0, 0), (0, 8, 0), (0, 0, 8)
    got = colour_diversity(image)
    np.testing.assert_allclose(got[:5], [0.4, 0.3, 0.2, 0.1, 0])
    assert got[100] == 4 / 100
    np.testing.assert_array_equal(colour_diversity(image + 7), got)  # within one step of eight


def test_glare_and_edges():
    image = np.full((10, 10, 3), 51, np.uint8)
    image[:2, :5] = 255
    share, mean, var = specular_features(image)
    assert share == 0.1 and mean > 0 and var < 1e-12
    ramp = np.repeat(np.array([[0] * 4 + [40, 80, 120, 160] + [200] * 20]), 4, 0).astype(np.uint8)
    assert edge_width(ramp) == 5 and edge_width(np.zeros((4, 9), np.uint8)) == 0
    sharp = np.repeat(np.array([[0] * 8 + [200] * 12]), 4, 0).astype(np.uint8)
    assert edge_width(sharp) == 1 and edge_width(sharp[:, ::-1]) == 1


# -- Fisher vectors


def test_fisher_vector_is_the_gradient():
    "Numerical derivatives of the log likelihood with respect to means and deviations."
    rng = np.random.default_rng(0)
    mix = GaussianMixture(3, covariance_type='diag', random_state=0).fit(
        rng.normal(size=(300, 2)) * [1, 2] + rng.choice([-3, 0, 3], (300, 1))
    )
    x, sd, w = rng.normal(size=(30, 2)), np.sqrt(mix.covariances_), mix.weights_

    def loglik(mu, s):
        logs = [np.log(w[k]) + stats.norm.logpdf(x, mu[k], s[k]).sum(1) for k in range(3)]
        return np.logaddexp.reduce(logs, 0).sum()

    got, e = fisher_vector(x, mix).reshape(2, 3, 2), 1e-5
    for k in range(3):
        for d in range(2):
            step = np.zeros((3, 2))
            step[k, d] = e
            by_mean = (loglik(mix.means_ + step, sd) - loglik(mix.means_ - step, sd)) / (2 * e)
            by_sd = (loglik(mix.means_, sd + step) - loglik(mix.means_, sd - step)) / (2 * e)
            assert math.isclose(got[0, k, d], by_mean * sd[k, d] / w[k] ** 0.5 / 30, rel_tol=1e-4, abs_tol=1e-7)
            assert math.isclose(got[1, k, d], by_sd * sd[k, d] / (2 * w[k]) ** 0.5 / 30, rel_tol=1e-4, abs_tol=1e-7)


def test_fisher_vectors_as_a_step():
    X = np.stack([dense_sift(picture(k % 2 == 0, k)) for k in range(6)])
    assert X.shape == (6, 9, 768) and X.dtype == np.uint8
    a, b = (FisherVectors(dims=5, components=3).fit(X).transform(X) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert a.shape == (6, 30)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1)
    shuffled = X[:, ::-1]  # a set has no order
    np.testing.assert_allclose(FisherVectors(dims=5, components=3).fit(X).transform(shuffled), a, atol=1e-9)


# -- time


def film(n=5, seed=0):
    return [picture(True, seed + k) for k in range(n)]


def test_lbp_top_planes():
    block = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in film()])
    planes = [[block[t] for t in range(5)], [block[:, y] for y in range(32)], [block[:, :, x] for x in range(32)]]
    np.testing.assert_allclose(
        lbp_top(film()),
        np.concatenate([np.mean([lbp_histogram(np.ascontiguousarray(s)) for s in p], 0) for p in planes]),
    )


def test_motion_of_regions():
    frames = np.full((5, 20, 20), 50, np.uint8)
    frames[:, 0, 0] = 60
    for t in range(5):
        frames[t, 10, 10] = 50 + [0, 20, 0, 20, 0][t]  # in the face, every frame
    frames[3:, 19, 19] = 90  # outside, once
    got = motion(list(frames), face=(0.25, 0.25, 0.5, 0.5))  # 10 x 10 pixels, 300 outside
    np.testing.assert_allclose(got[:5], [0.2, 0.2, 0.2, 0, 0], atol=1e-9)
    outside = np.array([0, 0, 40 / 300, 0])
    F = np.abs(np.fft.rfft(outside))
    np.testing.assert_allclose(got[5:], [0, 40 / 300, outside.mean(), outside.std(), F[1:].sum() / F[0]])


# -- bad pictures

COLOUR = [colour_lbp, colour_texture, ida, dense_sift]
STILL = [multiscale_lbp, dog_lbp, *COLOUR]


@pytest.mark.parametrize('f', COLOUR)
def test_colour_features_refuse_grey(f):
    grey = picture(True)[..., 0]
    for image in (grey, np.repeat(grey[..., None], 3, 2)):
        with pytest.raises(
            ValueError, match=r'the image is grey.*looks at colour\. Leave it out, or use one that does not'
        ):
            f(image)


@pytest.mark.parametrize('f', STILL)
def test_features_refuse_what_they_cannot_read(f):
    with pytest.raises(ValueError, match=r'the image has 12x32 pixels and its window needs \d+\. Use a larger size'):
        f(picture(True)[:, :12])
    with pytest.raises(ValueError, match=r'the image is the same everywhere \(\[3, 4, 5\]\)\. Leave it out'):
        f(np.full((40, 40, 3), (3, 4, 5), np.uint8))
    for wrong in (picture(True) / 255, picture(True)[..., :2], None):
        with pytest.raises(ValueError, match=r'expected an image \(H, W, 3\) or \(H, W\) of uint8'):
            f(wrong)
    assert np.isfinite(f(picture(True))).all()


@pytest.mark.parametrize('f', [multiscale_lbp, dog_lbp])
def test_grey_features_take_grey(f):
    assert np.isfinite(f(picture(True)[..., 0])).all()


@pytest.mark.parametrize('f,name', [(lbp_top, 'LBP-TOP'), (motion, 'motion')])
def test_videos_that_are_none(f, name):
    with pytest.raises(ValueError, match=rf'{name}: the video has 1 frame\(s\) and 3 are needed\. Extract more'):
        f(film(1))
    with pytest.raises(ValueError, match=rf'{name}: all 4 frames are the same picture'):
        f(film(1) * 4)
    with pytest.raises(ValueError, match=rf'{name}: the frames of the video are of 2 sizes'):
        f([*film(3), picture(True, side=40)])
    with pytest.raises(ValueError, match='the same everywhere'):
        f([*film(3), np.zeros((32, 32, 3), np.uint8)])


@pytest.mark.parametrize('window', [1, 4, 0])
def test_lpq_window(window):
    with pytest.raises(ValueError, match=f'window is {window}; it is an odd number'):
        lpq_codes(noise(), window)


def test_lpq_small():
    with pytest.raises(ValueError, match='the image has 24x5 pixels and its window needs 7'):
        lpq_codes(noise(5))


# -- features of a table


def test_features_of_a_table(table, tmp_path):
    X, rows = extract_features(table, colour_lbp, workers=3, progress=False)
    assert len(X) == len(rows) == len(table) and rows.attrs['skipped'] == []
    for x, p in zip(X, rows.face_path):
        np.testing.assert_array_equal(x, colour_lbp(np.asarray(Image.open(p))))
    np.testing.assert_array_equal(extract_features(table, colour_lbp, workers=1, progress=False)[0], X)


def test_gallery_and_flipped_copies_are_left_out(tmp_path):
    df = picture_table(tmp_path, gallery=True)
    twice = pd.concat([df.assign(flip=''), df[df.split == 'train'].assign(flip='h')])
    _, rows = extract_features(twice, colour_lbp, progress=False)
    assert len(rows) == (df.role == 'probe').sum() and set(rows.role) == {'probe'} and set(rows.flip) == {''}
    with pytest.raises(ValueError, match='none of 10 rows is a probe'):
        extract_features(df[df.role == 'gallery'], colour_lbp)


CALLS = []


def counted(image, add=0):
    CALLS.append(1)
    return np.array([image.mean() + add])


def test_cache(table, tmp_path):
    def run(**kw):
        CALLS.clear()
        return extract_features(
            table, partial(counted, **kw) if kw else counted, cache=tmp_path / 'cache', workers=1, progress=False
        )[0], len(CALLS)

    first, n = run()
    assert n == len(table)
    again, n = run()
    np.testing.assert_array_equal(first, again)
    assert n == 0
    assert run(add=1)[1] == len(table)  # another argument is another feature
    files = sorted((tmp_path / 'cache').rglob('*.npy'))
    assert not list((tmp_path / 'cache').rglob('.part-*'))
    files[0].write_bytes(files[0].read_bytes()[:-3])
    files[1].write_bytes(b'')
    data = bytearray(files[2].read_bytes())
    data[-1] ^= 1
    files[2].write_bytes(data)
    total = run()[1] + run(add=1)[1]  # cut off, empty, one bit: made again
    assert total == 3 and run()[1] + run(add=1)[1] == 0
    Image.fromarray(picture(True, 999)).save(table.face_path[0])  # another picture under the old name
    assert run()[1] == 1


def test_what_a_picture_is_read_for_is_part_of_the_key(tmp_path):
    df = picture_table(tmp_path, frames=3)
    a = extract_features(df, motion, reads='frames', cache=tmp_path / 'c', progress=False)
    assert len(a[1]) == df.video.nunique() and set(a[1].frame) == {0}
    later = extract_features(
        df[df.frame > 0], lambda frames: np.array([len(frames)]), reads='frames', cache=tmp_path / 'c', progress=False
    )
    assert set(later[0].ravel()) == {2} and set(later[1].frame) == {1}


def test_frames_of_a_video_come_in_order(tmp_path):
    df = picture_table(tmp_path, frames=4)
    X, rows = extract_features(
        df.sample(frac=1, random_state=0),
        lambda frames: np.array([f.mean() for f in frames]),
        reads='frames',
        progress=False,
    )
    first = rows.iloc[0]
    want = [np.asarray(Image.open(p)).mean() for p in df[(df.video == first.video)].sort_values('frame').frame_path]
    np.testing.assert_allclose(X[0], want)


def spoil(table, k, data=b'no picture'):
    for p in table.face_path[:k]:
        open(p, 'wb').write(data)


def test_bad_pictures_are_skipped_and_named(table):
    spoil(table, 1)
    with pytest.raises(
        ValueError, match=r'1 of 40 images cannot be used, 2\.5%.*d0-0-0\.png: not a readable image.*max_bad'
    ):
        extract_features(table, colour_lbp, progress=False)
    X, rows = extract_features(table, colour_lbp, max_bad=0.05, progress=False)
    assert len(X) == 39 and table.face_path[0] not in set(rows.face_path)
    ((path, why),) = rows.attrs['skipped']
    assert path == table.face_path[0] and 'not a readable image' in why
    scores = quiet(colour_lbp, max_bad=0.1).fit(table).score(table)
    assert len(scores) == 39 and len(scores.attrs['skipped']) == 1


def test_images_of_several_sizes(table):
    Image.fromarray(picture(True, side=48)).save(table.face_path[0])
    with pytest.raises(ValueError, match='features of 2 sizes.*extract_frames brings them to one'):
        extract_features(table, dense_sift, progress=False)


def test_bad_tables(table):
    with pytest.raises(ValueError, match=r"reads='picture' is not known, choose one of face, frame"):
        extract_features(table, colour_lbp, reads='picture')
    with pytest.raises(ValueError, match='column face_path missing. Run extract_frames'):
        extract_features(table.drop(columns='face_path'), colour_lbp)
    with pytest.raises(ValueError, match='column face_path missing'):
        extract_features(None, colour_lbp)


# -- the estimator


def test_scores_are_a_scores_table(table):
    b = quiet(colour_lbp)
    assert b.fit(table) is b
    scores = b.score(table)
    assert list(scores) == SCORE_COLUMNS and len(scores) == len(table)
    assert evaluate_scores(scores, 'dev').auc > 0.9
    assert set(compare_thresholds(scores, scores)) == {'source-dev', 'target-dev', 'test-EER'}
    pd.testing.assert_frame_equal(scores, quiet(colour_lbp).fit(table).score(table))


def test_only_training_rows_are_learned(table):
    other = table.assign(
        label=np.where(table.split == 'train', table.label, table.label.map(dict(live='attack', attack='live')))
    )
    other['pai'] = np.where(other.label == 'attack', 'print', '')
    np.testing.assert_array_equal(
        quiet(colour_lbp).fit(other).score(table).score, quiet(colour_lbp).fit(table).score(table).score
    )


def test_single_class(table):
    for label, lacks in (('live', 'attack'), ('attack', 'live')):
        with pytest.raises(ValueError, match=f"split 'train' has no {lacks} rows.*add {lacks} images"):
            quiet(colour_lbp).fit(table[table.label == label])
    with pytest.raises(ValueError, match="split 'train' has no live rows"):
        quiet(colour_lbp).fit(table[table.split == 'test'])


def test_per_species_is_the_least(table):
    b = quiet(colour_lbp, per_species=True).fit(table)
    assert list(b.classifiers_) == ['print', 'replay']
    singles = [quiet(colour_lbp).fit(table[table.pai.isin(['', s])]).score(table).score for s in ('print', 'replay')]
    np.testing.assert_allclose(b.score(table).score, np.minimum(*singles))


def test_classifier_with_probabilities_only(table):
    from sklearn.ensemble import RandomForestClassifier

    s = quiet(colour_lbp, RandomForestClassifier(20, random_state=0)).fit(table).score(table).score
    assert s.between(0, 1).all() and s.nunique() > 2


def test_estimator_of_scikit_learn(table):
    b = clone(quiet(colour_lbp, LogisticRegression(C=3)))
    assert b.get_params()['classifier__C'] == 3 and b.features is colour_lbp
    with pytest.raises(NotFittedError):
        b.score(table)


def test_one_frame_videos(table):
    with pytest.raises(
        ValueError, match=r'16 of 16 videos cannot be used.*the video has 1 frame\(s\) and 3 are needed'
    ):
        make_baseline('LBP-TOP', progress=False).fit(table)


@pytest.mark.parametrize('name', BASELINES)
def test_every_baseline(name, tmp_path):
    videos = BASELINES[name][2] in ('faces', 'frames')
    df = picture_table(tmp_path, frames=3 if videos else 1)
    b = make_baseline(name, cache=tmp_path / 'cache', progress=False)
    scores = b.fit(df).score(df)
    assert list(scores) == SCORE_COLUMNS and np.isfinite(scores.score).all()
    assert len(scores) == df.video.nunique()
    if name in (
        'LBP + SVM',
        'DoG + LBP + SVM',
        'Colour LBP',
        'Colour texture',
        'LBP-TOP',
        'Radial spectrum',
    ):  # a grid of every second row
        assert evaluate_scores(scores, 'dev').auc > 0.9


def test_unknown_baseline():
    with pytest.raises(ValueError, match="'SURF' is not known, choose one of LBP"):
        make_baseline('SURF')
    for kw, text in (
        (dict(reads='photo'), "reads='photo' is not known, choose one of face"),
        (dict(workers=0), 'workers=0; it is a number of threads'),
        (dict(max_bad=2), 'max_bad=2; it is a share'),
        (dict(jobs=2), 'no setting jobs. Known are cache, workers'),
    ):
        with pytest.raises(ValueError, match=text):
            make_baseline('Colour LBP', **kw)
    assert make_baseline('Colour LBP', reads='frame').reads == 'frame' and make_baseline('IDA + SVM').per_species


def test_controls_are_those_of_the_audits(table):
    from gfa_fastai.synth.audits import shortcut_features

    f = shortcut_features(table.path[0])
    np.testing.assert_array_equal(colour_statistics(table.path[0]), f[:6])
    np.testing.assert_array_equal(radial_spectrum(table.path[0]), f[8:20])
