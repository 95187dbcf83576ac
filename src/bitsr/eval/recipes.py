"""The packaged recipes in a table: what each is, and what it costs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..folders import packaged_recipes
from ..train.recipe import Recipe, load
from .net_complexity import read

UNIT = "bitsr-m-x4-cpu"
"""The recipe whose training is 1."""


def first_sentence(path: Path) -> str:
    """Of the comment at the top of a recipe; empty where there is none."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or not line.strip("# "):
            break
        lines.append(line.strip("# "))
    return re.split(r"(?<!et al)\.(?:\s|$)", " ".join(lines))[0]


def _pixels(r: Recipe) -> int:
    """LR pixels that a training sees."""
    return r.iterations * r.data.batch * r.data.patch**2


def listing() -> list[dict[str, Any]]:
    """Every packaged recipe by name: name, scale, iterations, batch, patch, work, about.

    work: the multiply-accumulates of its training beside those of ``UNIT``, soft targets not
    counted; about: the first sentence of its comment. Raises RecipeError or PluginError.
    """
    macs: dict[str, int] = {}  # an LR pixel's, of each net

    def work(name: str, r: Recipe) -> int:
        net = f"{r.scale} {r.net.name} {r.net.args} {r.stages[-1].args}"
        if net not in macs:
            macs[net] = sum(row.macs for row in read(name).rows)
        return macs[net] * _pixels(r)

    unit = work(UNIT, load(UNIT))
    rows: list[dict[str, Any]] = []
    for name, path in packaged_recipes().items():
        r = load(name)
        rows.append(
            {
                "name": name,
                "scale": r.scale,
                "iterations": r.iterations,
                "batch": r.data.batch,
                "patch": r.data.patch,
                "work": work(name, r) / unit,
                "about": first_sentence(path),
            }
        )
    return rows
