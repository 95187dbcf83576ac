"""Where recipes and images for training and evaluation lie, and which files are images (no torch,
no pyvips)."""

from __future__ import annotations

import os
from pathlib import Path

from .plugins import recipe_folders

RECIPES = Path(__file__).resolve().parent / "recipes"
"""Those that come with bitsr."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""Of the images that training and evaluation read."""


def data_folder(data: str | os.PathLike[str] | None = None) -> Path:
    """``data``, else the variable BITSR_DATA, else ../shared/data from the current folder or from
    the checkout.

    Where there is none of them it is the first, for an error message to name.
    """
    if chosen := data or os.environ.get("BITSR_DATA"):
        return Path(chosen).expanduser()
    places = [place.parent / "shared" / "data" for place in (Path.cwd(), Path(__file__).resolve().parents[2])]
    return next((place for place in places if place.is_dir()), places[0])


def packaged_recipes() -> dict[str, Path]:
    """Recipes by name: those of bitsr, then those of other packages (``plugins``)."""
    found: dict[str, Path] = {}
    for folder in (RECIPES, *recipe_folders()):
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def packaged_recipe(name: str) -> Path | None:
    """The file of a packaged recipe; other packages are asked only for what is not bitsr's."""
    if "/" in name or "\\" in name:
        return None
    own = RECIPES / f"{name}.toml"
    return own if own.is_file() else packaged_recipes().get(name)


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder by name, hidden ones left out."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
