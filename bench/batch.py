"""Many small images: what a process an image, and Ray, cost beside the work itself."""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from bitsr.auto import choose
from bitsr.cluster import Plan, Row, Task, Worker, on_ray, plan, pool, run
from bitsr.errors import BitsrError
from bitsr.pipeline import Settings

from . import machine
from .memory import photo
from .nets import random_packed
from .task import ROOT

_TASKS = 100_000
"""Of a batch without work, which shows what listing and remembering cost."""
_GROWN = 16
"""Pixels a side of the images over which memory is watched."""


def _images(folder: Path, count: int, width: int, height: int) -> None:
    """One image under many names."""
    folder.mkdir()
    photo(folder / "0.png", width, height)
    for i in range(1, count):
        (folder / f"{i}.png").hardlink_to(folder / "0.png")


def _descendants(pid: int) -> Iterator[int]:
    """The processes that a process has started, and theirs."""
    with suppress(OSError):  # it has ended meanwhile
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, path.read_text().split()):
                yield child
                yield from _descendants(child)


def _used(pid: int) -> float:
    """Seconds of CPU time that a process has had."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _resident(pid: int) -> float:
    """MiB of memory that a process holds."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    return 0.0


# ---- time ----------------------------------------------------------------------------------------


def _timed(rows: Iterator[Row], count: int) -> tuple[float, float, float, float]:
    """Seconds until the first of ``count`` rows is there; from then on, for each row that comes
    later, seconds, seconds of CPU time of this process, and of all that it has started."""
    start = time.perf_counter()
    times: list[float] = []
    cpu: list[tuple[float, float]] = []
    for row in rows:
        if row.error:
            raise RuntimeError(row.error)
        times.append(time.perf_counter())
        if len(times) in (1, count):
            cpu.append((time.process_time(), sum(map(_used, _descendants(os.getpid())))))
    # Ray brings the rows of a block at once: the first block does not count.
    later = max(1, sum(t - times[0] > 0.01 for t in times))
    here, others = (last - first for first, last in zip(*cpu, strict=True))
    return times[0] - start, (times[-1] - times[0]) / later, here / later, (here + others) / later


def _ways(
    tasks: Sequence[Task], worker: Worker, workers: Sequence[int]
) -> dict[str, Callable[[], Iterator[Row]]]:
    """By name the ways to work through tasks."""
    ways: dict[str, Callable[[], Iterator[Row]]] = {"one process": lambda: map(worker, tasks)}
    for n in workers:
        ways[f"-j {n}"] = partial(pool.work, tasks, worker, n)
    if importlib.util.find_spec("ray"):
        for n in workers:
            ways[f"--ray local -j {n}"] = partial(on_ray.work, tasks, worker, on_ray.LOCAL, n)
    return ways


def _times(seen: dict[str, list[tuple[float, float, float, float]]], megapixels: float) -> Iterator[str]:
    """A table of medians over the rounds that there are; a ratio is formed within a round."""
    yield "| way | s to the first image | ms an image | SR MP/s | speed | CPU ms an image | of these here |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    alone = seen["one process"]
    for way, rounds in seen.items():
        if rounds:
            first, later, here, used = (statistics.median(column) for column in zip(*rounds, strict=True))
            speed = statistics.median(a[1] / b[1] for a, b in zip(alone, rounds, strict=False))
            yield (
                f"| {way} | {first:.1f} | {1e3 * later:.1f} | {megapixels / later:.2f} | {speed:.2f} |"
                f" {1e3 * used:.1f} | {1e3 * here:.2f} |"
            )


# ---- memory --------------------------------------------------------------------------------------


def _held(pid: int) -> tuple[float, float, float]:
    """MiB of a batch's command, of the largest process with a net, and of Ray's processes together."""
    workers, ray = [0.0], 0.0
    for child in _descendants(pid):
        with suppress(OSError):
            if b"pool import serve" in Path(f"/proc/{child}/cmdline").read_bytes():
                workers.append(_resident(child))
            else:
                ray += _resident(child)
    return _resident(pid), max(workers), ray


def _growth(folder: Path, net: str, count: int, way: Sequence[str]) -> Iterator[str]:
    """Rows of a table: what is held when each fifth of ``count`` images is done."""
    out = folder / f"grown{len(way)}"
    source = str(folder / "small")
    command = [sys.executable, "-m", "bitsr", "batch", source, str(out), "-n", net, *way]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    fifth = 1
    try:
        while process.poll() is None:
            done = sum(1 for _ in out.glob("*.png"))
            if done >= fifth * count // 5 - count // 100 and fifth <= 5:
                held = " | ".join(f"{mib:.0f}" for mib in _held(process.pid))
                yield f"| {' '.join(way)} | {done} | {held} |"
                fifth += 1
            time.sleep(0.2)
    finally:
        process.terminate()
        _, said = process.communicate()
    if process.returncode:
        yield f"| {' '.join(way)} | {said.strip().splitlines()[-1]} | | | |"


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
    start = time.process_time()
    made = (Row(t.name, t.input, t.output, t.size, t.tag, 512, 512, 1 << 19, "net", 1.0) for t in tasks)
    for _ in run(Plan(tasks, str(output)), worker, lambda todo, worker: made):
        pass
    seconds = time.process_time() - start
    return (
        f"The command remembers {listed / _TASKS:.0f} bytes an image, and keeps the list of what is done"
        f" in {1e6 * seconds / _TASKS:.0f} us of CPU time an image ({_TASKS} images without work)."
    )


def report(
    count: int, size: tuple[int, int], net: str | None, rounds: int, workers: list[int], growth: int
) -> Iterator[str]:
    """Markdown, line by line: each way to work through the images, all of a round in turn; then memory
    over ``growth`` small ones, and what the command remembers. Ctrl-C goes on with the next part."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray takes 15, the others none)
    yield f"# {count} images of {size[0]}x{size[1]}, x4, up to {rounds} rounds\n"
    yield from (f"- {line}" for line in machine.describe())
    yield f"- load average before {machine.load()}\n"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _images(folder / "in", count, *size)
        if net is None:
            net = str(folder / "random.bsr")
            random_packed(4, 64, 1).write(net)
        tasks = plan(str(folder / "in"), str(folder / "out")).tasks
        ways = _ways(tasks, Worker(choose(net, threads=1), Settings(), str(folder / "out")), workers)
        seen: dict[str, list[tuple[float, float, float, float]]] = {way: [] for way in ways}
        with suppress(KeyboardInterrupt):
            for way in [*ways] * rounds:
                if way not in ways:
                    continue
                try:
                    seen[way].append(_timed(ways[way](), count))
                except BitsrError as error:  # Ray grants itself 30 seconds to start
                    del ways[way]
                    yield f"- {way}, left out after {len(seen[way])} rounds: {error}"
        yield from _times(seen, 16e-6 * size[0] * size[1])
        if growth:
            yield f"\nMiB while {growth} images of {_GROWN}x{_GROWN} are made:\n"
            yield "| way | images | command | largest worker | Ray in all |"
            yield "|---|---:|---:|---:|---:|"
            _images(folder / "small", growth, _GROWN, _GROWN)
            for way in (["-j", "2"], ["-j", "2", "--ray", "local"]):
                if "--ray" not in way or importlib.util.find_spec("ray"):
                    with suppress(KeyboardInterrupt):
                        yield from _growth(folder, net, growth, way)
        yield f"\n{_bookkeeping(folder)}"
    yield f"\nLoad average after: {machine.load()}."
