"""The clip that is written: an encoder for the frames, and other streams copied packet by packet."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from math import ceil, lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import BitsrError
from ..files import NewFile
from .ffmpeg import PIPE, library
from .formats import (
    ALWAYS,
    ASPECT_LOST,
    CRF,
    FRAGMENTS,
    IMAGE_FORMATS,
    KEY_SECONDS,
    MILLISECOND,
    PRESET,
    PRESETS,
    Encoding,
    choose_codec,
    choose_pix_fmt,
    choose_size,
    container_of,
)
from .look import hdr_options
from .pixels import Layout, Planes, views
from .resume import Kept, old_packets, parameter_sets
from .source import Picture, Source

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


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
        self.codec = choose_codec(self.container, encoding, self._layout)
        pix_fmt = choose_pix_fmt(self.codec, encoding.pix_fmt, self._layout, source.rgb, note)
        most = encoding.max_height
        self.height, self.width = choose_size(self.codec, pix_fmt, height, width, most, note)
        self._resized = bool(most and height > most)
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
        context.gop_size = max(1, min(250, round(KEY_SECONDS * (source.rate or 25))))
        context.thread_type, context.thread_count = cast(Any, "AUTO"), encoding.threads
        context.flags |= av.codec.context.Flags.frame_duration
        context.color_range, context.colorspace = look.range, look.matrix
        context.color_primaries, context.color_trc = look.primaries, look.transfer
        if look.aspect and look.aspect != 1:
            context.sample_aspect_ratio = look.aspect
            if self.codec.name in ASPECT_LOST:
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
        options = dict(ALWAYS.get(name, {}))
        asked: dict[str, str] = {}
        if (crf := encoding.crf if encoding.crf is not None else CRF.get(name)) is not None:
            asked["crf"] = f"{crf:g}" if isinstance(crf, float) else str(crf)
        if (preset := encoding.preset or PRESET.get(name)) is not None:
            asked["preset"] = preset
        if name in ("libx264", "libx265") and asked["preset"] not in PRESETS:
            raise BitsrError(f"--preset {preset}: {name} has {', '.join(PRESETS)}")
        if look.siting:
            options["chroma_sample_location"] = look.siting
        hdr = hdr_options(name, look.mastering, look.light)
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
        fragments = self.container.options is FRAGMENTS
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
            part in kept.extradata for part in parameter_sets(self.stream.codec_context.extradata or b"")
        )
        if not fits:
            raise BitsrError(f"{kept.path}: was written with other settings: it cannot be gone on with")
        first = self._source.first_time
        moved = kept.first - first
        # Where times had begun below zero, the container has moved them.
        self._late = moved if abs(moved) > kept.tick / 2 else Fraction(0)
        at = (kept.until - self._late + self._source.shift - kept.tick / 2) / self._source.time_base
        self._source.begin_at(ceil(at))
        self._head = old_packets(kept)
        self.written = kept.count

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
            self._image(frame) if self.codec.name in IMAGE_FORMATS else self._converted(frame)
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
                graph.link_nodes(source, scale, graph.add("format", IMAGE_FORMATS[self.codec.name]), sink)
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
        below = self.container.tick == MILLISECOND and seconds < 0 and not self._late
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
