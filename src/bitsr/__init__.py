"""1-bit super-resolution on the CPU: ``load`` a net, ``upscale`` a file, list the ``models``."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from .errors import BitsrError, Cancelled

if TYPE_CHECKING:
    from .latent import load_torch
    from .upscaler import Upscaler, load, upscale
    from .zoo import models

try:
    __version__ = version("bitsr")
except PackageNotFoundError:  # run from a checkout
    __version__ = "0+unknown"

__all__ = ["BitsrError", "Cancelled", "Upscaler", "__version__", "load", "load_torch", "models", "upscale"]

# The engine is loaded with the first of these names: training and metrics do without it.
_LATE = {
    "Upscaler": "upscaler",
    "load": "upscaler",
    "upscale": "upscaler",
    "models": "zoo",
    "load_torch": "latent",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(f".{_LATE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
