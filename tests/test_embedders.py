"Embedders: alignment, recognisers in files, functions, and the gallery that is bound to them."

import cv2
import numpy as np
import pytest
from gfa_fastai.inputs.faces import face_landmarks
from gfa_fastai.inputs.models import small_model
from gfa_fastai.use.authenticate import FaceAuthenticator
from gfa_fastai.use.embedders import PLACES, FunctionEmbedder, OnnxEmbedder, align_face
from gfa_fastai.use.export import export_onnx

SIZE = 16


def recogniser(path, scale=1.0, outputs=6):
    "An ONNX file: pixels, flattened, times a random matrix."
    onnx = pytest.importorskip('onnx')
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(0).normal(0, scale, (3 * SIZE * SIZE, outputs)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node('Flatten', ['x'], ['flat']), helper.make_node('MatMul', ['flat', 'w'], ['y'])],
        'recogniser',
        [helper.make_tensor_value_info('x', float32, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info('y', float32, [1, outputs])],
        [onnx.numpy_helper.from_array(weights, 'w')],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path, weights


@pytest.fixture
def yunet(tmp_path, monkeypatch):
    "A detector that finds a face in the middle of every picture, with landmarks in place for its box."

    class Net:
        def setInputSize(self, size):
            self.width, self.height = size

        def detect(self, image):
            side = min(self.width, self.height) / 2
            left, top = self.width / 2 - side / 2, self.height / 2 - side / 2
            marks = PLACES / 112 * side + [left, top]
            return 1, np.array([[left, top, side, side, *marks.ravel(), 0.95]], np.float32)

    monkeypatch.setattr(cv2.FaceDetectorYN, 'create', lambda *a, **k: Net())
    path = tmp_path / 'yunet.onnx'
    path.write_bytes(b'net')
    return path


def photo(seed=0, side=160):
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)


def test_landmarks_are_in_pixels_of_the_whole_picture(yunet):
    image = photo(side=1200)
    box = (300.0, 400.0, 200.0, 200.0)  # twice as much around it is what YuNet sees
    marks = face_landmarks(image, box, yunet)
    np.testing.assert_allclose(marks, PLACES / 112 * 200 + [300, 400], atol=1)


def test_alignment_undoes_a_turn_a_scale_and_a_shift():
    face = cv2.resize(photo(1), (112, 112))
    move = cv2.getRotationMatrix2D((40, 60), -25, 1.3)
    moved = cv2.warpAffine(face, move, (200, 200), borderMode=cv2.BORDER_REPLICATE)
    again = align_face(moved, PLACES @ move[:, :2].T + move[:, 2])
    assert np.abs(again.astype(int) - face)[35:75, 35:75].mean() < 4


@pytest.mark.parametrize('kind, mean, std', [('sface', 0, 1), ('arcface', 127.5, 127.5)])
def test_a_file_gets_aligned_rgb_pixels_as_its_kind_wants_them(tmp_path, yunet, kind, mean, std):
    path, weights = recogniser(tmp_path / 'r.onnx')
    embedder = OnnxEmbedder(path, yunet, kind, size=SIZE)
    image, box = photo(), (40.0, 40.0, 80.0, 80.0)
    face = align_face(image, face_landmarks(image, box, yunet), SIZE)
    expected = ((face.astype(float) - mean) / std).transpose(2, 0, 1).reshape(-1) @ weights
    found = embedder.embed([image, image], [box, box])
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), atol=1e-4)
    assert found.shape == (2, embedder.dim) == (2, 6)


def test_the_key_is_of_file_kind_and_detector(tmp_path, yunet):
    path, _ = recogniser(tmp_path / 'r.onnx')
    other, _ = recogniser(tmp_path / 's.onnx', scale=2.0)
    keys = {OnnxEmbedder(*how, size=SIZE).key for how in [(path, yunet), (path, yunet, 'arcface'), (other, yunet)]}
    assert len(keys) == 3
    yunet.write_bytes(b'another net')
    assert OnnxEmbedder(path, yunet, size=SIZE).key not in keys


@pytest.mark.parametrize('bad', ['text', 'empty', 'cut', 'wrong size'])
def test_files_that_are_no_recogniser_are_named(tmp_path, yunet, bad):
    path, _ = recogniser(tmp_path / 'r.onnx')
    whole = path.read_bytes()
    path.write_bytes(dict(text=b'dear reader', empty=b'', cut=whole[: len(whole) // 2]).get(bad, whole))
    with pytest.raises(ValueError, match='r.onnx'):
        OnnxEmbedder(path, yunet, size=112 if bad == 'wrong size' else SIZE)


@pytest.mark.parametrize('value', [np.nan, np.inf, 0.0])
def test_embeddings_that_are_no_directions_are_refused(value):
    with pytest.raises(ValueError, match='row of finite numbers'):
        FunctionEmbedder(lambda faces: np.full((len(faces), 3), value), 'broken')
    with pytest.raises(ValueError, match='key'):
        FunctionEmbedder(lambda faces: faces, '')


def mean_colour(faces):
    return faces.astype(float).mean((1, 2)) + 1


def test_an_authenticator_asks_the_embedder_who_it_is(tmp_path, monkeypatch):
    from gfa_fastai.use import authenticate

    monkeypatch.setattr(authenticate, 'find_faces', lambda image, detector=None: [(40.0, 40.0, 80.0, 80.0)])
    monkeypatch.setattr(authenticate, 'check_faces', lambda *a: (None, ''))
    embedder = FunctionEmbedder(mean_colour, 'mean colour 1', size=SIZE)
    door = tmp_path / 'door.json'
    auth = FaceAuthenticator.load(small_model(), door, embedder=embedder, live_threshold=0, device='cpu')
    red, green = (np.full((160, 160, 3), colour, np.uint8) for colour in ([250, 9, 9], [9, 250, 9]))
    auth.enroll('Red', red)
    with pytest.raises(ValueError, match='mean colour 1.*give similarity_threshold'):
        auth.verify(red, 'Red')
    auth = FaceAuthenticator.load(
        small_model(), door, embedder=embedder, live_threshold=0, similarity_threshold=0.9, device='cpu'
    )
    assert auth.verify(red, 'Red').accepted and auth.verify(green, 'Red').code == 'other person'
    with pytest.raises(ValueError, match='gallery of another model'):
        FaceAuthenticator.load(small_model(), door, device='cpu')
    with pytest.raises(ValueError, match='says who'):
        export_onnx(auth, tmp_path / 'x.onnx')


def test_the_built_in_embedding_says_that_it_is_a_demonstration(tmp_path, monkeypatch, capsys):
    from gfa_fastai.run.cli import gfa_authenticate
    from gfa_fastai.use import authenticate

    monkeypatch.setattr(authenticate, 'find_faces', lambda image, detector=None: [(40.0, 40.0, 80.0, 80.0)])
    monkeypatch.setattr(authenticate, 'check_faces', lambda *a: (None, ''))
    cv2.imwrite(str(tmp_path / 'a.png'), photo())
    given = ['enroll', 'Ann', tmp_path / 'a.png', '--gallery', tmp_path / 'door.json', '--force']
    assert gfa_authenticate([str(o) for o in given]) == 0
    assert 'a demonstration. --embedder' in capsys.readouterr().err
    assert gfa_authenticate(
        ['verify', '--live-only', str(tmp_path / 'a.png'), '--gallery', str(tmp_path / 'd.json')]
    ) in (0, 1)
    assert 'demonstration' not in capsys.readouterr().err  # nobody asks who


def test_an_embedder_is_asked_and_the_model_is_not(monkeypatch):
    "The trunk sees whole frames only, and nothing where a detector decides about live."
    from gfa_fastai.inputs.models import load_model
    from gfa_fastai.use import authenticate

    monkeypatch.setattr(authenticate, 'find_faces', lambda image, detector=None: [(40.0, 40.0, 80.0, 80.0)])
    monkeypatch.setattr(authenticate, 'check_faces', lambda *a: (None, ''))
    model, meta = load_model(small_model())
    seen, features = [], model.features
    monkeypatch.setattr(model, 'features', lambda x: (seen.append(len(x)), features(x))[1])
    pictures = [photo(0), photo(1)]

    def read(**how):
        seen.clear()
        return FaceAuthenticator(model, meta, device='cpu', **how).read_faces(pictures)

    plain = read()
    assert seen == [3 * 2]  # frames, faces and mirrored faces
    embedder = FunctionEmbedder(mean_colour, 'mean colour 1', size=SIZE)
    asked = read(embedder=embedder, similarity_threshold=0.9)
    assert seen == [2]
    np.testing.assert_allclose([r.live for r in asked], [r.live for r in plain], atol=1e-6)
    assert asked[0].embedding.shape == (3,)

    class Spoof:
        meta = dict(size=64)
        how = type('How', (), dict(of_videos=False))
        live_scores = staticmethod(lambda frames: np.full(len(frames), 0.7))

    assert read(spoof=Spoof())[0].live == 0.7 and seen == [2 * 2]  # faces and mirrored faces
    assert read(spoof=Spoof(), embedder=embedder, similarity_threshold=0.9)[0].live == 0.7 and not seen
