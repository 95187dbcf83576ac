"""Training losses on Y in [0, 255]: the one place to add a loss.

Each maps (sr, hr), both (N, 1, H, W) float32, to the mean over all samples, a 0-dim float32 tensor.
Those in ``PYRAMIDS`` take the images of all levels of a net (its ``pyramid``) in place of sr.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..imresize import contributions


def l1(sr: Tensor, hr: Tensor) -> Tensor:
    """mean |sr - hr|: the loss of EDSR (Lim et al. 2017) and E2FIF."""
    return F.l1_loss(sr, hr)


def mse(sr: Tensor, hr: Tensor) -> Tensor:
    """mean (sr - hr)^2: what PSNR measures."""
    return F.mse_loss(sr, hr)


def psnr(sr: Tensor, hr: Tensor, floor: float = 2.0) -> Tensor:
    """Mean over the batch of 10 log10(mean (sr - hr)^2 + floor): the negative PSNR, but for a constant.

    A smooth crop counts as much as a textured one, whose squared error is a hundred times larger.
    floor: in squared levels; below it errors hardly count. (NAFNet, Chen et al. 2022, arXiv
    2204.04676, trains on PSNR likewise.)
    """
    return 10 * torch.log10(F.mse_loss(sr, hr, reduction="none").mean((1, 2, 3)) + floor).mean()


def charbonnier(sr: Tensor, hr: Tensor, eps: float = 0.255) -> Tensor:
    """mean sqrt((sr - hr)^2 + eps^2), a smooth l1; eps = 1e-3 of the range (LapSRN, Lai et al. 2017)."""
    return torch.sqrt((sr - hr) ** 2 + eps * eps).mean()


@cache
def _shrinking(n: int, factor: int, device: torch.device) -> Tensor:
    """(n / factor, n): MATLAB's bicubic along one axis, as a matrix."""
    index, weights = contributions(n, n // factor, 1 / factor)
    matrix = np.zeros((n // factor, n))
    np.add.at(matrix, (np.arange(n // factor)[:, None], index), weights)
    return torch.tensor(matrix, dtype=torch.float32, device=device)


def shrink(hr: Tensor, factor: int) -> Tensor:
    """(N, 1, H, W) -> (N, 1, H / factor, W / factor) by MATLAB's bicubic; factor divides both sides."""
    rows, columns = (_shrinking(n, factor, hr.device) for n in hr.shape[-2:])
    return rows @ hr @ columns.T


def charbonnier_pyramid(levels: Sequence[Tensor], hr: Tensor) -> Tensor:
    """Sum of ``charbonnier`` over the levels of a pyramid, the HR shrunk by bicubic to each (LapSRN,
    eq. 3).

    Each level counts by its mean; LapSRN sums pixels, so that a level there weighs four times the
    one below.
    """
    parts = [charbonnier(sr, shrink(hr, hr.shape[-1] // sr.shape[-1])) for sr in levels[:-1]]
    return torch.stack([*parts, charbonnier(levels[-1], hr)]).sum()


LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": l1,
    "charbonnier": charbonnier,
    "mse": mse,
    "psnr": psnr,
    "charbonnier-pyramid": charbonnier_pyramid,
}
PYRAMIDS = frozenset({"charbonnier-pyramid"})
"""Losses over the images of all levels."""
