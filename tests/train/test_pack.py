"""Torch against packed bits: what folds, what rounds, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packing needs torch")

from torch import nn

from bitsr import reference
from bitsr.engine import Engine, isas
from bitsr.layers.ops import Net
from bitsr.model_file import ModelFile
from bitsr.nets import NETS
from bitsr.nets.srresnet import SRResNet
from bitsr.pack import PackError, pack, pack_checkpoint
from bitsr.pack.check import check
from bitsr.pack.fold import LUMA, pack_signs


def trained_like(net: nn.Module, seed: int = 0) -> Net:
    """Batch norm as after training: not its initial mean 0, variance 1, gain 1."""
    g = torch.Generator().manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            assert m.running_mean is not None and m.running_var is not None
            n = m.num_features
            m.running_mean.copy_(torch.randn(n, generator=g) * 20)
            m.running_var.copy_(torch.rand(n, generator=g) * 2000 + 300)
            if m.affine:
                m.weight.data.copy_(torch.randn(n, generator=g) * 4)
                m.bias.data.copy_(torch.randn(n, generator=g))
    assert isinstance(net, Net)
    return net.eval()


def scene(h: int, w: int, seed: int = 0) -> np.ndarray:
    """A smooth plane with edges, Y in [16, 235]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    return np.clip(
        90 + 60 * np.sin(x / 5) * np.cos(y / 7) + 60 * (x + y > h) + rng.normal(0, 3, (h, w)), 16, 235
    )


def q(y: np.ndarray) -> np.ndarray:
    return np.rint((y - 127.5) * LUMA).astype(np.int16)


def test_signs_follow_the_layout():
    w = np.random.default_rng(0).normal(size=(3, 70, 3, 3))
    words = pack_signs(w)
    assert words.shape == (3, 3, 3, 2)
    for c in (0, 1, 63, 64, 69):
        bit = (words[1, 2, 0, c // 64] >> np.uint64(c % 64)) & np.uint64(1)
        assert bit == (w[1, c, 2, 0] < 0)
    np.testing.assert_array_equal(
        reference.unpack_signs(words, 70), np.where(w < 0, -1, 1).transpose(0, 2, 3, 1)
    )


def test_sign_of_zero_is_plus_one():
    assert not pack_signs(np.zeros((1, 64, 1, 1))).any()


class OneLayer(Net):
    """One binary convolution with every option, on a bare head, so that nothing is chaotic."""

    scale = 2

    def __init__(self) -> None:
        super().__init__()
        from bitsr.layers.convs import BinaryConv2d

        self.head = torch.nn.Conv2d(1, 64, 3, padding=1)
        self.conv = BinaryConv2d(64, 64, act="clipped_ste", weight="magnitude_aware", bias=True)
        self.bn = torch.nn.BatchNorm2d(64)
        self.conv.weight.data *= 20  # so that the branch weighs as much as the skip
        g = torch.Generator().manual_seed(5)
        self.threshold = torch.nn.Parameter(torch.randn(64, generator=g) * 20)
        self.inner = torch.nn.ParameterList(
            [torch.randn(64, generator=g) * 3, torch.rand(64, generator=g), torch.randn(64, generator=g) * 3]
        )
        self.slope = torch.nn.Parameter(torch.rand(64, generator=g))
        self.tail = torch.nn.Conv2d(64, 4, 3, padding=1)

    def build(self, ops, x):
        x = ops.conv("head", self.head, x)
        y = ops.bconv(
            "unit",
            self.conv,
            x,
            bn=self.bn,
            threshold=self.threshold,
            inner=tuple(self.inner),
            skip=x,
            act=self.slope,
        )
        return ops.shuffle(ops.conv("tail", self.tail, ops.add(y, x)), self.scale)


def test_every_option_folds_as_in_torch():
    torch.manual_seed(0)
    net = trained_like(OneLayer(), 1)
    y = scene(31, 33)
    packed = pack(net, [y], "one")
    assert {"unit.inner_slope", "unit.inner_add", "unit.slope"} <= packed.tensors.keys()
    assert any(name.endswith(".threshold") for name in packed.tensors)
    lr = q(y)
    expected = net.upscale(torch.from_numpy(lr / LUMA + 127.5)).numpy()
    for isa in isas():
        got = Engine(packed, isa=isa).run(lr) / LUMA + 127.5
        # A sign close to its threshold may flip; a parameter lost in the folding moves pixels by whole levels.
        assert np.sqrt(np.mean((got - expected) ** 2)) < 0.1


@pytest.mark.parametrize("lost", ["threshold", "slope", "bias", "inner.0", "inner.1", "inner.2", "bn"])
def test_no_option_is_without_effect(lost):
    """The check above can fail: each parameter, taken away, moves the packed picture more than twice what it allows."""
    torch.manual_seed(0)
    net = trained_like(OneLayer(), 1)
    y = scene(31, 33)
    whole = Engine(pack(net, [y], "one")).run(q(y)) / LUMA
    with torch.no_grad():
        if lost == "bn":
            net.get_parameter("bn.bias").zero_()
        elif lost == "bias":
            net.get_parameter("conv.bias").add_(100)
        else:
            net.get_parameter(lost).zero_()
    assert np.sqrt(np.mean((Engine(pack(net, [y], "one")).run(q(y)) / LUMA - whole) ** 2)) > 0.25


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_srresnet_agrees_with_its_float_simulation(scale):
    torch.manual_seed(scale)
    net = trained_like(SRResNet(scale, blocks=2), scale)
    y = scene(40, 37)
    packed = pack(net, [y], f"net-x{scale}")
    assert packed.scale == scale
    lr = q(y)
    expected = net.upscale(torch.from_numpy(lr / LUMA + 127.5)).numpy()
    got = Engine(ModelFile.from_bytes(packed.to_bytes())).run(lr)
    np.testing.assert_array_equal(got, reference.run(packed, lr))
    signal = np.std(expected)
    assert np.sqrt(np.mean((got / LUMA + 127.5 - expected) ** 2)) < 0.03 * signal


def test_the_operations_are_those_of_the_net():
    """The packed operations are those of the net's own description, conv for conv."""
    packed = pack(trained_like(SRResNet(2, blocks=3)), [scene(20, 20)], "net")
    kinds = [op.kind for op in packed.ops]
    assert kinds == ["conv", *["sign", "bconv"] * 6, "add", "conv", "shuffle"]
    assert packed.ops[-1].out == "sr"
    size = len(packed.to_bytes())
    assert size < 6 * 64 * 72 + 40_000  # bits, not floats


@pytest.mark.parametrize("binary", [False, "activations"])
def test_refuses_what_is_not_binary(binary):
    with pytest.raises(PackError, match="not binary"):
        pack(SRResNet(2, blocks=1, binary=binary).eval(), [scene(16, 16)], "float")


def test_refuses_a_net_that_has_diverged():
    net = SRResNet(2, blocks=1).eval()
    net.head.weight.data.fill_(float("nan"))
    with pytest.raises(PackError, match="finite"):
        pack(net, [scene(16, 16)], "nan")


def test_refuses_no_calibration():
    with pytest.raises(PackError, match="calibration"):
        pack(SRResNet(2, blocks=1).eval(), [], "none")


@pytest.mark.parametrize("degrade", [0, 2])
def test_a_checkpoint_packs_and_is_checked(tmp_path, degrade):
    """bitsr train's file -> .bsr, calibrated on a folder of pictures, with the facts in its metadata. A net that
    learned from degraded images wants its chroma smoothed."""
    import pyvips

    from bitsr.train import recipe
    from bitsr.train.build import build

    rng = np.random.default_rng(0)
    for i in range(2):
        rgb = np.repeat(scene(64, 60, i)[..., None], 3, 2) + rng.normal(0, 2, (64, 60, 3))
        pyvips.Image.new_from_array(np.clip(rgb, 0, 255).astype(np.uint8)).write_to_file(
            str(tmp_path / f"{i}.png")
        )
    wanted = recipe.load("e2fif-srresnet-x2", ["net.args.blocks=1", f"data.degrade={degrade}"])
    net = trained_like(build(wanted, wanted.stages[-1]))
    facts = {
        "recipe": wanted.model_dump(mode="json"),
        "stage": len(wanted.stages) - 1,
        "iteration": 7,
        "psnr": 30.0,
    }
    torch.save({"net": net.state_dict(), **facts}, tmp_path / "best.pt")
    said: list[str] = []
    packed = pack_checkpoint(tmp_path / "best.pt", "mine", pictures=tmp_path, note=said.append)
    assert packed.name == "mine" and packed.scale == 2
    assert packed.metadata["iteration"] == "7" and "worst" in said[0]
    assert packed.metadata.get("chroma") == ("smooth" if degrade else None)


def test_the_check_sees_a_wrong_net():
    """A packed file of other weights does not pass for the net."""
    net = trained_like(SRResNet(2, blocks=1), 1)
    lr = scene(24, 24)
    hr = net.upscale(torch.from_numpy(lr)).numpy()
    right, wrong = pack(net, [lr], "right"), pack(trained_like(SRResNet(2, blocks=1), 2), [lr], "wrong")
    (good,), (bad,) = check(net, right, [(lr, hr)]), check(net, wrong, [(lr, hr)])
    assert bad[1] < good[1] - 3


def test_facts_of_the_net_are_written():
    """Symmetry and receptive field, which nobody has to find out from the packed net."""
    net = trained_like(SRResNet(2, channels=64, blocks=1))
    about = pack(net, [scene(16, 16)], "free").metadata
    assert about["symmetry"] == "1" and about["radius"] == "4"
    net.order = 8
    assert pack(net, [scene(16, 16)], "tied").metadata["symmetry"] == "8"
    rcan = trained_like(NETS["rcan"](2, channels=64, blocks=1, groups=1))
    assert "radius" not in pack(rcan, [scene(16, 16)], "whole").metadata


def test_the_check_sees_a_net_that_is_not_equivariant():
    net = trained_like(SRResNet(2, blocks=1), 1)
    packed = pack(net, [scene(24, 24)], "free")
    hr = scene(48, 48)
    check(net, packed, [(scene(24, 24), hr)])
    packed.metadata["symmetry"] = "8"
    with pytest.raises(PackError, match="not equivariant"):
        check(net, packed, [(scene(24, 24), hr)])
