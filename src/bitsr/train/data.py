"""Training pictures: folders -> two flat tensors on the device -> random crops by index arithmetic.

The whole set is decoded once, LR is made by MATLAB's bicubic as the published protocol does (RGB uint8 HR,
cropped to a multiple of the scale, -> ``imresize`` -> RGB uint8 LR -> Y), and the result is kept in a cache
file. Y lies in [16, 235] and is stored as int16 in steps of 1/256 around 128, so a set of 100 megapixels
takes 200 MB.

A batch is a function of (seed, iteration) alone: a counter-based hash on the device chooses the crops and a
gather fetches them. No worker, no random state and no host synchronisation: resuming is exact and a CUDA
graph can hold it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from ..eval.metrics import Y_WEIGHTS, rgb_to_y
from ..folders import image_files
from ..imresize import imresize
from . import losses as loss
from .degrade import degrade

VERSION = 2
"""Raise it when the same pictures give other numbers: it is part of the cache key."""
BENCHMARKS = {"set5", "set14", "b100", "bsd100", "bsds100", "bsd68", "cbsd68", "urban100", "manga109"}
"""Folder names refused for training and selection; BSD68 is part of B100."""


class DataError(ValueError):
    """Pictures that cannot be trained on; the message is one line."""


# Folders ----------------------------------------------------------------------------------------------------


def _hr_folder(root: Path, name: str, role: str) -> Path:
    """The HR folder that ``name`` means: itself, or the one in a known layout below it."""
    base = root if name == "auto" else root / name
    known = [
        f"{parent}{folder}"
        for parent in ("", "DIV2K/")
        for folder in (f"DIV2K_{role}_HR", f"DIV2K_{role}_HR_sub")
    ]
    tried = [base / k for k in ([role, *known] if name == "auto" else [".", *known])]
    for folder in tried:
        for path in (folder, folder.resolve()):
            for part in path.parts:
                if "".join(c for c in part.lower() if c.isalnum()) in BENCHMARKS:
                    raise DataError(f"{folder}: {part} is a benchmark set, never train or select on it")
        if folder.is_dir() and image_files(folder):
            return folder
    if not base.is_dir():
        raise DataError(f"{base}: no such folder (data.root, data.{role})")
    names = ", ".join(str(t.relative_to(base)) for t in tried)
    raise DataError(f"{base}: no {role} pictures; looked for png, jpg, webp, bmp, tif in {names}")


def _lr_folder(hr: Path, scale: int) -> Path | None:
    """The LR folder that belongs to an HR folder in the EDSR and BasicSR layouts, if it is there."""
    stem, sub = hr.name.removesuffix("_sub"), "_sub" if hr.name.endswith("_sub") else ""
    if not stem.endswith("_HR"):
        return None
    lr = stem.removesuffix("HR") + "LR_bicubic"
    for name in (f"{lr}/X{scale}{sub}", f"{lr}{sub}/X{scale}", f"{lr}_X{scale}{sub}"):
        if (hr.parent / name).is_dir():
            return hr.parent / name
    return None


def find_pairs(
    root: Path, folders: Sequence[str], role: str, scale: int, layout: str = "auto"
) -> list[list[tuple[Path, Path | None]]]:
    """(HR, LR) files of each folder, in name order; LR is None where it has to be made.

    role: "train" or "valid". Raises DataError for a folder without pictures, a benchmark set, and an HR
    picture whose LR partner (0001x4.png or 0001.png) is missing in a ready LR folder.
    """
    sets = []
    for name in folders:
        hr_folder = _hr_folder(root, name, role)
        lr_folder = _lr_folder(hr_folder, scale) if layout == "auto" else None
        pairs: list[tuple[Path, Path | None]] = []
        ready = {p.stem: p for p in image_files(lr_folder)} if lr_folder else {}
        for hr in image_files(hr_folder):
            lr = ready.get(f"{hr.stem}x{scale}") or ready.get(hr.stem)
            if lr_folder and lr is None:
                raise DataError(f"{lr_folder}: no LR picture for {hr.name} ({hr.stem}x{scale} or {hr.stem})")
            pairs.append((hr, lr))
        sets.append(pairs)
    return sets


# Decoding and cache -----------------------------------------------------------------------------------------


def _by_vips(path: Path) -> NDArray[np.uint8]:
    import pyvips

    picture = pyvips.Image.new_from_file(str(path), access="sequential").colourspace("srgb")
    return np.ascontiguousarray(picture[:3].numpy() if picture.bands > 3 else picture.numpy())


def _by_pil(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode a picture to (H, W, 3) uint8 RGB; alpha is dropped.

    libvips comes first; PIL where pyvips is not installed or its build lacks the format (BMP in the wheels).
    Raises OSError with the path in its message.
    """
    reasons = []
    for reader in (_by_vips, _by_pil):
        try:
            return reader(path)
        except Exception as error:  # decoders raise types of their own
            reasons.append((str(error).strip() or type(error).__name__).splitlines()[0])
    raise OSError(f"{path}: cannot read the picture ({'; '.join(reasons)})")


def steps(y: NDArray[np.float64]) -> Tensor:
    """Y in [0, 255] -> int16 of the same shape: Y - 128 in steps of 1/256."""
    return torch.from_numpy(np.floor((y.clip(0, 255) - 128.0) * 256.0 + 0.5).astype(np.int16))


def to_y(fixed: Tensor) -> Tensor:
    """Stored int16 -> Y in [16, 235], float32, of the same shape."""
    return fixed.float() / 256.0 + 128.0


def turn(rgb: NDArray[np.uint8], degrees: float, share: float) -> NDArray[np.uint8]:
    """(H, W, 3) turned about its centre by an angle in (0, 90), its largest upright rectangle shrunk to ``share``.

    By torch's bicubic (a = -0.75) at the size that it has, so a little softer than it was; shrunk, it is sharp again.
    """
    h, w = rgb.shape[:2]
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    long, short = max(h, w), min(h, w)
    if short <= (2 * sin * cos + 1e-9) * long:  # two corners touch the long sides, the others are inside
        a, b = short / (2 * sin), short / (2 * cos)
        width, height = (a, b) if w >= h else (b, a)
    else:
        width, height = ((p * cos - q * sin) / (cos**2 - sin**2) for p, q in ((w, h), (h, w)))
    y, x = (torch.arange(n).float() - (n - 1) / 2 for n in (max(1, int(height)), max(1, int(width))))
    # what grid_sample wants: -1 and 1 are the outer edges of the outermost pixels
    at = torch.stack([(x * cos - y[:, None] * sin) * (2 / w), (x * sin + y[:, None] * cos) * (2 / h)], -1)
    whole = torch.from_numpy(rgb).permute(2, 0, 1)[None].float()
    upright = F.grid_sample(whole, at[None], "bicubic", "reflection", align_corners=False)[0]
    upright = (upright.clamp(0, 255) + 0.5).byte().permute(1, 2, 0)
    return imresize(upright.numpy(), share, dtype=np.float32)


def _decode(
    pair: tuple[Path, Path | None],
    scale: int,
    shrink: Sequence[float],
    turned: Sequence[tuple[float, float]],
    degraded: Sequence[Sequence[int]],
) -> list[tuple[Tensor, Tensor]]:
    """(HR, LR) of a file, of it shrunk to each of ``shrink`` and turned by each of ``turned``; LR is (variants, pixels),
    one or as many as there are keys of ``degraded``."""
    hr_path, lr_path = pair
    hr = read_rgb(hr_path)
    lr = None if lr_path is None else read_rgb(lr_path)
    if lr is not None and any(
        not -1 < n - m / scale < 1 for n, m in zip(lr.shape[:2], hr.shape[:2], strict=True)
    ):
        raise DataError(f"{lr_path}: {lr.shape[1]}x{lr.shape[0]} is not 1/{scale} of {hr_path.name}")
    forms: list[tuple[NDArray[np.uint8], NDArray[np.uint8] | None]] = [(hr, lr)]
    forms += [(imresize(hr, share, dtype=np.float32), None) for share in shrink]
    forms += [(turn(hr, *how), None) for how in turned]
    if min(n for form, _ in forms for n in form.shape[:2]) < scale:
        raise DataError(f"{hr_path}: too small for scale {scale}")
    return [_aligned(a, b, scale, [[*key, i] for key in degraded]) for i, (a, b) in enumerate(forms)]


def _aligned(
    hr: NDArray[np.uint8], lr: NDArray[np.uint8] | None, scale: int, degraded: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Y of HR, cropped to a multiple of the scale, and of LR, made of it where there is none."""
    h, w = (n // scale for n in hr.shape[:2])
    if lr is not None:
        h, w = min(h, lr.shape[0]), min(w, lr.shape[1])
    hr = hr[: h * scale, : w * scale]
    if degraded:
        return steps(rgb_to_y(hr)), torch.stack(
            [steps(rgb_to_y(degrade(hr, scale, key))) for key in degraded]
        )
    lr = lr[:h, :w] if lr is not None else imresize(hr, 1 / scale, dtype=np.float32)
    return steps(rgb_to_y(hr)), steps(rgb_to_y(lr))[None]


@dataclass(frozen=True)
class Pairs:
    """Pictures of one scale as two flat tensors.

    hr: int16, all pictures one after the other, row by row (``to_y`` turns them into Y).
    lr: the same, (variants, pixels): as often as each picture has been degraded, else once.
    sizes: int64 (n, 2) on the CPU, LR height and width; HR is ``scale`` times that.
    taught: as hr, what teachers make of lr (``teach``), or None.
    key: tells these pictures from others in the cache.
    """

    hr: Tensor
    lr: Tensor
    sizes: Tensor
    scale: int
    taught: Tensor | None = None
    key: str = ""

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def starts(self) -> Tensor:
        """int64 (n,): index of each picture's first LR pixel; scale^2 times that for HR."""
        areas = self.sizes.prod(1)
        return areas.cumsum(0) - areas

    def to(self, device: torch.device) -> Pairs:
        """The same with the flat tensors on ``device``."""
        taught = None if self.taught is None else self.taught.to(device)
        return replace(self, hr=self.hr.to(device), lr=self.lr.to(device), taught=taught)

    def picture(self, index: int) -> tuple[Tensor, Tensor]:
        """Y of one picture, float32: LR (h, w) and HR (scale*h, scale*w); of several LR one by turns."""
        h, w = self.sizes[index].tolist()
        start, s = int(self.starts[index]), self.scale
        hr = self.hr[start * s * s : (start + h * w) * s * s]
        lr = self.lr[index % len(self.lr), start : start + h * w]
        return to_y(lr.view(h, w)), to_y(hr.view(h * s, w * s))


def cache_folder() -> Path:
    """BITSR_CACHE, else bitsr/ in XDG_CACHE_HOME or ~/.cache."""
    if folder := os.environ.get("BITSR_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitsr"


def load_pairs(
    files: Sequence[tuple[Path, Path | None]],
    scale: int,
    cache: Path | None = None,
    shrink: Sequence[float] = (),
    turned: Sequence[tuple[float, float]] = (),
    degraded: int = 0,
    seed: int = 0,
) -> Pairs:
    """Decode a list of (HR, LR or None) files, or read them from the cache.

    shrink: each picture comes again at these shares of its size, in (0, 1), right behind itself.
    turned: and after them turned by these angles in degrees and shrunk to these shares (``turn``).
    degraded: how many degraded LR each picture has (``degrade``, drawn with ``seed``); 0: one, by bicubic.

    cache: the folder of the file (``cached``), which is named by a hash of the pictures' bytes, scale, shares,
    angles and ``VERSION``.
    """
    threads = os.cpu_count()
    key = key_of(
        VERSION,
        scale,
        each(lambda pair: [p and digest(p) for p in pair], files, threads),
        *shrink,
        *turned,
        *([degraded, seed] if degraded else []),
    )

    def decode() -> dict[str, Tensor]:
        def one(index: int) -> list[tuple[Tensor, Tensor]]:
            keys = [[seed, index, variant] for variant in range(degraded)]
            return _decode(files[index], scale, shrink, turned, keys)

        decoded = each(one, range(len(files)), threads)
        pictures = [picture for forms in decoded for picture in forms]
        return {
            "hr": torch.cat([hr.flatten() for hr, _ in pictures]),
            "lr": torch.cat([lr.flatten(1) for _, lr in pictures], 1),
            "sizes": torch.tensor([lr.shape[1:] for _, lr in pictures]),
        }

    t = cached(f"pairs-x{scale}-{key}", {"hr", "lr", "sizes"}, decode, cache)
    return Pairs(t["hr"], t["lr"], t["sizes"], scale, key=key)


def each(work: Callable[[Any], Any], items: Sequence[Any], threads: int | None) -> list[Any]:
    """work of each item, side by side; a bad picture or Ctrl-C does not wait for the rest.

    In threads, not processes: decoders, numpy's inner loops and the engine release the interpreter lock.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes: what is in the cache is found wherever the file lies, and however new its copy is."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def key_of(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def cached(
    name: str, wanted: Set[str], make: Callable[[], dict[str, Tensor]], cache: Path | None
) -> dict[str, Tensor]:
    """What the cache holds under ``name``; else, or where that is broken or has not all that is ``wanted``, what
    ``make`` gives, which is then kept.

    The file is written whole or not at all; where that cannot be, a warning says so.

    cache: its folder; None: ``cache_folder()``.
    """
    path = (cache or cache_folder()) / f"{name}.safetensors"
    with suppress(OSError, SafetensorError):
        tensors = load_file(path)
        if tensors.keys() >= wanted:
            return tensors
    tensors = make()
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        warnings.warn(f"pictures are not cached: {error}", stacklevel=3)
    return tensors


# Crops ------------------------------------------------------------------------------------------------------

_MASK = 0xFFFFFFFF
MARGIN = 2
"""LR pixels about a crop that those inside are made of too: bicubic reaches so far."""
Y_STEP = math.hypot(*Y_WEIGHTS) / 255
"""In levels: Y in such steps is as coarse as Y of 8-bit RGB, whose three roundings add up."""


def _mix(x: Tensor) -> Tensor:
    """A 32-bit finaliser (Wellons 2018, "lowbias32") on int64 tensors that hold values in [0, 2^32)."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (
        x * (0x846CA68B - 2**32)
    ) & _MASK  # minus 2^32: the same low bits, and the product stays inside int64
    return x ^ (x >> 16)


def detail(hr: Tensor, scale: int) -> Tensor:
    """(b, 1, h, w) -> (b,): mean |HR - the mean of its scale x scale block|, about what LR has lost, in levels."""
    blocks = hr.unflatten(3, (-1, scale)).unflatten(2, (-1, scale))
    return (blocks - blocks.mean((3, 5), keepdim=True)).abs().mean((1, 2, 3, 4, 5))


class Crops:
    """Random crops of ``pairs``, uniform over all places where one fits and over the 8 orientations.

    ``crops(iteration)`` takes a 0-dim int64 tensor on the pairs' device and gives Y in [16, 235], float32:
    LR (b, 1, patch, patch) and its target (b, 1, scale*patch, scale*patch), the samples ``samples`` (default: all) of
    the batch of that iteration. The same (seed, iteration, sample) is the same crop on every device.

    The target is HR; where the pairs have been taught, ``truth`` HR + (1 - ``truth``) of the teachers' picture.

    phases: a crop may begin at any HR pixel, so that its LR, made with it, is one of scale^2; by Y alone, in steps
    (``Y_STEP``). Without it crops lie on LR's grid, and LR is that of the pairs.

    Places are drawn with replacement. repeats: how often each picture counts, (n,) int64. tries: how many crops are
    drawn for each sample; the one with the most detail is taken (``detail``), the others are dropped. Raises DataError
    if no picture is as large as a crop; smaller pictures are left out. Raises ValueError for phases of taught pictures.
    """

    def __init__(
        self,
        pairs: Pairs,
        patch: int,
        batch: int,
        seed: int,
        *,
        repeats: Tensor | None = None,
        samples: range | None = None,
        tries: int = 1,
        truth: float = 0.0,
        phases: bool = False,
    ) -> None:
        if phases and pairs.taught is not None:
            raise ValueError("teachers know the pairs' LR alone, and phases make another")
        # places are counted in the pixels of ``unit``: LR's, or with phases HR's, where a margin makes LR whole
        s = pairs.scale
        unit, self.margin = (s, MARGIN * s) if phases else (1, 0)
        side = patch * unit + 2 * self.margin
        places = (pairs.sizes * unit - side + 1).clamp(min=0)
        counts = places.prod(1)
        if not counts.any():
            raise DataError(
                f"no training picture holds a crop of {side * s // unit} pixels a side (data.patch)"
            )
        ends = (counts if repeats is None else counts * repeats).cumsum(0)
        device = pairs.lr.device
        self.pairs, self.patch, self.truth, self.total = pairs, patch, truth, int(ends[-1])
        self.phases, self.to_hr = phases, s // unit
        self.ends, self.counts = ends.to(device), counts.to(device)
        self.columns, self.widths = places[:, 1].to(device), pairs.sizes[:, 1].to(device)
        self.starts, self.pixels = pairs.starts.to(device), pairs.lr.shape[1]
        self.key = int(_mix(torch.tensor((seed + 0x9E3779B9) & _MASK)))
        # three hash words for each crop, by multiples of an odd constant so that no two counters meet
        chosen = torch.tensor(list(samples if samples is not None else range(batch)), device=device)
        drawn = (chosen + batch * torch.arange(tries, device=device)[:, None]).flatten()
        self.tries, self.counters = tries, (torch.arange(3, device=device)[:, None] + 3 * drawn) * 0x9E3779B9
        self.lr_side = torch.arange(patch, device=device)
        self.hr_side = torch.arange(patch * s + 2 * self.margin, device=device)

    def compile(self) -> None:
        """Gathers are one kernel each from now on, where they are a dozen, for a GPU."""
        self._gather = torch.no_grad()(torch.compile(self._gather, dynamic=False))

    def __call__(self, iteration: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c = _mix((_mix((iteration & _MASK) ^ self.key) + self.counters) & _MASK)  # (b,) each
        orientation, variant = c, c  # its lowest three bits, and the others
        place = ((a << 31) | (b >> 1)) % self.total  # 63 bits
        picture = torch.searchsorted(self.ends, place, right=True)
        place = (place - self.ends[picture]) % self.counts[picture]  # repeats fold onto the same places
        y, x = place // self.columns[picture], place % self.columns[picture]
        s, to_hr = self.pairs.scale, self.to_hr
        hr = self._gather(self.pairs.hr, picture, y * to_hr, x * to_hr, orientation, s)
        if self.tries > 1:
            most = detail(self._centre(hr), s).view(self.tries, -1).argmax(0)
            taken = most * (len(hr) // self.tries) + torch.arange(len(most), device=most.device)
            hr, picture, y, x, orientation, variant = (
                v[taken] for v in (hr, picture, y, x, orientation, variant)
            )
        if self.phases:
            lr = loss.shrink(hr, s)[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
            return (lr / Y_STEP).round() * Y_STEP, self._centre(hr)
        if self.pairs.taught is not None:
            taught = self._gather(self.pairs.taught, picture, y * to_hr, x * to_hr, orientation, s)
            hr = torch.lerp(taught, hr, self.truth)
        variant = (variant >> 3) % len(self.pairs.lr)
        return self._gather(self.pairs.lr.flatten(), picture, y, x, orientation, 1, variant), hr

    def _centre(self, hr: Tensor) -> Tensor:
        """Without the margin."""
        m = self.margin
        return hr[:, :, m:-m, m:-m] if m else hr

    def _gather(
        self,
        flat: Tensor,
        picture: Tensor,
        y: Tensor,
        x: Tensor,
        orientation: Tensor,
        s: int,
        variant: Tensor | int = 0,
    ) -> Tensor:
        """y, x: the crop's first pixel, counted as ``flat`` has them, which has s^2 for each of LR."""
        side = self.lr_side if s == 1 else self.hr_side
        orientation = orientation[:, None, None]
        transpose, flip_y, flip_x = ((orientation & bit).bool() for bit in (1, 2, 4))
        rows, cols = side[None, :, None], side[None, None, :]
        u, v = torch.where(transpose, cols, rows), torch.where(transpose, rows, cols)
        u = torch.where(flip_y, len(side) - 1 - u, u)
        v = torch.where(flip_x, len(side) - 1 - v, v)
        width = self.widths[picture] * s
        origin = self.starts[picture] * (s * s) + y * width + x + variant * self.pixels
        return to_y(flat[origin[:, None, None] + u * width[:, None, None] + v])[:, None]
