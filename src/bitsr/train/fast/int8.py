"""Convolutions of signs in int8, for training on a CPU.

A convolution of signs with signs loses nothing by it: its sums are integers, and exact. Only
gradients are rounded. Products of bytes with signs are several times as fast as those in float32:
by the library ``bitsr_train`` (``csrc/train``) where it is built and has a path for the CPU and the
channels come in multiples of 64, else by torch's int8 matrix products. Both give the same numbers.

The two products are operations of their own to ``torch.compile``; what stands around them (signs,
scales, rounding) is left to it, to be fused with the neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ... import _core

LAST = torch.channels_last
ISA: bytes | None = None  # the library's path; None: the best that the CPU has


def native(name: str, tensors: Sequence[Tensor], *sizes: int) -> bool:
    """Whether the library is there and its ``bitsr_NAME`` (``csrc/include/bitsr_train.h``) has
    filled the last of ``tensors``, which are as it wants them."""
    addresses = (t.data_ptr() for t in tensors)
    return _core.train_call(name, *addresses, *sizes, torch.get_num_threads(), isa=ISA)


def _patches(x: Tensor, k: int) -> Tensor:
    """(N, C, H, W) -> (N H W, k k C): the k x k neighbourhood of every pixel, zeros outside of the
    picture."""
    x = torch.nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, k // 2, k // 2, k // 2, k // 2)).contiguous()
    n, h, w, c = x.shape
    h, w = h - k + 1, w - k + 1
    rows, row, pixel, _ = x.stride()
    return x.as_strided((n, h, w, k, k * c), (rows, row, pixel, row, 1)).reshape(n * h * w, k * k * c)


# Inductor takes every four-dimensional tensor for (N, C, H, W): operations on (N, H, W, C) would be
# fed transposed.
@torch.library.custom_op("bitsr::int8_conv", mutates_args=())
def int8_conv(x: Tensor, w: Tensor, transposed: bool) -> Tensor:
    """x: (N, C, H, W) int8, w: (O, C, k, k) int8, each -1, 0 or 1 -> (N, O, H, W) int32, zero
    padding k // 2.

    transposed: the transposed convolution, from O channels to C. Results are channels_last.
    """
    x, w = x.contiguous(memory_format=LAST), w.contiguous(memory_format=LAST)
    (n, _, h, width), (o, c, k, _) = x.shape, w.shape
    out = _empty(x, (n, c if transposed else o, h, width))
    if not native("sign_conv", (x, w, out), n, h, width, c, o, k, transposed):
        w = w.flip(2, 3).transpose(0, 1) if transposed else w
        products = torch.ops.aten._int_mm(
            _patches(x, k), w.permute(2, 3, 1, 0).reshape(-1, len(w)).contiguous()
        )
        out.permute(0, 2, 3, 1).copy_(products.view(n, h, width, -1))
    return out


@torch.library.custom_op("bitsr::int8_conv_weight", mutates_args=())
def int8_conv_weight(x: Tensor, g: Tensor, k: int) -> Tensor:
    """x: (N, C, H, W) int8, each -1, 0 or 1, g: (N, O, H, W) int8 -> (O, C, k, k) int32: the
    gradient of the weights.

    The result is channels_last.
    """
    x, g = x.contiguous(memory_format=LAST), g.contiguous(memory_format=LAST)
    (n, c, h, width), o = x.shape, g.shape[1]
    out = _empty(x, (o, c, k, k))
    if not native("sign_conv_weight", (x, g, out), n, h, width, c, o, k):
        products = torch.ops.aten._int_mm(g.permute(1, 0, 2, 3).reshape(o, -1), _patches(x, k))
        out.permute(0, 2, 3, 1).copy_(products.view(o, k, k, c))
    return out


def _empty(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=torch.int32, device=x.device, memory_format=LAST)


@int8_conv.register_fake
def _(x: Tensor, w: Tensor, transposed: bool) -> Tensor:
    return _empty(x, (len(x), w.shape[1] if transposed else len(w), *x.shape[2:]))


@int8_conv_weight.register_fake
def _(x: Tensor, g: Tensor, k: int) -> Tensor:
    return _empty(x, (g.shape[1], x.shape[1], k, k))


def _int8(x: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(q, s): q int8 with x about q s, s the largest |x| over the dimensions ``over`` by 127."""
    s = x.abs().amax(over, keepdim=True).clamp(min=1e-30) / 127
    return (x / s).round().to(torch.int8), s


class _SignConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        x, w = a.to(torch.int8), b.to(torch.int8)
        ctx.save_for_backward(x, w)
        return int8_conv(x, w, False).to(a.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x, w = ctx.saved_tensors
        ga = gb = None
        if ctx.needs_input_grad[0]:
            q, s = _int8(g, (0, 1, 2, 3))
            ga = int8_conv(q, w, True).to(g.dtype) * s
        if ctx.needs_input_grad[1]:
            q, s = _int8(g, (0, 2, 3))
            gb = int8_conv_weight(x, q, w.shape[-1]).to(g.dtype) * s.view(-1, 1, 1, 1)
        return ga, gb


def sign_conv(a: Tensor, b: Tensor) -> Tensor:
    """The convolution of a (N, C, H, W) with b (O, C, k, k), k odd, both of +-1 alone, padding k //
    2, exactly, in the dtype of a (bfloat16 rounds sums beyond 256).

    Gradients are those of a convolution with the incoming gradient rounded to int8: for b in 127
    steps of each channel's largest, for a in 127 steps of the largest of all.
    """
    return _SignConv.apply(a, b)  # type: ignore[return-value]
