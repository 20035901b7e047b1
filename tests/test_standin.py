"The stand-in dataset: deterministic, kept, and what its table promises."
from pathlib import Path

import cv2
import numpy as np
import pytest

from gfa_fastai.frames import read_image
from gfa_fastai.samples import check_classes, validate_samples
from gfa_fastai.standin import DOMAINS, MEDIA, H, W, make_standin, person, scene, take


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp('standin')
    return root, make_standin(root, subjects=(2, 1, 1), frames=2)

def contents(df, root): return {Path(p).relative_to(root).as_posix(): Path(p).read_bytes() for p in df.path}

def test_table(made):
    root, df = made
    check_classes(validate_samples(df))
    assert len(df) == 2*4*8*2 and df.groupby('split').subject.nunique().to_dict() == dict(train=4, dev=2, test=2)
    assert set(df.pai) == {'', *MEDIA} and (df.label == 'attack').sum() == 3*(df.label == 'live').sum()
    assert df.groupby('video').size().eq(2).all()
    for r in df.iloc[::9].itertuples():
        x, y, w, h = r.box
        assert read_image(r.path).shape == (H, W, 3) and 0 <= x+w/2 <= W and 0 <= y+h/2 <= H

def test_same_seed_same_bytes(made, tmp_path):
    root, df = made
    again = make_standin(tmp_path, subjects=(2, 1, 1), frames=2)
    assert contents(df, root) == contents(again, tmp_path) and df.box.tolist() == again.box.tolist()

def test_frames_of_a_video_differ_a_little(made):
    _, df = made
    for _,v in df.groupby('video'):
        a, b = (read_image(p).astype(float) for p in v.path)
        assert 0 < np.abs(a-b).mean() < 40 and np.corrcoef(a.ravel(), b.ravel())[0, 1] > .5

def test_kept_and_resumed(tmp_path):
    df = make_standin(tmp_path, subjects=(1, 0, 0), frames=1)
    before = contents(df, tmp_path); stamps = {p: Path(p).stat().st_mtime_ns for p in df.path}
    Path(df.path[3]).unlink()
    again = make_standin(tmp_path, subjects=(1, 0, 0), frames=1)
    assert contents(again, tmp_path) == before and again.equals(df)
    assert [p for p in df.path if Path(p).stat().st_mtime_ns != stamps[p]] == [df.path[3]]

def test_other_seeds_and_domains_do_not_collide(tmp_path):
    "One folder, several calls: each gets its own images, and a domain is the same alone as beside another."
    both = make_standin(tmp_path, subjects=(1, 0, 0), frames=1)
    other = make_standin(tmp_path, subjects=(1, 0, 0), frames=1, seed=1)
    alone = make_standin(tmp_path/'alone', subjects=(1, 0, 0), frames=1, domains='street')
    assert not set(both.path) & set(other.path) and both.box.tolist() != other.box.tolist()
    street = both[both.dataset == 'street']
    assert contents(street, tmp_path) == contents(alone, tmp_path/'alone') and street.box.tolist() == alone.box.tolist()
    assert set(both.box[both.dataset == 'office']) != set(street.box)

def test_rooms_are_not_drawn_from_the_face(monkeypatch, tmp_path):
    "No recording's random numbers are those of the person: NumPy pads short seeds with zeros."
    from gfa_fastai import standin
    seen = []
    monkeypatch.setattr(standin, 'person', lambda seed: seen.append(np.random.default_rng(seed).random()) or person(seed))
    monkeypatch.setattr(standin, '_write', lambda path, who, pai, domain, rng, shot: seen.extend([rng.random(), shot.random()]) or (0., 0., 9., 9.))
    make_standin(tmp_path, subjects=(2, 1, 1), frames=3)
    people, rest = {s for s in seen[::3]}, {s for i,s in enumerate(seen) if i % 3}
    assert len(people) == 8 and len(rest) == 8*8*(1+3) and not people & rest

def test_an_attack_is_the_same_person(made):
    "A live picture and an attack of one seed show the same scene: the box is the same, the pixels are not."
    for name,domain in DOMAINS.items():
        shots = {p: take(person([0, 0, 5]), p, domain, np.random.default_rng(3)) for p in ('', *MEDIA)}
        assert len({box for _,box in shots.values()}) == 1
        assert all(im.shape == (H, W, 3) and 0 <= im.min() and im.max() <= 1 for im,_ in shots.values())
        smooth = [np.abs(cv2.Laplacian(im[40:80, 60:100], cv2.CV_32F)).mean() for im,_ in shots.values()]
        assert len(set(np.round(smooth, 6))) == 3

def test_faces_are_where_the_box_is():
    "Inside the middle of the box is skin: the colour of the identity, shaded."
    who = person([1, 0, 2])
    light, (x, y, w, h) = scene(who, np.random.default_rng(0))
    cheek = light[int(y+.6*h):int(y+.66*h), int(x+.25*w):int(x+.75*w)].reshape(-1, 3)
    ratio = np.median(cheek/cheek.sum(1, keepdims=True), 0)
    assert np.abs(ratio-who['skin']/who['skin'].sum()).max() < .06

@pytest.mark.parametrize('kw,message', [(dict(domains=['beach']), "no domain 'beach'; known are office, street"), (dict(subjects=(0, 0, 0)), 'make no images'), (dict(subjects=(1, 2)), 'make no images'),
                                        (dict(subjects=(1, -1, 1)), 'make no images'), (dict(frames=0), 'make no images'), (dict(domains=[]), 'make no images')])
def test_refused(tmp_path, kw, message):
    with pytest.raises(ValueError, match=message): make_standin(tmp_path/'new', **kw)
    assert not (tmp_path/'new').exists()

def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path/'file').touch()
    with pytest.raises(OSError, match='cannot write to the folder .*file'): make_standin(tmp_path/'file'/'s', subjects=(1, 1, 1))
