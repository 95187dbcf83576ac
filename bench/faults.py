"""Nets beside bicubic on LR images with one fault each: the tables of docs/photos.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitsr.degrade import SETTINGS
from bitsr.engine import Engine
from bitsr.errors import BitsrError
from bitsr.eval.evaluate import coloured, find_set, low_resolution, read_hr, upscale_luma
from bitsr.eval.metrics import ms_ssim, psnr, rgb_to_y, ssim, to_8bit
from bitsr.eval.protocols import protocol
from bitsr.imresize import imresize
from bitsr.zoo import find

EVERY = ("clean", *SETTINGS)
"""What can be measured: no fault, and each of those that ``bitsr evaluate --degrade`` takes."""


def scores(luma: NDArray, rgb: NDArray, hr: NDArray[np.uint8], scale: int) -> tuple[float, ...]:
    """(PSNR of luma, of RGB, SSIM, MS-SSIM of luma) of an SR image, by the rules of ``matlab-y``."""
    y, target = to_8bit(luma), to_8bit(rgb_to_y(hr))
    return (
        psnr(y, target, crop=scale),
        psnr(to_8bit(rgb), hr, crop=scale),
        ssim(y, target, crop=scale),
        ms_ssim(y, target, crop=scale),
    )


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _table(head: str, names: Sequence[str], rows: dict[str, NDArray], which: tuple[int, int]) -> list[str]:
    """A table of two of the figures, "first / second", the best of each in bold."""
    lines = [f"| {head} | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for fault, figures in rows.items():
        cells: list[list[str]] = [[] for _ in names]
        for i in which:
            text = [f"{value:.{2 if i < 2 else 4}f}" for value in figures[:, i]]
            best = max(text, key=float)
            for cell, value in zip(cells, text, strict=True):
                cell.append(f"**{value}**" if value == best else value)
        lines.append(f"| {fault} | {' | '.join(' / '.join(cell) for cell in cells)} |")
    return lines


def report(nets: Sequence[str], sets: Sequence[str], faults: Sequence[str]) -> str:
    """Markdown: means over all images of ``sets`` by fault, a column for bicubic and for each net.

    nets: names or .bsr files of one scale. faults: keys of ``SETTINGS``, "clean" for none.
    Raises BitsrError where scales differ, and as ``find``, ``find_set`` and ``read_hr``.
    """
    engines = [Engine(find(net)) for net in nets]
    scale = engines[0].scale
    if len({engine.scale for engine in engines}) > 1:
        raise BitsrError("the nets of a table share one scale")
    files = [path for name in sets for path in find_set(name)]
    rule = protocol("matlab-y")
    rules = {fault: rule if fault == "clean" else rule.with_degradation(fault) for fault in faults}
    sums = {fault: np.zeros((1 + len(engines), 4)) for fault in faults}
    for path in files:
        hr = _rgb(read_hr(path))
        hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
        for fault, made in rules.items():
            lr = low_resolution(hr, scale, made)
            luma = rgb_to_y(lr)
            images = [(imresize(luma, scale), imresize(lr.astype(np.float64), scale))]
            for engine in engines:
                sr = upscale_luma(engine, luma)
                images.append((sr, coloured(engine, lr, sr)))
            sums[fault] += [scores(*image, hr, scale) for image in images]
    means = {fault: sum_ / len(files) for fault, sum_ in sums.items()}
    names = ["bicubic", *(f"`{engine.name}`" for engine in engines)]
    lines = [f"x{scale}, mean of {len(files)} images of {', '.join(sets)}. Protocol {rule}.", ""]
    lines += [*_table("PSNR in dB, luma / RGB", names, means, (0, 1)), ""]
    lines += _table("SSIM / MS-SSIM of luma", names, means, (2, 3))
    return "\n".join(lines) + "\n"
