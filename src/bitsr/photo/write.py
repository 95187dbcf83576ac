"""Image files out, by rows."""

from __future__ import annotations

import mmap
import os
import queue
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from ..files import NewFile, naming
from . import exif, others, png
from .apng import Joiner
from .fork import use_libvips
from .formats import FORMATS, PhotoError, reason
from .png import chunk


class Writer:
    """Writes an image from rows, top to bottom: a context manager that leaves the whole file or
    nothing.

    path: the file; its directory must exist. format: a key of FORMATS. height, width, channels,
    depth: of the rows to come; 16-bit rows go to 8 bits where the format has no more, and alpha
    goes over white in JPEG. metadata, resolution, delays, loop: as in Photo. encoding: what the
    encoder is told. frames: of an animation, or pages, in a format of ANIMATED; their rows come one
    frame after the other, and height is that of all. In PNG more than one is an animation. like: a
    file whose modification time and permissions the new one gets. ahead: strips of rows that may
    wait for the encoder.

    The image grows under a fresh name (``files.NewFile``) and is renamed when it is complete and on
    disk; leaving the block by any exception removes it. Raises OSError where the file cannot be
    made, BitsrError where the path is a device, a pipe or the like, and PhotoError where the image
    does not fit the format or the encoder fails.
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
        encoding: Encoding | None = None,
        frames: int = 1,
        delays: Sequence[int] = (),
        loop: int = 0,
        like: os.stat_result | None = None,
        ahead: int = 2,
    ):
        _, longest, bits = FORMATS[format]
        if max(height // frames, width) > longest:
            raise PhotoError(
                f"{width} x {height // frames} is too large for {format}, at most {longest} pixels a side"
            )
        if format == "jxl":
            others.jpeg_xl()  # says what to install before any work
        self.path, self.format, self.encoding = Path(path), format, encoding or Encoding()
        self._like = like
        self.shape, self.depth = (height, width, channels), min(depth, bits)
        self.metadata, self.resolution = metadata or {}, resolution
        self.frames, self.delays, self.loop = frames, list(delays), loop
        # The encoder pulls and we push: it runs in a thread of its own, a few bands behind, so
        # memory stays bounded, encoding overlaps with upscaling, and the main thread stays open to
        # Ctrl-C.
        self._bands: queue.Queue[bytes | None] = queue.Queue(maxsize=ahead)
        self._thread = threading.Thread(target=self._encode, name="bitsr-writer")
        self._error: BaseException | None = None
        self._stop = False
        self._new: NewFile | None = None
        self._left = height
        # PNG takes one frame a file, which are put together behind the encoder.
        self._files = frames if format == "png" else 1
        self._in_file = 0
        self._joiner: Joiner | None = None

    def __enter__(self) -> Writer:
        use_libvips()
        try:
            self._new = NewFile(self.path, like=self._like)
            self._thread.start()
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
        high = self.shape[0] // self._files
        if len(rows) > high - self._in_file:  # on to the next file
            n = high - self._in_file
            self.write(rows[:n])
            self.write(rows[n:])
            return
        if not self._in_file:
            self._begin()
        self._left -= len(rows)
        self._in_file = (self._in_file + len(rows)) % high
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
        self._put(chunk(b"IDAT", self._zlib.compress(lines.data)))
        if not self._in_file:
            self._put(chunk(b"IDAT", self._zlib.flush()) + chunk(b"IEND", b""))
            self._put(None)

    def _begin(self) -> None:
        self._zlib = zlib.compressobj(0)
        height, width, channels = self.shape
        colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        header = struct.pack(">IIBBBBB", width, height // self._files, self.depth, colour, 0, 0, 0)
        self._put(png.SIGNATURE + chunk(b"IHDR", header))

    def cancel(self) -> None:
        """End the encoder early, from any thread; leaving the block then raises, where it had not
        ended."""
        self._stop = True

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        done = False
        try:
            if kind is None:
                if self._left:
                    raise ValueError(f"{self._left} rows are missing")
                self._thread.join()
                if self._error:
                    raise self._error
                assert self._new is not None
                self._complete(self._new.file)
                self._new.commit()
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
        if self._new is not None:
            self._new.discard()

    def _put(self, data: bytes | None) -> None:
        while self._thread.is_alive():
            try:
                return self._bands.put(data, timeout=0.1)
            except queue.Full:
                continue
        if self._error or self._left:
            raise self._error or PhotoError("the encoder stopped before the image ended")

    def _encode(self) -> None:
        try:
            file = self._extended()
            for _ in range(self._files):
                if self._joiner:
                    self._joiner.frame()
                take = self._take()
                # Names of their own, so that the callbacks outlive the encoding.
                source, target = pyvips.SourceCustom(), self._target(file)
                source.on_read(take)  # pyright: ignore[reportArgumentType] (any bytes-like is fine)
                image = self._image(source)
                if self.format == "jxl":
                    with naming(self.path):
                        file(_jpeg_xl(image, self.encoding))
                else:
                    _SAVE[self.format](image, target, self.encoding)
                while take(1 << 20):  # what no decoder has asked for
                    pass
            if self._joiner:
                self._joiner.end()
        except pyvips.Error as error:
            self._error = self._error or PhotoError(reason(error))
        except BaseException as error:  # handed to the caller's thread
            self._error = error

    def _take(self) -> Callable[[int], bytes | memoryview]:
        """The read callback of libvips: up to size bytes of one file's bands, none after its end or
        when stopped."""
        band, over = memoryview(b""), False

        def take(size: int) -> bytes | memoryview:
            nonlocal band, over
            while not band and not over and not self._stop:
                try:
                    data = self._bands.get(timeout=0.05)
                except queue.Empty:
                    continue
                band, over = memoryview(data or b""), data is None
            piece, band = band[:size], band[size:]
            return piece

        return take

    def _extended(self) -> Callable[[bytes], object]:
        """A function that takes a file's bytes and writes them with what libvips does not write."""
        assert self._new is not None
        file, head = self._new.file, bytearray()
        at, extra = self._extra()
        if self._files > 1:
            height, width, _ = self.shape
            delays = [*self.delays, *[100] * self.frames][: self.frames]
            self._joiner = Joiner(
                lambda data: _write_all(file, data), (height // self.frames, width), delays, self.loop, extra
            )
            return self._joiner.write

        def write(data: bytes) -> None:
            nonlocal at
            if at < 0:
                _write_all(file, data)
                return
            # Behind the first bytes of the file, which say what it is.
            head.extend(data)
            if len(head) >= at:
                _write_all(file, head[:at] + extra + head[at:])
                at = -1

        return write

    def _target(self, write: Callable[[bytes], object]) -> pyvips.TargetCustom:
        """The new file, by calls of our own: libvips loses the system's reason for a failed
        write."""
        assert self._new is not None
        file, target = self._new.file, pyvips.TargetCustom()

        def guarded(call: Callable[..., Any], failed: int | None) -> Callable[..., Any]:
            def guard(*args: Any) -> Any:
                try:
                    return call(*args)
                except OSError as error:
                    self._error = OSError(error.errno, error.strerror, str(self.path))
                    return failed
                except ValueError:
                    # A signal has ended the image and closed its file, and libvips still writes.
                    if not file.closed:
                        raise
                    return failed

            return guard

        def taken(data: bytes) -> int:
            write(data)
            return len(data)

        target.on_write(guarded(taken, -1))
        target.on_read(guarded(file.read, None))
        target.on_seek(guarded(file.seek, -1))
        return target

    def _image(self, source: pyvips.Source) -> pyvips.Image:
        image = pyvips.Image.new_from_source(
            source, "", access="sequential", fail_on="error", unlimited=True
        ).copy(xres=self.resolution[0], yres=self.resolution[1])
        for name in ("icc-profile-data", "xmp-data"):
            if value := self.metadata.get(name):
                image.set_type(pyvips.GValue.blob_type, name, value)  # pyright: ignore[reportArgumentType] (bytes are fine)
        if self.format in _EXIF_BY_LIBVIPS and (block := self._exif()):
            image.set_type(pyvips.GValue.blob_type, "exif-data", b"Exif\0\0" + block)  # pyright: ignore[reportArgumentType] (bytes are fine)
        if self.frames > 1 and self._files == 1:
            image.set_type(pyvips.GValue.gint_type, "page-height", self.shape[0] // self.frames)
            image.set_type(pyvips.GValue.gint_type, "loop", self.loop)
            if self.delays:
                image.set_type(pyvips.GValue.array_int_type, "delay", self.delays)
        return image

    def _exif(self) -> bytes | None:
        block = self.metadata.get("exif-data")
        height, width, _ = self.shape
        return exif.sized(block, width, height // self.frames) if isinstance(block, bytes) else None

    def _bytes(self, name: str) -> bytes:
        value = self.metadata.get(name, b"")
        return value if isinstance(value, bytes) else value.encode()

    def _extra(self) -> tuple[int, bytes]:
        """What libvips does not write as it stands: (bytes before it, itself). (-1, b"") for
        nothing."""
        block, iptc = self._exif(), self._bytes("iptc-data")
        out: list[bytes] = []
        if self.format == "png":
            out += [self._bytes("png-chunks")]
            out += [chunk(b"eXIf", block)] if block else []
            out += [png.iptc_chunk(iptc)] if iptc else []
            out += [png.xmp_chunk(xmp)] if (xmp := self._bytes("xmp-data")) else []
            at = len(png.SIGNATURE) + 25
        elif self.format == "jpg":
            dpi = [min(max(round(25.4 * r), 1), 65535) for r in self.resolution]
            segments = [(0xE0, b"JFIF\0" + struct.pack(">HBHHH", 0x0102, 1, *dpi, 0))]
            segments += [(0xE1, b"Exif\0\0" + block)] if block else []
            segments += [(0xED, b"Photoshop 3.0\0" + png.resource(iptc))] if iptc else []
            out += [
                struct.pack(">BBH", 0xFF, m, len(data) + 2) + data
                for m, data in segments
                if len(data) < 65500
            ]
            at = 2
        else:
            return -1, b""
        extra = b"".join(out)
        return (at, extra) if extra else (-1, b"")

    def _complete(self, file: Any) -> None:
        """Metadata that can only be laid into a finished file: EXIF in WebP and TIFF."""
        block, iptc = self._exif(), self._bytes("iptc-data")
        if self.format == "webp":
            if iptc:  # WebP has no place of its own for it
                block = exif.with_iptc(block, iptc)
            if block:
                file.seek(0)
                whole = _webp_with_exif(file.read(), block, self.shape)
                file.seek(0)
                _write_all(file, whole)
        elif self.format == "tif" and (block or iptc):
            block = exif.with_iptc(block, iptc) if iptc else block
            file.flush()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                patch = exif.into_tiff(data, block or b"")
            if patch:
                where, first, end, tail = patch
                file.seek(end)
                _write_all(file, tail)
                file.seek(where)
                _write_all(file, first)


def _write_all(file: Any, data: bytes | bytearray) -> int:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    return len(data)


def _webp_with_exif(file: bytes, block: bytes, shape: tuple[int, int, int]) -> bytes:
    """A WebP file with an EXIF chunk at its end, in the extended format that this asks for."""
    body = file[12:]
    if body[:4] == b"VP8X":
        body = body[:8] + bytes([body[8] | 0x08]) + body[9:]
    else:
        height, width, channels = shape
        flags = 0x08 | (0x10 if channels in (2, 4) else 0)
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = b"VP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0]) + size + body
    body += b"EXIF" + struct.pack("<I", len(block)) + block + b"\0" * (len(block) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def colours_of(metadata: dict[str, bytes | str]) -> dict[str, bytes | str]:
    """Of an image's metadata what describes its colours: without it the image would look another."""
    out = {name: value for name, value in metadata.items() if name == "icc-profile-data"}
    kept = metadata.get("png-chunks")
    if isinstance(kept, bytes) and (colours := png.only(kept, png.COLOUR)):
        out["png-chunks"] = colours
    return out


def lost(metadata: dict[str, bytes | str], format: str) -> list[str]:
    """What of an image's metadata a format has no place for, one line each."""
    out: list[str] = []
    for name, text in (("exif-data", "EXIF"), ("iptc-data", "IPTC")):
        if format == "jpg" and len(metadata.get(name, b"")) > 65400:
            out.append(f"{text} dropped: it is too large for JPEG")
    if format in ("avif", "jxl") and metadata.get("iptc-data"):
        out.append(f"IPTC dropped: {format} has no place for it")
    kept = metadata.get("png-chunks")
    if format == "png" or not isinstance(kept, bytes):
        return out
    found = png.kinds(kept)
    if colour := sorted(kind.decode() for kind in found if kind in png.COLOUR and kind != b"sRGB"):
        out.append(f"{', '.join(colour)} dropped: {format} has no place for how PNG describes colours")
    if found & set(png.TEXT):
        out.append(f"text chunks dropped: {format} has no place for them")
    return out


@dataclass(frozen=True)
class Encoding:
    """What encoders are told.

    quality: 1 to 100, of JPEG, WebP, AVIF and JPEG XL. compression: of PNG, 0 (none) to 9 (small and
    slow). lossless: WebP, AVIF and JPEG XL that keep every pixel. progressive: JPEG that shows
    coarse first, for which the encoder holds the whole image. Raises PhotoError for other numbers.
    """

    quality: int = 95
    compression: int = 6
    lossless: bool = False
    progressive: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise PhotoError("quality must be 1 to 100")
        if not 0 <= self.compression <= 9:
            raise PhotoError("compression must be 0 to 9")

    def but(self, *, lossless: bool) -> Encoding:
        """The same with another ``lossless``."""
        return replace(self, lossless=lossless)


_EXIF_BY_LIBVIPS = frozenset({"avif", "jxl"})
# What libvips writes of the metadata: flags of VipsForeignKeep.
_EXIF, _XMP, _ICC = 1, 2, 8


def _save_png(image: pyvips.Image, target: pyvips.Target, encoding: Encoding) -> None:
    # Of the fixed filters the best for photos: a third smaller than none, in the same time.
    image.pngsave_target(target, compression=encoding.compression, filter="paeth", keep=_ICC)  # pyright: ignore[reportArgumentType] (names are fine)


def _save_jpg(image: pyvips.Image, target: pyvips.Target, encoding: Encoding) -> None:
    if image.hasalpha():
        image = image.flatten(background=[255])
    image.jpegsave_target(target, Q=encoding.quality, interlace=encoding.progressive, keep=_ICC | _XMP)


def _save_webp(image: pyvips.Image, target: pyvips.Target, encoding: Encoding) -> None:
    # exact: what is clear keeps its colour, as in every other format.
    image.webpsave_target(
        target, Q=encoding.quality, lossless=encoding.lossless, exact=encoding.lossless, keep=_ICC | _XMP
    )


def _save_gif(image: pyvips.Image, target: pyvips.Target, encoding: Encoding) -> None:
    image.gifsave_target(target)


def _save_tif(image: pyvips.Image, target: pyvips.Target, encoding: Encoding) -> None:
    size = image.width * image.height * image.bands * (2 if image.format == "ushort" else 1)
    image.tiffsave_target(
        target, compression="deflate", predictor="horizontal", bigtiff=size > 4 * 10**9, keep=_ICC | _XMP
    )


def _save_avif(image: pyvips.Image, target: pyvips.Target, encoding: Encoding) -> None:
    image.heifsave_target(
        target,
        Q=encoding.quality,
        lossless=encoding.lossless,
        compression="av1",  # pyright: ignore[reportArgumentType] (names are fine)
        bitdepth=12 if image.format == "ushort" else 8,
        effort=3,
        keep=_ICC | _XMP | _EXIF,
    )


def _jpeg_xl(image: pyvips.Image, encoding: Encoding) -> bytes:
    names = ("exif-data", "xmp-data", "icc-profile-data")
    metadata: dict[str, Any] = {name: image.get(name) for name in names if image.get_typeof(name)}
    pixels = np.frombuffer(image.write_to_memory(), np.uint8)
    shape = image.height, image.width, image.bands
    return others.encode_jpeg_xl(pixels.reshape(shape), encoding.quality, encoding.lossless, metadata)


_SAVE = {
    "png": _save_png,
    "jpg": _save_jpg,
    "webp": _save_webp,
    "tif": _save_tif,
    "gif": _save_gif,
    "avif": _save_avif,
}
