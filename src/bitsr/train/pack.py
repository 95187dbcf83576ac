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

from ..nets.binary import WEIGHTS, BinaryConv2d
from ..nets.graph import Eager, Net
from ..packed import Op, Packed
from . import data
from .checkpoint import load_net

LUMA = 128  # int16 luma is round(LUMA * (Y - 127.5))
HEADROOM = 1.5


class PackError(ValueError):
    """The net cannot be packed; the message is one line."""


class _Value:
    """A tensor on its way through ``_Range`` and the group of values that share its units."""

    def __init__(self, tensor: Tensor, index: int) -> None:
        self.tensor, self.index = tensor, index


class _Range:
    """Runs the net and gathers the unit of every value that an operation makes, in the order of the walk."""

    def __init__(self) -> None:
        self._eager = Eager()
        self._parent: list[int] = []
        self._units: list[NDArray[np.float64]] = []  # the finest unit that fits, (C,)
        self._luma: list[bool] = []  # nothing but a shuffle reads it
        self._next = 0
        self.largest = 0.0

    def _find(self, i: int) -> int:
        while self._parent[i] != i:
            i = self._parent[i]
        return i

    def _join(self, i: int, j: int) -> None:
        self._parent[self._find(j)] = self._find(i)

    def _make(self, x: Tensor, floor: NDArray[np.float64] | float = 0.0) -> _Value:
        i, self._next = self._next, self._next + 1
        largest = _numpy(x.abs().amax(dim=(0, 2, 3)))
        self.largest = max(self.largest, float(np.nan_to_num(largest, nan=np.inf).max()))
        unit = np.maximum(largest * HEADROOM / 32767, floor)
        if i == len(self._units):
            self._parent.append(i)
            self._luma.append(True)
            self._units.append(unit)
        else:  # another calibration picture
            self._units[i] = np.maximum(self._units[i], unit)
        return _Value(x, i)

    def _read(self, *values: _Value) -> list[Tensor]:
        for v in values:
            if v.index >= 0:
                self._luma[v.index] = False
        return [v.tensor for v in values]

    def run(self, net: Net, y: NDArray) -> None:
        self._next = 0
        net.build(self, _Value(torch.as_tensor(y, dtype=torch.float32)[None, None] - net.mean, -1))

    def conv(self, name: str, conv: nn.Conv2d, x: _Value) -> _Value:
        return self._make(self._eager.conv(name, conv, *self._read(x)))

    def bconv(
        self, name: str, conv: BinaryConv2d, x: _Value, *, skip: _Value | None = None, **kw: Any
    ) -> _Value:
        scale, _ = _folded(name, conv, kw.get("bn"))
        (v,) = self._read(x)
        s = self._read(skip)[0] if skip else None
        floor = np.abs(scale) * 2.0 ** (15 - _shift(conv)) / 32767
        out = self._make(self._eager.bconv(name, conv, v, skip=s, **kw), floor)
        if skip:
            self._join(skip.index, out.index)
        return out

    def add(self, a: _Value, b: _Value) -> _Value:
        out = self._make(self._eager.add(*self._read(a, b)))
        self._join(a.index, b.index)
        self._join(a.index, out.index)
        return out

    def shuffle(self, x: _Value, scale: int) -> _Value:
        out = self._make(self._eager.shuffle(x.tensor, scale))
        if out.tensor.shape[1] > 1:
            raise PackError("a shuffle within the net has no packed form yet")
        return out

    def units(self) -> list[NDArray[np.float64]]:
        """Of each value in the order of the walk, (C,); a channel that is always zero gets a unit all the same."""
        members: dict[int, list[int]] = {}
        for i in range(len(self._units)):
            members.setdefault(self._find(i), []).append(i)
        out = [np.empty(0)] * len(self._units)
        for group in members.values():
            unit = np.max([self._units[i] for i in group], axis=0)
            if all(self._luma[i] for i in group):
                unit = np.full(len(unit), 1 / LUMA)
            for i in group:
                out[i] = np.where(unit > 0, unit, unit.max() or 1.0)
        return out


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


def _folded(
    name: str, conv: BinaryConv2d, bn: nn.BatchNorm2d | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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

    def __init__(self, units: list[NDArray[np.float64]]) -> None:
        self.ops: list[Op] = []
        self.tensors: dict[str, NDArray] = {}
        self._walk = iter(units)
        self._units: dict[str, NDArray[np.float64]] = {"lr": np.array([1 / LUMA])}
        self._signs: dict[tuple[str, bytes], str] = {}

    def _emit(
        self, kind: str, inputs: tuple[str, ...], name: str, unit: NDArray[np.float64], **attrs: int
    ) -> str:
        out = f"{'b' if kind == 'sign' else 'x'}{len(self.ops)}"
        self.ops.append(Op(kind, out, inputs, name, attrs))
        self._units[out] = unit
        return out

    def conv(self, name: str, conv: nn.Conv2d, x: str) -> str:
        unit = next(self._walk)
        w = _numpy(conv.weight).transpose(0, 2, 3, 1) * self._units[x] / unit[:, None, None, None]
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
            self._signs[key] = self._emit("sign", (x,), name, self._units[x])
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

        unit, t = next(self._walk), self.tensors
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
    net = net.eval().float().cpu()
    seen = _Range()
    for y in calibration:
        seen.run(net, y)
    if not (0 < seen.largest < float("inf")):
        raise PackError("the net's values are not finite")
    emit = _Emit(seen.units())
    net.build(emit, "lr")
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
    from ..evaluate import to_q
    from ..metrics import psnr, to_8bit

    engine, s = Engine(packed), net.scale
    results = []
    for lr, hr in pictures:
        q = to_q(lr)
        # The float net gets what the engine gets, so that the difference is the arithmetic's alone.
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
    root, folder = (Path(pictures), ".") if pictures else (data.default_root(), "valid")
    (files,) = data.find_pairs(root, [folder], "valid", net.scale)
    pairs = data.load_pairs(files, net.scale)
    middles = [_middle(*pairs.picture(i), net.scale) for i in range(len(pairs))]
    packed = pack(net, [lr for lr, _ in middles], name, {k: json.dumps(v) for k, v in facts.items()})
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
