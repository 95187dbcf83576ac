"""Clips for tests of video, made by FFmpeg through PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed (extra video)")

TICK = Fraction(1, 90000)


def even(n: int, rate: int = 25, first: int = 0) -> list[int]:
    """Times of n frames in ticks, at a constant rate."""
    return [first + i * 90000 // rate for i in range(n)]


def uneven(n: int, first: int = 0) -> list[int]:
    """Times of n frames in ticks, at a rate that changes from frame to frame."""
    steps = np.random.default_rng(0).integers(900, 9000, n)
    return [first + int(t) for t in np.cumsum(steps)]


def noise(n: int, height: int, width: int, bits: int = 8, seed: int = 0) -> list[np.ndarray]:
    """Luma that changes everywhere from frame to frame: smooth waves that move."""
    y, x = np.mgrid[:height, :width]
    unit = 1 << bits - 8
    return [
        np.rint(unit * (125 + 60 * np.sin((x + 3 * i + seed) / 7) * np.cos((y - 2 * i) / 5))).astype(
            np.uint8 if bits == 8 else np.uint16
        )
        for i in range(n)
    ]


def fill(frame: Any, luma: np.ndarray | None = None, chroma: tuple[Any, Any] | None = None) -> None:
    """Write planes into a frame; chroma is grey where none is given."""
    for i, plane in enumerate(frame.planes):
        dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
        grey = 1 << frame.format.components[0].bits - 1
        target = np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width]
        target[...] = (luma if luma is not None else grey) if i == 0 else chroma[i - 1] if chroma else grey


def planes_of(frame: Any) -> list[np.ndarray]:
    dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    return [
        np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width].copy()
        for plane in frame.planes
    ]


def write(
    path: Path,
    lumas: list[np.ndarray],
    *,
    times: list[int] | None = None,
    tick: Fraction = TICK,
    format: str = "yuv420p",
    chroma: tuple[Any, Any] | None = None,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    sound: int | None = None,
    subtitles: bool = False,
    attachment: bool = False,
    chapters: bool = False,
    look: dict[str, Any] | None = None,
    rotation: float | None = None,
    interlaced: bool = False,
    gop: int = 12,
    rate: int = 25,
    muxer: dict[str, str] | None = None,
) -> Path:
    """A clip of these frames.

    times: in ticks. sound: AAC whose first packet lies so many samples of 48 kHz behind zero.
    look: attributes of the encoder, such as color_range.
    """
    height, width = lumas[0].shape
    times = times or even(len(lumas))
    exact = {"movie_timescale": "90000"} if path.suffix == ".mp4" else {}  # else starts are rounded to ms
    with av.open(str(path), "w", container_options={**exact, **(muxer or {})}) as out:
        out.metadata["title"] = "A title"
        video: Any = out.add_stream(codec, rate=rate)
        context = video.codec_context
        context.width, context.height, context.pix_fmt = width, height, format
        context.time_base, context.gop_size, context.thread_count = tick, gop, 1
        context.flags |= av.codec.context.Flags.frame_duration
        quick = {"preset": "ultrafast", "bf": "2"} if codec == "libx264" else {}
        context.options = {**quick, **(options or {})}
        for key, value in (look or {}).items():
            setattr(context, key, value)
        if interlaced:
            context.flags |= av.codec.context.Flags.interlaced_dct
        if rotation is not None:
            video.set_display_rotation(rotation)
        audio: Any = None
        if sound is not None:
            audio = out.add_stream("aac", rate=48000)
            audio.metadata["language"] = "deu"
        text: Any = out.add_mux_stream("subrip") if subtitles else None
        if attachment:
            out.add_attachment("a.ttf", "font/ttf", b"a font" * 50)
        if chapters:
            out.set_chapters(
                [
                    {"id": i, "start": 500 * i, "end": 500 * (i + 1), "time_base": Fraction(1, 1000),
                     "metadata": {"title": f"part {i}"}}
                    for i in range(2)
                ]
            )  # fmt: skip
        samples = 0
        end = (times[-1] - times[0]) * tick + Fraction(1, 25)
        for i, luma in enumerate(lumas):
            while audio is not None and Fraction(samples, 48000) < min((times[i] - times[0]) * tick + 1, end):
                wave = np.sin(np.arange(samples, samples + 1024) / 17, dtype=np.float32) * 0.2
                chunk = av.AudioFrame.from_ndarray(np.stack((wave, wave)), format="fltp", layout="stereo")
                chunk.sample_rate, chunk.pts, chunk.time_base = (
                    48000,
                    (sound or 0) + samples,
                    Fraction(1, 48000),
                )
                out.mux(audio.encode(chunk))
                samples += 1024
            if text is not None and i == 2:
                packet = av.Packet(b"hello")
                packet.stream, packet.time_base = text, Fraction(1, 1000)
                packet.pts = packet.dts = 80
                packet.duration = 400
                out.mux(packet)
            frame = av.VideoFrame(width, height, format)
            fill(frame, luma, chroma)
            frame.pts, frame.time_base = times[i], tick
            frame.duration = (
                times[i + 1] if i + 1 < len(times) else times[i] + int(Fraction(1, 25) / tick)
            ) - times[i]
            out.mux(video.encode(frame))
        out.mux(video.encode())
        if audio is not None:
            out.mux(audio.encode())
    return path


def frames(path: Path) -> list[Any]:
    with av.open(str(path)) as clip:
        return list(clip.decode(video=0))


def times(path: Path) -> list[Fraction]:
    """When each frame is shown, in seconds."""
    return [frame.pts * frame.time_base for frame in frames(path)]


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """Time in seconds and data of every packet of the first stream of a kind."""
    with av.open(str(path)) as clip:
        stream = next(s for s in clip.streams if s.type == kind)
        return [(p.pts * p.time_base, bytes(p)) for p in clip.demux(stream) if p.size]
