"""Counts of nets in torch, against published tables, against torch itself, and against the packed file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pydantic")

from test_pack import scene, trained_like  # noqa: E402
from torch import nn  # noqa: E402

from bitsr.cli import main  # noqa: E402
from bitsr.counting import Count, count, packed_layers, packed_radius  # noqa: E402
from bitsr.nets import NETS  # noqa: E402
from bitsr.nets.binary import BinaryConv2d  # noqa: E402
from bitsr.nets.graph import Net  # noqa: E402
from bitsr.nets.methods import METHODS  # noqa: E402
from bitsr.nets.srresnet import EDSR, SRResNet  # noqa: E402
from bitsr.train import recipe  # noqa: E402
from bitsr.train.count import CountError, layers  # noqa: E402
from bitsr.train.pack import pack  # noqa: E402


def of(make, *args, colours: int = 1, **kw) -> Count:
    with torch.device("meta"):
        return count(layers(make(*args, **kw), colours)[0])


@pytest.mark.parametrize(
    ("net", "scale", "binary", "fp", "ops", "kilobytes", "float_megabytes"),
    [
        (SRResNet, 2, 67.95, 0.166, 1.23, 176, 4.75),
        (SRResNet, 3, 67.95, 0.332, 1.39, 187, 4.77),
        (SRResNet, 4, 67.95, 0.564, 1.63, 203, 4.78),
        (EDSR, 2, 2174.3, 0.664, 34.6, 4900, 151.2),
        (EDSR, 4, 2174.3, 2.256, 36.2, 5010, 151.3),
    ],
)
def test_e2fif(net, scale, binary, fp, ops, kilobytes, float_megabytes) -> None:
    """The released E2FIF nets at 320x180 LR, computed by hand from their code; the float net's size is without
    batch norm."""
    total = of(net, scale)
    assert total.binary_weights == (37_748_736 if net is EDSR else 1_179_648)
    assert total.at() == (
        pytest.approx(binary, abs=0.05),
        pytest.approx(fp, abs=5e-4),
        pytest.approx(ops, abs=0.05),
    )
    assert total.bytes_1_32 / 1000 == pytest.approx(kilobytes, rel=3e-3)
    twin = of(net, scale, binary=False)
    assert twin.binary_weights == twin.binary_macs == 0
    assert twin.bytes_1_32 / 1e6 == pytest.approx(float_megabytes, rel=4e-3)


@pytest.mark.parametrize(("scale", "binary", "fp", "ops"), [(2, 76.4, 0.166, 1.36), (4, 101.9, 0.564, 2.16)])
def test_e2fif_with_the_tail_of_bi_real(scale, binary, fp, ops) -> None:
    total = of(SRResNet, scale, tail="bireal")
    assert total.at() == (
        pytest.approx(binary, abs=0.06),
        pytest.approx(fp, abs=5e-4),
        pytest.approx(ops, abs=6e-3),
    )


class MSRResNet(Net):
    """The net that BBCU binarizes (arXiv 2210.00405, Table 1): RGB, no batch norm, 16 blocks of 64 channels."""

    def __init__(self, scale: int, body: bool, upsampler: bool) -> None:
        super().__init__()
        self.scale = scale

        def conv(cin: int, cout: int, binary: bool) -> nn.Conv2d:
            kind = {"act": "triangle", "weight": "mean"} if binary else {"act": "float", "weight": "float"}
            return BinaryConv2d(cin, cout, **kind, bias=not binary)

        self.head, self.last = conv(3, 64, False), conv(64, 3, False)
        self.body = nn.ModuleList(conv(64, 64, body) for _ in range(32))
        self.up = nn.ModuleList(conv(64, 256, upsampler) for _ in range(scale // 2))
        self.hr = conv(64, 64, upsampler)

    def build(self, g, x):
        x = head = g.conv("head", self.head, x)
        for i, conv in enumerate(self.body):
            x = g.bconv(f"body.{i}", conv, x, skip=x)
        x = g.add(x, head)
        for i, conv in enumerate(self.up):
            x = g.shuffle(g.bconv(f"up.{i}", conv, x), 2)
        return g.conv("last", self.last, g.bconv("hr", self.hr, x))


@pytest.mark.parametrize(
    ("scale", "body", "upsampler", "ops", "kilo_params"),
    [
        (2, False, False, 85.43, 1367),
        (4, False, False, 146.14, 1515),  # 146.08 by its layers
        (2, True, False, 18.55, 225),
        (4, True, False, 79.20, 372),
        (2, True, True, 1.83, 46),  # 1.8248
        (4, True, True, 3.95, 51),
    ],
)
def test_bbcu_table_1(scale, body, upsampler, ops, kilo_params) -> None:
    total = of(MSRResNet, scale, body, upsampler, colours=3)
    assert total.at()[2] == pytest.approx(ops, abs=0.06 if ops == 146.14 else 0.0055)
    assert round(float(total.params) / 1000) == kilo_params


def small(name: str) -> dict:
    """Arguments that keep a net small, where it has them."""
    import inspect

    wanted = {"channels": 16, "blocks": 1, "groups": 2, "layers": 2, "growth": 16, "depth": 2}
    return {k: v for k, v in wanted.items() if k in inspect.signature(NETS[name]).parameters}


@pytest.mark.parametrize("name", NETS)
def test_every_net_is_counted_whole(name: str) -> None:
    """Weights and all other parameters are torch's; MACs are those of the convolutions that torch runs."""
    net = NETS[name](scale=2, **small(name)).eval()
    rows, radius = layers(net)
    total = count(rows)
    assert total.binary_weights + total.other_params == sum(p.numel() for p in net.parameters())
    macs: list[int] = []

    def ran(conv, inputs, output) -> None:
        grid = inputs[0] if isinstance(conv, nn.ConvTranspose2d) else output
        if grid.shape[-1] > 1:  # not once a picture
            macs.append(conv.weight.numel() * grid.shape[-2] * grid.shape[-1])

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(ran)
    with torch.no_grad():
        net(torch.zeros(1, 1, 6, 5))
    assert (total.binary_macs + total.fp_macs) * 30 == sum(macs)
    assert len({row.name for row in rows}) == len(rows) and radius > 0


PACKABLE = {
    **{
        m: lambda m=m: SRResNet(2, channels=16, blocks=1, method=m)
        for m in METHODS
        if not METHODS[m](1, 1).packs
    },
    "repeat": lambda: SRResNet(2, channels=16, blocks=1, tail="repeat"),
    "rdn": lambda: NETS["rdn"](2, channels=64, blocks=2, convs=2),
}


@pytest.mark.parametrize("name", PACKABLE)
def test_the_same_rows_as_the_packed_file(name: str) -> None:
    net = PACKABLE[name]().train()
    net(torch.from_numpy(scene(20, 24)).float()[None, None])  # for what the first batch sets
    net = trained_like(net)
    rows, radius = layers(net)
    packed = pack(net, [scene(20, 24)], "net")
    facts = ("name", "cin", "cout", "k", "binary", "weight_only", "pixels")
    assert [[getattr(r, f) for f in facts] for r in rows] == [
        [getattr(r, f) for f in facts] for r in packed_layers(packed)
    ]
    assert radius == packed_radius(packed)


@pytest.mark.parametrize("scale", [2, 3])
def test_the_radius_is_what_an_sr_pixel_sees(scale: int) -> None:
    """By gradients through nets without signs: no LR pixel beyond the radius matters, one at it does."""
    torch.manual_seed(0)
    for net in (SRResNet(scale, channels=4, blocks=1, binary=False), NETS["fsrcnn"](scale, d=8, s=4, m=1)):
        _, radius = layers(net.double().eval())
        lr = (torch.rand(1, 1, 25, 25, dtype=torch.double) * 255).requires_grad_()
        middle = slice(12 * scale, 13 * scale)  # all SR pixels of the central LR pixel
        net(lr)[0, 0, middle, middle].sum().backward()
        ys, xs = np.nonzero(lr.grad[0, 0].numpy())
        assert np.abs(ys - 12).max() == np.abs(xs - 12).max() == radius


def test_what_has_no_walk_is_named() -> None:
    with pytest.raises(CountError, match="Linear has no walk"):
        layers(nn.Linear(1, 1))
    with pytest.raises(CountError, match="Tanh is not known"):
        layers(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh()))
    with pytest.raises(CountError, match="0: no convolution of 1 channels"):
        layers(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1)))


def test_info_of_recipes_and_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["info", "float-espcn-x4"]) == 0
    assert "84,752 others" in capsys.readouterr().out
    r = recipe.load("e2fif-srresnet-x2", ["net.args.channels=16", "net.args.blocks=1"])
    torch.save(
        {
            "net": recipe.build(r).state_dict(),
            "recipe": r.model_dump(mode="json"),
            "stage": 0,
            "iteration": 5,
        },
        tmp_path / "last.pt",
    )
    assert main(["info", str(tmp_path / "last.pt")]) == 0
    out = capsys.readouterr().out
    assert "- iteration: 5" in out and "4,608 of 1 bit, 804 others" in out and "9 x 9 LR" in out
    assert main(["info", "e2fif-srresnet-x5"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "float-espcn-x4" in err
