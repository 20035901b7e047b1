"The samples table: what the validator refuses and mends, splits by person, flips, CSV."

import itertools

import numpy as np
import pandas as pd
import pytest

from gfa_fastai.samples import (
    LABELS,
    SPLITS,
    balance_flips,
    check_classes,
    sample_counts,
    split_by_subject,
    validate_samples,
)
from gfa_fastai.inputs.tables import load_samples, save_samples
from gfa_fastai.inputs.files import writable_folder


def table(people=6, attacks=('print', 'replay', 'mask'), frames=2, names=None):
    "A made-up table: each person one live recording and one of each attack."
    rows = [
        dict(
            dataset='toy',
            split='train',
            subject=s,
            label='attack' if k else 'live',
            pai=k,
            video=f'{s}-{k}',
            frame=f,
            path=f'{s}-{k}-{f}.png',
        )
        for s in names or [f'{i:04d}' for i in range(people)]
        for k in ('', *attacks)
        for f in range(frames)
    ]
    return pd.DataFrame(rows)


def object_column(df, **columns):
    "`df` with the first values of columns of Python objects replaced."
    for c, values in columns.items():
        col = df[c].astype(object).tolist() if c in df else [None] * len(df)
        df = df.assign(**{c: pd.Series([*values, *col[len(values) :]], dtype=object)})
    return df


REFUSED = {
    'no table': (lambda t: t.to_dict(), 'expected a pandas DataFrame'),
    'empty': (lambda t: t.head(0), 'the table is empty'),
    'missing column': (lambda t: t.drop(columns=['subject', 'video']), 'subject, video missing; there are dataset'),
    'unknown label': (
        lambda t: t.assign(label=t.label.replace('live', 'Live')),
        "column 'label' has 'Live'.*'live', 'attack'.*12 of 48 rows, the first is row 0",
    ),
    'unknown split': (lambda t: t.assign(split='training'), "'training', which is none of 'train', 'dev', 'test'"),
    'unknown role': (lambda t: t.assign(role='x'), "column 'role' has 'x'"),
    'unknown flip': (lambda t: t.assign(flip='hv'), "column 'flip' has 'hv'"),
    'NaN subject': (
        lambda t: object_column(t, subject=['0000', np.nan]),
        r"'subject' has no value: 1 of 48 rows, the first is row 1 \(0000--1.png\)",
    ),
    'None subject': (lambda t: object_column(t, subject=[None]), "'subject' has no value"),
    'blank subject': (lambda t: object_column(t, subject=['  ']), "'subject' has no value"),
    'NaN path': (lambda t: object_column(t, path=[np.nan]), "'path' has no value"),
    'live with pai': (lambda t: object_column(t, pai=['print']), 'live row names an attack instrument'),
    'duplicate': (lambda t: pd.concat([t, t.tail(2)]), r'2 of 50 rows, the first is row 48'),
    'in train and test': (lambda t: object_column(t, split=['test']), '0000 is in test and train'),
    'leak by a blank': (lambda t: object_column(t, split=['test'], subject=['0000 ']), '0000 is in test and train'),
    'leak by an accent': (
        lambda t: object_column(t, split=['test', 'train'], subject=['Jose\u0301', 'Jos\u00e9'], video=['a', 'b']),
        'Jos\u00e9 is in test and train',
    ),
    'video of two people': (lambda t: object_column(t, video=['0001-']), "video '0001-' has more than one subject"),
    'video of two classes': (
        lambda t: object_column(t, video=['0000-print']),
        "video '0000-print' has more than one label",
    ),
    'frame': (lambda t: object_column(t, frame=['first']), "'frame' has 'first', which is no whole number.*row 0"),
    'half a frame': (lambda t: object_column(t, frame=[0.5]), 'no whole number'),
    'short box': (
        lambda t: object_column(t, box=[None, (1, 2, 3)]),
        r'box \(1, 2, 3\) is not x, y, width, height.*row 1',
    ),
    'flat box': (lambda t: object_column(t, box=[(1, 2, 0, 4)]), 'a size above 0'),
    'NaN in box': (lambda t: object_column(t, box=[(1, 2, np.nan, 4)]), 'is not x, y, width, height'),
    'number as box': (lambda t: object_column(t, box=[7]), 'box 7 is not'),
    'text as box': (lambda t: object_column(t, box=['1 2 three 4']), 'is not x, y, width, height'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refused(case):
    change, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        validate_samples(change(table()))


def test_defaults_and_idempotence():
    df = validate_samples(table().drop(columns=['pai', 'frame']).drop_duplicates('video').assign(camera='front'))
    assert (df.frame == 0).all() and (df.role == 'probe').all() and df.box.isna().all() and df.columns[-1] == 'camera'
    assert set(df.pai[df.label == 'attack']) == {'unspecified'} and set(df.pai[df.label == 'live']) == {''}
    pd.testing.assert_frame_equal(validate_samples(df), df)


def test_input_is_not_changed():
    before = table()
    after = before.copy()
    split_by_subject(balance_flips(after))
    pd.testing.assert_frame_equal(before, after)


@pytest.mark.parametrize(
    'given,want',
    [
        ([12, 7], ['12', '7']),
        ([12.0, 7.0], ['12', '7']),
        (['0012', '7 '], ['0012', '7']),
        (['NA', 'nan'], ['NA', 'nan']),
    ],
)
def test_subjects_are_text(given, want):
    df = table(names=['a', 'b'])
    df['subject'] = [dict(a=given[0], b=given[1])[s] for s in df.subject]
    assert sorted(validate_samples(df).subject.unique()) == sorted(want)


@pytest.mark.parametrize(
    'value,want',
    [
        ('1 2 30 40', (1.0, 2.0, 30.0, 40.0)),
        ([1, 2, 30, 40], (1.0, 2.0, 30.0, 40.0)),
        (np.array([1, 2, 30, 40]), (1.0, 2.0, 30.0, 40.0)),
        (None, None),
        (np.nan, None),
        ('', None),
        (pd.NA, None),
    ],
)
def test_boxes(value, want):
    assert validate_samples(object_column(table(), box=[value])).box[0] == want


@pytest.mark.parametrize(
    'people,dev,test,seed',
    [(3, 0.2, 0.3, 0), (5, 0.2, 0.3, 1), (6, 0.2, 0.3, 2), (20, 0.25, 0.25, 3), (50, 0.01, 0.5, 4)],
)
def test_split(people, dev, test, seed):
    t = table(people, attacks=['print'], frames=1)
    df = split_by_subject(t, dev, test, seed)
    n = df.groupby('split').subject.nunique()
    assert df.groupby('subject').split.nunique().max() == 1 and set(n.index) == set(SPLITS)
    assert n['test'] == max(1, round(test * people)) and n['dev'] == max(1, round(dev * people))
    shuffled = split_by_subject(t.sample(frac=1, random_state=0), dev, test, seed)  # the order of rows does not matter
    assert dict(zip(df.subject, df.split)) == dict(zip(shuffled.subject, shuffled.split))


def test_split_is_a_fair_draw():
    "Each of 6 people is in the test set of 2 about every third time, over seeds."
    t = table(6, attacks=['print'], frames=1)
    hits = sum(
        (split_by_subject(t, seed=s).drop_duplicates('subject').set_index('subject').split == 'test').astype(int)
        for s in range(150)
    )
    assert hits.sum() == 300 and hits.between(25, 80).all()


@pytest.mark.parametrize('dev,test', [('0002', ['0000', ' 0005']), (['0002'], None), (None, '0001')])
def test_named_subjects(dev, test):
    df = split_by_subject(table(), dev_subjects=dev, test_subjects=test)
    found = {s: set(df.subject[df.split == s]) for s in SPLITS}
    if dev:
        assert found['dev'] == {'0002'}
    if test:
        assert found['test'] == {s.strip() for s in ([test] if isinstance(test, str) else test)}
    assert all(found.values())


@pytest.mark.parametrize(
    'change,message',
    [
        (dict(test_subjects='9'), 'test_subjects names 9, but the subjects are 0000, 0001'),
        (dict(test_subjects=[12, 1]), 'names 1, 12'),  # the number 1 is not 0001
        (dict(dev_subjects=['0001'], test_subjects=['0001', '0002']), '0001 cannot be in dev and in test'),
        (dict(dev_subjects=[f'{i:04d}' for i in range(6)]), 'nobody is left for train and test'),
        (dict(test_subjects=[f'{i:04d}' for i in range(6)]), 'nobody is left for train and dev'),
        (
            dict(dev_subjects=[f'{i:04d}' for i in range(3)], test_subjects=[f'{i:04d}' for i in range(3, 6)]),
            'nobody is left for train: of 6 people, 3 are for test and 3 for dev',
        ),
        (dict(dev=0.6, test=0.6), 'nobody is left for train: '),
        (dict(dev=0.5, test=0.5), 'nobody is left for train: '),
        (dict(dev_subjects=[]), 'nobody is left for dev'),
        (dict(dev=-0.1), 'dev is -0.1'),
        (dict(test=1), 'between 0 and 1'),
        (dict(dev=0), 'dev is 0'),
        (dict(test=float('nan')), 'test is nan'),
    ],
)
def test_split_refused(change, message):
    with pytest.raises(ValueError, match=message):
        split_by_subject(table(), **change)


@pytest.mark.parametrize('n', [1, 2])
def test_too_few_subjects(n):
    with pytest.raises(ValueError, match=rf'{n} subject\(s\) \(0000.*at least 3 people'):
        split_by_subject(table(n))


@pytest.mark.parametrize('label', LABELS)
def test_one_class_only(label):
    t = table()
    other = [l for l in LABELS if l != label][0]
    with pytest.raises(ValueError, match=f'has no {other} rows.*0 {other} rows in the whole table'):
        split_by_subject(t[t.label == label])


def test_check_classes_names_the_split():
    df = split_by_subject(table(), dev_subjects='0000', test_subjects='0001')
    assert check_classes(df) is df
    poor = df[(df.split != 'dev') | (df.label == 'live')]
    check_classes(poor, ['train', 'test'])
    with pytest.raises(ValueError, match=r"split 'dev' has no attack rows \(2 rows of 1 subject"):
        check_classes(poor)


def test_counts_against_brute_force():
    df = split_by_subject(table(), seed=5)
    counts = sample_counts(df)
    assert counts.images.sum() == len(df) and list(counts.split.unique()) == list(SPLITS)
    for r in counts.itertuples():
        part = [
            o for o in df.itertuples() if (o.dataset, o.split, o.label, o.pai) == (r.dataset, r.split, r.label, r.pai)
        ]
        assert (r.images, r.videos, r.subjects) == (
            len(part),
            len({o.video for o in part}),
            len({o.subject for o in part}),
        )


@pytest.mark.parametrize('attacks,copies', [(1, 1), (2, 2), (3, 3), (8, 3)])
def test_auto_flips(attacks, copies):
    df = balance_flips(split_by_subject(table(attacks=[f'a{i}' for i in range(attacks)])))
    train = df[df.split == 'train']
    live = train.label == 'live'
    assert live.sum() == copies * (live & (train.flip == '')).sum()
    assert not (train.flip[~live] != '').any() and not (df.flip[df.split != 'train'] != '').any()
    validate_samples(df)


@pytest.mark.parametrize('copies,classes', itertools.product([1, 2, 3], ['live', 'both']))
def test_flips(copies, classes):
    df = split_by_subject(table())
    flipped = balance_flips(df, copies, classes)
    chosen = (df.split == 'train') & ((df.label == 'live') | (classes == 'both'))
    assert len(flipped) == len(df) + (copies - 1) * chosen.sum()
    for f in ('h', 'v')[: copies - 1]:
        assert flipped.path[flipped.flip == f].tolist() == df.path[chosen].tolist()
    pd.testing.assert_frame_equal(balance_flips(flipped, copies, classes), flipped)  # no flips of flips


@pytest.mark.parametrize(
    'kw,message',
    [
        (dict(copies=4), 'copies is 4'),
        (dict(copies='all'), "copies is 'all'"),
        (dict(classes='attack'), "classes is 'attack'"),
    ],
)
def test_flips_refused(kw, message):
    with pytest.raises(ValueError, match=message):
        balance_flips(table(), **kw)


def test_csv_round_trip(tmp_path):
    names = ['0012', 'NA', 'O\'Brien, "Bob"', 'Zo\u00eb', 'None', '1e5']
    df = balance_flips(
        split_by_subject(
            object_column(table(names=names), box=[(1 / 3, 2.0, 1234.56789, 1e-3), None]).assign(
                score=np.arange(48) / 7
            )
        )
    )
    save_samples(df, tmp_path / 'new' / 's.csv')
    back = load_samples(tmp_path / 'new' / 's.csv')
    assert back.flip.tolist() == df.flip.tolist() and back.box[0] == (1 / 3, 2.0, 1234.56789, 1e-3)
    pd.testing.assert_frame_equal(validate_samples(df), back)
    assert [p.name for p in (tmp_path / 'new').iterdir()] == ['s.csv']


@pytest.mark.parametrize(
    'text,message',
    [
        ('', 'no samples table'),
        ('a,b\n1,2\n', 'dataset, split, subject, label, video, path missing'),
        ('dataset,split,subject,label,video,path\nd,train,,live,v,p\n', "'subject' has no value"),
        ('dataset,split,subject,label,video,path\nd,train,s,live,v,p,more,still more\nd,train\n"', 'no samples table'),
        (
            'dataset,split,subject,label,video,path,box\nd,train,s,live,v,p,1 2 3\n',
            "box '1 2 3'|box \\['1', '2', '3'\\]",
        ),
    ],
)
def test_bad_csv(tmp_path, text, message):
    (tmp_path / 'bad.csv').write_text(text)
    with pytest.raises(ValueError, match='bad.csv') as e:
        load_samples(tmp_path / 'bad.csv')
    assert e.match(message)


def test_no_csv(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.csv.*dataset, split'):
        load_samples(tmp_path / 'nowhere.csv')


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    for path in (tmp_path / 'file', tmp_path / 'file' / 'below' / 'it'):
        with pytest.raises(OSError, match='cannot write to the folder .*file.*Choose another'):
            writable_folder(path)
    with pytest.raises(OSError, match='cannot write to the folder'):
        save_samples(validate_samples(table()), tmp_path / 'file' / 's.csv')
    assert writable_folder(tmp_path / 'a' / 'b').is_dir() and not list((tmp_path / 'a' / 'b').iterdir())
