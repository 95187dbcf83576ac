"""Binary methods of the literature, and two of few bits; see ``bitsr.methods`` for how to add
one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers.binarizers import (
    WEIGHTS,
    dorefa_weight,
    mean_magnitude,
    round_ste,
    standardised,
)
from ..layers.convs import (
    BasesConv2d,
    BinaryConv2d,
    PAMSConv2d,
    QuantConv2d,
    WeightBinaryConv2d,
)
from ..layers.ops import Ops, V
from .base import RPReLU, Unit


class E2FIF(Unit):
    """bn(conv(sign(x), sign(w))) + skip, then LeakyReLU(slope); 1 is none.

    Activations: gradient g * max(0, 2 - 2|x|); weights: no scale, identity STE. Source: Lang et al.
    2023 (arXiv 2207.06893) and its released code. The release's convolutions have a bias that batch
    norm cancels; it is left out.
    """

    def __init__(self, cin: int, cout: int, k: int = 3, *, slope: float = 0.1) -> None:
        super().__init__(cin, cout, k)
        self.conv = BinaryConv2d(cin, cout, k, act="approx_sign", weight="ste_sign")
        self.bn = nn.BatchNorm2d(cout)
        self.slope = None if slope == 1 else slope

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        return ops.bconv(name, self.conv, x, bn=self.bn, skip=skip, act=self.slope if act else None)


class BNN(Unit):
    """bn(conv(sign(x), sign(w))), one skip over two.

    Both gradients g * 1{|.| <= 1}. Source: Courbariaux et al. 2016 (arXiv 1602.02830). There latent
    weights are clipped to [-1, 1] after each step. Here they are not: one that has left [-1, 1]
    gets no gradient any more. Its HardTanh between the convolutions has the gradient of the sign
    that follows it, and no effect on that sign: it needs no module.
    """

    skips = "block"

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__(cin, cout, k)
        self.conv = BinaryConv2d(cin, cout, k, act="clipped_ste", weight="clipped_ste")
        self.bn = nn.BatchNorm2d(cout)

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        return ops.bconv(name, self.conv, x, bn=self.bn, skip=skip)


class XNOR(Unit):
    """bn(K * conv(sign(x), a sign(w))), one skip over two; a = mean|w| per filter.

    K: |x|, averaged over channels and the k x k neighbourhood: a scale of its own for each pixel.
    Activations: gradient g * 1{|x| <= 1}; weights: ``layers.binarizers.xnor``. scale_map: False
    leaves K out. Source: Rastegari et al. 2016 (XNOR-Net, arXiv 1603.05279). There batch norm
    stands before the sign; here after the convolution, as in the other methods. Uncertain: the
    gradient through K (taken as written); the authors' code leaves K out, and centres and clamps
    the weights, which the paper has not.
    """

    skips = "block"

    def __init__(self, cin: int, cout: int, k: int = 3, *, scale_map: bool = True) -> None:
        super().__init__(cin, cout, k)
        self.conv = BinaryConv2d(cin, cout, k, act="clipped_ste", weight="xnor")
        self.bn = nn.BatchNorm2d(cout)
        self.mean = self.box = None
        if scale_map:
            self.mean = nn.Conv2d(cin, 1, 1, bias=False).requires_grad_(False)
            self.box = nn.Conv2d(1, 1, k, padding=k // 2, bias=False).requires_grad_(False)
            nn.init.constant_(self.mean.weight, 1 / cin)
            nn.init.constant_(self.box.weight, 1 / k**2)

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        scale_map = None
        if self.mean is not None and self.box is not None and self.conv.act != "float":
            scale_map = ops.conv(f"{name}.box", self.box, ops.scale_map(f"{name}.mean", self.mean, x))
        return ops.bconv(name, self.conv, x, bn=self.bn, skip=skip, scale_map=scale_map)


class DoReFaConv2d(QuantConv2d):
    """Weights and activations of a few bits each, after DoReFa-Net; see ``DoReFa``."""

    def __init__(self, cin: int, cout: int, k: int, *, act_bits: int, weight_bits: int) -> None:
        super().__init__(cin, cout, k, act="dorefa", weight="dorefa")
        self.act_levels, self.weight_levels = 2**act_bits - 1, 2**weight_bits - 1

    def quantised(self, x: Tensor) -> Tensor:
        return x if self.act == "float" else round_ste(x.clamp(0, 1) * self.act_levels) / self.act_levels

    def quantised_weight(self) -> Tensor:
        w, n = self.weight, self.weight_levels
        if self.weight_mode == "float":
            return w
        if n == 1:
            return dorefa_weight(w)
        w = w.tanh()
        return round_ste((w / w.abs().max() + 1) * (n / 2)) * (2 / n) - 1


class DoReFa(Unit):
    """bn(conv(A(x), W(w))), one skip over two: k bits for activations and weights.

    A(x) = q(clip(x, 0, 1)), q(v) = round((2^k - 1) v) / (2^k - 1) with gradient g; W(w) = sign(w)
    E|w|, one scale a layer, gradient g, for one bit; else 2 q(tanh(w) / (2 max|tanh(w)|) + 1/2) -
    1. Source: Zhou et al. 2016 (DoReFa-Net, arXiv 1606.06160), without its quantised gradients.

    With one bit each, A is (1 + sign(x - 1/2)) / 2: batch norm cancels that 1 and 2, so the net is
    one of signs with a threshold, and packs. Only the border differs: the padding is then 1/2,
    between both values, and not 0.
    """

    skips = "block"
    threshold: Tensor

    def __init__(self, cin: int, cout: int, k: int = 3, *, act_bits: int = 1, weight_bits: int = 1) -> None:
        super().__init__(cin, cout, k)
        if not (1 <= act_bits <= 8 and 1 <= weight_bits <= 8):
            raise ValueError("act_bits and weight_bits must be 1 to 8")
        self.signs = act_bits == weight_bits == 1
        if self.signs:
            self.conv: QuantConv2d = BinaryConv2d(cin, cout, k, act="dorefa", weight="dorefa")
        else:
            self.conv = DoReFaConv2d(cin, cout, k, act_bits=act_bits, weight_bits=weight_bits)
            self.unpackable = (
                "DoReFa with more than one bit clips activations to [0, 1], for which there is no operation"
            )
        self.bn = nn.BatchNorm2d(cout)
        self.register_buffer("threshold", torch.full((cin,), 0.5), persistent=False)

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        threshold = self.threshold if self.signs else None
        return ops.bconv(name, self.conv, x, bn=self.bn, threshold=threshold, skip=skip)


class BiReal(Unit):
    """bn(conv(sign(x), a sign(w))) + skip, no other activation; a = mean|w| per filter.

    Activations: gradient g * max(0, 2 - 2|x|); weights: g * a * 1{|w| <= 1} (magnitude-aware).
    Source: Liu et al. 2018 (Bi-Real Net, arXiv 1808.00278). Its last epoch, with weights of +-1 and
    batch norm trained anew, is what packing does exactly, so it is left out, and so is its
    pretraining with clip.
    """

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__(cin, cout, k)
        self.conv = BinaryConv2d(cin, cout, k, act="approx_sign", weight="magnitude_aware")
        self.bn = nn.BatchNorm2d(cout)

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        return ops.bconv(name, self.conv, x, bn=self.bn, skip=skip)


class IRNet(Unit):
    """bn(conv(sign(x), 2^s sign(v))) + skip; v = (w - mean) / std per filter, s = round(log2
    mean|v|).

    Both gradients are EDE's, which sharpens with the training's progress (``ede``, ``libra``).
    Source: Qin et al. 2020 (IR-Net, arXiv 1909.10788) and its released code. That has a HardTanh
    after each skip, which would clip the residual stream of a regression: it is left out.
    Uncertain: how the comparisons in super-resolution placed its skips.
    """

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__(cin, cout, k)
        self.conv = BinaryConv2d(cin, cout, k, act="ede", weight="libra")
        self.bn = nn.BatchNorm2d(cout)

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        return ops.bconv(name, self.conv, x, bn=self.bn, skip=skip)


class ReActNet(Unit):
    """rprelu(bn(conv(sign(x - threshold), a sign(w))) + skip); a = mean|w| per filter.

    Thresholds (RSign) and RPReLU are learned per channel; RPReLU stands after the skip, in the
    residual stream, after both convolutions of a block. Activations: gradient g * max(0, 2 - 2|x|);
    weights: g * 1{|w| <= 1}, as the released code has it. Source: Liu et al. 2020 (ReActNet, arXiv
    2003.03488), without its distributional loss and two-step training (``binary = "activations"``
    is the first step).
    """

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__(cin, cout, k)
        self.threshold = nn.Parameter(torch.zeros(cin))
        self.conv = BinaryConv2d(cin, cout, k, act="approx_sign", weight="reactnet")
        self.bn = nn.BatchNorm2d(cout)
        self.after = RPReLU(cout)

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        after = self.after.triple()
        return ops.bconv(name, self.conv, x, bn=self.bn, threshold=self.threshold, skip=skip, act=after)


class BTM(Unit):
    """prelu(conv(sign(x), a sign(w))), one skip over two, no batch norm; a = mean|w| per filter.

    Weights start Xavier-uniform. Activations: gradient g * max(0, 2 - 2|x|); weights:
    ``layers.binarizers.btm``. The paper divides the input by the standard deviation of the training
    images, about 60 levels: net.stream_init_scale = 0.017 in the recipe. Source: Jiang et al. 2021
    ("Training BNN without BN", AAAI), its BTM alone: no multi-branch block, no distillation. PReLU
    has a slope a channel, held in [-1, 1]. Uncertain: the weights' estimator (a figure).
    """

    skips = "block"

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__(cin, cout, k)
        self.conv = BinaryConv2d(cin, cout, k, act="approx_sign", weight="btm")
        nn.init.xavier_uniform_(self.conv.weight)
        self.slope = nn.Parameter(torch.full((cout,), 0.25))

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        return ops.bconv(name, self.conv, x, inner=self.slope.clamp(-1, 1), skip=skip)


class BBCU(Unit):
    """rprelu(conv(sign(x - threshold), a sign(w))) + skip, no batch norm; a = mean|w| per filter.

    slope: of a LeakyReLU after the skip, which one convolution of its own backbone has
    (``MSRResNet``). Activations: gradient g * max(0, 2 - 2|x|); weights: g * 1{|w| <= 1}. Residual
    alignment, the factor k that brings the stream to the size of the convolutions' results, is
    ``net.stream_init_scale`` of the recipe: the paper's k = 130 n / 64 for n channels and input in
    [0, 1] is 0.51 n / 64 for ours in [0, 255]; ``MSRResNet`` has k itself. Source: Xia et al. 2023
    (BBCU, arXiv 2210.00405) and its released code.
    """

    def __init__(self, cin: int, cout: int, k: int = 3, *, slope: float | None = None) -> None:
        super().__init__(cin, cout, k)
        self.threshold = nn.Parameter(torch.zeros(cin))
        self.conv = BinaryConv2d(cin, cout, k, act="approx_sign", weight="reactnet")
        self.inner = RPReLU(cout)
        self.slope = slope

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        inner, after = self.inner.triple(), self.slope if act else None
        return ops.bconv(name, self.conv, x, threshold=self.threshold, inner=inner, skip=skip, act=after)


class Plain(Unit):
    """conv(sign(x), sign(w)) + bias, with E2FIF's binarizers and nothing around it.

    Source: the convolutions that E2FIF's ablation calls Bi-Real and leaves without batch norm and
    skip (released code).
    """

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__(cin, cout, k)
        self.conv = BinaryConv2d(cin, cout, k, act="approx_sign", weight="ste_sign", bias=True)

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        return ops.bconv(name, self.conv, x, skip=skip)


class Ma(Unit):
    """bn(conv(x, scale * sign(w))), one skip over two, then LeakyReLU(slope).

    One learned scale a filter, float activations (W1A32). Gradients: see
    ``WeightBinaryConv2d``. Source: Ma et al. 2018 (arXiv 1812.06378) for the filters; before batch
    norm their scale is redundant, and kept as published. ``nets.srgan`` has their own net, with a
    learned PReLU. Packed with 8-bit activations (W1A8).
    """

    skips = "block"

    def __init__(self, cin: int, cout: int, k: int = 3, *, slope: float = 0.25) -> None:
        super().__init__(cin, cout, k)
        self.conv = WeightBinaryConv2d(cin, cout, k)
        self.bn = nn.BatchNorm2d(cout)
        self.slope = slope

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        return ops.qconv(name, self.conv, x, bn=self.bn, skip=skip, act=self.slope if act else None)


class ABC(Unit):
    """bn(sum of M N binary convolutions), one skip over two: M weight and N activation bases.

    See ``layers.convs.BasesConv2d``. It packs as M N convolutions, each adding to the one before:
    that many times the work. Source: Lin et al. 2017 (ABC-Net, arXiv 1711.11294); scales a layer,
    not a filter, as its main text has them.
    """

    skips = "block"

    def __init__(self, cin: int, cout: int, k: int = 3, *, weights: int = 3, activations: int = 3) -> None:
        super().__init__(cin, cout, k)
        if not (1 <= weights <= 8 and 1 <= activations <= 8):
            raise ValueError("weights and activations must be 1 to 8")
        self.conv = BasesConv2d(cin, cout, k, weights=weights, activations=activations)
        self.bn = nn.BatchNorm2d(cout)

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        return ops.bconv(name, self.conv, x, bn=self.bn, skip=skip)


class BAMConv2d(BinaryConv2d):
    """Weights sign(v) * mean|w| per filter, v = w + sum alpha_j w_j, standardised per filter.

    The sum is over the preceding convolutions w_j of the block. Gradients go straight to v, and
    from there as written (see ``BAM``).
    """

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__(cin, cout, k, act="clipped_ste", weight="ste_sign")
        # A tuple, so that they are not submodules of this one as well.
        self.preceding: tuple[nn.Conv2d, ...] = ()

    def precede(self, conv: nn.Conv2d) -> None:
        self.preceding, self.alpha = (conv,), nn.Parameter(torch.ones(1))

    def quantised_weight(self) -> Tensor:
        w = v = self.weight
        if self.weight_mode == "float":
            return w
        for i, conv in enumerate(self.preceding):
            v = v + self.alpha[i] * conv.weight
        return WEIGHTS[self.weight_mode](standardised(v)) * mean_magnitude(w)


class BAM(Unit):
    """bn(conv(sign(norm(accumulated x)), accumulated w)), one skip over two: bit accumulation.

    Both sides accumulate over the preceding convolutions j of the block. Activations: sum_j beta_j
    E_j x_j + E x, E the map of mean|x| over channels, then batch norm, then sign (gradient g *
    1{|x| <= 1}); weights: ``BAMConv2d``. The unit's own coefficients are 1: the normalisation that
    follows makes their size void. Source: Xin et al. 2020 (ECCV), eq. 3-9. Uncertain: E as mean of
    |x| or of x; the weights' normalisation, taken per filter without gain; alpha, which the paper
    solves for, is learned; the gradient of the activations' sign.
    """

    skips = "block"
    unpackable = "BAM weighs each pixel by the size of its activations before the sign"

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__(cin, cout, k)
        self.conv = BAMConv2d(cin, cout, k)
        self.norm = nn.BatchNorm2d(cin)
        self.bn = nn.BatchNorm2d(cout)

    def lead(self, second: Unit) -> None:
        assert isinstance(second, BAM)
        second.conv.precede(self.conv)
        second.beta = nn.Parameter(torch.ones(1))

    def build(
        self,
        ops: Ops[V],
        x: V,
        name: str,
        *,
        skip: V | None = None,
        act: bool = True,
        before: V | None = None,
    ) -> V:
        """before: the input of the preceding convolution of the block."""
        a = x
        if self.conv.act != "float":
            a = ops.torch_only(accumulated, x, self.norm, *(() if before is None else (before, self.beta)))
        return ops.bconv(name, self.conv, a, bn=self.bn, skip=skip)

    def block(self, second: Unit, ops: Ops[V], x: V, name: str) -> V:
        assert isinstance(second, BAM)
        y = self.build(ops, x, f"{name}.unit1")
        return second.build(ops, y, f"{name}.unit2", skip=x, before=x)


def accumulated(
    x: Tensor, norm: nn.Module, before: Tensor | None = None, beta: Tensor | None = None
) -> Tensor:
    """norm(E(x) x + beta E(before) before), E the mean of |.| over channels."""
    v = x * x.abs().mean(dim=1, keepdim=True)
    if before is not None and beta is not None:
        v = v + beta.to(v.dtype) * before * before.abs().mean(dim=1, keepdim=True)
    return norm(v)


class PAMS(Unit):
    """conv(A(x), W(w)) + bias, one skip over two, ReLU between them, no batch norm: 4 bits, not
    one.

    See ``layers.convs.PAMSConv2d``. bits: 2 to 8. Source: Li et al. 2020 (PAMS, ECCV, arXiv
    2011.04212) on EDSR's block, without its knowledge transfer. Its start from a trained float net
    is a first stage of the recipe, with binary = false (examples/tables/methods). There the skip
    carries the quantised input of the block and its sum is quantised once more; here the skip is
    full precision.
    """

    skips = "block"

    def __init__(self, cin: int, cout: int, k: int = 3, *, bits: int = 4) -> None:
        super().__init__(cin, cout, k)
        if not 2 <= bits <= 8:
            raise ValueError("bits must be 2 to 8")
        self.conv = PAMSConv2d(cin, cout, k, bits=bits, bias=True)

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        return ops.qconv(name, self.conv, x, skip=skip, act=0.0 if act else None)
