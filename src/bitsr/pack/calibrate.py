"""Finds the units of the integers of a packed net, by running it on calibration images.

Each channel of the residual stream has a unit of its own, the same wherever skips and additions
carry the channel. It is the finest with which the largest value of the channel on the calibration
images uses two thirds of int16 (sums saturate beyond) and the scales of the binary convolutions
fit their 16-bit multiplier. The engine does not pay for it: multipliers, thresholds and the weights
of head and tail take the units in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.convs import BasesConv2d, QuantConv2d, RunningNorm
from ..layers.ops import TORCH, Activation, FloatConv, Net, Ops, Slope, activate
from .fold import (
    HEADROOM,
    Floats,
    PackError,
    as_conv,
    before_shuffle,
    expand_bases,
    fold_bn,
    integers,
    operands,
    sign_shift,
    sign_sizes,
    slope_of,
    to_numpy,
)

Nodes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor on its way through ``Calibrator``; nodes names the unit of each channel."""

    tensor: Tensor
    nodes: Nodes


class Calibrator(Ops[Value]):
    """Runs the net and gathers what the packed numbers need, over any number of images.

    Channels that skips, additions and shuffles tie together share a unit: a union-find over nodes,
    one for each channel of every value. So do the ``order`` channels of a field, since the packed
    net must be equivariant as the net is. Node 0 is luma, whose unit is given: ``luma``, in the
    numbers of the net.
    """

    def __init__(self, luma: float, order: int = 1) -> None:
        self.luma, self.order = luma, order
        self._parent = [0]
        # Of a node: the finest unit that fits.
        self._unit: list[float] = [0.0]
        # The nodes of each value, in the order of the operations.
        self._values: list[Nodes] = []
        self._next = 0
        self.largest = 0.0
        # The largest magnitude of what else is rounded, by name.
        self.seen: dict[str, float] = {}

    def _find(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = i = self._parent[self._parent[i]]
        return i

    def _join(self, a: Nodes, b: Nodes) -> None:
        for i, j in zip(a.tolist(), b.tolist(), strict=True):
            low, high = sorted((self._find(i), self._find(j)))
            self._parent[high] = low

    def _make(self, x: Tensor, floor: Floats | float = 0.0, together: int | None = None) -> Value:
        """together: how many channels, one after another, share a unit; default those of a
        field."""
        largest = to_numpy(x.abs().amax(dim=(0, 2, 3)))
        self.largest = max(self.largest, float(np.nan_to_num(largest, nan=np.inf).max()))
        if self._next == len(self._values):  # the first image
            self._values.append(np.arange(len(self._parent), len(self._parent) + len(largest)))
            self._parent += self._values[-1].tolist()
            self._unit += [0.0] * len(largest)
            together = together or self.order
            if len(largest) % together == 0:
                groups = self._values[-1].reshape(-1, together)
                self._join(np.repeat(groups[:, 0], together), groups.flatten())
        nodes, self._next = self._values[self._next], self._next + 1
        units: list[float] = np.maximum(largest * HEADROOM / 32767, floor).tolist()
        places: list[int] = nodes.tolist()
        for i, unit in zip(places, units, strict=True):
            self._unit[i] = max(self._unit[i], unit)
        return Value(x, nodes)

    def _see(self, name: str, size: float) -> float:
        self.seen[name] = max(self.seen.get(name, 0.0), size)
        return self.seen[name]

    def run(self, net: Net, y: NDArray[Any]) -> None:
        """One image: Y (h, w) in [0, 255]."""
        self._next = 0
        lr = torch.as_tensor(y, dtype=torch.float32)[None, None] - net.mean
        sr = net.build(self, Value(lr / net.span, np.zeros(1, np.int64)))
        self._join(sr.nodes, np.zeros(1, np.int64))

    def conv(self, name: str, conv: FloatConv, x: Value, *, act: Slope | None = None) -> Value:
        if isinstance(conv, nn.ConvTranspose2d):
            return self.shuffle(self.conv(name, as_conv(conv), x, act=before_shuffle(act)), 2)
        return self._after(TORCH.conv(name, conv, x.tensor), np.zeros(1), act=act)

    def bconv(
        self,
        name: str,
        conv: QuantConv2d,
        x: Value,
        *,
        bn: nn.BatchNorm2d | None = None,
        norm: RunningNorm | None = None,
        threshold: Tensor | None = None,
        inner: Activation | None = None,
        skip: Value | None = None,
        act: Activation | None = None,
        scale_map: Value | None = None,
    ) -> Value:
        if isinstance(conv, BasesConv2d):
            return expand_bases(
                self, name, conv, x, bn=bn, norm=norm, threshold=threshold,
                inner=inner, skip=skip, act=act, scale_map=scale_map,
            )  # fmt: skip
        scale, bias = fold_bn(conv, sign_sizes(name, conv), bn)
        if scale_map is not None:
            if conv.bias is not None:
                raise PackError(f"{name}: a convolution with a scale map packs without bias")
            places: list[int] = scale_map.nodes.tolist()
            scale = scale * max(self._unit[i] for i in places) * 2.0**15
        floor = np.maximum(np.abs(scale) * 2.0 ** (15 - sign_shift(conv)), np.abs(bias)) / 32767
        factors = None if scale_map is None else scale_map.tensor
        v = TORCH.bconv(name, conv, x.tensor, bn=bn, norm=norm, threshold=threshold, scale_map=factors)
        return self._after(v, floor, inner=inner, skip=skip, act=act)

    def scale_map(self, name: str, conv: nn.Conv2d, x: Value) -> Value:
        # One unit for all maps, since they have one shift.
        return self._make(TORCH.scale_map(name, conv, x.tensor), together=conv.out_channels)

    def qconv(
        self,
        name: str,
        conv: FloatConv,
        x: Value,
        *,
        bn: nn.BatchNorm2d | None = None,
        inner: Activation | None = None,
        skip: Value | None = None,
        act: Activation | None = None,
    ) -> Value:
        if isinstance(conv, nn.ConvTranspose2d):
            if any(v is not None for v in (bn, inner, skip)):
                raise PackError(f"{name}: a transposed convolution packs with a PReLU alone")
            slope = before_shuffle(slope_of(name, act))
            return self.shuffle(self.qconv(name, as_conv(conv), x, act=slope), 2)
        _, size = integers(conv)
        scale, bias = fold_bn(conv, size, bn)
        self._see(f"{name}.in", float(x.tensor.abs().max()))
        taken, weight = operands(conv, x.tensor)
        plain = F.conv2d(taken, weight, None, padding=conv.padding)
        sums = float((plain.abs().amax(dim=(0, 2, 3)) / torch.as_tensor(size)).max())
        limits = np.abs(scale) * self._see(f"{name}.sum", sums) * 2 * HEADROOM
        floor = np.maximum(limits, np.abs(bias)) / 32767
        v = TORCH.qconv(name, conv, x.tensor, bn=bn)
        return self._after(v, floor, inner=inner, skip=skip, act=act)

    def _after(
        self,
        v: Tensor,
        floor: Floats,
        *,
        inner: Activation | None = None,
        skip: Value | None = None,
        act: Activation | None = None,
    ) -> Value:
        """act(inner(v) + skip).

        The unit must hold what comes before the activations too: a slope makes it small.
        """
        before: list[Tensor] = []
        if inner is not None:
            before.append(_shifted(v, inner))
            v = activate(v, inner)
            before.append(v)
        if skip is not None:
            v = v + skip.tensor
        if act is not None:
            before.append(_shifted(v, act))
            v = activate(v, act)
        for x in before:
            floor = np.maximum(floor, to_numpy(x.abs().amax(dim=(0, 2, 3))) * HEADROOM / 32767)
        return self._joined(v, skip, floor)

    def _joined(self, x: Tensor, skip: Value | None, floor: Floats) -> Value:
        out = self._make(x, floor)
        if skip is not None:
            self._join(skip.nodes, out.nodes)
        return out

    def attend(self, name: str, down: nn.Conv2d, up: nn.Conv2d, slope: float, x: Value) -> Value:
        hidden: Tensor = down(x.tensor.mean(dim=(2, 3), keepdim=True))
        self._see(f"{name}.hidden", float(hidden.abs().max()))
        return self._joined(TORCH.attend(name, down, up, slope, x.tensor), x, np.zeros(1))

    def torch_only(self, f: Callable[..., Tensor], x: Value, *args: Any) -> Value:
        raise PackError(f"the engine has no operation for {f.__name__}")

    def concat(self, parts: Sequence[Value]) -> Value:
        return Value(TORCH.concat([p.tensor for p in parts]), np.concatenate([p.nodes for p in parts]))

    def repeat(self, x: Value, times: int) -> Value:
        out = self._make(TORCH.repeat(x.tensor, times))
        self._join(np.repeat(x.nodes, times), out.nodes)
        return out

    def add(self, a: Value, b: Value) -> Value:
        out = self._make(TORCH.add(a.tensor, b.tensor))
        self._join(a.nodes, b.nodes)
        self._join(a.nodes, out.nodes)
        return out

    def shuffle(self, x: Value, scale: int) -> Value:
        out = self._make(TORCH.shuffle(x.tensor, scale))
        self._join(x.nodes, np.repeat(out.nodes, scale * scale))
        return out

    def units(self) -> list[Floats]:
        """Of each value in the order of the operations, (C,), in the numbers of the net.

        A channel that is always zero gets a unit all the same.
        """
        roots = [self._find(i) for i in range(len(self._parent))]
        shared = np.zeros(len(roots))
        np.maximum.at(shared, roots, self._unit)
        shared[0] = self.luma
        out = [shared[[roots[i] for i in nodes]] for nodes in self._values]
        return [np.where(unit > 0, unit, unit.max() or 1.0) for unit in out]


def _shifted(v: Tensor, act: Activation) -> Tensor:
    """What the slope of an activation is taken of."""
    return v - act[0].view(1, -1, 1, 1) if isinstance(act, tuple) else v
