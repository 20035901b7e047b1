"read_folder on miniature trees: what it reads, what it leaves out, what it refuses; and on real photographs where they are."
from pathlib import Path

import pytest

from gfa_fastai.datasets import ATTACK_NAMES, LIVE_NAMES, SPLIT_NAMES, read_folder
from gfa_fastai.samples import sample_counts, split_by_subject

PHOTOS = Path(__file__).resolve().parents[2]/'shared/data/nuaa_small'


def tree(root, *paths):
    "Empty files."
    for p in paths: (root/p).parent.mkdir(parents=True, exist_ok=True); (root/p).touch()
    return root

def placed(root, **kw):
    "What was read, by path below the root."
    return {Path(r.path).relative_to(root).as_posix(): (r.split, r.label, r.pai, r.subject) for r in read_folder(root, **kw).itertuples()}

def test_layouts(tmp_path):
    want = {'live/anna/1.jpg': ('train', 'live', '', 'anna'), 'live/anna/2.JPG': ('train', 'live', '', 'anna'), 'live/day 2/0012/a.JPeG': ('train', 'live', '', '0012'),
            'attack/anna/1.png': ('train', 'attack', 'unspecified', 'anna'), 'attack/print/a4/anna/1.TIFF': ('train', 'attack', 'print/a4', 'anna'),
            'live/J\u00fcrgen \u5c0f\u660e/\u0444\u043e\u0442\u043e.webp': ('train', 'live', '', 'J\u00fcrgen \u5c0f\u660e')}
    assert placed(tree(tmp_path, *want, 'live/anna/notes.txt', 'thumbs.db')) == want

def test_splits(tmp_path):
    want = {'train/live/a/1.jpg': 'train', 'live/Training/b/1.jpg': 'train', 'spoof/devel/c/1.jpg': 'dev', 'VAL/real/d/1.jpg': 'dev', 'fake/x/test/e/1.jpg': 'test'}
    assert {k: v[0] for k,v in placed(tree(tmp_path, *want)).items()} == want

@pytest.mark.parametrize('name', ['live', 'REAL', 'Bona Fide', 'bona-fide', 'bona_fide', 'ClientRaw', 'attack', 'Attacks', 'SPOOF', 'Presentation Attack', 'ImposterRaw'])
def test_class_names(tmp_path, name):
    assert set(placed(tree(tmp_path, f'{name}/a/1.jpg')).values()) == {('train', *(('live', '') if name[0].lower() in 'lrbc' else ('attack', 'unspecified')), 'a')}

def test_names_do_not_overlap(): assert not LIVE_NAMES & ATTACK_NAMES and not set(SPLIT_NAMES) & (LIVE_NAMES | ATTACK_NAMES)

def test_class_above_the_root_does_not_count(tmp_path):
    with pytest.raises(ValueError, match='says live or attack'): read_folder(tree(tmp_path/'live', 'anna/1.jpg'))

def test_hidden_and_leftovers_are_left_out(tmp_path):
    tree(tmp_path, 'live/a/1.jpg', 'live/a/._1.jpg', '.ipynb_checkpoints/live/a/1.jpg', 'live/.cache/1.jpg', '__MACOSX/live/a/1.jpg', 'live/a/@eaDir/1.jpg')
    assert list(placed(tmp_path)) == ['live/a/1.jpg']

def test_links(tmp_path):
    root = tree(tmp_path/'root', 'live/a/1.jpg')
    tree(tmp_path/'elsewhere', 'a/2.jpg')
    (root/'attack').symlink_to(tmp_path/'elsewhere')               # followed
    (root/'live'/'a'/'up').symlink_to(root); (root/'live'/'self').symlink_to(root/'live'/'self')   # circles
    (root/'live'/'a'/'gone.jpg').symlink_to(tmp_path/'nowhere.jpg')  # kept, so that extract_frames can report it
    assert list(placed(root)) == ['attack/a/2.jpg', 'live/a/1.jpg', 'live/a/gone.jpg']

def test_each_image_is_a_video(tmp_path):
    df = read_folder(tree(tmp_path, 'live/a/1.jpg', 'live/a/1.png', 'live/a/2.jpg', 'live/b/1.jpg', 'attack/a/1.jpg', 'attack/print/a/1.jpg'))
    assert df.video.nunique() == len(df) == 6 and (df.frame == 0).all()

def test_patterns(tmp_path):
    df = read_folder(tree(tmp_path, *(f'{c}/p_{s}_v{v}_{f}.jpg' for c in ('live', 'fake') for s in ('01', '02') for v in (1, 2) for f in range(3))),
                     video_pattern=r'_(v\d)_', subject_pattern=r'^p_(\d+)')
    assert set(df.subject) == {'01', '02'} and df.video.nunique() == 8
    assert df.groupby('video').frame.apply(list).tolist() == [[0, 1, 2]]*8

@pytest.mark.parametrize('kw,message', [(dict(video_pattern='x(.)'), 'finds nothing'), (dict(video_pattern='1'), 'one group in parentheses'),
                                        (dict(video_pattern='(x)?1'), 'finds nothing'), (dict(subject_pattern='('), 'no regular expression')])
def test_bad_patterns(tmp_path, kw, message):
    with pytest.raises(ValueError, match=message): read_folder(tree(tmp_path, 'live/a/1.jpg'), **kw)

@pytest.mark.parametrize('paths,message', [
    ([], 'has no images'), (['live/a/film.mp4'], 'has no images'), (['a/1.jpg'], 'no folder on the way to it says live or attack'),
    (['live/1.jpg'], "no folder below 'live' says whose face"), (['live/val/1.jpg'], "'val' is read as a split"),
    (['live/a/1.jpg', 'cover.jpg'], '1 of 2 images .* cannot be placed; the first is cover.jpg'),
    (['train/live/a/1.jpg', 'test/live/a/2.jpg'], 'a is in test and train'),
    (['train/live/a/1.jpg', 'tset/live/b/2.jpg'], '1 of 2 images are in no split folder.*tset')])
def test_refused(tmp_path, paths, message):
    with pytest.raises(ValueError, match=message): read_folder(tree(tmp_path, *paths))

def test_no_folder(tmp_path):
    (tmp_path/'file').touch()
    for p in ('nowhere', 'file'):
        with pytest.raises(FileNotFoundError, match=f'no folder at .*{p}'): read_folder(tmp_path/p)

def test_one_class_folder_is_refused_when_split(tmp_path):
    df = read_folder(tree(tmp_path, *(f'live/{s}/1.jpg' for s in 'abc')))
    with pytest.raises(ValueError, match='0 attack rows in the whole table'): split_by_subject(df)

def test_real_photographs():
    if not PHOTOS.is_dir(): pytest.skip('the photographs are not beside this checkout')
    df = read_folder(PHOTOS)
    people = ['0004', '0006', '0007', '0011', '0012', '0014']
    assert len(df) == 288 and sorted(df.subject.unique()) == people
    assert set(df.groupby(['subject', 'label']).size()) == {24} and df.video.nunique() == 288
    df = split_by_subject(df, test_subjects=['0012', '0014'], dev_subjects=['0011'])
    assert set(df.subject[df.split == 'train']) == {'0004', '0006', '0007'}
    assert dict(sample_counts(df).groupby('split', observed=True).images.sum()) == dict(train=144, dev=48, test=96)
