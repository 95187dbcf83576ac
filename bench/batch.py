"""Many small images: what a process an image, and Ray, cost beside the work itself."""

from __future__ import annotations

import importlib.util
import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bitsr.auto import choose
from bitsr.cluster import Plan, Row, Task, Worker, on_ray, plan, pool, run
from bitsr.pipeline import Settings

from . import machine
from .memory import photo
from .nets import random_packed

_TASKS = 100_000
"""Of a batch without work, which shows what listing and remembering cost."""


def _images(folder: Path, count: int, width: int, height: int) -> None:
    """Write one image under many names."""
    folder.mkdir()
    photo(folder / "0.png", width, height)
    data = (folder / "0.png").read_bytes()
    for i in range(1, count):
        (folder / f"{i}.png").write_bytes(data)


def _timed(rows: Iterator[Row]) -> tuple[float, float, float]:
    """Seconds until the first row is there; from then on, seconds for each row that comes later, and
    seconds of this process's CPU time."""
    start = time.perf_counter()
    times: list[tuple[float, float]] = []
    for row in rows:
        if row.error:
            raise RuntimeError(row.error)
        times.append((time.perf_counter(), time.process_time()))
    (first, used), (last, used_last) = times[0], times[-1]
    # Ray brings the rows of a block at once: the first block does not count.
    later = max(1, sum(t - first > 0.01 for t, _ in times))
    return first - start, (last - first) / later, (used_last - used) / later


def _resident(pid: int) -> float:
    """MiB of memory that a process holds."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def _growth(worker: Worker, tasks: list[Task], count: int) -> str:
    """How the memory of a worker's process grows over ``count`` images."""
    isolated = pool.Isolated(worker)
    seen: list[float] = []
    for i in range(count):
        isolated(tasks[i % len(tasks)])
        if i + 1 in (count // 5, count):
            process = isolated._process
            assert process
            seen.append(_resident(process.pid))
    isolated.close()
    first, last = seen
    slope = 1024 * (last - first) / (count - count // 5)
    return f"- a worker's process: {first:.1f} MiB after {count // 5} images, {last:.1f} after {count}," + (
        f" {slope:.2f} KiB an image"
    )


def _bookkeeping(folder: Path) -> str:
    """What a batch without work costs where it is started: memory and time an image."""
    output = folder / "books"
    worker = Worker(choose("bitsr-s-x2", threads=1), Settings(), str(output))
    tracemalloc.start()
    tasks = [
        Task(f"{i:08}.png", f"/data/images/{i:08}.png", f"{output}/{i:08}.png", "png", 1 << 17, f"{i:019}")
        for i in range(_TASKS)
    ]
    listed = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    start = time.perf_counter()
    made = (Row(t.name, t.input, t.output, t.size, t.tag, 512, 512, 1 << 19, "net", 1.0) for t in tasks)
    for _ in run(Plan(tasks, str(output)), worker, lambda todo, worker: made):
        pass
    seconds = time.perf_counter() - start
    return f"- where it is started: {listed / _TASKS:.0f} bytes and {1e6 * seconds / _TASKS:.0f} us an image"


def report(
    count: int, size: tuple[int, int], net: str | None, rounds: int, workers: list[int], growth: int
) -> str:
    """Markdown: each way to work through the images, all of a round in turn; medians over the
    rounds."""
    before = machine.load()
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray takes 15, the others none)
    lines = [
        f"# {count} images of {size[0]}x{size[1]}, x4, {rounds} rounds",
        "",
        *(f"- {line}" for line in machine.describe()),
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _images(folder / "in", count, *size)
        if net is None:
            net = str(folder / "random.bsr")
            random_packed(4, 64, 1).write(net)
        tasks = plan(str(folder / "in"), str(folder / "out")).tasks
        worker = Worker(choose(net, threads=1), Settings(), str(folder / "out"))
        ways: dict[str, Callable[[], Iterator[Row]]] = {
            "one process": lambda: (worker(task) for task in tasks)
        }
        for n in workers:
            ways[f"batch -j {n}"] = partial(pool.work, tasks, worker, n)
        if importlib.util.find_spec("ray"):
            for n in workers:
                ways[f"batch --ray local -j {n}"] = partial(on_ray.work, tasks, worker, on_ray.LOCAL, n)
        seen: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, rows in ways.items():
                seen[way].append(_timed(rows()))
        lines += [f"- load average before {before}, after {machine.load()}", ""]
        lines += ["| way | s to the first image | images/s | SR MP/s | speed | CPU ms here an image |"]
        lines += ["|---|---:|---:|---:|---:|---:|"]
        for way in ways:
            first, later, used = (statistics.median(column) for column in zip(*seen[way], strict=True))
            pairs = zip(seen["one process"], seen[way], strict=True)
            speed = statistics.median(a / b for (_, a, _), (_, b, _) in pairs)
            lines.append(
                f"| {way} | {first:.1f} | {1 / later:.1f} | {16e-6 * size[0] * size[1] / later:.2f} |"
                f" {speed:.2f} | {1e3 * used:.1f} |"
            )
        lines += ["", _growth(worker, tasks, growth), _bookkeeping(folder)]
    return "\n".join(lines) + "\n"
