"""The model file: written and read back, and nothing hostile gets past the engine."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import Maker, everything, srresnet

from bitsr.engine import Engine, EngineError
from bitsr.model_file import ModelFile, ModelFileError, Op


def with_header(header: object, buffer: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + buffer


def split(data: bytes) -> tuple[dict, bytes]:
    n = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def test_the_same_net_is_the_same_file():
    """Whatever order its tensors and metadata come in."""
    net = srresnet(blocks=1)
    net.metadata |= {f"key{i}": "Grüße" * i for i in range(6)}
    data = net.to_bytes()
    again = ModelFile.from_bytes(data)
    assert (again.metadata, again.ops) == (net.metadata, net.ops)
    turned = ModelFile(
        dict(reversed(again.tensors.items())), again.ops, dict(reversed(again.metadata.items()))
    )
    assert turned.to_bytes() == again.to_bytes() == data
    assert int.from_bytes(data[:8], "little") % 8 == 0


def test_round_trip(tmp_path):
    packed = everything(seed=0)
    path = tmp_path / "net.bsr"
    packed.write(path)
    again = ModelFile.read(path)
    assert [*map(str, again.ops)] == [*map(str, packed.ops)]
    assert again.metadata == packed.metadata
    assert again.tensors.keys() == packed.tensors.keys()
    for name, tensor in packed.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], tensor)
    assert [p.name for p in tmp_path.iterdir()] == ["net.bsr"]
    lr = np.arange(12, dtype=np.int16).reshape(3, 4) * 1000
    np.testing.assert_array_equal(Engine(path).run(lr), Engine(packed).run(lr))


GOOD = srresnet(blocks=1).to_bytes()


def edited(change, data: bytes = GOOD) -> bytes:
    header, buffer = split(data)
    buffer = change(header) or buffer
    return with_header(header, buffer)


def ops(*replace: tuple[str, str]):
    def change(header):
        text = header["__metadata__"]["ops"]
        for old, new in replace:
            assert old in text
            text = text.replace(old, new)
        header["__metadata__"]["ops"] = text

    return change


def tensor(name: str, **values):
    return lambda header: header[name].update(values)


def made(build) -> bytes:
    """A net that ``build`` begins; it gives the name of a buffer of 4 channels."""
    maker = Maker(0)
    return maker.end(build(maker), 4, 2).to_bytes()


def of_bits(width: int, build, channels: int = 64) -> bytes:
    """A net whose 1x1 binary convolution reads ``width`` channels that ``build`` makes from bits."""

    def begin(m: Maker) -> str:
        bits = build(m, m.sign(m.conv("lr", 1, channels, 1, 12), channels, False))
        return m.bconv(bits, width, 4, 1, None, False, False)

    return made(begin)


def attending(change=lambda tensors: None) -> bytes:
    """A net with attention to 4 channels through 2, its tensors changed."""
    m = Maker(0)
    x = m.attend(m.conv("lr", 1, 4, 1, 12), 4, 2)
    change(m.tensors)
    return m.end(x, 4, 2).to_bytes()


def mapped(change=lambda m: None, map: str | None = None) -> bytes:
    """A net with a binary convolution of 4 channels and its map (or another buffer as that), changed."""

    def begin(m: Maker) -> str:
        bits = m.sign(x := m.conv("lr", 1, 4, 1, 12), 4, False)
        plane = m.map(x, 4)
        y = m.bconv(bits, 4, 4, 1, None, False, False, map=map or plane)
        if map:
            y = m.conv(m.plain("add", y, m.conv(plane, 1, 4, 1, 12)), 4, 4, 1, 12)
        change(m)
        return y

    return made(begin)


def of_maps(build=lambda m: None) -> bytes:
    """A net whose binary convolution x3 (8 -> 4, of the bits b2) takes the eight maps x1 of x0, changed."""

    def begin(m: Maker) -> str:
        maps = m.map(x := m.conv("lr", 1, 8, 1, 12), 8, 8)
        y = m.bconv(m.sign(x, 8, False), 8, 4, 1, None, False, False, map=maps)
        return build(m) or y

    return made(begin)


def beside(m: Maker, y: str, channels: int) -> str:
    """x3 and what is made of a buffer of so many channels."""
    return m.plain("add", m.conv(y, channels, 4, 1, 12), "x3")


def larger(m: Maker) -> str:
    """A binary convolution at twice the size, whose maps x1 are not."""
    up = m.plain("shuffle", m.conv("x0", 8, 32, 1, 12), scale=2)
    rest = m.plain("shuffle", m.conv("x3", 4, 16, 1, 12), scale=2)
    return m.bconv(m.sign(up, 8, False), 8, 4, 1, rest, False, False, map="x1")


def of_bytes(build=None, k: int = 1, **tensors: np.ndarray) -> bytes:
    """A net whose int8 convolution u2 (64 -> 4) reads the bytes i1 made of x0, changed by ``build``."""

    def begin(m: Maker) -> str:
        y = m.qconv(m.quant(m.conv("lr", 1, 64, 1, 12), 64), 64, 4, k)
        m.tensors.update({name.replace("__", "."): value for name, value in tensors.items()})
        m.ops[1].attrs.update(shift=7)
        m.ops[2].attrs.clear()
        return (build(m) if build else None) or y

    return made(begin)


def beyond(m: Maker) -> str:
    y = m.qconv(m.quant(m.conv("lr", 1, 3, 1, 12), 3), 3, 4, 1, 1)
    m.tensors["u2.weight"] |= np.uint64(8)
    return y


def with_tensors(**more: np.ndarray) -> bytes:
    packed = srresnet(blocks=1)
    packed.tensors.update({name.replace("__", "."): value for name, value in more.items()})
    return packed.to_bytes()


def many(m: Maker, before: int) -> str:
    """So many additions, an attention (which is two operations to the engine), a few more."""
    x = m.conv("lr", 1, 4, 1, 12)
    for i in range(before + 3):
        x = m.attend(x, 4, 2) if i == before else m.plain("add", x, x)
    return x


HOSTILE = {
    "empty": b"",
    "short": b"\x01\x02",
    "text": b"this is an image, honestly" * 10,
    "header longer than the file": (2**63).to_bytes(8, "little") + b"{}",
    "header cut": GOOD[:100],
    "buffer cut": GOOD[:-8],
    "something behind": GOOD + b"\0",
    "no object": with_header([1, 2]),
    "deep": with_header(b'{"a":' * 10_000),
    "endless string": with_header(b'{"abc'),
    "bad escape": with_header(b'{"\\q":{}}'),
    "no metadata": with_header({}),
    "no operations": with_header({"__metadata__": {"format": "bitsr 1"}}),
    "wrong format": edited(lambda h: h["__metadata__"].update(format="bitsr 2")),
    "wrong format with a line break": edited(
        lambda h: h["__metadata__"].update(format="bitsr\n\x1b[31m\x7f\x9b")
    ),
    "negative offset": edited(tensor("c0.bias", data_offsets=[-1, 255])),
    "huge shape": edited(tensor("c0.bias", shape=[2**62, 2**62])),
    "overlap": edited(tensor("c0.bias", data_offsets=[0, 256])),
    "wrong type": edited(tensor("c0.bias", dtype="F32")),
    "unknown type": edited(tensor("c0.bias", dtype="X9")),
    "missing tensor": edited(ops(("conv x0 lr c0", "conv x0 lr c9"))),
    "unknown operation": edited(ops(("conv x0", "explode x0"))),
    "unknown buffer": edited(ops(("sign b1 x0", "sign b1 nothing"))),
    "made twice": edited(ops(("sign b1 x0", "sign x0 x0"))),
    "reads itself": edited(ops(("sign b1 x0", "sign b1 b1"))),
    "bits as values": edited(ops(("add sum x4 x0", "add sum x4 b1"))),
    "values as bits": edited(ops(("bconv x2 b1", "bconv x2 x0"))),
    "wrong skip": edited(ops(("skip=x0", "skip=lr"))),
    "shift too far": edited(ops(("shift=5", "shift=14"))),
    "shift of zero": edited(ops(("shift=12", "shift=0"))),
    "shift no number": edited(ops(("shift=12", "shift=-3"))),
    "even kernel": edited(tensor("c0.weight", shape=[16, 2, 2, 9])),
    "kernel of 11": made(lambda m: m.conv("lr", 1, 4, 11, 12)),
    "edge of channels": edited(ops(("shift=14", "shift=14 edge=1"))),
    "edge of two": edited(ops(("shift=12", "shift=12 edge=2"))),
    "too many operations": made(lambda m: many(m, 4100)),
    "too many by an attention": made(lambda m: many(m, 4093)),
    "concat of values": of_bits(64 + 1, lambda m, b: m.plain("concat", b, "lr")),
    "concat of values alone": of_bits(2, lambda m, b: m.plain("concat", "lr", "lr")),
    "concat of half words": of_bits(2 * 32, lambda m, b: m.plain("concat", b, b), 32),
    "concat too wide": of_bits(9 * 512, lambda m, b: m.plain("concat", *9 * [b]), 512),
    "repeat of bits": made(lambda m: m.plain("repeat", m.sign(m.conv("lr", 1, 2, 1, 12), 2, False), times=2)),
    "repeat of nothing": made(lambda m: m.plain("repeat", m.conv("lr", 1, 4, 1, 12), times=0)),
    "repeat too often": made(
        lambda m: m.conv(m.plain("repeat", m.conv("lr", 1, 2, 1, 12), times=4096), 8192, 4, 1, 12)
    ),
    "attention to a plane": made(lambda m: m.conv(m.attend("lr", 1, 2), 1, 4, 1, 12)),
    "attention to bits": made(lambda m: m.attend(m.sign(m.conv("lr", 1, 4, 1, 12), 4, False), 4, 2)),
    **{
        f"attention without {name}": attending(lambda t, name=name: t.pop(f"a1.{name}"))
        for name in ("down.weight", "down.bias", "slope", "up.weight", "up.bias")
    },
    "attention through none": attending(
        lambda t: t.update(
            {"a1.down.weight": np.zeros((0, 4), np.int16), "a1.up.weight": np.zeros((4, 0), np.int16)}
        )
    ),
    "attention turned around": attending(lambda t: t.update({"a1.up.weight": t["a1.down.weight"]})),
    "slope of attention that breaks mulh": attending(lambda t: t["a1.slope"].fill(-32768)),
    "attention without shift": edited(ops((" up=15", "")), attending()),
    "attention shifted by none": edited(ops(("down=14", "down=0")), attending()),
    "attention shifted too far": edited(ops(("down=14", "down=31")), attending()),
    "map of a plane": made(
        lambda m: m.bconv(
            m.sign(m.conv("lr", 1, 4, 1, 12), 4, False), 4, 4, 1, None, False, False, map=m.map("lr", 1)
        )
    ),
    "map of bits": of_bits(64, lambda m, b: m.conv(m.map(b, 64), 1, 64, 1, 12)),
    "map without weights": mapped(lambda m: m.tensors.pop("m2.weight")),
    "map of other channels": mapped(lambda m: m.int16("m2.weight", 5)),
    "map that breaks mulh": mapped(lambda m: m.tensors["m2.weight"].fill(-32768)),
    "map without shift": mapped(lambda m: m.ops[2].attrs.clear()),
    "map shifted by none": mapped(lambda m: m.ops[2].attrs.update(shift=0)),
    "map shifted too far": mapped(lambda m: m.ops[2].attrs.update(shift=31)),
    "map of several channels": mapped(map="x0"),
    "map of bytes": mapped(map="b1"),
    "nine maps": of_maps(lambda m: m.ops[1].attrs.update(maps=9)),
    "seven maps": of_maps(
        lambda m: m.ops[1].attrs.update(maps=7) or m.tensors.update({"m1.weight": np.zeros((7, 8), np.int16)})
    ),
    "one map by number": mapped(lambda m: m.ops[2].attrs.update(maps=1)),
    "maps of nothing": of_maps(lambda m: m.ops[1].attrs.update(maps=0)),
    "maps with the weights of one": mapped(lambda m: m.ops[2].attrs.update(maps=8)),
    "a map with the weights of eight": of_maps(lambda m: m.ops[1].attrs.pop("maps") and None),
    "maps of other channels": of_maps(lambda m: m.tensors.update({"m1.weight": np.zeros((8, 9), np.int16)})),
    "maps in one line": of_maps(lambda m: m.tensors.update({"m1.weight": np.zeros(64, np.int16)})),
    "maps that break mulh": of_maps(lambda m: m.tensors["m1.weight"][7, 7:].fill(-32768)),
    "seven turns": of_maps(lambda m: m.ops[3].attrs.update(turns=7)),
    "one turn by number": of_maps(lambda m: m.ops[3].attrs.update(turns=1)),
    "turns of four channels": made(
        lambda m: m.bconv(m.sign(m.conv("lr", 1, 4, 1, 12), 4, False), 4, 8, 1, None, False, False, turns=8)
    ),
    "turns with the weights of all": of_maps(
        lambda m: m.bconv("b2", 8, 8, 1, None, False, False) and m.ops[4].attrs.update(turns=8)
    ),
    "turns to more channels than there may be": of_maps(
        lambda m: beside(m, m.bconv("b2", 8, 8 * 4096, 1, None, False, False, turns=8), 8 * 4096)
    ),
    "turned filters with bits beyond their channels": of_maps(
        lambda m: (
            m.bconv("b2", 8, 8, 1, None, False, False, turns=8)
            and m.tensors["u4.weight"].__ior__(np.uint64(1 << 8)).any()
            and None
        )
    ),
    "one map that turns": of_maps(lambda m: m.map("x0", 8) and m.ops[4].attrs.update(turns=8)),
    "maps that turn with the weights of all": of_maps(lambda m: m.ops[1].attrs.update(turns=8)),
    "maps that turn with the weights of two": of_maps(
        lambda m: (
            m.ops[1].attrs.update(turns=8) or m.tensors.update({"m1.weight": np.zeros((2, 8), np.int16)})
        )
    ),
    "an int8 convolution that turns": of_bytes(lambda m: m.ops[2].attrs.update(turns=8)),
    "channels as maps": of_maps(lambda m: m.bconv("b2", 8, 4, 1, "x3", False, False, map="x0")),
    "maps of another rate": of_maps(larger),
    "maps of a plane": of_maps(lambda m: m.bconv("b2", 8, 4, 1, "x3", False, False, map=m.map("lr", 1, 8))),
    "map of maps": of_maps(lambda m: m.bconv("b2", 8, 4, 1, "x3", False, False, map=m.map("x1", 8))),
    "maps of maps": of_maps(lambda m: m.bconv("b2", 8, 4, 1, "x3", False, False, map=m.map("x1", 8, 8))),
    "maps as bits": of_maps(lambda m: m.bconv("x1", 8, 4, 1, "x3", False, False)),
    "maps concatenated": of_maps(
        lambda m: m.bconv(m.plain("concat", "x1", "b2"), 16, 4, 1, "x3", False, False)
    ),
    "maps as bytes": of_maps(lambda m: m.qconv("x1", 8, 4, 1, 8, "x3")),
    "maps as skip": of_maps(lambda m: beside(m, m.bconv("b2", 8, 8, 1, "x1", False, False), 8)),
    "maps as skip of int8": of_maps(lambda m: beside(m, m.qconv(m.quant("x0", 8), 8, 8, 1, 8, "x1"), 8)),
    "maps and channels added": of_maps(
        lambda m: m.bconv("b2", 8, 4, 1, "x3", False, False, map=m.plain("add", "x1", "x0"))
    ),
    "channels and maps added": of_maps(lambda m: beside(m, m.plain("add", "x0", "x1"), 8)),
    "sum of maps as channels": of_maps(lambda m: beside(m, m.plain("add", "x1", "x1"), 8)),
    "maps convolved": of_maps(lambda m: beside(m, "x1", 8)),
    "sign of maps": of_maps(lambda m: m.bconv(m.sign("x1", 8, False), 8, 4, 1, "x3", False, False)),
    "maps quantised": of_maps(lambda m: m.qconv(m.quant("x1", 8), 8, 4, 1, 8, "x3")),
    "maps repeated": of_maps(lambda m: beside(m, m.plain("repeat", "x1", times=2), 16)),
    "attention to maps": of_maps(lambda m: beside(m, m.attend("x1", 8, 2), 8)),
    "maps shuffled": of_maps(
        lambda m: m.plain(
            "add",
            m.conv(m.plain("shuffle", "x1", scale=2), 2, 4, 1, 12),
            m.plain("shuffle", m.conv("x3", 4, 16, 1, 12), scale=2),
        )
    ),
    "values as bytes": of_bytes(lambda m: m.plain("add", m.qconv("x0", 64, 4, 1), "x2")),
    "bits as bytes": of_bytes(lambda m: m.plain("add", m.qconv(m.sign("x0", 64, False), 64, 4, 1), "x2")),
    "bytes as values": of_bytes(lambda m: m.plain("add", m.conv("i1", 64, 4, 1, 12), "x2")),
    "bytes as bits": of_bytes(lambda m: m.bconv("i1", 64, 4, 1, "x2", False, False)),
    "bytes added": of_bytes(lambda m: m.conv(m.plain("add", "x0", "i1"), 64, 4, 1, 12)),
    "bytes shuffled": of_bytes(lambda m: m.plain("shuffle", "i1", scale=4)),
    "bytes of bytes": of_bytes(lambda m: m.quant("i1", 64)),
    "bytes of bits": of_bytes(lambda m: m.quant(m.sign("x0", 64, False), 64)),
    "skip of bytes": of_bytes(lambda m: m.qconv("i1", 64, 4, 1, 8, m.quant("x2", 4))),
    "skip of other channels": of_bytes(lambda m: m.qconv("i1", 64, 4, 1, 8, "x0")),
    "bytes above 127": of_bytes(lambda m: m.ops[1].attrs.update(max=128)),
    "bytes of nothing": of_bytes(lambda m: m.ops[1].attrs.update(max=0)),
    "shift of bytes too far": of_bytes(lambda m: m.ops[1].attrs.update(shift=15)),
    "sum shifted both ways": of_bytes(lambda m: m.ops[2].attrs.update(shift=3, left=3)),
    "sum shifted too far": of_bytes(lambda m: m.ops[2].attrs.update(shift=25)),
    "sum shifted up too far": of_bytes(lambda m: m.ops[2].attrs.update(left=15)),
    "int8 weight of -128": of_bytes(u2__weight=np.full((4, 1, 1, 64), -128, np.int8)),
    "int8 weights of other channels": of_bytes(u2__weight=np.zeros((4, 1, 1, 63), np.int8)),
    "int8 weights of 16 bits": of_bytes(u2__weight=np.zeros((4, 1, 1, 64), np.int16)),
    "one-bit weights of two words": of_bytes(u2__weight=np.zeros((4, 1, 1, 2), np.uint64)),
    "int8 kernel of 11": of_bytes(u2__weight=np.zeros((4, 11, 11, 64), np.int8)),
    "int8 sums beyond 32 bits": made(
        lambda m: m.qconv(m.quant(m.conv("lr", 1, 1640, 1, 12), 1640), 1640, 4, 9)
    ),
    "one-bit weights beyond the channels": made(beyond),
    "scale too large": edited(ops(("scale=4", "scale=999999"))),
    "scale zero": edited(ops(("scale=4", "scale=0"))),
    "no end": edited(ops(("shuffle sr", "shuffle rs"))),
    "unknown argument": edited(ops(("scale=4", "scale=4 gain=3"))),
    "unread": edited(ops(("sign b1 x0", "sign b1 x0\nsign extra x0"))),
    "slope_add without slope": with_tensors(u4__slope_add=np.zeros(64, np.int16)),
    "slope of conv that breaks mulh": with_tensors(c0__slope=np.full(64, -32768, np.int16)),
    "short slope of conv": with_tensors(c0__slope=np.zeros(63, np.int16)),
    "short slope_add": with_tensors(u2__slope_add=np.zeros(63, np.int16)),
    "the value that breaks mulh": edited(
        lambda h: split(GOOD)[1].replace(
            np.asarray(srresnet(blocks=1).tensors["u2.mul"]).tobytes(), b"\x00\x80" * 64, 1
        )
    ),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_in_one_line(data):
    with pytest.raises(EngineError) as refusal:
        Engine(data)
    message = str(refusal.value)
    assert message and "\n" not in message and message.isprintable()


def test_what_they_were_made_of_is_accepted():
    for data in (GOOD, attending(), mapped(), of_maps(), of_bytes()):
        Engine(data)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_never_crash(changes):
    """Any byte of the header or near it changed: refused, or a model that runs within its memory."""
    damaged = bytearray(GOOD)
    reach = 8 + int.from_bytes(GOOD[:8], "little") + 64
    for where, value in changes:
        damaged[int(where * (reach - 1))] = value
    try:
        engine = Engine(bytes(damaged))
    except EngineError:
        return
    assert engine.run(np.zeros((3, 5), np.int16)).shape == (3 * engine.scale, 5 * engine.scale)


@pytest.mark.parametrize(
    "name", ["empty", "short", "text", "no object", "no metadata", "wrong format", "buffer cut"]
)
def test_reader_refuses_too(name):
    with pytest.raises(ModelFileError):
        ModelFile.from_bytes(HOSTILE[name])


@pytest.mark.parametrize(
    "line",
    ["", "conv x lr", "add a b", "sign", "fly a b c", "conv x lr n shift=abc", "concat a b", "repeat a"],
)
def test_op_refuses(line):
    with pytest.raises(ModelFileError):
        Op.parse(line)
