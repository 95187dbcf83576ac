"""Renamed keys of state dicts."""

from __future__ import annotations

RENAMED_KEYS: dict[str, str] = {}
"""Regular expressions on state-dict keys of older checkpoints, and what stands there today."""
