"""The command line: one module a group of commands, put together in ``main``."""

from __future__ import annotations

import sys

from ..errors import printable


def say(text: str) -> None:
    """One line on stderr."""
    print(printable(" ".join(f"bitsr: {text}".split())), file=sys.stderr, flush=True)


def reason(error: BaseException) -> str:
    """An error in one line; the system's errors as "FILE: what happened"."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"out of memory{f': {error}' if str(error) else ''}"
    return str(error) or type(error).__name__
