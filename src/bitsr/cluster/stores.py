"""Where images lie: folders of this machine, and stores that fsspec opens by a URL (S3, GCS, ...).

A place is an absolute path or a URL, always with forward slashes. Both stores have the same methods.
"""

from __future__ import annotations

import errno
import glob
import importlib
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, cast

from ..errors import BitsrError, reason
from ..files import NewFile, mode_of

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://([^/]*)")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_ONE_PUT = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Stores in which an object appears whole, by one request. Others get a temporary name first."""
_TAGS = (
    *("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated"),
    *("modify", "last_write_time", "created"),
)
"""What the stores call an object's checksum or its time of change, the surest first."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a store. size: bytes. tag: changes with the content, where the store tells."""

    path: str
    size: int
    tag: str


def is_pattern(place: str) -> bool:
    """Whether a place has wildcards: ``*``, ``?`` or ``[``."""
    return glob.has_magic(place)


def is_url(text: str) -> bool:
    """Whether a text is meant as a URL. A single letter before :// is a drive of Windows."""
    return bool(re.match("[^/]{2,}://", text))


def place(text: str) -> str:
    """The place that a path or a URL names; file:// is a path. Links in a path are resolved, but
    not those below a wildcard. Raises as ``store``, and BitsrError for what is no URL but looks
    like one."""
    if is_url(text):
        scheme, _, rest = text.partition("://")
        text = re.sub(r"^file://(localhost)?(?=/)", "", f"{scheme.lower()}://{rest}")
        if _URL.match(text):
            return store(text).normal(text)
        if is_url(text):
            raise BitsrError(f"{text}: not a URL of the form NAME://PLACE")
    path = Path(text).expanduser()
    if not is_pattern(text) or path.exists():
        return path.resolve().as_posix()
    fixed = fixed_part(path.as_posix())
    return f"{place(fixed)}/{path.as_posix()[len(fixed) :].lstrip('/')}"


def fixed_part(pattern: str) -> str:
    """The folders of a pattern before its first wildcard; the current folder where there are
    none."""
    parts = pattern.split("/")
    first = next((i for i, part in enumerate(parts) if is_pattern(part)), len(parts))
    return "/".join(parts[:first]) or ("/" if pattern.startswith("/") else ".")


def escaped(path: str) -> str:
    """A place in which no character is a wildcard."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


def store(place: str) -> Local | Remote:
    """The store that a place is in. Raises ImportError, in one line, where its package is
    missing, and BitsrError where there is no such store, or its server does not answer."""
    match = _URL.match(place)
    return _remote(*match.groups()) if match else _LOCAL


class Local:
    """Folders of this machine, or of a file system that all workers share."""

    def normal(self, path: str) -> str:
        """An absolute path as it is."""
        return path

    def is_folder(self, path: str) -> bool:
        """Whether a folder is there."""
        return Path(path).is_dir()

    def is_file(self, path: str) -> bool:
        """Whether a file is there."""
        return Path(path).is_file()

    def find(self, folder: str) -> Iterator[File]:
        """Every file below a folder; links to folders are not followed. Raises OSError."""

        def refuse(error: OSError) -> None:
            raise error

        for root, _, names in os.walk(folder, onerror=refuse):
            for name in names:
                yield from self._files(Path(root, name).as_posix())

    def glob(self, pattern: str) -> Iterator[File]:
        """The files that a pattern means; ``**`` is any number of folders. Raises OSError."""
        root = fixed_part(pattern)
        for path in sorted(Path(root).glob(pattern[len(root) :].lstrip("/"))):
            yield from self._files(path.as_posix())

    def _files(self, path: str) -> Iterator[File]:
        # A name may vanish after it was listed, and a link may lead nowhere.
        with suppress(FileNotFoundError):
            if stat.S_ISREG(Path(path).stat().st_mode):
                yield self.stat(path)

    def stat(self, path: str) -> File:
        """A file's size and tag. Raises OSError."""
        known = Path(path).stat()
        return File(path, known.st_size, str(known.st_mtime_ns))

    def read(self, path: str) -> bytes:
        """The bytes of a file. Raises OSError."""
        return Path(path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Make or replace a small file at once, with its folder. Raises OSError."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with NewFile(path) as new:
            new.file.write(data)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there. Raises OSError."""
        Path(path).unlink(missing_ok=True)

    @contextmanager
    def fetched(self, path: str) -> Generator[Path]:
        """A file as one of this machine, within the block. Raises OSError."""
        yield Path(path)

    @contextmanager
    def created(self, path: str, parts: str) -> Generator[Path]:
        """A name to write a file to, which takes the place of ``path`` at the end of the block, or
        never.

        parts: folder of files that are not finished, on the same file system. Raises OSError, and
        BitsrError where ``path`` is no regular file.
        """
        final, part = Path(path), Path(parts) / secrets.token_hex(8)
        mode = mode_of(final)
        part.parent.mkdir(parents=True, exist_ok=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            if mode is not None:
                part.chmod(mode)
            part.replace(final)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


class Remote:
    """A store of fsspec. Its settings and credentials come from its own files and variables.

    Its methods raise FileNotFoundError and PermissionError for one object, and BitsrError for
    whatever else the packages raise: no server, no credentials.
    """

    def __init__(self, protocol: str, host: str) -> None:
        """host: what a URL has between :// and the next slash: a server, a bucket or a folder."""
        url, before = f"{protocol}://{host}", sys.unraisablehook
        # What fails half made may fail once more when it goes, and print that.
        sys.unraisablehook = lambda _: None
        try:
            self._fs: Any = cast(Any, importlib.import_module("fsspec")).url_to_fs(url)[0]
        except ImportError as error:
            extra = _EXTRAS.get(protocol, "ray" if error.name == "fsspec" else None)
            hint = f"; try: pip install 'bitsr[{extra}]'" if extra else ""
            raise ImportError(f"{protocol}://: {error}{hint}") from None
        except Exception as error:
            raise BitsrError(f"{url}: {reason(error)}") from None
        finally:
            sys.unraisablehook = before
        self._url, self._one_put = url, protocol in _ONE_PUT
        self._made: set[str] = set()
        # A package for one connection may know of no threads.
        self._one = nullcontext() if self._fs.async_impl else Lock()

    def normal(self, path: str) -> str:
        """The one spelling of a place."""
        found = self._fs.unstrip_protocol(self._bare(path))
        options = self._fs._get_kwargs_from_urls
        if options(found) != options(path):  # the server, which is no part of a name on it
            found = path
        found = found.rstrip("/")
        if found.endswith(":"):
            raise BitsrError(f"{path}: names no place")
        return found

    def _bare(self, path: str) -> str:
        """What the store itself calls a place."""
        return self._fs._strip_protocol(path)

    def is_folder(self, path: str) -> bool:
        """Whether a folder, or an object whose name begins with it, is there."""
        self._fs.invalidate_cache()
        with _telling(path):
            return self._fs.isdir(self._bare(path))

    def is_file(self, path: str) -> bool:
        """Whether an object of that name is there."""
        with _telling(path):
            return self._fs.isfile(self._bare(path))

    def find(self, folder: str) -> Iterator[File]:
        """Every object below a folder."""
        self._fs.invalidate_cache()
        with _telling(folder):
            found = self._fs.find(self._bare(folder), detail=True)
        return self._files(folder, found)

    def glob(self, pattern: str) -> Iterator[File]:
        """The objects that a pattern means; ``**`` is any number of folders."""
        self._fs.invalidate_cache()
        with _telling(pattern):
            found = self._fs.glob(self._bare(pattern), detail=True)
        return self._files(fixed_part(pattern), found)

    def _files(self, root: str, found: dict[str, dict[str, Any]]) -> Iterator[File]:
        """What was found below a place, as places below it."""
        if not _URL.match(root):  # a pattern of buckets
            root = self._url.partition("://")[0] + "://"
        start = len(self._bare(root).rstrip("/"))
        for name, info in found.items():
            if info.get("type") != "directory":
                yield self._file(root + name[start:], info)

    def _file(self, path: str, info: dict[str, Any]) -> File:
        tag = next((str(info[key]) for key in _TAGS if info.get(key)), "")
        return File(path, info.get("size") or 0, tag)

    def stat(self, path: str) -> File:
        """An object's size and tag. Any thread may ask."""
        with self._one, _telling(path):
            return self._file(path, self._fs.info(self._bare(path)))

    def read(self, path: str) -> bytes:
        """The bytes of an object."""
        with _telling(path):
            return self._fs.cat_file(self._bare(path))

    def write(self, path: str, data: bytes) -> None:
        """Make or replace a small object at once."""
        with self.created(path, path.rpartition("/")[0]) as part:
            part.write_bytes(data)

    def remove(self, path: str) -> None:
        """Remove an object, if it is there."""
        with suppress(FileNotFoundError), _telling(path):
            self._fs.rm_file(self._bare(path))

    @contextmanager
    def fetched(self, path: str) -> Generator[Path]:
        """An object as a file of this machine, within the block."""
        with tempfile.TemporaryDirectory(prefix="bitsr-") as folder:
            local = Path(folder) / "input"
            with _telling(path):
                self._fs.get_file(self._bare(path), str(local))
            yield local

    @contextmanager
    def created(self, path: str, parts: str) -> Generator[Path]:
        """A name to write a file to, which becomes the object at the end of the block, or never.

        By one request where the store makes objects whole; else it is sent to a name in ``parts``
        and moved.
        """
        with tempfile.TemporaryDirectory(prefix="bitsr-") as folder:
            local = Path(folder) / "output"
            yield local
            with _telling(path):
                final = self._bare(path)
                if self._one_put:
                    self._fs.put_file(str(local), final)
                    return
                part = f"{self._bare(parts)}/{secrets.token_hex(8)}"
                self._make_folder(part.rpartition("/")[0])
                self._make_folder(final.rpartition("/")[0])
                self._fs.put_file(str(local), part)
                self._fs.mv(part, final)

    def _make_folder(self, bare: str) -> None:
        """Make a folder with those above it; other processes may be making them as well."""
        if bare in self._made:
            return
        for left in (2, 1, 0):
            self._fs.invalidate_cache()  # which may not know what others have made
            try:
                self._fs.makedirs(bare, exist_ok=True)
                break
            except Exception:
                if not left and not self._fs.isdir(bare):
                    raise
        self._made.add(bare)


@contextmanager
def _telling(place: str) -> Generator[None]:
    """Within the block, what a store's packages raise becomes what ``Remote`` says, with the place."""
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        number = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EACCES
        raise OSError(number, os.strerror(number), place) from None
    except Exception as error:
        raise BitsrError(f"{place}: {reason(error)}") from None


_LOCAL = Local()
_remote = cache(Remote)
