"""The engine equals its numpy reference, bit for bit: every path, odd sizes, threads, rows in any portion."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import EXTREME_MAPS, Maker, attention, everything, extreme_maps, srresnet

from bitsr import reference
from bitsr.engine import Engine, EngineError, isas

SIZES = [(1, 1), (1, 2), (2, 1), (3, 3), (1, 33), (33, 1), (15, 17), (2, 66), (31, 63), (7, 129)]


def plane(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-16320, 16321, (h, w), np.int16)


@cache
def by_reference(make, h: int, w: int) -> np.ndarray:
    """What the reference makes of ``plane``, once for all paths."""
    return reference.run(make(seed=1), plane(h, w))


def test_paths_end_with_scalar():
    assert isas()[-1] == "scalar"


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("make", [srresnet, everything, attention], ids=lambda f: f.__name__)
def test_every_path_equals_the_reference(isa, make):
    packed = make(seed=1)
    for h, w in SIZES:
        lr, expected = plane(h, w), by_reference(make, h, w)
        assert len(np.unique(expected)) > 1 or h * w == 1  # a constant would agree with anything
        for threads in (1, 2, 5):
            np.testing.assert_array_equal(
                Engine(packed, isa=isa, threads=threads).run(lr), expected, f"{h}x{w}"
            )


@pytest.mark.parametrize("isa", isas())
def test_extreme_values_saturate_alike(isa):
    packed = srresnet(blocks=1, seed=3)
    for value in (-32768, 32767, 0):
        lr = np.full((5, 37), value, np.int16)
        np.testing.assert_array_equal(Engine(packed, isa=isa).run(lr), reference.run(packed, lr))


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("maps", [1, 8])
@pytest.mark.parametrize(("shift", "top"), EXTREME_MAPS)
def test_extreme_maps_saturate_and_wrap_alike(isa, maps, shift, top):
    packed, lr = extreme_maps(maps, shift, top), plane(3, 67)
    np.testing.assert_array_equal(Engine(packed, isa=isa).run(lr), reference.run(packed, lr))


@pytest.mark.parametrize("isa", isas())
def test_eight_maps_of_a_kind_are_one(isa):
    m, lr = Maker(0), plane(11, 37)
    x = m.conv("lr", 1, 96, 3, 12)
    y = m.bconv(m.sign(x, 96, True), 96, 96, 3, x, False, True, map=m.map(x, 96))
    packed = m.end(m.bconv(m.sign(y, 96, True), 96, 72, 3, None, False, True, map=m.map(y, 96)), 72, 2)
    expected, maps = Engine(packed, isa=isa).run(lr), [op for op in packed.ops if op.kind == "map"]
    assert len(maps) == 2
    for op in maps:
        packed.tensors[f"{op.name}.weight"] = np.tile(packed.tensors[f"{op.name}.weight"], (8, 1))
        op.attrs["maps"] = 8
    np.testing.assert_array_equal(Engine(packed, isa=isa).run(lr), expected)


@pytest.mark.parametrize(("channels", "scale"), [(1 + 16, 2), (32, 3), (64, 1), (192, 3), (256, 2)])
def test_widths_and_scales(channels, scale):
    packed = srresnet(channels, 1, scale, seed=channels)
    lr = plane(9, 35, seed=scale)
    expected = reference.run(packed, lr)
    for isa in isas():
        np.testing.assert_array_equal(Engine(packed, isa=isa, threads=2).run(lr), expected, isa)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=8), st.integers(1, 20), st.integers(1, 40), st.integers(1, 3))
def test_rows_in_any_portion(portions, last, w, threads):
    """A stream fed by any portions gives what one run gives, and all of it."""
    h = sum(portions) + last
    engine = Engine(everything(seed=2), threads=threads)
    lr = plane(h, w, seed=h)
    parts, fed = [], 0
    with engine.stream(h, w) as stream:
        for n in [*portions, last]:
            parts.append(stream.push(lr[fed : fed + n]))
            fed += n
        with pytest.raises(EngineError):
            stream.push(lr[:1])
    np.testing.assert_array_equal(np.concatenate(parts), engine.run(lr))


def test_a_tile_with_its_surroundings_equals_the_whole():
    """An SR pixel sees `radius` LR pixels to each side, no more and no fewer than promised."""
    engine = Engine(srresnet(seed=4))
    r, s, lr = engine.radius, engine.scale, plane(40, 50)
    assert r == 6
    whole = engine.run(lr)
    top, left, h, w = 13, 11, 9, 17
    tile = engine.run(lr[top - r : top + h + r, left - r : left + w + r])
    np.testing.assert_array_equal(
        tile[r * s : (r + h) * s, r * s : (r + w) * s],
        whole[top * s : (top + h) * s, left * s : (left + w) * s],
    )


def test_a_tall_image_goes_through_the_rings():
    """More rows than any ring has: rows are overwritten only when nobody needs them."""
    packed, lr = srresnet(blocks=3, seed=5), plane(150, 8)
    expected = reference.run(packed, lr)
    for threads in (1, 2, 7):
        for _ in range(5):
            np.testing.assert_array_equal(Engine(packed, threads=threads).run(lr), expected)


def test_two_threads_run_one_engine_at_once():
    engine, results = Engine(srresnet(seed=6), threads=2), {}
    lr = [plane(40, 30, seed) for seed in range(4)]

    def work(i: int) -> None:
        results[i] = engine.run(lr[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in workers:
        t.start()
    for t in workers:
        t.join()
    for i in range(4):
        np.testing.assert_array_equal(results[i], engine.run(lr[i]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_runs_after_fork():
    engine = Engine(srresnet(seed=7), threads=2)
    lr = plane(20, 20)
    expected = engine.run(lr)
    pid = os.fork()
    if pid == 0:
        ok = False
        try:
            ok = bool((engine.run(lr) == expected).all())
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_refuses_what_cannot_be():
    packed = srresnet(blocks=1)
    engine = Engine(packed)
    for bad in (np.zeros((0, 4), np.int16), np.zeros((4, 0), np.int16), np.zeros(4, np.int16)):
        with pytest.raises(EngineError):
            engine.run(bad)
    with pytest.raises(EngineError):
        engine.run(np.zeros((4, 4), np.float32))  # pyright: ignore[reportArgumentType]
    with pytest.raises(EngineError, match="no path"):
        Engine(packed, isa="mmx")
    for threads in (-1, 1025):
        with pytest.raises(EngineError, match="threads must be from 1 to 1024"):
            Engine(packed, threads=threads)
    with pytest.raises(EngineError):
        engine.stream(2**31 - 1, 2**31 - 1)
    with engine.stream(4, 4) as stream, pytest.raises(EngineError):
        stream.push(np.zeros((1, 5), np.int16))


def test_environment_chooses_the_path(monkeypatch):
    monkeypatch.setenv("BITSR_ISA", "scalar")
    assert Engine(srresnet(blocks=1)).isa == "scalar"


def test_copies_and_pickles_are_engines_of_their_own():
    lr = plane(7, 9)
    engine = Engine(srresnet(seed=8), isa="scalar", threads=2)
    expected = engine.run(lr)
    made = [copy.copy(engine), copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))]
    handles = {e._handle for e in (engine, *made)}
    assert len(handles) == 4  # a handle in two objects is freed twice
    facts = (engine.name, engine.isa, engine.threads, engine.scale, engine.radius, engine.equivariant)
    del engine
    for e in made:
        np.testing.assert_array_equal(e.run(lr), expected)
        assert (e.name, e.isa, e.threads, e.scale, e.radius, e.equivariant) == facts


def test_a_pickle_chooses_path_and_threads_where_it_lands(monkeypatch):
    chosen, asked = Engine(srresnet(seed=8)), Engine(srresnet(seed=8), isa=isas()[0], threads=3)
    pickles = pickle.dumps(chosen), pickle.dumps(asked)
    monkeypatch.setattr("bitsr.engine.isas", lambda: ["scalar"])  # another machine
    monkeypatch.setenv("BITSR_ISA", "scalar")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(7), raising=False)
    chosen, asked = map(pickle.loads, pickles)
    assert (chosen.isa, chosen.threads) == ("scalar", 7) and (asked.isa, asked.threads) == ("scalar", 3)


def test_a_stream_is_neither_copied_nor_pickled():
    with Engine(srresnet(seed=8)).stream(4, 4) as stream:
        for make in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="a stream is one image"):
                make(stream)


def test_threads_are_a_whole_number_and_0_is_all():
    packed = srresnet(seed=8)
    assert Engine(packed, threads=0).threads == Engine(packed).threads
    two: Any = np.int64(2)
    assert Engine(packed, threads=two).threads == 2
    wrong: Any
    for wrong in (1.5, "2", True, float("nan")):
        with pytest.raises(EngineError, match="threads must be a whole number"):
            Engine(packed, threads=wrong)
