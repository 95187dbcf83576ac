"""What a word on the command line names: a packed net, a checkpoint or a recipe (no torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from .errors import BitsrError
from .folders import packaged_recipe, packaged_recipes
from .zoo import CHECKPOINT_SUFFIXES, ZOO, alias

Kind = Literal["packed", "checkpoint", "recipe"]
SUFFIXES: dict[str, Kind] = {
    ".bsr": "packed",
    **dict.fromkeys(CHECKPOINT_SUFFIXES, "checkpoint"),
    ".toml": "recipe",
}


def kind(text: str, prefer: Kind = "packed") -> Kind:
    """The kind of a file by its suffix, or of a bare name: a net of the zoo or a packaged recipe.

    prefer: which of the two, where both have the name. Old names of nets count as names.
    Raises BitsrError where neither has it.
    """
    if known := SUFFIXES.get(Path(text).suffix):
        return known
    found: list[Kind] = []
    if (ZOO / f"{alias(text)}.bsr").is_file():
        found.append("packed")
    if packaged_recipe(text):
        found.append("recipe")
    if not found and Path(text).is_file():
        raise BitsrError(f"{text}: no net file; those end in {', '.join(SUFFIXES)}")
    if not found:
        names = sorted({*(p.stem for p in ZOO.glob("*.bsr")), *packaged_recipes()})
        raise BitsrError(
            f"no net or recipe named {text} ({', '.join(names)}), and no file with one of {', '.join(SUFFIXES)}"
        )
    return prefer if prefer in found else found[0]
