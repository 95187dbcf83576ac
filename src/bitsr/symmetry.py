"""The eight orientations of a square, and weights that are stored once for all of them.

Channels come in fields of eight, channel 8 f + i being field f in orientation i. A convolution
whose weights are tied over orientations (``train.equivariance``) has W[P o, P c, T t] = W[o, c, t]
for each orientation, T moving the taps and P the channels. The filters of its first orientation,
every eighth, are all there is to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = tuple[int, int, int, int]
ORIENTATIONS: tuple[Matrix, ...] = (
    (1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, 1), (-1, 0, 0, -1),
    (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0),
)  # fmt: skip
"""Matrices (a, b, c, d) on offsets (y, x): the identity; left and right, then top and bottom
changed; both; these four transposed. The first 2, 4 and 8 are groups."""


def times(m: Matrix, n: Matrix) -> Matrix:
    """The product of two matrices: first n, then m."""
    a, b, c, d = m
    e, f, g, h = n
    return a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h


def points(side: int, m: Matrix) -> NDArray[np.int64]:
    """(side^2,): where ``m`` takes each point of a square grid, by rows, about its centre."""
    at = 2 * np.arange(side) - (side - 1)  # twice the offset, so that it is whole
    y, x = at[:, None], at[None, :]
    a, b, c, d = m
    return ((a * y + b * x + side - 1) // 2 * side + (c * y + d * x + side - 1) // 2).ravel()


def fields(channels: int, order: int, m: Matrix) -> NDArray[np.int64]:
    """(channels,): where ``m``, one of the first ``order``, takes each channel of fields of so
    many."""
    moved = np.array([ORIENTATIONS.index(times(m, n)) for n in ORIENTATIONS[:order]])
    return (np.arange(0, channels, order)[:, None] + moved).ravel()


def expand_symmetric(weight: NDArray[Any]) -> NDArray[Any]:
    """The filters of all eight orientations, (8 F, k, k, C), from those of the first, (F, k, k, C).

    C is a multiple of 8.
    """
    f, k, _, c = weight.shape
    flat, out = weight.reshape(f, k * k, c), np.empty((f, 8, k * k, c), weight.dtype)
    for i, m in enumerate(ORIENTATIONS):
        out[:, i, points(k, m)[:, None], fields(c, 8, m)] = flat
    return out.reshape(8 * f, k, k, c)


def sum_over_orientations(run: Callable[[NDArray[Any]], NDArray[Any]], x: NDArray[Any]) -> NDArray[Any]:
    """The sum of what ``run`` makes of each of the eight orientations of x (h, w), moved back.

    It is eight times the self-ensemble of Timofte et al. (CVPR 2016). Integers are summed as int32
    at least.
    """
    total: NDArray[Any] | None = None
    for turn in range(8):
        y = np.rot90(run(np.ascontiguousarray(np.rot90(x.T if turn & 4 else x, turn & 3))), -(turn & 3))
        y = y.T if turn & 4 else y
        if total is None:
            total = y.astype(np.result_type(y, np.int32))
        else:
            total += y
    assert total is not None
    return total
