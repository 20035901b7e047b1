"Recapture in the wild, the frame network, the shipped recapture model."

import hashlib
import json
import numpy as np
import pytest
import cv2
from pathlib import Path
from gfa_fastai.compare.detectors import load_detector, picture_statistics
from gfa_fastai.compare.frame_network import FRAME_SHAPE, frame_features, frame_network, shipped_frame_network
from gfa_fastai.inputs.images import read_image, write_png
from gfa_fastai.inputs.models import model_file, read_tensors, write_tensors
from gfa_fastai.inputs.tables import load_scores
from gfa_fastai.metrics import auc
from gfa_fastai.run.cli import gfa_score
from gfa_fastai.synth.recapture import HEIGHT, WIDTH, photographed_scenes, recapture_example, render_scenes
from gfa_fastai.use.authenticate import FaceAuthenticator, model_card

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT.parent / 'shared' / 'data' / 'nuaa_small'


@pytest.fixture(scope='module')
def scenes():
    return render_scenes(3)


def test_a_number_is_a_picture_and_a_class(scenes):
    made = [recapture_example(i, scenes, seed=1) for i in range(6)]
    assert [kind == 'live' for _, kind, _ in made] == [True, False] * 3
    assert {kind.split()[0] for _, kind, _ in made} <= {'live', 'print', 'replay'}
    assert all(p.shape == (HEIGHT, WIDTH, 3) and p.dtype == np.uint8 and p.std() > 5 for p, _, _ in made)
    assert np.array_equal(recapture_example(3, scenes, seed=1)[0], made[3][0])
    assert not np.array_equal(recapture_example(3, scenes, seed=2)[0], made[3][0])


def test_photographs_without_a_face_are_said(tmp_path):
    write_png(tmp_path / 'wall.png', np.full((64, 64, 3), 120, np.uint8))
    with pytest.raises(ValueError, match='no face was found'):
        photographed_scenes(tmp_path, 2)


def test_the_frame_is_read_as_a_whole(scenes):
    network = shipped_frame_network()
    picture = recapture_example(1, scenes)[0]
    small = cv2.resize(picture, FRAME_SHAPE[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(frame_features(picture, network), frame_features(small, network))
    assert frame_features(picture, network).shape == (2 * network.channels[-1],)
    with pytest.raises(ValueError, match='channels'):
        frame_network((16, 'x'))


def test_a_file_whose_channels_do_not_fit_says_so(tmp_path):
    header, tensors = read_tensors(model_file('recapture'))
    config = dict(header['config'], channels=[16, 32])
    said = dict(kind='detector', config=json.dumps(config), meta=json.dumps(header['meta']))
    path = write_tensors(tmp_path / 'd.safetensors', said, tensors)
    with pytest.raises(ValueError, match='tensors and configuration do not fit'):
        load_detector(path)


def test_the_shipped_model_is_as_its_table_says():
    path = model_file('recapture')
    known = json.loads((ROOT / 'gfa_fastai' / 'results' / 'recapture_model.json').read_text())
    assert path.stat().st_size < 5e6 and hashlib.sha256(path.read_bytes()).hexdigest() == known['sha256']
    card = model_card('recapture')
    assert card.split('\n\n')[1].startswith('It is wrong about one picture in')
    for words in 'a detector: recapture', 'rendered people', 'Not a certified PAD':
        assert words in card
    for control in 'sharpness alone', 'colour and sharpness', 'grey pixels':
        assert f'| control: {control} |' in card
    auth = FaceAuthenticator.load('recapture', device='cpu')
    assert 0 < auth.live_threshold < 1 and auth.frame_size == 224 and auth.source == 'recapture_model.safetensors'


def test_a_folder_is_scored_by_its_name(scenes, tmp_path, capsys):
    for i in range(4):
        picture, kind, _ = recapture_example(i, scenes, seed=5)
        folder = 'live' if kind == 'live' else 'attack/x'
        write_png(tmp_path / 'photos' / folder / f'p{i}' / '0.png', picture)
    assert gfa_score(['recapture', str(tmp_path / 'photos'), '--out', str(tmp_path / 'scores.csv')]) == 0
    scores = load_scores(tmp_path / 'scores.csv')
    assert len(scores) == 4 and scores['score'].between(0, 1).all()
    own = load_detector(model_file('recapture')).meta['thresholds']['live']['points']['EER']['threshold']
    assert "the model's own threshold (EER on 80 rendered people" in (said := capsys.readouterr().out)
    assert float(said.split('--threshold ')[1].split()[0]) == pytest.approx(own, rel=1e-5)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason='no photographs at ../shared/data/nuaa_small')
def test_it_knows_more_than_sharpness():
    paths = sorted(PHOTOS.glob('*/*/*.jpg'))[::4]
    live = np.array([p.parts[-3] == 'live' for p in paths])
    pictures = [read_image(p) for p in paths]
    frames = np.stack([cv2.resize(p, (224, 224), interpolation=cv2.INTER_AREA) for p in pictures])
    scores = load_detector(model_file('recapture')).live_scores(frames)
    sharp = np.array([picture_statistics(p)[3] for p in pictures])
    assert auc(scores[~live], scores[live]) > max(0.95, auc(sharp[~live], sharp[live]))
