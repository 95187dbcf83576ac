"""Chroma planes enlarged by bicubic interpolation, with their siting kept.

A chroma sample need not lie in the middle of its luma samples: in most video it lies on the left. The
enlarged plane has the same siting, so its samples fall between those of the small one by other
fractions than in the middle. Keys' cubic, a = -0.5, symmetric reflection at the edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

REACH = 3
"""Samples of the small plane that a sample sees to each side, at most."""


@dataclass(frozen=True)
class Axis:
    """One way across a plane: ``size`` samples become ``out``, ``scale`` times as dense.

    share: luma samples a chroma sample. site: how far in luma samples a chroma sample lies behind
    the first of them. Luma is enlarged about pixel centres: its sample x comes to
    scale (x + 0.5) - 0.5. A chroma sample i at luma share i + site has to end where the enlarged
    frame, which is sited alike, has its chroma.
    """

    size: int
    out: int
    scale: int
    share: int
    site: float

    def phases(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Of each phase p of ``scale`` the first sample and the four taps.

        Sample scale i + p of the enlarged plane has them from sample i + first on.
        """
        shift = (self.site + 0.5) * (1 / self.scale - 1) / self.share
        out: list[tuple[int, NDArray[np.float32]]] = []
        for p in range(self.scale):
            at = p / self.scale + shift
            t = at - floor(at)
            taps = np.array(
                [
                    -0.5 * t**3 + t**2 - 0.5 * t,
                    1.5 * t**3 - 2.5 * t**2 + 1,
                    -1.5 * t**3 + 2 * t**2 + 0.5 * t,
                    0.5 * t**3 - 0.5 * t**2,
                ],
                np.float32,
            )
            out.append((floor(at) - 1, taps))
        return out


class PlaneScaler:
    """Enlarges planes of one size. Immutable: threads may share one.

    most: the highest sample; results are rounded half up and clipped to [0, most].
    """

    def __init__(self, down: Axis, across: Axis, most: int) -> None:
        self._down, self._across, self._most = down, across, most
        self._rows, self._columns = down.phases(), across.phases()

    def __call__(self, plane: NDArray[Any], top: int = 0, bottom: int | None = None) -> NDArray[Any]:
        """The rows of the enlarged plane that belong to rows [top, bottom) of ``plane``, all by default.

        Row y belongs to row y // scale. The same values whatever the rows asked for.
        """
        down, across = self._down, self._across
        bottom = down.size if bottom is None else bottom
        rows = _reflect(np.arange(top - REACH, bottom + REACH), down.size)
        columns = _reflect(np.arange(-REACH, across.size + REACH), across.size)
        lines = plane[rows].astype(np.float32)[:, columns]
        n = across.size
        wide = np.empty((len(lines), across.scale * n), np.float32)
        for p, (first, taps) in enumerate(self._columns):
            at = first + REACH
            wide[:, p :: across.scale] = _weighted([lines[:, at + k : at + k + n] for k in range(4)], taps)
        wide = np.ascontiguousarray(wide[:, : across.out])
        n = bottom - top
        out = np.empty((n, down.scale, across.out), plane.dtype)
        for p, (first, taps) in enumerate(self._rows):
            at = first + REACH
            sums = _weighted([wide[at + k : at + k + n] for k in range(4)], taps)
            sums += np.float32(0.5)
            out[:, p] = np.clip(sums, 0, self._most, out=sums)  # the cast rounds down
        return out.reshape(n * down.scale, across.out)[: down.out - down.scale * top]


def _weighted(parts: list[NDArray[np.float32]], taps: NDArray[np.float32]) -> NDArray[np.float32]:
    total = parts[0] * taps[0]
    scratch = np.empty_like(total)
    for part, tap in zip(parts[1:], taps[1:], strict=True):
        total += np.multiply(part, tap, out=scratch)
    return total


def _reflect(index: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Indices folded into [0, n) by symmetric reflection: -1 is 0, n is n - 1."""
    index = index % (2 * n)
    return np.minimum(index, 2 * n - 1 - index)
