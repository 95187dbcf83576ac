"""What made a net: versions, machine, data and what was changed of its recipe. No setting of it."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from .data import Pairs
from .recipe import Recipe


def _machine(device: torch.device) -> str:
    """The CPU's name, and that of the GPU where it trains."""
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{torch.cuda.get_device_name(device)}, {name}" if device.type == "cuda" else name


def _version() -> str:
    """That of the package, with the commit where it runs from a checkout."""
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "csrc").is_dir():
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            return f"{__version__} (commit {done.stdout.strip()})"
    return __version__


def provenance(recipe: Recipe, device: torch.device, train: Pairs, valid: Pairs) -> dict[str, Any]:
    """Facts of a training, as plain data.

    bitsr, torch: versions. machine: CPU, and GPU where it trains. data: hashes of the images of
    training and of validation, and of how they were prepared. overrides: settings that are not those
    of the recipe which ``recipe.source`` speaks of.
    """
    return {
        "bitsr": _version(),
        "torch": str(torch.__version__),
        "machine": _machine(device),
        "data": {"train": train.key, "valid": valid.key},
        "overrides": recipe.overrides,
    }
