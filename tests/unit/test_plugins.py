"""Another package adds a net, a method and recipes by entry points; a broken one is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pydantic")

from bitsr.cli.main import main
from bitsr.folders import packaged_recipe
from bitsr.methods import METHODS, units
from bitsr.nets import NETS
from bitsr.plugins import PluginError
from bitsr.train import recipe

CODE = """
from torch import nn
from bitsr.layers.convs import BinaryConv2d
from bitsr.layers.ops import Net
from bitsr.methods import Unit, units

class Toy(Net):
    def __init__(self, scale=4, channels=8, *, method="toy", options=None):
        super().__init__()
        self.scale = scale
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.unit = units(method, options)(channels, channels)
        self.tail = nn.Conv2d(channels, scale * scale, 3, padding=1)
    def build(self, ops, x):
        x = ops.conv("head", self.head, x)
        x = self.unit.build(ops, x, "unit", skip=x)
        return ops.shuffle(ops.conv("tail", self.tail, x), self.scale)

class ToyMethod(Unit):
    def __init__(self, cin, cout, k=3):
        super().__init__(cin, cout, k)
        self.conv = BinaryConv2d(cin, cout, k, act="approx_sign", weight="ste_sign")
        self.bn = nn.BatchNorm2d(cout)
    def build(self, ops, x, name, *, skip=None, act=True):
        return ops.bconv(name, self.conv, x, bn=self.bn, skip=skip)
"""
RECIPE = '# Toy x3: for a test.\nscale = 3\n[net]\nname = "toy"\n[train]\niterations = 5\nlr = 1e-3\n'


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two modules, as pip installs it."""
    (tmp_path / "toys" / "recipes").mkdir(parents=True)
    (tmp_path / "toys" / "__init__.py").touch()
    (tmp_path / "toys" / "code.py").write_text(CODE)
    (tmp_path / "toys" / "broken.py").write_text("raise RuntimeError('out of\\norder')")
    (tmp_path / "toys" / "recipes" / "toy-x3.toml").write_text(RECIPE)
    (tmp_path / "toys" / "recipes" / "bitsr-m-x4.toml").write_text("scale = 99")
    info = tmp_path / "toys-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[bitsr.nets]\ntoy = toys.code:Toy\nsrresnet = toys.code:Toy\nbroken = toys.broken:Net\n"
        "number = toys.code:CODE\n[bitsr.methods]\ntoy = toys.code:ToyMethod\nnet = toys.code:Toy\n"
        "[bitsr.recipes]\ntoys = toys.recipes\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_they_are_there_by_name(package: Path, capsys: pytest.CaptureFixture) -> None:
    assert {"toy", "broken"} <= set(NETS) and "toy" in METHODS and "toy" in NETS
    made = recipe.load("toy-x3")
    assert made.scale == 3 and not made.overrides and "toy-x3" in recipe.names()
    assert recipe.load("toy-x3", ["train.lr=2e-3"]).source == "recipe toy-x3 with train.lr = 0.002"
    net = recipe.construct(made, made.stages[0])
    assert type(net.unit) is METHODS["toy"]
    assert net(torch.zeros(1, 1, 5, 4)).shape == (1, 1, 15, 12)
    assert main(["info", "toy-x3"]) == 0
    assert "recipe: toy, x3" in capsys.readouterr().out


def test_names_of_bitsr_come_first(package: Path) -> None:
    assert NETS["srresnet"].__module__ == "bitsr.nets.srresnet"
    assert recipe.load("bitsr-m-x4").scale == 4
    found = packaged_recipe("bitsr-m-x4")
    assert found is not None and package not in found.parents


def test_what_is_broken_is_one_line_and_harms_nothing_else(
    package: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(PluginError, match=r"^bitsr.nets 'broken' of toys: RuntimeError: out of order$"):
        NETS["broken"]
    with pytest.raises(PluginError, match="'number' of toys: AttributeError"):
        NETS["number"]
    with pytest.raises(PluginError, match="'net' of toys: no class derived from Unit"):
        units("net")(8, 8)
    assert (
        main(["info", "toy-x3"]) == 0
        and main(["train", "toy-x3", "-o", "x", "--set", "net.name=broken"]) == 1
    )
    err = capsys.readouterr().err
    assert "out of order" in err and err.count("\n") == 1
    (package / "toys-1.0.dist-info" / "entry_points.txt").write_text("[bitsr.recipes]\ntoys = toys.none\n")
    with pytest.raises(PluginError, match=r"no package named toys\.none"):
        recipe.names()
    assert recipe.load("bitsr-m-x4").scale == 4 and "toy" not in NETS


def test_without_them_there_is_nothing_new() -> None:
    assert "toy" not in NETS and "toy-x3" not in recipe.names()
    with pytest.raises(KeyError):
        NETS["toy"]
