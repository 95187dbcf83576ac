"""SRResNet and EDSR as E2FIF has them (arXiv 2207.06893; layout read from the released code)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..methods.literature import Block, FloatBlock, units
from .upsamplers import Tailed, consistency, interpolation

BINARIZED = ("none", "body")
BASES = (False, True, "consistent")


class SRResNet(Tailed):
    """16 residual blocks of 64 channels on the Y channel, each of two binary convolutions.

    head: float 3x3, 1 -> C; body: ``blocks`` blocks, global skip around it; tail: see ``Tailed``; the paper's ablation
    has "bireal", "repeat" and "light".

    Input and output: (N, 1, h, w) -> (N, 1, scale*h, scale*w), Y in [0, 255].

    base: the net makes what is added to the picture enlarged by bicubic interpolation, so that its features need not
    carry the picture. The head's filters then start without their mean, blind to brightness, and the tail at a tenth.
    "consistent": and the result is moved to the nearest picture that shrinks to the LR (``tails.consistency``); with
    the "light" tail alone.

    binarized: "body", or "none" for ``FloatBlock`` of 16 bits: the teacher of the house nets. ``method`` and what
    belongs to it then make no difference to the body.

    method, options, binary, act, weight: see ``methods.units``. Raises ValueError for a size below 1 or an unknown
    name.
    """

    parted = True

    def __init__(
        self,
        scale: int = 4,
        channels: int = 64,
        blocks: int = 16,
        *,
        binarized: str = "body",
        method: str = "e2fif",
        options: dict[str, Any] | None = None,
        binary: bool | str = True,
        act: str | None = None,
        weight: str | None = None,
        tail: str = "light",
        mean: float = 127.5,
        base: bool | str = False,
    ) -> None:
        super().__init__()
        if scale < 1 or channels < 1 or blocks < 1:
            raise ValueError("scale, channels and blocks must be at least 1")
        if binarized not in BINARIZED:
            raise ValueError(f"unknown binarized {binarized!r}; known: {', '.join(BINARIZED)}")
        if base not in BASES:
            raise ValueError(f"unknown base {base!r}; known: {', '.join(map(str, BASES))}")
        self.scale, self.mean = scale, mean
        make = units(method, options, binary=binary, act=act, weight=weight)
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        if binarized == "none":
            body: list[nn.Module] = [
                FloatBlock(channels, 0.1, fine=True).next_to_identity() for _ in range(blocks)
            ]
        else:
            body = [Block(make, channels) for _ in range(blocks)]
        self.body = nn.Sequential(*body)
        self._add_tail(tail, make, channels)
        self.base = interpolation(scale, "bicubic") if base else None
        self.consistent = base == "consistent"
        if self.consistent:
            if tail != "light":
                raise ValueError(f"a consistent base wants the tail 'light', not {tail!r}")
            for name, conv in consistency(scale).items():
                self.add_module(f"base_{name}", conv)
        if base:
            with torch.no_grad():
                self.head.weight -= self.head.weight.mean((1, 2, 3), keepdim=True)
                self.tail.weight *= 0.1

    def build(self, g: Any, x: Any) -> Any:
        base = None if self.base is None else g.conv("base", self.base, x)
        left = g.conv("base_left", self.base_left, x) if self.consistent else None
        x = head = g.conv("head", self.head, x)
        for i, block in enumerate(self.body):
            x = g.part(block, x, f"body.{i}")
        return self._build_tail(g, g.add(x, head), base, left)


class EDSR(SRResNet):
    """The same at EDSR's size: 32 blocks of 256 channels."""

    def __init__(self, scale: int = 4, channels: int = 256, blocks: int = 32, **args: Any) -> None:
        super().__init__(scale, channels, blocks, **args)
