"""The upsampling ends of the nets of E2FIF and its ablation (arXiv 2207.06893; read from the released code)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .graph import Net
from .methods import MakeUnit, Unit


def steps(scale: int) -> list[int]:
    """Factors of an upsampler that goes by 2 while it can, else once by the scale: 4 is [2, 2], 3 is [3]."""
    return [2] * (scale.bit_length() - 1) if scale & (scale - 1) == 0 else [scale]


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel, a = -0.5 (Keys 1981), support [-2, 2]; x at least 0."""
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, 0.0))


KERNELS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "bilinear": (1, lambda x: (1 - x).clamp(min=0)),
    "bicubic": (2, _cubic),
}
"""LR pixels that a kernel reaches to each side, and its value at a distance."""


def interpolation(scale: int, kernel: str) -> nn.Conv2d:
    """The fixed convolution 1 -> scale^2 that, shuffled, is upsampling with half-pixel centres.

    Beyond the edge it reads the nearest pixel. "bilinear", 3x3, is ``F.interpolate(align_corners=False)``; "bicubic",
    5x5, is MATLAB's imresize but for two LR pixels at the edge, where that mirrors the picture.
    """
    reach, value = KERNELS[kernel]
    # of an SR pixel from its LR pixel
    offset = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    taps = value((torch.arange(-reach, reach + 1) - offset[:, None]).abs())
    k = 2 * reach + 1
    conv = nn.Conv2d(1, scale * scale, k, padding=reach, padding_mode="replicate", bias=False)
    weight = (taps[:, None, :, None] * taps[None, :, None, :]).reshape(scale * scale, 1, k, k)
    conv.weight = nn.Parameter(weight.float(), requires_grad=False)
    return conv


TAILS = ("light", "repeat", "bireal", "steps")


class Tailed(Net):
    """A net whose tail is one of ``TAILS``, from C channels:

    "light", float 3x3, C -> scale^2, then PixelShuffle (E2FIF's);
    "bireal", a unit C -> C * scale^2 without skip, PixelShuffle, float 3x3, C -> 1 at the size of the SR;
    "repeat", the same with each channel of its input, repeated, as the unit's skip;
    "steps", as "bireal" with one unit and shuffle for each of ``steps(scale)``.
    """

    form: str
    """One of ``TAILS``."""
    up: nn.ModuleList
    tail: nn.Conv2d

    @property
    def symmetric(self) -> bool:
        return self.form == "light"

    def _add_tail(self, form: str, make: MakeUnit, channels: int) -> None:
        """Raises ValueError for an unknown form."""
        if form not in TAILS:
            raise ValueError(f"unknown tail {form!r}; known: {', '.join(TAILS)}")
        self.form = form
        factors = {"light": [], "steps": steps(self.scale)}.get(form, [self.scale])
        self.up = nn.ModuleList(make(channels, channels * s * s) for s in factors)
        self.factors = factors
        self.tail = nn.Conv2d(channels, 1 if factors else self.scale**2, 3, padding=1)

    def _build_tail(self, g: Any, x: Any, base: Any = None) -> Any:
        """base: scale^2 channels that, shuffled, are added to the result."""
        for i, (unit, s) in enumerate(zip(self.up, self.factors, strict=True)):
            assert isinstance(unit, Unit)
            skip = g.repeat(x, s * s) if self.form == "repeat" else None
            x = g.shuffle(unit.build(g, x, f"up.{i}", skip=skip, act=False), s)
        x = g.conv("tail", self.tail, x)
        if base is not None:
            x = g.add(x, g.shuffle(base, self.scale) if self.factors else base)
        return x if self.factors else g.shuffle(x, self.scale)
