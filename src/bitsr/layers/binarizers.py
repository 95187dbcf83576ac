"""Binarizers and the binary convolution: the one place to add a binarizer.

A binarizer is a function ``x -> {-1, +1}`` (times an optional scale) with a surrogate gradient.
Every binarizer here maps 0 to +1, as the engine does (``torch.sign`` maps 0 to 0: never use it bare).

To add one: write the function with forward, gradient and source in its docstring, and put it into
``ACTIVATIONS`` or ``WEIGHTS`` (and into ``ANNEALED`` if its gradient follows the training's progress).
``tests/test_binary.py`` checks every entry against ``GRADIENTS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..train.fast import winograd
from ..train.fast.half import half_conv
from ..train.fast.int8 import sign_conv


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
    def forward(ctx, x: Tensor, width: float, height: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.width, ctx.height = width, height
        return _sign(x)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        inside = (x.abs() <= ctx.width).to(g.dtype).mul_(g)
        return inside if ctx.height == 1 else inside.mul_(ctx.height), None, None


class _SavedSign(torch.autograd.Function):
    """sign(x), with x kept for the gradient that the derived give."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _sign(x)


class _SignTriangle(_SavedSign):
    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x.abs().mul_(-2).add_(2).clamp_(min=0).to(g.dtype).mul_(g)


class _SignLongTail(_SavedSign):
    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        size = x.abs()
        return (2 - 4 * size).clamp_(min=0.4).mul_((size <= 1).to(x.dtype)).to(g.dtype).mul_(g)


class _SignEDE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, progress: Tensor) -> Tensor:
        ctx.save_for_backward(x, progress)
        return _sign(x)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        x, progress = ctx.saved_tensors
        t = 1e-3 * 1e4**progress
        slope = (x * t.to(x.dtype)).tanh_().square_().neg_().add_(1)
        return slope.mul_(t.clamp(min=1).to(x.dtype)).to(g.dtype).mul_(g), None


def _through(x: Tensor, value: Tensor) -> Tensor:
    """``value``, exactly; the gradient goes straight to x."""
    return value + (x - x.detach())


def rounded(x: Tensor) -> Tensor:
    """x rounded, halves upwards as in the engine; gradient g (STE)."""
    return _through(x, (x + 0.5).floor().detach())


def sign_identity(x: Tensor) -> Tensor:
    """sign(x); gradient g (identity straight-through estimator, STE).

    Source: Bengio et al. 2013; the weights of E2FIF (arXiv 2207.06893).
    """
    return _SignIdentity.apply(x)


def sign_blocked(x: Tensor) -> Tensor:
    """sign(x); gradient 0: a convolution learns from its own input, what lies before it by the skips alone.

    For nets whose skips go over each convolution. Where the stream is far wider than the window of ``sign_triangle``,
    as in E2FIF on [0, 255], hardly any gradient passes there; this one saves its computation (docs/ablation.md).
    """
    return _sign(x.detach())


def sign_clip(x: Tensor) -> Tensor:
    """sign(x); gradient g * 1{|x| <= 1} (clipped STE).

    Source: Courbariaux et al. 2016 (BNN); XNOR-Net.
    """
    return _SignClip.apply(x, 1.0, 1.0)


def sign_half(x: Tensor) -> Tensor:
    """sign(x); gradient g * 1{|x| <= 1/2}.

    Source: Lin et al. 2017 (ABC-Net, arXiv 1711.11294), section 3.2; its x is ours + 1/2, a bit clipped to [0, 1].
    """
    return _SignClip.apply(x, 0.5, 1.0)


class _SignWide(_SavedSign):
    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        size = x.abs()
        width = 2 * size.mean().clamp(min=1e-6)
        return (size <= width).to(g.dtype) * (g / width)


def sign_wide(x: Tensor) -> Tensor:
    """sign(x); gradient g / r * 1{|x| <= r}, r twice the mean of |x|: the slope of a clip that is as wide as its input.

    Ours, for streams far wider than the window [-1, 1] of the others.
    """
    return _SignWide.apply(x)


def sign_step(x: Tensor) -> Tensor:
    """sign(x); gradient 2 g * 1{|x| <= 1/2}: 2 a - 1 of the bit a = round(clip(x + 1/2, 0, 1)) with STE.

    Source: Zhou et al. 2016 (DoReFa-Net, arXiv 1606.06160), with k = 1; its x is ours + 1/2.
    """
    return _SignClip.apply(x, 0.5, 2.0)


def sign_triangle(x: Tensor) -> Tensor:
    """sign(x); gradient g * max(0, 2 - 2|x|) (ApproxSign).

    Source: Liu et al. 2018 (Bi-Real Net), eq. 6; the activations of E2FIF.
    """
    return _SignTriangle.apply(x)


def sign_ede(x: Tensor, progress: Tensor | None = None) -> Tensor:
    """sign(x); gradient g * k t (1 - tanh(t x)^2) (error decay estimator, EDE).

    t = 10^(-3 + 4 progress), k = max(1/t, 1): nearly the identity at first, nearly the sign's own at the end.
    progress: () in [0, 1], how far the training is; None: 1. Source: Qin et al. 2020 (IR-Net, arXiv 1909.10788);
    the range of t is the released ResNet-20 trainer's.
    """
    return _SignEDE.apply(x, torch.ones((), device=x.device) if progress is None else progress)


def mean_size(w: Tensor) -> Tensor:
    """mean|w| per filter, detached: (Cout, 1, 1, 1)."""
    return w.detach().abs().mean(dim=tuple(range(1, w.dim())), keepdim=True)


def standardised(w: Tensor) -> Tensor:
    """(w - mean) / std of each filter."""
    over = tuple(range(1, w.dim()))
    return (w - w.mean(dim=over, keepdim=True)) / w.std(dim=over, keepdim=True)


def sign_mean(w: Tensor) -> Tensor:
    """sign(w) * a, a = mean|w| per filter; gradient g * a * 1{|w| <= 1} (magnitude-aware).

    w: (Cout, Cin, k, k), as below. Source: Liu et al. 2018 (Bi-Real Net); Rastegari et al. 2016
    (XNOR-Net) without the gradient through its scale.
    """
    return sign_clip(w) * mean_size(w)


def sign_mean_clip(w: Tensor) -> Tensor:
    """sign(w) * mean|w| per filter; gradient g * 1{|w| <= 1}, without the scale.

    Source: the released code of ReActNet and of BBCU (arXiv 2210.00405).
    """
    return _through(w.clamp(-1, 1), _sign(w.detach()) * mean_size(w))


def sign_mean_long(w: Tensor) -> Tensor:
    """sign(w) * a, a = mean|w| per filter; gradient g * a * e(w), the long-tailed estimator.

    e(w) = 2 - 4|w| for |w| <= 0.4, 0.4 up to |w| = 1, 0 beyond. Source: Xu and Cheung 2019 (arXiv 1909.11366), as
    named by BTM (Jiang et al. 2021). Uncertain: BTM shows it as a figure only; the scale is taken as detached.
    """
    return _SignLongTail.apply(w) * mean_size(w)


def sign_xnor(w: Tensor) -> Tensor:
    """sign(w) * a, a = mean|w| per filter; gradient g * (1/n + a * 1{|w| <= 1}), n the weights of a filter.

    Source: Rastegari et al. 2016 (XNOR-Net, arXiv 1603.05279), section 3.1; the 1/n stands for the gradient through a,
    element by element as printed there.
    """
    return _through(w / w[0].numel(), sign_mean(w))


def sign_layer(w: Tensor) -> Tensor:
    """sign(w) * E|w| with one scale a layer; gradient g (identity STE past the scale too).

    Source: Zhou et al. 2016 (DoReFa-Net, arXiv 1606.06160), section 2.3.
    """
    return _through(w, _sign(w.detach()) * w.detach().abs().mean())


def libra(w: Tensor, progress: Tensor | None = None) -> Tensor:
    """sign(v) * 2^s, v = (w - mean) / std per filter, s = round(log2 mean|v|); gradient: EDE's at v, times 2^s,
    through the standardisation.

    progress: as for ``sign_ede``. Source: Qin et al. 2020 (IR-Net), section 3.2 (Libra parameter binarization).
    """
    v = standardised(w)
    return sign_ede(v, progress) * torch.exp2(mean_size(v).log2().round())


def identity(x: Tensor) -> Tensor:
    """x itself, gradient g: the float twin, and the float half of two-stage training."""
    return x


Binarizer = Callable[..., Tensor]

ACTIVATIONS: dict[str, Binarizer] = {
    "identity": sign_identity,
    "blocked": sign_blocked,
    "clip": sign_clip,
    "half": sign_half,
    "step": sign_step,
    "triangle": sign_triangle,
    "wide": sign_wide,
    "ede": sign_ede,
    "float": identity,
}
WEIGHTS: dict[str, Binarizer] = {
    "identity": sign_identity,
    "clip": sign_clip,
    "triangle": sign_triangle,
    "mean": sign_mean,
    "mean-clip": sign_mean_clip,
    "mean-long": sign_mean_long,
    "xnor": sign_xnor,
    "layer": sign_layer,
    "libra": libra,
    "float": identity,
}
UNSCALED = {"identity", "clip", "triangle"}
"""Those of ``WEIGHTS`` whose size is 1."""
ANNEALED: set[Binarizer] = {sign_ede, libra}
"""Those that take the training's progress, a tensor () in [0, 1], as a second argument."""


class RunningNorm(nn.BatchNorm2d):
    """(x - mean) / sqrt(var + eps), each channel's mean and variance gathered over the training so far: no parameters.

    It stands before a sign: there it moves thresholds to the mean of their channel and gives the surrogate gradient's
    window the width of the values. (N, C, H, W) -> the same. While training the statistics take in the batch and then
    serve it, without gradient through them, so that training sees the thresholds that packing does. The first
    batches weigh 1/n, to ``momentum``; the first is not normalised by what came before it.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, momentum: float = 0.05) -> None:
        super().__init__(channels, momentum=momentum, affine=False)

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
        """One more batch: the weight, (), with which the statistics take it in."""
        self.num_batches_tracked.add_(1)
        weight = 1 / self.num_batches_tracked
        # None: the mean of all batches, as batch norm has it
        return weight if self.momentum is None else weight.clamp(min=self.momentum)

    def std(self) -> Tensor:
        """(C,)"""
        return (self.running_var + self.eps).sqrt()

    def absolute(self, threshold: Tensor | None) -> Tensor:
        """The threshold (C,) on x that is ``threshold`` (None: 0) on the normalised x."""
        return self.running_mean if threshold is None else self.running_mean + threshold * self.std()


class QuantConv2d(nn.Conv2d):
    """k x k convolution of quantised input with quantised weights: what the conv classes of all methods share.

    Shapes: (N, Cin, H, W) -> (N, Cout, H, W); stride 1; ``padding = k // 2``, zeros after the quantiser: taps outside
    the picture count nothing, so border sums have fewer terms (design: the contract).

    act, weight_mode: how each side is quantised; ``"float"`` switches it off.
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

    def quantised(self, x: Tensor) -> Tensor:
        """The input that the convolution computes with."""
        raise NotImplementedError

    def quantised_weight(self) -> Tensor:
        """The weights that it computes with, (Cout, Cin, k, k)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x, w = self.quantised(x), self.quantised_weight()
        if "float" in (self.act, self.weight_mode):
            return winograd.conv2d(self, x, w)
        return F.conv2d(x, w, self.bias, padding=self.padding)  # of bits: sums that are integers stay so


class BinaryConv2d(QuantConv2d):
    """A convolution of binarized input with binarized weights (W1A1).

    act, weight: names in ``ACTIVATIONS`` and ``WEIGHTS``. ``progress`` is a buffer that the training loop keeps at how
    far it is, 0 to 1, for the binarizers that are annealed. ``int8``: whether it is computed by ``sign_conv``;
    ``halved``: whether training computes it by ``half_conv``.
    """

    progress: Tensor
    int8: bool = False
    halved: bool = False

    def __init__(self, cin: int, cout: int, k: int = 3, *, act: str, weight: str, bias: bool = False) -> None:
        super().__init__(cin, cout, k, act=act, weight=weight, bias=bias)
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def _binarized(self, f: Binarizer, x: Tensor) -> Tensor:
        return f(x, self.progress) if f in ANNEALED else f(x)

    def quantised(self, x: Tensor) -> Tensor:
        return self._binarized(ACTIVATIONS[self.act], x)

    def quantised_weight(self) -> Tensor:
        return self._binarized(WEIGHTS[self.weight_mode], self.weight)

    @property
    def signs(self) -> bool:
        """Whether both sides are +-1 and nothing else."""
        return self.weight_mode in UNSCALED and self.act != "float" and self.bias is None

    def forward(self, x: Tensor) -> Tensor:
        if (self.int8 or (self.training and self.halved)) and self.signs:
            product = sign_conv if self.int8 else half_conv
            return product(self.quantised(x), self.quantised_weight())
        if self.training or self.weight_mode in UNSCALED or "float" in (self.act, self.weight_mode):
            return super().forward(x)
        # Sums of integers, as in the engine: a sum of 0 must not be left with a rounding error, and its sign.
        w = self.quantised_weight()
        size = w.abs().amax(dim=(1, 2, 3), keepdim=True)
        y = F.conv2d(self.quantised(x), w / size.clamp(min=1e-30), padding=self.padding) * size.view(-1, 1, 1)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)


@contextmanager
def in_bytes(net: nn.Module) -> Iterator[None]:
    """The convolutions of signs in ``net`` by ``sign_conv`` for a while, on a CPU: the same integers, sooner."""
    convs = [(m, m.int8) for m in net.modules() if isinstance(m, BinaryConv2d)]
    try:
        for conv, _ in convs:
            conv.int8 = True
        yield
    finally:
        for conv, had in convs:
            conv.int8 = had


class BasesConv2d(QuantConv2d):
    """A convolution that is a sum of binary ones: N activation bases times M weight bases (ABC-Net).

    Input: sum_n beta_n sign(x - t_n), t_n a threshold, both learned; gradient of each sign as ``sign_half``. Weights:
    sum_m a_m B_m, B_m = sign(w - mean + u_m std) over the whole layer, u_m evenly in [-1, 1], a the least squares
    solution of w = sum a_m B_m, held fixed in the gradient: that of w is g * sum a_m (STE). Both sums are taken before
    the one convolution that training needs. Source: Lin et al. 2017 (arXiv 1711.11294), sections 3.1 and 3.2; t_n
    is their 1/2 - v_n. They start at beta = 1 / N and t evenly in [-1/2, 1/2] here; the paper does not say.
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
        return torch.stack([b * sign_half(x - t) for b, t in terms]).sum(0)

    def weight_bases(self) -> tuple[Tensor, Tensor]:
        """(a, B): (M,) and (M, Cout, Cin, k, k) of +-1, without gradient."""
        w = self.weight.detach()
        bases = _sign(w - w.mean() + self.offsets.view(-1, 1, 1, 1, 1) * w.std())
        flat, n = bases.flatten(1), w.numel()
        # Bases may coincide, where the weights are few; then the smallest of the solutions is wanted.
        gram = (flat[:, None] * flat).sum(-1) / n + 1e-6 * torch.eye(len(flat), device=w.device)
        rows = torch.cat([gram, (flat * w.flatten()).sum(-1, keepdim=True) / n], dim=1)
        for i, own in enumerate(torch.eye(len(flat), dtype=torch.bool, device=w.device)):
            # Gauss and Jordan's elimination: the matrix is positive definite, and this can be captured and exported.
            row = rows[i] / rows[i, i]
            rows = torch.where(own[:, None], row, rows - rows[:, i : i + 1] * row)
        return rows[:, -1], bases

    def quantised_weight(self) -> Tensor:
        if self.weight_mode == "float":
            return self.weight
        scale, bases = self.weight_bases()
        value = (scale.view(-1, 1, 1, 1, 1) * bases).sum(0)
        return _through(self.weight * scale.sum(), value)

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """(threshold (), weights (Cout, Cin, k, k)) of the M N binary convolutions that it is the sum of."""
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
    def forward(ctx, x: Tensor, top: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(x, top)
        step = top / levels
        return (x / step).add_(0.5).floor_().clamp_(-levels, levels).mul_(step).to(x.dtype)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, top = ctx.saved_tensors
        outside = (x.abs() >= top).to(g.dtype)
        clipped = g * outside
        return g - clipped, (clipped * x.sign()).sum(dtype=top.dtype).view(top.shape), None


def clip_round(x: Tensor, top: Tensor, levels: int) -> Tensor:
    """x clipped to [-top, top] and rounded to multiples of top / levels; top is ().

    Gradients: of x, g * 1{|x| < top}; of top, the sum of g * sign(x) * 1{|x| >= top}. Source: Li et al. 2020 (PAMS,
    arXiv 2011.04212), after PACT (Choi et al. 2018).
    """
    return _ClipRound.apply(x, top, levels)


class PAMSConv2d(QuantConv2d):
    """A convolution with weights and activations of a few bits: symmetric, with a learned largest activation.

    levels: 2^(bits - 1) - 1. Activations: ``clip_round`` at ``top`` = start * factor; ``factor`` is learned from 1,
    ``start`` is a buffer that the first training batch sets to the mean of its pictures' largest |x| (the paper takes
    the average over the first epoch). Weights: multiples of max|w| / levels, rounded, gradient g (STE).
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
        return self.weight.detach().abs().max().clamp(min=1e-6) / self.levels

    def quantised_weight(self) -> Tensor:
        if self.weight_mode == "float":
            return self.weight
        step = self.weight_step()
        return _through(self.weight, (self.weight.detach() / step + 0.5).floor() * step)


class WeightBinaryConv2d(QuantConv2d):
    """k x k convolution with weights scale * sign(w), one learned scale a filter, and float activations (W1A32).

    Gradients: of w clipped straight-through, g * scale * 1{|w| <= 1}; of scale as written.
    ``scale`` starts at mean|w| of each filter. Source: Ma et al. 2018 (arXiv 1812.06378): "a learnable weight for
    each binary filter". Uncertain: the gradient of w, since we could not read the paper's formula; XNOR-Net's without
    its 1/n term is taken.
    """

    def __init__(self, cin: int, cout: int, k: int = 3, *, bias: bool = False) -> None:
        super().__init__(cin, cout, k, act="float", weight="clip", bias=bias)
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
