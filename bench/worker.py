"""One contender in its own process: ``python -m bench.worker NAME TASK``, driven through pipes by
bench.race.

It answers one JSON line when ready and one for each line "run"; it ends when its standard input
does.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .contenders import Run, lineup
from .task import Task

LEAST = 0.2
"""Seconds that one measurement lasts at least: short nets run several times, after one run to warm
up."""


def measure(run: Run, estimate: float, clock: Callable[[], float]) -> float:
    """Seconds a run, by ``clock``."""
    n = max(1, math.ceil(LEAST / estimate))
    if n > 1:
        run()
    start = clock()
    for _ in range(n):
        run()
    return (clock() - start) / n


def main(name: str, task: Task) -> None:
    # Libraries print what they like; the answers have a pipe of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # The engine's path is named in the contender itself, whatever this CPU's list of paths is.
    isas = [name.split()[1]] if name.startswith("bitsr ") else []
    clock = time.process_time if task.cpu else time.perf_counter
    contender = next(c for c in lineup(task, isas) if c.name == name)
    try:
        run = contender.build(task)
        image = np.asarray(run())
        want = (task.height * task.scale, task.width * task.scale)
        if image.shape[:2] != want:
            raise RuntimeError(f"its image is {image.shape}, not {want}")
        start = clock()
        run()
        estimate = clock() - start
    except Exception as e:
        print(json.dumps({"error": f"{type(e).__name__}: {e}".splitlines()[0]}), file=answers)
        return
    path = Path(task.cache) / f"image-{os.getpid()}.npy"
    np.save(path, image)
    try:
        version = importlib.metadata.version(contender.library)
    except importlib.metadata.PackageNotFoundError:
        version = "source tree"
    print(json.dumps({"version": version, "image": str(path)}), file=answers)
    for line in sys.stdin:
        if line.strip() == "run":
            estimate = measure(run, estimate, clock)
            rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps({"seconds": estimate, "rss_mib": rss}), file=answers)


if __name__ == "__main__":
    main(sys.argv[1], Task.parse(sys.argv[2]))
