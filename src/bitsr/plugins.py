"""What other packages add by entry points: nets, methods and folders of recipes (no torch).

    [project.entry-points."bitsr.nets"]
    toy = "my_package.nets:Toy"

    [project.entry-points."bitsr.methods"]
    toy = "my_package.methods:ToyMethod"

    [project.entry-points."bitsr.recipes"]
    my_package = "my_package.recipes"     # a package that holds NAME.toml files

Code of another package runs when one of its names is used, and not before. Names of bitsr come
first: a package cannot replace them.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from .errors import BitsrError

T = TypeVar("T")


class PluginError(BitsrError):
    """An entry point of another package that cannot be used; the message is one line."""


def _fault(entry: EntryPoint, error: BaseException | str) -> PluginError:
    package = entry.dist.name if entry.dist else "a package"
    told = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return PluginError(f"{entry.group} {entry.name!r} of {package}: {' '.join(told.split())}")


class Registry(MutableMapping[str, T]):
    """Classes by name: bitsr's own, then those of an entry point group, loaded as they are asked for.

    kind: what each has to be derived from. Getting a name raises KeyError for an unknown one and
    PluginError for one that cannot be loaded.
    """

    def __init__(self, group: str, kind: type[Any], own: dict[str, T]) -> None:
        self.group, self.kind, self._own = group, kind, own

    def _others(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group) if entry.name not in self._own}

    def __getitem__(self, name: str) -> T:
        if name in self._own:
            return self._own[name]
        entry = self._others()[name]
        try:
            found = entry.load()
        except Exception as error:  # whatever its import raises
            raise _fault(entry, error) from error
        if not (isinstance(found, type) and issubclass(found, self.kind)):
            raise _fault(entry, f"no class derived from {self.kind.__name__}")
        return found  # type: ignore[return-value]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._others()

    def __iter__(self) -> Iterator[str]:
        return iter([*self._own, *self._others()])

    def __len__(self) -> int:
        return len(self._own) + len(self._others())

    def __setitem__(self, name: str, value: T) -> None:
        self._own[name] = value

    def __delitem__(self, name: str) -> None:
        del self._own[name]


def recipe_folders() -> list[Path]:
    """Folders of recipes of other packages. Raises PluginError for one that is not there."""
    folders: list[Path] = []
    for entry in entry_points(group="bitsr.recipes"):
        try:
            spec = find_spec(entry.value)
        except Exception as error:  # a parent package runs
            raise _fault(entry, error) from error
        places = list(spec.submodule_search_locations or ()) if spec else []
        if not places:
            raise _fault(entry, f"no package named {entry.value}")
        folders += [Path(place).resolve() for place in places]
    return folders
