"""The core as WebAssembly, in wasmtime: bit for bit the reference, and one line for whatever it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from random_nets import EXTREME_MAPS, Maker, attention, everything, extreme_maps, srresnet
from test_model_file import GOOD, HOSTILE
from test_qconv import SHAPES, extreme, net
from wasm_core import Instance, Module, Refused, built

from bitsr import reference
from bitsr.model_file import ModelFile

SIZES = [(1, 1), (1, 2), (2, 1), (3, 3), (1, 33), (17, 3), (5, 35), (2, 66)]


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    pytest.importorskip("wasmtime", reason="needs wasmtime, which runs bitsr.wasm")
    return Module(built(tmp_path_factory.mktemp("wasm")))


def plane(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-16320, 16321, (h, w), np.int16)


def check(module: Module, packed: ModelFile, lr: np.ndarray, *portions: int) -> None:
    data, expected = packed.to_bytes(), reference.run(packed, lr)
    for isa in ("wasm", "scalar"):
        for portion in portions or (0,):
            sr = Instance(module, data, isa).run(lr, portion)
            np.testing.assert_array_equal(sr, expected, isa)


def test_every_path_equals_the_reference(module):
    assert Instance(module, GOOD).isas() == ["wasm", "scalar"]
    for make in (srresnet, everything, attention):
        packed = make(seed=1)
        for h, w in SIZES:
            check(module, packed, plane(h, w), 0, 2)
    for channels, scale in ((17, 2), (64, 1), (192, 3)):
        check(module, srresnet(channels, 1, scale, seed=channels), plane(4, 35, seed=scale))
    for value in (-32768, 32767, 0):  # sums wrap and saturate alike
        check(module, srresnet(blocks=1, seed=3), np.full((3, 37), value, np.int16))
    for maps in (1, 8):
        for shift, top in EXTREME_MAPS:
            check(module, extreme_maps(maps, shift, top), plane(2, 19))
    for cin, cout, k in SHAPES:
        for bits in (1, 4, 8):
            check(module, net(Maker(cin), cin, cout, k, bits), plane(2, 19))
    for bits in (1, 8):
        for cout, k in ((32, 3), (4, 3), (1, 9)):
            check(module, extreme(64, cout, k, bits), np.full((k, 7), -32768, np.int16))
    check(module, srresnet(blocks=1, seed=5), plane(70, 3))  # more rows than a ring has


def test_counts_at_their_ends(module):
    """All activations against all weights, alike or not: the largest counts of neighbouring pixels."""
    for word in (0, 2**64 - 1):
        packed = srresnet(blocks=1, seed=2)
        for tensor in packed.tensors.values():
            if tensor.dtype == np.uint64:
                tensor[:] = word
        for lr in (np.full((3, 9), 32767, np.int16), np.full((3, 9), -32768, np.int16), plane(3, 9)):
            check(module, packed, lr)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_one_line(module, name):
    with pytest.raises(Refused, match=r"^[ -~]+$"):
        Instance(module, HOSTILE[name])


def test_rows_too_many_and_impossible_sizes_get_one_line(module):
    for width, why in ((1 << 26, "too large"), (1 << 23, "too wide"), (1 << 20, "no memory")):
        instance = Instance(module, srresnet(seed=1).to_bytes(), memory=1 << 28)
        with pytest.raises(Refused, match=why):
            instance.call("bitsr_stream_open", instance.model, 9, width, 1, 0, instance.err, 256)
    instance = Instance(module, GOOD)
    stream = instance.call("bitsr_stream_open", instance.model, 1, 1, 1, 0, instance.err, 256)
    with pytest.raises(Refused, match="more rows"):
        instance.call("bitsr_stream_push", stream, instance.put(b"\0" * 4), 2, 0, 0, instance.err, 256)


def test_memory_that_ends_anywhere_gets_one_line(module):
    packed = srresnet(blocks=2, seed=1)
    data, lr = packed.to_bytes(), plane(9, 800)
    expected, refused = reference.run(packed, lr), 0
    page = 1 << 16
    for pages in range(1, 1000):
        try:
            instance = Instance(module, data, memory=pages * page)
        except module.wasmtime.WasmtimeError:  # less than the module begins with
            continue
        except Refused as why:
            assert str(why) == "no memory"
            refused += 1
            continue
        try:
            sr = instance.run(lr)
        except Refused as why:
            assert str(why) == "no memory"
            refused += 1
            continue
        np.testing.assert_array_equal(sr, expected)
        break
    assert refused > 5
