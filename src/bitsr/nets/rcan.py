"""RCAN (arXiv 1807.02758) as E2FIF binarizes it (arXiv 2207.06893; read from the released code)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..layers.modules import TypedModuleList
from ..layers.ops import Net, Ops, V
from ..methods import MakeUnit, Unit, units
from .blocks import Block

REDUCTION = 16


class AttendedBlock(Block):
    """Two units, then channel attention; no skip over the whole, as released."""

    def __init__(self, make: MakeUnit, channels: int, reduction: int) -> None:
        super().__init__(make, channels)
        hidden = max(1, channels // reduction)
        self.down = nn.Conv2d(channels, hidden, 1)
        self.up = nn.Conv2d(hidden, channels, 1)

    def build(self, ops: Ops[V], x: V, name: str) -> V:
        y = self._two_units(ops, x, name)
        return ops.attend(f"{name}.attention", self.down, self.up, 0.01, y)

    def _two_units(self, ops: Ops[V], x: V, name: str) -> V:
        return super().build(ops, x, name)


class Group(nn.Module):
    """Blocks, then one more unit with its own skip, and a skip over all of it."""

    def __init__(self, blocks: Sequence[AttendedBlock], end: Unit) -> None:
        super().__init__()
        self.blocks: TypedModuleList[AttendedBlock] = TypedModuleList(blocks)
        self.end = end

    def build(self, ops: Ops[V], x: V, name: str) -> V:
        y = x
        for i, block in enumerate(self.blocks):
            y = ops.repeated_block(block, y, f"{name}.{i}")
        y = self.end.build(ops, y, f"{name}.end", skip=self._end_skip(y), act=False)
        return ops.add(y, x)

    def _end_skip(self, y: V) -> V | None:
        return self.end.own_skip(y)


class RCAN(Net):
    """10 groups of 5 blocks of 64 channels on the Y channel, channel attention with reduction 16.

    head: float 3x3, 1 -> C; groups, with a skip over each; global skip; tail: float 3x3,
    C -> scale^2, then PixelShuffle. The attention is float, on the mean over the whole image: an
    image cut in tiles gives another result. ``e2fif_ablation.RCANAblation`` has the steps of the
    ablation of the paper.

    Input and output: (N, 1, h, w) -> (N, 1, scale*h, scale*w), Y in [0, 255].

    method, options, binary, act, weight: see ``methods.units``. Raises ValueError for a size below
    1 or an unknown name.
    """

    has_repeated_blocks = True

    def __init__(
        self,
        scale: int = 4,
        channels: int = 64,
        blocks: int = 5,
        groups: int = 10,
        *,
        reduction: int = REDUCTION,
        method: str = "e2fif",
        options: dict[str, Any] | None = None,
        binary: bool | str = True,
        act: str | None = None,
        weight: str | None = None,
    ) -> None:
        super().__init__()
        if min(scale, channels, blocks, groups, reduction) < 1:
            raise ValueError("scale, channels, blocks, groups and reduction must be at least 1")
        self.scale = scale
        make = units(method, options, binary=binary, act=act, weight=weight)
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.body: TypedModuleList[Group] = TypedModuleList(
            Group(
                [AttendedBlock(make, channels, reduction) for _ in range(blocks)],
                make(channels, channels),
            )
            for _ in range(groups)
        )
        self.tail = nn.Conv2d(channels, scale**2, 3, padding=1)

    def build(self, ops: Ops[V], x: V) -> V:
        x = head = ops.conv("head", self.head, x)
        for i, group in enumerate(self.body):
            x = group.build(ops, x, f"body.{i}")
        return ops.shuffle(ops.conv("tail", self.tail, ops.add(x, head)), self.scale)
