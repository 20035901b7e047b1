"scripts/second_environment.py finds numbers in prose whose output has changed, and leaves the others alone."

import pytest
from test_house import script

second = script('second_environment')


def page(prose, *printed):
    "A page of a paragraph and of cells that print."
    cells = [dict(cell_type='markdown', source=prose)]
    for text in printed:
        cells.append(dict(cell_type='code', source='', outputs=[dict(output_type='stream', text=text)]))
    return dict(cells=cells)


def lost(prose, before, after):
    return [written for _, written, _, _ in second.lost_claims(page(prose, before), page(prose, after))]


@pytest.mark.parametrize(
    'prose, before, after, expected',
    [
        ('It is 9 % here.', 'HTER 0.0912', 'HTER 0.0934', []),  # the same as it is written
        ('It is 9 % here.', 'HTER 0.0912', 'HTER 0.141', ['9 %']),
        ('It is 28.1 % here.', '28.1 [20.0, 33.0]', '14.1 [9.0, 20.0]', ['28.1 %']),
        ('A loss of 0.69 is chance.', 'loss 0.693', 'loss 0.688', []),
        ('A loss of 0.69 is chance.', 'loss 0.693', 'loss 0.701', ['0.69']),
        ('Of 4,096 features', '4096 features', '4096 features', []),
        ('All fourteen pass.', '14 of 16', '13 of 16', ['14']),
        ('It falls by 7.5 points.', 'A - B 7.5', 'A - B 7.9', ['7.5 points']),
        ('Pictures of 48 pixels', 'HTER 47.5', 'HTER 41.0', []),  # a count is no rounded rate
        ('Eq. 2, Table 1 and Figure 4 of 2019', 'rows 1 2 4 2019', 'rows 5', []),
        ('With $N = 32$ and `n = 7` rows', 'n 32, 7', 'n 33, 8', []),  # formulas and code
        ('Nothing prints 5.5 here.', 'loss 1.0', 'loss 2.0', []),
    ],
)
def test_numbers_that_travel(prose, before, after, expected):
    assert lost(prose, before, after) == expected


def test_the_nearest_output_counts():
    "A number that another table shows by chance does not hide a change of the table that the prose is about."
    old, new = page('It is 0.25.', 'here 0.25', 'there 0.25'), page('It is 0.25.', 'here 0.31', 'there 0.25')
    assert [(i, written, j) for i, written, _, j in second.lost_claims(old, new)] == [(0, '0.25', 1)]
    assert [i for i, _ in second.changed_outputs(old, new)] == [1]
