"""Training images: folders -> two flat tensors, decoded once and kept in a cache file.

LR is made by MATLAB's bicubic as the published protocol does: RGB uint8 HR, cropped to a multiple
of the scale, -> ``imresize`` -> RGB uint8 LR -> Y. Y lies in [16, 235] and is stored as int16 in
steps of 1/256 around 128, so a set of 100 megapixels takes 200 MB. ``crops`` cuts batches.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence, Set
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

from ..degrade import VERSION as DEGRADE_VERSION
from ..degrade import degrade as degraded
from ..errors import BitsrError
from ..eval.metrics import rgb_to_y
from ..files import NewFile
from ..folders import image_files
from ..imresize import imresize
from . import rendered as drawn
from .recipe import AUTO, BICUBIC

VERSION = 2
"""Raise it when the same images give other numbers: it is part of the cache key."""
BENCHMARKS = {"set5", "set14", "b100", "bsd100", "bsds100", "bsd68", "cbsd68", "urban100", "manga109"}
"""Folder names refused for training and selection; BSD68 is part of B100."""

Files = Sequence[tuple[Path, Path | None]]
"""(HR, LR) of each image; LR is None where it has to be made."""
Say = Callable[[str], None]
"""Takes one line for the user."""


def silent(line: str) -> None:
    """A ``Say`` that says nothing."""


class DataError(BitsrError):
    """Images that cannot be trained on; the message is one line."""


# Folders --------------------------------------------------------------------------------------


def _refuse_benchmark(folder: Path) -> None:
    for path in (folder, folder.resolve()):
        for part in path.parts:
            if "".join(c for c in part.lower() if c.isalnum()) in BENCHMARKS:
                raise DataError(f"{folder}: {part} is a benchmark set, never train or select on it")


def _hr_folder(root: Path, name: str, role: str) -> Path:
    """The HR folder that ``name`` means: itself, or the one in a known layout below it."""
    base = root if name == AUTO else root / name
    known = [
        f"{parent}{folder}"
        for parent in ("", "DIV2K/")
        for folder in (f"DIV2K_{role}_HR", f"DIV2K_{role}_HR_sub")
    ]
    tried = [base / k for k in ([role, f"{role}/HR", *known] if name == AUTO else [".", "HR", *known])]
    for folder in tried:
        _refuse_benchmark(folder)
        if folder.is_dir() and image_files(folder):
            return folder
    if not base.is_dir():
        raise DataError(f"{base}: no such folder (data.root, data.{role})")
    names = ", ".join(str(t.relative_to(base)) for t in tried)
    raise DataError(f"{base}: no {role} images; looked for png, jpg, webp, bmp, tif in {names}")


def _lr_folder(hr: Path, scale: int) -> Path | None:
    """The LR folder that belongs to an HR folder in the EDSR and BasicSR layouts, if any."""
    stem, sub = hr.name.removesuffix("_sub"), "_sub" if hr.name.endswith("_sub") else ""
    if not stem.endswith("_HR"):
        return None
    lr = stem.removesuffix("HR") + "LR_bicubic"
    for name in (f"{lr}/X{scale}{sub}", f"{lr}{sub}/X{scale}", f"{lr}_X{scale}{sub}"):
        if (hr.parent / name).is_dir():
            return hr.parent / name
    return None


def _folders(folder: Path) -> Iterator[Path]:
    with suppress(OSError):  # one that may not be listed
        yield from sorted(path for path in folder.iterdir() if path.is_dir())


def _words(folder: Path) -> list[str]:
    return re.findall("[a-z0-9]+", folder.name.lower())


def _low(folder: Path) -> bool:
    """Whether a folder's name says that it holds LR images: LR, train_lq, LRbicx4, X4, lowres."""
    return any(re.fullmatch("lr.*|lq|low|lowres|bicubic|x[2-8]", word) for word in _words(folder))


def _unused_lr(hr: Path) -> Path | None:
    """A folder that seems to hold the LR images of an HR folder: in it, beside it, or, of
    HR/train, LR/train."""
    near = [path for path in (*_folders(hr), *_folders(hr.parent)) if _low(path)]
    if {"hr", "gt", "hq", "high", "highres"} & set(_words(hr.parent)):
        near += [path / hr.name for path in _folders(hr.parent.parent) if _low(path)]
    for folder in near:
        if folder.resolve() == hr.resolve() or not folder.is_dir():
            continue
        if any(image_files(place) for place in (folder, *_folders(folder))):
            return folder
    return None


def _partner(hr: Path, ready: dict[str, Path], folder: Path, scale: int) -> Path:
    """The LR file of an HR file: 0001.png, 0001x4.png, and of 0001_HR.png also 0001_LR4.png."""
    bare = re.sub("_(hr|gt)$", "", hr.stem, flags=re.IGNORECASE)
    for name in (f"{hr.stem}x{scale}", hr.stem, f"{bare}x{scale}", f"{bare}_x{scale}", bare):
        if name in ready:
            return ready[name]
    for end in (f"_LR{scale}", "_LR", "_LQ"):
        for name in (f"{bare}{end}", f"{bare}{end.lower()}"):
            if name in ready:
                return ready[name]
    raise DataError(f"{folder}: no LR image for {hr.name} ({hr.stem}x{scale} or {hr.stem})")


def find_pairs(
    root: Path,
    folders: Sequence[str],
    role: str,
    scale: int,
    lr: Sequence[str] = (),
    say: Say = silent,
) -> list[list[tuple[Path, Path | None]]]:
    """(HR, LR) files of each folder, in name order; LR is None where it has to be made.

    role: "train" or "valid". lr: for each of ``folders`` its LR folder below ``root``, ``AUTO``
    or ``BICUBIC``; none: ``AUTO`` for all. say: gets a line for each LR folder that is used, and for
    one that seems to belong to an HR folder and is not.

    Raises DataError for a folder without images, a benchmark set, and an HR image whose LR partner
    (0001x4.png or 0001.png) is missing in a ready LR folder.
    """
    sets = []
    for name, low in zip(folders, lr or [AUTO] * len(folders), strict=True):
        hr_folder = _hr_folder(root, name, role)
        if low in (AUTO, BICUBIC):
            lr_folder = _lr_folder(hr_folder, scale) if low == AUTO else None
        else:
            lr_folder = root / low
            _refuse_benchmark(lr_folder)
            if not lr_folder.is_dir() or not image_files(lr_folder):
                raise DataError(f"{lr_folder}: no LR images (data.{'lr' if role == 'train' else 'valid_lr'})")
        if lr_folder:
            say(f"LR images: {lr_folder}")
        elif low == AUTO and (unused := _unused_lr(hr_folder)):
            key = "lr" if role == "train" else "valid_lr"
            say(
                f"note: {unused} looks like LR images and is not used: LR is made of HR by bicubic;"
                f' data.{key}=["FOLDER"] takes a folder, data.{key}=["{BICUBIC}"] ends this note'
            )
        ready = {p.stem: p for p in image_files(lr_folder)} if lr_folder else {}
        sets.append(
            [
                (hr, _partner(hr, ready, lr_folder, scale) if lr_folder else None)
                for hr in image_files(hr_folder)
            ]
        )
    return sets


# Decoding and cache ---------------------------------------------------------------------------


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode an image to (H, W, 3) uint8 RGB; alpha is dropped, 16 bits lose the lower 8.

    By ``photo``, which refuses a file that is damaged or cut short; by PIL what pyvips has no loader
    for (BMP in the wheels), and everything where pyvips is not installed. Raises OSError with the
    path in its message.
    """
    reasons: list[str] = []
    try:
        from ..photo import PhotoError, read_whole
    except ImportError as error:
        reasons.append(str(error))
    else:
        try:
            pixels = read_whole(path)
        except PhotoError as error:
            reasons.append(str(error).removeprefix(f"{path}: "))
            if "known format" not in reasons[0]:
                raise OSError(f"{path}: cannot read the image ({reasons[0]})") from None
        else:
            pixels = (pixels >> 8 if pixels.dtype == np.uint16 else pixels).astype(np.uint8)
            return np.ascontiguousarray(
                np.repeat(pixels[..., :1], 3, 2) if pixels.shape[2] < 3 else pixels[..., :3]
            )
    try:
        from PIL import Image

        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # decoders raise types of their own
        reasons.append((str(error).strip() or type(error).__name__).splitlines()[0])
    raise OSError(f"{path}: cannot read the image ({'; '.join(reasons)})")


def steps(y: NDArray[np.floating]) -> Tensor:
    """Y in [0, 255] -> int16 of the same shape: Y - 128 in steps of 1/256."""
    return torch.from_numpy(np.floor((y.clip(0, 255) - 128.0) * 256.0 + 0.5).astype(np.int16))


def to_y(fixed: Tensor) -> Tensor:
    """Stored int16 -> Y in [16, 235], float32, of the same shape."""
    return fixed.float().div_(256.0).add_(128.0)  # of int16 float() is a new tensor


def _decode(
    pair: tuple[Path, Path | None],
    scale: int,
    hr_scales: Sequence[float],
    keys: Sequence[Sequence[int]],
) -> list[tuple[Tensor, Tensor]]:
    """(HR, LR) of a file and of it shrunk to each of ``hr_scales``.

    HR: (H, W) int16; LR: (variants, h, w), one, or one for each of ``keys`` (``degrade``).
    """
    forms = _forms(pair, scale, hr_scales)
    return [_aligned(a, b, scale, [[*key, i] for key in keys]) for i, (a, b) in enumerate(forms)]


Form = tuple[NDArray[np.uint8], NDArray[np.uint8] | None]
"""RGB of HR, and of LR where it is ready."""


def _forms(pair: tuple[Path, Path | None], scale: int, hr_scales: Sequence[float]) -> list[Form]:
    """A file as it is, and shrunk to each of ``hr_scales``."""
    hr_path, lr_path = pair
    hr = read_rgb(hr_path)
    lr = None if lr_path is None else read_rgb(lr_path)
    if lr is not None and any(
        not -1 < n - m / scale < 1 for n, m in zip(lr.shape[:2], hr.shape[:2], strict=True)
    ):
        raise DataError(f"{lr_path}: {lr.shape[1]}x{lr.shape[0]} is not 1/{scale} of {hr_path.name}")
    forms: list[Form] = [(hr, lr)]
    forms += [(imresize(hr, share, dtype=np.float32), None) for share in hr_scales]
    if min(n for form, _ in forms for n in form.shape[:2]) < scale:
        raise DataError(f"{hr_path}: too small for scale {scale}")
    return forms


def _aligned(
    hr: NDArray[np.uint8], lr: NDArray[np.uint8] | None, scale: int, keys: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Y of HR, cropped to a multiple of the scale, and of LR, made of it where there is none."""
    hr, lr = _fitting(hr, lr, scale)
    if keys:
        lrs = [degraded(hr, scale, key) for key in keys]
    else:
        lrs = [lr if lr is not None else imresize(hr, 1 / scale, dtype=np.float32)]
    return steps(rgb_to_y(hr)), torch.stack([steps(rgb_to_y(x)) for x in lrs])


def _fitting(
    hr: NDArray[np.uint8], lr: NDArray[np.uint8] | None, scale: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """HR cropped to a multiple of the scale, and LR to that of HR."""
    h, w = (n // scale for n in hr.shape[:2])
    if lr is not None:
        h, w = min(h, lr.shape[0]), min(w, lr.shape[1])
    return hr[: h * scale, : w * scale], None if lr is None else lr[:h, :w]


@dataclass(frozen=True)
class Pairs:
    """Images of one scale as flat tensors.

    hr: int16, all images one after the other, row by row (``to_y`` gives Y).
    lr: the same, (variants, pixels): as many as each image has LR images.
    sizes: int64 (n, 2) on the CPU, LR height and width; HR is ``scale`` times that.
    soft: as hr, the soft targets (``distill.soft_targets``), or None.
    key: tells these images from others in the cache.
    """

    hr: Tensor
    lr: Tensor
    sizes: Tensor
    scale: int
    soft: Tensor | None = None
    key: str = ""

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def starts(self) -> Tensor:
        """int64 (n,): index of each image's first LR pixel; scale^2 times that for HR."""
        areas = self.sizes.prod(1)
        return areas.cumsum(0) - areas

    def to(self, device: torch.device) -> Pairs:
        """The same with the flat tensors on ``device``."""
        soft = None if self.soft is None else self.soft.to(device)
        return replace(self, hr=self.hr.to(device), lr=self.lr.to(device), soft=soft)

    def image(self, index: int) -> tuple[Tensor, Tensor]:
        """Y of one image, float32: LR (h, w) and HR (scale*h, scale*w).

        Of several LR variants image i gives number i modulo their count.
        """
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
    files: Files,
    scale: int,
    cache: Path | None = None,
    hr_scales: Sequence[float] = (),
    degrade: int = 0,
    seed: int = 0,
    rendered: int = 0,
    say: Say = silent,
) -> Pairs:
    """Decode a list of (HR, LR or None) files, or read them from the cache.

    hr_scales: each image comes again at these shares of its size, in (0, 1), right behind itself.
    degrade: how many degraded LR images each has (``degrade.degrade``, drawn with ``seed``), in
    place of LR files; 0: one clean LR image.
    rendered: how many images of text and drawings follow those of the files (``rendered.render``).

    cache: the folder of the file (``cached``), which is named by a hash of the images' bytes, scale,
    shares, degradation and ``VERSION``.
    say: gets a line where images have to be decoded.
    """
    if degrade:
        files = [(hr, None) for hr, _ in files]
    threads = os.cpu_count()
    digests = each(lambda pair: [p and digest(p) for p in pair], files, threads)
    key = key_of(
        *(VERSION, scale, digests, *hr_scales),
        *([degrade, DEGRADE_VERSION, seed] if degrade else []),
        *(["rendered", drawn.VERSION, rendered] if rendered else []),
    )

    def decode() -> dict[str, Tensor]:
        def one(index: int) -> list[tuple[Tensor, Tensor]]:
            keys = [[seed, index, variant] for variant in range(degrade)]
            if index >= len(files):
                return [_aligned(drawn.render([index - len(files)]), None, scale, keys)]
            return _decode(files[index], scale, hr_scales, keys)

        count = len(files) + rendered
        say(f"decoding {count} images" + (f", {degrade} LR images each" if degrade > 1 else ""))
        images = [image for forms in each(one, range(count), threads) for image in forms]
        return {
            "hr": torch.cat([hr.flatten() for hr, _ in images]),
            "lr": torch.cat([lr.flatten(1) for _, lr in images], 1),
            "sizes": torch.tensor([lr.shape[1:] for _, lr in images]),
        }

    t = cached(f"pairs-x{scale}-{key}", {"hr", "lr", "sizes"}, decode, cache)
    return Pairs(t["hr"], t["lr"], t["sizes"], scale, key=key)


def lr_images(
    files: Files, scale: int, hr_scales: Sequence[float] = (), rendered: int = 0
) -> Callable[[int], NDArray[np.uint8]]:
    """RGB (h, w, 3) of the clean LR images of ``load_pairs`` with the same arguments, by their number.

    For teachers that see colour: pairs hold luma alone. Each call decodes its file.
    """
    each_has = 1 + len(hr_scales)

    def image(index: int) -> NDArray[np.uint8]:
        file, form = divmod(index, each_has)
        if file < len(files):
            hr, lr = _forms(files[file], scale, hr_scales)[form]
        else:
            hr, lr = drawn.render([index - each_has * len(files)]), None
        hr, lr = _fitting(hr, lr, scale)
        return lr if lr is not None else imresize(hr, 1 / scale, dtype=np.float32)

    return image


def each(work: Callable[[Any], Any], items: Sequence[Any], threads: int | None) -> list[Any]:
    """work of each item, side by side; a bad image or Ctrl-C does not wait for the rest.

    In threads, not processes: decoders, numpy's inner loops and the engine release the interpreter
    lock.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes: a cached file is found wherever its images lie, however new their
    copies are."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def key_of(*facts: Any) -> str:
    """A short hash of facts that JSON can hold, for a file name."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def cached(
    name: str, wanted: Set[str], make: Callable[[], dict[str, Tensor]], cache: Path | None
) -> dict[str, Tensor]:
    """What the cache holds under ``name``; else what ``make`` gives, which is then kept.

    A broken file, or one without all that is ``wanted``, is made again. The file is written whole
    or not at all; where that cannot be, a warning says so.

    cache: its folder; None: ``cache_folder()``.
    """
    path = (cache or cache_folder()) / f"{name}.safetensors"
    with suppress(OSError, SafetensorError):
        tensors = load_file(path)
        if tensors.keys() >= wanted:
            return tensors
    tensors = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NewFile(path) as new:
            save_file(tensors, new.part)
    except (OSError, SafetensorError, BitsrError) as error:
        warnings.warn(f"images are not cached: {path.name}: {error}", stacklevel=3)
    return tensors
