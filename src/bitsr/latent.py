"""The latent weights of a net, from which it was packed, and the float net that they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BitsrError
from .zoo import CHECKPOINT_SUFFIXES, ZOO, find

if TYPE_CHECKING:
    from torch import nn

CHECKPOINTS = ZOO.parents[2] / "checkpoints"
"""Of a clone; an installed bitsr has none."""


def checkpoint_of(net: str | Path) -> Path:
    """The checkpoint of a net: of a name of ``bitsr.models()`` that in ``CHECKPOINTS``; a path as it is.

    Raises BitsrError where there is none.
    """
    path = Path(net)
    if path.suffix in CHECKPOINT_SUFFIXES:
        return path
    if path.suffix == ".bsr":
        raise BitsrError(f"{path.name} holds packed bits; the float net needs the checkpoint they come from")
    name = find(net).stem  # or says which names there are
    file = CHECKPOINTS / f"{name}.latent.safetensors"
    if not file.is_file():
        raise BitsrError(
            f"the latent weights of {name} are not installed with bitsr: give the path of "
            f"checkpoints/{file.name} in a clone of its repository"
        )
    return file


def load_torch(net: str | Path) -> nn.Module:
    """The float simulation of a net, in evaluation mode on the CPU.

    net: a name of ``bitsr.models()``, whose checkpoint a clone of the repository holds, or the path of
    a checkpoint (.pt, .safetensors). The module maps luma (N, 1, h, w) float32, Y in [0, 255] of
    MATLAB's rgb2ycbcr, to (N, 1, scale h, scale w), unclipped. It differs from the packed net by
    rounding, and its parameters are the latent weights: it can be trained on.
    Raises BitsrError for a net without latent weights here or a file that is no checkpoint, OSError
    where it cannot be read, ImportError without the extra ``train``.
    """
    from .train.checkpoint import load_net

    return load_net(checkpoint_of(net))[0]
