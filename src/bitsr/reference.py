"""The arithmetic of the engine in plain numpy: what every path must equal, bit for bit.

It is slow and holds every buffer whole. The formulas are those of csrc/include/bitsr.h and
csrc/kernels/kernels.h.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .model_file import ModelFile, Op
from .symmetry import expand_symmetric

Int = NDArray[np.int16]


def sat(v: NDArray) -> Int:
    """Clip to int16."""
    return np.clip(v, -32768, 32767).astype(np.int16)


def mulh(a: NDArray, b: NDArray) -> Int:
    """Rounding high-half product, (a * b + 2^14) >> 15 (b is never -32768, so it fits int16)."""
    return ((a.astype(np.int32) * b.astype(np.int32) + (1 << 14)) >> 15).astype(np.int16)


def _wrap32(v: NDArray[np.int64]) -> NDArray[np.int64]:
    return ((v + 2**31) & 0xFFFFFFFF) - 2**31


def _patches(x: NDArray, k: int, edge: bool = False) -> NDArray:
    """(h, w, c) -> (h, w, k, k, c); outside the image lie zeros, or with ``edge`` the nearest
    pixels."""
    h, w = x.shape[:2]
    around = ((k // 2, k // 2), (k // 2, k // 2), (0, 0))
    padded = np.pad(x, around, mode="edge" if edge else "constant")
    rows = [[padded[i : i + h, j : j + w] for j in range(k)] for i in range(k)]
    return np.stack([np.stack(r, axis=2) for r in rows], axis=2)


def unpack_signs(words: NDArray[np.uint64], channels: int) -> NDArray[np.int64]:
    """(..., ceil(channels / 64)) words -> (..., channels) of +1 (bit 0) and -1 (bit 1)."""
    shifts = np.arange(64, dtype=np.uint64)
    bits = (words[..., None] >> shifts) & np.uint64(1)
    return 1 - 2 * bits.reshape(*words.shape[:-1], -1)[..., :channels].astype(np.int64)


def _epilogue(op: Op, a: Int, x: dict[str, NDArray], t: dict[str, NDArray]) -> Int:
    """What follows the sum of a binary or an int8 convolution. x: its inputs by role."""
    inner, slope, slope_add = (t.get(f"{op.name}.{s}") for s in ("inner_slope", "slope", "slope_add"))
    mul = t[f"{op.name}.mul"]
    if "map" in x:
        mul = mulh(x["map"][..., np.arange(mul.size) % x["map"].shape[-1]], mul)
    v = sat(mulh(a, mul).astype(np.int32) + t[f"{op.name}.add"])
    if inner is not None:
        v = np.where(v < 0, mulh(v, inner), v)
        v = sat(v.astype(np.int32) + t[f"{op.name}.inner_add"])
    if "skip" in x:
        v = sat(v.astype(np.int32) + x["skip"])
    if slope is not None:
        v = np.where(v < 0, mulh(v, slope), v)
    return v if slope_add is None else sat(v.astype(np.int32) + slope_add)


def sigmoid(z: NDArray) -> NDArray[np.int64]:
    """32767 / (1 + exp(-z / 2048)) of int16, linear between multiples of 128."""
    at = np.arange(513)
    table = np.rint(32767 / (1 + np.exp(-(128 * at - 32768) / 2048))).astype(np.int64)
    i, f = (z.astype(np.int64) + 32768) >> 7, (z.astype(np.int64) + 32768) & 127
    return table[i] + (((table[i + 1] - table[i]) * f + 64) >> 7)


def _run(op: Op, x: list[NDArray], t: dict[str, NDArray]) -> NDArray:
    def tensor(suffix: str) -> NDArray | None:
        return t.get(f"{op.name}.{suffix}") if op.name else None

    if op.kind == "conv":
        weight = t[f"{op.name}.weight"].astype(np.int64)
        acc = np.einsum(
            "hwijc,oijc->hwo",
            _patches(x[0].astype(np.int64), weight.shape[1], bool(op.attrs.get("edge"))),
            weight,
        )
        shift, slope = op.attrs["shift"], tensor("slope")
        v = sat(_wrap32(acc + t[f"{op.name}.bias"] + (1 << (shift - 1))) >> shift)
        return v if slope is None else np.where(v < 0, mulh(v, slope), v)
    if op.kind == "sign":
        threshold = tensor("threshold")
        return np.where(x[0] < (0 if threshold is None else threshold), -1, 1).astype(np.int64)
    if op.kind == "bconv":
        weight = unpack_signs(t[f"{op.name}.weight"], x[0].shape[-1])
        weight = expand_symmetric(weight) if op.attrs.get("turns") else weight
        acc = np.einsum("hwijc,oijc->hwo", _patches(x[0], weight.shape[1]), weight)
        return _epilogue(op, sat(acc << op.attrs["shift"]), dict(zip(op.roles, x[1:], strict=True)), t)
    if op.kind == "map":
        size = np.minimum(np.abs(x[0].astype(np.int64)), 32767)
        weight, shift = np.atleast_2d(t[f"{op.name}.weight"]).astype(np.int64), op.attrs["shift"]
        if op.attrs.get("turns"):
            weight = expand_symmetric(weight[:, None, None])[:, 0, 0]
        return sat(_wrap32(size @ weight.T + (1 << (shift - 1))) >> shift)
    if op.kind == "quant":
        q = mulh(x[0], t[f"{op.name}.mul"]).astype(np.int64)
        shift, top = op.attrs.get("shift", 0), op.attrs.get("max", 127)
        return np.clip((q + (1 << (shift - 1))) >> shift if shift else q, -top, top)
    if op.kind == "qconv":
        weight = t[f"{op.name}.weight"]
        if weight.dtype == np.uint64:
            weight = unpack_signs(weight, x[0].shape[-1])
        acc = np.einsum("hwijc,oijc->hwo", _patches(x[0], weight.shape[1]), weight.astype(np.int64))
        if right := op.attrs.get("shift", 0):
            acc = (acc + (1 << (right - 1))) >> right
        a = sat(acc << op.attrs.get("left", 0))
        return _epilogue(op, a, dict(zip(op.roles, x[1:], strict=True)), t)
    if op.kind == "add":
        return sat(x[0].astype(np.int32) + x[1])
    if op.kind == "concat":
        return np.concatenate(x, -1)
    if op.kind == "repeat":
        return np.repeat(x[0], op.attrs["times"], -1)
    if op.kind == "attend":

        def layer(which: str, v: NDArray) -> Int:
            weight, bias = t[f"{op.name}.{which}.weight"], t[f"{op.name}.{which}.bias"]
            shift = op.attrs[which]
            return sat(_wrap32(weight.astype(np.int64) @ v + bias + (1 << (shift - 1))) >> shift)

        n = x[0].shape[0] * x[0].shape[1]
        hidden = layer("down", (x[0].sum((0, 1), dtype=np.int64) + n // 2) // n)
        hidden = np.where(hidden < 0, mulh(hidden, t[f"{op.name}.slope"]), hidden)
        return mulh(x[0], sigmoid(layer("up", hidden.astype(np.int64))))
    if op.kind == "shuffle":
        h, w, c = x[0].shape
        s = op.attrs["scale"]
        v = x[0].reshape(h, w, c // (s * s), s, s)
        return v.transpose(0, 3, 1, 4, 2).reshape(h * s, w * s, c // (s * s))
    raise ValueError(f"no operation {op.kind!r}")


def run(packed: ModelFile, lr: Int) -> Int:
    """LR luma (h, w) int16 -> SR luma (scale*h, scale*w) int16, as ``Engine.run``."""
    buffers: dict[str, NDArray] = {"lr": lr[:, :, None]}
    for op in packed.ops:
        buffers[op.out] = _run(op, [buffers[name] for name in op.inputs], packed.tensors)
    return buffers["sr"][:, :, 0]
