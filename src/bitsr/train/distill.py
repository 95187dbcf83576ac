"""Teachers: what trained nets make of the training pictures, in HR's place in the target (``data.teachers``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..symmetry import sum_over_turns
from . import checkpoint, data, recipe
from .fast.winograd import Conv3x3

TOLD_EVERY = 60.0
"""Seconds between two lines that tell how far a teacher is."""


@dataclass(frozen=True)
class _Teacher:
    """upscale: Y of LR (h, w) -> of SR, real numbers in levels, not clipped; its mean over flips and turns where the
    net does not turn with its picture."""

    name: str
    scale: int
    upscale: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _packed(path: Path) -> _Teacher:
    from ..eval.evaluate import upscale_luma  # who has no packed teacher trains without the engine
    from ..upscaler import load

    net = load(path, threads=1)
    return _Teacher(net.name, net.scale, lambda y: upscale_luma(net.engine, y, not net.equivariant))


def by_torch(net: nn.Module, device: torch.device) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """What a net in evaluation mode on ``device`` makes of Y, as ``_Teacher.upscale``."""

    @torch.no_grad()
    def run(y: NDArray[np.float64]) -> NDArray[np.float64]:
        # Sizes differ from picture to picture, so no autotuning; and no TF32, which moves values across zero.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
            sr = net(torch.from_numpy(y).to(device, torch.float32)[None, None])[0, 0]
        return sr.cpu().numpy().astype(np.float64)

    turns = getattr(net, "order", 1) == 8
    return run if turns else lambda y: sum_over_turns(run, y) / 8


def _trained(path: Path, device: torch.device) -> _Teacher:
    net, facts = checkpoint.load_net(path)
    net.to(device)
    for module in net.modules():
        module.training = isinstance(module, Conv3x3)  # by the products of training: three times as fast
    return _Teacher(recipe.net_name(path), int(facts["recipe"]["scale"]), by_torch(net, device))


def _is_checkpoint(teacher: str | Path) -> bool:
    return str(teacher).endswith((".pt", ".safetensors"))


def _find(teacher: str) -> Path:
    if _is_checkpoint(teacher):
        return Path(teacher).expanduser()
    from ..zoo import find

    return find(teacher)


def _mean(pictures: list[Tensor]) -> Tensor:
    """Of int16, rounded half up."""
    total, n = torch.stack(pictures).sum(0, dtype=torch.int32), len(pictures)
    return (2 * total + n).div_(2 * n, rounding_mode="floor").short()


def teach(
    pairs: data.Pairs,
    teachers: Sequence[str],
    cache: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    device: torch.device | None = None,
) -> data.Pairs:
    """The same with ``taught``: the mean over nets of what each makes of every LR picture, its mean over flips and
    turns where it does not turn with the picture.

    teachers: names of nets that come with bitsr, or paths of .bsr files, by the engine; or paths of checkpoints (.pt,
    .safetensors), by torch on ``device`` (default: the CPU). What each makes is kept in ``cache`` as ``load_pairs``
    does, of whose pictures these must be; say: told in one line before that work, and each minute how far it is.

    Raises DataError for another scale, ValueError or OSError for a net that is none, ImportError where there is a
    packed teacher and the engine is not built.
    """
    paths = [_find(teacher) for teacher in teachers]
    keys = [data.key_of(pairs.key, data.digest(path)) for path in paths]

    def make(path: Path) -> dict[str, Tensor]:
        by_checkpoint = _is_checkpoint(path)
        net = _trained(path, device or torch.device("cpu")) if by_checkpoint else _packed(path)
        if net.scale != pairs.scale:
            raise data.DataError(f"teacher {net.name} upscales x{net.scale}, the recipe x{pairs.scale}")
        say(f"{net.name}: upscaling {len(pairs)} training pictures, once")
        done, told, lock = 0, time.monotonic(), Lock()

        def taught(index: int) -> Tensor:
            nonlocal done, told
            lr = pairs.picture(index)[0].numpy().astype(np.float64)
            hr = data.steps(net.upscale(lr)).flatten()
            with lock:
                done += lr.size
                if (now := time.monotonic()) - told >= TOLD_EVERY:
                    told = now
                    say(f"{net.name}: {100 * done // pairs.lr.numel()} %")
            return hr

        threads = 1 if by_checkpoint else torch.get_num_threads()  # torch has threads of its own
        return {"taught": torch.cat(data.each(taught, range(len(pairs)), threads))}

    made = [
        data.cached(f"taught-x{pairs.scale}-{key}", {"taught"}, partial(make, path), cache)["taught"]
        for path, key in zip(paths, keys, strict=True)
    ]
    return replace(pairs, taught=made[0] if len(made) == 1 else _mean(made))
