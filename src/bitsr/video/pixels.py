"""Samples of video: pixel formats, their planes as arrays, and luma between a stream and a net.

A frame is a tuple of planes, luma first and two of chroma unless it is grey: (rows, columns), uint8
for 8 bits and uint16 above. In a stream of limited range luma is the Y in 16..235 that the nets were
trained on, so it enters as it stands. Full range is mapped onto that and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.video.format import VideoFormat
    from av.video.frame import VideoFrame

Planes = tuple[NDArray[Any], ...]
"""Luma, and the two planes of chroma unless a frame is grey."""
FULL = 2
"""FFmpeg's number of full range (AVCOL_RANGE_JPEG); 1 is limited, 0 is not known."""
BITS = (8, 9, 10, 12, 14, 16)
_CHROMA = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (1, 2): "440", (4, 1): "411", (4, 4): "410"}
"""Luma samples a chroma sample, across and down, and what FFmpeg calls them."""
_SITES = {
    "left": (0.0, 0.5),
    "center": (0.5, 0.5),
    "topleft": (0.0, 0.0),
    "top": (0.5, 0.0),
    "bottomleft": (0.0, 1.0),
    "bottom": (0.5, 1.0),
}
"""Where a chroma sample lies, in luma samples right of and below the first of its 2x2."""


@dataclass(frozen=True)
class Layout:
    """Planar YUV: bits of a sample, and luma samples a chroma sample, (0, 0) for grey."""

    bits: int
    across: int
    down: int

    @property
    def name(self) -> str:
        """What FFmpeg calls it."""
        depth = "" if self.bits == 8 else f"{self.bits}le"
        return f"yuv{_CHROMA[self.across, self.down]}p{depth}" if self.across else f"gray{depth}"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(rows, columns) of each plane of a frame."""
        chroma = [(-(-height // self.down), -(-width // self.across))] * 2 if self.across else []
        return [(height, width), *chroma]

    def sites(self, siting: str) -> tuple[float, float]:
        """How far a chroma sample lies right of and below its first luma sample, in luma samples."""
        x, y = _SITES.get(siting, _SITES["left"])
        # 4:1:1 and 4:1:0 have it on the left by their standards.
        return (x if self.across == 2 else 0.0), (y if self.down == 2 else (self.down - 1) / 2)


def layout_of(format: VideoFormat) -> Layout:
    """The planar YUV that holds a pixel format of FFmpeg; RGB goes to 4:4:4, alpha is left out."""
    most = max(c.bits for c in format.components)
    bits = next((b for b in BITS if b >= most), 16)
    if len(format.components) < 3 and not format.has_palette:
        return Layout(bits, 0, 0)
    if format.is_rgb or format.has_palette:
        return Layout(bits, 1, 1)
    size = 16  # any multiple of the subsampling
    shares = size // format.chroma_width(size), size // format.chroma_height(size)
    return Layout(bits, *(shares if shares in _CHROMA else (1, 1)))


def is_planar(format: VideoFormat, layout: Layout) -> bool:
    """Whether frames of a format have the planes of ``layout`` as they are."""
    return format.name.replace("yuvj", "yuv") == layout.name


def views(frame: VideoFrame, layout: Layout) -> Planes:
    """The planes of a frame as arrays that share its memory."""
    planes: list[NDArray[Any]] = []
    for plane, (rows, columns) in zip(frame.planes, layout.sizes(frame.height, frame.width), strict=True):
        line = abs(plane.line_size) // layout.dtype.itemsize
        whole = np.frombuffer(memoryview(cast(Any, plane)), layout.dtype)[: rows * line].reshape(rows, line)
        planes.append((whole if plane.line_size > 0 else whole[::-1])[:, :columns])
    return tuple(planes)


def to_net(layout: Layout, full: bool) -> NDArray[np.int16]:
    """The net's luma, q = round(128 (Y - 127.5)), of each sample: an array to look up in."""
    samples = np.arange(1 << layout.bits, dtype=np.float64)
    top = (1 << layout.bits) - 1
    y = 16 + samples * (219 / top) if full else samples / (1 << layout.bits - 8)
    return np.floor(128 * (y - 127.5) + 0.5).astype(np.int16)


def from_net(layout: Layout, full: bool) -> NDArray[Any]:
    """The sample of each luma of the net: an array to look up in by q as uint16.

    Rounded half up, and clipped to the samples that a stream may hold: all of full range, and of
    limited range all but the lowest and highest 1/256, which BT.601, 709 and 2020 reserve. So what
    a camera has recorded beyond white (235) stays.
    """
    q = np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.float64)
    y = q / 128 + 127.5
    unit, top = 1 << layout.bits - 8, (1 << layout.bits) - 1
    samples = (y - 16) * (top / 219) if full else y * unit
    low, high = (0, top) if full else (unit, 255 * unit - 1)
    return np.clip(np.floor(samples + 0.5), low, high).astype(layout.dtype)
