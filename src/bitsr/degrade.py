"""Low-resolution images as people have them: blurred, noisy, sharpened, and stored as JPEG or WebP.

After the degradation models of BSRGAN (Zhang et al. 2021, arXiv 2103.14006) and Real-ESRGAN (Wang
et al. 2021, arXiv 2107.10833): each fault is drawn at random, in the order in which a camera and a
web site add them, and some images go through the codec twice. Strengths are milder than theirs.
Every fifth image stays clean, because the nets must keep what a good image has, and three in ten
have one fault alone, as a photograph that was only made small and stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pyvips
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from .errors import BitsrError
from .imresize import imresize, resize
from .photo.fork import use_libvips

VERSION = 2
"""Raise it when the same key gives another image: it is part of the key of the training cache."""
CLEAN = 0.2
"""Share of images that stay as MATLAB's bicubic makes them."""
SINGLE = 0.3
"""Share of images that have one fault alone."""
AGAIN = 0.15
"""Share of the rest that are resized a little and stored a second time."""

NO_METADATA = 0
"""Of libvips: VIPS_FOREIGN_KEEP_NONE."""

Pixels = NDArray[np.floating]


def shrink(hr: NDArray[np.uint8], scale: int, kernel: str) -> Pixels:
    """(H, W, 3) uint8 -> (H / scale, W / scale, 3) in [0, 255], whole numbers; scale divides both
    sides.

    kernel: "bicubic" (MATLAB's, antialiased), "area", or one of libvips: "linear", "mitchell", "lanczos3".
    Raises PhotoError in a forked child that libvips cannot work in.
    """
    if kernel == "bicubic":
        return imresize(hr, 1 / scale, dtype=np.float32).astype(np.float32)
    use_libvips()
    image = pyvips.Image.new_from_array(hr)
    small = image.shrink(scale, scale) if kernel == "area" else image.reduce(scale, scale, kernel=kernel)
    return small.numpy().astype(np.float32)


def gaussian(wide: float, narrow: float = 0.0, angle: float = 0.0) -> NDArray[np.float64]:
    """A Gaussian kernel (k, k) that sums to 1, of deviations ``wide`` and ``narrow`` (0: the same) in pixels.

    angle: of the wide axis, in radians.
    """
    narrow = narrow or wide
    reach = max(1, math.ceil(3 * wide))
    at = np.arange(-reach, reach + 1)
    u = math.cos(angle) * at + math.sin(angle) * at[:, None]
    v = math.cos(angle) * at[:, None] - math.sin(angle) * at
    kernel = np.exp(-0.5 * ((u / wide) ** 2 + (v / narrow) ** 2))
    return kernel / kernel.sum()


def blur(x: Pixels, kernel: NDArray[np.float64]) -> Pixels:
    """x filtered by ``kernel``; beyond the border the nearest pixel stands."""
    reach = kernel.shape[0] // 2
    h, w = x.shape[:2]
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    out = np.zeros_like(x)
    for (i, j), weight in np.ndenumerate(kernel):
        if weight > 1e-5:
            out += np.float32(weight) * padded[i : i + h, j : j + w]
    return out


def noise(x: Pixels, level: float, grey: bool, rng: Generator) -> Pixels:
    """x with Gaussian noise of deviation ``level``; grey: the same in all channels."""
    shape = (*x.shape[:2], 1) if grey else x.shape
    return x + np.float32(level) * rng.standard_normal(shape, np.float32)


def shot_noise(x: Pixels, level: float, grey: bool, rng: Generator) -> Pixels:
    """x with noise whose variance grows with brightness (Poisson's), of deviation ``level`` at mid-grey."""
    brightness = x.mean(axis=2, keepdims=True) if grey else x
    deviation = np.float32(level) * np.sqrt(np.clip(brightness, 0, 255) / 128)
    shape = (*x.shape[:2], 1) if grey else x.shape
    return x + deviation * rng.standard_normal(shape, np.float32)


def sharpen(x: Pixels, amount: float, sigma: float) -> Pixels:
    """x with unsharp masking: halos as of phones."""
    return x + np.float32(amount) * (x - blur(x, gaussian(sigma)))


def to_bytes(x: Pixels) -> NDArray[np.uint8]:
    """Rounded half up to 8 bits."""
    return (np.clip(x, 0, 255) + 0.5).astype(np.uint8)


def stored(x: Pixels, codec: str, quality: int, subsample: bool = True) -> Pixels:
    """x after one trip through "jpeg" or "webp" at ``quality``, 1 to 100.

    subsample: JPEG's chroma at half size (4:2:0). Raises PhotoError in a forked child that libvips
    cannot work in.
    """
    use_libvips()
    image = pyvips.Image.new_from_array(to_bytes(x))
    if codec == "jpeg":
        mode = "on" if subsample else "off"
        data = image.jpegsave_buffer(Q=quality, subsample_mode=mode, keep=NO_METADATA)
        return pyvips.Image.jpegload_buffer(data).numpy().astype(np.float32)
    data = image.webpsave_buffer(Q=quality, keep=NO_METADATA)
    return pyvips.Image.webpload_buffer(data)[:3].numpy().astype(np.float32)


def _codec(x: Pixels, rng: Generator, lowest: int) -> Pixels:
    """A JPEG, or one time in ten a WebP, of a quality between ``lowest`` and 95."""
    quality, subsample = int(rng.integers(lowest, 96)), bool(rng.random() < 0.7)
    return stored(x, "webp" if rng.random() < 0.1 else "jpeg", quality, subsample)


def _noise(x: Pixels, rng: Generator) -> Pixels:
    """Up to 20 levels, mostly few; of the sensor or of light, grey or coloured."""
    kind = noise if rng.random() < 0.7 else shot_noise
    return kind(x, 20 * rng.random() ** 1.5, bool(rng.random() < 0.5), rng)


def _blur(x: Pixels, rng: Generator) -> Pixels:
    """Gaussian, round or oblong."""
    wide = rng.uniform(0.3, 1.1)
    return blur(x, gaussian(wide, wide * rng.choice((1.0, rng.uniform(0.4, 1.0))), rng.uniform(0, math.pi)))


def _one_fault(x: Pixels, rng: Generator) -> Pixels:
    """Compression half of the time, else noise or blur."""
    draw = rng.random()
    return _codec(x, rng, 30) if draw < 0.5 else _noise(x, rng) if draw < 0.8 else _blur(x, rng)


def degrade(hr: NDArray[np.uint8], scale: int, key: Sequence[int]) -> NDArray[np.uint8]:
    """A low-resolution image (h, w, 3) of ``hr`` (scale h, scale w, 3), both uint8 RGB.

    key: whole numbers, such as seed and image; the same key and image give the same result.
    """
    rng = default_rng(list(key))
    draw = rng.random()
    if draw < CLEAN + SINGLE:
        x = shrink(hr, scale, "bicubic")
        return to_bytes(x if draw < CLEAN else _one_fault(x, rng))
    kernels = ("bicubic", "area", "linear", "mitchell", "lanczos3")
    x = shrink(hr, scale, str(rng.choice(kernels, p=(0.6, 0.1, 0.1, 0.1, 0.1))))
    if rng.random() < 0.4:
        x = _blur(x, rng)
    if rng.random() < 0.15:
        x = sharpen(x, rng.uniform(0.2, 1.0), rng.uniform(0.5, 1.5))
    if rng.random() < 0.55:
        x = _noise(x, rng)
    if rng.random() < 0.7:
        x = _codec(x, rng, 30)
    if rng.random() < AGAIN:
        h, w = x.shape[:2]
        share = rng.uniform(0.7, 1.3)
        x = resize(x, (max(1, round(h * share)), max(1, round(w * share))))
        x = resize(_codec(x, rng, 60), (h, w))
    return to_bytes(x)


SETTINGS: dict[str, Callable[[Pixels, Generator], Pixels]] = {
    **{f"jpeg{q}": lambda x, rng, q=q: stored(x, "jpeg", q) for q in (90, 75, 60, 40)},
    **{f"noise{n}": lambda x, rng, n=n: noise(x, n, False, rng) for n in (4, 8, 16)},
    **{f"blur{b}": lambda x, rng, b=b: blur(x, gaussian(b)) for b in (0.5, 0.8)},
    "noise4-jpeg75": lambda x, rng: stored(noise(x, 4, False, rng), "jpeg", 75),
}
"""Single faults for measuring nets (``bitsr evaluate --degrade``): JPEG by quality with 4:2:0
chroma, Gaussian noise by its deviation in levels of each channel, blur by its deviation in LR
pixels."""


def check_setting(setting: str) -> None:
    """Raise BitsrError for what is none of ``SETTINGS``."""
    if setting not in SETTINGS:
        raise BitsrError(f"unknown degradation {setting!r}; known: {', '.join(SETTINGS)}")


def degrade_as(setting: str, lr: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    """A clean LR image (h, w, 3) uint8 with one of ``SETTINGS``, noise drawn by ``seed``."""
    return to_bytes(SETTINGS[setting](lr.astype(np.float32), default_rng(seed)))
