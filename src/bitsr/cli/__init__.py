"""The command line: one module a group of commands, put together in ``main``."""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import BitsrError, printable
from ..errors import reason as reason


def say(text: str) -> None:
    """One line on stderr."""
    print(printable(" ".join(f"bitsr: {text}".split())), file=sys.stderr, flush=True)


def net_folder(folder: Path | None) -> Path:
    """What -m means: a folder of nets, by default that of those that come with bitsr. Raises
    BitsrError."""
    from ..zoo import ZOO

    if folder is not None and not folder.is_dir():
        raise BitsrError(f"{folder}: no such folder; -n names a net, -m a folder of nets")
    return folder or ZOO
