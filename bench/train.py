"""How fast training goes on this CPU, setting by setting."""

from __future__ import annotations

import statistics
import time

import torch
from lightning_fabric import Fabric

from bitsr.train import recipe
from bitsr.train.build import build
from bitsr.train.run import load_data
from bitsr.train.trainer import Trainer

from . import machine

COMPILED = ("train.compile=true",)
SETTINGS: dict[str, tuple[str, ...]] = {
    "float32": (),
    "float32, compiled": COMPILED,
    "bf16, compiled": (*COMPILED, "train.precision=bf16"),
    "int8": ("train.int8=true",),
}


def settings() -> dict[str, tuple[str, ...]]:
    """Those that this CPU has instructions for: without them bfloat16 takes seconds an iteration."""
    bf16 = "bf16" in machine.features()
    return {key: extra for key, extra in SETTINGS.items() if bf16 or "bf16" not in key}


def trainer(name: str, assignments: list[str]) -> Trainer:
    """The trainer of a recipe as `bitsr train` makes it on one CPU, before its first iteration."""
    read = recipe.load(name, assignments)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    crops, _ = load_data(read, fabric.device)
    torch.manual_seed(read.train.seed)
    return Trainer(fabric, read, build(read), crops)


def report(name: str, assignments: list[str], threads: int, rounds: int, steps: int = 8) -> str:
    """Markdown: iterations of each setting, all of a round in turn; medians over the rounds."""
    torch.set_num_threads(threads)
    before = machine.load()
    common = ["train.precision=32", "train.compile=false", "train.int8=false", "train.loss=l1"]
    # Soft targets take minutes before the first iteration, and no time in it.
    common += ["data.teachers=[]", *assignments]
    trainers = {key: trainer(name, [*common, *extra]) for key, extra in settings().items()}
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
