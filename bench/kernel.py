"""The machine's ceilings on one core, and the share of them that the engine's body reaches."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from bitsr.counting import packed_layers
from bitsr.engine import Engine, isas

from . import machine
from .nets import random_packed

SOURCE = Path(__file__).with_name("ceilings.cpp")
WIDTH, HEIGHT = 320, 180


def compile_ceilings(folder: Path) -> ctypes.CDLL:
    """Build ceilings.cpp by $CXX, c++, g++ or clang++. RuntimeError where none is there or it fails."""
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    compiler = next((found for n in names if n and (found := shutil.which(n))), None)
    if compiler is None:
        raise RuntimeError("no C++ compiler found; name one by CXX")
    library = folder / "ceilings.so"
    command = [compiler, "-O3", "-std=c++17", "-fPIC", "-shared", str(SOURCE), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{compiler}: {done.stderr.strip()[:400]}")
    lib = ctypes.CDLL(str(library))
    lib.ceiling_name.restype = lib.ceiling_unit.restype = ctypes.c_char_p
    lib.ceiling_rate.argtypes = [ctypes.c_int, ctypes.c_double]
    lib.ceiling_rate.restype = ctypes.c_double
    return lib


def ceilings(rounds: int, seconds: float = 0.05) -> dict[str, tuple[str, float]]:
    """{name: (unit, units a second)}: the best of the rounds, for a ceiling is what nothing exceeds."""
    out: dict[str, tuple[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        lib = compile_ceilings(Path(folder))
        for _ in range(rounds):
            i = 0
            while name := lib.ceiling_name(i):
                rate = lib.ceiling_rate(i, seconds)
                unit, best = out.get(name.decode(), (lib.ceiling_unit(i).decode(), 0.0))
                out[name.decode()] = (unit, max(best, rate))
                i += 1
    return out


def body_rates(rounds: int) -> dict[str, tuple[float, float, float]]:
    """{path: (seconds a body layer, its MACs a second, seconds of all that is no body)}, one thread.

    The layer's time is the difference between nets of 16 and of 8 blocks by 16 layers, with all that belongs
    to a layer (epilogue, skip, sign); no clock runs inside the engine. The fastest of the rounds counts.
    """
    long, short = random_packed(4, 64, 16), random_packed(4, 64, 8)
    layer = next(x for x in packed_layers(long) if x.binary)
    lr = np.random.default_rng(0).integers(-16320, 16321, (HEIGHT, WIDTH), np.int16)
    engines = {isa: [Engine(net, isa=isa, threads=1) for net in (long, short)] for isa in isas()}
    best = {isa: [float("inf")] * 2 for isa in engines}
    for _ in range(rounds):
        for isa, pair in engines.items():
            for i, engine in enumerate(pair):
                start = time.perf_counter()
                engine.run(lr)
                best[isa][i] = min(best[isa][i], time.perf_counter() - start)
    out = {}
    for isa, (whole, half) in best.items():
        seconds = (whole - half) / 16
        out[isa] = (seconds, layer.macs * WIDTH * HEIGHT / seconds, whole - 32 * seconds)
    return out


def report(rounds: int) -> str:
    """Markdown: the ceilings, then each path of the engine against those of its own instructions."""
    before = machine.load()
    top, body = ceilings(rounds), body_rates(rounds)
    clock = top["clock"][1]
    lines = [
        "# One core: ceilings, and the engine's body beside them",
        "",
        *(f"- {line}" for line in machine.describe()),
        f"- load average before {before}, after {machine.load()}",
        f"- clock {clock / 1e9:.2f} GHz, from a chain of dependent additions; best of {rounds} rounds",
        "",
        "| ceiling | G/s | a cycle |",
        "|---|---:|---:|",
    ]
    for name, (unit, rate) in top.items():
        if name != "clock":
            lines.append(f"| {name}, {unit}s | {rate / 1e9:.1f} | {rate / clock:.1f} |")
    lines += [
        "",
        f"Body: binary 3x3, 64 -> 64, with its epilogue, in SRResNet-E2FIF 64x16 x4 at LR {WIDTH}x{HEIGHT}."
        " Popcount is xor, popcount and add for every word; carry-save addition takes fewer popcounts, so the"
        " body may exceed it. Rest is head, tail and all else of the net.",
        "",
        "| path | ms a layer | G MAC/s | MAC/cycle | of popcount | of fp32 | of int8 | rest ms |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for isa, (seconds, rate, rest) in body.items():
        shares = []
        for kind in ("popcount", "fp32", "int8"):
            found = top.get(f"{isa} {kind}")
            shares.append(f"{rate / found[1]:.2f}" if found else "")
        lines.append(
            f"| {isa} | {1e3 * seconds:.3f} | {rate / 1e9:.0f} | {rate / clock:.0f} | {' | '.join(shares)} |"
            f" {1e3 * rest:.1f} |"
        )
    return "\n".join(lines) + "\n"
