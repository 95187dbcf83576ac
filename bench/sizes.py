"""Does the time of a pixel grow with the image? Depth first against layer by layer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from bitsr.engine import Engine, isas

from . import machine
from .nets import random_packed

SCALE, CHANNELS, BLOCKS = 4, 64, 16

# Bytes an LR pixel that each order takes through memory where maps do not fit a cache. Layer by
# layer, each binary layer reads and writes 64 int16 and 64 bits, the head writes both, the sum
# before the tail reads two maps and writes one, the tail reads one. Depth first, only LR and SR.
LAYERS = 2 * BLOCKS * 2 * (2 * CHANNELS + CHANNELS // 8) + 2 * CHANNELS + CHANNELS // 8 + 4 * 2 * CHANNELS
DEPTH_FIRST = 2 + 2 * SCALE**2
MOST = 2 << 30
"""Bytes of maps that layer by layer may hold; larger images are not tried."""


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


K = TypeVar("K")


def interleaved(jobs: Mapping[K, Callable[[], object]], rounds: int) -> dict[K, list[float]]:
    """Seconds of each job in each of ``rounds`` rounds; one more before them warms up."""
    seen: dict[K, list[float]] = {key: [] for key in jobs}
    for i in range(rounds + 1):
        for key, job in jobs.items():
            seconds = timed(job)
            if i:
                seen[key].append(seconds)
    return seen


def by_layers(engine: Engine, lr: np.ndarray) -> None:
    with engine.stream(*lr.shape, pass_rows=len(lr)) as stream:
        stream.push(lr)


def report(sizes: list[tuple[int, int]], threads: list[int], rounds: int) -> str:
    """Markdown: every size and number of threads, all of a round in turn; medians over the
    rounds."""
    before = machine.load()
    packed = random_packed(SCALE, CHANNELS, BLOCKS)
    rng = np.random.default_rng(0)
    jobs: dict[tuple[str, int, tuple[int, int]], Callable[[], object]] = {}
    for size in sizes:
        w, h = size
        lr = rng.integers(-16320, 16321, (h, w), np.int16)
        for n in threads:
            engine = Engine(packed, threads=n)
            jobs["depth", n, size] = lambda e=engine, x=lr: e.run(x)
            if w * h * (4 * CHANNELS + 2 * BLOCKS * CHANNELS // 8) <= MOST:
                jobs["layers", n, size] = lambda e=engine, x=lr: by_layers(e, x)
    seen = interleaved(jobs, rounds)
    lines = [
        f"# SRResNet-E2FIF {CHANNELS}x{BLOCKS} x{SCALE}, {isas()[0]}, {rounds} rounds",
        "",
        *(f"- {line}" for line in machine.describe()),
        f"- load average before {before}, after {machine.load()}",
        "",
        "Depth first is the engine's order, layer by layer the same kernels with passes as high as the image. MB is"
        " what an order takes through memory where maps do not fit a cache.",
        "",
        "| LR | threads | depth first ms | ns an LR pixel | MB | layer by layer ms | MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for size in sizes:
        for n in threads:
            pixels = size[0] * size[1]
            depth = statistics.median(seen["depth", n, size])
            layers = seen.get(("layers", n, size))
            lines.append(
                f"| {size[0]}x{size[1]} | {n} | {1e3 * depth:.1f} | {1e9 * depth / pixels:.0f} |"
                f" {1e-6 * pixels * DEPTH_FIRST:.0f} |"
                f" {f'{1e3 * statistics.median(layers):.1f}' if layers else ''} | {1e-6 * pixels * LAYERS:.0f} |"
            )
    return "\n".join(lines) + "\n"
