"""The page in Chromium: seconds of an image beside those of the native engine, and the memory of the tab."""

from __future__ import annotations

import contextlib
import os
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


class _Renderers:
    """What the renderers of a browser used while the block ran: ``memory``, the most MiB, by their share of
    what is resident (Pss of Linux), and ``seconds`` of CPU."""

    def __init__(self, profile: str) -> None:
        self._profile, self._over = profile.encode(), threading.Event()
        self._seconds: dict[str, float] = {}
        self.memory = 0.0

    @property
    def seconds(self) -> float:
        return sum(self._seconds.values())

    def _look(self) -> None:
        while not self._over.wait(0.3):
            total = 0
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    command = (process / "cmdline").read_bytes()
                    if b"--type=renderer" in command and self._profile in self._above(process):
                        text = (process / "smaps_rollup").read_text()
                        total += int(text.partition("\nPss:")[2].split()[0])
                        fields = (process / "stat").read_text().rpartition(")")[2].split()
                        ticks = int(fields[11]) + int(fields[12])
                        self._seconds[process.name] = ticks / os.sysconf("SC_CLK_TCK")
            self.memory = max(self.memory, total / 1024)

    def _above(self, process: Path) -> bytes:
        """The command lines of a process's ancestors, one after another."""
        text = b""
        while True:
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            process = Path("/proc") / parent
            if parent in ("0", "1"):
                return text
            text += (process / "cmdline").read_bytes()

    def __enter__(self) -> _Renderers:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _in_page(browser: Any, url: str, workers: int, file: Path, net: str, scale: int) -> None:
    """Enlarge an image in the page. Raises RuntimeError with the words of the page where that fails."""
    page = browser.new_page()
    page.add_init_script(f"Object.defineProperty(navigator, 'hardwareConcurrency', {{ value: {workers} }})")
    page.goto(url)
    page.locator(f'[name="scale"][value="{scale}"]').check()
    page.select_option("#net", net)
    page.set_input_files("#files", file)
    ended = page.locator('#items li[data-state="done"], #items li[data-state="failed"]')
    ended.wait_for(state="attached", timeout=3_600_000)
    page.wait_for_timeout(1000)  # the result is decoded to be shown
    if page.locator('#items li[data-state="failed"]').count():
        raise RuntimeError(f"the page says: {page.inner_text('#detail')}")
    page.close()


def report(sizes: list[tuple[int, int]], net: str, scale: int, rounds: int) -> str:
    """Markdown, a line a size: seconds of CPU a megapixel of the small image, in the page (decoding, net,
    PNG and all else of the tab) and of the native engine on an image in memory; memory of the tab."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise RuntimeError("Chromium is not installed")
    upscaler = load(f"{net}-x{scale}", threads=1)
    lines = [
        f"# {upscaler.name} in Chromium, beside {upscaler.engine.isa}",
        "",
        *(f"- {line}" for line in machine.describe()),
        f"- load average before {machine.load()}",
        "",
        "| LR | CPU s per LR MP, page | native | ratio | tab, MiB |",
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
            mp = width * height / 1e6
            page: list[float] = []
            native: list[float] = []
            peak = 0.0
            for i in range(rounds):
                profile = str(folder / f"profile-{i}-{file.stem}")
                context = playwright.chromium.launch_persistent_context(
                    profile, executable_path=chromium, args=list(ARGS)
                )
                with _Renderers(profile) as used:
                    _in_page(context, server.url, os.cpu_count() or 1, file, net, scale)
                context.close()
                page.append(used.seconds / mp)
                peak = max(peak, used.memory)
                start = time.process_time()
                upscaler(pixels)
                native.append((time.process_time() - start) / mp)
            ratio = median(a / b for a, b in zip(page, native, strict=True))
            line = (
                f"| {width}x{height} | {median(page):.2f} | {median(native):.2f} | {ratio:.1f} | {peak:.0f} |"
            )
            lines.append(line)
    return "\n".join(lines) + "\n"
