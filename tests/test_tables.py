"CSV: what is written comes back as it was, whatever the names are; what is no table is refused by its line."

import csv
import unicodedata

import numpy as np
import pandas as pd
import pytest

from gfa_fastai.evaluation import compare_systems, evaluate_scores, validate_scores
from gfa_fastai.inputs.tables import (
    load_samples,
    load_scores,
    read_table,
    save_samples,
    save_scores,
    write_table,
)
from gfa_fastai.samples import validate_samples
from tables import table

NAMES = [
    '01',
    '1',
    '10',
    '1e5',
    '1.50',
    'NA',
    'nan',
    'None',
    'null',
    '-inf',
    'True',
    '=1+1',
    '+49',
    '-1',
    '@home',
    "'quoted",
    "'=x",
    "''=x",
    '\uff1dfull width',
    'a,b',
    'say "hi"',
    'two\nlines',
    'a\rreturn',
    '\ttab',
    'Zo\u00eb',
    'caf\udce9',
    '\u0633\u200c\u0645',
    ' blank ',
]


@pytest.mark.parametrize('name', NAMES)
def test_text_comes_back(name, tmp_path):
    df = pd.DataFrame({'all': [name, name], 'some': [name, 'x'], 'few': [name, ''], 'n': [1, 2], 'x': [0.1, np.nan]})
    write_table(df, tmp_path / 't.csv')
    pd.testing.assert_frame_equal(read_table(tmp_path / 't.csv'), df)


@pytest.mark.parametrize('name', [n for n in NAMES if n == n.strip() and '\n' not in n])
def test_names_of_columns_come_back(name, tmp_path):
    df = pd.DataFrame({name: ['7', '8'], 'other': ['a', 'b']})
    write_table(df, tmp_path / 't.csv')
    assert read_table(tmp_path / 't.csv').columns.tolist() == [name, 'other']
    assert read_table(tmp_path / 't.csv', str)[name].tolist() == ['7', '8']


@pytest.mark.parametrize('seed', range(5))
def test_numbers_come_back_to_the_last_bit(seed, tmp_path):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(
        dict(
            x=rng.normal(size=50) * 10.0 ** rng.integers(-300, 300, 50),
            small=rng.normal(size=50).astype(np.float32),
            n=rng.integers(-(2**53), 2**53, 50),
            yes=rng.random(50) < 0.5,
            ends=np.resize([np.inf, -np.inf, np.nan, 0.0], 50),
            none=np.nan,
            empty='',
        )
    )
    write_table(df, tmp_path / 't.csv')
    back = read_table(tmp_path / 't.csv')
    pd.testing.assert_frame_equal(back.astype(dict(small=np.float32)), df, check_exact=True)


def test_kinds_of_columns(tmp_path):
    df = pd.DataFrame(dict(pai=pd.Categorical(['print', None]), obj=pd.Series([1, 'a'], dtype=object)))
    write_table(df, tmp_path / 't.csv')
    assert read_table(tmp_path / 't.csv').values.tolist() == [['print', '1'], ['', 'a']]
    write_table(df.iloc[:0], tmp_path / 'none.csv')
    none = read_table(tmp_path / 'none.csv')
    assert none.columns.tolist() == ['pai', 'obj'] and not len(none)
    write_table(pd.DataFrame(dict(version=['1.0', '1.1'])), tmp_path / 't.csv')
    assert read_table(tmp_path / 't.csv', dict(version=float)).version.tolist() == [1.0, 1.1]


def test_no_cell_begins_as_a_formula(tmp_path):
    df = pd.DataFrame({'=a': NAMES, 'score': -1.0})
    write_table(df, tmp_path / 't.csv')
    text = (tmp_path / 't.csv').read_bytes().decode('utf-8', 'surrogateescape')
    for row in csv.reader(text.splitlines(keepends=True)):
        assert row[0][:1] not in tuple('=+-@\t\r\n\uff1d\uff0b\uff0d\uff20') and row[1] in ('score', '-1.0')


@pytest.mark.parametrize(
    'data, message',
    [
        (b'', 'it is empty'),
        (b'\n\n', 'it is empty'),
        (b'a,b\n1\n', 'line 2 has 1 values and the header 2 columns'),
        (b'a,b\n1,2\n\n1,2,3\n', 'line 4 has 3 values'),
        (b'a,b\n"1,2\n', 'line'),
        (b'a,b,a\n1,2,3\n', 'column a is there twice'),
        (b'a,b, a\n1,2,3\n', 'column a is there twice'),
        ('Zo\u00eb,Zoe\u0308\n1,2\n'.encode(), 'is there twice'),
        (b'a;b\n1;2\n', 'separated by ; or tabs'),
        (b'a\tb\n1\t2\n', 'separated by ; or tabs'),
        ('a,b\n1,2\n'.encode('utf-16'), 'UTF-16'),
    ],
)
def test_no_tables(data, message, tmp_path):
    (tmp_path / 't.csv').write_bytes(data)
    with pytest.raises(ValueError, match=message) as e:
        read_table(tmp_path / 't.csv')
    assert 't.csv' in str(e.value)


def test_what_others_write(tmp_path):
    "A mark at the beginning, Windows' line ends, quoted names, an index without a name."
    (tmp_path / 't.csv').write_bytes(b'\xef\xbb\xbf"","subject","score"\r\n"0","007",0.5\r\n')
    df = read_table(tmp_path / 't.csv', dict(score=float))
    assert df.columns.tolist() == ['column 0', 'subject', 'score'] and df.subject[0] == '007' and df.score[0] == 0.5


def test_written_whole(tmp_path, monkeypatch):
    write_table(pd.DataFrame(dict(a=[1])), tmp_path / 'deep' / 't.csv')
    assert [p.name for p in (tmp_path / 'deep').iterdir()] == ['t.csv']


# -- samples


def samples(**columns):
    rows = dict(
        dataset='NA', split='train', subject=['1', '2'], label=['live', 'attack'], pai=['', 'print'], video=['v1', 'v2']
    )
    return validate_samples(pd.DataFrame(rows | dict(path=['a.png', 'b.png']) | columns))


@pytest.mark.parametrize('session', [['01', '02'], ['1', '2'], ['10', '11'], ['1.0', '2.0'], ['True', 'False'], [3, 4]])
def test_extra_columns_of_samples(session, tmp_path):
    df = samples(session=session, device=['001', '002'])
    save_samples(df, tmp_path / 's.csv')
    pd.testing.assert_frame_equal(load_samples(tmp_path / 's.csv'), df)


@pytest.mark.parametrize('name', [n for n in NAMES if n == n.strip()])
def test_names_in_samples(name, tmp_path):
    df = samples(dataset=name, video=[f'{name}-1', f'{name}-2'], path=[f'{name}.png', f'{name}.mp4'], device=name)
    save_samples(df, tmp_path / 's.csv')
    pd.testing.assert_frame_equal(load_samples(tmp_path / 's.csv'), df)


def test_people_of_two_datasets_in_samples():
    "Subject 1 of dataset a is in train, subject 1 of b in test: two people."
    both = pd.concat([samples(dataset='a'), samples(dataset='b', path=['c.png', 'd.png']).assign(split='test')])
    assert len(validate_samples(both)) == 4
    with pytest.raises(ValueError, match='1 is in test and train'):
        validate_samples(both.assign(dataset='a', video=['v1', 'v2', 'v3', 'v4']))


# -- scores


@pytest.mark.parametrize('name', [n for n in NAMES if n == n.strip()])
def test_names_in_scores(name, tmp_path):
    df = validate_scores(table(frames=1, pais=(name, 'replay'), dataset=name).assign(device=name))
    save_scores(df, tmp_path / 's.csv')
    pd.testing.assert_frame_equal(load_scores(tmp_path / 's.csv'), df, check_exact=True)


def spelt(df, column, a, b):
    "`df` with the first dev and the first test value of a column replaced."
    dev, test = (df.loc[df.split == s, column].iloc[0] for s in ('dev', 'test'))
    return df.assign(**{column: df[column].replace({dev: a, test: b})})


@pytest.mark.parametrize(
    'a, b', [('Zo\u00eb', 'Zoe\u0308'), ('ann', 'ann '), (' ann', 'ann'), ('ann\u00a0', 'ann'), ('\u212b', '\u00c5')]
)
def test_one_person_in_two_spellings(a, b, tmp_path):
    df = spelt(table(), 'subject', a, b)
    with pytest.raises(ValueError, match='has more than one split'):
        evaluate_scores(df, n=20)
    df.to_csv(tmp_path / 's.csv', index=False)
    with pytest.raises(ValueError, match='has more than one split'):
        load_scores(tmp_path / 's.csv')
    one, other = samples(subject=a), samples(subject=b, split='test', path=['c.png', 'd.png'], video=['v3', 'v4'])
    with pytest.raises(ValueError, match='is in test and train'):
        validate_samples(pd.concat([one, other]))


@pytest.mark.parametrize('column', ['pai', 'dataset', 'label', 'split', 'video'])
def test_one_name_in_two_spellings(column):
    df = table()
    half = np.arange(len(df)) % 2 == 0
    want = evaluate_scores(df, n=20)
    got = evaluate_scores(df.assign(**{column: df[column].where(half, df[column] + ' ')}), n=20)
    pd.testing.assert_frame_equal(got.rates, want.rates)
    pd.testing.assert_frame_equal(got.species, want.species)
    accent = df.assign(pai=df.pai.where(df.pai != 'print', unicodedata.normalize('NFD', 'd\u00e9cor')))
    assert 'd\u00e9cor' in evaluate_scores(accent, n=20).species.index


@pytest.mark.parametrize('column', ['pai', 'dataset', 'split', 'subject', 'label', 'video'])
def test_categories(column):
    df = table()
    if column == 'pai':
        df = df.assign(pai=df.pai.where(df.label == 'attack', None))
    want = evaluate_scores(df, n=20)
    pd.testing.assert_frame_equal(evaluate_scores(df.astype({column: 'category'}), n=20).rates, want.rates)
    missing = df.assign(**{column: df[column].where(df.index != 0, None)}).astype({column: 'category'})
    if column == 'pai':
        evaluate_scores(missing, n=20)
    else:
        with pytest.raises(ValueError, match=f'1 of {len(df)} rows have no {column}'):
            evaluate_scores(missing, n=20)


def test_people_of_two_datasets_in_scores():
    one, other = table(dataset='d'), table(seed=5, dataset='d').assign(dataset='e')
    both = pd.concat([one, other])
    prefixed = both.assign(subject=both.dataset + both.subject)
    got, want = (evaluate_scores(x, n=200) for x in (both, prefixed))
    assert got.counts['subjects'] == 14 and got.species.subjects.tolist() == [14, 14]
    pd.testing.assert_frame_equal(got.rates, want.rates)
    pd.testing.assert_frame_equal(got.species, want.species)
    shift = both.assign(score=both.score + np.random.default_rng(0).normal(size=len(both)))
    a = compare_systems(both, shift, n=200)
    b = compare_systems(prefixed, shift.assign(subject=prefixed.subject), n=200)
    pd.testing.assert_frame_equal(a, b)


def test_a_name_of_the_training_is_said(tmp_path):
    df = table().assign(in_training=lambda d: d.subject == 'd007')
    save_scores(df, tmp_path / 's.csv')
    notes = evaluate_scores(load_scores(tmp_path / 's.csv'), n=20).notes
    assert any(n.startswith('1 of 7 test subjects have names that people of the training set have') for n in notes)
    assert not any('training set' in n for n in evaluate_scores(table(), n=20).notes)


def test_boxes_outside_the_picture_are_plain_numbers(tmp_path):
    "A corner left of the picture is a negative number, and no formula."
    box = (-1.48, 11.2, 35.75, 35.75)
    row = dict(dataset='d', split='test', subject='s', video='v', frame=0, path='p.png', label='live', pai='', box=box)
    save_samples(validate_samples(pd.DataFrame([dict(row, role='probe')])), tmp_path / 'samples.csv')
    assert '-1.48 11.2 35.75 35.75' in (tmp_path / 'samples.csv').read_text()
    assert "'" not in (tmp_path / 'samples.csv').read_text()
    assert load_samples(tmp_path / 'samples.csv')['box'][0] == box
