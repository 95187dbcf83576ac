"""Image files in and out, by rows. Nothing else in bitsr knows formats.

An image is never held whole where its format allows it: libvips decodes rows as they are asked for,
and encodes them as they come, so memory follows the width. Pixels are (rows, W, C) uint8 or uint16;
C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha. They are passed on as stored, with their ICC
profile beside them.
"""

from __future__ import annotations

import os
import queue
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from .errors import BitsrError

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


def _reason(error: pyvips.Error) -> str:
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


# ---- reading ----------------------------------------------------------------------------------------------


@dataclass
class Photo:
    """An image ready to be read, rows from top to bottom, once.

    channels: 1 to 4. depth: 8 or 16. metadata: ICC profile, EXIF and the like, under libvips'
    names, bytes or str. resolution: pixels a mm, (x, y). notes: what a user should know about how
    the file was taken.
    """

    height: int
    width: int
    channels: int
    depth: int
    metadata: dict[str, bytes | str]
    resolution: tuple[float, float]
    notes: list[str]
    _image: pyvips.Image = field(repr=False)

    def rows(self, n: int) -> Iterator[NDArray[Any]]:
        """Yield (n, W, C) arrays, the last one shorter. Raises PhotoError where the file is
        damaged."""
        region = pyvips.Region.new(self._image)
        dtype = np.uint8 if self.depth == 8 else np.uint16
        for y in range(0, self.height, n):
            m = min(n, self.height - y)
            try:
                data = region.fetch(0, y, self.width, m)
            except pyvips.Error as error:
                raise PhotoError(_reason(error)) from None
            yield np.frombuffer(data, dtype).reshape(m, self.width, self.channels)


def read(path: str | Path) -> Photo:
    """Open an image file; the pixels are decoded later, by ``Photo.rows``.

    EXIF orientation is applied. Palettes become RGB or RGBA; CMYK and Lab become sRGB; of several
    pages the first is taken. Raises OSError where the file cannot be opened and PhotoError where it
    is not an image, is damaged, or holds samples that are neither 8-bit nor 16-bit integers.
    """
    with Path(path).open("rb"):  # for the system's own words: missing, a directory, no permission
        pass
    try:
        return _photo(_open(os.fsencode(path)))
    except pyvips.Error as error:
        raise PhotoError(_reason(error)) from None


# Complaints of libjpeg that leave the pixels whole. Any other one means missing or invented pixels.
_HARMLESS = (
    "extraneous bytes",
    "Adobe color transform",
    "JFIF revision",
    "ICC marker",
    "progression sequence",
)


def _open(name: bytes) -> pyvips.Image:
    def load(fail_on: str) -> pyvips.Image:
        # A source, unlike new_from_file, takes brackets in a file's name for what they are.
        source = pyvips.Source.new_from_file(name)  # pyright: ignore[reportArgumentType] (bytes are fine)
        return pyvips.Image.new_from_source(source, "", access="sequential", fail_on=fail_on)

    image = load("error")
    if not _get(image, "vips-loader", "").startswith("jpeg"):
        return image
    # A JPEG cut short and closed with an end marker is only a warning to libjpeg, which paints the
    # rest grey. Strict reading also refuses harmless oddities of cameras; those show at the first
    # row.
    strict = load("warning")
    try:
        pyvips.Region.new(strict).fetch(0, 0, strict.width, 1)  # libvips keeps the first rows: no second pass
    except pyvips.Error as error:
        if any(text in error.detail for text in _HARMLESS):
            return image
        raise
    return strict


def _get(image: pyvips.Image, name: str, default: Any) -> Any:
    return image.get(name) if image.get_typeof(name) else default


def _photo(image: pyvips.Image) -> Photo:
    notes: list[str] = []
    pages = _get(image, "n-pages", 1)
    if pages > 1:
        notes.append(f"first of {pages} pages taken")
    orientation = _get(image, "orientation", 1)
    metadata = {
        name: _get(image, name, None)
        for name in image.get_fields()
        if name in ("icc-profile-data", "exif-data", "iptc-data") or name.startswith("exif-ifd")
    }
    # The pixels are about to be upright, and the thumbnail (IFD 1) would be of the image before.
    metadata.pop("exif-ifd0-Orientation", None)
    metadata = {k: v for k, v in metadata.items() if not k.startswith("exif-ifd1")}

    converted = _to_rgb(image)
    if converted is not image:
        model = str(image.interpretation)
        notes.append(f"{'Lab' if model.startswith('lab') else model.upper()} converted to sRGB")
        metadata.pop("icc-profile-data", None)
        if profile := _get(converted, "icc-profile-data", None):
            metadata["icc-profile-data"] = profile
    image = converted
    if image.format not in ("uchar", "ushort") or image.coding != "none":
        raise PhotoError(f"samples are {image.format}; bitsr takes 8-bit and 16-bit integers")
    if image.bands > 4:
        raise PhotoError(f"{image.bands} channels; bitsr takes grey or RGB, with or without alpha")
    wanted = b"GRAY" if image.bands < 3 else b"RGB "
    if metadata.get("icc-profile-data", b"")[16:20] not in (b"", wanted):
        del metadata["icc-profile-data"]
        notes.append("ICC profile of another colour model dropped")
    if orientation not in (0, 1):
        # Rotation reads columns: the one case that is held whole.
        image = image.copy_memory().autorot()
    return Photo(
        height=image.height,
        width=image.width,
        channels=image.bands,
        depth=8 if image.format == "uchar" else 16,
        metadata=metadata,
        resolution=(image.xres, image.yres),
        notes=notes,
        _image=image,
    )


def _to_rgb(image: pyvips.Image) -> pyvips.Image:
    """sRGB of a CMYK, Lab or other device-independent image; any other as it is."""
    if image.interpretation == "cmyk":
        depth = 16 if image.format == "ushort" else 8
        return image.icc_transform("srgb", embedded=True, input_profile="cmyk", depth=depth)
    if image.coding == "labq" or image.interpretation in ("lab", "labs", "lch", "xyz", "yxy", "cmc"):
        return image.colourspace("srgb")
    return image


# ---- writing ----------------------------------------------------------------------------------------------


class Writer:
    """Writes an image from rows, top to bottom: a context manager that leaves the whole file or
    nothing.

    path: the file; its directory must exist. format: a key of FORMATS. height, width, channels,
    depth: of the rows to come; 16-bit rows go to 8 bits where the format has no more, and alpha
    goes over white in JPEG. metadata, resolution: as in Photo. quality: 1 to 100 for JPEG and WebP.

    The image grows in PATH.part and is renamed when it is complete and on disk; leaving the block
    by any exception removes it. Raises OSError where the file cannot be made and PhotoError where
    the image does not fit the format or the encoder fails.
    """

    def __init__(
        self,
        path: str | Path,
        format: str,
        height: int,
        width: int,
        channels: int,
        depth: int,
        *,
        metadata: dict[str, bytes | str] | None = None,
        resolution: tuple[float, float] = (1.0, 1.0),
        quality: int = 95,
    ):
        _, longest, bits = FORMATS[format]
        if max(height, width) > longest:
            raise PhotoError(f"{width} x {height} is too large for {format}, at most {longest} pixels a side")
        self.path, self.format, self.quality = Path(path), format, quality
        self.shape, self.depth = (height, width, channels), min(depth, bits)
        self.metadata, self.resolution = metadata or {}, resolution
        self._part = self.path.with_name(self.path.name + ".part")
        # The encoder pulls and we push: it runs in a thread of its own, at most two bands behind,
        # so memory stays bounded, encoding overlaps with upscaling, and the main thread stays open
        # to Ctrl-C.
        self._bands: queue.Queue[bytes] = queue.Queue(maxsize=2)
        self._thread = threading.Thread(target=self._encode, name="bitsr-writer")
        self._error: BaseException | None = None
        self._stop = self._ended = False
        self._file: Any = None
        self._left = height

    def __enter__(self) -> Writer:
        self._zlib = zlib.compressobj(0)
        height, width, channels = self.shape
        colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        header = struct.pack(">IIBBBBB", width, height, self.depth, colour, 0, 0, 0)
        self._bands.put(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header))
        try:
            self._file = self._part.open("w+b", buffering=0)
            self._thread.start()
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(self.path)) from None
        except RuntimeError as error:  # the system has no more threads
            self._abandon()
            raise OSError(f"no thread for the encoder: {error}") from None
        except BaseException:  # Ctrl-C, or SIGTERM, before the block is entered: it is never left then
            self._abandon()
            raise
        return self

    def write(self, rows: NDArray[Any]) -> None:
        """Append (n, W, C) rows, uint8 or uint16 as the depth given."""
        if rows.shape[1:] != self.shape[1:] or len(rows) > self._left:
            raise ValueError(f"rows of shape {rows.shape} do not fit an image of {self.shape}")
        self._left -= len(rows)
        if rows.itemsize * 8 > self.depth:
            rows = ((rows.astype(np.uint32) * 255 + 32895) >> 16).astype(np.uint8)  # round(v / 257)
        # libvips takes rows through a loader, and PNG is the one that streams every kind of pixel
        # and that every build has: rows with filter byte 0 in stored blocks, which cost about as
        # much as a copy.
        n, width, channels = rows.shape
        pitch = width * channels * rows.itemsize
        lines = np.empty((n, 1 + pitch), np.uint8)
        lines[:, 0] = 0
        big = rows.astype(">u2") if rows.itemsize == 2 else np.ascontiguousarray(rows)
        lines[:, 1:] = big.view(np.uint8).reshape(n, pitch)
        self._put(_chunk(b"IDAT", self._zlib.compress(lines.data)))

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        done = False
        try:
            if kind is None:
                if self._left:
                    raise ValueError(f"{self._left} rows are missing")
                self._put(_chunk(b"IDAT", self._zlib.flush()) + _chunk(b"IEND", b""))
                self._ended = True
                self._thread.join()
                if self._error:
                    raise self._error
                os.fsync(self._file.fileno())
                self._file.close()
                self._part.replace(self.path)
                done = True
        finally:
            if not done:
                self._abandon()

    def _abandon(self) -> None:
        self._stop = True
        while self._thread.is_alive():  # its next read of bands finds the end, and the encoder fails
            try:
                self._bands.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)
        if self._file is not None:  # None: opened, but a signal came before it was ours
            self._file.close()
        self._part.unlink(missing_ok=True)

    def _put(self, data: bytes) -> None:
        while self._thread.is_alive():
            try:
                return self._bands.put(data, timeout=0.1)
            except queue.Full:
                continue
        if self._error or self._left:
            raise self._error or PhotoError("the encoder stopped before the image ended")

    def _encode(self) -> None:
        try:
            source = pyvips.SourceCustom()  # a name of its own, so that the callback outlives the encoding
            source.on_read(self._take())  # pyright: ignore[reportArgumentType] (any bytes-like is fine)
            image = self._image(source)
            target = self._target()
            _SAVE[self.format](image, target, self.quality)
        except pyvips.Error as error:
            self._error = self._error or PhotoError(_reason(error))
        except BaseException as error:  # handed to the caller's thread
            self._error = error

    def _take(self) -> Callable[[int], bytes | memoryview]:
        """The read callback of libvips: up to size bytes of the bands to come, none when
        stopped."""
        band = memoryview(b"")

        def take(size: int) -> bytes | memoryview:
            nonlocal band
            while not band:
                # Read before the queue is looked at: what was put before the end is still taken.
                over = self._stop or self._ended
                try:
                    band = memoryview(self._bands.get(timeout=0 if over else 0.05))
                except queue.Empty:
                    if over:
                        return b""
            piece, band = band[:size], band[size:]
            return piece

        return take

    def _target(self) -> pyvips.TargetCustom:
        """The part file, by calls of our own: libvips loses the system's reason for a failed
        write."""
        file, target = self._file, pyvips.TargetCustom()

        def guarded(call: Callable[..., Any], failed: int | None) -> Callable[..., Any]:
            def guard(*args: Any) -> Any:
                try:
                    return call(*args)
                except OSError as error:
                    self._error = error
                    return failed

            return guard

        target.on_write(guarded(file.write, -1))
        target.on_read(guarded(file.read, None))
        target.on_seek(guarded(file.seek, -1))
        return target

    def _image(self, source: pyvips.Source) -> pyvips.Image:
        image = pyvips.Image.new_from_source(
            source, "", access="sequential", fail_on="error", unlimited=True
        ).copy(xres=self.resolution[0], yres=self.resolution[1])
        for name, value in self.metadata.items():
            kind = pyvips.GValue.blob_type if isinstance(value, bytes) else pyvips.GValue.gstr_type
            image.set_type(kind, name, value)  # pyright: ignore[reportArgumentType] (bytes are fine)
        if "exif-data" in self.metadata:  # rows come upright; the EXIF block still says how they once lay
            image.set_type(pyvips.GValue.gint_type, "orientation", 1)
        return image


def _chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(data, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", crc)))


def _save_png(image: pyvips.Image, target: pyvips.Target, quality: int) -> None:
    # Of the fixed filters the best for photos: a third smaller than none, in the same time.
    image.pngsave_target(target, filter="paeth")  # pyright: ignore[reportArgumentType] (names are fine)


def _save_jpg(image: pyvips.Image, target: pyvips.Target, quality: int) -> None:
    if image.hasalpha():
        image = image.flatten(background=[255])
    image.jpegsave_target(target, Q=quality)


def _save_webp(image: pyvips.Image, target: pyvips.Target, quality: int) -> None:
    image.webpsave_target(target, Q=quality)


def _save_tif(image: pyvips.Image, target: pyvips.Target, quality: int) -> None:
    size = image.width * image.height * image.bands * (2 if image.format == "ushort" else 1)
    image.tiffsave_target(target, compression="deflate", predictor="horizontal", bigtiff=size > 4 * 10**9)


_SAVE = {"png": _save_png, "jpg": _save_jpg, "webp": _save_webp, "tif": _save_tif}
