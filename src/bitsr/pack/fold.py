"""The arithmetic of packing: batch norm folded, weights to bits, everything else to integers.

Pure functions of arrays and modules; ``PackError`` says what does not fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import BitsrError
from ..layers.convs import (
    BasesConv2d,
    BinaryConv2d,
    Int8Conv2d,
    PAMSConv2d,
    QuantConv2d,
    RunningNorm,
    WeightBinaryConv2d,
)
from ..layers.ops import Activation, Ops, Slope, V
from ..symmetry import expand_symmetric

Floats = NDArray[np.float64]

LUMA = 128
"""Steps of int16 luma in a level: it is round(LUMA * (Y - 127.5))."""
HEADROOM = 1.5
"""How much larger than in calibration a value may become before it saturates."""


class PackError(BitsrError):
    """The net cannot be packed; the message is one line."""


def to_numpy(x: Tensor) -> Floats:
    """A tensor as float64, on the CPU."""
    values: Floats = x.detach().double().cpu().numpy()  # pyright: ignore[reportUnknownMemberType]
    return values


def to_int16(values: Floats, what: str) -> NDArray[np.int16]:
    """values rounded. Raises PackError, naming ``what``, where one is beyond +-32767."""
    out = np.rint(values)
    if not np.isfinite(out).all() or np.abs(out).max(initial=0) > 32767:
        raise PackError(f"{what} does not fit int16: the stream's unit is too small or the net has diverged")
    return out.astype(np.int16)


def pack_signs(w: NDArray[Any]) -> NDArray[np.uint64]:
    """(Cout, Cin, k, k) -> (Cout, k, k, ceil(Cin / 64)) uint64; a bit is 1 where w < 0."""
    cout, cin, k, _ = w.shape
    bits = np.zeros((cout, k, k, -(-cin // 64) * 64), np.uint8)
    bits[..., :cin] = (w < 0).transpose(0, 2, 3, 1)
    return np.packbits(bits, axis=-1, bitorder="little").view("<u8").astype(np.uint64)


def turns(weight: NDArray[Any]) -> dict[str, int]:
    """{"turns": 8} for weights, (Cout, Cin, k, k), that are tied over eight orientations, else {}.

    It is the attribute of an operation; every eighth filter is then enough.
    """
    filters = weight.transpose(0, 2, 3, 1)
    fields = len(filters) % 8 == filters.shape[-1] % 8 == 0
    return {"turns": 8} if fields and np.array_equal(expand_symmetric(filters[::8]), filters) else {}


def sign_shift(conv: QuantConv2d) -> int:
    """The left shift that brings the sum of all taps near the top of int16."""
    taps = conv.in_channels * conv.kernel_size[0] ** 2
    if taps > 32767:
        raise PackError(f"{conv.in_channels} channels are more than 16-bit sums hold")
    return max(s for s in range(15) if taps << s <= 32767)


def sign_sizes(name: str, conv: QuantConv2d) -> Floats:
    """The magnitude of the weights of a binary convolution, (Cout,)."""
    if "float" in (conv.act, conv.weight_mode):
        raise PackError(f"{name} is not binary: only W1A1 convolutions are packed")
    size = np.abs(to_numpy(conv.quantised_weight())).reshape(conv.out_channels, -1)
    if not np.allclose(size, size.max(axis=1, keepdims=True), rtol=1e-4):
        raise PackError(f"{name}: its weights are not one size a filter")
    return size.max(axis=1)


def one_bit(conv: nn.Conv2d) -> bool:
    """Whether the weights are signs, while the input is not."""
    return isinstance(conv, WeightBinaryConv2d) and conv.weight_mode != "float"


def operands(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """The input and the weights that a convolution computes with."""
    if isinstance(conv, QuantConv2d):
        return conv.quantised(x), conv.quantised_weight()
    return x, conv.weight.detach()


def integers(conv: nn.Conv2d) -> tuple[NDArray[np.int8], Floats]:
    """Integer weights (Cout, Cin, k, k) and the step of each filter (Cout,).

    A weight is its integer times the step: +-1 for ``WeightBinaryConv2d``, its own levels for
    ``PAMSConv2d``, else 8 bits, the largest weight of a filter being 127 (``Int8Conv2d``: 7 bits,
    63).
    """
    w = to_numpy(conv.quantised_weight() if isinstance(conv, QuantConv2d) else conv.weight)
    if isinstance(conv, Int8Conv2d) or (isinstance(conv, PAMSConv2d) and conv.weight_mode != "float"):
        step = np.full(len(w), to_numpy(conv.weight_step()).flatten())
    else:
        size = np.abs(w).reshape(len(w), -1).max(axis=1)
        step = np.maximum(size, 1e-12) / (1 if one_bit(conv) else 127)
    return np.rint(w / step[:, None, None, None]).astype(np.int8), step


def fold_bn(conv: nn.Conv2d, size: Floats, bn: nn.BatchNorm2d | None) -> tuple[Floats, Floats]:
    """(scale, bias), (Cout,) each: bn(conv) is scale * (sum of integers) + bias.

    size: (Cout,), what an integer weight stands for.
    """
    bias = np.zeros(len(size)) if conv.bias is None else to_numpy(conv.bias)
    if bn is None:
        return size, bias
    assert bn.running_mean is not None and bn.running_var is not None
    gain = to_numpy(bn.weight) / np.sqrt(to_numpy(bn.running_var) + bn.eps)
    return size * gain, (bias - to_numpy(bn.running_mean)) * gain + to_numpy(bn.bias)


def fixed_point(name: str, w: Floats, b: Floats) -> tuple[NDArray[np.int16], NDArray[np.int32], int]:
    """(weights, biases, shift) as fine as fits: no weight leaves int16, no sum leaves int32.

    w: (Cout, ...), b: (Cout,), for int16 input.
    """
    for shift in range(30, 0, -1):
        wq, bq = np.rint(w * 2.0**shift), np.rint(b * 2.0**shift)
        sums = np.abs(wq).reshape(len(wq), -1).sum(axis=1) * 32768 + np.abs(bq) + 2.0 ** (shift - 1)
        if np.abs(wq).max() <= 32767 and sums.max() < 2**31:
            return wq.astype(np.int16), bq.astype(np.int32), shift
    raise PackError(f"{name} does not fit 16-bit weights")


def as_conv(deconv: nn.ConvTranspose2d) -> nn.Conv2d:
    """The 3x3 convolution to 4 Cout channels that, shuffled by 2, is a transposed convolution.

    deconv: 4x4, stride 2, padding 1. SR row 2y + a takes LR row y + d, d in {-1, 0, 1}, by the tap
    a + 1 - 2d, where there is one.
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


def before_shuffle(slope: Slope | None) -> Slope | None:
    """The slopes of C channels as those of the 4 C before a shuffle by 2."""
    return slope.repeat_interleave(4) if isinstance(slope, Tensor) and slope.numel() > 1 else slope


def slope_of(name: str, act: Activation | None) -> Slope | None:
    """The activation of a transposed convolution, which may be a PReLU alone."""
    if isinstance(act, tuple):
        raise PackError(f"{name}: a transposed convolution packs with a PReLU alone")
    return act


def expand_bases(
    ops: Ops[V],
    name: str,
    conv: BasesConv2d,
    x: V,
    *,
    bn: nn.BatchNorm2d | None = None,
    norm: RunningNorm | None = None,
    threshold: Tensor | None = None,
    inner: Activation | None = None,
    skip: V | None = None,
    act: Activation | None = None,
    scale_map: V | None = None,
) -> V:
    """A sum of binary convolutions as so many, each with the one before as its skip.

    Batch norm is folded into each. The arguments are those of ``Ops.bconv``.
    """
    if "float" in (conv.act, conv.weight_mode):
        raise PackError(f"{name} is not binary: only W1A1 convolutions are packed")
    if any(v is not None for v in (norm, threshold, inner, scale_map)):
        raise PackError(
            f"{name}: a sum of binary convolutions packs without threshold, inner activation and scale map"
        )
    gain, bias = fold_bn(conv, np.ones(conv.out_channels), bn)
    parts, y = conv.parts(), skip
    for i, (t, w) in enumerate(parts):
        last = i == len(parts) - 1
        part = BinaryConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size[0],
            act="abc_half",
            weight="magnitude_aware",
            bias=last,
        )
        part.weight.copy_(w * torch.from_numpy(gain).view(-1, 1, 1, 1))  # pyright: ignore[reportUnknownMemberType]
        if part.bias is not None:
            part.bias.copy_(torch.from_numpy(bias))  # pyright: ignore[reportUnknownMemberType]
        own = t.expand(conv.in_channels)
        y = ops.bconv(f"{name}.{i}", part, x, threshold=own, skip=y, act=act if last else None)
    assert y is not None
    return y
