"""Image files of every kind that people have: oddities, damage, metadata, samples, frames."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageFile, PngImagePlugin
from test_photo import P3, pixels, ramp, write

from bitsr import _core, photo
from bitsr.photo import exif, others, png
from bitsr.photo.png import chunk

ImageFile.MAXBLOCK = 1 << 22  # Pillow's encoder wants one block for an optimised JPEG
NOISE = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>'
)
KINDS = {
    "baseline": {},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "progressive with restarts": {"progressive": True, "restart_marker_blocks": 5},
    "4:4:4": {"subsampling": 0},
}


def jpeg(array=NOISE, **more):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "JPEG", quality=90, **more)
    return data.getvalue()


def close_to_pillow(path, whole=None):
    with Image.open(io.BytesIO(whole) if whole else path) as image:
        want = np.array(image)
    return np.abs(pixels(path).reshape(want.shape).astype(int) - want).max() <= 2  # two JPEG decoders


# ---- JPEG: were all pixels there? --------------------------------------------------------------------------


def odd(data, oddity):
    """A whole JPEG with something that costs no pixel."""
    scan = data.index(b"\xff\xda")
    band = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big") - 3
    table = data.index(b"\xff\xdb")
    return {
        "scan header of zeros": data[:band] + bytes(3) + data[band + 3 :],
        "stray bytes before a table": data[:table] + b"stray" + data[table:],
        "stray bytes before the scan": data[:scan] + bytes(9) + data[scan:],
        "stray bytes before the end": data[:-2] + b"stray" + data[-2:],
        "filling before the end": data[:-2] + bytes(2000) + data[-2:],
        "no end marker": data[:-2],
        "a second image behind": data + data[: len(data) // 2],
        "JFIF of another age": data.replace(b"JFIF\0\1", b"JFIF\0\7", 1),
        "unknown Adobe transform": data[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x09" + data[2:],
    }[oddity]


ODD = [
    *("scan header of zeros", "stray bytes before a table", "stray bytes before the scan"),
    *("stray bytes before the end", "filling before the end", "no end marker", "a second image behind"),
    *("JFIF of another age", "unknown Adobe transform"),
]


@pytest.mark.parametrize("oddity", ODD)
@pytest.mark.parametrize("kind", ["baseline", "progressive", "restarts"])
def test_oddities_that_cost_no_pixel_are_read(tmp_path, capfd, oddity, kind):
    if kind == "progressive" and oddity == "scan header of zeros":
        pytest.skip("in a progressive JPEG these numbers count")
    path = tmp_path / "x.jpg"
    whole = jpeg(**KINDS[kind])
    path.write_bytes(odd(whole, oddity))
    assert close_to_pillow(path, whole)
    assert photo.read(path).notes == [] and capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("shape", [(1, 1), (157, 211), (240, 320)])
def test_whole_jpegs_are_whole(kind, shape):
    for array in (
        NOISE[: shape[0], : shape[1]],
        np.full((*shape, 3), 255, np.uint8),
        NOISE[: shape[0], : shape[1], 0],
    ):
        more = {k: v for k, v in KINDS[kind].items() if array.ndim == 3 or k != "subsampling"}
        assert _core.jpeg_check(jpeg(array, **more)) == (True, "")


def damage(data, kind):
    at, n = len(data) // 3, 400
    return {
        "cut": data[:at],
        "cut and closed": data[:at] + b"\xff\xd9",
        "filled up with zeros": data[:at] + bytes(len(data) - at),
        "zeros in the middle": data[:at] + bytes(n) + data[at + n :],
        "noise in the middle": data[:at] + NOISE.tobytes()[:n].replace(b"\xff", b"\0") + data[at + n :],
        "a piece missing": data[:at] + data[at + n :],
    }[kind]


DAMAGE = [
    *("cut", "cut and closed", "filled up with zeros", "zeros in the middle", "noise in the middle"),
    "a piece missing",
]


@pytest.mark.parametrize("beside", ["", "stray bytes before a table", "scan header of zeros"])
@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("kind", ["baseline", "progressive", "restarts"])
def test_damage_is_refused_whatever_stands_beside_it(tmp_path, kind, how, beside):
    if kind == "progressive" and beside == "scan header of zeros":
        pytest.skip("in a progressive JPEG these numbers count")
    whole = jpeg(**KINDS[kind])
    path = tmp_path / "x.jpg"
    path.write_bytes(damage(odd(whole, beside) if beside else whole, how))
    with pytest.raises(photo.PhotoError) as caught:
        photo.read(path)
    assert str(caught.value).startswith("damaged or cut short: ")
    lenient = photo.read(path, allow_damaged=True)
    assert np.concatenate(list(lenient.rows(50))).shape == (240, 320, 3)
    (note,) = lenient.notes
    assert note.startswith("taken as far as it can be decoded: damaged or cut short: ")


def test_missing_scans_are_missing_pixels(tmp_path):
    data = jpeg(progressive=True)
    scans = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xda"]
    tables = data.rindex(b"\xff\xc4", 0, scans[4])
    path = tmp_path / "x.jpg"
    path.write_bytes(data[:tables] + b"\xff\xd9")
    with pytest.raises(photo.PhotoError, match="scans are missing"):
        photo.read(path)


def ultra_hdr():
    """A JPEG that libvips would give to its Ultra HDR loader."""
    whole, second = jpeg(), jpeg(NOISE[::4, ::4, 0])
    mark = b"urn:iso:std:iso:ts:21496:-1\0" + bytes(4)
    gain = b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" '
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + XMP.replace(b"xmp:Rating", gain + b"xmp:Rating")
    parts = [(0xE1, xmp), (0xE2, mark)]
    head = b"".join(struct.pack(">BBH", 0xFF, m, len(data) + 2) + data for m, data in parts)
    return whole[:2] + head + whole[2:] + second


def test_ultra_hdr_is_its_base_image_and_its_damage_is_seen(tmp_path):
    data, path = ultra_hdr(), tmp_path / "x.jpg"
    path.write_bytes(data)
    opened = photo.read(path)
    assert opened.notes == ["Ultra HDR: the gain map is dropped, the image is taken as it looks without"]
    assert close_to_pillow(path)
    xmp = opened.metadata["xmp-data"]
    assert isinstance(xmp, bytes)
    assert b"hdrgm:Version" not in xmp and b'xmp:Rating="4"' in xmp
    at = 60000
    path.write_bytes(data[:at] + bytes(400) + data[at + 400 :])
    with pytest.raises(photo.PhotoError, match="damaged"):
        photo.read(path)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "gif"])
def test_damage_of_other_formats_can_be_allowed(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(NOISE).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4] if suffix != "tif" else data[:-20000])
    with pytest.raises(photo.PhotoError):
        pixels(path)
    if suffix in ("png", "gif"):
        opened = photo.read(path, allow_damaged=True)
        assert np.concatenate(list(opened.rows(50))).shape[:2] == (240, 320)
        assert any("taken as far" in note for note in opened.notes)


# ---- Metadata ----------------------------------------------------------------------------------------------

IPTC = b"\x1c\x02\x00\x00\x02\x00\x02" + b"\x1c\x02\x78\x00\x07caption"


def exif_block():
    block = Image.Exif()
    block[0x0112], block[0x010F], block[0x0110] = 6, "A maker", "A model"
    inside = block.get_ifd(0x8769)
    inside[0x9003], inside[0xA002], inside[0xA003] = "2020:01:02 03:04:05", 640, 480
    place = block.get_ifd(0x8825)
    place[1], place[2] = "N", (48.0, 30.0, 1.5)
    return block.tobytes()


def thumbnailed(order="<"):
    """An EXIF block of the other byte order too, with a thumbnail in its second directory."""
    thumbnail = jpeg(NOISE[:16, :32])
    entry = order + "HHII"
    first = struct.pack(order + "H", 1) + struct.pack(entry, 0x0112, 3, 1, 6 if order == "<" else 6 << 16)
    at = 8 + len(first) + 4
    second = struct.pack(order + "H", 2)
    second += struct.pack(entry, 0x0201, 4, 1, at + 30) + struct.pack(entry, 0x0202, 4, 1, len(thumbnail))
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return head + first + struct.pack(order + "I", at) + second + bytes(4) + thumbnail


@pytest.mark.parametrize("source", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("target", ["jpg", "png", "webp", "tif"])
def test_metadata_goes_from_every_format_to_every_format(tmp_path, source, target):
    whole = {
        "icc-profile-data": P3,
        "exif-data": exif.upright(exif_block()),
        "xmp-data": XMP,
        "iptc-data": IPTC,
    }
    write(tmp_path / f"a.{source}", ramp(), source, metadata=whole)
    first = photo.read(tmp_path / f"a.{source}")
    path = tmp_path / f"b.{target}"
    write(path, ramp(96, 128), target, metadata=first.metadata, resolution=(11.811, 11.811))
    opened = photo.read(path)
    assert {name: opened.metadata.get(name) for name in ("icc-profile-data", "xmp-data", "iptc-data")} == {
        name: whole[name] for name in ("icc-profile-data", "xmp-data", "iptc-data")
    }
    assert opened.notes == []
    assert pixels(path).shape == (96, 128, 3)
    with Image.open(path) as image:
        assert image.size == (128, 96)
        found = image.getexif()
        assert (found[0x010F], found[0x0110], found.get(0x0112, 1)) == ("A maker", "A model", 1)
        assert found.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
        assert (found.get_ifd(0x8769)[0xA002], found.get_ifd(0x8769)[0xA003]) == (128, 96)
        assert found.get_ifd(0x8825)[2] == (48.0, 30.0, 1.5)
        assert image.info["icc_profile"] == P3
        assert target in ("tif", "webp") or image.info["dpi"][0] == pytest.approx(300, abs=0.1)


@pytest.mark.parametrize("order", ["<", ">"])
def test_thumbnails_are_dropped(tmp_path, order):
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg(exif=b"Exif\0\0" + thumbnailed(order)))
    assert path.read_bytes().count(b"\xff\xd8\xff") == 2
    opened = photo.read(path)
    assert (opened.height, opened.width) == (320, 240)
    write(path, pixels(path), "jpg", metadata=opened.metadata)
    assert path.read_bytes().count(b"\xff\xd8\xff") == 1
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == 1 and not image.getexif().get_ifd(1)


@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"II*\0\x08\0\0\0\xff\xff", b"junk" * 9, b"II*\0\xff\xff\xff\xff"]
)
def test_damaged_exif_is_dropped_with_a_note(tmp_path, block):
    path = tmp_path / "x.jpg"
    segment = b"Exif\0\0" + block
    data = jpeg()
    path.write_bytes(data[:2] + struct.pack(">HH", 0xFFE1, len(segment) + 2) + segment + data[2:])
    opened = photo.read(path)
    assert "exif-data" not in opened.metadata and opened.notes == ["damaged EXIF dropped"]
    assert pixels(path).shape == NOISE.shape


def test_a_big_endian_block_goes_into_a_tiff(tmp_path):
    little = exif_block().removeprefix(b"Exif\0\0")
    parts = exif._directories(t := exif.Tiff(little), t.directory(t.first)[0])
    big = exif._block(exif._swapped(parts), ">")
    assert big and big.startswith(b"MM")
    write(tmp_path / "x.tif", ramp(), "tif", metadata={"exif-data": big})
    with Image.open(tmp_path / "x.tif") as image:
        assert image.getexif()[0x010F] == "A maker" and image.getexif().get_ifd(0x8825)[2] == (
            48.0,
            30.0,
            1.5,
        )


def with_chunks(path, *chunks):
    data = io.BytesIO()
    Image.fromarray(ramp()).save(data, "PNG")
    whole = data.getvalue()
    path.write_bytes(whole[:33] + b"".join(chunks) + whole[33:])


def test_png_keeps_its_colours_and_texts(tmp_path):
    colour = [
        chunk(b"cICP", bytes([9, 16, 0, 1])),
        chunk(b"gAMA", struct.pack(">I", 100000)),
        chunk(b"cHRM", struct.pack(">8I", *range(31270, 31278))),
    ]
    text = [
        chunk(b"tEXt", b"parameters\0a cat\xff in Latin-1"),
        chunk(b"tEXt", b"parameters\0\x83\x65 in another encoding"),
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"{}" * 50000)),
        chunk(b"iTXt", b"title\0\0\0de\0\0Stra\xc3\x9fe"),
    ]
    with_chunks(tmp_path / "x.png", *colour, *text)
    opened = photo.read(tmp_path / "x.png")
    assert opened.notes == [] and photo.lost(opened.metadata, "png") == []
    write(tmp_path / "y.png", pixels(tmp_path / "x.png"), metadata=opened.metadata)
    data = (tmp_path / "y.png").read_bytes()
    assert all(data.count(part) == 1 for part in colour + text)
    assert data.count(b"gAMA") == data.count(b"cHRM") == data.count(b"cICP") == 1
    assert max(data.index(part) for part in colour) < data.index(b"IDAT")
    np.testing.assert_array_equal(pixels(tmp_path / "y.png"), ramp())
    assert photo.lost(opened.metadata, "jpg") == [
        "cHRM, cICP, gAMA dropped: jpg has no place for how PNG describes colours",
        "text chunks dropped: jpg has no place for them",
    ]


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"gAMA", b"tIME"])
@pytest.mark.parametrize("fault", ["checksum", "content"])
def test_a_damaged_chunk_beside_the_pixels_never_refuses_an_image(tmp_path, kind, fault):
    bad = chunk(kind, b"no\xff sense")
    if fault == "checksum":
        bad = bad[:-4] + b"\0\1\2\3"
    with_chunks(tmp_path / "x.png", bad)
    opened = photo.read(tmp_path / "x.png")
    if fault == "checksum":
        assert opened.notes == [f"damaged {kind.decode()} chunk dropped"]
    np.testing.assert_array_equal(pixels(tmp_path / "x.png"), ramp())
    write(tmp_path / "y.png", ramp(), metadata=opened.metadata)
    np.testing.assert_array_equal(pixels(tmp_path / "y.png"), ramp())


def test_xmp_and_iptc_as_other_tools_write_them(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
    data = io.BytesIO()
    Image.fromarray(ramp()).save(data, "PNG", pnginfo=info)
    (tmp_path / "x.png").write_bytes(data.getvalue())
    assert photo.read(tmp_path / "x.png").metadata["xmp-data"] == XMP
    other = b"8BIM\x03\xed\0\0\0\0\0\x02ab"
    app13 = b"Photoshop 3.0\0" + other + png.resource(IPTC)
    whole = jpeg()
    (tmp_path / "x.jpg").write_bytes(
        whole[:2] + struct.pack(">HH", 0xFFED, len(app13) + 2) + app13 + whole[2:]
    )
    assert photo.read(tmp_path / "x.jpg").metadata["iptc-data"] == IPTC


# ---- Formats that another library reads ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["bmp", "ico", "ppm", "tga", "jp2", "pcx", "dds", "qoi", "sgi"])
def test_formats_by_pillow(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    image = Image.fromarray(ramp(32, 32))
    if suffix == "jp2":
        image.save(path, irreversible=False)
    else:
        image.save(path, sizes=[(32, 32)])
    np.testing.assert_array_equal(pixels(path)[..., :3], ramp(32, 32))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(photo.PhotoError):
        photo.read(path)


@pytest.mark.parametrize(
    ("head", "kind", "package"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC", "pillow-heif"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "JPEG XL", "pillow-jxl-plugin"),
        (b"BM" + bytes(30), "BMP", "pillow"),
        (b"8BPS" + bytes(30), "PSD", "pillow"),
    ],
)
def test_what_to_install_is_said(tmp_path, monkeypatch, head, kind, package):
    def missing(name, *_):
        raise ImportError(name)

    monkeypatch.setattr(others.importlib, "import_module", missing)
    (tmp_path / "x").write_bytes(head)
    with pytest.raises(photo.PhotoError, match=f"^{kind} is read by another library: pip install {package}$"):
        photo.read(tmp_path / "x")


def test_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(ramp())).save(
        tmp_path / "x.heic", quality=-1, chroma=444, exif=exif_block()
    )
    opened = photo.read(tmp_path / "x.heic")
    assert opened.metadata["exif-data"]
    assert pixels(tmp_path / "x.heic").shape in ((48, 64, 3), (64, 48, 3))


def test_a_folder_says_once_what_it_passes_over(tmp_path, monkeypatch):
    monkeypatch.setattr("bitsr.photo.formats.UNREAD", frozenset({".heic", ".psd", ".cr2"}))
    names = [f"{i}.heic" for i in range(10)] + ["a.PSD", "b.psd", "c.jpg", "d.txt"]
    text = photo.passed_over(Path(name) for name in names)
    assert text == (
        "12 files of formats that bitsr does not read: 10 .heic, 2 .psd (pip install pillow-heif pillow)"
    )
    assert photo.passed_over([Path("a.cr2")]) == "1 file of a format that bitsr does not read: 1 .cr2"
    assert photo.passed_over([Path("a.jpg")]) is None


# ---- Samples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [1, 255])
def test_float_samples(tmp_path, top):
    x = np.random.default_rng(0).random((20, 30, 3))
    pyvips.Image.new_from_array(top * x).cast("float").tiffsave(str(tmp_path / "x.tif"))
    opened = photo.read(tmp_path / "x.tif")
    assert opened.notes == [f"float samples in [0, {top}] taken as 16-bit integers"] and opened.depth == 16
    assert np.abs(pixels(tmp_path / "x.tif") - 65535 * x).max() <= 0.51


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 1e6])
def test_float_samples_that_mean_no_colour_are_refused(tmp_path, bad):
    x = np.full((4, 4), 0.5, np.float32)
    x[1, 2] = bad
    pyvips.Image.new_from_array(x).tiffsave(str(tmp_path / "x.tif"))
    with pytest.raises(photo.PhotoError, match="float samples"):
        photo.read(tmp_path / "x.tif")


@pytest.mark.parametrize("head", [b"\x76\x2f\x31\x01\2\0\0\0", b"#?RADIANCE\n", b"#?RGBE\n"])
def test_linear_light_is_refused(tmp_path, head):
    (tmp_path / "x.exr").write_bytes(head + bytes(100))
    with pytest.raises(photo.PhotoError, match="holds linear light: tone-map it to a 16-bit TIFF or PNG"):
        photo.read(tmp_path / "x.exr")


def test_32_bit_samples(tmp_path):
    x = np.random.default_rng(0).integers(0, 2**32, (20, 30), dtype=np.uint32)
    pyvips.Image.new_from_array(x).tiffsave(str(tmp_path / "x.tif"))
    assert photo.read(tmp_path / "x.tif").notes == ["32-bit samples reduced to 16"]
    np.testing.assert_array_equal(pixels(tmp_path / "x.tif")[..., 0], x >> 16)


def packed_tiff(x, bits, compression=1, rows=5):
    """A TIFF of samples of any number of bits, in strips."""
    height, width, channels = x.shape
    single = (x.reshape(height, -1, 1) >> np.arange(bits - 1, -1, -1)) & 1
    lines = np.packbits(single.reshape(height, -1).astype(np.uint8), axis=1)
    strips = [lines[y : y + rows].tobytes() for y in range(0, height, rows)]
    strips = [zlib.compress(s) for s in strips] if compression != 1 else strips
    body = b"".join(strips)
    starts = np.cumsum([8, *(len(s) for s in strips)])[:-1]

    def longs(tag, values, at):
        return struct.pack("<HHII", tag, 4, len(values), at), struct.pack(f"<{len(values)}I", *values)

    entries, values, at = [], b"", 8 + len(body)
    tags = {256: [width], 257: [height], 258: [bits] * channels, 259: [compression]}
    tags |= {262: [2 if channels == 3 else 1], 273: starts, 277: [channels], 278: [rows]}
    tags |= {279: [len(s) for s in strips]}
    for tag, numbers in tags.items():
        if len(numbers) == 1:
            entries.append(struct.pack("<HHII", tag, 4, 1, numbers[0]))
        else:
            entry, data = longs(tag, numbers, at + len(values))
            entries.append(entry)
            values += data
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", at + len(values)) + body + values + directory


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_of_10_12_and_14_bits(tmp_path, bits, compression, channels):
    x = np.random.default_rng(0).integers(0, 1 << bits, (13, 7, channels))
    x[0, 0], x[0, 1] = 0, (1 << bits) - 1
    data = packed_tiff(x, bits, compression)
    (tmp_path / "x.tif").write_bytes(data)
    out = pixels(tmp_path / "x.tif")
    assert out.dtype == np.uint16 and (out[0, 0], out[0, 1, 0])[1] == 65535
    assert np.abs(out - x * 65535 / ((1 << bits) - 1)).max() <= 1
    (tmp_path / "x.tif").write_bytes(
        data.replace(struct.pack("<HHII", 257, 4, 1, 13), struct.pack("<HHII", 257, 4, 1, 99))
    )
    with pytest.raises(photo.PhotoError, match="rows are missing"):
        photo.read(tmp_path / "x.tif")


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_ycbcr_tiff_is_no_rgb(tmp_path, compression):
    image = Image.fromarray(ramp(8, 8)).resize((64, 48), Image.Resampling.BICUBIC).convert("YCbCr")
    image.save(tmp_path / "x.tif", compression=compression)
    limit = 40 if compression == "jpeg" else 1
    assert np.abs(pixels(tmp_path / "x.tif").astype(int) - np.array(image.convert("RGB"))).max() <= limit


# ---- Frames ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["gif", "webp", "tif"])
@pytest.mark.parametrize("target", ["gif", "webp", "tif"])
def test_frames_are_kept_with_their_times(tmp_path, source, target):
    frames = [Image.fromarray(np.full((20, 24, 3), (60 * i, 200 - 60 * i, 40), np.uint8)) for i in range(3)]
    more = {} if source == "tif" else {"duration": [100, 200, 300], "loop": 0}
    frames[0].save(tmp_path / f"a.{source}", save_all=True, append_images=frames[1:], **more)
    opened = photo.read(tmp_path / f"a.{source}", frames=True)
    assert (opened.frames, opened.height, opened.notes) == (3, 60, [])
    path = tmp_path / f"b.{target}"
    kept = {"frames": 3, "delays": opened.delays, "loop": opened.loop}
    with photo.Writer(path, target, 60, 24, opened.channels, 8, **kept) as writer:
        for i in range(3):
            for rows in opened.rows(7, i):
                writer.write(rows)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 3 and image.size == (24, 20)
        for i in range(3):
            image.seek(i)
            got = np.array(image.convert("RGB")).astype(int)
            assert np.abs(got - np.array(frames[i])).max() <= 8
            if "tif" not in (source, target):
                assert image.info["duration"] == (i + 1) * 100


def test_an_animated_png_says_where_one_frame_is_taken(tmp_path):
    frames = [Image.fromarray(ramp() + i) for i in range(3)]
    frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:])
    assert photo.read(tmp_path / "x.png").notes == ["first of 3 frames taken"]
    np.testing.assert_array_equal(pixels(tmp_path / "x.png"), ramp())


def test_a_gif_that_is_cut_short_is_refused(tmp_path):
    rng = np.random.default_rng(1)
    frames = [Image.fromarray(rng.integers(0, 256, (9, 13), np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=40)
    whole = (tmp_path / "a.gif").read_bytes()
    assert photo.read(tmp_path / "a.gif", frames=True).frames == 3
    for tail in (b"", b"; and what programs leave behind"):
        (tmp_path / "b.gif").write_bytes(whole[:-1] + tail)
        assert photo.read(tmp_path / "b.gif", frames=True).frames == 3
    for end in (len(whole) - 9, len(whole) * 2 // 3, len(whole) // 2):
        (tmp_path / "b.gif").write_bytes(whole[:end])
        with pytest.raises(photo.PhotoError, match="damaged or cut short"):
            photo.read(tmp_path / "b.gif", frames=True)
        assert photo.read(tmp_path / "b.gif", allow_damaged=True).notes


@pytest.mark.parametrize("suffix", ["png", "webp", "gif", "avif", "tif"])
@pytest.mark.parametrize("size", [20, 200, 900])
def test_what_is_cut_short_is_said_in_plain_words(tmp_path, suffix, size):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(2).integers(0, 256, (40, 50, 3), np.uint8)
    pyvips.Image.new_from_array(noise).write_to_file(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(photo.PhotoError, match=r"^damaged or cut short(: the file ends within a frame)?$"):
        list(photo.read(path).rows(8))
