"""Distillation: soft targets, made of the training images by trained nets (``data.teachers``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..eval.metrics import rgb_to_y
from ..nets.smfanet import SMFANet
from ..symmetry import sum_over_orientations
from ..zoo import CHECKPOINT_SUFFIXES
from . import checkpoint, data, recipe

REPORT_EVERY = 60.0
"""Seconds between two lines that say how far a teacher is."""

Upscale = Callable[[NDArray[Any]], NDArray[np.float64]]
"""Y of LR (h, w), or its RGB (h, w, 3), in [0, 255] -> Y of SR (scale*h, scale*w), real numbers in
[0, 255], not clipped."""


@dataclass(frozen=True)
class _Teacher:
    """upscale: of a net of ours averaged over the 8 orientations, unless the net is equivariant; of
    others as it is. rgb: whether it wants RGB. threads: how many images to make at a time."""

    name: str
    scale: int
    upscale: Upscale
    rgb: bool = False
    threads: int = 1


def _packed(path: Path) -> _Teacher:
    # here, so that training without a packed teacher needs no engine
    from ..eval.evaluate import upscale_luma
    from ..upscaler import load

    net = load(path, threads=1)
    threads = torch.get_num_threads()
    return _Teacher(
        net.name,
        net.scale,
        lambda y: upscale_luma(net.engine, y, not net.equivariant),
        threads=threads,
    )


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
    # torch and onnxruntime have threads of their own: one image at a time
    if path.suffix == ".safetensors" and SMFANET in (state := _tensors(path)):
        return _smfanet(path, state, device)
    net, facts = checkpoint.load_net(path)
    net.to(device)
    return _Teacher(recipe.net_name(path), int(facts["recipe"]["scale"]), by_torch(net, device))


SMFANET = "feats.0.smfa.alpha"
"""A key that tells weights of SMFANet."""


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise checkpoint.CheckpointError(f"{path}: {error}") from error


def _smfanet(path: Path, state: dict[str, Tensor], device: torch.device) -> _Teacher:
    try:
        net = SMFANet.of(state).to(device)
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise checkpoint.CheckpointError(f"{path}: no SMFANet: {reason}") from error

    @torch.no_grad()
    def run(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
        x = torch.from_numpy(rgb).to(device).permute(2, 0, 1)[None].float() / 255
        return rgb_to_y(255 * net(x)[0].permute(1, 2, 0).cpu().numpy())

    return _Teacher(path.stem, net.scale, run, rgb=True)


def _onnx(path: Path) -> _Teacher:
    """A net of elsewhere: (1, 1, h, w) Y in [0, 255], as ``bitsr export`` writes it, or (1, 3, h, w)
    RGB in [0, 1]; the same out."""
    try:
        import onnxruntime
    except ImportError:
        raise data.DataError(
            f"{path}: a teacher in ONNX wants onnxruntime (pip install onnxruntime)"
        ) from None
    side = 16
    try:
        session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        channels = entry.shape[1]
        if channels not in (1, 3):
            raise ValueError(f"its input has {channels} channels, not 1 (Y) or 3 (RGB)")

        def planes(x: NDArray[Any]) -> NDArray[np.float64]:
            """(C, h, w) -> (C, scale*h, scale*w)"""
            return session.run(None, {entry.name: x.astype(np.float32)[None]})[0][0].astype(np.float64)

        shape = planes(np.zeros((channels, side, side))).shape
        scale = shape[-1] // side
        if shape != (channels, scale * side, scale * side):
            raise ValueError(f"of ({channels}, {side}, {side}) it makes {shape}")
    except Exception as error:  # onnxruntime has types of its own
        raise data.DataError(f"{path}: no teacher: {str(error).splitlines()[0]}") from error

    def run(x: NDArray[Any]) -> NDArray[np.float64]:
        if channels == 1:
            return planes(x[None])[0]
        return rgb_to_y(255 * planes(x.transpose(2, 0, 1) / 255).transpose(1, 2, 0))

    return _Teacher(path.stem, scale, run, rgb=channels == 3)


def _is_checkpoint(teacher: str | Path) -> bool:
    return str(teacher).endswith(CHECKPOINT_SUFFIXES)


def _find(teacher: str) -> Path:
    if _is_checkpoint(teacher) or str(teacher).endswith(".onnx"):
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
    rgb: Callable[[int], NDArray[np.uint8]] | None = None,
) -> Tensor:
    """The mean over nets of what each makes of every LR image, int16 as ``pairs.hr``.

    A net of ours that is not equivariant counts by its mean over the 8 orientations.

    pairs: of one LR variant. teachers: names of nets that come with bitsr, or paths of .bsr files,
    by the engine; or paths of checkpoints (.pt, .safetensors) or of published weights of SMFANet
    (.safetensors), by torch on ``device`` (default: the CPU); or of ONNX files, by onnxruntime.
    rgb: the LR images in colour (``data.lr_images``), for nets that want them.
    The output of each is kept in ``cache``, under a hash of ``pairs.key`` and the net's file.
    say: called with a line before that work, and each minute with how far it is.

    Raises DataError for another scale, ValueError or OSError for a net that is none, ImportError
    where there is a packed teacher and the engine is not built.
    """
    paths = [_find(teacher) for teacher in teachers]
    keys = [data.key_of(pairs.key, data.digest(path)) for path in paths]

    def make(path: Path) -> dict[str, Tensor]:
        if path.suffix == ".onnx":
            net = _onnx(path)
        elif _is_checkpoint(path):
            net = _trained(path, device or torch.device("cpu"))
        else:
            net = _packed(path)
        if net.scale != pairs.scale:
            raise data.DataError(f"teacher {net.name} upscales x{net.scale}, the recipe x{pairs.scale}")
        if net.rgb and rgb is None:
            raise data.DataError(f"teacher {net.name} wants images in colour")
        say(f"{net.name}: upscaling {len(pairs)} training images, once")
        done, said, lock = 0, time.monotonic(), Lock()

        def one(index: int) -> Tensor:
            nonlocal done, said
            lr = rgb(index) if net.rgb and rgb else pairs.image(index)[0].numpy().astype(np.float64)
            sr = data.steps(net.upscale(lr)).flatten()
            with lock:
                done += lr.shape[0] * lr.shape[1]
                if (now := time.monotonic()) - said >= REPORT_EVERY:
                    said = now
                    say(f"{net.name}: {100 * done // pairs.lr.numel()} %")
            return sr

        return {"soft": torch.cat(data.each(one, range(len(pairs)), net.threads))}

    made = [
        data.cached(f"soft-x{pairs.scale}-{key}", {"soft"}, partial(make, path), cache)["soft"]
        for path, key in zip(paths, keys, strict=True)
    ]
    return made[0] if len(made) == 1 else _mean(made)
