"""Image quality: luma, PSNR, SSIM, MS-SSIM and sharpness (numpy alone)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import BitsrError

Y_WEIGHTS = (65.481, 128.553, 24.966)
"""ITU-R BT.601 luma weights of MATLAB's rgb2ycbcr, for RGB in [0, 1]; they sum to 219 = 235 -
16."""


def rgb_to_y(rgb: ArrayLike) -> NDArray[np.float64]:
    """Luma of MATLAB's ``rgb2ycbcr``: Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255.

    rgb: (..., 3), values in [0, 255], any real dtype. Returns (...), float64 in [16, 235], not
    rounded; MATLAB rounds it to 8 bit for uint8 input, which ``to_8bit`` does. Raises BitsrError
    for other shapes.
    """
    x = np.asarray(rgb, np.float64)
    if x.ndim < 1 or x.shape[-1] != 3:
        raise BitsrError(f"rgb_to_y wants (..., 3), not shape {x.shape}")
    return 16.0 + x @ (np.array(Y_WEIGHTS) / 255.0)


def to_8bit(x: ArrayLike) -> NDArray[np.float64]:
    """Clip to [0, 255] and round half up: the levels an 8-bit file would hold, as float64."""
    return np.floor(np.clip(np.asarray(x, np.float64), 0.0, 255.0) + 0.5)


def _pair(a: ArrayLike, b: ArrayLike, crop: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or x.ndim not in (2, 3):
        raise BitsrError(f"two images of one shape, (H, W) or (H, W, C), not {x.shape} and {y.shape}")
    if crop < 0 or min(x.shape[:2]) <= 2 * crop:
        raise BitsrError(f"border crop {crop} leaves nothing of an image of shape {x.shape}")
    inner = slice(crop, -crop or None)
    return x[inner, inner], y[inner, inner]


def psnr(a: ArrayLike, b: ArrayLike, *, crop: int = 0, peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(peak^2 / MSE); infinite for equal images.

    a, b: (H, W) or (H, W, C) of one shape, any real dtype; the mean runs over all samples left
    after ``crop`` pixels are cut off every border. Raises BitsrError where shapes differ or nothing
    is left.
    """
    x, y = _pair(a, b, crop)
    mse = float(np.mean((x - y) ** 2))
    return math.inf if mse == 0 else 10.0 * math.log10(peak * peak / mse)


def sharpness(a: ArrayLike, b: ArrayLike, *, crop: int = 0) -> float:
    """How much contrast of edges and texture image a has beside the original b: 1 as much, less is
    smoother, more is noisier.

    The mean length of the gradient of a over that of b, the gradient being the differences to the
    pixels to the right and below. It compares amounts: it does not say whether a has the same edges
    as b, which PSNR and SSIM do. Infinite where b alone is flat.

    a, b, crop: as in ``psnr``. Raises BitsrError where shapes differ or less than 2x2 pixels are
    left.
    """
    x, y = _pair(a, b, crop)
    if min(x.shape[:2]) < 2:
        raise BitsrError(f"sharpness wants at least 2x2 pixels, not {x.shape[:2]}")
    mine, original = (
        float(np.hypot(v[:-1, 1:] - v[:-1, :-1], v[1:, :-1] - v[:-1, :-1]).mean()) for v in (x, y)
    )
    if original == 0:
        return math.inf if mine else 1.0
    return mine / original


def _window(x: NDArray[np.float64], taps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Separable correlation over the first two axes, valid region only."""
    n = len(taps)
    for axis in (0, 1):
        x = np.moveaxis(x, axis, 0)
        m = x.shape[0] - n + 1
        out = taps[0] * x[:m]
        for i in range(1, n):
            out += taps[i] * x[i : i + m]
        x = np.moveaxis(out, 0, axis)
    return x


def ssim(
    a: ArrayLike, b: ArrayLike, *, crop: int = 0, peak: float = 255.0, sample_covariance: bool = False
) -> float:
    """Mean structural similarity (Wang et al., IEEE TIP 13(4), 2004), at most 1.

    11x11 Gaussian window with sigma 1.5, K1 = 0.01, K2 = 0.03, windows wholly inside the image,
    population covariance: the authors' MATLAB reference without its automatic downsampling, and
    BasicSR's. Channels are averaged. ``sample_covariance`` multiplies (co)variances by 121/120,
    scikit-image's default.

    a, b: (H, W) or (H, W, C) of one shape, any real dtype, range ``peak``; ``crop`` as in ``psnr``.
    Raises BitsrError where shapes differ or less than 11x11 pixels are left.
    """
    x, y = _pair(a, b, crop)
    if min(x.shape[:2]) < 11:
        raise BitsrError(f"SSIM wants at least 11x11 pixels, not {x.shape[:2]}")
    luminance, structure = _ssim_maps(x, y, peak, 121 / 120 if sample_covariance else 1.0)
    return float((luminance * structure).mean())


def _ssim_maps(
    x: NDArray[np.float64], y: NDArray[np.float64], peak: float, norm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(luminance, contrast times structure) of every window: their product is the SSIM index."""
    taps = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mx, my = _window(x, taps), _window(y, taps)
    vx = norm * (_window(x * x, taps) - mx * mx)
    vy = norm * (_window(y * y, taps) - my * my)
    cxy = norm * (_window(x * y, taps) - mx * my)
    return (2 * mx * my + c1) / (mx * mx + my * my + c1), (2 * cxy + c2) / (vx + vy + c2)


MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales of MS-SSIM, the finest first (Wang et al. 2003, section 3.2)."""


def ms_ssim(a: ArrayLike, b: ArrayLike, *, crop: int = 0, peak: float = 255.0) -> float:
    """Multi-scale structural similarity (Wang et al., Asilomar 2003, eq. 7), at most 1.

    Contrast and structure of five scales and the luminance of the coarsest, each the mean over the
    windows of ``ssim``, to the power of ``MS_WEIGHTS``, multiplied. From scale to scale 2 x 2
    pixels become their mean; an odd last row or column is left out. A scale whose mean is negative
    (images that have nothing in common) counts as 0. Channels are averaged.

    a, b: (H, W) or (H, W, C) of one shape, any real dtype, range ``peak``; ``crop`` as in ``psnr``.
    Raises BitsrError where shapes differ or less than 176 x 176 pixels are left.
    """
    x, y = _pair(a, b, crop)
    least = 11 * 2 ** (len(MS_WEIGHTS) - 1)
    if min(x.shape[:2]) < least:
        raise BitsrError(f"MS-SSIM wants at least {least}x{least} pixels, not {x.shape[:2]}")
    value: NDArray[np.float64] = np.ones(x.shape[2:])
    for scale, weight in enumerate(MS_WEIGHTS):
        if scale:
            x, y = _halve(x), _halve(y)
        luminance, structure = _ssim_maps(x, y, peak, 1.0)
        last = scale == len(MS_WEIGHTS) - 1
        mean = np.mean(luminance * structure if last else structure, axis=(0, 1))
        value = value * np.maximum(mean, 0.0) ** weight
    return float(value.mean())


def _halve(x: NDArray[np.float64]) -> NDArray[np.float64]:
    h, w = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    return (x[0:h:2, 0:w:2] + x[1:h:2, 0:w:2] + x[0:h:2, 1:w:2] + x[1:h:2, 1:w:2]) / 4
