"""FFmpeg, by PyAV, which is imported when it is first needed."""

from __future__ import annotations

from typing import Any

from ..errors import BitsrError

PIPE = "-"
"""As a file name: standard input or output."""


def library() -> Any:
    """PyAV. Raises BitsrError where it is not installed."""
    try:
        import av
        import av.logging
        import av.sidedata.sidedata
    except ImportError:
        raise BitsrError("video wants PyAV: pip install 'bitsr[video]'") from None
    return av
