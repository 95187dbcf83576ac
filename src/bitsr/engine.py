"""A packed net runs on a plane of luma, by the C core. The numeric contract is in its header,
bitsr.h."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from math import inf
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._core import isas as isas
from .errors import BitsrError
from .model_file import ModelFile, equivariant, header

THREADS_MOST = 1024
"""Of an engine."""
_core.core()  # where the library is missing, importing this module says so


class EngineError(BitsrError):
    """A model, a path or a size that the engine refuses; the message is one line."""


def cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Engine:
    """A packed net, ready to run. Immutable: threads may share one.

    net: path or bytes of a .bsr file, or a ModelFile. isa: a name from ``isas()``, default the
    environment's ``BITSR_ISA``, else the best. threads: None or 0 is every CPU this process may use.
    scale: SR pixels an LR pixel, each way. radius: LR pixels that an SR pixel sees to each side,
    infinite where it sees the whole image (channel attention). smooth: whether chroma is to be
    smoothed, as ``colour.merge`` does it, since the net is for compressed or noisy images.
    Raises EngineError when the file is no sound model or this CPU lacks the path, OSError when the
    file cannot be read.
    """

    def __init__(
        self,
        net: bytes | str | os.PathLike[str] | ModelFile,
        *,
        isa: str | None = None,
        threads: int | None = None,
    ) -> None:
        self._handle: int | None = None
        if isinstance(net, ModelFile):
            data, self.name = net.to_bytes(), net.name
        elif isinstance(net, bytes):
            data, self.name = net, "unnamed"
        else:
            data, self.name = Path(net).read_bytes(), Path(net).stem
        if threads is not None and (not isinstance(threads, Integral) or isinstance(threads, bool)):  # pyright: ignore[reportUnnecessaryIsInstance] (callers may not check types)
            raise EngineError(f"threads must be a whole number, not {threads!r}")
        self._asked = isa, threads
        isa = isa or os.environ.get("BITSR_ISA") or None
        if isa and isa not in isas():
            raise EngineError(f"this CPU has no path {isa!r}; it has {', '.join(isas())}")
        if threads and not 1 <= threads <= THREADS_MOST:
            raise EngineError(f"threads must be from 1 to {THREADS_MOST}, not {threads}; 0 is every CPU")
        self.threads = int(threads or min(cpus(), THREADS_MOST))
        try:
            self._handle = _core.model_open(data, isa)
        except _core.CoreError as error:
            raise EngineError(str(error)) from None
        self.scale: int = _core.model_scale(self._handle)
        radius = _core.model_radius(self._handle)
        self.radius: float = inf if radius < 0 else radius
        self.smooth: bool = _core.model_smooth(self._handle)
        self.isa: str = _core.model_isa(self._handle)
        self._data = data

    @cached_property
    def equivariant(self) -> bool:
        """Whether the net flips and rotates with its image, bit for bit
        (``ModelFile.equivariant``)."""
        return equivariant(*header(self._data))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the model file, in hexadecimal digits."""
        return hashlib.sha256(self._data).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies are made anew from the model's bytes: a handle is this process's own.

        What was not asked for, path and threads, is chosen where the copy lands.
        """
        return _rebuild, (type(self), self._data, self.name, *self._asked)

    def __repr__(self) -> str:
        return f"Engine({self.name!r}, scale={self.scale}, isa={self.isa!r}, threads={self.threads})"

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            _core.model_close(handle)
            self._handle = None

    def stream(self, h: int, w: int, *, pass_rows: int = 0) -> Stream:
        """Begin an image of h x w LR pixels that is fed by rows.

        pass_rows: LR rows that one operation makes before the next operation runs; 0 is the
        engine's choice, h the order layer by layer. It changes time and memory, not the image.
        Raises EngineError for an impossible size.
        """
        return Stream(self, h, w, pass_rows)

    def run(self, lr: NDArray[np.int16]) -> NDArray[np.int16]:
        """LR luma (h, w) int16 -> SR luma (scale*h, scale*w) int16, q = round(128 * (Y - 127.5)).

        Raises EngineError for another shape or dtype.
        """
        lr = np.asarray(lr)
        if lr.ndim != 2 or 0 in lr.shape:
            raise EngineError(f"luma must be a non-empty (h, w) plane, not of shape {lr.shape}")
        with self.stream(*lr.shape) as stream:
            return stream.push(lr)


def _rebuild(kind: type[Engine], data: bytes, name: str, isa: str | None, threads: int | None) -> Engine:
    """An engine of pickled parts, on the best path where this CPU lacks the one asked for."""
    engine = kind(data, isa=isa if isa in isas() else None, threads=threads)
    engine.name = name
    return engine


class Stream:
    """One image on its way through an engine; one thread at a time. A context manager."""

    def __init__(self, engine: Engine, h: int, w: int, pass_rows: int = 0) -> None:
        self._engine, self.w = engine, w  # the engine must outlive the handle
        self._handle: int | None = None
        if not (0 < h < 2**31 and 0 < w < 2**31):
            raise EngineError(f"impossible size: {h} x {w}")
        if not 0 <= pass_rows <= h:
            raise EngineError(f"a pass has from 1 to {h} rows, not {pass_rows}")
        model = engine._handle  # pyright: ignore[reportPrivateUsage]
        assert model is not None
        try:
            self._handle = _core.stream_open(model, h, w, engine.threads, pass_rows)
        except _core.CoreError as error:
            raise EngineError(str(error)) from None

    def push(self, rows: NDArray[np.int16]) -> NDArray[np.int16]:
        """Feed LR rows (n, w) int16; get the SR rows (m, scale*w) int16 that they complete, m >= 0.

        When the last row is in, every SR row has come out. Raises EngineError for rows that are too
        many or too wide.
        """
        if not self._handle:
            raise EngineError("the stream is closed")
        if rows.dtype != np.int16 or rows.ndim != 2 or rows.shape[1] != self.w:
            raise EngineError(f"rows must be int16 (n, {self.w}), not {rows.dtype} {rows.shape}")
        try:
            return _core.stream_push(self._handle, np.ascontiguousarray(rows), self.w * self._engine.scale)
        except _core.CoreError as error:
            raise EngineError(str(error)) from None

    def close(self) -> None:
        """Free what the core holds; more than once does no harm."""
        if handle := getattr(self, "_handle", None):
            _core.stream_close(handle)
            self._handle = None

    __del__ = close

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a stream is one image on its way: it cannot be pickled or copied")

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
