"""Antialiased reduction of an image by rows, in whole numbers: the same bytes on every machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .imresize import contributions

_core.core()  # where the library is missing, importing this module says so

_ONE = 1 << 14
"""A weight of 1 in csrc/core/reduce.cpp, which has the arithmetic."""
_ROWS = 16
"""Of the result, made at a time."""


def _weights(n_in: int, n_out: int) -> _core.Weights:
    """Of n_out samples along an axis that has n_in: samples and weights, both (n_out, taps)."""
    at, real = contributions(n_in, n_out, n_out / n_in)
    whole = np.rint(real * _ONE).astype(np.int32)
    # What rounding has taken or given goes to the largest, so that flat stays flat.
    whole[np.arange(n_out), whole.argmax(1)] += _ONE - whole.sum(1, dtype=np.int32)
    return np.ascontiguousarray(at, np.int32), np.ascontiguousarray(whole)


def reduced(
    strips: Iterable[NDArray[Any]], size: tuple[int, int], target: tuple[int, int]
) -> Iterator[NDArray[Any]]:
    """Yield an image of size (H, W) at ``target`` (h, w), as (n, w, C) arrays, while its rows come as
    (n, W, C) ones.

    strips: uint8 or uint16, C from 1 to 4, from top to bottom. target: at most the size, at least 1
    each way. The kernel is Keys' cubic, a = -0.5, widened by the factor of reduction, with symmetric
    reflection. Colours are weighted by alpha (C of 2 or 4). One rounding, half up, at the end, so
    strips change no sample. Memory follows the width.
    """
    if size == target:
        yield from strips
        return
    (height, width), (h, w) = size, target
    across = _weights(width, w)
    at, weights = _weights(height, h)
    lowest = np.minimum.accumulate(at.min(1)[::-1])[::-1]
    chunk = max(1, min(_ROWS, 2 * _ROWS * h // height))
    window, first, y = None, 0, 0  # rows [first, first + len(window)) are kept; y are done
    for strip in strips:
        window = strip if window is None else np.concatenate((window, strip))
        done: list[NDArray[Any]] = []
        while y < h:
            here = at[y : y + chunk]
            low, high = int(here.min()), int(here.max()) + 1
            if high > first + len(window):
                break
            rows = np.ascontiguousarray(window[low - first : high - first])
            out = np.empty((len(here), w, rows.shape[2]), rows.dtype)
            _core.reduce(rows, (here - low, weights[y : y + chunk]), across, out)
            done.append(out)
            y += chunk
        if done:
            yield np.concatenate(done)
        if y < h:
            drop = max(0, min(int(lowest[y]) - first, len(window)))
            window, first = window[drop:], first + drop
