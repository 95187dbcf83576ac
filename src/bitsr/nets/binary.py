"""Binarizers and the binary convolution: the one place to add a binarizer.

A binarizer is a function ``x -> {-1, +1}`` (times an optional scale) with a surrogate gradient.
Every binarizer here maps 0 to +1, as the engine does (``torch.sign`` maps 0 to 0: never use it bare).

To add one: write the function with forward, gradient and source in its docstring, and put it into
``ACTIVATIONS`` or ``WEIGHTS``. ``tests/test_binary.py`` checks every entry against ``GRADIENTS``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1, in the dtype of x."""
    if torch.compiler.is_compiling():  # one fused loop
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
    # The comparison writes 0 and 1 in that dtype: on a CPU, torch.where on bfloat16 takes 11 times as long.
    out = torch.empty_like(x)
    torch.ge(x, 0, out=out)
    return out.mul_(2).sub_(1)


class _SignIdentity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return _sign(x)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g


class _SignClip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _sign(x)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (x.abs() <= 1).to(g.dtype)


class _SignTriangle(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _sign(x)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x.abs().mul_(-2).add_(2).clamp_(min=0).to(g.dtype).mul_(g)


def sign_identity(x: Tensor) -> Tensor:
    """sign(x); gradient g (identity straight-through estimator, STE).

    Source: Bengio et al. 2013; the weights of E2FIF (arXiv 2207.06893).
    """
    return _SignIdentity.apply(x)


def sign_clip(x: Tensor) -> Tensor:
    """sign(x); gradient g * 1{|x| <= 1} (clipped STE).

    Source: Courbariaux et al. 2016 (BNN); XNOR-Net.
    """
    return _SignClip.apply(x)


def sign_triangle(x: Tensor) -> Tensor:
    """sign(x); gradient g * max(0, 2 - 2|x|) (ApproxSign).

    Source: Liu et al. 2018 (Bi-Real Net), eq. 6; the activations of E2FIF.
    """
    return _SignTriangle.apply(x)


def sign_mean(w: Tensor) -> Tensor:
    """sign(w) * mean|w| per filter; gradient g * 1{|w| <= 1}, the scale is detached.

    w: (Cout, Cin, k, k). Source: Rastegari et al. 2016 (XNOR-Net), as used by BBCU.
    """
    scale = w.detach().abs().mean(dim=tuple(range(1, w.dim())), keepdim=True)
    return sign_clip(w) * scale


def identity(x: Tensor) -> Tensor:
    """x itself, gradient g: the float twin, and the float half of two-stage training."""
    return x


Binarizer = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Binarizer] = {
    "identity": sign_identity,
    "clip": sign_clip,
    "triangle": sign_triangle,
    "float": identity,
}
WEIGHTS: dict[str, Binarizer] = {
    "identity": sign_identity,
    "clip": sign_clip,
    "triangle": sign_triangle,
    "mean": sign_mean,
    "float": identity,
}


class BinaryConv2d(nn.Conv2d):
    """k x k convolution of binarized input with binarized weights, zero padding after the sign.

    Shapes: (N, Cin, H, W) -> (N, Cout, H, W); stride 1; ``padding = k // 2``. Taps outside the picture
    count nothing, so border sums have fewer terms (design: the contract).

    act, weight: names in ``ACTIVATIONS`` and ``WEIGHTS``; ``"float"`` switches that side's binarization off.
    """

    def __init__(self, cin: int, cout: int, k: int = 3, *, act: str, weight: str, bias: bool = False) -> None:
        super().__init__(cin, cout, k, padding=k // 2, bias=bias)
        self.act, self.weight_mode = act, weight

    def binarize(self, what: bool | str) -> None:
        """True: weights and activations; "activations": those alone; False: neither (the float twin)."""
        if what is not True:
            self.weight_mode = "float"
        if not what:
            self.act = "float"

    def forward(self, x: Tensor) -> Tensor:
        w = WEIGHTS[self.weight_mode](self.weight)
        return F.conv2d(ACTIVATIONS[self.act](x), w, self.bias, padding=self.padding)


class WeightBinaryConv2d(nn.Conv2d):
    """k x k convolution with weights scale * sign(w), one learned scale a filter, and float activations (W1A32).

    Shapes as ``BinaryConv2d``. Gradients: of w clipped straight-through, g * scale * 1{|w| <= 1}; of scale as written.
    ``scale`` starts at mean|w| of each filter. Source: Ma et al. 2018 (arXiv 1812.06378): "a learnable weight for
    each binary filter"; the gradient of w is not given there: XNOR-Net's without its 1/n term is taken.
    """

    def __init__(self, cin: int, cout: int, k: int = 3, *, bias: bool = False) -> None:
        super().__init__(cin, cout, k, padding=k // 2, bias=bias)
        self.scale = nn.Parameter(self.weight.detach().abs().mean(dim=(1, 2, 3)))
        self.weight_mode = "clip"

    def binarize(self, what: bool | str) -> None:
        """As ``BinaryConv2d.binarize``; there are no activations to binarize."""
        if what is not True:
            self.weight_mode = "float"

    def quantised_weight(self) -> Tensor:
        """scale * sign(w), or w itself in the float twin."""
        w = WEIGHTS[self.weight_mode](self.weight)
        return w if self.weight_mode == "float" else w * self.scale.view(-1, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.quantised_weight(), self.bias, padding=self.padding)
