"""Image files in, by rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from .fork import use_libvips
from .formats import PhotoError, reason


@dataclass
class Photo:
    """An image ready to be read, rows from top to bottom, once.

    channels: 1 to 4. depth: 8 or 16. metadata: ICC profile, EXIF and the like, under libvips'
    names, bytes or str. resolution: pixels a mm, (x, y). notes: what a user should know about how
    the file was taken.
    """

    height: int
    width: int
    channels: int
    depth: int
    metadata: dict[str, bytes | str]
    resolution: tuple[float, float]
    notes: list[str]
    _image: pyvips.Image = field(repr=False)

    def rows(self, n: int) -> Iterator[NDArray[Any]]:
        """Yield (n, W, C) arrays, the last one shorter. Raises PhotoError where the file is
        damaged."""
        region = pyvips.Region.new(self._image)
        dtype = np.uint8 if self.depth == 8 else np.uint16
        for y in range(0, self.height, n):
            m = min(n, self.height - y)
            try:
                data = region.fetch(0, y, self.width, m)
            except pyvips.Error as error:
                raise PhotoError(reason(error)) from None
            yield np.frombuffer(data, dtype).reshape(m, self.width, self.channels)


def read(path: str | Path) -> Photo:
    """Open an image file; the pixels are decoded later, by ``Photo.rows``.

    EXIF orientation is applied. Palettes become RGB or RGBA; CMYK and Lab become sRGB; of several
    pages the first is taken. Raises OSError where the file cannot be opened and PhotoError where it
    is not an image, is damaged, or holds samples that are neither 8-bit nor 16-bit integers.
    """
    use_libvips()
    with Path(path).open("rb"):  # for the system's own words: missing, a directory, no permission
        pass
    try:
        return _photo(_open(os.fsencode(path)))
    except pyvips.Error as error:
        raise PhotoError(reason(error)) from None


# Complaints of libjpeg that leave the pixels whole. Any other one means missing or invented pixels.
_HARMLESS = (
    "extraneous bytes",
    "Adobe color transform",
    "JFIF revision",
    "ICC marker",
    "progression sequence",
)


def _open(name: bytes) -> pyvips.Image:
    def load(fail_on: str) -> pyvips.Image:
        # A source, unlike new_from_file, takes brackets in a file's name for what they are.
        source = pyvips.Source.new_from_file(name)  # pyright: ignore[reportArgumentType] (bytes are fine)
        return pyvips.Image.new_from_source(source, "", access="sequential", fail_on=fail_on)

    image = load("error")
    if not _get(image, "vips-loader", "").startswith("jpeg"):
        return image
    # A JPEG cut short and closed with an end marker is only a warning to libjpeg, which paints the
    # rest grey. Strict reading also refuses harmless oddities of cameras; those show at the first
    # row.
    strict = load("warning")
    try:
        pyvips.Region.new(strict).fetch(0, 0, strict.width, 1)  # libvips keeps the first rows: no second pass
    except pyvips.Error as error:
        if any(text in error.detail for text in _HARMLESS):
            return image
        raise
    return strict


def _get(image: pyvips.Image, name: str, default: Any) -> Any:
    return image.get(name) if image.get_typeof(name) else default


def _photo(image: pyvips.Image) -> Photo:
    notes: list[str] = []
    pages = _get(image, "n-pages", 1)
    if pages > 1:
        notes.append(f"first of {pages} pages taken")
    orientation = _get(image, "orientation", 1)
    metadata = {
        name: _get(image, name, None)
        for name in image.get_fields()
        if name in ("icc-profile-data", "exif-data", "iptc-data") or name.startswith("exif-ifd")
    }
    # The pixels are about to be upright, and the thumbnail (IFD 1) would be of the image before.
    metadata.pop("exif-ifd0-Orientation", None)
    metadata = {k: v for k, v in metadata.items() if not k.startswith("exif-ifd1")}

    converted = _to_rgb(image)
    if converted is not image:
        model = str(image.interpretation)
        notes.append(f"{'Lab' if model.startswith('lab') else model.upper()} converted to sRGB")
        metadata.pop("icc-profile-data", None)
        if profile := _get(converted, "icc-profile-data", None):
            metadata["icc-profile-data"] = profile
    image = converted
    if image.format not in ("uchar", "ushort") or image.coding != "none":
        raise PhotoError(f"samples are {image.format}; bitsr takes 8-bit and 16-bit integers")
    if image.bands > 4:
        raise PhotoError(f"{image.bands} channels; bitsr takes grey or RGB, with or without alpha")
    wanted = b"GRAY" if image.bands < 3 else b"RGB "
    if metadata.get("icc-profile-data", b"")[16:20] not in (b"", wanted):
        del metadata["icc-profile-data"]
        notes.append("ICC profile of another colour model dropped")
    if orientation not in (0, 1):
        # Rotation reads columns: the one case that is held whole.
        image = image.copy_memory().autorot()
    return Photo(
        height=image.height,
        width=image.width,
        channels=image.bands,
        depth=8 if image.format == "uchar" else 16,
        metadata=metadata,
        resolution=(image.xres, image.yres),
        notes=notes,
        _image=image,
    )


def _to_rgb(image: pyvips.Image) -> pyvips.Image:
    """sRGB of a CMYK, Lab or other device-independent image; any other as it is."""
    if image.interpretation == "cmyk":
        depth = 16 if image.format == "ushort" else 8
        return image.icc_transform("srgb", embedded=True, input_profile="cmyk", depth=depth)
    if image.coding == "labq" or image.interpretation in ("lab", "labs", "lch", "xyz", "yxy", "cmc"):
        return image.colourspace("srgb")
    return image
