"""RDN as E2FIF binarizes it (arXiv 2207.06893; layout read from the released code; RDN: arXiv 1802.08797)."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..methods.literature import MakeUnit, Unit, units
from .upsamplers import Tailed

VARIANTS = ("bireal", "variant1", "variant2", "e2fif")


def _fuse(g: Any, unit: Unit, parts: list[Any], name: str, **args: Any) -> Any:
    """A unit over the concatenation of parts of C channels to C; one part alone has the unit's skip, as Cin == Cout."""
    if len(parts) == 1:
        return unit.build(g, parts[0], name, skip=unit.over(parts[0]), **args)
    return unit.build(g, g.concat(parts), name, **args)


class DenseBlock(nn.Module):
    """Residual dense block: each 3x3 unit reads all that came before, a 1x1 unit fuses, a skip goes over the whole.

    last_skip: whether the output of the last 3x3 unit is added to the fusion's.
    """

    def __init__(self, make: MakeUnit, channels: int, convs: int, last_skip: bool) -> None:
        super().__init__()
        self.units = nn.ModuleList(make((i + 1) * channels, channels) for i in range(convs))
        self.fusion = make((convs + 1) * channels, channels, 1)
        self.last_skip = last_skip

    def build(self, g: Any, x: Any, name: str) -> Any:
        parts = [x]
        for i, unit in enumerate(self.units):
            parts.append(_fuse(g, unit, parts, f"{name}.{i}"))  # type: ignore[arg-type]
        skip = parts[-1] if self.last_skip else x
        y = self.fusion.build(g, g.concat(parts), f"{name}.fusion", skip=skip, act=False)
        return g.add(y, x) if self.last_skip else y


class RDN(Tailed):
    """8 residual dense blocks of 8 convolutions of 64 channels (G0 = G = 64) on the Y channel.

    head: float 3x3, 1 -> C (SFENet1); a unit (SFENet2); the dense blocks; fusion of all their outputs by a 1x1 and a
    3x3 unit (GFF); global skip from the head; tail. Units have a skip of their own where Cin == Cout. The released code
    subtracts no mean here; ours does, as for every net. variant, of the paper's ablation:

        variant     skip from the last unit    skip from the last block   tail
                    over a block's fusion      over the global fusion
        "bireal"    no                         no                         "bireal"
        "variant1"  yes                        no                         "bireal"
        "variant2"  yes                        yes                        "bireal"
        "e2fif"     yes                        yes                        "light"

    Input and output: (N, 1, h, w) -> (N, 1, scale*h, scale*w), Y in [0, 255].

    method, options, binary, act, weight: see ``methods.units``. Raises ValueError for a size below 1 or an unknown
    name.
    """

    parted = True

    def __init__(
        self,
        scale: int = 4,
        channels: int = 64,
        blocks: int = 8,
        convs: int = 8,
        *,
        variant: str = "e2fif",
        method: str = "e2fif",
        options: dict[str, Any] | None = None,
        binary: bool | str = True,
        act: str | None = None,
        weight: str | None = None,
    ) -> None:
        super().__init__()
        if min(scale, channels, blocks, convs) < 1:
            raise ValueError("scale, channels, blocks and convs must be at least 1")
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
        self.scale, self.last_skip = scale, variant in ("variant2", "e2fif")
        make = units(method, options, binary=binary, act=act, weight=weight)
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.first = make(channels, channels)
        self.body = nn.ModuleList(
            DenseBlock(make, channels, convs, variant != "bireal") for _ in range(blocks)
        )
        self.fusion1 = make(blocks * channels, channels, 1)
        self.fusion2 = make(channels, channels)
        self._add_tail("light" if variant == "e2fif" else "bireal", make, channels)

    def build(self, g: Any, x: Any) -> Any:
        head = g.conv("head", self.head, x)
        outs = [_fuse(g, self.first, [head], "first", act=False)]
        for i, block in enumerate(self.body):
            outs.append(g.part(block, outs[-1], f"body.{i}"))
        x = _fuse(g, self.fusion1, outs[1:], "fusion1", act=False)
        x = _fuse(g, self.fusion2, [x], "fusion2", act=False)
        if self.last_skip:
            x = g.add(x, outs[-1])
        return self._build_tail(g, g.add(x, head))
