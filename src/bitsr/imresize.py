"""MATLAB's ``imresize(..., 'bicubic')`` in numpy: the resize behind every published SR table."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BitsrError


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel, a = -0.5 (Keys 1981), support [-2, 2], at a distance x."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def contributions(
    n_in: int, n_out: int, scale: float, antialias: bool = True
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Source indices and weights of each output sample along one axis.

    Returns (indices, weights), both (n_out, taps); each row of weights sums to 1, indices are
    folded into [0, n_in) by symmetric reflection as MATLAB does. Antialiasing widens the kernel by
    1/scale when scale < 1.
    """
    shrink = min(scale, 1.0) if antialias else 1.0
    width = 4.0 / shrink
    centre = (np.arange(n_out, dtype=np.float64) + 0.5) / scale - 0.5
    taps = int(np.ceil(width)) + 2
    first = np.floor(centre - width / 2 + 0.5).astype(np.int64)
    idx = first[:, None] + np.arange(taps)
    weights = shrink * cubic(shrink * (centre[:, None] - idx))
    weights /= weights.sum(axis=1, keepdims=True)
    period = np.concatenate([np.arange(n_in), np.arange(n_in)[::-1]])
    idx = period[idx % (2 * n_in)]
    used = np.any(weights != 0, axis=0)
    return idx[:, used].astype(np.intp), weights[:, used]


def _along_rows(x: NDArray[np.floating], n_out: int, scale: float, antialias: bool) -> NDArray[np.floating]:
    idx, weights = contributions(x.shape[0], n_out, scale, antialias)
    weights = weights.astype(x.dtype).reshape(weights.shape + (1,) * (x.ndim - 1))
    out = x[idx[:, 0]] * weights[:, 0]
    for tap in range(1, idx.shape[1]):
        out += x[idx[:, tap]] * weights[:, tap]
    return out


def resize(image: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.floating]:
    """An image (H, W) or (H, W, C) of reals at ``size`` (h, w) by the same kernel, antialiased,
    unclipped."""
    for axis in (0, 1):
        n = image.shape[axis]
        image = _along_rows(image.swapaxes(0, axis), size[axis], size[axis] / n, True).swapaxes(0, axis)
    return np.ascontiguousarray(image)


def imresize(
    image: NDArray[Any],
    scale: float | Fraction,
    antialias: bool = True,
    dtype: type[np.floating[Any]] = np.float64,
) -> NDArray[Any]:
    """Resize by ``scale`` as MATLAB's imresize does with the bicubic kernel.

    image: (H, W) or (H, W, C), any real dtype. Integer input gives the same integer dtype back,
    rounded half up and clipped to its range after each axis (rows first), as MATLAB does for uint8
    and uint16; float input gives ``dtype``, unclipped. Output size is ceil(size * scale). Raises
    BitsrError for an empty image or a scale that is not positive.
    """
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise BitsrError(f"imresize wants a non-empty (H, W) or (H, W, C) image, not shape {image.shape}")
    if not scale > 0:
        raise BitsrError(f"imresize wants a positive scale, not {scale}")
    exact = Fraction(scale).limit_denominator(10_000)
    integer = np.iinfo(image.dtype) if np.issubdtype(image.dtype, np.integer) else None
    x: NDArray[Any] = image.astype(dtype)
    for axis in (0, 1):
        n_out = -(-image.shape[axis] * exact.numerator // exact.denominator)
        x = _along_rows(x.swapaxes(0, axis), n_out, float(exact), antialias).swapaxes(0, axis)
        if integer:
            x = np.clip(np.floor(x + 0.5), integer.min, integer.max)
    return np.ascontiguousarray(x, image.dtype if integer else dtype)
