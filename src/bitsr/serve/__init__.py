"""The page of ``bitsr serve``: its files (``page/``, built from ``web/``), and a server on this machine alone."""

from __future__ import annotations

import mimetypes
import re
from pathlib import Path

from ..errors import BitsrError
from ..files import NewFile
from ..zoo import ZOO

PAGE = Path(__file__).parent / "page"
_OFFERED = re.compile(r"bitsr-(s|m|l|photo-m)-x[234]")
_TYPES = {".webmanifest": "application/manifest+json", ".js": "text/javascript", ".wasm": "application/wasm"}


def nets() -> dict[str, Path]:
    """The nets that the page offers: name and file."""
    return {path.stem: path for path in sorted(ZOO.glob("*.bsr")) if _OFFERED.fullmatch(path.stem)}


def files() -> dict[str, Path]:
    """Everything that the page loads: address below the page's own, and file.

    Raises BitsrError where the page is missing from the package.
    """
    found = {path.relative_to(PAGE).as_posix(): path for path in sorted(PAGE.rglob("*")) if path.is_file()}
    if "index.html" not in found:
        raise BitsrError("the page is not in this installation; `just web` builds it")
    return found | {f"nets/{name}.bsr": path for name, path in nets().items()}


def media_type(name: str) -> str:
    """The media type of an address, by its suffix; independent of what the system has registered."""
    suffix = Path(name).suffix
    return _TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")


def export(folder: Path) -> int:
    """Write the page and its nets to a new folder, for a server of static files. The number of bytes.

    Raises BitsrError for a folder that has something in it, OSError for one that cannot be written.
    """
    wanted = files()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise BitsrError(f"{folder}: is not empty; the page wants a folder of its own")
    size = 0
    for name, path in wanted.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        with NewFile(folder / name) as new:
            new.file.write(data)
        size += len(data)
    return size
