"""Parameters, multiply-accumulates (MACs) and OPs of a network, packed or published (no torch).

OPs = full-precision MACs + binary MACs / 64 (ReActNet; Bi-Real; BBCU's Table 1 at 320x180 LR), one MAC being
one operation. Whatever is not a convolution (skips, activations, signs, bit packing) counts nothing, as in
the papers: this is a convention for tables, not a prediction of time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .packed import Packed

LR_SIZE = (320, 180)
"""Width and height of the LR picture for which the papers quote OPs (SR 1280x720 at x4)."""


@dataclass(frozen=True)
class Layer:
    """One convolution: k x k, cin -> cout, at ``pixels`` places for every LR pixel (4 after one x2)."""

    name: str
    cin: int
    cout: int
    k: int
    binary: bool = False
    """One-bit weights and one-bit activations (W1A1)."""
    pixels: int = 1
    groups: int = 1
    others: int = 0
    """Parameters beside the weights: biases, scales, thresholds, slopes."""
    bytes: int = 0
    """Bytes in the packed file, 0 where there is none."""

    @property
    def weights(self) -> int:
        return self.cout * (self.cin // self.groups) * self.k * self.k

    @property
    def macs(self) -> int:
        """MACs an LR pixel; taps outside the picture are counted, as everyone does."""
        return self.weights * self.pixels


@dataclass(frozen=True)
class Count:
    """Sums over a network. MACs are per LR pixel; ``at`` gives a picture's."""

    binary_weights: int
    other_params: int
    binary_macs: int
    fp_macs: int

    @property
    def ops(self) -> Fraction:
        """OPs an LR pixel."""
        return self.fp_macs + Fraction(self.binary_macs, 64)

    @property
    def params_32(self) -> Fraction:
        """BBCU's "Params": full-precision parameters + binary ones / 32."""
        return self.other_params + Fraction(self.binary_weights, 32)

    @property
    def bytes_1_32(self) -> Fraction:
        """Bytes with one bit a binary weight and 32 bits any other parameter, the papers' model size."""
        return 4 * self.params_32

    def at(self, width: int = LR_SIZE[0], height: int = LR_SIZE[1]) -> tuple[float, float, float]:
        """(binary MACs, full-precision MACs, OPs) of one LR picture, in G (10^9)."""
        n = width * height / 1e9
        return self.binary_macs * n, self.fp_macs * n, float(self.ops) * n


def count(layers: Iterable[Layer]) -> Count:
    """Sum over layers."""
    layers = list(layers)
    return Count(
        binary_weights=sum(x.weights for x in layers if x.binary),
        other_params=sum(x.others + (0 if x.binary else x.weights) for x in layers),
        binary_macs=sum(x.macs for x in layers if x.binary),
        fp_macs=sum(x.macs for x in layers if not x.binary),
    )


def e2fif(scale: int, channels: int = 64, blocks: int = 16) -> list[Layer]:
    """SRResNet / EDSR in the E2FIF form on luma: head, 2 binary convolutions a block, one-convolution tail.

    Batch norm counts two parameters a channel (folded scale and shift), head and tail their biases.
    """
    body = [
        Layer(f"body{i // 2}.{i % 2}", channels, channels, 3, binary=True, others=2 * channels)
        for i in range(2 * blocks)
    ]
    s2 = scale * scale
    return [Layer("head", 1, channels, 3, others=channels), *body, Layer("tail", channels, s2, 3, others=s2)]


def msrresnet(scale: int, binary_body: bool = False, binary_upsampler: bool = False) -> list[Layer]:
    """MSRResNet on RGB, 64 channels, 16 blocks, no batch norm: the net that BBCU counts (x2 or x4).

    binary_body is BBCU-L, both are BBCU-M. Biases count outside the body, which gives its figures.
    """
    if scale not in (2, 4):
        raise ValueError(f"msrresnet is counted for x2 and x4, not x{scale}")
    body = [Layer(f"body{i}", 64, 64, 3, binary=binary_body) for i in range(32)]
    up = [
        Layer(f"up{i}", 64, 256, 3, binary=binary_upsampler, pixels=4**i, others=256)
        for i in range(scale // 2)
    ]
    s2 = scale * scale
    hr = Layer("hr", 64, 64, 3, binary=binary_upsampler, pixels=s2, others=64)
    head, last = Layer("head", 3, 64, 3, others=64), Layer("last", 64, 3, 3, pixels=s2, others=3)
    return [head, *body, *up, hr, last]


def packed_layers(packed: Packed) -> list[Layer]:
    """The convolutions of a packed net in the order of its op list, each with the tensors it owns.

    The threshold of a ``sign`` counts to the convolution that reads the bits. Raises ValueError where the op
    list names what is not there; the engine checks everything else.
    """
    values = {"lr": (1, 1)}  # channels, rows (and columns) an LR row
    owned: dict[str, list[str]] = {}
    out = []
    for op in packed.ops:
        try:
            channels, rate = values[op.inputs[0]]
            tensors = [t for t in packed.tensors if op.name and t.startswith(f"{op.name}.")]
            if op.kind in ("conv", "bconv"):
                cout, k = packed.tensors[f"{op.name}.weight"].shape[:2]
                tensors += owned.pop(op.inputs[0], [])
                others = (
                    sum(packed.tensors[t].size for t in tensors) - packed.tensors[f"{op.name}.weight"].size
                )
                size = sum(packed.tensors[t].nbytes for t in tensors)
                binary = op.kind == "bconv"
                out.append(Layer(op.name, channels, cout, k, binary, rate * rate, others=others, bytes=size))
                channels = cout
            elif op.kind == "sign":
                owned[op.out] = tensors
            elif op.kind == "shuffle":
                s = op.attrs["scale"]
                channels, rate = channels // (s * s), rate * s
            values[op.out] = (channels, rate)
        except KeyError as e:
            raise ValueError(f"operation {op.kind} {op.out} reads {e}, which is not there") from None
    return out


def packed_radius(packed: Packed) -> int:
    """LR pixels to each side that an SR pixel sees; the receptive field is 2 * radius + 1 wide."""
    seen = {"lr": (Fraction(0), 1)}
    radius = Fraction(0)
    for op in packed.ops:
        radius, rate = seen[op.inputs[0]]
        if op.kind in ("conv", "bconv"):
            radius += Fraction(packed.tensors[f"{op.name}.weight"].shape[1] // 2, rate)
        elif op.kind == "shuffle":
            rate *= op.attrs["scale"]
        radius = max([radius, *(seen[name][0] for name in op.inputs[1:])])  # a skip reads its own place alone
        seen[op.out] = (radius, rate)
    return ceil(radius)


def table(layers: Iterable[Layer]) -> str:
    """Markdown: a line a layer and the total; MACs are per LR pixel."""
    layers = list(layers)
    total = count(layers)
    lines = [
        "| layer | shape | 1-bit weights | other params | binary MACs/px | FP MACs/px | bytes |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for x in layers:
        row = (
            x.weights if x.binary else 0,
            x.others + (0 if x.binary else x.weights),
            x.macs if x.binary else 0,
            0 if x.binary else x.macs,
            x.bytes,
        )
        shape = f"{x.cin} -> {x.cout}, {x.k}x{x.k}" + (f", at {x.pixels} px" if x.pixels > 1 else "")
        lines.append(f"| {x.name} | {shape} | " + " | ".join(f"{n:,}" for n in row) + " |")
    row = (
        total.binary_weights,
        total.other_params,
        total.binary_macs,
        total.fp_macs,
        sum(x.bytes for x in layers),
    )
    lines.append("| total | | " + " | ".join(f"{n:,}" for n in row) + " |")
    return "\n".join(lines) + "\n"


def describe(packed: Packed, file_bytes: int | None = None) -> str:
    """What ``bitsr info`` prints: metadata, receptive field, layers, totals and OPs (Markdown).

    Full-precision (FP) layers of a packed net run as int16; they count as the papers count floating point.
    """
    layers = packed_layers(packed)
    total = count(layers)
    radius = packed_radius(packed)
    width, height = LR_SIZE
    binary, fp, ops = total.at(width, height)
    lines = [f"- {key}: {value}" for key, value in packed.metadata.items()]
    lines.append(f"- receptive field: {2 * radius + 1} x {2 * radius + 1} LR pixels")
    if file_bytes is not None:
        lines.append(f"- file: {file_bytes:,} bytes")
    lines += [
        f"- parameters: {total.binary_weights:,} of 1 bit, {total.other_params:,} others",
        f"- at {width}x{height} LR: {binary:.2f} G binary MACs, {fp:.3f} G FP MACs,"
        f" OPs = FP MACs + binary MACs / 64 = {ops:.2f} G",
        "",
        f"{len(packed.ops)} operations, of which {len(layers)} convolutions (MACs per LR pixel):",
        "",
    ]
    return "\n".join(lines) + "\n" + table(layers)
