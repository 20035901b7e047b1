"What gfa_train's options of balance do, in a run, in its settings and in its model file; detectors of videos."

import cv2
import json
import numpy as np
import pytest
from fastai.vision.all import Callback
from gfa_fastai.inputs import faces
from gfa_fastai.inputs.images import write_png
from gfa_fastai.inputs.models import model_header
from gfa_fastai.inputs.tables import load_scores
from gfa_fastai.inputs.videos import save_video
from gfa_fastai.run import cli, reproduce
from gfa_fastai.run.cli import gfa_score, gfa_train
from gfa_fastai.run.report import method_words
from gfa_fastai.run.score import score_folder
from gfa_fastai.use.authenticate import FaceAuthenticator, model_card
from gfa_fastai.use.quality import Gates
from pathlib import Path
from pictures import picture, picture_table


@pytest.fixture
def frames(tmp_path):
    return picture_table(tmp_path)


def settings(**training):
    made = reproduce.run_settings('tiny', training=dict(bs=4, **training), adaptation=False)
    made['data'] |= dict(size=32, train=['d'], domains=['d'])
    return made


def training_labels(frames, **training):
    dls = reproduce.arm_loaders('d', frames, settings(**training))
    rows = dls.samples[dls.samples['split'] == 'train']
    flipped = rows[rows['flip'] != '']
    drawn = np.concatenate([batch[2].numpy() for _ in range(40) for batch in dls.train])
    return set(flipped['label']), drawn.mean()


def test_flips_and_balance_do_what_they_say(frames):
    frames = frames[(frames['split'] != 'train') | (frames['label'] == 'attack') | (frames.index % 2 == 0)]
    counts = frames[(frames['split'] == 'train') & (frames['role'] == 'probe')]['label'].value_counts()
    share = counts['live'] / counts.sum()
    assert share < 0.4
    flipped, drawn = training_labels(frames)
    assert flipped == {'live'} and drawn > share + 0.05
    flipped, drawn = training_labels(frames, flips='both')
    assert flipped == {'live', 'attack'} and abs(drawn - share) < 0.05
    flipped, drawn = training_labels(frames, flips='none')
    assert flipped == set() and abs(drawn - share) < 0.05
    flipped, drawn = training_labels(frames, flips='none', balanced=True)
    assert flipped == set() and abs(drawn - 0.5) < 0.08


def photographs(root, people=6):
    for s in range(people):
        for v in range(5):
            folder = root / ('live' if v < 2 else 'attack/print') / f'p{s}'
            folder.mkdir(parents=True, exist_ok=True)
            write_png(folder / f'{v}.png', picture(v < 2, 10 * s + v, 64))
    return root


class Stop(Callback):
    "Ctrl-C after a few steps."

    def after_step(self):
        if len(self.learn.terms) == 3:
            raise KeyboardInterrupt


def test_a_stopped_training_goes_on_with_its_balance_and_says_it(tmp_path, monkeypatch, capsys):
    photos = photographs(tmp_path / 'photos')
    balance = ['--flips', 'none', '--balanced']

    def train(out, *more):
        given = [
            photos,
            '--preset',
            'tiny',
            '--bs',
            4,
            '--steps',
            8,
            '--test-subjects',
            'p0',
            '--dev-subjects',
            'p1,p2',
        ]
        return gfa_train([str(o) for o in (*given, '--out', tmp_path / out, *more)])

    assert train('whole', *balance) == 0
    with monkeypatch.context() as m:
        m.setattr(reproduce, '_step_bar', lambda bar: Stop())
        assert train('stopped', *balance) == 130
    assert (tmp_path / 'stopped' / 'checkpoint.pt').exists()
    for other, said in ((['--balanced'], 'flips was'), (['--flips', 'none'], 'balanced was True, is False')):
        assert train('stopped', *other) == 2
        assert said in capsys.readouterr().err
    assert train('stopped', *balance) == 0
    scores = [load_scores(tmp_path / run / 'scores.csv')['score'] for run in ('whole', 'stopped')]
    assert scores[0].equals(scores[1])
    said = json.loads((tmp_path / 'whole' / 'run.json').read_text())
    assert (said['training']['flips'], said['training']['balanced']) == ('none', True)
    meta = model_header(tmp_path / 'whole' / 'model.safetensors')['meta']
    assert (meta['flips'], meta['balanced']) == ('none', True)
    card = model_card(tmp_path / 'whole' / 'model.safetensors')
    assert '- flips: none' in card and '- balanced: True' in card
    words = method_words(said, dict(parameters=1, steps=8, epochs=1, fc_dim=1))
    assert 'No training image is flipped. Batches draw both classes equally often.' in words


def test_a_detector_of_videos_from_a_folder_to_scores(tmp_path, capsys):
    "Each video has one score, from neighbouring frames, in one block, whatever the number of frames in a block."
    rng = np.random.default_rng(0)
    for s in range(4):
        for attack in (0, 1):
            still = cv2.resize(
                rng.integers(40, 200, (8, 8, 3), dtype=np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC
            )
            step = 1 if attack else 4
            clip = [np.roll(still, step * i, 1) for i in range(8)]
            folder = tmp_path / 'clips' / ('attack/replay' if attack else 'live') / f'p{s}'
            folder.mkdir(parents=True)
            save_video(folder / 'a.mp4', clip, fps=25)
    given = [tmp_path / 'clips', '--out', tmp_path / 'run', '--method', 'motion', '--size', 64, '--folds', 2]
    assert gfa_train([str(o) for o in given]) == 0, capsys.readouterr().err
    scores = load_scores(tmp_path / 'run' / 'scores.csv')
    assert len(scores) == 8 and set(scores['frame']) == {0}
    model = tmp_path / 'run' / 'model.safetensors'
    assert model_header(model)['meta']['first'] == 25
    found = score_folder(model, tmp_path / 'clips', tmp_path / 's.csv', progress=False, rows=10)
    assert len(found) == 8
    assert gfa_score([str(o) for o in (model, tmp_path / 'clips', '--out', tmp_path / 's.csv', '--spread', 4)]) == 2
    assert 'leave spread out (--spread)' in capsys.readouterr().err
    photos = photographs(tmp_path / 'photos')
    assert gfa_train([str(o) for o in (photos, '--out', tmp_path / 'other', '--method', 'lbp_top', '--size', 64)]) == 2
    assert 'the video has 1 frame(s) and 3 are needed' in capsys.readouterr().err


def test_without_a_preset_a_network_sees_the_face_and_its_surround(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(reproduce, 'train_model', lambda *a, **groups: seen.append(groups) or Path('none'))
    monkeypatch.setattr(cli, '_say_missing_thresholds', lambda path: None)
    (tmp_path / 'photos').mkdir()

    def asked(*options):
        args = ['--method', 'network', str(tmp_path / 'photos'), '--out', str(tmp_path / 'run'), *options]
        assert gfa_train(args) == 0
        data = reproduce.run_settings(**seen.pop())['data']
        return data['size'], data['surround']

    assert asked() == (112, 3)
    assert asked('--surround', '0') == (112, None)
    assert asked('--size', '224', '--surround', '2') == (224, 2)
    assert asked('--preset', 'quick') == (64, None)
    assert asked('--preset', 'full', '--surround', '1.5') == (224, 1.5)
    assert (
        gfa_train(['--method', 'lbp', str(tmp_path / 'photos'), '--out', str(tmp_path / 'r'), '--surround', '99']) == 2
    )


@pytest.mark.parametrize('method', ['network', 'lbp'])
def test_a_model_is_used_with_the_crops_and_the_detector_of_its_training(tmp_path, monkeypatch, capsys, method):
    class Net:
        def setInputSize(self, size):
            pass

        def detect(self, image):
            return 1, np.array([[20, 16, 24, 24, *[0] * 10, 0.9]], np.float32)

    monkeypatch.setattr(cv2.FaceDetectorYN, 'create', lambda *a, **k: Net())
    faces._local.__dict__.clear()
    monkeypatch.setenv('GFA_YUNET', str(tmp_path / 'yunet.onnx'))
    (tmp_path / 'yunet.onnx').write_bytes(b'net')
    photos, out = photographs(tmp_path / 'photos'), tmp_path / 'run'
    how = ['--size', 48, '--surround', 2, '--detector', 'yunet', '--test-subjects', 'p0,p1']
    how += ['--method', method] if method == 'lbp' else ['--preset', 'tiny', '--steps', 3, '--bs', 4]
    assert gfa_train([str(o) for o in (photos, '--out', out, *how)]) == 0, capsys.readouterr().err
    model = out / 'model.safetensors'
    meta = model_header(model)['meta']
    assert meta['surround'] == 2 and meta['face_detector'].startswith('yunet ')
    score_folder(model, photos, tmp_path / 's.csv', progress=False)
    found, known = (
        load_scores(p).query("split == 'test'").set_index('video')['score']
        for p in (tmp_path / 's.csv', out / 'scores.csv')
    )
    np.testing.assert_allclose(found[known.index], known, atol=1e-6)
    image = picture(True, 3, 64)
    auth = FaceAuthenticator.load(
        model, live_threshold=0.5, similarity_threshold=0, device='cpu', gates=Gates(0, 0, 255, 0)
    )
    write_png(tmp_path / 'photos2' / 'live' / 'p9' / 'a.png', image)
    expected = score_folder(model, tmp_path / 'photos2', tmp_path / 't.csv', progress=False)['score'].iloc[0]
    (reading,) = auth.read_faces([image])
    assert reading.code is None, reading.reason
    np.testing.assert_allclose(reading.live, expected, atol=1e-5)
    monkeypatch.setenv('GFA_YUNET', str(tmp_path / 'gone.onnx'))
    assert gfa_score([str(o) for o in (model, photos, '--out', tmp_path / 'u.csv')]) == 2
    assert 'no YuNet model at' in capsys.readouterr().err
    faces._local.__dict__.clear()
