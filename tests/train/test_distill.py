"""Teachers' pictures: by the engine from packed nets, by torch from checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from bitsr.train import checkpoint, recipe
from bitsr.train import distill as module
from bitsr.train.data import DataError, Pairs, find_pairs, load_pairs
from bitsr.train.distill import by_torch, teach

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """Two smooth pictures of x2, as photographs are more than noise is."""
    (tmp_path / "train").mkdir()
    for i, size in enumerate([(44, 52), (80, 28)]):
        rgb = np.random.default_rng(i).integers(0, 256, (7, 5, 3), np.uint8)
        Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "train" / f"{i}.png")
    (found,) = find_pairs(tmp_path, ["auto"], "train", 2)
    return load_pairs(found, 2, tmp_path / "cache")


Teach = Callable[..., Pairs]


@pytest.fixture
def by(pairs: Pairs, tmp_path: Path) -> Teach:
    return lambda *nets: teach(pairs, [str(net) for net in nets], tmp_path / "cache")


def pictures(taught: Pairs) -> list[np.ndarray]:
    """Y of what was taught."""
    assert taught.taught is not None
    as_hr = Pairs(taught.taught, taught.lr, taught.sizes, 2)
    return [as_hr.picture(i)[1].numpy() for i in range(len(taught))]


def test_packed_teachers_make_the_mean_of_their_pictures(
    pairs: Pairs, by: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by what evaluation makes of it; a net that does not turn with its picture by its mean over the turns."""
    from bitsr import upscaler
    from bitsr.eval.evaluate import upscale_luma
    from bitsr.zoo import find

    assert pairs.taught is None
    turning, other = upscaler.load("bitsr-m-x2"), upscaler.load("e2fif-srresnet-x2")
    assert turning.equivariant and not other.equivariant
    said: list[str] = []
    taught = teach(pairs, [turning.name, str(find(other.name))], tmp_path / "cache", said.append)
    assert said == [f"{net.name}: upscaling 2 training pictures, once" for net in (turning, other)]
    assert torch.equal(taught.hr, pairs.hr) and torch.equal(taught.lr, pairs.lr)
    nets = {turning.name: (turning.engine, False), other.name: (other.engine, True)}
    each = [pictures(by(name)) for name in nets]
    for i, shown in enumerate(pictures(taught)):
        lr = pairs.picture(i)[0].numpy().astype(np.float64)
        for alone, net in zip(each, nets.values(), strict=True):
            np.testing.assert_allclose(alone[i], upscale_luma(net[0], lr, net[1]).clip(0, 255), atol=0.51 / 256)
        np.testing.assert_allclose(shown, (each[0][i] + each[1][i]) / 2, atol=0.51 / 256)

    with monkeypatch.context() as m:
        m.setattr(upscaler, "load", lambda *a, **k: pytest.fail("made again"))
        assert torch.equal(by(turning.name, other.name).taught, taught.taught)
        alone = by(turning.name).taught  # each is kept by itself
        assert not torch.equal(alone, taught.taught)
        assert torch.equal(by(turning.name, turning.name).taught, alone)


@pytest.mark.parametrize("symmetry", [1, 4, 8])
@pytest.mark.parametrize("binarized", ["body", "none"])
def test_a_checkpoint_teaches_what_its_net_makes(
    pairs: Pairs, by: Teach, tmp_path: Path, symmetry: int, binarized: str
) -> None:
    """By torch, and turning with the picture whether the net does or not."""
    args = {"channels": 32, "blocks": 1, "binarized": binarized}
    table = {
        "scale": 2,
        "net": {"name": "srresnet", "args": args, "symmetry": symmetry},
        "train": {"iterations": 1, "lr": 1.0},
    }
    torch.manual_seed(symmetry)
    net = recipe.build(recipe.parse(table, "test"))
    facts = {"recipe": table, "stage": 0, "iteration": 1, "psnr": 0.0}
    checkpoint.save(tmp_path / "net.pt", {"net": net.state_dict(), **facts})
    checkpoint.export_latent(tmp_path / "net.latent.safetensors", {"net": net.state_dict(), **facts})

    net.eval()
    taught = by(tmp_path / "net.pt")
    for i, shown in enumerate(pictures(taught)):
        lr = pairs.picture(i)[0]
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
    assert torch.equal(by(tmp_path / "net.latent.safetensors").taught, taught.taught)


@pytest.mark.parametrize("net", ["bitsr-s-x2", CHECKPOINTS / "bitsr-s-x2.latent.safetensors"])
def test_a_teacher_tells_how_far_it_is(
    pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: str | Path
) -> None:
    """In parts of all pixels, to the last."""
    monkeypatch.setattr(module, "TOLD_EVERY", 0.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # in turn
    said: list[str] = []
    teach(pairs, [str(net)], tmp_path / "cache", said.append)
    first, second = (int(n) for n in pairs.sizes.prod(1))
    assert said[1:] == [f"bitsr-s-x2: {100 * first // (first + second)} %", "bitsr-s-x2: 100 %"]
    assert said[0].startswith("bitsr-s-x2: upscaling 2")


def test_teachers_that_are_none(by: Teach, tmp_path: Path) -> None:
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
