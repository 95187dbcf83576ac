"""Sizes, the passes of nets that reach them, and reduction by rows."""

from __future__ import annotations

import numpy as np
import pytest

from bitsr import _core
from bitsr.errors import BitsrError
from bitsr.imresize import resize
from bitsr.reduce import reduced
from bitsr.sizes import Size, passes

TARGETS = [(31, 29), (61, 23), (40, 47), (7, 3), (1, 1), (60, 46)]


def image(channels: int, dtype: type = np.uint8, h: int = 61, w: int = 47) -> np.ndarray:
    rng = np.random.default_rng(channels)
    return rng.integers(0, np.iinfo(dtype).max + 1, (h, w, channels)).astype(dtype)


def whole(x: np.ndarray, target: tuple[int, int], n: int = 10**6) -> np.ndarray:
    strips = (x[i : i + n] for i in range(0, len(x), n))
    return np.concatenate(list(reduced(strips, x.shape[:2], target)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("target", TARGETS)
def test_strips_change_no_sample(target, channels, dtype):
    x = image(channels, dtype)
    want = whole(x, target)
    assert want.shape == (*target, channels) and want.dtype == dtype
    for n in (1, 7, 30):
        assert (whole(x, target, n) == want).all()


@pytest.mark.parametrize(("dtype", "off"), [(np.uint8, 1), (np.uint16, 16)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("target", TARGETS)
def test_it_is_an_antialiased_bicubic(target, channels, dtype, off):
    """In float arithmetic, but for weights of 14 bits and the rounding."""
    x = image(channels, dtype)
    want = np.clip(np.floor(resize(x.astype(float), target) + 0.5), 0, np.iinfo(dtype).max)
    assert np.abs(whole(x, target) - want).max() <= off


@pytest.mark.parametrize("channels", [2, 4])
def test_colours_are_weighted_by_alpha(channels):
    """Half a disc of one colour on clear pixels of another: no outline of the other."""
    x = np.zeros((40, 40, channels), np.uint8)
    x[:, :] = [255] * (channels - 1) + [0]
    x[:, :19] = [40] * (channels - 1) + [255]
    x[20:, 10:19, -1] = 130
    out = whole(x, (27, 27))
    seen = out[..., -1] > 0
    assert (np.abs(out[seen][:, :-1].astype(int) - 40) <= 1).all()
    assert (out[~seen][:, :-1] > 40).all()  # what is clear keeps its colour


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_opaque_alpha_changes_no_colour(channels, dtype):
    x = image(channels, dtype)
    x[..., -1] = np.iinfo(dtype).max
    x[:2, :2, -1] = 0  # so that alpha is looked at
    got = whole(x, (33, 29))[4:, 4:]
    want = whole(np.ascontiguousarray(x[..., :-1]), (33, 29))[4:, 4:]
    # A product of 16-bit samples is rounded once before.
    assert np.abs(got[..., :-1].astype(int) - want).max() <= (dtype == np.uint16)
    assert (got[..., -1] == np.iinfo(dtype).max).all()


def test_flat_stays_flat_and_the_same_size_is_left_alone():
    flat = np.full((50, 41, 3), 201, np.uint8)
    assert (whole(flat, (37, 20)) == 201).all()
    x = image(3)
    assert (whole(x, (61, 47)) == x).all()


def test_the_core_refuses_what_it_cannot_sum():
    x, out = image(3), np.empty((2, 2, 3), np.uint8)
    at, weights = np.zeros((2, 1), np.int32), np.full((2, 1), 1 << 14, np.int32)
    _core.reduce(x, (at, weights), (at, weights), out)
    assert (out == x[0, 0]).all()
    for bad in ((at + 100, weights), (at - 1, weights), (at, weights * 3)):
        with pytest.raises(_core.CoreError, match="impossible weights"):
            _core.reduce(x, bad, (at, weights), out)
        with pytest.raises(_core.CoreError, match="impossible weights"):
            _core.reduce(x, (at, weights), bad, out)


@pytest.mark.parametrize(
    ("size", "height", "width", "want"),
    [
        (Size(scale=1.5), 10, 15, (15, 23)),
        (Size(scale=1.1), 10, 100, (11, 110)),
        (Size(scale=3.5), 2, 3, (7, 11)),
        (Size(), 3, 5, (12, 20)),
        (Size(width=1000), 30, 100, (300, 1000)),
        (Size(height=1000), 30, 101, (1000, 3367)),
        (Size(longest=50), 100, 30, (50, 15)),
        (Size(longest=10), 1, 1000, (1, 10)),
        (Size(width=300, height=100), 40, 60, (100, 150)),
        (Size(width=300, height=1000), 40, 60, (200, 300)),
    ],
)
def test_sizes(size, height, width, want):
    assert size.of(height, width) == want


@pytest.mark.parametrize(
    "bad",
    [
        {"scale": 0.99},
        {"scale": 64.1},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"scale": 2.0, "width": 5},
        {"width": 0},
        {"height": -1},
        {"longest": 2**31},
        {"longest": 5, "height": 5},
    ],
)
def test_sizes_that_cannot_be(bad):
    with pytest.raises(BitsrError):
        Size(**bad)


def test_too_much_is_refused():
    with pytest.raises(BitsrError, match=r"10 x 20 pixels to 1000 x 2000 is more than 64 times"):
        Size(width=1000).of(20, 10)


@pytest.mark.parametrize(
    ("scale", "want"),
    [
        *[(1, (2,)), (1.5, (2,)), (2, (2,)), (2.01, (3,)), (3, (3,)), (3.5, (4,)), (4, (4,))],
        *[(5, (2, 3)), (7, (2, 4)), (8, (2, 4)), (9, (3, 3)), (12, (3, 4)), (16, (4, 4)), (64, (4, 4, 4))],
    ],
)
def test_passes(scale, want):
    every = (2, 3, 4)
    assert passes((100, 101), Size(scale=scale).of(100, 101), every, every) == want


def test_passes_of_few_nets():
    assert passes((10, 10), (30, 30), (2, 4), (2, 3, 4)) == (4,)  # photo nets first
    assert passes((10, 10), (60, 60), (2, 4), (2, 3, 4)) == (2, 3)
    assert passes((10, 10), (640, 640), (2,), (2,)) == (2,) * 6
    assert passes((3, 1000), (4, 1001), (2, 3, 4), (2, 3, 4)) == (2,)
    with pytest.raises(BitsrError, match="more than 6 passes"):
        passes((10, 10), (641, 641), (2,), (2,))
