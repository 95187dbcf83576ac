"""All contenders side by side in one run: ``python -m bench``.

Every contender waits in a process of its own. In each round every one of them, in turn, is asked
for one measurement, so that whatever slows the machine for a while slows all of them; medians and
paired ratios over the rounds are reported, with the load average before and after.
"""

from __future__ import annotations

import csv
import fnmatch
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bitsr.eval.complexity import count

from . import machine
from .contenders import NETS, Contender, lineup, model_file
from .nets import layers
from .task import ROOT, Task


@dataclass
class Entry:
    """A contender at work on a task, and what it has answered so far."""

    contender: Contender
    task: Task
    process: subprocess.Popen[str]
    version: str = ""
    agreement: float | None = None
    """PSNR in dB of its image against the reference contender's of the same net."""
    seconds: list[float] = field(default_factory=list)
    rss_mib: float = 0.0

    def ask(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.seconds.append(answer["seconds"])
        self.rss_mib = answer["rss_mib"]

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.contender.name}: its process ended with code {self.process.wait()}")
        return json.loads(line)

    def stop(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def start(contender: Contender, task: Task, log: Path) -> tuple[Entry, dict]:
    """Start a contender's process and wait until it is ready (or says why not)."""
    if importlib.util.find_spec(contender.library) is None:
        raise ModuleNotFoundError(f"{contender.library} is not installed")
    env = {**os.environ, **contender.env, "OMP_NUM_THREADS": str(task.threads)}
    command = [sys.executable, "-m", "bench.worker", contender.name, task.json()]
    with log.open("a") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    entry = Entry(contender, task, process)
    try:
        answer = entry._answer()
        if "error" in answer:
            raise RuntimeError(answer["error"])
    except RuntimeError:
        entry.stop()
        raise
    entry.version = answer["version"]
    return entry, answer


def agreement(image: np.ndarray, reference: np.ndarray) -> float:
    mse = float(np.mean((image.astype(np.float64) - reference) ** 2))
    return float("inf") if mse == 0 else 10 * np.log10(255**2 / mse)


@dataclass
class Result:
    task: Task
    entries: list[Entry]
    skipped: list[tuple[str, str]]
    load: tuple[str, str]
    rounds: int


def race(
    task: Task, threads: list[int], rounds: int, only: list[str], pause: float, say=lambda text: None
) -> Result:
    """Measure every contender whose name matches one of the patterns ``only``, at each number of
    threads.

    pause: seconds before each measurement, in which the last contender's threads go to sleep.
    """
    cache = Path(task.cache)
    cache.mkdir(parents=True, exist_ok=True)
    log = cache / "workers.log"
    log.write_text("")
    try:
        from bitsr.engine import isas

        paths = isas()
    except ImportError as e:
        paths = []
        say(f"bitsr: {e}")
    before = machine.load()
    wanted = [c for c in lineup(task, paths) if any(fnmatch.fnmatch(c.name, p) for p in only)]
    entries: list[Entry] = []
    skipped: list[tuple[str, str]] = []
    references: dict[str, np.ndarray] = {}
    try:
        for contender in wanted:
            for n in threads:
                say(f"starting {contender.name}, {n} thread{'s' if n > 1 else ''}")
                try:
                    entry, answer = start(contender, replace(task, threads=n), log)
                except (RuntimeError, ModuleNotFoundError) as e:
                    skipped.append((f"{contender.name} ({n})", str(e)))
                    say(f"  skipped: {e}")
                    continue
                entries.append(entry)
                image = np.load(answer["image"])
                Path(answer["image"]).unlink()
                if contender.reference:
                    references.setdefault(contender.net, image.astype(np.float64))
                if contender.net in references:
                    entry.agreement = agreement(image, references[contender.net])
        for i in range(rounds):
            began = time.monotonic()
            for entry in entries:
                time.sleep(pause)
                entry.ask()
            say(f"round {i + 1} of {rounds}: {time.monotonic() - began:.1f} s")
    finally:
        for entry in entries:
            entry.stop()
    return Result(task, entries, skipped, (before, machine.load()), rounds)


def ratio(entry: Entry, base: Entry) -> float:
    """Median over the rounds of entry's time by base's time in the same round."""
    return statistics.median(a / b for a, b in zip(entry.seconds, base.seconds, strict=True))


def bases(entries: list[Entry]) -> dict[int, Entry]:
    """What ratios are against, for each number of threads: bitsr's best path, else the first
    contender."""
    out: dict[int, Entry] = {}
    for entry in entries:
        out.setdefault(entry.task.threads, entry)
    return out


def write_csv(result: Result, path: Path) -> None:
    """A line a measurement."""
    with path.open("w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        names = "contender net library version threads width height scale round seconds rss_mib agreement_db"
        writer.writerow(names.split())
        for e in result.entries:
            t = e.task
            head = [
                e.contender.name,
                e.contender.net,
                e.contender.library,
                e.version,
                t.threads,
                t.width,
                t.height,
            ]
            for i, seconds in enumerate(e.seconds):
                db = "" if e.agreement is None else f"{e.agreement:.2f}"
                writer.writerow([*head, t.scale, i, f"{seconds:.6f}", f"{e.rss_mib:.1f}", db])


def nets_table(result: Result) -> list[str]:
    """A line a net: MACs of the LR image, parameters without biases and batch norm, size."""
    lines = []
    packed = {e.contender.net for e in result.entries if e.contender.library == "bitsr"}
    for title in dict.fromkeys(e.contender.net for e in result.entries if e.contender.net in NETS):
        sums = count(layers(NETS[title], result.task.scale))
        binary, fp, _ = sums.at(result.task.width, result.task.height)
        weights = sum(x.weights for x in layers(NETS[title], result.task.scale))
        size = sums.bytes_1_32
        if title in packed:
            net = None if title == next(iter(NETS)) else NETS[title]
            size = Path(model_file(result.task, net)).stat().st_size
        lines.append(f"| {title} | {fp:.2f} | {binary:.2f} | {weights:,} | {size / 1024:.0f} |")
    return lines


def markdown(result: Result) -> str:
    t = result.task
    lines = [
        f"# x{t.scale}, LR {t.width}x{t.height}, {result.rounds} rounds",
        "",
        *(f"- {line}" for line in machine.describe()),
        f"- load average before {result.load[0]}, after {result.load[1]}",
        f"- libraries: {', '.join(sorted({f'{e.contender.library} {e.version}' for e in result.entries}))}",
        "",
        f"Time{' of CPU' if t.cpu else ''} is the median over rounds in which every contender ran once, in"
        " turn; spread is (third - first quartile) / median; ratio is the median of the contender's time by"
        " the first line's in the same round. RSS is the process's peak.",
        "",
    ]
    if any(e.agreement is not None for e in result.entries):
        lines += [
            "Agreement is the PSNR of its image with the first fp32 image of the same net; weights are"
            " random, so it shows that the same net was run, not how good it is.",
            "",
        ]
    if nets := nets_table(result):
        lines += [
            "KiB is the packed file, of other nets 32 bits a float parameter and 1 a binary weight.",
            "",
            "| net | G FP MACs | G binary MACs | parameters | KiB |",
            "|---|---:|---:|---:|---:|",
            *nets,
        ]
    for threads, base in bases(result.entries).items():
        lines += [
            "",
            f"## {threads} thread{'s' if threads > 1 else ''}",
            "",
            "| contender | net | ms | spread | ratio | SR MP/s | agreement dB | RSS MiB |",
            "|---|---|---:|---:|---:|---:|---:|---:|",
        ]
        for e in (e for e in result.entries if e.task.threads == threads):
            quartiles = statistics.quantiles(e.seconds, n=4) if len(e.seconds) > 1 else [e.median] * 3
            spread = (quartiles[2] - quartiles[0]) / e.median
            speed = t.width * t.height * t.scale**2 / 1e6 / e.median
            db = (
                ""
                if e.agreement is None
                else "equal"
                if e.agreement == float("inf")
                else f"{e.agreement:.1f}"
            )
            lines.append(
                f"| {e.contender.name} | {e.contender.net} | {1e3 * e.median:.1f} | {spread:.0%} |"
                f" {ratio(e, base):.2f} | {speed:.2f} | {db} | {e.rss_mib:.0f} |"
            )
    if result.skipped:
        lines += ["", "Skipped:", "", *(f"- {name}: {why}" for name, why in result.skipped)]
    return "\n".join(lines) + "\n"


def plot(result: Result, path: Path) -> None:
    """Bars of median time, logarithmic, one panel a number of threads, one colour a net."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    by_threads = {n: [e for e in result.entries if e.task.threads == n] for n in bases(result.entries)}
    nets = list(dict.fromkeys(e.contender.net for e in result.entries))
    colours = {net: f"C{i}" for i, net in enumerate(nets)}
    rows = max(len(v) for v in by_threads.values())
    figure, axes = plt.subplots(
        1,
        len(by_threads),
        figsize=(3.4 + 4.2 * len(by_threads), 1.4 + 0.27 * rows),
        sharex=True,
        squeeze=False,
    )
    for axis, (threads, entries) in zip(axes[0], by_threads.items(), strict=True):
        entries = entries[::-1]
        times = [1e3 * e.median for e in entries]
        most = [1e3 * max(e.seconds) for e in entries]
        low = [1e3 * (e.median - min(e.seconds)) for e in entries]
        high = [b - a for a, b in zip(times, most, strict=True)]
        names = [e.contender.name for e in entries]
        colour = [colours[e.contender.net] for e in entries]
        axis.barh(names, times, xerr=[low, high], color=colour, height=0.7, error_kw={"linewidth": 1})
        for i, ms in enumerate(times):
            axis.text(most[i] * 1.1, i, f"{ms:.0f}" if ms >= 10 else f"{ms:.1f}", va="center", fontsize=7)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.margins(x=0.15, y=0.01)
        axis.set_xlabel("ms an image (median; min to max), lower is better")
        axis.set_title(f"{threads} thread{'s' if threads > 1 else ''}")
        axis.tick_params(axis="y", labelsize=8)
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    for axis in axes[0][1:]:
        axis.set_yticklabels([])
    handles = [Patch(color=c) for c in colours.values()]
    figure.legend(handles, nets, loc="lower center", ncols=len(nets), fontsize=8, frameon=False)
    t = result.task
    figure.suptitle(f"x{t.scale}, LR {t.width}x{t.height}, {machine.cpu()}", fontsize=10)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)
