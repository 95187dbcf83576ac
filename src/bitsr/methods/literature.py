"""The binary methods: ``METHODS`` is the one place to add one.

A method is a ``Unit``: one binarized convolution with all that the method puts around it (scales, normalisation,
thresholds, activation, skip). Nets are made of units and know no method, so each method runs in every backbone.

To add one: derive from ``Unit``, say formula, gradient, source and what is uncertain in the docstring, and enter it in
``METHODS``. If its ``build`` keeps to the engine's operations it packs; else set ``packs`` to the reason it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.binarizers import (
    ACTIVATIONS,
    WEIGHTS,
    BasesConv2d,
    BinaryConv2d,
    PAMSConv2d,
    QuantConv2d,
    RunningNorm,
    WeightBinaryConv2d,
    mean_size,
    rounded,
    sign_layer,
    standardised,
)
from ..train.fast import fused
from ..train.fast.winograd import Conv3x3


class RPReLU(nn.Module):
    """PReLU(v - shift_in) + shift_out, all (C,), the slopes held in [-1, 1] (ReActNet, arXiv 2003.03488, eq. 3)."""

    def __init__(self, channels: int, slope: float = 0.25) -> None:
        super().__init__()
        self.shift_in = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), slope))
        self.shift_out = nn.Parameter(torch.zeros(channels))

    def triple(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.shift_in, self.slope.clamp(-1, 1), self.shift_out


class Unit(nn.Module):
    """One binarized k x k convolution, cin -> cout, in a method's dress.

    ``skips`` says where the method has its full-precision skips: "conv", over each convolution, or "block", over the
    two of a residual block. ``packs``: "" if the engine runs it, else why not: the unit then uses ``g.beyond``.
    """

    skips: ClassVar[str] = "conv"
    packs: str = ""

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        """The unit's walk. skip: what is added to its result, None for nothing. act: whether the activation that
        stands between the convolutions of a block follows."""
        raise NotImplementedError

    def over(self, x: Any) -> Any:
        """x for a method whose skips go over each convolution, else None: the skip of a unit outside of blocks."""
        return x if self.skips == "conv" else None

    def lead(self, second: Unit) -> None:
        """Called once, when a block is made of this unit and a second one, for what the two share."""

    def block(self, second: Unit, g: Any, x: Any, name: str) -> Any:
        """The walk of a residual block of this unit and a second one of its kind: the activation between them, none
        after."""
        y = self.build(g, x, f"{name}.unit1", skip=self.over(x))
        return second.build(g, y, f"{name}.unit2", skip=y if self.skips == "conv" else x, act=False)


class E2FIF(Unit):
    """bn(conv(sign(x), sign(w))) + skip, then LeakyReLU(slope); 1 is none.

    Activations: gradient g * max(0, 2 - 2|x|); weights: no scale, identity STE. Source: Lang et al. 2023 (arXiv
    2207.06893) and its released code. The release's convolutions have a bias that batch norm cancels; it is left out.
    """

    def __init__(self, cin: int, cout: int, k: int = 3, *, slope: float = 0.1) -> None:
        super().__init__()
        self.conv = BinaryConv2d(cin, cout, k, act="triangle", weight="identity")
        self.bn = nn.BatchNorm2d(cout)
        self.slope = None if slope == 1 else slope

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        return g.bconv(name, self.conv, x, bn=self.bn, skip=skip, act=self.slope if act else None)


class House(E2FIF):
    """E2FIF with learned thresholds (RSign) before the sign and RPReLU after batch norm, inside the skip.

    rprelu(bn(conv(sign(x - threshold), sign(w)))) + skip, then LeakyReLU(slope). RSign and RPReLU are ReActNet's,
    their place inside the skip BBCU's (arXiv 2210.00405). Both fold into the packed epilogue. For ablations:
    ``thresholds`` False leaves RSign out; ``inner``, the initial slope of RPReLU, False leaves it out (1 would be the
    identity, at the edge of what packs); a slope of 1 leaves LeakyReLU out.

    maps: before batch norm, each pixel of the convolution's result is multiplied by K = sum_c v_c |x_c| of its input, v
    learned, from 1/C. It gives back what the sign takes: how large the input is where. XNOR-Net's K (arXiv
    1603.05279) is the mean of |x| over channels and 3x3 pixels; weights of its own for each channel are ours. 8: eight
    such K, of which output channel c takes number c % 8; where weights are tied (``symmetry``), one an orientation.

    norm: the sign is that of x less its channel's mean, by its standard deviation (``binary.RunningNorm``), thresholds
    and the window of the gradient in those units: so the gradient passes through streams of any size. Packed, it is the
    threshold alone.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        k: int = 3,
        *,
        slope: float = 0.1,
        inner: float | Literal[False] = 0.9,
        thresholds: bool = True,
        maps: bool | Literal[8] = False,
        norm: bool = False,
    ) -> None:
        super().__init__(cin, cout, k, slope=slope)
        if int(maps) not in (0, 1, 8):
            raise ValueError(f"maps is true, false or 8, not {maps}")
        self.norm = RunningNorm(cin) if norm else None
        self.size = nn.Conv2d(cin, int(maps), 1, bias=False) if maps else None
        if self.size is not None:
            nn.init.constant_(self.size.weight, 1 / cin)
        self.threshold = nn.Parameter(torch.zeros(cin)) if thresholds else None
        self.inner = None if inner is False else RPReLU(cout, inner)

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        after = self.slope if act else None
        if fused.fits(self, x, skip, after):
            return fused.run(self, x)
        inner = None if self.inner is None else self.inner.triple()
        twin = self.conv.act == "float"
        map = None if self.size is None or twin else g.map(f"{name}.size", self.size, x)
        return g.bconv(
            name,
            self.conv,
            x,
            bn=self.bn,
            norm=None if twin else self.norm,
            threshold=self.threshold,
            inner=inner,
            skip=skip,
            act=after,
            map=map,
        )


class BNN(Unit):
    """bn(conv(sign(x), sign(w))), one skip over two.

    Both gradients g * 1{|.| <= 1}. Source: Courbariaux et al. 2016 (arXiv 1602.02830). Its HardTanh between the
    convolutions has the gradient of the sign that follows it, and no effect on that sign: it needs no module.
    """

    skips = "block"

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__()
        self.conv = BinaryConv2d(cin, cout, k, act="clip", weight="clip")
        self.bn = nn.BatchNorm2d(cout)

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        return g.bconv(name, self.conv, x, bn=self.bn, skip=skip)


class XNOR(Unit):
    """bn(K * conv(sign(x), a sign(w))), one skip over two; a = mean|w| per filter.

    K: |x|, averaged over channels and the k x k neighbourhood: a scale of its own for each pixel. Activations: gradient
    g * 1{|x| <= 1}; weights: ``binary.sign_xnor``. maps: False leaves K out. Source: Rastegari et al. 2016
    (XNOR-Net, arXiv 1603.05279). There batch norm stands before the sign; here after the convolution, as in the
    other methods. Uncertain: the gradient through K (taken as written); the authors' code leaves K out, and
    centres and clamps the weights, which the paper has not.
    """

    skips = "block"

    def __init__(self, cin: int, cout: int, k: int = 3, *, maps: bool = True) -> None:
        super().__init__()
        self.conv = BinaryConv2d(cin, cout, k, act="clip", weight="xnor")
        self.bn = nn.BatchNorm2d(cout)
        self.mean = self.box = None
        if maps:
            self.mean = nn.Conv2d(cin, 1, 1, bias=False).requires_grad_(False)
            self.box = nn.Conv2d(1, 1, k, padding=k // 2, bias=False).requires_grad_(False)
            nn.init.constant_(self.mean.weight, 1 / cin)
            nn.init.constant_(self.box.weight, 1 / k**2)

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        map = None
        if self.mean is not None and self.conv.act != "float":
            map = g.conv(f"{name}.box", self.box, g.map(f"{name}.mean", self.mean, x))
        return g.bconv(name, self.conv, x, bn=self.bn, skip=skip, map=map)


class DoReFaConv2d(QuantConv2d):
    """Weights and activations of a few bits each, after DoReFa-Net; see ``DoReFa``."""

    def __init__(self, cin: int, cout: int, k: int, *, act_bits: int, weight_bits: int) -> None:
        super().__init__(cin, cout, k, act="dorefa", weight="dorefa")
        self.act_levels, self.weight_levels = 2**act_bits - 1, 2**weight_bits - 1

    def quantised(self, x: Tensor) -> Tensor:
        return x if self.act == "float" else rounded(x.clamp(0, 1) * self.act_levels) / self.act_levels

    def quantised_weight(self) -> Tensor:
        w, n = self.weight, self.weight_levels
        if self.weight_mode == "float":
            return w
        if n == 1:
            return sign_layer(w)
        w = w.tanh()
        return rounded((w / w.abs().max() + 1) * (n / 2)) * (2 / n) - 1


class DoReFa(Unit):
    """bn(conv(A(x), W(w))), one skip over two: k bits for activations and weights.

    A(x) = q(clip(x, 0, 1)), q(v) = round((2^k - 1) v) / (2^k - 1) with gradient g; W(w) = sign(w) E|w|, one scale a
    layer, gradient g, for one bit; else 2 q(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1. Source: Zhou et al. 2016
    (DoReFa-Net, arXiv 1606.06160), without its quantised gradients.

    With one bit each, A is (1 + sign(x - 1/2)) / 2: batch norm cancels that 1 and 2, so the net is one of signs with a
    threshold, and packs. Only the border differs: the padding is then 1/2, between both values, and not 0.
    """

    skips = "block"

    def __init__(self, cin: int, cout: int, k: int = 3, *, act_bits: int = 1, weight_bits: int = 1) -> None:
        super().__init__()
        if not (1 <= act_bits <= 8 and 1 <= weight_bits <= 8):
            raise ValueError("act_bits and weight_bits must be 1 to 8")
        self.signs = act_bits == weight_bits == 1
        if self.signs:
            self.conv: QuantConv2d = BinaryConv2d(cin, cout, k, act="step", weight="layer")
        else:
            self.conv = DoReFaConv2d(cin, cout, k, act_bits=act_bits, weight_bits=weight_bits)
            self.packs = (
                "DoReFa with more than one bit clips activations to [0, 1], for which there is no operation"
            )
        self.bn = nn.BatchNorm2d(cout)
        self.register_buffer("threshold", torch.full((cin,), 0.5), persistent=False)

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        threshold = self.threshold if self.signs else None
        return g.bconv(name, self.conv, x, bn=self.bn, threshold=threshold, skip=skip)


class BiReal(Unit):
    """bn(conv(sign(x), a sign(w))) + skip, no other activation; a = mean|w| per filter.

    Activations: gradient g * max(0, 2 - 2|x|); weights: g * a * 1{|w| <= 1} (magnitude-aware). Source: Liu et al. 2018
    (Bi-Real Net, arXiv 1808.00278). Its last epoch, with weights of +-1 and batch norm trained anew, is what packing
    does exactly, so it is left out, and so is its pretraining with clip.
    """

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__()
        self.conv = BinaryConv2d(cin, cout, k, act="triangle", weight="mean")
        self.bn = nn.BatchNorm2d(cout)

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        return g.bconv(name, self.conv, x, bn=self.bn, skip=skip)


class IRNet(Unit):
    """bn(conv(sign(x), 2^s sign(v))) + skip; v = (w - mean) / std per filter, s = round(log2 mean|v|).

    Both gradients are EDE's, which sharpens with the training's progress (``binary.sign_ede``, ``binary.libra``).
    Source: Qin et al. 2020 (IR-Net, arXiv 1909.10788) and its released code. That has a HardTanh after each skip, which
    would clip the residual stream of a regression: it is left out. Uncertain: how the comparisons in
    super-resolution placed its skips.
    """

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__()
        self.conv = BinaryConv2d(cin, cout, k, act="ede", weight="libra")
        self.bn = nn.BatchNorm2d(cout)

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        return g.bconv(name, self.conv, x, bn=self.bn, skip=skip)


class ReActNet(Unit):
    """rprelu(bn(conv(sign(x - threshold), a sign(w))) + skip); a = mean|w| per filter.

    Thresholds (RSign) and RPReLU are learned per channel; RPReLU stands after the skip, in the residual stream, after
    both convolutions of a block. Activations: gradient g * max(0, 2 - 2|x|); weights: g * 1{|w| <= 1}, as the
    released code has it. Source: Liu et al. 2020 (ReActNet, arXiv 2003.03488), without its distributional loss and
    two-step training (``binary = "activations"`` is the first step).
    """

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(cin))
        self.conv = BinaryConv2d(cin, cout, k, act="triangle", weight="mean-clip")
        self.bn = nn.BatchNorm2d(cout)
        self.after = RPReLU(cout)

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        after = self.after.triple()
        return g.bconv(name, self.conv, x, bn=self.bn, threshold=self.threshold, skip=skip, act=after)


class BTM(Unit):
    """prelu(conv(sign(x), a sign(w))), one skip over two, no batch norm; a = mean|w| per filter.

    Weights start Xavier-uniform. Activations: gradient g * max(0, 2 - 2|x|); weights: ``binary.sign_mean_long``. The
    paper divides the input by the standard deviation of the training pictures, about 60 levels: net.gain = 0.017 in
    the recipe. Source: Jiang et al. 2021 ("Training BNN without BN", AAAI), its BTM alone: no multi-branch block,
    no distillation. PReLU has a slope a channel, held in [-1, 1]. Uncertain: the weights' estimator (a figure).
    """

    skips = "block"

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__()
        self.conv = BinaryConv2d(cin, cout, k, act="triangle", weight="mean-long")
        nn.init.xavier_uniform_(self.conv.weight)
        self.slope = nn.Parameter(torch.full((cout,), 0.25))

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        return g.bconv(name, self.conv, x, inner=self.slope.clamp(-1, 1), skip=skip)


class BBCU(Unit):
    """rprelu(conv(sign(x - threshold), a sign(w))) + skip, no batch norm; a = mean|w| per filter.

    slope: of a LeakyReLU after the skip, which one convolution of its own backbone has (``MSRResNet``). Activations:
    gradient g * max(0, 2 - 2|x|); weights: g * 1{|w| <= 1}. Residual alignment, the factor k that brings the stream
    to the size of the convolutions' results, is ``net.gain`` of the recipe: the paper's k = 130 n / 64 for n channels
    and input in [0, 1] is gain = 0.51 n / 64 for ours in [0, 255]; ``MSRResNet`` has k itself. Source: Xia et al. 2023
    (BBCU, arXiv 2210.00405) and its released code.
    """

    def __init__(self, cin: int, cout: int, k: int = 3, *, slope: float | None = None) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(cin))
        self.conv = BinaryConv2d(cin, cout, k, act="triangle", weight="mean-clip")
        self.inner = RPReLU(cout)
        self.slope = slope

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        inner, after = self.inner.triple(), self.slope if act else None
        return g.bconv(name, self.conv, x, threshold=self.threshold, inner=inner, skip=skip, act=after)


class Plain(Unit):
    """conv(sign(x), sign(w)) + bias, with E2FIF's binarizers and nothing around it.

    Source: the convolutions that E2FIF's ablation calls Bi-Real and leaves without batch norm and skip (released code).
    """

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__()
        self.conv = BinaryConv2d(cin, cout, k, act="triangle", weight="identity", bias=True)

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        return g.bconv(name, self.conv, x, skip=skip)


class Ma(Unit):
    """bn(conv(x, scale * sign(w))), one learned scale a filter, float activations (W1A32), one skip over two, then
    LeakyReLU(slope).

    Gradients: see ``WeightBinaryConv2d``. Source: Ma et al. 2018 (arXiv 1812.06378) for the filters; before batch norm
    their scale is redundant, and kept as published. ``nets.srgan`` has their own net, with a learned PReLU. Packed with
    8-bit activations (W1A8).
    """

    skips = "block"

    def __init__(self, cin: int, cout: int, k: int = 3, *, slope: float = 0.25) -> None:
        super().__init__()
        self.conv = WeightBinaryConv2d(cin, cout, k)
        self.bn = nn.BatchNorm2d(cout)
        self.slope = slope

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        return g.qconv(name, self.conv, x, bn=self.bn, skip=skip, act=self.slope if act else None)


class ABC(Unit):
    """bn(sum of M N binary convolutions), one skip over two: M bases for the weights, N for the activations.

    See ``binary.BasesConv2d``. It packs as M N convolutions, each adding to the one before: that many times the work.
    Source: Lin et al. 2017 (ABC-Net, arXiv 1711.11294); scales a layer, not a filter, as its main text has them.
    """

    skips = "block"

    def __init__(self, cin: int, cout: int, k: int = 3, *, weights: int = 3, activations: int = 3) -> None:
        super().__init__()
        if not (1 <= weights <= 8 and 1 <= activations <= 8):
            raise ValueError("weights and activations must be 1 to 8")
        self.conv = BasesConv2d(cin, cout, k, weights=weights, activations=activations)
        self.bn = nn.BatchNorm2d(cout)

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        return g.bconv(name, self.conv, x, bn=self.bn, skip=skip)


class BAMConv2d(BinaryConv2d):
    """sign(v) * mean|w| per filter; v = w + sum alpha_j w_j over the preceding convolutions w_j of its block, with
    mean 0 and deviation 1 in each filter. Gradients straight to v, and from there as written (``BAM``)."""

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__(cin, cout, k, act="clip", weight="identity")
        self.preceding: tuple[
            nn.Conv2d, ...
        ] = ()  # a tuple, so that they are not submodules of this one as well

    def precede(self, conv: nn.Conv2d) -> None:
        self.preceding, self.alpha = (conv,), nn.Parameter(torch.ones(1))

    def quantised_weight(self) -> Tensor:
        w = v = self.weight
        if self.weight_mode == "float":
            return w
        for i, conv in enumerate(self.preceding):
            v = v + self.alpha[i] * conv.weight
        return WEIGHTS[self.weight_mode](standardised(v)) * mean_size(w)


class BAM(Unit):
    """bn(conv(sign(norm(accumulated x)), accumulated w)), one skip over two: bit accumulation.

    Both sides gather over the block's preceding convolutions j. Activations: sum_j beta_j E_j x_j + E x, E the map of
    mean|x| over channels, then batch norm, then sign (gradient g * 1{|x| <= 1}); weights: ``BAMConv2d``. The
    unit's own coefficients are 1: the normalisation that follows makes their size void. Source: Xin et al. 2020
    (ECCV), eq. 3-9. Uncertain: E as mean of |x| or of x; the weights' normalisation, taken per filter without gain;
    alpha, which the paper solves for, is learned; the gradient of the activations' sign.
    """

    skips = "block"
    packs = "BAM weighs each pixel by the size of its activations before the sign"

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__()
        self.conv = BAMConv2d(cin, cout, k)
        self.norm = nn.BatchNorm2d(cin)
        self.bn = nn.BatchNorm2d(cout)

    def lead(self, second: Unit) -> None:
        second.conv.precede(self.conv)  # type: ignore[union-attr]
        second.beta = nn.Parameter(torch.ones(1))

    def build(
        self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True, before: tuple[Any, ...] = ()
    ) -> Any:
        """before: the inputs of the block's preceding convolutions."""
        a = x
        if self.conv.act != "float":
            a = g.beyond(accumulated, x, self.norm, *((*before, self.beta) if before else ()))
        return g.bconv(name, self.conv, a, bn=self.bn, skip=skip)

    def block(self, second: Unit, g: Any, x: Any, name: str) -> Any:
        y = self.build(g, x, f"{name}.unit1")
        return second.build(g, y, f"{name}.unit2", skip=x, before=(x,))  # type: ignore[call-arg]


def accumulated(
    x: Tensor, norm: nn.Module, before: Tensor | None = None, beta: Tensor | None = None
) -> Tensor:
    """norm(E(x) x + beta E(before) before), E the mean of |.| over channels."""
    v = x * x.abs().mean(dim=1, keepdim=True)
    if before is not None and beta is not None:
        v = v + beta.to(v.dtype) * before * before.abs().mean(dim=1, keepdim=True)
    return norm(v)


class SCALES(Unit):
    """conv(sign(x + shift), a sign(w)) * spatial * channel + skip, then LeakyReLU(slope); no batch norm.

    a = mean|w| per filter. spatial = sigmoid(1x1 convolution of x), one map; (shift, channel) come from the mean of x
    over the picture by a 1x1 convolution to 2 C, ReLU and another one; channel through a sigmoid. All three depend on
    the input. Activations: gradient g * max(0, 2 - 2|x|); weights: g * 1{|w| <= 1}. Source: Wei et al. 2023 (EBSR,
    arXiv 2303.12270; SCALES in its second version) as a third-party reimplementation has it. Uncertain: everything
    that its abstract does not say; the layer-wise scaling factor of SCALES is left out. No batch norm: net.gain as
    for ``BBCU``.
    """

    packs = "SCALES scales each pixel and each channel by factors computed from the picture"

    def __init__(self, cin: int, cout: int, k: int = 3, *, slope: float = 0.1) -> None:
        super().__init__()
        self.conv = BinaryConv2d(cin, cout, k, act="triangle", weight="mean-clip")
        self.spatial = nn.Conv2d(cin, 1, 1)
        self.hidden = nn.Conv2d(cin, 2 * cin, 1)
        self.out = nn.Conv2d(2 * cin, cin + cout, 1)
        self.slope = slope

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        spatial = g.conv(f"{name}.spatial", self.spatial, x)
        shifted = g.beyond(self.shifted, x, self.hidden, self.out, whole=True)
        y = g.beyond(self.scaled, g.bconv(name, self.conv, shifted), x, spatial)
        if skip is not None:
            y = g.add(y, skip)
        return g.beyond(F.leaky_relu, y, self.slope) if act else y

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(shift (N, Cin, 1, 1), channel (N, Cout, 1, 1))."""
        both = self.out(F.relu(self.hidden(x.mean(dim=(2, 3), keepdim=True))))
        return both[:, : x.shape[1]], torch.sigmoid(both[:, x.shape[1] :])

    def shifted(self, x: Tensor, *modules: nn.Module) -> Tensor:
        return x + self.factors(x)[0]

    def scaled(self, y: Tensor, x: Tensor, spatial: Tensor) -> Tensor:
        return y * torch.sigmoid(spatial) * self.factors(x)[1]


class PAMS(Unit):
    """conv(A(x), W(w)) + bias, one skip over two, ReLU between them, no batch norm: 4 bits, not one.

    See ``binary.PAMSConv2d``. bits: 2 to 8. Source: Li et al. 2020 (PAMS, ECCV, arXiv 2011.04212) on EDSR's block,
    without its knowledge transfer and the start from a trained float net. There the skip carries the quantised input
    of the block and its sum is quantised once more; here the skip is full precision.
    """

    skips = "block"

    def __init__(self, cin: int, cout: int, k: int = 3, *, bits: int = 4) -> None:
        super().__init__()
        if not 2 <= bits <= 8:
            raise ValueError("bits must be 2 to 8")
        self.conv = PAMSConv2d(cin, cout, k, bits=bits, bias=True)

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        return g.qconv(name, self.conv, x, skip=skip, act=0.0 if act else None)


METHODS: dict[str, type[Unit]] = {
    "e2fif": E2FIF,
    "house": House,
    "bnn": BNN,
    "ma": Ma,
    "plain": Plain,
    "xnor": XNOR,
    "dorefa": DoReFa,
    "bireal": BiReal,
    "irnet": IRNet,
    "reactnet": ReActNet,
    "btm": BTM,
    "bbcu": BBCU,
    "abc": ABC,
    "bam": BAM,
    "scales": SCALES,
    "pams": PAMS,
}

MakeUnit = Callable[..., Unit]
"""(cin, cout, k=3) -> Unit."""


def units(
    method: str,
    options: dict[str, Any] | None = None,
    *,
    binary: bool | str = True,
    act: str | None = None,
    weight: str | None = None,
) -> MakeUnit:
    """A maker of a method's units. options: keyword arguments of the method.

    binary: True; False for the float twin; "activations" for the first stage of two-stage training.
    act, weight: binarizers (names in ``ACTIVATIONS``, ``WEIGHTS``) in place of the method's own.
    Raises ValueError for an unknown name, and (when a unit is made) for binarizers that the method cannot exchange.
    """
    for name, table in ((method, METHODS), (act or "clip", ACTIVATIONS), (weight or "clip", WEIGHTS)):
        if name not in table:
            raise ValueError(f"unknown {name!r}; known: {', '.join(table)}")

    def make(cin: int, cout: int, k: int = 3) -> Unit:
        unit = METHODS[method](cin, cout, k, **(options or {}))
        for conv in unit.modules():
            if not isinstance(conv, QuantConv2d):
                continue
            if isinstance(conv, BinaryConv2d):
                conv.act = act or conv.act
            elif act:
                raise ValueError(f"the activations of {method!r} take no other binarizer")
            if isinstance(conv, (BinaryConv2d, WeightBinaryConv2d)):
                conv.weight_mode = weight or conv.weight_mode
            elif weight:
                raise ValueError(f"the weights of {method!r} take no other binarizer")
            conv.binarize(binary)
        return unit

    return make


def unpackable(net: nn.Module) -> str:
    """Why a net's method does not pack, in its own words; "" if it does."""
    return next((unit.packs for unit in net.modules() if isinstance(unit, Unit) and unit.packs), "")


class Block(nn.Module):
    """Residual block of two units, C -> C, which ``Unit.block`` walks."""

    def __init__(self, make: MakeUnit, channels: int) -> None:
        super().__init__()
        self.unit1 = make(channels, channels)
        self.unit2 = make(channels, channels)
        self.unit1.lead(self.unit2)

    def build(self, g: Any, x: Any, name: str) -> Any:
        return self.unit1.block(self.unit2, g, x, name)


@torch.no_grad()
def kaiming(conv: nn.Conv2d, size: float) -> None:
    """Start anew: Kaiming's initialisation times ``size``, a bias at 0."""
    nn.init.kaiming_normal_(conv.weight)
    conv.weight *= size
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class FloatBlock(nn.Module):
    """Residual block without a binarizer: convolution, LeakyReLU(slope), convolution, and a skip over both.

    Source: EDSR (Lim et al. 2017, arXiv 1707.02921), with slope 0. Packed with 8-bit weights and activations
    (``qconv``); ``fine``: with 16 (``conv``), which takes longer.
    """

    def __init__(self, channels: int, slope: float = 0.0, *, fine: bool = False) -> None:
        super().__init__()
        self.conv1 = Conv3x3(channels, channels)
        self.conv2 = Conv3x3(channels, channels)
        self.slope, self.fine = slope, fine

    def next_to_identity(self) -> FloatBlock:
        """Itself, with Kaiming's initialisation and the second convolution at a tenth of that."""
        kaiming(self.conv1, 1.0)
        kaiming(self.conv2, 0.1)
        return self

    def build(self, g: Any, x: Any, name: str) -> Any:
        first, second = f"{name}.conv1", f"{name}.conv2"
        if self.fine:
            return g.add(g.conv(second, self.conv2, g.conv(first, self.conv1, x, act=self.slope)), x)
        return g.qconv(second, self.conv2, g.qconv(first, self.conv1, x, act=self.slope), skip=x)
