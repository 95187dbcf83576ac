"""A trained net to a model file: batch norm folded, weights to bits, everything else to integers.

Units. Luma is in 1/128 level. Each channel of the residual stream has a unit of its own, the same wherever skips
and additions carry the channel: the finest with which its largest value on the calibration pictures uses two
thirds of int16 (the sums saturate beyond) and the scales of the binary convolutions fit their 16-bit multiplier.
The engine does not pay for it: multipliers, thresholds and the weights of head and tail take the units in.
Formulas: csrc/bitsr.h.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..folders import data_folder
from ..layers.binarizers import (
    BasesConv2d,
    BinaryConv2d,
    PAMSConv2d,
    QuantConv2d,
    RunningNorm,
    WeightBinaryConv2d,
    in_bytes,
)
from ..layers.ops import Activation, Eager, Net, Walk, activate
from ..methods.literature import unpackable
from ..model_file import Op, Packed
from ..symmetry import turned
from ..train import data, legacy
from ..train.checkpoint import load_net

LUMA = 128  # int16 luma is round(LUMA * (Y - 127.5))
HEADROOM = 1.5
LOGIT = 1 / 2048  # unit of the channel attention's logits


class PackError(ValueError):
    """The net cannot be packed; the message is one line."""


class _Value:
    """A tensor on its way through ``_Range``; ``nodes`` names the unit of each of its channels."""

    def __init__(self, tensor: Tensor, nodes: NDArray[np.int64]) -> None:
        self.tensor, self.nodes = tensor, nodes


class _Range(Walk):
    """Runs the net and gathers what the packed numbers need, over any number of calibration pictures.

    Channels that skips, additions and shuffles tie together share a unit: a union-find over nodes, one a channel of
    every value. So do the ``order`` channels of a field (``nets.symmetry``), that the packed net turns as the net does.
    Node 0 is luma, whose unit is given: ``luma``, in the net's own numbers.
    """

    def __init__(self, luma: float, order: int = 1) -> None:
        self.luma, self.order = luma, order
        self._eager = Eager()
        self._parent = [0]
        self._unit = [0.0]  # of a node: the finest that fits
        self._values: list[NDArray[np.int64]] = []  # nodes, in the order of the walk
        self._next = 0
        self.largest = 0.0
        self.seen: dict[str, float] = {}  # largest magnitude of what else is rounded, by name

    def _find(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = i = self._parent[self._parent[i]]
        return i

    def _join(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        for i, j in zip(a.tolist(), b.tolist(), strict=True):
            low, high = sorted((self._find(i), self._find(j)))
            self._parent[high] = low

    def _make(
        self, x: Tensor, floor: NDArray[np.float64] | float = 0.0, together: int | None = None
    ) -> _Value:
        """together: channels, one after another, that share a unit; default those of a field."""
        largest = _numpy(x.abs().amax(dim=(0, 2, 3)))
        self.largest = max(self.largest, float(np.nan_to_num(largest, nan=np.inf).max()))
        if self._next == len(self._values):  # the first picture
            self._values.append(np.arange(len(self._parent), len(self._parent) + len(largest)))
            self._parent += self._values[-1].tolist()
            self._unit += [0.0] * len(largest)
            together = together or self.order
            if len(largest) % together == 0:
                groups = self._values[-1].reshape(-1, together)
                self._join(np.repeat(groups[:, 0], together), groups.flatten())
        nodes, self._next = self._values[self._next], self._next + 1
        for i, unit in zip(nodes.tolist(), np.maximum(largest * HEADROOM / 32767, floor), strict=True):
            self._unit[i] = max(self._unit[i], unit)
        return _Value(x, nodes)

    def _see(self, name: str, x: Tensor) -> None:
        self.seen[name] = max(self.seen.get(name, 0.0), float(x.abs().max()))

    def run(self, net: Net, y: NDArray) -> None:
        self._next = 0
        lr = torch.as_tensor(y, dtype=torch.float32)[None, None] - net.mean
        sr = net.build(self, _Value(lr / net.span, np.zeros(1, np.int64)))
        self._join(sr.nodes, np.zeros(1, np.int64))

    def conv(
        self,
        name: str,
        conv: nn.Conv2d | nn.ConvTranspose2d,
        x: _Value,
        *,
        act: float | Tensor | None = None,
    ) -> _Value:
        if isinstance(conv, nn.ConvTranspose2d):
            return self.shuffle(self.conv(name, as_conv(conv), x, act=_phases(act)), 2)
        return self._after(self._eager.conv(name, conv, x.tensor), np.zeros(1), act=act)

    def bconv(
        self,
        name: str,
        conv: QuantConv2d,
        x: _Value,
        *,
        bn: nn.BatchNorm2d | None = None,
        norm: RunningNorm | None = None,
        threshold: Tensor | None = None,
        map: _Value | None = None,
        **after: Any,
    ) -> _Value:
        if isinstance(conv, BasesConv2d):
            return _chain(self, name, conv, x, bn=bn, norm=norm, threshold=threshold, map=map, **after)
        scale, bias = _folded(conv, _signs(name, conv), bn)
        if map is not None:
            if conv.bias is not None:
                raise PackError(f"{name}: a convolution with a map packs without bias")
            scale = scale * max(self._unit[i] for i in map.nodes.tolist()) * 2.0**15
        floor = np.maximum(np.abs(scale) * 2.0 ** (15 - _shift(conv)), np.abs(bias)) / 32767
        factors = None if map is None else map.tensor
        return self._after(
            self._eager.bconv(name, conv, x.tensor, bn=bn, norm=norm, threshold=threshold, map=factors),
            floor,
            **after,
        )

    def map(self, name: str, conv: nn.Conv2d, x: _Value) -> _Value:
        # one unit for all maps: they have one shift
        return self._make(self._eager.map(name, conv, x.tensor), together=conv.out_channels)

    def qconv(
        self,
        name: str,
        conv: nn.Conv2d | nn.ConvTranspose2d,
        x: _Value,
        *,
        bn: nn.BatchNorm2d | None = None,
        **after: Any,
    ) -> _Value:
        if isinstance(conv, nn.ConvTranspose2d):
            act = after.pop("act", None)
            if bn is not None or any(v is not None for v in after.values()) or isinstance(act, tuple):
                raise PackError(f"{name}: a transposed convolution packs with a PReLU alone")
            return self.shuffle(self.qconv(name, as_conv(conv), x, act=_phases(act)), 2)
        _, size = integers(conv)
        scale, bias = _folded(conv, size, bn)
        self._see(f"{name}.in", x.tensor)
        taken, weight = _taken(conv, x.tensor)
        plain = F.conv2d(taken, weight, None, padding=conv.padding)
        sums = float((plain.abs().amax(dim=(0, 2, 3)) / torch.as_tensor(size)).max())
        self.seen[f"{name}.sum"] = max(self.seen.get(f"{name}.sum", 0.0), sums)
        sums = np.abs(scale) * self.seen[f"{name}.sum"] * 2 * HEADROOM
        floor = np.maximum(sums, np.abs(bias)) / 32767
        return self._after(self._eager.qconv(name, conv, x.tensor, bn=bn), floor, **after)

    def _after(
        self,
        v: Tensor,
        floor: NDArray[np.float64],
        *,
        inner: Activation | None = None,
        skip: _Value | None = None,
        act: Activation | None = None,
    ) -> _Value:
        """act(inner(v) + skip). The unit must hold what comes before the activations too: a slope makes it small."""
        before = []
        if inner is not None:
            before = [_shifted(v, inner), v := activate(v, inner)]
        if skip is not None:
            v = v + skip.tensor
        if act is not None:
            before.append(_shifted(v, act))
            v = activate(v, act)
        for x in before:
            floor = np.maximum(floor, _numpy(x.abs().amax(dim=(0, 2, 3))) * HEADROOM / 32767)
        return self._joined(v, skip, floor)

    def _joined(self, x: Tensor, skip: _Value | None, floor: NDArray[np.float64]) -> _Value:
        out = self._make(x, floor)
        if skip:
            self._join(skip.nodes, out.nodes)
        return out

    def attend(self, name: str, down: nn.Conv2d, up: nn.Conv2d, slope: float, x: _Value) -> _Value:
        self._see(f"{name}.hidden", down(x.tensor.mean(dim=(2, 3), keepdim=True)))
        return self._joined(self._eager.attend(name, down, up, slope, x.tensor), x, np.zeros(1))

    def beyond(self, f: Callable[..., Tensor], x: _Value, *args: Any, **kw: Any) -> _Value:
        raise PackError(f"the engine has no operation for {f.__name__}")

    def concat(self, parts: Sequence[_Value]) -> _Value:
        return _Value(self._eager.concat([p.tensor for p in parts]), np.concatenate([p.nodes for p in parts]))

    def repeat(self, x: _Value, times: int) -> _Value:
        out = self._make(self._eager.repeat(x.tensor, times))
        self._join(np.repeat(x.nodes, times), out.nodes)
        return out

    def add(self, a: _Value, b: _Value) -> _Value:
        out = self._make(self._eager.add(a.tensor, b.tensor))
        self._join(a.nodes, b.nodes)
        self._join(a.nodes, out.nodes)
        return out

    def shuffle(self, x: _Value, scale: int) -> _Value:
        out = self._make(self._eager.shuffle(x.tensor, scale))
        self._join(x.nodes, np.repeat(out.nodes, scale * scale))
        return out

    def units(self) -> list[NDArray[np.float64]]:
        """Of each value in the order of the walk, (C,); a channel that is always zero gets a unit all the same."""
        roots = [self._find(i) for i in range(len(self._parent))]
        shared = np.zeros(len(roots))
        np.maximum.at(shared, roots, self._unit)
        shared[0] = self.luma
        out = [shared[[roots[i] for i in nodes]] for nodes in self._values]
        return [np.where(unit > 0, unit, unit.max() or 1.0) for unit in out]


def _shifted(v: Tensor, act: Activation) -> Tensor:
    """What the slope of an activation is taken of."""
    return v - act[0].view(1, -1, 1, 1) if isinstance(act, tuple) else v


def _numpy(x: Tensor) -> NDArray[np.float64]:
    return x.detach().double().cpu().numpy()


def _int16(values: NDArray[np.float64], what: str) -> NDArray[np.int16]:
    out = np.rint(values)
    if not np.isfinite(out).all() or np.abs(out).max(initial=0) > 32767:
        raise PackError(f"{what} does not fit int16: the stream's unit is too small or the net has diverged")
    return out.astype(np.int16)


def pack_signs(w: NDArray) -> NDArray[np.uint64]:
    """(Cout, Cin, k, k) -> (Cout, k, k, ceil(Cin / 64)) uint64; bit 1 where w < 0."""
    cout, cin, k, _ = w.shape
    bits = np.zeros((cout, k, k, -(-cin // 64) * 64), np.uint8)
    bits[..., :cin] = (w < 0).transpose(0, 2, 3, 1)
    return np.packbits(bits, axis=-1, bitorder="little").view("<u8").astype(np.uint64)


def _turns(weight: NDArray) -> dict[str, int]:
    """The attribute of an operation whose weights, (Cout, Cin, k, k), are tied over eight orientations: every eighth
    filter is then enough."""
    filters = weight.transpose(0, 2, 3, 1)
    tied = len(filters) % 8 == filters.shape[-1] % 8 == 0 and np.array_equal(turned(filters[::8]), filters)
    return {"turns": 8} if tied else {}


def _shift(conv: QuantConv2d) -> int:
    """Left shift that brings the sum of all taps near the top of int16."""
    taps = conv.in_channels * conv.kernel_size[0] ** 2
    if taps > 32767:
        raise PackError(f"{conv.in_channels} channels are more than 16-bit sums hold")
    return max(s for s in range(15) if taps << s <= 32767)


def _signs(name: str, conv: QuantConv2d) -> NDArray[np.float64]:
    """The size of a binary convolution's weights, (Cout,)."""
    if "float" in (conv.act, conv.weight_mode):
        raise PackError(f"{name} is not binary: only W1A1 convolutions are packed")
    size = np.abs(_numpy(conv.quantised_weight())).reshape(conv.out_channels, -1)
    if not np.allclose(size, size.max(axis=1, keepdims=True), rtol=1e-4):
        raise PackError(f"{name}: its weights are not one size a filter")
    return size.max(axis=1)


def _one_bit(conv: nn.Conv2d) -> bool:
    return isinstance(conv, WeightBinaryConv2d) and conv.weight_mode != "float"


def _taken(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """The input and the weights that a convolution computes with."""
    if isinstance(conv, QuantConv2d):
        return conv.quantised(x), conv.quantised_weight()
    return x, conv.weight.detach()


def integers(conv: nn.Conv2d) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Integer weights (Cout, Cin, k, k) and the step of each filter (Cout,): weight = integer * step.

    +-1 for ``WeightBinaryConv2d``, its own levels for ``PAMSConv2d``; else 8 bits, the largest weight of a filter
    being 127.
    """
    w = _numpy(conv.quantised_weight() if isinstance(conv, QuantConv2d) else conv.weight)
    if isinstance(conv, PAMSConv2d) and conv.weight_mode != "float":
        step = np.full(len(w), float(conv.weight_step()))
    else:
        size = np.abs(w).reshape(len(w), -1).max(axis=1)
        step = np.maximum(size, 1e-12) / (1 if _one_bit(conv) else 127)
    return np.rint(w / step[:, None, None, None]).astype(np.int8), step


def _chain(
    g: Any,
    name: str,
    conv: BasesConv2d,
    x: Any,
    *,
    bn: nn.BatchNorm2d | None = None,
    norm: RunningNorm | None = None,
    threshold: Tensor | None = None,
    inner: Activation | None = None,
    skip: Any = None,
    act: Activation | None = None,
    map: Any = None,
) -> Any:
    """A sum of binary convolutions as so many, each with the one before as its skip; batch norm is folded into each."""
    if "float" in (conv.act, conv.weight_mode):
        raise PackError(f"{name} is not binary: only W1A1 convolutions are packed")
    if any(v is not None for v in (norm, threshold, inner, map)):
        raise PackError(
            f"{name}: a sum of binary convolutions packs without threshold, inner activation and map"
        )
    gain, bias = _folded(conv, np.ones(conv.out_channels), bn)
    parts = conv.parts()
    for i, (t, w) in enumerate(parts):
        last = i == len(parts) - 1
        part = BinaryConv2d(
            conv.in_channels, conv.out_channels, conv.kernel_size[0], act="half", weight="mean", bias=last
        )
        part.weight.copy_(w * torch.from_numpy(gain).view(-1, 1, 1, 1))
        if part.bias is not None:
            part.bias.copy_(torch.from_numpy(bias))
        skip = g.bconv(
            f"{name}.{i}", part, x, threshold=t.expand(conv.in_channels), skip=skip, act=act if last else None
        )
    return skip


def as_conv(deconv: nn.ConvTranspose2d) -> nn.Conv2d:
    """The 3x3 convolution to 4 Cout channels that, shuffled by 2, is a transposed one of 4x4, stride 2, padding 1.

    SR row 2y + a takes LR row y + d, d in {-1, 0, 1}, by the tap a + 1 - 2d, where there is one.
    """
    if (deconv.kernel_size, deconv.stride, deconv.padding) != ((4, 4), (2, 2), (1, 1)):
        raise PackError("a transposed convolution packs at 4x4, stride 2, padding 1")
    cin, cout = deconv.in_channels, deconv.out_channels
    conv = nn.Conv2d(cin, 4 * cout, 3, padding=1, bias=deconv.bias is not None)
    with torch.no_grad():
        w = conv.weight.zero_().view(cout, 2, 2, cin, 3, 3)
        taps = [(a, d + 1, a + 1 - 2 * d) for a in (0, 1) for d in (-1, 0, 1) if 0 <= a + 1 - 2 * d < 4]
        for a, i, ky in taps:
            for b, j, kx in taps:
                w[:, a, b, :, i, j] = deconv.weight[:, :, ky, kx].T
        if conv.bias is not None and deconv.bias is not None:
            conv.bias.copy_(deconv.bias.repeat_interleave(4))
    return conv


def _phases(slope: float | Tensor | None) -> float | Tensor | None:
    """The slopes of C channels as those of the 4 C before a shuffle by 2."""
    return slope.repeat_interleave(4) if isinstance(slope, Tensor) and slope.numel() > 1 else slope


def _folded(
    conv: nn.Conv2d, size: NDArray[np.float64], bn: nn.BatchNorm2d | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(scale, bias), (Cout,) each: bn(conv) is scale * (sum of integer weights times inputs) + bias."""
    bias = np.zeros(len(size)) if conv.bias is None else _numpy(conv.bias)
    if bn is None:
        return size, bias
    gain = _numpy(bn.weight) / np.sqrt(_numpy(bn.running_var) + bn.eps)  # type: ignore[arg-type]
    return size * gain, (bias - _numpy(bn.running_mean)) * gain + _numpy(bn.bias)  # type: ignore[arg-type]


def _fixed(
    name: str, w: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.int16], NDArray[np.int32], int]:
    """(weights, biases, shift) as fine as fits: no weight leaves int16, no sum leaves int32. w: (Cout, ...)."""
    for shift in range(30, 0, -1):
        wq, bq = np.rint(w * 2.0**shift), np.rint(b * 2.0**shift)
        sums = np.abs(wq).reshape(len(wq), -1).sum(axis=1) * 32768 + np.abs(bq) + 2.0 ** (shift - 1)
        if np.abs(wq).max() <= 32767 and sums.max() < 2**31:
            return wq.astype(np.int16), bq.astype(np.int32), shift
    raise PackError(f"{name} does not fit 16-bit weights")


Handle = str | tuple[str, ...]
"""A buffer, or the buffers of a concatenation."""


class _Emit(Walk):
    """The operations of a net as lines and integer tensors. Handles are buffer names."""

    def __init__(self, seen: _Range) -> None:
        self.ops: list[Op] = []
        self.tensors: dict[str, NDArray] = {}
        self._walk, self._seen = iter(seen.units()), seen.seen
        self._units: dict[str, NDArray[np.float64]] = {"lr": np.array([seen.luma])}
        self._made: dict[tuple[Any, ...], str] = {}  # signs, concatenations and roundings are shared

    def _emit(
        self,
        kind: str,
        inputs: tuple[str, ...],
        name: str,
        unit: NDArray[np.float64] | None = None,
        roles: dict[str, str | None] | None = None,
        **attrs: int,
    ) -> str:
        """unit: None for what has none: bits and bytes. roles: inputs by role, None for those that are not there."""
        out = f"{'x' if unit is not None else 'b'}{len(self.ops)}"
        more = {role: x for role, x in (roles or {}).items() if x is not None}
        self.ops.append(Op(kind, out, (*inputs, *more.values()), name, attrs, tuple(more)))
        if unit is not None:
            self._units[out] = unit
        return out

    def conv(
        self,
        name: str,
        conv: nn.Conv2d | nn.ConvTranspose2d,
        x: str,
        *,
        act: float | Tensor | None = None,
    ) -> str:
        if isinstance(conv, nn.ConvTranspose2d):
            return self.shuffle(self.conv(name, as_conv(conv), x, act=_phases(act)), 2)
        unit, t = next(self._walk), self.tensors
        w = _numpy(conv.weight).transpose(0, 2, 3, 1) * self._units[x] / unit[:, None, None, None]
        b = np.zeros(len(w)) if conv.bias is None else _numpy(conv.bias) / unit
        t[f"{name}.weight"], t[f"{name}.bias"], shift = _fixed(name, w, b)
        if act is not None:
            _, t[f"{name}.slope"], _ = self._triple(act, np.zeros(len(w)), name)
        edge = {"edge": 1} if conv.padding_mode == "replicate" else {}
        return self._emit("conv", (x,), name, unit, None, shift=shift, **edge)

    def _sign(self, name: str, x: str, threshold: NDArray[np.float64] | None) -> str:
        # A threshold that no value reaches may lie far beyond int16.
        q = (
            np.zeros(0, np.int16)
            if threshold is None
            else _int16(np.clip(threshold / self._units[x], -32767, 32767), f"{name}.threshold")
        )
        if not q.any():
            name, q = "", q[:0]
        key = ("sign", x, q.tobytes())
        if key not in self._made:
            if name:
                self.tensors[f"{name}.threshold"] = q
            self._made[key] = self._emit("sign", (x,), name)
        return self._made[key]

    def _bits(self, name: str, x: Handle, threshold: NDArray[np.float64] | None) -> str:
        if isinstance(x, str):
            return self._sign(name, x, threshold)
        signs, at = [], 0
        for i, part in enumerate(x):
            n = len(self._units[part])
            own = None if threshold is None else threshold[at : at + n]
            signs.append(self._sign(f"{name}.{i}", part, own))
            at += n
        key = ("concat", *signs)
        if key not in self._made:
            self._made[key] = self._emit("concat", tuple(signs), "")
        return self._made[key]

    def bconv(
        self,
        name: str,
        conv: QuantConv2d,
        x: Handle,
        *,
        bn: nn.BatchNorm2d | None = None,
        norm: RunningNorm | None = None,
        threshold: Tensor | None = None,
        inner: Activation | None = None,
        skip: str | None = None,
        act: Activation | None = None,
        map: str | None = None,
    ) -> str:
        if isinstance(conv, BasesConv2d):
            after = {"inner": inner, "skip": skip, "act": act, "map": map}
            return _chain(self, name, conv, x, bn=bn, norm=norm, threshold=threshold, **after)
        if norm is not None:
            threshold = norm.absolute(threshold)
        scale, bias = _folded(conv, _signs(name, conv), bn)
        shift = _shift(conv)
        if map is not None:
            scale = scale * self._units[map][0] * 2.0**15
        bits = self._bits(name, x, None if threshold is None else _numpy(threshold))
        weight = _numpy(conv.quantised_weight())
        turns = _turns(weight)
        self.tensors[f"{name}.weight"] = pack_signs(weight[::8] if turns else weight)
        unit = next(self._walk)
        self._epilogue(name, scale * 2.0**-shift, bias, unit, inner, act)
        return self._emit("bconv", (bits,), name, unit, {"skip": skip, "map": map}, shift=shift, **turns)

    def map(self, name: str, conv: nn.Conv2d, x: Handle) -> str:
        parts = (x,) if isinstance(x, str) else x
        unit, out, at = next(self._walk), "", 0
        for i, part in enumerate(parts):
            own = name if isinstance(x, str) else f"{name}.{i}"
            n = len(self._units[part])
            w = _numpy(conv.weight)[:, at : at + n, 0, 0] * self._units[part] / unit[0]
            at += n
            q, _, shift = _fixed(own, w, np.zeros(len(w)))
            maps = {"maps": len(q), **_turns(q[:, :, None, None])} if len(q) > 1 else {}
            self.tensors[f"{own}.weight"] = q[0] if len(q) == 1 or "turns" in maps else q
            made = self._emit("map", (part,), own, unit, None, shift=shift, **maps)
            out = self._emit("add", (out, made), "", unit) if out else made
        return out

    def qconv(
        self,
        name: str,
        conv: nn.Conv2d | nn.ConvTranspose2d,
        x: str,
        *,
        bn: nn.BatchNorm2d | None = None,
        inner: Activation | None = None,
        skip: str | None = None,
        act: Activation | None = None,
    ) -> str:
        if isinstance(conv, nn.ConvTranspose2d):
            return self.shuffle(self.qconv(name, as_conv(conv), x, act=_phases(act)), 2)  # type: ignore[arg-type]
        w, size = integers(conv)
        top, largest = 127, self._seen[f"{name}.in"]
        if isinstance(conv, PAMSConv2d) and conv.act != "float":
            if not conv.start > 0:
                raise PackError(f"{name}: its largest activation has not been trained")
            top, largest = conv.levels, float(conv.top())
        # The whole range, one step for all channels. Clipping outliers for the least error of the inputs gains less
        # than half a dB of agreement and can lose much: what is clipped adds up over the taps, as roundings do not.
        step = largest / top or 1.0
        self.tensors[f"{name}.weight"] = pack_signs(w) if _one_bit(conv) else w.transpose(0, 2, 3, 1)
        # The largest sum of the calibration uses between a third and two thirds of int16.
        sums = self._seen[f"{name}.sum"] / step * HEADROOM
        shift = max(-14, min(15, int(np.ceil(np.log2(max(sums, 1.0) / 32767)))))
        scale, bias = _folded(conv, size * step, bn)
        unit = next(self._walk)
        # Luma's unit is given: where a sum is larger than luma can be, it saturates here as it would there.
        while shift > -14 and np.abs(scale / unit).max() * 2.0**shift * 2**15 > 32767:
            shift -= 1
        self._epilogue(name, scale * 2.0**shift, bias, unit, inner, act)
        q = self._quant(name, x, step, top)
        attrs = {"shift": shift} if shift > 0 else {"left": -shift} if shift < 0 else {}
        return self._emit("qconv", (q,), name, unit, {"skip": skip}, **attrs)

    def _quant(self, name: str, x: str, step: float, top: int) -> str:
        key = ("quant", x, step, top)
        if key not in self._made:
            ratio = self._units[x] / step * 2.0**15
            shift = max(s for s in range(15) if (ratio * 2**s).max() <= 32767 or s == 0)
            self.tensors[f"{name}.in.mul"] = _int16(ratio * 2**shift, f"{name}.in.mul")
            self._made[key] = self._emit("quant", (x,), f"{name}.in", shift=shift, max=top)
        return self._made[key]

    def _epilogue(
        self,
        name: str,
        scale: NDArray[np.float64],
        bias: NDArray[np.float64],
        unit: NDArray[np.float64],
        inner: Activation | None,
        act: Activation | None,
    ) -> None:
        """The tensors of act(inner(scale * sum + bias) + skip), whose unit is ``unit``."""
        t = self.tensors
        zeros = np.zeros(len(scale))
        shift_in, inner_slope, inner_add = self._triple(inner, zeros, name)
        outer_in, slope, slope_add = self._triple(act, zeros, name)
        bias = bias - shift_in
        if inner is None:
            bias = bias - outer_in
        else:
            inner_add = inner_add - outer_in
        t[f"{name}.mul"] = _int16(scale / unit * 2.0**15, f"{name}.mul")
        t[f"{name}.add"] = _int16(bias / unit, f"{name}.add")
        if inner is not None:
            t[f"{name}.inner_slope"] = inner_slope
            t[f"{name}.inner_add"] = _int16(inner_add / unit, f"{name}.inner_add")
        if act is not None:
            t[f"{name}.slope"] = slope
            if slope_add.any():
                t[f"{name}.slope_add"] = _int16(slope_add / unit, f"{name}.slope_add")

    @staticmethod
    def _triple(
        act: Activation | None, zeros: NDArray[np.float64], name: str
    ) -> tuple[NDArray[np.float64], NDArray[np.int16], NDArray[np.float64]]:
        """(shift_in, slope, shift_out), (C,) each; the slope is Q15."""
        parts = act if isinstance(act, tuple) else (None, act, None)
        shift_in, slope, shift_out = (
            zeros if p is None else zeros + (_numpy(p) if isinstance(p, Tensor) else p) for p in parts
        )
        if np.abs(slope).max() > 1:
            raise PackError(f"{name}: a slope beyond 1 does not pack")
        return shift_in, np.clip(np.rint(slope * 32768), -32767, 32767).astype(np.int16), shift_out

    def attend(self, name: str, down: nn.Conv2d, up: nn.Conv2d, slope: float, x: str) -> str:
        unit, t = next(self._walk), self.tensors
        hidden = self._seen[f"{name}.hidden"] * HEADROOM / 32767 or 1.0

        def fixed(conv: nn.Conv2d, part: str, unit_in: NDArray[np.float64] | float, unit_out: float) -> int:
            w = _numpy(conv.weight)[:, :, 0, 0] * unit_in / unit_out
            b = np.zeros(len(w)) if conv.bias is None else _numpy(conv.bias) / unit_out
            t[f"{part}.weight"], t[f"{part}.bias"], shift = _fixed(part, w, b)
            return shift

        s1 = fixed(down, f"{name}.down", self._units[x], hidden)
        s2 = fixed(up, f"{name}.up", hidden, LOGIT)
        _, t[f"{name}.slope"], _ = self._triple(slope, np.zeros(down.out_channels), name)
        return self._emit("attend", (x,), name, unit, down=s1, up=s2)

    def concat(self, parts: Sequence[str]) -> tuple[str, ...]:
        return tuple(parts)

    def repeat(self, x: str, times: int) -> str:
        return self._emit("repeat", (x,), "", next(self._walk), times=times)

    def add(self, a: str, b: str) -> str:
        return self._emit("add", (a, b), "", next(self._walk))

    def shuffle(self, x: str, scale: int) -> str:
        return self._emit("shuffle", (x,), "", next(self._walk), scale=scale)


@torch.no_grad()
def pack(
    net: Net, calibration: Sequence[NDArray], name: str, metadata: dict[str, str] | None = None
) -> Packed:
    """Pack a trained net. calibration: LR luma planes (h, w), Y in [0, 255], at least one.

    Raises PackError when the net has no packed form (see the message).
    """
    if not calibration:
        raise PackError("packing needs at least one calibration picture")
    if net.mean != 127.5:
        raise PackError("the engine's luma is centred on 127.5")
    if reason := unpackable(net):
        raise PackError(reason)
    net = net.eval().float().cpu()
    seen = _Range(1 / (LUMA * net.span), net.order)
    for y in calibration:
        seen.run(net, y)
    if not (0 < seen.largest < float("inf")):
        raise PackError("the net's values are not finite")
    emit = _Emit(seen)
    sr = net.build(emit, "lr")
    if emit.ops[-1].kind != "shuffle":  # a net that ends in a convolution
        emit.ops.append(Op("shuffle", "sr", (sr,), "", {"scale": 1}))
    last = emit.ops[-1]
    emit.ops[-1] = Op(last.kind, "sr", last.inputs, last.name, last.attrs)
    about = {
        "name": name,
        "scale": str(net.scale),
        "colour": "Y",
        "net": type(net).__name__,
        "calibration": json.dumps(
            {"pictures": len(calibration), "largest": seen.largest, "headroom": HEADROOM}
        ),
    }
    return Packed(emit.tensors, emit.ops, about | (metadata or {}))


CROP = 192  # LR pixels of each calibration picture, from its middle
TOLERANCE = 0.02  # dB


def _middle(lr: Tensor, hr: Tensor, scale: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    h, w = (min(n, CROP) for n in lr.shape)
    top, left = (lr.shape[0] - h) // 2, (lr.shape[1] - w) // 2
    lr = lr[top : top + h, left : left + w]
    hr = hr[top * scale : (top + h) * scale, left * scale : (left + w) * scale]
    return lr.numpy(), hr.numpy()


def check(net: Net, packed: Packed, pictures: Sequence[tuple[NDArray, NDArray]]) -> list[tuple[float, float]]:
    """(PSNR of the float net, PSNR of the packed bits) in dB on each (LR, HR) pair of luma planes.

    Y rounded to 8 bit, border crop = scale. This is the one place of ``bitsr.train`` that needs the engine.
    """
    from ..engine import Engine
    from ..eval.evaluate import to_q
    from ..eval.metrics import psnr, to_8bit

    engine, s = Engine(packed), net.scale
    results = []
    for lr, hr in pictures:
        q = to_q(lr)
        # The float net gets what the engine gets, so that the difference is the arithmetic's alone.
        with in_bytes(net):
            simulated = net.upscale(torch.from_numpy(q / LUMA + 127.5)).numpy()
        packed_sr = engine.run(q) / LUMA + 127.5
        target = to_8bit(hr)
        results.append(tuple(psnr(to_8bit(sr), target, crop=s) for sr in (simulated, packed_sr)))
    return results  # type: ignore[return-value]


def pack_checkpoint(
    checkpoint: str | os.PathLike[str],
    name: str,
    *,
    pictures: str | os.PathLike[str] | None = None,
    metadata: dict[str, str] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Packed:
    """Pack a checkpoint of ``bitsr train`` and check the result against the float net.

    pictures: folder of HR pictures for calibration and check, default valid/ of the training data.
    note: gets a line for what the user should know. Raises PackError, CheckpointError, DataError or OSError.
    """
    net, facts = load_net(checkpoint)
    if not isinstance(net, Net):
        raise PackError(f"a net of class {type(net).__name__} has no packed form")
    root, folder = (Path(pictures), ".") if pictures else (data_folder(), "valid")
    (files,) = data.find_pairs(root, [folder], "valid", net.scale)
    pairs = data.load_pairs(files, net.scale)
    middles = [_middle(*pairs.image(i), net.scale) for i in range(len(pairs))]
    about = {k: json.dumps(v) for k, v in facts.items()}
    if "recipe" in facts:
        about["objective"] = legacy.parse(facts["recipe"], str(checkpoint)).objective
    packed = pack(net, [lr for lr, _ in middles], name, about)
    results = check(net, packed, middles)
    worst = max(abs(a - b) for a, b in results)
    means = [float(np.mean([r[i] for r in results])) for i in (0, 1)]
    if abs(means[0] - means[1]) > TOLERANCE:
        raise PackError(
            f"packed bits give {means[1]:.3f} dB on the check pictures, the float net {means[0]:.3f} dB"
        )
    note(
        f"check on {len(results)} pictures: float {means[0]:.3f} dB, packed {means[1]:.3f} dB, worst {worst:.3f} dB"
    )
    packed.metadata["check"] = json.dumps(
        {"pictures": len(results), "float_psnr": means[0], "packed_psnr": means[1], "worst_difference": worst}
    )
    packed.metadata.update(metadata or {})
    return packed
