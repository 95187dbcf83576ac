"""Colour around the luma net: pixels to luma, and SR luma plus bicubic chroma and alpha back to pixels.

Pixels are (rows, W, C) uint8 or uint16; C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha. Luma is int16,
q = round(128 * (Y - 127.5)) with Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 for 8-bit R, G, B (BT.601
as MATLAB's rgb2ycbcr gives it); 16-bit samples are divided by 257 first. The arithmetic is csrc/colour.cpp.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from ._core import lib

_size, _int, _ptr = ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p
lib.bitsr_luma.argtypes = [_ptr, _int, _int, _size, _ptr]
lib.bitsr_merge.argtypes = [_ptr, *[_int] * 7, _ptr, _int, _int, _ptr, ctypes.c_char_p, _size]


def _check(pixels: NDArray) -> NDArray:
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"pixels must be (rows, W, 1 to 4) uint8 or uint16, not {pixels.shape} {pixels.dtype}"
        )
    return np.ascontiguousarray(pixels)


def luma(pixels: NDArray) -> NDArray[np.int16]:
    """Luma (rows, W) of pixels (rows, W, C)."""
    pixels = _check(pixels)
    rows, width, channels = pixels.shape
    q = np.empty((rows, width), np.int16)
    lib.bitsr_luma(pixels.ctypes.data, 8 * pixels.itemsize, channels, rows * width, q.ctypes.data)
    return q


def merge(
    lr: NDArray, sr_luma: NDArray[np.int16], scale: int, *, height: int, first: int = 0, y: int = 0
) -> NDArray:
    """SR pixels (n, scale*W, C) of SR rows [y, y + n): their luma, with chroma and alpha of ``lr`` upscaled.

    lr: LR rows [first, first + rows) of an image ``height`` rows high, (rows, W, C); it must hold the two
    rows above and below those that [y, y + n) covers, where the image has them. sr_luma: (n, scale*W)
    int16. Chroma and alpha are bicubic (Keys, a = -0.5, symmetric reflection); samples are rounded half up
    and clipped. Raises ValueError for shapes that do not fit and MemoryError.
    """
    lr, sr_luma = _check(lr), np.ascontiguousarray(sr_luma, np.int16)
    rows, width, channels = lr.shape
    if sr_luma.ndim != 2 or sr_luma.shape[1] != scale * width:
        raise ValueError(f"SR luma must be (n, {scale * width}), not {sr_luma.shape}")
    n = len(sr_luma)
    out = np.empty((n, scale * width, channels), lr.dtype)
    err = ctypes.create_string_buffer(128)
    code = lib.bitsr_merge(
        *(lr.ctypes.data, 8 * lr.itemsize, channels, height, width, first, rows, scale),
        *(sr_luma.ctypes.data, y, n, out.ctypes.data, err, len(err)),
    )
    if code < 0:
        text = err.value.decode()
        raise MemoryError(text) if text.startswith("no memory") else ValueError(text)
    return out
