"""Evaluation with stand-in nets: protocols, folders, tables. The packed nets have their own tests."""

import csv
import io
import json
from fractions import Fraction

import numpy as np
import pytest
import pyvips

from bitsr import colour
from bitsr.errors import BitsrError
from bitsr.eval.evaluate import (
    Evaluation,
    Scores,
    evaluate,
    evaluate_image,
    find_set,
    read_hr,
    to_q,
    upscale_luma,
)
from bitsr.eval.metrics import psnr, rgb_to_y, sharpness, ssim, to_8bit
from bitsr.eval.protocols import PROTOCOLS
from bitsr.imresize import imresize


class Bicubic:
    """A net of which every figure is known: bicubic's, but for the 1/128 of a level that int16 luma keeps."""

    name = "bicubic"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def run(self, lr):
        assert lr.dtype == np.int16 and lr.ndim == 2 and lr.flags.c_contiguous
        y = imresize(lr / 128 + 127.5, self.scale)
        return to_q(y)


class Corner(Bicubic):
    """Bicubic plus a mark in the top left corner: not equivariant, so it shows what a self-ensemble does."""

    def run(self, lr):
        sr = super().run(lr)
        sr[0, 0] = 8 * 128
        return sr


def image(h=40, w=52, seed=0, channels=3):
    rng = np.random.default_rng(seed)
    smooth = imresize(rng.uniform(0, 255, (h // 4, w // 4, channels)), 4)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyvips.Image.new_from_array(pixels).write_to_file(str(path))


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("grey", [False, True])
def test_a_bicubic_net_scores_as_bicubic(protocol, scale, grey):
    hr = image()[..., 0] if grey else image()
    net_psnr, net_ssim, psnr_, ssim_, _ = evaluate_image(Bicubic(scale), hr, protocol)
    assert net_psnr == pytest.approx(psnr_, abs=0.02)
    assert net_ssim == pytest.approx(ssim_, abs=1e-3)
    ensemble = evaluate_image(Bicubic(scale), hr, protocol.with_self_ensemble())
    assert ensemble[0] == pytest.approx(net_psnr, abs=0.02)  # bicubic is equivariant
    assert ensemble[2:4] == (psnr_, ssim_)


def test_matlab_y_step_by_step():
    hr, s = image(41, 54), 4  # 41 and 54 are no multiples of 4: the last row and columns fall away
    hr = hr[:41, :54]
    inner = hr[: hr.shape[0] // 4 * 4, : hr.shape[1] // 4 * 4]
    lr = imresize(inner, Fraction(1, 4))
    assert lr.dtype == np.uint8
    sr = to_8bit(Bicubic(s).run(to_q(rgb_to_y(lr))) / 128 + 127.5)
    target = to_8bit(rgb_to_y(inner))
    got = evaluate_image(Bicubic(s), hr, PROTOCOLS["matlab-y"])
    assert got[:2] == (psnr(sr, target, crop=4), ssim(sr, target, crop=4))
    assert got[4] == sharpness(sr, target, crop=4) < 0.9  # bicubic is smooth
    unrounded = evaluate_image(Bicubic(s), hr, PROTOCOLS["e2fif"])
    assert unrounded[0] == psnr(sr, rgb_to_y(inner), crop=4)


class Smooth(Bicubic):
    smooth = True


@pytest.mark.parametrize("kind", [Bicubic, Smooth])
def test_rgb_protocol_measures_what_upscaling_makes(kind):
    hr, s = image(), 2
    net, smooth = kind(s), kind is Smooth
    lr = imresize(hr, Fraction(1, 2))
    sr = colour.merge(lr, net.run(to_q(rgb_to_y(lr))), s, height=len(lr), smooth=smooth)
    assert evaluate_image(net, hr, PROTOCOLS["rgb"])[0] == psnr(sr, hr, crop=s)


def test_self_ensemble_averages_the_eight_symmetries():
    seen = []

    class Spy(Corner):
        def run(self, lr):
            seen.append(lr)
            return super().run(lr)

    y = np.random.default_rng(0).uniform(0, 255, (6, 9))
    plain = upscale_luma(Bicubic(2), y, False)
    mean = upscale_luma(Spy(2), y, True)
    assert len({(a.shape, a.tobytes()) for a in seen}) == 8
    changed = np.argwhere(np.abs(mean - plain) > 0.05)
    assert {tuple(p) for p in changed} == {(0, 0), (0, 17), (11, 0), (11, 17)}  # each corner twice in eight


def test_luma_to_int16():
    assert to_q(np.array([0.0, 127.5, 255.0, 300.0, -4.0, 128.0])).tolist() == [
        -16320,
        0,
        16320,
        16320,
        -16320,
        64,
    ]


def test_files_are_read_as_they_are(tmp_path):
    rgb = image(8, 12)
    save(rgb, tmp_path / "a.png")
    np.testing.assert_array_equal(read_hr(tmp_path / "a.png"), rgb)
    save(np.dstack([rgb, np.full((8, 12), 7, np.uint8)]), tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_hr(tmp_path / "alpha.png"), rgb)
    save(rgb[..., 0], tmp_path / "grey.png")
    np.testing.assert_array_equal(read_hr(tmp_path / "grey.png"), rgb[..., 0])
    equal = np.repeat(rgb[..., :1], 3, axis=2)
    save(equal, tmp_path / "equal.png")
    assert read_hr(tmp_path / "equal.png").shape == equal.shape
    save(rgb.astype(np.uint16) * 257, tmp_path / "deep.png")
    with pytest.raises(ValueError, match="8-bit"):
        read_hr(tmp_path / "deep.png")


@pytest.mark.parametrize("layout", ["", "HR", "GTmod12", "GT", "original"])
def test_set_layouts(tmp_path, layout, monkeypatch):
    for name in ("b.png", "a.png"):
        save(image(48, 48), tmp_path / "Tiny" / layout / name)
    (tmp_path / "Tiny" / layout / "notes.txt").write_text("no image")
    assert [p.name for p in find_set("Tiny", tmp_path)] == ["a.png", "b.png"]
    assert find_set(str(tmp_path / "Tiny")) == find_set("Tiny", tmp_path)  # a path is a set, too
    monkeypatch.setenv("BITSR_DATA", str(tmp_path))
    assert len(find_set("Tiny")) == 2


def test_missing_set_is_one_clear_line(tmp_path):
    save(image(48, 48), tmp_path / "Tiny" / "a.png")
    with pytest.raises(FileNotFoundError, match=r"'Set5'.*BITSR_DATA") as e:
        evaluate(Bicubic(2), ["Tiny", "Set5"], data=tmp_path)
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match=r"unknown protocol 'y'; known: matlab-y"):
        evaluate(Bicubic(2), ["Tiny"], "y", data=tmp_path)


def test_an_unfit_image_is_named(tmp_path):
    save(image(16, 16), tmp_path / "Tiny" / "small.png")
    with pytest.raises(ValueError, match=r"small\.png: SSIM wants"):
        evaluate(Bicubic(4), ["Tiny"], data=tmp_path)
    (tmp_path / "Bad").mkdir()
    (tmp_path / "Bad" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(ValueError, match=r"broken\.png: "):
        evaluate(Bicubic(4), ["Bad"], data=tmp_path)


def test_evaluate_and_its_tables(tmp_path):
    for i, place in enumerate(["A/x.png", "A/y.png", "B/HR/z.png"]):
        save(image(48, 60, seed=i), tmp_path / place)
    seen = []
    table = evaluate(Bicubic(2), ["A", "B"], "rgb", data=tmp_path, progress=seen.append)
    assert [(r.set, r.image) for r in table.rows] == [("A", "x"), ("A", "y"), ("B", "z")]
    assert seen == list(table.rows)
    a, b = table.means()
    assert (a.set, a.image, b.image) == ("A", "mean of 2", "mean of 1")
    assert a.psnr == pytest.approx((table.rows[0].psnr + table.rows[1].psnr) / 2)
    assert b.ssim == table.rows[2].ssim

    text = table.markdown()
    assert str(PROTOCOLS["rgb"]) in text and "bicubic, x2" in text
    assert text.count("\n|") == 4 and table.markdown(per_image=True).count("\n|") == 7
    lines = list(csv.DictReader(io.StringIO(table.csv())))
    assert len(lines) == 5 and {x["protocol"] for x in lines} == {"rgb"}
    assert float(lines[0]["psnr"]) == pytest.approx(table.rows[0].psnr, abs=1e-6)
    body = json.loads(table.json())
    assert body["protocol"]["colour"] == "rgb" and len(body["images"]) == 3 and len(body["means"]) == 2


def test_json_of_a_perfect_image():
    row = Scores("A", "x", float("inf"), 1.0, 30.0, 0.9, 1.0)
    body = json.loads(Evaluation("n", 2, PROTOCOLS["rgb"], (row,)).json())
    assert body["images"][0]["psnr"] is None and body["means"][0]["psnr"] is None


def test_published_bicubic_through_the_srcnn_protocol():
    try:
        table = evaluate(Bicubic(3), ["Set5"], "srcnn")
    except FileNotFoundError as e:
        pytest.skip(str(e))
    mean = table.means()[0]
    assert mean.bicubic_psnr == pytest.approx(30.39, abs=0.01)
    assert mean.bicubic_ssim == pytest.approx(0.868, abs=0.001)
    assert mean.psnr == pytest.approx(mean.bicubic_psnr, abs=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_degraded_lr(channels):
    """The net sees the degraded LR, the same one every time, and HR stays clean."""
    hr = image(channels=channels)[..., 0] if channels == 1 else image()
    plain = PROTOCOLS["matlab-y"]
    figures = {
        fault: evaluate_image(Bicubic(2), hr, plain.with_degradation(fault))[0]
        for fault in ("jpeg90", "jpeg40", "noise4", "noise16", "blur0.8")
    }
    clean = evaluate_image(Bicubic(2), hr, plain)[0]
    assert figures["jpeg40"] < figures["jpeg90"] < clean + 0.1
    assert figures["noise16"] < figures["noise4"] < clean
    assert figures["blur0.8"] < clean
    again = evaluate_image(Bicubic(2), hr, plain.with_degradation("noise16"))[0]
    assert again == figures["noise16"]
    assert "noise16" in str(plain.with_degradation("noise16"))


def test_unknown_degradation():
    with pytest.raises(ValueError, match="jpeg75"):
        PROTOCOLS["matlab-y"].with_degradation("rain")
    with pytest.raises(ValueError, match="srcnn"):
        PROTOCOLS["srcnn"].with_degradation("jpeg75")


@pytest.mark.parametrize("closed", [False, True])
def test_a_file_cut_short_has_no_figures(tmp_path, closed):
    save(image(92, 80), path := tmp_path / "a.jpg")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xff\xd9" * closed)
    with pytest.raises(BitsrError, match=r"a\.jpg: "):
        read_hr(path)
