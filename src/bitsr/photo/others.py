"""Formats that libvips does not decode, read by other libraries where they are installed."""

from __future__ import annotations

import importlib
import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import PhotoError

_PILLOW = ("BMP", "DIB", "ICO", "PPM", "TGA", "PSD", "JPEG2000", "PCX", "DDS", "SGI", "QOI")


@dataclass(frozen=True)
class Decoded:
    """A decoded image: pixels (H, W, C) uint8 or uint16, metadata under libvips' names, upright
    or as its EXIF says."""

    pixels: NDArray[Any]
    metadata: dict[str, bytes]
    frames: int = 1


#: Kinds whose samples are linear light without an upper bound, which no net has learned.
LINEAR = ("EXR", "Radiance HDR")


def kind_of(head: bytes) -> str | None:
    """What a file is that needs another library, by its first 32 bytes."""
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis") or (
        brand in (b"mif1", b"msf1") and b"avif" not in head
    ):
        return "HEIC"
    if head[:12] == b"\0\0\0\x0cJXL \r\n\x87\n" or head[:2] == b"\xff\x0a":
        return "JPEG XL"
    if head[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" or head[:4] == b"\xff\x4f\xff\x51":
        return "JPEG 2000"
    for start, kind in (
        (b"BM", "BMP"),
        (b"8BPS", "PSD"),
        (b"\0\0\1\0", "ICO"),
        (b"DDS ", "DDS"),
        (b"qoif", "QOI"),
        (b"\x76\x2f\x31\x01", "EXR"),
        (b"#?RADIANCE", "Radiance HDR"),
        (b"#?RGBE", "Radiance HDR"),
    ):
        if head.startswith(start):
            return kind
    if head[:1] == b"P" and head[1:2] in b"123456f" and head[2:3].isspace():
        return "PPM"
    return None


def missing(kind: str) -> PhotoError:
    """What to say where the library for a kind is not installed."""
    package = {"HEIC": "pillow-heif", "JPEG XL": "pillow-jxl-plugin"}.get(kind, "pillow")
    return PhotoError(f"{kind} is read by another library: pip install {package}")


def heif(path: Path) -> Decoded:
    """An image of HEIC, by pillow-heif. Raises PhotoError."""
    try:
        library: Any = importlib.import_module("pillow_heif")
    except ImportError:
        raise missing("HEIC") from None
    try:
        image = library.open_heif(str(path), convert_hdr_to_8bit=False, hdr_to_16bit=True)
        pixels = np.array(image)
        info: dict[str, Any] = image.info
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise PhotoError(str(error) or "damaged or cut short") from None
    # Turned upright by the library: what its EXIF says of that no longer holds.
    return Decoded(pixels if pixels.ndim == 3 else pixels[:, :, None], _metadata(info), len(image) or 1)


def pillow(path: Path, kind: str | None, formats: tuple[str, ...] = _PILLOW) -> Decoded | None:
    """An image of a format that Pillow reads, None where it is of no such format.

    kind: its name for people, where it is known. Raises PhotoError.
    """
    try:
        library: Any = importlib.import_module("PIL.Image")
    except ImportError:
        if kind:
            raise missing(kind) from None
        return None
    if kind == "JPEG XL":
        try:
            importlib.import_module("pillow_jxl")
        except ImportError:
            raise missing(kind) from None
        formats = ("JXL",)
    try:
        with library.open(path, formats=formats) as image:
            image.load()
            info: dict[str, Any] = image.info
            frames = getattr(image, "n_frames", 1) if kind not in ("PSD", "ICO") else 1
            with suppress(Exception):  # EXIF that makes no sense is not kept
                if "exif" not in info and (exif := image.getexif()):
                    info = {**info, "exif": exif.tobytes()}
            return Decoded(_pixels(image), _metadata(info), frames)
    except library.UnidentifiedImageError:
        if kind:
            raise PhotoError(f"{kind} of a kind that is not read, or damaged") from None
        return None
    except library.DecompressionBombError as error:
        raise PhotoError(str(error)) from None
    except (OSError, ValueError, SyntaxError, IndexError, EOFError, OverflowError) as error:
        raise PhotoError(f"damaged or cut short ({error})") from None


def jpeg_xl() -> Any:
    """Pillow with its plug-in for JPEG XL. Raises PhotoError where they are not installed."""
    try:
        importlib.import_module("pillow_jxl")
        return importlib.import_module("PIL.Image")
    except ImportError:
        raise PhotoError("JPEG XL is written by another library: pip install pillow-jxl-plugin") from None


def encode_jpeg_xl(
    pixels: NDArray[np.uint8], quality: int, lossless: bool, metadata: dict[str, bytes]
) -> bytes:
    """The file of an image (H, W, C). metadata: under libvips' names. Raises PhotoError."""
    image = jpeg_xl().fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    names = {"icc-profile-data": "icc_profile", "exif-data": "exif", "xmp-data": "xmp"}
    more = {names[name]: value for name, value in metadata.items()}
    file = io.BytesIO()
    try:
        image.save(file, "JXL", quality=quality, lossless=lossless, **more)
    except (OSError, ValueError, RuntimeError) as error:
        raise PhotoError(f"JPEG XL: {error}") from None
    return file.getvalue()


def _pixels(image: Any) -> NDArray[Any]:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "RGB")
    pixels = np.array(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L") and pixels.min() >= 0 and pixels.max() <= 65535:
        pixels = pixels.astype(np.uint16)
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L"):
        raise PhotoError(f"samples of mode {image.mode} are not read")
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _metadata(info: dict[str, Any]) -> dict[str, bytes]:
    names = {"icc_profile": "icc-profile-data", "exif": "exif-data", "xmp": "xmp-data"}
    out: dict[str, bytes] = {}
    for name, ours in names.items():
        value = info.get(name)
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, bytes) and value:
            out[ours] = value
    return out
