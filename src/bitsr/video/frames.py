"""A net on the frames of a clip: several at a time, and only where a frame differs from the one before.

An SR pixel depends on the LR pixels within the net's radius of it. So where none of them has changed it
is that of the frame before, bit for bit. What has changed is covered with rectangles; each goes through
the net alone with the margin that it needs, and is laid over the frame before.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import Engine
from .chroma import REACH, Axis, PlaneScaler
from .pixels import Layout, Planes, from_net, to_net

_WHOLE = 0.9
"""From this share of a frame on, all of it goes through the net at once."""
_DEPTH = 6
"""How often what has changed is cut in two, at most."""


class Box(NamedTuple):
    """Rows [top, bottom) and columns [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    def grown(self, by: int, height: int, width: int) -> Box:
        return Box(
            max(self.top - by, 0),
            min(self.bottom + by, height),
            max(self.left - by, 0),
            min(self.right + by, width),
        )

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    def of(self, plane: NDArray[Any], scale: int = 1) -> NDArray[Any]:
        return plane[scale * self.top : scale * self.bottom, scale * self.left : scale * self.right]


def boxes(changed: NDArray[np.bool_], radius: int) -> list[Box]:
    """Rectangles that cover the true elements of ``changed`` (h, w), cut where that saves work.

    The work of a rectangle is its area with twice ``radius`` around it.
    """
    height, width = changed.shape

    def work(box: Box) -> int:
        return box.grown(2 * radius, height, width).area

    def cover(box: Box, depth: int) -> list[Box]:
        part = box.of(changed)
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        if not len(rows):
            return []
        top, left = box.top + int(rows[0]), box.left + int(columns[0])
        box = Box(top, box.top + int(rows[-1]) + 1, left, box.left + int(columns[-1]) + 1)
        if depth == 0:
            return [box]
        best = [box]
        # Cut at the widest gap of each way, if that is less work.
        for at, down in ((rows, True), (columns, False)):
            gaps = np.diff(at)
            if len(gaps) and gaps.max() > 1:
                start = box.top - int(rows[0]) if down else box.left - int(columns[0])
                cut = start + int(at[int(gaps.argmax())]) + 1
                first = box._replace(bottom=cut) if down else box._replace(right=cut)
                second = box._replace(top=cut) if down else box._replace(left=cut)
                parts = cover(first, depth - 1) + cover(second, depth - 1)
                if sum(map(work, parts)) < sum(map(work, best)):
                    best = parts
        return best

    return cover(Box(0, height, 0, width), _DEPTH)


class Patch(NamedTuple):
    """What is new of one plane: its samples, and the row and column where they go."""

    plane: int
    top: int
    left: int
    samples: NDArray[Any]


class FrameNet:
    """A net on frames of one layout and size, in order.

    layout, full, siting: as in ``pixels``. workers: frames that are worked on at a time, each by the
    threads of ``engine``. reuse: whether what has not changed is taken from the frame before; no
    sample depends on it.
    """

    def __init__(
        self,
        engine: Engine,
        layout: Layout,
        height: int,
        width: int,
        *,
        full: bool = False,
        siting: str = "left",
        workers: int = 1,
        reuse: bool = True,
    ) -> None:
        self._engine, self._layout = engine, layout
        self._height, self._width = height, width
        self._workers, self._reuse = workers, reuse
        self._counting = threading.Lock()
        self._to_net, self._from_net = to_net(layout, full), from_net(layout, full)
        self.scale = s = engine.scale
        self.sizes = layout.sizes(s * height, s * width)
        self._scaler: PlaneScaler | None = None
        if layout.across:
            (rows, columns), (out_rows, out_columns) = layout.sizes(height, width)[1], self.sizes[1]
            x, y = layout.sites(siting)
            self._scaler = PlaneScaler(
                Axis(rows, out_rows, s, layout.down, y),
                Axis(columns, out_columns, s, layout.across, x),
                (1 << layout.bits) - 1,
            )
        self.pixels = 0
        """LR pixels that went through the net so far."""
        self.busy = 0.0
        """Seconds that workers spent on frames so far, all together."""

    def run(
        self, frames: Iterable[Any], planes: Callable[[Any], Planes]
    ) -> Generator[tuple[Any, Planes], None, None]:
        """Yield each of ``frames`` with its SR planes, in order, while they come.

        planes: gives the LR planes of a frame, or an empty tuple for what is passed on with none. The
        SR planes are the same arrays each time: copy what is to stay.
        """
        running: deque[tuple[Any, Future[list[Patch]] | None]] = deque()
        current = tuple(np.zeros(size, self._layout.dtype) for size in self.sizes)
        before: Planes | None = None

        def finish() -> tuple[Any, Planes]:
            frame, future = running.popleft()
            if future is None:
                return frame, ()
            for patch in future.result():
                rows, columns = patch.samples.shape
                target = current[patch.plane]
                target[patch.top : patch.top + rows, patch.left : patch.left + columns] = patch.samples
            return frame, current

        pool = ThreadPoolExecutor(self._workers, "bitsr-net")
        try:
            for frame in frames:
                now = planes(frame)
                if now:
                    running.append((frame, pool.submit(self._patches, now, before)))
                    before = now if self._reuse else None
                else:
                    running.append((frame, None))
                while len(running) > self._workers:
                    yield finish()
            while running:
                yield finish()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _patches(self, now: Planes, before: Planes | None) -> list[Patch]:
        """What of a frame is new against the one before, enlarged."""
        begun = time.perf_counter()
        patches = [Patch(0, *part) for part in self._luma(now[0], before[0] if before else None)]
        for i in range(1, len(now)):
            assert self._scaler is not None
            top, bottom = 0, len(now[i])
            if before:
                rows = np.flatnonzero((now[i] != before[i]).any(1))
                if not len(rows):
                    continue
                top = max(int(rows[0]) - REACH, 0)
                bottom = min(int(rows[-1]) + 1 + REACH, bottom)
            patches.append(Patch(i, self.scale * top, 0, self._scaler(now[i], top, bottom)))
        with self._counting:
            self.busy += time.perf_counter() - begun
        return patches

    def _luma(
        self, now: NDArray[Any], before: NDArray[Any] | None
    ) -> Iterator[tuple[int, int, NDArray[Any]]]:
        s, height, width = self.scale, self._height, self._width
        whole = Box(0, height, 0, width)
        parts = [whole]
        radius = height + width if self._engine.radius == inf else int(self._engine.radius)
        if before is not None:
            parts = boxes(now != before, radius)
            if sum(part.grown(2 * radius, height, width).area for part in parts) >= _WHOLE * whole.area:
                parts = [whole]
        for part in parts:
            outer = part.grown(2 * radius, height, width)
            # Beyond the edges of what the net is given it sees zeros, as it does beyond a frame's.
            inner = part.grown(radius, height, width)
            q = self._engine.run(self._to_net[outer.of(now)])
            with self._counting:
                self.pixels += outer.area
            crop = Box(
                inner.top - outer.top,
                inner.bottom - outer.top,
                inner.left - outer.left,
                inner.right - outer.left,
            )
            samples = self._from_net[crop.of(q, s).view(np.uint16)]
            yield s * inner.top, s * inner.left, samples
