"""Stored recipes and weights of older versions, read as today's.

Checkpoints, runs and model files hold the recipe that made them, with the keys of their time.
Whoever reads one calls ``parse``. Tables of today's keys pass through unchanged.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from . import recipe as recipes
from .legacy_keys import RENAMED_KEYS
from .recipe import Recipe, RecipeError

RENAMED: dict[str, dict[str, str]] = {
    "net": {"gain": "stream_init_scale", "latent": "latent_init_scale"},
    "data": {
        "shrink": "hr_scales",
        "tries": "crop_candidates",
        "truth": "hr_weight",
        "degraded": "degrade",
    },
}
"""Keys by section, and their names today."""
GONE: dict[str, dict[str, tuple[Any, ...]]] = {
    "data": {
        "repeats": ([],),
        "turned": ([],),
        "phases": (False,),
        "layout": ("auto", "hr"),
        "colour": ("y",),
    },
    "train": {"clip": (0,), "freeze_bn": (0,), "bn_batches": (32,)},
    "train.adversarial": {"layer": ("relu5_4",), "lr_ratio": (1,), "channels": (64,)},
}
"""Keys that are no more, and the values that make no difference to the net that came of them."""
ACTIVATIONS = {
    "identity": "ste_sign",
    "clip": "clipped_ste",
    "half": "abc_half",
    "step": "dorefa",
    "triangle": "approx_sign",
}
WEIGHTS = {
    "identity": "ste_sign",
    "clip": "clipped_ste",
    "triangle": "approx_sign",
    "mean": "magnitude_aware",
    "mean-clip": "reactnet",
    "mean-long": "btm",
    "layer": "dorefa",
}
"""Binarizers, and their names in the literature."""
SKIP_PATHS = {False: "none", True: "bicubic", "consistent": "back-projection"}
"""Values of the argument ``base``, which is ``skip_path`` today."""
HOUSE = {"slope": 0.1, "inner": 0.9, "thresholds": True, "maps": False, "norm": False}
"""Defaults of the method "house"."""
BITSR = {"slope": 1.0, "inner": False, "thresholds": True, "maps": 8, "norm": True}
"""What the method "bitsr" does, in the words of "house"."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "srresnet": {"tail": "light"},
    "rcan": {"variant": "e2fif", "wiring": "corrected"},
    "rdn": {"variant": "e2fif"},
}
"""Arguments with which a net is as in E2FIF; with others it is NAME-ablation today."""


def upgrade(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A stored recipe as a table of today's keys and names.

    Raises RecipeError, one line that begins with ``name``, where it uses something that is gone.
    """
    out = copy.deepcopy(dict(table))
    for section, keys in RENAMED.items():
        found = _section(out, section)
        for old in keys.keys() & found.keys():
            found[keys[old]] = found.pop(old)
    for section, gone in GONE.items():
        found = _section(out, section)
        for key in gone.keys() & found.keys():
            if (value := found.pop(key)) not in gone[key]:
                raise RecipeError(f"{name}: {section}.{key} = {value!r} is no longer supported")
    net = _section(out, "net")
    args = net.get("args")
    method = args.get("method") if isinstance(args, dict) else None
    if isinstance(args, dict):
        net["args"] = _arguments(args, method, name)
        usual = ABLATIONS.get(net.get("name", ""), {})
        if any(net["args"].get(key, value) != value for key, value in usual.items()):
            net["name"] += "-ablation"
            net["args"] = {**usual, **net["args"]}
        else:
            net["args"] = {k: v for k, v in net["args"].items() if k not in usual}
    stages = _section(out, "train").get("stages")
    for stage in stages if isinstance(stages, list) else ():
        if isinstance(stage, dict) and isinstance(stage.get("args"), dict):
            stage["args"] = _arguments(stage["args"], method, name)
    return out


def _section(table: dict[str, Any], name: str) -> dict[str, Any]:
    """The table of a section, an empty one where there is none."""
    for part in name.split("."):
        table = table.get(part) or {}
        if not isinstance(table, dict):  # a fault that ``recipe.parse`` names
            return {}
    return table


def _arguments(args: dict[str, Any], method: Any, name: str) -> dict[str, Any]:
    """Arguments of a net, of its recipe or of one of its stages. method: that of the recipe."""

    def gone(key: str, value: Any) -> RecipeError:
        return RecipeError(f"{name}: net.args.{key} = {value!r} is no longer supported")

    out = dict(args)
    for key, names, old in (("act", ACTIVATIONS, ("blocked", "wide")), ("weight", WEIGHTS, ())):
        if key in out:
            if out[key] in old:
                raise gone(key, out[key])
            out[key] = names.get(out[key], out[key])
    if "base" in out and out["base"] in SKIP_PATHS:
        out["skip_path"] = SKIP_PATHS[out.pop("base")]
    if out.pop("mean", 127.5) != 127.5:
        raise gone("mean", args["mean"])
    if method == "scales":
        raise gone("method", method)
    options = dict(out.pop("options", None) or {})
    if method == "house":
        if "method" in out:
            out["method"] = "bitsr"
            options = {**HOUSE, **options}
        for key, value in options.items():
            if key in BITSR and value != BITSR[key] and out.get("binarized") != "none":
                raise gone(f"options.{key}", value)
        options = {key: value for key, value in options.items() if key not in BITSR}
    if method == "xnor" and "maps" in options:
        options["scale_map"] = options.pop("maps")
    return {**out, "options": options} if options else out


def upgrade_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict under today's keys."""
    out = {}
    for key, value in state.items():
        for pattern, replacement in RENAMED_KEYS.items():
            key = re.sub(pattern, replacement, key)
        out[key] = value
    return out


def parse(table: Mapping[str, Any], name: str) -> Recipe:
    """The recipe of a stored table, of any version; ``name`` stands in error messages."""
    try:
        today = upgrade(table, name)
    except RecipeError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise RecipeError(f"{name}: its recipe is broken") from None
    return recipes.parse(today, name)
