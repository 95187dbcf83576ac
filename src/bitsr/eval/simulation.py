"""A net in torch, measured as packed bits are: what does not pack, or is not packed yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..train.checkpoint import load_net
from .evaluate import from_q


class Simulation:
    """A net as ``evaluate`` wants it: int16 luma in and out. name: stands above its figures."""

    def __init__(self, net: nn.Module, scale: int, name: str = "net") -> None:
        self.net, self.scale, self.name = net.eval(), scale, name

    @torch.no_grad()
    def run(self, lr: NDArray[np.int16]) -> NDArray[np.int16]:
        """LR luma (h, w) to SR luma (scale * h, scale * w), int16, q = round(128 * (Y - 127.5))."""
        y = torch.from_numpy(from_q(lr).astype(np.float32))  # pyright: ignore[reportUnknownMemberType]
        sr = 128 * (self.net(y[None, None])[0, 0].numpy() - 127.5)
        return np.clip(np.rint(sr), -32768, 32767).astype(np.int16)


def simulation(checkpoint: str | Path) -> Simulation:
    """The net of a checkpoint. Raises CheckpointError, RecipeError or OSError."""
    net, facts = load_net(checkpoint)
    return Simulation(net, facts["recipe"]["scale"], f"{checkpoint} (float simulation)")
