"""SRResNet and EDSR as E2FIF has them (arXiv 2207.06893; layout read from the released code)."""

from __future__ import annotations

from typing import Any

from torch import nn

from .graph import Net
from .methods import Block, units

TAILS = ("light", "repeat", "bireal")


class SRResNet(Net):
    """16 residual blocks of 64 channels on the Y channel, each of two binary convolutions.

    head: float 3x3, 1 -> C; body: ``blocks`` blocks, global skip around it; tail, of the paper's ablation:
    "light", float 3x3, C -> scale^2, then PixelShuffle (E2FIF's);
    "bireal", a unit C -> C * scale^2 without skip, PixelShuffle, float 3x3, C -> 1 at the size of the SR;
    "repeat", the same with each channel of its input, repeated, as the unit's skip.

    Input and output: (N, 1, h, w) -> (N, 1, scale*h, scale*w), Y in [0, 255].

    method, options, binary, act, weight: see ``methods.units``. Raises ValueError for a size below 1 or an unknown
    name.
    """

    def __init__(
        self,
        scale: int = 4,
        channels: int = 64,
        blocks: int = 16,
        *,
        method: str = "e2fif",
        options: dict[str, Any] | None = None,
        binary: bool | str = True,
        act: str | None = None,
        weight: str | None = None,
        tail: str = "light",
        mean: float = 127.5,
    ) -> None:
        super().__init__()
        if scale < 1 or channels < 1 or blocks < 1:
            raise ValueError("scale, channels and blocks must be at least 1")
        if tail not in TAILS:
            raise ValueError(f"unknown tail {tail!r}; known: {', '.join(TAILS)}")
        self.scale, self.mean, self.form = scale, mean, tail
        make = units(method, options, binary=binary, act=act, weight=weight)
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.body = nn.Sequential(*(Block(make, channels) for _ in range(blocks)))
        if tail == "light":
            self.tail = nn.Conv2d(channels, scale * scale, 3, padding=1)
        else:
            self.up = make(channels, channels * scale * scale)
            self.tail = nn.Conv2d(channels, 1, 3, padding=1)

    def build(self, g: Any, x: Any) -> Any:
        x = head = g.conv("head", self.head, x)
        for i, block in enumerate(self.body):
            x = block.build(g, x, f"body.{i}")  # type: ignore[union-attr]
        x = g.add(x, head)
        if self.form == "light":
            return g.shuffle(g.conv("tail", self.tail, x), self.scale)
        skip = g.repeat(x, self.scale**2) if self.form == "repeat" else None
        x = self.up.build(g, x, "up", skip=skip, act=False)
        return g.conv("tail", self.tail, g.shuffle(x, self.scale))


class EDSR(SRResNet):
    """The same at EDSR's size: 32 blocks of 256 channels."""

    def __init__(self, scale: int = 4, channels: int = 256, blocks: int = 32, **args: Any) -> None:
        super().__init__(scale, channels, blocks, **args)
