"""Whole frames of interlaced ones."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from .ffmpeg import library

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


class Deinterlacer:
    """FFmpeg's bwdif: one whole frame of each interlaced one, others as they are."""

    def __init__(self, time_base: Fraction) -> None:
        self._time_base = time_base
        self._graph: Any = None
        self._times: list[tuple[int | None, int]] = []

    def through(self, frames: list[VideoFrame], last: bool) -> Iterator[VideoFrame]:
        av = library()
        for frame in frames:
            if self._graph is None:
                self._graph = self._make(frame)
            self._times.append((frame.pts, frame.duration))
            if frame.pts is None:
                frame.pts = len(self._times)
            self._graph.vpush(frame)
            yield from self._pull(av)
        if last and self._graph is not None:
            self._graph.vpush(None)
            yield from self._pull(av)
            self._graph = None

    def _make(self, frame: VideoFrame) -> Any:
        av = library()
        graph = av.filter.Graph()
        source = graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}"
            f":time_base={self._time_base}:pixel_aspect=1/1"
            f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
        )
        bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
        graph.link_nodes(source, bwdif, graph.add("buffersink"))
        graph.configure()
        return graph

    def _pull(self, av: Any) -> Iterator[VideoFrame]:
        while True:
            try:
                frame = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            # As many frames come out as went in, in their order: each takes the time it had.
            frame.pts, frame.duration = self._times.pop(0)
            frame.time_base = self._time_base
            yield frame
