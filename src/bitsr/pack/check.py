"""Packs a checkpoint and checks the packed bits against the float net."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..folders import data_folder
from ..layers.ops import Net
from ..model_file import ModelFile
from ..train import data, legacy
from ..train.checkpoint import load_net
from ..train.fast import accelerated
from .emit import pack
from .fold import LUMA, PackError

CROP = 192
"""LR pixels each way of a calibration image, from its middle."""
TOLERANCE = 0.02
"""dB by which the mean PSNR of packed bits and float net may differ."""


def _middle(lr: Tensor, hr: Tensor, scale: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    h, w = (min(n, CROP) for n in lr.shape)
    top, left = (lr.shape[0] - h) // 2, (lr.shape[1] - w) // 2
    lr = lr[top : top + h, left : left + w]
    hr = hr[top * scale : (top + h) * scale, left * scale : (left + w) * scale]
    return lr.numpy(), hr.numpy()  # pyright: ignore[reportUnknownMemberType]


def check(
    net: Net, packed: ModelFile, images: Sequence[tuple[NDArray[Any], NDArray[Any]]]
) -> list[tuple[float, float]]:
    """(PSNR of the float net, PSNR of the packed bits) in dB on each (LR, HR) pair of luma planes.

    Y is rounded to 8 bits, ``scale`` border pixels are cut off. Raises PackError where the packed
    net is said to be equivariant and is not.
    """
    # Here, so that nothing else of packing needs the engine.
    from ..engine import Engine
    from ..eval.evaluate import to_q
    from ..eval.metrics import psnr, to_8bit

    engine, s = Engine(packed), net.scale
    results: list[tuple[float, float]] = []
    for lr, hr in images:
        q = to_q(lr)
        # The float net gets what the engine gets, so that they differ by the arithmetic alone.
        with accelerated(net):
            simulated: NDArray[Any] = net.upscale(torch.from_numpy(q / LUMA + 127.5)).numpy()  # pyright: ignore
        sr = engine.run(q)
        target = to_8bit(hr)
        float_psnr, packed_psnr = (psnr(to_8bit(y), target, crop=s) for y in (simulated, sr / LUMA + 127.5))
        results.append((float_psnr, packed_psnr))
    if packed.metadata.get("symmetry") == "8":
        q = to_q(images[0][0])[:32, :40]
        for move in (np.fliplr, np.transpose):  # these make the group
            if not np.array_equal(engine.run(np.ascontiguousarray(move(q))), move(engine.run(q))):
                raise PackError("the weights are tied, and the packed net is not equivariant")
    return results


def pack_checkpoint(
    checkpoint: str | os.PathLike[str],
    name: str,
    *,
    images: str | os.PathLike[str] | None = None,
    most: int | None = None,
    metadata: dict[str, str] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> ModelFile:
    """Pack a checkpoint of ``bitsr train`` and check the result against the float net.

    images: folder of HR images for calibration and check, default valid/ of the training data.
    most: so many of them, evenly from all, sorted by name; None: all.
    note: gets a line as each part of the work begins, and the result of the check. Raises PackError,
    CheckpointError, DataError or OSError.
    """
    net, facts = load_net(checkpoint)
    if not isinstance(net, Net) or not net.packs:
        raise PackError(f"a net of class {type(net).__name__} has no packed form")
    root, folder = (Path(images), ".") if images else (data_folder(), "valid")
    (files,) = data.find_pairs(root, [folder], "valid", net.scale)
    if most is not None and most < len(files):
        files = [files[i * len(files) // most] for i in range(most)]
    pairs = data.load_pairs(files, net.scale, say=note)
    middles = [_middle(*pairs.image(i), net.scale) for i in range(len(pairs))]
    about = {k: json.dumps(v) for k, v in facts.items()}
    if "recipe" in facts:
        recipe = legacy.parse(facts["recipe"], str(checkpoint))
        about["objective"] = recipe.objective
        if recipe.data.degrade:
            about["chroma"] = "smooth"
    note(f"calibrating on {len(middles)} images")
    packed = pack(net, [lr for lr, _ in middles], name, about)
    note("checking the packed bits against the float net")
    results = check(net, packed, middles)
    worst = max(abs(a - b) for a, b in results)
    means = [float(np.mean([r[i] for r in results])) for i in (0, 1)]
    if abs(means[0] - means[1]) > TOLERANCE:
        raise PackError(
            f"packed bits give {means[1]:.3f} dB on the check images, the float net {means[0]:.3f} dB"
        )
    note(
        f"check on {len(results)} images: float {means[0]:.3f} dB, packed {means[1]:.3f} dB,"
        f" worst {worst:.3f} dB"
    )
    packed.metadata["check"] = json.dumps(
        {"images": len(results), "float_psnr": means[0], "packed_psnr": means[1], "worst_difference": worst}
    )
    packed.metadata.update(metadata or {})
    return packed
