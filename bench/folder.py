"""A folder of images: the time of a run beside that of its nets alone."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyvips

import bitsr
from bitsr import batch, photo
from bitsr.auto import Chooser

from . import machine
from .memory import photo as write_photo

_SHAPES = ((640, 480), (800, 600), (1000, 750), (1280, 960), (1600, 1200), (500, 2000))
"""Of the images by turns, 0.3 to 1.9 megapixels."""


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(count: int, net: str, formats: list[str], threads: int, rounds: int) -> str:
    """Markdown: seconds of ``count`` JPEGs by the net alone, from pixels in memory; by files one
    after the other; and by a run whose threads overlap, with the share of its time in which the net
    was at work. Medians over rounds, and of their ratios."""
    upscaler = bitsr.load(net, threads=threads)
    lines = [
        f"# {count} JPEGs of 0.3 to 1.9 megapixels, {net}, {threads} threads of the net",
        "",
        *(f"- {line}" for line in machine.describe()),
        f"- load average before {machine.load()}",
        "",
        "| output | net alone | one after the other | overlapped | overlapped / net | one by one / net "
        "| net at work |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for i in range(count):
            write_photo(folder / "in" / f"{i:03}.jpg", *_SHAPES[i % len(_SHAPES)])
        pixels = [photo.read_whole(path) for path in sorted((folder / "in").iterdir())]
        for format in formats:

            def alone() -> None:
                for image in pixels:
                    upscaler(image)

            def one_by_one(format: str = format) -> None:
                (folder / "one").mkdir(exist_ok=True)
                for job in batch.plan(folder / "in", folder / "one", upscaler.scale, format=format):
                    bitsr.upscale(job.input, job.output, net=upscaler)

            at_work: list[float] = []

            def overlapped(format: str = format, at_work: list[float] = at_work) -> None:
                jobs = batch.plan(folder / "in", folder / "run", upscaler.scale, format=format)
                start, busy = time.perf_counter(), 0.0
                for result in batch.run(jobs, Chooser(net=upscaler)):
                    if result.error:
                        raise RuntimeError(f"{result.job.input}: {result.error}")
                    busy += result.net_seconds
                at_work.append(busy / (time.perf_counter() - start))

            times = np.array(
                [[_seconds(work) for work in (alone, one_by_one, overlapped)] for _ in range(rounds)]
            )
            for path in sorted((folder / "one").glob(f"*.{format}")):
                if path.read_bytes() != (folder / "run" / path.name).read_bytes():
                    raise RuntimeError(f"{path.name}: the bytes differ")
            net_s, one_s, run_s = (statistics.median(times[:, i]) for i in range(3))
            ratios = [statistics.median(times[:, i] / times[:, 0]) for i in (2, 1)]
            lines.append(
                f"| {format} | {net_s:.1f} s | {one_s:.1f} s | {run_s:.1f} s | {ratios[0]:.2f} "
                f"| {ratios[1]:.2f} | {statistics.median(at_work):.0%} |"
            )
    lines += ["", f"libvips {'.'.join(str(pyvips.version(i)) for i in range(3))}"]
    return "\n".join(lines) + "\n"
