"""The merge of csrc/core/colour_rows.h in numpy, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Depth:
    """Steps of a sample in a level of 255, and how many bits fixed-point numbers have."""

    level: int
    frac: int
    taps: int
    luma: int
    green: int
    quarter: int


DEPTHS = {8: Depth(1, 5, 14, 16, 15, 3), 16: Depth(257, 6, 20, 20, 20, 12)}


def random_merge(
    depth: int, channels: int, h: int, w: int, scale: int, seed: int
) -> tuple[NDArray[Any], NDArray[np.int16]]:
    """An LR image (h, w, channels) of flat blocks, gradients and noise, many samples at the ends of the
    range; and an SR luma that has to do with it, but for one in eight."""
    rng = np.random.default_rng(seed)
    top = (1 << depth) - 1
    blocks = rng.integers(-top // 2, 3 * top // 2, (h // 4 + 1, w // 5 + 1, channels))
    x = (
        blocks.repeat(4, 0).repeat(5, 1)[:h, :w]
        + rng.integers(-top, top + 1, channels) * np.arange(w)[:, None] // 40
    )
    x = x + rng.integers(0, top // 16 + 1, x.shape) * (rng.random(x.shape[:2]) < 0.5)[..., None]
    lr = np.clip(x, 0, top).astype(np.uint8 if depth == 8 else np.uint16)
    grey = lr[..., : 3 if channels > 2 else 1].mean(2).repeat(scale, 0).repeat(scale, 1) / top
    q = 128 * (219 * grey - 111.5) + rng.normal(0, 1500, grey.shape)
    q = np.where(rng.random(q.shape) < 1 / 8, rng.integers(-32768, 32768, q.shape), q)
    return lr, np.clip(q, -32768, 32767).astype(np.int16)


def half_up(x: Fraction | float) -> int:
    return floor(x + Fraction(1, 2))


def rounded(x: Integers, bits: int) -> Integers:
    return (x + (1 << bits - 1)) >> bits


def reflected(i: Integers, n: int) -> Integers:
    i = i % (2 * n)
    return np.where(i < n, i, 2 * n - 1 - i)


def around(x: Integers, radius: int) -> Integers:
    """The pixels around each of (h, w), by symmetric reflection: (2 radius + 1, 2 radius + 1, h, w)."""
    h, w = x.shape
    r = np.arange(-radius, radius + 1)
    rows, columns = (reflected(np.arange(n) + r[:, None], n) for n in (h, w))
    return x[rows[:, None, :, None], columns[None, :, None, :]]


def window(x: Integers) -> Integers:
    """Sums over 3x3 pixels with the weights 1 2 1 each way."""
    return np.einsum("i,j,ijhw", [1, 2, 1], [1, 2, 1], around(x, 1))


def keys(scale: int, phase: int, bits: int) -> tuple[int, Integers]:
    """Of an SR column: its first LR column, beside its own, and four taps that sum to 2^bits."""

    def cubic(d: Fraction) -> Fraction:
        d = abs(d)
        return (3 * d**3 - 5 * d**2 + 2 if d <= 1 else -(d**3) + 5 * d**2 - 8 * d + 4) / 2

    at = Fraction(2 * phase + 1, 2 * scale) - Fraction(1, 2)
    first = floor(at) - 1
    taps = [half_up(cubic(at - first - k) * 2**bits) for k in range(4)]
    taps[int(np.argmax(taps))] += 2**bits - sum(taps)
    return first, np.array(taps, np.int64)


def bicubic(x: Integers, scale: int, bits: int) -> Integers:
    """Along rows, then along columns; rounded each time."""
    for _ in range(2):
        x = x.T
        n, phases = len(x), []
        for phase in range(scale):
            first, taps = keys(scale, phase, bits)
            near = x[reflected(np.arange(n) + first + np.arange(4)[:, None], n)]
            phases.append(rounded(np.einsum("k,kij", taps, near), bits))
        x = np.stack(phases, 1).reshape(n * scale, -1)
    return x


def quotient(over: Integers, under: Integers) -> Integers:
    """Cut off towards 0."""
    return np.sign(over) * (np.abs(over) // under)


def lines(luma: Integers, chroma: Integers, middle: int, d: Depth, smooth: bool) -> tuple[Integers, Integers]:
    """a and b of each LR pixel."""
    y, c = rounded(luma, d.quarter), rounded(chroma, d.quarter)

    def moment(p: Integers, q: Integers) -> Integers:
        return 16 * window(p * q) - window(p) * window(q)

    common = moment(y, c)
    a0 = quotient((common >> 6) * 1024, (moment(y, y) + (16 << 12)) >> 6)
    if not smooth:
        share = quotient(a0 * (common >> 8), (moment(c, c) + (4 << 12)) >> 8)
        share = np.minimum(share, 1024) ** 2 >> 10
        a0 = a0 * (share**2 >> 10) >> 10
    a0 = np.clip(a0, -2048, 2048)
    a = rounded(window(a0), 1)
    if smooth:
        return a, rounded(window(window(chroma) - (a0 * (window(luma) - 16 * middle) >> 10)), 8)
    return a, chroma - rounded(a * (luma - middle), 13)


def bounds(x: Integers, strongest: Integers, d: Depth) -> tuple[Integers, Integers]:
    """Least and most of a channel's SR samples, for each LR pixel; strongest: its strongest colour."""
    near = around(x, 2)
    low, high = near.min((0, 1)), near.max((0, 1))
    far = around(x, 3)  # blocks of 2x2 that reach into the 5x5
    blocks = np.stack((far[:-1, :-1], far[:-1, 1:], far[1:, :-1], far[1:, 1:]))
    basin, plateau = blocks.max(0).min((0, 1)), blocks.min(0).max((0, 1))
    room = 4 * np.maximum(96 * d.level - strongest, 0)
    below = low - 7 * d.level - np.minimum(room, 8 * (basin - low))
    above = high + 7 * d.level + np.minimum(room, 8 * (high - plateau))
    top = 255 * d.level
    return np.where(low == top, top, np.maximum(below, 0)), np.where(high == 0, 0, np.minimum(above, top))


def merge(lr: NDArray[Any], q: NDArray[np.int16], scale: int, *, smooth: bool = False) -> NDArray[Any]:
    """``colour.merge`` of a whole image."""
    d = DEPTHS[8 * lr.itemsize]
    unit, top = 1 << d.frac, 255 * d.level
    step = d.level * unit * 255 / 219
    gain = int(step / 128 * 2**d.luma + 0.5)
    bias = int((step * 111.5 + 0.5) * 2**d.luma)
    luma = (q.astype(np.int64) * gain + bias) >> d.luma
    planes = list(np.moveaxis(lr.astype(np.int64), 2, 0))
    colours = planes[:3] if len(planes) > 2 else planes[:1]
    strongest = np.max(colours, 0) - np.min(colours, 0)
    out = [luma]
    if len(colours) == 3:
        r, g, b = colours

        def units(x: Integers) -> Integers:
            return (2 * x * unit + 1000) // 2000

        y = units(299 * r + 587 * g + 114 * b)
        middle = top * unit // 2
        found: list[Integers] = []
        for c in (units(701 * r - 587 * g - 114 * b), units(886 * b - 587 * g - 299 * r)):
            steepness, offset = (bicubic(x, scale, d.taps) for x in lines(y, c, middle, d, smooth))
            found.append(offset + rounded(steepness * (luma - middle), 13))
        shares = [half_up(Fraction(share, 587) * 2**d.green) for share in (299, 114)]
        green = -rounded(shares[0] * found[0] + shares[1] * found[1], d.green)
        out = [luma + found[0], luma + green, luma + found[1]]
    for i, x in enumerate(colours):
        near = around(strongest, 2).max((0, 1))
        low, high = (e.repeat(scale, 0).repeat(scale, 1) * unit for e in bounds(x, near, d))
        out[i] = rounded(np.minimum(np.maximum(out[i], low), high), d.frac)
    if len(planes) % 2 == 0:
        alpha = bicubic(planes[-1] * unit, scale, d.taps)
        out.append(np.clip(rounded(alpha, d.frac), 0, top))
    return np.stack(out, 2).astype(lr.dtype)
