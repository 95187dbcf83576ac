"""A row of plain 3x3 convolutions in 8 bits, for the smallest budgets of time."""

from __future__ import annotations

import torch
from torch import nn

from ..layers.convs import Int8Conv2d
from ..layers.modules import TypedModuleList
from ..layers.ops import Net, Ops, V
from .upsamplers import interpolation


class Plain(Net):
    """``layers`` 3x3 convolutions of C channels between head and tail, PReLU after each but the last.

    The head, 1 -> C, has 16 bits. All that follows is int8 (``layers.convs.Int8Conv2d``). The tail
    makes scale^2 channels, which are added to those of bicubic interpolation and shuffled.
    quantised: False for the float net that training starts with.

    In the manner of the plain nets that ECBSR trains (Zhang, Zeng, Zhang, ACM MM 2021). Each inner
    convolution starts as the identity and noise.
    """

    span = 127.5

    def __init__(
        self, scale: int = 4, channels: int = 16, layers: int = 10, *, quantised: bool = True
    ) -> None:
        super().__init__()
        if scale < 1 or channels < 1 or layers < 0:
            raise ValueError("scale and channels must be at least 1, layers at least 0")
        self.scale = scale
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.body: TypedModuleList[Int8Conv2d] = TypedModuleList(
            Int8Conv2d(channels, channels) for _ in range(layers)
        )
        self.tail = Int8Conv2d(channels, scale**2)
        self.slopes = nn.Parameter(torch.full((layers + 1, channels), 0.25))
        self.base = interpolation(scale, "bicubic")
        with torch.no_grad():
            for conv in self.body:
                conv.weight[:, :, 1, 1] += torch.eye(channels)
            self.tail.weight *= 0.1
        if not quantised:
            for conv in (*self.body, self.tail):
                conv.binarize(False)

    def build(self, ops: Ops[V], x: V) -> V:
        slopes = self.slopes.clamp(-1, 1)
        base = ops.conv("base", self.base, x)
        x = ops.conv("head", self.head, x, act=slopes[0])
        for i, conv in enumerate(self.body):
            x = ops.qconv(f"body.{i}", conv, x, act=slopes[i + 1])
        return ops.shuffle(ops.qconv("tail", self.tail, x, skip=base), self.scale)
