"""Output formats, and what is encoded in them: codec, pixel format, size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import BitsrError
from .ffmpeg import PIPE, library
from .pixels import BITS, Layout


@dataclass(frozen=True)
class Container:
    """An output format: FFmpeg's name, how users call it, its codec for 8 bits and for more, options.

    tick: the time base that it rounds to, None where it keeps a stream's. still: it holds frames alone,
    and cannot be gone on with.
    """

    format: str
    title: str
    codec: str
    deep: str
    options: dict[str, str] = field(default_factory=dict[str, str])
    tick: Fraction | None = None
    still: bool = False


# Packets go to the file as they come, in fragments or clusters of a second: a run that is killed leaves
# a file that plays. At its end an MP4 becomes an ordinary one.
FRAGMENTS = {
    "movflags": "hybrid_fragmented+delay_moov+frag_keyframe",
    "frag_duration": "1000000",
    "flush_packets": "1",
}
_MKV = {"cluster_time_limit": "1000", "flush_packets": "1"}
MILLISECOND = Fraction(1, 1000)
CONTAINERS = {
    ".mp4": Container("mp4", "MP4", "libx264", "libx265", FRAGMENTS),
    ".m4v": Container("mp4", "MP4", "libx264", "libx265", FRAGMENTS),
    ".mov": Container("mov", "MOV", "libx264", "libx265", FRAGMENTS),
    ".mkv": Container("matroska", "MKV", "libx264", "libx265", _MKV, MILLISECOND),
    ".webm": Container("webm", "WebM", "libsvtav1", "libsvtav1", _MKV, MILLISECOND),
    ".y4m": Container("yuv4mpegpipe", "YUV4MPEG", "rawvideo", "rawvideo", {"strict": "-1"}, still=True),
    ".gif": Container("gif", "GIF", "gif", "gif", {}, Fraction(1, 100), still=True),
    ".webp": Container(
        "webp", "WebP", "libwebp_anim", "libwebp_anim", {"loop": "0"}, MILLISECOND, still=True
    ),
}
"""Output formats by suffix."""
CRF = {"libx264": "18", "libx265": "20", "libsvtav1": "25", "libvpx-vp9": "24"}
PRESET = {"libx264": "medium", "libx265": "medium", "libsvtav1": "8"}
ALWAYS = {
    # Key frames that no frame before them refers beyond: a file can be gone on with from each.
    "libx265": {"x265-params": "log-level=none:open-gop=0"},
    "libvpx-vp9": {"b": "0", "row-mt": "1", "cpu-used": "4"},
    "ffv1": {"level": "3"},
    "libwebp_anim": {"quality": "90"},
}
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
            "placebo")  # fmt: skip
"""Of libx264 and libx265, which say more than one line of others."""
_ANY_SIZE = {"ffv1", "libvpx-vp9", "rawvideo", "gif", "libwebp_anim", "ffvhuff", "huffyuv"}
"""Codecs that take odd sizes with subsampled chroma."""
IMAGE_FORMATS = {"gif": "pal8", "libwebp_anim": "bgra"}
"""Codecs of images, and the RGB that they get. WebP's own YUV is of one matrix and range alone."""
ASPECT_LOST = {"libvpx-vp9", "ffv1", *IMAGE_FORMATS}
"""Codecs whose streams do not tell the shape of pixels; PyAV cannot tell it to the container."""
KEY_SECONDS = 5
"""Between key frames, at most."""
_CHROMA = {
    (0, 0): [(0, 0), (2, 2), (1, 1)],
    (1, 1): [(1, 1), (2, 1), (2, 2)],
    (2, 1): [(2, 1), (1, 1), (2, 2)],
    (2, 2): [(2, 2), (2, 1), (1, 1)],
    (4, 1): [(4, 1), (2, 1), (1, 1), (2, 2)],
    (4, 4): [(4, 4), (2, 2), (1, 1)],
    (1, 2): [(1, 2), (1, 1), (2, 2)],
}
"""Where an encoder lacks the chroma of a clip, what is taken, the best first."""


def container_of(path: str | Path) -> Container:
    """The format of an output by its name; "-" is YUV4MPEG. Raises BitsrError for others."""
    if str(path) == PIPE:
        return CONTAINERS[".y4m"]
    found = CONTAINERS.get(Path(path).suffix.lower())
    if found is None:
        raise BitsrError(f"{path}: no output format of that name; there are {', '.join(sorted(CONTAINERS))}")
    return found


@dataclass(frozen=True)
class Encoding:
    """What is asked of the encoder: FFmpeg's names, None for the default of the output's format."""

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    max_height: int | None = None
    threads: int = 0


def choose_codec(container: Container, encoding: Encoding, layout: Layout) -> Any:
    """PyAV's codec for what is asked, or the default of a container for a layout.

    Raises BitsrError for what is no video encoder.
    """
    av = library()
    name = encoding.codec or (container.deep if layout.bits > 8 else container.codec)
    # What the one default cannot hold, another of the same container may.
    if not encoding.codec and name == "libsvtav1" and (layout.across, layout.down) != (2, 2):
        name = "libvpx-vp9"
    try:
        codec = av.Codec(name, "w")
    except (av.error.FFmpegError, ValueError):
        codec = None
    if codec is None or codec.type != "video":
        raise BitsrError(f"--codec {name}: no video encoder of that name in FFmpeg's library")
    return codec


def choose_pix_fmt(
    codec: Any, wanted: str | None, own: Layout, rgb: bool, note: Callable[[str], object]
) -> str:
    """The pixel format that is encoded: the one wanted, else the clip's own or what is nearest to it.

    rgb: whether the clip is RGB. note: called with what changes. Raises BitsrError where there is none.
    """
    if codec.name in IMAGE_FORMATS:
        return IMAGE_FORMATS[codec.name]
    there = {format.name for format in codec.video_formats} if codec.video_formats else None
    if wanted:
        if there is not None and wanted not in there:
            raise BitsrError(f"--pix-fmt {wanted}: {codec.name} has {', '.join(sorted(there))}")
        try:
            library().VideoFormat(wanted)
        except ValueError:
            raise BitsrError(f"--pix-fmt {wanted}: FFmpeg has no such format") from None
        return wanted
    if there is None or own.name in there:
        if rgb and own.across == 1 and codec.name in CRF:
            note("RGB becomes YUV 4:4:4, which few players show; --pix-fmt yuv420p is for all")
        return own.name
    deeper = [bits for bits in BITS if bits >= own.bits]
    for bits in [*deeper, *(bits for bits in reversed(BITS) if bits < own.bits)]:
        for across, down in _CHROMA[own.across, own.down]:
            name = Layout(bits, across, down).name
            if name in there:
                if own.across:  # grey in a colour format loses nothing
                    note(f"{codec.name} has no {own.name}: written as {name}")
                return name
    raise BitsrError(f"{codec.name} has no YUV format; --codec names another")


def choose_size(
    codec: Any, pix_fmt: str, height: int, width: int, most: int | None, note: Callable[[str], object]
) -> tuple[int, int]:
    """(rows, columns) that are encoded: ``most`` rows at most, and even where the encoder wants that.

    note: called where the last row or column is left out.
    """
    across = down = 1
    if codec.name not in _ANY_SIZE:
        format = library().VideoFormat(pix_fmt)
        across, down = 16 // format.chroma_width(16), 16 // format.chroma_height(16)
    if most and height > most:
        rows = max(most // down, 1) * down
        return rows, max(round(width * rows / height / across), 1) * across
    rows, columns = height // down * down, width // across * across
    if not rows or not columns:
        raise BitsrError(f"{codec.name} cannot write {width}x{height}")
    if (rows, columns) != (height, width):
        note(f"{codec.name} wants even sizes: {width}x{height} is cropped to {columns}x{rows}")
    return rows, columns
