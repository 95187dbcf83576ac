"""csrc/colour.cpp against float64 numpy: luma, and the merge of SR luma with bicubic chroma and alpha."""

from __future__ import annotations

import numpy as np
import pytest

from bitsr import colour
from bitsr.imresize import imresize

WEIGHTS = np.array([65.481, 128.553, 24.966])
DTYPES = [np.uint8, np.uint16]


def pixels(shape, dtype, seed=0):
    """Noise with a good share of samples at the ends of the range."""
    top = np.iinfo(dtype).max
    x = np.random.default_rng(seed).integers(-top // 4, top + top // 4, shape)
    return np.clip(x, 0, top).astype(dtype)


def rgb_of(x):
    """(rows, W, C) in 8-bit levels, float64, as three channels, and the alpha channel in [..., -1:]."""
    level = x / (257 if x.dtype == np.uint16 else 1)
    colours = level[..., : 3 if x.shape[2] > 2 else 1]
    return np.broadcast_to(colours, (*x.shape[:2], 3)), level[..., -1:]


def luma_reference(x):
    return 128 * (16 + rgb_of(x)[0] @ WEIGHTS / 255 - 127.5)


def around(x, scale):
    """(least, most) of the 5x5 LR pixels around every SR sample, by symmetric reflection."""
    index = [np.pad(np.arange(n), 2, "symmetric") for n in x.shape[:2]] if min(x.shape[:2]) > 1 else None
    if index is None:  # numpy's reflection of a single row or column, twice over
        index = [
            np.zeros(n + 4, int) if n == 1 else np.pad(np.arange(n), 2, "symmetric") for n in x.shape[:2]
        ]
    windows = np.lib.stride_tricks.sliding_window_view(x[np.ix_(*index)], (5, 5), (0, 1))
    return [np.repeat(np.repeat(f(windows, (-1, -2)), scale, 0), scale, 1) for f in (np.min, np.max)]


def bounded(out, x, scale):
    """SR colours within what their LR pixels allow, in 8-bit levels."""
    low, high = around(x, scale)
    spread = around(x.max(2, keepdims=True) - x.min(2, keepdims=True), scale)[1]
    room = 7 + 4 * np.maximum(0, 96 - spread)
    bicubic = imresize(x, scale)
    out = np.clip(out, np.minimum(low - room, bicubic - 7), np.maximum(high + room, bicubic + 7))
    return np.where(low == 255, 255, np.where(high == 0, 0, out))


def merge_reference(x, q, scale):
    """The whole SR image: luma from q, Cb and Cr through imresize, the inverse matrix, the bounds."""
    rgb, alpha = rgb_of(x)
    forward = np.array([WEIGHTS, [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    ycc = rgb @ forward.T
    up = imresize(ycc, scale)
    up[..., 0] = q / 128 + 127.5 - 16
    out = up @ np.linalg.inv(forward).T
    out = bounded(out, rgb, scale)[..., : 3 if x.shape[2] > 2 else 1]
    if x.shape[2] % 2 == 0:
        out = np.concatenate([out, imresize(alpha, scale)], axis=2)
    unit = 257 if x.dtype == np.uint16 else 1
    return np.clip(np.floor(out * unit + 0.5), 0, 255 * unit)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_luma_is_the_formula_rounded_once(dtype, channels):
    x = pixels((67, 131, channels), dtype)
    np.testing.assert_array_equal(colour.luma(x), np.rint(luma_reference(x)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 33), (2, 3), (3, 1), (17, 31)])
def test_merge_is_within_one_level_of_float64(dtype, channels, scale, size):
    x = pixels((*size, channels), dtype)
    q = np.random.default_rng(1).integers(-20000, 20000, (size[0] * scale, size[1] * scale)).astype(np.int16)
    out = colour.merge(x, q, scale, height=size[0])
    assert out.dtype == dtype
    assert np.abs(out - merge_reference(x, q, scale)).max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_merge_by_bands_is_the_whole(dtype, scale):
    x = pixels((13, 9, 4), dtype)
    q = np.random.default_rng(1).integers(-14000, 14000, (13 * scale, 9 * scale)).astype(np.int16)
    whole = colour.merge(x, q, scale, height=13)
    for y in range(13 * scale):
        for n in (1, 5):
            band = q[y : y + n]
            first = max(y // scale - 2, 0)
            last = min((y + len(band) - 1) // scale + 3, 13)
            part = colour.merge(x[first:last], band, scale, height=13, first=first, y=y)
            np.testing.assert_array_equal(part, whole[y : y + n])


def test_every_grey_level_survives():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    for x in (grey, np.repeat(grey, 3, axis=2)):
        q = colour.luma(x)
        np.testing.assert_array_equal(colour.merge(x, q, 1, height=16), x)
        q4 = q.repeat(4, 0).repeat(4, 1)
        np.testing.assert_array_equal(colour.merge(x, q4, 4, height=16), x.repeat(4, 0).repeat(4, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_flat_image_stays_flat_and_keeps_its_colour(dtype, scale):
    for seed in range(20):
        x = np.broadcast_to(pixels((1, 1, 4), dtype, seed), (5, 7, 4))
        q = colour.luma(x).repeat(scale, 0).repeat(scale, 1)
        out = colour.merge(x, q, scale, height=5).astype(int)
        assert (out == out[0, 0]).all()
        # Luma has 1/128 of an 8-bit level of the studio range: 2.3 levels of 16 bits.
        assert np.abs(out - x[0, 0]).max() <= (0 if dtype == np.uint8 else 2)


def test_what_does_not_fit_is_refused():
    x, q = pixels((6, 4, 3), np.uint8), np.zeros((24, 16), np.int16)
    for wrong in (
        lambda: colour.luma(x.astype(np.float32)),
        lambda: colour.luma(np.zeros((2, 2, 5), np.uint8)),
        lambda: colour.merge(x, q[:, :-1], 4, height=6),
        lambda: colour.merge(x, q, 4, height=7),  # rows of the window are missing
        lambda: colour.merge(x[2:], q, 4, height=6, first=2),
        lambda: colour.merge(x, q, 4, height=6, y=1),
        lambda: colour.merge(x, q, 4, height=6, first=-1),
        lambda: colour.merge(x, np.zeros((6 * 99, 4 * 99), np.int16), 99, height=6),
    ):
        with pytest.raises(ValueError, match=r"pixels|luma|rows|size|window"):
            wrong()


# ---- Bounds: colours stay themselves, white and black stay white and black ---------------------------------


def beyond(out, x, scale):
    """By how many levels SR samples leave the range of their 5x5 LR pixels more than bicubic does."""
    low, high = around(x.astype(float), scale)
    bicubic = imresize(x.astype(float), scale)
    return np.maximum(np.minimum(low, bicubic) - out, out - np.maximum(high, bicubic)).max()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("ground", [0, 255])
@pytest.mark.parametrize("ink", [(255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 140, 0)])
def test_strong_colours_stay_themselves_whatever_luma_does(scale, ground, ink):
    x = np.full((24, 24, 3), ground, np.uint8)
    x[6:18, 8:10] = x[11:13, 4:20] = ink
    q = np.random.default_rng(0).integers(-14272, 14272, (24 * scale, 24 * scale)).astype(np.int16)
    assert beyond(colour.merge(x, q, scale, height=24).astype(float), x, scale) <= 8
    deep = x.astype(np.uint16) * 257
    assert beyond(colour.merge(deep, q, scale, height=24) / 257, x, scale) <= 8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_white_and_black_stay_so_where_all_around_is(dtype, channels, scale):
    most = np.iinfo(dtype).max
    x = np.full((20, 30, channels), most, dtype)
    x[:, 15:, : max(1, channels - (channels % 2 == 0))] = 0
    x[9, 7, 0] = most // 2
    q = np.random.default_rng(0).integers(-14272, 14272, (20 * scale, 30 * scale)).astype(np.int16)
    out = colour.merge(x, q, scale, height=20)
    low, high = around(x.astype(float), scale)
    assert (out[low == most] == most).all() and (out[high == 0] == 0).all()
    assert (low == most).sum() > 300 and (high == 0).sum() > 300


def test_grey_is_as_sharp_as_the_net_has_it():
    """Overshoot without a colour to lose is no fault: only strong colours are bounded."""
    x = np.full((9, 9, 3), 100, np.uint8)
    q = np.full((18, 18), colour.luma(np.full((1, 1, 3), 180, np.uint8))[0, 0])
    assert (colour.merge(x, q, 2, height=9) == 180).all()


# ---- What is clear has no colour ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [2, 4])
def test_clear_pixels_take_the_colour_around_them(dtype, channels):
    most = np.iinfo(dtype).max
    x = np.zeros((21, 21, channels), dtype)
    x[8:13, 8:13] = most
    x[10, 7] = [most] * (channels - 1) + [most // 3]
    out = colour.fill_clear(x)
    np.testing.assert_array_equal(out[..., -1], x[..., -1])
    assert (out[2:19, 2:19, :-1] == most).all()
    opaque = pixels((9, 9, channels), dtype)
    opaque[..., -1] = most
    np.testing.assert_array_equal(colour.fill_clear(opaque), opaque)
    mixed = pixels((9, 9, channels), dtype)
    np.testing.assert_array_equal(
        colour.fill_clear(mixed)[mixed[..., -1] == most], mixed[mixed[..., -1] == most]
    )


def test_fill_weighs_by_alpha():
    x = np.zeros((3, 3, 4), np.uint8)
    x[0, 0], x[2, 2] = (200, 0, 0, 255), (0, 100, 0, 51)
    assert colour.fill_clear(x)[1, 1].tolist() == [167, 17, 0, 0]


@pytest.mark.parametrize("step", [1, 3, 20, 60])
def test_filling_by_strips_is_the_whole(step):
    x = pixels((60, 13, 4), np.uint8)
    x[..., 3] = np.where(np.random.default_rng(2).random((60, 13)) < 0.02, x[..., 3], 0)
    strips = (x[i : i + step] for i in range(0, 60, step))
    np.testing.assert_array_equal(np.concatenate(list(colour.filled(strips, 60))), colour.fill_clear(x))
