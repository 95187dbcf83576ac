"""Rendered training images: pages of text, line drawings and screens, which photographs hardly hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyvips
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from ..photo.fork import use_libvips

VERSION = 1
"""Raise it when the same key gives another image: it is part of the cache key."""
SIDE = 480
"""Pixels of a rendered image, each way."""
FINE = 2
"""Shapes are drawn at so many times the size, so that their edges are smooth."""
LETTERS = "abcdefghijklmnopqrstuvwxyz" * 4 + "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?-+()/%&"

Pixels = NDArray[np.uint8]
Colour = list[float]


@cache
def fonts() -> list[Path]:
    """The text fonts that come with matplotlib: sans, serif and mono in several weights."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(
        p for p in folder.glob("*.ttf") if p.name.startswith(("DejaVuSans", "DejaVuSerif", "STIXGeneral"))
    )


def _colours(rng: Generator) -> tuple[Colour, Colour]:
    """Paper and ink, at least 80 levels of luma apart; two times in three nearly black on nearly white."""
    if rng.random() < 2 / 3:
        paper, ink = rng.integers(225, 256, 3), rng.integers(0, 50, 3)
        return (ink.tolist(), paper.tolist()) if rng.random() < 0.25 else (paper.tolist(), ink.tolist())
    while True:
        paper, ink = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
        if abs(np.dot(paper - ink, (0.299, 0.587, 0.114))) >= 80:
            return paper.tolist(), ink.tolist()


def _words(rng: Generator, letters: int) -> str:
    """Random words of two to nine letters, ``letters`` in all or a few more."""
    words: list[str] = []
    while sum(map(len, words)) < letters:
        words.append("".join(rng.choice(list(LETTERS), rng.integers(2, 10))))
    return " ".join(words)


def _write(page: pyvips.Image, rng: Generator, ink: Colour, box: tuple[int, int, int, int]) -> pyvips.Image:
    """Lines of one font in ``box`` (left, top, width, height)."""
    left, top, width, height = box
    font = fonts()[rng.integers(len(fonts()))]
    size = int(8 * 2 ** rng.uniform(0.5, 3))  # 11 to 64 pixels
    letters = max(3, int(1.6 * width * height / size**2))
    mask = pyvips.Image.text(
        _words(rng, letters).replace("&", "&amp;"),
        font=f"{font.stem} {size}",
        fontfile=str(font),
        width=width,
        dpi=72,
    )
    mask = mask.crop(0, 0, min(mask.width, width), min(mask.height, height))
    mask = mask.embed(left, top, page.width, page.height)
    return mask.ifthenelse(ink, page, blend=True).cast("uchar")


def _shapes(rng: Generator, paper: Colour, ink: Colour, n: int) -> pyvips.Image:
    """Line art: ``n`` lines, circles and boxes of one to four pixels' width."""
    canvas = (pyvips.Image.black(FINE * SIDE, FINE * SIDE, bands=3) + paper).cast("uchar").copy_memory()
    for _ in range(n):
        colour = ink if rng.random() < 0.7 else [float(c) for c in rng.integers(0, 256, 3)]
        x, y, u, v = (int(i) for i in rng.integers(0, FINE * SIDE, 4))
        thick = int(rng.integers(1, 5)) * FINE
        kind = rng.integers(4)
        if kind == 0:
            canvas = canvas.draw_circle(colour, x, y, max(3, abs(u - x) // 2), fill=bool(rng.random() < 0.3))
        elif kind == 1:
            canvas = canvas.draw_rect(colour, min(x, u), min(y, v), abs(u - x) + 1, thick)
            canvas = canvas.draw_rect(colour, min(x, u), min(y, v), thick, abs(v - y) + 1)
        elif kind == 2:
            canvas = canvas.draw_rect(
                colour, min(x, u), min(y, v), abs(u - x) // 3 + 1, abs(v - y) // 3 + 1, fill=True
            )
        else:
            steep = abs(v - y) > abs(u - x)
            for i in range(thick):
                dx, dy = (i, 0) if steep else (0, i)
                canvas = canvas.draw_line(colour, x + dx, y + dy, u + dx, v + dy)
    return canvas.shrink(FINE, FINE).cast("uchar")


def render(key: Sequence[int]) -> Pixels:
    """An image (480, 480, 3) uint8: a page of text, a drawing, or a screen of both.

    key: whole numbers; the same key gives the same image. Raises PhotoError in a forked child that
    libvips cannot work in.
    """
    use_libvips()
    rng = default_rng(list(key))
    paper, ink = _colours(rng)
    kind = rng.random()
    page = _shapes(rng, paper, ink, 0 if kind < 0.4 else int(rng.integers(3, 16)))
    if kind < 0.4 or kind >= 0.7:
        columns, rows = (int(n) for n in rng.integers(1, 4, 2))
        width, height = SIDE // columns, SIDE // rows
        for i in range(columns * rows):
            place = (i % columns * width + 8, i // columns * height + 8, width - 16, height - 16)
            page = _write(page, rng, ink, place)
    if rng.random() < 0.3:  # uneven light, as on a photographed page
        angle, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 0.5)
        at = np.arange(SIDE) / SIDE - 0.5
        light = 1 - depth * (0.5 + 0.7 * (math.cos(angle) * at + math.sin(angle) * at[:, None]))
        return (page.numpy() * light[:, :, None].clip(0, 1) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(page.numpy())
