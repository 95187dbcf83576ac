"""The Pareto front of quality against time: packed nets and small float nets, one table, one plot.

A float net (.onnx of ``bitsr export``) runs in ONNX Runtime, as float32 and as static int8
(calibrated on validation images), and, where it is installed, in OpenVINO as both. Each of these is
judged by its own images.
"""

from __future__ import annotations

import csv
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitsr.engine import Engine
from bitsr.eval.evaluate import LumaNet, evaluate, find_set, read_hr, to_q
from bitsr.eval.metrics import rgb_to_y, to_8bit
from bitsr.imresize import imresize
from bitsr.zoo import find

from . import machine
from .contenders import onnx_session, openvino_request
from .prepare import quantise_onnx
from .task import Task


@dataclass
class Point:
    """A net in an engine. psnr: of each set, dB; seconds: of each round."""

    net: str
    engine: str
    kib: float
    runs: LumaNet
    psnr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def ms(self) -> float:
        return 1e3 * statistics.median(self.seconds)


class FloatNet:
    """A float net as something that can be evaluated: int16 luma in and out, as ``Engine`` has
    it."""

    def __init__(self, infer: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        self.infer = infer
        self.scale = infer(np.full((1, 1, 8, 8), 100, np.float32)).shape[2] // 8

    def run(self, lr: NDArray[np.int16]) -> NDArray[np.int16]:
        sr = self.infer((lr / 128 + 127.5).astype(np.float32)[None, None])[0, 0]
        return to_q(sr)


def onnxruntime(path: Path, threads: int) -> FloatNet:
    session = onnx_session(path, threads)
    return FloatNet(lambda x: session.run(None, {"lr": x})[0])


def openvino(path: Path, threads: int) -> FloatNet:
    request = openvino_request(path, threads, "f32")
    return FloatNet(lambda x: request.infer({0: x})[0])


def luma_tiles(scale: int, n: int = 16, side: int = 96) -> list[NDArray[np.float32]]:
    """LR luma (1, 1, side, side) of the first validation images, for quantisers."""
    out = []
    for path in find_set("valid")[:n]:
        hr = read_hr(path)[: side * scale, : side * scale]
        lr = to_8bit(imresize(hr.astype(np.float64), 1 / scale))
        out.append((rgb_to_y(lr) if lr.ndim == 3 else lr).astype(np.float32)[None, None])
    return out


def points(nets: list[str], threads: int, folder: Path) -> list[Point]:
    """Every net in every engine that runs it. Raises RuntimeError for scales that differ."""
    out = []
    for name in nets:
        path = Path(name)
        if path.suffix != ".onnx":
            path = find(name)
            out.append(Point(path.stem, "bitsr", path.stat().st_size / 1024, Engine(path, threads=threads)))
            continue
        kib = path.stat().st_size / 1024
        small = folder / f"{path.stem}-int8.onnx"
        quantise_onnx(path, small, luma_tiles(onnxruntime(path, threads).scale))
        small_kib = small.stat().st_size / 1024
        out.append(Point(path.stem, "ONNX Runtime float32", kib, onnxruntime(path, threads)))
        out.append(Point(path.stem, "ONNX Runtime int8", small_kib, onnxruntime(small, threads)))
        try:
            out.append(Point(path.stem, "OpenVINO float32", kib, openvino(path, threads)))
            out.append(Point(path.stem, "OpenVINO int8", small_kib, openvino(small, threads)))
        except ImportError:
            continue
    if len({p.runs.scale for p in out}) > 1:
        raise RuntimeError("the nets of a Pareto front share one scale")
    return out


def plot(found: list[Point], set_: str, task: Task, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    middle = (min(p.ms for p in found) * max(p.ms for p in found)) ** 0.5
    engines = list(dict.fromkeys(p.engine for p in found))
    for i, engine in enumerate(engines):
        mine = [p for p in found if p.engine == engine]
        axes.scatter([p.ms for p in mine], [p.psnr[0] for p in mine], color=f"C{i}", label=engine)
    # one name, at the slowest, for a net that several engines run alike
    for p in {(p.net, round(p.psnr[0], 2)): p for p in sorted(found, key=lambda p: p.ms)}.values():
        # On the side where it stays inside.
        ha, x = ("left", 4) if p.ms < middle else ("right", -4)
        axes.annotate(p.net, (p.ms, p.psnr[0]), (x, 4), textcoords="offset points", ha=ha, fontsize=7)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"ms an image, LR {task.width}x{task.height}, {task.threads} threads of {machine.cpu()}")
    axes.set_ylabel(f"PSNR-Y on {set_}, dB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def pareto(nets: list[str], sets: list[str], task: Task, rounds: int, pause: float, out: Path) -> Path:
    """Write pareto.md, .csv and .png to ``out``; the path of the first. Nets run in turn,
    ``rounds`` times."""
    out.mkdir(parents=True, exist_ok=True)
    lr = to_q(task.luma())
    with tempfile.TemporaryDirectory() as folder:
        found = points(nets, task.threads, Path(folder))
        for p in found:
            means = evaluate(p.runs, sets).means()
            p.psnr = [row.psnr for row in means]
        for i in range(rounds + 1):
            for p in found:
                time.sleep(pause)  # in which the last engine's threads go to sleep
                p.runs.run(lr)
                start = time.perf_counter()
                p.runs.run(lr)
                if i:
                    p.seconds.append(time.perf_counter() - start)
    found.sort(key=lambda p: p.ms)
    names = ["net", "engine", *sets, "ms", "KiB"]
    lines = [f"# x{found[0].runs.scale}, LR {task.width}x{task.height}, {task.threads} threads", ""]
    lines += [*(f"- {line}" for line in machine.describe()), ""]
    lines += [f"| {' | '.join(names)} |", "|---|---|" + "---:|" * (len(sets) + 2)]
    with (out / "pareto.csv").open("w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(names)
        for p in found:
            figures = [*(f"{v:.2f}" for v in p.psnr), f"{p.ms:.{1 if p.ms >= 10 else 3}f}", f"{p.kib:.0f}"]
            writer.writerow([p.net, p.engine, *figures])
            lines.append(f"| {' | '.join([p.net, p.engine, *figures])} |")
    (out / "pareto.md").write_text("\n".join(lines) + "\n")
    plot(found, sets[0], task, out / "pareto.png")
    return out / "pareto.md"
