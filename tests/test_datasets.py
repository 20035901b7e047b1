"Readers on miniature trees: what they read, what they leave out, what they refuse; and on real photographs."

import shutil
import warnings
from pathlib import Path

import cv2
import pandas as pd
import pytest

from gfa_fastai.inputs.files import cache_folder
from gfa_fastai.inputs.datasets import (
    ATTACK_NAMES,
    LIVE_NAMES,
    READERS,
    REPLAY_PROTOCOLS,
    SPLIT_NAMES,
    dataset_summary,
    in_oulu,
    official_counts,
    read_boxes,
    read_casia_fasd,
    read_folder,
    read_lfw_pairs,
    read_msu_mfsd,
    read_oulu_npu,
    read_replay_attack,
    read_siw,
)
from gfa_fastai.inputs.frames import extract_frames
from gfa_fastai.inputs.tables import load_samples, save_samples
from gfa_fastai.samples import sample_counts, split_by_subject, validate_samples
from miniature import (
    FACE,
    MSU,
    make_casia,
    make_folder,
    make_lfw,
    make_msu,
    make_oulu,
    make_replay,
    make_siw,
    oulu_protocols,
)

PHOTOS = Path(__file__).resolve().parents[2] / 'shared/data/nuaa_small'


def tree(root, *paths):
    "Empty files."
    for p in paths:
        (root / p).parent.mkdir(parents=True, exist_ok=True)
        (root / p).touch()
    return root


def placed(root, **kw):
    "What was read, by path below the root."
    return {
        Path(r.path).relative_to(root).as_posix(): (r.split, r.label, r.pai, r.subject)
        for r in read_folder(root, **kw).itertuples()
    }


def test_layouts(tmp_path):
    want = {
        'live/anna/1.jpg': ('train', 'live', '', 'anna'),
        'live/anna/2.JPG': ('train', 'live', '', 'anna'),
        'live/day 2/0012/a.JPeG': ('train', 'live', '', '0012'),
        'attack/anna/1.png': ('train', 'attack', 'unspecified', 'anna'),
        'attack/print/a4/anna/1.TIFF': ('train', 'attack', 'print/a4', 'anna'),
        'live/J\u00fcrgen \u5c0f\u660e/\u0444\u043e\u0442\u043e.webp': (
            'train',
            'live',
            '',
            'J\u00fcrgen \u5c0f\u660e',
        ),
    }
    assert placed(tree(tmp_path, *want, 'live/anna/notes.txt', 'thumbs.db')) == want


@pytest.mark.parametrize('clip', ['clip{}', 'video_{}', 'Session {}', 'take{}'])
@pytest.mark.parametrize('split', ['', 'train/'])
def test_a_folder_for_each_recording(tmp_path, clip, split):
    "PERSON/CLIP/frame, as programs that cut videos into frames leave it."
    paths = [
        f'{split}{c}/{s}/{clip.format(v)}/{i}.png'
        for c in ('live', 'attack/print')
        for s in ('anna', 'ben', '07')
        for v in (1, 2)
        for i in (1, 2, 10)
    ]
    df = read_folder(tree(tmp_path, *paths))
    assert sorted(df.subject.unique()) == ['07', 'anna', 'ben'] and set(df.pai) == {'', 'print'}
    assert df.video.nunique() == 12 and (df.groupby('video').size() == 3).all()
    assert df.groupby('video').frame.apply(list).map(lambda f: f == [0, 1, 2]).all()
    assert [int(Path(p).stem) for p in df.path[:3]] == [1, 2, 10]
    assert placed(tmp_path) == placed(tmp_path, clips=True)


def test_recordings_whose_names_do_not_tell(tmp_path):
    own = [f'{c}/{s}/{s}-{v}/1.png' for c in ('live', 'attack/print') for s in ('anna', 'ben') for v in (c[0], 'x')]
    own = [p.replace('-x/', f'-{p[0]}2/') for p in own]  # no recording has a name twice: the people have
    assert sorted(read_folder(tree(tmp_path / 'a', *own)).subject.unique()) == ['anna', 'ben']
    days = [
        f'{c}/{d}/{s}/1.png' for c in ('live', 'attack/print') for d in ('monday', 'friday') for s in ('anna', 'ben')
    ]
    with pytest.raises(ValueError, match="is 'friday' a person and 'anna' a recording .clips=True"):
        read_folder(tree(tmp_path / 'b', *days))
    assert sorted(read_folder(tmp_path / 'b', clips=False).subject.unique()) == ['anna', 'ben']
    assert sorted(read_folder(tmp_path / 'b', clips=True).subject.unique()) == ['friday', 'monday']
    numbers = [f'{c}/{s}/{v:04d}/1.png' for c in ('live', 'attack') for s in ('01', '02') for v in (1, 2)]
    with pytest.raises(ValueError, match='clips=True'):
        read_folder(tree(tmp_path / 'c', *numbers))


def test_folders_that_contradict_each_other(tmp_path):
    with pytest.raises(ValueError, match="'anna' is a person below live"):
        read_folder(tree(tmp_path / 'a', 'live/anna/1.png', 'attack/anna/c1/1.png'))
    with pytest.raises(ValueError, match="these lie in 'ben' alone"):
        read_folder(tree(tmp_path / 'b', 'live/anna/clip1/1.png', 'live/ben/1.png', 'attack/x/anna/clip1/1.png'))


def test_videos_in_folders_of_recordings(tmp_path):
    df = read_folder(tree(tmp_path, *(f'{c}/{s}/clip1/{i}.mp4' for c in ('live', 'spoof') for s in 'ab' for i in '12')))
    assert sorted(df.subject.unique()) == ['a', 'b'] and df.video.nunique() == 8


def test_numbers_in_names_are_ordered_by_size(tmp_path):
    tree(tmp_path, *(f'live/anna/clip7_{i}.png' for i in range(1, 13)))
    df = read_folder(tmp_path, video_pattern=r'^(clip\d+)_').sort_values('frame')
    assert [int(Path(p).stem.split('_')[1]) for p in df.path] == list(range(1, 13))


def test_a_cache_among_the_data_is_left_out(tmp_path):
    tree(tmp_path, *(f'{c}/{s}/1.jpg' for c in ('live', 'attack') for s in 'ab'))
    cache = cache_folder(tmp_path / 'cache')
    tree(cache, '3c/3cd-face.png')
    df, said = heard(read_folder, tmp_path)
    assert len(df) == 4 and not said and df.attrs['left_out'] == ''


@pytest.mark.parametrize(
    'copy, warned',
    [
        ('live/b/9.jpg', True),  # another person
        ('attack/print/a/9.jpg', True),  # another class
        ('live/a/9.jpg', False),  # twice, and right both times
    ],
)
def test_one_picture_as_two_people_or_two_classes_is_said(tmp_path, copy, warned):
    tree(tmp_path, *(f'{c}/{s}/{i}.jpg' for c in ('live', 'attack/print') for s in 'ab' for i in range(2)))
    for number, path in enumerate(sorted(tmp_path.rglob('*.jpg'))):
        path.write_bytes(bytes([number]) * 40)  # of one size
    (tmp_path / copy).write_bytes((tmp_path / 'live/a/1.jpg').read_bytes())
    df, said = heard(read_folder, tmp_path)
    assert len(df) == 9 and len(said) == warned
    if warned:
        assert '1 such' in said[0] and 'live/a/1.jpg' in said[0] and copy in said[0]


def test_endings_that_are_not_read_are_counted(tmp_path):
    live = ('1.jpg', '2.xcf', '3.XCF', '4.jfif', '5.cr2', 'notes.txt', 'README', '.hidden.cr2')
    attack = ('1.jpg', '2.3gp', '3.mpg', '4.mts', '5.gif', '6.cr2')
    tree(tmp_path, *(f'live/{s}/{n}' for s in ('a', 'b') for n in live), 'other.raw')
    tree(tmp_path, *(f'attack/{s}/{n}' for s in ('a', 'b') for n in attack))
    df, said = heard(read_folder, tmp_path)
    assert len(df) == 14 and len(said) == 1
    assert df.attrs['left_out'] == 'attack: 2 .cr2; live: 2 .cr2, 4 .xcf; no class: 1 .raw'
    assert df.attrs['left_out'] in said[0] and 'pillow-heif' in said[0]
    (tmp_path / 'c').mkdir()
    with pytest.raises(ValueError, match='no images and no videos.*There are others .live: 1 .xcf'):
        read_folder(tree(tmp_path / 'c', 'live/a/1.xcf'))


def test_splits(tmp_path):
    want = {
        'train/live/a/1.jpg': 'train',
        'live/Training/b/1.jpg': 'train',
        'spoof/devel/c/1.jpg': 'dev',
        'VAL/real/d/1.jpg': 'dev',
        'fake/x/test/e/1.jpg': 'test',
    }
    assert {k: v[0] for k, v in placed(tree(tmp_path, *want)).items()} == want


@pytest.mark.parametrize(
    'name',
    [
        'live',
        'REAL',
        'Bona Fide',
        'bona-fide',
        'bona_fide',
        'ClientRaw',
        'attack',
        'Attacks',
        'SPOOF',
        'Presentation Attack',
        'ImposterRaw',
    ],
)
def test_class_names(tmp_path, name):
    assert set(placed(tree(tmp_path, f'{name}/a/1.jpg')).values()) == {
        ('train', *(('live', '') if name[0].lower() in 'lrbc' else ('attack', 'unspecified')), 'a')
    }


def test_names_do_not_overlap():
    assert not LIVE_NAMES & ATTACK_NAMES and not set(SPLIT_NAMES) & (LIVE_NAMES | ATTACK_NAMES)


def test_class_above_the_root_does_not_count(tmp_path):
    with pytest.raises(ValueError, match='says live or attack'):
        read_folder(tree(tmp_path / 'live', 'anna/1.jpg'))


def test_hidden_and_leftovers_are_left_out(tmp_path):
    tree(
        tmp_path,
        'live/a/1.jpg',
        'live/a/._1.jpg',
        '.ipynb_checkpoints/live/a/1.jpg',
        'live/.cache/1.jpg',
        '__MACOSX/live/a/1.jpg',
        'live/a/@eaDir/1.jpg',
    )
    assert list(placed(tmp_path)) == ['live/a/1.jpg']


def test_links(tmp_path):
    root = tree(tmp_path / 'root', 'live/a/1.jpg')
    tree(tmp_path / 'elsewhere', 'a/2.jpg')
    (root / 'attack').symlink_to(tmp_path / 'elsewhere')  # followed
    (root / 'live' / 'a' / 'up').symlink_to(root)
    (root / 'live' / 'self').symlink_to(root / 'live' / 'self')  # circles
    (root / 'live' / 'a' / 'gone.jpg').symlink_to(
        tmp_path / 'nowhere.jpg'
    )  # kept, so that extract_frames can report it
    assert list(placed(root)) == ['attack/a/2.jpg', 'live/a/1.jpg', 'live/a/gone.jpg']


def test_each_image_is_a_video(tmp_path):
    df = read_folder(
        tree(
            tmp_path,
            'live/a/1.jpg',
            'live/a/1.png',
            'live/a/2.jpg',
            'live/b/1.jpg',
            'attack/a/1.jpg',
            'attack/print/a/1.jpg',
        )
    )
    assert df.video.nunique() == len(df) == 6 and (df.frame == 0).all()


def test_patterns(tmp_path):
    df = read_folder(
        tree(
            tmp_path,
            *(
                f'{c}/p_{s}_v{v}_{f}.jpg'
                for c in ('live', 'fake')
                for s in ('01', '02')
                for v in (1, 2)
                for f in range(3)
            ),
        ),
        video_pattern=r'_(v\d)_',
        subject_pattern=r'^p_(\d+)',
    )
    assert set(df.subject) == {'01', '02'} and df.video.nunique() == 8
    assert df.groupby('video').frame.apply(list).tolist() == [[0, 1, 2]] * 8


@pytest.mark.parametrize(
    'kw,message',
    [
        (dict(video_pattern='x(.)'), 'finds nothing'),
        (dict(video_pattern='1'), 'one group in parentheses'),
        (dict(video_pattern='(x)?1'), 'finds nothing'),
        (dict(subject_pattern='('), 'no regular expression'),
    ],
)
def test_bad_patterns(tmp_path, kw, message):
    with pytest.raises(ValueError, match=message):
        read_folder(tree(tmp_path, 'live/a/1.jpg'), **kw)


@pytest.mark.parametrize(
    'paths,message',
    [
        ([], 'has no images'),
        (['live/a/notes.txt'], 'has no images'),
        (['a/1.jpg'], 'no folder on the way to it says live or attack'),
        (['live/1.jpg'], "no folder below 'live' says whose face"),
        (['live/val/1.jpg'], "'val' is read as a split"),
        (['live/a/1.jpg', 'cover.jpg'], '1 of 2 files .* cannot be placed; the first is cover.jpg'),
        (['train/live/a/1.jpg', 'test/live/a/2.jpg'], 'a is in test and train'),
        (['train/live/a/1.jpg', 'tset/live/b/2.jpg'], '1 of 2 files are in no split folder.*tset'),
    ],
)
def test_refused(tmp_path, paths, message):
    with pytest.raises(ValueError, match=message):
        read_folder(tree(tmp_path, *paths))


def test_no_folder(tmp_path):
    (tmp_path / 'file').touch()
    for p in ('nowhere', 'file'):
        with pytest.raises(FileNotFoundError, match=f'no folder at .*{p}'):
            read_folder(tmp_path / p)


def test_one_class_folder_is_refused_when_split(tmp_path):
    df = read_folder(tree(tmp_path, *(f'live/{s}/1.jpg' for s in 'abc')))
    with pytest.raises(ValueError, match='0 attack rows in the whole table'):
        split_by_subject(df)


def test_real_photographs():
    if not PHOTOS.is_dir():
        pytest.skip('the photographs are not beside this checkout')
    df = read_folder(PHOTOS)
    people = ['0004', '0006', '0007', '0011', '0012', '0014']
    assert len(df) == 288 and sorted(df.subject.unique()) == people
    assert set(df.groupby(['subject', 'label']).size()) == {24} and df.video.nunique() == 288
    df = split_by_subject(df, test_subjects=['0012', '0014'], dev_subjects=['0011'])
    assert set(df.subject[df.split == 'train']) == {'0004', '0006', '0007'}
    assert dict(sample_counts(df).groupby('split', observed=True).images.sum()) == dict(train=144, dev=48, test=96)


# --- videos in a folder


def test_videos_in_a_folder(tmp_path):
    df = read_folder(make_folder(tmp_path, people=3, videos=0))
    assert (
        len(df) == 12
        and set(df.subject) == {'p0', 'p1', 'p2'}
        and df.pai.value_counts().to_dict() == {'': 6, 'print': 3, 'replay': 3}
    )
    assert df.video.nunique() == 12 and (df.frame == 0).all()


def test_a_video_file_is_a_recording_whatever_the_pattern(tmp_path):
    df = read_folder(
        tree(tmp_path, 'live/a/x_1.jpg', 'live/a/x_2.jpg', 'live/a/film.mov', 'live/a/film.MP4'), video_pattern='^(x)'
    )
    assert df.groupby('video').size().to_dict() == {'live/a/film.MP4': 1, 'live/a/film.mov': 1, 'live/a/x': 2}


# --- datasets of full size


@pytest.fixture(scope='module')
def trees(tmp_path_factory):
    "Trees of full size, made when they are first asked for; tests that change one copy or mend it."
    made = {}

    def get(name):
        if name not in made:
            made[name] = dict(
                casia=make_casia, replay=make_replay, msu=make_msu, oulu=make_oulu, siw=make_siw, lfw=make_lfw
            )[name](tmp_path_factory.mktemp(name) / 'Set é 1')
        return made[name]

    return get


def counts(df, *by):
    return df.groupby(list(by)).size().to_dict()


def heard(f, *args, **kw):
    "What `f` returns, and the warnings on the way."
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        return f(*args, **kw), [str(o.message) for o in w if issubclass(o.category, UserWarning)]


def drawn(said, people):
    "Whether one warning was heard, and it names the people who were taken from the training for development."
    return len(said) == 1 and f'{people} training people of' in said[0] and '--dev-subjects' in said[0]


def everything(df, dataset):
    "What holds for every reader."
    assert (
        set(df.dataset) == {dataset}
        and df.path.is_unique
        and df.video.is_unique
        and (df.frame == 0).all()
        and df.box.isna().all()
    )
    assert df.subject.str.startswith(dataset + '-').all() and df.groupby('subject').split.nunique().max() == 1
    assert (
        set(df.pai) <= {'', 'print', 'replay', 'warped', 'cut'}
        and ((df.pai == '') == (df.label == 'live')).all()
        and ((df.pai_name == '') == (df.pai == '')).all()
    )
    assert all(Path(p).is_file() for p in df.path) and (df.annotation != '').equals(df.annotation_format != '')
    pd.testing.assert_frame_equal(df, validate_samples(df))
    assert not (dataset_summary(df).differs != '').any(), dataset_summary(df)


def test_casia(trees):
    df, said = heard(read_casia_fasd, trees('casia'))
    everything(df, 'casia_fasd')
    assert drawn(said, '4 of the 20') and counts(df, 'split') == dict(train=192, dev=48, test=360)
    whole = read_casia_fasd(trees('casia'), dev=0)
    assert counts(whole, 'split', 'pai') == {
        (s, p): n for s, n in (('train', 60), ('test', 90)) for p in ('', 'cut', 'replay', 'warped')
    }
    assert whole.groupby('split').subject.nunique().to_dict() == dict(train=20, test=30) and counts(
        whole, 'quality'
    ) == dict(low=200, normal=200, high=200)
    of = {Path(v).stem: (p, q) for v, p, q in zip(whole.video, whole.pai, whole.quality)}
    assert of == {
        '1': ('', 'low'),
        '2': ('', 'normal'),
        'HR_1': ('', 'high'),
        '3': ('warped', 'low'),
        '4': ('warped', 'normal'),
        'HR_2': ('warped', 'high'),
        '5': ('cut', 'low'),
        '6': ('cut', 'normal'),
        'HR_3': ('cut', 'high'),
        '7': ('replay', 'low'),
        '8': ('replay', 'normal'),
        'HR_4': ('replay', 'high'),
    }
    assert set(read_casia_fasd(trees('casia'), qualities=('a', 'b', 'c')).quality) == {'a', 'b', 'c'}


@pytest.mark.parametrize(
    'protocol,n',
    dict(
        grandtest=(60, 240),
        print=(60, 0),
        mobile=(0, 120),
        highdef=(0, 120),
        photo=(60, 120),
        video=(0, 120),
        digitalphoto=(0, 120),
    ).items(),
)
def test_replay(trees, protocol, n):
    df, said = heard(read_replay_attack, trees('replay'), protocol)
    everything(df, 'replay_attack')
    want = {
        (s, p): k * c // 15
        for s, k in (('train', 15), ('dev', 15), ('test', 20))
        for p, c in zip(('', 'print', 'replay'), (60, *n))
        if c
    }
    assert not said and counts(df, 'split', 'pai') == want
    assert not df.video.str.contains('enroll').any() and set(df.protocol) == {protocol}
    assert df[df.label == 'attack'].support.value_counts().nunique() == 1  # as many fixed as by hand


def test_replay_lists_and_names_agree(trees, tmp_path):
    root = copy_of_links(trees('replay'), tmp_path, leave='protocols')
    for protocol in REPLAY_PROTOCOLS:
        if protocol == 'smalltest':
            continue
        with pytest.warns(UserWarning, match='derived from the names'):
            derived = read_replay_attack(root, protocol)
        assert sorted(derived.video) == sorted(read_replay_attack(trees('replay'), protocol).video)
    with pytest.raises(ValueError, match='smalltest.*has no rule'):
        read_replay_attack(root, 'smalltest')


def test_replay_smalltest_by_its_lists(trees, tmp_path):
    root = copy_of_links(trees('replay'), tmp_path, leave='protocols')
    shutil.copytree(trees('replay') / 'protocols', root / 'protocols')
    with pytest.raises(FileNotFoundError, match='no list attack-smalltest-allsupports-train.txt'):
        read_replay_attack(root, 'smalltest')
    for g in ('train', 'devel', 'test'):
        lines = (root / f'protocols/attack-grandtest-allsupports-{g}.txt').read_text().splitlines()[:7]
        (root / f'protocols/attack-smalltest-allsupports-{g}.txt').write_text(
            '\r\n'.join(line.removesuffix('.mov') for line in lines)
        )  # stems, CRLF, no last line end
    df, said = heard(read_replay_attack, root, 'smalltest')
    assert not said and counts(df, 'split', 'label') == {
        ('train', 'live'): 60,
        ('dev', 'live'): 60,
        ('test', 'live'): 80,
        **{(s, 'attack'): 7 for s in ('train', 'dev', 'test')},
    }
    assert set(dataset_summary(df).differs) == {'no official count'}


def copy_of_links(root, to, leave):
    "A root with links to all folders of another, but for one."
    to = to / 'copy'
    to.mkdir()
    for p in root.iterdir():
        if p.name != leave:
            (to / p.name).symlink_to(p)
    return to


def test_msu(trees):
    df, said = heard(read_msu_mfsd, trees('msu'))
    everything(df, 'msu_mfsd')
    assert drawn(said, '3 of the 15') and counts(df, 'split') == dict(train=96, dev=24, test=160)
    whole = read_msu_mfsd(trees('msu'), dev=0)
    assert counts(whole, 'split', 'pai') == {
        ('train', ''): 30,
        ('train', 'print'): 30,
        ('train', 'replay'): 60,
        ('test', ''): 40,
        ('test', 'print'): 40,
        ('test', 'replay'): 80,
    }
    assert {int(s[-3:]) for s in whole[whole.split == 'train'].subject} == set(MSU['train'])
    turned = whole[whole['rotate'] == 180]
    assert (
        sorted(turned.subject.str[-3:]) == ['003', '005', '006', '007', '008', '009']
        and set(turned.label) == {'live'}
        and set(turned.device) == {'android'}
    )
    assert set(whole['rotate']) == {0, 180} and counts(whole, 'device') == dict(android=140, laptop=140)


@pytest.mark.parametrize('protocol,fold', [(1, None), (2, None), *((p, k) for p in (3, 4) for k in range(1, 7))])
def test_oulu(trees, tmp_path, protocol, fold):
    df, said = heard(read_oulu_npu, trees('oulu'), protocol, fold)
    everything(df, 'oulu_npu')
    want = {1: (1200, 900, 600), 2: (1080, 810, 1080), 3: (1500, 1125, 300), 4: (600, 450, 60)}[protocol]
    assert not said and counts(df, 'split') == dict(zip(('train', 'dev', 'test'), want))
    for split, part in dict(train='Train', dev='Dev', test='Test').items():
        assert {Path(v).stem for v in df[df.split == split].video} == set(oulu_protocols()[protocol, fold, part])
    by_file = df.video.map(lambda v: Path(v).stem[-1])
    assert set(zip(by_file, df.pai)) <= {('1', ''), ('2', 'print'), ('3', 'print'), ('4', 'replay'), ('5', 'replay')}
    if (protocol, fold) in ((1, None), (3, 2), (4, 6)):
        root = copy_of_links(trees('oulu'), tmp_path, leave='Protocols')
        derived, said = heard(read_oulu_npu, root, protocol, fold)
        assert sorted(derived.video) == sorted(df.video) and len(said) == 1 and 'derived from the names' in said[0]


@pytest.mark.parametrize('key', oulu_protocols(), ids=str)
def test_oulu_lists_and_rule_agree(key):
    protocol, fold, part = key
    users = dict(Train=range(1, 21), Dev=range(21, 36), Test=range(36, 56))[part]
    rule = [
        f'{p}_{s}_{u:02d}_{f}'
        for p in range(1, 7)
        for s in (1, 2, 3)
        for u in users
        for f in range(1, 6)
        if in_oulu(protocol, fold, part.lower(), p, s, f)
    ]
    assert rule == sorted(oulu_protocols()[key], key=lambda n: [int(o) for o in n.split('_')])


def test_oulu_whole(trees):
    df = read_oulu_npu(trees('oulu'), protocol=None)
    everything(df, 'oulu_npu')
    assert counts(df, 'split', 'pai') == {
        (s, p): 18 * n * k
        for s, n in (('train', 20), ('dev', 15), ('test', 20))
        for p, k in (('', 1), ('print', 2), ('replay', 2))
    }
    assert (df.annotation != '').sum() == 2


# train + dev and test, as public readers of SiW count: live, print, replay
SIW = {
    (None, None): ((714, 339, 1364), (599, 314, 1148)),
    (1, None): ((714, 339, 1364), (599, 314, 1148)),
    (2, 1): ((714, 0, 1004), (599, 0, 300)),
    (2, 2): ((714, 0, 1004), (599, 0, 300)),
    (2, 3): ((714, 0, 1005), (599, 0, 298)),
    (2, 4): ((714, 0, 1079), (599, 0, 250)),
    (3, 1): ((714, 339, 0), (599, 0, 1148)),
    (3, 2): ((714, 0, 1364), (599, 314, 0)),
}


@pytest.mark.parametrize('key', SIW, ids=str)
def test_siw(trees, key):
    df, said = heard(read_siw, trees('siw'), *key)
    everything(df, 'siw')
    part = df.split.replace('dev', 'train')
    want = {(s, p): n for s, ns in zip(('train', 'test'), SIW[key]) for p, n in zip(('', 'print', 'replay'), ns) if n}
    assert drawn(said, '18 of the 90') and df.groupby([part, 'pai']).size().to_dict() == want
    assert df.groupby('split').subject.nunique().to_dict() == dict(train=72, dev=18, test=75)
    first = df[df.max_frames.notna()]
    assert (len(first) > 0) == (key[0] == 1) and set(first.split) <= {'train'} and set(first.max_frames) <= {60}
    if key[0] == 1:
        assert len(first) == (df.split == 'train').sum()
    if key[0] == 2:
        assert set(df[(df.split == 'test') & (df.pai != '')].pai_name) == {
            f'replay {key[1]}'
        } and f'replay {key[1]}' not in set(df[df.split != 'test'].pai_name)


def test_siw_underscores_mp4_and_legacy(tmp_path):
    make_siw(tmp_path / 'siw', videos=0, people=dict(Train=[3, 6, 7], Test=[1, 2]))
    for p in [*(tmp_path / 'siw').rglob('*.mov')]:
        p.rename(p.with_name(p.stem.replace('-', '_') + '.mp4'))
    photos = tree(tmp_path / 'legacy', *(f'{n:03d}.jpg' for n in (1, 2, 3, 6, 7)))
    df = read_siw(tmp_path / 'siw', dev=0.34, legacy=photos)
    gallery = df[df.role == 'gallery']
    assert (
        len(gallery) == 5
        and set(gallery.label) == {'live'}
        and gallery.max_frames.isna().all()
        and set(df[df.role == 'probe'].subject) == set(gallery.subject)
    )
    assert df.groupby('subject').split.nunique().max() == 1 and set(df.video.map(lambda v: Path(v).suffix)) == {
        '.mp4',
        '.jpg',
    }
    (photos / '006.jpg').unlink()
    with pytest.raises(ValueError, match='1 of 5 people have no photograph .*006'):
        read_siw(tmp_path / 'siw', legacy=photos)
    with pytest.raises(FileNotFoundError, match='no folder of legacy'):
        read_siw(tmp_path / 'siw', legacy=tmp_path / 'nowhere')


@pytest.mark.parametrize(
    'name,read,people', [('casia', read_casia_fasd, 20), ('msu', read_msu_mfsd, 15), ('siw', read_siw, 90)]
)
def test_development_people(trees, name, read, people):
    def people_of(**kw):
        return read(trees(name), **kw).groupby('split').subject.agg(set).to_dict()

    first, again, other, more, none = (
        people_of(),
        people_of(seed=0),
        people_of(seed=1),
        people_of(dev=0.4),
        people_of(dev=0),
    )
    assert first == again and first['dev'] != other['dev'] and 'dev' not in none
    assert len(first['dev']) == round(0.2 * people) and len(more['dev']) == round(0.4 * people)
    for p in (first, other, more):  # the test is never touched, and nobody is lost
        assert p['test'] == none['test'] and p['train'] | p['dev'] == none['train'] and not p['train'] & p['dev']
    with pytest.raises(ValueError, match='dev is 1'):
        read(trees(name), dev=1)


def test_subjects_are_unique_across_datasets(trees):
    df = pd.concat(
        [
            read_casia_fasd(trees('casia')),
            read_replay_attack(trees('replay')),
            read_msu_mfsd(trees('msu')),
            read_oulu_npu(trees('oulu')),
            read_siw(trees('siw')),
        ]
    )
    both = validate_samples(df)
    assert both.subject.nunique() == 50 + 50 + 35 + 55 + 165 and set(both.pai) == {
        '',
        'print',
        'replay',
        'warped',
        'cut',
    }
    assert not (dataset_summary(both).differs != '').any()


def test_a_table_survives_csv(trees, tmp_path):
    df = read_siw(trees('siw'))
    save_samples(df, tmp_path / 'a.csv')
    back = load_samples(tmp_path / 'a.csv')
    assert back[['split', 'subject', 'video', 'pai', 'path']].equals(df[['split', 'subject', 'video', 'pai', 'path']])
    assert (back.max_frames.fillna(0) == df.max_frames.fillna(0)).all() and (back['rotate'] == 0).all()


# --- roots

PARTS = dict(
    casia=('train_release', read_casia_fasd),
    replay=('devel', read_replay_attack),
    msu=('scene01/real', read_msu_mfsd),
    oulu=('Train_files', read_oulu_npu),
    siw=('Train/live', read_siw),
)


@pytest.mark.parametrize('name', PARTS)
def test_root(trees, tmp_path, name):
    part, read = PARTS[name]
    root, want = trees(name), read(trees(name))
    pd.testing.assert_frame_equal(read(root.parent), want)  # a folder above
    pd.testing.assert_frame_equal(read(str(root)), want)
    with pytest.raises(FileNotFoundError, match='is a part of it. Its root is .*: give that'):
        read(root / part)
    with pytest.raises(FileNotFoundError, match='no folder at .*nowhere'):
        read(root / 'nowhere')
    with pytest.raises(FileNotFoundError, match='has the sub-folders .*there are: live'):
        read(tree(tmp_path, 'live/a/1.jpg'))


def test_root_of_msu_is_scene01(trees):
    pd.testing.assert_frame_equal(read_msu_mfsd(trees('msu') / 'scene01'), read_msu_mfsd(trees('msu')))


def test_root_twice(tmp_path):
    for k in 'ab':
        make_casia(tmp_path / k, videos=0)
    with pytest.raises(ValueError, match='holds it 2 times'):
        read_casia_fasd(tmp_path)


def test_case_of_folders_and_endings(tmp_path):
    root = make_siw(tmp_path / 'siw', videos=0, people=dict(Train=[3, 6, 7], Test=[1]))
    want = sorted(v.lower() for v in read_siw(root).video)
    for p in [*root.rglob('*.mov')]:
        p.rename(p.with_suffix('.MOV'))
    (root / 'Train').rename(root / 'train')
    (root / 'Test' / 'live').rename(root / 'Test' / 'LIVE')
    assert sorted(v.lower() for v in read_siw(root).video) == want


def test_nested_archives(tmp_path):
    root = make_oulu(tmp_path / 'oulu', videos=0)
    for part in ('Train_files', 'Protocols'):
        (root / part).rename(root / 'x')
        (root / part).mkdir()
        (root / 'x').rename(root / part / part)
    df, said = heard(read_oulu_npu, root, 4, 2)
    assert not said and counts(df, 'split') == dict(train=600, dev=450, test=60)


# --- what is listed, and what is there


@pytest.fixture
def casia(tmp_path):
    return make_casia(tmp_path / 'casia', videos=0)


@pytest.fixture
def msu(tmp_path):
    return make_msu(tmp_path / 'msu', dict(train=[2, 3, 5], test=[1, 13]), videos=0)


@pytest.fixture
def replay(tmp_path):
    return make_replay(tmp_path / 'replay', dict(train=[1, 2], devel=[3], test=[23, 24]), videos=0)


@pytest.fixture(scope='module')
def small_oulu(tmp_path_factory):
    return make_oulu(tmp_path_factory.mktemp('oulu'), videos=0)


def test_missing_video(casia, msu, replay):
    for root, read, gone, says in (
        (
            casia,
            read_casia_fasd,
            'test_release/7/HR_3.avi',
            r'1 of 360 listed videos are not there, the first is 7/HR_3 \(test_release\)',
        ),
        (
            msu,
            read_msu_mfsd,
            'scene01/attack/attack_client013_laptop_SD_ipad_video_scene01.mov',
            r'1 of 40 .*client 13, test_sub_list.txt, line 2',
        ),
        (
            replay,
            read_replay_attack,
            'train/real/client002_session01_webcam_authenticate_adverse_1.mov',
            r'1 of 48 .*real-train.txt, line 7',
        ),
    ):
        whole = len(read(root))
        (root / gone).unlink()
        with pytest.raises(FileNotFoundError, match=says):
            read(root)
        df, said = heard(read, root, allow_missing=True)
        said = [s for s in said if not drawn([s], '')]
        assert len(df) == whole - 1 and len(said) == 1 and 'left out' in said[0]
        differs = dataset_summary(df).differs
        if read is read_casia_fasd:
            assert [d for d in differs if d] == ['videos 89 of 90']


def test_a_split_that_is_not_there_at_all_is_an_error(casia):
    shutil.rmtree(casia / 'test_release')
    (casia / 'test_release').mkdir()
    for allow in (False, True):
        with pytest.raises(FileNotFoundError, match='360 of 360 listed videos are not there'):
            read_casia_fasd(casia, allow_missing=allow)


def test_empty_list(msu, replay, tmp_path):
    oulu = make_oulu(tmp_path / 'oulu', videos=0, users=(range(1, 2), range(21, 22), range(36, 37)))
    for root, read, name in (
        (msu, read_msu_mfsd, 'train_sub_list.txt'),
        (replay, read_replay_attack, 'protocols/attack-grandtest-allsupports-test.txt'),
        (oulu, read_oulu_npu, 'Protocols/Protocol_1/Test.txt'),
    ):
        (root / name).write_bytes(b'\r\n')
        with pytest.raises(ValueError, match=f'{name} lists nothing. It belongs to the dataset'):
            read(root, allow_missing=True)


def test_unlisted_video(casia, msu, replay):
    for root, read, new in (
        (casia, read_casia_fasd, 'train_release/21/1.avi'),
        (msu, read_msu_mfsd, 'scene01/real/real_client099_android_SD_scene01.mp4'),
        (replay, read_replay_attack, 'test/real/client099_session01_webcam_authenticate_adverse_1.mov'),
    ):
        want = read(root)
        tree(root, new)
        df, said = heard(read, root)
        pd.testing.assert_frame_equal(df, want)
        said = [s for s in said if not drawn([s], '')]
        assert len(said) == 1 and '1 videos are there but not listed' in said[0] and new.split('/')[-1] in said[0]


def test_unlisted_in_oulu(small_oulu):
    path = small_oulu / 'Protocols/Protocol_1/Dev.txt'
    text = path.read_text()
    path.write_text('\n'.join(text.splitlines()[1:]))
    try:
        df, said = heard(read_oulu_npu, small_oulu)
    finally:
        path.write_text(text)
    assert len(df) == 2699 and len(said) == 1 and '1 videos are there but not listed' in said[0]


@pytest.mark.parametrize(
    'new,read,says',
    [
        ('train_release/1/9.avi', read_casia_fasd, 'expected a clip 1 to 8'),
        ('train_release/1/HR_5.avi', read_casia_fasd, 'HR_1 to HR_4'),
        ('train_release/anna/1.avi', read_casia_fasd, 'PERSON/CLIP'),
        ('train_release/1.avi', read_casia_fasd, 'PERSON/CLIP'),
    ],
)
def test_names_of_casia(casia, new, read, says):
    tree(casia, new)
    with pytest.raises(ValueError, match=f'1 file name.*{new}: .*{says}'):
        read(casia)


@pytest.mark.parametrize(
    'new,says',
    [
        ('real/real_client2x_android_SD_scene01.mp4', 'expected'),
        ('real/real_client002_tablet_SD_scene01.mp4', 'expected'),
        ('attack/attack_client002_android_SD_scene01.mp4', 'exclude each other'),
        ('real/real_client002_laptop_SD_ipad_video_scene01.mov', 'exclude each other'),
    ],
)
def test_names_of_msu(msu, new, says):
    tree(msu / 'scene01', new)
    with pytest.raises(ValueError, match=f'1 file name.*{new}: .*{says}'):
        read_msu_mfsd(msu)


@pytest.mark.parametrize(
    'new',
    [
        'train/attack/attack_print_client001_session01_highdef_photo_adverse.mov',
        'train/attack/hand/attack_mask_client001_session01_highdef_photo_adverse.mov',
        'devel/real/client003.mov',
    ],
)
def test_names_of_replay(replay, new):
    tree(replay, new)
    with pytest.raises(ValueError, match=f'1 file name.*{new}: expected'):
        read_replay_attack(replay)


@pytest.mark.parametrize(
    'new,says',
    [
        ('Train_files/7_1_01_1.avi', 'phone 1 to 6'),
        ('Dev_files/1_1_01_1.avi', 'user 21 to 35 for dev'),
        ('Test_files/1_1_36_6.avi', '1 to 5'),
    ],
)
def test_names_of_oulu(small_oulu, new, says):
    tree(small_oulu, new)
    try:
        with pytest.raises(ValueError, match=f'1 file name.*{new}: .*{says}'):
            read_oulu_npu(small_oulu)
    finally:
        (small_oulu / new).unlink()


@pytest.mark.parametrize(
    'new,says',
    [
        ('Train/live/003/003-1-2-1-1.mov', 'type 2 belongs into the folder spoof'),
        ('Train/spoof/003/006-1-2-1-1.mov', 'in the folder of person 003'),
        ('Test/live/001/001-3-1-1-1.mov', 'NNN-sensor-type'),
    ],
)
def test_names_of_siw(tmp_path, new, says):
    root = tree(make_siw(tmp_path, videos=0, people=dict(Train=[3, 6], Test=[1])), new)
    with pytest.raises(ValueError, match=f'file name.*{new}: .*{says}'):
        read_siw(root)


def test_siw_person_in_both_splits(tmp_path):
    with pytest.raises(ValueError, match='siw-003 is in'):
        read_siw(make_siw(tmp_path, videos=0, people=dict(Train=[3, 6], Test=[3])))


def test_same_recording_twice(casia):
    tree(casia, 'train_release/1/1.mov')
    with pytest.raises(ValueError, match='1.avi and .*1.mov are the same recording'):
        read_casia_fasd(casia)
    (casia / 'train_release/1/1.mov').rename(casia / 'train_release/1/notes.txt')
    tree(casia, 'train_release/01/1.avi')  # 01 is 1
    with pytest.raises(ValueError, match='are the same recording'):
        read_casia_fasd(casia)


def test_junk(casia, msu):
    for root, read in ((casia, read_casia_fasd), (msu, read_msu_mfsd)):
        want = read(root)
        inside = next(root.rglob('*.[am][vop][iv4]')).parent
        tree(
            inside,
            'Thumbs.db',
            '.DS_Store',
            '._1.avi',
            '.ipynb_checkpoints/1.avi',
            '__MACOSX/x.avi',
            '@eaDir/x.mov',
            'readme.txt',
            'empty/',
        )
        (inside / 'back').symlink_to(root)
        df, said = heard(read, root)
        pd.testing.assert_frame_equal(df, want)
        assert not said or drawn(said, '')


# --- lists


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_line_ends(replay, msu, small_oulu, tmp_path, end):
    for root, read in ((replay, read_replay_attack), (msu, read_msu_mfsd)):
        want = read(root)
        for p in [*root.rglob('*list.txt'), *root.glob('protocols/*.txt')]:
            lines = p.read_text().split()
            p.write_bytes(
                b'\xef\xbb\xbf' + (end * 2 + '  ' + f' {end}{end}'.join(lines)).encode()
            )  # a mark, empty lines, blanks, no last line end
        df, said = heard(read, root)
        pd.testing.assert_frame_equal(df, want)
        assert not said or drawn(said, '')


@pytest.mark.parametrize(
    'line,says',
    [
        ('+1,1_1_01_2', 'label \\+1 contradicts the name'),
        ('-2,1_1_01_2', 'contradicts'),
        ('0,1_1_01_1', 'contradicts'),
        ('+1;1_1_01_1', 'a line as'),
        ('+1,1_1_21_1', 'user 01 to 20'),
        ('+1,1_1_01', 'P_S_UU_F'),
        ('\x00\x00', 'a line as'),
        ('-1,1_1_01_3', 'listed twice'),
    ],
)
def test_bad_line_of_oulu(small_oulu, line, says):
    path = small_oulu / 'Protocols/Protocol_1/Train.txt'
    text = path.read_text()
    path.write_text(f'{text}\n{line}')
    try:
        with pytest.raises(ValueError, match=f'Train.txt, line 1201.*{says}'):
            read_oulu_npu(small_oulu)
    finally:
        path.write_text(text)


def test_oulu_label_spellings(small_oulu):
    path = small_oulu / 'Protocols/Protocol_1/Test.txt'
    text, want = path.read_text(), read_oulu_npu(small_oulu)
    path.write_text(
        text.replace('+1,', ' 1 , ').replace('-2,', '-1,').replace('\n', '.avi\n')
    )  # no plus, attacks all -1, endings
    try:
        pd.testing.assert_frame_equal(read_oulu_npu(small_oulu), want)
    finally:
        path.write_text(text)


def test_missing_lists(small_oulu, replay, msu):
    path = small_oulu / 'Protocols/Protocol_3/Dev_4.txt'
    path.rename(path.with_suffix('.bak'))
    try:
        with pytest.raises(FileNotFoundError, match='no list Protocol_3/Dev_4.txt'):
            read_oulu_npu(small_oulu, 3, 4)
        read_oulu_npu(small_oulu, 3, 3)
    finally:
        path.with_suffix('.bak').rename(path)
    (replay / 'protocols/real-devel.txt').unlink()
    with pytest.raises(FileNotFoundError, match='no list real-devel.txt'):
        read_replay_attack(replay)
    (msu / 'test_sub_list.txt').unlink()
    with pytest.raises(FileNotFoundError, match='no file at .*test_sub_list.txt'):
        read_msu_mfsd(msu)


def test_bad_lists(replay, msu):
    (path := replay / 'protocols/real-train.txt').write_text(
        path.read_text() + '\ntest/real/client023_session01_webcam_authenticate_adverse_1.mov'
    )
    with pytest.raises(ValueError, match='real-train.txt, line 9.*is no video of train'):
        read_replay_attack(replay)
    (msu / 'test_sub_list.txt').write_text('01\n02')
    with pytest.raises(ValueError, match='client 2 is listed for training and for testing'):
        read_msu_mfsd(msu)
    (msu / 'test_sub_list.txt').write_text('01\n01')
    with pytest.raises(ValueError, match='test_sub_list.txt, line 2: 1 is listed twice'):
        read_msu_mfsd(msu)
    (msu / 'test_sub_list.txt').write_text('01\n14')
    with pytest.raises(FileNotFoundError, match='8 of 40 .*client 14, test_sub_list.txt, line 2'):
        read_msu_mfsd(msu)


@pytest.mark.parametrize(
    'read,args,says',
    [
        (read_oulu_npu, (5,), 'protocol 5 is not known, choose one of 1, 2, 3, 4'),
        (read_oulu_npu, (3,), 'has 6 folds and fold is None'),
        (read_oulu_npu, (4, 7), 'fold is 7'),
        (read_oulu_npu, (1, 2), 'has no folds'),
        (read_siw, (4,), 'choose one of 1, 2, 3'),
        (read_siw, (2,), 'has 4 folds'),
        (read_siw, (3, 3), 'has 2 folds'),
        (read_replay_attack, ('grandtests',), 'choose one of grandtest'),
    ],
)
def test_bad_protocols(tmp_path, read, args, says):
    with pytest.raises(ValueError, match=says):
        read(tmp_path, *args)


def test_protocols_as_text(small_oulu):
    pd.testing.assert_frame_equal(read_oulu_npu(small_oulu, '3', '2'), read_oulu_npu(small_oulu, 3, 2))


# --- LFW


def test_lfw(trees):
    df = read_lfw_pairs(trees('lfw'))
    assert len(df) == 6000 and counts(df, 'fold', 'same') == {(k, s): 300 for k in range(1, 11) for s in (False, True)}
    assert ((df.subject_a == df.subject_b) == df.same).all() and all(
        Path(p).parent.name == n for p, n in zip(df.path_b, df.subject_b)
    )


def test_lfw_layouts_and_headers(tmp_path):
    root = make_lfw(tmp_path / 'a', folds=2, size=3)
    want = read_lfw_pairs(root)
    pd.testing.assert_frame_equal(read_lfw_pairs(root / 'lfw'), want)  # the images' folder, the list above it
    text = (root / 'pairs.txt').read_text()
    (root / 'pairs.txt').write_bytes(
        text.split('\n', 1)[1].replace('\n', '\r\n').rstrip().encode()
    )  # no header, CRLF, no last line end
    pd.testing.assert_frame_equal(read_lfw_pairs(root), want)
    (root / 'pairsDevTest.txt').write_text('3\n' + '\n'.join(text.splitlines()[1:7]))
    assert counts(read_lfw_pairs(root, 'pairsDevTest.txt'), 'fold') == {1: 6}
    home = tmp_path / 'lfw_home'
    home.mkdir()
    shutil.copy(root / 'pairsDevTest.txt', home / 'pairs.txt')
    shutil.copytree(root / 'lfw', home / 'lfw_funneled')  # as scikit-learn leaves it
    assert len(read_lfw_pairs(home)) == 6 and len(read_lfw_pairs(tmp_path, home / 'pairs.txt')) == 6


@pytest.mark.parametrize(
    'change,says',
    [
        (lambda t: t.rsplit('\n', 3)[0], r'says 2 fold\(s\) of 3 and 3 pairs.*cut off'),
        (lambda t: t.replace('\t1\t', '\tone\t', 1), 'line 2: .* is no pair'),
        (lambda t: '', 'lists no pairs'),
    ],
)
def test_lfw_bad_list(tmp_path, change, says):
    root = make_lfw(tmp_path, folds=2, size=3)
    (root / 'pairs.txt').write_text(change((root / 'pairs.txt').read_text()))
    with pytest.raises(ValueError, match=says):
        read_lfw_pairs(root)


@pytest.mark.parametrize('pattern', ['in turn', 'sorted', 'blocks'])
def test_lists_of_pairs_without_folds(tmp_path, pattern):
    "Own lists, and those of CALFW: 40 pairs in turn are no 20 folds."
    tree(tmp_path, *(f'lfw/{n}{k}/{n}{k}_{i:04d}.jpg' for k in range(20) for n in 'PQ' for i in (1, 2)))
    same, different = [[f'P{k} 1 2' for k in range(20)], [f'P{k} 1 Q{k} 1' for k in range(20)]]
    lines = {
        'in turn': [l for pair in zip(same, different) for l in pair],
        'sorted': same + different,
        'blocks': [l for k in range(0, 20, 5) for l in same[k : k + 5] + different[k : k + 5]],
    }[pattern]
    (tmp_path / 'pairs.txt').write_text('\n'.join(lines))
    df, said = heard(read_lfw_pairs, tmp_path)
    assert len(df) == 40 and df.same.sum() == 20
    assert df.fold.nunique() == (4 if pattern == 'blocks' else 1)
    assert len(said) == (pattern == 'in turn') and all('taken as one fold' in s for s in said)


def test_lfw_pairs_listed_twice(tmp_path):
    root = make_lfw(tmp_path, folds=2, size=3, header=False)
    (root / 'pairs.txt').write_text((root / 'pairs.txt').read_text().rstrip() + '\nP_1_2\t1\tP_1_0\t2\n')
    df, said = heard(read_lfw_pairs, root)
    assert len(df) == 13 and said == [
        'LFW: 1 of 13 pairs are listed twice, the first is pairs.txt, line 13; they count twice.'
    ]


def test_lfw_missing(tmp_path):
    root = make_lfw(tmp_path / 'a', folds=2, size=3)
    (root / 'lfw/P_1_2/P_1_2_0002.jpg').unlink()
    with pytest.raises(
        FileNotFoundError, match=r'1 of 12 pairs lack an image, the first is .*P_1_2_0002.jpg \(pairs.txt, line 12\)'
    ):
        read_lfw_pairs(root)
    df, said = heard(read_lfw_pairs, root, allow_missing=True)
    assert len(df) == 11 and len(said) == 1
    with pytest.raises(FileNotFoundError, match='no P_0_0/P_0_0_0001.jpg'):
        read_lfw_pairs(make_lfw(tmp_path / 'b', images=False))
    with pytest.raises(FileNotFoundError, match='no file at .*pairs.txt'):
        read_lfw_pairs(tmp_path)


# --- boxes


@pytest.mark.parametrize(
    'read,tree_of,fmt',
    [
        (read_replay_attack, 'replay', 'replay'),
        (read_msu_mfsd, 'msu', 'msu'),
        (read_oulu_npu, 'oulu', 'oulu'),
        (read_siw, 'siw', 'siw'),
    ],
)
def test_the_same_face_in_every_dataset(trees, read, tree_of, fmt):
    df = read(trees(tree_of))
    rows = df[df.annotation != '']
    assert len(rows) and set(rows.annotation_format) == {fmt}
    for path in rows.annotation:
        boxes = read_boxes(path, fmt)
        assert list(boxes) == list(range(5 if fmt == 'replay' else 6))  # a frame of zeros is no face
        for b in boxes.values():
            assert b == pytest.approx(FACE, abs=1e-6)


def boxes_of(tmp_path, text, fmt, **kw):
    (tmp_path / 'a').write_bytes(text.encode())
    return read_boxes(tmp_path / 'a', fmt)


def test_box_separators(tmp_path):
    for text in (
        '0 1 2 3 4\n',
        '0,1,2,3,4',
        '0, 1, 2, 3, 4\r\n\r\n',
        '\ufeff0\t1\t2\t3\t4\r',
        '0; 1; 2; 3; 4;',
        ' 0 , 1.0 , 2 , 3e0 , 4 ',
    ):
        assert boxes_of(tmp_path, text, 'replay') == {0: (1, 2, 3, 4)}


def test_frames_without_a_face_are_left_out(tmp_path):
    assert boxes_of(tmp_path, '0 0 0 0 0\n2 1 1 5 0\n7 1 1 -5 5\n8 nan 1 5 5\n9 1 1 5 5\n9 1 1 5 5\n', 'replay') == {
        9: (1, 1, 5, 5)
    }
    assert boxes_of(tmp_path, '0,10,10,10,20\n1,20,10,10,30\n3,10,10,20,30,0,0,0,0\n', 'msu') == {3: (10, 10, 10, 20)}
    assert boxes_of(tmp_path, '0,0,0,0,0\n1,0,0,30,20\n2,30,20,0,0\n3,5,5,5,5', 'oulu') == {}
    assert boxes_of(tmp_path, '0 0 0 0\n\n1 2 4 8\n', 'siw') == {2: (1, 2, 3, 6)} and boxes_of(
        tmp_path, '5 1 2 4 8\n', 'siw'
    ) == {5: (1, 2, 3, 6)}
    assert boxes_of(tmp_path, '', 'msu') == {}


def test_boxes_may_leave_the_image(tmp_path):
    assert boxes_of(tmp_path, '0 -5 -6 10 12', 'replay') == {0: (-5, -6, 10, 12)}


@pytest.mark.parametrize('eyes', [(30, 40, 50, 40), (50, 40, 30, 40), (30, 35, 42, 51)])
def test_box_of_eyes(tmp_path, eyes):
    ((x, y, w, h),) = boxes_of(tmp_path, '0,' + ','.join(map(str, eyes)), 'oulu').values()
    assert (w, h, x + w / 2, y + 0.37 * h) == pytest.approx((50, 50, (eyes[0] + eyes[2]) / 2, (eyes[1] + eyes[3]) / 2))


@pytest.mark.parametrize(
    'text,fmt,says',
    [
        ('0 1 2 3 4\n1 2 3', 'replay', 'line 2: .*3 numbers, expected at least 5'),
        ('frame,x\n', 'msu', 'line 1'),
        ('-1 1 2 3 4', 'replay', 'no number of a frame'),
        ('0.5 1 2 3 4', 'replay', 'no number of a frame'),
        ('1 2 3', 'siw', 'at least 4'),
        ('0 1 1 5 5\n0 1 1 6 6', 'replay', 'line 2: frame 0 stands in it twice'),
        ('inf 1 1 5 5', 'replay', 'line 1'),
        ('\x00\x01', 'oulu', 'line 1'),
    ],
)
def test_bad_boxes(tmp_path, text, fmt, says):
    with pytest.raises(ValueError, match=says):
        boxes_of(tmp_path, text, fmt)


def test_bad_box_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='no file at'):
        read_boxes(tmp_path / 'nowhere.face', 'msu')
    with pytest.raises(ValueError, match="format 'xml' is not known, choose one of replay"):
        read_boxes(tmp_path / 'nowhere.face', 'xml')


def test_the_rule_for_eyes_gives_the_box_of_a_detector():
    "Where the cascades find a face and both eyes: its side in eye distances, and the eyes' height in the box."
    if not PHOTOS.is_dir():
        pytest.skip('the photographs are not beside this checkout')
    face, eye = (
        cv2.CascadeClassifier(f'{cv2.data.haarcascades}haarcascade_{k}.xml') for k in ('frontalface_default', 'eye')
    )
    found = []
    for p in sorted(PHOTOS.rglob('*.jpg'))[::2]:
        grey = cv2.equalizeHist(cv2.imread(str(p), 0))
        boxes = face.detectMultiScale(grey, 1.1, 5, minSize=(60, 60))
        if not len(boxes):
            continue
        x, y, w, h = max(boxes.tolist(), key=lambda b: b[2])
        eyes = eye.detectMultiScale(
            grey[y : y + int(0.6 * h), x : x + w], 1.05, 5, minSize=(w // 7, w // 7), maxSize=(w // 2, w // 2)
        )
        if len(eyes) != 2:
            continue
        (a, b), (c, d) = [(ex + ew / 2, ey + eh / 2) for ex, ey, ew, eh in eyes.tolist()]
        found.append((w / ((c - a) ** 2 + (d - b) ** 2) ** 0.5, (b + d) / 2 / h))
    side, height = pd.DataFrame(found).median()
    assert len(found) > 50 and side == pytest.approx(2.5, abs=0.15) and height == pytest.approx(0.37, abs=0.02)


# --- summary, and readers by name


def test_official_counts_are_the_published_ones():
    def total(dataset, protocol=''):
        return official_counts(dataset, protocol).groupby('split', sort=False).official.sum().tolist()

    assert (
        total('casia_fasd') == [240, 360]
        and total('replay_attack', 'grandtest') == [360, 360, 480]
        and total('msu_mfsd') == [120, 160]
    )
    assert (
        total('oulu_npu', 'all') == [1800, 1350, 1800]
        and total('oulu_npu', 'P1') == [1200, 900, 600]
        and total('oulu_npu', 'P2') == [1080, 810, 1080]
    )
    for k in range(1, 7):
        assert total('oulu_npu', f'P3-fold{k}') == [1500, 1125, 300] and total('oulu_npu', f'P4-fold{k}') == [
            600,
            450,
            60,
        ]
    assert sum(total('siw', 'P1')) == 4478 and total('siw', 'all') == total('siw', 'P1') == [2417, 2061]
    assert official_counts('folder') is None and official_counts('replay_attack', 'smalltest') is None


def test_summary_says_where_counts_differ(trees):
    df = read_oulu_npu(trees('oulu'))
    t = dataset_summary(
        pd.concat(
            [
                df[(df.split != 'dev') & ~((df.split == 'test') & (df.pai == 'print'))],
                df[df.split == 'train'].tail(1).assign(pai='cut', video='new', path='new'),
            ]
        )
    )
    says = t.set_index(['split', 'pai']).differs
    assert (
        says['dev', 'print'] == 'videos 0 of 360, people 0 of 15'
        and says['test', 'print'] == 'videos 0 of 240, people 0 of 20'
        and says['train', 'cut'] == 'no official count'
    )
    assert [d for d in says if not d] == [''] * 5 and t.official.sum() == 2700


def test_summary_of_frames(trees):
    "Counts are of videos, whatever the number of frames, and gallery pictures do not count."
    df = read_msu_mfsd(trees('msu'))
    frames = pd.concat(
        [df.assign(frame=k) for k in range(3)] + [df.head(1).assign(role='gallery', path='x', video='x')]
    )
    pd.testing.assert_frame_equal(dataset_summary(frames), dataset_summary(df))


def test_readers_by_name(trees):
    assert list(READERS) == ['folder', 'casia_fasd', 'replay_attack', 'msu_mfsd', 'oulu_npu', 'siw']
    for name, short in dict(
        casia_fasd='casia', replay_attack='replay', msu_mfsd='msu', oulu_npu='oulu', siw='siw'
    ).items():
        assert set(READERS[name](trees(short)).dataset) == {name}


def test_miniature_videos_are_videos(trees):
    for name in ('casia', 'replay', 'msu', 'oulu', 'siw'):
        real = [p for p in trees(name).rglob('*') if p.suffix in ('.avi', '.mov', '.mp4') and p.stat().st_size]
        assert len(real) == 2
        for p in real:
            assert cv2.VideoCapture(str(p)).get(cv2.CAP_PROP_FRAME_COUNT) == 6


# --- on to frames


@pytest.mark.parametrize(
    'name,read',
    [
        ('replay', read_replay_attack),
        ('msu', read_msu_mfsd),
        ('oulu', read_oulu_npu),
        ('siw', read_siw),
        ('casia', read_casia_fasd),
    ],
)
def test_from_tree_to_frames(trees, tmp_path, name, read):
    "The real videos of a tree: decoded, upright, with the face where the annotation says."
    root = make_msu(tmp_path / 'msu', dict(train=[3, 5, 7], test=[1]), videos=2) if name == 'msu' else trees(name)
    df = read(root)
    df = df[[Path(p).stat().st_size > 0 for p in df.path]]
    frames = extract_frames(df, tmp_path / 'cache', size=48, margin=0, spread=3, progress=False)
    assert len(df) in (1, 2) and len(frames) == 3 * len(df) and not frames.attrs['skipped']
    if name == 'msu':
        assert df['rotate'].max() == 180
    if name != 'casia':
        assert frames.box.map(lambda b: b == pytest.approx(FACE, abs=1e-6)).all() and set(frames.face) <= {
            'box',
            'tracked',
        }
    for p in frames.frame_path:
        assert (
            cv2.imread(p)[:4, :4].mean() > 200 > cv2.imread(p)[-4:, -4:].mean()
        )  # the white corner is at the top left
