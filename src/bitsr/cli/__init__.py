"""The command line: one module a group of commands, put together in ``main``."""

from __future__ import annotations

import sys

from ..errors import printable
from ..errors import reason as reason


def say(text: str) -> None:
    """One line on stderr."""
    print(printable(" ".join(f"bitsr: {text}".split())), file=sys.stderr, flush=True)
