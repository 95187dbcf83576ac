"""What a net is made of: one description that trains, packs and counts.

A net writes its walk once, as ``build(g, x)``, in the engine's operations. ``Eager`` runs them in torch (its
``forward``); the packer (``bitsr.train.pack``) gives another ``g`` that turns the same calls into a model file.
Names are the tensors' prefixes in that file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .binary import BinaryConv2d


class Eager:
    """The operations in float32 torch; tensors are (N, C, H, W)."""

    def conv(self, name: str, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """Float k x k convolution (k = 1 or 3, zero padding)."""
        return conv(x)

    def bconv(
        self,
        name: str,
        conv: BinaryConv2d,
        x: Tensor,
        *,
        bn: nn.BatchNorm2d | None = None,
        threshold: Tensor | None = None,
        inner: tuple[Tensor, Tensor, Tensor] | None = None,
        skip: Tensor | None = None,
        slope: Tensor | float | None = None,
    ) -> Tensor:
        """act(inner(bn(conv(sign(x - threshold)))) + skip), conv's own binarizers doing the signs.

        inner: (shift_in, slope, shift_out), each (C,): RPReLU, PReLU(v - shift_in) + shift_out (ReActNet).
        slope: (leaky) PReLU after the skip, one number or (C,). threshold: (Cin,).
        """
        v = conv(x if threshold is None else x - threshold.view(1, -1, 1, 1))
        if bn is not None:
            v = bn(v)
        if inner is not None:
            shift_in, inner_slope, shift_out = inner
            v = F.prelu(v - shift_in.view(1, -1, 1, 1), inner_slope) + shift_out.view(1, -1, 1, 1)
        if skip is not None:
            v = v + skip
        if slope is None:
            return v
        return F.prelu(v, slope) if isinstance(slope, Tensor) else F.leaky_relu(v, slope)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def shuffle(self, x: Tensor, scale: int) -> Tensor:
        return F.pixel_shuffle(x, scale)


EAGER = Eager()


class Net(nn.Module):
    """Base of the nets: Y in [0, 255], (N, 1, h, w) -> (N, 1, scale*h, scale*w).

    Subclasses set ``scale`` and write ``build``; ``mean`` is subtracted before it and added after it.
    """

    scale: int
    mean: float = 127.5

    def build(self, g: Any, x: Any) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast build gives bfloat16, whose steps near 200 are whole levels: add the mean in float32.
        return self.build(EAGER, x - self.mean).to(x.dtype) + self.mean

    @torch.no_grad()
    def upscale(self, y: Tensor) -> Tensor:
        """One plane (h, w) in float32, evaluation mode, for checks."""
        self.eval()
        return self(y[None, None].float())[0, 0]
