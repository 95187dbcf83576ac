"""What colour costs beside a net: RGB to luma, and the SR luma with its chroma back to RGB."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np

from bitsr import colour
from bitsr.engine import Engine
from bitsr.zoo import find

from . import machine
from .sizes import interleaved


def report(net: str, lr: tuple[int, int], rounds: int) -> str:
    """Markdown: a net and the ways of colour, all of a round in turn on one thread; medians over the
    rounds, shares within a round."""
    before = machine.load()
    engine = Engine(find(net), threads=1)
    w, h = lr
    s, rng = engine.scale, np.random.default_rng(0)
    rgb = rng.integers(0, 256, (h, w, 3), np.uint8)
    luma = colour.luma(rgb)
    sr = engine.run(luma)
    grey, deep = np.ascontiguousarray(rgb[..., :1]), rgb.astype(np.uint16) * 257

    def merging(pixels: np.ndarray, smooth: bool = False) -> Callable[[], object]:
        return lambda: (colour.luma(pixels), colour.merge(pixels, sr, s, height=h, smooth=smooth))

    jobs: dict[str, Callable[[], object]] = {
        "the net": lambda: engine.run(luma),
        "RGB": merging(rgb),
        "RGB, chroma smoothed": merging(rgb, smooth=True),
        "RGB of 16 bits": merging(deep),
        "grey": merging(grey),
    }
    seen = interleaved(jobs, rounds)
    lines = [
        f"# Colour beside {engine.name}, x{s}, {engine.isa}, LR {w}x{h}, one thread, {rounds} rounds",
        "",
        *(f"- {line}" for line in machine.describe()),
        f"- load average before {before}, after {machine.load()}",
        "",
        "| | ms | of the net |",
        "|---|---:|---:|",
    ]
    for name, times in seen.items():
        share = statistics.median(t / n for t, n in zip(times, seen["the net"], strict=True))
        lines.append(f"| {name} | {1e3 * statistics.median(times):.1f} | {share:.1%} |")
    return "\n".join(lines) + "\n"
