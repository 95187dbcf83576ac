"""The base of every error that is one line for the user."""

from __future__ import annotations


class BitsrError(ValueError):
    """A fault of the input, not of bitsr; the message is one line."""
