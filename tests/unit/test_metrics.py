"""Luma, PSNR and SSIM against values computed independently; the protocols' promises."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsr.errors import BitsrError
from bitsr.eval.metrics import MS_WEIGHTS, Y_WEIGHTS, ms_ssim, psnr, rgb_to_y, sharpness, ssim, to_8bit
from bitsr.eval.protocols import PROTOCOLS


def golden_pair() -> tuple[np.ndarray, np.ndarray]:
    """Two 14x13 images by integer formulas; the golden values below are theirs."""
    y, x = np.mgrid[:14, :13]
    a = (x * x * 7 + y * y * 5 + x * y * 3) % 256
    return a, np.clip(a + (x * 5 + y * 11) % 23 - 11, 0, 255)


# Direct loops over the definitions in 50-digit decimal arithmetic: two-dimensional window, centred moments.
GOLDEN_SSIM = 0.99591347858510533
GOLDEN_SSIM_SAMPLE = 0.99591329397620205
GOLDEN_SSIM_CROP_1 = 0.99594503732260665
GOLDEN_PSNR = 31.860973708020282
GOLDEN_PSNR_CROP_3 = 31.756621142757986


def test_luma_of_known_colours():
    # MATLAB's documented range, and its rounded values for the primaries.
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]])
    y = rgb_to_y(colours.astype(np.uint8))
    np.testing.assert_allclose(y, [16, 235, 81.481, 144.553, 40.966, 16 + 219 * 128 / 255], atol=1e-12)
    assert to_8bit(y).tolist() == [16, 235, 81, 145, 41, 126]
    assert sum(Y_WEIGHTS) == pytest.approx(219)
    assert rgb_to_y(np.zeros((4, 5, 3))).shape == (4, 5)
    with pytest.raises(ValueError, match="shape"):
        rgb_to_y(np.zeros((4, 5)))


def test_to_8bit_rounds_half_up_and_clips():
    assert to_8bit([-3.0, -0.5, 0.5, 1.5, 2.4999, 254.5, 255.4, 300]).tolist() == [
        0,
        0,
        1,
        2,
        2,
        255,
        255,
        255,
    ]


def test_psnr_golden():
    a, b = golden_pair()
    assert psnr(a, b) == pytest.approx(GOLDEN_PSNR, abs=1e-12)
    assert psnr(a, b, crop=3) == pytest.approx(GOLDEN_PSNR_CROP_3, abs=1e-12)
    assert psnr(a.astype(np.uint8), b.astype(np.uint8)) == psnr(b, a)  # no wrap-around in uint8
    assert psnr(a / 255, b / 255, peak=1) == pytest.approx(GOLDEN_PSNR)
    assert psnr(np.zeros((2, 2)), np.full((2, 2), 255)) == 0
    assert psnr(a, a) == math.inf


def test_ssim_golden():
    a, b = golden_pair()
    assert ssim(a, b) == pytest.approx(GOLDEN_SSIM, abs=1e-12)
    assert ssim(a, b, sample_covariance=True) == pytest.approx(GOLDEN_SSIM_SAMPLE, abs=1e-12)
    assert ssim(a, b, crop=1) == pytest.approx(GOLDEN_SSIM_CROP_1, abs=1e-12)
    assert ssim(a / 255, b / 255, peak=1) == pytest.approx(GOLDEN_SSIM)
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_ssim_of_constants_is_its_luminance_term():
    a, b = np.full((11, 11), 100.0), np.full((11, 11), 150.0)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))


def test_ssim_averages_channels():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 255, (2, 20, 17, 3))
    assert ssim(a, b) == pytest.approx(np.mean([ssim(a[..., c], b[..., c]) for c in range(3)]))


def noisy_pair(shape, spread, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.uniform(0, 255, shape)
    return a, np.clip(a + rng.normal(0, spread, a.shape), 0, 255)


def ms_ssim_by_definition(a, b, peak=255.0):
    """Equation 7 of Wang et al. (2003) with whole windows in two dimensions and centred moments."""
    g = np.exp(-((np.arange(11) - 5.0) ** 2) / 4.5)
    window = np.outer(g, g) / np.outer(g, g).sum()
    value = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        x, y = (np.lib.stride_tricks.sliding_window_view(v, (11, 11)) for v in (a, b))
        mx, my = (np.einsum("hwij,ij->hw", v, window) for v in (x, y))
        dx, dy = x - mx[..., None, None], y - my[..., None, None]
        vx, vy, cxy = (np.einsum("hwij,ij->hw", v, window) for v in (dx * dx, dy * dy, dx * dy))
        term = (2 * cxy + (0.03 * peak) ** 2) / (vx + vy + (0.03 * peak) ** 2)
        if scale == 4:
            term = term * (2 * mx * my + (0.01 * peak) ** 2) / (mx**2 + my**2 + (0.01 * peak) ** 2)
        value *= term.mean() ** weight
        h, w = a.shape[0] // 2, a.shape[1] // 2
        a, b = (v[: 2 * h, : 2 * w].reshape(h, 2, w, 2).mean((1, 3)) for v in (a, b))
    return value


@pytest.mark.parametrize("shape", [(176, 176), (191, 201)])
def test_ms_ssim_is_its_definition(shape):
    a, b = noisy_pair(shape, 40)
    assert ms_ssim(a, b) == pytest.approx(ms_ssim_by_definition(a, b), abs=1e-12)
    assert 0.3 < ms_ssim(a, b) < 0.999
    assert sum(MS_WEIGHTS) == pytest.approx(1, abs=2e-4)


@settings(max_examples=10, deadline=None)
@given(h=st.integers(176, 210), w=st.integers(176, 210), spread=st.floats(1, 80), seed=st.integers(0, 9))
def test_ms_ssim_as_a_measure(h, w, spread, seed):
    """1 for equal images alone, the same for both orders and for moved images, falling with noise."""
    a, b = noisy_pair((h // 16 * 16, w // 16 * 16), spread, seed)
    value = ms_ssim(a, b)
    assert ms_ssim(a, a) == pytest.approx(1, abs=1e-12) and value < 1
    assert ms_ssim(b, a) == pytest.approx(value, abs=1e-12)
    for move in (np.fliplr, np.flipud, np.transpose):
        assert ms_ssim(move(a), move(b)) == pytest.approx(value, abs=1e-9)
    assert ms_ssim(a / 255, b / 255, peak=1) == pytest.approx(value, abs=1e-9)
    assert ms_ssim(a, a + 3 * (b - a)) < value
    grey = np.dstack([a, a, b]), np.dstack([b, b, a])
    assert ms_ssim(*grey) == pytest.approx(value, abs=1e-9)


def test_ms_ssim_of_opposites_and_of_small_images():
    a, _ = noisy_pair((176, 176), 1)
    assert ms_ssim(a, 255 - a) == 0
    with pytest.raises(BitsrError, match="at least 176x176"):
        ms_ssim(a[1:], a[1:])
    assert ms_ssim(np.pad(a, 2), np.pad(a, 2, constant_values=9), crop=2) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("sample", [False, True])
def test_ssim_equals_scikit_image(sample):
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(1)
    a = rng.uniform(0, 255, (40, 33))
    b = np.clip(a + rng.normal(0, 40, a.shape), 0, 255)
    want = metrics.structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=sample, data_range=255
    )
    assert ssim(a, b, sample_covariance=sample) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_unfit_images_are_refused(metric):
    with pytest.raises(ValueError, match="one shape"):
        metric(np.zeros((20, 20)), np.zeros((20, 21)))
    with pytest.raises(ValueError, match="one shape"):
        metric(np.zeros(20), np.zeros(20))
    with pytest.raises(ValueError, match="crop 10"):
        metric(np.zeros((20, 20)), np.zeros((20, 20)), crop=10)
    with pytest.raises(ValueError, match="crop -1"):
        metric(np.zeros((20, 20)), np.zeros((20, 20)), crop=-1)


def test_ssim_wants_one_window():
    with pytest.raises(ValueError, match="11x11"):
        ssim(np.zeros((13, 12)), np.zeros((13, 12)), crop=1)


def test_protocols_name_themselves():
    assert next(iter(PROTOCOLS)) == "matlab-y"
    assert len({str(p) for p in PROTOCOLS.values()}) == len(PROTOCOLS)
    for name, p in PROTOCOLS.items():
        assert str(p).startswith(name + ":") and "border crop = scale" in str(p) and p.source
        ensemble = p.with_self_ensemble()
        assert ensemble.self_ensemble and not p.self_ensemble and "self-ensemble" in str(ensemble)
    with pytest.raises(FrozenInstanceError):
        PROTOCOLS["rgb"].name = "x"  # pyright: ignore[reportAttributeAccessIssue]


def test_score_crops_by_the_scale():
    a, b = golden_pair()
    p = PROTOCOLS["matlab-y"]
    assert p.score(a, b, 1) == (psnr(a, b, crop=1), ssim(a, b, crop=1))
    assert PROTOCOLS["e2fif"].score(a, b, 1)[1] == ssim(a, b, crop=1, sample_covariance=True)


def test_sharpness_compares_the_length_of_gradients() -> None:
    a, b = golden_pair()
    mine, theirs = (
        np.mean(
            [[np.hypot(v[i, j + 1] - v[i, j], v[i + 1, j] - v[i, j]) for j in range(10)] for i in range(11)]
        )
        for v in (a[1:13, 1:12].astype(float), b[1:13, 1:12].astype(float))
    )
    assert sharpness(a, b, crop=1) == pytest.approx(mine / theirs, rel=1e-12)
    # twice the contrast is twice as sharp, and a place says nothing
    assert sharpness(2 * a, a) == pytest.approx(2) and sharpness(a[::-1, ::-1], a[::-1, ::-1]) == 1
    flat = np.full((4, 5), 7)
    assert sharpness(flat, flat) == 1 and sharpness(flat, flat + np.eye(4, 5)) == 0
    assert sharpness(np.eye(4, 5), flat) == math.inf
    with pytest.raises(BitsrError, match="at least 2x2 pixels"):
        sharpness(flat[:1], flat[:1])
