"""LapSRN (Lai et al., CVPR 2017, arXiv 1704.03915), with binary filters as Ma et al. have it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..layers.convs import WeightBinaryConv2d
from ..layers.modules import TypedModuleList
from ..layers.ops import TORCH, Net, Ops, V

LEVELS = {2: 1, 4: 2, 8: 3}
SLOPE = 0.2


def _bilinear(deconv: nn.ConvTranspose2d) -> nn.ConvTranspose2d:
    """Start a 4x4, stride 2 transposed convolution of one channel as bilinear upsampling."""
    taps = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        deconv.weight.copy_(torch.outer(taps, taps))
    return deconv


def _he(conv: nn.Conv2d | nn.ConvTranspose2d, fan: int) -> None:
    """He's initialisation for LeakyReLU, bias 0.

    The scale of a binary filter keeps the size of its output.
    """
    std = (2 / ((1 + SLOPE**2) * fan)) ** 0.5
    nn.init.normal_(conv.weight, std=std)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    if isinstance(conv, WeightBinaryConv2d):
        nn.init.constant_(conv.scale, std)


class Level(nn.Module):
    """One step by 2, on features and image.

    ``depth`` binary 3x3 convolutions and a float transposed one on the features, all with
    LeakyReLU. Then a float 3x3 convolution to the residual of the image that a transposed one
    upsamples.
    """

    def __init__(self, channels: int, depth: int, binary: bool) -> None:
        super().__init__()
        self.convs: TypedModuleList[WeightBinaryConv2d] = TypedModuleList(
            WeightBinaryConv2d(channels, channels, bias=True) for _ in range(depth)
        )
        self.up = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
        self.residual = nn.Conv2d(channels, 1, 3, padding=1)
        self.picture = _bilinear(nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1, bias=False))
        for conv in (*self.convs, self.residual):
            _he(conv, 9 * channels)
        _he(self.up, 4 * channels)  # four taps meet at a place
        for conv in self.convs:
            conv.binarize(binary)

    def build(self, ops: Ops[V], features: V, image: V, name: str) -> tuple[V, V]:
        """(features, image), twice the size."""
        for i, conv in enumerate(self.convs):
            features = ops.qconv(f"{name}.{i}", conv, features, act=SLOPE)
        features = ops.qconv(f"{name}.up", self.up, features, act=SLOPE)
        residual = ops.qconv(f"{name}.residual", self.residual, features)
        return features, ops.add(ops.conv(f"{name}.picture", self.picture, image), residual)


class LapSRN(Net):
    """LapSRN on the Y channel: a Laplacian pyramid of log2(scale) levels (see ``Level``).

    depth: binary convolutions in a level; None is the published 10 for x2 and x4, 5 for x8.
    ``pyramid`` gives the images of all levels, for deep supervision. Ma et al. (2018, arXiv
    1812.06378) binarize "only residual blocks", of which LapSRN has none: we take the convolutions
    of its feature branch; the first convolution, the transposed ones and those to the residuals
    stay float. He's initialisation.

    Input and output: (N, 1, h, w) -> (N, 1, scale*h, scale*w), Y in [0, 255]; inside, [-1, 1].
    scale: 2, 4 or 8. binary: False is the float twin. Raises ValueError for another scale, a size
    below 1 or another ``binary``.
    """

    scales: ClassVar[tuple[int, ...]] = tuple(LEVELS)
    span = 127.5

    def __init__(
        self, scale: int = 4, channels: int = 64, depth: int | None = None, *, binary: bool | str = True
    ) -> None:
        super().__init__()
        if scale not in LEVELS:
            raise ValueError(f"scale {scale}: one of {', '.join(map(str, LEVELS))} is wanted")
        if channels < 1 or (depth is not None and depth < 1):
            raise ValueError("channels and depth must be at least 1")
        if not isinstance(binary, bool):
            raise ValueError("binary is true or false: there are no activations to binarize")
        self.scale = scale
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        _he(self.head, 9)
        depth = depth or (5 if scale == 8 else 10)
        self.levels: TypedModuleList[Level] = TypedModuleList(
            Level(channels, depth, binary) for _ in range(LEVELS[scale])
        )

    def _levels(self, ops: Ops[V], x: V) -> list[V]:
        features = ops.conv("head", self.head, x, act=SLOPE)
        images: list[V] = []
        for i, level in enumerate(self.levels):
            features, x = level.build(ops, features, x, f"levels.{i}")
            images.append(x)
        return images

    def build(self, ops: Ops[V], x: V) -> V:
        return self._levels(ops, x)[-1]

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """The images of all levels, (N, 1, 2h, 2w) first, the SR image last; Y in [0, 255]."""
        images = self._levels(TORCH, (x - self.mean) / self.span)
        return [image.to(x.dtype) * self.span + self.mean for image in images]
