"""How frames are meant to be seen: range, matrix, siting, shape, rotation, HDR metadata."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

from .ffmpeg import library
from .pixels import FULL

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


@dataclass(frozen=True)
class Look:
    """How frames are meant to be seen. The numbers are FFmpeg's, 0 or 2 where a file does not say.

    siting: of chroma ("left", "center", "topleft", ...), "" where a file does not say. aspect: width
    of a pixel by its height. matrix: the display matrix, nine numbers, or none. mastering, light: of
    static HDR metadata, as ``hdr`` reads them.
    """

    range: int = 0
    matrix: int = 2
    primaries: int = 2
    transfer: int = 2
    siting: str = ""
    aspect: Fraction | None = None
    display: tuple[int, ...] = ()
    mastering: Mastering | None = None
    light: tuple[int, int] | None = None

    @property
    def full(self) -> bool:
        return self.range == FULL


@dataclass(frozen=True)
class Mastering:
    """The display on which a clip was graded (SMPTE ST 2086): x and y of red, green, blue and white,
    and the highest and lowest luminance in cd/m2."""

    points: tuple[tuple[Fraction, Fraction], ...]
    luminance: tuple[Fraction, Fraction]


def hdr(frame: VideoFrame) -> tuple[Mastering | None, tuple[int, int] | None]:
    """Static HDR metadata of a frame: its mastering display, and MaxCLL and MaxFALL in cd/m2."""
    mastering = light = None
    for data in cast(Any, frame.side_data):
        if data.type.name == "MASTERING_DISPLAY_METADATA" and data.buffer_size >= 88:
            # AVMasteringDisplayMetadata: ten rationals of two ints, then two flags.
            numbers = struct.unpack("=22i", bytes(data)[:88])
            if all(numbers[20:]) and all(numbers[1:20:2]):
                values = [Fraction(numbers[i], numbers[i + 1]) for i in range(0, 20, 2)]
                points = tuple((values[i], values[i + 1]) for i in range(0, 8, 2))
                mastering = Mastering(points, (values[9], values[8]))
        elif data.type.name == "CONTENT_LIGHT_LEVEL" and data.buffer_size >= 8:
            light = cast("tuple[int, int]", struct.unpack("=2I", bytes(data)[:8]))
    return mastering, light


def siting_of(frame: VideoFrame) -> str:
    """Where a frame's chroma lies, "" where it does not say. PyAV does not tell; showinfo's log does."""
    av = library()
    graph = av.filter.Graph()
    source = graph.add(
        "buffer",
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1:pixel_aspect=1/1",
    )
    graph.link_nodes(source, graph.add("showinfo", "checksum=0"), graph.add("buffersink"))
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture() as lines:
            graph.configure()
            graph.vpush(frame)
            graph.vpull()
    finally:
        av.logging.set_level(level)
    words = " ".join(text for _, name, text in lines if name == "showinfo").split()
    found = next((word[3:] for word in words if word.startswith("cl:")), "unspecified")
    return "" if found in ("unspecified", "unknown") else found


def hdr_options(codec: str, mastering: Mastering | None, light: tuple[int, int] | None) -> dict[str, str]:
    """Static HDR metadata as options of an encoder; none where it has no such options."""
    if codec == "libsvtav1":
        parts: list[str] = []
        if mastering:
            r, g, b, white = (f"({float(x):.5f},{float(y):.5f})" for x, y in mastering.points)
            high, low = mastering.luminance
            parts.append(f"mastering-display=G{g}B{b}R{r}WP{white}L({float(high):.4f},{float(low):.4f})")
        if light:
            parts.append(f"content-light={light[0]},{light[1]}")
        return {"svtav1-params": ":".join(parts)} if parts else {}
    names = {
        "libx265": ("x265-params", "master-display", "max-cll"),
        "libx264": ("x264-params", "mastering-display", "cll"),
    }
    if codec not in names:
        return {}
    option, display, level = names[codec]
    parts = []
    if mastering:
        r, g, b, white = (f"({round(x * 50000)},{round(y * 50000)})" for x, y in mastering.points)
        high, low = (round(value * 10000) for value in mastering.luminance)
        parts.append(f"{display}=G{g}B{b}R{r}WP{white}L({high},{low})")
    if light:
        parts.append(f"{level}={light[0]},{light[1]}")
    return {option: ":".join(parts)} if parts else {}
