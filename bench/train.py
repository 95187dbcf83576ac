"""How fast training goes on this CPU, setting by setting."""

from __future__ import annotations

import statistics
import time
from types import MethodType

import torch
from lightning_fabric import Fabric

from bitsr.train import recipe
from bitsr.train import run as loop

from . import machine

COMPILED = ("train.compile=true",)
PLAIN = "float32, torch's convolutions"
SETTINGS: dict[str, tuple[str, ...]] = {
    "float32": (),
    PLAIN: (),
    "float32, compiled": COMPILED,
    "bf16, compiled": (*COMPILED, "train.precision=bf16"),
    "int8": ("train.int8=true",),
}


def settings() -> dict[str, tuple[str, ...]]:
    """Those that this CPU has instructions for: without its own products bfloat16 takes seconds an iteration."""
    bf16 = "bf16" in machine.features()
    return {key: extra for key, extra in SETTINGS.items() if bf16 or "bf16" not in key}


def trainer(name: str, base: list[str]) -> loop.Trainer:
    read = recipe.load(name, base)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    crops, _ = loop._load_data(read, fabric.device, 0, 1)
    torch.manual_seed(read.train.seed)
    return loop.Trainer(fabric, read, recipe.build(read), crops)


def report(name: str, assignments: list[str], threads: int, rounds: int, steps: int = 8) -> str:
    """Markdown: iterations of each setting, all of a round in turn; medians over the rounds."""
    torch.set_num_threads(threads)
    before = machine.load()
    common = ["train.precision=32", "train.compile=false", "train.int8=false", "train.loss=l1"]
    # Teachers take minutes before the first iteration, and no time in it.
    common += ["data.teachers=[]", *assignments]
    trainers = {key: trainer(name, [*common, *extra]) for key, extra in settings().items()}
    quick = [m for m in trainers[PLAIN].net.modules() if isinstance(m, Conv3x3)]
    for module in quick:
        module.forward = MethodType(torch.nn.Conv2d.forward, module)
    if not quick:  # the net has none: the same again
        del trainers[PLAIN]
    seen: dict[str, list[float]] = {key: [] for key in trainers}
    for i in range(rounds + 1):
        for key, made in trainers.items():
            start = time.perf_counter()
            for step in range(steps):
                made.step(i * steps + step, 1e-3, 0.0)
            if i:  # the first round compiles
                seen[key].append((time.perf_counter() - start) / steps)
    data = recipe.load(name, common).data
    pixels = data.batch * data.patch**2
    first = next(iter(seen))
    lines = [
        f"# Training {name}: batch {data.batch}, LR patch {data.patch}, threads {threads}, rounds {rounds} of {steps}",
        "",
        *(f"- {line}" for line in machine.describe()),
        f"- torch {torch.__version__}, load average before {before}, after {machine.load()}",
        "",
        "| setting | ms an iteration | iterations/s | LR pixels/s | speed |",
        "|---|---:|---:|---:|---:|",
    ]
    for key, times in seen.items():
        t = statistics.median(times)
        ratio = statistics.median(a / b for a, b in zip(seen[first], times, strict=True))
        lines.append(f"| {key} | {1e3 * t:.0f} | {1 / t:.2f} | {pixels / t:.0f} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"
