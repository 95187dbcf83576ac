"""The machine's ceilings on one core, and the share of them that the engine's body reaches."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitsr.engine import Engine, isas
from bitsr.eval.complexity import packed_layers
from bitsr.model_file import ModelFile

from . import machine
from .nets import random_int8, random_packed, random_row

SOURCE = Path(__file__).with_name("ceilings.cpp")
WIDTH, HEIGHT = 320, 180


def compile_ceilings(folder: Path) -> ctypes.CDLL:
    """Build ceilings.cpp by $CXX, c++, g++ or clang++. RuntimeError where none is there or it
    fails."""
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
    """{name: (unit, units a second)}: the best of the rounds, for a ceiling is what nothing
    exceeds."""
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


def fastest(nets: Sequence[ModelFile], paths: list[str], height: int, rounds: int) -> dict[str, list[float]]:
    """{path: seconds of each net, the fastest of the rounds}, one thread."""
    lr = np.random.default_rng(0).integers(-16320, 16321, (height, WIDTH), np.int16)
    engines = {isa: [Engine(net, isa=isa, threads=1) for net in nets] for isa in paths}
    best = {isa: [float("inf")] * len(nets) for isa in paths}
    for _ in range(rounds):
        for isa, row in engines.items():
            for i, engine in enumerate(row):
                start = time.perf_counter()
                engine.run(lr)
                best[isa][i] = min(best[isa][i], time.perf_counter() - start)
    return best


def int8_rates(rounds: int, height: int = 40) -> dict[tuple[str, str], float]:
    """{(path, shape): MACs a second} of int8 convolutions, one thread; without the scalar path, it
    takes too long.

    A convolution's time is the difference between a net with three of them and one with one, or
    nine and three in a row, as of the body.
    """
    out = {}
    for bits, cin, cout, k in ((1, 64, 64, 3), (8, 64, 64, 3), (8, 64, 256, 3), (8, 64, 1, 9)):
        nets = [random_int8(cin, cout, k, bits == 1, times) for times in (3, 1)]
        for isa, (three, one) in fastest(nets, isas()[:-1], height, rounds).items():
            shape = f"{cin} -> {cout}, {k}x{k}, W{bits}A8"
            out[isa, shape] = 2 * cin * cout * k * k * WIDTH * height / (three - one)
    for channels in (16, 32):
        nets = [random_row(channels, layers) for layers in (9, 3)]
        for isa, (nine, three) in fastest(nets, isas()[:-1], height, rounds).items():
            shape = f"{channels} -> {channels}, 3x3, W7A8, in a row"
            out[isa, shape] = 6 * 9 * channels**2 * WIDTH * height / (nine - three)
    return out


def body_rates(rounds: int) -> dict[str, tuple[float, float, float]]:
    """{path: (seconds a body layer, its MACs a second, seconds of all that is no body)}, one
    thread.

    The layer's time is the difference between nets of 16 and of 8 blocks by 16 layers, with all
    that belongs to a layer (epilogue, skip, sign); no clock runs inside the engine. The fastest of
    the rounds counts.
    """
    long, short = random_packed(4, 64, 16), random_packed(4, 64, 8)
    layer = next(x for x in packed_layers(long) if x.binary)
    out = {}
    for isa, (whole, half) in fastest((long, short), isas(), HEIGHT, rounds).items():
        seconds = (whole - half) / 16
        out[isa] = (seconds, layer.macs * WIDTH * HEIGHT / seconds, whole - 32 * seconds)
    return out


def report(rounds: int) -> str:
    """Markdown: the ceilings, then each path of the engine against those of its own
    instructions."""
    before = machine.load()
    top, body, int8 = ceilings(rounds), body_rates(rounds), int8_rates(rounds)
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
    lines += [
        "",
        "int8 convolutions with their epilogue. The ceiling of AVX-512 is vpdpbusd, that of AVX2 takes vpmaddubsw,"
        " vpmaddwd and an addition: one-bit weights need less, 8-bit ones more.",
        "",
        "| path | convolution | G MAC/s | MAC/cycle | of int8 |",
        "|---|---|---:|---:|---:|",
    ]
    for (isa, shape), rate in int8.items():
        found = top.get(f"{isa} int8")
        share = f"{rate / found[1]:.2f}" if found else ""
        lines.append(f"| {isa} | {shape} | {rate / 1e9:.0f} | {rate / clock:.1f} | {share} |")
    return "\n".join(lines) + "\n"
