"""Random crops of training images by index arithmetic on the device.

A batch is a function of (seed, iteration) alone: a counter-based hash on the device chooses the
crops and a gather fetches them. There is no worker, no random state and no host synchronisation, so
resuming is exact and a CUDA graph can hold it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .data import DataError, Pairs, to_y

_MASK = 0xFFFFFFFF


def mix(x: Tensor) -> Tensor:
    """A 32-bit finaliser (Wellons 2018, "lowbias32") on int64 tensors with values in [0, 2^32)."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    # minus 2^32: the same low bits, and the product stays inside int64
    x = (x * (0x846CA68B - 2**32)) & _MASK
    return x ^ (x >> 16)


def detail(hr: Tensor, scale: int) -> Tensor:
    """(b, 1, h, w) -> (b,): mean |HR - the mean of its scale x scale block|, about what LR has lost."""
    blocks = hr.unflatten(3, (-1, scale)).unflatten(2, (-1, scale))
    return (blocks - blocks.mean((3, 5), keepdim=True)).abs().mean((1, 2, 3, 4, 5))


class Crops:
    """Random crops of ``pairs``, uniform over all places where one fits and over 8 orientations.

    ``crops(iteration)`` takes a 0-dim int64 tensor on the pairs' device and gives Y in [16, 235],
    float32: LR (b, 1, patch, patch) and its target (b, 1, scale*patch, scale*patch), the samples
    ``samples`` (default: all) of the batch of that iteration. The same (seed, iteration, sample) is
    the same crop on every device.

    The target is HR, or with soft targets ``hr_weight`` HR + (1 - ``hr_weight``) soft. LR is one of
    the variants, chosen by the same hash.

    Places are drawn with replacement. candidates: how many crops are drawn for each sample; the one
    with the most ``detail`` is taken. Smaller images are left out; raises DataError if no image is
    as large as a crop.
    """

    def __init__(
        self,
        pairs: Pairs,
        patch: int,
        batch: int,
        seed: int,
        *,
        samples: range | None = None,
        candidates: int = 1,
        hr_weight: float = 0.0,
    ) -> None:
        places = (pairs.sizes - patch + 1).clamp(min=0)
        counts = places.prod(1)
        if not counts.any():
            side = patch * pairs.scale
            raise DataError(f"no training image holds a crop of {side} pixels a side (data.patch)")
        ends = counts.cumsum(0)
        device = pairs.lr.device
        self.pairs, self.patch, self.hr_weight, self.total = pairs, patch, hr_weight, int(ends[-1])
        self.ends, self.first = ends.to(device), (ends - counts).to(device)
        self.columns, self.widths = places[:, 1].to(device), pairs.sizes[:, 1].to(device)
        self.starts, self.pixels = pairs.starts.to(device), pairs.lr.shape[-1]
        self.key = int(mix(torch.tensor((seed + 0x9E3779B9) & _MASK)))
        # three hash words for each crop, by multiples of an odd constant so that no two counters
        # meet
        chosen = torch.tensor(list(samples if samples is not None else range(batch)), device=device)
        drawn = (chosen + batch * torch.arange(candidates, device=device)[:, None]).flatten()
        self.candidates = candidates
        self.counters = (torch.arange(3, device=device)[:, None] + 3 * drawn) * 0x9E3779B9
        self.lr_side = torch.arange(patch, device=device)
        self.hr_side = torch.arange(patch * pairs.scale, device=device)

    def compile(self) -> None:
        """Make each gather one kernel from now on, where it is a dozen, for a GPU."""
        self._gather = torch.no_grad()(torch.compile(self._gather, dynamic=False))

    def __call__(self, iteration: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c = mix((mix((iteration & _MASK) ^ self.key) + self.counters) & _MASK)  # (b,) each
        orientation, variant = c, c  # its lowest three bits, and the others
        place = ((a << 31) | (b >> 1)) % self.total  # 63 bits
        image = torch.searchsorted(self.ends, place, right=True)
        place = place - self.first[image]
        y, x = place // self.columns[image], place % self.columns[image]
        s = self.pairs.scale
        hr = self._gather(self.pairs.hr, image, y, x, orientation, s)
        if self.candidates > 1:
            most = detail(hr, s).view(self.candidates, -1).argmax(0)
            taken = most * (len(hr) // self.candidates) + torch.arange(len(most), device=most.device)
            hr, image, y, x, orientation, variant = (
                v[taken] for v in (hr, image, y, x, orientation, variant)
            )
        if self.pairs.soft is not None:
            soft = self._gather(self.pairs.soft, image, y, x, orientation, s)
            hr = torch.lerp(soft, hr, self.hr_weight)
        variant = (variant >> 3) % len(self.pairs.lr)
        return self._gather(self.pairs.lr.flatten(), image, y, x, orientation, 1, variant), hr

    def _gather(
        self,
        flat: Tensor,
        image: Tensor,
        y: Tensor,
        x: Tensor,
        orientation: Tensor,
        s: int,
        variant: Tensor | int = 0,
    ) -> Tensor:
        """Crops (b, 1, s*patch, s*patch) of ``flat``, which has s^2 values for each LR pixel.

        y, x: the crop's first LR pixel.
        """
        side = self.lr_side if s == 1 else self.hr_side
        transpose, flip_y, flip_x = ((orientation & bit).bool()[:, None] for bit in (1, 2, 4))
        width = (self.widths[image] * s)[:, None]
        # Per side, not per pixel: the index of a pixel is the sum of what its row and column give.
        down, across = (torch.where(flip, len(side) - 1 - side, side) for flip in (flip_y, flip_x))
        down = down * width
        rows, cols = torch.where(transpose, across, down), torch.where(transpose, down, across)
        origin = self.starts[image] * (s * s) + y * s * width[:, 0] + x * s + variant * self.pixels
        rows = rows + origin[:, None]
        return to_y(flat[rows[:, :, None] + cols[:, None, :]])[:, None]
