"""Nets from recipes, freshly initialised."""

from __future__ import annotations

import torch
from torch import nn

from ..layers.convs import BinaryConv2d
from .equivariance import Symmetry
from .recipe import Recipe, RecipeError, Stage, construct


def build(recipe: Recipe, stage: Stage | None = None) -> nn.Module:
    """The recipe's net as a stage (default: the last) trains it, freshly initialised, float32.

    The weights depend on torch's random state alone: seed before the call. Raises RecipeError for
    net.stream_init_scale or net.symmetry of a net that cannot have them.
    """
    net = construct(recipe, stage or recipe.stages[-1])
    if recipe.net.stream_init_scale != 1:
        head, tail = getattr(net, "head", None), getattr(net, "tail", None)
        if head is None or tail is None:
            raise RecipeError(f"net.stream_init_scale: net {recipe.net.name!r} has no head and tail")
        with torch.no_grad():
            head.weight *= recipe.net.stream_init_scale
            tail.weight /= recipe.net.stream_init_scale
    if recipe.net.latent_init_scale != 1:
        with torch.no_grad():
            for conv in net.modules():
                if isinstance(conv, BinaryConv2d):
                    conv.weight *= recipe.net.latent_init_scale
    if ties := symmetry(recipe, net):
        ties.tie(net)
        net.order = ties.order  # type: ignore[assignment]
    return net


def symmetry(recipe: Recipe, net: nn.Module) -> Symmetry | None:
    """The ties of the recipe's net, on its device; None where its weights are free."""
    if recipe.net.symmetry == 1:
        return None
    try:
        return Symmetry(net, recipe.net.symmetry)
    except ValueError as error:
        raise RecipeError(f"net.symmetry: {error}") from error
