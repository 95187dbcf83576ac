"""Image files: what the world hands in, read by rows and written whole or not at all."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import pyvips
from PIL import Image

from bitsr import photo
from bitsr.photo.write import chunk

P3 = bytes(pyvips.Operation.call("profile_load", "p3"))


def ramp(height=48, width=64, channels=3):
    """A smooth image without symmetry, (H, W, C) uint8."""
    y, x, c = np.ogrid[:height, :width, :channels]
    return ((3 * y + 2 * x + 60 * c) % 256).astype(np.uint8)


def pixels(path, n=7):
    return np.concatenate(list(photo.read(path).rows(n)))


def write(path, array, format="png", step=5, **more):
    height, width, channels = array.shape
    with photo.Writer(path, format, height, width, channels, 8 * array.itemsize, **more) as writer:
        for y in range(0, height, step):
            writer.write(array[y : y + step])


def jpeg(array, **more):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "JPEG", quality=95, **more)
    return data.getvalue()


# ---- reading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_phone_jpeg_is_turned_upright_with_its_profile_and_exif(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "A phone"
    path = tmp_path / "phone.jpg"
    path.write_bytes(jpeg(ramp(), exif=exif, icc_profile=P3))
    stored = np.array(Image.open(path))
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(stored, 1),
    }[orientation]
    opened = photo.read(path)
    out = np.concatenate(list(opened.rows(7)))
    assert (opened.height, opened.width) == out.shape[:2] == turned.shape[:2]
    assert np.abs(out.astype(int) - turned).max() <= 2  # two JPEG decoders
    for suffix in ("jpg", "png", "webp"):
        copy = tmp_path / f"copy.{suffix}"
        write(copy, out, suffix, metadata=opened.metadata, resolution=opened.resolution)
        with Image.open(copy) as image:
            assert image.info["icc_profile"] == P3
            assert image.getexif().get(0x0112, 1) == 1
            assert image.getexif()[0x010F].rstrip("\0 ") == "A phone"


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_there_and_back(tmp_path, suffix, channels, dtype):
    x = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (23, 17, channels)).astype(dtype)
    path = tmp_path / f"x.{suffix}"
    write(path, x, suffix, resolution=(11.811, 11.811))
    back = photo.read(path)
    assert (back.channels, back.depth, back.notes) == (channels, 8 * x.itemsize, [])
    assert back.resolution[0] == pytest.approx(11.811, abs=1e-3)
    np.testing.assert_array_equal(pixels(path), x)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_thin_images(tmp_path, size, suffix):
    path = tmp_path / f"x.{suffix}"
    write(path, np.full((*size, 3), 77, np.uint8), suffix, step=1)
    assert np.abs(pixels(path).astype(int) - 77).max() <= 2


def test_kinds_of_pixels(tmp_path):
    rgb = Image.fromarray(ramp())
    palette = rgb.quantize(16)
    palette.info["transparency"] = 3
    rgb.save(tmp_path / "palette.gif")
    palette.save(tmp_path / "clear.png", transparency=3)
    rgb.convert("L").save(tmp_path / "grey.jpg")
    rgb.convert("1").save(tmp_path / "bits.png")
    rgb.save(tmp_path / "pic.png[page=1]", "PNG")  # a suffix of libvips' options, here part of a name
    for name, channels in (("palette.gif", 3), ("clear.png", 4), ("grey.jpg", 1), ("bits.png", 1)):
        assert photo.read(tmp_path / name).channels == channels
        assert pixels(tmp_path / name).shape == (48, 64, channels)
    want = np.array(Image.open(tmp_path / "clear.png").convert("RGBA"))
    np.testing.assert_array_equal(pixels(tmp_path / "clear.png"), want)
    np.testing.assert_array_equal(pixels(tmp_path / "pic.png[page=1]"), ramp())


@pytest.mark.parametrize("kind", ["cmyk jpg", "cmyk tif", "lab tif", "labs tif"])
def test_other_colour_models_become_srgb(tmp_path, kind):
    mode, suffix = kind.split()
    patches = np.array([[[255, 255, 255], [0, 0, 0], [128, 128, 128]]], np.uint8).repeat(16, 0).repeat(16, 1)
    path = tmp_path / f"x.{suffix}"
    if mode == "cmyk":
        Image.fromarray(patches).convert("CMYK").save(path)
    else:
        pyvips.Image.new_from_array(patches).copy(interpretation="srgb").colourspace(mode).tiffsave(path)
    opened = photo.read(path)
    assert (opened.channels, opened.depth) == (3, 8)
    assert [note.lower() for note in opened.notes] == [f"{mode.rstrip('s')} converted to srgb"]
    # A CMYK without profile means some press; its white, black and grey come out roughly as such.
    assert np.abs(pixels(path).astype(int) - patches)[8, 8::16].max() < (60 if mode == "cmyk" else 2)


def test_pages_are_noted(tmp_path):
    frames = [Image.fromarray(ramp() + i) for i in range(3)]
    for name in ("x.gif", "x.webp", "x.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        opened = photo.read(tmp_path / name)
        assert opened.notes == ["first of 3 pages taken"]
        assert opened.height == 48


def test_profile_of_another_colour_model_is_dropped(tmp_path):
    Image.fromarray(ramp()).convert("L").save(tmp_path / "x.jpg", icc_profile=P3)
    opened = photo.read(tmp_path / "x.jpg")
    assert "icc-profile-data" not in opened.metadata
    assert opened.notes == ["ICC profile of another colour model dropped"]


PNG = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0))


def damaged():
    x = ramp(480, 640)
    noise = np.random.default_rng(0).integers(0, 256, x.shape).astype(np.uint8)
    whole = jpeg(noise)
    yield "cut.jpg", whole[: len(whole) // 2]
    yield "cut_and_closed.jpg", whole[: len(whole) // 2] + b"\xff\xd9"
    yield "cut_progressive.jpg", (p := jpeg(noise, progressive=True))[: len(p) // 2]
    for suffix, format in (("png", "PNG"), ("webp", "WEBP"), ("gif", "GIF"), ("tif", "TIFF")):
        data = io.BytesIO()
        Image.fromarray(noise).save(data, format)
        yield f"cut.{suffix}", data.getvalue()[: data.tell() // 2]
    for cut in (9, 20, 33):
        yield f"cut_at_{cut}.png", PNG[:cut]
    yield "empty.png", b""
    yield "text.png", b"this is no image\n"
    yield "zeros.jpg", bytes(1000)


@pytest.mark.parametrize(("name", "data"), [pytest.param(*case, id=case[0]) for case in damaged()])
def test_damaged_files_are_errors_not_half_images(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(photo.PhotoError) as caught:
        pixels(path)
    text = str(caught.value)
    assert text and "\n" not in text and "Vips" not in text


def test_oddities_that_cost_no_pixels_are_read(tmp_path):
    data = jpeg(ramp())
    table = data.index(b"\xff\xdb")
    (tmp_path / "x.jpg").write_bytes(data[:table] + bytes(4) + data[table:])
    assert pixels(tmp_path / "x.jpg").shape == (48, 64, 3)


@pytest.mark.parametrize("kind", ["short", "int", "five channels", "complex"])
def test_samples_that_are_no_photo_are_refused(tmp_path, kind):
    image = pyvips.Image.black(8, 8, bands=5 if kind == "five channels" else 1)
    if kind != "five channels":
        image = image.cast(kind)
    path = tmp_path / "x.tif"
    image.tiffsave(str(path))
    with pytest.raises(photo.PhotoError, match=r"samples|channels"):
        photo.read(path)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError):
        photo.read(tmp_path / "missing.png")
    with pytest.raises(IsADirectoryError):
        photo.read(tmp_path)


# ---- writing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_16_bit_goes_to_8_by_rounding(tmp_path, suffix):
    x = np.full((16, 16, 3), 0x7FFF, np.uint16)
    x[:, 8:] = 0x80FF
    write(tmp_path / "x", x, suffix, encoding=photo.Encoding(quality=100))
    assert np.abs(pixels(tmp_path / "x").astype(int)[0, [0, -1], 0] - [127, 129]).max() <= 1


def test_transparency_in_jpeg_goes_over_white(tmp_path):
    write(tmp_path / "x.jpg", np.zeros((8, 8, 4), np.uint8), "jpg")
    assert (pixels(tmp_path / "x.jpg") == 255).all()
    assert pixels(tmp_path / "x.jpg").shape == (8, 8, 3)


@pytest.mark.parametrize("stop", ["error", "interrupt", "too few rows", "wrong rows", "encoder"])
def test_nothing_is_left_behind(tmp_path, stop):
    path = tmp_path / "x.png"
    path.write_bytes(b"the image before")
    kinds = {"error": OSError, "interrupt": KeyboardInterrupt, "encoder": photo.PhotoError}
    with (
        pytest.raises(kinds.get(stop, ValueError)),
        photo.Writer(path, "png", 400, 300, 3, 8) as writer,
    ):
        writer.write(np.zeros((100, 300, 3), np.uint8))
        if stop == "encoder":
            writer._bands.put(b"no chunk of a PNG" * 100)
        if stop in ("error", "interrupt"):
            raise kinds[stop]
        if stop != "too few rows":
            writer.write(np.zeros((100, 300 + (stop == "wrong rows"), 3), np.uint8))
            writer.write(np.zeros((200, 300, 3), np.uint8))
    assert path.read_bytes() == b"the image before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("format", "longest"), [("jpg", 65500), ("webp", 16383)])
def test_too_large_for_the_format(tmp_path, format, longest):
    for height, width in ((1, longest + 1), (longest + 1, 1)):
        with pytest.raises(photo.PhotoError, match=f"too large for {format}, at most {longest}"):
            photo.Writer(tmp_path / "x", format, height, width, 3, 8)


def test_signal_as_the_file_opens(tmp_path, monkeypatch):
    """The file is there, but nobody has its handle yet."""

    real = os.open

    def interrupted(path, *args, **kw):
        os.close(real(path, *args, **kw))
        raise SystemExit(143)

    monkeypatch.setattr("bitsr.files.os.open", interrupted)
    with pytest.raises(SystemExit), photo.Writer(tmp_path / "x.png", "png", 4, 4, 3, 8):
        pass
    assert not list(tmp_path.iterdir())


def test_no_thread_for_the_encoder(tmp_path, monkeypatch):
    def refused(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refused)
    with pytest.raises(OSError, match="no thread for the encoder"):
        write(tmp_path / "x.png", ramp())
    assert not list(tmp_path.iterdir())


def test_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write(tmp_path / "no" / "x.png", ramp())
    assert caught.value.filename == str(tmp_path / "no" / "x.png")


FORKED = """
import os, sys
import bitsr
from bitsr import photo
net, folder = sys.argv[1:]
up = bitsr.load(net, threads=2)

def child(name):
    if (pid := os.fork()) == 0:
        try:
            bitsr.upscale(folder + "/x.png", folder + f"/{name}.png", net=up)
            print("made", flush=True)
        except bitsr.BitsrError as error:
            print(error, flush=True)
        with open(folder + "/x.npy", "rb") as file:  # arrays need no libvips
            import numpy as np
            up(np.load(file))
        sys.exit()
    os.waitpid(pid, 0)

child("before")
bitsr.upscale(folder + "/x.png", folder + "/y.png", net=up)
child("after")
bitsr.upscale(folder + "/x.png", folder + "/z.png", net=up)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_says_so_where_libvips_would_hang(tmp_path, net_file):
    write(tmp_path / "x.png", ramp())
    np.save(tmp_path / "x.npy", ramp())
    # Python warns of such forks itself from 3.12 on.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, net_file, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    made, refused = done.stdout.splitlines()
    assert made == "made" and "forked" in refused and '"spawn"' in refused
    assert done.returncode == 0 and not done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"x.png", "x.npy", "before.png", "y.png", "z.png"}
