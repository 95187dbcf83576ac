"""PSNR and SSIM of a net on the standard test sets, from the packed bits that users run (no
torch)."""

from __future__ import annotations

import csv
import io
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyvips
from numpy.typing import NDArray

from .. import colour, photo
from ..degrade import degrade_as
from ..errors import BitsrError
from ..files import NewFile
from ..folders import data_folder, image_files
from ..imresize import imresize
from ..photo.fork import use_libvips
from ..symmetry import sum_over_orientations
from . import protocols
from .metrics import rgb_to_y, sharpness, to_8bit

HR_FOLDERS = ("", "HR", "GTmod12", "GT", "original")
"""Where a set's folder may keep its HR files, in the order in which they are looked for."""


class LumaNet(Protocol):
    """What can be evaluated: ``bitsr.engine.Engine``, or anything with these two.

    Where it has ``smooth``, and that is true, its chroma is smoothed as ``Engine`` says.
    """

    @property
    def scale(self) -> int: ...

    def run(self, lr: NDArray[np.int16]) -> NDArray[np.int16]:
        """LR luma (h, w) to SR luma (scale * h, scale * w), int16, q = round(128 * (Y - 127.5))."""
        ...


def find_set(name: str, data: str | os.PathLike[str] | None = None) -> list[Path]:
    """The HR files of test set ``name`` (a folder in ``data_folder(data)``, or a path), sorted by
    name.

    Raises FileNotFoundError, one line, where there are none.
    """
    folder = data_folder(data) / name
    for sub in HR_FOLDERS:
        place = folder / sub
        if place.is_dir() and (files := image_files(place)):
            return files
    raise FileNotFoundError(
        f"test set {name!r}: no images in {folder} or its folders {', '.join(HR_FOLDERS[1:])};"
        " name the folder of the sets by --data or BITSR_DATA"
    )


def read_hr(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """An 8-bit image as its file holds it: (H, W, 3), or (H, W) for a grey one; alpha is dropped.

    RGB with three equal channels stays RGB: the published rows take it so (Set14's man), and only
    files that are grey themselves (Set14's bridge) as luma. Raises BitsrError for other depths and
    for a file that is damaged or cut short, OSError for one that cannot be opened.
    """
    pixels = photo.read_whole(Path(path))
    if pixels.dtype != np.uint8:
        raise BitsrError(f"{os.fspath(path)}: an 8-bit image is wanted, not one of 16 bits")
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] < 3 else pixels[..., :3])


def save_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write an 8-bit image, (H, W) or (H, W, 3), and the folder that it goes to. Raises OSError."""
    use_libvips()
    path.parent.mkdir(parents=True, exist_ok=True)
    data = pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).pngsave_buffer()
    with NewFile(path) as new:
        new.file.write(data)


def _luma(x: NDArray[Any]) -> NDArray[np.float64]:
    return rgb_to_y(x) if x.ndim == 3 else x.astype(np.float64)


def to_q(y: NDArray[np.floating]) -> NDArray[np.int16]:
    """Luma in [0, 255] to the engine's int16: q = round(128 * (Y - 127.5)), half up."""
    return np.floor(128.0 * (np.clip(y, 0.0, 255.0) - 127.5) + 0.5).astype(np.int16)


def from_q(q: NDArray[np.int16]) -> NDArray[np.float64]:
    """The engine's int16 to luma, not clipped."""
    return q / 128.0 + 127.5


def upscale_luma(net: LumaNet, y: NDArray[np.float64], self_ensemble: bool = False) -> NDArray[np.float64]:
    """Luma (h, w) through the net: (scale * h, scale * w), real numbers, not clipped."""
    q = np.ascontiguousarray(to_q(y))
    if not self_ensemble:
        return from_q(net.run(q))
    return sum_over_orientations(net.run, q) / (8 * 128.0) + 127.5


def coloured(net: LumaNet, lr: NDArray[np.uint8], sr: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The image that users get: the luma (scale * h, scale * w) of the net with chroma of LR (h, w, 3)."""
    q = np.clip(np.rint(128 * (sr - 127.5)), -32768, 32767).astype(np.int16)
    return colour.merge(lr, q, net.scale, height=len(lr), smooth=getattr(net, "smooth", False))


def low_resolution(hr: NDArray[np.uint8], scale: int, protocol: protocols.Protocol) -> NDArray[Any]:
    """The LR image of an HR one, uint8 (H, W) or (H, W, 3) whose sides ``scale`` divides, with the
    protocol's fault. A protocol that shrinks luma gives real numbers (h, w)."""
    lr = imresize(hr if protocol.lr_from == "rgb" else to_8bit(_luma(hr)), Fraction(1, scale))
    if not protocol.degrade:
        return lr
    # noise of its own for every image, the same in every run
    seed, grey = zlib.crc32(lr.tobytes()), lr.ndim == 2
    lr = degrade_as(protocol.degrade, np.repeat(lr[..., None], 3, axis=2) if grey else lr, seed)
    return lr[..., 1] if grey else lr


@dataclass(frozen=True)
class Scores:
    """One image's figures, or a set's means: PSNR in dB, of the net and of bicubic; sharpness of the
    net (``metrics.sharpness``)."""

    set: str
    image: str
    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float
    sharpness: float


def evaluate_image(
    net: LumaNet,
    hr: NDArray[np.uint8],
    protocol: protocols.Protocol,
    keep: Callable[[NDArray[np.uint8]], object] | None = None,
) -> tuple[float, float, float, float, float]:
    """(PSNR, SSIM, bicubic's PSNR, bicubic's SSIM, sharpness) of one HR image, uint8 (H, W) or
    (H, W, 3).

    keep: is called with the SR image, uint8 as HR. Raises BitsrError for an
    image too small for the protocol.
    """
    s = net.scale
    hr = hr[: hr.shape[0] // s * s, : hr.shape[1] // s * s]
    lr = low_resolution(hr, s, protocol)
    sr = upscale_luma(net, _luma(lr), protocol.self_ensemble)
    if protocol.colour == "rgb" and hr.ndim == 3:
        bicubic = imresize(lr.astype(np.float64), s)
        sr = coloured(net, lr, sr)
        if keep is not None:
            keep(sr)
        target = hr.astype(np.float64)
    else:
        bicubic = imresize(_luma(lr), s)
        target = to_8bit(_luma(hr)) if protocol.round_hr else _luma(hr)
        if keep is not None:
            # of a protocol that shrinks luma
            small = lr if lr.ndim == hr.ndim else imresize(hr, Fraction(1, s))
            keep(to_8bit(sr).astype(np.uint8) if hr.ndim == 2 else coloured(net, small, sr))
    figures = *protocol.score(to_8bit(sr), target, s), *protocol.score(to_8bit(bicubic), target, s)
    return *figures, sharpness(to_8bit(sr), target, crop=s)


@dataclass(frozen=True)
class Evaluation:
    """Figures of one net under one protocol."""

    net: str
    scale: int
    protocol: protocols.Protocol
    rows: tuple[Scores, ...]

    def means(self) -> list[Scores]:
        """One row a set: the mean over its images (PSNR averaged in dB, as everyone does)."""
        out: list[Scores] = []
        for name in dict.fromkeys(row.set for row in self.rows):
            rows = [row for row in self.rows if row.set == name]
            each = [(r.psnr, r.ssim, r.bicubic_psnr, r.bicubic_ssim, r.sharpness) for r in rows]
            figures = np.mean(each, axis=0)
            out.append(Scores(name, f"mean of {len(rows)}", *map(float, figures)))
        return out

    def markdown(self, per_image: bool = False) -> str:
        """GitHub table with the protocol above it."""
        lines = [
            f"{self.net}, x{self.scale}. Protocol {self.protocol}.",
            "",
            "| set | image | PSNR dB | SSIM | bicubic PSNR dB | bicubic SSIM |",
            "|---|---|---:|---:|---:|---:|",
        ]
        for mean in self.means():
            rows = [r for r in self.rows if r.set == mean.set] if per_image else []
            for r in [*rows, mean]:
                figures = f"{r.psnr:.2f} | {r.ssim:.4f} | {r.bicubic_psnr:.2f} | {r.bicubic_ssim:.4f}"
                lines.append(f"| {r.set} | {r.image} | {figures} |")
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Every image and the means, with net, scale and protocol in each line."""
        out = io.StringIO()
        names = list(Scores.__dataclass_fields__)
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["net", "scale", "protocol", "self_ensemble", *names])
        head = (self.net, self.scale, self.protocol.name, int(self.protocol.self_ensemble))
        for r in [*self.rows, *self.means()]:
            writer.writerow([*head, r.set, r.image, *(f"{getattr(r, n):.6f}" for n in names[2:])])
        return out.getvalue()

    def summary(self) -> str:
        """The means as compact JSON, for a model file's metadata: protocol and means, no single
        images."""
        body = json.loads(self.json())
        return json.dumps(
            {"protocol": body["protocol"]["text"], "means": body["means"]}, separators=(",", ":")
        )

    def json(self) -> str:
        """The same as one JSON object; an infinite PSNR (equal images) becomes null."""

        def plain(row: Scores) -> dict[str, Any]:
            return {k: None if v in (float("inf"), float("-inf")) else v for k, v in asdict(row).items()}

        body = {
            "net": self.net,
            "scale": self.scale,
            "protocol": asdict(self.protocol) | {"text": str(self.protocol)},
            "images": [plain(r) for r in self.rows],
            "means": [plain(r) for r in self.means()],
        }
        return json.dumps(body, indent=2, allow_nan=False) + "\n"


def evaluate(
    net: LumaNet,
    sets: Sequence[str] = ("Set5", "Set14", "B100"),
    protocol: protocols.Protocol | str = "matlab-y",
    *,
    data: str | os.PathLike[str] | None = None,
    name: str | None = None,
    progress: Callable[[Scores], object] | None = None,
    save: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Run the net over test sets and compare with HR.

    sets: names of folders in ``data_folder(data)`` or paths; all are looked up before the first
    image runs. progress is called after each image. save: folder in which each SR image becomes
    SET/NAME.png. Raises FileNotFoundError for a missing set, BitsrError for an unknown protocol, an
    unfit image, or images to be saved that have one name.
    """
    if isinstance(protocol, str):
        protocol = protocols.protocol(protocol)
    found = {s: find_set(s, data) for s in sets}
    places: dict[Path, Path] = {}
    if save is not None:
        for label, files in found.items():
            for path in files:
                place = Path(save) / Path(label).name / f"{path.stem}.png"
                if place in places.values():
                    raise BitsrError(f"{path}: another image goes to {place} too")
                places[path] = place
    rows: list[Scores] = []
    for label, files in found.items():
        for path in files:
            hr = read_hr(path)
            keep = partial(save_png, places[path]) if save is not None else None
            try:
                row = Scores(label, path.stem, *evaluate_image(net, hr, protocol, keep))
            except ValueError as e:
                raise BitsrError(f"{path}: {e}") from e
            rows.append(row)
            if progress is not None:
                progress(row)
    return Evaluation(name or getattr(net, "name", "net"), net.scale, protocol, tuple(rows))
