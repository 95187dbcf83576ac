"""The C libraries: found, loaded and declared here. No other module knows ctypes.

``bitsr_core`` (``csrc/include/bitsr.h``) upscales, ``bitsr_train`` (``csrc/include/bitsr_train.h``)
makes training on a CPU faster. Each is loaded when it is first used: the first is needed then, the
second may be missing. Functions take handles, arrays and addresses as they are, unchecked: what
callers see is in ``engine``, ``colour`` and ``train.fast``.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable, Mapping
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_void_p
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import BitsrError

_ERR = 256
_FILE = {"win32": "{}.dll", "darwin": "lib{}.dylib"}.get(sys.platform, "lib{}.so")
_CORE, _TRAIN = _FILE.format("bitsr_core"), _FILE.format("bitsr_train")


class CoreError(BitsrError):
    """What the library refuses; the message is its one line."""


def _find(name: str) -> Path:
    """The file beside this package, or in a checkout's build/."""
    package = Path(__file__).resolve().parent
    if (beside := package / name).exists():
        return beside
    checkout = package.parents[1]
    if (checkout / "csrc").is_dir():
        built = sorted((checkout / "build").glob(f"**/{name}"), key=lambda p: p.stat().st_mtime)
        if built:
            return built[-1]
        raise ImportError(
            f"{name} is not built; in {checkout} run: cmake -S . -B build && cmake --build build"
        )
    raise ImportError(f"{name} is missing from {package}; reinstall bitsr")


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"cannot load {path}: {error}") from error


def _declare(lib: ctypes.CDLL, signatures: Mapping[str, tuple[object, Iterable[object]]]) -> None:
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, f"bitsr_{name}")
        function.restype, function.argtypes = result, list(arguments)


# ---- Upscaling: csrc/include/bitsr.h ----

_UPSCALING: dict[str, tuple[object, Iterable[object]]] = {
    "isa": (c_char_p, [c_int]),
    "model_open": (c_void_p, [c_char_p, c_size_t, c_char_p, c_char_p, c_size_t]),
    "model_close": (None, [c_void_p]),
    "model_scale": (c_int, [c_void_p]),
    "model_radius": (c_int, [c_void_p]),
    "model_smooth": (c_int, [c_void_p]),
    "model_isa": (c_char_p, [c_void_p]),
    "stream_open": (c_void_p, [c_void_p, *[c_int] * 4, c_char_p, c_size_t]),
    "stream_push": (c_int, [c_void_p, c_void_p, c_int, c_void_p, c_int, c_char_p, c_size_t]),
    "stream_ready": (c_int, [c_void_p, c_int]),
    "stream_close": (None, [c_void_p]),
    "luma": (c_int, [c_void_p, c_int, c_int, c_size_t, c_void_p]),
    "merge": (c_int, [c_void_p, *[c_int] * 8, c_void_p, c_int, c_int, c_void_p, c_char_p, c_size_t]),
    "jpeg_check": (c_int, [c_void_p, c_size_t, c_char_p, c_size_t]),
    "no_log": (None, [c_char_p, c_int, c_char_p, c_void_p]),
}


@cache
def core() -> ctypes.CDLL:
    """The library that upscales: $BITSR_LIB (a sanitizer build, say), else the one of this package.

    Raises ImportError where there is none.
    """
    named = os.environ.get("BITSR_LIB")
    lib = _load(Path(named) if named else _find(_CORE))
    _declare(lib, _UPSCALING)
    return lib


def core_path() -> Path:
    """Its file."""
    return Path(core()._name)


def _line(err: ctypes.Array[ctypes.c_char]) -> CoreError:
    return CoreError(err.value.decode(errors="replace"))


def isas() -> list[str]:
    """Names of the paths this CPU can run, best first, e.g. ["avx512", "avx2", "scalar"]."""
    names: list[str] = []
    while name := core().bitsr_isa(len(names)):
        names.append(name.decode())
    return names


def model_open(data: bytes, isa: str | None) -> int:
    """A handle. Raises CoreError where the file is no sound model or the CPU has no such path."""
    err = ctypes.create_string_buffer(_ERR)
    handle = core().bitsr_model_open(data, len(data), isa.encode() if isa else None, err, _ERR)
    if not handle:
        raise _line(err)
    return handle


def model_close(model: int) -> None:
    core().bitsr_model_close(model)


def model_scale(model: int) -> int:
    return core().bitsr_model_scale(model)


def model_radius(model: int) -> int:
    """LR pixels that an SR pixel sees to each side; -1: the whole image."""
    return core().bitsr_model_radius(model)


def model_smooth(model: int) -> bool:
    """Whether chroma is smoothed."""
    return bool(core().bitsr_model_smooth(model))


def model_isa(model: int) -> str:
    return core().bitsr_model_isa(model).decode()


def stream_open(model: int, h: int, w: int, threads: int, pass_rows: int) -> int:
    """A handle, which the model must outlive. Raises CoreError for an impossible size and for want of memory."""
    err = ctypes.create_string_buffer(_ERR)
    handle = core().bitsr_stream_open(model, h, w, threads, pass_rows, err, _ERR)
    if not handle:
        raise _line(err)
    return handle


def stream_push(stream: int, rows: NDArray[np.int16], width: int) -> NDArray[np.int16]:
    """LR rows (n, w), contiguous -> the SR rows (m, width) that they complete. Raises CoreError."""
    n = len(rows)
    ready = core().bitsr_stream_ready(stream, n)
    out = np.empty((ready, width), np.int16)
    err = ctypes.create_string_buffer(_ERR)
    if core().bitsr_stream_push(stream, rows.ctypes.data, n, out.ctypes.data, ready, err, _ERR) < 0:
        raise _line(err)
    return out


def stream_close(stream: int) -> None:
    core().bitsr_stream_close(stream)


def luma(pixels: NDArray, out: NDArray[np.int16]) -> None:
    """Luma of contiguous pixels (rows, W, C) to out (rows, W)."""
    rows, width, channels = pixels.shape
    core().bitsr_luma(pixels.ctypes.data, 8 * pixels.itemsize, channels, rows * width, out.ctypes.data)


def merge(
    lr: NDArray,
    height: int,
    first: int,
    scale: int,
    smooth: bool,
    sr_luma: NDArray[np.int16],
    y: int,
    out: NDArray,
) -> None:
    """SR rows from row y on, one for each of sr_luma, to out; lr: rows from ``first`` on. All contiguous.

    Raises CoreError, whose message begins with "no memory" for want of it.
    """
    rows, width, channels = lr.shape
    err = ctypes.create_string_buffer(_ERR)
    code = core().bitsr_merge(
        *(lr.ctypes.data, 8 * lr.itemsize, channels, height, width, first, rows, scale, smooth),
        *(sr_luma.ctypes.data, y, len(sr_luma), out.ctypes.data, err, _ERR),
    )
    if code < 0:
        raise _line(err)


def jpeg_check(data: bytes | mmap.mmap) -> tuple[bool | None, str]:
    """Whether a JPEG holds all of its pixels, and what is wrong with it; None where that cannot be told."""
    view = np.frombuffer(data, np.uint8)
    err = ctypes.create_string_buffer(_ERR)
    code = core().bitsr_jpeg_check(view.ctypes.data, len(view), err, _ERR)
    return None if code < 0 else bool(code), err.value.decode(errors="replace")


def no_log() -> int:
    """The address of a handler of GLib's log that does nothing."""
    return ctypes.cast(core().bitsr_no_log, c_void_p).value or 0


# ---- Training: csrc/include/bitsr_train.h ----


class _Unit(ctypes.Structure):
    """``bitsr_unit``: numbers, then addresses."""

    _fields_ = [
        *((name, c_int) for name in ("n", "h", "w", "c", "k", "maps", "threads", "running")),
        *((name, c_void_p) for name in ("x", "weight", "threshold", "size", "scale", "shift")),
        *((name, c_float) for name in ("norm_eps", "norm_weight", "bn_eps", "bn_weight")),
        *((name, c_void_p) for name in ("norm_mean", "norm_variance", "bn_mean", "bn_variance")),
        *((name, c_void_p) for name in ("mean", "deviation", "batch_mean", "batch_inverse")),
        *((name, c_void_p) for name in ("sizes", "sums", "y", "g")),
        *((name, c_void_p) for name in ("gx", "g_weight", "g_threshold", "g_size", "g_scale", "g_shift")),
    ]


_TRAINING: dict[str, tuple[object, Iterable[object]]] = {
    "sign_conv": (c_int, [*[c_void_p] * 3, *[c_int] * 8, c_char_p]),
    "sign_conv_weight": (c_int, [*[c_void_p] * 3, *[c_int] * 7, c_char_p]),
    "unit_forward": (c_int, [POINTER(_Unit), c_char_p]),
    "unit_backward": (c_int, [POINTER(_Unit), c_char_p]),
}


@cache
def train() -> ctypes.CDLL | None:
    """The library that makes training faster, or None: $BITSR_TRAIN_LIB, else the file beside $BITSR_LIB,
    else the one of this package."""
    try:
        if named := os.environ.get("BITSR_TRAIN_LIB"):
            path = Path(named)
        elif core_named := os.environ.get("BITSR_LIB"):
            path = Path(core_named).with_name(_TRAIN)
        else:
            path = _find(_TRAIN)
        lib = _load(path)
    except ImportError:  # training needs no compiler
        return None
    _declare(lib, _TRAINING)
    return lib


def train_call(name: str, *arguments: int, isa: bytes | None) -> bool:
    """Whether the library is there, has ``bitsr_NAME``, and that has done its work. arguments: addresses
    and numbers; isa: a path, None for the best that the CPU has."""
    lib = train()
    return lib is not None and name in _TRAINING and getattr(lib, f"bitsr_{name}")(*arguments, isa) == 0


def train_unit(name: str, values: Mapping[str, float], *, isa: bytes | None) -> bool:
    """The same for ``bitsr_unit_NAME``, "forward" or "backward", of a ``bitsr_unit`` with these fields."""
    lib = train()
    return lib is not None and getattr(lib, f"bitsr_unit_{name}")(byref(_Unit(**values)), isa) == 0
