"Pictures in, decisions out: bad files, gates, galleries from many processes, thresholds, cards, the command."

import json, os, re, shutil, signal, stat, struct, subprocess, sys, time, zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from gfa_fastai.use import authenticate as module
from gfa_fastai.run import cli
from gfa_fastai.inputs.videos import save_video
from gfa_fastai.use.authenticate import (
    CODES,
    DEMONSTRATION,
    AuthResult,
    FaceAuthenticator,
    annotate,
    both_answers,
    dev_thresholds,
    model_card,
)
from gfa_fastai.use.gallery import Gallery, check_name, model_hash
from gfa_fastai.model import GFACNN
from gfa_fastai.inputs.models import load_model, save_model, small_model
from gfa_fastai.inputs.images import MAX_PIXELS, read_image
from gfa_fastai.inputs.faces import find_faces
from gfa_fastai.use.quality import Gates, check_faces, face_quality
from gfa_fastai.synth.faces import EVEN, NEUTRAL, draw_clothes, identity, render_scene

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT.parent / 'shared' / 'data' / 'nuaa_small'
POSIX = pytest.mark.skipif(os.name == 'nt', reason='POSIX signals and file modes')


def portrait(seed, size=200):
    "A rendered person before a grey wall."
    wall, clothes = np.full((size, size, 3), 0.25, np.float32), draw_clothes(np.random.default_rng(seed))
    linear = render_scene(identity(seed), NEUTRAL, np.eye(3), (size / 2, 0.45 * size), size / 4, EVEN, wall, clothes)[0]
    return (255 * np.clip(linear, 0, 1) ** (1 / 2.2)).round().astype(np.uint8)


@pytest.fixture(scope='module')
def people():
    "Three people whose faces are found for sure."
    return [portrait(s) for s in (1, 12, 8)]


def slim(seed=0, **kwargs):
    torch.manual_seed(seed)
    return GFACNN(3, **{**dict(width=0.125, pool=2, fc_dim=16), **kwargs}).eval()


META = dict(
    size=64,
    margin=0.3,
    thresholds=dict(
        live=dict(
            point='EER',
            points={
                'EER': dict(threshold=0.5, apcer=0.1, bpcer=0.1),
                'APCER 5%': dict(threshold=0.9, apcer=0.05, bpcer=0.3),
            },
            measured_on='nobody',
        ),
        similarity=dict(
            point='FAR 1%', points={'FAR 1%': dict(threshold=0.9, far=0.01, frr=0.2)}, measured_on='nobody'
        ),
    ),
)


@pytest.fixture
def auth(monkeypatch, tmp_path):
    """An authenticator whose network is a rule: a red corner of the frame is an attack, and the embedding is the colour
    profile of the face."""

    def rule(model, frames, faces):
        live = 1 - (frames[:, :4, :4, 0].mean((1, 2)) > 200) * 0.9
        e = np.stack(
            [
                cv2.resize(f[16:48, 16:48], (4, 4), interpolation=cv2.INTER_AREA)[..., 1].astype(float).ravel()
                for f in faces
            ]
        )
        e = e - e.mean(1, keepdims=True)
        return live, e / np.linalg.norm(e, axis=1, keepdims=True)

    monkeypatch.setattr(module, 'both_answers', rule)
    return FaceAuthenticator(slim(), META, gallery=tmp_path / 'people.json', device='cpu', source='test')


def attack(image):
    image = image.copy()
    image[:20, :20] = (255, 0, 0)
    return image


# -- pictures


def noise(h=40, w=50, seed=0):
    return cv2.resize(np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8), (w, h))


# -- faces and gates


def test_faces(people):
    assert [len(find_faces(p)) for p in people] == [1] * 3
    x, y, w, h = find_faces(people[0])[0]
    assert 30 < x < 70 and 20 < y < 70 and 90 < w < 140
    big = cv2.resize(people[0], None, fx=4, fy=4)  # looked for in a smaller picture, given in the larger one
    assert np.allclose(find_faces(big)[0], np.multiply((x, y, w, h), 4), atol=40)
    assert len(find_faces(np.hstack(people[:2]))) == 2
    assert find_faces(np.full((100, 100, 3), 128, np.uint8)) == []


def test_every_gate(people):
    good = people[0]

    def code(image, **gates):
        return check_faces(image, find_faces(image), Gates(**gates))[0]

    small = cv2.copyMakeBorder(cv2.resize(good, (64, 64)), 68, 68, 68, 68, cv2.BORDER_CONSTANT, value=(136,) * 3)
    assert code(good) is None
    assert code(small) == 'too small' and code(small, min_face=20, min_sharp=0) is None
    assert (
        code((good * 0.2).astype(np.uint8)) == 'too dark'
        and code((good * 0.2).astype(np.uint8), min_light=0, min_sharp=0) is None
    )
    assert code(good, max_light=50) == 'too bright'
    assert code(cv2.GaussianBlur(good, None, 6)) == 'blurred'
    assert code(np.hstack(people[:2])) == 'two faces' and code(good * 0) == 'no face'


def test_quality_of_a_box_over_the_border(people):
    assert face_quality(people[0], (-50, -50, 100, 100))['side'] == 100


# -- the network


def test_both_answers_are_those_of_two_passes():
    from gfa_fastai.compare.recognition import embed, similarity

    m, rng = slim(), np.random.default_rng(0)
    frames, faces = (rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8) for _ in range(2))
    live, e = both_answers(m, frames, faces)
    assert np.allclose(live, m.live_score(torch.from_numpy(frames).permute(0, 3, 1, 2) / 255), atol=1e-6)
    assert np.allclose(e @ e.T, similarity(*[embed(m, list(faces))] * 2, all_pairs=True), atol=1e-6) and np.allclose(
        np.linalg.norm(e, axis=1), 1
    )
    for i in range(3):
        assert np.allclose(both_answers(m, frames[i : i + 1], faces[i : i + 1])[1], e[i], atol=1e-6)


def test_frames_and_faces_are_those_of_extract_frames(people, tmp_path, monkeypatch):
    "A new picture is cut as the training's were."
    from gfa_fastai.inputs.frames import prepare
    from gfa_fastai.inputs.images import read_image

    Image.fromarray(people[0]).save(tmp_path / 'a.png')
    seen = {}
    monkeypatch.setattr(
        module,
        'both_answers',
        lambda m, frames, faces: (seen.update(frame=frames[0], face=faces[0]), (np.ones(1), np.ones((1, 16)) / 4))[1],
    )
    a = FaceAuthenticator(slim(), META, device='cpu')
    a.read_faces([tmp_path / 'a.png'])
    p = prepare(tmp_path / 'a.png', find_faces(people[0])[0], tmp_path / 'cache', 64, 0.3)
    for k in seen:
        assert np.array_equal(seen[k], read_image(p[f'{k}_path'])), k


def test_boxes_are_moved_to_where_the_training_had_them(people, tmp_path, monkeypatch):
    import pandas as pd
    from gfa_fastai.inputs.faces import crop_face

    Image.fromarray(people[0]).save(tmp_path / 'a.png')
    x, y, w, h = find_faces(people[0])[0]
    box = (x + 0.1 * w - 0.1 * w, y + 0.2 * w - 0.1 * w, 1.2 * w, 1.2 * w)  # right .1, down .2, larger by a fifth
    shift = module.measure_shift(pd.DataFrame(dict(path=[str(tmp_path / 'a.png')], box=[box])))
    assert np.allclose(shift, [0.1, 0.2, 1.2], atol=1e-3)
    seen = {}
    monkeypatch.setattr(
        module,
        'both_answers',
        lambda m, frames, faces: (seen.update(face=faces[0]), (np.ones(1), np.ones((1, 16)) / 4))[1],
    )
    FaceAuthenticator(slim(), META | dict(box_shift=shift), device='cpu').read_faces([people[0]])
    assert np.array_equal(seen['face'], crop_face(people[0], box, 64, 0.3))
    with pytest.raises(ValueError, match='no picture of 1 has both'):
        module.measure_shift(pd.DataFrame(dict(path=[str(tmp_path / 'a.png')], box=[None])))


def test_adapter_is_applied_to_frames_only(people, tmp_path, monkeypatch):
    from gfa_fastai.adapt.methods import ColourMatch

    target = np.zeros((32, 32, 3), np.uint8)
    target[..., 2] = 200
    target[::2] += 5
    path, seen = save_model(slim(), tmp_path / 'm.safetensors', with_adapter=ColourMatch(target), **META), {}
    monkeypatch.setattr(
        module,
        'both_answers',
        lambda m, frames, faces: (seen.update(frame=frames[0], face=faces[0]), (np.ones(1), np.ones((1, 16)) / 4))[1],
    )
    FaceAuthenticator.load(path, device='cpu').read_faces([people[0]])
    blue, plain = seen['frame'].mean((0, 1)), seen['face'].mean((0, 1))
    assert blue[2] > 3 * blue[0] and plain[2] < 2 * plain[0]


# -- decisions


def test_the_way_through(auth, people):
    ann, bo, cy = people
    assert auth.verify(ann).code == 'unknown' and 'nobody is enrolled' in auth.verify(ann).reason
    assert auth.enroll('Ann', ann) == 1 and auth.enroll('Bo', [bo, bo]) == 2
    r = auth.verify(ann)
    assert (
        r.accepted
        and r.decision == 'accept'
        and r.name == 'Ann'
        and r.similarity > 0.99
        and r.live_score == 1
        and r.box
    )
    assert auth.verify(ann, 'Ann').accepted
    r = auth.verify(ann, 'Bo')
    assert not r.accepted and r.code == 'other person' and r.name == 'Bo' and 'under threshold 0.90' in r.reason
    assert auth.verify(cy).code == 'unknown' and re.search(
        'the nearest, (Ann|Bo), has similarity', auth.verify(cy).reason
    )
    r = auth.verify(attack(ann))
    assert (r.decision, r.code, r.reason) == ('reject', 'attack', 'attack: score 0.10 under threshold 0.50')
    r = auth.identify(bo, top=2)
    assert r.accepted and [n for n, _ in r.candidates] == ['Bo', 'Ann'] and json.dumps(r.to_dict())
    assert auth.verify(cy, live_only=True).code == 'live'
    auth.remove('Bo')
    assert auth.gallery.names() == ['Ann'] and auth.verify(bo).code == 'unknown'
    for image, code in (
        (np.hstack([ann, bo]), 'two faces'),
        (ann * 0, 'no face'),
        ((ann * 0.2).astype(np.uint8), 'too dark'),
        (cv2.GaussianBlur(ann, None, 6), 'blurred'),
    ):
        r = auth.verify(image)
        assert r.code == code and r.reason.startswith(code) and r.live_score is None and not r.accepted
        assert r.code in CODES


def test_an_attack_is_not_enrolled(auth, people):
    with pytest.raises(ValueError, match=r'Ann: picture 2 of 2: attack: score 0.10 .*Nothing was enrolled; force=True'):
        auth.enroll('Ann', [people[0], attack(people[0])])
    assert auth.gallery.names() == []
    assert auth.enroll('Ann', attack(people[0]), force=True) == 1
    with pytest.raises(ValueError, match='two faces'):
        auth.enroll('Bo', np.hstack(people[:2]), force=True)
    with pytest.raises(ValueError, match='no pictures'):
        auth.enroll('Bo', [])
    with pytest.raises(ValueError, match='the name is empty'):
        auth.enroll(' ', people[0])


def test_names_that_are_not_enrolled(auth, people):
    auth.gallery.add('Ann', unit(0))
    with pytest.raises(ValueError, match="nobody is enrolled as 'Zoe'"):
        list(auth.watch([people[0]], name='Zoe'))
    auth.remove('Ann')
    with pytest.raises(ValueError, match="nobody is enrolled as 'Zoe'; there are none"):
        auth.verify(people[0], 'Zoe')
    with pytest.raises(ValueError, match="nobody is enrolled as 'Zoe'"):
        auth.remove('Zoe')


@pytest.mark.parametrize('name', ['', ' ', 'Zoe', 'a\nb', 3])
def test_a_claimed_name_is_checked_everywhere(auth, people, clip, name):
    "An empty name is not anybody: verify, watch and decide refuse it alike, whatever else they are asked."
    auth.enroll('Ann', people[0])
    reading = auth.read_faces([people[0]])[0]
    for ask in (
        lambda **kw: auth.verify(people[0], name, **kw),
        lambda **kw: auth.verify(clip, name, **kw),
        lambda **kw: auth.watch([people[0]], name=name, **kw),
        lambda **kw: auth.watch(clip, name=name, **kw),
        lambda **kw: auth.watch(93, name=name, **kw),
        lambda **kw: auth.decide(reading, name, **kw),
    ):
        for live_only in (False, True):
            with pytest.raises(ValueError, match='name is|nobody is enrolled as|control character|a name is text'):
                ask(live_only=live_only)


def test_a_claimed_name_in_another_spelling(auth, people):
    auth.enroll('Zo\u00eb', people[0])
    for name in ('Zoe\u0308', ' Zo\u00eb '):
        answers = [r for _, _, r in auth.watch([people[0]], name=name)] + [auth.verify(people[0], name)]
        assert all(r.accepted and r.name == 'Zo\u00eb' for r in answers)


def test_operating_points(people, tmp_path):
    path = save_model(slim(), tmp_path / 'm.safetensors', **META)
    assert FaceAuthenticator.load(path).live_threshold == 0.5
    assert FaceAuthenticator.load(path, live_point='APCER 5%').live_threshold == 0.9
    assert FaceAuthenticator.load(path, live_threshold=0.3).live_origin == 'given'
    with pytest.raises(ValueError, match="no operating point 'BPCER' for live; it has EER, APCER 5%"):
        FaceAuthenticator.load(path, live_point='BPCER')


@pytest.mark.parametrize(
    'given, words',
    [
        (dict(live_threshold=float('nan')), 'live_threshold is nan: give a number from 0 to 1'),
        (dict(live_threshold=-1), 'live_threshold is -1: give a number from 0 to 1'),
        (dict(live_threshold=55), 'live_threshold is 55: give a number from 0 to 1'),
        (dict(live_threshold='high'), "live_threshold is 'high': give a number from 0 to 1"),
        (dict(similarity_threshold=3), 'similarity_threshold is 3: give a number from -1 to 1'),
        (dict(similarity_threshold=float('-inf')), 'similarity_threshold is -inf: give a number from -1 to 1'),
        (dict(device='x'), "device 'x' cannot be used"),
    ],
)
def test_arguments_that_make_no_sense(given, words):
    with pytest.raises(ValueError, match=words):
        FaceAuthenticator(slim(), META, **given)


def test_a_file_of_version_1_with_one_number(auth, people, tmp_path):
    path = save_model(
        slim(), tmp_path / 'm.safetensors', size=64, margin=0.3, threshold=0.4, train='webcam', people=['a', 'b', 'c']
    )
    a = FaceAuthenticator.load(path, device='cpu')
    assert (
        a.live_threshold == 0.4 and 'development people of webcam' in a.live_origin and a.similarity_threshold is None
    )
    assert a.verify(people[0], live_only=True).code == 'live' and a.verify(people[0]).code == 'unknown'
    a.enroll('Ann', people[0])
    with pytest.raises(ValueError, match='has no threshold for similarity: give similarity_threshold='):
        a.verify(people[0])


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(size=None), 'at which size'),
        (dict(size=1e9), 'at which size'),
        (dict(size='64'), 'at which size'),
        (dict(margin=-1), 'with which margin'),
        (dict(box_shift=[0, 0]), 'box_shift is damaged'),
        (dict(box_shift=[0, 0, float('nan')]), 'box_shift is damaged'),
        (dict(box_shift='up'), 'box_shift is damaged'),
        (dict(thresholds=[1]), 'thresholds are damaged'),
        (
            dict(thresholds=dict(live=dict(point='EER', points=dict(EER=dict(threshold='high')), measured_on=''))),
            'thresholds are damaged',
        ),
        (dict(thresholds={}), 'has no threshold for live'),
        (dict(thresholds=dict(live={})), 'thresholds are damaged'),
    ],
)
def test_meta_that_does_not_fit(tmp_path, change, words):
    path = save_model(slim(), tmp_path / 'm.safetensors', **META | change)
    with pytest.raises(ValueError, match=rf'm.safetensors.*{words}'):
        FaceAuthenticator.load(path)


# -- videos


@pytest.fixture
def clip(people, tmp_path):
    save_video(tmp_path / 'clip.mp4', [people[0]] * 6, fps=5)
    return tmp_path / 'clip.mp4'


def test_videos(auth, people, clip, tmp_path):
    assert auth.enroll('Ann', clip) == 6
    r = auth.verify(clip)
    assert r.accepted and r.name == 'Ann' and r.frames == 6
    assert auth.verify([people[0], people[0]]).frames == 2
    assert [(i, r.accepted) for i, _, r in auth.watch(clip, every=2)] == [(0, True), (2, True), (4, True)]
    r = auth.verify([people[0] * 0] * 3 + [people[0]])
    assert r.code == 'no face' and '(in 3 of 4 frames)' in r.reason
    assert auth.verify([people[0] * 0] + [people[0]] * 3).accepted
    assert auth.verify([people[0]] + [attack(people[0])] * 3).code == 'attack'  # the mean of .1, .1, .1 and 1
    with pytest.raises(ValueError, match='no frames'):
        auth.verify([])
    (tmp_path / 'b.mp4').write_bytes(clip.read_bytes()[:300])
    with pytest.raises(ValueError, match='b.mp4: not a readable video'):
        auth.verify(tmp_path / 'b.mp4')
    with pytest.raises(ValueError, match='b.mp4: not a readable video'):
        list(auth.watch(tmp_path / 'b.mp4'))


def test_a_video_that_cannot_be_written_leaves_nothing(tmp_path):
    def frames():
        yield np.zeros((64, 64, 3), np.uint8)
        raise RuntimeError('the camera is gone')

    with pytest.raises(RuntimeError):
        save_video(tmp_path / 'a.mp4', frames())
    with pytest.raises(ValueError, match='no frames'):
        save_video(tmp_path / 'a.mp4', [])
    with pytest.raises(ValueError, match='written as .mp4'):
        save_video(tmp_path / 'a.avi', [])
    assert not list(tmp_path.iterdir())


def test_no_camera():
    a = FaceAuthenticator(slim(), META, device='cpu')
    with pytest.raises(OSError, match='no camera 93'):
        next(a.watch(93))


def test_annotated_pictures(people):
    r = AuthResult(
        'reject',
        'attack',
        'attack: score 0.12 under threshold 0.48, and Zoë is a long story ' * 3,
        box=(10, 20, 100, 100),
    )
    out = annotate(people[0], r)
    assert (
        out.shape == people[0].shape
        and out.dtype == np.uint8
        and (out != people[0]).any()
        and (out[100, 10] == (204, 51, 17)).all()
    )
    assert (annotate(people[0], AuthResult('accept', 'live', 'live'))[-1, 0] == (34, 136, 51)).all()


@pytest.mark.parametrize(
    'pair',
    [
        ('Ann', 'Bob'),
        ('\u5c0f\u660e', '\u674e\u534e'),
        ('\u0639\u0644\u06cc', '\u0631\u0636\u0627'),
        ('\u0930\u092e', '\u0928\u0932'),
        ('\u0410\u043d\u043d\u0430', '\u0411\u043e\u0431'),
        ('\U0001f600', '\U0001f601'),
    ],
)
def test_names_of_all_scripts_are_drawn_or_said(pair):
    wall = np.full((200, 320, 3), 128, np.uint8)
    a, b = (annotate(wall, AuthResult('accept', 'accepted', f'accepted: live, {name}')) for name in pair)
    assert not np.array_equal(a, b)


# -- thresholds and cards


def trained_table(tmp_path, n=6):
    "A table of pictures whose class and person can be read off, with dev people."
    rows, rng = [], np.random.default_rng(0)
    import pandas as pd

    for s in range(n):
        base = rng.integers(60, 200, (4, 4, 3), dtype=np.uint8)
        for k in range(4):
            image = cv2.resize(base, (64, 64), interpolation=cv2.INTER_NEAREST) + rng.integers(
                0, 20, (64, 64, 3), dtype=np.uint8
            )
            if k > 1:
                image = attack(image)
            Image.fromarray(image).save(p := tmp_path / f'{s}-{k}.png')
            rows.append(
                dict(
                    dataset='d',
                    split='dev',
                    subject=f's{s}',
                    label='attack' if k > 1 else 'live',
                    pai='print' if k > 1 else '',
                    video=f'{s}-{k}',
                    frame=0,
                    path=str(p),
                    frame_path=str(p),
                    face_path=str(p),
                    box=None,
                    role='probe',
                )
            )
    return pd.DataFrame(rows)


def test_dev_thresholds(tmp_path):
    from gfa_fastai.evaluation import score_samples
    from gfa_fastai.metrics import apcer, bpcer, eer_threshold

    df, m = trained_table(tmp_path), slim()
    t = dev_thresholds(m, df)
    s = score_samples(m, df, progress=False)
    a, l = (s[s.label == k].score.to_numpy() for k in ('attack', 'live'))
    assert t['live']['points']['EER']['threshold'] == eer_threshold(a, l)
    for p in t['live']['points'].values():
        assert p['apcer'] == apcer(a, p['threshold']) and p['bpcer'] == bpcer(l, p['threshold'])
    assert (
        t['live']['points']['APCER 5%']['apcer'] <= 0.05
        and '6 people, 12 live and 12 attack pictures (print)' in t['live']['measured_on']
    )
    assert (
        t['similarity']['point'] == 'EER' and '6 pairs of one person, 30 of two' in t['similarity']['measured_on']
    )  # 30 are too few for 1 %
    json.dumps(t)
    a = FaceAuthenticator.load(save_model(m, tmp_path / 'm.safetensors', size=64, margin=0.3, thresholds=t))
    assert (
        a.live_threshold == t['live']['points']['EER']['threshold']
        and a.similarity_threshold == t['similarity']['points']['EER']['threshold']
    )
    with pytest.raises(ValueError, match='0 live and 12 attack'):
        dev_thresholds(m, df[df.label == 'attack'])
    alone = dev_thresholds(m, df[df.subject == 's0'])['similarity']
    assert alone['point'] is None and 'one person' in alone['measured_on']


def test_model_card(tmp_path):
    from gfa_fastai.adapt.methods import Recompress

    card = model_card(
        save_model(
            slim(),
            tmp_path / 'm.safetensors',
            with_adapter=Recompress(80),
            metrics=[dict(what='live', eer=0.125)],
            limits=['Never at night.'],
            **META,
        )
    )
    for words in (
        'VGG16 trunk of width 0.125',
        'attack, live',
        'frames and face crops of 64 pixels',
        '| EER (default) | 0.5000 | APCER 10.0 %, BPCER 10.0 % |',
        'domain adaptation**: yes',
        '| live | 0.125 |',
        'Never at night.',
        'Not a certified PAD',
        'Demographics',
    ):
        assert words in card, words
    bare = model_card(save_model(slim(), tmp_path / 'b.safetensors'))
    assert 'not stated' in bare and 'domain adaptation**: none' in bare
    with pytest.raises(FileNotFoundError):
        model_card(tmp_path / 'none.safetensors')
    for k, v in (('thresholds', dict(live=3)), ('metrics', [3]), ('limits', 3)):
        with pytest.raises(ValueError, match='what it says of itself is damaged'):
            model_card(save_model(slim(), tmp_path / 'b.safetensors', **{k: v}))


# -- hostile and damaged model files


def forge(path, change, state=None):
    "A model file with another header."
    m = slim()
    header = dict(format_version='1', config=json.dumps(m.config), meta=json.dumps(META)) | change
    save_file(m.state_dict() | (state or {}), path, metadata=header)
    return path


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(config=json.dumps(dict(slim().config, weights='/etc/passwd'))), "'weights', which no model has"),
        (dict(config='[]'), 'no configuration'),
        (dict(config='[' * 100000), 'no JSON'),
        (dict(meta='3'), 'no configuration'),
        (dict(config=json.dumps(dict(slim().config, width=1e300))), 'do not fit'),
        (dict(config=json.dumps(dict(slim().config, n_subjects='x'))), 'do not fit'),
        (dict(classes='["live", "attack"]'), 'another kind of model'),
        (dict(format_version='7'), 'format version 7'),
    ],
)
def test_hostile_headers(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        load_model(forge(tmp_path / 'm.safetensors', change))


@pytest.mark.parametrize(
    'state, words',
    [
        (dict(std=torch.zeros(1, 3, 1, 1)), 'std is not above 0'),
        ({'trunk.0.bias': torch.full((8,), float('nan'))}, 'trunk.0.bias is not finite'),
        (dict(extra=torch.zeros(1)), 'do not fit'),
    ],
)
def test_hostile_tensors(tmp_path, state, words):
    with pytest.raises(ValueError, match=words):
        load_model(forge(tmp_path / 'm.safetensors', {}, state))


def test_a_pickle_is_not_opened(tmp_path):
    torch.save(slim(), tmp_path / 'm.safetensors')
    with pytest.raises(ValueError, match='is not a whole safetensors file'):
        FaceAuthenticator.load(tmp_path / 'm.safetensors')


def test_half_precision_files(tmp_path):
    m, x = slim(), torch.rand(2, 3, 64, 64)
    a, b = (save_model(m, tmp_path / f'{half}.safetensors', half=half) for half in (False, True))
    assert abs(b.stat().st_size / a.stat().st_size - 0.5) < 0.02
    again = load_model(b)[0]
    assert again.mean.dtype == torch.float32 and torch.allclose(again.live_score(x), m.live_score(x), atol=1e-3)


def test_a_damaged_adapter(tmp_path):
    from gfa_fastai.adapt.by_name import load_model_adapter

    path = forge(tmp_path / 'm.safetensors', {}, {'adapter.file': torch.zeros(40, dtype=torch.uint8)})
    with pytest.raises(ValueError, match='m.safetensors: its adapter is not a whole safetensors file') as e:
        load_model_adapter(path)
    assert 'tmp' not in str(e.value).replace(str(tmp_path), '')


# -- galleries


def unit(seed, dim=16):
    e = np.random.default_rng(seed).normal(size=dim)
    return e / np.linalg.norm(e)


def worker(path, who, n, pause=0):
    code = f"""import sys, numpy as np, time
from gfa_fastai.use.gallery import Gallery
for i in range({n}):
    Gallery(sys.argv[1], 'm', 16).add(f'{who}{{i}}', np.full(16, .25))
    print(i, flush=True)
    time.sleep({pause})"""
    return subprocess.Popen(
        [sys.executable, '-c', code, str(path)],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_lose_nothing(tmp_path):
    path = tmp_path / 'g.json'
    both = [worker(path, who, 100) for who in 'ab']
    for p in both:
        p.communicate(timeout=120)
    assert [p.returncode for p in both] == [0, 0] and len(Gallery(path, 'm', 16)) == 200
    assert sorted(p.name for p in tmp_path.iterdir()) in (['g.json', 'g.json.lock'], ['g.json'])


@POSIX
def test_killed_while_enrolling(tmp_path):
    "Whatever the moment, the file is whole, and the next process gets the lock."
    path = tmp_path / 'g.json'
    for k in range(4):
        p = worker(path, f'p{k}-', 10000)
        for _ in range(3 + 5 * k):
            p.stdout.readline()
        p.send_signal(signal.SIGKILL)
        p.wait()
        before = len(Gallery(path, 'm', 16))
        assert before >= 3 + 5 * k
        Gallery(path, 'm', 16, wait=10).add('after', unit(0))
    assert 'after' in Gallery(path, 'm', 16) and not list(tmp_path.glob('.part*'))


def test_gallery_round_trip(tmp_path):
    g = Gallery(tmp_path / 'sub' / 'g.json', 'm', 16)
    for i in range(5):
        g.add(f'n{i}', unit(i))
    g.add('n0', np.stack([unit(0)] * 2))
    again = Gallery(tmp_path / 'sub' / 'g.json', 'm', 16)
    assert again.names() == [f'n{i}' for i in range(5)] and again.people['n0'].shape == (3, 16)
    for i in range(5):
        assert (
            np.allclose(again.people[f'n{i}'][0], unit(i), atol=1e-6) and again.similarities(unit(i))[0][0] == f'n{i}'
        )
    ranked = again.similarities(unit(9))
    assert [s for _, s in ranked] == sorted([s for _, s in ranked], reverse=True)
    for n, s in ranked:
        assert np.isclose(s, unit(9) @ unit(int(n[1:])), atol=1e-6)
    assert Gallery(None, 'm', 16).similarities(unit(0)) == []


@POSIX
def test_gallery_is_its_owner_s(tmp_path):
    Gallery(tmp_path / 'g.json', 'm', 16).add('a', unit(0))
    assert stat.S_IMODE((tmp_path / 'g.json').stat().st_mode) == 0o600


@POSIX
def test_a_gallery_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / 'g.json')
    for path in (tmp_path / 'g.json', '/dev/zero'):
        with pytest.raises(ValueError, match='no regular file'):
            Gallery(path, 'm', 16)


@POSIX
def test_gallery_behind_a_link(tmp_path):
    (tmp_path / 'real').mkdir()
    (tmp_path / 'link.json').symlink_to(tmp_path / 'real' / 'g.json')
    Gallery(tmp_path / 'link.json', 'm', 16).add('a', unit(0))
    assert (tmp_path / 'link.json').is_symlink() and len(Gallery(tmp_path / 'real' / 'g.json', 'm', 16)) == 1


@pytest.mark.parametrize(
    'name', ['../../etc/passwd', '/etc/passwd', 'a\\b', 'C:\\con', '..', 'null', '"quoted"', 'Zoë', '名前', 'a' * 100]
)
def test_odd_names_are_harmless(tmp_path, name):
    g = Gallery(tmp_path / 'g.json', 'm', 16)
    g.add(name, unit(0))
    assert Gallery(tmp_path / 'g.json', 'm', 16).names() == [name] and name in g
    assert {p.name for p in tmp_path.iterdir()} <= {'g.json', 'g.json.lock'}
    g.remove(name)
    assert len(g) == 0


@pytest.mark.parametrize('name', ['', '  ', 'a\nb', 'a\x1b[2J', 'a\u202eb', 'a\0b', 'a' * 101, None, 3])
def test_refused_names(name):
    with pytest.raises(ValueError):
        check_name(name)


@pytest.mark.parametrize(
    'name, allowed',
    [
        ('\u0639\u0644\u06cc\u200c\u0631\u0636\u0627', True),  # Persian
        ('\u0dc1\u0dca\u200d\u0dbb\u0dd3', True),  # Sinhala
        ('\u0915\u094d\u200d\u0937', True),  # Devanagari
        ('\u0d05\u0d28\u0d4d\u200d', True),  # Malayalam, a final chillu letter
        ('An\u200dn', False),
        ('\u200dAnn', False),
        ('Ann\u200c', False),
        ('\u0639\u0644\u06cc\u200c', False),
        ('\u0639\u200c\u200c\u0644', False),
        ('a\u200b', False),
        ('a\u2066b', False),
    ],
)
def test_joiners_belong_to_spelling(name, allowed):
    if allowed:
        assert check_name(name) == name
    else:
        with pytest.raises(ValueError, match='control character'):
            check_name(name)


def test_one_name_in_two_spellings():
    assert check_name(' Zoe\u0308 ') == check_name('Zoë')


@pytest.mark.parametrize(
    'content, words',
    [
        ('', 'not JSON'),
        ('{"a"', 'not JSON'),
        ('[' * 100000, 'not JSON'),
        ('[]', 'does not say so'),
        ('{}', 'does not say so'),
        ('\x00\x01', 'not JSON'),
        (dict(version=2), 'gallery format 2'),
        (dict(model='other'), 'of another model'),
        (dict(people=3), 'damaged'),
        (dict(people={'a': 3}), 'damaged'),
        (dict(people={'a': [[1, 2]]}), '16 finite'),
        (dict(people={'a': []}), '16 finite'),
        (dict(people={'a': [['x'] * 16]}), 'damaged'),
        (dict(people={'a\n': [[0.25] * 16]}), 'damaged'),
        (dict(people={'a': [[None] * 16]}), 'damaged'),
        (dict(people={'a': [[10**400] * 16]}), 'damaged'),
    ],
)
def test_hostile_galleries(tmp_path, content, words):
    base = dict(format='gfa_fastai gallery', version=1, model='m', people={})
    (tmp_path / 'g.json').write_text(content if isinstance(content, str) else json.dumps(base | content))
    with pytest.raises(ValueError, match=rf'g.json.*{words}'):
        Gallery(tmp_path / 'g.json', 'm', 16)


def test_not_finite(tmp_path):
    for v in ('NaN', '-Infinity', '1e999'):
        (tmp_path / 'g.json').write_text(
            '{"format": "gfa_fastai gallery", "version": 1, "model": "m", "people": {"a": [[%s]]}}'
            % ', '.join([v] * 16)
        )
        with pytest.raises(ValueError, match='it holds|finite'):
            Gallery(tmp_path / 'g.json', 'm', 16)


def test_a_gallery_that_cannot_be_written(tmp_path, monkeypatch):
    g = Gallery(tmp_path / 'g.json', 'm', 16)
    g.add('a', unit(0))
    monkeypatch.setattr(os, 'fsync', lambda *a: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(OSError, match='cannot write .*g.json: no space left on the disk.*choose another folder'):
        g.add('b', unit(1))
    monkeypatch.undo()
    assert Gallery(tmp_path / 'g.json', 'm', 16).names() == ['a'] == g.names() and not list(tmp_path.glob('.part*'))


def test_the_hash_is_of_what_embeddings_depend_on():
    a, b = slim(), slim()
    assert (
        model_hash(a, size=64, margin=0.3) == model_hash(b, size=64, margin=0.3) != model_hash(b, size=64, margin=0.2)
    )
    with torch.no_grad():
        b.spoof_head[6].bias += 1
    assert model_hash(a) == model_hash(b)
    with torch.no_grad():
        b.trunk[0].bias += 1e-3
    assert model_hash(a) != model_hash(b)


def test_a_gallery_of_another_model(auth, people):
    auth.enroll('Ann', people[0])
    with pytest.raises(ValueError, match='is a gallery of another model'):
        FaceAuthenticator(slim(seed=1), META, gallery=auth.gallery.path)
    with pytest.raises(ValueError, match='is a gallery of another model'):
        FaceAuthenticator(slim(), META | dict(margin=0.4), gallery=auth.gallery.path)
    assert FaceAuthenticator(slim(), META, gallery=auth.gallery.path).gallery.names() == ['Ann']


# -- the command


@pytest.fixture
def files(auth, people, tmp_path):
    "A model file and pictures; the network is the rule of `auth`."
    save_model(slim(), tmp_path / 'm.safetensors', **META)
    for name, im in dict(ann=people[0], bo=people[1], attack=attack(people[0]), two=np.hstack(people[:2])).items():
        Image.fromarray(im).save(tmp_path / f'{name}.png')
    return tmp_path


def run(capsys, files, job, *args):
    status = cli.gfa_authenticate(
        [job, '--model', str(files / 'm.safetensors'), '--gallery', str(files / 'people.json'), *map(str, args)]
    )
    return status, *capsys.readouterr()


def test_command(capsys, files):
    assert run(capsys, files, 'enroll', 'Ann', files / 'ann.png')[:2] == (0, 'Ann: enrolled with 1 picture\n')
    status, out, _ = run(capsys, files, 'verify', 'Ann', files / 'ann.png', '--out', files / 'seen')
    assert (
        status == 0
        and 'accept, accepted: live (score 1.00, threshold 0.50), Ann' in out
        and (files / 'seen' / 'ann.png.png').exists()
    )
    (files / 'other').mkdir()
    shutil.copy(files / 'attack.png', files / 'other' / 'ann.png')
    run(capsys, files, 'verify', 'Ann', files / 'ann.png', files / 'other' / 'ann.png', '--out', files / 'two')
    assert sorted(p.name for p in (files / 'two').glob('*.png')) == ['ann.png.png', 'ann.png_2.png']
    status, out, _ = run(capsys, files, 'verify', '--name', 'Ann', files / 'attack.png')
    assert status == 1 and 'reject, attack: score 0.10 under threshold 0.50' in out
    assert run(capsys, files, 'verify', 'Ann', files / 'ann.png', files / 'two.png')[0] == 1
    assert run(capsys, files, 'verify', '--live-only', files / 'bo.png')[0] == 0
    assert run(capsys, files, 'verify', 'Ann', '--live-threshold', '0.05', files / 'attack.png')[0] == 0
    status, out, _ = run(capsys, files, 'identify', '--json', files / 'ann.png', files / 'bo.png')
    rows = [json.loads(l) for l in out.splitlines()]
    assert (
        status == 1
        and [(r['decision'], r['code']) for r in rows] == [('accept', 'accepted'), ('reject', 'unknown')]
        and rows[0]['candidates'][0][0] == 'Ann'
        and rows[0]['source'].endswith('ann.png')
    )
    assert run(capsys, files, 'list')[1] == 'Ann: 1 picture\n'
    assert run(capsys, files, 'remove', 'Ann')[0] == 0 and run(capsys, files, 'list')[1] == ''


def test_command_says_what_is_wrong(capsys, files):
    for words, args in (
        ('Nothing was enrolled', ('enroll', 'Ann', files / 'attack.png')),
        ('does not exist', ('verify', '--live-only', files / 'none.png')),
        ('Give the name before the pictures', ('verify', files / 'ann.png')),
        ('Give the name before the pictures', ('verify', files / 'ann.png', files / 'two.png')),
        ("nobody is enrolled as 'Bo'", ('verify', 'Bo', files / 'ann.png')),
        ("nobody is enrolled as 'Bo'", ('verify', '--name', 'Bo', files / 'ann.png')),
        ("nobody is enrolled as 'Bo'", ('remove', 'Bo')),
        ('no operating point', ('list', '--live-point', 'x')),
        ('control character', ('enroll', 'a\nb', files / 'ann.png')),
        ('no camera 93', ('webcam', '--camera', '93')),
        ('the name is empty', ('verify', '--name', '', files / 'ann.png')),
        ('the name is empty', ('webcam', '--name', '')),
        ('the name is empty', ('video', '--name', ' ', files / 'ann.png')),
        ('--live-threshold is 55', ('verify', 'Ann', '--live-threshold', '55', files / 'ann.png')),
        ('--live-threshold is -1e-05', ('verify', 'Ann', '--live-threshold', '-1e-05', files / 'ann.png')),
        ('--similarity-threshold is 3', ('verify', 'Ann', '--similarity-threshold', '3', files / 'ann.png')),
    ):
        status, out, err = run(capsys, files, *args)
        notes, said = err.splitlines()[:-1], err.splitlines()[-1]
        assert status == 2 and words in said and said.startswith('gfa_authenticate: '), (args, err)
        assert not notes or notes == [f'{DEMONSTRATION}. --embedder takes a public recogniser.'], (args, err)
    (files / 'people.json').write_text('half a gal')
    assert 'is no gallery' in run(capsys, files, 'list')[2]
    assert cli.gfa_authenticate(['list', '--model', str(files / 'none.safetensors')]) == 2
    for args in ([], ['dance']):
        with pytest.raises(SystemExit) as e:
            cli.gfa_authenticate(args)
        assert e.value.code == 2


def test_command_on_videos(capsys, files, clip):
    assert run(capsys, files, 'enroll', 'Ann', clip)[0] == 0
    status, out, _ = run(capsys, files, 'video', clip, '--json', '--every', '3', '--out', files / 'seen')
    rows = [json.loads(l) for l in out.splitlines()]
    assert (
        status == 0
        and [r.get('frame') for r in rows] == [0, 3, None]
        and rows[-1]['frames'] == 6
        and all(r['decision'] == 'accept' for r in rows)
    )
    copy = cv2.VideoCapture(str(files / 'seen' / 'clip.mp4'))
    assert copy.get(cv2.CAP_PROP_FRAME_COUNT) == 2 and abs(copy.get(cv2.CAP_PROP_FPS) - 5 / 3) < 0.01
    assert run(capsys, files, 'verify', 'Ann', clip, '--out', files / 'whole')[0] == 0
    copy = cv2.VideoCapture(str(files / 'whole' / 'clip.mp4'))
    assert copy.get(cv2.CAP_PROP_FRAME_COUNT) == 6 and copy.get(cv2.CAP_PROP_FPS) == 5
    status, _, err = run(capsys, files, 'video', clip, '--name', 'Bo')
    assert status == 2 and 'nobody is enrolled' in err


@pytest.mark.parametrize('job', ['enroll', 'remove', 'list', 'verify', 'identify', 'video', 'webcam'])
def test_help(capsys, job):
    with pytest.raises(SystemExit) as e:
        cli.gfa_authenticate([job, '--help'])
    out = capsys.readouterr().out
    assert e.value.code == 0 and '--gallery' in out and 'APCER 5%' in out
    examples = out.partition('examples:\n')[2].splitlines()
    assert len(examples) == 2 and all(e.startswith(f'  gfa_authenticate {job}') for e in examples)


def test_other_commands_still_end_with_0(capsys):
    @cli.command
    def gfa_nothing(argv=None):
        pass

    assert gfa_nothing() == 0


# -- the shipped model, and real photographs where they are


def test_small_model_is_as_its_table_says():
    import hashlib

    path = small_model()
    known = json.loads((ROOT / 'gfa_fastai' / 'results' / 'small_model.json').read_text())
    assert path.stat().st_size < 5e6 and hashlib.sha256(path.read_bytes()).hexdigest() == known['sha256']
    a = FaceAuthenticator.load('small', device='cpu')
    assert 0 < a.live_threshold < 1 and -1 < a.similarity_threshold < 1
    card = model_card('small')
    for words in 'SynthPAD', 'photograph', 'Not a certified PAD', 'Measured on':
        assert words in card


@pytest.mark.skipif(not PHOTOS.is_dir(), reason='no photographs at ../shared/data/nuaa_small')
def test_photographs():
    "Mechanics on real photographs: faces are found, one in each; every answer has a reason."
    a, paths = FaceAuthenticator.load('small', device='cpu'), sorted(PHOTOS.glob('*/*/*.jpg'))[::16]
    readings = a.read_faces(paths)
    assert np.mean([r.code is None for r in readings]) > 0.8
    assert all(0 <= r.live <= 1 for r in readings if r.code is None)
    assert {a.decide(r).code for r in readings} <= set(CODES)


def test_an_adapter_that_claims_to_be_huge(tmp_path):
    "No memory is taken for what a header says."
    from safetensors import safe_open
    from gfa_fastai.adapt.by_name import load_adapter
    from gfa_fastai.adapt.fda import FDA

    path = FDA(noise(), width=0.25, size=64, info=dict(steps=1)).save(tmp_path / 'a.safetensors')
    with safe_open(path, 'pt') as f:
        header, state = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
    del header['sha256']  # whoever forges a header leaves it out, as files of version 1 do
    for width in (1e5, -1, float('nan'), float('inf')):
        save_file(
            state, path, metadata=header | dict(config=json.dumps(json.loads(header['config']) | dict(width=width)))
        )
        with pytest.raises(ValueError, match='width is'):
            load_adapter(path)


def test_start_brings_no_fastai():
    "The shipped model is up within two seconds beyond PyTorch because nothing that trains is imported."
    code = (
        "import sys\nfrom gfa_fastai.use.authenticate import FaceAuthenticator\nFaceAuthenticator.load('small',"
        " device='cpu')\nprint(*sorted({'fastai', 'sklearn', 'scipy', 'matplotlib', 'torchvision', 'accelerate'} &"
        " set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stdout.split(), done.stdout + done.stderr
