"""The binary methods: ``METHODS`` is the one place to add one.

A method is a ``Unit``: one binarized convolution with all that the method puts around it (scales, normalisation,
thresholds, activation, skip). Nets are made of units and know no method, so each method runs in every backbone.

To add one: derive from ``Unit``, say formula, gradient, source and what is uncertain in the docstring, and enter it in
``METHODS``. If its ``build`` keeps to the engine's operations it packs; else set ``packs`` to the reason it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .binary import ACTIVATIONS, WEIGHTS, BinaryConv2d, WeightBinaryConv2d
from .graph import Activation


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
    two of a residual block. ``packs``: "" if the engine runs it, else why not.
    """

    skips: ClassVar[str] = "conv"
    packs: ClassVar[str] = ""

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        """The unit's walk. skip: what is added to its result, None for nothing. act: whether the activation that
        stands between the convolutions of a block follows."""
        raise NotImplementedError

    def over(self, x: Any) -> Any:
        """x for a method whose skips go over each convolution, else None: the skip of a unit outside of blocks."""
        return x if self.skips == "conv" else None


class E2FIF(Unit):
    """bn(conv(sign(x), sign(w))) + skip, then LeakyReLU(slope).

    Activations: gradient g * max(0, 2 - 2|x|); weights: no scale, identity STE. Source: Lang et al. 2023 (arXiv
    2207.06893) and its released code. The release's convolutions have a bias that batch norm cancels; it is left out.
    """

    def __init__(self, cin: int, cout: int, k: int = 3, *, slope: float = 0.1) -> None:
        super().__init__()
        self.conv = BinaryConv2d(cin, cout, k, act="triangle", weight="identity")
        self.bn = nn.BatchNorm2d(cout)
        self.slope = slope

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        return g.bconv(name, self.conv, x, bn=self.bn, skip=skip, act=self.slope if act else None)


class House(E2FIF):
    """E2FIF with learned thresholds (RSign) before the sign and RPReLU after batch norm, inside the skip.

    rprelu(bn(conv(sign(x - threshold), sign(w)))) + skip, then LeakyReLU(slope). RSign and RPReLU are ReActNet's,
    their place inside the skip BBCU's (arXiv 2210.00405). Both fold into the packed epilogue. ``inner``: initial
    slope of RPReLU; 1 would be the identity, at the edge of what packs.
    """

    def __init__(self, cin: int, cout: int, k: int = 3, *, slope: float = 0.1, inner: float = 0.9) -> None:
        super().__init__(cin, cout, k, slope=slope)
        self.threshold = nn.Parameter(torch.zeros(cin))
        self.inner = RPReLU(cout, inner)

    def build(self, g: Any, x: Any, name: str, *, skip: Any = None, act: bool = True) -> Any:
        after: Activation | None = self.slope if act else None
        inner = self.inner.triple()
        return g.bconv(
            name, self.conv, x, bn=self.bn, threshold=self.threshold, inner=inner, skip=skip, act=after
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


METHODS: dict[str, type[Unit]] = {
    "e2fif": E2FIF,
    "house": House,
    "bnn": BNN,
    "ma": Ma,
    "plain": Plain,
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
    Raises ValueError for an unknown name.
    """
    for name, table in ((method, METHODS), (act or "clip", ACTIVATIONS), (weight or "clip", WEIGHTS)):
        if name not in table:
            raise ValueError(f"unknown {name!r}; known: {', '.join(table)}")

    def make(cin: int, cout: int, k: int = 3) -> Unit:
        unit = METHODS[method](cin, cout, k, **(options or {}))
        for conv in unit.modules():
            if isinstance(conv, WeightBinaryConv2d):
                conv.weight_mode = weight or conv.weight_mode
                conv.binarize(binary)
            elif isinstance(conv, BinaryConv2d):
                conv.act, conv.weight_mode = act or conv.act, weight or conv.weight_mode
                conv.binarize(binary)
        return unit

    return make


class Block(nn.Module):
    """Residual block of two units, C -> C: activation after the first, none after the second."""

    def __init__(self, make: MakeUnit, channels: int) -> None:
        super().__init__()
        self.unit1 = make(channels, channels)
        self.unit2 = make(channels, channels)

    def build(self, g: Any, x: Any, name: str) -> Any:
        y = self.unit1.build(g, x, f"{name}.unit1", skip=self.unit1.over(x))
        second = y if self.unit2.skips == "conv" else x
        return self.unit2.build(g, y, f"{name}.unit2", skip=second, act=False)
