"""What tells a clean image from one that wants a photo net."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from random_nets import srresnet

from bitsr import photo
from bitsr.auto import Chooser, choose, faults, jpeg_quality, noise_level, webp_quantiser
from bitsr.cli.main import main

Image = pytest.importorskip("PIL.Image")


def smooth(h: int = 160, w: int = 192) -> np.ndarray:
    """(h, w) float32: slopes, as a sky has them, and a few edges."""
    y, x = np.mgrid[:h, :w].astype(np.float32)
    image = 60 + 0.4 * x + 0.3 * y
    image[40:80, 60:120] += 50
    return image


@pytest.mark.parametrize("quality", [30, 60, 75, 90, 95])
def test_quality_of_jpeg(tmp_path: Path, quality: int) -> None:
    file = tmp_path / "a.jpg"
    Image.fromarray(smooth().astype(np.uint8)).save(file, quality=quality)
    found = jpeg_quality(file.read_bytes())
    assert found is not None and abs(found - quality) <= 1


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xdb\x00\x05\x00\x01", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
)
def test_no_quality_where_there_is_none(data: bytes) -> None:
    assert jpeg_quality(data) is None


@pytest.mark.parametrize("sigma", [3.0, 6.0, 12.0])
def test_noise_is_measured(sigma: float) -> None:
    noisy = smooth() + np.random.default_rng(0).normal(0, sigma, (160, 192)).astype(np.float32)
    assert noise_level([noisy]) == pytest.approx(sigma, rel=0.15)


def test_clean_images_have_no_noise() -> None:
    assert noise_level([smooth()]) < 0.1
    assert noise_level([np.full((64, 64), 255, np.float32)]) == 0.0
    assert noise_level([np.zeros((3, 200), np.float32)]) == 0.0


def test_faults_of_files(tmp_path: Path) -> None:
    clean = smooth().clip(0, 255).astype(np.uint8)
    noisy = (smooth() + np.random.default_rng(0).normal(0, 8, clean.shape)).clip(0, 255).astype(np.uint8)
    for name, pixels, options in (
        ("clean.png", clean, {}),
        ("noisy.png", noisy, {}),
        ("bad.jpg", clean, {"quality": 60}),
        ("good.jpg", clean, {"quality": 97}),
        ("bad.webp", clean, {"quality": 60}),
        ("good.webp", clean, {"lossless": True}),
    ):
        Image.fromarray(pixels).convert("RGB").save(tmp_path / name, **options)
    found = {path.name: faults(path) for path in sorted(tmp_path.iterdir())}
    assert found["bad.jpg"] == "JPEG of quality 60" and found["bad.webp"] == "strongly compressed WebP"
    assert found["noisy.png"].startswith("noise of ")
    assert not found["clean.png"] and not found["good.jpg"] and not found["good.webp"]


@pytest.mark.parametrize(("quality", "quantiser"), [(50, 52), (75, 36), (85, 20), (95, 6)])
def test_quantiser_of_webp(tmp_path: Path, quality: int, quantiser: int) -> None:
    """What libwebp takes at its qualities, with its segments; with an ICC profile before the frame."""
    file = tmp_path / "a.webp"
    noise = np.random.default_rng(0).normal(0, 8, (160, 192))
    image = Image.fromarray((smooth() + noise).clip(0, 255).astype(np.uint8)).convert("RGB")
    for options in ({}, {"icc_profile": bytes(600)}):
        image.save(file, quality=quality, **options)
        found = webp_quantiser(file.read_bytes())
        assert found is not None and abs(found - quantiser) <= 2
        assert (faults(file) == "strongly compressed WebP") == (quality <= 82)


def test_no_quantiser_where_there_is_none(tmp_path: Path) -> None:
    Image.fromarray(smooth().astype(np.uint8)).convert("RGB").save(tmp_path / "a.webp", lossless=True)
    data = (tmp_path / "a.webp").read_bytes()
    assert webp_quantiser(data) is None
    for broken in (b"", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8 ", b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0"):
        assert webp_quantiser(broken) is None


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Pixels (h, w, 3) after a trip through a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def scene() -> np.ndarray:
    """(320, 360, 3) uint8 without faults: waves of many sizes."""
    y, x = np.mgrid[:320, :360].astype(np.float32)
    waves = sum(12 * np.sin(x * a / 40 + y * b / 40 + a * b) for a in range(1, 8) for b in range(-3, 4))
    return (
        np.stack([128 + 0.6 * waves, 120 + 0.5 * waves, 110 + 0.3 * waves], axis=2)
        .clip(0, 255)
        .astype(np.uint8)
    )


def test_blocks_of_a_jpeg_in_another_file(tmp_path: Path) -> None:
    """A JPEG that was cut and stored as PNG, or anew as a good JPEG, is still one."""
    clean = scene()
    bad = jpeg(clean, 50)
    Image.fromarray(bad).save(tmp_path / "bad.png")
    Image.fromarray(bad[3:, 5:]).save(tmp_path / "cut.png")
    Image.fromarray(bad).save(tmp_path / "again.jpg", quality=96)
    Image.fromarray(clean).save(tmp_path / "clean.png")
    Image.fromarray(jpeg(clean, 97)).save(tmp_path / "good.png")
    Image.fromarray(clean[::8, ::8].repeat(8, 0).repeat(8, 1)).save(tmp_path / "enlarged.png")
    found = {path.stem: faults(path) for path in tmp_path.iterdir()}
    blocks = {name for name, why in found.items() if why == "blocks of a JPEG"}
    assert blocks == {"bad", "cut", "again"} and not any(found[n] for n in found.keys() - blocks)


def test_texture_is_no_noise() -> None:
    """Structure everywhere that is coarser than noise is left alone; white noise upon it counts."""
    rng = np.random.default_rng(0)
    texture = rng.normal(0, 1, (192, 240))
    for axis in (0, 1, 0, 1):
        texture = (np.roll(texture, 1, axis) + 2 * texture + np.roll(texture, -1, axis)) / 4
    texture = 128 + 30 * texture / texture.std()
    noisy = texture + rng.normal(0, 12, texture.shape)
    assert noise_level(np.split(texture, 3)) == 0 and noise_level(np.split(noisy, 3)) > 8


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """A folder with a default net and a photo net of x4, random both."""
    folder = tmp_path / "nets"
    folder.mkdir()
    for seed, name in enumerate(("bitsr-m-x4", "bitsr-photo-m-x4")):
        srresnet(blocks=1, seed=seed).write(folder / f"{name}.bsr")
    return folder


def test_the_net_follows_the_image(nets: Path, tmp_path: Path) -> None:
    image = Image.fromarray(smooth().clip(0, 255).astype(np.uint8)).convert("RGB")
    image.save(tmp_path / "bad.jpg", quality=50)
    image.save(tmp_path / "clean.png")
    chooser = Chooser(4, folder=nets)
    assert chooser.scale == 4
    assert [chooser.pick(tmp_path / n)[0][0].name for n in ("bad.jpg", "clean.png")] == [
        "bitsr-photo-m-x4",
        "bitsr-m-x4",
    ]
    chain, why = chooser.pick(tmp_path / "bad.jpg", (16 * 160, 16 * 192))
    assert [net.name for net in chain] == ["bitsr-photo-m-x4", "bitsr-m-x4"] and why == "JPEG of quality 50"
    (nets / "bitsr-photo-m-x4.bsr").unlink()
    assert Chooser(4, folder=nets).pick(tmp_path / "bad.jpg")[0][0].name == "bitsr-m-x4"
    assert isinstance(choose("auto", 4, folder=nets), Chooser)
    assert choose("bitsr-m-x4", None, folder=nets).scale == 4


def test_the_pixels_that_were_looked_at_are_not_decoded_again(nets: Path, tmp_path: Path) -> None:
    Image.fromarray(smooth().clip(0, 255).astype(np.uint8)).save(tmp_path / "a.png")
    opened = photo.read(tmp_path / "a.png")
    Chooser(4, folder=nets).pick(tmp_path / "a.png", image=opened)
    (tmp_path / "a.png").write_bytes(b"another file")
    whole = np.concatenate(list(opened.rows(7)))
    assert (whole[:, :, 0] == smooth().clip(0, 255).astype(np.uint8)).all()
    assert (np.concatenate(list(opened.rows(50))) == whole).all()


def test_too_large_to_be_held(nets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = smooth() + np.random.default_rng(0).normal(0, 8, (160, 192))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(sys.modules["bitsr.photo.read"], "HELD", 1000)  # the name is a function's too
    opened = photo.read(tmp_path / "a.png")
    chain, why = Chooser(4, folder=nets).pick(tmp_path / "a.png", image=opened)
    assert chain[0].name == "bitsr-photo-m-x4" and why.startswith("noise")
    assert len(np.concatenate(list(opened.rows(7)))) == 160


def test_the_command_chooses_and_says_so(
    nets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bytes are those of the net that -v names; -n overrides."""
    Image.fromarray(smooth(24, 32).clip(0, 255).astype(np.uint8)).save(tmp_path / "a.jpg", quality=40)
    made = {}
    for name, options in {
        "auto": ["-v"], "photo": ["-n", "bitsr-photo-m-x4"], "clean": ["-n", "bitsr-m-x4"],
    }.items():  # fmt: skip
        out = tmp_path / f"{name}.png"
        assert (
            main(["upscale", "-i", str(tmp_path / "a.jpg"), "-o", str(out), "-m", str(nets), *options]) == 0
        )
        made[name] = out.read_bytes()
    assert made["auto"] == made["photo"] != made["clean"]
    said = capsys.readouterr().err
    assert "JPEG of quality 40: bitsr-photo-m-x4; -n bitsr-m-x4" in " ".join(said.split())
