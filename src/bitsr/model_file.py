"""The model file (.bsr): safetensors with the operations in its metadata (docs/model-file.md).

The engine reads the same file by itself and checks every size. This module is for everyone who
wants to look inside, count or write one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BitsrError
from .files import NewFile

FORMAT = "bitsr 1"


# How many words a line of each kind may have, without its arguments.
_WORDS = {
    "conv": (4,),
    "sign": (3, 4),
    "bconv": (4,),
    "map": (4,),
    "quant": (4,),
    "qconv": (4,),
    "add": (4,),
    "concat": range(4, 17),
    "repeat": (3,),
    "attend": (4,),
    "shuffle": (3,),
}


ROLES = ("skip", "map")


class ModelFileError(BitsrError):
    """The file is no model that this version reads; the message is one line."""


@dataclass(frozen=True)
class Op:
    """One operation: ``kind out inputs... [name] [key=value ...]``.

    kind: a key of ``_WORDS``. inputs: buffers made by earlier operations, or ``lr``. roles: of a
    bconv or a qconv, what its inputs after the first are ("skip", "map"). name: prefix of its
    tensors, "" where it has none. attrs: of a map, ``maps=8`` where it makes eight channels, else
    one; of a map and a bconv, ``turns=8`` where every eighth filter stands for all (``turns``).
    """

    kind: str
    out: str
    inputs: tuple[str, ...]
    name: str = ""
    attrs: dict[str, int] = field(default_factory=dict[str, int])
    roles: tuple[str, ...] = ()

    @classmethod
    def parse(cls, line: str) -> Op:
        """Raise ModelFileError when the line is no operation."""
        words = line.split()
        plain = [w for w in words if "=" not in w]
        keys = dict(w.split("=", 1) for w in words if "=" in w)
        kind = plain[0] if plain else ""
        if len(plain) not in _WORDS.get(kind, ()):
            raise ModelFileError(f"no operation: {line[:60]!r}")
        several = kind in ("add", "concat")
        inputs = plain[2:] if several else plain[2:3]
        name = plain[3] if len(plain) == 4 and not several else ""
        roles = [role for role in ROLES if role in keys]
        inputs += [keys.pop(role) for role in roles]
        try:
            attrs = {k: int(v) for k, v in keys.items()}
        except ValueError:
            raise ModelFileError(f"no operation: {line[:60]!r}") from None
        return cls(kind, plain[1], tuple(inputs), name, attrs, tuple(roles))

    def __str__(self) -> str:
        plain = len(self.inputs) - len(self.roles)
        words = [self.kind, self.out, *self.inputs[:plain]]
        if self.name:
            words.append(self.name)
        words += [f"{k}={v}" for k, v in self.attrs.items()]
        words += [f"{role}={x}" for role, x in zip(self.roles, self.inputs[plain:], strict=True)]
        return " ".join(words)


def equivariant(metadata: Mapping[str, str], ops: Sequence[Op]) -> bool:
    """``ModelFile.equivariant`` of a file's metadata and operations."""
    if "symmetry" in metadata:
        return metadata["symmetry"] == "8"
    turns = [op.attrs.get("turns") for op in ops if op.kind == "bconv"]
    return bool(turns) and set(turns) == {8}


def header(data: bytes) -> tuple[dict[str, str], list[Op]]:
    """Metadata and operations of a model file, without its tensors. Raises ModelFileError."""
    length = int.from_bytes(data[:8], "little")
    try:
        metadata = dict(json.loads(data[8 : 8 + length]).get("__metadata__", {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ModelFileError(f"not a .bsr file: {str(e).splitlines()[0] if str(e) else 'broken'}") from None
    found = metadata.pop("format", None)
    if found != FORMAT:
        raise ModelFileError(f"not a .bsr file of format {FORMAT!r}" + (f" but {found!r}" if found else ""))
    lines = metadata.pop("ops", "").split("\n")
    return metadata, [Op.parse(line) for line in lines if line.strip()]


@dataclass
class ModelFile:
    """A packed net: tensors by name, operations in order, metadata without ``format`` and ``ops``.

    metadata: strings; every key is free but ``symmetry`` ("8": see ``equivariant``; "1"), and
    ``radius`` (whole number or "inf"), the LR pixels to each side that an SR pixel sees.
    """

    tensors: dict[str, NDArray[Any]]
    ops: list[Op]
    metadata: dict[str, str]

    @property
    def name(self) -> str:
        return self.metadata.get("name", "unnamed")

    @property
    def scale(self) -> int:
        """SR pixels an LR pixel, each way."""
        rates = {"lr": 1}  # there may be branches
        for op in self.ops:
            rates[op.out] = rates.get(op.inputs[0], 1) * (
                op.attrs.get("scale", 1) if op.kind == "shuffle" else 1
            )
        return rates.get("sr", 1)

    @property
    def equivariant(self) -> bool:
        """Whether the net flips and rotates with its image, bit for bit: its self-ensemble is
        itself.

        By ``symmetry`` of the metadata. Files without it: whether every 1-bit convolution is stored
        for one orientation of eight (``turns=8``).
        """
        return equivariant(self.metadata, self.ops)

    def to_bytes(self) -> bytes:
        """The same net gives the same bytes."""
        from safetensors.numpy import save

        about = {"format": FORMAT, "ops": "\n".join(map(str, self.ops)), **self.metadata}
        data = save({k: np.ascontiguousarray(v) for k, v in self.tensors.items()}, metadata=about)
        # safetensors writes metadata in an order that changes from call to call
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header["__metadata__"] = dict(sorted(about.items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + data[start:]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file whole or not at all (``files.NewFile``)."""
        with NewFile(path) as new:
            new.file.write(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> ModelFile:
        """Raise ModelFileError when the bytes are no model file of this format."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError) as e:
            text = str(e).splitlines()[0] if str(e) else "broken"
            raise ModelFileError(f"not a .bsr file: {text}") from None
        metadata, ops = header(data)
        return cls(tensors, ops, metadata)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ModelFile:
        """Raise OSError when the file cannot be read, ModelFileError when it is no model."""
        return cls.from_bytes(Path(path).read_bytes())
