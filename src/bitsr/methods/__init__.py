"""The binary methods: ``METHODS`` is the one place to enter one.

A method is a ``Unit``: one binarized convolution with all that the method puts around it (scales,
normalisation, thresholds, activation, skip). Nets are made of units and know no method, so each
method runs in every net that takes one.

To add one, derive from ``Unit`` in ``literature.py``. Say formula, gradient, source and what is
uncertain in the docstring, and enter the class in ``METHODS``. If its ``build`` keeps to the
operations of the engine it packs; else set ``unpackable`` to the reason why not. Other packages add
theirs by the entry point group "bitsr.methods" (``plugins``).
"""

from __future__ import annotations

from typing import Any

from ..layers.binarizers import ACTIVATIONS, WEIGHTS
from ..layers.convs import BinaryConv2d, QuantConv2d, WeightBinaryConv2d
from ..plugins import Registry
from .base import MakeUnit, RPReLU, Unit, why_unpackable
from .bitsr import Bitsr
from .literature import (
    ABC,
    BAM,
    BBCU,
    BNN,
    BTM,
    E2FIF,
    PAMS,
    XNOR,
    BiReal,
    DoReFa,
    IRNet,
    Ma,
    Plain,
    ReActNet,
)

__all__ = ["METHODS", "MakeUnit", "RPReLU", "Unit", "units", "why_unpackable"]

METHODS: Registry[type[Unit]] = Registry(
    "bitsr.methods",
    Unit,
    {
        "bitsr": Bitsr,
        "e2fif": E2FIF,
        "bnn": BNN,
        "ma": Ma,
        "plain": Plain,
        "xnor": XNOR,
        "dorefa": DoReFa,
        "bireal": BiReal,
        "irnet": IRNet,
        "reactnet": ReActNet,
        "btm": BTM,
        "bbcu": BBCU,
        "abc": ABC,
        "bam": BAM,
        "pams": PAMS,
    },
)


def units(
    method: str,
    options: dict[str, Any] | None = None,
    *,
    binary: bool | str = True,
    act: str | None = None,
    weight: str | None = None,
) -> MakeUnit:
    """A maker of the units of a method.

    options: keyword arguments of the method. binary: True; False for the float twin; "activations"
    for the first stage of two-stage training. act, weight: binarizers (names in ``ACTIVATIONS`` and
    ``WEIGHTS``) in place of those of the method. Raises ValueError for an unknown name and, when a
    unit is made, for binarizers that the method cannot exchange.
    """
    for name, table in (
        (method, METHODS),
        (act or "float", ACTIVATIONS),
        (weight or "float", WEIGHTS),
    ):
        if name not in table:
            raise ValueError(f"unknown {name!r}; known: {', '.join(table)}")

    def make(cin: int, cout: int, k: int = 3) -> Unit:
        unit = METHODS[method](cin, cout, k, **(options or {}))
        for conv in unit.modules():
            if not isinstance(conv, QuantConv2d):
                continue
            if isinstance(conv, BinaryConv2d):
                conv.act = act or conv.act
            elif act:
                raise ValueError(f"the activations of {method!r} take no other binarizer")
            if isinstance(conv, (BinaryConv2d, WeightBinaryConv2d)):
                conv.weight_mode = weight or conv.weight_mode
            elif weight:
                raise ValueError(f"the weights of {method!r} take no other binarizer")
            conv.binarize(binary)
        return unit

    return make
