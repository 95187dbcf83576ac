"""What encoders are told, the formats that are written by other libraries, and metadata left out."""

from __future__ import annotations

import io
import os
import stat
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, PngImagePlugin
from test_photo import P3, pixels, ramp, write

from bitsr import photo
from bitsr.files import NewFile
from bitsr.photo.write import Writer

SMOOTH = np.ascontiguousarray(np.kron(ramp(6, 8), np.ones((8, 8, 1), np.uint8)))


def written(path, format, array=SMOOTH, **encoding):
    write(path, array, format, encoding=photo.Encoding(**encoding))
    return path


def test_compression_of_png_changes_bytes_and_no_pixel(tmp_path):
    sizes = [written(tmp_path / f"{n}.png", "png", compression=n).stat().st_size for n in (0, 1, 9)]
    assert sizes[0] > sizes[1] > sizes[2]
    for n in (0, 1, 9):
        assert (pixels(tmp_path / f"{n}.png") == SMOOTH).all()


def test_progressive_jpeg(tmp_path):
    with Image.open(written(tmp_path / "a.jpg", "jpg", progressive=True)) as image:
        assert image.info.get("progressive")
    with Image.open(written(tmp_path / "b.jpg", "jpg")) as image:
        assert not image.info.get("progressive")
        assert (np.array(image) == pixels(tmp_path / "a.jpg")).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_lossless_webp(tmp_path, channels):
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, channels)).astype(np.uint8)
    if channels == 4:
        noise[:5, :, 3] = 0
    path = written(tmp_path / "a.webp", "webp", noise, lossless=True)
    assert (pixels(path) == noise).all() and photo.read(path).lossless
    path = written(tmp_path / "b.webp", "webp", noise)
    assert not photo.read(path).lossless


def test_lossless_is_seen_in_extended_and_animated_webp(tmp_path):
    image = Image.fromarray(SMOOTH)
    for lossless in (True, False):
        data = io.BytesIO()
        image.save(data, "WEBP", lossless=lossless, icc_profile=P3 + b"VP8 " * 10)
        (tmp_path / "a.webp").write_bytes(data.getvalue())
        assert photo.read(tmp_path / "a.webp").lossless == lossless
        data = io.BytesIO()
        image.save(data, "WEBP", lossless=lossless, save_all=True, append_images=[image.rotate(180)])
        (tmp_path / "a.webp").write_bytes(data.getvalue())
        assert photo.read(tmp_path / "a.webp", frames=True).lossless == lossless


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_avif(tmp_path, channels):
    path = written(tmp_path / "a.avif", "avif", SMOOTH[..., [0, 1, 2, 0][:channels]], lossless=True)
    got = pixels(path).astype(int)
    want = SMOOTH[..., [0, 1, 2, 0][:channels]].astype(int)
    assert np.abs(got[..., :channels] - want).max() <= 3
    small = written(tmp_path / "b.avif", "avif", quality=20).stat().st_size
    assert small < written(tmp_path / "c.avif", "avif", quality=99).stat().st_size


def test_avif_of_16_bits_has_12(tmp_path):
    wide = np.full((16, 16, 3), 0x1230, np.uint16)
    path = written(tmp_path / "a.avif", "avif", wide, lossless=True)
    opened = photo.read(path)
    assert opened.depth == 16
    assert np.abs(np.concatenate(list(opened.rows(16))).astype(int) - 0x1230).max() <= 64


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_jpeg_xl(tmp_path, channels):
    pytest.importorskip("pillow_jxl", reason="pillow-jxl-plugin is not installed")
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, channels)).astype(np.uint8)
    path = written(tmp_path / "a.jxl", "jxl", noise, lossless=True)
    assert (pixels(path) == noise).all()
    assert written(tmp_path / "b.jxl", "jxl", noise, quality=50).stat().st_size < path.stat().st_size


def test_jpeg_xl_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_jxl", None)
    with pytest.raises(photo.PhotoError, match="pip install pillow-jxl-plugin"):
        written(tmp_path / "a.jxl", "jxl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["avif", "jxl"])
def test_metadata_of_formats_by_other_libraries(tmp_path, format):
    if format == "jxl":
        pytest.importorskip("pillow_jxl", reason="pillow-jxl-plugin is not installed")
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", exif=exif, icc_profile=P3)
    opened = photo.read(tmp_path / "a.jpg")
    write(tmp_path / "b", SMOOTH, format, metadata=opened.metadata)
    again = photo.read(tmp_path / "b")
    if format == "avif":  # JPEG XL makes a profile of its own that says the same
        assert again.metadata["icc-profile-data"] == P3
    assert again.metadata["icc-profile-data"][16:20] == b"RGB "
    assert b"Maker" in bytes(again.metadata["exif-data"])  # pyright: ignore[reportArgumentType] (bytes)


def test_what_describes_colours_is_never_stripped(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "a cat")
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    Image.fromarray(SMOOTH).save(tmp_path / "a.png", pnginfo=info, exif=exif, icc_profile=P3)
    metadata = photo.read(tmp_path / "a.png").metadata
    assert {"exif-data", "png-chunks", "icc-profile-data"} <= metadata.keys()
    assert photo.colours_of(metadata) == {"icc-profile-data": P3}


@pytest.mark.parametrize("bad", [{"quality": 0}, {"quality": 101}, {"compression": -1}, {"compression": 10}])
def test_numbers_that_cannot_be(bad):
    with pytest.raises(photo.PhotoError):
        photo.Encoding(**bad)


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_a_file_like_another(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"x")
    other.chmod(0o600)
    os.utime(other, ns=(10**18, 10**18 + 7))
    with NewFile(tmp_path / "new", like=other.stat()) as new:
        assert stat.S_IMODE(new.part.stat().st_mode) == 0o600
        new.file.write(b"y")
    there = (tmp_path / "new").stat()
    assert (stat.S_IMODE(there.st_mode), there.st_mtime_ns) == (0o600, 10**18 + 7)


def test_a_file_closed_under_libvips_is_no_traceback(tmp_path, capfd):
    """A signal ends the image while a thread of libvips still writes."""
    with (tmp_path / "a.png").open("wb+") as file:
        pass
    owner: Any = SimpleNamespace(_new=SimpleNamespace(file=file), path=tmp_path / "a.png")
    target = Writer._target(owner, file.write)
    with pytest.raises(pyvips.Error):
        pyvips.Image.black(9, 9).write_to_target(target, ".png")
    assert not capfd.readouterr().err
