"""imresize against what is known exactly of MATLAB's, and against the published bicubic rows."""

from fractions import Fraction as F

import numpy as np
import pytest

from bitsr.eval.evaluate import find_set, read_hr
from bitsr.eval.metrics import psnr, rgb_to_y, to_8bit
from bitsr.imresize import contributions, imresize

# Keys' kernel, a = -0.5, at the tap centres: exact rational numbers, {tap offset: weight}. A shrink by s
# stretches the kernel by s around s * row + (s - 1) / 2; an enlargement by s has s phases around row // s.
SHRINK = {
    2: {-3: F(-3, 256), -2: F(-9, 256), -1: F(29, 256), 0: F(111, 256)},
    3: {-4: F(-1, 81), -3: F(-2, 81), -1: F(1, 9), 0: F(7, 27), 1: F(1, 3)},
    4: {
        -6: F(-7, 4096),
        -5: F(-45, 4096),
        -4: F(-75, 4096),
        -3: F(-49, 4096),
        -2: F(93, 4096),
        -1: F(399, 4096),
        0: F(745, 4096),
        1: F(987, 4096),
    },
}
SHRINK = {s: half | {s - 1 - o: w for o, w in half.items()} for s, half in SHRINK.items()}  # symmetric
ENLARGE = {
    2: [{-2: F(-3, 128), -1: F(29, 128), 0: F(111, 128), 1: F(-9, 128)}],
    3: [{-2: F(-1, 27), -1: F(1, 3), 0: F(7, 9), 1: F(-2, 27)}, {0: F(1)}],
    4: [
        {-2: F(-45, 1024), -1: F(399, 1024), 0: F(745, 1024), 1: F(-75, 1024)},
        {-2: F(-7, 1024), -1: F(93, 1024), 0: F(987, 1024), 1: F(-49, 1024)},
    ],
}


def taps(n_in: int, n_out: int, scale: float, row: int) -> dict[int, float]:
    idx, weights = contributions(n_in, n_out, scale)
    return {int(i): float(w) for i, w in zip(idx[row], weights[row], strict=True) if abs(w) > 1e-15}


@pytest.mark.parametrize("s", [2, 3, 4])
def test_shrinking_coefficients_are_exact(s):
    got = taps(40 * s, 40, 1 / s, 10)
    want = {10 * s + o: float(w) for o, w in SHRINK[s].items()}
    assert got == pytest.approx(want, rel=0, abs=1e-14)
    assert sum(SHRINK[s].values()) == 1


@pytest.mark.parametrize("s", [2, 3, 4])
def test_enlarging_coefficients_are_exact(s):
    for phase, weights in enumerate(ENLARGE[s]):
        assert sum(weights.values()) == 1
        want = {10 + o: float(w) for o, w in weights.items()}
        assert taps(20, 20 * s, float(s), 10 * s + phase) == pytest.approx(want, rel=0, abs=1e-14)
        mirrored = {10 - o: float(w) for o, w in weights.items()}
        assert taps(20, 20 * s, float(s), 10 * s + s - 1 - phase) == pytest.approx(mirrored, rel=0, abs=1e-14)


@pytest.mark.parametrize("scale", [F(1, 2), F(1, 3), F(1, 4), F(2), F(3), F(4), F(2, 3), F(7, 5)])
def test_a_constant_stays_constant(scale):
    grey = np.full((17, 23), 201, np.uint8)
    assert np.unique(imresize(grey, scale)).tolist() == [201]
    np.testing.assert_allclose(imresize(grey / 7.0, scale), 201 / 7.0, rtol=1e-14)


@pytest.mark.parametrize("scale", [F(1, 2), F(1, 3), F(1, 4), F(2), F(3), F(4)])
def test_borders_reflect_symmetrically(scale):
    """Resizing equals resizing of the image continued by mirror images that repeat the border sample."""
    x = np.random.default_rng(0).uniform(0, 255, (12, 24))
    whole = imresize(np.pad(x, 24, mode="symmetric"), scale)
    pad = int(24 * scale)
    np.testing.assert_allclose(imresize(x, scale), whole[pad:-pad, pad:-pad], rtol=0, atol=1e-10)


def test_reflection_repeats_where_the_kernel_is_wider_than_the_image():
    x = np.array([[10.0], [20.0]])
    wide = np.pad(x, ((16, 16), (0, 0)), mode="symmetric")
    idx, weights = contributions(34, 9, 0.25)
    assert imresize(x, F(1, 4))[0, 0] == pytest.approx(float(weights[4] @ wide[idx[4], 0]))


@pytest.mark.parametrize(
    ("size", "scale", "out"),
    [
        (7, F(1, 2), 4),
        (10, F(1, 3), 4),
        (9, F(1, 3), 3),
        (5, F(1, 4), 2),
        (1, F(1, 4), 1),
        (5, 3, 15),
        (7, 0.1, 1),
    ],
)
def test_output_size_is_rounded_up(size, scale, out):
    assert imresize(np.zeros((size, 2 * size, 3)), scale).shape[0] == out


def test_integers_are_rounded_half_up_and_clipped():
    # A x3 enlargement hits the samples themselves in its middle phase: nothing may move there.
    x = np.random.default_rng(1).integers(0, 256, (9, 8), np.uint8)
    up = imresize(x, 3)
    assert up.dtype == np.uint8
    np.testing.assert_array_equal(up[1::3, 1::3], x)
    step = np.array([[0, 0, 255, 255, 0, 0, 64, 64, 64]], np.uint8).repeat(5, axis=0)
    exact = imresize(step.astype(np.float64), 2)
    assert exact.min() < 0 and exact.max() > 255
    np.testing.assert_array_equal(imresize(step, 2), np.clip(np.floor(exact + 0.5), 0, 255))
    # -3/128 * 64 = -1.5, an exact half, goes up.
    half = np.array([[0, 0, 0, 64, 64, 64]], np.int16).repeat(5, axis=0)
    assert imresize(half.astype(np.float64), 2)[4, 3] == -1.5
    assert imresize(half, 2)[4, 3] == -1
    assert imresize(np.full((4, 4), 65535, np.uint16), F(1, 2)).min() == 65535


def test_channels_are_independent_and_layout_does_not_matter():
    x = np.random.default_rng(2).uniform(0, 255, (13, 11, 3))
    y = imresize(x, F(1, 2))
    for c in range(3):
        np.testing.assert_array_equal(y[..., c], imresize(x[..., c], F(1, 2)))
    np.testing.assert_array_equal(imresize(np.asfortranarray(x), F(1, 2)), y)
    np.testing.assert_allclose(imresize(x.swapaxes(0, 1), F(1, 2)), y.swapaxes(0, 1), atol=1e-12)


@pytest.mark.parametrize(
    ("image", "scale"),
    [(np.zeros((0, 3)), 2), (np.zeros(3), 2), (np.zeros((3, 3)), 0), (np.zeros((3, 3)), -1)],
)
def test_nonsense_is_refused(image, scale):
    with pytest.raises(ValueError, match="imresize wants"):
        imresize(image, scale)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Set5", {2: 33.66, 3: 30.39, 4: 28.42}),
        ("Set14", {2: 30.24, 3: 27.55, 4: 26.00}),
        ("B100", {2: 29.56, 3: 27.21, 4: 25.96}),
    ],
)
def test_published_bicubic_rows(name, published):
    """SRCNN's protocol, by which these rows were made: LR from 8-bit luma, unrounded; SR rounded."""
    try:
        files = find_set(name)
    except FileNotFoundError as e:
        pytest.skip(str(e))
    figures = {s: [] for s in published}
    for path in files:
        hr = read_hr(path)
        y = to_8bit(rgb_to_y(hr) if hr.ndim == 3 else hr)
        for s in published:
            target = y[: y.shape[0] // s * s, : y.shape[1] // s * s]
            sr = to_8bit(imresize(imresize(target, F(1, s)), s))
            figures[s].append(psnr(sr, target, crop=s))
    for s, value in published.items():
        assert np.mean(figures[s]) == pytest.approx(value, abs=0.02), f"x{s}"
