"""Images of Python as the samples that the engine takes, uint8 or uint16 (N, H, W, C), and back.

Arrays of integers stay as they are; floats pass as 16-bit integers; PIL images become what the command
line makes of a file: upright, with alpha for what is transparent, RGB for what is CMYK.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from .errors import BitsrError
from .photo.fork import use_libvips
from .photo.read import tidy, to_rgb

_FULL = 65535
_PIL_MODES = "1, L, LA, La, P, PA, RGB, RGBA, RGBa, RGBX, CMYK, YCbCr, HSV, I;16 and I of 16 bits"


def from_array(array: NDArray[Any], range: float | None) -> NDArray[Any]:
    """(H, W), (H, W, C) or (N, H, W, C) -> (N, H, W, C) uint8 or uint16, in the machine's byte order.

    range: the value of white where samples are floats; those beyond [0, range] are clipped.
    Raises BitsrError for other shapes and samples.
    """
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if np.issubdtype(array.dtype, np.floating):
        array = _sixteen(array, range)
    elif array.dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise BitsrError(f"samples must be uint8, uint16 or float, not {array.dtype}")
    elif range is not None:
        raise BitsrError(f"range= is of float samples, and these are {array.dtype}")
    batch = {2: (None, ..., None), 3: (None, ...), 4: (...,)}.get(array.ndim)
    if batch is None or 0 in array.shape or (array.ndim > 2 and array.shape[-1] > 4):
        raise BitsrError(
            f"image must be (H, W), (H, W, 1 to 4) or (N, H, W, 1 to 4) and not empty, not {array.shape}"
        )
    return array[batch]


def _sixteen(array: NDArray[Any], range: float | None) -> NDArray[np.uint16]:
    if range is None:
        raise BitsrError("float samples need range=: 1 where white is 1.0, 255 where it is 255.0")
    if not 0 < range < np.inf:
        raise BitsrError(f"range must be a number above 0, not {range}")
    if not np.isfinite(array).all():
        raise BitsrError("float samples that are no numbers, or infinite")
    wide = array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32, copy=False)
    return (np.clip(wide * (_FULL / range), 0, _FULL) + 0.5).astype(np.uint16)


def to_array(samples: NDArray[Any], like: NDArray[Any], range: float | None) -> NDArray[Any]:
    """(N, H, W, C) uint8 or uint16 with as many dimensions, and the samples, of the array ``like``."""
    if np.issubdtype(like.dtype, np.floating):
        assert range is not None
        samples = (samples * (range / _FULL)).astype(like.dtype)
    return {2: samples[0, ..., 0], 3: samples[0], 4: samples}[like.ndim]


def from_pil(image: Any) -> tuple[NDArray[Any], dict[str, Any]]:
    """Samples (1, H, W, C) of a PIL image, and what of its ``info`` goes with the result.

    Orientation after EXIF is applied; a palette or a transparent colour becomes alpha; CMYK becomes
    sRGB, by its profile where it has one. Kept are ICC profile, EXIF, XMP and dpi.
    Raises BitsrError for modes whose samples have no range of their own.
    """
    from PIL import ImageOps

    info = dict(image.info)
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF, which Pillow parses: many types
        info.pop("exif", None)
    clear = "transparency" in info or getattr(image.palette, "mode", "") == "RGBA"
    mode = image.mode
    if mode == "CMYK":
        samples = _cmyk(np.array(image), info.pop("icc_profile", None))
    elif mode == "I" or mode.startswith("I;16"):
        if clear:
            raise BitsrError("16-bit grey with a transparent value is read from a file or an array alone")
        samples = np.array(image)
        if samples.min(initial=0) < 0 or samples.max(initial=0) > _FULL:
            raise BitsrError("PIL mode I with values beyond 16 bits")
        samples = samples.astype(np.uint16)
    else:
        wanted = {"1": "LA" if clear else "L", "L": "LA" if clear else "L", "LA": "LA", "La": "LA"}
        wanted |= dict.fromkeys(("P", "RGB"), "RGBA" if clear else "RGB")
        wanted |= {"PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
        if mode not in wanted:
            raise BitsrError(f"PIL mode {mode} is not supported; there are {_PIL_MODES}")
        samples = np.array(image if mode == wanted[mode] else image.convert(wanted[mode]))
    return from_array(samples, None), _kept(info)


def _cmyk(samples: NDArray[Any], profile: bytes | None) -> NDArray[Any]:
    use_libvips()
    image = pyvips.Image.new_from_array(samples).copy(interpretation="cmyk")  # pyright: ignore[reportArgumentType, reportUnknownArgumentType] (a name is fine)
    if profile:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)  # pyright: ignore[reportArgumentType] (bytes are fine)
    return to_rgb(image).numpy()


def _kept(info: dict[str, Any]) -> dict[str, Any]:
    """Of PIL's ``info`` what stays true of the upscaled image."""
    kept = {key: info[key] for key in ("icc_profile", "dpi") if info.get(key)}
    names = {"exif": "exif-data", "xmp": "xmp-data"}
    metadata = {name: info[key] for key, name in names.items() if isinstance(info.get(key), bytes)}
    tidy(metadata, [])
    kept |= {key: metadata[name] for key, name in names.items() if name in metadata}
    if "exif" in kept:
        kept["exif"] = b"Exif\0\0" + kept["exif"]
    return kept


def to_pil(samples: NDArray[Any], info: dict[str, Any]) -> Any:
    """The PIL image of (1, H, W, C) samples: L, LA, RGB, RGBA or I;16."""
    from PIL import Image

    image = Image.fromarray(samples[0, ..., 0] if samples.shape[3] == 1 else samples[0])
    image.info.update(info)
    return image
