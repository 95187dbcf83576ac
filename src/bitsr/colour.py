"""Colour around the luma net: pixels to luma, and SR luma plus the chroma and alpha of LR
pixels back to pixels.

Pixels are (rows, W, C) uint8 or uint16; C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha. Luma
is int16, q = round(128 * (Y - 127.5)) with Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 for
8-bit R, G, B (BT.601 as MATLAB's rgb2ycbcr gives it); 16-bit samples are divided by 257 first. The
arithmetic is csrc/core/colour_rows.h.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .errors import BitsrError

_core.core()  # where the library is missing, importing this module says so


_DEPTHS = (np.dtype(np.uint8), np.dtype(np.uint16))


def _check(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or pixels.dtype not in _DEPTHS:
        raise BitsrError(
            f"pixels must be (rows, W, 1 to 4) uint8 or uint16, not {pixels.shape} {pixels.dtype}"
        )
    return np.ascontiguousarray(pixels)


def luma(pixels: NDArray[Any]) -> NDArray[np.int16]:
    """Luma (rows, W) of pixels (rows, W, C)."""
    pixels = _check(pixels)
    q = np.empty(pixels.shape[:2], np.int16)
    _core.luma(pixels, q)
    return q


FILL = 8
"""LR rows above and below that ``fill_clear`` looks at."""


def fill_clear(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pixels (rows, W, 2 or 4) with the colour of clear ones taken from those around them.

    What is clear has no colour of its own, and none must leak over the edge when an image is resized:
    colours are weighted by alpha, as in premultiplied images. A pixel keeps its colour by as much as it
    is opaque, and takes the rest from the 3x3 pixels around, weighted by their alpha; where these are
    clear too, from FILL - 2 pixels further at most. An opaque pixel stays as it is.
    """
    most = int(np.iinfo(pixels.dtype).max)
    alpha = pixels[..., -1]
    if (alpha == most).all() or not alpha.any():
        return pixels
    wide = np.int32 if most == 255 else np.int64
    weight = alpha.astype(wide)[..., None]
    own = pixels[..., :-1].astype(wide)
    total = _around(weight)
    known = total > 0
    fill = (_around(weight * own) + total // 2) // np.maximum(total, 1)
    for _ in range(FILL - 2):
        if known.all():
            break
        seen = known.astype(wide)
        total = _around(seen)
        fill = np.where(known, fill, (_around(seen * fill) + total // 2) // np.maximum(total, 1))
        known = total > 0
    out = pixels.copy()
    mixed = (weight * own + (most - weight) * fill + most // 2) // most
    out[..., :-1] = np.where(known, mixed, own)
    return out


def _around(x: NDArray[Any]) -> NDArray[Any]:
    """Sums over 3x3 pixels, none beyond the edges."""
    rows = x.copy()
    rows[1:] += x[:-1]
    rows[:-1] += x[1:]
    out = rows.copy()
    out[:, 1:] += rows[:, :-1]
    out[:, :-1] += rows[:, 1:]
    return out


def filled(strips: Iterable[NDArray[Any]], height: int) -> Iterator[NDArray[Any]]:
    """Strips of an image ``height`` rows high, each pixel as ``fill_clear`` of the whole has it."""
    window, first, pushed, done = None, 0, 0, 0  # rows [first, pushed)
    for strip in strips:
        if strip.shape[2] % 2:
            yield strip
            continue
        window = strip if window is None else np.concatenate((window, strip))
        pushed += len(strip)
        ready = height if pushed == height else pushed - FILL
        if ready <= done or (ready < height and ready - done < FILL):
            continue
        yield fill_clear(window)[done - first : ready - first]
        done = ready
        drop = max(done - FILL - first, 0)
        window, first = window[drop:], first + drop


REACH = 4
"""LR rows above and below an SR row that ``merge`` reads."""


def merge(
    lr: NDArray[Any],
    sr_luma: NDArray[np.int16],
    scale: int,
    *,
    height: int,
    first: int = 0,
    y: int = 0,
    smooth: bool = False,
) -> NDArray[Any]:
    """SR pixels (n, scale*W, C) of SR rows [y, y + n): their luma, with chroma and alpha of ``lr``
    upscaled.

    lr: LR rows [first, first + rows) of an image ``height`` rows high, (rows, W, C); it must hold
    the REACH rows above and below those that [y, y + n) covers, where the image has them. sr_luma:
    (n, scale*W) int16. Chroma is guided by the SR luma: it follows luma as it does in the LR pixels
    around. smooth: as it does in the mean of those, for images with compression artefacts or noise.
    Alpha is bicubic. No sample strays far from its 5x5 LR pixels where colours are strong or fill a
    part of them; one that is 0, or full, in all of those pixels stays so. Formulas: csrc/core/colour_rows.h.
    Raises BitsrError for shapes that do not fit and MemoryError.
    """
    lr, sr_luma = _check(lr), np.ascontiguousarray(sr_luma, np.int16)
    width, channels = lr.shape[1:]
    if sr_luma.ndim != 2 or sr_luma.shape[1] != scale * width:
        raise BitsrError(f"SR luma must be (n, {scale * width}), not {sr_luma.shape}")
    out = np.empty((len(sr_luma), scale * width, channels), lr.dtype)
    try:
        _core.merge(lr, height, first, scale, smooth, sr_luma, y, out)
    except _core.CoreError as error:
        text = str(error)
        raise (MemoryError if text.startswith("no memory") else BitsrError)(text) from None
    return out
