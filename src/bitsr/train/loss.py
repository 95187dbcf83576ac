"""Training losses on Y in [0, 255]: the one place to add a loss.

Each maps (sr, hr), both (N, 1, H, W) float32, to the mean over all samples, a 0-dim float32 tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def l1(sr: Tensor, hr: Tensor) -> Tensor:
    """mean |sr - hr|: the loss of EDSR (Lim et al. 2017) and E2FIF."""
    return F.l1_loss(sr, hr)


def mse(sr: Tensor, hr: Tensor) -> Tensor:
    """mean (sr - hr)^2: what PSNR measures."""
    return F.mse_loss(sr, hr)


def charbonnier(sr: Tensor, hr: Tensor, eps: float = 0.255) -> Tensor:
    """mean sqrt((sr - hr)^2 + eps^2), a smooth l1; eps = 1e-3 of the range (LapSRN, Lai et al. 2017)."""
    return torch.sqrt((sr - hr) ** 2 + eps * eps).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "charbonnier": charbonnier, "mse": mse}
