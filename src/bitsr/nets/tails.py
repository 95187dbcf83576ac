"""The upsampling ends of the nets of E2FIF and its ablation (arXiv 2207.06893; read from the released code)."""

from __future__ import annotations

from typing import Any

from torch import nn

from .graph import Net
from .methods import MakeUnit, Unit


def steps(scale: int) -> list[int]:
    """Factors of an upsampler that goes by 2 while it can, else once by the scale: 4 is [2, 2], 3 is [3]."""
    return [2] * (scale.bit_length() - 1) if scale & (scale - 1) == 0 else [scale]


TAILS = ("light", "repeat", "bireal", "steps")


class Tailed(Net):
    """A net whose tail is one of ``TAILS``, from C channels:

    "light", float 3x3, C -> scale^2, then PixelShuffle (E2FIF's);
    "bireal", a unit C -> C * scale^2 without skip, PixelShuffle, float 3x3, C -> 1 at the size of the SR;
    "repeat", the same with each channel of its input, repeated, as the unit's skip;
    "steps", as "bireal" with one unit and shuffle for each of ``steps(scale)``.
    """

    form: str
    up: nn.ModuleList
    tail: nn.Conv2d

    def _add_tail(self, form: str, make: MakeUnit, channels: int) -> None:
        """Raises ValueError for an unknown form."""
        if form not in TAILS:
            raise ValueError(f"unknown tail {form!r}; known: {', '.join(TAILS)}")
        self.form = form
        factors = {"light": [], "steps": steps(self.scale)}.get(form, [self.scale])
        self.up = nn.ModuleList(make(channels, channels * s * s) for s in factors)
        self.factors = factors
        self.tail = nn.Conv2d(channels, 1 if factors else self.scale**2, 3, padding=1)

    def _build_tail(self, g: Any, x: Any) -> Any:
        for i, (unit, s) in enumerate(zip(self.up, self.factors, strict=True)):
            assert isinstance(unit, Unit)
            skip = g.repeat(x, s * s) if self.form == "repeat" else None
            x = g.shuffle(unit.build(g, x, f"up.{i}", skip=skip, act=False), s)
        x = g.conv("tail", self.tail, x)
        return x if self.factors else g.shuffle(x, self.scale)
