"""The steps of the ablation of E2FIF (arXiv 2207.06893; read from the released code).

Each net here is one of the nets of E2FIF with parts of Bi-Real Net left in it. "plain" is a binary
convolution with a bias alone (``methods.Plain``).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..layers.modules import TypedModuleList
from ..layers.ops import Net, Ops, V
from ..methods import MakeUnit, Unit, units
from .rcan import REDUCTION, AttendedBlock, Group
from .rdn import RDN, DenseBlock
from .srresnet import SRResNet
from .upsamplers import steps

TAILS = ("bireal", "repeat", "steps")
RCAN_VARIANTS = ("bireal", "variant1", "variant2", "e2fif")
RCAN_WIRINGS = ("corrected", "released")
RDN_VARIANTS = ("bireal", "variant1", "variant2")


def _known(name: str, known: tuple[str, ...]) -> str:
    if name not in known:
        raise ValueError(f"unknown {name!r}; known: {', '.join(known)}")
    return name


class BinaryTail(TypedModuleList[Unit]):
    """The tails of the ablation, in place of the light one. form, one of ``TAILS``:

    "bireal"  a unit C -> C * scale^2 without skip, then PixelShuffle
    "repeat"  the same with each channel of its input, repeated, as the skip of the unit
    "steps"   as "bireal", with one unit and one shuffle for each of ``steps(scale)``

    A float 3x3 convolution C -> 1 at the size of the SR image follows in the net.
    """

    def __init__(self, form: str, make: MakeUnit, channels: int, scale: int) -> None:
        factors = steps(scale) if _known(form, TAILS) == "steps" else [scale]
        super().__init__(make(channels, channels * s * s) for s in factors)
        self.form, self.factors = form, factors

    def build(self, ops: Ops[V], x: V, name: str) -> V:
        for i, (unit, s) in enumerate(zip(self, self.factors, strict=True)):
            skip = ops.repeat(x, s * s) if self.form == "repeat" else None
            x = ops.shuffle(unit.build(ops, x, f"{name}.{i}", skip=skip, act=False), s)
        return x


class SRResNetAblation(SRResNet):
    """``SRResNet`` with one of the tails of ``BinaryTail``. Raises ValueError for an unknown
    tail."""

    def __init__(
        self,
        scale: int = 4,
        channels: int = 64,
        blocks: int = 16,
        *,
        tail: str = "bireal",
        method: str = "e2fif",
        options: dict[str, Any] | None = None,
        binary: bool | str = True,
        act: str | None = None,
        weight: str | None = None,
    ) -> None:
        self.form = tail
        args: dict[str, Any] = {"binary": binary, "act": act, "weight": weight}
        super().__init__(scale, channels, blocks, method=method, options=options, **args)

    def _add_tail(self, make: MakeUnit, channels: int) -> None:
        self.up = BinaryTail(self.form, make, channels, self.scale)
        self.tail = nn.Conv2d(channels, 1, 3, padding=1)

    @property
    def symmetric(self) -> bool:
        return False

    def build(self, ops: Ops[V], x: V) -> V:
        return ops.conv("tail", self.tail, self.up.build(ops, self._features(ops, x), "up"))


class _ReleasedBlock(AttendedBlock):
    """The second unit reads the input of the block, not the output of the first one."""

    def _two_units(self, ops: Ops[V], x: V, name: str) -> V:
        y = self.unit1.build(ops, x, f"{name}.unit1", skip=self.unit1.own_skip(x))
        skip = y if self.unit2.skips == "conv" else x
        return self.unit2.build(ops, x, f"{name}.unit2", skip=skip, act=False)


class _PlainEndGroup(Group):
    """The last unit has no skip of its own."""

    def _end_skip(self, y: V) -> V | None:
        return None


class RCANAblation(Net):
    """``RCAN`` in the steps of the ablation, one for each variant:

        variant     end of a group    end of the body    tail
        "bireal"    plain             plain              "steps", of plain units
        "variant1"  unit with skip    plain              the same
        "variant2"  unit with skip    none               the same
        "e2fif"     unit with skip    none               the light one: this is ``RCAN``

    wiring: with "released" the second unit of a block reads the input of the block, as in the
    released code; with "corrected" the activated output of the first. Raises ValueError for a size
    below 1 or an unknown name.
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
        variant: str = "bireal",
        wiring: str = "corrected",
        method: str = "e2fif",
        options: dict[str, Any] | None = None,
        binary: bool | str = True,
        act: str | None = None,
        weight: str | None = None,
    ) -> None:
        super().__init__()
        if min(scale, channels, blocks, groups, reduction) < 1:
            raise ValueError("scale, channels, blocks, groups and reduction must be at least 1")
        bireal = _known(variant, RCAN_VARIANTS) == "bireal"
        released = _known(wiring, RCAN_WIRINGS) == "released"
        self.scale = scale
        make = units(method, options, binary=binary, act=act, weight=weight)
        plain = units("plain", binary=binary, act=act, weight=weight)
        block, group = _ReleasedBlock if released else AttendedBlock, _PlainEndGroup if bireal else Group
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.body: TypedModuleList[Group] = TypedModuleList(
            group(
                [block(make, channels, reduction) for _ in range(blocks)],
                (plain if bireal else make)(channels, channels),
            )
            for _ in range(groups)
        )
        self.end = plain(channels, channels) if variant in ("bireal", "variant1") else None
        self.up = None if variant == "e2fif" else BinaryTail("steps", plain, channels, scale)
        self.tail = nn.Conv2d(channels, scale**2 if self.up is None else 1, 3, padding=1)

    def build(self, ops: Ops[V], x: V) -> V:
        x = head = ops.conv("head", self.head, x)
        for i, group in enumerate(self.body):
            x = group.build(ops, x, f"body.{i}")
        if self.end is not None:
            x = self.end.build(ops, x, "end", act=False)
        x = ops.add(x, head)
        if self.up is None:
            return ops.shuffle(ops.conv("tail", self.tail, x), self.scale)
        return ops.conv("tail", self.tail, self.up.build(ops, x, "up"))


class _PlainFusionBlock(DenseBlock):
    """The output of the last unit is not added to that of the fusion."""

    def _fused(self, ops: Ops[V], parts: list[V], name: str) -> V:
        return self.fusion.build(ops, ops.concat(parts), name, skip=parts[0], act=False)


class RDNAblation(RDN):
    """``RDN`` in the steps of the ablation, one for each variant; all with the tail "bireal".

        variant     skip from the last unit    skip from the last block
                    over the fusion of a block over the global fusion
        "bireal"    no                         no
        "variant1"  yes                        no
        "variant2"  yes                        yes

    Raises ValueError for a size below 1 or an unknown name.
    """

    def __init__(
        self,
        scale: int = 4,
        channels: int = 64,
        blocks: int = 8,
        convs: int = 8,
        *,
        variant: str = "bireal",
        method: str = "e2fif",
        options: dict[str, Any] | None = None,
        binary: bool | str = True,
        act: str | None = None,
        weight: str | None = None,
    ) -> None:
        self.variant = _known(variant, RDN_VARIANTS)
        args: dict[str, Any] = {"binary": binary, "act": act, "weight": weight}
        super().__init__(scale, channels, blocks, convs, method=method, options=options, **args)

    def _add_tail(self, make: MakeUnit, channels: int) -> None:
        self.up = BinaryTail("bireal", make, channels, self.scale)
        self.tail = nn.Conv2d(channels, 1, 3, padding=1)

    def _block(self, make: MakeUnit, channels: int, convs: int) -> DenseBlock:
        return (_PlainFusionBlock if self.variant == "bireal" else DenseBlock)(make, channels, convs)

    @property
    def symmetric(self) -> bool:
        return False

    def build(self, ops: Ops[V], x: V) -> V:
        x = self._features(ops, x, last_skip=self.variant == "variant2")
        return ops.conv("tail", self.tail, self.up.build(ops, x, "up"))
