"""Training data: layouts, refused folders, the cache, and crops that are a function of (seed, iteration)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from bitsr.eval.metrics import rgb_to_y
from bitsr.folders import data_folder
from bitsr.imresize import imresize
from bitsr.train import data
from bitsr.train.crops import Crops, detail, mix
from bitsr.train.data import DataError, Pairs, find_pairs, load_pairs, to_y


def image(path: Path, h: int, w: int, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    Image.fromarray(rgb).save(path)
    return rgb


def files(root: Path, role: str = "train", scale: int = 4) -> list[tuple[str, str | None]]:
    (pairs,) = find_pairs(root, ["auto"], role, scale)
    return [tuple(p and p.relative_to(root).as_posix() for p in pair) for pair in pairs]  # type: ignore[misc]


# Layouts ----------------------------------------------------------------------------------------------------


def test_plain_folder(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.webp", ".hidden.png"):
        image(tmp_path / "train" / name, 8, 8)
    (tmp_path / "train" / "README.md").write_text("no image")
    assert files(tmp_path) == [("train/a.JPG", None), ("train/b.png", None), ("train/c.webp", None)]


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("DIV2K/DIV2K_train_HR/0001.png", "DIV2K/DIV2K_train_LR_bicubic/X4/0001x4.png"),  # EDSR
        ("DIV2K_train_HR/0001.png", "DIV2K_train_LR_bicubic/X4/0001x4.png"),
        ("DIV2K_train_HR_sub/0001_s001.png", "DIV2K_train_LR_bicubic/X4_sub/0001_s001.png"),  # BasicSR
    ],
)
def test_ready_lr(tmp_path: Path, hr: str, lr: str) -> None:
    image(tmp_path / hr, 16, 20)
    image(tmp_path / lr, 4, 5)
    assert files(tmp_path) == [(hr, lr)]
    assert files(tmp_path, scale=2) == [(hr, None)]  # no X2 folder: made by our bicubic
    with pytest.raises(DataError, match="no valid images"):
        files(tmp_path, "valid")


def test_named_folders(tmp_path: Path) -> None:
    image(tmp_path / "one/x.png", 8, 8)
    image(tmp_path / "DIV2K/DIV2K_train_HR/y.png", 8, 8)
    sets = find_pairs(tmp_path, ["one", "DIV2K"], "train", 2)
    assert [[hr.name for hr, _ in s] for s in sets] == [["x.png"], ["y.png"]]
    sets = find_pairs(
        Path("/nowhere"), [str(tmp_path / "one")], "train", 2
    )  # an absolute folder needs no root
    assert sets[0][0][0].name == "x.png"


def test_missing_partner(tmp_path: Path) -> None:
    image(tmp_path / "DIV2K_train_HR/0001.png", 16, 16)
    image(tmp_path / "DIV2K_train_LR_bicubic/X4/0002x4.png", 4, 4)
    with pytest.raises(DataError, match=r"X4: no LR image for 0001.png \(0001x4 or 0001\)"):
        files(tmp_path)


@pytest.mark.parametrize("name", ["Set5", "Set14", "B100", "Urban100", "Manga109", "set_5", "BSD100"])
@pytest.mark.parametrize("role", ["train", "valid"])
def test_benchmarks_are_refused(tmp_path: Path, name: str, role: str) -> None:
    image(tmp_path / name / "HR" / "x.png", 8, 8)
    for folder in (name, f"{name}/HR", str(tmp_path / name / "HR")):
        with pytest.raises(DataError, match="benchmark set"):
            find_pairs(tmp_path, [folder], role, 2)
    link = tmp_path / "innocent"
    link.symlink_to(tmp_path / name / "HR")
    with pytest.raises(DataError, match="benchmark set"):
        find_pairs(tmp_path, ["innocent"], role, 2)


def test_clear_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_pairs(tmp_path, ["absent"], "train", 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no train images; looked for"):
        find_pairs(tmp_path, ["empty"], "train", 2)
    monkeypatch.setenv("BITSR_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with pytest.raises(OSError, match=r"bad\.png"):
        load_pairs([(tmp_path / "bad.png", None)], 2, tmp_path / "cache")
    image(tmp_path / "hr.png", 16, 16)
    image(tmp_path / "lr.png", 5, 4)
    with pytest.raises(DataError, match=r"lr\.png: 4x5 is not 1/4 of hr\.png"):
        load_pairs([(tmp_path / "hr.png", tmp_path / "lr.png")], 4, tmp_path / "cache")
    image(tmp_path / "tiny.png", 3, 9)
    with pytest.raises(DataError, match="too small"):
        load_pairs([(tmp_path / "tiny.png", None)], 4, tmp_path / "cache")


# Decoding ---------------------------------------------------------------------------------------------------


def test_lr_is_the_protocols(tmp_path: Path) -> None:
    """RGB uint8, cropped to a multiple of the scale -> bicubic -> RGB uint8 -> Y, kept to half a step of
    1/256."""
    rgb = image(tmp_path / "a.png", 31, 22)
    pairs = load_pairs([(tmp_path / "a.png", None)], 3, tmp_path / "cache")
    lr, hr = pairs.image(0)
    cropped = rgb[:30, :21]
    assert lr.shape == (10, 7) and hr.shape == (30, 21)
    np.testing.assert_allclose(hr.numpy(), rgb_to_y(cropped), atol=1 / 512 + 1e-5)
    np.testing.assert_allclose(lr.numpy(), rgb_to_y(imresize(cropped, 1 / 3)), atol=1 / 512 + 1e-5)


def test_shrunk_images_come_behind_their_own(tmp_path: Path) -> None:
    """Each is what a file of the shrunk image would give, with LR made of it even where there is a ready one."""
    rgb, small = image(tmp_path / "a.png", 40, 31), tmp_path / "small.png"
    image(tmp_path / "lr.png", 20, 15)
    Image.fromarray(imresize(rgb, 0.7)).save(small)
    cache = tmp_path / "cache"
    plain = load_pairs(
        [(tmp_path / "a.png", tmp_path / "lr.png"), (tmp_path / "a.png", None), (small, None)], 2, cache
    )
    found = [(tmp_path / "a.png", lr) for lr in (tmp_path / "lr.png", None)]
    pairs = load_pairs(found, 2, cache, hr_scales=[0.7])
    assert len(pairs) == 4
    for mine, other in enumerate([0, 2, 1, 2]):
        for a, b in zip(pairs.image(mine), plain.image(other), strict=True):
            assert torch.equal(a, b)
    assert len(load_pairs(found, 2, cache)) == 2  # in the cache beside them
    with pytest.raises(DataError, match=r"a.png: too small for scale 2"):
        load_pairs(found, 2, cache, hr_scales=[0.7, 0.02])


def test_extremes_survive_int16() -> None:
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert to_y(data.steps(rgb_to_y(ends))).tolist() == [[16.0, 235.0]]
    beyond = np.array([-3.0, 0.0, 255.0, 258.0])  # a teacher's output
    assert to_y(data.steps(beyond)).tolist() == [0.0, 0.0, 255.0, 255.0]


def test_every_file_form_reads_alike(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    forms = {
        "a.png": (rgb, "RGB"),
        "a.bmp": (rgb, "RGB"),
        "a.tif": (rgb, "RGB"),
        "alpha.png": (np.dstack([rgb, rgb[..., :1]]), "RGBA"),
    }
    for name, (pixels, mode) in forms.items():
        Image.fromarray(pixels, mode).save(tmp_path / name)
        np.testing.assert_array_equal(data.read_rgb(tmp_path / name), rgb, err_msg=name)
    Image.fromarray(rgb[..., 0], "L").save(tmp_path / "grey.png")
    np.testing.assert_array_equal(data.read_rgb(tmp_path / "grey.png"), np.repeat(rgb[..., :1], 3, 2))


def test_reads_without_pyvips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = image(tmp_path / "a.png", 6, 5)
    monkeypatch.setitem(__import__("sys").modules, "pyvips", None)
    np.testing.assert_array_equal(data.read_rgb(tmp_path / "a.png"), rgb)


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = tmp_path / "a.png", tmp_path / "cache"
    image(path, 16, 16)
    first = load_pairs([(path, None)], 2, cache)
    copy = tmp_path / "copy" / "b.png"
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    with monkeypatch.context() as m:
        m.setattr(data, "_decode", lambda *a: pytest.fail("decoded again"))
        again = load_pairs([(copy, None)], 2, cache)
    assert torch.equal(first.hr, again.hr) and torch.equal(first.lr, again.lr)
    assert len(list(cache.iterdir())) == 1
    load_pairs([(path, None)], 4, cache)  # another scale is another file
    load_pairs([(path, None), (copy, None)], 2, cache)  # so are other images
    image(copy, 16, 18)  # and a changed one
    load_pairs([(copy, None)], 2, cache)
    assert len(list(cache.iterdir())) == 4
    for damaged in (b"damaged", save({"hr": first.hr})):
        for file in cache.iterdir():  # one that is damaged, or wants a tensor, is made again
            file.write_bytes(damaged)
        assert torch.equal(load_pairs([(path, None)], 2, cache).hr, first.hr)
    with pytest.warns(UserWarning, match="not cached"):
        load_pairs([(path, None)], 2, path / "not a folder")


# Crops ------------------------------------------------------------------------------------------------------


def coordinates(sizes: list[tuple[int, int]], scale: int) -> Pairs:
    """Images whose HR and LR values tell where they stand: value = running LR pixel number (HR: of its
    LR)."""
    hr, lr, start = [], [], 0
    for h, w in sizes:
        numbers = torch.arange(start, start + h * w, dtype=torch.int16).view(h, w)
        start += h * w
        lr.append(numbers.flatten())
        hr.append(numbers.repeat_interleave(scale, 0).repeat_interleave(scale, 1).flatten())
    return Pairs(torch.cat(hr), torch.cat(lr)[None], torch.tensor(sizes), scale)


def numbers(y: Tensor) -> Tensor:
    return ((y - 128) * 256).round().int()


def draw(crops: Crops, iteration: int) -> tuple[Tensor, Tensor]:
    return tuple(numbers(y) for y in crops(torch.tensor(iteration)))  # type: ignore[return-value]


@pytest.mark.parametrize("scale", [2, 3])
def test_crops_are_aligned_and_inside(scale: int) -> None:
    sizes = [(9, 7), (5, 12), (4, 30), (6, 6)]  # the third is too low for a crop of 5
    crops = Crops(coordinates(sizes, scale), 5, 64, seed=1)
    ends = np.cumsum([h * w for h, w in sizes])
    seen = set()
    for iteration in range(20):
        lr, hr = draw(crops, iteration)
        assert lr.shape == (64, 1, 5, 5) and hr.shape == (64, 1, 5 * scale, 5 * scale)
        assert torch.equal(hr[..., ::scale, ::scale], lr) and torch.equal(
            hr[..., scale - 1 :: scale, scale - 1 :: scale], lr
        )
        for patch in lr[:, 0].numpy():
            index = int(np.searchsorted(ends, patch.min(), side="right"))
            h, w = sizes[index]
            local = patch - (ends[index] - h * w)
            y, x = divmod(int(local.min()), w)
            expected = (np.arange(5)[:, None] + y) * w + np.arange(5) + x
            turns = [np.rot90(t, k) for t in (expected, expected.T) for k in range(4)]
            (kind,) = [i for i, turn in enumerate(turns) if np.array_equal(turn, local)]
            assert y + 5 <= h and x + 5 <= w
            seen.add((index, y, x, kind))
    places = [(i, y, x) for i, (h, w) in enumerate(sizes) for y in range(h - 4) for x in range(w - 4)]
    assert {s[:3] for s in seen} == set(places) and {s[3] for s in seen} == set(range(8))


def test_crops_depend_on_seed_and_iteration_alone() -> None:
    pairs = coordinates([(40, 50), (30, 30)], 2)
    crops = Crops(pairs, 4, 8, seed=3)
    first = [draw(crops, i)[0] for i in range(5)]
    again = [draw(Crops(pairs, 4, 8, seed=3), i)[0] for i in reversed(range(5))]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], draw(Crops(pairs, 4, 8, seed=4), 0)[0])
    halves = [draw(Crops(pairs, 4, 8, seed=3, samples=r), 0)[0] for r in (range(4), range(4, 8))]
    assert torch.equal(torch.cat(halves), first[0])  # devices share a batch without overlap


def test_of_several_crops_the_most_detailed_is_taken() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = coordinates([(20, 20), (30, 12)], 2)
    noise = torch.randint(-9000, 9000, flat.hr.shape, generator=generator, dtype=torch.int16)
    strength = torch.rand(flat.hr.shape, generator=generator)
    pairs = Pairs((noise * strength).to(torch.int16), flat.lr, flat.sizes, 2)
    drawn = [draw(Crops(pairs, 4, 24, seed=3, samples=range(i, i + 8)), 5) for i in (0, 8, 16)]
    lr, hr = draw(Crops(pairs, 4, 8, seed=3, candidates=3), 5)
    details = torch.stack([detail(part[1].float(), 2) for part in drawn])  # drawn one by one
    for i, most in enumerate(details.argmax(0)):
        assert torch.equal(hr[i], drawn[most][1][i]) and torch.equal(lr[i], drawn[most][0][i])
    assert len(set(details.argmax(0).tolist())) == 3
    values = hr.float()
    blocks = F.avg_pool2d(values, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(detail(values, 2), (values - blocks).abs().mean((1, 2, 3)))
    halves = [
        draw(Crops(pairs, 4, 8, seed=3, samples=r, candidates=3), 5)[1] for r in (range(4), range(4, 8))
    ]
    assert torch.equal(torch.cat(halves), hr)  # devices share a batch without overlap


def test_soft_targets_are_cropped_alike() -> None:
    """At the same places, in the same orientation as HR, and mixed by the weight of HR, which is 0 by default."""
    pairs = coordinates([(9, 7), (12, 30)], 2)
    soft = replace(pairs, soft=pairs.hr + 256)
    for iteration in range(4):
        lr, hr = draw(Crops(pairs, 5, 16, seed=1, candidates=2), iteration)
        for weight in (None, 0.0, 0.25, 1.0):
            more: dict[str, Any] = {} if weight is None else {"hr_weight": weight}
            again, target = draw(Crops(soft, 5, 16, seed=1, candidates=2, **more), iteration)
            assert torch.equal(again, lr)
            assert torch.equal(target, hr + round(256 * (1 - (weight or 0.0))))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, as it compiles
def test_compiled_gathers_are_the_same() -> None:
    soft = replace(pairs := coordinates([(9, 7), (12, 30)], 2), soft=pairs.hr + 256)
    usual, compiled = (Crops(soft, 5, 4, seed=1, candidates=2, hr_weight=0.25) for _ in range(2))
    compiled.compile()
    for iteration in range(3):
        for a, b in zip(draw(usual, iteration), draw(compiled, iteration), strict=True):
            assert torch.equal(a, b)


def test_hash_is_pinned() -> None:
    """Old runs resume only if the numbers never change; the expected ones are made in unbounded integers."""

    def lowbias32(x: int) -> int:
        x = ((x ^ x >> 16) * 0x7FEB352D) % 2**32
        x = ((x ^ x >> 15) * 0x846CA68B) % 2**32
        return x ^ x >> 16

    words = [0, 1, 2**31, 2**32 - 1, *(i * 2654435761 % 2**32 for i in range(1000))]
    assert mix(torch.tensor(words)).tolist() == [lowbias32(x) for x in words]
    assert lowbias32(1) == 1753845952


def test_crops_are_uniform_over_places() -> None:
    pairs = coordinates([(10, 10), (11, 10), (16, 31)], 1)
    crops = Crops(pairs, 10, 500, seed=0)  # 1, 2 and 154 places
    starts = torch.cat([draw(crops, i)[0].amin((1, 2, 3)) for i in range(40)])
    counts = [int((starts == start).sum()) for start in (0, 100, 110)]
    expected = 20_000 / 157
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts)


def test_crop_larger_than_every_image() -> None:
    with pytest.raises(DataError, match=r"crop of 20 pixels.*data\.patch"):
        Crops(coordinates([(9, 40)], 2), 10, 1, seed=0)
