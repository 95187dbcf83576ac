"""RCAN as E2FIF binarizes it (arXiv 2207.06893; layout read from the released code; RCAN: arXiv 1807.02758)."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..methods.literature import Block, MakeUnit, units
from .upsamplers import Tailed

VARIANTS = ("bireal", "variant1", "variant2", "e2fif")
WIRINGS = ("corrected", "released")


class AttendedBlock(Block):
    """Two units, then channel attention; no skip over the whole, as released. wiring: see ``RCAN``."""

    def __init__(self, make: MakeUnit, channels: int, reduction: int, wiring: str) -> None:
        super().__init__(make, channels)
        hidden = max(1, channels // reduction)
        self.down = nn.Conv2d(channels, hidden, 1)
        self.up = nn.Conv2d(hidden, channels, 1)
        self.wiring = wiring

    def build(self, g: Any, x: Any, name: str) -> Any:
        if self.wiring == "corrected":
            y = super().build(g, x, name)
        else:
            y = self.unit1.build(g, x, f"{name}.unit1", skip=self.unit1.over(x))
            skip = y if self.unit2.skips == "conv" else x
            y = self.unit2.build(g, x, f"{name}.unit2", skip=skip, act=False)
        return g.attend(f"{name}.attention", self.down, self.up, 0.01, y)


class Group(nn.Module):
    """Blocks, then one more unit, and a skip over all of it. skip: whether that unit has its own."""

    def __init__(self, blocks: list[AttendedBlock], end: Any, skip: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.end, self.skip = end, skip

    def build(self, g: Any, x: Any, name: str) -> Any:
        y = x
        for i, block in enumerate(self.blocks):
            y = g.part(block, y, f"{name}.{i}")
        y = self.end.build(g, y, f"{name}.end", skip=self.end.over(y) if self.skip else None, act=False)
        return g.add(y, x)


class RCAN(Tailed):
    """10 groups of 5 blocks of 64 channels on the Y channel, channel attention with reduction 16 in each block.

    head: float 3x3, 1 -> C; groups, with a skip over each; global skip; tail. variant, of the paper's ablation:

        variant     end of a group    end of the body    tail
        "bireal"    plain             plain              "steps", of plain units
        "variant1"  unit with skip    plain              the same
        "variant2"  unit with skip    none               the same
        "e2fif"     unit with skip    none               "light"

    Plain is a binary convolution with a bias alone (``methods.Plain``). The second unit of a block reads the activated
    output of the first with wiring "corrected", the block's input with "released", as the released code has it.
    The attention is float, on the mean over the whole picture: a picture cut in tiles gives another result.

    Input and output: (N, 1, h, w) -> (N, 1, scale*h, scale*w), Y in [0, 255].

    method, options, binary, act, weight: see ``methods.units``. Raises ValueError for a size below 1 or an unknown
    name.
    """

    parted = True

    def __init__(
        self,
        scale: int = 4,
        channels: int = 64,
        blocks: int = 5,
        groups: int = 10,
        *,
        reduction: int = 16,
        variant: str = "e2fif",
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
        for name, known in ((variant, VARIANTS), (wiring, WIRINGS)):
            if name not in known:
                raise ValueError(f"unknown {name!r}; known: {', '.join(known)}")
        self.scale = scale
        make = units(method, options, binary=binary, act=act, weight=weight)
        plain = units("plain", binary=binary, act=act, weight=weight)
        end = plain if variant == "bireal" else make
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.body = nn.ModuleList(
            Group(
                [AttendedBlock(make, channels, reduction, wiring) for _ in range(blocks)],
                end(channels, channels),
                skip=variant != "bireal",
            )
            for _ in range(groups)
        )
        self.end = plain(channels, channels) if variant in ("bireal", "variant1") else None
        if variant == "e2fif":
            self._add_tail("light", make, channels)
        else:
            self._add_tail("steps", plain, channels)

    @property
    def symmetric(self) -> bool:
        return False  # the attention's hidden channels are no fields

    def build(self, g: Any, x: Any) -> Any:
        x = head = g.conv("head", self.head, x)
        for i, group in enumerate(self.body):
            x = group.build(g, x, f"body.{i}")  # type: ignore[operator]
        if self.end is not None:
            x = self.end.build(g, x, "end", act=False)
        return self._build_tail(g, g.add(x, head))
