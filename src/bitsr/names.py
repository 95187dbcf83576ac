"""What outputs are called: the rules of ``batch`` and of ``cluster``.

Paths of the system and those of a store (``PurePosixPath``) go by the same rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from pathlib import PurePath
from typing import TypeVar

from . import photo
from .errors import BitsrError

AUTO = "auto"
"""As a format: that of the input."""
_Path = TypeVar("_Path", bound=PurePath)
_Place = TypeVar("_Place")


def format_named(name: str) -> str:
    """What a user calls a format ("jpeg", "auto") as AUTO or a key of photo.FORMATS.

    Raises BitsrError for another name.
    """
    known = name if name == AUTO or name in photo.FORMATS else photo.format_of(f"x.{name}")
    if known is None:
        raise BitsrError(f"no output format {name}; there are {AUTO}, {', '.join(photo.FORMATS)}")
    return known


def is_image(path: PurePath) -> bool:
    """Whether a file of a folder is an input, by its name. Hidden ones are not: a Mac leaves a
    ._NAME.jpg beside images it copies."""
    return path.suffix.lower() in photo.SUFFIXES and not path.name.startswith(".")


def target(path: PurePath, format: str) -> tuple[str, str]:
    """Format and suffix of an input's output. format: AUTO keeps the input's where it can be
    written, else PNG; or a key of photo.FORMATS."""
    kept = photo.format_of(str(path))
    if format == AUTO:
        # GIF has too few colours for what an image becomes: only where it is asked for.
        return (kept, path.suffix) if kept and kept != "gif" else ("png", ".png")
    return format, path.suffix if kept == format else f".{format}"


def told_apart(pairs: Sequence[tuple[_Path, _Path]]) -> list[_Path]:
    """The outputs of pairs of an input and an output. Of those alike, one with another suffix than
    its input's gets that as well: a.gif and a.png, both to a.png, become a.gif.png and a.png."""
    count = Counter(output for _, output in pairs)
    return [
        output.with_name(input.name + output.stem.removeprefix(input.stem) + output.suffix)
        if count[output] > 1 and output.suffix != input.suffix
        else output
        for input, output in pairs
    ]


def check(
    pairs: Iterable[tuple[_Place, _Place]],
    real: Callable[[_Place], Hashable],
    inputs: Collection[Hashable],
) -> None:
    """Raise BitsrError where two inputs have one output, or an output is an input.

    pairs: of an input and its output. real: what an output is behind its links. inputs: likewise
    of all that must stay.
    """
    taken: dict[Hashable, _Place] = {}
    for input, output in pairs:
        place = real(output)
        if place in taken:
            raise BitsrError(f"{taken[place]} and {input} would both be written to {output}")
        if place in inputs:
            raise BitsrError(f"{output}: the output would overwrite an input")
        taken[place] = input
