"""The rooms of the package: imports run downwards, and only ``_core`` knows ctypes."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "bitsr"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
ROOMS = {
    "layers": {"imresize"},
    "methods": {"layers", "plugins"},
    "nets": {"layers", "methods", "imresize", "plugins"},
    "train.fast": {"_core", "layers", "methods", "nets"},
}
"""What these rooms may import of bitsr besides themselves."""
NEVER = {
    "train": {"pack", "cli"},
    "pack": {"cli"},
    "eval": {"cli"},
    "cluster": {"eval", "nets", "train", "pack", "cli"},
    "engine": {"nets", "train", "eval", "cli", "serve"},
    "serve": {"nets", "train", "eval", "pack", "cli"},
}
"""What these must not, at any depth of their own modules."""
ABOVE = ("cluster", "eval", "layers", "methods", "nets", "train", "pack", "serve", "cli")
"""The rooms above what upscaling is made of, which no module of that may import at its top."""
BUILD = {"zoo.build", "__main__"}
"""What belongs to no room and drives them."""


@cache
def imports(path: Path, *, top: bool = False) -> set[str]:
    """Absolute names of what a file imports; top: at module level alone.

    Imports under ``if TYPE_CHECKING`` do not count.
    """
    package = ("bitsr", *path.relative_to(PACKAGE).parts[:-1])
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else ()
                module = ".".join((*base, *([child.module] if child.module else [])))
                # what is imported is a module of the package, or a name in it
                for name in (f"{module}.{alias.name}" for alias in child.names):
                    found.add(name if name.removeprefix("bitsr.") in MODULES else module)
            elif not (top and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))):
                visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def own(names: set[str]) -> set[str]:
    """Those of ``names`` that are modules of bitsr, without ``bitsr.``: bitsr.torch is not torch."""
    return {name.removeprefix("bitsr.") for name in names if name.startswith("bitsr.")} & MODULES.keys()


def inside(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_nets_imports_only_what_lies_below(room):
    for module, path in MODULES.items():
        if inside(module, room):
            for name in own(imports(path)):
                allowed = inside(name, room) or any(inside(name, below) for below in ROOMS[room])
                assert allowed or inside(room, name), f"{module} imports {name}"


@pytest.mark.parametrize("room", NEVER)
def test_no_arrow_points_up(room):
    for module, path in MODULES.items():
        if inside(module, room):
            for name in own(imports(path)):
                assert not any(inside(name, above) for above in NEVER[room]), f"{module} imports {name}"


def test_upscaling_imports_no_room_above_it():
    for module, path in MODULES.items():
        if module in BUILD or any(inside(module, room) for room in ABOVE):
            continue
        for name in own(imports(path, top=True)):
            assert not any(inside(name, room) for room in ABOVE), f"{module} imports {name}"


def test_only_train_uses_its_speed_ups():
    for module, path in MODULES.items():
        if not inside(module, "train") and not inside(module, "pack"):
            assert not any(inside(name, "train.fast") for name in own(imports(path))), module


def test_packing_knows_no_optimiser():
    for module, path in MODULES.items():
        if inside(module, "pack"):
            names = own(imports(path))
            assert not names & {"train.muon", "train.trainer", "train.run", "train.gan"}, module


def test_only_core_knows_ctypes():
    assert [m for m, path in MODULES.items() if "ctypes" in imports(path)] == ["_core"]


def test_no_circle_of_imports():
    """Imports at module level, a package standing for its ``__init__``."""
    edges = defaultdict(set)
    for module, path in MODULES.items():
        edges[module] = own(imports(path, top=True)) - {module}
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for name in sorted(edges[module]):
                walk(name, (*trail, module))
            done.add(module)

    for module in MODULES:
        walk(module, ())
