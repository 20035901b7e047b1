"What can be wrong with a tree on a disk, and what is said about it."

import os
import random
import warnings
from pathlib import Path

import pytest

from gfa_fastai.inputs.files import RESULTS, note_results
from gfa_fastai.inputs.images import IMAGES
from gfa_fastai.inputs.videos import VIDEOS
from gfa_fastai.inputs.trees import (
    choose_listed,
    find_list,
    find_root,
    match_name,
    note_line,
    read_lines,
    read_list,
    scan_videos,
    sub_folder,
    walk_files,
)


def tree(root, *paths):
    for p in paths:
        (root / p).parent.mkdir(parents=True, exist_ok=True)
        (root / p).touch()
    return root


def test_walk_against_os_walk(tmp_path):
    rng = random.Random(0)
    names = ['a', 'b c', 'é', '.hidden', '__MACOSX', '@eaDir', 'x.avi', 'y.MOV', 'z.jpg', '.x.avi', 'notes.txt']
    for _ in range(60):
        parts = [rng.choice(names[:6]) for _ in range(rng.randint(0, 3))]
        tree(tmp_path, '/'.join([*parts, rng.choice(names[6:])]))
    want = []
    for folder, dirs, files in os.walk(tmp_path):
        dirs[:] = [d for d in dirs if d not in ('.hidden', '__MACOSX', '@eaDir')]
        want += [Path(folder) / f for f in files if f in ('x.avi', 'y.MOV')]
    got = list(walk_files(tmp_path, VIDEOS))
    assert sorted(got) == sorted(want) and got == list(walk_files(tmp_path, VIDEOS)) and not IMAGES & VIDEOS


def test_walk_ends_in_circles_and_follows_links(tmp_path):
    root = tree(tmp_path / 'up/root', 'a/1.avi')
    tree(tmp_path / 'elsewhere', '2.avi')
    (root / 'link').symlink_to(tmp_path / 'elsewhere')
    (root / 'a/root').symlink_to(root)
    (root / 'a/up').symlink_to(tmp_path)
    (root / 'a/self').symlink_to(root / 'a/self')
    (root / 'gone.avi').symlink_to(tmp_path / 'nowhere')
    assert [p.relative_to(root).as_posix() for p in walk_files(root, VIDEOS)] == ['a/1.avi', 'gone.avi', 'link/2.avi']


def test_our_own_results_among_the_data_are_left_out(tmp_path):
    "A result is left out where its source is among the data, or where it is no data at all; that is said."
    root = tree(tmp_path / 'data', 'a/1.jpg', 'a/2.jpg', 'out/a/1.png', 'out/other.png', 'run/figures/1.png', 'a/3.png')
    note_results(root / 'out', {'a/1.png': root / 'a/1.jpg'})
    note_results(root / 'out', {'a/2.png': root / 'a/2.jpg'})  # beside the first; not made yet
    note_results(root / 'run', {'.': None})
    note_results(root / 'a', {'3.png': root / 'a/1.jpg'})  # beside its source

    def names(folder):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            found = walk_files(folder, IMAGES)
        return [p.relative_to(folder).as_posix() for p in found], [str(w.message) for w in said]

    found, said = names(root)
    assert found == ['a/1.jpg', 'a/2.jpg', 'out/other.png']
    assert len(said) == 1 and '3 files that this library made' in said[0] and '3.png' in said[0], said
    assert names(root / 'out') == (['a/1.png', 'other.png'], [])  # results alone are data
    assert names(root / 'run') == (['figures/1.png'], [])
    moved = root.rename(tmp_path / 'moved')
    assert names(moved)[0] == ['a/1.jpg', 'a/2.jpg', 'out/other.png']
    train = tmp_path / 'adapted/train/a'  # made from data elsewhere
    train.mkdir(parents=True)
    (train / '1.png').touch()
    note_results(tmp_path / 'adapted/train', {'a/1.png': moved / 'a/1.jpg'})
    assert names(tmp_path / 'adapted') == (['train/a/1.png'], [])


@pytest.mark.parametrize('note', ['', '[]', '{"..": null}', '{"../a/1.jpg": null}', '{"x": 1}', 'null', '[' * 9999])
def test_a_note_hides_nothing_outside_its_folder(note, tmp_path):
    root = tree(tmp_path, 'a/1.jpg', 'b/2.jpg')
    (root / 'b' / RESULTS).write_text(note)
    assert len(walk_files(root, IMAGES)) == 2


def test_sub_folder(tmp_path):
    tree(tmp_path, 'Train/LIVE/1', 'train/x/1', 'file')
    assert (
        sub_folder(tmp_path, 'Train').name == 'Train'
        and sub_folder(tmp_path, 'train').name == 'train'
        and sub_folder(tmp_path, 'TRAIN/live').name == 'LIVE'
    )
    assert (
        sub_folder(tmp_path, 'file') is None
        and sub_folder(tmp_path, 'file/x') is None
        and sub_folder(tmp_path / 'nowhere', 'x') is None
    )


def test_root_depth_and_ambiguity(tmp_path):
    root = tree(tmp_path / '1/2/3', 'train/x', 'test/x')
    for given in (root, root.parent, root.parent.parent):
        assert find_root(given, ['train', 'test'], 'SET') == root
    with pytest.raises(FileNotFoundError, match='SET: neither .* up to two levels below .*there are: 1'):
        find_root(tmp_path, ['train', 'test'], 'SET')
    tree(tmp_path / '1/2/4', 'train/x', 'test/x')
    with pytest.raises(ValueError, match='holds it 2 times'):
        find_root(tmp_path / '1', ['train', 'test'], 'SET')
    assert find_root(root, ['train', 'test'], 'SET') == root  # what is given is taken, whatever lies beside it


def test_root_in_junk_is_not_found(tmp_path):
    root = tree(tmp_path, 'SET/train/x', 'SET/test/x', '__MACOSX/SET/train/x', '__MACOSX/SET/test/x')
    assert find_root(root, ['train', 'test'], 'SET') == root / 'SET'


def test_root_is_relative(tmp_path, monkeypatch):
    tree(tmp_path, 'SET/train/x', 'SET/test/x')
    monkeypatch.chdir(tmp_path / 'SET/train')
    with pytest.raises(FileNotFoundError, match='is a part of it. Its root is .*SET: give that'):
        find_root('.', ['train', 'test'], 'SET')


def test_lines(tmp_path):
    (tmp_path / 'a').write_bytes(b'\xef\xbb\xbfone\r\n\r\n\t two \xff\rthree')
    assert read_lines(tmp_path / 'a') == [(1, 'one'), (3, 'two \udcff'), (4, 'three')]
    (tmp_path / 'a').write_bytes(b'')
    assert read_lines(tmp_path / 'a') == []
    with pytest.raises(FileNotFoundError, match='no file at'):
        read_lines(tmp_path)


def test_find_list(tmp_path):
    tree(tmp_path, 'x/y/a.txt')
    assert find_list(tmp_path, 'a.txt') == find_list(tmp_path, 'y/a.txt') == tmp_path / 'x/y/a.txt'
    with pytest.raises(FileNotFoundError, match='no list b.txt'):
        find_list(tmp_path, 'b.txt')


def test_match_is_of_the_whole(tmp_path):
    assert match_name(r'(a)(\d)', 'A1', '') == ('A', '1')
    for bad in ('a12', 'xa1', 'a1\n'):
        with pytest.raises(ValueError, match='expected a number'):
            match_name(r'(a)(\d)', bad, 'a number')


def test_scan_counts_all_bad_names(tmp_path):
    def parse(stem):
        if stem == 'skip':
            return None
        match_name(r'\d', stem, 'a digit')
        return stem, dict(n=int(stem))

    tree(tmp_path, '1.avi', 'skip.avi', '2.mov', '3.txt')
    assert {k: (r['n'], r['path'].name) for k, r in scan_videos(tmp_path, parse, 'SET').items()} == {
        '1': (1, '1.avi'),
        '2': (2, '2.mov'),
    }
    tree(tmp_path, 'b.avi', 'a.avi')
    with pytest.raises(ValueError, match='SET: 2 file name.*first is .*a.avi: expected a digit'):
        scan_videos(tmp_path, parse, 'SET')


def test_choose_keeps_the_order_of_the_list():
    found = {k: dict(k=k, path=k) for k in 'abc'}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert [r['k'] for r in choose_listed(found, dict(c='', a=''), 'SET', spare={'b'})] == ['c', 'a']
        with pytest.raises(UserWarning, match='1 videos are there but not listed, the first is b'):
            choose_listed(found, dict(c='', a=''), 'SET')
    with pytest.raises(
        FileNotFoundError,
        match=r'1 of 2 listed videos are not there, the first is x \(list, line 9\).*allow_missing=True',
    ):
        choose_listed(found, dict(a='', x='list, line 9'), 'SET')
    with pytest.raises(FileNotFoundError, match='2 of 2 .*Restore them.$'):
        choose_listed(found, dict(x='', y=''), 'SET', allow_missing=True)
    with pytest.raises(ValueError, match='a is listed twice'):
        note_line({'a': 'x, line 1'}, 'a', Path('x'), 2)


@pytest.mark.parametrize('text', ['', '\n', '\r\n \r\n', '\ufeff'])
def test_a_list_names_something(tmp_path, text):
    (tmp_path / 'l.txt').write_text(text)
    assert read_lines(tmp_path / 'l.txt') == []
    with pytest.raises(ValueError, match='l.txt lists nothing'):
        read_list(tmp_path / 'l.txt')
    (tmp_path / 'l.txt').write_text(text + 'a')
    assert [t for _, t in read_list(tmp_path / 'l.txt')] == ['a']
