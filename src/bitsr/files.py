"""Files that are written whole or not at all. Every output of bitsr goes through ``NewFile``."""

from __future__ import annotations

import atexit
import errno
import hashlib
import io
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import BitsrError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PREFIX = ".bitsr-"
"""Of the names under which files grow: hidden, so that no folder of images counts them, and short,
so that an output's own name may be as long as the system allows."""
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_growing: dict[Path, int] = {}
"""Fresh names that have no end yet, and the processes that made them."""


@atexit.register
def sweep() -> None:
    """Remove what has no end yet: what a second signal leaves, which comes while the first one is
    cleaned up after."""
    for part, process in list(_growing.items()):
        if process == os.getpid():  # a forked child has the names of its parent
            _remove(part)


def _remove(part: Path) -> None:
    with suppress(OSError):
        part.unlink()
    _growing.pop(part, None)


def mode_of(path: str | os.PathLike[str]) -> int | None:
    """The permissions of the regular file at ``path``, links followed; None where there is nothing.

    Raises BitsrError for anything else, which no output may replace, and OSError for a name that
    the system refuses.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        kind = next((text for test, text in _KINDS if test(mode)), "something else")
        raise BitsrError(f"{os.fspath(path)}: is {kind}; an output is a file")
    return stat.S_IMODE(mode) & 0o777


@contextmanager
def naming(path: str | os.PathLike[str]) -> Generator[None]:
    """Within the block, an OSError that names no file gets ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


class Claim:
    """The right to make one output, which one process at a time has: by a lock on a hidden file
    beside it, which ends with the process.

    Where the system has no locks everyone has it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        target = Path(path).resolve()
        name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
        self._file, self._number = target.with_name(f"{PREFIX}{name}.lock"), -1

    def take(self) -> bool:
        """Whether it was free and is now had. Raises OSError where the lock's file cannot be made."""
        while fcntl is not None:
            number = os.open(self._file, _NEW & ~os.O_EXCL, 0o666)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it may have removed the file in between.
                if os.path.samestat(os.fstat(number), self._file.stat()):
                    self._number, _growing[self._file] = number, os.getpid()
                    return True
            except FileNotFoundError:
                pass
            except OSError as error:
                os.close(number)
                # else a file system without locks
                return error.errno not in (errno.EAGAIN, errno.EACCES)
            os.close(number)
        return True

    def release(self) -> None:
        """Give it back. More than once does no harm."""
        if self._number >= 0:
            _remove(self._file)
            os.close(self._number)
            self._number = -1


class _Raw(io.FileIO):
    """A file that remembers the system's reason for a failed write, which libraries lose."""

    failed: OSError | None = None

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            self.failed = error
            raise


class NewFile:
    """A file that takes the place of ``path`` whole, or never: a context manager.

    It grows under a fresh random name in the same folder, open as ``file`` (binary, for reading and
    writing) and to be found at ``part``. At the end of the block it is forced to disk and renamed;
    an exception removes it. So a reader, or a machine that loses power, sees the old file or the new
    one, never a part; two writers of one name do not meet; and no other file is ever opened. A file
    that is replaced hands on its permissions; a symbolic link stays, its target is replaced.
    like: of a file whose permissions and time of modification the new one gets.

    Raises BitsrError where ``path`` is no regular file, and OSError, which names ``path``.
    """

    def __init__(self, path: str | os.PathLike[str], *, like: os.stat_result | None = None) -> None:
        self.path, self._like = Path(path), like
        self._mode = mode_of(path)
        if like is not None:
            self._mode = stat.S_IMODE(like.st_mode) & 0o777
        self._target = self.path.resolve()
        while True:
            part = self._target.with_name(PREFIX + secrets.token_hex(8))
            _growing[part] = os.getpid()  # first, for a signal may come with the file
            try:
                number = os.open(
                    part,
                    _NEW | getattr(os, "O_BINARY", 0),
                    0o666 if self._mode is None else 0o600 | self._mode,
                )
            except FileExistsError:
                del _growing[part]
                continue
            except OSError as error:
                del _growing[part]
                raise OSError(error.errno, error.strerror, str(self.path)) from None
            except BaseException:
                _remove(part)
                raise
            break
        self.part = part
        self._raw = _Raw(number, "r+b")
        self.file = io.BufferedRandom(self._raw)

    def commit(self) -> None:
        """Force the file to disk and give it its name; ``discard`` it where that fails."""
        try:
            self.file.close()
            with self.part.open("rb+") as file:  # whoever wrote may have made the file anew
                os.fsync(file.fileno())
            # Windows knows "read-only" alone, and would then neither rename nor remove the file.
            if self._mode is not None and os.name == "posix":
                self.part.chmod(self._mode)
            if self._like is not None:
                os.utime(self.part, ns=(self._like.st_atime_ns, self._like.st_mtime_ns))
            self.part.replace(self._target)
        except OSError as error:
            self.discard()
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        except BaseException:
            self.discard()
            raise
        _growing.pop(self.part, None)
        if os.name == "posix":  # the rename itself is on disk only once the folder is
            with suppress(OSError):  # which not every file system can do
                folder = os.open(self.part.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

    def discard(self) -> None:
        """Remove the file. After ``commit``, nothing."""
        with suppress(OSError):
            self.file.close()
        if self.part in _growing:
            _remove(self.part)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: object) -> None:
        if value is None:
            self.commit()
            return
        self.discard()
        failed = self._raw.failed
        if failed is not None and isinstance(value, Exception):
            raise OSError(failed.errno, failed.strerror, str(self.path)) from None
