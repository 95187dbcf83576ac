"""The core in a program of its own, for what Python cannot load: built by CMake, fed with jobs (run_model.cpp)."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import colour_reference
import numpy as np
import pytest
from numpy.typing import NDArray

from bitsr import reference
from bitsr.model_file import ModelFile

ROOT = Path(__file__).resolve().parents[1]


def need(*programs: str) -> None:
    """Skip where one of the programs is missing."""
    if missing := [p for p in programs if not shutil.which(p)]:
        pytest.skip(f"needs {', '.join(missing)}")


def build(folder: Path, *settings: str) -> Path:
    """run_model, built in ``folder`` with CMake settings like "-DCMAKE_CXX_COMPILER=g++"."""
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), *settings],
        ["cmake", "--build", str(folder), "--target", "run_model", "-j", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run_model"


@dataclass
class Jobs:
    """Jobs collected, run in one go and checked against the reference."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.lines: list[str] = []
        self.expected: dict[str, NDArray[np.int16]] = {}  # by the OUT of a job
        self.merged: dict[str, NDArray[Any]] = {}  # by the OUT of a job
        self._models: dict[int, tuple[ModelFile, Path]] = {}

    def run(self, packed: ModelFile, lr: NDArray[np.int16], *variants: tuple[int, int]) -> None:
        """The plane through the model for each (threads, rows a push; 0: all of them)."""
        if id(packed) not in self._models:
            self._models[id(packed)] = packed, self.folder / f"{len(self._models)}.bsr"
            packed.write(self._models[id(packed)][1])
        name = f"{len(self.expected)}"
        (self.folder / f"{name}.lr").write_bytes(lr.tobytes())
        expected = reference.run(packed, lr)
        h, w = lr.shape
        for threads, portion in variants:
            out = f"{len(self.expected)}.sr"
            self.expected[out] = expected
            model = self._models[id(packed)][1].name
            self.lines.append(f"run {model} {name}.lr {h} {w} {threads} {portion or h} {out}")

    def open(self, data: bytes) -> None:
        name = f"{len(self.lines)}.hostile"
        (self.folder / name).write_bytes(data)
        self.lines.append(f"open {name}")

    def colour(self, depth: int, channels: int, h: int, w: int, scale: int, smooth: bool) -> None:
        """A merge of random pixels; its result must be colour_reference's."""
        lr, q = colour_reference.random_merge(depth, channels, h, w, scale, seed=len(self.lines))
        name = f"{len(self.lines)}"
        (self.folder / f"{name}.pixels").write_bytes(lr.tobytes())
        (self.folder / f"{name}.luma").write_bytes(q.tobytes())
        self.merged[f"{name}.merged"] = colour_reference.merge(lr, q, scale, smooth=smooth)
        sizes = f"{depth} {channels} {h} {w} {scale} {smooth:d}"
        self.lines.append(f"colour {name}.pixels {name}.luma {sizes} {name}.merged")

    def train(self, *sizes: int) -> None:
        """sizes: N, H, W, C, O, k, threads."""
        self.lines.append(" ".join(map(str, ("train", *sizes))))

    def done(self, *command: str, env: dict[str, str] | None = None) -> list[str]:
        """Run them all by ``command``; every SR must be the reference's. The lines it printed."""
        (self.folder / "jobs").write_text("\n".join(self.lines) + "\n")
        done = subprocess.run(
            [*command, "jobs"],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0 and not done.stderr, f"{done.stdout[-2000:]}\n{done.stderr[-20_000:]}"
        printed = done.stdout.splitlines()
        isas = {line.split()[1] for line in printed if line.startswith("run ")}
        for out, expected in self.expected.items():
            for isa in isas:
                sr = np.frombuffer((self.folder / f"{out}.{isa}").read_bytes(), np.int16).reshape(
                    expected.shape
                )
                np.testing.assert_array_equal(sr, expected, f"{out}.{isa}")
        for out, expected in self.merged.items():
            found = np.frombuffer((self.folder / out).read_bytes(), expected.dtype)
            np.testing.assert_array_equal(found.reshape(expected.shape), expected, out)
        assert len(printed) == len(self.expected) * len(isas) + len(self.lines) - len(self.expected)
        return printed
