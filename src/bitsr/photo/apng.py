"""Animated PNG: its frames decoded one after the other, and frames put together to a file.

libvips reads and writes PNG of one frame. A frame of an animation is such a PNG under other names:
its pixels stand in fdAT chunks in place of IDAT, behind an fcTL chunk that says where it goes and
when. (PNG specification, third edition, 2025, section 11.3.6.)
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from .formats import PhotoError, reason
from .png import SIGNATURE, chunk, chunks

_NOTHING, _BACKGROUND, _PREVIOUS = range(3)
"""What becomes of a frame's area before the next frame."""
_FOR_ALL = (b"PLTE", b"tRNS")
_CHECKED = (b"IHDR", b"acTL", b"fcTL", b"IDAT", b"fdAT", *_FOR_ALL)


@dataclass
class _Frame:
    x: int
    y: int
    width: int
    height: int
    delay: int
    dispose: int
    over: bool
    data: list[bytes | tuple[int, int]]


class Animation:
    """The frames of an animated PNG. Raises PhotoError where they make no sense.

    frames: how many. delays: milliseconds each. loop: how often it is shown, 0 for ever. channels:
    of the frames, 1 to 4; depth: 8 or 16.
    """

    def __init__(self, data: bytes | mmap.mmap, lenient: bool = False) -> None:
        self._data, self._lenient = data, lenient
        self._shared: list[bytes] = []
        self._frames: list[_Frame] = []
        self.loop = 0
        declared = 0
        for kind, start, end in chunks(data):
            body = data[start + 8 : end - 4] if kind in _CHECKED else b""
            sound = struct.unpack_from(">I", data, end - 4)[0] == zlib.crc32(body, zlib.crc32(kind))
            if kind in _CHECKED and not sound and not lenient:
                raise PhotoError(f"damaged or cut short: {kind.decode()} chunk")
            if kind == b"IHDR" and len(body) == 13:
                self._header = body
                self.width, self.height = struct.unpack(">II", body[:8])
            elif kind in _FOR_ALL:
                self._shared.append(data[start:end])
            elif kind == b"acTL" and len(body) == 8:
                declared, self.loop = struct.unpack(">II", body)
            elif kind == b"fcTL" and len(body) == 26:
                self._frames.append(self._control(body))
            elif kind == b"IDAT" and self._frames:  # else the still image, which is no frame
                self._frames[-1].data.append((start + 8, end - 4))
            elif kind == b"fdAT" and self._frames and end - start >= 16:
                self._frames[-1].data.append((start + 12, end - 4))
        if not self._frames or len(self._frames) != declared or not all(f.data for f in self._frames):
            raise PhotoError("damaged or cut short: frames are missing")
        first = self._frames[0]
        if (first.x, first.y, first.width, first.height) != (0, 0, self.width, self.height):
            raise PhotoError("the first frame is not as large as the image")
        self.frames, self.delays = len(self._frames), [frame.delay for frame in self._frames]
        image = self._opened(first)
        self.depth = 16 if image.format == "ushort" else 8
        # Without alpha a frame can only lie over what is there; unless that is cleared before.
        clears = any(frame.dispose == _BACKGROUND for frame in self._frames[:-1])
        self.channels: int = image.bands + (1 if clears and image.bands % 2 else 0)

    def _control(self, body: bytes) -> _Frame:
        _, width, height, x, y, over, under, dispose, blend = struct.unpack(">IIIIIHHBB", body)
        inside = 0 < width <= self.width - x and 0 < height <= self.height - y
        if not inside or dispose > _PREVIOUS or blend > 1:
            raise PhotoError("damaged: a frame lies outside the image")
        return _Frame(x, y, width, height, round(1000 * over / (under or 100)), dispose, blend == 1, [])

    def _opened(self, frame: _Frame) -> pyvips.Image:
        header = struct.pack(">II", frame.width, frame.height) + self._header[8:]
        parts = [part if isinstance(part, bytes) else self._data[slice(*part)] for part in frame.data]
        file = b"".join(
            [
                SIGNATURE,
                chunk(b"IHDR", header),
                *self._shared,
                chunk(b"IDAT", b"".join(parts)),
                chunk(b"IEND", b""),
            ]
        )
        fail_on: Any = "none" if self._lenient else "error"
        try:
            return pyvips.Image.pngload_buffer(file, fail_on=fail_on, unlimited=True)  # pyright: ignore[reportArgumentType] (bytes are fine)
        except pyvips.Error as error:
            raise PhotoError(reason(error)) from None

    def images(self) -> Iterator[NDArray[Any]]:
        """Each frame as it is to be seen: (H, W, channels) uint8 or uint16."""
        dtype = np.uint8 if self.depth == 8 else np.uint16
        canvas = np.zeros((self.height, self.width, self.channels), dtype)
        for i, frame in enumerate(self._frames):
            try:
                data = self._opened(frame).write_to_memory()
            except pyvips.Error as error:
                raise PhotoError(reason(error)) from None
            pixels = np.frombuffer(data, dtype).reshape(frame.height, frame.width, -1)
            if pixels.shape[2] < self.channels:
                opaque = np.full((*pixels.shape[:2], 1), np.iinfo(dtype).max, dtype)
                pixels = np.concatenate((pixels, opaque), axis=2)
            area = canvas[frame.y : frame.y + frame.height, frame.x : frame.x + frame.width]
            before = area.copy() if frame.dispose == _PREVIOUS and i else None
            area[:] = _over(pixels, area) if frame.over and self.channels % 2 == 0 else pixels
            yield canvas.copy()
            if before is not None:
                area[:] = before
            elif frame.dispose != _NOTHING:
                area[:] = 0


def _over(top: NDArray[Any], bottom: NDArray[Any]) -> NDArray[Any]:
    """Pixels with alpha over others, colours not multiplied."""
    most = int(np.iinfo(top.dtype).max)
    a, b = (x[..., -1:].astype(np.int64) for x in (top, bottom))
    weight_a, weight_b = a * most, b * (most - a)
    total = weight_a + weight_b
    colour = (weight_a * top[..., :-1] + weight_b * bottom[..., :-1] + total // 2) // np.maximum(total, 1)
    return np.concatenate((colour, (total + most // 2) // most), axis=2).astype(top.dtype)


class Joiner:
    """Puts PNG files of one frame each together to an animation: ``write`` takes what an encoder
    writes of one frame after the other, ``frame`` begins each, ``end`` the last.

    file: where the animation goes, a function of bytes. size: (height, width). delays: milliseconds.
    extra: chunks to follow the header.
    """

    def __init__(
        self,
        file: Callable[[bytes], object],
        size: tuple[int, int],
        delays: list[int],
        loop: int,
        extra: bytes,
    ) -> None:
        self._file, self._size, self._delays, self._extra = file, size, delays, extra
        self._loop, self._frame, self._number = loop, -1, 0
        self._data = bytearray()

    def frame(self) -> None:
        """The next frame begins."""
        self._frame += 1
        self._data.clear()
        self._began = self._pixels = False

    def write(self, data: bytes) -> None:
        """Take bytes of a frame's file."""
        self._data += data
        at = 0
        if not self._began:
            if len(self._data) < len(SIGNATURE):
                return
            self._began, at = True, len(SIGNATURE)
        while len(self._data) >= at + 12:
            length, kind = struct.unpack_from(">I4s", self._data, at)
            end = at + 12 + length
            if len(self._data) < end:
                break
            self._take(kind, bytes(self._data[at:end]))
            at = end
        del self._data[:at]

    def _take(self, kind: bytes, whole: bytes) -> None:
        if kind == b"IDAT":
            if not self._pixels:
                self._pixels = True
                self._control()
            if self._frame:
                whole = chunk(b"fdAT", self._count() + whole[8:-4])
            self._file(whole)
        elif self._frame == 0 and kind == b"IHDR":
            many = struct.pack(">II", len(self._delays), self._loop)
            self._file(SIGNATURE + whole + self._extra + chunk(b"acTL", many))
        elif self._frame == 0 and kind != b"IEND":
            self._file(whole)

    def _count(self) -> bytes:
        self._number += 1
        return struct.pack(">I", self._number - 1)

    def _control(self) -> None:
        height, width = self._size
        delay = Fraction(max(self._delays[self._frame], 0), 1000)
        if max(delay.numerator, delay.denominator) > 65535:
            delay = Fraction(min(round(delay), 65535))
        time = struct.pack(">HHBB", delay.numerator, delay.denominator, _NOTHING, 0)
        self._file(chunk(b"fcTL", self._count() + struct.pack(">IIII", width, height, 0, 0) + time))

    def end(self) -> None:
        """Nothing more comes."""
        self._file(chunk(b"IEND", b""))
