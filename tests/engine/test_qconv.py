"""The int8 convolution and what makes its bytes: every path equals the reference, whatever order its weights lie in."""

from __future__ import annotations

import numpy as np
import pytest
from random_nets import Maker

from bitsr import reference
from bitsr.engine import Engine, isas
from bitsr.model_file import ModelFile, Op

SHAPES = [  # cin, cout, k: both orders of the weights, full and broken vectors
    (1, 1, 9), (1, 64, 3), (3, 5, 5), (4, 16, 1), (5, 1, 1), (17, 33, 3), (20, 2, 7), (64, 1, 9), (64, 3, 3),
    (64, 12, 1), (64, 48, 3), (64, 64, 3), (65, 1, 3), (96, 80, 1), (130, 66, 3), (192, 13, 1),
]  # fmt: skip


def net(m: Maker, cin: int, cout: int, k: int, bits: int, top: int = 127, **options: bool | str) -> ModelFile:
    """lr -> cin channels -> bytes -> cout channels -> a sum of them that seldom saturates."""
    x = m.conv("lr", 1, cin, 3, 12)
    y = m.qconv(m.quant(x, cin, top), cin, cout, k, bits, **options)  # type: ignore[arg-type]
    packed = m.end(y, cout, 1)
    packed.ops[-2].attrs["shift"] = 14 + round(np.log2(cout) / 2)
    return packed


def check(packed: ModelFile, lr: np.ndarray) -> np.ndarray:
    expected = reference.run(packed, lr)
    for isa in isas():
        np.testing.assert_array_equal(Engine(packed, isa=isa, threads=1).run(lr), expected, isa)
    return expected


def plane(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-16320, 16321, (h, w), np.int16)


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize(("cin", "cout", "k"), SHAPES)
def test_shapes(cin, cout, k, bits):
    m = Maker(cin + cout)
    inner, slope = cin % 2 == 0, cout % 2 == 0
    packed = net(m, cin, cout, k, bits, 7 if bits == 4 else 127, inner=inner, slope=slope, slope_add=slope)
    for h, w in ((1, 1), (4, 3), (1, 17), (3, 50), (2, 97)):
        assert len(np.unique(check(packed, plane(h, w, seed=w)))) > 1 or h * w < 20


@pytest.mark.parametrize("bits", [1, 2, 4, 5, 8])
@pytest.mark.parametrize(("cin", "cout", "k"), [(64, 32, 3), (256, 16, 3), (64, 1, 9), (64, 4, 3)])
def test_extreme_sums_are_exact(cin, cout, k, bits):
    for value in (-32768, 32767):
        check(extreme(cin, cout, k, bits), np.full((2 * k, 23), value, np.int16))


def extreme(cin: int, cout: int, k: int, bits: int) -> ModelFile:
    """Every byte is the largest where all of lr is 32767; half of the filters have the largest weights."""
    m = Maker(0)
    packed = net(m, cin, cout, k, bits)
    head, mul, weight = (packed.tensors[n] for n in ("c0.weight", "q1.mul", "u2.weight"))
    head[:] = 3000
    mul[:] = 32767
    packed.ops[0].attrs["shift"] = 1  # the head saturates
    packed.ops[1].attrs["shift"] = 0
    most = max(1, 2 ** (bits - 1) - 1)
    down = np.arange(cout) >= cout // 2
    if bits > 1:
        weight[:] = np.where(down, -most, most)[:, None, None, None]
    else:
        weight[:] = np.where(down, ~np.uint64(0), np.uint64(0))[:, None, None, None]
    packed.ops[2].attrs.clear()
    packed.ops[2].attrs["shift"] = max(0, int(np.ceil(np.log2(cin * k * k * 127 * most / 32767))))
    packed.tensors["u2.mul"][:] = 32767
    packed.tensors["u2.add"][:] = 0
    return packed


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("channels", [2, 5, 16, 17, 32, 33, 64, 65])
def test_a_row_of_convolutions(channels, kept):
    """Bytes made straight from sums, alone or (kept) beside the values, which a skip reads; in strips, by two
    threads."""
    m = Maker(channels)
    x = m.conv("lr", 1, channels, 3, 12, slope=True)
    for bits, top in ((7, 127), (8, 7), (4, 127)):
        q = m.quant(x, channels, top)
        x = m.qconv(q, channels, channels, 3, bits, skip=x if kept else None, slope=bits != 8)
    x = m.qconv(m.quant(x, channels), channels, 4, 3, 7, skip=m.conv("lr", 1, 4, 5, 14, edge=True))
    m.ops.append(Op("shuffle", "sr", (x,), "", {"scale": 2}))
    packed = ModelFile(m.tensors, m.ops, {"name": "row", "scale": "2"})
    for h, w in ((1, 1), (5, 3), (7, 50), (3, 97)):
        lr = plane(h, w, seed=w)
        expected = check(packed, lr)
        for isa in isas():
            with Engine(packed, isa=isa, threads=2).stream(h, w, pass_rows=min(h, 2)) as stream:
                parts = [stream.push(lr[y : y + 2]) for y in range(0, h, 2)]
            np.testing.assert_array_equal(np.concatenate(parts), expected, isa)


@pytest.mark.parametrize("pair", [(64, 64), (-64, -64), (127, 1), (127, -127), (127, 2), (100, 100)])
def test_sums_of_pairs_at_the_limit_of_16_bits(pair):
    """128 times 255 still fits, and one more does not. Bytes are the largest, or the smallest."""
    packed = extreme(16, 16, 3, 8)
    packed.tensors["u2.weight"][..., 0::2], packed.tensors["u2.weight"][..., 1::2] = pair
    for value in (-32768, 32767):
        check(packed, np.full((5, 23), value, np.int16))
    check(packed, np.random.default_rng(0).choice([-32768, 32767], (5, 23)).astype(np.int16))
