"""Files are written whole or not at all, and no other file is touched."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bitsr import files
from bitsr.errors import BitsrError
from bitsr.files import PREFIX, NewFile

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")


def write(path, data=b"new"):
    with NewFile(path) as new:
        new.file.write(data)


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with NewFile(path) as new:
        new.file.write(b"new")
        new.file.flush()
        assert path.read_bytes() == b"old" and new.part.read_bytes() == b"new"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(error), NewFile(path) as new:
        new.file.write(b"new")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_files_of_names_that_used_to_be_taken_are_left_alone(tmp_path):
    path, other = tmp_path / "o.png", tmp_path / "o.png.part"
    other.write_bytes(b"a user's file")
    write(path)
    assert path.read_bytes() == b"new" and other.read_bytes() == b"a user's file"


@posix
def test_a_name_that_is_taken_is_neither_opened_nor_followed(tmp_path, monkeypatch):
    names = iter(["1", "2", "3"])
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: next(names))
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    (tmp_path / f"{PREFIX}1").symlink_to(victim)
    (tmp_path / f"{PREFIX}2").write_bytes(b"kept")
    write(tmp_path / "x")
    assert victim.read_bytes() == (tmp_path / f"{PREFIX}2").read_bytes() == b"kept"
    assert (tmp_path / f"{PREFIX}1").is_symlink() and (tmp_path / "x").read_bytes() == b"new"


def test_writers_of_one_name_do_not_mix(tmp_path):
    path = tmp_path / "x"
    start = threading.Barrier(4)

    def work(digit):
        start.wait()
        for _ in range(20):
            with NewFile(path) as new:
                for _ in range(50):
                    new.file.write(digit * 100)
                    new.file.flush()

    threads = [threading.Thread(target=work, args=(digit,)) for digit in (b"1", b"2", b"3", b"4")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = path.read_bytes()
    assert len(data) == 5000 and len(set(data)) == 1 and list(tmp_path.iterdir()) == [path]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o777])
def test_a_file_that_is_replaced_hands_on_its_mode(tmp_path, mode):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(mode)
    with NewFile(path) as new:
        assert stat.S_IMODE(new.part.stat().st_mode) & ~(mode | 0o600) == 0  # nobody else looks in meanwhile
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_a_new_file_has_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@posix
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path, there):
    (tmp_path / "sub").mkdir()
    target, link = tmp_path / "sub" / "target", tmp_path / "link"
    if there:
        target.write_bytes(b"old")
    link.symlink_to("sub/target")
    write(link)
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert {p.name for p in tmp_path.rglob("*")} == {"sub", "target", "link"}


@posix
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "socket", "link to a pipe"])
def test_what_is_no_regular_file_is_refused_and_stays(tmp_path, monkeypatch, kind):
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)  # a socket's name is short
        socket.socket(socket.AF_UNIX).bind("x")
    elif kind == "device":
        path = Path("/dev/null")
    else:
        pipe = tmp_path / "y" if kind.startswith("link") else path
        os.mkfifo(pipe)
        if pipe != path:
            path.symlink_to(pipe)
    before = path.stat()
    with pytest.raises(BitsrError, match=f"{path}: is a {kind.rpartition(' ')[2]}; an output is a file"):
        write(path)
    assert path.stat()[:2] == before[:2]


@pytest.mark.parametrize("length", [251, 252, 255])
def test_names_as_long_as_the_system_allows(tmp_path, length):
    path = tmp_path / ("n" * (length - 4) + ".png")
    write(path)
    assert path.read_bytes() == b"new"


def test_a_name_that_is_too_long_is_refused_at_once(tmp_path):
    path = tmp_path / ("n" * 256)
    with pytest.raises(OSError, match="too long") as caught:
        NewFile(path)
    assert caught.value.filename == str(path)


@posix
def test_a_library_that_loses_the_reason_of_a_failed_write(tmp_path):
    path = tmp_path / "x"
    code = f"""
import resource, signal
from bitsr.files import NewFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with NewFile({str(path)!r}) as new:
    try:
        new.file.write(bytes(100000))
        new.file.flush()
    except OSError:
        raise RuntimeError("enforce fail")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{path}'"
    assert not list(tmp_path.iterdir())


CUT = """
import os, signal, sys
from bitsr.files import NewFile
def stop(number, frame):
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
new = NewFile(sys.argv[1])
class Slow:  # a second signal comes while the first one is cleaned up after
    def __exit__(self, *_):
        os.kill(os.getpid(), signal.SIGTERM)
        new.discard()
    def __enter__(self): pass
if os.fork() == 0:
    sys.exit()  # a child leaves its parent's file alone
os.wait()
assert new.part.exists()
with Slow():
    os.kill(os.getpid(), signal.SIGINT)
"""


@posix
def test_a_second_signal_leaves_nothing_either(tmp_path):
    done = subprocess.run([sys.executable, "-c", CUT, tmp_path / "x"], capture_output=True, text=True)
    assert done.returncode == 143, done.stderr
    assert not list(tmp_path.iterdir())
