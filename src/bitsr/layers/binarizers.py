"""Binarizers: the one place to add one.

A binarizer is a function x -> {-1, +1} (times an optional scale) with a surrogate gradient. Every
binarizer maps 0 to +1, as the engine does. ``torch.sign`` maps 0 to 0, so never use it here.

To add one, write the function with forward, gradient and source in its docstring. Then enter it in
``ACTIVATIONS`` or ``WEIGHTS``, and in ``ANNEALED`` if its gradient follows the progress of
training. ``tests/unit/test_binarizers.py`` checks every entry against its table ``GRADIENTS``.

In the docstrings, g is the incoming gradient. Activations are (N, C, H, W) and weights
(Cout, Cin, k, k), float32 or bfloat16; the result has the shape and dtype of the argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1, in the dtype of x. No gradient."""
    if torch.compiler.is_compiling():  # one fused loop
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
    # The comparison writes 0 and 1 in that dtype: on a CPU, torch.where on bfloat16 takes 11 times
    # as long.
    out = torch.empty_like(x)
    torch.ge(x, 0, out=out)
    return out.mul_(2).sub_(1)


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """``value``, exactly; its gradient goes to x unchanged. value has the shape of x, no
    gradient."""
    return value + (x - x.detach())


def round_ste(x: Tensor) -> Tensor:
    """x rounded, halves upwards as in the engine; gradient g (straight-through estimator, STE)."""
    return straight_through(x, (x + 0.5).floor().detach())


class _IdentitySign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


class _ClippedSign(torch.autograd.Function):
    """The gradient is g * height where |x| <= width, else 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: float, height: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.width, ctx.height = width, height
        return sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,), g = ctx.saved_tensors, grads[0]
        inside = (x.abs() <= ctx.width).to(g.dtype).mul_(g)
        return inside if ctx.height == 1 else inside.mul_(ctx.height), None, None


class _SavedSign(torch.autograd.Function):
    """sign(x), with x kept for the gradient that subclasses define."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return sign(x)


class _ApproxSign(_SavedSign):
    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,), g = ctx.saved_tensors, grads[0]
        return x.abs().mul_(-2).add_(2).clamp_(min=0).to(g.dtype).mul_(g)


class _LongTailedSign(_SavedSign):
    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,), g = ctx.saved_tensors, grads[0]
        size = x.abs()
        return (2 - 4 * size).clamp_(min=0.4).mul_((size <= 1).to(x.dtype)).to(g.dtype).mul_(g)


class _EDESign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, progress: Tensor) -> Tensor:
        ctx.save_for_backward(x, progress)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x, progress), g = ctx.saved_tensors, grads[0]
        t = 1e-3 * 1e4**progress
        slope = (x * t.to(x.dtype)).tanh_().square_().neg_().add_(1)
        return slope.mul_(t.clamp(min=1).to(x.dtype)).to(g.dtype).mul_(g), None


def apply_function(function: type[torch.autograd.Function], *args: Any) -> Tensor:
    """``function.apply(*args)`` for a function with one result; torch leaves it untyped."""
    return function.apply(*args)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportReturnType]


# Of activations and weights alike ---------------------------------------------------------------


def ste_sign(x: Tensor) -> Tensor:
    """sign(x); gradient g (identity straight-through estimator).

    Source: Bengio et al. 2013; the weights of E2FIF (arXiv 2207.06893).
    """
    return apply_function(_IdentitySign, x)


def clipped_ste(x: Tensor) -> Tensor:
    """sign(x); gradient g * 1{|x| <= 1} (clipped straight-through estimator).

    Source: Courbariaux et al. 2016 (BNN, arXiv 1602.02830); XNOR-Net.
    """
    return apply_function(_ClippedSign, x, 1.0, 1.0)


def approx_sign(x: Tensor) -> Tensor:
    """sign(x); gradient g * max(0, 2 - 2|x|) (ApproxSign).

    Source: Liu et al. 2018 (Bi-Real Net, arXiv 1808.00278), eq. 6; the activations of E2FIF.
    """
    return apply_function(_ApproxSign, x)


def identity(x: Tensor) -> Tensor:
    """x itself, gradient g: for the float twin and the float half of two-stage training."""
    return x


# Of activations ---------------------------------------------------------------------------------


def abc_half(x: Tensor) -> Tensor:
    """sign(x); gradient g * 1{|x| <= 1/2}.

    Source: Lin et al. 2017 (ABC-Net, arXiv 1711.11294), section 3.2. Its x is ours + 1/2, a bit
    clipped to [0, 1].
    """
    return apply_function(_ClippedSign, x, 0.5, 1.0)


def dorefa_activation(x: Tensor) -> Tensor:
    """sign(x); gradient 2 g * 1{|x| <= 1/2}.

    It is 2 a - 1 of the bit a = round(clip(x + 1/2, 0, 1)) with the straight-through estimator.
    Source: Zhou et al. 2016 (DoReFa-Net, arXiv 1606.06160) with k = 1. Its x is ours + 1/2.
    """
    return apply_function(_ClippedSign, x, 0.5, 2.0)


def ede(x: Tensor, progress: Tensor | None = None) -> Tensor:
    """sign(x); gradient g * k t (1 - tanh(t x)^2) (error decay estimator, EDE).

    t = 10^(-3 + 4 progress) and k = max(1/t, 1): nearly the identity at first, nearly the
    derivative of the sign at the end. progress: () in [0, 1], how far training is; None: 1.
    Source: Qin et al. 2020 (IR-Net, arXiv 1909.10788); the range of t is that of the released
    ResNet-20 trainer.
    """
    return apply_function(_EDESign, x, torch.ones((), device=x.device) if progress is None else progress)


# Of weights -------------------------------------------------------------------------------------


def mean_magnitude(w: Tensor) -> Tensor:
    """mean|w| of each filter, detached: (Cout, 1, 1, 1)."""
    return w.detach().abs().mean(dim=tuple(range(1, w.dim())), keepdim=True)


def standardised(w: Tensor) -> Tensor:
    """(w - mean) / std of each filter, of the shape of w."""
    over = tuple(range(1, w.dim()))
    return (w - w.mean(dim=over, keepdim=True)) / w.std(dim=over, keepdim=True)


def magnitude_aware(w: Tensor) -> Tensor:
    """sign(w) * a, a = mean|w| of each filter; gradient g * a * 1{|w| <= 1}.

    Source: Liu et al. 2018 (Bi-Real Net, arXiv 1808.00278); Rastegari et al. 2016 (XNOR-Net)
    without the gradient through its scale.
    """
    return clipped_ste(w) * mean_magnitude(w)


def reactnet(w: Tensor) -> Tensor:
    """sign(w) * mean|w| of each filter; gradient g * 1{|w| <= 1}, without the scale.

    Source: the released code of ReActNet (arXiv 2003.03488) and of BBCU (arXiv 2210.00405).
    """
    return straight_through(w.clamp(-1, 1), sign(w.detach()) * mean_magnitude(w))


def btm(w: Tensor) -> Tensor:
    """sign(w) * a, a = mean|w| of each filter; gradient g * a * e(w), the long-tailed estimator.

    e(w) = 2 - 4|w| for |w| <= 0.4, then 0.4 up to |w| = 1, then 0. Source: Xu and Cheung 2019
    (arXiv 1909.11366), as named by BTM (Jiang et al. 2021). Uncertain: BTM shows it as a figure
    only; the scale is taken as detached.
    """
    return apply_function(_LongTailedSign, w) * mean_magnitude(w)


def xnor(w: Tensor) -> Tensor:
    """sign(w) * a, a = mean|w| of each filter; gradient g * (1/n + a * 1{|w| <= 1}).

    n is the number of weights of a filter. The 1/n stands for the gradient through a, element by
    element as printed. Source: Rastegari et al. 2016 (XNOR-Net, arXiv 1603.05279), section 3.1.
    """
    return straight_through(w / w[0].numel(), magnitude_aware(w))


def dorefa_weight(w: Tensor) -> Tensor:
    """sign(w) * E|w| with one scale a layer; gradient g, the identity past the scale too.

    Source: Zhou et al. 2016 (DoReFa-Net, arXiv 1606.06160), section 2.3.
    """
    return straight_through(w, sign(w.detach()) * w.detach().abs().mean())


def libra(w: Tensor, progress: Tensor | None = None) -> Tensor:
    """sign(v) * 2^s, v = (w - mean) / std of each filter, s = round(log2 mean|v|).

    The gradient is that of ``ede`` at v, times 2^s, through the standardisation. progress: as for
    ``ede``. Source: Qin et al. 2020 (IR-Net), section 3.2 (Libra parameter binarization).
    """
    v = standardised(w)
    return ede(v, progress) * torch.exp2(mean_magnitude(v).log2().round())


Binarizer = Callable[..., Tensor]

ACTIVATIONS: dict[str, Binarizer] = {
    "ste_sign": ste_sign,
    "clipped_ste": clipped_ste,
    "abc_half": abc_half,
    "dorefa": dorefa_activation,
    "approx_sign": approx_sign,
    "ede": ede,
    "float": identity,
}
WEIGHTS: dict[str, Binarizer] = {
    "ste_sign": ste_sign,
    "clipped_ste": clipped_ste,
    "approx_sign": approx_sign,
    "magnitude_aware": magnitude_aware,
    "reactnet": reactnet,
    "btm": btm,
    "xnor": xnor,
    "dorefa": dorefa_weight,
    "libra": libra,
    "float": identity,
}
UNSCALED = {"ste_sign", "clipped_ste", "approx_sign"}
"""Those of ``WEIGHTS`` that give +-1 without a scale."""
ANNEALED: set[Binarizer] = {ede, libra}
"""Those that take the progress of training, a tensor () in [0, 1], as a second argument."""
