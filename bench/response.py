"""What nets make of two simple images: noise on grey, and a straight edge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitsr.engine import Engine
from bitsr.eval.evaluate import upscale_luma
from bitsr.imresize import imresize
from bitsr.zoo import find

SIDE, NOISE, LOW, HIGH = 280, 4.0, 40.0, 215.0
"""Pixels of the LR images, deviation of the noise around 128, and the two levels of luma of the edge."""
EDGE = 100
"""LR pixels beside the border that are left out: no net sees the border from the rest."""


def response(scale: int, noisy: NDArray[np.float64], edge: NDArray[np.float64]) -> list[float]:
    """Of SR luma of the two images: deviation of the noise by that of LR; the largest by the smallest
    deviation among the scale x scale pixels of an LR pixel (1: no lattice); overshoot in levels; the
    largest difference along the edge, in levels."""
    cut = slice(EDGE * scale, -EDGE * scale)
    noisy, edge = noisy[cut, cut], edge[cut, cut]
    cells = [float(noisy[i::scale, j::scale].std()) for i in range(scale) for j in range(scale)]
    overshoot = max(edge.max() - HIGH, LOW - edge.min())
    return [
        float(noisy.std()) / NOISE,
        max(cells) / min(cells),
        float(overshoot),
        float(np.ptp(edge, axis=0).max()),
    ]


def report(nets: Sequence[str]) -> str:
    """Markdown: a line for each net, and one for bicubic at each scale. Raises as ``find``."""
    noisy = 128 + np.random.default_rng(0).normal(0, NOISE, (SIDE, SIDE))
    edge = np.full((SIDE, SIDE), LOW)
    edge[:, SIDE // 2 :] = HIGH
    engines = [Engine(find(net)) for net in nets]
    lines = ["| net | noise | lattice | overshoot | along the edge |", "|---|---:|---:|---:|---:|"]
    rows = [
        (f"bicubic x{scale}", response(scale, imresize(noisy, scale), imresize(edge, scale)))
        for scale in sorted({engine.scale for engine in engines})
    ]
    rows += [
        (f"`{e.name}`", response(e.scale, upscale_luma(e, noisy), upscale_luma(e, edge))) for e in engines
    ]
    for name, (noise, lattice, overshoot, along) in rows:
        lines.append(f"| {name} | {noise:.2f} | {lattice:.2f} | {overshoot:.1f} | {along:.1f} |")
    return "\n".join(lines) + "\n"
