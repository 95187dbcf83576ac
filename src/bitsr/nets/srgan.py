"""SRResNet and SRGAN of Ledig et al. (CVPR 2017, arXiv 1609.04802), which Ma et al. binarize."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..layers.convs import WeightBinaryConv2d
from ..layers.modules import TypedModuleList
from ..layers.ops import Net, Ops, V
from .upsamplers import steps


def _prelu(channels: int) -> nn.Parameter:
    """Slopes of a PReLU (He et al. 2015), one for each channel or one for all.

    ``build`` holds them in [-1, 1] to pack.
    """
    return nn.Parameter(torch.full((channels,), 0.25))


class ResidualBlock(nn.Module):
    """x + bn(conv(prelu(bn(conv(x))))), 3x3, C -> C, with binary filters."""

    def __init__(self, channels: int, binary: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (WeightBinaryConv2d(channels, channels) for _ in range(2))
        self.bn1, self.bn2 = (nn.BatchNorm2d(channels) for _ in range(2))
        self.slope = _prelu(channels)
        for conv in (self.conv1, self.conv2):
            conv.binarize(binary)

    def build(self, ops: Ops[V], x: V, name: str) -> V:
        y = ops.qconv(f"{name}.conv1", self.conv1, x, bn=self.bn1, act=self.slope.clamp(-1, 1))
        return ops.qconv(f"{name}.conv2", self.conv2, y, bn=self.bn2, skip=x)


class Upsampler(nn.Module):
    """Convolution C -> C r^2, PixelShuffle(r), PReLU.

    The PReLU has one slope, so that it may as well stand before the shuffle.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(channels, channels * factor**2, 3, padding=1)
        self.slope = _prelu(1)

    def build(self, ops: Ops[V], x: V, name: str) -> V:
        return ops.shuffle(ops.qconv(name, self.conv, x, act=self.slope.clamp(-1, 1)), self.factor)


class LedigSRResNet(Net):
    """SRResNet of Ledig et al., the generator of SRGAN, on the Y channel, with Ma's binary filters.

    head: float 9x9, 1 -> C, PReLU; body: ``blocks`` residual blocks; float 3x3 with batch norm,
    then the global skip; float upsamplers by 2 (x3: one by 3); tail: float 9x9, C -> 1 at the size
    of the SR. Only the residual blocks are binary (Ma et al. 2018, arXiv 1812.06378).

    Input and output: (N, 1, h, w) -> (N, 1, scale*h, scale*w), Y in [0, 255]; inside, [-1, 1].
    scale: 2, 3, 4 or 8. binary: False is the float twin. Raises ValueError for another scale, a
    size below 1 or another ``binary``. Packed: head int16; all else with 8-bit activations, and
    8-bit weights where they are float.
    """

    scales: ClassVar[tuple[int, ...]] = (2, 3, 4, 8)
    span = 127.5

    has_repeated_blocks = True

    def __init__(
        self, scale: int = 4, channels: int = 64, blocks: int = 16, *, binary: bool | str = True
    ) -> None:
        super().__init__()
        if scale not in self.scales:
            raise ValueError(f"scale {scale}: one of {', '.join(map(str, self.scales))} is wanted")
        if channels < 1 or blocks < 1:
            raise ValueError("channels and blocks must be at least 1")
        if not isinstance(binary, bool):
            raise ValueError("binary is true or false: there are no activations to binarize")
        self.scale = scale
        self.head = nn.Conv2d(1, channels, 9, padding=4)
        self.slope = _prelu(channels)
        self.body: TypedModuleList[ResidualBlock] = TypedModuleList(
            ResidualBlock(channels, binary) for _ in range(blocks)
        )
        self.end = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.up: TypedModuleList[Upsampler] = TypedModuleList(
            Upsampler(channels, factor) for factor in steps(scale)
        )
        self.tail = nn.Conv2d(channels, 1, 9, padding=4)

    def build(self, ops: Ops[V], x: V) -> V:
        x = head = ops.conv("head", self.head, x, act=self.slope.clamp(-1, 1))
        for i, block in enumerate(self.body):
            x = ops.repeated_block(block, x, f"body.{i}")
        x = ops.qconv("end", self.end, x, bn=self.bn, skip=head)
        for i, up in enumerate(self.up):
            x = up.build(ops, x, f"up.{i}")
        return ops.qconv("tail", self.tail, x)


class Discriminator(nn.Module):
    """The discriminator of SRGAN: (N, 1, size, size) in [-1, 1] -> (N,) logits.

    They are high for a real image. Eight 3x3 convolutions, C to 8 C channels, every second one with
    stride 2; batch norm after all but the first, LeakyReLU(0.2); then two dense layers, of 16 C and
    1. Source: Ledig et al. 2017, fig. 4 (C = 64, RGB there).
    """

    def __init__(self, size: int, channels: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, 8):
            cin, cout = (channels << (n // 2) for n in (i - 1, i))
            layers += [nn.Conv2d(cin, cout, 3, stride=1 + i % 2, padding=1, bias=False), nn.BatchNorm2d(cout)]
            layers += [nn.LeakyReLU(0.2)]
        side = -(-size // 16)
        layers += [nn.Flatten(), nn.Linear(8 * channels * side * side, 16 * channels), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(16 * channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)[:, 0]
