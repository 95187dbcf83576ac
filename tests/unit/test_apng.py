"""Animated PNG: every frame as a browser shows it, times and loops kept, damage refused."""

from __future__ import annotations

import struct
import zlib
from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitsr import photo
from bitsr.photo import png
from bitsr.photo.apng import Animation
from bitsr.photo.png import SIGNATURE, chunk, chunks

RNG = np.random.default_rng(0)


def packed(pixels):
    """Pixels (h, w, C) as the data of a PNG."""
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(len(pixels), -1).view(np.uint8)
    return zlib.compress(np.concatenate((np.zeros((len(pixels), 1), np.uint8), rows), 1).tobytes())


def animation(frames, *, depth=8, loop=0, still=None, split=1, header=None):
    """A file of frames (pixels, x, y, dispose, blend, delay in ms); still: an image that is no frame."""
    first = frames[0][0] if still is None else still
    height, width, channels = first.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    out = [SIGNATURE, chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))]
    out.append(chunk(b"acTL", struct.pack(">II", len(frames), loop)))
    if still is not None:
        out.append(chunk(b"IDAT", packed(still)))
    number = 0
    for i, (pixels, x, y, dispose, blend, delay) in enumerate(frames):
        h, w = pixels.shape[:2]
        times = struct.pack(">HHBB", delay, 1000, dispose, blend)
        out.append(chunk(b"fcTL", struct.pack(">IIIII", number, w, h, x, y) + times))
        number += 1
        data = packed(pixels)
        for at in range(0, len(data), max(1, len(data) // split)):
            part = data[at : at + max(1, len(data) // split)]
            if i == 0 and still is None:
                out.append(chunk(b"IDAT", part))
            else:
                out.append(chunk(b"fdAT", struct.pack(">I", number) + part))
                number += 1
    return b"".join([*out, chunk(b"IEND", b"")])


def noise(h, w, channels=4, dtype: Any = np.uint8):
    pixels = RNG.integers(0, np.iinfo(dtype).max + 1, (h, w, channels)).astype(dtype)
    if channels % 2 == 0:
        pixels[: h // 3, :, -1] = 0
        pixels[h // 2 :, :, -1] = np.iinfo(dtype).max
    return pixels


def shown(frames):
    """The frames as the standard has them composed, RGBA in [0, 1]."""
    height, width, channels = frames[0][0].shape
    canvas = np.zeros((height, width, 4))
    for pixels, x, y, dispose, blend, _ in frames:
        before = canvas.copy()
        top = np.ones((*pixels.shape[:2], 4))
        top[..., :channels] = pixels / 255
        area = canvas[y : y + len(pixels), x : x + pixels.shape[1]]
        if blend:
            a, b = top[..., 3:], area[..., 3:]
            alpha = a + b * (1 - a)
            colour = (a * top[..., :3] + (1 - a) * b * area[..., :3]) / np.where(alpha > 0, alpha, 1)
            area[:] = np.concatenate((colour, alpha), 2)
        else:
            area[:] = top
        yield canvas.copy()
        if dispose == 1:
            area[:] = 0
        elif dispose == 2:
            canvas = before


@pytest.mark.parametrize(("dispose", "blend"), [*product((0, 1, 2), (0, 1))])
@pytest.mark.parametrize("channels", [3, 4])
def test_frames_are_composed(tmp_path, dispose, blend, channels):
    frames = [
        (noise(30, 40, channels), 0, 0, dispose if dispose != 2 else 0, 0, 70),
        (noise(11, 13, channels), 5, 7, dispose, blend, 20),
        (noise(9, 20, channels), 10, 12, dispose, blend, 500),
        (noise(30, 40, channels)[:5], 0, 25, 0, blend, 40),
    ]
    (tmp_path / "a.png").write_bytes(animation(frames, loop=3, split=3))
    opened = photo.read(tmp_path / "a.png", frames=True)
    assert (opened.frames, opened.height, opened.width) == (4, 120, 40)
    assert (opened.delays, opened.loop, opened.notes) == ([70, 20, 500, 40], 3, [])
    assert opened.channels == (3 if channels == 3 and dispose != 1 else 4)
    for i, want in enumerate(shown(frames)):
        got = np.concatenate(list(opened.rows(7, i)))
        if opened.channels == 3:
            assert (want[..., 3] == 1).all()
            want = want[..., :3]
        seen = want[..., -1] > 0.02 if opened.channels == 4 else np.ones(want.shape[:2], bool)
        # Of thin colours a level of alpha is many of colour: what counts is what is seen.
        off = np.abs(got - 255 * want)
        if opened.channels == 4:
            off[..., :3] *= want[..., 3:]
            assert (got[~seen][:, 3] <= 6).all()
        assert off[seen].max(initial=0) <= 2
        if not blend and opened.channels == channels:
            with Image.open(tmp_path / "a.png") as image:
                image.seek(i)
                assert (np.array(image) == got).all()


def test_a_still_image_before_the_frames_is_none(tmp_path):
    frames = [(noise(8, 9), 0, 0, 0, 0, 10), (noise(8, 9), 0, 0, 0, 0, 20)]
    (tmp_path / "a.png").write_bytes(animation(frames, still=noise(8, 9)))
    opened = photo.read(tmp_path / "a.png", frames=True)
    assert opened.frames == 2
    for i, (pixels, *_) in enumerate(frames):
        assert (np.concatenate(list(opened.rows(3, i))) == pixels).all()
    assert photo.read(tmp_path / "a.png").notes == ["first of 2 frames taken"]


def test_16_bits_stay(tmp_path):
    frames = [(noise(8, 9, 3, np.uint16), 0, 0, 0, 0, 10), (noise(4, 5, 3, np.uint16), 2, 3, 0, 0, 20)]
    (tmp_path / "a.png").write_bytes(animation(frames, depth=16))
    opened = photo.read(tmp_path / "a.png", frames=True)
    assert opened.depth == 16
    one, two = (np.concatenate(list(opened.rows(8, i))) for i in range(2))
    assert (one == frames[0][0]).all()
    assert (two[3:7, 2:7] == frames[1][0]).all() and (two[:3] == one[:3]).all()


SOUND = animation(
    [(noise(12, 12), 0, 0, 0, 0, 10), (noise(6, 6), 3, 3, 0, 1, 20), (noise(6, 6), 0, 3, 0, 1, 20)], split=4
)


def changed(kind, change):
    """SOUND with the second chunk of a kind changed, checksums right again."""
    found = [(start, end) for k, start, end in chunks(SOUND) if k == kind]
    start, end = found[min(1, len(found) - 1)]
    return SOUND[:start] + chunk(kind, change(SOUND[start + 8 : end - 4])) + SOUND[end:]


@pytest.mark.parametrize(
    "data",
    [
        SOUND[: 2 * len(SOUND) // 3],
        SOUND[:-60],
        SOUND[:600] + bytes([SOUND[600] ^ 255]) + SOUND[601:],
        changed(b"fcTL", lambda body: body[:4] + struct.pack(">I", 10) + body[8:]),  # too wide for its place
        changed(b"fcTL", lambda body: body[:4] + struct.pack(">I", 0) + body[8:]),
        changed(b"fcTL", lambda body: body[:12] + struct.pack(">I", 2**32 - 2) + body[16:]),
        changed(b"fcTL", lambda body: body[:24] + b"\7\0"),
        changed(b"acTL", lambda body: struct.pack(">I", 4) + body[4:]),
        changed(b"acTL", lambda body: struct.pack(">I", 2**32 - 1) + body[4:]),
        changed(b"fdAT", lambda body: body[:4]),
        changed(b"fdAT", lambda body: body[:8] + bytes(len(body) - 8)),
    ],
)
def test_damaged_frames_are_refused(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(photo.PhotoError):
        opened = photo.read(tmp_path / "a.png", frames=True)
        for i in range(opened.frames):
            list(opened.rows(5, i))


@pytest.mark.parametrize("source", ["png", "gif", "webp"])
def test_animations_go_to_png(tmp_path, source):
    frames = [Image.fromarray(np.full((20, 24, 3), (60 * i, 200 - 60 * i, 40), np.uint8)) for i in range(3)]
    more: Any = {"lossless": True} if source == "webp" else {}
    frames[0].save(
        tmp_path / f"a.{source}",
        save_all=True,
        append_images=frames[1:],
        duration=[70, 150, 30],
        loop=2,
        **more,
    )
    opened = photo.read(tmp_path / f"a.{source}", frames=True)
    kept = {"frames": 3, "delays": opened.delays, "loop": opened.loop}
    with photo.Writer(tmp_path / "b.png", "png", 60, 24, opened.channels, 8, **kept) as writer:
        for i in range(3):
            for rows in opened.rows(7, i):
                writer.write(rows)
    again = photo.read(tmp_path / "b.png", frames=True)
    assert (again.frames, again.delays, again.loop) == (3, [70, 150, 30], opened.loop)
    with Image.open(tmp_path / "b.png") as image:
        assert getattr(image, "n_frames", 1) == 3 and image.info["loop"] == opened.loop
        for i in range(3):
            image.seek(i)
            assert np.abs(np.array(image.convert("RGB")).astype(int) - np.array(frames[i])).max() <= 4
            assert image.info["duration"] == [70, 150, 30][i]


def test_texts_and_colours_stay_beside_frames(tmp_path):
    extra = chunk(b"tEXt", b"prompt\0a cat") + chunk(b"gAMA", struct.pack(">I", 45455))
    (tmp_path / "a.png").write_bytes(SOUND[:33] + extra + SOUND[33:])
    opened = photo.read(tmp_path / "a.png", frames=True)
    kept = {"frames": 3, "delays": opened.delays, "metadata": opened.metadata}
    with photo.Writer(tmp_path / "b.png", "png", 36, 12, 4, 8, **kept) as writer:
        for i in range(3):
            writer.write(np.concatenate(list(opened.rows(12, i))))
    assert photo.read(tmp_path / "b.png", frames=True).metadata["png-chunks"] == extra
    assert png.walk((tmp_path / "b.png").read_bytes()).frames == 3


def test_rows_of_two_frames_may_come_together(tmp_path):
    pixels = noise(10, 5, 3)
    for name, cuts in (("a.png", (10,)), ("b.png", (1, 5, 10)), ("c.png", (4, 8, 10))):
        with photo.Writer(tmp_path / name, "png", 10, 5, 3, 8, frames=2, delays=[10, 20]) as writer:
            for a, b in zip((0, *cuts), cuts, strict=False):
                writer.write(pixels[a:b])
        opened = photo.read(tmp_path / name, frames=True)
        assert (np.concatenate(list(opened.rows(3))) == pixels).all()


def test_long_and_no_times(tmp_path):
    for delays, want in (([], [100, 100]), ([0, 123456], [0, 123456]), ([70_000_001, 10], [65_535_000, 10])):
        with photo.Writer(tmp_path / "a.png", "png", 4, 3, 1, 8, frames=2, delays=delays) as writer:
            writer.write(np.zeros((4, 3, 1), np.uint8))
        assert Animation((tmp_path / "a.png").read_bytes()).delays == want
