"""csrc/core/colour.cpp: luma, and the merge of SR luma with guided chroma and alpha, bit for bit beside numpy."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from itertools import pairwise, product
from pathlib import Path

import colour_reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsr import _core, colour
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
    near = np.stack([colour_reference.around(plane, 2) for plane in np.moveaxis(x, 2, 0)], -1)
    return [f(near, (0, 1)).repeat(scale, 0).repeat(scale, 1) for f in (np.min, np.max)]


def formula(x, q, scale, smooth):
    """Chroma as bitsr.h has it, in levels and real numbers, without the bounds."""
    rgb, _ = rgb_of(x)
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    sr = (q / 128 + 111.5) * 255 / 219

    def mean(p):
        return np.einsum("i,j,ijhw", [0.25, 0.5, 0.25], [0.25, 0.5, 0.25], colour_reference.around(p, 1))

    def cov(p, r):
        return mean(p * r) - mean(p) * mean(r)

    out = []
    for chroma in (rgb[..., 0] - luma, rgb[..., 2] - luma):
        e = cov(luma, chroma) / (cov(luma, luma) + 16)
        if not smooth:
            e = e * (e * cov(luma, chroma) / (cov(chroma, chroma) + 4)) ** 4
        e = np.clip(e, -2, 2)
        a = mean(e)
        b = mean(mean(chroma) - e * (mean(luma) - 127.5)) if smooth else chroma - a * (luma - 127.5)
        out.append(imresize(a, scale) * (sr - 127.5) + imresize(b, scale))
    red, blue = out
    return np.stack([sr + red, sr - (0.299 * red + 0.114 * blue) / 0.587, sr + blue], 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_luma_is_the_formula_rounded_once(dtype, channels):
    x = pixels((67, 131, channels), dtype)
    np.testing.assert_array_equal(colour.luma(x), np.rint(luma_reference(x)))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5, 16])
@pytest.mark.parametrize("smooth", [False, True])
def test_merge_is_the_reference_bit_for_bit(depth, channels, scale, smooth):
    for h, w in ((1, 1), (1, 33), (2, 3), (3, 1), (17, 31)):
        lr, q = colour_reference.random_merge(depth, channels, h, w, scale, h)
        out = colour.merge(lr, q, scale, height=h, smooth=smooth)
        np.testing.assert_array_equal(out, colour_reference.merge(lr, q, scale, smooth=smooth))


@settings(max_examples=60, deadline=None)
@given(
    h=st.integers(1, 24),
    w=st.integers(1, 40),
    channels=st.integers(1, 4),
    depth=st.sampled_from([8, 16]),
    scale=st.integers(2, 4),
    smooth=st.booleans(),
    cuts=st.lists(st.integers(1, 20), max_size=8),
    seed=st.integers(0, 2**16),
)
def test_any_image_in_any_bands_is_the_reference(h, w, channels, depth, scale, smooth, cuts, seed):
    lr, q = colour_reference.random_merge(depth, channels, h, w, scale, seed)
    edges = np.unique(np.clip(np.cumsum([0, *cuts, h * scale]), 0, h * scale))
    bands = []
    for y, end in pairwise(edges):
        first, last = max(y // scale - colour.REACH, 0), min((end - 1) // scale + 1 + colour.REACH, h)
        window = lr[first:last]
        bands.append(colour.merge(window, q[y:end], scale, height=h, first=first, y=int(y), smooth=smooth))
    np.testing.assert_array_equal(np.concatenate(bands), colour_reference.merge(lr, q, scale, smooth=smooth))


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_chroma_is_the_formula_of_the_header(dtype, scale, smooth):
    """Fixed point is near to real numbers. Weak colours, gradients and blocks, which no bound touches."""
    rng = np.random.default_rng(scale)
    blocks = rng.integers(110, 145, (7, 9, 3)).repeat(5, 0).repeat(5, 1) + rng.normal(0, 2, (35, 45, 3))
    x = np.rint(blocks * (257 if dtype == np.uint16 else 1)).astype(dtype)
    q = colour.luma(x).repeat(scale, 0).repeat(scale, 1)
    q = (q + rng.normal(0, 300, q.shape)).astype(np.int16)
    out = colour.merge(x, q, scale, height=35, smooth=smooth) / (257 if dtype == np.uint16 else 1)
    off = np.abs(out - formula(x, q, scale, smooth))
    assert off.mean() < 0.35 and off.max() < 2


def test_the_plain_build_gives_the_same_bytes(tmp_path):
    """Machines without AVX2, and others than x86-64, run what colour.cpp is without its flags."""
    compiler = next(
        (c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None
    )
    source = Path(__file__).parents[2] / "csrc"
    if compiler is None or not source.is_dir():
        pytest.skip("needs a C++ compiler and the sources of the core")
    (tmp_path / "plain.cpp").write_text(
        '#include "core/colour_rows.h"\n'
        'extern "C" int plain(const void* lr, int depth, int channels, int h, int w, int first, int,'
        " int scale, int smooth, const int16_t* q, int y, int n, void* out, char* err, size_t cap) {"
        " return (depth == 8 ? merge<Depth8> : merge<Depth16>)"
        "(lr, channels, h, w, first, scale, smooth, q, y, n, out, err, cap); }"
    )
    library = tmp_path / "plain.so"
    command = [
        compiler,
        "-O1",
        "-std=c++17",
        "-fPIC",
        "-shared",
        "-I",
        str(source),
        str(tmp_path / "plain.cpp"),
    ]
    subprocess.run([*command, "-o", str(library)], check=True)
    plain = ctypes.CDLL(str(library)).plain
    plain.argtypes = _core.core().bitsr_merge.argtypes
    for depth, channels, scale, smooth in product((8, 16), (1, 3, 4), (2, 4), (False, True)):
        lr, q = colour_reference.random_merge(depth, channels, 13, 70, scale, seed=channels)
        out = np.empty((13 * scale, 70 * scale, channels), lr.dtype)
        err = ctypes.create_string_buffer(99)
        image = (lr.ctypes.data, depth, channels, 13, 70, 0, 13, scale, smooth)
        assert not plain(*image, q.ctypes.data, 0, 13 * scale, out.ctypes.data, err, 99)
        np.testing.assert_array_equal(out, colour.merge(lr, q, scale, height=13, smooth=smooth))


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
        out = colour.merge(x, q, scale, height=5, smooth=seed % 2 == 0).astype(int)
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
    """By how many levels SR samples leave the range of their 5x5 LR pixels."""
    low, high = around(x.astype(float), scale)
    return np.maximum(low - out, out - high).max()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("ground", [0, 255])
@pytest.mark.parametrize("ink", [(255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 140, 0)])
def test_strong_colours_stay_themselves_whatever_luma_does(scale, ground, ink):
    x = np.full((24, 24, 3), ground, np.uint8)
    x[6:18, 8:10] = x[11:13, 4:20] = ink
    q = np.random.default_rng(0).integers(-14272, 14272, (24 * scale, 24 * scale)).astype(np.int16)
    assert beyond(colour.merge(x, q, scale, height=24).astype(float), x, scale) <= 8
    assert beyond(colour.merge(x, q, scale, height=24, smooth=True).astype(float), x, scale) <= 8
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


@pytest.mark.parametrize("channels", [1, 3])
def test_halos_end_where_a_grey_fills_blocks_and_textures_stay_sharp(channels):
    """An edge of two flat greys keeps to them, by 7 levels and rounding. Fine lines may swing further."""
    q = np.random.default_rng(0).integers(-14272, 14272, (48, 48)).astype(np.int16)
    edge = np.full((24, 24, channels), 60, np.uint8)
    edge[:, 12:] = 190
    out = colour.merge(edge, q, 2, height=24).astype(int)
    assert beyond(out, edge, 2) <= 8
    lines = np.full((24, 24, channels), 60, np.uint8)
    lines[:, ::3] = 190
    out = colour.merge(lines, q, 2, height=24).astype(int)
    assert out.max() == 255 and beyond(out, lines, 2) > 8


EDGE = np.array([[230, 120, 40], [40, 60, 90]])


def test_chroma_follows_luma_at_an_edge_of_two_colours():
    """Sharp luma makes sharp colours; bicubic chroma, in real numbers, is up to 47 levels off."""
    x = np.repeat(EDGE[[0] * 12 + [1] * 12][None], 24, 0).astype(np.uint8)
    q = colour.luma(x).repeat(4, 0).repeat(4, 1)
    out = colour.merge(x, q, 4, height=24).astype(int)
    assert np.abs(out - x.astype(int).repeat(4, 0).repeat(4, 1)).max() <= 12


def test_smooth_takes_colour_noise_and_keeps_edges():
    clean = np.repeat(EDGE[[0] * 20 + [1] * 20][None], 40, 0)
    noise = np.random.default_rng(0).normal(0, 10, clean.shape)
    noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
    q = colour.luma(clean.astype(np.uint8)).repeat(2, 0).repeat(2, 1)
    kept, smooth = (
        np.square(
            colour.merge(noisy, q, 2, height=40, smooth=s) - clean.repeat(2, 0).repeat(2, 1).astype(float)
        )
        for s in (False, True)
    )
    assert smooth[:, :30].mean() < kept[:, :30].mean() / 6
    assert smooth[:, 36:44].mean() < kept[:, 36:44].mean() / 3


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
