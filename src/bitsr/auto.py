"""Which net an image wants, by how its file was compressed, its blocks and its noise.

A clean net keeps all that an image shows, compression artefacts and noise included. A photo net
removes them, and a little fine detail with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import colour, photo
from .errors import BitsrError
from .sizes import Size, passes
from .upscaler import Upscaler, load
from .zoo import ZOO
from .zoo import choose as find_default

BEST_JPEG = 90
"""JPEGs of this quality or less are restored: where photo nets gain by PSNR
(docs/experiments/photo-net.md)."""
LEAST_WEBP = 24
"""WebPs of this quantiser index or more are restored: libwebp's quality 82 or less."""
LEAST_NOISE = 2.0
"""Levels of luma, 0 to 255, from which an image counts as noisy."""
TEXTURE = 0.7
"""Share of the noise that the deviation of quarters of flat blocks stays below; white noise has 0.2."""
EACH, BOTH = 1.15, 3.0
"""How many times as often luma steps between the blocks of a JPEG as at the second most frequent
place: least in rows and in columns, and least product of the two."""
LEAST_STEPS = 0.002
"""Share of pixels with a step from which blocks are looked for."""
_STANDARD_SUM = 3688
"""Sum of the luma quantisation table in Annex K of the JPEG standard (ITU-T T.81), quality 50."""
AUTO = "auto"
"""As the name of a net: ``Chooser``."""
PHOTO = "bitsr-photo-m"
"""Of the photo nets the one that is chosen, where the scale has it."""
_STRIP = 64
_STRIPS = 24
_LARGE = 10_000
"""The side of an image that stands for all: the rounding of its size to pixels counts for little."""


def jpeg_quality(data: bytes) -> int | None:
    """The quality, 1 to 100, of a JPEG by its first quantisation table; None for what is no JPEG.

    By the scale that libjpeg gives the standard table; other tables count by their sum. data: the
    file's first bytes, up to the first scan.
    """
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # fill
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if data[at + 1] == 0xDB and body and body[0] & 15 == 0:
            table = np.frombuffer(
                body[1:129] if body[0] >> 4 else body[1:65], ">u2" if body[0] >> 4 else "u1"
            )
            if len(table) < 64:
                return None
            percent = 100 * float(table.sum()) / _STANDARD_SUM
            quality = 100 - percent / 2 if percent <= 100 else 5000 / percent
            return round(min(max(quality, 1), 100))
        at += 2 + length
    return None


def webp_quantiser(data: bytes) -> int | None:
    """The quantiser index, 0 to 127, of a lossy WebP's first frame (RFC 6386, section 9.6); None for
    other files. libwebp's quality 75 is 36, 90 is 12.

    data: the file's first bytes, with the first 200 of that frame.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    at = data.find(b"VP8 ", 12)
    frame = data[at + 8 :]
    if at < 0 or frame[3:6] != b"\x9d\x01\x2a":  # the start code of a key frame
        return None
    bits = _BoolDecoder(frame[10:])
    bits.number(2)  # colour space, clamping
    if bits.number(1):  # segments
        new_map, new_data = bits.number(1), bits.number(1)
        if new_data:
            bits.number(1)
            for size in (7, 7, 7, 7, 6, 6, 6, 6):
                bits.optional(size + 1)
        if new_map:
            for _ in range(3):
                bits.optional(8)
    bits.number(10)  # the loop filter
    if bits.number(1) and bits.number(1):
        for _ in range(8):
            bits.optional(7)
    bits.number(2)  # partitions
    return bits.number(7)


class _BoolDecoder:
    """The arithmetic decoder of VP8 (RFC 6386, section 7), for bits of even odds. Beyond the data
    are zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)
        self._value = next(self._data, 0) << 8 | next(self._data, 0)
        self._range, self._shifted = 255, 0

    def _bit(self) -> int:
        split = (self._range + 1) >> 1
        one = self._value >= split << 8
        self._value -= (split << 8) * one
        self._range = self._range - split if one else split
        while self._range < 128:
            self._value, self._range, self._shifted = self._value << 1, self._range << 1, self._shifted + 1
            if self._shifted == 8:
                self._shifted = 0
                self._value |= next(self._data, 0)
        return int(one)

    def number(self, size: int) -> int:
        value = 0
        for _ in range(size):
            value = value << 1 | self._bit()
        return value

    def optional(self, size: int) -> None:
        if self.number(1):
            self.number(size)


Blocks = tuple[NDArray[np.floating], NDArray[np.floating]]
"""Of the 8x8 blocks of a strip that are neither near black nor near white, where noise is cut off:
the deviation of the means of their quarters, and that of their noise."""


def _blocks(luma: NDArray[np.floating]) -> Blocks:
    """Noise by the difference of two Laplacians (Immerkaer 1996, "Fast noise variance estimation"),
    which is blind to planes. Empty for less than 10 rows or columns."""
    if min(luma.shape) < 10:
        return np.empty(0, luma.dtype), np.empty(0, luma.dtype)
    sides = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    corners = luma[:-2, :-2] + luma[:-2, 2:] + luma[2:, :-2] + luma[2:, 2:]
    rough = (corners - 2 * sides + 4 * luma[1:-1, 1:-1]) / 6
    rows, columns = rough.shape[0] // 8, rough.shape[1] // 8

    def blocks(x: NDArray[np.floating]) -> NDArray[np.floating]:
        return x[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8).swapaxes(1, 2).reshape(-1, 8, 8)

    rough, levels = blocks(rough), blocks(luma[1:-1, 1:-1])
    seen = (levels.min((1, 2)) > 20) & (levels.max((1, 2)) < 235)
    coarse = levels[seen].reshape(-1, 2, 4, 2, 4).mean((2, 4)).reshape(-1, 4)
    return coarse.std(1), np.sqrt(np.square(rough[seen]).mean((1, 2)))


def noise_level(strips: Sequence[NDArray[np.floating]]) -> float:
    """The deviation of noise in strips of luma (h, w), in its own unit: the median over the flattest
    tenth of all their 8x8 blocks.

    0 for less than 16 blocks, and where even the flattest have more structure than noise: what looks
    like noise there is texture.
    """
    found = [_blocks(strip) for strip in strips]
    coarse = np.concatenate([part[0] for part in found])
    rough = np.concatenate([part[1] for part in found])
    if len(coarse) < 16:
        return 0.0
    flat = np.argsort(coarse, kind="stable")[: max(16, len(coarse) // 10)]
    noise = float(np.median(rough[flat]))
    return noise if np.median(coarse[flat]) < TEXTURE * noise else 0.0


def _steps(luma: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Of each pixel but the outer three of a row (h, w): whether luma makes a small step behind it,
    between parts that are flatter."""
    change = np.abs(np.diff(luma, axis=1))
    step, beside = change[:, 1:-1], np.maximum(change[:, :-2], change[:, 2:])
    return (step > 0.75) & (step < 12) & (step > 2 * beside)


def has_blocks(strips: Sequence[NDArray[np.floating]]) -> bool:
    """Whether strips of luma (h, w), in levels, show the 8x8 blocks of a JPEG's strong compression,
    wherever its first block begins.

    Small steps between flatter parts fall on every eighth row and column there, and anywhere in
    other images. Where all of them do, pixels were enlarged.
    strips: each begins a multiple of 8 rows below the first.
    """
    ratios: list[float] = []
    for turned in (False, True):
        hits, pixels = np.zeros(8), np.zeros(8)
        for strip in strips:
            where = _steps(strip.T if turned else strip)
            for phase in range(8):
                hits[phase] += where[:, phase::8].sum()
                pixels[phase] += where[:, phase::8].size
        *_, second, first = np.sort(hits / np.maximum(pixels, 1))
        many = hits.sum() > LEAST_STEPS * pixels.sum()
        ratios.append(float(first / second) if second and many else 0.0)
    return min(ratios) > EACH and math.prod(ratios) > BOTH


def faults(path: Path, image: photo.Photo | None = None) -> str:
    """What speaks for a photo net, in a few words ("JPEG of quality 74"); "" where nothing does.

    path: the file. image: itself as it was opened, which is then held (``Photo.hold``) where its
    pixels are looked at, so that its rows can still be read; without it, or where it is too large
    to hold, the file is opened anew and read. Raises as ``photo.read``.
    """
    with path.open("rb") as file:
        head = file.read(1 << 18)
    quality = jpeg_quality(head)
    if quality is not None and quality <= BEST_JPEG:
        return f"JPEG of quality {quality}"
    quantiser = webp_quantiser(head)
    if quantiser is not None and quantiser >= LEAST_WEBP:
        return "strongly compressed WebP"
    if image is None or not image.hold():
        image = photo.read(path, allow_damaged=bool(image and image.lenient))
    every = max(1, image.height // image.frames // (_STRIP * _STRIPS))
    strips = [
        colour.luma(np.ascontiguousarray(rows)).astype(np.float32) / 128 + 127.5
        for i, rows in enumerate(image.rows(_STRIP, 0))
        if i % every == 0
    ]
    if has_blocks(strips):
        return "blocks of a JPEG"
    noise = noise_level(strips)
    return f"noise of {noise:.0f} levels" if noise >= LEAST_NOISE else ""


class Chooser:
    """Nets, of which an image gets those that reach the size it is to have.

    scale: what they enlarge by where no size is asked for, a number from 1 on; None is 4, or that
    of ``net``. net: an Upscaler, the name of a net, or of several without their scale ("bitsr-l"),
    or the path of a .bsr file; None the default nets, and with ``restore`` for images that want it
    (``faults``) the photo net, where the folder has one. folder, threads: as in ``upscaler.load``,
    and so is what is raised.
    """

    def __init__(
        self,
        scale: float | None = None,
        *,
        net: str | Path | Upscaler | None = None,
        restore: bool = True,
        folder: str | Path = ZOO,
        threads: int | None = None,
    ) -> None:
        self._threads = threads
        self._photo: dict[int, Upscaler | Path] = {}
        self._clean: dict[int, Upscaler | Path] = {}
        if net is None:
            self._clean.update(_default_nets(folder))
            if restore:
                self._photo.update(_by_scale(PHOTO, folder))
        elif not isinstance(net, Upscaler) and (several := _by_scale(str(net), folder)):
            self._clean.update(several)
        else:
            one = net if isinstance(net, Upscaler) else load(net, folder=folder, threads=threads)
            self._clean[one.scale] = one
        self.scale = scale or (4 if 4 in self._clean else max(self._clean))
        if scale:
            self._first(restore=False)  # what is wrong with a scale or its net shows here

    @property
    def clean(self) -> Upscaler:
        """The net of an image without faults, at ``scale``; of several the first."""
        return self._first(restore=False)

    @property
    def photo(self) -> Upscaler | None:
        """The net of an image with faults, or None where there is no other."""
        return self._first(restore=True) if self._photo else None

    def _first(self, *, restore: bool) -> Upscaler:
        return self.chain((100, 100), Size(scale=self.scale).of(100, 100), restore=restore)[0]

    def _load(self, nets: dict[int, Upscaler | Path], scale: int) -> Upscaler:
        net = nets[scale]
        if not isinstance(net, Upscaler):
            net = nets[scale] = load(net, threads=self._threads)
        return net

    def chain(
        self, size: tuple[int, int], target: tuple[int, int], *, restore: bool = False
    ) -> list[Upscaler]:
        """The nets that one after the other make an image of ``size``, (height, width), at least as
        large as ``target``; with restore the first of them is a photo net, where there is one.

        Raises BitsrError where they would be too many, and as ``load``.
        """
        first = self._photo if restore and self._photo else self._clean
        scales = passes(size, target, first, self._clean)
        return [self._load(first if i == 0 else self._clean, scale) for i, scale in enumerate(scales)]

    def every(self, size: Size) -> list[Upscaler]:
        """All nets that images may get which are to have ``size``: for a scale those of its chains,
        for sides in pixels every one. Raises as ``chain``."""
        if size.fixed:
            return [self._load(nets, scale) for nets in (self._clean, self._photo) for scale in nets]
        return [
            net
            for restore in (False, True)
            for net in self.chain((_LARGE, _LARGE), size.of(_LARGE, _LARGE, self.scale), restore=restore)
        ]

    def pick(
        self,
        path: str | Path,
        target: tuple[int, int] | None = None,
        image: photo.Photo | None = None,
    ) -> tuple[list[Upscaler], str]:
        """The nets for an image file, and why a photo net is one of them (``faults``), or "".

        target: (height, width) that they must reach, by default ``scale`` times the image. image: as
        in ``faults``. Raises as ``photo.read`` and ``chain``.
        """
        image = image or photo.read(path)
        size = image.height // image.frames, image.width
        why = faults(Path(path), image) if self._photo else ""
        return self.chain(size, target or Size(scale=self.scale).of(*size), restore=bool(why)), why


def _by_scale(net: str, folder: str | Path) -> dict[int, Path]:
    paths = {scale: Path(folder) / f"{net}-x{scale}.bsr" for scale in (2, 3, 4)}
    return {scale: path for scale, path in paths.items() if path.is_file()}


def _default_nets(folder: str | Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for scale in (2, 3, 4):
        with suppress(BitsrError):
            found[scale] = find_default(None, scale, folder)
    return found or {4: find_default(None, None, folder)}  # whose error says what there is


def choose(
    net: str | Path | None,
    scale: float | None = None,
    *,
    folder: str | Path = ZOO,
    threads: int | None = None,
) -> Chooser:
    """What a command line's -n and -s mean: a ``Chooser``, for None and "auto" of the default nets and
    the photo nets.

    Raises as that does.
    """
    return Chooser(scale, net=None if net == AUTO else net, folder=folder, threads=threads)
