"""Crops of images as they are, to judge by eye: bicubic and nets side by side, labelled.

There is no original to compare with. Each image gives two crops: the one with the strongest
contrast, and the one whose contrast is the median of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from bitsr import photo
from bitsr.errors import BitsrError
from bitsr.eval.metrics import rgb_to_y, to_8bit
from bitsr.folders import image_files
from bitsr.imresize import imresize
from bitsr.upscaler import Upscaler, load

AROUND = 64
"""Pixels beside a crop that go through the nets with it: more than they see (``bitsr info``)."""
GAP = 8
"""Pixels between columns."""


def places(image: NDArray[np.uint8], side: int) -> list[tuple[int, int]]:
    """(top, left) of the crops of ``side`` pixels, on a grid; one where the image holds no more."""
    y = rgb_to_y(image)
    found: list[tuple[float, int, int]] = []
    for top in range(0, max(1, len(y) - side + 1), side):
        for left in range(0, max(1, y.shape[1] - side + 1), side):
            part = y[top : top + side, left : left + side]
            contrast = np.abs(np.diff(part, axis=0)).mean() + np.abs(np.diff(part, axis=1)).mean()
            found.append((float(contrast), top, left))
    found.sort()
    return [place[1:] for place in dict.fromkeys((found[-1], found[(len(found) - 1) // 2]))]


def strip(
    image: NDArray[np.uint8], place: tuple[int, int], side: int, nets: Sequence[Upscaler], zoom: int
) -> NDArray[np.uint8]:
    """The crop of an image (H, W, 3) by bicubic and by each net, side by side."""
    scale, (top, left) = nets[0].scale, place
    up, before = max(0, top - AROUND), max(0, left - AROUND)
    around = np.ascontiguousarray(image[up : top + side + AROUND, before : left + side + AROUND])
    images = [to_8bit(imresize(around.astype(np.float64), scale)).astype(np.uint8)]
    images += [net(around) for net in nets]
    down, right = min(side, len(image) - top), min(side, image.shape[1] - left)
    rows = slice(scale * (top - up), scale * (top - up + down))
    columns = slice(scale * (left - before), scale * (left - before + right))
    gap = np.full((zoom * scale * down, GAP, 3), 255, np.uint8)
    parts: list[NDArray[np.uint8]] = []
    for crop in images:
        parts += [crop[rows, columns].repeat(zoom, axis=0).repeat(zoom, axis=1), gap]
    return np.concatenate(parts[:-1], axis=1)


def _label(text: str, width: int) -> NDArray[np.uint8]:
    """Black words on white, 22 pixels high."""
    image = pyvips.Image.text(text, font="sans 11").invert()
    image = image.embed(4, 3, width, 22, extend="white")
    return np.repeat(image.numpy()[..., None], 3, axis=2)


def write(folder: Path, names: list[str], out: Path, side: int, zoom: int, suffix: str) -> list[Path]:
    """Write out/NAME.png (or .jpg) for each image of ``folder``; return their paths.

    Raises BitsrError where nets differ in scale or the folder has no image of 8 bits, and as
    ``load`` and ``photo.read_whole``.
    """
    nets = [load(name) for name in names]
    if len({net.scale for net in nets}) > 1:
        raise BitsrError("the nets of a sheet share one scale")
    files = image_files(folder)
    if not files:
        raise BitsrError(f"{folder}: no images")
    out.mkdir(parents=True, exist_ok=True)
    heads, made = ["bicubic", *(net.name for net in nets)], []
    for path in files:
        pixels = photo.read_whole(path)
        if pixels.dtype != np.uint8:
            raise BitsrError(f"{path}: an 8-bit image is wanted, not one of 16 bits")
        image = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
        rows: list[NDArray[np.uint8]] = []
        for place in places(image, side):
            crops = strip(image, place, side, nets, zoom)
            column = (crops.shape[1] + GAP) // len(heads)
            labels = np.concatenate([_label(head, column) for head in heads], axis=1)
            rows += [labels[:, : crops.shape[1]], crops]
        made.append(out / f"{path.stem}.{suffix}")
        options = {"Q": 88, "subsample_mode": "off"} if suffix == "jpg" else {}
        pyvips.Image.new_from_array(np.concatenate(rows)).write_to_file(str(made[-1]), **options)
    return made
