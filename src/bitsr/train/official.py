"""State dicts of the code that E2FIF's authors released, as checkpoints of ours.

Of that code's files this reads ``edsr_e2fif``: SRResNet (16 blocks of 64 channels) or EDSR (32 of
256) on luma with the light tail, which is ``SRResNet`` here.

Certain, from the modules of the released ``edsr_e2fif`` and from its trainer, which saves
``model.state_dict()``:

    head.0.conv1.0.{weight,bias}                          float 3x3, 1 -> C
    body.N.conv1.0.{weight,bias}, body.N.conv2.0...       binary 3x3 convolutions of block N, each with a bias
    body.N.conv1.1.{weight,bias,running_mean,running_var} batch norm after it; conv2 alike
    tail.0.{weight,bias}                                  float 3x3, C -> scale^2
    sub_mean.{weight,bias}, add_mean.{weight,bias}        fixed: luma - 127.5, + 127.5

Assumed, as no tensor tells it: a net trained with ``binary_mode`` "binary" (W1A1), ``res_scale`` 1
and ``rgb_range`` 255, which are the release's settings. The release publishes no weights: this has
met synthetic files only. Where a value is exactly 0 the release's sign is 0 and ours +1. Its other
tails ("bireal" and "repeattail") have equal keys for different nets and are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from . import recipe as recipes

HEAD, TAIL = "head.0.conv1.0.weight", "tail.0.weight"
UNIT = re.compile(r"body\.(\d+)\.conv([12])\.([01])\.(\w+)")


def recognised(state: Mapping[str, Any]) -> bool:
    """Whether these are the keys of a net of the released code, of any tail."""
    return HEAD in state and any(UNIT.fullmatch(key) for key in state)


def checkpoint(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """A released state dict as the content of a checkpoint: net, recipe (the published one of its
    size) and stage.

    The bias of a binary convolution goes into the batch norm behind it: bn(conv + b) has the mean
    that b lowers. Raises ValueError, one line, for another tail, colour or scale, and for a key
    that has no place.
    """
    if TAIL not in state:
        raise ValueError("a net of the released E2FIF code, but not with its light tail: that alone is read")
    (outputs, channels), colours = state[TAIL].shape[:2], state[HEAD].shape[1]
    scale = math.isqrt(outputs)
    if colours != 1 or scale * scale != outputs or f"e2fif-srresnet-x{scale}" not in recipes.names():
        raise ValueError(f"{colours} colours in, {outputs} channels out: luma at x2, x3 or x4 is wanted")
    net: dict[str, Tensor] = {}
    blocks = 0
    for key, value in state.items():
        if (means := key.removesuffix(".bias")) in ("sub_mean", "add_mean") and means != key:
            if abs(abs(float(value)) - 127.5) > 1e-3:
                raise ValueError(f"{key} is {float(value):g}: a net on luma in [0, 255] has 127.5")
        elif key in ("sub_mean.weight", "add_mean.weight"):
            continue
        elif key.startswith("head.0.conv1.0.") or key.startswith("tail.0."):
            net[f"{key[:4]}.{key.rpartition('.')[2]}"] = value
        elif unit := UNIT.fullmatch(key):
            block, number, part, name = unit.groups()
            blocks = max(blocks, int(block) + 1)
            prefix = f"body.{block}.unit{number}"
            if part == "0" and name == "weight":
                net[f"{prefix}.conv.weight"] = value
            elif part == "1":
                bias = state.get(f"body.{block}.conv{number}.0.bias") if name == "running_mean" else None
                net[f"{prefix}.bn.{name}"] = value if bias is None else value - bias
        else:
            raise ValueError(f"{key} has no place in a net of the released E2FIF code with the light tail")
    size = [f"net.args.channels={channels}", f"net.args.blocks={blocks}"]
    recipe = recipes.load(f"e2fif-srresnet-x{scale}", [*size, "source=state dict of the released E2FIF code"])
    return {"net": net, "recipe": recipe.model_dump(mode="json"), "stage": 0}
