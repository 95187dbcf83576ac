"""Renamed keys of state dicts."""

from __future__ import annotations

RENAMED_KEYS: dict[str, str] = {
    # scale maps of the methods "bitsr" and "xnor"
    r"\.size\.weight$": ".scale_map.weight",
}
"""Regular expressions on state-dict keys of older checkpoints, and what stands there today."""
