"""A trained net to a model file: batch norm folded, weights to bits, everything else to integers.

Units. Luma is in 1/128 level; the residual stream is in ``unit`` levels: the finest with which the largest
value on the calibration pictures uses two thirds of int16 (the sums saturate beyond) and the largest scale of a
binary convolution fits its 16-bit multiplier. Formulas: csrc/bitsr.h.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..nets.binary import WEIGHTS, BinaryConv2d
from ..nets.graph import Eager, Net
from ..packed import Op, Packed

LUMA = 128  # int16 luma is round(LUMA * (Y - 127.5))
HEADROOM = 1.5


class PackError(ValueError):
    """The net cannot be packed; the message is one line."""


class _Range(Eager):
    """Runs the net and notes the largest |value| of the residual stream and the coarsest unit a scale asks for."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.unit = 0.0

    def _note(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, float(x.abs().max()))
        return x

    def conv(self, name: str, conv: nn.Conv2d, x: Tensor) -> Tensor:
        out = super().conv(name, conv, x)
        return self._note(out) if conv.in_channels == 1 else out

    def bconv(self, name: str, conv: BinaryConv2d, x: Tensor, **kw: Any) -> Tensor:
        scale, _ = _folded(name, conv, kw.get("bn"))
        self.unit = max(self.unit, np.abs(scale).max() * 2.0 ** (15 - _shift(conv)) / 32767)
        return self._note(super().bconv(name, conv, x, **kw))

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return self._note(super().add(a, b))


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


def _shift(conv: BinaryConv2d) -> int:
    """Left shift that brings the sum of all taps near the top of int16."""
    taps = conv.in_channels * conv.kernel_size[0] ** 2
    if taps > 32767:
        raise PackError(f"{conv.in_channels} channels are more than 16-bit sums hold")
    return max(s for s in range(15) if taps << s <= 32767)


def _folded(name: str, conv: BinaryConv2d, bn: nn.BatchNorm2d | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(scale, bias), (Cout,) each: bn(conv) is scale * sum of signs + bias."""
    if "float" in (conv.act, conv.weight_mode):
        raise PackError(f"{name} is not binary: only W1A1 convolutions are packed")
    size = np.abs(_numpy(WEIGHTS[conv.weight_mode](conv.weight))).reshape(conv.out_channels, -1)
    scale = size.max(axis=1)
    if not np.allclose(size, scale[:, None], rtol=1e-4):
        raise PackError(f"{name}: its weights are not one size a filter")
    bias = np.zeros(len(scale)) if conv.bias is None else _numpy(conv.bias)
    if bn is not None:
        gain = _numpy(bn.weight) / np.sqrt(_numpy(bn.running_var) + bn.eps)  # type: ignore[arg-type]
        scale, bias = scale * gain, (bias - _numpy(bn.running_mean)) * gain + _numpy(bn.bias)  # type: ignore[arg-type]
    return scale, bias


class _Emit:
    """The operations of a net as lines and integer tensors. Handles are buffer names."""

    def __init__(self, unit: float) -> None:
        self.unit = unit
        self.ops: list[Op] = []
        self.tensors: dict[str, NDArray] = {}
        self._units = {"lr": 1 / LUMA}
        self._signs: dict[tuple[str, bytes], str] = {}

    def _emit(
        self, kind: str, inputs: tuple[str, ...], name: str, unit: float, out: str = "", **attrs: int
    ) -> str:
        out = out or f"{'b' if kind == 'sign' else 'x'}{len(self.ops)}"
        self.ops.append(Op(kind, out, inputs, name, attrs))
        self._units[out] = unit
        return out

    def conv(self, name: str, conv: nn.Conv2d, x: str) -> str:
        # The first convolution makes the stream, any other takes it back to luma.
        unit_in, unit = self._units[x], self.unit if x == "lr" else 1 / LUMA
        w = _numpy(conv.weight).transpose(0, 2, 3, 1) * (unit_in / unit)
        b = np.zeros(len(w)) if conv.bias is None else _numpy(conv.bias) / unit
        for shift in range(30, 0, -1):  # as fine as fits: no weight leaves int16, no sum leaves int32
            wq, bq = np.rint(w * 2.0**shift), np.rint(b * 2.0**shift)
            sums = np.abs(wq).sum(axis=(1, 2, 3)) * 32768 + np.abs(bq) + 2.0 ** (shift - 1)
            if np.abs(wq).max() <= 32767 and sums.max() < 2**31:
                self.tensors[f"{name}.weight"] = wq.astype(np.int16)
                self.tensors[f"{name}.bias"] = bq.astype(np.int32)
                return self._emit("conv", (x,), name, unit, shift=shift)
        raise PackError(f"{name} does not fit 16-bit weights")

    def _sign(self, name: str, x: str, threshold: NDArray[np.float64] | None) -> str:
        q = (
            np.zeros(0, np.int16)
            if threshold is None
            else _int16(threshold / self._units[x], f"{name}.threshold")
        )
        if not q.any():
            name, q = "", q[:0]
        key = (x, q.tobytes())
        if key not in self._signs:
            if name:
                self.tensors[f"{name}.threshold"] = q
            self._signs[key] = self._emit("sign", (x,), name, 0.0)
        return self._signs[key]

    def bconv(
        self,
        name: str,
        conv: BinaryConv2d,
        x: str,
        *,
        bn: nn.BatchNorm2d | None = None,
        threshold: Tensor | None = None,
        inner: tuple[Tensor, Tensor, Tensor] | None = None,
        skip: str | None = None,
        slope: Tensor | float | None = None,
    ) -> str:
        scale, bias = _folded(name, conv, bn)
        shift = _shift(conv)
        if inner is not None:
            bias = bias - _numpy(inner[0])

        unit, t = self.unit, self.tensors
        t[f"{name}.weight"] = pack_signs(_numpy(conv.weight))
        t[f"{name}.mul"] = _int16(scale / unit * 2.0 ** (15 - shift), f"{name}.mul")
        t[f"{name}.add"] = _int16(bias / unit, f"{name}.add")
        if inner is not None:
            t[f"{name}.inner_slope"] = self._slope(inner[1], conv.out_channels, name)
            t[f"{name}.inner_add"] = _int16(_numpy(inner[2]) / unit, f"{name}.inner_add")
        if slope is not None:
            t[f"{name}.slope"] = self._slope(slope, conv.out_channels, name)
        bits = self._sign(name, x, None if threshold is None else _numpy(threshold))
        return self._emit("bconv", (bits, skip) if skip else (bits,), name, unit, shift=shift)

    @staticmethod
    def _slope(slope: Tensor | float, channels: int, name: str) -> NDArray[np.int16]:
        values = _numpy(slope) if isinstance(slope, Tensor) else np.asarray(slope, np.float64)
        if np.abs(values).max() > 1:
            raise PackError(f"{name}: a slope beyond 1 does not pack")
        return np.broadcast_to(np.minimum(np.rint(values * 32768), 32767), (channels,)).astype(np.int16)

    def add(self, a: str, b: str) -> str:
        return self._emit("add", (a, b), "", self.unit)

    def shuffle(self, x: str, scale: int) -> str:
        return self._emit("shuffle", (x,), "", self._units[x], scale=scale)


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
    net = net.eval().float().cpu()
    seen = _Range()
    for y in calibration:
        net.build(seen, torch.as_tensor(y, dtype=torch.float32)[None, None] - net.mean)
    if not (0 < seen.largest < float("inf")):
        raise PackError("the net's values are not finite")
    emit = _Emit(float(max(seen.largest * HEADROOM / 32767, seen.unit)))
    net.build(emit, "lr")
    last = emit.ops[-1]
    emit.ops[-1] = Op(last.kind, "sr", last.inputs, last.name, last.attrs)
    about = {
        "name": name,
        "scale": str(net.scale),
        "colour": "Y",
        "net": type(net).__name__,
        "stream_unit": repr(emit.unit),
        "calibration": json.dumps(
            {"pictures": len(calibration), "largest": seen.largest, "headroom": HEADROOM}
        ),
    }
    return Packed(emit.tensors, emit.ops, about | (metadata or {}))
