"""The report for people: what is looked at first, what counts as learned, what a single comparison is worth, which
files may be shown."""

import io, json, re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gfa_fastai.evaluation import evaluate_scores, report_markdown, score_text
from gfa_fastai.run import report as rp
from gfa_fastai.run.pictures import decision, frame_file, mistakes, strip_of_scores, typical
from gfa_fastai.run.webpage import evaluation_text, figure_panels, folded, page_html, picture_text, report_figure

HOSTILE = '"><img src=//a.b/c.png>|*x*</summary>'


def drawn(seed, gap, dataset, frames=1, species=('print', 'replay'), people=12):
    "Scores of people whose live and attack scores are `gap` deviations apart."
    rng, rows = np.random.default_rng(seed), []
    for split in ('dev', 'test'):
        for person in range(people):
            for pai in ('', *species):
                score = 1 / (1 + np.exp(-rng.normal(gap / 2 if not pai else -gap / 2, size=frames)))
                name = f'{split}{person}'
                label = 'attack' if pai else 'live'
                rows += [(dataset, split, name, f'{name}{pai}', i, label, pai, s) for i, s in enumerate(score)]
    columns = ['dataset', 'split', 'subject', 'video', 'frame', 'label', 'pai', 'score']
    return pd.DataFrame(rows, columns=columns)


def four_arms(away=(1, 1, 1, 1), frames=1, seeds=(0,)):
    "Arms trained at home, and their scores there and away; `away`: the gap of neither, TPC, FDA, both."
    arms, scores = [], {}
    for seed in seeds:
        for k, gap in enumerate(away):
            tpc, fda = k % 2 == 1, k > 1
            arms.append(dict(name=f'{tpc}{fda}{seed}', train='home', tpc=tpc, fda=fda, seed=seed))
            parts = drawn(seed, 3, 'home', frames), drawn(100 + seed, gap, 'away', frames)
            scores[arms[-1]['name']] = pd.concat(parts, ignore_index=True)
    return arms, scores


def compared(arms, scores, learned=True):
    paired = rp.paired_table(arms, scores, dict.fromkeys(scores, learned))
    return paired, rp.mean_table(paired, scores, n=100)


@pytest.mark.parametrize(
    ('loss', 'area', 'learned'), [(0.69, 0.97, True), (0.69, 0.55, False), (0.1, 0.55, True), (0.1, 0.99, True)]
)
def test_not_learned_needs_loss_and_auc(loss, area, learned):
    assert rp.has_learned(loss, area) == learned
    said = rp.untrained_warning({'a': loss, 'b': 0.1}, {'a': area, 'b': 0.9})
    assert bool(said) != learned and ('a' in said and '1 of 2' in said or learned)


def test_auc_at_home_is_of_people_outside_the_training():
    arms, scores = four_arms()
    name = arms[0]['name']
    training = drawn(9, 50, 'home').assign(split='train')  # learned by heart
    with_training = {**scores, name: pd.concat([scores[name], training])}
    assert rp.home_aucs(arms, with_training)[name] == rp.home_aucs(arms, scores)[name]


def test_neither_against_both_and_what_is_missing():
    arms, scores = four_arms(away=(0.5, 0.5, 0.5, 4))
    paired, means = compared(arms, scores)
    both = paired[(paired.what == 'both') & (paired.test == 'away')].iloc[0]
    assert (both['first'], both['second']) == (arms[3]['name'], arms[0]['name'])
    assert both.high < 0 and (both.low < both.value < both.high)
    words = rp.belief_words(paired, means, rendered=True)
    assert len(words) == 3 and re.search(r'both against neither -[\d.]+ \[.*fewer errors', words[0])
    some, _ = compared(arms[:2], scores)  # a run that was stopped early
    assert set(some.what) == {'TPC'}
    assert not len(compared(arms[:1], scores)[0])


def test_a_single_comparison_is_one_of_many():
    arms, scores = four_arms(away=(0.5, 4, 0.5, 4))
    paired, means = compared(arms, scores)
    total = len(paired)
    said = rp.difference_table(paired)['what may be said']
    assert f'one training each, one of {total} comparisons' in ' '.join(said) and total == 10
    words = rp.belief_words(paired, means, rendered=False)
    assert f'Of {total} single comparisons' in words[1] and 'by chance' in words[1] and 'trained once' in words[2]
    assert 'rendered' not in ' '.join(words) and 'rendered' in rp.belief_words(paired, means, True)[2]


def test_the_mean_is_that_of_its_comparisons_and_narrower():
    arms, scores = four_arms(away=(1, 2, 1, 2))
    paired, means = compared(arms, scores)
    own = paired[(paired.what == 'TPC') & (paired.test == 'away')]
    mean = means[(means.what == 'TPC') & (means.place == 'elsewhere')].iloc[0]
    assert mean.value == pytest.approx(100 * own.value.mean()) and mean.comparisons == 2
    assert mean.low < mean.value < mean.high
    arms, scores = four_arms(away=(1, 2, 1, 2), seeds=(0, 1, 2))
    several = compared(arms, scores)[1]
    assert several.low.notna().all()
    unlearned = compared(arms, scores, learned=False)
    assert rp.belief_words(*unlearned, True)[0].count('no verdict') == 3


def test_no_interval_for_few_people():
    arms, scores = four_arms()
    few = {k: s[s.subject.isin(['dev0', 'dev1', 'test0', 'test1'])] for k, s in scores.items()}
    paired, means = compared(arms, few)
    assert means.low.isna().all()
    words = rp.belief_words(paired, means, True)
    assert 'too few people' in words[0] and words[1].startswith('**None of 10')


@pytest.mark.parametrize(('frames', 'unit'), [(1, 'pictures'), (3, 'videos')])
def test_photographs_are_not_videos(frames, unit):
    _, scores = four_arms(frames=frames)
    s = next(iter(scores.values()))
    s = s[s.dataset == 'home']
    other = {'pictures': 'videos', 'videos': 'pictures'}[unit]
    report = evaluate_scores(s, n=20)
    text = evaluation_text(report, folds={'all': report_markdown(report)})
    assert f'12 live and 24 attack {unit}' in text and other not in text.replace('One frame for each video', '')
    arms, scores = four_arms(frames=frames)
    assert f'live {unit} that are rejected' in rp.definition_words(rp.evaluate_arms(arms[:1], scores))


def test_matrix_train_by_test():
    arms, scores = four_arms()
    t = rp.rates_matrix(rp.evaluate_arms(arms, scores))
    assert list(t.index) == [f'home: {name}' for name in rp.ARM_NAMES]
    assert list(t.columns) == ['away', 'home', 'mean elsewhere'] and t['home'].str.match(r'\*\*\d').all()
    assert not t['away'].str.contains(r'\*').any()


def test_panels_of_the_figure():
    import matplotlib.pyplot as plt

    arms, scores = four_arms()
    paired, means = compared(arms, scores)
    figure = rp.differences_figure(paired, means)
    for ax in figure.axes:
        labels = [tick.get_text() for tick in ax.get_yticklabels()]
        assert labels.index('at home') < labels.index('mean at home') < labels.index('mean elsewhere')
    panels = figure_panels(figure)
    assert len(panels) == 3 and len({Image.open(io.BytesIO(p)).size for p in panels}) == 1
    assert not plt.fignum_exists(figure.number)


def test_a_panel_holds_nothing_of_its_neighbours():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(3, 2))
    for ax, ink in zip(axes, ('r', 'b')):
        ax.plot([0, 1], color=ink)
        ax.set_xlabel('a label far wider than its axes', color=ink)
    red, blue = (np.asarray(Image.open(io.BytesIO(p)).convert('RGB')).astype(int) for p in figure_panels(figure))
    assert (red[..., 0] - red[..., 2]).min() >= 0 and (blue[..., 2] - blue[..., 0]).min() >= 0


# -- pictures


def test_typical_and_worst():
    videos = drawn(0, 1, 'd', people=30).query('split == "test"').reset_index(drop=True)
    attacks = videos[videos.label == 'attack']
    for pai, own in attacks.groupby('pai'):
        (one,) = typical(own, 1).score
        assert (own.score < one).mean() == pytest.approx(0.5, abs=0.06), pai
    assert set(typical(attacks, 2).pai) == {'print', 'replay'} and len(typical(attacks[:3], 8)) == 3
    worst = mistakes(videos, 0.5, 3)
    wrong = videos[(videos.score >= 0.5) != (videos.label == 'live')]
    assert set(worst.video) <= set(wrong.video) and worst.subject.is_unique
    assert not len(mistakes(videos[videos.label == 'live'].assign(score=0.9), 0.5))


def test_decisions_in_words():
    assert decision(0.9, 0.5, 'live') == '0.900, accepted' and decision(0.9, 0.5, 'attack').endswith('✗')
    assert decision(0.1, 0.5, 'live') == '0.1, rejected\u00a0✗'
    assert decision(0.50001, 0.50002, 'attack') == '0.500, just rejected'
    assert [score_text(x) for x in (0.99975, 1 - 1e-12, 7.25)] == ['0.99975', '1 - 1e-12', '7.25']


@pytest.mark.parametrize(
    'name', ['../x.png', 'x.png', '/etc/passwd', 'ab/../../x.png', 'ab/12-face.png', '', None, 3.5]
)
def test_a_table_does_not_choose_files(name, tmp_path):
    (tmp_path / 'cache' / 'ab').mkdir(parents=True)
    for path in (tmp_path / 'x.png', tmp_path / 'cache' / 'x.png', tmp_path / 'cache' / 'ab' / '12-face.png'):
        path.write_bytes(b'secret')
    assert frame_file(name, [tmp_path / 'cache']) is None


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / 'cache' / 'ab').mkdir(parents=True)
    (tmp_path / 'secret.png').write_bytes(b'secret')
    (tmp_path / 'cache' / 'ab' / '12-frame.png').symlink_to(tmp_path / 'secret.png')
    assert frame_file('ab/12-frame.png', [tmp_path / 'cache']) is None


def test_strip_of_a_table_of_scores(tmp_path):
    scores = drawn(0, 1, HOSTILE)
    folder = tmp_path / 'ab'
    folder.mkdir()
    names = []
    for i in range(len(scores)):
        names.append(f'ab/{i:04x}-frame.png')
        Image.fromarray(np.full((20, 20, 3), i, np.uint8)).save(tmp_path / names[-1])
    scores['picture'] = names
    report = evaluate_scores(scores, n=20)
    strip, pictures = strip_of_scores(scores, report, [tmp_path])
    assert strip.index('### Live') < strip.index('### Attacks') < strip.index('### Worst mistakes')
    page = page_html('t', strip, pictures)
    assert page.count('<img') == len(pictures) == page.count('class="caption"') and '//a.b' not in page
    assert strip_of_scores(scores.drop(columns='picture'), report, [tmp_path]) == ('', {})
    assert strip_of_scores(scores, report, [tmp_path / 'elsewhere'])[1] == {}


# -- the page


class Outline(HTMLParser):
    "Tags that are open at the end, and the attributes that could fetch something."

    def __init__(self, page):
        super().__init__()
        self.open, self.addresses = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ('src', 'href', 'srcset', 'data', 'poster')]
        if tag not in ('meta', 'img', 'br', 'hr'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_look_first_then_read_then_unfold():
    s = drawn(0, 2, 'd', frames=2)
    report = evaluate_scores(s, n=20)
    panels = {f'p{i}': data for i, data in enumerate(figure_panels(report_figure(report, s)))}
    text = evaluation_text(report, 'STRIP', panels, ['REMARK'], {'Every <rate>': report_markdown(report)})
    page = page_html('A & b', text, panels)
    order = 'STRIP', 'data:image', '<strong>HTER', '>HTER</td>', 'REMARK', '<details>'
    places = [page.index(x) for x in order]
    assert places == sorted(places)
    assert page.count('BPCER20') == 1 and page.index('BPCER20') > page.index('<details>')
    assert f'A score of {score_text(report.threshold)} or more' in page
    outline = Outline(page)
    assert outline.open == [] and all(a.startswith('data:image/png;base64,') for a in outline.addresses)
    assert 'name="viewport"' in page and 'prefers-color-scheme' in page and 'http' not in page
    assert page.count('style="--wide:') == len(panels) and '@media print' in page and '.table{overflow:visible' in page
    assert page.count('<div class="table"') == page.count('<table>') and 'Every &lt;rate&gt;</summary>' in page


def test_names_cannot_fold_or_show(tmp_path):
    "What a name can do: nothing. It neither opens a fold nor brings a picture in."
    table = rp.markdown_table(pd.DataFrame({'x': [HOSTILE, '<details>\n<summary>x</summary>', '**12.3**']}))
    text = '\n\n'.join([picture_text('a', HOSTILE, HOSTILE), table, *folded('tables', table), *folded('nothing', '')])
    data = tmp_path / 'a.png'
    Image.new('RGB', (9, 9)).save(data)
    page = page_html(HOSTILE, text, {'a': data.read_bytes()})
    assert Outline(page).open == [] and page.count('<img') == 1 and page.count('<details>') == 1
    assert len(Outline(page).addresses) == 1 and 'nothing' not in page


def test_report_of_a_run_in_order(tmp_path, monkeypatch):
    "Strip, differences, matrix, what may be believed, and only then the folded tables."
    from gfa_fastai.run.reproduce import run_settings

    arms, scores = four_arms(away=(0.5, 4, 0.5, 4))
    info = dict(people=['a', 'b'], parameters=1, steps=10, epochs=1, fc_dim=8)
    monkeypatch.setattr(rp, 'model_header', lambda path: dict(meta=info))
    for a in arms:
        (tmp_path / 'arms' / a['name']).mkdir(parents=True)
        terms = dict(
            step=range(1, 11), anti=0.1, w_anti=0.1, ident=0.1, w_ident=0.1, w_tpc=0.1, fc2_std=1, id_accuracy=1
        )
        pd.DataFrame(terms).to_csv(tmp_path / 'arms' / a['name'] / 'terms.csv', index=False)
    monkeypatch.setattr(rp, 'strip_of_run', lambda *args: ('STRIP', {}))
    monkeypatch.setattr(rp, 'target_pictures', lambda *args: ('', {}))
    monkeypatch.setattr(rp, 'fda_table', lambda *args: pd.DataFrame())
    notes = dict(summary='Drawn.', skipped_images=[], detected=0, fallback=0, drawn=[])
    frames = pd.concat(scores.values()).drop_duplicates(['dataset', 'video']).assign(role='probe', path='', box=None)
    page = rp.write_report(tmp_path, run_settings('quick'), notes, frames, arms, scores, {}, {}, 1)['report']
    html = page.read_text(encoding='utf-8')
    order = (
        'STRIP',
        '<strong>HTER',
        'data:image',
        'train by test',
        'may be believed',
        '<details>',
        'one of 10 comparisons',
    )
    places = [html.index(x) for x in order]
    assert places == sorted(places) and 'http' not in html and Outline(html).open == []
    results = json.loads((tmp_path / 'results.json').read_text())
    assert {m['what'] for m in results['means']} == {'TPC', 'FDA', 'both'}


# -- a run on its way


def test_first_numbers_and_a_report_before_the_end(tmp_path, monkeypatch, capsys):
    "Rates and minutes after each training; a report after the first, none after what was finished before."
    from gfa_fastai.run import reproduce

    arms, scores = four_arms()
    settings = dict(training=dict(steps=10))

    def run_arm(arm, frames, out, settings, bar):
        bar.update(0 if arm is arms[0] else 10)  # the first was finished in an earlier session
        return scores[arm['name']]

    monkeypatch.setattr(reproduce, 'run_arm', run_arm)
    monkeypatch.setattr(reproduce, 'FIRST_REPORT', 0)
    told = []
    done = reproduce.run_arms(
        arms, None, tmp_path, settings, True, lambda some, known: told.append((len(some), len(known)))
    )
    said = capsys.readouterr().err
    assert list(done) == [a['name'] for a in arms] and told == [(2, 2)]
    assert said.count('HTER (%) on away') == 3 and '2 trainings left, about 1 min' in said
    assert said.count(' left, about') == 2 and '1 training left' in said and 'mean elsewhere' in said
    assert rp.unfinished_words(4, 0) == '' and '2 of 4 networks' in rp.unfinished_words(2, 2)
