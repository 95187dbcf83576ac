"""Convolutions of signs by int8 matrix products, for training on a CPU.

A CPU with int8 dot products (AVX-512 VNNI and its kin) does four times as many int8 MACs a cycle as float32 ones, and a
convolution of signs with signs loses nothing by it: its sums are integers, and exact. Only gradients are rounded.

The two matrix products are operations of their own to ``torch.compile``; what stands around them (signs, scales,
rounding) is left to it, to be fused with the neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _patches(x: Tensor, k: int) -> Tensor:
    """(N, H, W, C) -> (N H W, k k C): the k x k neighbourhood of every pixel, zeros outside of the picture."""
    n, h, w, c = x.shape
    if k == 1:
        return x.reshape(-1, c)
    x = torch.nn.functional.pad(x, (0, 0, k // 2, k // 2, k // 2, k // 2))
    rows, row, pixel, _ = x.stride()
    return x.as_strided((n, h, w, k, k * c), (rows, row, pixel, row, 1)).reshape(n * h * w, k * k * c)


@torch.library.custom_op("bitsr::int8_conv", mutates_args=())
def int8_conv(x: Tensor, w: Tensor, k: int) -> Tensor:
    """x: (N, H, W, C) int8, w: (k k C, O) int8 -> (N, H, W, O) int32, zero padding."""
    return torch.ops.aten._int_mm(_patches(x, k), w).view(*x.shape[:3], -1)


@torch.library.custom_op("bitsr::int8_conv_weight", mutates_args=())
def int8_conv_weight(x: Tensor, g: Tensor, k: int) -> Tensor:
    """x: (N, H, W, C) int8, g: (N, H, W, O) int8 -> (O, k k C) int32: the gradient of the weights."""
    return torch.ops.aten._int_mm(g.reshape(-1, g.shape[-1]).t(), _patches(x, k))


@int8_conv.register_fake
def _(x: Tensor, w: Tensor, k: int) -> Tensor:
    return x.new_empty((*x.shape[:3], w.shape[1]), dtype=torch.int32)


@int8_conv_weight.register_fake
def _(x: Tensor, g: Tensor, k: int) -> Tensor:
    return x.new_empty((g.shape[-1], k * k * x.shape[-1]), dtype=torch.int32)


def _int8(x: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(q, s): q int8 with x about q s, s the largest |x| over the dimensions ``over`` by 127."""
    s = x.abs().amax(over).clamp(min=1e-30) / 127
    return (x / s).round().to(torch.int8), s


class _SignConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        x = a.permute(0, 2, 3, 1).to(torch.int8).contiguous()
        w = b.to(torch.int8)
        ctx.save_for_backward(x, w)
        o, k = b.shape[0], b.shape[-1]
        y = int8_conv(x, w.permute(2, 3, 1, 0).reshape(-1, o).contiguous(), k)
        return y.permute(0, 3, 1, 2).to(a.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x, w = ctx.saved_tensors
        o, c, k, _ = w.shape
        g = g.permute(0, 2, 3, 1).contiguous()
        ga = gb = None
        if ctx.needs_input_grad[0]:
            q, s = _int8(g, (0, 1, 2, 3))
            turned = w.flip(2, 3).permute(2, 3, 0, 1).reshape(-1, c).contiguous()
            ga = (int8_conv(q, turned, k).to(g.dtype) * s).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            q, s = _int8(g, (0, 1, 2))
            gb = (int8_conv_weight(x, q, k).to(g.dtype) * s[:, None]).view(o, k, k, c).permute(0, 3, 1, 2)
        return ga, gb


def sign_conv(a: Tensor, b: Tensor) -> Tensor:
    """The convolution of a (N, C, H, W) with b (O, C, k, k), k odd, both of +-1 alone, padding k // 2, exactly,
    in the dtype of a (bfloat16 rounds sums beyond 256).

    Gradients are those of a convolution with the incoming gradient rounded to int8: for b in 127 steps of each
    channel's largest, for a in 127 steps of the largest of all.
    """
    return _SignConv.apply(a, b)  # type: ignore[return-value]
