"""Colour around the luma net: pixels to luma, and SR luma plus bicubic chroma and alpha back to
pixels.

Pixels are (rows, W, C) uint8 or uint16; C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha. Luma
is int16, q = round(128 * (Y - 127.5)) with Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 for
8-bit R, G, B (BT.601 as MATLAB's rgb2ycbcr gives it); 16-bit samples are divided by 257 first. The
arithmetic is csrc/core/colour_rows.h.
"""

from __future__ import annotations

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


def merge(
    lr: NDArray[Any], sr_luma: NDArray[np.int16], scale: int, *, height: int, first: int = 0, y: int = 0
) -> NDArray[Any]:
    """SR pixels (n, scale*W, C) of SR rows [y, y + n): their luma, with chroma and alpha of ``lr``
    upscaled.

    lr: LR rows [first, first + rows) of an image ``height`` rows high, (rows, W, C); it must hold
    the two rows above and below those that [y, y + n) covers, where the image has them. sr_luma:
    (n, scale*W) int16. Chroma and alpha are bicubic (Keys, a = -0.5, symmetric reflection); samples
    are rounded half up and clipped. Raises BitsrError for shapes that do not fit and MemoryError.
    """
    lr, sr_luma = _check(lr), np.ascontiguousarray(sr_luma, np.int16)
    width, channels = lr.shape[1:]
    if sr_luma.ndim != 2 or sr_luma.shape[1] != scale * width:
        raise BitsrError(f"SR luma must be (n, {scale * width}), not {sr_luma.shape}")
    out = np.empty((len(sr_luma), scale * width, channels), lr.dtype)
    try:
        _core.merge(lr, height, first, scale, sr_luma, y, out)
    except _core.CoreError as error:
        text = str(error)
        raise (MemoryError if text.startswith("no memory") else BitsrError)(text) from None
    return out
