"""The page in Chromium: seconds of an image beside those of the native engine, and the memory of the tab."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bitsr.serve.server import PageServer
from bitsr.upscaler import load

from . import machine
from .memory import photo

ARGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")


class _Memory:
    """The most memory that the renderers of a browser had, MiB, while the block ran: their share of what is
    resident (Pss of Linux), of which pages that several processes use count in part."""

    def __init__(self, profile: str) -> None:
        self._profile, self._over = profile.encode(), threading.Event()
        self.peak = 0.0

    def _look(self) -> None:
        while not self._over.wait(0.3):
            total = 0
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    command = (process / "cmdline").read_bytes()
                    if b"--type=renderer" in command and self._profile in self._parent(process):
                        text = (process / "smaps_rollup").read_text()
                        total += int(text.partition("\nPss:")[2].split()[0])
            self.peak = max(self.peak, total / 1024)

    def _parent(self, process: Path) -> bytes:
        """The command lines of a process's ancestors, one after another."""
        text = b""
        while True:
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            process = Path("/proc") / parent
            if parent in ("0", "1"):
                return text
            text += (process / "cmdline").read_bytes()

    def __enter__(self) -> _Memory:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _in_page(browser: Any, url: str, workers: int, file: Path, net: str, scale: int) -> tuple[float, str]:
    """Seconds that the page gives for an image, and what it says of it."""
    page = browser.new_page()
    page.add_init_script(f"Object.defineProperty(navigator, 'hardwareConcurrency', {{ value: {workers} }})")
    page.goto(url)
    page.locator(f'[name="scale"][value="{scale}"]').check()
    page.select_option("#net", net)
    page.set_input_files("#files", file)
    page.locator('#items li[data-state="done"], #items li[data-state="failed"]').wait_for(
        state="attached", timeout=3_600_000
    )
    text = page.inner_text("#detail")
    page.close()
    if not text.endswith(" s"):
        raise RuntimeError(f"the page says: {text}")
    return float(text.split()[-2]), text


def report(sizes: list[tuple[int, int]], net: str, scale: int, workers: int, rounds: int) -> str:
    """Markdown, a line a size: LR megapixels, seconds in the page and of the native engine, both from an
    image in memory; peak memory of the tab."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise RuntimeError("Chromium is not installed")
    upscaler = load(f"{net}-x{scale}", threads=workers)
    lines = [
        f"# {upscaler.name} in Chromium, {workers} workers, beside {upscaler.engine.isa} of as many threads",
        "",
        *(f"- {line}" for line in machine.describe()),
        f"- load average before {machine.load()}",
        "",
        "| LR | s per LR MP, page | s per LR MP, native | ratio | tab, MiB |",
        "|---|---:|---:|---:|---:|",
    ]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(PageServer(native=False))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        playwright = stack.enter_context(sync_playwright())
        for width, height in sizes:
            file = folder / f"{width}x{height}.png"
            photo(file, width, height)
            pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
            page_times: list[float] = []
            native_times: list[float] = []
            peak = 0.0
            for _ in range(rounds):
                profile = str(folder / f"profile-{time.monotonic_ns()}")
                context = playwright.chromium.launch_persistent_context(
                    profile, executable_path=chromium, args=list(ARGS)
                )
                with _Memory(profile) as memory:
                    page_times.append(_in_page(context, server.url, workers, file, net, scale)[0])
                context.close()
                peak = max(peak, memory.peak)
                start = time.perf_counter()
                upscaler(pixels)
                native_times.append(time.perf_counter() - start)
            mp = width * height / 1e6
            ratio = median(a / b for a, b in zip(page_times, native_times, strict=True))
            seconds = f"{median(page_times) / mp:.2f} | {median(native_times) / mp:.2f}"
            lines.append(f"| {width}x{height} | {seconds} | {ratio:.1f} | {peak:.0f} |")
    return "\n".join(lines) + "\n"
