"""Checkpoints: atomic files of a training run, the small latent file, and nets loaded from either.

Training files (``.pt``, torch.save of plain data, read with ``weights_only``):

- ``last.pt``: net, optimiser, EMA, iteration, stage, best PSNR and the recipe: all that resuming
  needs.
- ``best.pt``: ``{"net", "recipe", "stage", "iteration", "psnr"}`` of the best validation.

``latent.safetensors`` is the best net without optimiser state, 2 bytes a latent weight, with the
facts as metadata. A state dict of the released E2FIF code is read as well (``official``). Recipes
and weights of older versions are read as today's (``legacy``).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ..errors import BitsrError
from ..files import NewFile
from ..layers.convs import BinaryConv2d, WeightBinaryConv2d
from . import legacy, official
from .build import build, symmetry
from .recipe import Recipe

_BLOCK = re.compile(r"body\.\d+\.")


class CheckpointError(BitsrError):
    """A checkpoint that cannot be used; the message is one line."""


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a training file whole or not at all (``files.NewFile``)."""
    with NewFile(path) as new:
        torch.save(dict(content), new.file)


def load(path: Path) -> dict[str, Any]:
    """Read a training file onto the CPU, its state dicts under today's keys, its recipe as stored.

    Raises OSError if it is absent, CheckpointError if it is none.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises many types on a bad file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: not a checkpoint: {reason}") from error
    if isinstance(content, dict) and official.recognised(content):
        try:
            return official.checkpoint(content)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(content, dict) or "net" not in content:
        raise CheckpointError(f"{path}: not a checkpoint: it has no 'net'")
    for key in ("net", "average"):
        if isinstance(content.get(key), Mapping):
            content[key] = legacy.upgrade_state(content[key])
    return content


def _half(latent: Tensor) -> Tensor:
    """float32 -> float16 of 4 mantissa bits, every sign kept and no value zero, for sign(0) = +1.

    A latent weight says on which side of zero it is and how far; the bits beyond are noise, which
    would double the size of a compressed file.
    """
    bits = latent.abs().half().view(torch.int16).int()
    size = ((bits + 0x20) & 0x7FC0).clamp(0x40, 0x7BC0).short().view(torch.float16)
    return torch.where(latent < 0, -size, size)


@torch.no_grad()
def _halves(module: nn.Module) -> bool:
    """Whether a module is a binary convolution that computes the same after ``_half``: it need not,
    where its weights are centred before the sign or their scale is rounded."""
    if not isinstance(module, (BinaryConv2d, WeightBinaryConv2d)):
        return False
    before = module.quantised_weight()
    module.weight.copy_(_half(module.weight))
    after = module.quantised_weight()
    return torch.equal(after < 0, before < 0) and torch.allclose(after, before, rtol=1e-3, atol=1e-6)


def stage_number(recipe: Recipe, stage: object, name: str) -> int:
    """``stage``, an index of the recipe's stages. Raises CheckpointError, which begins with ``name``,
    for anything else."""
    if not isinstance(stage, int) or not 0 <= stage < len(recipe.stages):
        raise CheckpointError(f"{name}: the recipe has no stage {stage!r}")
    return stage


def _net(recipe: Recipe, content: Mapping[str, Any], path: Path) -> nn.Module:
    return build(recipe, recipe.stages[stage_number(recipe, content.get("stage"), str(path))])


def export_latent(path: Path, content: Mapping[str, Any]) -> None:
    """Write the net of ``content`` (as in best.pt) as safetensors: latent weights float16, the rest
    float32.

    Only the weights of binary convolutions are halved: batch norm's variances can exceed the range
    of float16, and head and tail are small. No weight changes its sign, so the binary net is the
    same bit for bit; where the method's signs are not those of the latent weights, and would
    change, these stay float32. Of tied weights (net.symmetry) the free ones alone are written.
    """
    recipe = legacy.parse(content["recipe"], str(path))
    net = _net(recipe, content, path)
    net.load_state_dict(content["net"])
    halved = {f"{name}.weight" for name, module in net.named_modules() if _halves(module)}
    ties = symmetry(recipe, net)
    state = ties.free(content["net"]) if ties else content["net"]
    state = {k: (_half(v) if k in halved else v).contiguous().cpu() for k, v in state.items()}
    facts = {key: json.dumps(content[key]) for key in ("recipe", "stage", "iteration", "psnr")}
    with NewFile(path) as new:
        new.file.write(to_bytes(state, {"format": "bitsr-latent 1", **facts}))


def _load_latent(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        content = {key: json.loads(facts[key]) for key in ("recipe", "stage", "iteration", "psnr")}
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a latent checkpoint: {error}") from error
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    state = legacy.upgrade_state(state)
    recipe = legacy.parse(content["recipe"], str(path))
    if recipe.net.symmetry > 1:
        net = _net(recipe, content, path)
        ties = symmetry(recipe, net)
        assert ties is not None
        try:
            state = ties.spread(state, net)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
    return {**content, "net": state}


def load_any(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read last.pt, best.pt or latent.safetensors; ``["net"]`` is a float32 state dict.

    Of last.pt with an EMA, "net" is the raw net, not the average.
    """
    path = Path(path)
    return _load_latent(path) if path.suffix == ".safetensors" else load(path)


def load_net(path: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """The net of a checkpoint in evaluation mode on the CPU, and the checkpoint's facts without
    tensors.

    Facts: recipe (dict as stored, for ``legacy.parse``), stage, iteration, and psnr where the file holds a validated
    net. Raises CheckpointError for a file without a recipe or with weights that do not fit it.
    """
    content = load_any(path)
    path = Path(path)
    if "recipe" not in content:
        raise CheckpointError(f"{path}: holds no recipe, so its net is unknown")
    recipe = legacy.parse(content["recipe"], str(path))
    net = _net(recipe, content, path)
    initialise(net, content["net"], (), str(path))
    if ties := symmetry(recipe, net):  # to the last bit, whatever arithmetic has left
        ties.tie(net)
    return net.eval(), {k: content[k] for k in ("recipe", "stage", "iteration", "psnr") if k in content}


def blank(net: nn.Module, state: Mapping[str, Tensor], name: str) -> list[str]:
    """Make the blocks of ``net`` that ``state`` lacks start as the identity; their names
    (``body.N.``), for ``initialise``.

    What a skip stands over is 0 where it ends in batch norm of weight 0; an activation on the
    stream remains. Raises CheckpointError where a block has no batch norm, or none is new.
    """
    own, there = ({m[0] for key in keys if (m := _BLOCK.match(key))} for keys in (net.state_dict(), state))
    for block in (fresh := sorted(own - there)):
        norms = [
            m for m in net.get_submodule(block[:-1]).modules() if isinstance(m, nn.BatchNorm2d) and m.affine
        ]
        if not norms:
            raise CheckpointError(
                f"{block[:-1]} has no batch norm to start as the identity (train.init_grow)"
            )
        for norm in norms:
            nn.init.zeros_(norm.weight)
    if not fresh:
        raise CheckpointError(f"{name}: the net has no blocks beyond those there (train.init_grow)")
    return fresh


def initialise(net: nn.Module, state: Mapping[str, Tensor], skip: Sequence[str], name: str) -> None:
    """Copy ``state`` into ``net``; keys that start with an entry of ``skip``, or match it
    (``*.inner.*``), stay.

    Every other key must be there with its shape, and none may be left over: CheckpointError names
    the first.
    """
    own = net.state_dict()

    def left(key: str) -> bool:
        return any(key.startswith(entry) or fnmatchcase(key, entry) for entry in skip)

    chosen = {k: v for k, v in state.items() if not left(k)}
    for key, value in own.items():
        if left(key):
            continue
        if key not in chosen:
            raise CheckpointError(f"{name}: has no {key} (train.init_skip leaves parameters fresh)")
        if chosen[key].shape != value.shape:
            shapes = f"{tuple(chosen[key].shape)}, the net wants {tuple(value.shape)}"
            raise CheckpointError(f"{name}: {key} is {shapes} (train.init_skip leaves parameters fresh)")
    if unknown := sorted(chosen.keys() - own.keys()):
        raise CheckpointError(f"{name}: the net has no {unknown[0]}")
    net.load_state_dict({**own, **chosen})
