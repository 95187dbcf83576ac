"""Counts of packed nets: an op list against the same net written by hand. ``test_count`` has nets in torch."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from random_nets import Maker, attention

from bitsr.engine import Engine
from bitsr.eval import about
from bitsr.eval.card import card
from bitsr.eval.complexity import (
    Layer,
    count,
    layer_table,
    packed_layers,
    packed_radius,
    packed_report,
    shared_weights,
)
from bitsr.model_file import ModelFile, Op


def test_groups_and_pixels():
    depthwise = Layer("dw", 32, 32, 5, groups=32, pixels=4)
    assert (depthwise.weights, depthwise.macs) == (800, 3200)


def test_one_bit_weights_alone_buy_no_discount():
    rows = [
        Layer("w1a1", 8, 4, 3, binary=True),
        Layer("w1", 8, 4, 3, weight_only=True, others=4),
        Layer("fp", 4, 1, 1),
    ]
    total = count(rows)
    assert (total.binary_macs, total.fp_macs, total.weight_only_macs) == (288, 292, 288)
    assert total.ops == 292 + 288 / 64 and total.params == 4 + 576 / 32
    assert (total.binary_weights, total.other_params, total.bytes_1_32) == (576, 8, 4 * 8 + 72)
    assert "W1 |" in layer_table(rows) and "W1A1 |" in layer_table(rows)
    assert "bytes" not in layer_table(rows)  # none of them is packed
    assert {line.count("|") for line in layer_table(rows).splitlines()} == {8}


def tiny(channels: int = 24, blocks: int = 2) -> ModelFile:
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
    return ModelFile(t, [Op.parse(line) for line in ops], {"name": "tiny", "colour": "luma"})


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


def test_channel_attention():
    net = attention(0, channels=24, blocks=1)
    layers = {x.name: x for x in packed_layers(net)}
    down, up = (next(x for name, x in layers.items() if name.endswith(part)) for part in (".down", ".up"))
    assert (down.cin, down.cout, down.macs, down.others) == (24, 4, 0, 8)
    assert (up.cin, up.cout, up.macs, up.others) == (4, 24, 0, 24)
    assert sum(x.bytes for x in layers.values()) == sum(t.nbytes for t in net.tensors.values())
    assert packed_radius(net) == Engine(net).radius == inf
    assert "receptive field: the whole image" in packed_report(net)
    assert "the whole image around" in about.describe(net, 1)


def test_eight_maps_are_eight_times_the_work():
    m = Maker(0)
    x = m.conv("lr", 1, 24, 3, 12)
    bits = m.sign(x, 24, False)
    y = m.bconv(bits, 24, 24, 3, None, False, False, map=m.map(x, 24))
    net = m.end(m.bconv(bits, 24, 24, 3, y, False, False, map=m.map(x, 24, 8)), 24, 2)
    one, eight = (x for x in packed_layers(net) if x.name.startswith("m"))
    assert (one.cin, one.cout, one.macs, one.bytes) == (24, 1, 24, 48)
    assert (eight.cin, eight.cout, eight.macs, eight.bytes) == (24, 8, 8 * 24, 8 * 48)
    assert sum(x.bytes for x in packed_layers(net)) == sum(t.nbytes for t in net.tensors.values())


def test_weights_of_one_orientation_count_as_all():
    def net(turns: int):
        m = Maker(0)
        x = m.conv("lr", 1, 24, 3, 12)
        maps = m.map(x, 24, 8, turns)
        y = m.bconv(m.sign(x, 24, True), 24, 16, 3, None, False, False, map=maps, turns=turns)
        return m.end(y, 16, 2)

    one, all = (packed_layers(net(turns)) for turns in (8, 1))
    assert [replace(x, bytes=0) for x in one] == [replace(x, bytes=0) for x in all]
    for turns, layers in ((8, one), (1, all)):
        assert sum(x.bytes for x in layers) == sum(t.nbytes for t in net(turns).tensors.values())
    assert (shared_weights(net(8)), shared_weights(net(1))) == (24 * 16 * 9 // 8, 0)
    assert f"{24 * 16 * 9 // 8:,}" in card(net(8), 1) and "orientation" not in card(net(1), 1)


def test_packed_net_with_a_hole():
    net = tiny()
    net.ops[1] = Op.parse("sign b0 nowhere sign0")
    with pytest.raises(ValueError, match="'nowhere'"):
        packed_layers(net)


def test_report():
    net = tiny()
    text = packed_report(net)
    assert "11 x 11 LR" in text and f"{2 * 24 * 24 * 9:,} of 1 bit" in text
    assert text.endswith(layer_table(packed_layers(net)))
    size = sum(t.nbytes for t in net.tensors.values())
    assert "FP MACs/px | bytes |\n" in text and text.endswith(f"| {size:,} |\n")
    assert text.count("\n| unit") == 2


def test_int8_convolutions():
    """One-bit weights are told apart but cost full MACs; each tensor, also of a shared quant, counts once."""
    m = Maker(0)
    q = m.quant(m.conv("lr", 1, 24, 3, 12), 24)
    x = m.qconv(q, 24, 24, 5, 1)
    net = m.end(m.qconv(q, 24, 24, 3, 8, x), 24, 2)
    _, ones, wide, _ = layers = packed_layers(net)
    assert ones.weight_only and not ones.binary and ones.macs == 24 * 24 * 25
    assert not wide.one_bit and wide.macs == 24 * 24 * 9
    assert (ones.others, wide.others) == (3 * 24, 2 * 24)
    assert sum(x.bytes for x in layers) == sum(t.nbytes for t in net.tensors.values())
    total = count(layers)
    assert total.binary_weights == total.weight_only_macs == ones.macs and total.binary_macs == 0
    assert packed_radius(net) == 4  # head 1, the 5x5 2 (the 3x3 lies beside it and adds to it), tail 1
