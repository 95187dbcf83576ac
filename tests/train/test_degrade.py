"""Degraded LR images: a function of their key, each fault does what it says, sizes stay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from bitsr import degrade as d
from bitsr.imresize import imresize
from bitsr.train.crops import Crops
from bitsr.train.data import load_pairs


def smooth(h: int, w: int, seed: int = 0) -> np.ndarray:
    """(h, w, 3) uint8, neither flat nor clipped, as photographs are."""
    coarse = np.random.default_rng(seed).integers(60, 200, (h // 6 + 1, w // 6 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC))


HR = smooth(120, 96)
LR = smooth(60, 48, 1).astype(np.float32)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def test_the_key_decides() -> None:
    made = [d.degrade(HR, 2, [0, image, variant]) for image in range(4) for variant in range(4)]
    again = [d.degrade(HR, 2, [0, image, variant]) for image in range(4) for variant in range(4)]
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))
    others = [d.degrade(HR, 2, [1, image, variant]) for image in range(4) for variant in range(4)]
    assert sum(np.array_equal(a, b) for a, b in zip(made, others, strict=True)) < 4


def test_a_fifth_stays_clean_and_the_rest_does_not() -> None:
    hr = smooth(48, 48)
    clean = imresize(hr, 0.5)
    away = np.array([distance(d.degrade(hr, 2, [key]), clean) for key in range(400)])
    assert 60 <= (away == 0).sum() <= 110  # 80 + some that had the luck of no fault
    assert 0.3 < np.median(away) < 15 and away.max() < 40


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("h", "w"), [(13, 7), (1, 1), (5, 31)])
def test_sizes(scale: int, h: int, w: int) -> None:
    hr = smooth(scale * h, scale * w)
    for key in range(25):
        out = d.degrade(hr, scale, [key])
        assert out.shape == (h, w, 3) and out.dtype == np.uint8


FAULTS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "blur": lambda rng: d.blur(LR, d.gaussian(0.5)),
    "noise": lambda rng: d.noise(LR, 3.0, False, rng),
    "grey noise": lambda rng: d.noise(LR, 3.0, True, rng),
    "shot noise": lambda rng: d.shot_noise(LR, 3.0, False, rng),
    "sharpen": lambda rng: d.sharpen(LR, 0.5, 1.0),
    "jpeg": lambda rng: d.stored(LR, "jpeg", 80),
    "webp": lambda rng: d.stored(LR, "webp", 80),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_changes_the_image(fault: str) -> None:
    out = FAULTS[fault](np.random.default_rng(0))
    assert out.shape == LR.shape and 0.1 < distance(out, LR) < 10


def test_noise_has_its_level() -> None:
    flat = np.full((200, 200, 3), 128, np.float32)
    for grey in (False, True):
        for fault in (d.noise, d.shot_noise):
            error = fault(flat, 5.0, grey, np.random.default_rng(0)) - flat
            assert error.std() == pytest.approx(5, rel=0.05) and abs(error.mean()) < 0.1
            assert np.array_equal(error[..., 0], error[..., 1]) == grey
    dark, light = (
        d.shot_noise(flat / 128 * level, 5.0, False, np.random.default_rng(0)) for level in (16, 240)
    )
    assert (light.std() / dark.std()) ** 2 == pytest.approx(240 / 16, rel=0.05)


def test_blur_is_the_gaussian() -> None:
    """Deviations in pixels along the axis and across it; brightness stays."""
    kernel = d.gaussian(2.0, 0.8, np.pi / 2)  # wide from top to bottom
    at = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1)
    assert np.sqrt((kernel.sum(1) * at**2).sum()) == pytest.approx(2.0, rel=0.05)
    assert np.sqrt((kernel.sum(0) * at**2).sum()) == pytest.approx(0.8, rel=0.05)
    point = np.zeros((31, 31, 1), np.float32)
    point[15, 15] = 1000
    np.testing.assert_allclose(d.blur(point, kernel)[9:22, 9:22, 0], 1000 * kernel, atol=0.02)
    flat = np.full((9, 9, 3), 77, np.float32)
    np.testing.assert_allclose(d.blur(flat, kernel), flat, atol=0.05)


def test_sharpening_undoes_blur() -> None:
    soft = d.blur(LR, d.gaussian(0.8))
    assert distance(d.sharpen(soft, 0.5, 0.8), LR) < 0.8 * distance(soft, LR)


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_a_low_quality_is_farther_from_clean(codec: str) -> None:
    away = [distance(d.stored(LR, codec, quality), LR) for quality in (30, 60, 95)]
    assert away[0] > 1.2 * away[1] > 1.44 * away[2] > 0


def test_subsampled_colour_loses_more() -> None:
    assert distance(d.stored(LR, "jpeg", 95, True), LR) > distance(d.stored(LR, "jpeg", 95, False), LR)


@pytest.mark.parametrize("kernel", ["bicubic", "area", "linear", "mitchell", "lanczos3"])
def test_every_kernel_shrinks(kernel: str) -> None:
    small = d.shrink(HR, 3, kernel)
    assert small.shape == (40, 32, 3) and distance(small, imresize(HR, 1 / 3)) < 3
    assert (distance(small, imresize(HR, 1 / 3)) == 0) == (kernel == "bicubic")


# In the training set ----------------------------------------------------------------------------


def test_variants_of_an_image(tmp_path: Path) -> None:
    """As many as asked for, by the seed, from HR alone, beside the clean ones in the cache."""
    path, ready, cache = tmp_path / "a.png", tmp_path / "lr.png", tmp_path / "cache"
    Image.fromarray(HR).save(path)
    Image.fromarray(smooth(60, 48, 5)).save(ready)
    clean = load_pairs([(path, None)], 2, cache)
    pairs = load_pairs([(path, ready)], 2, cache, degrade=6, hr_scales=[0.5])
    assert pairs.lr.shape == (6, 60 * 48 + 30 * 24) and len(pairs) == 2 and clean.lr.shape[0] == 1
    assert torch.equal(pairs.hr[: len(clean.hr)], clean.hr)
    assert len({tuple(v[:2880].tolist()) for v in pairs.lr}) == 6
    again = load_pairs([(path, None)], 2, cache, degrade=6, hr_scales=[0.5])
    assert torch.equal(again.lr, pairs.lr) and again.key == pairs.key
    other = load_pairs([(path, None)], 2, cache, degrade=6, hr_scales=[0.5], seed=1)
    assert not torch.equal(other.lr, pairs.lr) and torch.equal(other.hr, pairs.hr)
    assert len(list(cache.iterdir())) == 3


def test_crops_choose_a_variant_by_their_hash(tmp_path: Path) -> None:
    """Each as often as the others, the same at every call, at the place and turn of HR."""
    path = tmp_path / "a.png"
    Image.fromarray(HR).save(path)
    clean = load_pairs([(path, None)], 2, tmp_path / "cache")
    shifts = torch.arange(5, dtype=torch.int16)[:, None]
    pairs = replace(clean, lr=clean.lr + 1000 * shifts)
    crops, plain = (Crops(p, 8, 64, seed=3, candidates=2) for p in (pairs, clean))
    counts = torch.zeros(5)
    for i in range(20):
        (lr, hr), (low, high) = (c(torch.tensor(i)) for c in (crops, plain))
        assert torch.equal(hr, high) and torch.equal(lr, crops(torch.tensor(i))[0])
        shift = ((lr - low) * 256 / 1000).amax((1, 2, 3))
        assert torch.equal(shift, shift.round()) and torch.equal(
            lr, low + shift.view(-1, 1, 1, 1) * 1000 / 256
        )
        counts += torch.bincount(shift.long(), minlength=5)
    assert ((counts - 256).abs() < 5 * 256**0.5).all()


FORKED = """
import os
import numpy as np
from bitsr import degrade
from bitsr.errors import BitsrError
from bitsr.train.rendered import render

lr = np.zeros((8, 8, 3), np.uint8)
degrade.degrade_as("jpeg40", lr)
if (pid := os.fork()) == 0:
    for work in (
        lambda: degrade.degrade_as("jpeg40", lr),
        lambda: degrade.shrink(lr, 2, "area"),
        lambda: render([1]),
        lambda: degrade.degrade_as("noise4", lr),
    ):
        try:
            work()
            print("made", flush=True)
        except BitsrError as error:
            print(error, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_says_so_where_libvips_would_hang() -> None:
    """And does what needs no libvips."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120)
    *refused, made = done.stdout.splitlines()
    assert len(refused) == 3 and all("forked" in line for line in refused) and made == "made", done.stderr
