"""Parameters, multiply-accumulates (MACs) and OPs of a network, packed or published (no torch).

OPs = full-precision MACs + binary MACs / 64 (ReActNet; Bi-Real; BBCU's Table 1 at 320x180 LR), one MAC being
one operation. Whatever is not a convolution (skips, activations, signs, bit packing) counts nothing, as in
the papers: this is a convention for tables, not a prediction of time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

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

    binary_body is BBCU-L, both are BBCU-M. Biases are not counted, as in the paper.
    """
    if scale not in (2, 4):
        raise ValueError(f"msrresnet is counted for x2 and x4, not x{scale}")
    body = [Layer(f"body{i}", 64, 64, 3, binary=binary_body) for i in range(32)]
    up = [Layer(f"up{i}", 64, 256, 3, binary=binary_upsampler, pixels=4**i) for i in range(scale // 2)]
    s2 = scale * scale
    hr = Layer("hr", 64, 64, 3, binary=binary_upsampler, pixels=s2)
    return [Layer("head", 3, 64, 3), *body, *up, hr, Layer("last", 64, 3, 3, pixels=s2)]
