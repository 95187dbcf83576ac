"""Picture quality: luma, PSNR, SSIM, and the named protocols under which they are quoted (numpy only)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Y_WEIGHTS = (65.481, 128.553, 24.966)
"""ITU-R BT.601 luma weights of MATLAB's rgb2ycbcr, for RGB in [0, 1]; they sum to 219 = 235 - 16."""


def rgb_to_y(rgb: ArrayLike) -> NDArray[np.float64]:
    """Luma of MATLAB's ``rgb2ycbcr``: Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255.

    rgb: (..., 3), values in [0, 255], any real dtype. Returns (...), float64 in [16, 235], not rounded;
    MATLAB rounds it to 8 bit for uint8 input, which ``to_8bit`` does. Raises ValueError for other shapes.
    """
    x = np.asarray(rgb, np.float64)
    if x.ndim < 1 or x.shape[-1] != 3:
        raise ValueError(f"rgb_to_y wants (..., 3), not shape {x.shape}")
    return 16.0 + x @ (np.array(Y_WEIGHTS) / 255.0)


def to_8bit(x: ArrayLike) -> NDArray[np.float64]:
    """Clip to [0, 255] and round half up: the levels an 8-bit file would hold, as float64."""
    return np.floor(np.clip(np.asarray(x, np.float64), 0.0, 255.0) + 0.5)


def _pair(a: ArrayLike, b: ArrayLike, crop: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or x.ndim not in (2, 3):
        raise ValueError(f"two pictures of one shape, (H, W) or (H, W, C), not {x.shape} and {y.shape}")
    if crop < 0 or min(x.shape[:2]) <= 2 * crop:
        raise ValueError(f"border crop {crop} leaves nothing of a picture of shape {x.shape}")
    inner = slice(crop, -crop or None)
    return x[inner, inner], y[inner, inner]


def psnr(a: ArrayLike, b: ArrayLike, *, crop: int = 0, peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(peak^2 / MSE); infinite for equal pictures.

    a, b: (H, W) or (H, W, C) of one shape, any real dtype; the mean runs over all samples left after ``crop``
    pixels are cut off every border. Raises ValueError where shapes differ or nothing is left.
    """
    x, y = _pair(a, b, crop)
    mse = float(np.mean((x - y) ** 2))
    return math.inf if mse == 0 else 10.0 * math.log10(peak * peak / mse)


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

    11x11 Gaussian window with sigma 1.5, K1 = 0.01, K2 = 0.03, windows wholly inside the picture, population
    covariance: the authors' MATLAB reference without its automatic downsampling, and BasicSR's. Channels are
    averaged. ``sample_covariance`` multiplies (co)variances by 121/120, scikit-image's default.

    a, b: (H, W) or (H, W, C) of one shape, any real dtype, range ``peak``; ``crop`` as in ``psnr``.
    Raises ValueError where shapes differ or less than 11x11 pixels are left.
    """
    x, y = _pair(a, b, crop)
    if min(x.shape[:2]) < 11:
        raise ValueError(f"SSIM wants at least 11x11 pixels, not {x.shape[:2]}")
    taps = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    norm = 121 / 120 if sample_covariance else 1.0
    mx, my = _window(x, taps), _window(y, taps)
    vx = norm * (_window(x * x, taps) - mx * mx)
    vy = norm * (_window(y * y, taps) - my * my)
    cxy = norm * (_window(x * y, taps) - mx * my)
    index = (2 * mx * my + c1) * (2 * cxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(index.mean())


@dataclass(frozen=True)
class Protocol:
    """How LR pictures are made and SR pictures compared; a PSNR means nothing without its protocol.

    Common to all: HR is cropped to multiples of the scale; the net works on luma; the SR picture is clipped
    and rounded to 8 bit; ``scale`` pixels of every border are left out. A grey file gives its levels as Y.
    """

    name: str
    source: str
    colour: Literal["y", "rgb"] = "y"
    """What is compared: luma, or RGB with the chroma upscaled by bicubic."""
    lr_from: Literal["rgb", "y"] = "rgb"
    """What bicubic shrinks: the 8-bit RGB picture into an 8-bit one, or the 8-bit luma into real numbers."""
    round_hr: bool = True
    """Whether HR luma is rounded to 8 bit. Rounding costs about 0.03 dB at 38 dB, 0.01 dB at 32 dB."""
    sample_covariance: bool = False
    """SSIM as scikit-image computes it by default."""
    self_ensemble: bool = False
    """Mean of the net over the 8 flips and quarter turns (Timofte et al., CVPR 2016): 8 times the work."""

    def with_self_ensemble(self) -> Protocol:
        return replace(self, self_ensemble=True)

    def __str__(self) -> str:
        """The one line that stands beside every figure."""
        lr = "8-bit RGB" if self.lr_from == "rgb" else "8-bit luma, not rounded"
        if self.colour == "rgb":
            compared = "RGB (net on luma, chroma bicubic)"
        else:
            compared = "Y (BT.601, 16-235)" + ("" if self.round_hr else ", HR not rounded")
        ensemble = "; self-ensemble x8" if self.self_ensemble else ""
        return (
            f"{self.name}: LR by MATLAB bicubic from {lr}; {compared}; SR rounded to 8 bit;"
            f" border crop = scale{ensemble}"
        )

    def score(self, sr: ArrayLike, hr: ArrayLike, scale: int) -> tuple[float, float]:
        """(PSNR in dB, SSIM) of an SR picture, rounded already, against HR: both (H, W) or (H, W, 3)."""
        return (
            psnr(sr, hr, crop=scale),
            ssim(sr, hr, crop=scale, sample_covariance=self.sample_covariance),
        )


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol("matlab-y", "MATLAB rgb2ycbcr and imresize on uint8, as in EDSR's and RCAN's evaluation"),
        Protocol(
            "e2fif",
            "released code of E2FIF (arXiv 2207.06893): HR luma unrounded, SSIM by scikit-image; its authors"
            " also pick the best epoch on Set5, which no protocol can undo",
            round_hr=False,
            sample_covariance=True,
        ),
        Protocol(
            "srcnn",
            "released code of SRCNN (Dong et al. 2014); gives the published bicubic rows (Set5 x2: 33.66 dB)",
            lr_from="y",
        ),
        Protocol("rgb", "BasicSR without test_y_channel", colour="rgb"),
    )
}
"""The one place to add a protocol; the first is the default."""
