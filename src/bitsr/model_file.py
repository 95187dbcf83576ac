"""The model file: a safetensors file with the operations in its metadata. HACKING.md is its spec.

The engine reads the same file by itself and checks every size; this module is for everyone who wants to
look inside, count or write one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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


class PackedError(ValueError):
    """The file is no model that this version reads; the message is one line."""


@dataclass(frozen=True)
class Op:
    """One operation: ``kind out inputs... [name] [key=value ...]``.

    kind: a key of ``_WORDS``. inputs: buffers made by earlier operations, or ``lr``. roles: of a bconv or a qconv,
    what its inputs after the first are ("skip", "map"). name: prefix of its tensors, "" where it has none. attrs: of a
    map, ``maps=8`` where it makes eight channels, else one; of a map and a bconv, ``turns=8`` where every eighth filter
    stands for all (``turns``).
    """

    kind: str
    out: str
    inputs: tuple[str, ...]
    name: str = ""
    attrs: dict[str, int] = field(default_factory=dict)
    roles: tuple[str, ...] = ()

    @classmethod
    def parse(cls, line: str) -> Op:
        """Raise PackedError when the line is no operation."""
        words = line.split()
        plain = [w for w in words if "=" not in w]
        keys = dict(w.split("=", 1) for w in words if "=" in w)
        kind = plain[0] if plain else ""
        if len(plain) not in _WORDS.get(kind, ()):
            raise PackedError(f"no operation: {line[:60]!r}")
        several = kind in ("add", "concat")
        inputs = plain[2:] if several else plain[2:3]
        name = plain[3] if len(plain) == 4 and not several else ""
        roles = [role for role in ROLES if role in keys]
        inputs += [keys.pop(role) for role in roles]
        try:
            attrs = {k: int(v) for k, v in keys.items()}
        except ValueError:
            raise PackedError(f"no operation: {line[:60]!r}") from None
        return cls(kind, plain[1], tuple(inputs), name, attrs, tuple(roles))

    def __str__(self) -> str:
        plain = len(self.inputs) - len(self.roles)
        words = [self.kind, self.out, *self.inputs[:plain]]
        if self.name:
            words.append(self.name)
        words += [f"{k}={v}" for k, v in self.attrs.items()]
        words += [f"{role}={x}" for role, x in zip(self.roles, self.inputs[plain:], strict=True)]
        return " ".join(words)


@dataclass
class Packed:
    """A packed net: tensors by name, operations in order, metadata (strings) without ``format`` and ``ops``."""

    tensors: dict[str, NDArray]
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

    def to_bytes(self) -> bytes:
        """The same net gives the same bytes."""
        import json

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
        """Write atomically: ``path.part`` first, then renamed."""
        target = Path(path)
        part = target.with_name(target.name + ".part")
        try:
            part.write_bytes(self.to_bytes())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> Packed:
        """Raise PackedError when the bytes are no model file of this format."""
        import json

        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(data)
            length = int.from_bytes(data[:8], "little")
            metadata = dict(json.loads(data[8 : 8 + length]).get("__metadata__", {}))
        except (SafetensorError, ValueError, KeyError, TypeError) as e:
            raise PackedError(f"not a .bsr file: {str(e).splitlines()[0] if str(e) else 'broken'}") from None
        found = metadata.pop("format", None)
        if found != FORMAT:
            raise PackedError(f"not a .bsr file of format {FORMAT!r}" + (f" but {found!r}" if found else ""))
        return cls(
            tensors,
            [Op.parse(line) for line in metadata.pop("ops", "").split("\n") if line.strip()],
            metadata,
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Packed:
        """Raise OSError when the file cannot be read, PackedError when it is no model."""
        return cls.from_bytes(Path(path).read_bytes())
