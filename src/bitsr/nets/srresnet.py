"""SRResNet / EDSR in the E2FIF form (arXiv 2207.06893; layout read from the released code)."""

from __future__ import annotations

from typing import Any

from torch import nn

from .binary import BinaryConv2d
from .graph import Net


class BinaryUnit(nn.Module):
    """binary 3x3 conv -> batch norm -> + input: the full-precision skip over each binary convolution."""

    def __init__(self, channels: int, act: str, weight: str) -> None:
        super().__init__()
        self.conv = BinaryConv2d(channels, channels, act=act, weight=weight)
        self.bn = nn.BatchNorm2d(channels)

    def build(self, g: Any, x: Any, name: str, slope: float | None = None) -> Any:
        return g.bconv(name, self.conv, x, bn=self.bn, skip=x, slope=slope)


class Block(nn.Module):
    """unit -> LeakyReLU(slope) -> unit, no activation after the second unit."""

    def __init__(self, channels: int, act: str, weight: str, slope: float) -> None:
        super().__init__()
        self.unit1 = BinaryUnit(channels, act, weight)
        self.unit2 = BinaryUnit(channels, act, weight)
        self.slope = slope

    def build(self, g: Any, x: Any, name: str) -> Any:
        return self.unit2.build(g, self.unit1.build(g, x, f"{name}.unit1", self.slope), f"{name}.unit2")


class SRResNet(Net):
    """E2FIF-SRResNet on the Y channel.

    head: float 3x3, 1 -> C; body: ``blocks`` blocks of two binary units, global skip around it;
    tail: float 3x3, C -> scale^2, then PixelShuffle ("light tail").

    Input and output: (N, 1, h, w) -> (N, 1, scale*h, scale*w), Y in [0, 255].

    binary: True is W1A1; False is the float twin; "activations" binarizes the activations alone (first
    stage of two-stage training). The paper's binary convs carry a bias that batch norm cancels; it is left out.
    Raises ValueError for a size below 1.
    """

    def __init__(
        self,
        scale: int = 4,
        channels: int = 64,
        blocks: int = 16,
        *,
        binary: bool | str = True,
        act: str = "triangle",
        weight: str = "identity",
        slope: float = 0.1,
        mean: float = 127.5,
    ) -> None:
        super().__init__()
        if scale < 1 or channels < 1 or blocks < 1:
            raise ValueError("scale, channels and blocks must be at least 1")
        self.scale, self.mean = scale, mean
        act = act if binary else "float"
        weight = weight if binary is True else "float"
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.body = nn.Sequential(*(Block(channels, act, weight, slope) for _ in range(blocks)))
        self.tail = nn.Conv2d(channels, scale * scale, 3, padding=1)

    def build(self, g: Any, x: Any) -> Any:
        x = head = g.conv("head", self.head, x)
        for i, block in enumerate(self.body):
            x = block.build(g, x, f"body.{i}")  # type: ignore[union-attr]
        return g.shuffle(g.conv("tail", self.tail, g.add(x, head)), self.scale)
