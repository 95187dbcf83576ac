"""Peak memory and time of one photo through the command line, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyvips

from . import machine
from .task import ROOT, Task, prepared


def photo(path: Path, width: int, height: int) -> None:
    """Write an RGB image that compresses about as a photograph: smooth waves, edges and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:512, :512].astype(np.float32)
    tile = 127 + 50 * np.sin(x / 23)[..., None] * np.cos(y / 31)[..., None] + rng.normal(0, 5, (512, 512, 3))
    tile[128:384, 128:384] += 40
    image = pyvips.Image.new_from_array(np.clip(tile, 0, 255).astype(np.uint8))
    across, down = -(-width // 512), -(-height // 512)
    image.replicate(across, down).crop(0, 0, width, height).write_to_file(str(path))


def measure(command: list[str]) -> tuple[float, float]:
    """(seconds, peak resident MiB) of a command. RuntimeError with the last line it wrote if it
    fails."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            last = (errors.read().decode(errors="replace").strip() or "no message").splitlines()[-1]
            raise RuntimeError(f"{' '.join(command[:4])} ended with {process.returncode}: {last}")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return seconds, usage.ru_maxrss / unit


def report(size: tuple[int, int], scale: int, net: str | None, formats: list[str]) -> str:
    """Markdown, a line a format of the output; the interpreter and libraries alone are the first
    line, the first format without a limit to memory the last."""
    width, height = size
    task = Task(scale=scale)
    model = net or str(prepared(task, "bsr", "random-64x16"))
    lines = [
        f"# {width * height / 1e6:.0f}-MP photo ({width}x{height}), x{scale}, through the command line",
        "",
        *(f"- {line}" for line in machine.describe()),
        f"- load average before {machine.load()}",
        "",
        "| | seconds | SR MP/s | peak RSS MiB |",
        "|---|---:|---:|---:|",
    ]
    megapixels = width * height * scale**2 / 1e6
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "photo.jpg"
        photo(source, width, height)
        small = Path(folder) / "small.png"
        photo(small, 16, 16)
        whole = ["-t", str(height)]  # no limit to memory: one strip
        for name, image, suffix, more in [
            ("16x16 to png", small, "png", []),
            *((f"photo to {f}", source, f, []) for f in formats),
            (f"photo to {formats[0]}, in one strip", source, formats[0], whole),
        ]:
            target = Path(folder) / f"{image.stem}-out.{suffix}"
            command = [sys.executable, "-m", "bitsr", "upscale", "-i", str(image), "-o", str(target)]
            seconds, peak = measure([*command, "-n", model, *more])
            size_of = pyvips.Image.new_from_file(str(target))
            if image is source and (size_of.width, size_of.height) != (width * scale, height * scale):
                raise RuntimeError(f"{name}: the result is {size_of.width}x{size_of.height}")
            speed = f"{megapixels / seconds:.2f}" if image is source else ""
            lines.append(f"| {name} | {seconds:.1f} | {speed} | {peak:.0f} |")
            target.unlink()
    return "\n".join(lines) + "\n"
