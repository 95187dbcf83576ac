"""Every recipe key in Markdown tables, for docs/training.md.

``python -m bitsr.train.reference`` prints them; with a page behind it, it puts them there.
"""

from __future__ import annotations

import re
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .recipe import Adversarial, Data, Net, Recipe, Stage, Train

BEGIN, END = "<!-- recipe keys: begin -->", "<!-- recipe keys: end -->"
"""What stands before and after the tables on the page."""
SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("", Recipe),
    ("[net]", Net),
    ("[data]", Data),
    ("[train]", Train),
    ("[[train.stages]]", Stage),
    ("[train.adversarial]", Adversarial),
)
TYPES: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "string",
    types.NoneType: "none",
}


def type_of(annotation: Any, metadata: tuple[Any, ...] | list[Any] = ()) -> str:
    """The type of a key in words, such as ``whole number > 0``."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_of(args[0], (*args[1:], *metadata))
    if origin is Literal:
        return " or ".join(_toml(value) for value in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_of(arg) for arg in args if arg is not types.NoneType)
    if origin is list:
        return f"list of: {type_of(args[0])}"
    if origin is tuple:
        return f"list of {len(args)}: {type_of(args[0])}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "table"
    return TYPES[annotation] + _limits(metadata)


def _limits(metadata: tuple[Any, ...] | list[Any]) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found: dict[str, float] = {}
    for item in metadata:
        parts = item.metadata if isinstance(item, FieldInfo) else [item]
        for part in parts:
            if isinstance(
                part, (annotated_types.Gt, annotated_types.Ge, annotated_types.Lt, annotated_types.Le)
            ):
                found |= {name: getattr(part, name) for name in signs if hasattr(part, name)}
    return " and".join(f" {signs[name]} {limit}" for name, limit in found.items())


def _toml(value: Any) -> str:
    """A value as a recipe writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value)


def default_of(field: FieldInfo) -> str:
    """The default of a key as a recipe writes it; "required" for one that must be given."""
    if field.is_required():
        return "required"
    if field.default is None or isinstance(field.default, (BaseModel, dict)):
        return ""
    return f"`{_toml(field.default)}`"


def tables() -> str:
    """All keys in Markdown: a table for each section of a recipe."""
    lines: list[str] = []
    for section, model in SECTIONS:
        if section:
            lines += [f"### `{section}`", ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        if not section:
            meaning = "Name of a packaged recipe or a recipe file that holds what this one leaves out."
            lines.append(f"| `extends` | string |  | {meaning} |")
        for key, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                continue  # a section of its own
            kind = type_of(field.annotation, field.metadata).replace('"', "`")
            meaning = " ".join((field.description or "").split())
            lines.append(f"| `{key}` | {kind} | {default_of(field)} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def block() -> str:
    """What docs/training.md holds from ``BEGIN`` to ``END``, both included."""
    return f"{BEGIN}\n\n{tables()}\n{END}"


def update(page: Path) -> None:
    """Put today's tables between the marks of a page."""
    text = page.read_text(encoding="utf-8")
    pattern = re.escape(BEGIN) + ".*" + re.escape(END)
    page.write_text(re.sub(pattern, lambda _: block(), text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        update(Path(sys.argv[1]))
    else:
        print(block())
