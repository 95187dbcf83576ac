"""Convolutions in half precision, for training on a GPU: float16 forwards, bfloat16 backwards.

Sums of signs are integers, which float16 holds up to 2048, so a binary convolution of up to 227
channels of 3x3 loses nothing forwards; of floats it keeps 11 bits, as TF32 does, at the speed of
bfloat16. Gradients want the range of bfloat16 and not its missing bits. All around the convolutions
stays float32: under autocast the image itself comes in steps of half a level, and a binary net,
which is discontinuous, answers with 0.8 levels of noise (bitsr-s-x4).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class _HalfConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        x, w = x.half(), w.half()
        ctx.save_for_backward(x, w)
        return F.conv2d(x, w, padding=w.shape[-1] // 2).float()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x, w = (t.bfloat16() for t in ctx.saved_tensors)
        p, wanted = w.shape[-1] // 2, [*ctx.needs_input_grad, False]
        gx, gw, _ = torch.ops.aten.convolution_backward(
            g.bfloat16(), x, w, None, [1, 1], [p, p], [1, 1], False, [0, 0], 1, wanted
        )
        return (None if gx is None else gx.float()), (None if gw is None else gw.float())


def half_conv(x: Tensor, w: Tensor) -> Tensor:
    """The convolution of x (N, C, H, W) with w (O, C, k, k), k odd, both float32, padding k // 2,
    in float32."""
    return _HalfConv.apply(x, w)  # type: ignore[return-value]
