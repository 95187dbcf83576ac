"""How fast a packed net is on this machine: every path of the engine, one thread to all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..engine import Engine, EngineError, isas
from ..model_file import ModelFile

SR_MEGAPIXELS = 12
"""Of the photo that ``sentence`` speaks of."""


@dataclass(frozen=True)
class Timing:
    """Median time of one image. ms: milliseconds; speed: SR megapixels a second."""

    isa: str
    threads: int
    ms: float
    speed: float
    runs: int


def thread_counts(most: int) -> list[int]:
    """1, 2, 4 ... and ``most`` itself."""
    return sorted({most, *(2**i for i in range(most.bit_length()) if 2**i <= most)})


def measure(
    model: ModelFile,
    *,
    width: int = 320,
    height: int = 180,
    threads: int | None = None,
    paths: Sequence[str] | None = None,
    rounds: int = 5,
    progress: Callable[[], object] | None = None,
) -> list[Timing]:
    """Time a net on an LR image of width x height: every path and number of threads, ``rounds``
    times.

    They run in turn, so that a busy moment of the machine slows all of them alike; the first round
    warms up and does not count. threads: the most to try, default every CPU this process may use.
    paths: names from ``engine.isas()``, default all. progress is called after each measurement.
    Raises EngineError for an unknown path, an impossible size or an unsound model.
    """
    if rounds < 1 or width < 1 or height < 1:
        raise EngineError("rounds and size must be at least 1")
    data = model.to_bytes()
    most = threads or Engine(data).threads
    engines = [Engine(data, isa=isa, threads=n) for isa in paths or isas() for n in thread_counts(most)]
    lr = np.random.default_rng(0).integers(-16320, 16321, (height, width), np.int16)
    times: list[list[float]] = [[] for _ in engines]
    for i in range(rounds + 1):
        for engine, seen in zip(engines, times, strict=True):
            start = time.perf_counter()
            engine.run(lr)
            if i:
                seen.append(time.perf_counter() - start)
            if progress is not None:
                progress()
    out: list[Timing] = []
    for engine, seen in zip(engines, times, strict=True):
        seconds = statistics.median(seen)
        megapixels = width * height * engine.scale**2 / 1e6
        out.append(Timing(engine.isa, engine.threads, 1e3 * seconds, megapixels / seconds, len(seen)))
    return out


def sentence(timings: Sequence[Timing], scale: int) -> str:
    """What the fastest of the timings means for a photo, in one sentence."""
    best = max(timings, key=lambda t: t.speed)
    seconds = SR_MEGAPIXELS / best.speed
    threads = "1 thread" if best.threads == 1 else f"{best.threads} threads"
    return (
        f"A {SR_MEGAPIXELS}-megapixel photo from {SR_MEGAPIXELS / scale**2:.2g} megapixels takes about"
        f" {seconds:.{1 if seconds < 10 else 0}f} s on this machine with {threads}, without reading and"
        " writing the files."
    )


def speed_table(timings: Sequence[Timing]) -> str:
    """Markdown, a line a measurement; the last column is the speed-up over the first path's one
    thread."""
    base = timings[0].ms
    lines = ["| path | threads | ms | SR MP/s | speed-up |", "|---|---:|---:|---:|---:|"]
    for t in timings:
        lines.append(f"| {t.isa} | {t.threads} | {t.ms:.2f} | {t.speed:.2f} | {base / t.ms:.2f} |")
    return "\n".join(lines) + "\n"
