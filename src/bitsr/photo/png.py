"""PNG chunks: those that libvips neither reads nor writes are carried over as they stand."""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: What describes the samples; a PNG that is written keeps it, no other format has a place for it.
COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"mDCv", b"cLLi")
TEXT = (b"tEXt", b"zTXt", b"iTXt")
XMP = b"XML:com.adobe.xmp\0"
IPTC = b"Raw profile type iptc\0"
_MOST_TEXT = 1 << 26
"""Bytes that a compressed text may have."""


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(data, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", crc)))


@dataclass
class Chunks:
    """What a walk through a file's chunks found.

    kept: whole chunks to carry over. iptc: IPTC records. xmp: its text. frames: of an animated PNG, else 1.
    hidden: chunks (start, end) that no decoder is to see. notes: one line each.
    """

    kept: bytes = b""
    iptc: bytes | None = None
    xmp: bytes | None = None
    frames: int = 1
    hidden: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    notes: list[str] = field(default_factory=list[str])


def chunks(data: bytes | mmap.mmap) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of every whole chunk of a PNG file before its end."""
    at, size = len(SIGNATURE), len(data)
    while at + 12 <= size:
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > size or kind == b"IEND":
            break
        yield kind, at, end
        at = end


def walk(data: bytes | mmap.mmap) -> Chunks:
    """Walk through the chunks of a PNG file.

    Text is taken out of what the decoder sees, and so is every other ancillary chunk that is
    damaged: neither is a reason to refuse pixels.
    """
    found = Chunks()
    kept: list[bytes] = []
    for kind, at, end in chunks(data):
        if kind[0] & 0x20:  # ancillary
            body = data[at + 8 : end - 4]
            sound = struct.unpack_from(">I", data, end - 4)[0] == zlib.crc32(body, zlib.crc32(kind))
            if not sound:
                name = kind.decode("ascii", "replace") if kind.isalpha() else "unnamed"
                found.notes.append(f"damaged {name} chunk dropped")
            elif kind in TEXT and body.startswith(IPTC):
                found.iptc = _iptc(kind, body)
            elif kind in TEXT and body.startswith(XMP):
                found.xmp = _xmp(kind, body[len(XMP) :])
            elif kind in COLOUR or kind in TEXT:
                kept.append(data[at:end])
            elif kind == b"acTL" and len(body) == 8:
                found.frames = max(1, struct.unpack_from(">I", body)[0])
            if not sound or kind in TEXT:
                found.hidden.append((at, end))
    found.kept = b"".join(kept)
    return found


def hide(data: bytearray | mmap.mmap, hidden: list[tuple[int, int]]) -> None:
    """Make chunks sound ones of a kind that nobody knows, so that a decoder passes over them."""
    for start, end in hidden:
        kind = b"biTs"
        crc = zlib.crc32(data[start + 8 : end - 4], zlib.crc32(kind))
        data[start + 4 : start + 8] = kind
        data[end - 4 : end] = struct.pack(">I", crc)


def kinds(kept: bytes) -> set[bytes]:
    """The kinds of chunks in ``Chunks.kept``."""
    return {kind for kind, _, _ in chunks(SIGNATURE + kept)}


def only(kept: bytes, wanted: Collection[bytes]) -> bytes:
    """Of the chunks in ``Chunks.kept`` those of some kinds."""
    whole = SIGNATURE + kept
    return b"".join(whole[at:end] for kind, at, end in chunks(whole) if kind in wanted)


def iptc_chunk(iptc: bytes) -> bytes:
    """A text chunk of IPTC records in the form that other tools read."""
    # A Photoshop resource in hexadecimal lines of 36 bytes, its name and length above.
    data = resource(iptc)
    lines = [data[i : i + 36].hex() for i in range(0, len(data), 36)]
    text = f"\niptc\n{len(data):8}\n" + "\n".join(lines) + "\n"
    return chunk(b"zTXt", IPTC + b"\0" + zlib.compress(text.encode()))


def xmp_chunk(xmp: bytes) -> bytes:
    return chunk(b"iTXt", XMP + bytes(4) + xmp)


def _xmp(kind: bytes, body: bytes) -> bytes | None:
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = body[:1] == b"\1"
        _, _, body = body[2:].partition(b"\0")
        _, _, body = body.partition(b"\0")
    elif packed:
        body = body[1:]
    try:
        return zlib.decompressobj().decompress(body, _MOST_TEXT) if packed else body
    except zlib.error:
        return None


def _iptc(kind: bytes, body: bytes) -> bytes | None:
    try:
        text = body[len(IPTC) :]
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MOST_TEXT)
        elif kind == b"iTXt":
            return None
        _, _, lines = text.strip().split(b"\n", 2)
        return records(bytes.fromhex(lines.decode("ascii")))
    except (ValueError, zlib.error):
        return None


def resource(iptc: bytes) -> bytes:
    """IPTC records as a Photoshop image resource, the form that JPEG keeps them in."""
    return b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + b"\0" * (len(iptc) % 2)


def records(data: bytes) -> bytes | None:
    """The IPTC records in a block of Photoshop resources, or the block where it is records itself."""
    data = data.removeprefix(b"Photoshop 3.0\0")
    at = 0
    while data[at : at + 4] == b"8BIM" and at + 12 <= len(data):
        name = at + 6
        start = name + (data[name] + 2) // 2 * 2
        if start + 4 > len(data):
            return None
        (length,) = struct.unpack_from(">I", data, start)
        if data[at + 4 : at + 6] == b"\x04\x04":
            return data[start + 4 : start + 4 + length]
        at = start + 4 + length + length % 2
    return data if data[:1] == b"\x1c" else None
