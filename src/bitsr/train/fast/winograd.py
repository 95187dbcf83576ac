"""3x3 convolutions in float32 by fewer products, for training on a CPU (``csrc/winograd.cpp``).

Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2015, arXiv 1509.09308): 36 products for 16 pixels, where 144
are usual. A tile d of 6x6 pixels and a filter f become B^T d B and G f G^T, are multiplied number by number, which over
channels makes 36 matrix products, and A^T (.) A is the result. The gradient of the input is such a convolution itself,
that of the filters goes back through the same products. Rounding differs from that of torch's by about 1e-5 of the
largest number. For training alone: what is validated and packed is the usual sum.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .half import half_conv
from .int8 import native

_G = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6))
_G += ((1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))


@cache
def _square() -> Tensor:
    """(36, 9): G f G^T of a filter by rows."""
    g = torch.tensor(_G)
    return torch.kron(g, g)


@cache
def available() -> bool:
    """Whether the library is there and has a path for this CPU."""
    x, filters = torch.zeros(1, 1, 1, 32), torch.zeros(36, 32, 32)
    return native("float_conv", (x, filters, x[0, 0, 0], torch.empty_like(x)), 1, 1, 1, 32, 32)


def fits(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> bool:
    """Whether ``conv3x3`` computes the convolution of x with weight in place of ``conv``, while it trains."""
    return (
        conv.training
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and weight.shape[2:] == (3, 3)
        and all(n % 32 == 0 for n in weight.shape[:2])
        and available()
    )


def _filters(weight: Tensor) -> Tensor:
    """(3, 3, I, O) -> (36, I, O): G f G^T"""
    return (_square() @ weight.reshape(9, -1)).view(36, *weight.shape[2:])


def _conv(x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """(N, h, w, I), (36, I, O), (O,) -> (N, h, w, O)"""
    y = x.new_empty(*x.shape[:3], len(bias))
    if not native("float_conv", (x, filters, bias, y), *x.shape, len(bias)):
        raise MemoryError("a convolution's training needs more memory")
    return y


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(N, h, w, I), (O, I, 3, 3), (O,) -> (N, h, w, O)"""
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return _conv(x, _filters(weight.permute(2, 3, 1, 0)), bias.contiguous())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        (x, weight), g = ctx.saved_tensors, grads[0].contiguous()
        o, c = weight.shape[:2]
        gx = None
        if ctx.needs_input_grad[0]:
            gx = _conv(g, _filters(weight.flip(2, 3).permute(2, 3, 0, 1)), g.new_zeros(c))
        filters = g.new_empty(36, c, o)
        if not native("float_conv_weight", (x, g, filters), *x.shape, o):
            raise MemoryError("a convolution's training needs more memory")
        gw = (_square().T @ filters.view(36, -1)).view(3, 3, c, o).permute(3, 2, 0, 1)
        return gx, gw, g.sum((0, 1, 2))


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(N, I, h, w), (O, I, 3, 3), (O,) -> (N, O, h, w) in channels_last, zero padding 1; I and O multiples of 32."""
    return _Conv.apply(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def conv2d(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    """The convolution of x with weight, padding k // 2, and the bias of ``conv``, by ``conv3x3`` where it fits."""
    if not fits(conv, x, weight):
        return nn.functional.conv2d(x, weight, conv.bias, padding=conv.padding)  # type: ignore[arg-type]
    return conv3x3(x, weight, weight.new_zeros(len(weight)) if conv.bias is None else conv.bias)


class Conv3x3(nn.Conv2d):
    """nn.Conv2d of 3x3 with zero padding 1 and bias that trains by ``conv3x3`` where it fits; ``halved``: by
    ``half_conv``."""

    halved: bool = False

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__(cin, cout, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.halved and self.bias is not None:
            return half_conv(input, self.weight) + self.bias.view(-1, 1, 1)
        return conv2d(self, input, self.weight)
