"""How nets get to the size of the SR image: interpolation, back-projection, steps of upsampling.

All is computed at the size of the LR image, in scale^2 channels that a shuffle turns into pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..imresize import cubic

Array = NDArray[np.float64]


def steps(scale: int) -> list[int]:
    """Factors of an upsampler that goes by 2 while it can, else once by the scale.

    4 gives [2, 2], 3 gives [3] and 1 gives [].
    """
    return [2] * (scale.bit_length() - 1) if scale & (scale - 1) == 0 else [scale]


def _triangle(x: Array) -> Array:
    """The kernel of bilinear interpolation at a distance x, at least 0."""
    return np.maximum(1 - x, 0)


KERNELS: dict[str, tuple[int, Callable[[Array], Array]]] = {
    "bilinear": (1, _triangle),
    "bicubic": (2, cubic),
}
"""LR pixels that a kernel reaches to each side, and its value at a distance."""


def _taps(scale: int, kernel: str) -> Array:
    """(scale, 2 reach + 1): weights of the LR pixels in each SR pixel of one, along an axis."""
    reach, value = KERNELS[kernel]
    # of an SR pixel from its LR pixel
    offset = (np.arange(scale) + 0.5) / scale - 0.5
    return value(np.abs(np.arange(-reach, reach + 1) - offset[:, None]))


def _separable(taps: Array) -> Array:
    """(scale, k) along an axis -> (scale^2, k, k)."""
    k = taps.shape[1]
    return (taps[:, None, :, None] * taps[None, :, None, :]).reshape(-1, k, k)


def _fixed(weight: Array, edge: bool) -> nn.Conv2d:
    """A convolution of these weights, (Cout, Cin, k, k), which are not trained.

    edge: beyond the image it reads the nearest pixel, else 0.
    """
    cout, cin, k, _ = weight.shape
    mode = "replicate" if edge else "zeros"
    conv = nn.Conv2d(cin, cout, k, padding=k // 2, padding_mode=mode, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(weight))  # pyright: ignore[reportUnknownMemberType]
    return conv.requires_grad_(False)


def interpolation(scale: int, kernel: str) -> nn.Conv2d:
    """The fixed convolution 1 -> scale^2 that, shuffled, is upsampling with half-pixel centres.

    Beyond the edge it reads the nearest pixel. "bilinear", 3x3, is
    ``F.interpolate(align_corners=False)``. "bicubic", 5x5, is MATLAB's imresize except for two LR
    pixels at the edge, where that mirrors the image.
    """
    return _fixed(_separable(_taps(scale, kernel))[:, None], edge=True)


class BackProjection(NamedTuple):
    """The fixed convolutions of ``back_projection``."""

    left: nn.Conv2d
    """1 -> 1, 7x7: 1 - A U, what bicubic upsampling leaves of the LR image."""
    shrink: nn.Conv2d
    """scale^2 -> 1, 5x5: -A. It reads 0 beyond the edge, where n, which is small, is taken as 0."""
    back: nn.Conv2d
    """1 -> scale^2, 7x7: B."""


def back_projection(scale: int) -> BackProjection:
    """Convolutions that move an SR image to the nearest one that shrinks to its LR image.

    Let A be MATLAB's bicubic shrinking, B its pseudoinverse, cut off after three LR pixels, and U
    bicubic upsampling. Of U x + n, the output of a net, y = (U x + n) + B (x - A (U x + n)) is the
    nearest image with A y = x, to a fiftieth: iterative back-projection (Irani and Peleg 1991) in
    one step; the range and null space of arXiv 2212.00490. As convolutions,
    y = U x + n + back(left(x) + shrink(n)).
    """
    up, reach = _taps(scale, "bicubic"), 2
    k = 2 * reach + 1
    # A: the SR pixel j of an LR pixel d away lies scale d + j - (scale - 1) / 2 from the middle.
    at = np.arange(-reach, reach + 1) * scale + np.arange(scale)[:, None] - (scale - 1) / 2
    down = cubic(np.abs(at / scale))
    down /= down.sum()
    # A along an axis for enough LR pixels that the middle ones do not see the ends.
    n = 41
    matrix = np.zeros((n, n + 2 * reach, scale))
    for i in range(n):
        matrix[i, i : i + k] = down.T
    inverse = np.linalg.pinv(matrix.reshape(n, -1)).reshape(n + 2 * reach, scale, n)
    back = inverse[n // 2 + reach, :, n // 2 - 3 : n // 2 + 4]
    # Even to the last bit, so that flipped images give flipped results.
    back = (back + back[::-1, ::-1]) / 2
    # Flat images shrink to what they should.
    back /= down.sum(1) @ back.sum(1)

    through = np.zeros(k + 2 * reach)  # A U
    for d in range(k):
        through[d : d + k] += down[:, d] @ up
    through = ((through + through[::-1]) / 2)[1:-1]  # bicubic shrinking does not reach the outermost
    left = -np.outer(through, through)
    left[3, 3] += 1
    return BackProjection(
        left=_fixed(left[None, None], edge=True),
        shrink=_fixed(-_separable(down)[None], edge=False),
        back=_fixed(_separable(back)[:, None], edge=True),
    )
