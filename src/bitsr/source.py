"""What a word on the command line names: a packed net, a checkpoint or a recipe (no torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from .errors import BitsrError
from .folders import packaged_recipe, packaged_recipes
from .zoo import CHECKPOINTS, ZOO, alias

Kind = Literal["packed", "checkpoint", "recipe"]
SUFFIXES: dict[str, Kind] = {
    ".bsr": "packed",
    **dict.fromkeys(CHECKPOINTS, "checkpoint"),
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


def latent(net: str) -> Path:
    """The checkpoint of a net: a file of one as it is; of a net of the zoo, by its name, the one in
    checkpoints/ of the current folder or the checkout.

    Raises BitsrError for a packed file and where a net of the zoo has none.
    """
    if kind(net) == "checkpoint":
        return Path(net)
    name = alias(Path(net).stem if net.endswith(".bsr") else net)
    places = [Path.cwd(), Path(__file__).resolve().parents[2]]
    for place in places:
        if (path := place / "checkpoints" / f"{name}.latent.safetensors").is_file():
            return path
    raise BitsrError(
        f"{net}: a packed net holds integers alone; its checkpoint is wanted,"
        f" checkpoints/{name}.latent.safetensors of the repository where it is there"
    )
