"""The clip that is written: an encoder for the frames, and other streams copied packet by packet."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import BitsrError
from ..files import NewFile
from .pixels import Layout, Planes, views
from .source import PIPE, Picture, Source, library

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


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
_MP4 = {
    "movflags": "hybrid_fragmented+delay_moov+frag_keyframe",
    "frag_duration": "1000000",
    "flush_packets": "1",
}
_MKV = {"cluster_time_limit": "1000", "flush_packets": "1"}
_MS = Fraction(1, 1000)
CONTAINERS = {
    ".mp4": Container("mp4", "MP4", "libx264", "libx265", _MP4),
    ".m4v": Container("mp4", "MP4", "libx264", "libx265", _MP4),
    ".mov": Container("mov", "MOV", "libx264", "libx265", _MP4),
    ".mkv": Container("matroska", "MKV", "libx264", "libx265", _MKV, _MS),
    ".webm": Container("webm", "WebM", "libsvtav1", "libsvtav1", _MKV, _MS),
    ".y4m": Container("yuv4mpegpipe", "YUV4MPEG", "rawvideo", "rawvideo", {"strict": "-1"}, still=True),
    ".gif": Container("gif", "GIF", "gif", "gif", {}, Fraction(1, 100), still=True),
    ".webp": Container("webp", "WebP", "libwebp_anim", "libwebp_anim", {"loop": "0"}, _MS, still=True),
}
"""Output formats by suffix."""
_CRF = {"libx264": "18", "libx265": "20", "libsvtav1": "25", "libvpx-vp9": "24"}
_PRESET = {"libx264": "medium", "libx265": "medium", "libsvtav1": "8"}
_ALWAYS = {
    # Key frames that no frame before them refers beyond: a file can be gone on with from each.
    "libx265": {"x265-params": "log-level=none:open-gop=0"},
    "libvpx-vp9": {"b": "0", "row-mt": "1", "cpu-used": "4"},
    "ffv1": {"level": "3"},
    "libwebp_anim": {"quality": "90"},
}
_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
            "placebo")  # fmt: skip
"""Of libx264 and libx265, which say more than one line of others."""
_ANY_SIZE = {"ffv1", "libvpx-vp9", "rawvideo", "gif", "libwebp_anim", "ffvhuff", "huffyuv"}
"""Codecs that take odd sizes with subsampled chroma."""
_IMAGES = {"gif": "pal8", "libwebp_anim": "bgra"}
"""Codecs of images, and the RGB that they get. WebP's own YUV is of one matrix and range alone."""
_ASPECT_LOST = {"libvpx-vp9", "ffv1", *_IMAGES}
"""Codecs whose streams do not tell the shape of pixels; PyAV cannot tell it to the container."""
_KEY_SECONDS = 5
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
_STREAMS = {"audio": "sound", "subtitle": "subtitles", "attachment": "attachment", "data": "data"}
_OF_A_FILE = {
    "encoder",
    "major_brand",
    "minor_version",
    "compatible_brands",
    "duration",
    "rotate",
    "vendor_id",
}
"""Metadata that tell of the input's encoding, not of what is in it."""


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


class Sink:
    """A clip that is written, from the first frame's look on. One thread at a time.

    path: a file, or "-" for YUV4MPEG on standard output. height, width: of the frames that come, in
    ``source.layout``. kept: what of the file is there already. note: as in ``Source``.
    Raises BitsrError for what the encoder or the format refuses, before any file is touched.
    """

    def __init__(
        self,
        path: str | Path,
        source: Source,
        height: int,
        width: int,
        encoding: Encoding,
        *,
        kept: Kept | None = None,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        av = library()
        self._av, self.path, self._source, self._note = av, path, source, note
        self._layout, self._look = source.layout, source.look
        self.container = container_of(path)
        self.codec = self._codec(encoding)
        pix_fmt = self._pix_fmt(encoding)
        self.height, self.width = height, width
        self._fit(encoding, pix_fmt)
        self.until = Fraction(0)
        """Seconds up to which frames are in the file."""
        self.written = 0
        """Frames given to the encoder."""
        self._out_of_order: dict[int, int] = {}
        self._filters: dict[int, Any] = {}
        self._output: OutputContainer | None = None
        self._begun = False
        self._fresh = str(path) != PIPE and not Path(path).exists()
        self._new: NewFile | None = None
        self._head: Iterator[Packet] | None = None
        self._held: Packet | None = None
        self._last_dts: Fraction | None = None
        self._moved = False
        self._graph: Any = None
        self._late = Fraction(0)
        """Seconds that a container has moved everything by."""
        target = "pipe:1" if str(path) == PIPE else f"file:{path}"
        if kept:
            self._new = NewFile(path)
            target = f"file:{self._new.part}"
        try:
            self._open(target, encoding, pix_fmt)
            if kept:
                self._go_on(kept)
            self._begun = True
            self.output.start_encoding()
        except av.error.FFmpegError as error:
            self._drop()
            raise self._error(error) from None
        except BaseException:
            self._drop()
            raise

    # ---- what is chosen before

    def _codec(self, encoding: Encoding) -> Any:
        name = encoding.codec or (self.container.deep if self._layout.bits > 8 else self.container.codec)
        # What the one default cannot hold, another of the same container may.
        if not encoding.codec and name == "libsvtav1" and (self._layout.across, self._layout.down) != (2, 2):
            name = "libvpx-vp9"
        try:
            codec = self._av.Codec(name, "w")
        except (self._av.error.FFmpegError, ValueError):
            codec = None
        if codec is None or codec.type != "video":
            raise BitsrError(f"--codec {name}: no video encoder of that name in FFmpeg's library")
        return codec

    def _pix_fmt(self, encoding: Encoding) -> str:
        if self.codec.name in _IMAGES:
            return _IMAGES[self.codec.name]
        formats = self.codec.video_formats
        there = {format.name for format in formats} if formats else None
        if encoding.pix_fmt:
            if there is not None and encoding.pix_fmt not in there:
                raise BitsrError(
                    f"--pix-fmt {encoding.pix_fmt}: {self.codec.name} has {', '.join(sorted(there))}"
                )
            try:
                self._av.VideoFormat(encoding.pix_fmt)
            except ValueError:
                raise BitsrError(f"--pix-fmt {encoding.pix_fmt}: FFmpeg has no such format") from None
            return encoding.pix_fmt
        own = self._layout
        if there is None or own.name in there:
            if self._source.rgb and own.across == 1 and self.codec.name in _CRF:
                self._note("RGB becomes YUV 4:4:4, which few players show; --pix-fmt yuv420p is for all")
            return own.name
        deeper = [b for b in (8, 9, 10, 12, 14, 16) if b >= own.bits]
        for bits in [*deeper, *(b for b in (14, 12, 10, 9, 8) if b < own.bits)]:
            for across, down in _CHROMA[own.across, own.down]:
                name = Layout(bits, across, down).name
                if name in there:
                    if own.across:  # grey in a colour format loses nothing
                        self._note(f"{self.codec.name} has no {own.name}: written as {name}")
                    return name
        raise BitsrError(f"{self.codec.name} has no YUV format; --codec names another")

    def _fit(self, encoding: Encoding, pix_fmt: str) -> None:
        """The size that is written: within --max-height, and even where the encoder wants that."""
        format = self._av.VideoFormat(pix_fmt)
        across = down = 1
        if self.codec.name not in _ANY_SIZE:
            across, down = 16 // format.chroma_width(16), 16 // format.chroma_height(16)
        high, wide = self.height, self.width
        if encoding.max_height and high > encoding.max_height:
            high = max(encoding.max_height // down, 1) * down
            wide = max(round(self.width * high / self.height / across), 1) * across
        else:
            high, wide = high // down * down, wide // across * across
            if (high, wide) != (self.height, self.width):
                self._note(
                    f"{self.codec.name} wants even sizes: {self.width}x{self.height} is cropped to {wide}x{high}"
                )
        if not high or not wide:
            raise BitsrError(f"{self.codec.name} cannot write {self.width}x{self.height}")
        self._resized = bool(encoding.max_height and self.height > encoding.max_height)
        self.height, self.width = high, wide

    # ---- opening

    def _open(self, target: str, encoding: Encoding, pix_fmt: str) -> None:
        av, source, look = self._av, self._source, self._look
        options = dict(self.container.options)
        apple = any(key.startswith("com.apple.quicktime.") for key in source.container.metadata)
        if self.container.format == "mov" and apple:
            options["movflags"] += "+use_metadata_tags"
        if self.container.format in ("mp4", "mov"):
            # Starts of streams are told in this unit: one that has the ticks of all.
            unit = lcm(
                *(
                    cast(Fraction, s.time_base).denominator
                    for s in (source.stream, *source.others)
                    if s.time_base
                )
            )
            options["movie_timescale"] = str(unit if unit < 1 << 31 else 1000)
        self._output = self.output = cast(
            "OutputContainer",
            av.open(target, "w", format=self.container.format, container_options=options),
        )
        tick = self.container.tick if self.container.still else None
        if self.container.format == "yuv4mpegpipe":
            tick = 1 / (source.rate or Fraction(25))
        self._base = tick or source.time_base
        try:
            self.stream: VideoStream = cast(
                "VideoStream",
                self.output.add_stream(cast(Any, self.codec.name), rate=source.rate or 25),
            )
        except ValueError:
            raise BitsrError(
                f"{self.container.title} does not hold {self.codec.name}; MKV holds most"
            ) from None
        context = self.stream.codec_context
        context.width, context.height, context.pix_fmt = self.width, self.height, pix_fmt
        context.time_base = self._base
        context.gop_size = max(1, min(250, round(_KEY_SECONDS * (source.rate or 25))))
        context.thread_type, context.thread_count = cast(Any, "AUTO"), encoding.threads
        context.flags |= av.codec.context.Flags.frame_duration
        context.color_range, context.colorspace = look.range, look.matrix
        context.color_primaries, context.color_trc = look.primaries, look.transfer
        if look.aspect and look.aspect != 1:
            context.sample_aspect_ratio = look.aspect
            if self.codec.name in _ASPECT_LOST:
                self._note(
                    f"{self.codec.name} does not keep the shape of pixels, {look.aspect}: they become square"
                )
        if look.display and look.display != (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30):
            if self.container.still:
                self._note(f"{self.container.title} keeps no rotation: frames are written as they are stored")
            else:
                self.stream.set_display_matrix(look.display)
        if self.codec.name == "libx265" and self.container.format in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # the only one that Apple's players take
        self._set_options(context, encoding)
        self.stream.time_base = self._base
        self.stream.metadata.update(_told(source.stream.metadata))
        cast(Any, self.stream).disposition = int(source.stream.disposition)
        self._copies = self._copy_streams()
        if not self.container.still:
            self.output.metadata.update(_told(source.container.metadata))
            self._copy_chapters()

    def _set_options(self, context: Any, encoding: Encoding) -> None:
        av, name, look = self._av, self.codec.name, self._look
        options = dict(_ALWAYS.get(name, {}))
        asked: dict[str, str] = {}
        if (crf := encoding.crf if encoding.crf is not None else _CRF.get(name)) is not None:
            asked["crf"] = f"{crf:g}" if isinstance(crf, float) else str(crf)
        if (preset := encoding.preset or _PRESET.get(name)) is not None:
            asked["preset"] = preset
        if name in ("libx264", "libx265") and asked["preset"] not in _PRESETS:
            raise BitsrError(f"--preset {preset}: {name} has {', '.join(_PRESETS)}")
        if look.siting:
            options["chroma_sample_location"] = look.siting
        hdr = _hdr_options(name, look.mastering, look.light)
        if (look.mastering or look.light) and not hdr:
            self._note(f"{name} does not keep HDR metadata (mastering display, light level)")
        for key, value in hdr.items():
            options[key] = f"{options[key]}:{value}" if key in options else value
        if name == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # else its library writes to stderr
        context.options = {**options, **asked}
        try:
            context.open()
        except (av.error.FFmpegError, ValueError):
            what = ", ".join(f"{key} {value}" for key, value in asked.items())
            raise BitsrError(
                f"{name} refuses {self.width}x{self.height} {context.pix_fmt}{f', {what}' if what else ''}"
            ) from None
        for key, value in asked.items():
            asked_for = (encoding.crf if key == "crf" else encoding.preset) is not None
            if asked_for and key in context.options:  # what is left was not understood
                raise BitsrError(f"--{key} {value}: {name} has no such setting")

    def _copy_streams(self) -> dict[int, Stream]:
        """Output streams by the index of the input's; what cannot be held is said in one line."""
        av, source = self._av, self._source
        copies: dict[int, Stream] = {}
        lost: list[str] = []
        fragments = self.container.options is _MP4
        for stream in source.others:
            cover = bool(stream.disposition & av.stream.Disposition.attached_pic)
            name = "cover" if cover else getattr(stream, "name", None)
            what = f"{_STREAMS.get(stream.type, stream.type)} {stream.index}{f' ({name})' if name else ''}"
            if cover and self.container.format == "matroska" and (data := source.first_data(stream)):
                kind = "png" if data[:4] == b"\x89PNG" else "jpeg"  # in MKV a cover is a file
                self.output.add_attachment(f"cover.{kind}", f"image/{kind}", data)
                continue
            # In fragments a cover leaves an empty track behind.
            if self.container.still or (cover and fragments) or not self._holds(stream):
                lost.append(what)
                continue
            copy = _add_copy(self.output, stream)
            cast(Any, copy).disposition = int(stream.disposition)
            copy.metadata.update(_told(stream.metadata))
            copies[stream.index] = copy
            if fragments and stream.type == "audio" and getattr(stream, "name", "") == "aac":
                self._adts(stream, copy)
        if lost:
            self._note(f"{self.container.title} does not hold, left out: {', '.join(lost)}")
        return copies

    def _adts(self, stream: Stream, copy: Stream) -> None:
        """AAC of transport streams tells its settings in each packet; fragments want them before the first.

        A header of ADTS (ISO 14496-3, 1.A.3) becomes an AudioSpecificConfig (1.6.2.1).
        """
        head = self._source.first_data(stream)[:4]
        if (
            cast(Any, stream).codec_context.extradata
            or len(head) < 4
            or head[0] != 255
            or head[1] & 0xF6 != 0xF0
        ):
            return
        kind, rate, channels = (head[2] >> 6) + 1, head[2] >> 2 & 15, (head[2] & 1) << 2 | head[3] >> 6
        config = kind << 11 | rate << 7 | channels << 3
        cast(Any, copy).codec_context.extradata = config.to_bytes(2, "big")
        self._filters[stream.index] = self._av.BitStreamFilterContext("aac_adtstoasc", stream)

    def _holds(self, stream: Stream) -> bool:
        """Whether the format takes a stream: tried with that stream alone, in memory."""
        av = self._av
        try:
            with av.open(io.BytesIO(), "w", format=self.container.format) as scratch:
                _add_copy(scratch, stream)
                scratch.start_encoding()
        except (ValueError, av.error.FFmpegError):
            return False
        return True

    def _copy_chapters(self) -> None:
        source = self._source
        chapters = source.container.chapters()
        for chapter in chapters:
            base = cast(Fraction, chapter["time_base"])
            chapter["start"] = max(chapter["start"] - round(source.shift / base), 0)
            chapter["end"] = chapter["end"] - round(source.shift / base)
        if chapters := [c for c in chapters if c["end"] > c["start"]]:
            self.output.set_chapters(chapters)

    # ---- going on

    def _go_on(self, kept: Kept) -> None:
        """Take the frames that are there. Raises BitsrError where they do not fit what would follow."""
        pix_fmt = (self.stream.codec_context.pix_fmt or "").replace("yuvj", "yuv")
        same = (self.codec.canonical_name, self.width, self.height, pix_fmt)
        fits = kept.made == same and all(
            part in kept.extradata for part in _parameter_sets(self.stream.codec_context.extradata or b"")
        )
        if not fits:
            raise BitsrError(f"{kept.path}: was written with other settings: it cannot be gone on with")
        first = self._source.first_time
        moved = kept.first - first
        # Where times had begun below zero, the container has moved them.
        self._late = moved if abs(moved) > kept.tick / 2 else Fraction(0)
        at = (kept.until - self._late + self._source.shift - kept.tick / 2) / self._source.time_base
        self._source.begin_at(ceil(at))
        self._head = self._old_packets(kept)
        self.written = kept.count

    def _old_packets(self, kept: Kept) -> Iterator[Packet]:
        av = self._av
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

    def _before(self, seconds: Fraction | None) -> None:
        """Mux the frames that were there up to a time; None: all that are left."""
        while self._head is not None:
            packet = self._held or next(self._head, None)
            self._held = packet
            if packet is None:
                self._head = None
                return
            time = packet.dts if packet.dts is not None else packet.pts
            base = cast(Fraction, packet.time_base)
            if seconds is not None and time is not None and time * base > seconds:
                return
            self._held = None
            packet.stream = self.stream
            self._last_dts = time if time is None else time * base
            self.output.mux(packet)
            if packet.pts is not None:
                self.until = max(self.until, packet.pts * base)

    # ---- writing

    def frame(self, picture: Picture, planes: Planes) -> VideoFrame:
        """An encoder's frame of SR planes, which are copied: (h, w) of ``source.layout``."""
        source, layout, look = self._source, self._layout, self._look
        coloured = layout.across == 0 and not (self.stream.codec_context.pix_fmt or "").startswith("gray")
        # swscale takes grey for full range, so grey gets its chroma here.
        into = Layout(layout.bits, 2, 2) if coloured else layout
        rows, columns = planes[0].shape
        if not self._resized:
            rows, columns = self.height, self.width
        frame = self._av.VideoFrame(columns, rows, into.name)
        for i, target in enumerate(views(frame, into)):
            if i < len(planes):
                target[...] = planes[i][: target.shape[0], : target.shape[1]]
            else:
                target[...] = 1 << layout.bits - 1
        frame.time_base = source.time_base
        frame.pts = picture.pts - round(source.shift / source.time_base)
        frame.duration = picture.duration
        frame.color_range, frame.colorspace = look.range, look.matrix
        frame.color_primaries, frame.color_trc = look.primaries, look.transfer
        return frame

    def write(self, packets: list[Packet], frame: VideoFrame | None) -> None:
        """Mux packets of other streams, then encode a frame. Raises OSError, which names the file."""
        try:
            for packet in packets:
                self._copy(packet)
            if frame is not None:
                self._before(None)
                if self._new is not None and os.name == "posix":
                    self._take_name()
                self._mux(self._encode(frame))
                self.written += 1
        except self._av.error.FFmpegError as error:
            raise self._error(error) from None

    def finish(self) -> None:
        """Take the encoder's last frames and end the file. Raises as ``write``."""
        try:
            self._before(None)
            self._mux(self._encode(None))
            self.output.close()
            if self._new is not None:
                self._take_name()
        except self._av.error.FFmpegError as error:
            self._drop()
            raise self._error(error) from None
        for index, count in self._out_of_order.items():
            self._note(f"{count} packets of stream {index} are out of order: left out")

    def give_up(self) -> None:
        """End the file after an error, as far as that goes."""
        self._drop()

    def _encode(self, frame: VideoFrame | None) -> list[Packet]:
        return self.stream.encode(
            self._image(frame) if self.codec.name in _IMAGES else self._converted(frame)
        )

    def _converted(self, frame: VideoFrame | None) -> VideoFrame | None:
        context = self.stream.codec_context
        if frame is None:
            return None
        if frame.format.name == context.pix_fmt and (frame.width, frame.height) == (self.width, self.height):
            return frame
        # Matrix and range stay: the same on both sides, whatever they are.
        return frame.reformat(
            width=self.width,
            height=self.height,
            format=context.pix_fmt,
            interpolation="LANCZOS",
            src_colorspace="ITU709",
            dst_colorspace="ITU709",
            src_color_range="MPEG",
            dst_color_range="MPEG",
        )

    def _image(self, frame: VideoFrame | None) -> VideoFrame | None:
        """A frame in RGB, which is what GIF and WebP show, GIF with 256 colours of its own."""
        if frame is None:
            return None
        if self._graph is None:
            graph = self._graph = self._av.filter.Graph()
            source = graph.add(
                "buffer",
                f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:pixel_aspect=1/1"
                f":time_base={self._source.time_base}:colorspace={self._look.matrix}:range={self._look.range}",
            )
            scale = graph.add("scale", f"{self.width}:{self.height}:flags=lanczos")
            sink = graph.add("buffersink")
            if self.codec.name == "gif":
                split = graph.add("split")
                make = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
                use = graph.add("paletteuse", "new=1")
                graph.link_nodes(source, scale, split)
                split.link_to(make, 0, 0)
                split.link_to(use, 1, 0)
                make.link_to(use, 0, 1)
                use.link_to(sink)
            else:
                graph.link_nodes(source, scale, graph.add("format", _IMAGES[self.codec.name]), sink)
            graph.configure()
        self._graph.vpush(frame)
        out = self._graph.vpull()
        out.pts, out.time_base = frame.pts, frame.time_base
        return out

    def _mux(self, packets: list[Packet]) -> None:
        for packet in packets:
            base = cast(Fraction, packet.time_base)
            if self._late and packet.pts is not None:
                packet.pts += round(self._late / base)
                packet.dts = None if packet.dts is None else packet.dts + round(self._late / base)
            if self._last_dts is not None and packet.dts is not None:
                # After frames of an earlier run an encoder starts its decoding times anew.
                least = int(self._last_dts / base) + 1
                if packet.dts < least and packet.pts is not None:
                    packet.dts = min(least, packet.pts)
                self._last_dts = packet.dts * base
            end = None if packet.pts is None else (packet.pts + (packet.duration or 0)) * base
            self.output.mux(packet)
            if end is not None:
                self.until = max(self.until, end)

    def _copy(self, packet: Packet) -> None:
        copy = self._copies.get(packet.stream.index)
        if copy is None:
            return
        base = cast(Fraction, packet.time_base)
        move = round((self._late - self._source.shift) / base)
        if packet.pts is not None:
            packet.pts += move
        if packet.dts is not None:
            packet.dts += move
        time = packet.dts if packet.dts is not None else packet.pts
        if time is not None:
            self._before(time * base)
            self._check_start(time * base)
        index = packet.stream.index
        filter = self._filters.get(index)
        try:
            for part in filter.filter(packet) if filter else [packet]:
                part.time_base, part.stream = base, copy
                self.output.mux(part)
        except ValueError:  # FFmpeg's EINVAL: its time is before that of the packet before
            self._out_of_order[index] = self._out_of_order.get(index, 0) + 1

    def _check_start(self, seconds: Fraction) -> None:
        """Say once that MKV moves what begins below zero, as sound of MP4 does that is first decoded unheard."""
        below = self.container.tick == _MS and seconds < 0 and not self._late
        if below and not self._moved and "matroska" not in self._source.container.format.name:
            self._moved = True
            ms = round(-seconds * 1000)
            self._note(
                f"{self.container.title} has no times below 0: all streams begin {ms} ms later, in sync"
            )

    # ---- ends

    def _take_name(self) -> None:
        """The file that goes on takes the place of the one that was begun, with all that was in it."""
        assert self._new is not None
        self._new.commit()
        self._new = None

    def _drop(self) -> None:
        """Close the output after an error; a file that holds nothing to be seen goes."""
        if self._output is not None:
            with suppress(self._av.error.FFmpegError, ValueError):
                self._output.close()
        if self._new is not None:
            self._new.discard()
            self._new = None
        elif self._begun and self._fresh and not self.until:
            Path(self.path).unlink(missing_ok=True)

    def _error(self, error: Exception) -> Exception:
        name = "standard output" if str(self.path) == PIPE else str(self.path)
        plays = f"; it plays to {clock(self.until)}" if self.until and str(self.path) != PIPE else ""
        if isinstance(error, OSError) and error.errno:
            return OSError(error.errno, f"{error.strerror}{plays}", name)
        return BitsrError(
            f"{name}: FFmpeg cannot write it: {getattr(error, 'strerror', None) or error}{plays}"
        )


def clock(seconds: Fraction | float) -> str:
    """Seconds as 1:02:03 or 0:03.2."""
    tenths = int(seconds * 10)
    hours, rest = divmod(tenths, 36000)
    minutes, rest = divmod(rest, 600)
    return f"{hours}:{minutes:02}:{rest // 10:02}" if hours else f"{minutes}:{rest // 10:02}.{rest % 10}"


def _add_copy(output: OutputContainer, stream: Stream) -> Stream:
    return output.add_stream_from_template(cast(Any, stream), opaque=True)


def _told(metadata: dict[str, str]) -> dict[str, str]:
    """Of metadata what tells of the content."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _OF_A_FILE
        and not key.startswith(("BPS", "NUMBER_OF_", "_STATISTICS", "DURATION"))
    }


def _parameter_sets(extradata: bytes) -> list[bytes]:
    """The parts of an encoder's extradata that have to be in a file's; of H.264 and HEVC without comments."""
    if not extradata.startswith((b"\0\0\1", b"\0\0\0\1")):
        return [extradata] if extradata else []
    parts = [part.rstrip(b"\0") for part in extradata.split(b"\0\0\1")]
    # SEI, in which encoders sign: type 6 of H.264, 39 of HEVC.
    return [part for part in parts if part and part[0] & 31 != 6 and part[0] >> 1 & 63 != 39]


def _hdr_options(codec: str, mastering: Any, light: tuple[int, int] | None) -> dict[str, str]:
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
