"""Plans the engine makes of any graph of operations: in place or not, fused or not, the SR is the reference's; and
no small file makes it take absurd memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_nets import Maker, attention

from bitsr import reference
from bitsr.engine import Engine, EngineError, isas
from bitsr.model_file import ModelFile, Op


def resident() -> int:
    """Bytes of memory that this process has in use now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def graph(seed: int) -> ModelFile:
    """A random net: branches that meet, long skips, sums of one buffer with itself, work at more than one rate."""
    m = Maker(seed)
    rng = m.rng
    widths = [int(c) for c in rng.choice([2, 8, 17, 64, 72, 128], 2, replace=False)]
    buffers: list[tuple[str, bool | str, int, int]] = [
        ("lr", False, 1, 1)
    ]  # name, bits (or "bytes"), channels, rate
    maps: list[tuple[str, int]] = []  # of eight: name, rate

    for _ in range(rng.integers(3, 30)):
        recent = buffers[-5:] if rng.integers(3) else buffers
        x, bits, c, rate = recent[rng.integers(len(recent))]
        cout = widths[rng.integers(2)]
        alike = [name for name, *rest in buffers if rest == [False, c, rate]]
        kind = rng.integers(8)
        skips = [None] + [name for name, *rest in buffers if rest == [False, cout, rate]]
        skip = skips[rng.integers(len(skips))]
        inner, slope = bool(rng.integers(2)), bool(rng.integers(2))
        slope_add = slope and bool(rng.integers(2))
        if bits == "bytes":
            k, size = int(rng.choice([1, 3, 5, 9])), int(rng.choice([1, 4, 8]))
            if not rng.integers(4):
                cout, skip = 1, None
            y = m.qconv(x, c, cout, k, size, skip, inner, slope, slope_add)
            buffers.append((y, False, cout, rate))
        elif bits and kind == 0 and c % 64 == 0 and c < 512:
            others = [(name, cin) for name, *rest, cin, r in buffers if rest == [True] and r == rate]
            last, cin = others[rng.integers(len(others))]
            inputs = [x] * int(rng.integers(1, 3)) + [last]
            buffers.append((m.plain("concat", *inputs), True, c * (len(inputs) - 1) + cin, rate))
        elif bits:
            k = int(rng.choice([1, 3]))
            planes = 2 * [None] + [name for name, *rest in buffers if rest == [False, 1, rate]]
            plane = planes[rng.integers(len(planes))]
            if not rng.integers(3):
                sources = [
                    (name, n) for name, *rest, n, r in buffers if rest == [False] and n > 1 and r == rate
                ]
                plane = m.map(*sources[rng.integers(len(sources))], 8)
                others = [name for name, r in maps if r == rate]
                if others and rng.integers(2):
                    plane = m.plain("add", plane, others[rng.integers(len(others))])
                maps.append((plane, rate))
            y = m.bconv(x, c, cout, k, skip, inner, slope, slope_add, plane)
            buffers.append((y, False, cout, rate))
        elif kind == 0 and rate < 4 and c % 4 == 0:
            buffers.append((m.plain("shuffle", x, scale=2), False, c // 4, 2 * rate))
        elif kind == 1 and len(m.ops) > 1:
            buffers.append((m.plain("add", x, alike[rng.integers(len(alike))]), False, c, rate))
        elif kind == 5:
            buffers.append((m.quant(x, c, int(rng.choice([7, 127]))), "bytes", c, rate))
        elif kind == 4 and c < 256:
            times = int(rng.integers(1, 6))
            buffers.append((m.plain("repeat", x, times=times), False, times * c, rate))
        elif kind == 7 and c > 1:
            buffers.append((m.map(x, c), False, 1, rate))
        elif kind == 6 and c > 1:
            buffers.append((m.attend(x, c, int(rng.integers(1, 9))), False, c, rate))
        elif kind == 2 or c == 1:
            cout = 1 if c > 1 and not rng.integers(4) else cout
            k, edge = int(rng.choice([1, 3, 5, 9])), c == 1 and bool(rng.integers(2))
            buffers.append((m.conv(x, c, cout, k, 12 if c == 1 else 17, edge), False, cout, rate))
        else:
            buffers.append((m.sign(x, c, bool(rng.integers(2))), True, c, rate))
    x, _, c, rate = next(b for b in reversed(buffers) if not b[1])
    packed = m.end(x, c, 2)
    read = {"sr"}
    for op in reversed(packed.ops):  # what nothing reads is left out
        if op.out in read:
            read.update(op.inputs)
    packed.ops = [op for op in packed.ops if op.out in read]
    return packed


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_any_graph_equals_the_reference(part):
    for seed in range(part * 30, part * 30 + 30):
        packed = graph(seed)
        rng = np.random.default_rng(seed)
        h, w = int(rng.integers(1, 24)), int(rng.integers(1, 12))
        lr = rng.integers(-16320, 16321, (h, w), np.int16)
        expected = reference.run(packed, lr)
        for isa in isas():
            engine = Engine(packed, isa=isa, threads=int(rng.integers(1, 4)))
            with engine.stream(h, w) as stream:  # given up half-way: its memory serves the next image
                stream.push(~lr[: (h + 1) // 2])
            np.testing.assert_array_equal(engine.run(lr), expected, f"seed {seed}, {isa}")
        portion = int(rng.integers(1, h + 1))
        with engine.stream(h, w, pass_rows=int(rng.integers(h + 1))) as stream:
            parts = [stream.push(lr[y : y + portion]) for y in range(0, h, portion)]
        np.testing.assert_array_equal(
            np.concatenate(parts), expected, f"seed {seed}, {portion} rows at a time"
        )


def grown(blocks: int, h: int, w: int) -> int:
    """Bytes by which a stream of ``attention(blocks=blocks)`` makes the process larger."""
    engine = Engine(attention(0, blocks=blocks), threads=1)
    before = resident()
    with engine.stream(h, w):
        return resident() - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_attention_reuses_the_memory_of_whole_images():
    """The high-water mark of a deep net is that of a shallow one: a whole image each for the blocks' two readers."""
    h, w = 200, 300

    def fresh(blocks: int) -> int:  # a process that has freed nothing yet, whose memory a stream could take
        path = [str(Path(place).resolve()) for place in sys.path]
        code = (
            f"import sys; sys.path = {path}; from test_plans import grown; print(grown({blocks}, {h}, {w}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return int(done.stdout)

    shallow, deep = fresh(3), fresh(24)
    image = h * w * 128
    assert deep - shallow < 2 * image
    assert shallow > image


def test_eight_maps_and_eight_channels_share_no_memory():
    """Maps kept for the whole image have pixels of 16 bytes: what is kept after them needs more."""
    m = Maker(0)
    x = m.conv("lr", 1, 16, 3, 12)
    maps = m.map(x, 16, 8)
    y = m.bconv(m.sign(m.attend(x, 16, 2), 16, False), 16, 16, 3, None, False, False, map=maps)
    z = m.bconv(m.sign(m.attend(y, 16, 2), 16, False), 16, 8, 3, None, False, False)
    packed = m.end(m.attend(z, 8, 2), 8, 1)
    lr = np.random.default_rng(0).integers(-16320, 16321, (60, 70), np.int16)
    np.testing.assert_array_equal(Engine(packed).run(lr), reference.run(packed, lr))


def test_many_whole_images_are_too_many():
    """Sums over every block's attention would keep them all."""
    m = Maker(0)
    x = m.conv("lr", 1, 1024, 1, 12)
    names = [x := m.attend(x, 1024, 1) for _ in range(40)]
    for name in names:
        x = m.plain("add", x, name)
    with pytest.raises(EngineError, match="attention"):
        Engine(m.end(x, 1024, 1))


def test_shared_tensors_do_not_multiply_memory():
    """280 KB whose operations share one tensor: each for itself, they would take a gigabyte."""
    m = Maker(0)
    x = m.conv("lr", 1, 1024, 3, 12)
    y = m.bconv(m.sign(x, 1024, False), 1024, 1024, 1, x, False, False)
    shared = m.ops[-1]
    for i in range(1500):
        m.ops.append(Op("sign", f"q{i}", (y,)))
        m.ops.append(Op("bconv", f"z{i}", (f"q{i}", y), shared.name, shared.attrs, ("skip",)))
        y = f"z{i}"
    with pytest.raises(EngineError, match="more memory"):
        Engine(m.end(y, 1024, 1))


def test_rows_in_flight_do_not_multiply_memory():
    """160 KB that would keep 12 MB of rows for each LR column, by skips over the whole depth."""
    m = Maker(0)
    names = [m.conv("lr", 1, 1024, 1, 12)]
    for i in range(60):
        m.ops.append(Op("add", f"a{i}", (names[-1], names[-1])))
        names.append(f"a{i}")
    for i, name in enumerate(reversed(names)):
        m.ops.append(Op("add", f"s{i}", (m.ops[-1].out, name)))
    with pytest.raises(EngineError, match="rows in flight"):
        Engine(m.end(m.ops[-1].out, 1024, 1))
