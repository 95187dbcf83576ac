"""Clips from file to file, and frame by frame: reading, the net and writing run at the same time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import auto
from ..engine import THREADS_MOST, cpus
from ..errors import BitsrError
from ..upscaler import Upscaler, load
from .ffmpeg import PIPE
from .formats import Encoding, container_of
from .frames import FrameNet
from .pixels import Planes
from .resume import Kept, kept_of
from .sink import Sink, clock
from .source import Group, Source

SCALE = 2
"""Where neither a scale nor a net is named."""
_AHEAD = 4
"""Frames that wait between reading and the net, and between the net and writing, at most."""
_MOST_WORKERS = 8
"""Frames that are upscaled at a time, at most."""
_CUT = Fraction(1)
"""Seconds before the end that a file claims, from which on it counts as cut short."""
T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far it is: frames written of ``total`` (None where not known), ``seconds`` of the clip, and
    ``elapsed`` seconds of work, which are for ``done`` frames of this run."""

    frames: int
    total: int | None
    seconds: float
    elapsed: float
    done: int


@dataclass(frozen=True)
class Result:
    """What has come of it: frames in the output, its size, how many frames were damaged and left out,
    seconds that play, and whether it was cancelled before the end."""

    frames: int
    width: int
    height: int
    damaged: int
    seconds: float
    cancelled: bool
    net: str


@dataclass(frozen=True)
class Frame:
    """An upscaled frame.

    planes: luma, and two of chroma unless it is grey; (h, w) uint8, or uint16 of ``bits`` bits. pts,
    duration: in units of ``time_base`` seconds, as in the source.
    """

    planes: tuple[NDArray[Any], ...]
    bits: int
    pts: int
    duration: int
    time_base: Fraction

    @property
    def time(self) -> float:
        """Seconds at which it is shown."""
        return float(self.pts * self.time_base)


def choose_net(
    net: str | Path | Upscaler | None, scale: int | None, source: Source, threads: int | None
) -> tuple[Upscaler, int]:
    """The net for a clip, and how many frames to work on at a time.

    A net by name or file, or for None and "auto" a photo net where the clip's codec loses detail and
    the scale has one, else the default net. A frame on each thread is faster than all threads on one
    frame, for none waits for another. An Upscaler has its own threads and takes frame by frame.
    Raises as ``bitsr.load``.
    """
    if isinstance(net, Upscaler):
        if scale not in (None, net.scale):
            raise BitsrError(f"{net.name} upscales x{net.scale}, not x{scale}")
        return net, 1
    threads = threads or min(cpus(), THREADS_MOST)
    workers = min(threads, _MOST_WORKERS)
    each = threads // workers
    if net is None or net == auto.AUTO:
        chooser = auto.Chooser(scale or SCALE, threads=each)
        photo = None if source.lossless else chooser.photo
        # At x3 that is the net of x4, whose result would have to be reduced.
        return (photo if photo and photo.scale == chooser.scale else chooser.clean), workers
    return load(net, scale, threads=each), workers


def net_for(upscaler: Upscaler, workers: int, source: Source, reuse: bool) -> FrameNet:
    look = source.look
    return FrameNet(
        upscaler.engine,
        source.layout,
        source.height,
        source.width,
        full=look.full,
        siting=look.siting,
        workers=workers,
        reuse=reuse,
    )


def planes_of(group: Group) -> Planes:
    """The planes of a group's frame; none where it has packets alone."""
    return group.picture.planes if group.picture else ()


class _End(Exception):
    """The last item of a queue: nothing, or the error that ended it."""


def ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """``items``, made in a thread of their own, ``depth`` ahead at most."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not put((item, None)):
                    return
        except BaseException as caught:
            error = caught
        put((None, error or _End()))

    thread = threading.Thread(target=make, name="bitsr-read", daemon=True)
    thread.start()
    try:
        while True:
            item, end = ready.get()
            if end is not None:
                if isinstance(end, _End):
                    return
                raise end
            yield item  # pyright: ignore[reportReturnType]
    finally:
        stop.set()
        thread.join()


class Behind(Generic[T]):
    """Calls ``work`` with each item in a thread of its own, at most ``depth`` behind."""

    def __init__(self, work: Callable[[T], None], finish: Callable[[], None], depth: int) -> None:
        self._queue: queue.Queue[tuple[T] | None] = queue.Queue(depth)
        self._work, self._finish = work, finish
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="bitsr-write", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self.error is None:
                try:
                    self._work(item[0])
                except BaseException as error:
                    self.error = error
        if self.error is None:
            try:
                self._finish()
            except BaseException as error:
                self.error = error

    def put(self, item: T) -> None:
        """Raises what has stopped the work."""
        if self.error is not None:
            raise self.error
        self._queue.put((item,))

    def end(self) -> None:
        """Wait for the last item."""
        self._queue.put(None)
        self._thread.join()


def upscale(
    src: str | Path,
    dst: str | Path,
    scale: int | None = None,
    net: str | Path | Upscaler | None = None,
    *,
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
    pix_fmt: str | None = None,
    start: float | None = None,
    end: float | None = None,
    max_height: int | None = None,
    deinterlace: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    threads: int | None = None,
    reuse: bool = True,
    progress: Callable[[Progress], object] | None = None,
    cancel: Callable[[], bool] | None = None,
    note: Callable[[str], object] | None = None,
) -> Result:
    """Upscale a clip into another. Memory does not grow with its length.

    src: a file, or "-" for standard input. dst: a file that is .mp4, .m4v, .mov, .mkv, .webm, .gif,
    .webp or .y4m, or "-" for YUV4MPEG on standard output. scale: 2, 3 or 4, default that of ``net``,
    or 2. net: a name of ``bitsr.models()``, a .bsr file, an Upscaler, or None or "auto": a photo net
    for clips of lossy codecs, where the scale has one.
    codec, preset, pix_fmt: FFmpeg's names. crf: the encoder's quality, lower is better.
    start, end: seconds from the beginning. max_height: rows of the output at most; more are scaled
    down by FFmpeg (Lanczos). deinterlace: make whole frames of interlaced ones, by bwdif.
    strict: damage in the input is an error, not a count. overwrite: take an output that is there.
    resume: keep what of it can be kept and go on. threads: None or 0 is every CPU this process may
    use. reuse: whether regions that do not change are taken from the frame before; no byte depends
    on it.
    progress: called once a frame. cancel: asked once a frame; true ends the output so that it plays
    to there. note: called with what a user should know, one line each, from any thread.

    Frames, times, colour and the other streams are those of the source (docs/video.md). The output
    grows under its own name and plays to where an error or the end of the process has left it.
    Raises BitsrError for input and settings that cannot be worked with, before the output is touched,
    and OSError for files.
    """
    say = note or (lambda _: None)
    container = container_of(dst)
    _check(src, dst, scale, start, end, max_height, threads)
    kept: Kept | None = None
    if str(dst) != PIPE:
        there = Path(dst).exists()
        if there and str(src) != PIPE and Path(dst).samefile(src):
            raise BitsrError("the output would overwrite the input")
        if resume and (container.still or str(src) == PIPE):
            raise BitsrError("--resume goes from file to file, and to MP4, MOV, MKV or WebM")
        if there and not Path(dst).is_file():
            raise BitsrError(f"{dst}: is no regular file")
        if there and resume:
            kept = kept_of(Path(dst))
            if kept is None:
                say(f"{dst} has no second key frame yet: begun anew")
        elif there and not overwrite:
            raise BitsrError(
                f"{dst}: is there already; --overwrite takes its place, --resume goes on with it"
            )
    with Source(src, start=start, end=end, deinterlace=deinterlace, strict=strict, note=say) as source:
        upscaler, workers = choose_net(net, scale, source, threads)
        frames = net_for(upscaler, workers, source, reuse)
        (height, width), *_ = frames.sizes
        encoding = Encoding(codec, crf, preset, pix_fmt, max_height, threads or 0)
        sink = Sink(dst, source, height, width, encoding, kept=kept, note=say)
        already = sink.written
        total = source.frames
        behind = Behind[tuple[Group, Any]](
            lambda item: sink.write(item[0].packets, item[1]), sink.finish, _AHEAD
        )
        begun = time.perf_counter()
        cancelled = False
        done = 0
        reading = ahead(source.groups(), _AHEAD)

        def wanted() -> Iterator[Group]:
            nonlocal cancelled
            for group in reading:
                if cancel is not None and cancel():
                    cancelled = True
                    return
                yield group

        try:
            with closing(reading):
                run = frames.run(wanted(), planes_of)
                with closing(run):
                    for group, planes in run:
                        picture = group.picture
                        behind.put((group, None if picture is None else sink.frame(picture, planes)))
                        if picture is None:
                            continue
                        done += 1
                        if progress:
                            seconds = picture.pts * source.time_base - source.shift
                            elapsed = time.perf_counter() - begun
                            progress(Progress(already + done, total, float(seconds), elapsed, done))
        finally:
            behind.end()
            if behind.error is not None:
                sink.give_up()
                raise behind.error
        _told(source, cancelled, end, sink, say)
        return Result(
            already + done,
            sink.width,
            sink.height,
            source.damaged,
            float(sink.until),
            cancelled,
            upscaler.name,
        )


def _check(
    src: str | Path,
    dst: str | Path,
    scale: int | None,
    start: float | None,
    end: float | None,
    high: int | None,
    threads: int | None,
) -> None:
    if not str(src) or not str(dst):
        raise BitsrError("an input or output of no name")
    if scale not in (None, 2, 3, 4):
        raise BitsrError(f"the scale is 2, 3 or 4, not {scale}")
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise BitsrError("--start is not below 0, and --end after it")
    if threads is not None and not 0 <= threads <= THREADS_MOST:
        raise BitsrError(f"threads must be from 1 to {THREADS_MOST}, not {threads}; 0 is every CPU")
    if high is not None and high < 16:
        raise BitsrError(f"--max-height is 16 rows at least, not {high}")


def _told(
    source: Source, cancelled: bool, end: float | None, sink: Sink, say: Callable[[str], object]
) -> None:
    """Say what was amiss with the source."""
    if source.damaged:
        say(f"damaged: {source.damaged} frames or packets left out")
    if source.interlaced:
        say(f"{source.interlaced} frames are interlaced: --deinterlace makes whole frames of them")
    claimed = source.seconds
    if not cancelled and end is None and claimed and sink.until + source.shift + _CUT < claimed:
        say(f"cut short: it ends at {clock(sink.until + source.shift)} of {clock(claimed)}")


def frames(
    src: str | Path,
    scale: int | None = None,
    net: str | Path | Upscaler | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    deinterlace: bool = False,
    strict: bool = False,
    threads: int | None = None,
    reuse: bool = True,
    note: Callable[[str], object] | None = None,
) -> Iterator[Frame]:
    """The upscaled frames of a clip, one by one, as YUV planes. Arguments and errors as in ``upscale``.

    The next frames are made while one is used; the arrays of each are its own.
    """
    _check(src, PIPE, scale, start, end, None, threads)
    with Source(
        src, start=start, end=end, deinterlace=deinterlace, strict=strict, note=note or (lambda _: None)
    ) as source:
        upscaler, workers = choose_net(net, scale, source, threads)
        reading = ahead(source.groups(), _AHEAD)
        run = net_for(upscaler, workers, source, reuse).run(reading, planes_of)
        with closing(reading), closing(run):
            for group, planes in run:
                if group.picture is not None:
                    yield Frame(
                        tuple(np.array(plane) for plane in planes),
                        source.layout.bits,
                        group.picture.pts,
                        group.picture.duration,
                        source.time_base,
                    )
