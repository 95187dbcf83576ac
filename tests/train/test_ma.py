"""The systems of Ma et al.: SRResNet, SRGAN and LapSRN with one-bit filters, from training to packed bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")
Image = pytest.importorskip("PIL.Image")

from lightning_fabric import Fabric
from test_pack import q, scene
from torch import nn
from torch.nn import functional as F

from bitsr import reference
from bitsr.engine import Engine, isas
from bitsr.folders import data_folder
from bitsr.imresize import imresize
from bitsr.layers.ops import Net
from bitsr.model_file import ModelFile
from bitsr.nets import NETS
from bitsr.nets.lapsrn import LapSRN
from bitsr.pack import pack
from bitsr.pack.fold import LUMA
from bitsr.train import checkpoint, data, recipe
from bitsr.train import gan as adversarial
from bitsr.train import losses as loss
from bitsr.train import run as loop
from bitsr.train.build import build
from bitsr.train.crops import Crops
from bitsr.train.log import Log
from bitsr.train.trainer import Trainer

SMALL: dict[str, dict[str, Any]] = {
    "ledig-srresnet": {"channels": 16, "blocks": 2},
    "lapsrn": {"channels": 16, "depth": 2},
}
MATRIX = [(name, scale) for name in SMALL for scale in cast(Any, NETS[name]).scales]


@pytest.fixture(scope="module", autouse=True)
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two pictures to train on and one to validate with."""
    root = tmp_path_factory.mktemp("pictures")
    for role, count in (("train", 2), ("valid", 1)):
        (root / role).mkdir()
        for i in range(count):
            grey = scene(72, 80, i + 10 * count).astype(np.uint8)
            Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(root / role / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITSR_DATA", str(root))
        patch.setenv("BITSR_CACHE", str(root / "cache"))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield root
        torch.set_num_threads(threads)


def make(name: str, scale: int, **train: Any) -> recipe.Recipe:
    settings = {"iterations": 2, "lr": 1e-3, **train}
    table = {"scale": scale, "net": {"name": name, "args": SMALL[name]}, "data": {"patch": 8, "batch": 2}}
    return recipe.parse({**table, "train": settings}, "test")


def calm(net: nn.Module) -> Net:
    """Batch norm's means, slopes and biases away from where they start; LapSRN's residuals as small as after training,
    and all its filters."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("slope"):
                p.copy_(torch.rand(p.shape, generator=g) * 1.6 - 0.8)
            elif name.endswith("residual.weight"):
                p.mul_(0.2)
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                assert m.running_mean is not None
                m.running_mean.copy_(torch.randn(m.num_features, generator=g) * 0.5)
                m.weight.copy_(torch.rand(m.num_features, generator=g) + 0.3)
                m.bias.copy_(torch.randn(m.num_features, generator=g) * 0.3)
            if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)) and m.bias is not None:
                m.bias.add_(torch.randn(m.bias.shape, generator=g) * 0.1)
    assert isinstance(net, Net)
    return net.eval()


def difference(net: Any, packed: ModelFile, lr: np.ndarray) -> float:
    """Root of the mean square between float simulation and packed bits over the simulation's own spread."""
    expected = net.upscale(torch.from_numpy(lr / LUMA + 127.5)).numpy().clip(0, 255)
    got = (Engine(packed).run(lr) / LUMA + 127.5).clip(0, 255)
    return float(np.sqrt(np.mean((got - expected) ** 2)) / expected.std())


@pytest.mark.parametrize(("name", "scale"), MATRIX)
def test_trains_packs_and_runs(tmp_path: Path, name: str, scale: int) -> None:
    """Two steps, a checkpoint, packed bits: the same on every path as the reference, and close to the float net."""
    losses = {"lapsrn": "charbonnier-pyramid", "ledig-srresnet": "mse"}
    r = make(name, scale, loss=losses[name])
    before = build(r).state_dict()
    assert loop.train(r, tmp_path, device="cpu").complete
    net, _ = checkpoint.load_net(tmp_path / "latent.safetensors")
    assert sum(not torch.equal(v, before[k]) for k, v in net.state_dict().items()) > 0.8 * len(before)
    net = calm(net)
    y = scene(19, 21)
    packed = pack(net, [y], "net")
    assert packed.scale == scale
    assert {op.kind for op in packed.ops} >= {"conv", "quant", "qconv", "shuffle"}
    lr = q(y)
    expected = reference.run(packed, lr)
    for isa in isas():
        np.testing.assert_array_equal(
            Engine(ModelFile.from_bytes(packed.to_bytes()), isa=isa).run(lr), expected
        )
    assert difference(net, packed, lr) < 0.06


LOST = [
    *(("ledig-srresnet", p) for p in ("slope", "body.0.slope", "body.1.bn2.bias", "body.0.bn1.running_mean")),
    *(("ledig-srresnet", p) for p in ("head.bias", "bn.bias", "up.0.conv.bias", "up.1.slope", "tail.bias")),
    *(("lapsrn", p) for p in ("head.bias", "levels.0.convs.1.bias", "levels.0.convs.0.scale")),
    *(("lapsrn", p) for p in ("levels.1.up.bias", "levels.0.residual.bias", "levels.1.picture.weight")),
]


@pytest.mark.parametrize(("name", "lost"), LOST)
def test_a_lost_parameter_is_seen(name: str, lost: str) -> None:
    """A net packed without this parameter is twice as far off as one that is packed whole, or more."""
    torch.manual_seed(0)
    net = calm(NETS[name](scale=4, **SMALL[name]))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    y = scene(19, 21)
    whole = pack(net, [y], "net")
    net.load_state_dict({**state, lost: torch.zeros_like(state[lost])})
    packed = pack(net, [y], "net")
    net.load_state_dict(state)
    sound, off = (difference(net, model, q(y)) for model in (whole, packed))
    assert sound < 0.06 and off > 2 * sound, (sound, off)


@pytest.mark.parametrize("scale", [2, 4])
def test_files_are_a_fifth_of_the_float_net(scale: int) -> None:
    """The paper's "model size -80 %", of real files: against the float parameters alone, 4 bytes each."""
    net = NETS["ledig-srresnet"](scale=scale).eval()
    assert isinstance(net, Net)
    size = len(pack(net, [scene(12, 12)], "net").to_bytes())
    floats = sum(p.numel() for name, p in net.named_parameters() if not name.endswith("scale"))
    assert size < 0.2 * 4 * floats


def test_lapsrn_starts_as_bilinear_upsampling() -> None:
    net = NETS["lapsrn"](scale=4, **SMALL["lapsrn"])
    assert isinstance(net, LapSRN)
    for level in net.levels:
        nn.init.zeros_(level.get_parameter("residual.weight"))
    y = torch.from_numpy(scene(9, 11)).float()[None, None]
    with torch.no_grad():
        small, large = net.pyramid(y)
    twice = F.interpolate(y, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(small[..., 1:-1, 1:-1], twice[..., 1:-1, 1:-1])
    assert large.shape[-2:] == (36, 44)


def test_the_pyramid_loss_sums_over_levels() -> None:
    g = torch.Generator().manual_seed(0)
    hr = torch.rand((2, 1, 16, 24), generator=g) * 255
    levels = [torch.rand((2, 1, 16 // s, 24 // s), generator=g) * 255 for s in (4, 2, 1)]
    total = 0.0
    for s, sr in zip((4, 2, 1), levels, strict=True):
        small = np.stack([imresize(hr[i, 0].numpy(), 1 / s, dtype=np.float64) for i in range(2)])
        np.testing.assert_allclose(loss.shrink(hr, s)[:, 0].numpy(), small, atol=1e-3)
        total += np.sqrt((sr[:, 0].numpy() - small) ** 2 + 0.255**2).mean()
    assert loss.charbonnier_pyramid(levels, hr).item() == pytest.approx(total, rel=1e-5)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A discriminator of an eighth of the width."""
    monkeypatch.setattr(adversarial, "CHANNELS", 8)


def gan(**settings: Any) -> recipe.Recipe:
    return make("ledig-srresnet", 2, loss="mse", adversarial=settings, log_every=1)


def trainer(r: recipe.Recipe) -> Trainer:
    torch.manual_seed(0)
    pairs = data.load_pairs(data.find_pairs(data_folder(), ["auto"], "train", 2)[0], 2)
    return Trainer(Fabric(accelerator="cpu"), r, build(r), Crops(pairs, 8, 2, seed=0))


def test_the_discriminator_learns_and_the_net_from_it() -> None:
    t = trainer(gan(weight=1.0, pixel=0.0))
    assert t.adversary is not None
    judge = {k: v.clone() for k, v in t.adversary.net.named_parameters()}
    net = {k: v.clone() for k, v in t.net.named_parameters()}
    t.step(0, 1e-3, 0.0)
    assert all(not torch.equal(v, judge[k]) for k, v in t.adversary.net.named_parameters())
    changed = [k for k, v in t.net.named_parameters() if not torch.equal(v, net[k])]
    assert {"head.weight", "body.0.conv1.weight", "body.0.conv1.scale", "tail.weight"} <= set(changed)
    assert t.adversary.read_loss(1) == pytest.approx(2 * np.log(2), rel=0.3)  # undecided at first
    assert t.adversary.adam.param_groups[0]["lr"] == 1e-3


def test_it_tells_pictures_from_noise() -> None:
    """The signs of both objectives: the judge learns which is which, and fooling it is what the net is paid for."""
    t = trainer(gan(weight=1.0))
    assert t.adversary is not None
    g = torch.Generator().manual_seed(0)
    hr = torch.from_numpy(np.stack([scene(16, 16, i) for i in range(8)])).float()[:, None]
    noise = torch.rand(hr.shape, generator=g) * 255
    for _ in range(20):
        t.adversary.learn(noise, hr, 1e-3)
    zero = torch.zeros(())
    with torch.no_grad():
        real, fake = (t.adversary.parts(x, hr, zero)["adversarial"].item() for x in (hr, noise))
    assert real < 0.5 < 1 < fake


def test_parts_of_the_objective(tmp_path: Path) -> None:
    """pixel * loss + weight * -log D(SR) + perceptual * VGG, each as the recipe weighs it."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adversarial, "BLOCKS", ((4, 2), (6, 2)))
        patch.setattr(adversarial, "VGG_LAYER", "relu2_2")
        layers = adversarial.vgg_layers("relu2_2")
        state = {f"features.{k}": v for k, v in layers.state_dict().items()} | {
            "classifier.0.bias": torch.ones(1)
        }
        torch.save(state, tmp_path / "vgg.pth")
        r = gan(pixel=0.5, weight=0.25, perceptual=2.0, vgg=str(tmp_path / "vgg.pth"))
        t = trainer(r)
        assert t.adversary is not None and t.adversary.vgg is not None
        sr, hr = (torch.rand(2, 1, 16, 16) * 255 for _ in range(2))
        parts = t.adversary.parts(sr.requires_grad_(), hr, torch.tensor(3.0))
        assert parts["pixel"].item() == 1.5
        logits = t.adversary.net(sr / 127.5 - 1)
        assert parts["adversarial"].item() == pytest.approx(
            -0.25 * F.logsigmoid(logits).mean().item(), rel=0.05
        )

        def seen(y):
            colours = torch.cat(
                [(y / 255 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))], 1
            )
            return layers(colours)

        assert parts["perceptual"].item() == pytest.approx(
            2 * F.mse_loss(seen(sr), seen(hr)).item(), rel=1e-4
        )
        torch.stack(list(parts.values())).sum().backward()
        assert sr.grad is not None and sr.grad.abs().sum() > 0
        assert all(p.grad is None for p in [*t.adversary.net.parameters(), *t.adversary.vgg.parameters()])
        assert "2 VGG-19 relu5_4" in r.train.objective
        bad = tmp_path / "bad.pth"
        first = {"features.0.weight": torch.ones(1)}
        for content, message in (
            (b"no", "not a PyTorch state dict"),
            ([1], "not a PyTorch state dict"),
            ({"net": {}}, "has no features.0.weight, it is not torchvision's VGG-19"),
            (first, r"features.0.weight is \(1,\), torchvision's VGG-19 has \(4, 3, 3, 3\)"),
        ):
            bad.write_bytes(content) if isinstance(content, bytes) else torch.save(content, bad)
            with pytest.raises(checkpoint.CheckpointError, match=rf"bad\.pth: {message}$"):
                adversarial.VGG(bad, "conv2_2")
        with pytest.raises(FileNotFoundError):
            adversarial.VGG(tmp_path / "none.pth", "conv2_2")
    assert "no perceptual loss" in gan().train.objective


@pytest.mark.parametrize(
    ("layer", "last"), [("conv2_2", 7), ("relu2_2", 8), ("conv5_4", 34), ("relu5_4", 35)]
)
def test_vgg_layers_have_torchvisions_numbers(layer: str, last: int) -> None:
    with torch.device("meta"):
        layers = adversarial.vgg_layers(layer)
    assert len(layers) == last + 1
    assert type(layers[-1]) is (nn.Conv2d if layer.startswith("conv") else nn.ReLU)
    pools = [i for i, m in enumerate(layers) if isinstance(m, nn.MaxPool2d)]
    assert pools == [4, 9, 18, 27][: int(layer[4]) - 1]


def test_a_resumed_adversarial_run_is_the_same(tmp_path: Path) -> None:
    """Stopped after the first iteration: equal losses, net, discriminator and both optimisers; the EMA too."""
    r = make("ledig-srresnet", 2, loss="mse", adversarial={}, log_every=1, ema=0.5, iterations=3)
    said: list[str] = []
    loop.train(r, tmp_path / "whole", device="cpu", say=said.append)
    assert "best.pt" in said[0] and "last validated state" in said[0] and "random weights" in said[1]
    assert not any("going on" in line for line in said)
    stopped = loop.train(r, tmp_path / "cut", device="cpu", max_minutes=1e-9)
    assert stopped.iteration == 1 and not stopped.complete
    said.clear()
    loop.train(r, tmp_path / "cut", device="cpu", say=said.append)
    assert "going on from iteration 1" in said[0] and "best.pt" in said[1]
    assert len(said) == 2  # it goes on, from weights that are not random
    whole, cut = (checkpoint.load(tmp_path / run / "last.pt") for run in ("whole", "cut"))
    for key in ("net", "average", "optimiser", "adversary"):
        torch.testing.assert_close(whole[key], cut[key], rtol=0, atol=0)
    rows = [
        [(row["loss"], row["loss_d"]) for row in Log(tmp_path / run, 3, "").rows()]
        for run in ("whole", "cut")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 3 and all(float(d) > 0 for _, d in rows[0])


def test_the_last_state_of_an_adversarial_run_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the PSNR falls, best.pt and latent.safetensors are the last state; without an adversary the best."""
    for name, adversary, kept in (("gan", {}, 3), ("plain", None, 1)):
        scores = iter((30.0, 20.0, 10.0))
        monkeypatch.setattr(loop, "validate", lambda net, pairs, crop, scores=scores: next(scores))
        r = make("ledig-srresnet", 2, loss="mse", adversarial=adversary, validate_every=1, iterations=3)
        assert loop.train(r, tmp_path / name, device="cpu").best == 30.0
        for file in ("best.pt", "latent.safetensors"):
            state = checkpoint.load_any(tmp_path / name / file)
            assert state["iteration"] == kept and state["psnr"] == (10.0 if adversary is not None else 30.0)


def test_adversarial_in_bf16() -> None:
    t = trainer(make("ledig-srresnet", 2, loss="mse", adversarial={}, precision="bf16"))
    assert t.adversary is not None
    t.step(0, 1e-3, 0.0)
    assert np.isfinite(t.read_loss(1)) and np.isfinite(t.adversary.read_loss(1))


def test_what_cannot_be_trained_is_named() -> None:
    with pytest.raises(recipe.RecipeError, match="CUDA graph"):
        make("ledig-srresnet", 2, adversarial={}, graph=True)
    with pytest.raises(recipe.RecipeError, match="wants a net with a pyramid"):
        make("ledig-srresnet", 2, loss="charbonnier-pyramid")
    with pytest.raises(recipe.RecipeError, match="at least 16 pixels"):
        recipe.load("ma-srgan-x4", ["data.patch=3"])
    with pytest.raises(recipe.RecipeError, match="scale 3: one of 2, 4, 8"):
        make("lapsrn", 3)


def test_psnr_as_a_loss():
    """The mean of the negative PSNR of crops, but for a constant; a perfect crop ends at the floor."""
    from bitsr.eval.metrics import psnr

    rng = np.random.default_rng(0)
    hr = torch.from_numpy(rng.uniform(0, 255, (3, 1, 9, 7))).float()
    sr = (
        hr
        + torch.tensor([1.0, 5.0, 20.0]).view(3, 1, 1, 1)
        * torch.from_numpy(rng.normal(size=(3, 1, 9, 7))).float()
    )
    expected = np.mean([-psnr(a[0], b[0]) for a, b in zip(sr.numpy(), hr.numpy(), strict=True)])
    got = float(loss.LOSSES["psnr"](sr, hr, floor=0.0))
    assert got == pytest.approx(expected + 20 * np.log10(255), abs=1e-3)
    assert float(loss.LOSSES["psnr"](hr, hr)) == pytest.approx(10 * np.log10(2))
