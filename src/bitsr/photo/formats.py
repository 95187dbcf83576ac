"""The formats of image files, and what libvips says of a bad one."""

from __future__ import annotations

import re
from pathlib import Path

import pyvips

from ..errors import BitsrError

#: Output formats: the suffixes that mean them, the longest side they can hold, and the bits of a sample.
FORMATS = {
    "png": ((".png",), 2**31 - 1, 16),
    "jpg": ((".jpg", ".jpeg", ".jpe", ".jfif"), 65500, 8),
    "webp": ((".webp",), 16383, 8),
    "tif": ((".tif", ".tiff"), 2**31 - 1, 16),
}
#: Suffixes by which a folder's images are known.
SUFFIXES = frozenset(s for f in FORMATS.values() for s in f[0]) | {".gif", ".heic", ".heif", ".avif", ".bmp"}


class PhotoError(BitsrError):
    """An image that cannot be read, or cannot be written as asked; the message is one line."""


def format_of(path: str | Path) -> str | None:
    """The output format that a path's suffix asks for, or None."""
    suffix = Path(path).suffix.lower()
    return next((name for name, (suffixes, _, _) in FORMATS.items() if suffix in suffixes), None)


def reason(error: pyvips.Error) -> str:
    """What libvips found, in one line: it reports a stack of causes, often the same one many
    times."""
    lines = [line.strip() for line in error.detail.splitlines() if line.strip()]
    # That a loader was called and failed says nothing: what its library said stands before, if it
    # said anything.
    telling = [line for line in [error.message, *lines] if not line.startswith("unable to call")]
    text = telling[-1] if telling else "damaged or cut short"
    for line in lines:
        if "unix error" in line:
            return line.partition("unix error:")[2].strip() or text
        if "not in a known format" in line or "not a known file format" in line:
            return "not an image in a known format"
    return re.sub(r"^\w+: ", "", text)
