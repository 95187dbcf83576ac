"""The engine as WebAssembly, in Node and in wasmtime, against the native AVX2 path: one thread each."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bitsr.engine import Engine, isas

from . import machine
from .nets import random_packed
from .task import ROOT

WIDTH, HEIGHT = 320, 60
BLOCKS = (16, 8)
"""Of the two nets, whose difference is that of binary layers alone."""


class Node:
    """A net in Node: js/bench.mjs, in a process of its own."""

    def __init__(self, net: Path) -> None:
        command = ["node", str(ROOT / "js" / "bench.mjs"), str(net), str(HEIGHT), str(WIDTH)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> float:
        assert self.process.stdin and self.process.stdout
        print("run", file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def in_wasmtime(net: bytes, lr: np.ndarray) -> Callable[[], float] | None:
    """A net in wasmtime; None where that is not installed."""
    sys.path.append(str(ROOT / "tests"))
    try:
        from wasm_core import Instance, Module

        module = Module(ROOT / "js" / "dist" / "bitsr.wasm")
    except ImportError:
        return None
    return lambda: seconds(lambda: Instance(module, net).run(lr))


def seconds(run: Callable[[], object]) -> float:
    start = time.thread_time()
    run()
    return time.thread_time() - start


def report(rounds: int) -> str:
    """Markdown. Times are CPU time, all of a round in turn; ratios are medians over the rounds."""
    if not (ROOT / "js" / "dist" / "bitsr.wasm").exists() or not shutil.which("node"):
        raise RuntimeError("needs Node and js/dist (just wasm)")
    if "avx2" not in isas():
        raise RuntimeError("needs AVX2, which WebAssembly is compared with")
    before = machine.load()
    packed = [random_packed(4, 64, blocks) for blocks in BLOCKS]
    lr = np.random.default_rng(0).integers(-16320, 16321, (HEIGHT, WIDTH), np.int16)
    jobs: dict[str, list[Callable[[], float]]] = {"avx2": [], "Node": [], "wasmtime": []}
    with tempfile.TemporaryDirectory() as folder:
        for i, net in enumerate(packed):
            path = Path(folder) / f"{i}.bsr"
            net.write(path)
            engine = Engine(net, isa="avx2", threads=1)
            jobs["avx2"].append(lambda e=engine: seconds(lambda: e.run(lr)))
            jobs["Node"].append(Node(path))
            if run := in_wasmtime(net.to_bytes(), lr):
                jobs["wasmtime"].append(run)
        jobs = {name: runs for name, runs in jobs.items() if runs}
        seen: dict[str, list[list[float]]] = {name: [] for name in jobs}
        for i in range(rounds + 3):  # the first rounds warm up: V8 compiles twice
            for name, runs in jobs.items():
                times = [run() for run in runs]
                if i >= 3:
                    seen[name].append(times)
    layers = 2 * (BLOCKS[0] - BLOCKS[1])
    lines = [
        f"# WebAssembly beside AVX2: 64 channels, {WIDTH}x{HEIGHT}, one thread, {rounds} rounds",
        "",
        *(f"- {line}" for line in machine.describe()),
        f"- load average before {before}, after {machine.load()}; CPU time",
        "",
        "| engine | ns an LR pixel, 16 blocks | speed beside AVX2 | ns of a binary layer | speed |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, rows in seen.items():
        native = seen["avx2"]
        whole = statistics.median(a[0] for a in rows)
        layer = statistics.median(a[0] - a[1] for a in rows) / layers
        ratio = statistics.median(b[0] / a[0] for a, b in zip(rows, native, strict=True))
        of_layer = statistics.median((b[0] - b[1]) / (a[0] - a[1]) for a, b in zip(rows, native, strict=True))
        nanoseconds = 1e9 / (WIDTH * HEIGHT)
        lines.append(
            f"| {name} | {nanoseconds * whole:.0f} | {ratio:.2f} | {nanoseconds * layer:.1f} | {of_layer:.2f} |"
        )
    return "\n".join(lines) + "\n"
