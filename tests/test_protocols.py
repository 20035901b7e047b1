"Intra-tests, cross-tests and folds: who may see which rows, and what stands in the tables."

import subprocess, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gfa_fastai.evaluation import SCORE_COLUMNS, evaluate_scores, find_threshold, percent
from gfa_fastai.compare.protocols import (
    OULU_FOLDS,
    evaluate_folds,
    evaluate_protocols,
    list_protocols,
    oulu_table,
    protocol_samples,
    protocols_table,
)
from gfa_fastai.samples import validate_samples
from tables import table


def samples_of(*tables):
    "Samples of the people of scores tables: a third of the dev people train."
    df = pd.concat(tables, ignore_index=True).drop(columns='score')
    train = (df.split == 'dev') & (df.subject.str[-1].astype(int) % 3 == 0)
    return validate_samples(
        df.assign(
            split=df.split.where(~train, 'train'),
            path=df.video + '-' + df.frame.astype(str) + '.png',
            role='probe',
            box=None,
        )
    )


def test_protocol_samples():
    a, b = table(1, 'a'), table(2, 'b')
    s = samples_of(a, b[b.split == 'test'])
    s.loc[s.index[-1], 'role'] = 'gallery'
    got = list_protocols(s)
    assert got[['train', 'test', 'kind']].values.tolist() == [['a', 'a', 'intra'], ['a', 'b', 'cross']]
    assert (
        got[['train_people', 'dev_people', 'test_people', 'live', 'attack']].values.tolist() == [[2, 4, 7, 14, 14]] * 2
    )
    for test in 'ab':
        rows = protocol_samples(s, 'a', test)
        assert {k: set(zip(v.dataset, v.split)) for k, v in rows.items()} == dict(
            train={('a', 'train')},
            source={('a', 'dev')},
            dev={('a', 'dev')} if test == 'a' else set(),
            test={(test, 'test')},
        )
        assert not set(rows['train'].subject) & set(rows['source'].subject) and not set(rows['train'].subject) & set(
            rows['test'].subject
        )
        assert all((v.role == 'probe').all() for v in rows.values())
    two = samples_of(a, b, table(3, 'c'))
    assert set(protocol_samples(two, ['a', 'b'], 'c')['train'].dataset) == {'a', 'b'} and len(list_protocols(two)) == 9


@pytest.mark.parametrize(
    'train, test, message',
    [
        ('a', 'x', 'no rows of dataset x; there are a, b'),
        ('x', 'a', 'no rows of dataset x'),
        (['a', 'b'], 'a', 'a is among the 2 datasets'),
        ('b', 'a', "split 'train' of b has no attack and no live rows"),
    ],
)
def test_bad_protocols(train, test, message):
    a, b = table(1, 'a'), table(2, 'b')
    s = samples_of(a, b[b.split == 'test'])
    with pytest.raises(ValueError, match=message):
        protocol_samples(s, train, test)
    with pytest.raises(ValueError, match='train rows in no dataset, test rows in no dataset'):
        list_protocols(s[s.split == 'dev'])
    with pytest.raises(ValueError, match=r'column\(s\) video missing'):
        list_protocols(s.drop(columns='video'))


def test_evaluate_protocols():
    both = pd.concat([table(1, 'a', shift=0.5), table(2, 'b')], ignore_index=True)
    other = both.assign(score=both.score + np.random.default_rng(0).normal(size=len(both)))
    got = evaluate_protocols({'a': both, ('a', 'b'): other}, n=30)
    assert got[['train', 'test', 'kind']].values.tolist() == [
        ['a', 'a', 'intra'],
        ['a', 'b', 'cross'],
        ['a + b', 'a', 'cross'],
        ['a + b', 'b', 'cross'],
    ]
    assert (
        got.report[1].hter == evaluate_scores(both[both.dataset == 'b'], 'source', both[both.dataset == 'a'], n=30).hter
    )
    assert got.report[2].threshold == find_threshold(other, 'source', other)[0]
    t = protocols_table(got)
    assert t.loc['a', 'b'] == percent(*got.report[1].rates.loc['hter', ['value', 'low', 'high']]) and t.shape == (2, 2)
    assert protocols_table(got, 'auc').loc['a', 'a'].startswith(f'{100 * got.report[0].auc:.1f}')
    with pytest.raises(ValueError, match='network trained on b: no rows of b'):
        evaluate_protocols({'b': both[both.dataset == 'a']})
    with pytest.raises(ValueError, match='no network given'):
        evaluate_protocols({})
    with pytest.raises(ValueError, match='no network given'):
        evaluate_protocols(both)
    with pytest.raises(ValueError, match='scores of the network trained on a: .*score'):
        evaluate_protocols({'a': both.drop(columns='score')})
    with pytest.raises(ValueError, match='trained on a: no rows of split test'):
        evaluate_protocols({'a': both[both.split == 'dev']})


def test_folds():
    folds = [table(k, 'oulu', shift=0.2 * k) for k in range(6)]
    t, each = evaluate_folds(folds), [evaluate_scores(f, n=1) for f in folds]
    assert t.index.tolist() == [1, 2, 3, 4, 5, 6, 'mean', 'std']
    for k in ('apcer', 'bpcer', 'acer', 'eer'):
        values = [getattr(r, k) for r in each]
        assert t[k].tolist() == pytest.approx([*values, np.mean(values), np.std(values, ddof=1)])
    assert t.loc['mean', 'acer'] == pytest.approx((t.loc['mean', 'apcer'] + t.loc['mean', 'bpcer']) / 2)
    named = evaluate_folds({'phone 1': folds[0]})
    assert named.index.tolist() == ['phone 1', 'mean', 'std'] and named.loc['std'].isna().all()
    with pytest.raises(ValueError, match='3 and 1 are the same scores'):
        evaluate_folds([folds[0], folds[1], folds[0]])
    with pytest.raises(ValueError, match='none given'):
        evaluate_folds([])
    table4 = oulu_table({1: folds[0], 2: [folds[1]], 3: folds, 4: folds}, species=dict(print='all', replay='all'))
    assert table4.index.tolist() == [1, 2, 3, 4] and '±' not in table4.loc[1, 'ACER (%)']
    pooled = evaluate_folds(folds, species=dict(print='all', replay='all'))
    assert (
        table4.loc[3, 'APCER (%)']
        == f'{100 * pooled.loc["mean", "apcer"]:.1f} ± {100 * pooled.loc["std", "apcer"]:.1f}'
    )
    for n in (1, 5, 7):
        with pytest.raises(ValueError, match=rf'protocol 4 has 6 fold\(s\), got {n}'):
            oulu_table({4: [table(k) for k in range(n)]})
    with pytest.raises(ValueError, match='protocols 1 to 4, not 5'):
        oulu_table({5: folds})
    assert OULU_FOLDS == {1: 1, 2: 1, 3: 6, 4: 6}


def test_protocols_need_no_torch():
    code = "import sys, gfa_fastai.compare.protocols; print([m for m in ('torch', 'fastai') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
        ).stdout.strip()
        == '[]'
    )
