"""Animated WebP, which FFmpeg cannot decode: its frames become a lossless clip in memory."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .. import photo


def is_webp(path: Path) -> bool:
    """Whether a file begins as a WebP does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


def as_clip(path: Path, av: Any) -> io.BytesIO | None:
    """An MKV of its frames in RGB, or RGBA where any is transparent; None for a single one.

    Raises as ``photo.read``.
    """
    image = photo.read(path, frames=True)
    if image.frames < 2:
        return None
    height, channels = image.height // image.frames, image.channels
    clip = io.BytesIO()
    with av.open(clip, "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = image.width, height, "bgra" if channels == 4 else "bgr0"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.flags |= av.codec.context.Flags.frame_duration
        at = 0
        for i in range(image.frames):
            rows = np.concatenate(list(image.rows(height, i)))
            rgba = np.full((height, image.width, 4), 255, np.uint8)
            rgba[..., :channels] = rows
            frame = av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base, frame.duration = at, Fraction(1, 1000), image.delays[i]
            at += max(image.delays[i], 1)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    clip.seek(0)
    return clip
