"""Finds and loads the C core, ``bitsr_core``, once: ``from ._lib import lib`` gives its ``ctypes.CDLL``."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_NAME = {"win32": "bitsr_core.dll", "darwin": "libbitsr_core.dylib"}.get(sys.platform, "libbitsr_core.so")


def _find() -> Path:
    """$BITSR_LIB (a sanitizer build, say), or the file beside this package, or in a checkout's build/."""
    if named := os.environ.get("BITSR_LIB"):
        return Path(named)
    package = Path(__file__).resolve().parent
    if (beside := package / _NAME).exists():
        return beside
    checkout = package.parents[1]
    if (checkout / "csrc").is_dir():
        built = sorted((checkout / "build").glob(f"**/{_NAME}"), key=lambda p: p.stat().st_mtime)
        if built:
            return built[-1]
        raise ImportError(
            f"{_NAME} is not built; in {checkout} run: cmake -S . -B build && cmake --build build"
        )
    raise ImportError(f"{_NAME} is missing from {package}; reinstall bitsr")


def _load() -> ctypes.CDLL:
    path = _find()
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"cannot load {path}: {error}") from error


lib = _load()
