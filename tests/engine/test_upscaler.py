"""Whole images through a net: kinds in and out, and the same bytes whatever the strips and threads."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from random_nets import attention, srresnet

import bitsr
from bitsr import colour
from bitsr.engine import Engine
from bitsr.errors import BitsrError
from bitsr.model_file import ModelFile, Op
from bitsr.upscaler import Upscaler
from bitsr.zoo import find


@pytest.fixture(scope="module")
def up(net_file):
    return bitsr.load(net_file, threads=1)


def noise(shape, dtype: type[np.unsignedinteger] = np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (1, 40, 1), (40, 1, 2), (9, 11, 3), (9, 11, 4)])
def test_array_in_array_out(up, shape, dtype):
    x = noise(shape, dtype)
    out = up(x)
    assert out.dtype == dtype
    assert out.shape == (4 * shape[0], 4 * shape[1], *shape[2:])
    # The luma is the net's, the rest is colour.merge's.
    pixels = x.reshape(*shape[:2], -1)
    pixels = pixels if pixels.shape[2] % 2 else colour.fill_clear(pixels)
    whole = colour.merge(pixels, up.engine.run(colour.luma(pixels)), 4, height=shape[0])
    np.testing.assert_array_equal(out, whole.reshape(out.shape))


@settings(max_examples=30, deadline=None)
@given(h=st.integers(1, 40), w=st.integers(1, 20), cuts=st.lists(st.integers(1, 12), max_size=8))
def test_strips_and_threads_change_no_byte(net_file, h, w, cuts):
    x = noise((h, w, 4), seed=h * 50 + w)
    whole = bitsr.load(net_file, threads=1)(x)
    edges = np.unique(np.clip(np.cumsum([0, *cuts, h]), 0, h))
    strips = [x[a:b] for a, b in pairwise(edges)]
    for up in (bitsr.load(net_file, threads=1), bitsr.load(net_file, threads=3)):
        np.testing.assert_array_equal(np.concatenate(list(up.rows(strips, h, w))), whole)


@pytest.mark.parametrize("size", [(1, 1), (5, 30), (50, 13)])
def test_self_ensemble_by_strips_is_the_mean_of_eight(up, size):
    x = noise(size)
    q = colour.luma(x[..., None])
    total = np.zeros((4 * size[0], 4 * size[1]), np.int64)
    for flip in (False, True):
        for turn in range(4):
            sr = np.rot90(up.engine.run(np.rot90(q[:, ::-1] if flip else q, turn)), -turn)
            total += sr[:, ::-1] if flip else sr
    want = colour.merge(x[..., None], ((total + 4) >> 3).astype(np.int16), 4, height=size[0])
    np.testing.assert_array_equal(up(x, ensemble=True), want[..., 0])
    for n in (1, 7):
        strips = [x[i : i + n, :, None] for i in range(0, size[0], n)]
        np.testing.assert_array_equal(np.concatenate(list(up.rows(strips, *size, ensemble=True))), want)


@pytest.mark.parametrize("ensemble", [False, True])
def test_strips_change_no_byte_where_the_net_sees_the_whole_image(ensemble):
    up = Upscaler(Engine(attention(0, channels=8, blocks=1), threads=2))
    x = noise((41, 9, 3))
    whole = next(up.rows([x], 41, 9, ensemble=ensemble))
    lr = colour.luma(x)
    below = np.concatenate((lr[:20], -lr[20:]))
    assert (up.engine.run(below)[0] != up.engine.run(lr)[0]).any()
    for n in (1, 7):
        rows = list(up.rows((x[i : i + n] for i in range(0, 41, n)), 41, 9, ensemble=ensemble))
        np.testing.assert_array_equal(np.concatenate(rows), whole)


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_rgb_is_the_net_on_each_channel(up, channels, dtype, ensemble):
    x = noise((23, 9, channels), dtype)
    x[..., -1] |= np.iinfo(dtype).max // 2  # no clear pixel whose colour would be another's
    out = up(x, ensemble=ensemble, rgb=True)
    filled = colour.fill_clear(x) if channels % 2 == 0 else x
    for c in range(3 if channels > 2 else 1):
        np.testing.assert_array_equal(out[..., c], up(filled[..., c], ensemble=ensemble))
    if channels % 2 == 0:
        np.testing.assert_array_equal(out[..., -1], up(x)[..., -1])
    if channels < 3:
        np.testing.assert_array_equal(out, up(x, ensemble=ensemble))
    for n in (1, 6, 23):
        strips = (x[i : i + n] for i in range(0, 23, n))
        rows = list(up.rows(strips, 23, 9, ensemble=ensemble, rgb=True))
        np.testing.assert_array_equal(np.concatenate(rows), out)
    assert not list(up.rows([], 23, 9, rgb=True))


def test_a_file_says_that_chroma_is_smoothed(net_file):
    """Metadata alone decide, and colours differ; luma, and so grey, does not."""
    plain, packed = bitsr.load(net_file, threads=1), ModelFile.read(net_file)
    packed.metadata["chroma"] = "smooth"
    up, x = Upscaler(Engine(packed, threads=1)), noise((12, 13, 3))
    assert up.engine.smooth and not plain.engine.smooth
    q = up.engine.run(colour.luma(x))
    np.testing.assert_array_equal(up(x), colour.merge(x, q, 4, height=12, smooth=True))
    assert (up(x) != plain(x)).any()
    np.testing.assert_array_equal(up(x[..., 0]), plain(x[..., 0]))
    packed.metadata["chroma"] = "kept"
    assert not Engine(packed).smooth


@pytest.mark.parametrize("scale", [2, 3])
def test_other_scales(scale):
    up = Upscaler(Engine(srresnet(blocks=1, scale=scale), threads=1))
    assert up.scale == scale
    assert up(noise((5, 6, 3))).shape == (5 * scale, 6 * scale, 3)


@pytest.mark.parametrize(
    ("mode", "out_mode"),
    [("1", "L"), ("L", "L"), ("LA", "LA"), ("P", "RGB"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("YCbCr", "RGB")],
)
def test_pil_in_pil_out(up, mode, out_mode):
    image = Image.fromarray(noise((6, 5, 3))).convert(mode)
    image.info["icc_profile"] = b"a profile"
    out = up(image)
    assert (out.mode, out.size) == (out_mode, (20, 24))
    assert out.info.get("icc_profile") == b"a profile"
    np.testing.assert_array_equal(np.array(out), up(np.array(image.convert(out_mode))))


def test_pil_palette_with_transparency_and_16_bit(up):
    palette = Image.fromarray(noise((6, 5, 3))).convert("P")
    palette.info["transparency"] = 3
    assert up(palette).mode == "RGBA"
    deep = noise((6, 5), np.uint16)
    out = up(Image.fromarray(deep))
    assert out.mode == "I;16"
    np.testing.assert_array_equal(np.array(out), up(deep))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.int16),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((4, 4, 0), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 4, 5), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((1, 1, 4, 4, 3), np.uint8),
        [[1, 2]],
        None,
        Image.new("F", (4, 4)),
        Image.new("LAB", (4, 4)),
        Image.fromarray(np.full((4, 4), -1, np.int32)),
    ],
)
def test_what_is_no_image_is_refused(up, image):
    with pytest.raises(ValueError, match=r"must be|not supported|beyond 16 bits"):
        up(image)


def test_strips_of_narrow_images_end(up):
    """A column of a million pixels is no single strip, and no strip is empty."""
    assert up.strip(1, 1, 8) == up.strip(3, 3, 16) == 4096
    assert up.strip(2**30, 4, 16) == 1
    assert 1 < up.strip(6000, 3, 8) < 4096


@pytest.mark.parametrize(
    ("turns", "metadata", "equivariant"),
    [
        ((8, 8), {}, True),
        ((8, None), {}, False),
        ((None, None), {}, False),
        ((), {}, False),
        ((8, 8), {"symmetry": "1"}, False),
        ((None,), {"symmetry": "8"}, True),
        ((8,), {"symmetry": "4"}, False),
    ],
)
def test_equivariant_is_a_fact_of_the_file(turns, metadata, equivariant):
    lines = ["conv x lr head shift=1", "sign b x"]
    lines += [f"bconv y{i} b c{i}" + (f" turns={n}" if n else "") for i, n in enumerate(turns)]
    net = ModelFile({}, [Op.parse(line) for line in lines], metadata)
    assert net.equivariant == equivariant


def test_an_engine_knows_its_file(net_file):
    net = ModelFile.read(net_file)
    for key, known in (("8", True), ("1", False)):
        net.metadata["symmetry"] = key
        assert Engine(net).equivariant == Engine(net.to_bytes()).equivariant == known
    assert not Engine(net_file).equivariant


def test_names_and_paths_of_nets(net_file, tmp_path):
    assert find(net_file) == net_file
    assert find("random-x4", net_file.parent) == net_file
    assert [m.scale for m in bitsr.models(net_file.parent)] == [4]
    with pytest.raises(ValueError, match="no net named nothing; there are: random-x4"):
        find("nothing", net_file.parent)
    with pytest.raises(FileNotFoundError):
        bitsr.load(tmp_path / "missing.bsr")
    (tmp_path / "broken.bsr").write_bytes(net_file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="file"):
        bitsr.load(tmp_path / "broken.bsr")
    assert bitsr.load(scale=2).name == "bitsr-m-x2" and bitsr.load().scale == 4
    with pytest.raises(BitsrError, match="bitsr-m-x2 upscales x2, not x3"):
        bitsr.load("bitsr-m-x2", 3)
    with pytest.raises(BitsrError, match="no net for x5 where none is named"):
        bitsr.load(scale=5)


def test_copies_and_pickles_upscale_alike(up):
    x = noise((9, 7, 3))
    for other in (copy.copy(up), copy.deepcopy(up), pickle.loads(pickle.dumps(up))):
        assert (other.name, other.scale) == (up.name, up.scale)
        np.testing.assert_array_equal(other(x), up(x))


def test_an_upscaler_goes_to_a_spawned_process(up):
    x = noise((9, 7, 3))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(up, (x,)).get(timeout=120), up(x))


@pytest.mark.parametrize("net", ["bitsr-s-x2", "bitsr-m-x4", "e2fif-srresnet-x3"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("ink", [0, 255])
def test_clear_surroundings_leave_no_outline(net, soft, ink):
    y, x = np.ogrid[-20:20, -20:20]
    cover = np.clip(13 - np.hypot(y, x), 0, 1) if soft else (np.hypot(y, x) < 13).astype(float)
    image = np.empty((40, 40, 4), np.uint8)
    image[..., 3] = np.rint(255 * cover)
    image[..., :3] = np.where(image[..., 3:] > 0, ink, 255 - ink)
    out = bitsr.load(net)(image).astype(float)
    alpha = out[..., 3:] / 255
    assert np.abs(out[..., :3] * alpha + ink * (1 - alpha) - ink).max() <= 2


@pytest.mark.parametrize("net", ["bitsr-s-x4", "bitsr-l-x4", "e2fif-srresnet-x4"])
def test_a_page_stays_white_and_red_stays_red(net):
    page = np.full((40, 60), 255, np.uint8)
    page[10:30:3, 8:50] = 0
    out = bitsr.load(net)(page)
    far = np.ones((40, 60), bool)
    far[8:31, 6:52] = False
    assert (out[far.repeat(4, 0).repeat(4, 1)] == 255).all()
    red = np.zeros((40, 60, 3), np.uint8)
    red[10:30:5, 8:50, 0] = red[8:32, 20:23, 0] = 255
    assert bitsr.load(net)(red)[..., 1:].max() <= 8


@pytest.mark.parametrize("shape", [(2, 7, 5, 1), (3, 6, 5, 3), (1, 5, 4, 4)])
def test_a_batch_is_its_images(up, shape):
    batch = noise(shape)
    np.testing.assert_array_equal(up(batch), np.stack([up(image) for image in batch]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("white", [1, 255])
def test_floats_pass_as_16_bit_integers(up, dtype, white):
    deep = noise((6, 5, 3), np.uint16)
    image = (deep / 65535 * white).astype(dtype)
    out = up(image, range=white)
    assert out.dtype == dtype
    assert out.shape == (24, 20, 3)
    samples = np.clip(np.floor(image.astype(np.float64) / white * 65535 + 0.5), 0, 65535).astype(np.uint16)
    if dtype == np.float64:
        np.testing.assert_array_equal(samples, deep)
    want = up(samples) / 65535 * white
    np.testing.assert_allclose(out, want, rtol=2e-3 if dtype == np.float16 else 1e-4, atol=1e-4 * white)


def test_floats_beyond_the_range_are_clipped_and_8_bit_values_keep_their_image(up):
    image = noise((6, 5, 3))
    out = up(image.astype(np.float32), range=255)
    np.testing.assert_array_equal(np.abs(out - up(image).astype(np.float32)) <= 1, True)
    wild = np.array([[-0.5, 0.2], [1.5, 0.9]], np.float32)
    np.testing.assert_array_equal(up(wild, range=1), up(np.clip(wild, 0, 1), range=1))


@pytest.mark.parametrize(
    ("image", "range", "words"),
    [
        (np.zeros((4, 4), np.float32), None, "need range="),
        (np.zeros((4, 4), np.float32), 0, "above 0"),
        (np.zeros((4, 4), np.float32), float("nan"), "above 0"),
        (np.full((4, 4), np.nan, np.float32), 1, "no numbers"),
        (np.full((4, 4), np.inf), 1, "infinite"),
        (np.zeros((4, 4), np.uint8), 255, "of float samples"),
        (np.zeros((4, 4), np.complex64), 1, "must be uint8"),
        (Image.new("L", (4, 4)), 255, "not of PIL images"),
    ],
)
def test_a_range_that_does_not_fit_is_refused(up, image, range, words):
    with pytest.raises(BitsrError, match=words):
        up(image, range=range)


def test_arrays_of_the_other_byte_order(up):
    deep = noise((6, 5, 3), np.uint16)
    np.testing.assert_array_equal(up(deep.astype(">u2")), up(deep))


def test_progress_and_cancel(up):
    batch = noise((2, 9000, 1, 1))
    seen, asked = [], []
    up(batch, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (72000, 72000)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    with pytest.raises(bitsr.Cancelled):
        up(batch, cancel=lambda: len(asked) == 2 or asked.append(0))
    np.testing.assert_array_equal(up(batch, cancel=lambda: False), up(batch))


def _files(folder):
    """Files of kinds that PIL opens with more to know than their pixels."""
    rng = np.random.default_rng(3)
    photo = Image.fromarray(np.kron(rng.integers(0, 256, (3, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    photo.save(folder / "turned.jpg", exif=exif, dpi=(300, 300), quality=90)
    photo.convert("CMYK").save(folder / "print.jpg")
    photo.quantize(6).save(folder / "palette.png", transparency=2)
    photo.save(folder / "key.png", transparency=photo.getpixel((0, 0)))
    photo.convert("L").save(folder / "grey.png", transparency=photo.convert("L").getpixel((9, 9)))
    Image.fromarray(rng.integers(0, 65536, (9, 7)).astype(np.uint16)).save(folder / "deep.png")
    return sorted(folder.iterdir())


def test_a_pil_image_becomes_what_the_command_line_makes_of_its_file(up, tmp_path):
    for path in _files(tmp_path):
        out = up(Image.open(path))
        bitsr.upscale(path, tmp_path / "out.png", net=up)
        want = Image.open(tmp_path / "out.png")
        assert out.size == want.size, path
        ours, theirs = np.array(out), np.array(want)
        np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs, err_msg=path.name)
        if dpi := out.info.get("dpi"):
            assert [round(d) for d in dpi] == [round(d) for d in want.info["dpi"]] == [300, 300]
        assert out.getexif().get(0x010F) == want.getexif().get(0x010F)
        assert out.getexif().get(0x0112, 1) == 1


def test_what_the_package_shows():
    names = {"Upscaler", "load", "upscale", "models", "load_torch", "BitsrError", "Cancelled"}
    assert names <= set(dir(bitsr)) and names <= set(bitsr.__all__)
    assert all(getattr(bitsr, name).__doc__ for name in names)
    with pytest.raises(AttributeError):
        _ = bitsr.nothing


def test_reprs_say_what_runs(up):
    assert repr(up) == f"Upscaler({up.name!r}, scale=4, isa={up.engine.isa!r}, threads=1)"
    assert repr(up.engine) == f"Engine({up.name!r}, scale=4, isa={up.engine.isa!r}, threads=1)"
