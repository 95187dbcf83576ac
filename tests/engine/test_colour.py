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


def merge_reference(x, q, scale):
    """The whole SR image: luma from q, Cb and Cr through imresize, then the inverse matrix."""
    rgb, alpha = rgb_of(x)
    forward = np.array([WEIGHTS, [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    ycc = rgb @ forward.T
    up = imresize(ycc, scale)
    up[..., 0] = q / 128 + 127.5 - 16
    out = up @ np.linalg.inv(forward).T
    out = out[..., : 3 if x.shape[2] > 2 else 1]
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
