"""Validation during training, and the batch norm statistics of averaged weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .crops import Crops
from .data import Pairs

BN_BATCHES = 32
"""Training batches from which batch norm statistics are estimated."""


def protocol(pairs: Pairs, crop: int = 0) -> str:
    """The words that go with a validation PSNR; crop as in ``validate``."""
    part = f" (central {crop} x {crop} LR pixels)" if crop else ""
    return f"PSNR on Y, 8-bit rounded, crop {pairs.scale}, mean of {len(pairs)} validation images{part}"


@contextmanager
def mode(net: nn.Module, training: bool) -> Iterator[None]:
    """net in training or evaluation mode for a while; then each module in the mode it had."""
    modes = [(module, module.training) for module in net.modules()]
    net.train(training)
    yield
    for module, had in modes:
        module.training = had


@torch.no_grad()
def validate(net: nn.Module, pairs: Pairs, crop: int = 0) -> float:
    """Mean over images of the Y PSNR in dB: clipped to [0, 255], rounded, ``scale`` border pixels
    cut off.

    The net runs in float32, as packing sees it. crop: only the central square of so many LR pixels;
    0: all.
    """
    s, scores = pairs.scale, []
    # Sizes differ from image to image, so no autotuning; and no TF32, which moves values across
    # zero.
    fixed = torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False)
    with mode(net, False), fixed:
        for index in range(len(pairs)):
            lr, hr = pairs.image(index)
            if crop:
                y, x = (max(n - crop, 0) // 2 for n in lr.shape)
                lr = lr[y : y + crop, x : x + crop]
                hr = hr[s * y : s * (y + crop), s * x : s * (x + crop)]
            sr = net(lr[None, None].contiguous())[0, 0]
            error = ((sr.clamp(0, 255) + 0.5).floor() - (hr + 0.5).floor())[s:-s, s:-s].double()
            scores.append(10 * torch.log10(255.0**2 / error.square().mean().clamp(min=1e-10)))
    return float(torch.stack(scores).mean())  # the one read from the device


@torch.no_grad()
def estimate_bn(net: nn.Module, crops: Crops, batches: int = BN_BATCHES) -> None:
    """Set every batch norm's running statistics to their mean over training batches.

    Averaged weights meet signs that no single net produced, so statistics gathered on the way do
    not fit them. The batches are the same each time and lie outside the run's own sequence.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
    with mode(net, True):
        for i in range(batches):
            net(crops(torch.tensor(2**31 + i, device=crops.ends.device))[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
