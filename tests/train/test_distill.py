"""Soft targets: by the engine from packed nets, by torch from checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from safetensors.torch import load_file, save_file
from torch import Tensor

from bitsr.eval.metrics import psnr, rgb_to_y, to_8bit
from bitsr.folders import data_folder, image_files
from bitsr.imresize import imresize
from bitsr.nets.smfanet import SMFANet
from bitsr.train import checkpoint, recipe
from bitsr.train import distill as module
from bitsr.train.build import build
from bitsr.train.crops import Crops
from bitsr.train.data import DataError, Pairs, find_pairs, load_pairs, lr_images, read_rgb
from bitsr.train.distill import by_torch, soft_targets
from bitsr.train.run import load_data

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """Two smooth images of x2, as photographs are more than noise is."""
    (tmp_path / "train").mkdir()
    for i, size in enumerate([(44, 52), (80, 28)]):
        rgb = np.random.default_rng(i).integers(0, 256, (7, 5, 3), np.uint8)
        Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "train" / f"{i}.png")
    (found,) = find_pairs(tmp_path, ["auto"], "train", 2)
    return load_pairs(found, 2, tmp_path / "cache")


Soft = Callable[..., Tensor]


@pytest.fixture
def by(pairs: Pairs, tmp_path: Path) -> Soft:
    return lambda *nets: soft_targets(pairs, [str(net) for net in nets], tmp_path / "cache")


def images(pairs: Pairs, soft: Tensor) -> list[np.ndarray]:
    """Y of soft targets."""
    return [replace(pairs, hr=soft).image(i)[1].numpy() for i in range(len(pairs))]


def test_packed_teachers_give_the_mean_of_their_outputs(
    pairs: Pairs, by: Soft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each as in evaluation; a net that is not equivariant by its mean over the orientations."""
    from bitsr import upscaler
    from bitsr.eval.evaluate import upscale_luma
    from bitsr.zoo import find

    turning, other = upscaler.load("bitsr-m-x2"), upscaler.load("e2fif-srresnet-x2")
    assert turning.equivariant and not other.equivariant
    said: list[str] = []
    names = [turning.name, str(find(other.name))]
    soft = soft_targets(pairs, names, tmp_path / "cache", said.append)
    assert said == [f"{net.name}: upscaling 2 training images, once" for net in (turning, other)]
    assert soft.shape == pairs.hr.shape and soft.dtype == pairs.hr.dtype
    nets = {turning.name: (turning.engine, False), other.name: (other.engine, True)}
    each = [images(pairs, by(name)) for name in nets]
    for i, shown in enumerate(images(pairs, soft)):
        lr = pairs.image(i)[0].numpy().astype(np.float64)
        for alone, net in zip(each, nets.values(), strict=True):
            np.testing.assert_allclose(
                alone[i], upscale_luma(net[0], lr, net[1]).clip(0, 255), atol=0.51 / 256
            )
        np.testing.assert_allclose(shown, (each[0][i] + each[1][i]) / 2, atol=0.51 / 256)

    with monkeypatch.context() as m:
        m.setattr(upscaler, "load", lambda *a, **k: pytest.fail("made again"))
        assert torch.equal(by(turning.name, other.name), soft)
        alone = by(turning.name)  # each is kept by itself
        assert not torch.equal(alone, soft)
        assert torch.equal(by(turning.name, turning.name), alone)


@pytest.mark.parametrize("symmetry", [1, 4, 8])
@pytest.mark.parametrize("binarized", ["body", "none"])
def test_a_checkpoint_gives_the_output_of_its_net(
    pairs: Pairs, by: Soft, tmp_path: Path, symmetry: int, binarized: str
) -> None:
    """By torch, equivariant whether the net is or not."""
    args = {"channels": 32, "blocks": 1, "binarized": binarized}
    table = {
        "scale": 2,
        "net": {"name": "srresnet", "args": args, "symmetry": symmetry},
        "train": {"iterations": 1, "lr": 1.0},
    }
    torch.manual_seed(symmetry)
    net = build(recipe.parse(table, "test"))
    facts = {"recipe": table, "stage": 0, "iteration": 1, "psnr": 0.0}
    checkpoint.save(tmp_path / "net.pt", {"net": net.state_dict(), **facts})
    checkpoint.export_latent(tmp_path / "net.latent.safetensors", {"net": net.state_dict(), **facts})

    net.eval()
    soft = by(tmp_path / "net.pt")
    for i, shown in enumerate(images(pairs, soft)):
        lr = pairs.image(i)[0]
        with torch.no_grad():
            turns = [
                torch.rot90(net(torch.rot90(lr, k)[None, None].contiguous())[0, 0], -k) for k in range(4)
            ]
        upscale, y = by_torch(net, lr.device), lr.numpy().astype(np.float64)
        flipped = upscale(y.T).T
        np.testing.assert_allclose(upscale(y), flipped, atol=1e-2)
        np.testing.assert_allclose(shown, flipped.clip(0, 255), atol=1e-2)
        spread = float((torch.stack(turns) - turns[0]).abs().max())
        assert (spread < 1e-2) == (symmetry == 8)
    assert torch.equal(by(tmp_path / "net.latent.safetensors"), soft)


@pytest.mark.parametrize("net", ["bitsr-s-x2", CHECKPOINTS / "bitsr-s-x2.latent.safetensors"])
def test_a_teacher_reports_how_far_it_is(
    pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: str | Path
) -> None:
    """In parts of all pixels, to the last."""
    monkeypatch.setattr(module, "REPORT_EVERY", 0.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # in turn
    said: list[str] = []
    soft_targets(pairs, [str(net)], tmp_path / "cache", said.append)
    first, second = (int(n) for n in pairs.sizes.prod(1))
    assert said[1:] == [f"bitsr-s-x2: {100 * first // (first + second)} %", "bitsr-s-x2: 100 %"]
    assert said[0].startswith("bitsr-s-x2: upscaling 2")


def test_teachers_that_are_none(by: Soft, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="teacher bitsr-m-x3 upscales x3, the recipe x2"):
        by("bitsr-m-x3")
    with pytest.raises(DataError, match="teacher bitsr-s-x4 upscales x4, the recipe x2"):
        by(CHECKPOINTS / "bitsr-s-x4.latent.safetensors")
    with pytest.raises(ValueError, match="no net named absent"):
        by("absent")
    with pytest.raises(OSError, match="absent"):
        by("absent.pt")
    (tmp_path / "bad.pt").write_bytes(b"bad")
    with pytest.raises(ValueError, match="not a checkpoint"):
        by(tmp_path / "bad.pt")


def test_degraded_images_have_soft_targets_of_the_clean_ones(
    tmp_path: Path, pairs: Pairs, by: Soft, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher sees bicubic LR alone, from the cache of a run without degradation."""
    monkeypatch.setenv("BITSR_DATA", str(tmp_path))
    monkeypatch.setenv("BITSR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "valid").mkdir()
    shutil.copy(tmp_path / "train" / "0.png", tmp_path / "valid" / "0.png")
    soft = by("bitsr-s-x2")
    table = {
        "scale": 2,
        "net": {"name": "srresnet", "args": {"channels": 8, "blocks": 1}},
        "data": {"patch": 8, "batch": 4, "degrade": 3, "teachers": ["bitsr-s-x2"]},
        "train": {"iterations": 1, "lr": 1.0},
    }
    said: list[str] = []
    crops, valid = load_data(recipe.parse(table, "test"), torch.device("cpu"), say=said.append)
    assert not any("upscaling" in line for line in said)
    assert crops.pairs.soft is not None and torch.equal(crops.pairs.soft, soft)
    assert torch.equal(crops.pairs.hr, pairs.hr) and len(crops.pairs.lr) == 3
    assert not any(torch.equal(lr, pairs.lr[0]) for lr in crops.pairs.lr)
    # validation: one degraded image each, by a seed that no training image has
    files = [(tmp_path / "valid" / "0.png", None)]
    assert torch.equal(valid.lr, load_pairs(files, 2, degrade=1, seed=1).lr) and len(valid.lr) == 1
    assert not torch.equal(valid.lr[0], crops.pairs.lr[0, : valid.lr.shape[1]])
    _, target = crops(torch.tensor(0))
    alone = Crops(replace(pairs, hr=soft), 8, 4, seed=0)
    assert torch.equal(target, alone(torch.tensor(0))[1])


@pytest.fixture
def rgb_images(tmp_path: Path, pairs: Pairs) -> Callable[[int], np.ndarray]:
    (found,) = find_pairs(tmp_path, ["auto"], "train", 2)
    return lr_images(found, 2)


def test_colour_images_are_those_of_the_pairs(tmp_path: Path, pairs: Pairs) -> None:
    (found,) = find_pairs(tmp_path, ["auto"], "train", 2)
    many = load_pairs(found, 2, tmp_path / "cache", hr_scales=[0.7, 0.5], rendered=2)
    image = lr_images(found, 2, [0.7, 0.5], 2)
    assert len(many) == 8
    for i in range(8):
        shown = image(i)
        assert shown.dtype == np.uint8
        np.testing.assert_allclose(rgb_to_y(shown), many.image(i)[0].numpy(), atol=0.51 / 256)


def test_smfanet_teaches_from_colour(tmp_path: Path, pairs: Pairs, rgb_images) -> None:
    torch.manual_seed(0)
    net = SMFANet(2, channels=8, blocks=1).eval()
    save_file(net.state_dict(), tmp_path / "smfa.safetensors")
    soft = soft_targets(pairs, [str(tmp_path / "smfa.safetensors")], tmp_path / "cache", rgb=rgb_images)
    for i, shown in enumerate(images(pairs, soft)):
        x = torch.from_numpy(rgb_images(i)).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            want = rgb_to_y(255 * net(x)[0].permute(1, 2, 0).numpy())
        np.testing.assert_allclose(shown, want.clip(0, 255), atol=0.02)
    with pytest.raises(DataError, match="in colour"):
        soft_targets(pairs, [str(tmp_path / "smfa.safetensors")], tmp_path / "other")
    state = net.state_dict()
    del state["feats.0.pcfn.conv_1.bias"]
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match="no SMFANet"):
        soft_targets(pairs, [str(tmp_path / "broken.safetensors")], tmp_path / "cache", rgb=rgb_images)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_onnx_file_teaches(tmp_path: Path, pairs: Pairs, rgb_images, channels: int) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    h = onnx.helper

    def write(name: str, factor: float) -> str:
        """Nearest neighbours, enlarged ``factor`` times."""
        scales = onnx.numpy_helper.from_array(np.array([1, 1, factor, factor], np.float32), "scales")
        node = h.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest", nearest_mode="floor",
                           coordinate_transformation_mode="asymmetric")  # fmt: skip
        shape = [1, channels, "h", "w"]
        ends = [
            h.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape if n == "x" else None) for n in "xy"
        ]
        model = h.make_model(
            h.make_graph([node], "net", ends[:1], ends[1:], [scales]),
            opset_imports=[h.make_opsetid("", 13)],
            ir_version=8,
        )
        onnx.save(model, tmp_path / name)
        return str(tmp_path / name)

    soft = soft_targets(pairs, [write("net.onnx", 2)], tmp_path / "cache", rgb=rgb_images)
    for i, shown in enumerate(images(pairs, soft)):
        np.testing.assert_allclose(shown, np.kron(pairs.image(i)[0], np.ones((2, 2))), atol=0.01)
    with pytest.raises(DataError, match="upscales x3"):
        soft_targets(pairs, [write("three.onnx", 3)], tmp_path / "cache", rgb=rgb_images)
    (tmp_path / "none.onnx").write_bytes(b"no net")
    with pytest.raises(DataError, match="no teacher"):
        soft_targets(pairs, [str(tmp_path / "none.onnx")], tmp_path / "cache", rgb=rgb_images)


def test_published_weights_of_smfanet_reach_their_figure() -> None:
    """32.488 dB on Set5 x4, measured where the weights were published."""
    weights = data_folder().parent / "teachers" / "smfanetplus_DF2K_x4.safetensors"
    if not weights.is_file() or not (data_folder() / "Set5").is_dir():
        pytest.skip("needs Set5 and the published weights of SMFANet")
    net = SMFANet.of(load_file(weights))
    scores = []
    for path in image_files(data_folder() / "Set5"):
        hr = read_rgb(path)
        hr = hr[: hr.shape[0] // 4 * 4, : hr.shape[1] // 4 * 4]
        x = torch.from_numpy(imresize(hr, 1 / 4)).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            sr = to_8bit(255 * net(x)[0].permute(1, 2, 0).numpy())
        scores.append(psnr(to_8bit(rgb_to_y(sr)), to_8bit(rgb_to_y(hr)), crop=4))
    assert abs(np.mean(scores) - 32.488) < 0.01
