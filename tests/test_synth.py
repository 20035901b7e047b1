"SynthPAD: faces, attacks, benchmark."

import shutil
import numpy as np, pytest
from gfa_fastai.synth.faces import (
    EVEN,
    NEUTRAL,
    ROOMS,
    STRANDS,
    STYLES,
    draw_clothes,
    draw_expression,
    draw_light,
    draw_room,
    face_height,
    identity,
    render_scene,
    rotation,
    skin_colour,
    strand_noise,
    surface_normals,
    value_noise,
)
from gfa_fastai.inputs.faces import detect_face


def picture(seed, size=96, turn=0.08, **fixed):
    rng = np.random.default_rng([seed, 1])
    return render_scene(
        identity(seed, **fixed),
        draw_expression(rng),
        rotation(*rng.normal(0, turn, 3) * (1, 0.5, 0.4)),
        (size * 0.5, size * 0.45),
        0.235 * size,
        draw_light(rng),
        draw_room(rng, (size, size)),
        draw_clothes(rng),
    )


# --- faces


def test_the_same_seed_is_the_same_picture():
    a, b, c = picture(3), picture(3), picture(4)
    assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and a[2] == b[2]
    assert np.abs(a[0] - c[0]).mean() > 0.02


@pytest.mark.parametrize('style', STYLES)
def test_every_style_renders(style):
    for s in range(3):
        im, depth, (x, y, w, h) = picture(
            s, 64, style=style, beard=['none', 'full', 'goatee'][s], glasses=['round', 'square', 'thin'][s]
        )
        assert im.shape == (64, 64, 3) and im.dtype == np.float32 and np.isfinite(im).all() and im.min() >= 0
        assert 0 <= depth.min() and depth.max() <= 1 and depth[int(y + h / 2), int(x + w / 2)] > 0.3


@pytest.mark.parametrize('size', [32, 64, 160])
@pytest.mark.parametrize('beard', ['stubble', 'moustache', 'goatee', 'full'])
def test_beards_at_every_size(beard, size):
    "Nothing undefined where details are too fine for the picture; darker than bare skin; the same at all sizes."

    def face(b):
        return render_scene(
            identity(8, beard=b, eu=3.0, melanin=0.3, glasses='none'),
            NEUTRAL,
            rotation(0, 0, 0),
            (size * 0.5, size * 0.45),
            0.235 * size,
            EVEN,
            np.full((size, size, 3), 0.3, np.float32),
            draw_clothes(np.random.default_rng(0)),
        )[0]

    bare, grown = face('none'), face(beard)
    assert np.isfinite(grown).all()
    a, b = (
        slice(int(size * (0.45 + 0.235 * lo)), int(size * (0.45 + 0.235 * hi))) for lo, hi in ((-0.6, 0.5), (0.7, 1.5))
    )
    mid = slice(int(size * 0.40), int(size * 0.6))
    darker = 1 - grown[b, mid].mean() / bare[b, mid].mean()
    assert np.abs(grown[a] - bare[a]).max() < 0.05 and darker > 0.03
    if size == 160:
        assert abs(darker - (1 - cv2_small(grown)[24:31, 16:24].mean() / cv2_small(bare)[24:31, 16:24].mean())) < 0.15


def cv2_small(x):
    return x.reshape(40, 4, 40, 4, 3).mean((1, 3))


def test_strands_are_the_same_seen_finer():
    coarse, fine = (strand_noise(np.random.default_rng(4), P) for P in (20, 120))
    assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.5 and fine.var() > coarse.var()
    across = np.abs(np.diff(fine, axis=1)).mean() * STRANDS['across']
    along = np.abs(np.diff(fine, axis=0)).mean() * STRANDS['along']
    assert across > 10 * along  # per half head width


def test_noise_that_does_not_fit_is_zero():
    assert not value_noise(np.random.default_rng(0), (8, 8), 60).any()


def test_every_identity_has_a_head():
    for s in range(2000):
        assert np.isfinite(face_height(identity(s), NEUTRAL, 6)[0]).all()


def test_extremes_render():
    p = identity(0, age=1.0, melanin=2.4, freckles=1.0, recede=1.0)
    for e in (dict(NEUTRAL, blink=1.0), dict(NEUTRAL, smile=1.0, open=1.0, brow=-1.0)):
        im = render_scene(
            p,
            e,
            rotation(0.4, 0.2, 0.3),
            (30, 20),
            30,
            EVEN,
            draw_room(np.random.default_rng(0), (60, 80)),
            draw_clothes(np.random.default_rng(0)),
        )[0]
        assert im.shape == (60, 80, 3) and np.isfinite(im).all()
    with pytest.raises(ValueError, match='beart'):
        identity(0, beart='full')


def test_the_cascade_finds_them():
    found = [
        detect_face((np.clip(im * (0.2 / im[40:70, 30:66].mean()) ** 0.7, 0, 1) ** (1 / 2.2) * 255).astype(np.uint8))
        is not None
        for im in (picture(s, 128)[0] for s in range(5000, 5040))
    ]
    assert np.mean(found) >= 0.8


def test_a_turned_head_shows_parallax():
    "The nose moves against the outline; how far is depth times the sine of the angle."
    p = identity(1, style='bald', glasses='none')
    h, w = face_height(p, NEUTRAL, 40)
    tops = [picture_of_depth(p, yaw) for yaw in (-0.2, 0.2)]
    assert 0.2 < (tops[1] - tops[0]) / 60 < 2 * np.sin(0.2) * 1.6


def picture_of_depth(p, yaw):
    room = np.zeros((200, 200, 3), np.float32)
    depth = render_scene(
        p, NEUTRAL, rotation(yaw, 0, 0), (100, 80), 60, EVEN, room, draw_clothes(np.random.default_rng(0))
    )[1]
    return depth[80 + int(0.45 * 60) : 80 + int(0.6 * 60)].mean(0).argmax()


def test_normals_of_a_plane():
    x = np.arange(20, dtype=np.float32)[None] / 10
    n = surface_normals(np.broadcast_to(2 * x, (20, 20)).copy(), 10)
    assert np.allclose([o[10, 10] for o in n], np.array([-2, 0, 1]) / 5**0.5, atol=1e-5)


def test_skin_darkens_with_melanin_and_reddens_with_blood():
    light, dark, red = skin_colour(0.1, 0.2), skin_colour(2.0, 0.2), skin_colour(0.1, 0.5)
    assert (dark < light).all() and red[0] / red[1] > light[0] / light[1]


def test_rooms_differ():
    ims = [draw_room(np.random.default_rng(s), (48, 64), k) for k in ROOMS for s in (0, 1)]
    assert min(np.abs(a - b).mean() for i, a in enumerate(ims) for b in ims[:i]) > 0.01


# --- attacks and cameras

from gfa_fastai.synth.attacks import (
    ANGLES,
    CAMERA,
    COARSE,
    FINE,
    FLAT,
    IN_PRINT,
    IN_REPLAY,
    INKS,
    OVER,
    PATTERNS,
    PRINTERS,
    SCREENS,
    compensate,
    demosaic,
    dot_gain,
    flat_light,
    from_medium,
    frame_grid,
    halftone,
    jpeg,
    mosaic,
    noisy,
    present,
    print_sheet,
    profile,
    show_screen,
    subpixels,
    take_photo,
    to_medium,
    unjpeg,
    yule_nielsen,
)

EXACT = dict(CAMERA, worse=0.0, flare=(0, 0), noise=(1e-5, 1e-4), quality=(98, 98))


def test_noise_follows_the_formula():
    for g, k, s in ((0.1, 2e-3, 1e-3), (0.8, 1e-4, 1e-2)):
        x = noisy(np.full((300, 300), g, np.float32), k, s, np.random.default_rng(0))
        assert abs(x.var() / (k * g + s * s) - 1) < 0.05 and abs(x.mean() - g) < 1e-3


@pytest.mark.parametrize('channel', range(3))
def test_demosaic_gives_each_colour_back(channel):
    x = np.zeros((20, 24, 3), np.float32)
    x[..., channel] = 0.5
    assert np.abs(demosaic(mosaic(x)) - x).max() < 1e-3


def test_ink():
    assert np.allclose(dot_gain(np.array([0, 0.25, 0.5, 1.0]), 0.1), [0, 0.325, 0.6, 1])
    a = np.full((1, 1), 0.5, np.float32)
    lines = np.array([[0.04] * 3])
    assert np.allclose(yule_nielsen(a, lines, 1.0), 0.52, atol=1e-5) and np.allclose(
        yule_nielsen(a, lines, 2.0), 0.36, atol=1e-5
    )  # ((1+.2)/2)^2
    asked, got = profile(INKS, 0.2, 1.8, 0.5)
    assert (
        np.abs(
            np.interp(compensate(np.array([0.1, 0.4]), asked, got), asked, got)
            - got[0]
            - (got[-1] - got[0]) * np.array([0.1, 0.4])
        ).max()
        < 0.02
    )


@pytest.mark.parametrize('angle', ANGLES)
def test_halftone_coverage_frequency_and_angle(angle):
    s, t = frame_grid(256, 256)
    ink = halftone(np.full((256, 256), 0.35, np.float32), s, t, 1 / 20, angle, 0.2)
    assert abs(ink.mean() - 0.35) < 0.02
    f = np.abs(np.fft.fft2(ink - ink.mean()))
    i, j = np.unravel_index(f.argmax(), f.shape)
    v = np.array([o - 256 if o > 128 else o for o in (i, j)])
    assert abs(np.hypot(*v) - 20) < 1
    off = (np.degrees(np.arctan2(*v)) - np.degrees(angle)) % 90
    assert min(off, 90 - off) < 3


@pytest.mark.parametrize('pitch', [0.85, 0.95, 1.1, 1.3, 1.7, 2.2, 2.9])
def test_beat_of_a_monochrome_sensor(pitch):
    seen = subpixels(((np.arange(2048) + 0.5) / pitch).astype(np.float32)[None], 1 / pitch, terms=1)[0, :, 1]
    peak = np.abs(np.fft.rfft(seen - seen.mean())).argmax() / 2048
    assert abs(peak - abs(1 / pitch - round(1 / pitch))) < 2e-3


@pytest.mark.parametrize('scale', [0.97, 1.0, 1.03])
@pytest.mark.parametrize(
    'pattern, q',
    [
        ('moire', 0.8),
        ('moire', 0.95),
        ('moire', 1.1),
        ('moire', 1.2),
        ('subpixel', 0.8),
        ('subpixel', 0.9),
        ('subpixel', 1.1),
    ],
)
def test_moire_follows_pitch_and_scale_through_the_camera(pattern, q, scale):
    """Red pixels are two apart: |f - round(2f)/2| in cycles per sensor pixel.

    The pitch is what the sensor sees: a larger screen with as many pixels per sensor pixel beats alike."""
    n, g = 128, dict(FLAT, scale=scale)
    dev = dict(SCREENS['phone'], pitch=(q, q))
    light = show_screen(
        np.full((n, n, 3), 0.7, np.float32), g, {pattern: 1.0}, dev, np.random.default_rng(0), (n * OVER, n * OVER)
    )
    red = take_photo(light, dict(EXACT, sharp=0.0, awb=(0, 0)), np.random.default_rng(1))[0][n // 2, 4:-4, 0]
    lo, hi = FINE if pattern == 'moire' else COARSE
    f = 1 / (lo + (hi - lo) * (q - 0.8) / 0.55)
    x = np.abs(np.fft.rfft((red - red.mean()) * np.hanning(len(red)), 4096))
    x[:100] = 0
    assert abs(x[:1024].argmax() / 4096 - abs(f - round(2 * f) / 2)) < 0.01


def test_a_screen_that_comes_nearer_changes_its_beat():
    "Five per cent of pitch move the beat by what the formula says, many times more than five per cent."

    def beat(pitch):
        seen = subpixels(((np.arange(4096) + 0.5) / pitch).astype(np.float32)[None], 1 / pitch, terms=1)[
            0, ::2, 0
        ]  # red pixels: every other one
        return np.abs(np.fft.rfft((seen - seen.mean()) * np.hanning(len(seen)))).argmax() / 4096

    near, far = beat(1.9), beat(1.9 * 1.05)
    said = [abs(1 / p - round(2 / p) / 2) for p in (1.9, 1.9 * 1.05)]
    assert abs(near - said[0]) < 1e-3 and abs(far - said[1]) < 1e-3 and near / max(far, 1e-3) > 5


def test_a_turned_screen_turns_its_beat_more():
    n, angle, dev = 128, 0.05, dict(SCREENS['phone'], pitch=(1.1, 1.1))
    light = show_screen(
        np.full((n, n, 3), 0.7, np.float32),
        dict(FLAT, angle=angle),
        dict(moire=1.0),
        dev,
        np.random.default_rng(0),
        (n * OVER, n * OVER),
    )
    red = take_photo(light, dict(EXACT, sharp=0.0, awb=(0, 0)), np.random.default_rng(1))[0][..., 0]
    x = np.abs(np.fft.fft2((red - red.mean()) * np.outer(np.hanning(n), np.hanning(n)), (512, 512)))
    at = np.abs(np.fft.fftfreq(512))
    x[(at[:, None] > 0.25) | (at[None] > 0.25) | (np.hypot(at[:, None], at[None]) < 0.02)] = 0
    i, j = np.unravel_index(x.argmax(), x.shape)
    f = 1 / (FINE[0] + (FINE[1] - FINE[0]) * 0.3 / 0.55)
    want = [abs(k - round(2 * k) / 2) for k in (f * np.sin(angle), f * np.cos(angle))]
    assert abs(at[i] - want[0]) < 0.01 and abs(at[j] - want[1]) < 0.01 and want[0] / want[1] > 5 * np.tan(angle)


def test_a_screen_has_its_own_pixels():
    "Details below its pitch are averaged, in encoded values, as software scales pictures."
    rng, n = np.random.default_rng(0), 64
    fine = np.clip(0.5 + 0.2 * rng.standard_normal((n * OVER, n * OVER, 1)), 0, 1).astype(np.float32).repeat(3, -1)

    def shown(x):
        return show_screen(fine, FLAT, dict(moire=x), SCREENS['phone'], np.random.default_rng(1), (n * OVER, n * OVER))

    plain, own = shown(0.0), shown(1.0)
    grey = [a.mean(-1).std() for a in (plain, own)]
    assert grey[1] < 0.7 * grey[0] and abs(own.mean() / fine.mean() ** 2.2 - 1) < 0.05


def test_light_on_something_flat():
    "Against the formula at single points; mean one; the brighter side is the lamp's."
    light, D = dict(lights=[((0.6, -0.3, 0.8), np.array([0.5, 0.6, 0.7]))], sky=(np.full(3, 0.2), np.full(3, 0.1))), 2.5
    lit, sheen = flat_light(light, (60, 80), distance=D)
    lamp = np.array([0.6, -0.3, 0.8])
    lamp *= D / np.linalg.norm(lamp)
    y, x = np.mgrid[:60, :80]
    x, y = (x + 0.5) / 60 - 2 / 3, (y + 0.5) / 60 - 0.5
    to = lamp - np.stack([x, y, 0 * x], -1)
    r = np.linalg.norm(to, axis=-1)
    want = 0.15 + (D * D / r**2 * lamp[2] / r)[..., None] * [0.5, 0.6, 0.7]
    want /= want.mean((0, 1))
    eye = np.array([0, 0, D]) - np.stack([x, y, 0 * x], -1)
    h = to / r[..., None] + eye / np.linalg.norm(eye, axis=-1)[..., None]
    assert (
        np.abs(lit - want).max() < 0.02
        and np.abs(sheen[..., 0] - (h[..., 2] / np.linalg.norm(h, axis=-1)) ** 20).max() < 0.03
    )
    assert lit[:, 60:].mean() > lit[:, :20].mean() and abs(lit.mean() - 1) < 1e-3
    behind = flat_light(dict(light, lights=[((0.6, 0, -0.8), np.ones(3))]), (60, 80))
    assert np.ptp(behind[0]) < 1e-4 and behind[1].max() == 0


def test_shading_of_a_sheet_does_not_follow_the_face():
    "A lamp goes from left to right: the cheeks of the living change, those on paper hardly."
    p, room, n = identity(2, glasses='none'), np.full((128, 128, 3), 0.2, np.float32), 128

    def lamp(x):
        return dict(lights=[((x, -0.3, 0.7), np.full(3, 0.7))], sky=(np.full(3, 0.3), np.full(3, 0.2)))

    def live(light):
        return render_scene(
            p, NEUTRAL, rotation(0, 0, 0), (64, 58), 30, light, room, draw_clothes(np.random.default_rng(0))
        )[0]

    def ratio(x):
        x = x.mean(-1)[66:82]
        return np.log(x[:, 46:60].mean() / x[:, 68:82].mean())

    photo = np.clip(live(EVEN), 0, 1) ** (1 / 2.2)

    def paper(light):
        return present(
            'print',
            photo.astype(np.float32),
            FLAT,
            dict(flat_shading=1.0),
            PRINTERS['inkjet'],
            light,
            room,
            np.random.default_rng(0),
        )

    alive, flat = (abs(ratio(f(lamp(0.8))) - ratio(f(lamp(-0.8)))) for f in (live, paper))
    assert flat < alive / 3


def test_geometry_is_undone():
    rng = np.random.default_rng(0)
    for _ in range(20):
        g = dict(
            scale=rng.uniform(0.6, 1.2),
            shift=rng.normal(0, 0.05, 2),
            angle=rng.normal(0, 0.2),
            tilt=rng.normal(0, 0.15, 2),
            bend=rng.uniform(-1.2, 1.2),
        )
        p = rng.uniform(-0.4, 0.4, (2, 9))
        assert np.allclose(to_medium(g, *from_medium(g, *p)), p, atol=1e-4)


@pytest.mark.parametrize('shape', [(48, 48), (48, 64), (64, 36)])
@pytest.mark.parametrize('kind', ['print', 'replay'])
def test_a_medium_without_patterns_gives_the_picture_back(kind, shape):
    rng = np.random.default_rng(0)
    room = draw_room(rng, (shape[0] * OVER, shape[1] * OVER))
    picture = np.clip(draw_room(rng, shape, blur=2.0), 0, 1) ** (1 / 2.2)
    make, dev = dict(print=(print_sheet, PRINTERS['laser']), replay=(show_screen, SCREENS['phone']))[kind]
    out = make(picture.astype(np.float32), FLAT, {}, dev, rng, room.shape[:2])
    import cv2

    assert np.abs(cv2.resize(out, shape[::-1], interpolation=cv2.INTER_AREA) - picture**2.2).mean() < 0.01


# bend is a matter of geometry, flat shading one of the first light
@pytest.mark.parametrize('pattern', [k for k in PATTERNS if k not in ('bend', 'flat_shading')])
def test_every_pattern_changes_the_light_in_proportion(pattern):
    kind, dev = ('print', PRINTERS['laser']) if pattern in IN_PRINT else ('replay', SCREENS['tablet'])
    assert (pattern in IN_PRINT) == (kind == 'print') and (kind == 'print' or pattern in IN_REPLAY)
    rng = np.random.default_rng(3)
    room = draw_room(rng, (96, 96))
    picture = np.clip(picture_of(3), 0, 1)

    def out(x):
        return present(kind, picture, dict(FLAT, scale=1.1), {pattern: x}, dev, EVEN, room, np.random.default_rng(5))

    none, half, full = out(1e-4), out(0.5), out(1.0)  # without any pattern a medium is a window, which is brighter
    assert (
        np.isfinite(full).all() and full.min() >= 0 and 0.002 < np.abs(half - none).mean() < np.abs(full - none).mean()
    )


def picture_of(seed):
    return take_photo(picture(seed, 96)[0], EXACT, np.random.default_rng(0))[0]


@pytest.mark.parametrize(
    'kind, device',
    [('print', 'laser'), ('print', 'photo'), ('warped', 'inkjet'), ('replay', 'phone'), ('replay', 'monitor')],
)
def test_every_instrument_at_every_size(kind, device):
    rng = np.random.default_rng(1)
    for h, w in ((48, 64), (66, 50)):
        room = draw_room(rng, (h * OVER, w * OVER))
        p = np.clip(draw_room(rng, (h, w)), 0, 1)
        light = present(
            kind,
            p,
            dict(FLAT, scale=0.8, angle=0.1, tilt=(0.1, 0), bend=1.3 * (kind == 'warped')),
            {k: 1.0 for k in PATTERNS},
            {**PRINTERS, **SCREENS}[device],
            EVEN,
            room,
            rng,
        )
        x, q = take_photo(light, CAMERA, rng)
        assert (
            x.shape == (h, w, 3)
            and np.isfinite(x).all()
            and 0 <= x.min()
            and x.max() <= 1
            and CAMERA['quality'][0] <= q <= CAMERA['quality'][1]
        )
        assert unjpeg(jpeg(x, q)).shape == x.shape


# --- benchmark

import errno, json, os, signal, subprocess, sys, time
from pathlib import Path
import cv2, pandas as pd
import gfa_fastai.synth.benchmark as bm
from gfa_fastai.samples import validate_samples
from gfa_fastai.synth.benchmark import (
    DOMAIN_NAMES,
    SYNTHPAD_PRESETS,
    SYNTHPAD_VERSION,
    domain_strengths,
    load_synthpad,
    make_synthpad,
    make_variants,
    synthpad_protocol,
)
from gfa_fastai.synth.audits import shortcut_audit, shortcut_features

SMALL = dict(subjects=(3, 2, 2), progress=False)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp('synth') / 'all'
    return root, make_synthpad(root, 'tiny', **SMALL)


def sha(root):
    return json.loads((Path(root) / 'manifest.json').read_text())['sha256']


def test_the_table(made):
    root, df = made
    validate_samples(df)
    assert sorted(df.dataset.unique()) == sorted(DOMAIN_NAMES) and set(df.pai) <= {
        '',
        'print',
        'warped',
        'cut',
        'replay',
    }
    live, attack = df[df.label == 'live'], df[df.label == 'attack']
    assert (live[list(PATTERNS)] == 0).all(axis=None) and (attack[list(PATTERNS)].max(axis=1) > 0).all()
    assert (attack[attack.pai == 'replay'][[k for k in PATTERNS if k not in IN_REPLAY]] == 0).all(axis=None) and (
        (attack.moire > 0) & (attack.subpixel > 0)
    ).sum() == 0
    assert (df.groupby('subject').role.apply(lambda r: (r == 'gallery').sum()) == 1).all()
    for p, (x, y, w, h) in zip(df.path, df.box):
        im = cv2.imread(p)
        assert im.shape == (48, 48, 3) and w > 8 and 0 < x + w / 2 < 48 and 0 < y + h / 2 < 48
    assert all(cv2.imread(p, 0).max() > 100 for p in live.depth) and (attack.depth == '').all()
    assert (
        (df.quality.between(50, 95)).all()
        and attack.device.str.contains('-').all()
        and (attack.groupby('dataset').device.nunique() >= 3).all()
        and (df[df.role == 'probe'].groupby('dataset').camera.nunique() == 2).all()
    )
    pd.testing.assert_frame_equal(load_synthpad(root), df)


def test_bytes_do_not_depend_on_workers_order_or_company(made, tmp_path):
    root, df = made
    part = make_synthpad(tmp_path / 'two', 'tiny', domains=['slr', 'laptop'], workers=2, **SMALL)
    for p in part.path:
        assert Path(p).read_bytes() == (root / Path(p).relative_to(tmp_path / 'two')).read_bytes()
    other = make_synthpad(tmp_path / 'seed', 'tiny', domains='slr', seed=5, subjects=(1, 1, 1), progress=False)
    assert Path(other.path[0]).read_bytes() != (root / Path(other.path[0]).relative_to(tmp_path / 'seed')).read_bytes()


SCRIPT = """
import sys
from gfa_fastai.synth.benchmark import make_synthpad
make_synthpad(sys.argv[1], 'tiny', subjects=(2, 2, 2))
"""


def children(pid):
    "Processes that descend from one, as far as they run."
    table = subprocess.run(['ps', '-eo', 'pid,ppid,stat'], capture_output=True, text=True).stdout
    rows = [line.split() for line in table.splitlines()[1:]]
    found, more = set(), {pid}
    while more:
        found |= more
        more = {int(p) for p, parent, stat in rows if int(parent) in found and stat[0] != 'Z'} - found
    return found - {pid}


def running(pid):
    stat = subprocess.run(['ps', '-o', 'stat=', '-p', str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(stat) and stat[0] != 'Z'


def same_as(made, df, root):
    "The pictures of people who are in both sets are the same bytes."
    both = [(Path(p), made[0] / Path(p).relative_to(root)) for p in df.path]
    both = [(a, b) for a, b in both if b.exists()]
    return len(both) and all(a.read_bytes() == b.read_bytes() for a, b in both)


@pytest.mark.skipif(os.name != 'posix', reason='reads the table of processes')
def test_a_plain_script_is_stopped_and_goes_on(made, tmp_path):
    "No `__main__` guard, default workers; SIGTERM leaves no worker; what was finished is not made again."
    root, script = tmp_path / 'k', tmp_path / 'script.py'
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(root)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=dict(os.environ, LOKY_MAX_CPU_COUNT='2'))
    end = time.time() + 120
    while len(list(root.glob('parts/*.json'))) < 3:
        assert process.poll() is None and time.time() < end
        time.sleep(0.1)
    workers = children(process.pid)
    assert len(workers) >= 2  # it did start workers
    process.terminate()
    process.wait(5)
    end = time.time() + 5
    while any(map(running, workers)):
        assert time.time() < end, 'workers are left'
        time.sleep(0.1)
    finished = {p: p.stat().st_mtime_ns for p in root.glob('parts/*.json')}
    assert 3 <= len(finished) < 24
    with pytest.raises(ValueError, match='no finished dataset'):
        load_synthpad(root)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and '24/24' in again.stderr  # the bar
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    assert len(list(root.glob('parts/*.json'))) == 24
    assert same_as(made, load_synthpad(root), root)


@pytest.mark.skipif(os.name != 'posix', reason='sends a signal to a process group')
def test_ctrl_c_ends_workers_too(tmp_path):
    root = tmp_path / 'k'
    command = [sys.executable, '-c', SCRIPT, str(root)]
    env = dict(os.environ, LOKY_MAX_CPU_COUNT='2')

    def listen():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # where a shell started the tests behind an &

    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True, preexec_fn=listen
    )
    end = time.time() + 120
    while len(list(root.glob('parts/*.json'))) < 2:
        assert process.poll() is None and time.time() < end
        time.sleep(0.1)
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=10)[1]
    time.sleep(1)
    assert error.count('Traceback') == 1 and 'KeyboardInterrupt' in error and not any(map(running, workers))


def test_what_is_damaged_is_made_again_and_nothing_else(made, tmp_path):
    root, kw = tmp_path / 'k', dict(domains='phone', workers=1, **SMALL)
    df = make_synthpad(root, 'tiny', **kw)
    assert same_as(made, df, root)
    times = {p: Path(p).stat().st_mtime_ns for p in df.path}
    before = sha(root)
    Path(df.path[0]).write_bytes(b'x')
    Path(df.depth[0]).unlink()
    make_synthpad(root, 'tiny', **kw)
    changed = {p for p in df.path if Path(p).stat().st_mtime_ns != times[p]}
    assert changed == set(df.path[df.subject == df.subject[0]]) and sha(root) == before
    assert same_as(made, df, root)


def test_another_dataset_is_not_overwritten(tmp_path):
    kw = dict(domains='slr', subjects=(1, 1, 1), progress=False)
    make_synthpad(tmp_path, 'tiny', **kw)
    for change in (dict(seed=3), dict(patterns=['moire']), dict(pattern_gap=0.5), dict(subjects=(2, 1, 1))):
        with pytest.raises(ValueError, match='holds another dataset.*Choose another folder'):
            make_synthpad(tmp_path, 'tiny', **{**kw, **change})
    m = json.loads((tmp_path / 'manifest.json').read_text())
    m['config']['version'] = '0'
    (tmp_path / 'manifest.json').write_text(json.dumps(m))
    with pytest.raises(ValueError, match=f"version is '0' there and '{SYNTHPAD_VERSION}' here"):
        make_synthpad(tmp_path, 'tiny', **kw)
    (tmp_path / 'manifest.json').write_text('{')
    pytest.raises(ValueError, make_synthpad, tmp_path, 'tiny', **kw)
    (tmp_path / 'manifest.json').unlink()
    with pytest.raises(ValueError, match='holds other things.*no manifest'):
        make_synthpad(tmp_path, 'tiny', **kw)


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / 'letters').mkdir()
    (tmp_path / 'letters/mine.txt').write_text('x')
    for root in (tmp_path, tmp_path / 'letters'):
        with pytest.raises(ValueError, match='holds other things.*Choose another folder'):
            make_synthpad(root, 'tiny', progress=False)
    with pytest.raises(ValueError, match='is a file'):
        make_synthpad(tmp_path / 'letters/mine.txt', 'tiny', progress=False)
    assert [p.name for p in tmp_path.rglob('*')] == ['letters', 'mine.txt']


@pytest.mark.parametrize(
    'kw, text',
    [
        (dict(preset='big'), "no preset 'big'; known are tiny"),
        (dict(domains=['webcam', 'tv']), "no domain 'tv'; known are webcam"),
        (dict(patterns='glare'), "no pattern 'glare'; known are moire"),
        (dict(strength=dict(moire=2)), 'strength of moire is 2; it runs'),
        (dict(strength=dict(x=1)), "no pattern 'x'"),
        (dict(style_gap=9), 'style_gap is 9'),
        (dict(pattern_gap='a'), 'pattern_gap'),
        (dict(domains=[]), 'no domain is chosen'),
        (dict(size=20), 'height or width of a frame is 20; it is a whole number, from 32 to'),
        (dict(size=65), 'even'),
        (dict(subjects=(0, 0, 0)), 'subjects'),
        (dict(frames=0), 'frames'),
        (dict(seed=-1), 'seed'),
        (dict(seed='x'), 'seed'),
        (dict(faces='nowhere'), 'not a folder'),
        (dict(workers=0), 'workers'),
    ],
)
def test_bad_input(kw, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        make_synthpad(tmp_path / 'x', **{'preset': 'tiny', 'progress': False, **kw})
    assert not (tmp_path / 'x').exists()


def test_no_space_left(tmp_path, monkeypatch):
    real = bm.write_bytes

    def full(path, data):
        if 'slr001' in path.name:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return real(path, data)

    monkeypatch.setattr(bm, 'write_bytes', full)
    kw = dict(domains='slr', subjects=(1, 1, 1), progress=False)
    with pytest.raises(OSError, match='1 of 3 people are done. Make space'):
        make_synthpad(tmp_path, 'tiny', **kw)
    monkeypatch.setattr(bm, 'write_bytes', real)
    assert len(make_synthpad(tmp_path, 'tiny', **kw))


def test_real_photographs(tmp_path):
    rng = np.random.default_rng(0)
    for s in range(9):
        im = picture(7000 + s, 160, style='short', glasses='none')[0]
        im = np.clip(im * (0.2 / im[60:100, 60:100].mean()) ** 0.7, 0, 1) ** (1 / 2.2)
        (tmp_path / f'in/p{s}').mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f'in/p{s}/a.jpg'), (im[..., ::-1] * 255).astype(np.uint8))
    whole = (tmp_path / 'in/p8/a.jpg').read_bytes()
    (tmp_path / 'in/p8/a.jpg').write_bytes(whole[: len(whole) // 2])
    for name in ('p0/b.cr2', 'p1/b.CR2', 'p1/c.raw', 'notes.txt'):
        (tmp_path / 'in' / name).write_bytes(b'x')
    photos = dict(faces=tmp_path / 'in', domains=['slr', 'webcam'], progress=False)
    with pytest.warns(UserWarning, match='1 photographs cannot be read and are left out.*p8'):
        with pytest.warns(UserWarning, match=r'not read are left out \(2 .cr2, 1 .raw\)'):
            df = make_synthpad(tmp_path / 'in/out', 'tiny', **photos)
    with pytest.warns(UserWarning, match='that this library made'):
        assert make_synthpad(tmp_path / 'in/out', 'tiny', **photos).equals(df)  # its own pictures are no photographs
    shutil.rmtree(tmp_path / 'in/out')
    assert (
        (df.groupby('dataset').split.nunique() == 3).all()
        and df.subject.nunique() >= 6
        and (df.depth == '').all()
        and {'live', 'attack'} == set(df.label)
    )
    (tmp_path / 'in/p8/a.jpg').unlink()
    with pytest.raises(ValueError, match='have a photograph with a face'):
        make_synthpad(tmp_path / 'no', 'tiny', faces=tmp_path / 'in', progress=False)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='no photographs'):
        make_synthpad(tmp_path / 'no', 'tiny', faces=tmp_path / 'empty', progress=False)


def test_variants_and_protocols(made, tmp_path):
    kw = dict(preset='tiny', domains='laptop', subjects=(1, 1, 1), progress=False)
    alone = make_variants(tmp_path, 'alone', ['banding'], **kw)['banding']
    assert alone.banding.max() > 0 and alone[[k for k in PATTERNS if k != 'banding']].values.max() == 0
    assert make_variants(tmp_path, 'without', ['banding'], **kw)['banding'].banding.max() == 0
    with pytest.raises(ValueError, match="known are 'without' and 'alone'"):
        make_variants(tmp_path, 'only', **kw)
    df = made[1]
    for n, column in ((1, 'session'), (3, 'camera')):
        p = synthpad_protocol(df, n)
        assert not set(p[p.split == 'test'][column]) & set(p[p.split != 'test'][column]) and len(p)
    with pytest.raises(ValueError, match='known are 1'):
        synthpad_protocol(df, 5)


def test_every_domain_has_its_own_strongest_patterns():
    t = pd.DataFrame({d: domain_strengths(d) for d in DOMAIN_NAMES}).drop(['double_blur', 'flat_shading'])
    for kind in (IN_PRINT, IN_REPLAY):
        assert t.loc[t.index.isin(kind)].idxmax().nunique() == 4
    assert pd.DataFrame({d: domain_strengths(d, 0.0) for d in DOMAIN_NAMES}).nunique(axis=1).max() == 1


def test_workers_start_light():
    "What renders people needs no torch: it would be loaded once for each worker."
    code = 'import sys, gfa_fastai.synth.benchmark; print(sorted({"torch", "fastai", "matplotlib"} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == '[]'


def test_presets_have_what_a_report_needs():
    assert SYNTHPAD_PRESETS['full']['subjects'][0] * 4 >= 100 and set(SYNTHPAD_PRESETS['full']['size']) == set(
        DOMAIN_NAMES
    )


def test_frames_of_other_shapes(tmp_path):
    df = make_synthpad(
        tmp_path,
        'tiny',
        size=dict(webcam=(60, 80), phone=(96, 54)),
        domains=['webcam', 'phone'],
        subjects=(1, 1, 1),
        frames=2,
        progress=False,
    )
    assert {cv2.imread(p).shape for p in df[df.dataset == 'phone'].path} == {(96, 54, 3)} and {
        cv2.imread(p).shape for p in df[df.dataset == 'webcam'].path
    } == {(60, 80, 3)}
    assert df[df.role == 'probe'].groupby('video').frame.nunique().eq(2).all()


# --- audits, at tiny


def test_audits_refuse_a_truncated_picture(made, tmp_path):
    whole = Path(made[1].path[0]).read_bytes()
    (tmp_path / 'half.jpg').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match='half.jpg: not a readable image'):
        shortcut_features(tmp_path / 'half.jpg')


def test_audit_shortcuts_across_domains(made):
    a = shortcut_audit(made[1])
    assert a.auc.between(0, 1).all() and a[a.source != a.target].groupby('shortcut').auc.mean().max() < 0.93


def test_audit_nothing_leaks(tmp_path):
    "With no pattern at all, live and attack cannot be told apart: features of both classes have the same distribution."
    df = make_synthpad(tmp_path, 'tiny', patterns=[], subjects=(16, 8, 8), domains='webcam', progress=False)
    a = shortcut_audit(df)
    assert abs(a[a.shortcut == 'all'].auc.mean() - 0.5) < 0.17
    x = np.stack([cv2.imread(p).astype(float) for p in df[df.role == 'probe'].path])
    y = (df[df.role == 'probe'].label == 'attack').values
    edge = np.concatenate([x[:, 0], x[:, -1], x[:, :, 0], x[:, :, -1]], 1).mean((1, 2))
    d = edge - x.mean((1, 2, 3))
    assert abs(d[y].mean() - d[~y].mean()) < 3 * d.std() * np.sqrt(
        1 / y.sum() + 1 / (~y).sum()
    )  # no dark border around a medium


def test_workers_follow_into_another_folder(tmp_path, monkeypatch):
    "Workers are used again for some seconds; a relative folder is one of the folder where the caller is now."
    for name in ('first', 'second'):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        samples = make_synthpad(
            'people', 'tiny', domains=['phone'], size=48, subjects=(1, 1, 1), workers=2, progress=False
        )
        assert all(Path(path).is_file() for path in samples['path'])
        assert (tmp_path / name / 'people' / 'manifest.json').is_file()
