"""Writes a net as the operations and integer tensors of a model file.

Units. Luma is in 1/128 level; each channel of the residual stream has a unit of its own, which
``calibrate`` finds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..eval.net_complexity import layers
from ..layers.convs import BasesConv2d, PAMSConv2d, QuantConv2d, RunningNorm
from ..layers.ops import Activation, FloatConv, Net, Ops, Slope
from ..methods import why_unpackable
from ..model_file import ModelFile, Op
from .calibrate import Calibrator
from .fold import (
    HEADROOM,
    LUMA,
    Floats,
    PackError,
    as_conv,
    before_shuffle,
    expand_bases,
    fixed_point,
    fold_bn,
    integers,
    one_bit,
    pack_signs,
    sign_shift,
    sign_sizes,
    slope_of,
    to_int16,
    to_numpy,
    turns,
)

LOGIT = 1 / 2048
"""Unit of the logits of channel attention."""

Handle = str | tuple[str, ...]
"""A buffer, or the buffers of a concatenation."""


def _buffer(x: Handle) -> str:
    """The one buffer of a handle."""
    if not isinstance(x, str):
        raise PackError("only binary convolutions may read a concatenation")
    return x


def _optional(x: Handle | None) -> str | None:
    return None if x is None else _buffer(x)


class Packer(Ops[Handle]):
    """The operations of a net as lines and integer tensors."""

    def __init__(self, seen: Calibrator) -> None:
        self.ops: list[Op] = []
        self.tensors: dict[str, NDArray[Any]] = {}
        self.units: dict[str, Floats] = {"lr": np.array([seen.luma])}
        self._next_unit = iter(seen.units())
        self._seen = seen.seen
        # Signs, concatenations and roundings are shared.
        self._made: dict[tuple[Any, ...], str] = {}

    def _emit(
        self,
        kind: str,
        inputs: tuple[str, ...],
        name: str,
        unit: Floats | None = None,
        roles: dict[str, str | None] | None = None,
        **attrs: int,
    ) -> str:
        """unit: None for what has none: bits and bytes. roles: inputs by role, None if absent."""
        out = f"{'x' if unit is not None else 'b'}{len(self.ops)}"
        more = {role: x for role, x in (roles or {}).items() if x is not None}
        self.ops.append(Op(kind, out, (*inputs, *more.values()), name, attrs, tuple(more)))
        if unit is not None:
            self.units[out] = unit
        return out

    def conv(self, name: str, conv: FloatConv, x: Handle, *, act: Slope | None = None) -> Handle:
        if isinstance(conv, nn.ConvTranspose2d):
            return self.shuffle(self.conv(name, as_conv(conv), x, act=before_shuffle(act)), 2)
        x, unit, t = _buffer(x), next(self._next_unit), self.tensors
        w = to_numpy(conv.weight).transpose(0, 2, 3, 1) * self.units[x] / unit[:, None, None, None]
        b = np.zeros(len(w)) if conv.bias is None else to_numpy(conv.bias) / unit
        t[f"{name}.weight"], t[f"{name}.bias"], shift = fixed_point(name, w, b)
        if act is not None:
            _, t[f"{name}.slope"], _ = _triple(act, np.zeros(len(w)), name)
        edge = {"edge": 1} if conv.padding_mode == "replicate" else {}
        return self._emit("conv", (x,), name, unit, None, shift=shift, **edge)

    def _sign(self, name: str, x: str, threshold: Floats | None) -> str:
        q = np.zeros(0, np.int16)
        if threshold is not None:
            # A threshold that no value reaches may lie far beyond int16.
            q = to_int16(np.clip(threshold / self.units[x], -32767, 32767), f"{name}.threshold")
        if not q.any():
            name, q = "", q[:0]
        key = ("sign", x, q.tobytes())
        if key not in self._made:
            if name:
                self.tensors[f"{name}.threshold"] = q
            self._made[key] = self._emit("sign", (x,), name)
        return self._made[key]

    def _bits(self, name: str, x: Handle, threshold: Floats | None) -> str:
        if isinstance(x, str):
            return self._sign(name, x, threshold)
        signs: list[str] = []
        at = 0
        for i, part in enumerate(x):
            n = len(self.units[part])
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
        skip: Handle | None = None,
        act: Activation | None = None,
        scale_map: Handle | None = None,
    ) -> Handle:
        if isinstance(conv, BasesConv2d):
            return expand_bases(
                self, name, conv, x, bn=bn, norm=norm, threshold=threshold,
                inner=inner, skip=skip, act=act, scale_map=scale_map,
            )  # fmt: skip
        if norm is not None:
            threshold = norm.absolute(threshold)
        scale, bias = fold_bn(conv, sign_sizes(name, conv), bn)
        shift = sign_shift(conv)
        map = _optional(scale_map)
        if map is not None:
            scale = scale * self.units[map][0] * 2.0**15
        bits = self._bits(name, x, None if threshold is None else to_numpy(threshold))
        weight = to_numpy(conv.quantised_weight())
        tied = turns(weight)
        self.tensors[f"{name}.weight"] = pack_signs(weight[::8] if tied else weight)
        unit = next(self._next_unit)
        self._epilogue(name, scale * 2.0**-shift, bias, unit, inner, act)
        roles = {"skip": _optional(skip), "map": map}
        return self._emit("bconv", (bits,), name, unit, roles, shift=shift, **tied)

    def scale_map(self, name: str, conv: nn.Conv2d, x: Handle) -> Handle:
        parts = (x,) if isinstance(x, str) else x
        unit, out, at = next(self._next_unit), "", 0
        for i, part in enumerate(parts):
            own = name if isinstance(x, str) else f"{name}.{i}"
            n = len(self.units[part])
            w = to_numpy(conv.weight)[:, at : at + n, 0, 0] * self.units[part] / unit[0]
            at += n
            q, _, shift = fixed_point(own, w, np.zeros(len(w)))
            maps = {"maps": len(q), **turns(q[:, :, None, None])} if len(q) > 1 else {}
            self.tensors[f"{own}.weight"] = q[0] if len(q) == 1 or "turns" in maps else q
            made = self._emit("map", (part,), own, unit, None, shift=shift, **maps)
            out = self._emit("add", (out, made), "", unit) if out else made
        return out

    def qconv(
        self,
        name: str,
        conv: FloatConv,
        x: Handle,
        *,
        bn: nn.BatchNorm2d | None = None,
        inner: Activation | None = None,
        skip: Handle | None = None,
        act: Activation | None = None,
    ) -> Handle:
        if isinstance(conv, nn.ConvTranspose2d):
            slope = before_shuffle(slope_of(name, act))
            return self.shuffle(self.qconv(name, as_conv(conv), x, act=slope), 2)
        w, size = integers(conv)
        top, largest = 127, self._seen[f"{name}.in"]
        if isinstance(conv, PAMSConv2d) and conv.act != "float":
            if not conv.start > 0:
                raise PackError(f"{name}: its largest activation has not been trained")
            top, largest = conv.levels, float(conv.top())
        # The whole range, one step for all channels. Clipping outliers for the least error of the
        # inputs gains less than half a dB of agreement and can lose much: what is clipped adds up
        # over the taps, as roundings do not.
        step = largest / top or 1.0
        self.tensors[f"{name}.weight"] = pack_signs(w) if one_bit(conv) else w.transpose(0, 2, 3, 1)
        # The largest sum of the calibration uses between a third and two thirds of int16.
        sums = self._seen[f"{name}.sum"] / step * HEADROOM
        shift = max(-14, min(15, int(np.ceil(np.log2(max(sums, 1.0) / 32767)))))
        scale, bias = fold_bn(conv, size * step, bn)
        unit = next(self._next_unit)
        # The unit of luma is given: where a sum is larger than luma can be, it saturates here as it
        # would there.
        while shift > -14 and np.abs(scale / unit).max() * 2.0**shift * 2**15 > 32767:
            shift -= 1
        self._epilogue(name, scale * 2.0**shift, bias, unit, inner, act)
        q = self._quant(name, _buffer(x), step, top)
        attrs = {"shift": shift} if shift > 0 else {"left": -shift} if shift < 0 else {}
        return self._emit("qconv", (q,), name, unit, {"skip": _optional(skip)}, **attrs)

    def _quant(self, name: str, x: str, step: float, top: int) -> str:
        key = ("quant", x, step, top)
        if key not in self._made:
            ratio = self.units[x] / step * 2.0**15
            shift = max(s for s in range(15) if (ratio * 2**s).max() <= 32767 or s == 0)
            self.tensors[f"{name}.in.mul"] = to_int16(ratio * 2**shift, f"{name}.in.mul")
            self._made[key] = self._emit("quant", (x,), f"{name}.in", shift=shift, max=top)
        return self._made[key]

    def _epilogue(
        self,
        name: str,
        scale: Floats,
        bias: Floats,
        unit: Floats,
        inner: Activation | None,
        act: Activation | None,
    ) -> None:
        """The tensors of act(inner(scale * sum + bias) + skip), whose unit is ``unit``."""
        t = self.tensors
        zeros = np.zeros(len(scale))
        shift_in, inner_slope, inner_add = _triple(inner, zeros, name)
        outer_in, slope, slope_add = _triple(act, zeros, name)
        bias = bias - shift_in
        if inner is None:
            bias = bias - outer_in
        else:
            inner_add = inner_add - outer_in
        t[f"{name}.mul"] = to_int16(scale / unit * 2.0**15, f"{name}.mul")
        t[f"{name}.add"] = to_int16(bias / unit, f"{name}.add")
        if inner is not None:
            t[f"{name}.inner_slope"] = inner_slope
            t[f"{name}.inner_add"] = to_int16(inner_add / unit, f"{name}.inner_add")
        if act is not None:
            t[f"{name}.slope"] = slope
            if slope_add.any():
                t[f"{name}.slope_add"] = to_int16(slope_add / unit, f"{name}.slope_add")

    def attend(self, name: str, down: nn.Conv2d, up: nn.Conv2d, slope: float, x: Handle) -> Handle:
        x, unit, t = _buffer(x), next(self._next_unit), self.tensors
        hidden = self._seen[f"{name}.hidden"] * HEADROOM / 32767 or 1.0

        def fixed(conv: nn.Conv2d, part: str, unit_in: Floats | float, unit_out: float) -> int:
            w = to_numpy(conv.weight)[:, :, 0, 0] * unit_in / unit_out
            b = np.zeros(len(w)) if conv.bias is None else to_numpy(conv.bias) / unit_out
            t[f"{part}.weight"], t[f"{part}.bias"], shift = fixed_point(part, w, b)
            return shift

        s1 = fixed(down, f"{name}.down", self.units[x], hidden)
        s2 = fixed(up, f"{name}.up", hidden, LOGIT)
        _, t[f"{name}.slope"], _ = _triple(slope, np.zeros(down.out_channels), name)
        return self._emit("attend", (x,), name, unit, down=s1, up=s2)

    def torch_only(self, f: Callable[..., Tensor], x: Handle, *args: Any) -> Handle:
        raise PackError(f"the engine has no operation for {f.__name__}")

    def concat(self, parts: Sequence[Handle]) -> Handle:
        return tuple(_buffer(part) for part in parts)

    def repeat(self, x: Handle, times: int) -> Handle:
        return self._emit("repeat", (_buffer(x),), "", next(self._next_unit), times=times)

    def add(self, a: Handle, b: Handle) -> Handle:
        return self._emit("add", (_buffer(a), _buffer(b)), "", next(self._next_unit))

    def shuffle(self, x: Handle, scale: int) -> Handle:
        return self._emit("shuffle", (_buffer(x),), "", next(self._next_unit), scale=scale)


def _triple(act: Activation | None, zeros: Floats, name: str) -> tuple[Floats, NDArray[np.int16], Floats]:
    """(shift_in, slope, shift_out), (C,) each; the slope is Q15."""
    parts = act if isinstance(act, tuple) else (None, act, None)
    shift_in, slope, shift_out = (
        zeros if p is None else zeros + (to_numpy(p) if isinstance(p, Tensor) else p) for p in parts
    )
    if np.abs(slope).max() > 1:
        raise PackError(f"{name}: a slope beyond 1 does not pack")
    return shift_in, np.clip(np.rint(slope * 32768), -32767, 32767).astype(np.int16), shift_out


@torch.no_grad()
def pack(
    net: Net, calibration: Sequence[NDArray[Any]], name: str, metadata: dict[str, str] | None = None
) -> ModelFile:
    """Pack a trained net. calibration: LR luma planes (h, w), Y in [0, 255], at least one.

    The metadata say, besides what is given, ``symmetry``: "8" for a net that is equivariant to
    flips and transposition, else "1"; and ``radius``: how many LR pixels to each side an SR pixel
    depends on, if not on all. Raises PackError when the net has no packed form (see the message).
    """
    if not calibration:
        raise PackError("packing needs at least one calibration image")
    if net.mean != 127.5:
        raise PackError("the engine's luma is centred on 127.5")
    if reason := why_unpackable(net):
        raise PackError(reason)
    net = net.eval().float().cpu()
    seen = Calibrator(1 / (LUMA * net.span), net.order)
    for y in calibration:
        seen.run(net, y)
    if not (0 < seen.largest < float("inf")):
        raise PackError("the net's values are not finite")
    packer = Packer(seen)
    sr = _buffer(net.build(packer, "lr"))
    if packer.ops[-1].kind != "shuffle":  # a net that ends in a convolution
        packer.ops.append(Op("shuffle", "sr", (sr,), "", {"scale": 1}))
    last = packer.ops[-1]
    packer.ops[-1] = Op(last.kind, "sr", last.inputs, last.name, last.attrs)
    _, radius = layers(net)
    about = {
        "name": name,
        "scale": str(net.scale),
        "colour": "Y",
        "net": type(net).__name__,
        "symmetry": "8" if net.order == 8 else "1",
        "calibration": json.dumps(
            {"images": len(calibration), "largest": seen.largest, "headroom": HEADROOM}
        ),
    }
    if np.isfinite(radius):
        about["radius"] = str(radius)
    return ModelFile(packer.tensors, packer.ops, about | (metadata or {}))
