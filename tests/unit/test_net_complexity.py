"""Counts of nets in torch, against published tables, against torch itself, and against the packed file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pydantic")

from test_pack import scene, trained_like
from torch import nn

from bitsr.cli.main import main
from bitsr.eval.complexity import Count, count, packed_layers, packed_radius
from bitsr.eval.net_complexity import CountError, as_published, layers
from bitsr.layers.ops import Net
from bitsr.methods import METHODS
from bitsr.nets import NETS
from bitsr.nets.e2fif_ablation import SRResNetAblation
from bitsr.nets.srresnet import EDSR, SRResNet
from bitsr.pack import pack
from bitsr.train import recipe
from bitsr.train.build import build


def of(make, *args, **kw) -> Count:
    with torch.device("meta"):
        return count(layers(make(*args, **kw))[0])


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
    total = of(SRResNetAblation, scale, tail="bireal")
    assert total.at() == (
        pytest.approx(binary, abs=0.06),
        pytest.approx(fp, abs=5e-4),
        pytest.approx(ops, abs=6e-3),
    )


RECIPES = {
    "bbcu-l-x2": (18.55, 225),
    "bbcu-l-x4": (79.20, 372),
    "bbcu-m-x2": (1.83, 46),
    "bbcu-m-x4": (3.95, 51),
}
TABLE_1 = [
    *(pytest.param(recipe.load(name), *printed, id=name) for name, printed in RECIPES.items()),
    *(
        pytest.param(
            recipe.load(f"bbcu-l-x{scale}", ["net.args.binarized=none", f"net.args.channels={channels}"]),
            *printed,
            id=f"float-{channels}-x{scale}",
        )
        for scale, channels, *printed in (
            (2, 64, 85.43, 1367),
            (4, 64, 146.14, 1515),
            (2, 12, 3.08, 49),  # SRResNet-Lite; its width is not printed, these figures leave no other
            (4, 12, 5.39, 54),
        )
    ),
]


@pytest.mark.parametrize(("made", "ops", "kilo_params"), TABLE_1)
def test_bbcu_table_1(made: recipe.Recipe, ops: float, kilo_params: int) -> None:
    """Our nets, with RGB in and out, are those of Table 1 of BBCU (arXiv 2210.00405).

    OPs within the table's own roundings: by its layers x4 is 146.08 in floating point, BBCU-L x4 79.195, BBCU-M x2
    1.825.
    """
    with torch.device("meta"):
        net = build(made)
    assert isinstance(net, Net)
    total = count(as_published(layers(net)[0], net.colours))
    assert total.at()[2] == pytest.approx(ops, abs=0.06 if ops == 146.14 else 0.0055)
    assert round(float(total.params) / 1000) == kilo_params


def test_as_published_is_a_net_of_rgb() -> None:
    """All of it: what torch has where head and tail are made for three colours, without the base."""
    net = NETS["msrresnet"](2, channels=8, blocks=1)
    ours = sum(p.numel() for p in net.parameters()) - net.get_parameter("base.weight").numel()
    head, tail = net.get_parameter("head.weight"), net.get_submodule("tail")
    rgb = ours + 2 * head.numel() + 2 * sum(p.numel() for p in tail.parameters())
    total = count(as_published(layers(net)[0], 3))
    assert total.binary_weights + total.other_params == rgb


def test_info_says_how_the_paper_counts(capsys: pytest.CaptureFixture) -> None:
    line = "in RGB    3.95 G operations, 51 K parameters, as its paper counts\n"
    for name, there in (("bbcu-m-x4", True), ("e2fif-srresnet-x4", False)):
        assert main(["info", name]) == 0
        out = capsys.readouterr().out
        assert (line in out) is there and ("as its paper counts" in out) is there


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
        if not METHODS[m](1, 1).unpackable
    },
    "repeat": lambda: SRResNetAblation(2, channels=16, blocks=1, tail="repeat"),
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


def test_what_cannot_be_counted_is_named() -> None:
    with pytest.raises(CountError, match="Linear has no operations"):
        layers(nn.Linear(1, 1))
    with pytest.raises(CountError, match="Tanh is not known"):
        layers(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh()))
    with pytest.raises(CountError, match="0: no convolution of 1 channels"):
        layers(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1)))


def test_info_of_recipes_and_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["info", "float-espcn-x4"]) == 0
    out = capsys.readouterr().out
    assert "84,752 other parameters" in out and "packs     no: " in out
    assert main(["info", "float-espcn-x4", "--layers"]) == 0
    assert "FP MACs/px |\n" in capsys.readouterr().out  # nothing is packed: no column of bytes
    assert main(["info", "bitsr-m-x4-cpu", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["kind"] == "recipe" and body["recipe"]["train"]["iterations"] == 13_000
    r = recipe.load("e2fif-srresnet-x2", ["net.args.channels=16", "net.args.blocks=1"])
    torch.save(
        {
            "net": build(r).state_dict(),
            "recipe": r.model_dump(mode="json"),
            "stage": 0,
            "iteration": 5,
        },
        tmp_path / "last.pt",
    )
    assert main(["info", str(tmp_path / "last.pt")]) == 0
    out = capsys.readouterr().out
    assert "iteration 5 of 300,000" in out and "4,608 weights of one bit, 804 other" in out
    assert "9 x 9 LR" in out and "packs     yes" in out and "not recorded" in out
    torch.save({**torch.load(tmp_path / "last.pt"), "provenance": 5}, tmp_path / "odd.pt")
    assert main(["info", str(tmp_path / "odd.pt")]) == 1
    assert "broken: provenance" in capsys.readouterr().err
    assert main(["info", "e2fif-srresnet-x5"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "float-espcn-x4" in err
