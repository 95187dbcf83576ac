"""The base of every error that is one line for the user, and text that is safe on a terminal."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """Text with every character escaped that is not to be seen: of a file it may rule a terminal."""
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode()
        for c in text
    )


class BitsrError(ValueError):
    """A fault of the input, not of bitsr; the message is one line."""


class Cancelled(Exception):
    """The caller's ``cancel`` said to stop. No fault, so no BitsrError; no file is left behind."""
