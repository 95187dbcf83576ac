"""Training data: layouts, refused folders, the cache, and crops that are a function of (seed, iteration)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from safetensors.torch import save
from torch.nn import functional as F

from bitsr.eval.metrics import rgb_to_y
from bitsr.folders import data_folder
from bitsr.imresize import imresize
from bitsr.train import data
from bitsr.train.data import Crops, DataError, Pairs, find_pairs, load_pairs, to_y


def picture(path: Path, h: int, w: int, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    Image.fromarray(rgb).save(path)
    return rgb


def files(root: Path, role: str = "train", scale: int = 4, **kw: str) -> list[tuple[str, str | None]]:
    (pairs,) = find_pairs(root, ["auto"], role, scale, **kw)
    return [tuple(p and p.relative_to(root).as_posix() for p in pair) for pair in pairs]  # type: ignore[misc]


# Layouts ----------------------------------------------------------------------------------------------------


def test_plain_folder(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.webp", ".hidden.png"):
        picture(tmp_path / "train" / name, 8, 8)
    (tmp_path / "train" / "README.md").write_text("no picture")
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
    picture(tmp_path / hr, 16, 20)
    picture(tmp_path / lr, 4, 5)
    assert files(tmp_path) == [(hr, lr)]
    assert files(tmp_path, scale=2) == [(hr, None)]  # no X2 folder: made by our bicubic
    assert files(tmp_path, layout="hr") == [(hr, None)]
    with pytest.raises(DataError, match="no valid pictures"):
        files(tmp_path, "valid")


def test_named_folders(tmp_path: Path) -> None:
    picture(tmp_path / "one/x.png", 8, 8)
    picture(tmp_path / "DIV2K/DIV2K_train_HR/y.png", 8, 8)
    sets = find_pairs(tmp_path, ["one", "DIV2K"], "train", 2)
    assert [[hr.name for hr, _ in s] for s in sets] == [["x.png"], ["y.png"]]
    sets = find_pairs(
        Path("/nowhere"), [str(tmp_path / "one")], "train", 2
    )  # an absolute folder needs no root
    assert sets[0][0][0].name == "x.png"


def test_missing_partner(tmp_path: Path) -> None:
    picture(tmp_path / "DIV2K_train_HR/0001.png", 16, 16)
    picture(tmp_path / "DIV2K_train_LR_bicubic/X4/0002x4.png", 4, 4)
    with pytest.raises(DataError, match=r"X4: no LR picture for 0001.png \(0001x4 or 0001\)"):
        files(tmp_path)


@pytest.mark.parametrize("name", ["Set5", "Set14", "B100", "Urban100", "Manga109", "set_5", "BSD100"])
@pytest.mark.parametrize("role", ["train", "valid"])
def test_benchmarks_are_refused(tmp_path: Path, name: str, role: str) -> None:
    picture(tmp_path / name / "HR" / "x.png", 8, 8)
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
    with pytest.raises(DataError, match="no train pictures; looked for"):
        find_pairs(tmp_path, ["empty"], "train", 2)
    monkeypatch.setenv("BITSR_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(OSError, match=r"bad\.png"):
        load_pairs([(tmp_path / "bad.png", None)], 2, tmp_path / "cache")
    picture(tmp_path / "hr.png", 16, 16)
    picture(tmp_path / "lr.png", 5, 4)
    with pytest.raises(DataError, match=r"lr\.png: 4x5 is not 1/4 of hr\.png"):
        load_pairs([(tmp_path / "hr.png", tmp_path / "lr.png")], 4, tmp_path / "cache")
    picture(tmp_path / "tiny.png", 3, 9)
    with pytest.raises(DataError, match="too small"):
        load_pairs([(tmp_path / "tiny.png", None)], 4, tmp_path / "cache")


# Decoding ---------------------------------------------------------------------------------------------------


def test_lr_is_the_protocols(tmp_path: Path) -> None:
    """RGB uint8, cropped to a multiple of the scale -> bicubic -> RGB uint8 -> Y, kept to half a step of
    1/256."""
    rgb = picture(tmp_path / "a.png", 31, 22)
    pairs = load_pairs([(tmp_path / "a.png", None)], 3, tmp_path / "cache")
    lr, hr = pairs.image(0)
    cropped = rgb[:30, :21]
    assert lr.shape == (10, 7) and hr.shape == (30, 21)
    np.testing.assert_allclose(hr.numpy(), rgb_to_y(cropped), atol=1 / 512 + 1e-5)
    np.testing.assert_allclose(lr.numpy(), rgb_to_y(imresize(cropped, 1 / 3)), atol=1 / 512 + 1e-5)


def test_shrunk_pictures_come_behind_their_own(tmp_path: Path) -> None:
    """Each is what a file of the shrunk picture would give, with LR made of it even where there is a ready one."""
    rgb, small = picture(tmp_path / "a.png", 40, 31), tmp_path / "small.png"
    picture(tmp_path / "lr.png", 20, 15)
    Image.fromarray(imresize(rgb, 0.7)).save(small)
    cache = tmp_path / "cache"
    plain = load_pairs(
        [(tmp_path / "a.png", tmp_path / "lr.png"), (tmp_path / "a.png", None), (small, None)], 2, cache
    )
    found = [(tmp_path / "a.png", lr) for lr in (tmp_path / "lr.png", None)]
    pairs = load_pairs(found, 2, cache, shrink=[0.7])
    assert len(pairs) == 4
    for mine, other in enumerate([0, 2, 1, 2]):
        for a, b in zip(pairs.image(mine), plain.image(other), strict=True):
            assert torch.equal(a, b)
    assert len(load_pairs(found, 2, cache)) == 2  # in the cache beside them
    with pytest.raises(DataError, match=r"a.png: too small for scale 2"):
        load_pairs(found, 2, cache, shrink=[0.7, 0.02])


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (70, 70), (30, 90)])
@pytest.mark.parametrize("degrees", [7.0, 33.0, 45.0, 71.0])
def test_turned_pictures(size: tuple[int, int], degrees: float) -> None:
    """A plane stays one, turned by the angle and steeper by the shrinking; the rectangle lies inside the picture and is
    the largest."""
    (h, w), angle = size, np.radians(degrees)
    y, x = np.mgrid[:h, :w].astype(float)
    planes = [2 * x + 20, 2 * y + 20, x + y + 10]
    out = data.turn(np.stack(planes, -1).astype(np.uint8), degrees, 0.5).astype(float)
    inner = (slice(3, -3), slice(3, -3))  # bicubic is exact on planes but where the edge mirrors them
    errors, reaches = [], []
    for odd in np.ndindex(2, 2):  # half of an odd side ends half a pixel beyond it
        rows, cols = (
            np.arange(n) * 2 + 0.5 - (2 * n - o - 1) / 2 for n, o in zip(out.shape, odd, strict=False)
        )
        at_x = cols * np.cos(angle) - rows[:, None] * np.sin(angle)
        at_y = cols * np.sin(angle) + rows[:, None] * np.cos(angle)
        x_here, y_here = at_x + (w - 1) / 2, at_y + (h - 1) / 2
        planes = (2 * x_here + 20, 2 * y_here + 20, x_here + y_here + 10)
        off = np.stack([out[..., i] - plane for i, plane in enumerate(planes)], -1)[inner]
        errors.append(np.abs(off.mean((0, 1))).max())
        reaches.append(max(np.abs(at_x).max() / (w / 2), np.abs(at_y).max() / (h / 2)))
    right = int(np.argmin(errors))
    assert errors[right] < 0.3 and 0.9 < reaches[right] < 1
    area = [
        (a * np.cos(angle) + b * np.sin(angle) <= w) * (a * np.sin(angle) + b * np.cos(angle) <= h) * a * b
        for a in range(1, 91)
        for b in range(1, 91)
    ]
    assert abs(out.shape[0] * out.shape[1] * 4 / max(area) - 1) < 0.12  # whole pixels, of some 30


def test_turned_pictures_come_last(tmp_path: Path) -> None:
    rgb, other = picture(tmp_path / "a.png", 40, 31), tmp_path / "other.png"
    Image.fromarray(data.turn(rgb, 30.0, 0.7)).save(other)
    cache = tmp_path / "cache"
    plain = load_pairs([(tmp_path / "a.png", None), (other, None)], 2, cache)
    pairs = load_pairs([(tmp_path / "a.png", None)], 2, cache, shrink=[0.5], turned=[(30.0, 0.7)])
    assert len(pairs) == 3
    for mine, same in ((0, 0), (2, 1)):
        for a, b in zip(pairs.image(mine), plain.image(same), strict=True):
            assert torch.equal(a, b)


def test_pictures_that_turning_leaves_nothing_of(tmp_path: Path) -> None:
    picture(tmp_path / "line.png", 40, 2)
    with pytest.raises(DataError, match=r"line.png: too small for scale 2"):
        load_pairs([(tmp_path / "line.png", None)], 2, tmp_path / "cache", turned=[(80.0, 0.9)])


def test_extremes_survive_int16() -> None:
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert to_y(data.steps(rgb_to_y(ends))).tolist() == [[16.0, 235.0]]
    beyond = np.array([-3.0, 0.0, 255.0, 258.0])  # a teacher's picture
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
    rgb = picture(tmp_path / "a.png", 6, 5)
    monkeypatch.setitem(__import__("sys").modules, "pyvips", None)
    np.testing.assert_array_equal(data.read_rgb(tmp_path / "a.png"), rgb)


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = tmp_path / "a.png", tmp_path / "cache"
    picture(path, 16, 16)
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
    load_pairs([(path, None), (copy, None)], 2, cache)  # so are other pictures
    picture(copy, 16, 18)  # and a changed one
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
    """Pictures whose HR and LR values tell where they stand: value = running LR pixel number (HR: of its
    LR)."""
    hr, lr, start = [], [], 0
    for h, w in sizes:
        numbers = torch.arange(start, start + h * w, dtype=torch.int16).view(h, w)
        start += h * w
        lr.append(numbers.flatten())
        hr.append(numbers.repeat_interleave(scale, 0).repeat_interleave(scale, 1).flatten())
    return Pairs(torch.cat(hr), torch.cat(lr), torch.tensor(sizes), scale)


def numbers(y: torch.Tensor) -> torch.Tensor:
    return ((y - 128) * 256).round().int()


def draw(crops: Crops, iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
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
    lr, hr = draw(Crops(pairs, 4, 8, seed=3, tries=3), 5)
    details = torch.stack([data.detail(part[1].float(), 2) for part in drawn])  # drawn one by one
    for i, most in enumerate(details.argmax(0)):
        assert torch.equal(hr[i], drawn[most][1][i]) and torch.equal(lr[i], drawn[most][0][i])
    assert len(set(details.argmax(0).tolist())) == 3
    values = hr.float()
    blocks = F.avg_pool2d(values, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(data.detail(values, 2), (values - blocks).abs().mean((1, 2, 3)))
    halves = [draw(Crops(pairs, 4, 8, seed=3, samples=r, tries=3), 5)[1] for r in (range(4), range(4, 8))]
    assert torch.equal(torch.cat(halves), hr)  # devices share a batch without overlap


@pytest.mark.parametrize(("scale", "patch"), [(2, 5), (3, 4), (4, 3)])
def test_phases(scale: int, patch: int) -> None:
    """Crops lie anywhere in HR; LR is bicubic's of the picture, cut off so that its grid begins with the crop."""
    rng = np.random.default_rng(0)
    # the last holds no crop with its margin
    sizes = [(patch + 6, patch + 5), (patch + 4, patch + 9), (patch + 3, 20)]
    fixed = [torch.from_numpy(rng.integers(-9000, 9000, (h * scale, w * scale), np.int16)) for h, w in sizes]
    pictures, flat = [to_y(f) for f in fixed], torch.cat([f.flatten() for f in fixed])
    pairs = Pairs(
        flat, torch.zeros(sum(h * w for h, w in sizes), dtype=torch.int16), torch.tensor(sizes), scale
    )
    crops = Crops(pairs, patch, 16, seed=2, phases=True, tries=2)
    side, seen = patch * scale, set()
    for iteration in range(12):
        lr, hr = (t[:, 0].numpy() for t in crops(torch.tensor(iteration)))
        assert lr.shape == (16, patch, patch) and hr.shape == (16, side, side)
        for low, high in zip(lr, hr, strict=True):
            turns = [
                (np.rot90(high.T if t else high, k), np.rot90(low.T if t else low, k))
                for t in (0, 1)
                for k in range(4)
            ]
            ((n, y, x, upright),) = [
                (n, y, x, b)
                for n, p in enumerate(pictures[:2])
                for a, b in turns
                for y, x in np.argwhere(np.isclose(p.numpy(), a[0, 0]))
                if y + side <= len(p)
                and x + side <= p.shape[1]
                and np.array_equal(p[y : y + side, x : x + side], a)
            ]
            whole = imresize(pictures[n].numpy()[y % scale :, x % scale :].astype(float), 1 / scale)
            expected = whole[y // scale : y // scale + patch, x // scale : x // scale + patch]
            assert np.abs(upright - expected).max() < data.Y_STEP / 2 + 1e-3
            np.testing.assert_allclose(upright / data.Y_STEP, np.round(upright / data.Y_STEP), atol=1e-3)
            seen.add((y % scale, x % scale))
    assert len(seen) == scale**2
    with pytest.raises(ValueError, match="phases"):
        Crops(replace(pairs, taught=flat), patch, 16, seed=2, phases=True)


def test_steps_of_y_are_those_of_rgb() -> None:
    """Y of colours that are rounded to 8 bits is as far from that of the colours as Y rounded to such steps."""
    colours = np.random.default_rng(0).uniform(0, 255, (100_000, 3))
    y = colours @ np.array([65.481, 128.553, 24.966]) / 255
    lost = y - np.round(colours) @ np.array([65.481, 128.553, 24.966]) / 255
    steps = y - np.round(y / data.Y_STEP) * data.Y_STEP
    assert abs(lost.std() / steps.std() - 1) < 0.01


def test_the_target_of_taught_pictures() -> None:
    """At the same places, in the same orientation as HR, and from what teachers say alone unless told otherwise."""
    pairs = coordinates([(9, 7), (12, 30)], 2)
    taught = replace(pairs, taught=pairs.hr + 256)
    for iteration in range(4):
        lr, hr = draw(Crops(pairs, 5, 16, seed=1, tries=2), iteration)
        for truth in (None, 0.0, 0.25, 1.0):
            more = {} if truth is None else {"truth": truth}
            again, target = draw(Crops(taught, 5, 16, seed=1, tries=2, **more), iteration)
            assert torch.equal(again, lr)
            assert torch.equal(target, hr + round(256 * (1 - (truth or 0.0))))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, as it compiles
def test_compiled_gathers_are_the_same() -> None:
    taught = replace(pairs := coordinates([(9, 7), (12, 30)], 2), taught=pairs.hr + 256)
    usual, compiled = (Crops(taught, 5, 4, seed=1, tries=2, truth=0.25) for _ in range(2))
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
    assert data._mix(torch.tensor(words)).tolist() == [lowbias32(x) for x in words]
    assert lowbias32(1) == 1753845952


def test_crops_are_uniform_over_places_and_repeats() -> None:
    pairs = coordinates([(10, 10), (10, 10), (16, 31)], 1)
    crops = Crops(pairs, 10, 500, seed=0, repeats=torch.tensor([3, 1, 1]))  # 1, 1 and 154 places
    starts = torch.cat([draw(crops, i)[0].amin((1, 2, 3)) for i in range(40)])
    counts = [int((starts == 0).sum()), int((starts == 100).sum())]
    expected = 20_000 / 158
    assert abs(counts[0] - 3 * expected) < 5 * (3 * expected) ** 0.5
    assert abs(counts[1] - expected) < 5 * expected**0.5


def test_crop_larger_than_every_picture() -> None:
    with pytest.raises(DataError, match=r"crop of 20 pixels.*data\.patch"):
        Crops(coordinates([(9, 40)], 2), 10, 1, seed=0)
