"""Video: frames, times, other streams and colour are those of the source, and only luma is new."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest

clips = pytest.importorskip("clips", reason="PyAV is not installed (extra video)")
from clips import av, even, frames, noise, packets, planes_of, times, uneven, write
from PIL import Image
from random_nets import srresnet

from bitsr import video
from bitsr.cli.main import main
from bitsr.errors import BitsrError
from bitsr.upscaler import load
from bitsr.video.chroma import Axis, PlaneScaler
from bitsr.video.frames import FrameNet, boxes
from bitsr.video.pixels import Layout, from_net, to_net
from bitsr.video.resume import kept_of

REAL = "bitsr-s-x2"
"""A net that was trained, where what it makes of luma counts."""
NET = {"preset": "ultrafast", "threads": 1}


@pytest.fixture(scope="session")
def net(tmp_path_factory):
    """A random x2 net, small and fast."""
    path = tmp_path_factory.mktemp("net") / "random-x2.bsr"
    srresnet(scale=2, blocks=1).write(path)
    return path


@pytest.fixture
def up(net):
    """``video.upscale`` with the random net; gives its result and notes."""

    def up(src, dst, net=net, **options):
        notes: list[str] = []
        result = video.upscale(src, dst, net=net, **{**NET, **options}, note=notes.append)
        return result, notes

    return up


def size(frame):
    return frame.height, frame.width


def lossless(**options):
    return {"codec": "ffv1", "preset": None, **options}


# ---- frames and times -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("at", [even(31), uneven(31), uneven(31, first=45000)], ids=["even", "vfr", "late"])
def test_every_frame_keeps_its_time_to_the_tick(up, tmp_path, kind, at):
    src = write(tmp_path / "a.mp4", noise(31, 36, 52), times=at)
    result, _ = up(src, tmp_path / f"b.{kind}")
    want = times(src)
    assert want == [t * clips.TICK for t in at]
    if kind == "mkv":  # whole milliseconds are all that it has
        want = [Fraction(round(t * 1000), 1000) for t in want]
    assert times(tmp_path / f"b.{kind}") == want
    assert result.frames == 31 and not result.damaged
    assert (result.height, result.width) == (72, 104)


def test_the_last_frame_keeps_its_duration(up, tmp_path):
    src = write(tmp_path / "a.mp4", noise(5, 36, 52), times=[0, 900, 1800, 9000, 9900])
    up(src, tmp_path / "b.mp4")
    assert frames(src)[-1].duration == 3600
    with av.open(str(tmp_path / "b.mp4")) as clip:
        assert clip.streams.video[0].duration * clip.streams.video[0].time_base == 13500 * clips.TICK


def test_an_edit_list_hides_what_it_hid(up, tmp_path):
    """Packets before the cut are in the file, but not shown."""
    src = write(tmp_path / "a.mp4", noise(40, 36, 52), sound=0, gop=10)
    cut = tmp_path / "cut.mp4"
    with av.open(str(src)) as old, av.open(str(cut), "w") as new:
        copies = {s.index: new.add_stream_from_template(s, opaque=True) for s in old.streams}
        for packet in old.demux():
            if packet.size:
                move = Fraction(1, 5) / packet.time_base
                packet.pts, packet.dts = packet.pts - int(move), packet.dts - int(move)
                packet.stream = copies[packet.stream.index]
                new.mux(packet)
    shown = times(cut)
    assert len(shown) == 35 and shown[0] == 0
    result, _ = up(cut, tmp_path / "b.mp4")
    assert times(tmp_path / "b.mp4") == shown and result.frames == 35
    assert packets(tmp_path / "b.mp4", "audio") == packets(cut, "audio")


@pytest.mark.parametrize("hw", [(35, 51), (34, 51), (35, 50), (17, 9)])
@pytest.mark.parametrize("scale", [2, 3])
def test_odd_sizes(up, tmp_path, hw, scale):
    path = tmp_path / "net.bsr"
    srresnet(scale=scale, blocks=1).write(path)
    src = write(tmp_path / "a.mkv", noise(3, *hw), codec="ffv1")
    up(src, tmp_path / "b.mkv", net=path, **lossless())
    assert {size(frame) for frame in frames(tmp_path / "b.mkv")} == {(scale * hw[0], scale * hw[1])}
    result, notes = up(src, tmp_path / "c.mp4", net=path)
    want = tuple(scale * n // 2 * 2 for n in hw)
    assert (result.height, result.width) == want
    assert {size(frame) for frame in frames(tmp_path / "c.mp4")} == {want}
    assert bool(notes) == (want != (scale * hw[0], scale * hw[1]))
    assert not notes or "cropped" in notes[0]


def test_start_and_end(up, tmp_path):
    src = write(tmp_path / "a.mkv", noise(50, 36, 52), sound=0)
    up(src, tmp_path / "b.mkv", start=0.5, end=1.2)
    shown = times(tmp_path / "b.mkv")
    assert len(shown) == 17 and shown[0] == Fraction(20, 1000)  # frames at 0.52, 0.56, ... 1.16
    sound = {data: t for t, data in packets(src, "audio")}
    for t, data in packets(tmp_path / "b.mkv", "audio"):
        assert sound[data] - t == Fraction(1, 2)
        assert 0.5 <= sound[data] < 1.2
    with pytest.raises(BitsrError, match="no frame between"):
        up(src, tmp_path / "c.mkv", start=100)


def test_max_height(up, tmp_path):
    src = write(tmp_path / "a.mp4", noise(3, 36, 52))
    result, _ = up(src, tmp_path / "b.mp4", max_height=50)
    assert (result.height, result.width) == (50, 72)
    assert {size(frame) for frame in frames(tmp_path / "b.mp4")} == {(50, 72)}


# ---- other streams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize("offset", [0, 24000])
def test_sound_is_bit_equal_and_in_sync(up, tmp_path, kind, offset):
    src = write(tmp_path / f"a.{kind}", noise(40, 36, 52), sound=offset)
    up(src, tmp_path / f"b.{kind}")
    assert packets(tmp_path / f"b.{kind}", "audio") == packets(src, "audio")
    assert times(tmp_path / f"b.{kind}") == times(src)


def test_subtitles_chapters_metadata_and_attachments_are_copied(up, tmp_path):
    src = write(
        tmp_path / "a.mkv", noise(30, 36, 52), sound=0, subtitles=True, attachment=True, chapters=True
    )
    _, notes = up(src, tmp_path / "b.mkv")
    assert not notes
    assert packets(tmp_path / "b.mkv", "subtitle") == packets(src, "subtitle")
    with av.open(str(src)) as a, av.open(str(tmp_path / "b.mkv")) as b:
        assert [s.type for s in a.streams] == [s.type for s in b.streams]
        assert b.metadata["title"] == "A title"
        assert b.streams.audio[0].metadata["language"] == "deu"
        assert [c["metadata"] for c in b.chapters()] == [{"title": "part 0"}, {"title": "part 1"}]
        assert [(c["start"], c["end"]) for c in a.chapters()] == [
            (c["start"], c["end"]) for c in b.chapters()
        ]
        assert b.streams.attachments[0].data == b"a font" * 50
        assert int(a.streams.audio[0].disposition) == int(b.streams.audio[0].disposition)


def test_what_the_format_cannot_hold_is_named_in_one_line(up, tmp_path):
    src = write(tmp_path / "a.mkv", noise(5, 36, 52), sound=0, subtitles=True, attachment=True)
    _, notes = up(src, tmp_path / "b.mp4")
    (note,) = notes
    assert "MP4" in note and "subtitles 2" in note and "attachment 3" in note and "sound" not in note
    with av.open(str(tmp_path / "b.mp4")) as clip:
        assert [s.type for s in clip.streams] == ["video", "audio"]


def copied(src, dst, cover=b""):
    """The streams of a clip in another container, with a cover."""
    with av.open(str(src)) as old, av.open(str(dst), "w") as new:
        copies = {s.index: new.add_stream_from_template(s, opaque=True) for s in old.streams}
        if cover:
            stream = new.add_mux_stream("mjpeg", width=16, height=16)
            stream.disposition = int(av.stream.Disposition.attached_pic)
            packet = av.Packet(cover)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, 0, 0, True
            new.mux(packet)
        for packet in old.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                new.mux(packet)
    return dst


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_transport_streams_have_their_sound_in_other_containers(up, tmp_path, kind):
    src = write(tmp_path / "a.mp4", noise(20, 36, 52), sound=0)
    ts = copied(src, tmp_path / "a.ts")
    _, notes = up(ts, tmp_path / f"b.{kind}")
    assert not notes and times(tmp_path / f"b.{kind}") == times(ts)
    assert [data for _, data in packets(tmp_path / f"b.{kind}", "audio")] == [
        d for _, d in packets(src, "audio")
    ]
    late = [
        abs(a - b)
        for (a, _), (b, _) in zip(packets(tmp_path / f"b.{kind}", "audio"), packets(ts, "audio"), strict=True)
    ]
    assert max(late) <= Fraction(1, 1000)


def test_a_cover_is_kept_or_named(up, tmp_path):
    image = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 30)).save(image, "JPEG")
    src = copied(write(tmp_path / "a.mp4", noise(5, 36, 52)), tmp_path / "c.mp4", image.getvalue())
    _, notes = up(src, tmp_path / "b.mkv")
    assert not notes
    with av.open(str(tmp_path / "b.mkv")) as clip:
        kinds = [int(s.disposition) & int(av.stream.Disposition.attached_pic) for s in clip.streams]
        assert len(kinds) == 2 and kinds[1]
    _, notes = up(src, tmp_path / "b.mp4")
    assert len(notes) == 1 and "cover" in notes[0]


# ---- colour -----------------------------------------------------------------------------------------------


def test_luma_of_limited_range_enters_as_it_stands():
    for bits in (8, 10, 12):
        layout = Layout(bits, 2, 2)
        table, back = to_net(layout, False), from_net(layout, False)
        for level in (16, 128, 235):
            assert table[level << bits - 8] == round(128 * (level - 127.5))
        sound = np.arange(1 << bits - 8, 255 << bits - 8)
        assert (back[table[sound].view(np.uint16)] == sound).all()


def test_full_range_is_mapped_onto_the_range_of_the_nets():
    for bits in (8, 10):
        layout, top = Layout(bits, 2, 2), (1 << bits) - 1
        table, back = to_net(layout, True), from_net(layout, True)
        assert table[0] == round(128 * (16 - 127.5)) and table[top] == round(128 * (235 - 127.5))
        assert (back[table[np.arange(top + 1)].view(np.uint16)] == np.arange(top + 1)).all()


@pytest.mark.parametrize("siting", ["left", "center", "topleft", "bottom"])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("shares", [(2, 2), (2, 1), (1, 1), (4, 1)])
def test_chroma_does_not_shift(siting, scale, shares):
    """A slope over luma's coordinates is the same slope in the enlarged plane, whatever the siting."""
    across, down = shares
    layout = Layout(8, across, down)
    h, w = 24, 32
    x, y = layout.sites(siting)

    def slope(rows, columns, scale):
        """The value at each chroma sample, by where it lies in the small image's luma."""
        v = (np.arange(rows) * down + y + 0.5) / scale - 0.5
        u = (np.arange(columns) * across + x + 0.5) / scale - 0.5
        return 1000 + 300 * v[:, None] + 200 * u

    (rows, columns), (big_rows, big_columns) = layout.sizes(h, w)[1], layout.sizes(scale * h, scale * w)[1]
    scaler = PlaneScaler(
        Axis(rows, big_rows, scale, down, y), Axis(columns, big_columns, scale, across, x), 65535
    )
    small = np.rint(slope(rows, columns, 1)).astype(np.uint16)
    inner = np.s_[3 * scale : -3 * scale, 3 * scale : -3 * scale]
    error = scaler(small).astype(float) - slope(big_rows, big_columns, scale)
    assert abs(error[inner]).max() <= 1.5  # rounding of both


def test_rows_of_chroma_are_those_of_the_whole():
    plane = np.random.default_rng(0).integers(0, 256, (13, 11)).astype(np.uint8)
    for scale, out in ((2, (25, 21)), (3, (39, 33))):
        scaler = PlaneScaler(Axis(13, out[0], scale, 2, 0.5), Axis(11, out[1], scale, 2, 0.0), 255)
        whole = scaler(plane)
        assert whole.shape == out
        for top, bottom in ((0, 13), (0, 1), (4, 9), (12, 13)):
            assert (scaler(plane, top, bottom) == whole[scale * top : scale * bottom]).all()
    assert (scaler(np.full((13, 11), 77, np.uint8)) == 77).all()


@pytest.mark.parametrize(
    ("format", "look"),
    [
        ("yuv420p", {"color_range": 1}),
        ("yuv420p", {"color_range": 2}),
        ("yuv422p", {"color_range": 1}),
        ("yuv444p", {"color_range": 1}),
        ("yuv420p10le", {"color_range": 1}),
        ("yuv422p10le", {"color_range": 1}),
        ("gray", {"color_range": 1}),
    ],
)
def test_grey_ramp_and_colour_bars_keep_their_values(up, tmp_path, format, look):
    """Within one level, decoded by FFmpeg: a ramp everywhere, bars away from their edges."""
    bits = 10 if "10" in format else 8
    unit = 1 << bits - 8
    low, high = (0, 255) if look["color_range"] == 2 else (16, 235)
    h, w = 32, 64
    ramp = np.rint(np.linspace(low, high, w) * unit)
    bars = np.repeat([low, 60, 110, 160, 200, high], 11)[:w] * unit
    luma = np.where(np.arange(h)[:, None] < h // 2, ramp, bars).astype(np.uint16 if bits == 10 else np.uint8)
    chroma = (np.uint16(90 * unit), np.uint16(200 * unit)) if format != "gray" else None
    src = write(
        tmp_path / "a.mkv", [luma] * 2, format=format, codec="ffv1", chroma=chroma, look=look, options={}
    )
    up(src, tmp_path / "b.mkv", net=REAL, **lossless())
    (first, *_), out = frames(src), frames(tmp_path / "b.mkv")[1]
    assert out.format.name == first.format.name and int(out.color_range) == look["color_range"]
    result = planes_of(out)
    means = result[0].reshape(h, 2, w, 2).mean((1, 3))
    assert abs(means[2 : h // 2 - 7, 2:-2] - ramp[2:-2]).max() <= unit
    inside = np.arange(2 * w) % 22
    inside = (inside >= 6) & (inside < 16) & (np.arange(2 * w) < 2 * 66 - 22)
    assert abs(result[0][h + 14 : -4, inside] - np.repeat(bars, 2)[inside].astype(float)).max() <= unit
    if chroma:
        assert (result[1] == chroma[0]).all() and (result[2] == chroma[1]).all()


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_what_frames_are_meant_to_look_like_is_carried(up, tmp_path, kind, codec):
    from bitsr.video.look import hdr, siting_of

    look = {"color_range": 1, "colorspace": 9, "color_primaries": 9, "color_trc": 16,
            "sample_aspect_ratio": Fraction(4, 3)}  # fmt: skip
    params = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    src = write(
        tmp_path / "a.mp4",
        noise(3, 36, 52, bits=10),
        format="yuv420p10le",
        codec="libx265",
        options={
            "preset": "ultrafast",
            "chroma_sample_location": "topleft",
            "x265-params": f"log-level=none:{params}:max-cll=1000,400",
        },
        look=look,
        rotation=90,
    )
    _, notes = up(src, tmp_path / f"b.{kind}", codec=codec)
    assert not notes
    a, b = frames(src)[0], frames(tmp_path / f"b.{kind}")[0]
    assert b.format.name == "yuv420p10le"
    for key in ("color_range", "colorspace", "color_primaries", "color_trc", "rotation"):
        assert getattr(a, key) == getattr(b, key), key
    assert b.rotation == 90
    assert siting_of(a) == siting_of(b) == "topleft"
    mastering, light = hdr(a)
    assert mastering and light == (1000, 400) and mastering.luminance == (1000, Fraction(1, 200))
    assert hdr(b) == (mastering, light)
    with av.open(str(tmp_path / f"b.{kind}")) as clip:
        assert clip.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_semi_planar_and_packed_formats_come_out_planar(up, tmp_path):
    luma = noise(2, 32, 48)
    planar = write(tmp_path / "a.mkv", luma, codec="ffv1", chroma=(100, 180))
    for name, format in (("nv12", "yuv420p"), ("yuyv422", "yuv422p")):
        src = tmp_path / f"{name}.mkv"
        with av.open(str(src), "w") as out:
            video_ = out.add_stream("rawvideo", rate=25)
            video_.width, video_.height, video_.pix_fmt = 48, 32, name
            for i, frame in enumerate(frames(planar)):
                frame = frame.reformat(format=name)
                frame.pts, frame.time_base = i, Fraction(1, 25)
                out.mux(video_.encode(frame))
            out.mux(video_.encode())
        up(src, tmp_path / f"{name}-b.mkv", **lossless())
        up(planar, tmp_path / "planar.mkv", **lossless(), overwrite=True)
        ours, theirs = frames(tmp_path / f"{name}-b.mkv")[0], frames(tmp_path / "planar.mkv")[0]
        assert ours.format.name == format
        assert (planes_of(ours)[0] == planes_of(theirs)[0]).all()
        assert (planes_of(ours)[1] == 100).all() and (planes_of(ours)[2] == 180).all()


def test_rgb_becomes_yuv_and_transparency_is_named(up, tmp_path):
    Image.new("RGBA", (20, 20), (255, 0, 0, 255)).save(
        tmp_path / "a.png", save_all=True, append_images=[Image.new("RGBA", (20, 20), (0, 0, 255, 255))]
    )
    src = tmp_path / "a.mkv"
    with av.open(str(src), "w") as out:
        video_ = out.add_stream("ffv1", rate=25)
        video_.width, video_.height, video_.pix_fmt = 20, 20, "bgra"
        for i in range(2):
            frame = av.VideoFrame.from_ndarray(np.full((20, 20, 4), (0, 0, 255, 255), np.uint8), "bgra")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(video_.encode(frame))
        out.mux(video_.encode())
    _, notes = up(src, tmp_path / "b.mkv", net=REAL, **lossless())
    assert any("transparency" in note for note in notes)
    red = frames(tmp_path / "b.mkv")[0].reformat(format="rgb24").to_ndarray()[20, 20]
    assert abs(red.astype(int) - (255, 0, 0)).max() <= 3


# ---- regions that do not change ---------------------------------------------------------------------------


def moving(n, layout, height, width):
    """Frames of which little changes: nothing, a corner, one sample, chroma alone, all."""
    rng = np.random.default_rng(1)
    top = 256 << layout.bits - 8
    now = [rng.integers(0, top, size).astype(layout.dtype) for size in layout.sizes(height, width)]
    for i in range(n):
        now = [plane.copy() for plane in now]
        if i % 6 == 1:
            now[0][:3, -4:] = rng.integers(0, top)
        elif i % 6 == 2:
            now[0][rng.integers(height), rng.integers(width)] ^= 1
            now[0][-1, 0] ^= 1
        elif i % 6 == 3 and len(now) > 1:
            now[1][rng.integers(len(now[1])), 1] ^= 3
        elif i % 6 == 5:
            now[0] = rng.integers(0, top, now[0].shape).astype(layout.dtype)
        yield tuple(now)


@pytest.mark.parametrize("layout", [Layout(8, 2, 2), Layout(10, 2, 1), Layout(8, 0, 0)])
@pytest.mark.parametrize("workers", [1, 3])
def test_reuse_changes_no_byte(net, layout, workers):
    engine = load(net, threads=1).engine
    outs, pixels = [], []
    for reuse in (True, False):
        frame_net = FrameNet(engine, layout, 61, 83, workers=workers, reuse=reuse)
        run = frame_net.run(moving(14, layout, 61, 83), lambda planes: planes)
        outs.append([[plane.copy() for plane in planes] for _, planes in run])
        pixels.append(frame_net.pixels)
    for ours, theirs in zip(*outs, strict=True):
        assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    assert pixels[0] < pixels[1] / 2


def test_boxes_cover_what_has_changed():
    rng = np.random.default_rng(0)
    for _ in range(50):
        changed = rng.random((40, 60)) < rng.choice([0, 0.001, 0.01])
        covered = np.zeros_like(changed)
        for box in boxes(changed, radius=2):
            box.of(covered)[...] = True
        assert not (changed & ~covered).any()
    far = np.zeros((500, 500), bool)
    far[3, 4] = far[480, 490] = True
    assert len(boxes(far, radius=5)) == 2


def test_a_file_has_the_same_bytes_without_reuse_and_with_threads(up, tmp_path):
    still = noise(1, 36, 52)[0]
    lumas = [still.copy() for _ in range(8)]
    for i, luma in enumerate(lumas):
        luma[5 : 5 + i, 8:12] = 200
    src = write(tmp_path / "a.mkv", lumas, codec="ffv1")
    for name, more in (("b", {}), ("c", {"reuse": False}), ("d", {"threads": 3})):
        up(src, tmp_path / f"{name}.mkv", **lossless(**more))
    a, *others = ([planes_of(f) for f in frames(tmp_path / f"{name}.mkv")] for name in "bcd")
    for other in others:
        for ours, theirs in zip(a, other, strict=True):
            assert all((x == y).all() for x, y in zip(ours, theirs, strict=True))


# ---- interlacing ------------------------------------------------------------------------------------------


@pytest.fixture
def interlaced(tmp_path):
    return write(
        tmp_path / "i.mkv",
        noise(12, 48, 64),
        codec="mpeg2video",
        tick=Fraction(1, 25),
        times=list(range(12)),
        interlaced=True,
        options={"flags": "+ilme+ildct", "qscale": "2"},
    )


def test_interlaced_clips_are_refused_or_made_whole(up, tmp_path, interlaced):
    assert frames(interlaced)[0].interlaced_frame
    with pytest.raises(BitsrError, match="interlaced; --deinterlace"):
        up(interlaced, tmp_path / "b.mkv")
    assert not (tmp_path / "b.mkv").exists()
    up(interlaced, tmp_path / "b.mkv", deinterlace=True)
    assert times(tmp_path / "b.mkv") == times(interlaced)
    assert not frames(tmp_path / "b.mkv")[0].interlaced_frame


def test_deinterlacing_leaves_whole_frames_as_they_are(up, tmp_path):
    src = write(tmp_path / "a.mkv", noise(6, 36, 52), codec="ffv1")
    up(src, tmp_path / "b.mkv", **lossless())
    up(src, tmp_path / "c.mkv", **lossless(deinterlace=True))
    for a, b in zip(frames(tmp_path / "b.mkv"), frames(tmp_path / "c.mkv"), strict=True):
        assert a.pts == b.pts and (planes_of(a)[0] == planes_of(b)[0]).all()


# ---- stopping and going on --------------------------------------------------------------------------------


def command(*args, **more):
    arguments = [sys.executable, "-m", "bitsr", "video", *map(str, args), "-j", "1"]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def wait_for(path, least):
    """Until a file has so many bytes."""
    until = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < least:
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A clip that takes some seconds."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    return write(path, noise(240, 48, 64), sound=0, times=even(240, 10), rate=10)


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_control_c_ends_the_file_so_that_it_plays(long, net, tmp_path, kind):
    out = tmp_path / f"b.{kind}"
    # a shell's job in the background would hand down that SIGINT is ignored
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = command(long, "-o", out, "-n", net, "--preset", "ultrafast", preexec_fn=heard)
    wait_for(out, 50_000)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped at" in err and "plays to there" in err and "Traceback" not in err
    shown = times(out)
    assert 10 < len(shown) < 240
    late = Fraction(21, 1000) if kind == "mkv" else 0  # MKV has no times below 0, where the sound begins
    assert shown == [t + late for t in times(long)[: len(shown)]]
    assert late == 0 or "begin 21 ms later, in sync" in err
    assert len(packets(out, "audio")) > 10


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_killed_and_gone_on_with(long, net, up, tmp_path, kind):
    out = tmp_path / f"b.{kind}"
    process = command(long, "-o", out, "-n", net, "--preset", "ultrafast")
    wait_for(out, 50_000)
    until = time.monotonic() + 60
    while kept_of(out) is None and time.monotonic() < until:
        time.sleep(0.1)
    process.kill()
    process.communicate()
    assert 50 <= len(times(out)) < 240
    assert len(packets(out, "audio")) > 50
    before = out.read_bytes()
    with pytest.raises(BitsrError, match="is there already"):
        up(long, out)
    with pytest.raises(BitsrError, match="other settings"):
        up(long, out, resume=True, codec="libx265")
    assert out.read_bytes() == before
    seen = []
    result, notes = up(long, out, resume=True, progress=seen.append)
    assert not notes and result.frames == 240
    assert 0 < seen[-1].done < 240 and seen[-1].frames == 240
    up(long, tmp_path / f"whole.{kind}")
    assert times(out) == times(tmp_path / f"whole.{kind}")
    assert packets(out, "audio") == packets(tmp_path / f"whole.{kind}", "audio")
    a, b = frames(out), frames(tmp_path / f"whole.{kind}")
    for i in range(0, 240, 7):
        ours, theirs = planes_of(a[i])[0].astype(int), planes_of(b[i])[0].astype(int)
        assert abs(ours - theirs).mean() < 4  # the same frames, coded in other company


def test_a_run_that_was_cancelled_is_gone_on_with(up, tmp_path):
    src = write(tmp_path / "a.mkv", noise(60, 36, 52))
    count = 0

    def cancel():
        nonlocal count
        count += 1
        return count > 40

    result, _ = up(src, tmp_path / "b.webm", codec="libvpx-vp9", preset=None, cancel=cancel)
    assert result.cancelled and result.frames == 40
    assert len(times(tmp_path / "b.webm")) == 40
    result, _ = up(src, tmp_path / "b.webm", codec="libvpx-vp9", preset=None, resume=True)
    assert times(tmp_path / "b.webm") == times(src) and result.frames == 60


def test_a_full_disk_is_one_line_and_what_there_is_plays(long, net, tmp_path):
    resource = pytest.importorskip("resource")
    out = tmp_path / "b.mkv"
    limit = 200_000
    process = command(
        long,
        "-o",
        out,
        "-n",
        net,
        "--crf",
        "1",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    *_, line = err.splitlines()
    assert line.startswith(f"bitsr: {out}: File too large; it plays to ")
    with av.open(str(out)) as clip:
        shown = 0
        for packet in clip.demux(video=0):
            shown += len(packet.decode())
    assert 10 < shown < 240


# ---- broken input -----------------------------------------------------------------------------------------


def test_a_clip_that_was_cut_short(up, tmp_path):
    src = write(tmp_path / "a.mkv", noise(100, 36, 52))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(src.read_bytes()[: src.stat().st_size // 2])
    result, notes = up(cut, tmp_path / "b.mkv")
    assert 20 < result.frames < 80
    assert times(tmp_path / "b.mkv") == times(src)[: result.frames]
    assert any("cut short" in note for note in notes)


def test_a_missing_index_and_other_files_are_one_line(up, tmp_path):
    src = write(tmp_path / "a.mp4", noise(20, 36, 52))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(src.read_bytes()[: src.stat().st_size // 2])
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as out:
        audio = out.add_stream("aac", rate=48000)
        chunk = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        chunk.sample_rate = 48000
        out.mux(audio.encode(chunk))
        out.mux(audio.encode())
    text = tmp_path / "text.mkv"
    text.write_text("no clip" * 100)
    image = tmp_path / "a.jpg"
    Image.new("RGB", (32, 32)).save(image)
    for path, words in (
        (cut, "index"),
        (sound, "has no video stream"),
        (text, "no video file"),
        (image, "is an image"),
        (tmp_path, "no video file|Is a directory"),
    ):
        with pytest.raises(BitsrError, match=words) as error:
            up(path, tmp_path / "b.mp4")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "b.mp4").exists()
    with pytest.raises(FileNotFoundError):
        up(tmp_path / "nothing.mp4", tmp_path / "b.mp4")


def test_damaged_frames_are_left_out_and_counted(up, tmp_path):
    src = write(tmp_path / "a.mp4", noise(40, 96, 128), options={"bf": "0"})
    with av.open(str(src)) as clip:
        places = [(p.pos, p.size) for p in clip.demux(video=0) if p.size]
    data = bytearray(src.read_bytes())
    for at, n in places[5], places[20]:
        data[at + n // 3 : at + n] = os.urandom(n - n // 3)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    result, notes = up(broken, tmp_path / "b.mp4")
    assert 1 <= result.damaged <= 4
    assert result.frames == 40 - result.damaged == len(times(tmp_path / "b.mp4"))
    assert set(times(tmp_path / "b.mp4")) < set(times(src))
    assert any("damaged" in note for note in notes)
    with pytest.raises(BitsrError, match=r"damaged|decoded"):
        up(broken, tmp_path / "c.mp4", strict=True)


def test_an_encrypted_clip_is_named(up, tmp_path):
    src = write(
        tmp_path / "a.mp4",
        noise(10, 36, 52),
        muxer={
            "encryption_scheme": "cenc-aes-ctr",
            "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
            "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
        },
    )
    with pytest.raises(BitsrError, match="is encrypted"):
        up(src, tmp_path / "b.mp4")


def test_settings_that_are_refused_touch_no_file(up, tmp_path):
    src = write(tmp_path / "a.mp4", noise(3, 36, 52))
    there = tmp_path / "there.mkv"
    there.write_bytes(b"something else")
    for options, words in (
        ({"codec": "nothing"}, "no video encoder"),
        ({"codec": "aac"}, "no video encoder"),
        ({"codec": "ffv1"}, "ffv1 has no such setting"),
        ({"preset": "quickest"}, "preset"),
        ({"pix_fmt": "rgb24"}, "--pix-fmt"),
        ({"start": 3, "end": 2}, "--end"),
        ({"max_height": 3}, "--max-height"),
        ({"scale": 3}, "x3"),
        ({"net": "nothing"}, "no net"),
        ({"threads": 5000}, "threads"),
    ):
        with pytest.raises(BitsrError, match=words):
            up(src, there, **{"overwrite": True, **options})
    assert there.read_bytes() == b"something else"
    for path, words in (
        (there, "is there already"),
        (src, "overwrite the input"),
        (tmp_path / "b.avi", "output format"),
    ):
        with pytest.raises(BitsrError, match=words):
            up(src, path)
    with pytest.raises(BitsrError, match="WebM does not hold libx264"):
        up(src, tmp_path / "b.webm", codec="libx264")
    assert not (tmp_path / "b.webm").exists()


# ---- pipes, GIF and WebP, the library ---------------------------------------------------------------------


def test_yuv4mpeg_from_pipe_to_pipe(net, tmp_path):
    src = write(tmp_path / "a.mkv", noise(9, 36, 52), codec="ffv1", look={"color_range": 1})
    first = command(src, "-o", "-", "-n", net)
    assert first.stdout
    second = command("-", "-o", "-", "-n", net, stdin=first.stdout)
    first.stdout.close()
    third = subprocess.Popen(
        [sys.executable, "-m", "bitsr", "video", "-", "-o", str(tmp_path / "c.mkv"), "-n", str(net), "-j", "1",
         "--codec", "ffv1"],
        stdin=second.stdout, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert second.stdout
    second.stdout.close()
    third.communicate(timeout=60)
    assert third.returncode == second.wait() == first.wait() == 0
    out = frames(tmp_path / "c.mkv")
    assert len(out) == 9 and size(out[0]) == (288, 416)
    assert times(tmp_path / "c.mkv") == times(src)


def gif(path, n=5):
    """Colours that no two frames share."""
    images = [Image.new("RGB", (24, 20), (40 * i, 200 - 40 * i, 90)) for i in range(n)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=[100, 40, 200, 40, 70][:n], loop=0)
    return path


def test_gif_to_a_clip_and_back(up, tmp_path):
    src = gif(tmp_path / "a.gif")
    up(src, tmp_path / "b.mp4", net=REAL, pix_fmt="yuv420p")
    assert [float(t) for t in times(tmp_path / "b.mp4")] == pytest.approx([0, 0.1, 0.14, 0.34, 0.38])
    for kind in ("gif", "webp"):
        up(tmp_path / "b.mp4", tmp_path / f"c.{kind}", net=REAL, preset=None)
        with Image.open(tmp_path / f"c.{kind}") as opened:
            image: Any = opened
            assert image.n_frames == 5 and image.size == (96, 80)
            delays = []
            for i in range(5):
                image.seek(i)
                image.load()
                delays.append(image.info["duration"])
                got = image.convert("RGB").getpixel((40, 40))
                assert np.abs(np.subtract(got, (40 * i, 200 - 40 * i, 90))).max() < 12
        assert delays[:4] == [100, 40, 200, 40]


def test_webp_to_a_clip(up, tmp_path):
    images = [Image.new("RGB", (24, 20), (40 * i, 200 - 40 * i, 90)) for i in range(3)]
    src = tmp_path / "a.webp"
    images[0].save(src, save_all=True, append_images=images[1:], duration=[100, 40, 70], lossless=True)
    up(src, tmp_path / "b.mp4", net=REAL)
    assert [float(t) for t in times(tmp_path / "b.mp4")] == pytest.approx([0, 0.1, 0.14])
    got = frames(tmp_path / "b.mp4")[1].to_ndarray(format="rgb24")[20, 20]
    assert abs(got.astype(int) - (40, 160, 90)).max() < 6
    images[0].save(tmp_path / "one.webp")
    with pytest.raises(BitsrError, match="is an image"):
        up(tmp_path / "one.webp", tmp_path / "c.mp4")


def test_frames_one_by_one(net, up, tmp_path):
    src = write(tmp_path / "a.mkv", noise(7, 35, 51, bits=10), format="yuv422p10le", codec="ffv1")
    up(src, tmp_path / "b.mkv", **lossless())
    whole = frames(tmp_path / "b.mkv")
    count = 0
    for ours, theirs in zip(video.frames(src, net=net, threads=1), whole, strict=True):
        assert ours.bits == 10 and ours.planes[0].dtype == np.uint16
        assert ours.pts * ours.time_base == theirs.pts * theirs.time_base
        assert all((a == b).all() for a, b in zip(ours.planes, planes_of(theirs), strict=True))
        count += 1
    assert count == 7
    for _ in video.frames(src, net=net, threads=1):  # one may leave at any time
        break


def test_luma_is_that_of_the_engine(net, up, tmp_path):
    src = write(tmp_path / "a.mkv", noise(2, 36, 52), codec="ffv1")
    up(src, tmp_path / "b.mkv", **lossless())
    engine = load(net).engine
    for small, large in zip(frames(src), frames(tmp_path / "b.mkv"), strict=True):
        q = engine.run(planes_of(small)[0].astype(np.int16) * 128 - 16320)
        want = np.clip((q.astype(int) + 16320 + 64) >> 7, 1, 254)
        assert (planes_of(large)[0] == want).all()


def test_the_net_is_chosen_by_the_codec(tmp_path):
    lossy = write(tmp_path / "a.mkv", noise(2, 16, 24))
    kept = write(tmp_path / "b.mkv", noise(2, 16, 24), codec="ffv1")
    for src, scale, want in (
        (lossy, 2, "bitsr-photo-m-x2"),
        (kept, 2, "bitsr-m-x2"),
        (lossy, 3, "bitsr-m-x3"),
    ):
        result = video.upscale(src, tmp_path / "c.mkv", scale, threads=1, overwrite=True)
        assert result.net == want


def test_progress_as_json(net, tmp_path, capfd):
    src = write(tmp_path / "a.mkv", noise(9, 36, 52))
    code = main(["video", str(src), "-o", str(tmp_path / "b.mkv"), "-n", str(net), "--progress", "json"])
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert code == 0 and lines[-1]["done"] and lines[-1]["frame"] == 9


def test_an_output_that_cannot_be_opened_stays(up, tmp_path):
    src = write(tmp_path / "a.mkv", noise(2, 36, 52))
    with pytest.raises(OSError, match="No such file"):
        up(src, tmp_path / "nowhere" / "b.mkv")
    there = tmp_path / "b.mkv"
    there.write_bytes(b"something else")
    there.chmod(0o444)
    if not os.access(there, os.W_OK):  # which root always may
        with pytest.raises(OSError, match="denied"):
            up(src, there, overwrite=True)
        assert there.read_bytes() == b"something else"


@pytest.mark.parametrize("text", ["1:70", "-3", "a", "1:2:3:4"])
def test_times_that_make_no_sense_are_one_line(tmp_path, capfd, text):
    src = write(tmp_path / "a.mkv", noise(2, 36, 52))
    assert main(["video", str(src), "-o", str(tmp_path / "b.mkv"), f"--start={text}"]) == 1
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_without_pyav_one_line_names_the_extra(tmp_path, monkeypatch, capfd):
    src = write(tmp_path / "a.mkv", noise(2, 36, 52))
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["video", str(src), "-o", str(tmp_path / "b.mkv")]) == 1
    assert "bitsr[video]" in capfd.readouterr().err


def test_importing_it_imports_no_pyav():
    code = "import sys, bitsr.video, bitsr.cli.main; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
