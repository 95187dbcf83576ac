"""A whole image in memory, read as strictly as ``read`` does by rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import PhotoError
from .read import read

_ROWS = 256


def read_whole(path: str | Path) -> NDArray[Any]:
    """Pixels (H, W, C) uint8 or uint16 of an image file, C as in ``Photo``.

    Raises OSError where the file cannot be opened and PhotoError, whose line begins with the path,
    where it is not an image, is damaged or cut short, or holds samples of another kind.
    """
    try:
        return np.concatenate(list(read(path).rows(_ROWS)))
    except PhotoError as error:
        raise PhotoError(f"{path}: {error}") from None
