"""Counts against published tables, and a packed op list against the same net written by hand."""

import numpy as np
import pytest

from bitsr.counting import Layer, count, describe, e2fif, msrresnet, packed_layers, packed_radius, table
from bitsr.packed import Op, Packed


@pytest.mark.parametrize(
    ("scale", "fp_macs", "ops", "kilobytes"),
    [(2, 0.166, 1.23, 176), (3, 0.332, 1.39, 187), (4, 0.564, 1.63, 203)],
)
def test_e2fif_64x16(scale, fp_macs, ops, kilobytes):
    total = count(e2fif(scale))
    assert total.binary_weights == 1_179_648
    binary, fp, all_ops = total.at(320, 180)
    assert binary == pytest.approx(67.95, abs=0.005)
    assert fp == pytest.approx(fp_macs, abs=0.0005)
    assert all_ops == pytest.approx(ops, abs=0.005)
    assert total.bytes_1_32 / 1000 == pytest.approx(kilobytes, abs=0.5)


@pytest.mark.parametrize(
    ("scale", "fp_macs", "ops", "megabytes"), [(2, 0.664, 34.6, 4.90), (4, 2.256, 36.2, 5.01)]
)
def test_e2fif_256x32(scale, fp_macs, ops, megabytes):
    total = count(e2fif(scale, 256, 32))
    assert total.binary_weights == 37_748_736
    binary, fp, all_ops = total.at()
    assert binary == pytest.approx(2174.3, abs=0.05)
    assert fp == pytest.approx(fp_macs, abs=0.001)
    assert all_ops == pytest.approx(ops, abs=0.05)
    assert total.bytes_1_32 / 1e6 == pytest.approx(megabytes, abs=0.005)


@pytest.mark.parametrize(
    ("scale", "body", "upsampler", "ops", "kilo_params"),
    [
        (2, False, False, 85.43, None),
        (4, False, False, 146.08, None),  # 146.14 in print
        (2, True, False, 18.55, 225.0),
        (4, True, False, 79.195, 372.7),
        (2, True, True, 1.825, 46.5),
        (4, True, True, 3.948, 51.3),
    ],
)
def test_bbcu_table_1(scale, body, upsampler, ops, kilo_params):
    total = count(msrresnet(scale, body, upsampler))
    assert total.at()[2] == pytest.approx(ops, abs=0.005)
    if kilo_params is not None:
        assert total.params_32 / 1000 == pytest.approx(kilo_params, abs=0.05)


def test_msrresnet_has_no_x3():
    with pytest.raises(ValueError, match="x3"):
        msrresnet(3)


def test_groups_and_pixels():
    depthwise = Layer("dw", 32, 32, 5, groups=32, pixels=4)
    assert (depthwise.weights, depthwise.macs) == (800, 3200)


def tiny(channels: int = 24, blocks: int = 2) -> Packed:
    """head, binary units with skip, tail, shuffle, convolution at x2, shuffle; 24 channels fill no word."""
    t = {
        "head.weight": np.zeros((channels, 3, 3, 1), np.int16),
        "head.bias": np.zeros(channels, np.int32),
        "tail.weight": np.zeros((16, 3, 3, channels), np.int16),
        "tail.bias": np.zeros(16, np.int32),
        "last.weight": np.zeros((4, 3, 3, 4), np.int16),
        "last.bias": np.zeros(4, np.int32),
    }
    ops = ["conv x0 lr head shift=8"]
    for i in range(blocks):
        # unit1 must not take unit10's tensors
        t[f"unit{i}.weight"] = np.zeros((channels, 3, 3, 1), np.uint64)
        t[f"unit{i}.mul"] = t[f"unit{i}.add"] = np.zeros(channels, np.int16)
        t[f"sign{i}.threshold"] = np.zeros(channels, np.int16)
        ops += [f"sign b{i} x{i} sign{i}", f"bconv x{i + 1} b{i} unit{i} shift=4 skip=x{i}"]
    ops += [
        f"add y x{blocks} x0",
        "conv z y tail shift=8",
        "shuffle hr z scale=2",
        "conv q hr last shift=8",
        "shuffle sr q scale=2",
    ]
    return Packed(t, [Op.parse(line) for line in ops], {"name": "tiny", "colour": "luma"})


def test_packed_layers():
    net = tiny(blocks=11)
    head, *units, tail, last = packed_layers(net)
    assert (head.cin, head.cout, head.macs, head.others) == (1, 24, 216, 24)
    assert len(units) == 11
    for u in units:
        assert u.binary and (u.cin, u.cout, u.k) == (24, 24, 3)
        assert u.weights == 24 * 24 * 9  # the channels, not the words' 64 bits
        assert u.others == 3 * 24 and u.bytes == 24 * 9 * 8 + 3 * 24 * 2
    assert (tail.cin, tail.cout, tail.pixels) == (24, 16, 1)
    assert (last.cin, last.macs, last.pixels) == (4, 4 * 144, 4)
    assert sum(x.bytes for x in [head, *units, tail, last]) == sum(t.nbytes for t in net.tensors.values())


def test_packed_radius():
    # head, two units and tail reach one LR pixel each, the convolution at x2 half of one: rounded up.
    assert packed_radius(tiny()) == 5


def test_packed_net_with_a_hole():
    net = tiny()
    net.ops[1] = Op.parse("sign b0 nowhere sign0")
    with pytest.raises(ValueError, match="'nowhere'"):
        packed_layers(net)


def test_describe():
    net = tiny()
    text = describe(net, 12345)
    assert "name: tiny" in text and "11 x 11 LR" in text and "12,345 bytes" in text
    assert f"{2 * 24 * 24 * 9:,} of 1 bit" in text
    assert text.endswith(table(packed_layers(net)))
    assert text.count("\n| unit") == 2
