"""Which net an image wants, by how its file was compressed and how noisy it is.

A clean net keeps all that an image shows, compression artefacts and noise included. A photo net
removes them, and a little fine detail with them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import colour, photo
from .upscaler import Upscaler, load
from .zoo import ZOO

BEST_JPEG = 90
"""JPEGs of this quality or less are restored. Photo nets gain from there on (docs/photos.md)."""
LEAST_NOISE = 2.0
"""Levels of luma, 0 to 255, from which an image counts as noisy."""
_STANDARD_SUM = 3688
"""Sum of the luma quantisation table in Annex K of the JPEG standard (ITU-T T.81), quality 50."""
AUTO = "auto"
"""As the name of a net: ``Chooser``."""
PHOTO = "bitsr-photo-m"
"""Of the photo nets the one that is chosen, where the scale has it."""
_STRIP = 64
_STRIPS = 24


def jpeg_quality(data: bytes) -> int | None:
    """The quality, 1 to 100, of a JPEG by its first quantisation table; None for what is no JPEG.

    By the scale that libjpeg gives the standard table; other tables count by their sum. data: the
    file's first bytes, up to the first scan.
    """
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # fill
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if data[at + 1] == 0xDB and body and body[0] & 15 == 0:
            table = np.frombuffer(
                body[1:129] if body[0] >> 4 else body[1:65], ">u2" if body[0] >> 4 else "u1"
            )
            if len(table) < 64:
                return None
            percent = 100 * float(table.sum()) / _STANDARD_SUM
            quality = 100 - percent / 2 if percent <= 100 else 5000 / percent
            return round(min(max(quality, 1), 100))
        at += 2 + length
    return None


def lossy_webp(data: bytes) -> bool:
    """Whether a file's first bytes are those of a WebP with a lossy frame."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP" and b"VP8 " in data[12:]


def noise_level(luma: NDArray[np.floating]) -> float:
    """The deviation of noise in luma (h, w), in its own unit: the median over the flattest tenth of
    its 8x8 blocks.

    By the difference of two Laplacians (Immerkaer 1996, "Fast noise variance estimation"), which is
    blind to planes. Blocks near black or white are left out: noise is cut off there. 0 for less
    than 16 blocks.
    """
    if min(luma.shape) < 10:
        return 0.0
    sides = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    corners = luma[:-2, :-2] + luma[:-2, 2:] + luma[2:, :-2] + luma[2:, 2:]
    rough = (corners - 2 * sides + 4 * luma[1:-1, 1:-1]) / 6
    rows, columns = rough.shape[0] // 8, rough.shape[1] // 8

    def blocks(x: NDArray[np.floating]) -> NDArray[np.floating]:
        return x[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8).swapaxes(1, 2).reshape(-1, 8, 8)

    rough, levels = blocks(rough), blocks(luma[1:-1, 1:-1])
    seen = (levels.min((1, 2)) > 20) & (levels.max((1, 2)) < 235)
    rough, levels = rough[seen], levels[seen]
    if len(levels) < 16:
        return 0.0
    coarse = levels.reshape(-1, 2, 4, 2, 4).mean((2, 4)).reshape(-1, 4)
    flat = np.argsort(coarse.std(1), kind="stable")[: max(16, len(levels) // 10)]
    return float(np.median(np.sqrt(np.square(rough[flat]).mean((1, 2)))))


def faults(path: Path, *, allow_damaged: bool = False) -> str:
    """What speaks for a photo net, in a few words ("JPEG of quality 74"); "" where nothing does.

    Reads the file's header, and where that does not tell, all its rows. allow_damaged: as in
    ``photo.read``. Raises as that does.
    """
    with path.open("rb") as file:
        head = file.read(1 << 18)
    quality = jpeg_quality(head)
    if quality is not None and quality <= BEST_JPEG:
        return f"JPEG of quality {quality}"
    if lossy_webp(head):
        return "lossy WebP"
    image = photo.read(path, allow_damaged=allow_damaged)
    every = max(1, image.height // (_STRIP * _STRIPS))
    strips = [
        colour.luma(np.ascontiguousarray(rows)).astype(np.float32) / 128 + 127.5
        for i, rows in enumerate(image.rows(_STRIP))
        if i % every == 0
    ]
    noise = float(np.median([noise_level(strip) for strip in strips]))
    return f"noise of {noise:.0f} levels" if noise >= LEAST_NOISE else ""


class Chooser:
    """The default net of a scale, and for images that want it the photo net of that scale.

    scale, folder, threads: as in ``upscaler.load``. Where the folder has no photo net of the scale,
    the default net is always taken.
    """

    def __init__(
        self, scale: int | None = None, *, folder: str | Path = ZOO, threads: int | None = None
    ) -> None:
        self.clean = load(None, scale, folder=folder, threads=threads)
        self.scale = self.clean.scale
        path = Path(folder) / f"{PHOTO}-x{self.scale}.bsr"
        self.photo = load(path, threads=threads) if path.is_file() else None

    def pick(self, path: str | Path, *, allow_damaged: bool = False) -> tuple[Upscaler, str]:
        """The net for an image file, and why: ``faults``, or "" for the default net.

        Pipes get the default net, since they can be read once. Raises as ``photo.read``.
        """
        path = Path(path)
        if self.photo is None or not path.is_file():
            return self.clean, ""
        why = faults(path, allow_damaged=allow_damaged)
        return (self.photo, why) if why else (self.clean, "")


def choose(
    net: str | Path | None, scale: int | None, *, folder: str | Path = ZOO, threads: int | None = None
) -> Upscaler | Chooser:
    """What a command line's -n means: a net by name or file, or for None and "auto" a ``Chooser``.

    Raises as ``upscaler.load``.
    """
    if net is None or net == AUTO:
        return Chooser(scale, folder=folder, threads=threads)
    return load(net, scale, folder=folder, threads=threads)
