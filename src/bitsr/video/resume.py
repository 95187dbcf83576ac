"""What of an output that was begun is kept, and gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BitsrError
from .ffmpeg import library

if TYPE_CHECKING:
    from av.packet import Packet


@dataclass(frozen=True)
class Kept:
    """What of an output that was begun is gone on with: ``count`` frames, up to ``until`` seconds.

    first: of the first frame, in seconds. tick: the time base of its video. made: its codec, width,
    height and pixel format.
    """

    path: Path
    count: int
    until: Fraction
    first: Fraction
    tick: Fraction
    extradata: bytes
    made: tuple[str, int, int, str]


def kept_of(path: Path) -> Kept | None:
    """What of an output file can be kept, up to its last key frame; None where that is nothing.

    Raises BitsrError for a file that cannot be read.
    """
    av = library()
    try:
        with av.open(f"file:{path}") as old:
            stream = old.streams.video[0]
            packets: list[tuple[int, bool]] = []
            with suppress(av.error.FFmpegError):  # where it was cut off
                for packet in old.demux(stream):
                    if packet.size and packet.pts is not None:
                        packets.append((packet.pts, packet.is_keyframe))
            context = stream.codec_context
            pix_fmt = (context.pix_fmt or "").replace("yuvj", "yuv")
            made = context.codec.canonical_name, context.width, context.height, pix_fmt
            tick, extradata = stream.time_base, context.extradata or b""
    except (av.error.FFmpegError, IndexError):
        raise BitsrError(f"{path}: cannot be gone on with: no video in it that can be read") from None
    earliest = 1 << 62
    found = 0
    for i in range(len(packets) - 1, 0, -1):  # the last key frame that nothing after it comes before
        pts, key = packets[i]
        if key and pts < earliest:
            found = i
            break
        earliest = min(earliest, pts)
    if not found:
        return None
    return Kept(
        path,
        found,
        packets[found][0] * tick,
        min(pts for pts, _ in packets[:found]) * tick,
        tick,
        extradata,
        made,
    )


def old_packets(kept: Kept) -> Iterator[Packet]:
    """The packets of the frames that are kept, with the time base of their file."""
    av = library()
    with av.open(f"file:{kept.path}") as old:
        stream = old.streams.video[0]
        name = stream.codec_context.name
        # The encoder's packets have start codes, those of a file the length of each part.
        filter = (
            av.BitStreamFilterContext(f"{name}_mp4toannexb", stream) if name in ("h264", "hevc") else None
        )
        left = kept.count
        for packet in old.demux(stream):
            if not packet.size:
                continue
            if left == 0:
                return
            left -= 1
            for part in filter.filter(packet) if filter else [packet]:
                part.time_base = stream.time_base
                yield part


def parameter_sets(extradata: bytes) -> list[bytes]:
    """The parts of an encoder's extradata that have to be in a file's; of H.264 and HEVC without comments."""
    if not extradata.startswith((b"\0\0\1", b"\0\0\0\1")):
        return [extradata] if extradata else []
    parts = [part.rstrip(b"\0") for part in extradata.split(b"\0\0\1")]
    # SEI, in which encoders sign: type 6 of H.264, 39 of HEVC.
    return [part for part in parts if part and part[0] & 31 != 6 and part[0] >> 1 & 63 != 39]
