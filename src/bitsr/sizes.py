"""What size an image is to have, and the passes of nets that reach it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from math import isfinite, prod

from .errors import BitsrError

LARGEST = 64
"""The most that an image is enlarged, each way."""
_PASSES = 6
_SIDE = 2**31 - 1


@dataclass(frozen=True)
class Size:
    """The size of a result: a scale, or sides in pixels, or nothing for the scale of the nets.

    scale: a number from 1 to LARGEST. width, height: of the result; with both the image fits into
    them. longest: the longer side of the result. Proportions are kept.
    Raises BitsrError for numbers that cannot be, and for a scale beside sides.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    longest: int | None = None

    def __post_init__(self) -> None:
        sides = (self.width, self.height, self.longest)
        if any(side is not None and not 1 <= side <= _SIDE for side in sides):
            raise BitsrError(f"a side of an image is from 1 to {_SIDE} pixels")
        if self.longest is not None and (self.width is not None or self.height is not None):
            raise BitsrError("the longest side, or width and height, not both")
        if self.scale is None:
            return
        if any(side is not None for side in sides):
            raise BitsrError("a scale, or a width, height or longest side, not both")
        if not isfinite(self.scale) or not 1 <= self.scale <= LARGEST:
            raise BitsrError(f"a scale is from 1 to {LARGEST}, not {self.scale:g}")

    @property
    def fixed(self) -> bool:
        """Whether the sides are given, so that the scale differs from image to image."""
        return any(side is not None for side in (self.width, self.height, self.longest))

    def label(self, default: float) -> str:
        """What outputs are called by: "x1.5", "1920w", "1080h", "1920x1080", "max4000".

        default: the scale where none is asked for."""
        if self.longest is not None:
            return f"max{self.longest}"
        if self.width is not None and self.height is not None:
            return f"{self.width}x{self.height}"
        if self.width is not None:
            return f"{self.width}w"
        if self.height is not None:
            return f"{self.height}h"
        return f"x{self.scale or default:g}"

    def of(self, height: int, width: int, default: float = 4) -> tuple[int, int]:
        """(height, width) of the result of an image; default: the scale where nothing is asked for.

        Raises BitsrError where that is too large.
        """
        if not self.fixed:
            scale = self.scale or default
            out = _times(height, scale), _times(width, scale)
        elif self.longest is not None:
            longer = max(height, width)
            out = _part(height, self.longest, longer), _part(width, self.longest, longer)
        else:
            by_width = self.width is not None and (
                self.height is None or self.width * height <= self.height * width
            )
            if by_width:
                assert self.width is not None
                out = _part(height, self.width, width), self.width
            else:
                assert self.height is not None
                out = self.height, _part(width, self.height, height)
        if max(out) > _SIDE or out[0] > LARGEST * height or out[1] > LARGEST * width:
            raise BitsrError(
                f"{width} x {height} pixels to {out[1]} x {out[0]} is more than {LARGEST} times as large"
            )
        return out


def _times(n: int, scale: float) -> int:
    # A scale such as 1.1 is meant in decimals, not as the float beside it.
    return max(1, int(round(n * scale, 6) + 0.5))


def _part(n: int, to: int, of: int) -> int:
    return max(1, (2 * n * to + of) // (2 * of))


def passes(
    size: tuple[int, int], target: tuple[int, int], first: Collection[int], then: Collection[int]
) -> tuple[int, ...]:
    """Scales of nets that together make an image at least as large as ``target``.

    size, target: (height, width). first, then: the scales there are for the first pass, and for the
    others. Of the fewest passes those of the least product, the small ones first: they cost least.
    Raises BitsrError where too many would be wanted.
    """
    (height, width), (h, w) = size, target
    for count in range(1, _PASSES + 1):
        found = [
            chain
            for chain in product(first, *[then] * (count - 1))
            if prod(chain) * height >= h and prod(chain) * width >= w
        ]
        if found:
            return min(found, key=lambda chain: (prod(chain), chain))
    raise BitsrError(f"{width} x {height} pixels to {w} x {h} takes more than {_PASSES} passes of the net")
