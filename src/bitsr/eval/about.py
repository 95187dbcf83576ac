"""What a net is, for people and as JSON (no torch): ``bitsr info`` and ``bitsr models``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isinf
from pathlib import Path
from typing import Any

from .. import zoo
from ..errors import printable
from ..model_file import ModelFile, ModelFileError
from .card import sections
from .complexity import LR_SIZE, Layer, count, packed_layers, packed_radius, shared_weights


@dataclass(frozen=True)
class Family:
    """Nets of one kind at several scales. time: that of an image beside bitsr-m of the same scale, as
    docs/which-net.md has it; use: what to take it for."""

    time: str
    use: str


FAMILIES = {
    "bitsr-xxs": Family("0.1", "the least time, at x4"),
    "bitsr-xs": Family("0.2", "little time"),
    "bitsr-s": Family("0.5", "large images, old machines"),
    "bitsr-m": Family("1", "most images; the default"),
    "bitsr-l": Family("1.8-1.9", "more quality; the best at x3 and x4"),
    "bitsr-xl": Family("2.6", "the best quality at x2"),
    "bitsr-photo-s": Family("0.5", "such photographs in half the time"),
    "bitsr-photo-m": Family("1", "photographs with JPEG artefacts, noise or blur"),
    "e2fif-srresnet": Family("0.8-0.9", "comparison with the paper"),
}
"""The nets that ship, by their names without the scale."""


def family(name: str) -> Family | None:
    """Of a net that ships, by its name; None for any other."""
    return FAMILIES.get(name.rpartition("-x")[0])


def _means(model: ModelFile) -> list[dict[str, Any]]:
    """The figures in a file whose metadata are sound (``card.sections``), a set each."""
    text = model.metadata.get("evaluation")
    return json.loads(text)["means"] if text else []


def overview(folder: str | Path = zoo.ZOO) -> list[dict[str, Any]]:
    """The nets of a folder by name, for tables: name, scale, bytes, set5 (PSNR in dB), time and use
    (``Family``); None for what is not known.

    Raises BitsrError for a file that is no model or whose metadata are broken, OSError.
    """
    rows: list[dict[str, Any]] = []
    for found in zoo.models(folder):
        model = ModelFile.read(found.path)
        sections(model)
        kind = family(found.name)
        rows.append(
            {
                "name": found.name,
                "scale": found.scale,
                "bytes": found.size,
                "set5": next((row["psnr"] for row in _means(model) if row["set"] == "Set5"), None),
                "time": kind.time if kind else None,
                "use": kind.use if kind else None,
            }
        )
    return sorted(rows, key=lambda row: (row["scale"], row["name"]))


def page(title: str, rows: list[tuple[str, str]]) -> str:
    """A title and lines of a word and what is to be said of it, aligned and safe on a terminal."""
    width = max(len(word) for word, _ in rows)
    lines = [title, "", *(f"  {word:<{width}}  {text}" for word, text in rows)]
    return "\n".join(map(printable, lines)) + "\n"


def field(radius: float) -> str:
    """The receptive field in words, of LR pixels to each side."""
    return "the whole image" if isinf(radius) else "{0} x {0} LR pixels".format(2 * int(radius) + 1)


def made_by(runs: Any) -> str:
    """The last of the runs that made a net (``train.provenance``). Raises ModelFileError where they
    are of another form."""
    if not runs:
        return "not recorded: made before bitsr did so, or not by `bitsr train`"
    try:
        last = runs[-1]
        return f"bitsr {last['bitsr']} with torch {last['torch']} on {last['machine']}"
    except (KeyError, TypeError, IndexError):
        raise ModelFileError("the metadata are broken: provenance") from None


def numbers(layers: list[Layer], radius: float) -> dict[str, Any]:
    """What counting gives, for JSON. receptive_field: its side in LR pixels, None for the whole
    image."""
    total = count(layers)
    binary, fp, ops = total.at()
    return {
        "parameters": {"one_bit": total.binary_weights, "others": total.other_params},
        "at_{}x{}".format(*LR_SIZE): {"binary_gmacs": binary, "fp_gmacs": fp, "gops": ops},
        "receptive_field": None if isinf(radius) else 2 * int(radius) + 1,
        "layers": [
            {
                "name": x.name,
                "cin": x.cin,
                "cout": x.cout,
                "kernel": x.k,
                "bits": "W1A1" if x.binary else "W1" if x.weight_only else None,
                "weights": x.weights,
                "others": x.others,
                "macs_per_lr_pixel": x.macs,
                "bytes": x.bytes or None,
            }
            for x in layers
        ],
    }


def work(layers: list[Layer]) -> str:
    """Parameters and operations in words."""
    total = count(layers)
    _, _, ops = total.at()
    width, height = LR_SIZE
    return (
        f"{total.binary_weights:,} weights of one bit, {total.other_params:,} other parameters;"
        f" {ops:.2f} G operations for {width}x{height}"
    )


def describe(model: ModelFile, file_bytes: int) -> str:
    """What ``bitsr info`` prints of a packed net. Raises BitsrError where its metadata are broken."""
    sections(model)
    about, layers = model.metadata, packed_layers(model)
    kind = family(model.name)
    rows = [("for", kind.use)] if kind else []
    time = ""
    if kind and not model.name.startswith("bitsr-m-"):
        time = "as bitsr-m; " if kind.time == "1" else f"{kind.time} times that of bitsr-m; "
    rows += [
        ("time", f"{time}`bitsr bench {model.name}` measures it on this machine"),
        ("size", f"{file_bytes / 1024:.0f} KiB; {work(layers)}"),
        ("sees", f"{field(packed_radius(model))} around each"),
    ]
    for m in _means(model):
        bicubic = f"bicubic {m['bicubic_psnr']:.2f} dB, {m['bicubic_ssim']:.4f}"
        rows.append((m["set"], f"{m['psnr']:.2f} dB, SSIM {m['ssim']:.4f}; {bicubic}"))
    if not about.get("evaluation"):
        rows.append(("figures", "not measured"))
    trained = [about.get("objective", "")]
    if (done := about.get("iteration", "")).isdecimal() and len(done) < 10:
        trained.append(f"{int(done):,} iterations in its last run")
    rows.append(("trained", "; ".join(filter(None, trained)) or "unknown"))
    rows.append(("made by", made_by(json.loads(about.get("provenance") or "[]"))))
    rows.append(("more", "--card: how it was made, its limits; --layers: each layer; --json: everything"))
    return page(f"{model.name}: {about.get('net', 'unknown net')}, x{model.scale}", rows)


def _plain(text: str) -> Any:
    """Metadata as the JSON that they are, or as text."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)  # NaN and its like are no JSON

    try:
        content = json.loads(text, parse_constant=refuse)
        json.dumps(content, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return content


def everything(model: ModelFile, file_bytes: int) -> str:
    """All that is known of a packed net as JSON. Raises BitsrError where its metadata are broken."""
    sections(model)
    kind = family(model.name)
    body = {
        "name": model.name,
        "scale": model.scale,
        "kind": "packed",
        "use": kind.use if kind else None,
        "time": kind.time if kind else None,
        "bytes": file_bytes,
        "operations": len(model.ops),
        "shared_weights": shared_weights(model),
        **numbers(packed_layers(model), packed_radius(model)),
        "metadata": {key: _plain(value) for key, value in model.metadata.items()},
    }
    return json.dumps(body, indent=2, allow_nan=False) + "\n"
