"""SRResNet and EDSR as E2FIF has them (arXiv 2207.06893; layout read from the released code)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..layers.modules import TypedModuleList
from ..layers.ops import Net, Ops, V
from ..methods import MakeUnit, units
from .blocks import Block, FloatBlock
from .upsamplers import back_projection, interpolation

BINARIZED = ("none", "body")
SKIP_PATHS = ("none", "bicubic", "back-projection")


class SRResNet(Net):
    """16 residual blocks of 64 channels on the Y channel, each of two binary convolutions.

    head: float 3x3, 1 -> C. body: ``blocks`` blocks, with a global skip around them. tail: float
    3x3, C -> scale^2, then PixelShuffle (the light tail of E2FIF).

    Input and output: (N, 1, h, w) -> (N, 1, scale*h, scale*w), Y in [0, 255].

    skip_path: what goes around all of it.

        "none"             nothing, as in E2FIF
        "bicubic"          the image enlarged by bicubic interpolation, to which the output of the
                           net is added, so that its features need not carry the image
        "back-projection"  and the sum is moved to the nearest image that shrinks to the LR image
                           (``upsamplers.back_projection``)

    With a skip path the filters of the head start without their mean, blind to brightness, and the
    tail starts at a tenth.

    binarized: "body", or "none" for ``FloatBlock`` of 16 bits: the teacher of the nets that ship.
    ``method`` and what belongs to it then make no difference.

    method, options, binary, act, weight: see ``methods.units``. Raises ValueError for a size below
    1 or an unknown name.
    """

    has_repeated_blocks = True

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
        skip_path: str = "none",
    ) -> None:
        super().__init__()
        if scale < 1 or channels < 1 or blocks < 1:
            raise ValueError("scale, channels and blocks must be at least 1")
        for key, value, known in (
            ("binarized", binarized, BINARIZED),
            ("skip_path", skip_path, SKIP_PATHS),
        ):
            if value not in known:
                raise ValueError(f"unknown {key} {value!r}; known: {', '.join(known)}")
        self.scale = scale
        make = units(method, options, binary=binary, act=act, weight=weight)
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.body: TypedModuleList[Block | FloatBlock] = TypedModuleList(
            FloatBlock(channels, 0.1, fine=True).next_to_identity()
            if binarized == "none"
            else Block(make, channels)
            for _ in range(blocks)
        )
        self._add_tail(make, channels)
        self.base = interpolation(scale, "bicubic") if skip_path != "none" else None
        self.base_left = self.base_shrink = self.base_back = None
        if skip_path == "back-projection":
            self.base_left, self.base_shrink, self.base_back = back_projection(scale)
        if self.base is not None:
            with torch.no_grad():
                self.head.weight -= self.head.weight.mean((1, 2, 3), keepdim=True)
                self.tail.weight *= 0.1

    def _add_tail(self, make: MakeUnit, channels: int) -> None:
        self.tail = nn.Conv2d(channels, self.scale**2, 3, padding=1)

    @property
    def symmetric(self) -> bool:
        return True

    def build(self, ops: Ops[V], x: V) -> V:
        base = None if self.base is None else ops.conv("base", self.base, x)
        left = None if self.base_left is None else ops.conv("base_left", self.base_left, x)
        y = ops.conv("tail", self.tail, self._features(ops, x))
        if left is not None and self.base_shrink is not None and self.base_back is not None:
            left = ops.add(left, ops.conv("base_shrink", self.base_shrink, y))
            y = ops.add(y, ops.conv("base_back", self.base_back, left))
        if base is not None:
            y = ops.add(y, base)
        return ops.shuffle(y, self.scale)

    def _features(self, ops: Ops[V], x: V) -> V:
        """Head and body, with the global skip."""
        x = head = ops.conv("head", self.head, x)
        for i, block in enumerate(self.body):
            x = ops.repeated_block(block, x, f"body.{i}")
        return ops.add(x, head)


class EDSR(SRResNet):
    """The same at the size of EDSR: 32 blocks of 256 channels."""

    def __init__(self, scale: int = 4, channels: int = 256, blocks: int = 32, **args: Any) -> None:
        super().__init__(scale, channels, blocks, **args)
