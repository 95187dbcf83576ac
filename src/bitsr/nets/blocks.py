"""Residual blocks that several nets share."""

from __future__ import annotations

import torch
from torch import nn

from ..layers.ops import Ops, V
from ..methods import MakeUnit


class Block(nn.Module):
    """Residual block of two units of a method, C -> C; ``Unit.block`` wires them."""

    def __init__(self, make: MakeUnit, channels: int) -> None:
        super().__init__()
        self.unit1 = make(channels, channels)
        self.unit2 = make(channels, channels)
        self.unit1.lead(self.unit2)

    def build(self, ops: Ops[V], x: V, name: str) -> V:
        return self.unit1.block(self.unit2, ops, x, name)


@torch.no_grad()
def kaiming(conv: nn.Conv2d, size: float) -> None:
    """Initialise anew: Kaiming's initialisation times ``size``, bias 0."""
    nn.init.kaiming_normal_(conv.weight)
    conv.weight *= size
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class FloatBlock(nn.Module):
    """Residual block in float: convolution, LeakyReLU(slope), convolution, and a skip over both.

    Source: EDSR (Lim et al. 2017, arXiv 1707.02921), with slope 0. Packed with 8-bit weights and
    activations (``Ops.qconv``), or with 16 bits where ``fine`` (``Ops.conv``), which takes longer.
    """

    def __init__(self, channels: int, slope: float = 0.0, *, fine: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.slope, self.fine = slope, fine

    def next_to_identity(self) -> FloatBlock:
        """Itself, with Kaiming's initialisation and the second convolution at a tenth of that."""
        kaiming(self.conv1, 1.0)
        kaiming(self.conv2, 0.1)
        return self

    def build(self, ops: Ops[V], x: V, name: str) -> V:
        first, second = f"{name}.conv1", f"{name}.conv2"
        if self.fine:
            y = ops.conv(first, self.conv1, x, act=self.slope)
            return ops.add(ops.conv(second, self.conv2, y), x)
        y = ops.qconv(first, self.conv1, x, act=self.slope)
        return ops.qconv(second, self.conv2, y, skip=x)
