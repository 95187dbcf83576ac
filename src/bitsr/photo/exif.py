"""EXIF blocks: what no longer holds of an enlarged, upright image is mended in place.

A block is a small TIFF file (CIPA DC-008): directories of 12-byte entries. It is edited where it
stands, never built anew, so that a maker's notes keep the offsets they rely on. A block that makes
no sense is passed over.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ORIENTATION, THUMBNAIL, THUMBNAIL_BYTES, IPTC = 0x0112, 0x0201, 0x0202, 0x83BB
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
# Of the first directory, what describes the photo and not how a file's pixels are stored.
_ABOUT = frozenset(
    {0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298, IPTC}
    | set(range(0x9C9B, 0x9CA0))
)
_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_SWAPPED = {3: 2, 8: 2, 4: 4, 9: 4, 5: 4, 10: 4, 11: 4, 13: 4, 12: 8, 16: 8, 17: 8, 18: 8}


@dataclass(frozen=True)
class Entry:
    """One entry of a directory. at: where its 12 (BigTIFF: 20) bytes stand in the block."""

    tag: int
    type: int
    count: int
    value: bytes
    at: int

    def number(self, order: str) -> int:
        """Its first number, of a type that counts. Raises struct.error for any other."""
        kind = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(self.type, "?")
        if kind == "?":
            raise struct.error("no number")
        return struct.unpack_from(order + kind, self.value)[0]


class Tiff:
    """The directories of a TIFF file or an EXIF block. Raises struct.error where it is none."""

    def __init__(self, data: bytes | mmap.mmap):
        self.data = memoryview(data)
        if bytes(self.data[:2]) not in (b"II", b"MM"):
            raise struct.error("no TIFF")
        self.order = "<" if self.data[0] == 0x49 else ">"
        (version,) = struct.unpack_from(self.order + "H", self.data, 2)
        if version not in (42, 43):
            raise struct.error("no TIFF")
        self.big = version == 43
        self.first = self._unpack("Q" if self.big else "I", 8 if self.big else 4)

    def _unpack(self, kind: str, at: int) -> int:
        return struct.unpack_from(self.order + kind, self.data, at)[0]

    def directory(self, at: int) -> tuple[dict[int, Entry], int]:
        """The entries of the directory at an offset, and where the offset of the next one stands."""
        entries: dict[int, Entry] = {}
        head, size = (8, 20) if self.big else (2, 12)
        n = self._unpack("Q" if self.big else "H", at)
        if n > 65535 or at + head + size * n > len(self.data):
            raise struct.error("directory cut short")
        for i in range(at + head, at + head + size * n, size):
            tag, kind = self._unpack("H", i), self._unpack("H", i + 2)
            count = self._unpack("Q" if self.big else "I", i + 4)
            inline, here = (8, i + 12) if self.big else (4, i + 8)
            length = _BYTES.get(kind, 0) * count
            start = here if length <= inline else self._unpack("Q" if self.big else "I", here)
            if length and start + length <= len(self.data):
                entries[tag] = Entry(tag, kind, count, bytes(self.data[start : start + length]), i)
        return entries, at + head + size * n

    def child(self, entries: dict[int, Entry], tag: int) -> dict[int, Entry]:
        """The entries of the directory that an entry points to, none where there is none."""
        if tag not in entries:
            return {}
        try:
            return self.directory(entries[tag].number(self.order))[0]
        except struct.error:
            return {}


def upright(block: bytes) -> bytes | None:
    """The block of an image that has been turned upright: orientation 1, no thumbnail.

    None where the block makes no sense.
    """
    block = block.removeprefix(b"Exif\0\0")
    out = bytearray(block)
    try:
        tiff = Tiff(block)
        entries, link = tiff.directory(tiff.first)
        if ORIENTATION in entries:
            struct.pack_into(tiff.order + "HIHH", out, entries[ORIENTATION].at + 2, 3, 1, 1, 0)
        if link + 4 <= len(block):
            (second,) = struct.unpack_from(tiff.order + "I", block, link)
            struct.pack_into("I", out, link, 0)
            if second:
                _erase_thumbnail(tiff, second, out)
    except struct.error:
        return None
    return bytes(out)


def _erase_thumbnail(tiff: Tiff, at: int, out: bytearray) -> None:
    try:
        entries, _ = tiff.directory(at)
        start = entries[THUMBNAIL].number(tiff.order)
        size = entries[THUMBNAIL_BYTES].number(tiff.order)
    except (struct.error, KeyError):
        return
    if start + size >= len(out) - 3:
        del out[start:]
    else:
        out[start : start + size] = bytes(size)


def sized(block: bytes, width: int, height: int) -> bytes:
    """The block with the size of the image that it comes with, where it says one."""
    out = bytearray(block)
    try:
        tiff = Tiff(block)
        entries = tiff.child(tiff.directory(tiff.first)[0], EXIF_IFD)
        for tag, value in ((0xA002, width), (0xA003, height)):
            if tag in entries:
                struct.pack_into(tiff.order + "HII", out, entries[tag].at + 2, 4, 1, value)
    except struct.error:
        pass
    return bytes(out)


def iptc_of(block: bytes) -> bytes | None:
    """IPTC that ``with_iptc`` has laid into a block."""
    try:
        tiff = Tiff(block)
        return tiff.directory(tiff.first)[0][IPTC].value
    except (struct.error, KeyError):
        return None


def of_tiff(data: bytes | mmap.mmap) -> bytes | None:
    """What a TIFF file says of its photo, as an EXIF block; None where it says nothing."""
    try:
        tiff = Tiff(data)
        entries, _ = tiff.directory(tiff.first)
        return _block(_directories(tiff, entries), tiff.order)
    except struct.error:
        return None


def with_iptc(block: bytes | None, iptc: bytes) -> bytes:
    """A block that holds IPTC as TIFF does, for a format with no other place for it."""
    entry = Entry(IPTC, 7, len(iptc), iptc, 0)
    try:
        tiff = Tiff(block or b"")
        entries = {**tiff.directory(tiff.first)[0]}
        entries.pop(IPTC, None)
        parts, order = _directories(tiff, entries), tiff.order
    except struct.error:
        parts, order = _NOTHING, "<"
    return _block(([*parts[0], entry], *parts[1:]), order) or b""


_Directories = tuple[Sequence[Entry], Sequence[Entry], Sequence[Entry], Sequence[Entry]]

_NOTHING: _Directories = ((), (), (), ())


def _directories(tiff: Tiff, entries: dict[int, Entry]) -> _Directories:
    """What entries of a first directory say of the photo, then those of EXIF, GPS and
    interoperability."""
    exif = tiff.child(entries, EXIF_IFD)
    return (
        [e for e in entries.values() if e.tag in _ABOUT],
        [e for e in exif.values() if e.tag != INTEROP_IFD],
        [*tiff.child(entries, GPS_IFD).values()],
        [*tiff.child(exif, INTEROP_IFD).values()],
    )


def _pack(entries: Sequence[Entry], order: str, at: int, big: bool = False) -> bytes:
    """A directory that stands at an offset, its values behind it."""
    head, size, inline = (8, 20, 8) if big else (2, 12, 4)
    offset = "Q" if big else "I"
    entries = sorted(entries, key=lambda e: e.tag)
    out = bytearray(struct.pack(order + ("Q" if big else "H"), len(entries)))
    values = bytearray()
    behind = at + head + size * len(entries) + inline
    for e in entries:
        out += struct.pack(order + "HH" + offset, e.tag, e.type, e.count)
        if len(e.value) <= inline:
            out += e.value.ljust(inline, b"\0")
        else:
            out += struct.pack(order + offset, behind + len(values))
            values += e.value + b"\0" * (len(e.value) % 2)
    return bytes(out) + bytes(inline) + bytes(values)


def _layout(parts: _Directories, order: str, at: int, big: bool) -> Iterator[tuple[int, bytes]]:
    """(tag that points to it, directory) of EXIF with interoperability, and of GPS, from an offset on."""
    _, exif, gps, interop = parts
    pointer = 18 if big else 4
    if interop:
        data = _pack(interop, order, at, big)
        yield INTEROP_IFD, data
        value = struct.pack(order + ("Q" if big else "I"), at)
        exif = [*exif, Entry(INTEROP_IFD, pointer, 1, value, 0)]
        at += len(data)
    for tag, entries in ((EXIF_IFD, exif), (GPS_IFD, gps)):
        if entries:
            data = _pack(entries, order, at, big)
            yield tag, data
            at += len(data)


def _append(parts: _Directories, order: str, at: int, big: bool) -> tuple[bytes, list[Entry]]:
    """The directories below the first one, to stand at an offset, and the entries that point to them."""
    data, pointers = b"", list[Entry]()
    for tag, directory in _layout(parts, order, at, big):
        if tag != INTEROP_IFD:
            value = struct.pack(order + ("Q" if big else "I"), at + len(data))
            pointers.append(Entry(tag, 18 if big else 4, 1, value, 0))
        data += directory
    return data, pointers


def _block(parts: _Directories, order: str) -> bytes | None:
    if not any(parts):
        return None
    # The first directory's size is known before its pointers' values are.
    data, pointers = _append(parts, order, 0, False)
    head = len(_pack([*parts[0], *pointers], order, 8))
    data, pointers = _append(parts, order, 8 + head, False)
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return start + _pack([*parts[0], *pointers], order, 8) + data


def _swapped(parts: _Directories) -> _Directories:
    """Directories in the other byte order."""
    first, exif, gps, interop = ([_swapped_entry(e) for e in part] for part in parts)
    return first, exif, gps, interop


def _swapped_entry(entry: Entry) -> Entry:
    size = _SWAPPED.get(entry.type, 1)
    value = b"".join(entry.value[i : i + size][::-1] for i in range(0, len(entry.value), size))
    return Entry(entry.tag, entry.type, entry.count, value, 0)


def into_tiff(data: bytes | mmap.mmap, block: bytes) -> tuple[int, bytes, int, bytes] | None:
    """What to write into a TIFF file so that it says what an EXIF block says.

    (offset of the first directory's offset, its new value, the file's end, bytes to append there);
    None where the block says nothing.
    """
    try:
        source, file = Tiff(block), Tiff(data)
        parts = _directories(source, source.directory(source.first)[0])
        entries, link = file.directory(file.first)
        if not any(parts) or any(file.data[link : link + (8 if file.big else 4)]):
            return None
    except struct.error:
        return None
    if source.order != file.order:
        parts = _swapped(parts)
    end = len(file.data) + len(file.data) % 2
    more, pointers = _append(parts, file.order, end, file.big)
    own = {**{e.tag: e for e in (*parts[0], *pointers)}, **entries}
    at = end + len(more) + len(more) % 2
    first = _pack([*own.values()], file.order, at, file.big)
    tail = bytes(end - len(file.data)) + more + bytes(len(more) % 2) + first
    kind, where = ("Q", 8) if file.big else ("I", 4)
    return where, struct.pack(file.order + kind, at), len(file.data), tail
