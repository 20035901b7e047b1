"Commands end to end: the main job, bad input, kill and resume, real photographs where they are."

import json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from gfa_fastai.run import cli

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT.parent / 'shared' / 'data' / 'nuaa_small'
COMMANDS = 'gfa_reproduce', 'gfa_synth', 'gfa_train', 'gfa_score', 'gfa_transfer', 'gfa_evaluate', 'gfa_authenticate'
TINY = ['--preset', 'tiny', '--steps', '4']
PLAIN = [*TINY, '--no-fda']  # the arms of FDA double the trainings


def shell(command, *args, **kwargs):
    "A command in a process of its own."
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
    code = f'import sys; from gfa_fastai.run.cli import {command}; sys.exit({command}(sys.argv[1:]))'
    return subprocess.Popen(
        [sys.executable, '-c', code, *map(str, args)],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    )


def run(capsys, command, *args):
    "A command in this process: status, and what it said without progress bars."
    status = getattr(cli, command)([str(a) for a in args])
    out, err = capsys.readouterr()
    return status, out + '\n'.join(l for l in re.split(r'[\r\n]+', err) if '%|' not in l)


def picture(path, seed, size=(96, 72), attack=False):
    "A picture of noise with a disc; attacks have stripes."
    rng = np.random.default_rng(seed)
    im = np.full((size[1], size[0], 3), 90, np.uint8) + rng.integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)
    cv2.circle(im, (size[0] // 2, size[1] // 2), 22, (180, 150, 120), -1)
    if attack:
        im[:, ::3] //= 2
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), im)


@pytest.fixture
def folder(tmp_path):
    "Eight people, four live and eight attack pictures each."
    for s in range(8):
        for i in range(4):
            picture(tmp_path / 'photos' / 'live' / f'{s:04d}' / f'{i}.jpg', 100 * s + i)
        for i in range(8):
            picture(
                tmp_path / 'photos' / 'spoof' / ('print', 'replay')[i % 2] / f'{s:04d}' / f'{i}.jpg',
                100 * s + 50 + i,
                attack=True,
            )
    return tmp_path / 'photos'


# -- the main job


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A run that nobody disturbed."
    out = tmp_path_factory.mktemp('whole') / 'run'
    done = shell('gfa_reproduce', *TINY, '--out', out)
    said = done.communicate(timeout=600)
    assert done.returncode == 0, said[1]
    return out, said


def test_main_job(whole):
    out, (said, err) = whole
    assert 'webcam: neither' in said and said.rstrip().endswith(str(out / 'report.html'))
    assert 'no verdict: a network has not learned' in said and 'Not learned: webcam-tpc_off' in said
    assert 'Traceback' not in err and 'Warning' not in err
    text, html = (out / 'report.md').read_text(encoding='utf-8'), (out / 'report.html').read_text(encoding='utf-8')
    for words in (
        'source-dev',
        'target-dev',
        'test-EER',
        'APCER print',
        'APCER replay',
        'all ordered pairs',
        '**Interval** [a, b]: 95 %',
        '1 seed',
        'rendered people, no photographs',
        'SynthPAD',
        'webcam: both',
        '(both with FDA)',
        'both − neither',
        'medoid in feature statistics',
        'small VGG16 trunk',
        '<summary>Recognition</summary>',
        'rank-1, attack',
        '<summary>Distance of the domains</summary>',
        'floor, after FDA',
        'has not learned its people',
    ):
        assert words in text, words
    figures = {p.name for p in (out / 'figures').iterdir()}
    assert figures == set(re.findall(r'\]\(figures/([\w-]+\.png)', text))
    assert {'picture-1.png', 'target-1.png', 'differences-3.png', 'terms-12.png'} <= figures
    assert html.count('data:image/png;base64,') == len(figures)
    assert html.count('<table>') == text.count('\n\n|') and 'figures/' not in html and 'http' not in html
    assert not list(out.rglob('.part*')) and not list(out.rglob('.writer*')) and not list(out.rglob('checkpoint*'))


def test_run_folder_without_out(folder, tmp_path, monkeypatch, capsys):
    "The README's own command: no --out. With data, the folder bears its name."
    monkeypatch.chdir(tmp_path)
    assert run(capsys, 'gfa_reproduce', *PLAIN)[0] == 0 and (tmp_path / 'runs' / 'tiny' / 'report.html').exists()
    assert (
        run(capsys, 'gfa_reproduce', *PLAIN, '--data', folder)[0] == 0
        and (tmp_path / 'runs' / f'tiny-{folder.name}' / 'report.html').exists()
    )


def test_results_are_those_of_the_scores(whole):
    from gfa_fastai.evaluation import evaluate_scores
    from gfa_fastai.inputs.tables import load_scores

    out, _ = whole
    results = json.loads((out / 'results.json').read_text(encoding='utf-8'))
    assert {
        'settings',
        'machine',
        'seconds',
        'counts',
        'results',
        'trainings',
        'differences',
        'fda',
        'recognition',
        'divergence',
    } <= set(results)
    assert (
        len(results['results']) == 2 * 2 * 4 * 3
        and len(results['trainings']) == 8
        and len(results['differences']) == 2 * 2 * 5
    )
    for r in results['results']:
        s = load_scores(out / 'scores' / f'{r["train"]}-tpc_{"on" if r["tpc"] else "off"}{"-fda" * r["fda"]}-seed0.csv')
        target, source = (s[s.dataset == r[k]] for k in ('test', 'train'))
        again = evaluate_scores(
            target, {'source-dev': 'source', 'target-dev': 'dev', 'test-EER': 'test'}[r['convention']], source
        )
        assert r['report'] == json.loads(json.dumps(again.to_dict()))


def test_arms_differ_in_tpc_only(whole):
    out, _ = whole
    first = {tpc: pd.read_csv(out / 'arms' / f'webcam-tpc_{tpc}-seed0' / 'terms.csv').iloc[0] for tpc in ('off', 'on')}
    for k in ('anti', 'ident', 'tpc'):
        assert first['off'][k] == first['on'][k]  # same weights, same batch
    assert first['off'].w_tpc == 0 and first['on'].w_tpc == pytest.approx(2.5e-5 * first['on'].tpc)


def test_fda_is_of_training_people_of_the_source(whole):
    """Targets and what FDA was fitted on; frames of all test sets are transferred, faces are not, and nothing is scored
    twice."""
    from gfa_fastai.adapt.fda import FDA

    out, _ = whole
    results = json.loads((out / 'results.json').read_text(encoding='utf-8'))
    samples = pd.read_csv(out / 'samples.csv', dtype=str, keep_default_na=False)
    for train, row in zip(('webcam', 'phone'), results['fda'], strict=True):
        own = samples[(samples.dataset == train) & (samples.split == 'train') & (samples.role == 'probe')]
        assert row['fitted on'] == f'{len(own)} frames of training people of {train}' and row['steps'] == 5
        video = row['target'].removeprefix(f'{train}: ').split(', frame')[0]
        assert video in set(own.video)
        assert FDA.load(out / 'fda' / f'{train}.safetensors').info['images'] == len(own)
    probes = samples[samples.role == 'probe']
    assert len(list((out / 'cache' / 'fda').rglob('*.png'))) == 2 * len(probes)  # all datasets, by each of both
    a, b = (pd.read_csv(out / 'scores' / f'webcam-tpc_off{k}-seed0.csv') for k in ('', '-fda'))
    assert (a.video == b.video).all() and (a.score != b.score).any() and (a.label == b.label).all()


def test_weights_that_are_not_there_or_do_not_fit(tmp_path, capsys):
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--weights', tmp_path / 'none.pth', '--out', tmp_path / 'run')
    assert status == 2 and 'no weights at' in said and 'give random, small, imagenet, or the path of a file' in said
    status, said = run(
        capsys, 'gfa_reproduce', *PLAIN, '--weights', 'small', '--out', tmp_path / 'run'
    )  # tiny is narrower
    assert status == 2 and 'width=0.25' in said, said


def test_the_weaker_reading(tmp_path, capsys):
    "--pairs halves: another weight of TPC from the first step on, and the report says which was read."
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--pairs', 'halves', '--out', tmp_path / 'run')
    assert status == 0, said
    first = pd.read_csv(tmp_path / 'run' / 'arms' / 'webcam-tpc_on-seed0' / 'terms.csv').iloc[0]
    assert first.w_tpc == pytest.approx(2.5e-5 * first.tpc)
    assert 'the pairs of the two halves of a batch' in (tmp_path / 'run' / 'report.md').read_text(encoding='utf-8')
    assert run(capsys, 'gfa_reproduce', *PLAIN, '--out', tmp_path / 'run')[0] == 2  # another reading is another run


def same_results(a, b):
    "Whether two runs say the same."
    for p in (a / 'scores').iterdir():
        assert p.read_bytes().replace(str(a).encode(), b'') == (b / 'scores' / p.name).read_bytes().replace(
            str(b).encode(), b''
        ), p.name
    ra, rb = (json.loads((o / 'results.json').read_text(encoding='utf-8')) for o in (a, b))
    assert ra['results'] == rb['results'] and all(
        ra[k] == rb[k] for k in ('differences', 'fda', 'recognition', 'divergence')
    )


def when(condition, process, seconds=300):
    "Wait until a condition holds, or the process has ended."
    end = time.time() + seconds
    while time.time() < end and process.poll() is None and not condition():
        time.sleep(0.02)


def listen():
    "Hear Ctrl-C: a shell's background job starts deaf to it, and so do its children."
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.skipif(os.name == 'nt', reason='POSIX signals')
def test_killed_stopped_and_started_again(whole, tmp_path):
    "Killed six times, then stopped by Ctrl-C with one line: the run that follows says what the undisturbed one says."
    out = tmp_path / 'run'
    moments = [
        lambda: (out / 'run.json').exists(),
        lambda: len(list((out / 'cache').rglob('*.png'))) > 100,
        lambda: (out / 'arms').exists(),
        lambda: (out / 'fda').exists(),
        lambda: len(list((out / 'cache' / 'fda').rglob('*.png'))) > 20,
        lambda: (out / 'scores').exists(),
    ]
    for moment in moments:
        p = shell('gfa_reproduce', *TINY, '--out', out)
        when(moment, p)
        p.kill()
        p.communicate(timeout=60)  # (a worker that outlived it would keep the pipe open)

    def scored():
        return len(list((out / 'scores').glob('*.csv')))

    already = scored()
    p = shell('gfa_reproduce', *TINY, '--out', out, preexec_fn=listen)
    when(lambda: scored() > already, p)
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=60)[1]
    assert p.returncode == 130 and 'the same command goes on from there' in err and 'Traceback' not in err
    p = shell('gfa_reproduce', *TINY, '--out', out)
    err = p.communicate(timeout=600)[1]
    assert p.returncode == 0, err[-3000:]
    same_results(whole[0], out)


def test_a_damaged_model_or_score_file_says_so(whole, tmp_path, capsys):
    out = tmp_path / 'run'
    shutil.copytree(whole[0], out)
    name = 'webcam-tpc_on-seed0'
    (out / 'scores' / f'{name}.csv').write_text('half a ta')
    status, said = run(capsys, 'gfa_reproduce', *TINY, '--out', out)
    assert status == 2 and name in said
    (out / 'scores' / f'{name}.csv').unlink()
    (out / 'arms' / name / 'model.safetensors').write_bytes(b'half a model')
    status, said = run(capsys, 'gfa_reproduce', *TINY, '--out', out)
    assert status == 2 and name in said


def test_other_settings_are_refused(whole, capsys):
    status, said = run(capsys, 'gfa_reproduce', '--preset', 'tiny', '--steps', 5, '--out', whole[0])
    assert status == 2 and 'training: steps was 4, is 5' in said and '--out' in said


# -- folders of one's own

PEOPLE = ['--test-subjects', '0000,0001', '--dev-subjects', '0002']


def test_folder(folder, tmp_path, capsys):
    status, said = run(
        capsys,
        'gfa_reproduce',
        *PLAIN,
        '--data',
        folder,
        *PEOPLE,
        '--out',
        tmp_path / 'run',
    )
    assert status == 0 and 'no interval: too few people' in said and 'no verdict' not in said, said  # AUC is 1
    text = (tmp_path / 'run' / 'report.md').read_text(encoding='utf-8')
    assert (
        'divergence: there is one dataset; fast domain adaptation: switched off' in text
        and 'Recognition</summary>' in text
        and 'Distance of the domains' not in text
    )
    assert (
        'No interval is given' in text
        and '2 test subject(s)' in text
        and 'APCER print' in text
        and 'not found in 96' in text
    )
    counts = (
        pd.DataFrame(json.loads((tmp_path / 'run' / 'results.json').read_text())['counts'])
        .groupby('split')
        .subjects.max()
    )
    assert counts.to_dict() == dict(train=5, dev=1, test=2)


def test_folder_with_fda(folder, tmp_path, capsys):
    "One dataset, four arms; its photographs are in the report unless somebody leaves them out."
    status, said = run(
        capsys,
        'gfa_reproduce',
        *TINY,
        '--data',
        folder,
        *PEOPLE,
        '--out',
        tmp_path / 'run',
    )
    assert status == 0 and 'photos: both' in said, said
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert [r['fitted on'] for r in results['fda']] == ['60 frames of training people of photos'] and len(
        results['differences']
    ) == 5
    assert 'photos: ' in results['fda'][0]['target']
    figures = tmp_path / 'run' / 'figures'
    assert {'picture-1.png', 'target-1.png'} <= {p.name for p in figures.iterdir()}
    again = ['gfa_reproduce', *TINY, '--data', folder, *PEOPLE, '--out', tmp_path / 'run', '--no-pictures']
    assert run(capsys, *again)[0] == 0
    assert {p.name.split('-')[0] for p in figures.iterdir()} == {'differences', 'roc', 'det', 'scores', 'terms'}
    page = (tmp_path / 'run' / 'report.html').read_text(encoding='utf-8')
    assert page.count('<img') == len(list(figures.iterdir())) and 'class="picture' not in page


def test_few_bad_images_are_reported(folder, tmp_path, capsys):
    for s in range(8):
        for i in range(20):
            picture(folder / 'live' / f'{s:04d}' / f'more{i}.png', 1000 * s + i)
    (folder / 'live' / '0003' / 'broken.jpg').write_bytes((folder / 'live' / '0003' / '0.jpg').read_bytes()[:900])
    (folder / 'live' / '0004' / 'notes.jpg').write_text('a shopping list')
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--data', folder, '--out', tmp_path / 'run')
    assert status == 0, said
    text = (tmp_path / 'run' / 'report.md').read_text(encoding='utf-8')
    assert (
        '2 unusable images skipped' in text and 'broken.jpg' in text and 'notes.jpg' in text and str(folder) not in text
    )


def spoil(kind):
    "A way to spoil a folder."

    def truncate(f):
        p = f / 'live' / '0003' / '0.jpg'
        p.write_bytes(p.read_bytes()[:600])

    return dict(
        empty=lambda f: (shutil.rmtree(f), f.mkdir()),
        missing=shutil.rmtree,
        one_class=lambda f: shutil.rmtree(f / 'spoof'),
        one_subject=lambda f: [shutil.rmtree(p) for s in range(1, 8) for p in f.rglob(f'{s:04d}')],
        truncated=truncate,
        zero=lambda f: (f / 'live' / '0003' / '0.jpg').write_bytes(b''),
        text=lambda f: (f / 'live' / '0003' / '0.jpg').write_text('no picture'),
        pixel=lambda f: cv2.imwrite(str(f / 'live' / '0003' / '0.jpg'), np.zeros((1, 1, 3), np.uint8)),
    )[kind]


@pytest.mark.parametrize(
    'kind, words',
    [
        ('missing', 'no folder at'),
        ('empty', 'has no images'),
        ('one_class', 'no attack rows'),
        ('one_subject', r'1 subject\(s\)'),
        ('truncated', r'1 of 96 images cannot be used.*0\.jpg: not a readable image'),
        ('zero', r'0\.jpg: .*0 bytes'),
        ('text', r'0\.jpg: not a readable image'),
        ('pixel', r'0\.jpg: only 1x1 pixels'),
    ],
)
def test_bad_folders(kind, words, folder, tmp_path, capsys):
    spoil(kind)(folder)
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--data', folder, '--out', tmp_path / 'run')
    assert status == 2 and re.search(words, said), said
    assert 'Traceback' not in said and said.strip().startswith('gfa_reproduce: ')


def test_grey_and_rgba_are_fine(folder, tmp_path, capsys):
    for name, shape in (('grey', (72, 96)), ('rgba', (72, 96, 4))):
        cv2.imwrite(
            str(folder / 'live' / '0003' / f'{name}.png'),
            np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8),
        )
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--data', folder, '--out', tmp_path / 'run')
    assert status == 0, said


def test_unknown_subject(folder, tmp_path, capsys):
    status, said = run(
        capsys, 'gfa_reproduce', *PLAIN, '--data', folder, '--test-subjects', '0099', '--out', tmp_path / 'run'
    )
    assert status == 2 and '0099' in said and '0007' in said


def test_output_that_cannot_be_written(folder, tmp_path, capsys):
    (tmp_path / 'file').touch()
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--out', tmp_path / 'file' / 'run')
    assert status == 2 and 'cannot write to the folder' in said
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--out', folder)
    assert status == 2 and 'not empty' in said


def test_data_that_changes_under_a_run(folder, tmp_path, capsys):
    assert run(capsys, 'gfa_reproduce', *PLAIN, '--data', folder, '--out', tmp_path / 'run')[0] == 0
    picture(folder / 'live' / '0003' / 'new.jpg', 5)
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--data', folder, '--out', tmp_path / 'run')
    assert status == 2 and 'has changed' in said


def test_a_remedy_can_be_followed_in_the_same_folder(folder, tmp_path, capsys):
    "What an error asks for may be done before a training has begun."
    bad, args = folder / 'live' / '0003' / '0.jpg', ['--data', folder, '--out', tmp_path / 'run']
    bad.write_text('no picture')
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, *args, '--bs', 500)
    assert status == 2 and '--max-bad' in said
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, *args, '--bs', 500, '--max-bad', 0.02)
    assert status == 2 and 'Use a smaller bs' in said
    bad.unlink()
    assert run(capsys, 'gfa_reproduce', *PLAIN, *args)[0] == 0
    assert not list((tmp_path / 'run').glob('*new*'))


def test_small_folders_say_which_batch(folder, tmp_path, capsys):
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--bs', 500, '--data', folder, '--out', tmp_path / 'run')
    assert status == 2 and 'Use a smaller bs' in said


def test_split_folders_without_a_development_set(folder, tmp_path, capsys):
    "The official test people stay test people; the development people come from the training set."
    for s in range(8):
        for p in list(folder.rglob(f'{s:04d}')):
            to = folder / ('test' if s < 3 else 'train') / p.relative_to(folder)
            to.parent.mkdir(parents=True, exist_ok=True)
            p.rename(to)
    for p in ('live', 'spoof'):
        shutil.rmtree(folder / p)
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--data', folder, '--out', tmp_path / 'run')
    assert status == 0, said
    df = pd.read_csv(tmp_path / 'run' / 'samples.csv', dtype=str).groupby('split').subject.unique()
    assert (
        sorted(df['test']) == ['0000', '0001', '0002'] and len(df['dev']) >= 1 and not set(df['dev']) & set(df['train'])
    )


# -- published datasets


@pytest.fixture(scope='module')
def msu(tmp_path_factory):
    "A miniature of MSU-MFSD: 12 people, all of their 96 videos are real ones."
    from miniature import make_msu

    return make_msu(
        tmp_path_factory.mktemp('data') / 'msu', dict(train=[2, 3, 5, 6, 7, 8, 9, 11], test=[1, 13, 14, 23]), videos=96
    )


def test_published_dataset(msu, tmp_path, capsys):
    "From a tree of videos to the report; the model remembers how many frames of a video it was trained on."
    status, said = run(
        capsys, 'gfa_reproduce', *PLAIN, '--data', msu, '--dataset', 'msu_mfsd', '--out', tmp_path / 'run'
    )
    assert status == 0 and '| msu_mfsd: TPC ' in said and 'FDA' not in said, said
    assert said.count('are its development people') == 1 and 'cross-validate' in said, said
    frames = pd.DataFrame(json.loads((tmp_path / 'run' / 'results.json').read_text())['counts'])
    assert (
        frames.groupby('split').subjects.max().to_dict() == dict(train=6, dev=2, test=4)
        and frames.videos.sum() == 96
        and frames.images.sum() == 2 * 96
    )
    text = (tmp_path / 'run' / 'report.md').read_text(encoding='utf-8')
    for words in (
        '192 frames, of 96 videos: face given by the table in 192',
        'At most 2 frames of each video',
        'read as `msu_mfsd`',
    ):
        assert words in text, words
    model = tmp_path / 'run' / 'arms' / 'msu_mfsd-tpc_on-seed0' / 'model.safetensors'
    for more, n in ((), 192), (('--spread', 1), 96):
        status, said = run(capsys, 'gfa_score', model, msu, '--dataset', 'msu_mfsd', '--out', tmp_path / 's.csv', *more)
        assert status == 0 and f'{n} images of 12 people' in said, said


def test_train_on_a_published_dataset(msu, tmp_path, capsys):
    "With missing videos, if that is asked for."
    root = shutil.copytree(msu, tmp_path / 'msu')
    next(root.rglob('real_client014_laptop*.mov')).unlink()
    args = ['gfa_train', root, '--dataset', 'msu_mfsd', '--out', tmp_path / 'm', *TINY, '--spread', 3]
    status, said = run(capsys, *args)
    assert status == 2 and 'client014' in said, said
    with pytest.warns(UserWarning, match='1 of'):
        status, said = run(capsys, *args, '--allow-missing')
    assert status == 0 and said.count('are its development people') == 1, said
    scores = pd.read_csv(tmp_path / 'm' / 'scores.csv')
    assert (scores.groupby('video').size() == 3).all() and scores.video.nunique() == 6 * 8 - 1


@pytest.mark.parametrize(
    'args, words',
    [
        (
            ['--dataset', 'msu_mfsd', '--video-pattern', '(x)'],
            'dataset msu_mfsd takes no --video-pattern: leave it out (msu_mfsd takes dev, seed, --allow-missing)',
        ),
        (['--dataset', 'casia_fasd', '--protocol', '1', '--fold', '2'], 'takes no protocol and no fold'),
        (['--protocol', '1'], 'dataset folder takes no protocol'),
        (['--dataset', 'oulu_npu', '--protocol', '3'], 'protocol 3 has 6 folds'),
        (['--dataset', 'oulu_npu', '--protocol', 'all'], 'Train_files'),
        (['--dataset', 'siw', '--allow-missing'], 'dataset siw takes no --allow-missing'),
        (['--dataset', 'replay_attack', '--protocol', 'all'], 'is not known, choose one of grandtest'),
    ],
)
def test_options_that_a_dataset_does_not_take(args, words, tmp_path, capsys):
    for command in (['gfa_reproduce', '--data', tmp_path], ['gfa_train', tmp_path]):
        status, said = run(capsys, *command, *TINY, *args, '--out', tmp_path / 'run')
        assert status == 2 and words in said and 'Traceback' not in said, said


def test_a_dataset_without_its_folder(tmp_path, capsys):
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--dataset', 'siw', '--out', tmp_path / 'run')
    assert status == 2 and 'dataset siw is given, and no folder of data' in said


# -- several datasets: the paper's cross-tests


def test_two_folders(folder, tmp_path, capsys):
    "Each network is tested on both; a name is one person everywhere."
    other = tmp_path / 'door'
    for s in range(8):
        for i in range(2):
            picture(other / 'live' / f'{s:04d}' / f'{i}.jpg', 9000 + 100 * s + i)
        for i in range(4):
            picture(other / 'spoof' / f'{s:04d}' / f'{i}.jpg', 9050 + 100 * s + i, attack=True)
    status, said = run(capsys, 'gfa_reproduce', *TINY, '--data', folder, other, '--out', tmp_path / 'run')
    assert status == 0 and 'photos: both' in said and 'both against neither' in said, said
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert {a['train'] for a in results['trainings']} == {'photos', 'door'} and len(results['trainings']) == 8
    rows = pd.read_csv(tmp_path / 'run' / 'samples.csv', dtype=dict(subject=str))
    assert (
        set(rows.dataset) == {'photos', 'door'} and (rows.groupby('subject').split.nunique() == 1).all()
    )  # the same names, dealt alike
    text = (tmp_path / 'run' / 'report.md').read_text(encoding='utf-8')
    assert (
        'Dataset `photos`, read as `folder`. Dataset `door`, read as `folder`.' in text
        and 'Distance of the domains</summary>' in text
        and 'both − neither' in text
        and 'no photographs' not in text
    )


def test_a_published_dataset_and_a_folder(msu, folder, tmp_path, capsys):
    """As the paper crosses two datasets; what one reader alone takes goes to that one, and named people are looked for
    where they are."""
    args = [
        *PLAIN,
        '--data',
        msu,
        folder,
        '--dataset',
        'msu_mfsd',
        'folder',
        '--video-pattern',
        '(jpg)',
        '--out',
        tmp_path / 'run',
    ]
    status, said = run(capsys, 'gfa_reproduce', *args, '--test-subjects', '0000,0001')
    assert status == 0 and '| msu_mfsd: TPC ' in said and '| photos: TPC ' in said, said
    rows = pd.read_csv(tmp_path / 'run' / 'samples.csv', dtype=dict(subject=str))
    people = rows[rows.split == 'test'].groupby('dataset').subject.unique().map(sorted)
    assert (
        people['photos'] == ['0000', '0001']
        and len(people['msu_mfsd']) == 4
        and (rows[rows.dataset == 'photos'].groupby(['subject', 'label']).video.nunique() < 5).all()
    )


def test_people_who_are_in_some_of_the_folders(folder):
    "Who is dealt in one folder keeps the place in the next, and each folder still has people for all three."
    from gfa_fastai.run.reproduce import read_data, with_splits

    def table(name, people):
        return pd.concat(
            [read_data(folder).query('subject in @people').assign(dataset=name)], ignore_index=True
        ).assign(path=lambda t: name + '/' + t.path)

    names = [f'{s:04d}' for s in range(8)]
    for sets in ([names[:6], names[2:]], [names[:4], names[1:5], names[2:]], [names, names]):
        df = with_splits(pd.concat([table(f'd{i}', p) for i, p in enumerate(sets)]))
        assert (df.groupby('subject').split.nunique() == 1).all() and (
            df.groupby('dataset').split.nunique() == 3
        ).all(), sets
        assert list(dict.fromkeys(df.dataset)) == [f'd{i}' for i in range(len(sets))]
    with pytest.raises(ValueError, match='dataset d1: nobody is left for (dev|test), since its people'):
        with_splits(
            pd.concat([table('d0', names), table('d1', [n for n, g in df[df.split == 'train'].groupby('subject')][:3])])
        )
    alone = with_splits(table('d0', names))
    assert set(zip(alone.subject, alone.split)) == set(zip(df.subject, df.split))  # as one folder alone is dealt


def test_a_dataset_that_is_too_small_is_named_before_any_training(folder, tmp_path, capsys):
    for s in range(3):
        for kind in 'live', 'spoof':
            picture(tmp_path / 'few' / kind / f'9{s:03d}' / '0.jpg', 7000 + s, attack=kind == 'spoof')
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--data', folder, tmp_path / 'few', '--out', tmp_path / 'run')
    assert status == 2 and 'dataset few: bs is 16' in said and not (tmp_path / 'run' / 'arms').exists(), said
    for s in range(8):
        (folder / 'live' / f'{s:04d}' / '0.jpg').write_bytes(b'no picture')
    shutil.rmtree(tmp_path / 'few')
    shutil.copytree(folder, tmp_path / 'few')
    for s in range(8):
        for i in range(4):
            picture(folder / 'live' / f'{s:04d}' / f'{i}.jpg', 100 * s + i)
        for i in range(50):
            shutil.copy(folder / 'live' / f'{s:04d}' / '1.jpg', folder / 'live' / f'{s:04d}' / f'more{i}.jpg')
    status, said = run(
        capsys,
        'gfa_reproduce',
        *PLAIN,
        '--max-bad',
        '.02',
        '--data',
        folder,
        tmp_path / 'few',
        '--out',
        tmp_path / 'run',
    )
    assert status == 2 and 'files of few cannot be used' in said, said


@pytest.mark.parametrize(
    'args, words',
    [
        (['photos', 'photos'], 'two datasets are called photos'),
        (['photos', 'nowhere'], 'no folder at nowhere'),
        (
            ['photos', 'door', 'hall', '--dataset', 'folder', 'siw'],
            '3 folders of data, and 2 datasets say how they are read (folder, siw)',
        ),
        (
            ['photos', 'door', '--dataset', 'folder', 'siw', '--allow-missing'],
            'dataset folder and siw takes no --allow-missing',
        ),
        (['photos', 'door', '--test-subjects', '0099'], '--test-subjects names 0099'),
        (['photos', '--dataset', 'folder', '--data', 'door', '--dataset', 'siw'], 'SiW: neither'),
    ],
)
def test_several_datasets_that_do_not_go_together(args, words, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in 'door', 'hall':
        shutil.copytree(folder, tmp_path / name)
        for kind in (tmp_path / name).glob('*'):
            for p in [q for q in kind.rglob('000[0-3]') if q.is_dir()]:
                p.rename(p.with_name('1' + p.name))  # half of the people are others
    status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--data', *args, '--out', tmp_path / 'run')
    assert status == 2 and words in said and 'Traceback' not in said, said


def test_who_was_drawn_and_whose_names_are_shared(folder):
    "Development people who come from the training people of an official split, and names in train here and test there."
    from gfa_fastai.run.reproduce import drawn_people, read_data, shared_names, with_splits

    df = read_data(folder)
    official = df.assign(split=np.where(df['subject'].isin(['0006', '0007']), 'test', 'train'))
    split = with_splits(official)
    (note,) = drawn_people(official, split)
    dev = sorted(split.loc[split['split'] == 'dev', 'subject'].unique())
    assert f'{len(dev)} of the 6 training people of photos' in note and ', '.join(dev) in note
    assert drawn_people(split, split) == [] and drawn_people(df, with_splits(df)) == [] and shared_names(split) == []
    other = official.assign(dataset='door', split=np.where(df['subject'] == '0001', 'test', 'train'))
    (note,) = shared_names(pd.concat([official, other]))
    assert '3 names are in the training' in note and '0001, 0006, 0007' in note


@pytest.mark.parametrize(
    'name',
    ['![x](http://a.b/c.png)', '[x](http://a.b)', 'a\n| b | c |', '<img src=x>', 'a\x1b[2J', 'a|b', '`a`', '&lt;'],
)
def test_names_are_text_in_reports(name, tmp_path):
    "No remote picture, no forged row, no markup, no escape code: in the Markdown and in the page."
    from gfa_fastai.run.report import data_words, markdown_table, to_html

    table = markdown_table(pd.DataFrame({name: [name, '10.0 [5.0, 15.0]']}, index=[name, 'b']), True)
    data = dict(roots=[str(tmp_path / name)], dataset=['folder'], reader={}, spread=2)
    notes = dict(summary=name, detected=0, fallback=0, skipped_images=[[name, name]], drawn=[name])
    text = f'# Page\n\n{table}\n\n{data_words(data, notes)}\n'
    page = to_html(text)
    assert len(table.splitlines()) == 4 and '10.0 [5.0, 15.0]' in table
    assert '\x1b' not in text and '<img' not in page and 'href' not in page and page.count('<tr>') == 3


# -- train, score, evaluate


@pytest.mark.parametrize('name', ['Ren\udce9', r'$\fra{', 'a$b_c$d', '$', '名$x$'])
def test_names_are_text_in_figures(name):
    "Bytes that are not UTF-8 and formulas that are none, as labels, titles and ticks."
    import matplotlib.pyplot as plt
    from gfa_fastai.run.webpage import figure_png

    figure, axes = plt.subplots()
    axes.bar([name, 'b'], [1, 2], label=name)
    axes.set(title=name, yticks=[0, 1], yticklabels=[name, r'$x^2$'])
    axes.legend()
    assert figure_png(figure).startswith(b'\x89PNG')


@pytest.mark.skipif(sys.platform != 'linux', reason='names that are not UTF-8')
def test_names_that_are_not_utf8(folder, tmp_path, capsys):
    "Of people, species, data and run folder, from the training to the report."
    data, run_folder = (tmp_path / os.fsdecode(name) for name in (b'd\xe9', b'r\xff'))
    shutil.copytree(folder, data)
    for person in list(data.glob('*/**/000*')):
        person.rename(person.with_name(os.fsdecode(b'Ren\xe9 ') + person.name))
    status, said = run(capsys, 'gfa_train', data, '--out', run_folder, *TINY)
    assert status == 0, said
    args = ['gfa_score', run_folder / 'model.safetensors', data, '--out', run_folder / 'more.csv']
    status, said = run(capsys, *args)
    assert status == 0, said
    status, said = run(capsys, 'gfa_evaluate', run_folder / 'scores.csv', '--json', run_folder / 'e.json')
    assert status == 0, said


def test_train_score_evaluate(folder, tmp_path, capsys):
    names = ['--test-subjects', '0000,0001', '--dev-subjects', '0002']
    status, said = run(capsys, 'gfa_train', folder, '--out', tmp_path / 'm', *TINY, '--bs', 8, *names)
    assert status == 0 and 'model.safetensors' in said, said
    before = (tmp_path / 'm' / 'model.safetensors').read_bytes()
    assert run(capsys, 'gfa_train', folder, '--out', tmp_path / 'm', *TINY, '--bs', 8, *names)[0] == 0
    assert (tmp_path / 'm' / 'model.safetensors').read_bytes() == before
    status, said = run(
        capsys, 'gfa_score', tmp_path / 'm' / 'model.safetensors', folder, '--out', tmp_path / 's.csv', *names
    )
    assert status == 0 and '96 images of 8 people' in said, said
    a, b = (
        pd.read_csv(p, dtype=dict(subject=str)).query("split != 'train'").sort_values('video').reset_index(drop=True)
        for p in (tmp_path / 's.csv', tmp_path / 'm' / 'scores.csv')
    )
    # (training looked for faces, scoring did not have to: the same frames under other names)
    pd.testing.assert_frame_equal(a.drop(columns=['in_training', 'picture']), b.drop(columns='picture'))
    assert a['picture'].str.endswith('-frame.png').all()
    status, said = run(
        capsys, 'gfa_evaluate', tmp_path / 's.csv', '--html', tmp_path / 'r.html', '--json', tmp_path / 'r.json'
    )
    assert status == 0 and 'target-dev' in said and 'No interval' in said
    rates = json.loads((tmp_path / 'r.json').read_text())['rates']
    assert f'{100 * rates["hter"]["value"]:.1f}' in said
    page = (tmp_path / 'r.html').read_text()
    assert '<table>' in page and '<h3>Attacks</h3>' in page and 'class="picture"' in page and 'videos' not in page
    for out_of_it in (['--no-pictures'], ['--frames', tmp_path / 'm']):
        assert run(capsys, 'gfa_evaluate', tmp_path / 's.csv', '--html', tmp_path / 'r.html', *out_of_it)[0] == 0
        assert 'class="picture"' not in (tmp_path / 'r.html').read_text()


def test_training_people_among_the_scored_are_named(folder, tmp_path, capsys):
    names = ['--test-subjects', '0000,0001', '--dev-subjects', '0002']
    assert run(capsys, 'gfa_train', folder, '--out', tmp_path / 'm', *TINY, '--bs', 8, *names)[0] == 0
    status, said = run(capsys, 'gfa_score', tmp_path / 'm' / 'model.safetensors', folder, '--out', tmp_path / 's.csv')
    assert status == 0 and '5 of the test people have the name of somebody that the model was trained on (0003' in said
    assert (
        'have the name of somebody'
        not in run(
            capsys, 'gfa_score', tmp_path / 'm' / 'model.safetensors', folder, '--out', tmp_path / 's.csv', *names
        )[1]
    )


def test_a_model_of_fda_brings_its_fda(whole, folder, tmp_path, capsys):
    "Frames are transferred before they are scored, wherever the model file lies."
    model = whole[0] / 'arms' / 'webcam-tpc_on-fda-seed0' / 'model.safetensors'
    assert run(capsys, 'gfa_score', model, folder, '--out', tmp_path / 's.csv')[0] == 0
    assert len(list((tmp_path / 'cache' / 'fda').rglob('*.png'))) == 96
    shutil.copy(model, tmp_path)
    status, said = run(capsys, 'gfa_score', tmp_path / 'model.safetensors', folder, '--out', tmp_path / 'again.csv')
    assert status == 0 and '96 images' in said, said
    pd.testing.assert_frame_equal(*(pd.read_csv(tmp_path / f) for f in ('s.csv', 'again.csv')))


def test_models_of_a_run_authenticate(whole):
    "Thresholds for both decisions, and the adapter, are in the file."
    from gfa_fastai.use.authenticate import FaceAuthenticator, model_card
    from gfa_fastai.inputs.models import model_header

    for fda in (False, True):
        path = whole[0] / 'arms' / f'webcam-tpc_off{"-fda" * fda}-seed0' / 'model.safetensors'
        head = model_header(path)
        assert head['adapter'] == fda and set(head['meta']['thresholds']) == {'live', 'similarity'}
        assert 'threshold' not in head['meta']  # one thing, in one place
        assert FaceAuthenticator.load(path) and '## Thresholds' in model_card(path)


def test_live_people_alone_can_be_scored(whole, folder, tmp_path, capsys):
    shutil.rmtree(folder / 'spoof')
    model = whole[0] / 'arms' / 'webcam-tpc_on-seed0' / 'model.safetensors'
    assert run(capsys, 'gfa_score', model, folder, '--out', tmp_path / 's.csv')[0] == 0
    assert set(pd.read_csv(tmp_path / 's.csv').split) == {'test'}


def test_evaluate_conventions(whole, capsys):
    s = whole[0] / 'scores' / 'webcam-tpc_on-seed0.csv'
    for t, words in (('dev', 'target-dev'), ('test', 'optimistic'), ('0.5', 'given: 0.5')):
        status, said = run(capsys, 'gfa_evaluate', s, '--threshold', t)
        assert status == 0 and words in said and 'test-EER' in said and 'target-dev' in said
    status, said = run(capsys, 'gfa_evaluate', s, '--threshold', 'source')
    assert status == 2 and '--source' in said
    assert run(capsys, 'gfa_evaluate', s, '--threshold', 'source', '--source', s)[0] == 0


def scores_of(seed, people=14):
    "Scores by nobody's network: half of the people in dev, half in test."
    rng = np.random.default_rng(seed)
    rows = [
        (
            'd',
            'dev' if s < people // 2 else 'test',
            f'{s:03d}',
            f'{s}-{pai}{v}',
            f,
            'attack' if pai else 'live',
            pai,
            3 * rng.normal(0 if pai else 1),
        )
        for s in range(people)
        for pai in ('', 'print1', 'print2', 'video')
        for v in range(2)
        for f in range(2)
    ]
    return pd.DataFrame(rows, columns=['dataset', 'split', 'subject', 'video', 'frame', 'label', 'pai', 'score'])


def test_evaluate_anybodys_scores(tmp_path):
    "Development and test files, in CSV and in four columns, make the same page; PyTorch is not asked for."
    from gfa_fastai.evaluation import evaluate_scores
    from gfa_fastai.inputs.tables import save_four_column

    df, pages = scores_of(0), []
    for ext in ('csv', 'txt'):
        for split in ('dev', 'test'):
            rows, path = df[df.split == split], tmp_path / f'scores_{split}.{ext}'
            if ext == 'csv':
                rows.drop(columns=['split', 'dataset']).to_csv(path, index=False)
            else:
                save_four_column(rows, path)
        code = (
            'import sys; from gfa_fastai.run.cli import gfa_evaluate; s = gfa_evaluate(sys.argv[1:]); sys.exit(s or'
            ' 3*bool({"torch", "fastai"} & set(sys.modules)))'
        )
        args = [
            tmp_path / f'scores_dev.{ext}',
            tmp_path / f'scores_test.{ext}',
            '--threshold',
            'dev',
            '--html',
            tmp_path / ext / 'report.html',
            '--json',
            tmp_path / ext / 'r.json',
        ]
        done = subprocess.run(
            [sys.executable, '-c', code, *map(str, args)],
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        pages.append((tmp_path / ext / 'report.html').read_text(encoding='utf-8').replace('.txt', '.csv'))
    assert pages[0] == pages[1] and pages[0].count('<img') == 3 and 'http' not in pages[0] and 'BPCER20' in pages[0]
    got, want = (
        json.loads((tmp_path / 'csv' / 'r.json').read_text()),
        evaluate_scores(df.assign(dataset='scores')).to_dict(),
    )
    assert got == json.loads(json.dumps(want)) | dict(difference=None)
    assert not list(tmp_path.rglob('.part*'))


def test_evaluate_options(tmp_path, capsys):
    a, b = scores_of(0), scores_of(1)
    for name, df in dict(
        a=a,
        b=b,
        fewer=b[b.subject != '013'],
        nan=a.assign(score=a.score.where(a.index != 3)),
        twice=pd.concat([a, a[-2:]]),
        attacks=a[a.label == 'attack'],
        tests=a[a.split == 'test'],
        column=a.drop(columns='label'),
        p=a.assign(score=1 / (1 + np.exp(-a.score))),
    ).items():
        df.to_csv(tmp_path / f'{name}.csv', index=False)

    def evaluate(name, *args):
        return run(capsys, 'gfa_evaluate', tmp_path / f'{name}.csv', '--resamples', 20, *args)

    status, said = evaluate('a', '--species', 'print1=print, print2=print')
    assert status == 0 and '| print     | 7 ' in said and 'print1 into print' in said and '20 resamples' in said
    status, said = evaluate('a', '--against', tmp_path / 'b.csv', '--json', tmp_path / 'r.json')
    assert (
        status == 0
        and 'Against the second system' in said
        and set(json.loads((tmp_path / 'r.json').read_text())['difference']['hter']) == {'value', 'low', 'high'}
    )
    assert evaluate('p', '--video', 'logodds')[0] == 0
    status, said = evaluate('tests', '--source', tmp_path / 'a.csv')  # no --threshold: it is of the source
    assert status == 0 and 'source-dev' in said
    for name, args, words in (
        ('a', ['--video', 'logodds'], 'no probabilities'),
        ('a', ['--against', tmp_path / 'fewer.csv'], 'in one table only'),
        ('nan', [], '1 of 224 rows have a score that is NaN'),
        ('twice', [], '2 of 226 rows have a frame that is there already'),
        ('attacks', [], 'no live rows'),
        ('tests', [], '--threshold source --source FILE'),
        ('column', [], 'column(s) label missing'),
        ('a', ['--species', 'mask=print'], 'no attack is of mask'),
        ('a', ['--threshold', 'nan'], 'NaN'),
        ('a', ['--threshold', 'low'], 'neither dev'),
        (
            'a',
            ['--threshold', 'source', '--source', tmp_path / 'a.csv', '--against', tmp_path / 'b.csv'],
            '--against-source',
        ),
    ):
        status, said = evaluate(name, *args)
        assert status == 2 and words in said and len(said.strip().splitlines()) == 1, said
    status, said = evaluate(
        'a',
        '--threshold',
        'source',
        '--source',
        tmp_path / 'a.csv',
        '--against',
        tmp_path / 'b.csv',
        '--against-source',
        tmp_path / 'b.csv',
    )
    assert status == 0 and 'source-dev' in said
    for bad in ('print1', '=print', 'print1=', 'a=b=c'):
        with pytest.raises(SystemExit):
            evaluate('a', '--species', bad)
        assert 'print1=print' in capsys.readouterr().err


# -- transfer


def target(tmp_path):
    cv2.imwrite(str(tmp_path / 'target.png'), np.random.default_rng(7).integers(120, 250, (40, 50, 3), dtype=np.uint8))
    return tmp_path / 'target.png'


QUICK = ['--steps', 4, '--size', 32, '--width', 0.125]


@pytest.mark.parametrize('method', ['fda', 'light', 'colour', 'fourier', 'recompress', 'identity'])
def test_transfer_of_a_folder(method, folder, tmp_path, capsys):
    args = ['gfa_transfer', folder, '--target', target(tmp_path), '--method', method, '--out', tmp_path / 'out', *QUICK]
    status, said = run(capsys, *args)
    assert status == 0 and '96 files' in said, said
    names = {p.relative_to(tmp_path / 'out').with_suffix('') for p in (tmp_path / 'out').rglob('*.png')}
    assert names == {p.relative_to(folder).with_suffix('') for p in folder.rglob('*.jpg')}
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'out').rglob('*.png')}
    assert run(capsys, *args)[0] == 0 and before == {
        p: p.stat().st_mtime_ns for p in (tmp_path / 'out').rglob('*.png')
    }  # nothing is made twice
    if method in ('fda', 'light'):
        status, said = run(
            capsys,
            'gfa_transfer',
            folder / 'live',
            '--model',
            tmp_path / 'out' / 'method.safetensors',
            '--out',
            tmp_path / 'again',
            '--codec',
            'jpeg',
        )
        assert status == 0 and len(list((tmp_path / 'again').rglob('*.jpg'))) == 32


def test_light_imitates_a_saved_fda(folder, tmp_path, capsys):
    assert (
        run(
            capsys,
            'gfa_transfer',
            folder,
            '--target',
            target(tmp_path),
            '--method',
            'fda',
            '--out',
            tmp_path / 'fda',
            *QUICK,
        )[0]
        == 0
    )
    saved = tmp_path / 'fda' / 'method.safetensors'
    status, said = run(
        capsys, 'gfa_transfer', folder, '--method', 'light', '--imitate', saved, '--out', tmp_path / 'light', *QUICK
    )
    assert status == 0 and '96 files by LightFDA' in said, said
    for args, words in (
        (('--method', 'colour', '--imitate', saved), 'is for --method light'),
        (('--imitate', tmp_path / 'none'), 'no saved adaptation'),
    ):
        status, said = run(
            capsys, 'gfa_transfer', folder, '--target', target(tmp_path), *args, '--out', tmp_path / 'x', *QUICK
        )
        assert status == 2 and words in said, said


def test_transfer_counts_what_it_does_not_read(tmp_path, capsys):
    "Endings in a folder that are not read here are named and counted; texts are not."
    data = tmp_path / 'data'
    data.mkdir()
    cv2.imwrite(str(data / 'a.png'), np.zeros((32, 32, 3), np.uint8))
    for name in ('a.raw', 'b.RAW', 'c.psd', 'notes.txt'):
        (data / name).write_bytes(b'x')
    status, said = run(capsys, 'gfa_transfer', data, '--method', 'identity', '--out', tmp_path / 'out')
    assert status == 0 and f'{data}: 1 .psd left out' in said and '2 .raw left out' in said and '.txt' not in said, said


def test_results_in_the_folder_of_the_data(folder, tmp_path, capsys):
    "Data with results in it reads as before, the same call works again, and no file of the user is overwritten."
    from gfa_fastai.inputs.datasets import read_folder

    before, out = read_folder(folder), folder / 'out'
    transfer = 'gfa_transfer', folder, '--method', 'identity', '--out'
    for _ in range(2):
        status, said = run(capsys, *transfer, out)
        assert status == 0 and f'{len(before)} files by Identity' in said, said
        with pytest.warns(UserWarning, match=f'{len(before)} files that this library made'):
            assert read_folder(folder).equals(before)
    assert len(read_folder(out)) == len(before)
    assert run(capsys, *transfer, folder / 'again')[0] == 0 and len(list((folder / 'again').rglob('*.png'))) == 96
    mine = folder / 'live/0000/0.png'  # beside 0.jpg
    picture(mine, 7)
    kept = mine.read_bytes()
    for _ in range(2):
        assert run(capsys, 'gfa_transfer', mine.with_suffix('.jpg'), *transfer[2:], mine.parent)[0] == 0
    assert mine.read_bytes() == kept and sorted(p.name for p in mine.parent.glob('*.png')) == ['0.png', '0_2.png']
    assert len(read_folder(folder)) == len(before) + 1


def test_transfer_says_what_it_skipped(folder, tmp_path, capsys):
    (folder / 'live' / '0000' / '0.jpg').write_bytes(b'no picture')
    (folder / 'notes.txt').write_text('passed over')
    (folder / 'clip.mp4').write_bytes(b'no video')
    status, said = run(
        capsys,
        'gfa_transfer',
        folder,
        tmp_path / 'nowhere',
        '--target',
        target(tmp_path),
        '--method',
        'colour',
        '--out',
        tmp_path / 'out',
    )
    assert status == 0 and '95 files' in said and 'notes' not in said
    for words in '0.jpg: not a readable image', 'clip.mp4: not a readable video', 'nowhere: the file does not exist':
        assert words in said, said


def test_transfer_of_a_video(tmp_path, capsys):
    from gfa_fastai.inputs.videos import clip_frames

    writer = cv2.VideoWriter(str(tmp_path / 'in.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 12, (64, 48))
    for i in range(10):
        writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    writer.release()
    status, said = run(
        capsys, 'gfa_transfer', tmp_path / 'in.avi', '--target', target(tmp_path), '--out', tmp_path / 'out', *QUICK
    )
    assert status == 0 and 'fitted on 10 images' in said, said
    frames = list(clip_frames(tmp_path / 'out' / 'in.mp4'))
    assert len(frames) == 10 and frames[0].shape == (48, 64, 3) and not list((tmp_path / 'out').glob('.*part*'))
    stamp = (tmp_path / 'out' / 'in.mp4').stat().st_mtime_ns
    assert (
        run(
            capsys, 'gfa_transfer', tmp_path / 'in.avi', '--target', target(tmp_path), '--out', tmp_path / 'out', *QUICK
        )[0]
        == 0
    )
    assert (tmp_path / 'out' / 'in.mp4').stat().st_mtime_ns == stamp


def test_transfer_killed_in_the_middle_of_a_folder(folder, tmp_path):
    from gfa_fastai.adapt.adapter import read_result

    for s in range(150):
        picture(folder / 'live' / 'more' / f'{s}.jpg', s, (320, 240))
    args = ['gfa_transfer', folder, '--target', target(tmp_path), '--out', tmp_path / 'out', *QUICK]
    p = shell(*args)
    when(lambda: len(list((tmp_path / 'out').rglob('*.png'))) > 20, p)
    p.kill()
    p.communicate(timeout=60)
    kept = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in (tmp_path / 'out').rglob('*.png') if read_result(f)}
    assert 20 < len(kept) < 246
    p = shell(*args)
    said = p.communicate(timeout=300)
    assert p.returncode == 0 and '246 files' in said[0], said
    done = list((tmp_path / 'out').rglob('*.png'))
    assert (
        len(done) == 246
        and all(read_result(f) for f in done)
        and all(f.read_bytes() == b for f, (_, b) in kept.items())
    )
    assert sum(f.stat().st_mtime_ns != t for f, (t, _) in kept.items()) < 8  # at most the batch that was interrupted


def test_transfer_refuses(folder, tmp_path, capsys):
    for args, words in (
        ([folder, '--target', folder], 'it is a folder, and one file is needed'),
        ([folder, '--target', tmp_path / 'none.png'], 'none.png: the file does not exist'),
        ([folder, '--method', 'colour'], 'method colour needs a target image'),
        ([tmp_path / 'none'], 'no image and no video'),
        ([folder, '--model', tmp_path / 'none.safetensors'], 'no saved adaptation'),
        (
            [folder, '--target', target(tmp_path), '--method', 'recompress', '--out', tmp_path / 'target.png'],
            'cannot write to the folder',
        ),
    ):
        status, said = run(capsys, 'gfa_transfer', *args, *([] if '--out' in args else ['--out', tmp_path / 'out']))
        assert status == 2 and words in said and 'Traceback' not in said, said


@pytest.mark.parametrize(
    'args, words',
    [
        (['gfa_evaluate', 'none.csv'], 'no scores at none.csv'),
        (['gfa_score', 'none.safetensors', '.', '--out', 's.csv'], 'no model at none.safetensors'),
    ],
)
def test_missing_files(args, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, said = run(capsys, *args)
    assert status == 2 and words in said


@pytest.mark.parametrize('command', COMMANDS)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as e:
        getattr(cli, command)(['--help'])
    said = capsys.readouterr().out
    assert e.value.code == 0 and command in said and 'None' not in said


def test_help_comes_without_the_libraries():
    code = f'''if True:
        import sys
        from gfa_fastai.run import cli
        for name in {COMMANDS}:
            try:
                getattr(cli, name)(['--help'])
            except SystemExit:
                pass
        heavy = {{'cv2', 'fastai', 'matplotlib', 'numpy', 'pandas', 'torch'}} & set(sys.modules)
        sys.exit(f'imported for help: {{heavy}}' if heavy else 0)
    '''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert not done.returncode, done.stderr


def test_options_know_the_names_of_the_library():
    from gfa_fastai.adapt.adapter import CODECS
    from gfa_fastai.adapt.by_name import FITTED, SIMPLE
    from gfa_fastai.compare.detectors import DETECTORS
    from gfa_fastai.evaluation import HOW
    from gfa_fastai.inputs.datasets import READERS
    from gfa_fastai.run.reproduce import PRESETS
    from gfa_fastai.synth.benchmark import SYNTHPAD_PRESETS

    names = dict(preset=PRESETS, dataset=READERS, video=[*HOW, 'frame'], transfer=[*FITTED, *SIMPLE], codec=CODECS)
    names['method'] = ['network', 'auto', *DETECTORS]
    assert cli.CHOICES == {k: tuple(v) for k, v in names.items()}
    assert tuple(SYNTHPAD_PRESETS) == cli.CHOICES['preset']


@pytest.mark.parametrize('given', [None, 'active'])
def test_threads_sleep_in_a_script_as_in_a_command(given):
    env = {k: v for k, v in os.environ.items() if k != 'OMP_WAIT_POLICY'}
    env |= dict(OMP_DISPLAY_ENV='true') | ({} if given is None else dict(OMP_WAIT_POLICY=given))
    code = 'import gfa_fastai, torch; print(torch.__config__.parallel_info())'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, env=env)
    said = re.findall(r"OMP_WAIT_POLICY ?= ?'(\w+)'", done.stderr)
    if not said:
        pytest.skip('this build of PyTorch does not say how its threads wait')
    assert {s.lower() for s in said} == {given or 'passive'}


@pytest.mark.parametrize(
    'args',
    [
        ['--max-bad', '2'],
        ['--preset', 'huge'],
        ['--steps', '0'],
        ['--seeds', '-1'],
        ['--precision', 'int8'],
        ['--dataset', 'unknown'],
        ['--spread', '0'],
    ],
)
def test_bad_arguments(args, capsys):
    with pytest.raises(SystemExit) as e:
        cli.gfa_reproduce(args)
    assert e.value.code == 2 and 'usage' in capsys.readouterr().err


@pytest.mark.parametrize('command', COMMANDS)
def test_version_and_examples(command, capsys):
    from gfa_fastai import __version__

    with pytest.raises(SystemExit) as e:
        getattr(cli, command)(['--version'])
    assert e.value.code == 0 and capsys.readouterr().out.strip() == f'{command} {__version__}'
    with pytest.raises(SystemExit):
        getattr(cli, command)(['--help'])
    examples = capsys.readouterr().out.partition('examples:\n')[2].splitlines()
    assert len(examples) == 2 and all(e.startswith(f'  {command} ') for e in examples)


@pytest.mark.parametrize('encoding', ['cp1252', 'ascii', 'utf-8'])
def test_a_console_without_all_letters_gets_the_numbers(encoding, tmp_path):
    "Redirected output on Windows: names in other scripts are escaped, and the status is 0."
    df = scores_of(0).replace(dict(pai=dict(print1='\u6253\u5370', print2='impr\u00e9', video='a\x1b[2J')))
    df.to_csv(tmp_path / 's.csv', index=False)
    code = 'import sys; from gfa_fastai.run.cli import gfa_evaluate; sys.exit(gfa_evaluate(sys.argv[1:]))'
    done = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / 's.csv'), '--resamples', '20', '--json', str(tmp_path / 'r.json')],
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONIOENCODING': encoding},
        capture_output=True,
    )
    assert done.returncode == 0 and (tmp_path / 'r.json').exists(), done.stderr
    said = done.stdout.decode(encoding)
    assert 'HTER' in said and '\x1b' not in said and ('\u6253' if encoding == 'utf-8' else '\\u6253') in said


@pytest.mark.parametrize(
    'text, words',
    [
        ('skipped with max_bad (--max-bad) of 0.3', 'skipped with --max-bad of 0.3'),
        (
            'in test_subjects and in dev_subjects (--test-subjects, --dev-subjects).',
            'in --test-subjects and in --dev-subjects.',
        ),
        ('is it one (clips=True, --clips yes)?', 'is it one (--clips yes)?'),
        ('live_threshold is 55', '--live-threshold is 55'),
        ('give live_threshold=, or write', 'give --live-threshold, or write'),
        ('leave them out with allow_missing=True.', 'leave them out with --allow-missing.'),
        ('threshold_from=3 is', '--threshold 3 is'),
        ('/tmp/max_bad/max_bad.png: the seed is 3', '/tmp/max_bad/max_bad.png: the seed is 3'),
    ],
)
def test_messages_name_options(text, words):
    names = 'max-bad test-subjects dev-subjects clips live-threshold allow-missing threshold seed'
    assert cli.as_options(text, {f'--{name}' for name in names.split()}) == words


def test_progress_in_a_log_is_a_few_lines(tmp_path):
    "Standard error that is no terminal has no redrawn lines; a warning is one line without a place in the code."
    data = tmp_path / 'data'
    for i in range(60):
        picture(data / f'{i}.jpg', i)
    (data / 'x.cr2').touch()
    p = shell('gfa_transfer', data, '--method', 'identity', '--out', data / 'out')
    out, err = p.communicate(timeout=300)
    assert p.returncode == 0 and '60 files by Identity' in out, err
    assert '\r' not in err and len(err.strip().splitlines()) <= 3, err


def test_a_folder_in_the_place_of_a_model_names_the_file(tmp_path, capsys):
    (tmp_path / 'run/arms/a').mkdir(parents=True)
    for name in ('run/arms/a/model.safetensors', 'run/arms/a/method.safetensors'):
        (tmp_path / name).touch()
    (tmp_path / 'none').mkdir()
    score = 'gfa_score', tmp_path / 'run', tmp_path, '--out', tmp_path / 's.csv'
    for args, words in (
        (score, f'give {tmp_path}/run/arms/a/model.safetensors (or one of 1 others in it)'),
        (('gfa_authenticate', 'list', '--model', tmp_path / 'run'), 'arms/a/model.safetensors'),
        (('gfa_authenticate', 'list', '--model', tmp_path / 'none'), 'no .safetensors file is in it'),
    ):
        status, said = run(capsys, *args)
        assert status == 2 and 'is a folder' in said and words in said, said


@pytest.mark.parametrize('number', ['-1e-05', '-1E+3', '-.5', '-2.', '-3', '1e-3'])
def test_negative_thresholds(number, tmp_path, capsys):
    scores_of(0).to_csv(tmp_path / 's.csv', index=False)
    status, said = run(capsys, 'gfa_evaluate', tmp_path / 's.csv', '--resamples', 20, '--threshold', number)
    assert status == 0 and 'given: ' in said, said


def test_people_of_the_training_are_said(tmp_path, capsys):
    df = scores_of(0)
    df.assign(in_training=(df['split'] == 'test') & (df['subject'] == '013')).to_csv(tmp_path / 's.csv', index=False)
    status, said = run(capsys, 'gfa_evaluate', tmp_path / 's.csv', '--resamples', 20)
    assert status == 0 and '1 of the test people have the name of somebody that the model was trained on' in said, said


def test_one_writer_a_run_folder(tmp_path, capsys):
    "A second process is told who works there; when the first one has gone, however it went, the folder is free."
    from gfa_fastai.run.reproduce import hold_run

    code = 'import sys, time; from pathlib import Path; from gfa_fastai.run.reproduce import hold_run\n'
    code += 'with hold_run(Path(sys.argv[1])): print("holds", flush=True); time.sleep(600)'
    out = tmp_path / 'run'
    out.mkdir()
    holder = subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', code, str(out)],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == 'holds\n'
        status, said = run(capsys, 'gfa_reproduce', *PLAIN, '--out', out)
        assert status == 2 and f'another process works there (process {holder.pid} on ' in said, said
    finally:
        holder.kill()
        holder.wait()
    with hold_run(out):
        pass
    assert [p.name for p in out.iterdir()] in ([], ['.run.lock'])


@pytest.mark.parametrize('damage', ['', '{"preset": "ti', '[]', 'null', None])
def test_a_damaged_run_json(damage, tmp_path):
    "Empty, cut, of another kind, or gone: restored from its copy; with both damaged it is named."
    import warnings
    from gfa_fastai.run.reproduce import open_run, run_settings

    settings = run_settings('tiny')
    out = open_run(tmp_path / 'run', settings)
    (out / 'arms' / 'a').mkdir(parents=True)
    (out / 'arms' / 'a' / 'checkpoint.pt').touch()

    def spoil(path):
        path.unlink() if damage is None else path.write_text(damage)

    spoil(out / 'run.json')
    with pytest.warns(UserWarning, match='run.json was missing or damaged and is restored'):
        open_run(out, settings)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        open_run(out, settings)
    spoil(out / 'run.json')
    spoil(out / '.run.json.copy')
    with pytest.raises(ValueError, match='run.json is missing, empty or cut off, and so is its copy'):
        open_run(out, settings)


@pytest.mark.parametrize(
    'groups, words',
    [
        (dict(preset='huge'), "preset 'huge' is not known"),
        (dict(training=dict(step=3)), 'training has no setting step: it has width, bs, steps'),
        (dict(training=dict(steps=0)), 'steps is 0: give a whole number'),
        (dict(training=dict(bs=2.5)), 'bs is 2.5: give a whole number'),
        (dict(training=dict(seeds=True)), 'seeds is True: give a whole number'),
        (dict(training=dict(pairs='some')), "pairs 'some' is not known"),
        (dict(training=dict(precision='int8')), "precision 'int8' is not known"),
        (dict(training=dict(weights='none.pth')), 'no weights at none.pth'),
        (dict(data=dict(spread=0)), 'spread is 0: give a whole number'),
        (dict(data=dict(max_bad=2)), 'max_bad is 2: give a share'),
        (dict(data=[]), 'the list is empty'),
        (dict(data='nowhere'), 'no folder at nowhere'),
        (dict(data=dict(dataset='siw')), 'dataset siw is given, and no folder of data'),
        (dict(data=dict(test_subjects=['a'])), 'for your own data only'),
        (dict(adaptation=dict(depth=3)), 'adaptation has no setting depth'),
        (dict(measures=dict(sharpness=True)), 'measures has no setting sharpness'),
    ],
)
def test_settings_that_make_no_sense(groups, words):
    from gfa_fastai.run.reproduce import run_settings

    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(words)):
        run_settings(**groups)


@pytest.mark.skipif(os.name == 'nt', reason='POSIX signals')
def test_sigterm(tmp_path):
    "A scheduler's signal: a message, status 143, no child left behind."
    psutil = pytest.importorskip("psutil")

    p = shell('gfa_synth', '--preset', 'quick', '--workers', 2, '--out', tmp_path / 'pad')
    when(lambda: len(list((tmp_path / 'pad').rglob('*.png'))) > 2, p)
    children = psutil.Process(p.pid).children(recursive=True)
    p.send_signal(signal.SIGTERM)
    err = p.communicate(timeout=60)[1]
    assert p.returncode == 143 and 'the same command goes on from there' in err and 'Traceback' not in err
    assert not psutil.wait_procs(children, timeout=15)[1]


# -- real photographs


@pytest.mark.skipif(not PHOTOS.is_dir(), reason='no photographs at ../shared/data/nuaa_small')
def test_photographs(tmp_path, capsys):
    status, said = run(
        capsys,
        'gfa_reproduce',
        *PLAIN,
        '--data',
        PHOTOS,
        '--dataset',
        'folder',
        '--test-subjects',
        '0012,0014',
        '--dev-subjects',
        '0011',
        '--out',
        tmp_path / 'run',
    )
    assert status == 0 and 'No interval is given' in (tmp_path / 'run' / 'report.md').read_text(encoding='utf-8'), said
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert results['data']['images'] == 288 and results['data']['skipped'] == 0 and results['data']['detected'] > 250
    assert pd.DataFrame(results['counts']).groupby('split').images.sum().to_dict() == dict(train=144, dev=48, test=96)
