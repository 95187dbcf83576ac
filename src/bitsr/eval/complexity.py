"""Parameters, multiply-accumulates (MACs) and OPs of a network (no torch): the arithmetic, and
packed nets.

``net_complexity`` makes the same ``Layer`` rows of a net in torch.

OPs = full-precision MACs + binary MACs / 64 (ReActNet; Bi-Real; BBCU's Table 1 at 320x180 LR), one
MAC being one operation. A MAC is binary where weight and activation are of one bit; one-bit weights
alone (W1A8, W1A32) buy no discount, as in the papers, and are told apart beside. Whatever is not a
convolution (skips, activations, signs, bit packing) counts nothing: this is a convention for
tables, not a prediction of time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, inf, isinf
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BitsrError, printable

if TYPE_CHECKING:
    from ..model_file import ModelFile

LR_SIZE = (320, 180)
"""Width and height of the LR image for which the papers quote OPs (SR 1280x720 at x4)."""


@dataclass(frozen=True)
class Layer:
    """One convolution: k x k, cin -> cout, at ``pixels`` places for every LR pixel (4 after one x2;
    0: once a image)."""

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
    weight_only: bool = False
    """One-bit weights and wider activations (W1A8, W1A32): full-precision MACs."""

    @property
    def weights(self) -> int:
        return self.cout * (self.cin // self.groups) * self.k * self.k

    @property
    def one_bit(self) -> bool:
        """Whether a weight takes one bit."""
        return self.binary or self.weight_only

    @property
    def macs(self) -> int:
        """MACs an LR pixel; taps outside the image are counted, as everyone does."""
        return self.weights * self.pixels


@dataclass(frozen=True)
class Count:
    """Sums over a network. MACs are per LR pixel; ``at`` gives an image's."""

    binary_weights: int
    """Of one bit, whatever the activations."""
    fp_weights: int
    """Of convolutions, without biases."""
    other_params: int
    """All that are not binary weights."""
    binary_macs: int
    fp_macs: int
    weight_only_macs: int
    """Those of ``fp_macs`` whose weight is of one bit."""

    @property
    def ops(self) -> Fraction:
        """OPs an LR pixel."""
        return self.fp_macs + Fraction(self.binary_macs, 64)

    @property
    def params(self) -> Fraction:
        """The papers' "Params": weights of convolutions, a binary one as 1/32 (BBCU; BI-DiffSR).

        Nothing else counts: so all of BBCU's Table 1 comes out as printed.
        """
        return self.fp_weights + Fraction(self.binary_weights, 32)

    @property
    def bytes_1_32(self) -> int:
        """Bytes with one bit a binary weight and 32 bits any other parameter."""
        return 4 * self.other_params + ceil(Fraction(self.binary_weights, 8))

    def at(self, width: int = LR_SIZE[0], height: int = LR_SIZE[1]) -> tuple[float, float, float]:
        """(binary MACs, full-precision MACs, OPs) of one LR image, in G (10^9)."""
        n = width * height / 1e9
        return self.binary_macs * n, self.fp_macs * n, float(self.ops) * n


def count(layers: Iterable[Layer]) -> Count:
    """Sum over layers."""
    layers = list(layers)
    return Count(
        binary_weights=sum(x.weights for x in layers if x.one_bit),
        fp_weights=sum(x.weights for x in layers if not x.one_bit),
        other_params=sum(x.others + (0 if x.one_bit else x.weights) for x in layers),
        binary_macs=sum(x.macs for x in layers if x.binary),
        fp_macs=sum(x.macs for x in layers if not x.binary),
        weight_only_macs=sum(x.macs for x in layers if x.weight_only),
    )


def packed_layers(model: ModelFile) -> list[Layer]:
    """The convolutions of a packed net in the order of its op list, each with the tensors it owns.

    The threshold of a ``sign`` counts to the convolution that reads the bits, the factors of a
    ``quant`` to the first that reads the bytes. Weights that are stored for one orientation of
    eight count as what is computed with. Raises BitsrError where the op list names what is not
    there; the engine checks everything else.
    """
    values = {"lr": (1, 1)}  # channels, rows (and columns) an LR row
    owned: dict[str, list[str]] = {}
    out: list[Layer] = []
    for op in model.ops:
        try:
            channels, rate = values[op.inputs[0]]
            tensors = [t for t in model.tensors if op.name and t.rpartition(".")[0] == op.name]
            if op.kind in ("conv", "bconv", "qconv"):
                stored, k = model.tensors[f"{op.name}.weight"].shape[:2]
                cout = stored * op.attrs.get("turns", 1)
                tensors += owned.pop(op.inputs[0], [])
                others = sum(model.tensors[t].size for t in tensors) - model.tensors[f"{op.name}.weight"].size
                size = sum(model.tensors[t].nbytes for t in tensors)
                ones = model.tensors[f"{op.name}.weight"].dtype == np.uint64
                kind = {"binary": op.kind == "bconv", "weight_only": op.kind == "qconv" and ones}
                out.append(
                    Layer(op.name, channels, cout, k, pixels=rate * rate, others=others, bytes=size, **kind)
                )
                channels = cout
            elif op.kind == "map":
                size = sum(model.tensors[t].nbytes for t in tensors)
                maps = op.attrs.get("maps", 1)
                out.append(Layer(op.name, channels, maps, 1, pixels=rate * rate, bytes=size))
                channels = maps
            elif op.kind in ("sign", "quant"):
                owned[op.out] = tensors
            elif op.kind == "concat":
                owned[op.out] = [t for name in op.inputs for t in owned.pop(name, [])]
                channels = sum(values[name][0] for name in op.inputs)
            elif op.kind == "attend":
                hidden = model.tensors[f"{op.name}.down.weight"].shape[0]
                for part, cin, cout, names in (
                    ("down", channels, hidden, ("down.weight", "down.bias", "slope")),
                    ("up", hidden, channels, ("up.weight", "up.bias")),
                ):
                    own = [model.tensors[f"{op.name}.{t}"] for t in names]
                    others, size = sum(t.size for t in own[1:]), sum(t.nbytes for t in own)
                    out.append(Layer(f"{op.name}.{part}", cin, cout, 1, pixels=0, others=others, bytes=size))
            elif op.kind == "repeat":
                channels *= op.attrs["times"]
            elif op.kind == "shuffle":
                s = op.attrs["scale"]
                channels, rate = channels // (s * s), rate * s
            values[op.out] = (channels, rate)
        except KeyError as e:
            raise BitsrError(f"operation {op.kind} {op.out} reads {e}, which is not there") from None
    return out


def shared_weights(model: ModelFile) -> int:
    """One-bit weights that are stored once for eight orientations (``turns=8``); 0 where none
    is."""
    shared = {op.name for op in model.ops if op.kind == "bconv" and "turns" in op.attrs}
    return sum(x.weights for x in packed_layers(model) if x.name in shared) // 8


def packed_radius(model: ModelFile) -> float:
    """LR pixels to each side that an SR pixel sees; the receptive field is 2 * radius + 1 wide.

    Infinite where it sees the whole image (channel attention). By ``radius`` of the metadata, else
    from the operations. Raises BitsrError for a radius that is no number.
    """
    if known := model.metadata.get("radius"):
        if known == "inf":
            return inf
        if known.isdecimal() and len(known) < 10:
            return int(known)
        raise BitsrError(f"the radius in the metadata is no number: {known[:40]!r}")
    if any(op.kind == "attend" for op in model.ops):
        return inf
    seen = {"lr": (Fraction(0), 1)}
    radius = Fraction(0)
    for op in model.ops:
        radius, rate = seen[op.inputs[0]]
        if op.kind in ("conv", "bconv", "qconv"):
            radius += Fraction(model.tensors[f"{op.name}.weight"].shape[1] // 2, rate)
        elif op.kind == "shuffle":
            rate *= op.attrs["scale"]
        radius = max(
            [radius, *(seen[name][0] for name in op.inputs[1:])]
        )  # skips and maps are read at their own place
        seen[op.out] = (radius, rate)
    return ceil(radius)


def layer_table(layers: Iterable[Layer]) -> str:
    """Markdown: a line a layer and the total; MACs are per LR pixel. Bytes are a packed file's:
    without one there is no such column."""
    layers = list(layers)
    total = count(layers)
    heads = ["1-bit weights", "other params", "binary MACs/px", "FP MACs/px", "bytes"]
    if not any(x.bytes for x in layers):
        heads.pop()
    lines = [
        f"| layer | shape | bits | {' | '.join(heads)} |",
        "|---|---|---|" + "---:|" * len(heads),
    ]

    def line(name: str, shape: str, bits: str, sums: Count, size: int) -> str:
        row = (sums.binary_weights, sums.other_params, sums.binary_macs, sums.fp_macs, size)[: len(heads)]
        return f"| {name} | {shape} | {bits} | " + " | ".join(f"{n:,}" for n in row) + " |"

    for x in layers:
        where = {0: ", once an image", 1: ""}.get(x.pixels, f", at {x.pixels} px")
        bits = "W1A1" if x.binary else "W1" if x.weight_only else ""
        lines.append(line(x.name, f"{x.cin} -> {x.cout}, {x.k}x{x.k}{where}", bits, count([x]), x.bytes))
    lines.append(line("total", "", "", total, sum(x.bytes for x in layers)))
    return "\n".join(lines) + "\n"


def report(layers: Iterable[Layer], radius: float) -> str:
    """Receptive field, parameters, OPs and a line a layer (Markdown).

    radius: LR pixels to each side that an SR pixel sees, infinite where it sees the whole image.
    """
    layers = list(layers)
    total = count(layers)
    width, height = LR_SIZE
    binary, fp, ops = total.at(width, height)
    field = "the whole image" if isinf(radius) else "{0} x {0} LR pixels".format(2 * ceil(radius) + 1)
    weight_only = total.weight_only_macs * width * height / 1e9
    of_which = f" ({weight_only:.3f} G of them with 1-bit weights)" if weight_only else ""
    lines = [
        f"- receptive field: {field}",
        f"- parameters: {total.binary_weights:,} of 1 bit, {total.other_params:,} others;"
        f" as the papers count, weights alone and 1-bit ones by 32: {float(total.params) / 1e3:.1f} K",
        f"- at {width}x{height} LR: {binary:.2f} G binary MACs, {fp:.3f} G FP MACs{of_which},"
        f" OPs = FP MACs + binary MACs / 64 = {ops:.2f} G",
        "",
        f"{len(layers)} convolutions (MACs per LR pixel):",
        "",
    ]
    return "\n".join(lines) + "\n" + layer_table(layers)


def packed_report(model: ModelFile) -> str:
    """``report`` of a packed net, its text safe on a terminal.

    Full-precision (FP) layers of a packed net run as int16 or int8; they count as the papers count
    floating point.
    """
    told = report(packed_layers(model), packed_radius(model))  # with names of the file
    return "\n".join(map(printable, told.split("\n")))
