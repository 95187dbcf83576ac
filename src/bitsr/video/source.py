"""A clip that is read: its streams, what its frames are like, and the frames and packets in order."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import BitsrError
from .deinterlace import Deinterlacer
from .ffmpeg import PIPE, library
from .look import Look, hdr, siting_of
from .pixels import FULL, Layout, Planes, is_planar, layout_of, views
from .webp import as_clip, is_webp

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

IMAGES = ("image2", "_pipe")
"""FFmpeg's formats of single images have these in their names."""
_PROBED = 8
"""Frames that are looked at for interlacing before anything is written."""
_LATE = 2
"""Seconds of packets that are still read after the last frame that is wanted."""
_LOST = {
    "A53_CC": "closed captions within the video (CEA-608/708)",
    "DYNAMIC_HDR_PLUS": "dynamic HDR metadata (HDR10+)",
    "DOVI_RPU_BUFFER": "dynamic HDR metadata (Dolby Vision)",
    "DYNAMIC_HDR_VIVID": "dynamic HDR metadata (HDR Vivid)",
}
"""Side data of frames that no output keeps."""


@dataclass
class Picture:
    """One frame: its planes, time and duration in ticks of the source's time base."""

    planes: Planes
    pts: int
    duration: int
    owner: Any = field(repr=False, default=None)
    """What keeps the memory of the planes."""


@dataclass
class Group:
    """Packets that other streams have before a frame, and the frame; at the end, none."""

    packets: list[Packet]
    picture: Picture | None


class Source:
    """A clip, opened: a context manager.

    path: a file, or "-" for standard input. start, end: seconds from its beginning. strict: damage
    is an error, not a count. note: called with what a user should know, one line each.
    Raises BitsrError for what is no video that can be worked on and OSError for files.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        start: float | None = None,
        end: float | None = None,
        deinterlace: bool = False,
        strict: bool = False,
        threads: int = 0,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        av = library()
        self._av, self.path, self._strict, self._note = av, path, strict, note
        self.damaged = 0
        """Packets and frames that could not be decoded, so far."""
        self.interlaced = 0
        """Frames that are interlaced, beyond those that were looked at first."""
        self._deinterlace = deinterlace
        self._from: int | None = None
        self._probing, self._changed = True, False
        self._last = 0
        piped = str(path) == PIPE
        self.name = "standard input" if piped else str(path)
        if not piped:
            Path(path).stat()  # the system's own word for what is not there
        clip = as_clip(Path(path), av) if not piped and is_webp(Path(path)) else None
        try:
            # The protocol is named, so that no file name is taken for one.
            self.container: InputContainer = av.open(
                clip or ("pipe:0" if piped else f"file:{path}"), "r", metadata_errors="replace"
            )
        except av.error.FFmpegError as error:
            raise self._unreadable(error) from None
        try:
            self._begin(start, end, threads)
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def _unreadable(self, error: Exception) -> BitsrError:
        if str(self.path) != PIPE and isinstance(error, OSError):
            return BitsrError(f"{self.name}: {error.strerror}")
        head = b""
        if str(self.path) != PIPE and Path(self.path).is_file():
            with Path(self.path).open("rb") as file:
                head = file.read(12)
        if head[4:8] == b"ftyp":
            return BitsrError(f"{self.name}: its index (moov) is missing: cut short while it was written")
        return BitsrError(f"{self.name}: no video file that can be read")

    def _begin(self, start: float | None, end: float | None, threads: int) -> None:
        av, container = self._av, self.container
        if any(word in container.format.name for word in IMAGES):
            raise BitsrError(f"{self.name}: is an image; bitsr upscale takes it")
        cover = av.stream.Disposition.attached_pic
        videos = [s for s in container.streams.video if not s.disposition & cover]
        if not videos:
            raise BitsrError(f"{self.name}: has no video stream")
        best = [s for s in videos if s.disposition & av.stream.Disposition.default] or videos
        self.stream: VideoStream = best[0]
        if self.stream.codec_context is None:
            raise BitsrError(f"{self.name}: no decoder for its video, or it is encrypted")
        self.others: list[Stream] = [
            s for s in container.streams if s is not self.stream and s.discard != av.stream.Discard.all
        ]
        self.stream.codec_context.thread_type = "AUTO"
        self.stream.codec_context.thread_count = threads
        self.time_base = cast(Fraction, self.stream.time_base)
        self.rate = cast("Fraction | None", self.stream.guessed_rate or self.stream.average_rate)
        """Frames a second, about; None where it is not known."""
        begin = Fraction(container.start_time or 0, av.time_base)
        self.shift = begin + Fraction(start).limit_denominator(10**6) if start else Fraction(0)
        """Seconds that are taken off every time."""
        self._end = begin + Fraction(end).limit_denominator(10**6) if end is not None else None
        if start and str(self.path) != PIPE:
            container.seek(int(self.shift * av.time_base))
        self._next: int | None = None
        self._reader = self._read()
        self._first: list[Group] = []
        pictures = 0
        for group in self._reader:
            self._first.append(group)
            pictures += group.picture is not None
            if pictures == _PROBED:
                break
        self._probing = False
        if pictures:
            first = next(group.picture for group in self._first if group.picture)
            self.first_time: Fraction = first.pts * self.time_base - self.shift
            """Seconds of the first frame, as it is written."""
        else:
            if start or end is not None:
                raise BitsrError(f"{self.name}: no frame between --start and --end")
            raise BitsrError(f"{self.name}: no frame of its video can be decoded")

    @property
    def frames(self) -> int | None:
        """How many frames there are, as far as the file says; None where it does not."""
        av, rate = self._av, self.rate
        if not self.shift and self._end is None and self.stream.frames:
            return self.stream.frames
        if self.stream.duration:
            length = self.stream.duration * self.time_base
        elif self.container.duration:
            length = Fraction(self.container.duration, av.time_base)
        else:
            return None
        begin = Fraction(self.container.start_time or 0, av.time_base)
        stop = begin + length if self._end is None else min(begin + length, self._end)
        return max(round((stop - (self.shift or begin)) * rate), 1) if rate else None

    @property
    def seconds(self) -> Fraction | None:
        """The length that the file claims, in seconds."""
        length = self.container.duration
        return Fraction(length, self._av.time_base) if length and length > 0 else None

    @property
    def lossless(self) -> bool:
        """Whether its codec only knows to keep every sample."""
        properties = self.stream.codec_context.codec.properties
        return not properties & self._av.codec.Properties.LOSSY.value

    def first_data(self, stream: Stream) -> bytes:
        """The first packet of another stream, where it comes among the first frames. Before ``groups``."""
        packets = (packet for group in self._first for packet in group.packets if packet.stream is stream)
        return next((bytes(cast(Any, packet)) for packet in packets), b"")

    def groups(self) -> Iterator[Group]:
        """The packets and frames, in order. Once."""
        while self._first:
            yield self._first.pop(0)
        yield from self._reader

    # ---- reading

    def _read(self) -> Iterator[Group]:
        packets: list[Packet] = []
        size = 0
        for item in self._pictures():
            if isinstance(item, Picture):
                yield Group(packets, item)
                packets, size = [], 0
                continue
            packets.append(item)
            size += item.size
            if size > 1 << 20:  # no stream piles up in memory however far it is ahead
                yield Group(packets, None)
                packets, size = [], 0
        if packets:
            yield Group(packets, None)

    def begin_at(self, pts: int) -> None:
        """Go on from the frame at ``pts`` ticks: those before it are neither decoded nor given.

        Packets of other streams are given from the start. Before ``groups``, and only for a file.
        """
        self.container.seek(int(self.shift * self._av.time_base))
        self._first, self._next = [], None
        self._from = pts
        self._reader = self._read()

    def _packets(self) -> Iterator[Packet]:
        """Packets of all streams; on the way to ``begin_at``, video from the last key frame before."""
        av = self._av
        waiting: list[Packet] | None = None if self._from is None else []
        demuxer = self.container.demux(self.stream, *self.others)
        while True:
            try:
                packet = next(demuxer)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                # Data ends in the middle of a packet, or makes no sense from here on.
                self._damage(f"cannot be read to its end: {error.strerror}")
                # The decoder still holds frames.
                yield from waiting or ()
                yield _end_of(self.stream, av)
                return
            if packet.stream is self.stream and packet.size and packet.has_sidedata("encryption_info"):
                raise BitsrError(f"{self.name}: is encrypted")
            if waiting is None or packet.stream is not self.stream or self._from is None:
                yield packet
                continue
            time = packet.pts if packet.pts is not None else packet.dts
            if packet.is_keyframe and time is not None and time <= self._from:
                waiting.clear()
            waiting.append(packet)
            if not packet.size or (time is not None and time > self._from):
                yield from waiting
                waiting = None

    def _pictures(self) -> Iterator[Picture | Packet]:
        """Packets of other streams within the span asked for, and frames."""
        filter = Deinterlacer(self.time_base) if self._deinterlace else None
        past = False
        for packet in self._packets():
            time = packet.pts if packet.pts is not None else packet.dts
            seconds = None if time is None else time * cast(Fraction, packet.time_base)
            if packet.stream is not self.stream:
                if packet.size and self._within(seconds):
                    yield packet
                elif past and seconds is not None and self._end is not None and seconds > self._end + _LATE:
                    return
                continue
            if past:
                if seconds is not None and self._end is not None and seconds > self._end + _LATE:
                    return
                continue
            for frame in self._decode(packet, filter):
                picture = self._picture(frame)
                if picture is None:
                    continue
                at = picture.pts * self.time_base
                if self._end is not None and at >= self._end:
                    past = True
                    break
                if self._within(at) and (self._from is None or picture.pts >= self._from):
                    yield picture

    def _within(self, seconds: Fraction | None) -> bool:
        if seconds is None:
            return True
        return (not self.shift or seconds >= self.shift) and (self._end is None or seconds < self._end)

    def _decode(self, packet: Packet, filter: Deinterlacer | None) -> Iterator[VideoFrame]:
        last = not packet.size
        try:
            frames = self.stream.decode(packet)
        except self._av.error.EOFError:
            frames = []
        except self._av.error.FFmpegError:
            self._damage("a frame cannot be decoded")
            frames = []
        sound: list[VideoFrame] = []
        for frame in frames:
            if frame.is_corrupt:
                self._damage("a frame is damaged")
            else:
                sound.append(frame)
        for frame in sound:
            if frame.interlaced_frame and not filter:
                if self._probing:
                    raise BitsrError(f"{self.name}: is interlaced; --deinterlace makes whole frames of it")
                self.interlaced += 1
        yield from filter.through(sound, last) if filter else sound

    def _damage(self, what: str) -> None:
        if self._strict:
            raise BitsrError(f"{self.name}: {what}")
        self.damaged += 1

    def _picture(self, frame: VideoFrame) -> Picture | None:
        """A decoded frame with its time; None where that is not after the time before."""
        step = max(round(1 / (self.rate * self.time_base)), 1) if self.rate else 1
        pts = frame.pts
        if pts is None:
            pts = 0 if self._next is None else self._next
        elif self._next is not None and pts <= self._last:
            self._damage("the time of a frame is not after that of the one before")
            return None
        duration = frame.duration or step
        self._last, self._next = pts, pts + duration
        if not hasattr(self, "layout"):
            self._see(frame)
        source = frame
        if not is_planar(frame.format, self.layout) or (frame.width, frame.height) != (
            self.width,
            self.height,
        ):
            if not self._changed and (frame.width, frame.height) != (self.width, self.height):
                self._changed = True
                self._note(
                    f"frames change to {frame.width}x{frame.height}: resized to {self.width}x{self.height}"
                )
            source = self._convert(frame)
        return Picture(views(source, self.layout), pts, duration, source)

    def _convert(self, frame: VideoFrame) -> VideoFrame:
        """A frame in our layout and size."""
        rgb = frame.format.is_rgb or frame.format.has_palette
        # YUV is to keep its matrix and range: the same on both sides, whatever they are.
        return frame.reformat(
            width=self.width,
            height=self.height,
            format=self.layout.name,
            src_colorspace=None if rgb else "ITU709",
            dst_colorspace="ITU709",
            src_color_range=None if rgb else "MPEG",
            dst_color_range="MPEG",
        )

    def _see(self, frame: VideoFrame) -> None:
        """What the first frame tells of all."""
        format = frame.format
        self.layout: Layout = layout_of(format)
        self.width, self.height = frame.width, frame.height
        rgb = format.is_rgb or format.has_palette
        display: tuple[int, ...] = ()
        for data in cast(Any, frame.side_data):
            if data.type.name == "DISPLAYMATRIX":
                display = struct.unpack("=9i", bytes(data)[:36])
            elif data.type.name in _LOST:
                self._note(f"{_LOST[data.type.name]} are left out")
        if len(format.components) in (2, 4) and not format.has_palette:
            self._note("transparency is left out")
        full = format.name.startswith("yuvj")
        mastering, light = hdr(frame)
        self.rgb = rgb
        self.look = Look(
            range=1 if rgb else FULL if full else int(frame.color_range),
            matrix=1 if rgb else int(frame.colorspace),
            primaries=int(frame.color_primaries),
            transfer=int(frame.color_trc),
            siting=siting_of(frame) if self.layout.across == 2 and not rgb else "",
            aspect=self.stream.sample_aspect_ratio,
            display=display,
            mastering=mastering,
            light=light,
        )


def _end_of(stream: Stream, av: Any) -> Packet:
    """The empty packet that takes a decoder's last frames out."""
    packet = av.Packet()
    packet.stream = stream
    packet.time_base = stream.time_base
    return packet
