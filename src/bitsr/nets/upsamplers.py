"""The upsampling ends of the nets of E2FIF and its ablation (arXiv 2207.06893; read from the released code)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.ops import Net
from ..methods.literature import MakeUnit, Unit


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


def _taps(scale: int, kernel: str) -> Tensor:
    """(scale, 2 reach + 1) float64: what LR pixels count for in each SR pixel of one, along an axis."""
    reach, value = KERNELS[kernel]
    # of an SR pixel from its LR pixel
    offset = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    return value((torch.arange(-reach, reach + 1) - offset[:, None]).abs())


def _separable(taps: Tensor) -> Tensor:
    """(scale, k) along an axis -> (scale^2, k, k)"""
    return (taps[:, None, :, None] * taps[None, :, None, :]).flatten(0, 1)


def _fixed(weight: Tensor, edge: bool) -> nn.Conv2d:
    """The convolution of these weights, (Cout, Cin, k, k), which are not trained; edge: beyond the picture it reads
    the nearest pixel, else 0."""
    cout, cin, k, _ = weight.shape
    mode = "replicate" if edge else "zeros"
    conv = nn.Conv2d(cin, cout, k, padding=k // 2, padding_mode=mode, bias=False)
    conv.weight = nn.Parameter(weight.float(), requires_grad=False)
    return conv


def interpolation(scale: int, kernel: str) -> nn.Conv2d:
    """The fixed convolution 1 -> scale^2 that, shuffled, is upsampling with half-pixel centres.

    Beyond the edge it reads the nearest pixel. "bilinear", 3x3, is ``F.interpolate(align_corners=False)``; "bicubic",
    5x5, is MATLAB's imresize but for two LR pixels at the edge, where that mirrors the picture.
    """
    return _fixed(_separable(_taps(scale, kernel))[:, None], edge=True)


def consistency(scale: int) -> dict[str, nn.Conv2d]:
    """Fixed convolutions that make a picture one of those that shrink to its LR.

    Let A be MATLAB's bicubic shrinking, B its pseudoinverse, cut off after three LR pixels, and U bicubic upsampling.
    Of U x + n, the result of a net, y = (U x + n) + B (x - A (U x + n)) is the nearest picture with A y = x (iterative
    back-projection, Irani and Peleg 1991, in one step; the range and null space of arXiv 2212.00490), to a fiftieth. As
    convolutions, SR being scale^2 channels, y = U x + n + back(left(x) + shrink(n)):

        left: 1 -> 1, 7x7            1 - A U: what bicubic upsampling leaves of x
        shrink: scale^2 -> 1, 5x5    -A, 0 beyond the edge, where n, which is small, is taken to be 0
        back: 1 -> scale^2, 7x7      B
    """
    up, reach = _taps(scale, "bicubic"), 2
    k = 2 * reach + 1
    # A: the SR pixel j of an LR pixel d away lies scale d + j - (scale - 1) / 2 from the middle
    at = torch.arange(-reach, reach + 1) * scale + torch.arange(scale)[:, None] - (scale - 1) / 2
    down = _cubic((at / scale).abs().double())
    down /= down.sum()
    # A along an axis for enough LR pixels that the middle ones do not see the ends
    n = 41
    matrix = torch.zeros(n, n + 2 * reach, scale, dtype=torch.float64)
    for i in range(n):
        matrix[i, i : i + k] = down.T
    inverse = torch.linalg.pinv(matrix.flatten(1)).unflatten(0, (n + 2 * reach, scale))
    back = inverse[n // 2 + reach, :, n // 2 - 3 : n // 2 + 4]
    back = (back + back.flip(0, 1)) / 2  # even to the last bit, that flipped pictures give flipped results
    back /= down.sum(1) @ back.sum(1)  # flat pictures shrink to what they should

    through = torch.zeros(k + 2 * reach, dtype=torch.float64)  # A U
    for d in range(k):
        through[d : d + k] += down[:, d] @ up
    through = ((through + through.flip(0)) / 2)[1:-1]  # a bicubic shrinking does not reach the outermost
    left = -torch.outer(through, through)
    left[3, 3] += 1
    return {
        "left": _fixed(left[None, None], edge=True),
        "shrink": _fixed(-_separable(down)[None], edge=False),
        "back": _fixed(_separable(back)[:, None], edge=True),
    }


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

    def _build_tail(self, g: Any, x: Any, base: Any = None, left: Any = None) -> Any:
        """base: scale^2 channels that, shuffled, are added to the result. left: what it leaves of the LR, for a net
        with ``consistency``."""
        for i, (unit, s) in enumerate(zip(self.up, self.factors, strict=True)):
            assert isinstance(unit, Unit)
            skip = g.repeat(x, s * s) if self.form == "repeat" else None
            x = g.shuffle(unit.build(g, x, f"up.{i}", skip=skip, act=False), s)
        x = g.conv("tail", self.tail, x)
        if left is not None:
            left = g.add(left, g.conv("base_shrink", self.base_shrink, x))
            x = g.add(x, g.conv("base_back", self.base_back, left))
        if base is not None:
            x = g.add(x, g.shuffle(base, self.scale) if self.factors else base)
        return x if self.factors else g.shuffle(x, self.scale)
