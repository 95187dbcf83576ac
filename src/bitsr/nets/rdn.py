"""RDN (arXiv 1802.08797) as E2FIF binarizes it (arXiv 2207.06893; read from the released code)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..layers.modules import TypedModuleList
from ..layers.ops import Net, Ops, V
from ..methods import MakeUnit, Unit, units


def fuse(ops: Ops[V], unit: Unit, parts: Sequence[V], name: str, *, act: bool = True) -> V:
    """A unit over the concatenation of parts of C channels to C.

    One part alone has the skip of the unit, as Cin == Cout.
    """
    if len(parts) == 1:
        return unit.build(ops, parts[0], name, skip=unit.own_skip(parts[0]), act=act)
    return unit.build(ops, ops.concat(parts), name, act=act)


class DenseBlock(nn.Module):
    """Residual dense block: each 3x3 unit reads all that came before, a 1x1 unit fuses.

    The output of the last 3x3 unit is added to that of the fusion, and a skip goes over the whole.
    """

    def __init__(self, make: MakeUnit, channels: int, convs: int) -> None:
        super().__init__()
        self.units: TypedModuleList[Unit] = TypedModuleList(
            make((i + 1) * channels, channels) for i in range(convs)
        )
        self.fusion = make((convs + 1) * channels, channels, 1)

    def build(self, ops: Ops[V], x: V, name: str) -> V:
        parts = [x]
        for i, unit in enumerate(self.units):
            parts.append(fuse(ops, unit, parts, f"{name}.{i}"))
        return self._fused(ops, parts, f"{name}.fusion")

    def _fused(self, ops: Ops[V], parts: list[V], name: str) -> V:
        y = self.fusion.build(ops, ops.concat(parts), name, skip=parts[-1], act=False)
        return ops.add(y, parts[0])


class RDN(Net):
    """8 residual dense blocks of 8 convolutions of 64 channels (G0 = G = 64) on the Y channel.

    head: float 3x3, 1 -> C (SFENet1); a unit (SFENet2); the dense blocks; fusion of all their
    outputs by a 1x1 and a 3x3 unit (GFF), to which the output of the last block is added; global
    skip from the head; tail: float 3x3, C -> scale^2, then PixelShuffle. Units have a skip of their
    own where Cin == Cout. The released code subtracts no mean; ours does, as for every net.
    ``e2fif_ablation.RDNAblation`` has the steps of the ablation of the paper.

    Input and output: (N, 1, h, w) -> (N, 1, scale*h, scale*w), Y in [0, 255].

    method, options, binary, act, weight: see ``methods.units``. Raises ValueError for a size below
    1 or an unknown name.
    """

    has_repeated_blocks = True

    def __init__(
        self,
        scale: int = 4,
        channels: int = 64,
        blocks: int = 8,
        convs: int = 8,
        *,
        method: str = "e2fif",
        options: dict[str, Any] | None = None,
        binary: bool | str = True,
        act: str | None = None,
        weight: str | None = None,
    ) -> None:
        super().__init__()
        if min(scale, channels, blocks, convs) < 1:
            raise ValueError("scale, channels, blocks and convs must be at least 1")
        self.scale = scale
        make = units(method, options, binary=binary, act=act, weight=weight)
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.first = make(channels, channels)
        self.body: TypedModuleList[DenseBlock] = TypedModuleList(
            self._block(make, channels, convs) for _ in range(blocks)
        )
        self.fusion1 = make(blocks * channels, channels, 1)
        self.fusion2 = make(channels, channels)
        self._add_tail(make, channels)

    def _add_tail(self, make: MakeUnit, channels: int) -> None:
        self.tail = nn.Conv2d(channels, self.scale**2, 3, padding=1)

    def _block(self, make: MakeUnit, channels: int, convs: int) -> DenseBlock:
        return DenseBlock(make, channels, convs)

    @property
    def symmetric(self) -> bool:
        return True

    def build(self, ops: Ops[V], x: V) -> V:
        return ops.shuffle(ops.conv("tail", self.tail, self._features(ops, x)), self.scale)

    def _features(self, ops: Ops[V], x: V, last_skip: bool = True) -> V:
        """All before the tail. last_skip: whether the output of the last block is added."""
        head = ops.conv("head", self.head, x)
        outs = [fuse(ops, self.first, [head], "first", act=False)]
        for i, block in enumerate(self.body):
            outs.append(ops.repeated_block(block, outs[-1], f"body.{i}"))
        x = fuse(ops, self.fusion1, outs[1:], "fusion1", act=False)
        x = fuse(ops, self.fusion2, [x], "fusion2", act=False)
        if last_skip:
            x = ops.add(x, outs[-1])
        return ops.add(x, head)
