"""Luma, PSNR and SSIM against values computed independently; the protocols' promises."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from bitsr.eval.metrics import PROTOCOLS, Y_WEIGHTS, psnr, rgb_to_y, ssim, to_8bit


def golden_pair() -> tuple[np.ndarray, np.ndarray]:
    """Two 14x13 pictures by integer formulas; the golden values below are theirs."""
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
def test_unfit_pictures_are_refused(metric):
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
        PROTOCOLS["rgb"].name = "x"


def test_score_crops_by_the_scale():
    a, b = golden_pair()
    p = PROTOCOLS["matlab-y"]
    assert p.score(a, b, 1) == (psnr(a, b, crop=1), ssim(a, b, crop=1))
    assert PROTOCOLS["e2fif"].score(a, b, 1)[1] == ssim(a, b, crop=1, sample_covariance=True)
