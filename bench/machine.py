"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu() -> str:
    """Model name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def features() -> str:
    """The SIMD extensions that matter here, as Linux names them; "" elsewhere."""
    wanted = [
        "avx2",
        "fma",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512_vnni",
        "avx512_vpopcntdq",
        "avx512_bf16",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "asimd",
        "asimddp",
        "i8mm",
        "sve",
    ]
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    found = {w for line in text.splitlines() if line.startswith(("flags", "Features")) for w in line.split()}
    return " ".join(w for w in wanted if w in found)


def load() -> str:
    """Load averages of 1, 5 and 15 minutes: another program's work spoils a benchmark."""
    return " ".join(f"{v:.2f}" for v in os.getloadavg()) if hasattr(os, "getloadavg") else "?"


def describe() -> list[str]:
    """Lines for the head of a report."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [f"CPU: {cpu()}, {cores} logical cores for this process"]
    if simd := features():
        lines.append(f"SIMD: {simd}")
    lines.append(f"{platform.system()} {platform.release()}, Python {platform.python_version()}")
    return lines
