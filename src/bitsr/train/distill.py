"""Distillation: soft targets, made of the training images by trained nets (``data.teachers``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..symmetry import sum_over_orientations
from . import checkpoint, data, recipe

REPORT_EVERY = 60.0
"""Seconds between two lines that say how far a teacher is."""

Upscale = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Y of LR (h, w) -> of SR (scale*h, scale*w), real numbers in [0, 255], not clipped."""


@dataclass(frozen=True)
class _Teacher:
    """upscale: averaged over the 8 orientations, unless the net is equivariant."""

    name: str
    scale: int
    upscale: Upscale


def _packed(path: Path) -> _Teacher:
    # here, so that training without a packed teacher needs no engine
    from ..eval.evaluate import upscale_luma
    from ..upscaler import load

    net = load(path, threads=1)
    return _Teacher(net.name, net.scale, lambda y: upscale_luma(net.engine, y, not net.equivariant))


def by_torch(net: nn.Module, device: torch.device) -> Upscale:
    """A net in evaluation mode on ``device`` as ``Upscale``.

    Averaged over the 8 orientations, unless the net is equivariant.
    """

    @torch.no_grad()
    def run(y: NDArray[np.float64]) -> NDArray[np.float64]:
        # Sizes differ from image to image, so no autotuning; and no TF32, which moves values across
        # zero.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
            sr = net(torch.from_numpy(y).to(device, torch.float32)[None, None])[0, 0]
        return sr.cpu().numpy().astype(np.float64)

    equivariant = getattr(net, "order", 1) == 8
    return run if equivariant else lambda y: sum_over_orientations(run, y) / 8


def _trained(path: Path, device: torch.device) -> _Teacher:
    net, facts = checkpoint.load_net(path)
    net.to(device)
    return _Teacher(recipe.net_name(path), int(facts["recipe"]["scale"]), by_torch(net, device))


def _is_checkpoint(teacher: str | Path) -> bool:
    return str(teacher).endswith((".pt", ".safetensors"))


def _find(teacher: str) -> Path:
    if _is_checkpoint(teacher):
        return Path(teacher).expanduser()
    from ..zoo import find

    return find(teacher)


def _mean(images: list[Tensor]) -> Tensor:
    """Of int16, rounded half up."""
    total, n = torch.stack(images).sum(0, dtype=torch.int32), len(images)
    return (2 * total + n).div_(2 * n, rounding_mode="floor").short()


def soft_targets(
    pairs: data.Pairs,
    teachers: Sequence[str],
    cache: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    device: torch.device | None = None,
) -> Tensor:
    """The mean over nets of what each makes of every LR image, int16 as ``pairs.hr``.

    A net that is not equivariant counts by its mean over the 8 orientations.

    pairs: of one LR variant. teachers: names of nets that come with bitsr, or paths of .bsr files,
    by the engine; or paths of checkpoints (.pt, .safetensors), by torch on ``device`` (default: the
    CPU). The output of each is kept in ``cache``, under a hash of ``pairs.key`` and the net's file.
    say: called with a line before that work, and each minute with how far it is.

    Raises DataError for another scale, ValueError or OSError for a net that is none, ImportError
    where there is a packed teacher and the engine is not built.
    """
    paths = [_find(teacher) for teacher in teachers]
    keys = [data.key_of(pairs.key, data.digest(path)) for path in paths]

    def make(path: Path) -> dict[str, Tensor]:
        by_checkpoint = _is_checkpoint(path)
        net = _trained(path, device or torch.device("cpu")) if by_checkpoint else _packed(path)
        if net.scale != pairs.scale:
            raise data.DataError(f"teacher {net.name} upscales x{net.scale}, the recipe x{pairs.scale}")
        say(f"{net.name}: upscaling {len(pairs)} training images, once")
        done, said, lock = 0, time.monotonic(), Lock()

        def one(index: int) -> Tensor:
            nonlocal done, said
            lr = pairs.image(index)[0].numpy().astype(np.float64)
            sr = data.steps(net.upscale(lr)).flatten()
            with lock:
                done += lr.size
                if (now := time.monotonic()) - said >= REPORT_EVERY:
                    said = now
                    say(f"{net.name}: {100 * done // pairs.lr.numel()} %")
            return sr

        threads = 1 if by_checkpoint else torch.get_num_threads()  # torch has threads of its own
        return {"soft": torch.cat(data.each(one, range(len(pairs)), threads))}

    made = [
        data.cached(f"soft-x{pairs.scale}-{key}", {"soft"}, partial(make, path), cache)["soft"]
        for path, key in zip(paths, keys, strict=True)
    ]
    return made[0] if len(made) == 1 else _mean(made)
