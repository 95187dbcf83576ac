"""How fast training goes on this CPU, setting by setting."""

from __future__ import annotations

import statistics
import time

import torch
from lightning_fabric import Fabric

from bitsr.train import loop, recipe

from . import machine

BLOCKED = ("net.args.act=blocked",)
SETTINGS: dict[str, tuple[str, ...]] = {
    "bf16, not compiled": ("train.precision=bf16", "train.compile=false"),
    "bf16": ("train.precision=bf16",),
    "float32": (),
    "int8": ("train.int8=true",),
    "float32, blocked": BLOCKED,
    "int8, blocked": (*BLOCKED, "train.int8=true"),
    "int8, blocked, batch norm frozen": (*BLOCKED, "train.int8=true", "train.freeze_bn=1"),
}


def trainer(name: str, base: list[str]) -> loop.Trainer:
    settings = recipe.load(name, base)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    crops, _ = loop._load_data(settings, fabric.device, 0, 1)
    torch.manual_seed(settings.train.seed)
    made = loop.Trainer(fabric, settings, recipe.build(settings), crops)
    if settings.train.freeze_bn:
        made.freeze(estimate=True)
    return made


def report(name: str, assignments: list[str], threads: int, rounds: int, steps: int = 8) -> str:
    """Markdown: iterations of each setting, all of a round in turn; medians over the rounds."""
    torch.set_num_threads(threads)
    before = machine.load()
    common = ["train.precision=32", "train.compile=true", "train.loss=l1", *assignments]
    trainers = {key: trainer(name, [*common, *extra]) for key, extra in SETTINGS.items()}
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
