"""Model cards: what a packed net says about itself, from its metadata alone (no torch)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from ..errors import printable
from ..model_file import ModelFile, ModelFileError
from .complexity import LR_SIZE, count, packed_layers, packed_radius, shared_weights

CLEAN = (
    "It was trained on images downscaled by bicubic interpolation, without noise, blur or JPEG artefacts: it does not"
    " remove them, and it sharpens those that are there."
)
DEGRADED = (
    "It was trained on blurred, noisy and compressed images. Of a clean one it takes some fine detail with it:"
    " the net without photo in its name keeps that."
)
CHROMA = "It enlarges luma; chroma follows the luma that it makes{}."
FAITHFUL = "It reconstructs, it does not invent: fine texture that the LR image has lost stays smooth."
ADVERSARIAL = (
    "It was trained to draw what looks real, so some of the detail in its images is invented:"
    " look at them, measure nothing in them."
)
PROTOCOL = "Test figures hold for the protocol that stands beside them, and for no other."


_BROKEN = (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError)
"""What JSON of another form than expected makes of code that reads it."""


def _told(model: ModelFile, key: str, tell: Callable[[Any], list[str]]) -> list[str]:
    """Lines about metadata that are JSON; none where they are absent or empty. Raises
    ModelFileError."""
    if not (text := model.metadata.get(key)):
        return []
    try:
        content = json.loads(text)
        return tell(content) if content else []
    except _BROKEN:
        raise ModelFileError(f"the metadata are broken: {key}") from None


_WORDS: dict[str, dict[Any, str]] = {
    "act": {"triangle": "approx_sign"},
    "weight": {"identity": "ste_sign"},
    "base": {False: "none", True: "bicubic", "consistent": "back-projection"},
    "method": {"house": "bitsr"},
}
"""Arguments of nets in the recipes of older files, and today's words for their values."""
_KEYS = {"base": "skip_path", "tries": "crop_candidates"}
_BITSR = {"maps": 8, "norm": True, "inner": False, "slope": 1.0}
"""Options of older files that are what the method does today."""


def _arguments(args: dict[str, Any]) -> str:
    args = dict(args)
    options = args.pop("options", {})
    if args.get("method") == "house":
        options = {k: v for k, v in options.items() if _BITSR.get(k) != v}
    said = {_KEYS.get(k, k): _WORDS[k].get(v, v) if k in _WORDS else v for k, v in args.items()}
    return ", ".join(f"{k} = {v}" for k, v in (said | options).items())


def _recipe(recipe: dict[str, Any]) -> list[str]:
    """The settings that decide the weights, a line each."""
    net, data, train = (recipe.get(key, {}) for key in ("net", "data", "train"))
    said = _arguments(net.get("args", {}))
    loop = (
        ("batch", "patch", "crop_candidates", "tries"),
        ("iterations", "lr", "schedule", "warmup", "loss", "ema", "precision", "seed"),
    )
    settings = [
        f"{_KEYS.get(k, k)} {s[k]}"
        for s, keys in zip((data, train), loop, strict=True)
        for k in keys
        if s.get(k) is not None
    ]
    if net.get("symmetry", 1) > 1:
        settings.append(f"symmetry {net['symmetry']}")
    if train.get("optimiser", "adam") != "adam":
        settings.append(f"optimiser {train['optimiser']}")
    if train.get("int8"):
        settings.append("int8")
    lines = [f"- net: {net.get('name')}" + (f" ({said})" if said else "")]
    if recipe.get("source"):
        lines.append(f"- source: {recipe['source']}")
    return [*lines, f"- settings: {', '.join(settings)}"]


def _trained_on(recipe: dict[str, Any]) -> list[str]:
    return [
        DEGRADED if recipe.get("data", {}).get("degrade") else CLEAN,
        ADVERSARIAL if recipe.get("train", {}).get("adversarial") else FAITHFUL,
    ]


def _evaluation(evaluation: dict[str, Any]) -> list[str]:
    lines = [
        f"From the packed bits. Protocol {evaluation['protocol']}.",
        "",
        "| set | PSNR dB | SSIM | bicubic PSNR dB | bicubic SSIM |",
        "|---|---:|---:|---:|---:|",
    ]
    for m in evaluation["means"]:
        figures = f"{m['psnr']:.2f} | {m['ssim']:.4f} | {m['bicubic_psnr']:.2f} | {m['bicubic_ssim']:.4f}"
        lines.append(f"| {m['set']} | {figures} |")
    return lines


def _check(check: dict[str, Any]) -> list[str]:
    images = check.get("images", check.get("pictures"))  # the older word
    return [
        f"Packed bits against the float simulation on {images} validation images:"
        f" {check['packed_psnr']:.3f} dB and {check['float_psnr']:.3f} dB.",
        "",
    ]


def _provenance(runs: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for run in runs:
        data = run["data"]
        lines.append(
            f"- trained by bitsr {run['bitsr']} with torch {run['torch']} on {run['machine']};"
            f" hash of the training data {data['train']}, of the validation data {data['valid']}"
        )
        if changes := run["overrides"]:
            changed = ", ".join(f"{key} = {json.dumps(value)}" for key, value in changes.items())
            lines.append(f"- changed against the recipe: {changed}")
    return lines


@dataclass(frozen=True)
class Sections:
    """Lines of a card from metadata that are JSON."""

    recipe: list[str]
    trained_on: list[str]
    provenance: list[str]
    evaluation: list[str]
    check: list[str]


def sections(model: ModelFile) -> Sections:
    """What the metadata tell. Raises ModelFileError where they are not of their form."""
    return Sections(
        _told(model, "recipe", _recipe),
        _told(model, "recipe", _trained_on),
        _told(model, "provenance", _provenance),
        _told(model, "evaluation", _evaluation),
        _told(model, "check", _check),
    )


def card(model: ModelFile, file_bytes: int) -> str:
    """The card of a net as Markdown: what it is, how it was made, how good it is, where it ends.

    Whatever the metadata does not hold is said to be unknown. Raises BitsrError where it is broken.
    """
    told = sections(model)
    about, total = model.metadata, count(packed_layers(model))
    radius = packed_radius(model)
    _, _, ops = total.at()
    width, height = LR_SIZE
    one_bit = f"{total.binary_weights:,} one-bit weights"
    if free := shared_weights(model):
        one_bit += f" (stored as {free:,}, once for eight orientations)"
    field = f"{2 * radius + 1} x {2 * radius + 1} LR pixels" if radius < inf else "the whole image"
    lines = [
        f"# {model.name}",
        "",
        f"Super-resolution x{model.scale} of luma (Y of BT.601), {about.get('net', 'unknown net')}, packed bits for"
        f" the CPU. {file_bytes / 1024:.0f} KiB; {one_bit} and"
        f" {total.other_params:,} other parameters; {ops:.2f} G OPs at {width}x{height} LR; sees {field}.",
        "",
        "## Training",
        "",
        about.get("training", "Unknown."),
        "",
    ]
    if told.recipe:
        if objective := about.get("objective"):
            lines.append(f"- objective: {objective}")
        lines += [*told.recipe, f"- iterations done: {about.get('iteration', 'unknown')}"]
        lines += [*(told.provenance or ["- versions of bitsr and torch, hash of the data: not recorded"]), ""]
    lines += ["## Figures", "", *(told.evaluation or ["Not measured."]), "", *told.check]
    chroma = CHROMA.format(", smoothed" if about.get("chroma") == "smooth" else "")
    lines += ["## Limits", "", *(f"- {text}" for text in (chroma, *told.trained_on, PROTOCOL)), ""]
    return "\n".join(printable(line) for text in lines for line in text.split("\n"))
