"""What libvips does not ask of a GIF: whether its blocks are whole."""

from __future__ import annotations

import mmap

_IMAGE, _EXTENSION, _END = 0x2C, 0x21, 0x3B


def cut_short(data: bytes | mmap.mmap) -> bool:
    """Whether a GIF (GIF89a specification, W3C 1990) ends within a block.

    libvips leaves out what is missing of the last frames, without a word. An end between blocks is
    none, for some programs write no trailer.
    """
    try:
        at = 13 + _table(data[10])
        while at < len(data) and data[at] in (_IMAGE, _EXTENSION):
            at += 11 + _table(data[at + 9]) if data[at] == _IMAGE else 2
            while size := data[at]:
                at += 1 + size
            at += 1
    except IndexError:
        return True
    return False


def _table(flags: int) -> int:
    """Bytes of the table of colours that follows."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
