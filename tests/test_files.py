"Files are written whole or not at all, and only regular ones are read."

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from gfa_fastai.inputs import files
from gfa_fastai.inputs.files import (
    bytes_hash,
    file_hash,
    file_size,
    whole_file,
    writable_folder,
    write_bytes,
    write_json,
    write_text,
)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_written_whole(tmp_path):
    write_text(tmp_path / 'new' / 'a.txt', 'Käse\n')
    write_json(tmp_path / 'new' / 'b.json', dict(a='é'))
    write_bytes(str(tmp_path / 'new' / 'c.bin'), b'\0\r\n')
    assert (tmp_path / 'new' / 'a.txt').read_bytes() == 'Käse\n'.encode()
    assert json.loads((tmp_path / 'new' / 'b.json').read_text()) == dict(a='é')
    assert (tmp_path / 'new' / 'c.bin').read_bytes() == b'\0\r\n'
    assert names(tmp_path / 'new') == ['a.txt', 'b.json', 'c.bin']


def test_names_that_are_not_utf8_survive(tmp_path):
    name = os.fsdecode(b'caf\xe9')
    write_text(tmp_path / 'a.csv', name)
    assert (tmp_path / 'a.csv').read_bytes() == b'caf\xe9'
    write_json(tmp_path / 'a.json', name)
    assert json.loads((tmp_path / 'a.json').read_text()) == name
    write_text(tmp_path / name, 'x')
    assert file_hash(tmp_path / name) == bytes_hash(b'x')


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_text(tmp_path / 'a', '')
    (tmp_path / 'b').write_text('')
    assert (tmp_path / 'a').stat().st_mode == (tmp_path / 'b').stat().st_mode


@pytest.mark.parametrize('error', [ZeroDivisionError(), KeyboardInterrupt(), ValueError('x'), SystemExit(3)])
def test_a_block_that_fails_leaves_the_old_file_and_no_part(tmp_path, error):
    (tmp_path / 'a').write_text('old')
    with pytest.raises(type(error)):
        with whole_file(tmp_path / 'a') as part:
            part.write_text('half of the n')
            raise error
    assert names(tmp_path) == ['a'] and (tmp_path / 'a').read_text() == 'old'


full_disk = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    Exception('Error while serializing: I/O error: No space left on device (os error 28)'),
]


@pytest.mark.parametrize('error', full_disk)
def test_a_full_disk_is_explained(tmp_path, error):
    with pytest.raises(OSError, match='no space left on the disk at .*5.0 MB or more are needed.*run the same command'):
        with whole_file(tmp_path / 'a', size=5_000_000):
            raise error
    assert not names(tmp_path)


def test_a_full_disk_behind_an_internal_error(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, 'disk_usage', lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match='no space left.*2.0 MB or more') as e:
        with whole_file(tmp_path / 'a') as part:
            part.write_bytes(bytes(2_000_000))
            raise RuntimeError('PytorchStreamWriter failed writing file data/3: file write failed')
    assert e.value.errno == errno.ENOSPC and not names(tmp_path)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match='another reason'):
        with whole_file(tmp_path / 'a') as part:
            raise RuntimeError('another reason')


def test_a_limit_of_the_system_on_the_size_of_a_file(tmp_path):
    resource, signal = pytest.importorskip('resource'), pytest.importorskip('signal')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(OSError, match='cannot write .*a.bin'):
            write_bytes(tmp_path / 'a.bin', bytes(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not names(tmp_path)


def test_an_error_about_another_file_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match='input'):
        with whole_file(tmp_path / 'a'):
            (tmp_path / 'input').read_bytes()


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / 'folder').mkdir()
    with pytest.raises(OSError, match='folder: there is something else of that name'):
        write_text(tmp_path / 'folder', '')
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(OSError, match='there is something else'):
        write_text(tmp_path / 'pipe', '')
    assert stat.S_ISFIFO((tmp_path / 'pipe').stat().st_mode)
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='cannot write .*Check its folder'):
        write_text(tmp_path / 'file' / 'a', '')
    with pytest.raises(OSError, match='cannot write .*too long'):
        write_text(tmp_path / ('a' * 300), '')
    with pytest.raises(OSError, match='cannot write to the folder'):
        writable_folder(tmp_path / 'file')


def test_a_link_at_the_temporary_name_is_never_followed(tmp_path, monkeypatch):
    (tmp_path / 'secret').write_text('mine')
    monkeypatch.setattr(files.secrets, 'token_hex', lambda n: 'guessed')
    link = tmp_path / f'{files.PART}{files._machine()}-{os.getpid()}-guessed-a.txt'
    link.symlink_to(tmp_path / 'secret')
    with pytest.raises(OSError, match='cannot write'):
        write_text(tmp_path / 'a.txt', 'theirs')
    assert (tmp_path / 'secret').read_text() == 'mine' and link.is_symlink()


def test_a_link_in_the_place_of_the_file_is_replaced_not_followed(tmp_path):
    (tmp_path / 'other').write_text('mine')
    (tmp_path / 'a').symlink_to(tmp_path / 'other')
    write_text(tmp_path / 'a', 'new')
    assert (tmp_path / 'other').read_text() == 'mine' and (tmp_path / 'a').read_text() == 'new'


def test_writers_at_once_do_not_meet(tmp_path):
    with whole_file(tmp_path / 'a.npz') as one, whole_file(tmp_path / 'a.npz') as two:
        assert one != two and one.suffix == two.suffix == '.npz' and one.parent == tmp_path
    texts = [str(i) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=write_text, args=(tmp_path / 'b', t)) for t in texts]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (tmp_path / 'b').read_text() in texts and names(tmp_path) == ['a.npz', 'b']


def test_parts_of_dead_processes_are_removed(tmp_path):
    "Those of this process, of another machine and of no known form stay."
    code = 'import os, sys; from gfa_fastai.inputs.files import _new_part; from pathlib import Path; '
    code += '_new_part(Path(sys.argv[1])); os._exit(9)'
    (tmp_path / 'sub').mkdir()
    subprocess.run([sys.executable, '-c', code, str(tmp_path / 'sub/a-b.csv')])
    dead = names(tmp_path / 'sub')
    mine = files._new_part(tmp_path / 'x.csv')
    others = [tmp_path / '.part-000000-1-ab-x.csv', tmp_path / '.part-x', tmp_path / f'.part-{files._machine()}-q-x']
    for other in others:
        other.touch()
    files.remove_dead_parts(tmp_path)
    assert len(dead) == 1 and names(tmp_path / 'sub') == []
    assert mine.exists() and all(o.exists() for o in others)


def test_long_names_are_written(tmp_path):
    name = 'é' * 120 + '.mp4'
    write_bytes(tmp_path / name, b'1')
    assert names(tmp_path) == [name]


def not_regular(folder):
    os.mkfifo(folder / 'pipe.jpg')
    (folder / 'folder.jpg').mkdir()
    (folder / 'circle.jpg').symlink_to(folder / 'circle.jpg')
    with socket.socket(socket.AF_UNIX) as s:
        here = Path.cwd()
        os.chdir(folder)  # (names of sockets are short)
        s.bind('socket.jpg')
        os.chdir(here)
    return [folder / n for n in ('pipe.jpg', 'folder.jpg', 'socket.jpg', 'circle.jpg', 'none.jpg')] + [
        Path('/dev/zero')
    ]


def test_only_regular_files_are_read(tmp_path):
    for path in not_regular(tmp_path):
        for read in (file_size, file_hash):
            with pytest.raises(ValueError, match='folder|no regular|exist|not readable'):
                read(path)
    with pytest.raises(ValueError, match='not readable'):
        file_size('a\0b')
    (tmp_path / 'link').symlink_to(__file__)
    assert file_size(tmp_path / 'link') == Path(__file__).stat().st_size
