"""bitsr: 1-bit super-resolution on the CPU. ``load`` a net, ``upscale`` a file, list ``models``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .upscaler import load, models, upscale

try:
    __version__ = version("bitsr")
except PackageNotFoundError:  # run from a checkout
    __version__ = "0+unknown"

__all__ = ["__version__", "load", "models", "upscale"]


# The engine is loaded with the first of these names: training and metrics do without it.
def __getattr__(name: str) -> Any:
    if name in ("load", "models", "upscale"):
        from . import upscaler

        return getattr(upscaler, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
