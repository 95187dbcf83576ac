"""libvips does not survive a fork: its threads are gone in the child, which waits for them for ever."""

from __future__ import annotations

import os

from .formats import PhotoError

_used = False
"""Whether this process, or the one it was forked from, has used libvips."""
_lost = False
"""Whether this process was forked from one that had."""


def _forked() -> None:
    global _lost
    _lost = _lost or _used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def use_libvips() -> None:
    """To be called before libvips works. Raises PhotoError in a child where it would hang."""
    global _used
    if _lost:
        raise PhotoError(
            "this process was forked from one that had used libvips, which cannot work in it;"
            ' start it by the method "spawn" of multiprocessing'
        )
    _used = True
