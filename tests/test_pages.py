"""Sliders, results beside a page and in the package, the style of figures."""

import sys, types
from pathlib import Path
import pytest
from gfa_fastai import pages


def test_explore_without_widgets_draws_once(monkeypatch):
    "Docs, tests, and readers without ipywidgets: the start values, once."
    monkeypatch.delenv('IN_TEST', raising=False)
    monkeypatch.setitem(sys.modules, 'ipywidgets', None)  # not to be imported
    calls = []
    pages.explore(lambda **k: calls.append(k), x=(1.0, 0.0, 3.0), on=False, kind=['a', 'b'])
    drawn = pages.explore(lambda **k: k, x=(1, 0, 3), on=False, kind=['a', 'b'])
    assert drawn == dict(x=1, on=False, kind='a')
    assert calls == [dict(x=1.0, on=False, kind='a')]


def test_explore_in_a_test_makes_no_widgets(monkeypatch):
    monkeypatch.setenv('IN_TEST', '1')
    monkeypatch.setattr(pages.importlib.util, 'find_spec', lambda name: 'there')
    assert not pages._alive()


@pytest.mark.parametrize('bad', [(5, 0, 1), (1, 2), (0, 0, 0), 3, [], None, 'abc'])
def test_explore_refuses_what_is_no_control(bad):
    with pytest.raises(ValueError, match='x=.* is no control'):
        pages.explore(lambda x: x, x=bad)


def test_explore_makes_a_widget_for_each_control(monkeypatch):
    "With a reader in front of it: a slider, a switch and a choice, with the start values."
    made = []

    def widget(kind):
        return lambda *a, **k: made.append((kind, a, k)) or kind

    shown = {}
    fake = types.SimpleNamespace(
        **{k: widget(k) for k in ('FloatSlider', 'Checkbox', 'Dropdown')}, interact=lambda f, **k: shown.update(k)
    )
    monkeypatch.setitem(sys.modules, 'ipywidgets', fake)
    monkeypatch.setattr(pages, '_alive', lambda: True)
    assert pages.explore(lambda **k: 1, a_b=(1.0, 0.0, 3.0), on=True, kind=['a', 'b']) is None
    assert shown == dict(a_b='FloatSlider', on='Checkbox', kind='Dropdown')
    (_, a, k), (_, b, _), (_, _, c) = made
    assert (
        a == (1.0,)
        and (k['min'], k['max'], k['description']) == (0.0, 3.0, 'a b')
        and b == (True,)
        and c['value'] == 'a'
        and c['options'] == ['a', 'b']
    )


def test_explore_with_real_widgets(monkeypatch):
    w = pytest.importorskip('ipywidgets')
    monkeypatch.setattr(pages, '_alive', lambda: True)
    slider = pages._control('threshold', (0.5, 0.0, 1.0))
    assert isinstance(slider, w.FloatSlider) and (slider.value, slider.min, slider.max) == (0.5, 0.0, 1.0)
    assert pages._control('on', True).value is True and pages._control('kind', ['a', 'b']).options == ('a', 'b')


def test_results_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = pages.results_file('reproduce.csv')
    assert inside.read_text(encoding='utf-8').startswith('weights,')
    (tmp_path / 'reproduce.csv').write_text('mine')
    assert pages.results_file('reproduce.csv') == inside  # one place, whatever lies here
    with pytest.raises(FileNotFoundError, match='none.csv is not among the results'):
        pages.results_file('none.csv')
    own = pages.results_file('reproduce.csv', own=True)
    assert own == Path('results/reproduce.csv') and own.parent.is_dir() and not own.exists()


def test_figure_style():
    plt = pytest.importorskip('matplotlib.pyplot')
    with plt.rc_context():
        pages.figure_style()
        assert plt.rcParams['axes.prop_cycle'].by_key()['color'] == pages.PALETTE and plt.rcParams['figure.dpi'] == 80


def test_metrics_and_pages_share_one_palette():
    from gfa_fastai import metrics

    assert metrics.PALETTE is pages.PALETTE
