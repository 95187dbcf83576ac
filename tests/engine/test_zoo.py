"""The nets that ship: what their files promise is what they do."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from bitsr.engine import Engine, isas
from bitsr.eval.card import card
from bitsr.eval.evaluate import evaluate, find_set, read_hr, to_q
from bitsr.eval.metrics import rgb_to_y
from bitsr.folders import data_folder
from bitsr.imresize import imresize
from bitsr.model_file import ModelFile
from bitsr.upscaler import Upscaler, load
from bitsr.zoo import DEFAULTS, ZOO, alias, choose, find

NETS = sorted(ZOO.glob("*.bsr"))
ROOT = Path(__file__).parents[2]
DATA = data_folder() if (data_folder() / "Set5").is_dir() else None
needs_data = pytest.mark.skipif(DATA is None, reason="the test sets are not here (BITSR_DATA)")
FLOOR = {2: 36.0, 3: 32.0, 4: 30.3}
"""Set5, dB: what a net of this kind must reach to be worth its place; bicubic is 33.65, 30.39, 28.42."""
TIED = [p for p in NETS if p.stem.startswith("bitsr") and "xs" not in p.stem]
"""Nets of ours with weights tied over eight orientations."""
CLEAN = [p for p in TIED if "photo" not in p.stem]
"""Nets of ours that keep what the LR image tells."""


LARGE = ("bitsr-l", "bitsr-xl")


def test_there_is_a_default_net():
    assert [choose(None, scale).stem for scale in (None, 2, 3)] == [
        next(n for n in (f"{d}-x{s}" for d in DEFAULTS) if (ZOO / f"{n}.bsr").exists()) for s in (4, 2, 3)
    ]


def test_the_rule_of_sizes():
    """s, m, l: 8, 16, 32 residual blocks of two binary convolutions, at every scale; xl: 48, at x2 alone. xs: int8,
    no binary one."""
    blocks = {"xs": 0, "s": 8, "m": 16, "l": 32}
    wanted = {f"bitsr-{size}-x{scale}": n for size, n in blocks.items() for scale in (2, 3, 4)}
    wanted |= {
        "bitsr-xl-x2": 48,
        "bitsr-xxs-x4": 0,
        "bitsr-photo-m-x2": 16,
        "bitsr-photo-m-x4": 16,
        "bitsr-photo-s-x2": 8,
        "bitsr-photo-s-x4": 8,
    }
    ours = [p for p in NETS if p.stem.startswith("bitsr")]
    found = {p.stem: sum(op.kind == "bconv" for op in ModelFile.read(p).ops) // 2 for p in ours}
    assert found == wanted
    for path in ours:  # back-projection at the end, but where it would bring artefacts back
        names = {op.name for op in ModelFile.read(path).ops}
        assert ({"base_left", "base_shrink", "base_back"} <= names) == (path in CLEAN) and "base" in names


@pytest.mark.parametrize(
    ("old", "new"),
    [("house-fast-x2", "bitsr-s-x2"), ("house-srresnet-x4", "bitsr-m-x4"), ("house-best-x3", "bitsr-l-x3"),
     ("house-best-x2", "bitsr-xl-x2")],
)  # fmt: skip
def test_old_names_load_with_a_note(old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is now called {new}"):
        assert find(old) == find(new)
    with pytest.warns(DeprecationWarning, match=new):
        assert load(old).name == new


def test_a_new_name_is_no_old_one(recwarn):
    assert alias("bitsr-m-x4") == "bitsr-m-x4" and alias("nothing") == "nothing"
    assert not recwarn.list


@pytest.mark.parametrize("path", NETS, ids=lambda p: p.stem)
def test_equivariant_is_what_the_file_says(path):
    """On noise, where no other net flips and rotates with its image."""
    up = Upscaler(Engine(path))
    lr = np.random.default_rng(0).integers(-14000, 14000, (19, 13), np.int16)
    sr = up.engine.run(lr)
    moved = [
        np.array_equal(up.engine.run(np.ascontiguousarray(move(lr))), move(sr))
        for move in (np.fliplr, np.transpose)
    ]
    assert all(moved) == any(moved) == up.equivariant == (path in TIED)


@pytest.mark.parametrize("path", NETS, ids=lambda p: p.stem)
def test_chroma_is_smoothed_by_nets_of_degraded_images_alone(path):
    recipe = json.loads(ModelFile.read(path).metadata["recipe"])
    assert Engine(path).smooth == bool(recipe["data"].get("degrade")) == ("photo" in path.stem)


@pytest.mark.parametrize("path", NETS, ids=lambda p: p.stem)
def test_small_and_named_truly(path):
    packed = ModelFile.read(path)
    assert packed.name == path.stem and packed.name.endswith(f"x{packed.scale}")
    assert path.stat().st_size < 216 * 1024
    assert {"training", "recipe", "check", "evaluation", "calibration"} <= packed.metadata.keys()


@pytest.mark.parametrize("path", NETS, ids=lambda p: p.stem)
def test_has_its_card(path):
    """docs/cards is what `bitsr info --card` prints."""
    written = ROOT / "docs" / "cards" / f"{path.stem}.md"
    if not written.parent.is_dir():
        pytest.skip("the checkout's docs are not here")
    assert written.read_text(encoding="utf-8") == card(ModelFile.read(path), path.stat().st_size)


@pytest.mark.parametrize("path", NETS, ids=lambda p: p.stem)
def test_same_bytes_on_every_path(path):
    lr = np.random.default_rng(0).integers(-14000, 14000, (21, 67), np.int16)
    first, *others = (Engine(path, isa=isa, threads=t).run(lr) for isa in isas() for t in (1, 2))
    for other in others:
        np.testing.assert_array_equal(first, other)


@needs_data
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem.startswith(LARGE) else []) for p in NETS],
)
def test_the_table_in_the_file_is_what_is_measured(path):
    packed = ModelFile.read(path)
    (mean,) = evaluate(Engine(path), ["Set5"], data=DATA).means()
    told = {row["set"]: row for row in json.loads(packed.metadata["evaluation"])["means"]}
    assert mean.psnr == pytest.approx(told["Set5"]["psnr"], abs=1e-6)
    assert mean.ssim == pytest.approx(told["Set5"]["ssim"], abs=1e-6)
    assert mean.psnr >= FLOOR[packed.scale] > mean.bicubic_psnr + 1.5


def lr_and_hr(image, scale):
    """Luma of a test image: LR as the engine takes it, and HR in levels."""
    hr = read_hr(image)
    hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
    lr, hr = (x if x.ndim == 2 else rgb_to_y(x) for x in (imresize(hr, Fraction(1, scale)), hr))
    return to_q(lr.astype(np.float64)), hr


@needs_data
@pytest.mark.parametrize("path", CLEAN, ids=lambda p: p.stem)
def test_results_of_our_nets_shrink_to_their_lr(path):
    """Eight LR pixels from the edge, a tenth of a level (rms), the inverse being cut off after three; with a bicubic
    base they are 0.15 (x2) to 0.7 off."""
    engine, inner = Engine(path), slice(8, -8)
    for image in find_set("Set5", DATA)[1:3]:  # a bird and a butterfly, the smallest
        lr, _ = lr_and_hr(image, engine.scale)
        off = imresize(engine.run(lr) / 128, Fraction(1, engine.scale)) - lr / 128
        assert np.sqrt(np.mean(off[inner, inner] ** 2)) < 0.1


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("path", NETS, ids=lambda p: p.stem)
def test_packed_bits_are_those_of_the_checkpoint(path):
    """Every weight bit and operation, by packing the checkpoint anew; and the image, which tells of scales,
    thresholds and biases.

    Units of integers come from the calibration images, so the numbers of the two files differ. And a sign flips where
    rounding crosses its threshold, so the simulation is not one image either: noise of 1/256 of a level on its input
    moves it by 0.3 to 0.9 levels (rms). The packed bits are hardly further off: 1.02 times (48 blocks) to 1.4 (8).
    """
    torch = pytest.importorskip("torch", reason="the float simulation needs torch")
    from bitsr.layers.ops import Net
    from bitsr.pack import pack
    from bitsr.train.checkpoint import load_net
    from bitsr.train.fast import accelerated

    latent = ROOT / "checkpoints" / f"{path.stem}.latent.safetensors"
    if not latent.exists():
        pytest.skip(f"{latent.name} is not here")
    net, _ = load_net(latent)
    assert isinstance(net, Net)
    engine, shipped, noise = Engine(path), ModelFile.read(path), np.random.default_rng(0)
    q, _ = lr_and_hr(find_set("Set5", DATA)[1], engine.scale)
    top, left = (n // 2 - 20 for n in q.shape)
    q = np.ascontiguousarray(q[top : top + 40, left : left + 44])
    y = q / 128 + 127.5
    anew = pack(net, [y], path.stem)
    assert [op.kind for op in shipped.ops] == [op.kind for op in anew.ops]
    for a, b in zip(shipped.ops, anew.ops, strict=True):
        assert (a.out, a.inputs, a.name) == (b.out, b.inputs, b.name)
    assert shipped.tensors.keys() == anew.tensors.keys()
    for key, value in shipped.tensors.items():
        assert (value.shape, value.dtype) == (anew.tensors[key].shape, anew.tensors[key].dtype), key
        if value.dtype == np.uint64:
            np.testing.assert_array_equal(value, anew.tensors[key], err_msg=key)
    with accelerated(net):
        a, b = (
            net.upscale(torch.from_numpy(y + noise.uniform(-1, 1, y.shape) / 256)).numpy() for _ in range(2)
        )
    sr = engine.run(q) / 128 + 127.5
    off = np.sqrt(np.mean([(sr - a) ** 2, (sr - b) ** 2]))
    if any(op.kind == "bconv" for op in shipped.ops):
        assert off < 1.6 * np.sqrt(np.mean((a - b) ** 2))
    else:  # int8: rounded to 16 bits and then to 8, where the simulation rounds once
        assert off < 0.8  # levels
    assert abs(np.mean(sr - (a + b) / 2)) < 0.05  # levels
