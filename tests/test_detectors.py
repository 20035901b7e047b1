"Detectors for few pictures: cross-validation over people, classifiers as arrays, one file, and the command."

import dataclasses
import json
import re
import shlex
import shutil
import numpy as np
import pandas as pd
import pytest
import torch
from gfa_fastai.compare.detectors import (
    DETECTORS,
    OF_VIDEOS,
    Method,
    classifier_arrays,
    compare_methods,
    decide,
    fit_calibration,
    fit_detector,
    get_method,
    judge_methods,
    left_out_decisions,
    load_detector,
    method_features,
    people_folds,
    rate_choice,
    save_detector,
    train_detector,
)
from gfa_fastai.compare import detectors as module
from gfa_fastai.compare.baselines import extract_features
from gfa_fastai.compare.pretrained import PRETRAINED
from gfa_fastai.evaluation import evaluate_scores
from gfa_fastai.inputs.frames import extract_frames
from gfa_fastai.inputs.images import read_image, write_png
from gfa_fastai.inputs.models import load_model, read_tensors, small_model, write_tensors
from gfa_fastai.inputs.tables import load_scores
from gfa_fastai.run.cli import gfa_authenticate, gfa_evaluate, gfa_score, gfa_train
from gfa_fastai.samples import person_key
from gfa_fastai.synth.audits import linear_probe
from gfa_fastai.use.authenticate import FaceAuthenticator
from gfa_fastai.use.export import export_onnx
from sklearn.base import clone

SIZE = 64


def picture(person, attack, number):
    "A coloured gradient with noise; attacks have a fine grid on it, whose strength varies."
    rng = np.random.default_rng([person, attack, number])
    y, x = np.mgrid[:96, :96] / 96
    base = np.stack([x, y, 1 - x], -1) * rng.uniform(0.5, 0.9, 3) + rng.normal(0, 0.04, (96, 96, 3))
    grid = 0.15 * rng.uniform(0.6, 1) * np.sin(2 * np.pi * 24 * x)[..., None] * attack
    return (np.clip(base + grid, 0, 1) * 255).astype(np.uint8)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "A folder of six people, three live pictures and three attacks of each."
    root = tmp_path_factory.mktemp('photos')
    for person in range(6):
        for attack, kind in enumerate(('live', 'attack/print')):
            for number in range(3):
                write_png(root / kind / f'p{person}' / f'{number}.png', picture(person, attack, number))
    return root


@pytest.fixture(scope='module')
def frames(photos, tmp_path_factory):
    from gfa_fastai.run.reproduce import read_data

    samples = read_data(photos, draw=False)
    return extract_frames(samples, tmp_path_factory.mktemp('cache'), SIZE, progress=False).assign(split='train')


@pytest.fixture(scope='module')
def detector(frames):
    return train_detector(frames, 'lbp', SIZE, progress=False)


OF_PICTURES = [name for name in DETECTORS if name not in (*OF_VIDEOS, *PRETRAINED)]


@pytest.mark.parametrize('name', OF_PICTURES)
def test_arrays_and_files_score_as_scikit_learn_does(name, frames, tmp_path):
    how = get_method(name)
    X, rows = extract_features(frames, how.features, how.reads, progress=False)
    live = (rows['label'] == 'live').to_numpy()
    fitted = clone(how.classifier).fit(X, live)
    np.testing.assert_allclose(decide(classifier_arrays(fitted), X), fitted.decision_function(X), atol=1e-5)
    made = fit_detector(name, X, rows, SIZE, 0.3)
    again = load_detector(save_detector(made, tmp_path / 'd.safetensors', seed=3))
    assert again.meta == made.meta | dict(seed=3)
    pictures = np.stack([read_image(p) for p in frames['frame_path'][:5]])
    np.testing.assert_allclose(again.live_scores(pictures), made.probability(X[:5]), atol=1e-7)


def test_nobody_judges_themselves(frames):
    seen = np.zeros(len(frames), int)
    for left_out in people_folds(frames, 4):
        assert not set(person_key(frames)[left_out]) & set(person_key(frames)[~left_out])
        seen += left_out
    assert (seen == 1).all()


def test_people_of_two_datasets_with_one_name_are_two(frames):
    two = pd.concat([frames, frames.assign(dataset='other')], ignore_index=True)
    assert len(people_folds(two, 12)) == 12


@pytest.mark.parametrize('few', ['one person', 'live of one', 'attacks of one'])
def test_too_few_people_are_named(frames, few):
    first = frames['subject'] == frames['subject'].iloc[0]
    live = frames['label'] == 'live'
    kept = {'one person': first, 'live of one': first | ~live, 'attacks of one': first | live}[few]
    with pytest.raises(ValueError, match='at least two people; these are'):
        train_detector(frames[kept], 'lbp', SIZE, progress=False)


def test_two_people_get_a_model_and_are_told_that_a_rate_needs_three(photos, tmp_path, capsys):
    two = tmp_path / 'two'
    for path in sorted(photos.rglob('p[01]/*')):
        (two / path.relative_to(photos)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, two / path.relative_to(photos))
    out = tmp_path / 'run'
    assert gfa_train([str(two), '--out', str(out), '--method', 'lbp', '--size', str(SIZE)]) == 0
    said = capsys.readouterr().out
    assert 'at least three people; these are live pictures of 2 and attacks of 2' in said
    assert (out / 'model.safetensors').exists()


def test_a_feature_that_knows_the_person_gains_nothing(frames):
    "Features that are the person's own number separate the classes of people who are seen, and of nobody else."
    rng = np.random.default_rng(0)
    code = {p: rng.normal(size=4) for p in sorted(set(person_key(frames) + frames['label']))}
    X = np.stack([code[p] for p in person_key(frames) + frames['label']])
    live = (frames['label'] == 'live').to_numpy()
    how = Method(None, linear_probe(), 'frame')
    inside = clone(how.classifier).fit(X, live).decision_function(X)
    decisions = left_out_decisions(how, X, frames, folds=6)
    accuracy = [np.mean((d > 0) == live) for d in (inside, decisions)]
    assert accuracy[0] > accuracy[1] + 0.2


def test_a_method_that_learns_nothing_is_refused():
    live = np.arange(20) % 2 == 0
    for decisions in (np.zeros(20), np.where(live, -1.0, 1.0)):
        with pytest.raises(ValueError, match='learns nothing from these pictures'):
            fit_calibration(decisions, live)


def test_the_choice_is_judged_on_people_who_took_no_part(frames):
    features, rows, failed = method_features(frames, ['lbp', 'linear'], progress=False)
    table = compare_methods(features, rows)
    assert not failed and set(table['method'][:2]) == {'lbp', 'linear'} and table['control'].tolist()[2:] == [True] * 2
    report, chosen = rate_choice(features, rows)
    assert len(chosen) == 5 and report.counts['subjects'] == 6 and report.hter <= 0.2
    shuffled = rows.assign(label=np.random.default_rng(0).permutation(rows['label']))
    shuffled['pai'] = np.where(shuffled['label'] == 'live', '', 'print')
    assert rate_choice(features, shuffled)[0].hter > 0.25


def test_the_chosen_method_is_fitted_once_in_each_fold(frames, monkeypatch):
    features, rows, _ = method_features(frames, ['lbp', 'linear'], progress=False)
    calls = []
    monkeypatch.setattr(module, 'left_out_decisions', lambda *a: (calls.append(a), left_out_decisions(*a))[1])
    decisions, judged = judge_methods(features, rows)
    assert len(calls) == 2
    rate_choice(features, rows)
    assert len(calls) == 2 + 5 * 2  # two candidates in each of five folds
    name = judged['method'].iloc[0]
    known = fit_detector(name, features[name], rows, SIZE, 0.3, decisions=decisions[name])
    assert len(calls) == 12 and known.meta == fit_detector(name, features[name], rows, SIZE, 0.3).meta


def test_grey_pictures_leave_out_the_methods_of_colour(photos, tmp_path):
    from gfa_fastai.run.reproduce import read_data

    for path in photos.rglob('*.png'):
        grey = np.repeat(read_image(path).mean(-1, keepdims=True), 3, -1).astype(np.uint8)
        write_png(tmp_path / 'photos' / path.relative_to(photos), grey)
    samples = read_data(tmp_path / 'photos', draw=False).assign(split='train')
    grey_frames = extract_frames(samples, tmp_path / 'cache', SIZE, progress=False)
    features, _, failed = method_features(grey_frames, ['lbp', 'colour_lbp'], progress=False)
    assert set(features) == {'lbp'} and 'grey' in failed['colour_lbp']


def forge(path, detector, change=None, tensors=None):
    "The detector's file with something else in it and a digest that fits."
    save_detector(detector, path)
    header, known = read_tensors(path)
    config = header['config'] | (change or {})
    known |= tensors or {}
    known = {k: v for k, v in known.items() if v is not None}
    meta = config.pop('meta', header['meta'])
    return write_tensors(path, dict(kind='detector', config=json.dumps(config), meta=json.dumps(meta)), known)


@pytest.mark.parametrize(
    'change, tensors',
    [
        (dict(method='os.system'), {}),
        (dict(method='linear', width=0.25), {}),
        (dict(method='linear', width=1e9), {}),
        (dict(classifiers=2), {}),
        (dict(slope='steep'), {}),
        (dict(meta={}), {}),
        (dict(meta=dict(size=10**6)), {}),
        ({}, {'0.rbf.weights': None}),
        ({}, {'0.scale.mean': torch.zeros(3, dtype=torch.float64)}),
        ({}, {'0.rbf.bias': torch.tensor(float('nan'))}),
    ],
)
def test_files_that_do_not_fit_say_so(detector, tmp_path, change, tensors):
    with pytest.raises(ValueError, match='do not fit'):
        load_detector(forge(tmp_path / 'd.safetensors', detector, change, tensors))


def test_a_flipped_bit_is_found(detector, tmp_path):
    path = save_detector(detector, tmp_path / 'd.safetensors')
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match='damaged after it was written'):
        load_detector(path)


def test_the_two_kinds_of_file_are_not_mixed_up(detector, tmp_path):
    path = save_detector(detector, tmp_path / 'd.safetensors')
    with pytest.raises(ValueError, match='holds a detector and no network'):
        load_model(path)
    with pytest.raises(ValueError, match='holds a network and no detector'):
        load_detector(small_model())


def test_an_authenticator_takes_a_detector_and_says_what_it_cannot(detector, frames, tmp_path):
    path = save_detector(detector, tmp_path / 'd.safetensors')
    auth = FaceAuthenticator.load(path)
    assert auth.live_threshold == detector.meta['thresholds']['live']['points']['EER']['threshold']
    assert auth.size == load_model(small_model())[1]['size'] and auth.frame_size == SIZE
    with pytest.raises(ValueError, match='method lbp is no network'):
        export_onnx(auth, tmp_path / 'x.onnx')


def test_command_from_photographs_to_rates(photos, tmp_path, capsys):
    out = tmp_path / 'run'
    given = [photos, '--out', out, '--method', 'lbp', '--size', SIZE, '--test-subjects', 'p4,p5']
    assert gfa_train([str(o) for o in given]) == 0
    said = capsys.readouterr().out
    assert 'HTER on people who took no part' in said and 'sharpness alone (control)' in said
    scores = load_scores(out / 'scores.csv')
    assert set(scores.loc[scores['split'] == 'test', 'subject']) == {'p4', 'p5'}
    assert set(scores.loc[scores['split'] == 'dev', 'subject']) == {'p0', 'p1', 'p2', 'p3'}
    assert evaluate_scores(scores).hter <= 0.2
    assert gfa_score([str(o) for o in (out / 'model.safetensors', photos, '--out', tmp_path / 's.csv')]) == 0
    assert '4 of the test people have the name of somebody' in capsys.readouterr().out
    again = load_scores(tmp_path / 's.csv').set_index('video')['score']
    once = scores[scores['split'] == 'test'].set_index('video')['score']
    np.testing.assert_allclose(again[once.index], once, atol=1e-9)
    assert gfa_evaluate([str(tmp_path / 's.csv'), '--threshold', 'source', '--source', str(out / 'scores.csv')]) == 0


@pytest.mark.parametrize('name', OF_PICTURES)
def test_a_method_goes_through_every_command(name, photos, tmp_path, capsys, monkeypatch):
    "Train, score, evaluate at the model's own threshold as it is printed, authenticate with the same answer."
    from gfa_fastai.use import authenticate

    monkeypatch.setattr(authenticate, 'find_faces', lambda image, detector=None: [(30.0, 30.0, 40.0, 40.0)])
    monkeypatch.setattr(authenticate, 'check_faces', lambda *a: (None, ''))
    model, file = tmp_path / 'run' / 'model.safetensors', tmp_path / 'scores.csv'
    given = [photos, '--out', tmp_path / 'run', '--method', name, '--size', SIZE, '--folds', 2]
    assert gfa_train([str(o) for o in given]) == 0
    capsys.readouterr()
    assert gfa_score([str(o) for o in (model, photos, '--out', file)]) == 0
    command = re.search('gfa_evaluate (.*)', capsys.readouterr().out)[1]
    assert gfa_evaluate([*shlex.split(command), '--json', str(tmp_path / 'rates.json')]) == 0
    said = json.loads((tmp_path / 'rates.json').read_text())
    capsys.readouterr()
    scores = load_scores(file)
    live, attack = (scores.loc[scores['label'] == k, 'score'].to_numpy() for k in ('live', 'attack'))
    threshold = float(command.split()[-1])
    assert said['rates']['hter']['value'] == pytest.approx(
        ((attack >= threshold).mean() + (live < threshold).mean()) / 2
    )
    one = scores.iloc[0]
    given = ['verify', '--live-only', '--json', '--model', model, '--gallery', tmp_path / 'g.json']
    given.append(photos / one['video'])
    status = gfa_authenticate([str(o) for o in given])
    answer = json.loads(capsys.readouterr().out)
    assert status == (0 if one['score'] >= threshold else 1)
    assert answer['live_score'] == pytest.approx(one['score'], abs=1e-5)


def test_scores_need_no_threshold(detector, photos, tmp_path, capsys):
    "A file whose thresholds are damaged scores as before, and says so."
    damaged = dataclasses.replace(detector, meta=detector.meta | dict(thresholds=dict(live='x')))
    path = save_detector(damaged, tmp_path / 'd.safetensors')
    assert gfa_score([str(o) for o in (path, photos, '--out', tmp_path / 's.csv')]) == 0
    assert len(load_scores(tmp_path / 's.csv')) == 36
    assert 'no threshold of the model' in (said := capsys.readouterr().out) and 'damaged' in said


def test_the_method_that_is_taken_is_said(photos, tmp_path, capsys):
    assert gfa_train([str(photos), '--out', str(tmp_path / 'run'), '--size', str(SIZE)]) == 0
    said = capsys.readouterr().out
    assert '6 people: --method auto' in said and 'chosen: ' in said


@pytest.mark.parametrize(
    'method, option, said',
    [
        ('lbp', '--steps 5', '--steps is an option of the network'),
        ('lbp', '--weights small', '--weights is an option of the network'),
        ('lbp', '--no-tpc', '--no-tpc is an option of the network'),
        ('lbp', '--dev-subjects p1', '--dev-subjects is an option of the network'),
        ('auto', '--flips both', '--flips is an option of the network'),
        ('linear', '--balanced', '--balanced is an option of the network'),
        ('lbp', '--scale paper', '--scale is an option of the network'),
        ('network', '--folds 3', '--folds is an option of a detector'),
        ('dinov2', '--size 112', 'the network of dinov2 takes 224 pixels'),
        ('lbp_top', '--spread 4', 'lbp_top looks at neighbouring frames'),
    ],
)
def test_options_that_a_method_cannot_use_are_not_dropped_in_silence(photos, tmp_path, capsys, method, option, said):
    given = [str(photos), '--out', str(tmp_path / 'run'), '--method', method, *option.split()]
    assert gfa_train(given) == 2
    error = capsys.readouterr().err
    assert said in error and 'leave' in error


def test_the_number_of_folds_asks_for_a_detector(photos, tmp_path, capsys):
    "With this option no people are counted: the method is auto, however many there are."
    given = [str(photos), '--out', str(tmp_path / 'run'), '--size', str(SIZE), '--folds', '2']
    assert gfa_train(given) == 0
    assert (
        'left out in turn (2 folds)'
        in read_tensors(tmp_path / 'run' / 'model.safetensors')[0]['meta']['thresholds']['live']['measured_on']
    )
    assert 'people: --method' not in capsys.readouterr().out
