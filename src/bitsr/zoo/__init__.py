"""The nets that come with bitsr: their names, their files, and which one is the default.

``bitsr-s``, ``-m`` and ``-l`` have 8, 16 and 32 residual blocks at every scale; ``bitsr-xl-x2`` has
48. ``zoo.toml`` says how each of them was made (``zoo.build``).
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from ..errors import BitsrError
from ..model_file import ModelFile

ZOO = Path(__file__).parent
DEFAULTS = ("bitsr-m", "e2fif-srresnet")
"""Where no net is named; the better one first."""
CHECKPOINT_SUFFIXES = (".pt", ".safetensors")
"""Suffixes of trained nets that are not packed."""
_OLD = {
    f"house-{old}-x{scale}": f"bitsr-{new}-x{scale}"
    for old, new in (("fast", "s"), ("srresnet", "m"), ("best", "l"))
    for scale in (2, 3, 4)
} | {"house-best-x2": "bitsr-xl-x2"}


@dataclass(frozen=True)
class Model:
    """A model file on disk: name, scale (SR pixels an LR pixel, each way), path, size in bytes."""

    name: str
    scale: int
    path: Path
    size: int


def alias(name: str) -> str:
    """The present name of a net; of an old name (``house-...``) with a DeprecationWarning."""
    new = _OLD.get(name, name)
    if new != name:
        text = f"{name} is now called {new}; the old name goes with the next release"
        warnings.warn(text, DeprecationWarning, stacklevel=3)
    return new


def models(folder: str | Path = ZOO) -> list[Model]:
    """The model files (.bsr) of a folder, by name; by default those that come with bitsr.

    Raises ModelFileError for a file that is no model, OSError where one cannot be read.
    """
    return [
        Model(path.stem, ModelFile.read(path).scale, path, path.stat().st_size)
        for path in sorted(Path(folder).glob("*.bsr"))
    ]


def find(net: str | Path, folder: str | Path = ZOO) -> Path:
    """The file of a net: the path of a .bsr as it is, or a name in ``folder``, old ones included.

    Raises BitsrError for a name that is not there and for a checkpoint; whether a path is there is
    not looked at.
    """
    path = Path(net)
    if path.suffix in CHECKPOINT_SUFFIXES and path.is_file():
        raise BitsrError(f"{net}: not packed yet; pack it first: bitsr pack {net} -o {path.stem}.bsr")
    if path.suffix == ".bsr" or os.sep in str(net):
        return path
    path = Path(folder) / f"{net}.bsr"
    if not path.is_file():
        path = Path(folder) / f"{alias(str(net))}.bsr"
    if not path.is_file():
        raise BitsrError(f"no net named {net}; there are: {_names(folder)}")
    return path


def choose(net: str | Path | None, scale: int | None, folder: str | Path = ZOO) -> Path:
    """The file of a net, or where none is named of the default net of a scale (2, 3 or 4; None is
    4).

    The default is the first of ``DEFAULTS`` that the folder has. Raises BitsrError where there is
    none.
    """
    if net is not None:
        return find(net, folder)
    for name in DEFAULTS:
        if (path := Path(folder) / f"{name}-x{scale or 4}.bsr").is_file():
            return path
    raise BitsrError(f"no net for x{scale or 4} where none is named; there are: {_names(folder)}")


def _names(folder: str | Path) -> str:
    return ", ".join(sorted(path.stem for path in Path(folder).glob("*.bsr"))) or "none"
