"""What is measured, and where prepared files lie. Imported by parent and workers: no heavy library
here."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Task:
    """One image through one net: LR width x height, scale, threads, and the folder of prepared
    files."""

    width: int = 320
    height: int = 180
    scale: int = 4
    threads: int = 1
    cache: str = str(ROOT / "build" / "bench")
    net: str | None = None
    """A .bsr file for bitsr; None makes one of random weights (the time does not depend on
    them)."""
    cpu: bool = False
    """Whether seconds of CPU are measured in place of the clock's: for a busy machine, one thread."""
    models: str | None = None
    """Folder of ncnn's models: the restorers race in place of the float and binary nets."""

    def json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Task:
        return cls(**json.loads(text))

    def luma(self) -> NDArray[np.float32]:
        """The LR image of every contender: (height, width), Y in [0, 255], smooth with texture."""
        y, x = np.mgrid[: self.height, : self.width].astype(np.float32)
        waves = 60 * np.sin(x / 17) * np.cos(y / 23) + 30 * np.sin((x + 2 * y) / 5)
        noise = np.random.default_rng(0).normal(0, 4, waves.shape)
        return np.clip(127.5 + waves + noise, 0, 255).astype(np.float32)

    def rgb(self) -> NDArray[np.uint8]:
        """The same in colour, (height, width, 3)."""
        y = self.luma()
        return np.stack([y, 0.9 * y[:, ::-1], 255 - y], axis=2).astype(np.uint8)


def prepared(task: Task, kind: str, net: str) -> Path:
    """File of ``net`` of a kind (a key of MAKERS in bench.prepare), made anew if missing or old.

    bench.prepare makes it in a process of its own: no worker is to carry a library that it does not
    measure.
    """
    suffix = {"openvino-int8": "xml", "bsr": "bsr", "tflite": "tflite", "tflite-int8": "tflite"}.get(
        kind, "onnx"
    )
    size = "" if kind == "bsr" else f"-{task.width}x{task.height}"
    path = Path(task.cache) / f"{net}-x{task.scale}{size}-{kind}.{suffix}"
    makers = [Path(__file__).with_name(name).stat().st_mtime for name in ("nets.py", "prepare.py")]
    if not path.exists() or path.stat().st_mtime < max(makers):
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "bench.prepare", kind, net, str(path), task.json()]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            path.unlink(missing_ok=True)
            raise RuntimeError(f"preparing {path.name}: {(done.stderr.strip() or '?').splitlines()[-1]}")
    return path
