"""Convolutions of quantised inputs with quantised weights, and the norm before a sign.

All map (N, Cin, H, W) to (N, Cout, H, W) with stride 1 and zero padding k // 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .binarizers import (
    ACTIVATIONS,
    ANNEALED,
    UNSCALED,
    WEIGHTS,
    Binarizer,
    abc_half,
    apply_function,
    sign,
    straight_through,
)


class RunningNorm(nn.BatchNorm2d):
    """(x - mean) / sqrt(var + eps), mean and variance of each channel gathered over training.

    (N, C, H, W) -> the same; no parameters. It stands before a sign. There it moves thresholds to
    the mean of their channel and gives the window of the surrogate gradient the width of the
    values. In training the statistics take in the batch and then serve it, without gradient
    through them, so that training sees the thresholds that packing does. The first batches weigh
    1/n, down to ``momentum``.
    """

    running_mean: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]
    running_var: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]
    num_batches_tracked: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, channels: int, momentum: float = 0.05) -> None:
        super().__init__(channels, momentum=momentum, affine=False)  # pyright: ignore[reportUnknownMemberType]

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                var, mean = torch.var_mean(input.float(), (0, 2, 3))
                weight = self.advance()
                self.running_mean.lerp_(mean, weight)
                self.running_var.lerp_(var, weight)
        std = self.std()
        return input / std.view(-1, 1, 1) - (self.running_mean / std).view(-1, 1, 1)

    def advance(self) -> Tensor:
        """Count one more batch. Returns its weight in the statistics, ()."""
        self.num_batches_tracked.add_(1)
        weight = 1 / self.num_batches_tracked
        # None: the mean of all batches, as in torch's batch norm.
        return weight if self.momentum is None else weight.clamp(min=self.momentum)

    def std(self) -> Tensor:
        """The standard deviation of each channel, (C,)."""
        return (self.running_var + self.eps).sqrt()

    def absolute(self, threshold: Tensor | None) -> Tensor:
        """The threshold on x, (C,), that is ``threshold`` (None: 0) on the normalised x."""
        return self.running_mean if threshold is None else self.running_mean + threshold * self.std()


class QuantConv2d(nn.Conv2d):
    """What the convolution classes of all methods share.

    The zeros of the padding come after the quantiser, so that taps outside the image count
    nothing. act, weight_mode: how each side is quantised; "float" switches it off.
    """

    def __init__(self, cin: int, cout: int, k: int = 3, *, act: str, weight: str, bias: bool = False) -> None:
        super().__init__(cin, cout, k, padding=k // 2, bias=bias)  # pyright: ignore[reportUnknownMemberType]
        self.act, self.weight_mode = act, weight

    def binarize(self, what: bool | str) -> None:
        """True: weights and activations; "activations": those alone; False: neither."""
        if what is not True:
            self.weight_mode = "float"
        if not what:
            self.act = "float"

    def quantised(self, x: Tensor) -> Tensor:
        """The input that the convolution computes with."""
        raise NotImplementedError

    def quantised_weight(self) -> Tensor:
        """The weights that it computes with, (Cout, Cin, k, k)."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(self.quantised(input), self.quantised_weight(), self.bias, padding=self.padding)


class BinaryConv2d(QuantConv2d):
    """A convolution of binarized input with binarized weights (W1A1).

    act, weight: names in ``ACTIVATIONS`` and ``WEIGHTS``. The training loop keeps the buffer
    ``progress`` at how far it is, 0 to 1, for binarizers that are annealed.
    """

    progress: Tensor

    def __init__(self, cin: int, cout: int, k: int = 3, *, act: str, weight: str, bias: bool = False) -> None:
        super().__init__(cin, cout, k, act=act, weight=weight, bias=bias)
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def _binarized(self, f: Binarizer, x: Tensor) -> Tensor:
        return f(x, self.progress) if f in ANNEALED else f(x)

    def quantised(self, x: Tensor) -> Tensor:
        return self._binarized(ACTIVATIONS[self.act], x)

    def quantised_weight(self) -> Tensor:
        return self._binarized(WEIGHTS[self.weight_mode], self.weight)

    def forward(self, input: Tensor) -> Tensor:
        if self.training or self.weight_mode in UNSCALED or "float" in (self.act, self.weight_mode):
            return super().forward(input)
        # Sums of integers, as in the engine: a sum of 0 must not be left with a rounding error,
        # which has a sign.
        w = self.quantised_weight()
        size = w.abs().amax(dim=(1, 2, 3), keepdim=True)
        sums = F.conv2d(self.quantised(input), w / size.clamp(min=1e-30), padding=self.padding)
        y = sums * size.view(-1, 1, 1)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)


class BasesConv2d(QuantConv2d):
    """A convolution that is a sum of binary ones: N activation bases times M weight bases.

    Input: sum_n beta_n sign(x - t_n), beta and the thresholds t learned; the gradient of each sign
    is that of ``abc_half``. Weights: sum_m a_m B_m with B_m = sign(w - mean + u_m std) over the
    whole layer, u_m evenly in [-1, 1]. a is the least squares solution of w = sum a_m B_m, held
    fixed in the gradient, so that w gets g * sum a_m. Both sums are taken before the one
    convolution that training needs. Source: Lin et al. 2017 (ABC-Net, arXiv 1711.11294), sections
    3.1 and 3.2; t_n is their 1/2 - v_n. Uncertain: the start, here beta = 1 / N and t evenly in
    [-1/2, 1/2].
    """

    offsets: Tensor

    def __init__(self, cin: int, cout: int, k: int = 3, *, weights: int, activations: int) -> None:
        super().__init__(cin, cout, k, act="bases", weight="bases")
        self.register_buffer("offsets", _evenly(weights), persistent=False)
        self.threshold = nn.Parameter(_evenly(activations) / 2)
        self.beta = nn.Parameter(torch.full((activations,), 1 / activations))

    def quantised(self, x: Tensor) -> Tensor:
        if self.act == "float":
            return x
        terms = zip(self.beta.to(x.dtype), self.threshold.to(x.dtype), strict=True)
        return torch.stack([b * abc_half(x - t) for b, t in terms]).sum(0)

    def weight_bases(self) -> tuple[Tensor, Tensor]:
        """(a, B): (M,) and (M, Cout, Cin, k, k) of +-1, without gradient."""
        w = self.weight.detach()
        bases = sign(w - w.mean() + self.offsets.view(-1, 1, 1, 1, 1) * w.std())
        flat, n = bases.flatten(1), w.numel()
        # Bases may coincide where the weights are few; the smallest solution is then wanted.
        gram = (flat[:, None] * flat).sum(-1) / n + 1e-6 * torch.eye(len(flat), device=w.device)
        rows = torch.cat([gram, (flat * w.flatten()).sum(-1, keepdim=True) / n], dim=1)
        # Gauss-Jordan elimination: the matrix is positive definite, and unlike a solver this can
        # be captured and exported.
        for i, own in enumerate(torch.eye(len(flat), dtype=torch.bool, device=w.device)):
            row = rows[i] / rows[i, i]
            rows = torch.where(own[:, None], row, rows - rows[:, i : i + 1] * row)
        return rows[:, -1], bases

    def quantised_weight(self) -> Tensor:
        if self.weight_mode == "float":
            return self.weight
        scale, bases = self.weight_bases()
        value = (scale.view(-1, 1, 1, 1, 1) * bases).sum(0)
        return straight_through(self.weight * scale.sum(), value)

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """(threshold (), weights (Cout, Cin, k, k)) of the M N binary convolutions in the sum."""
        scale, bases = self.weight_bases()
        return [
            (t, b * a * basis)
            for t, b in zip(self.threshold, self.beta, strict=True)
            for a, basis in zip(scale, bases, strict=True)
        ]


def _evenly(n: int) -> Tensor:
    """n numbers evenly in [-1, 1]."""
    return torch.linspace(-1, 1, n) if n > 1 else torch.zeros(n)


class _ClipRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, top: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(x, top)
        step = top / levels
        return (x / step).add_(0.5).floor_().clamp_(-levels, levels).mul_(step).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x, top), g = ctx.saved_tensors, grads[0]
        outside = (x.abs() >= top).to(g.dtype)
        clipped = g * outside
        return g - clipped, (clipped * x.sign()).sum(dtype=top.dtype).view(top.shape), None


def clip_round(x: Tensor, top: Tensor, levels: int) -> Tensor:
    """x clipped to [-top, top] and rounded to multiples of top / levels; top is ().

    Gradients: of x, g * 1{|x| < top}; of top, the sum of g * sign(x) * 1{|x| >= top}. Source: Li
    et al. 2020 (PAMS, arXiv 2011.04212), after PACT (Choi et al. 2018, arXiv 1805.06085).
    """
    return apply_function(_ClipRound, x, top, levels)


class PAMSConv2d(QuantConv2d):
    """A convolution with symmetric weights and activations of a few bits (PAMS, arXiv 2011.04212).

    levels: 2^(bits - 1) - 1. Activations: ``clip_round`` at ``top`` = start * factor. ``factor``
    is learned from 1. ``start`` is a buffer that the first training batch sets to the mean over
    its images of the largest |x|; the paper takes the average over the first epoch. Weights:
    multiples of max|w| / levels, rounded, gradient g.
    """

    start: Tensor

    def __init__(self, cin: int, cout: int, k: int = 3, *, bits: int, bias: bool = False) -> None:
        super().__init__(cin, cout, k, act="pams", weight="pams", bias=bias)
        self.levels = 2 ** (bits - 1) - 1
        self.factor = nn.Parameter(torch.ones(()))
        self.register_buffer("start", torch.zeros(()))

    def top(self) -> Tensor:
        """The largest activation, (); next to zero before training."""
        return (self.start * self.factor).clamp(min=1e-6)

    def quantised(self, x: Tensor) -> Tensor:
        if self.act == "float":
            return x
        if self.training:
            with torch.no_grad():
                first = x.abs().amax(dim=(1, 2, 3)).float().mean()
                self.start.copy_(torch.where(self.start > 0, self.start, first))
        return clip_round(x, self.top(), self.levels)

    def weight_step(self) -> Tensor:
        """The distance of two levels of the weights, ()."""
        return self.weight.detach().abs().max().clamp(min=1e-6) / self.levels

    def quantised_weight(self) -> Tensor:
        if self.weight_mode == "float":
            return self.weight
        step = self.weight_step()
        return straight_through(self.weight, (self.weight.detach() / step + 0.5).floor() * step)


class Int8Conv2d(PAMSConv2d):
    """The same with 8-bit activations and 7-bit weights, each filter having a step of its own.

    A weight is at most 63 steps: of two products of 7 and 8 bits the sum fits 16 bits, of 8 and 8
    it does not, and AVX2 then takes twice as long. Per filter as usual for integer nets (Krishnamoorthi
    2018, arXiv 1806.08342, section 3.1).
    """

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__(cin, cout, k, bits=8, bias=True)

    def weight_step(self) -> Tensor:
        """The distance of two levels of a filter's weights, (Cout, 1, 1, 1)."""
        return self.weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6) / 63


class WeightBinaryConv2d(QuantConv2d):
    """A convolution with weights scale * sign(w), one learned scale a filter, and float input
    (W1A32).

    Gradients: of w, g * scale * 1{|w| <= 1}; of scale, as written. ``scale`` starts at mean|w| of
    each filter. Source: Ma et al. 2018 (arXiv 1812.06378): "a learnable weight for each binary
    filter". Uncertain: the gradient of w; XNOR-Net's without its 1/n term is taken.
    """

    def __init__(self, cin: int, cout: int, k: int = 3, *, bias: bool = False) -> None:
        super().__init__(cin, cout, k, act="float", weight="clipped_ste", bias=bias)
        self.scale = nn.Parameter(self.weight.detach().abs().mean(dim=(1, 2, 3)))

    def binarize(self, what: bool | str) -> None:
        super().binarize(what)
        if what is not True:
            self.scale.requires_grad_(False)  # it is in no loss

    def quantised(self, x: Tensor) -> Tensor:
        return x

    def quantised_weight(self) -> Tensor:
        """scale * sign(w), or w itself in the float twin."""
        w = WEIGHTS[self.weight_mode](self.weight)
        return w if self.weight_mode == "float" else w * self.scale.view(-1, 1, 1, 1)
