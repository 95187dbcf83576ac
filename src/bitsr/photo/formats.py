"""The formats of image files, and what libvips says of a bad one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pyvips

from .. import _core
from ..errors import BitsrError


def _silence() -> None:
    """What libvips warns of is judged here. pyvips hands it to Python's logging, where garbage may
    be collected: an image whose end is worth a warning too, and GLib aborts the process at a
    warning inside a warning."""
    library: Any = pyvips
    library._remove_log_handler()
    levels = library.GLogLevelFlags.LEVEL_WARNING | library.GLogLevelFlags.LEVEL_MESSAGE
    handler = library.ffi.cast("GLogFunc", _core.no_log())
    library.glib_lib.g_log_set_handler(b"VIPS", levels, handler, library.ffi.NULL)


_silence()

#: Output formats: the suffixes that mean them, the longest side they can hold, and the bits of a sample.
FORMATS = {
    "png": ((".png",), 2**31 - 1, 16),
    "jpg": ((".jpg", ".jpeg", ".jpe", ".jfif"), 65500, 8),
    "webp": ((".webp",), 16383, 8),
    "tif": ((".tif", ".tiff"), 2**31 - 1, 16),
    "gif": ((".gif",), 65535, 8),
    "avif": ((".avif",), 16384, 16),
    "jxl": ((".jxl",), 2**30 - 1, 8),
}
#: Output formats that hold several frames; TIFF's are pages, which have no times.
ANIMATED = frozenset({"png", "webp", "gif", "tif"})
_BY_PILLOW = frozenset(
    [
        ".bmp",
        ".dib",
        ".ico",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".tga",
        ".psd",
        ".jp2",
        ".j2k",
        ".jpx",
        ".pcx",
        ".dds",
        ".sgi",
        ".qoi",
    ]
)
_BY_HEIF, _BY_JXL = frozenset({".heic", ".heif", ".hif"}), frozenset({".jxl"})
# Other images by their suffixes: raw files of cameras, high dynamic range, what editors save.
_NEVER = frozenset(
    [
        ".exr",
        ".hdr",
        ".svg",
        ".xcf",
        ".kra",
        ".ai",
        ".eps",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".dng",
        ".raf",
        ".orf",
        ".rw2",
        ".pef",
        ".srw",
        ".wmf",
        ".emf",
        ".pfm",
    ]
)


def _if_installed(suffixes: frozenset[str], *packages: str) -> frozenset[str]:
    try:
        for package in packages:
            distribution(package)
    except PackageNotFoundError:
        return frozenset()
    return suffixes


#: Suffixes by which a folder's images are known, and those of images that are not read here.
SUFFIXES = frozenset(
    {suffix for name, (suffixes, _, _) in FORMATS.items() if name != "jxl" for suffix in suffixes}
    | _if_installed(_BY_PILLOW, "pillow")
    | _if_installed(_BY_HEIF, "pillow-heif")
    | _if_installed(_BY_JXL, "pillow", "pillow-jxl-plugin")
)
UNREAD = (_BY_PILLOW | _BY_HEIF | _BY_JXL | _NEVER) - SUFFIXES


def passed_over(paths: Iterable[Path]) -> str | None:
    """Of a folder's files, the images that are not read, in one line; None where there are none."""
    found = Counter(path.suffix.lower() for path in paths if path.suffix.lower() in UNREAD)
    if not found:
        return None
    packages = (
        ("pillow-heif", _BY_HEIF),
        ("pillow-jxl-plugin", _BY_JXL),
        ("pillow", _BY_PILLOW),
    )
    wanted = [name for name, suffixes in packages if suffixes & set(found)]
    total = sum(found.values())
    text = ", ".join(f"{n} {suffix}" for suffix, n in sorted(found.items(), key=lambda x: (-x[1], x[0])))
    files = "1 file of a format" if total == 1 else f"{total} files of formats"
    more = f" (pip install {' '.join(wanted)})" if wanted else ""
    return f"{files} that bitsr does not read: {text}{more}"


class PhotoError(BitsrError):
    """An image that cannot be read, or cannot be written as asked; the message is one line."""


def format_of(path: str | Path) -> str | None:
    """The output format that a path's suffix asks for, or None."""
    suffix = Path(path).suffix.lower()
    return next((name for name, (suffixes, _, _) in FORMATS.items() if suffix in suffixes), None)


_DAMAGE = re.compile(r"libpng read error|unable to parse image|Unexpected end of GIF.*|.*\(2\.\d+\)")
"""What libraries say of a PNG, WebP, GIF or AVIF (libheif's error 2) whose data end early or make no
sense."""
_UNTELLING = ("unable to call", "unable to fetch", "unable to copy")


def reason(error: pyvips.Error) -> str:
    """What libvips found, in one line: it reports a stack of causes, often the same one many
    times."""
    lines = [line.strip() for line in error.detail.splitlines() if line.strip()]
    # That a loader was called and failed says nothing: what its library said stands before, if it
    # said anything.
    telling = [line for line in [error.message, *lines] if not line.startswith(_UNTELLING)]
    text = telling[-1] if telling else "damaged or cut short"
    for line in lines:
        if "unix error" in line:
            return line.partition("unix error:")[2].strip() or text
        if "not in a known format" in line or "not a known file format" in line:
            return "not an image in a known format"
    text = re.sub(r"^\w+: ", "", text)
    return "damaged or cut short" if _DAMAGE.fullmatch(text) else text
