"""A page of crops to judge by eye: bicubic, nets, ground truth, enlarged without smoothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from bitsr.eval.evaluate import find_set, read_hr
from bitsr.eval.metrics import psnr, rgb_to_y, to_8bit
from bitsr.imresize import imresize
from bitsr.upscaler import Upscaler, load

ZOOM = 2


def busiest(hr: NDArray[np.uint8], side: int, scale: int) -> tuple[int, int]:
    """(top, left) of the side x side window with the strongest local contrast, clear of the
    border."""
    y = rgb_to_y(hr) if hr.ndim == 3 else hr.astype(np.float64)
    energy = np.abs(np.diff(y, axis=0))[:, :-1] + np.abs(np.diff(y, axis=1))[:-1]
    sums = np.pad(energy, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    window = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    edge = 2 * scale
    inner = window[edge:-edge, edge:-edge]
    top, left = np.unravel_index(int(inner.argmax()), inner.shape)
    return int(top) + edge, int(left) + edge


def _rgb(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return x if x.ndim == 3 else np.repeat(x[..., None], 3, axis=2)


def strip(hr: NDArray[np.uint8], ups: list[Upscaler], side: int) -> tuple[NDArray[np.uint8], list[float]]:
    """(crops side by side: bicubic, each net, HR; PSNR-Y of bicubic and each net inside the crop,
    dB)."""
    s = ups[0].scale
    hr = hr[: hr.shape[0] // s * s, : hr.shape[1] // s * s]
    lr = to_8bit(imresize(hr.astype(np.float64), 1 / s)).astype(np.uint8)
    images = [to_8bit(imresize(lr.astype(np.float64), s)).astype(np.uint8), *(up(lr) for up in ups), hr]
    side = min(side, *(n - 5 * s for n in hr.shape[:2]))
    top, left = busiest(hr, side, s)
    crops = [_rgb(p)[top : top + side, left : left + side] for p in images]
    lumas = [to_8bit(rgb_to_y(c)) for c in crops]
    gap = np.full((side * ZOOM, 4, 3), 255, np.uint8)
    columns = [c.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1) for c in crops]
    return (
        np.concatenate([x for c in columns for x in (c, gap)][:-1], axis=1),
        [psnr(luma, lumas[-1]) for luma in lumas[:-1]],
    )


def page(nets: list[str], sets: list[str], out: Path, side: int) -> Path:
    """Write out/index.md and a PNG an image; return the page's path. Raises ValueError when scales
    differ."""
    ups = [load(net) for net in nets]
    if len({up.scale for up in ups}) > 1:
        raise ValueError("the nets of a page share one scale")
    out.mkdir(parents=True, exist_ok=True)
    names = ["bicubic", *(up.name for up in ups)]
    lines = [f"# x{ups[0].scale}: {' | '.join([*names, 'HR'])}", "", f"Crops at {100 * ZOOM} %.", ""]
    for name in sets:
        for path in find_set(name):
            row, figures = strip(read_hr(path), ups, side)
            file = f"{Path(name).name}-{path.stem}.png"
            pyvips.Image.new_from_array(row).write_to_file(str(out / file))
            said = ", ".join(f"{n} {f:.2f} dB" for n, f in zip(names, figures, strict=True))
            lines += [f"{name} {path.stem}: {said}", "", f"![{path.stem}]({file})", ""]
    index = out / "index.md"
    index.write_text("\n".join(lines))
    return index
