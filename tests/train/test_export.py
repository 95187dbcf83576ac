"""The ONNX file against torch, in ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from test_pack import trained_like

from bitsr.cli.main import main
from bitsr.nets.srresnet import SRResNet
from bitsr.pack.onnx import to_onnx
from bitsr.train import recipe
from bitsr.train.build import build


def run(path: Path, y: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(str(path)).run(None, {"lr": y})[0]


@pytest.mark.parametrize("args", [{}, {"method": "bitsr"}, {"binary": False}], ids=str)
def test_the_same_picture_at_every_size(tmp_path: Path, args: dict) -> None:
    torch.manual_seed(0)
    net = trained_like(SRResNet(2, channels=8, blocks=1, **args))
    to_onnx(net, tmp_path / "net.onnx")
    for size in ((1, 1, 1, 1), (1, 1, 3, 2), (3, 1, 17, 31), (1, 1, 33, 1)):
        y = np.random.default_rng(1).integers(16, 236, size).astype(np.float32)
        with torch.no_grad():
            expected = net(torch.from_numpy(y)).numpy()
        got = run(tmp_path / "net.onnx", y)
        assert got.shape == (size[0], 1, 2 * size[2], 2 * size[3])
        # Sums of another order differ in the last bits; a sign that flips by them moves whole levels.
        assert np.mean(np.abs(got - expected) > 1e-2) < 1e-3 and np.std(expected) > 0.1


def test_sign_of_zero_and_constants(tmp_path: Path) -> None:
    """Every activation is exactly 0: sign is +1, so the net still sees its weights. No weight is left to binarize."""
    net = SRResNet(2, channels=64, blocks=1).eval()
    torch.nn.init.zeros_(net.head.weight)
    torch.nn.init.zeros_(net.head.bias)
    torch.nn.init.constant_(
        net.get_parameter("body.0.unit1.bn.bias"), 0.5
    )  # whole numbers + 0.5: the next sign is no matter of rounding
    y = np.full((1, 1, 3, 4), 50, np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(y)).numpy()
    to_onnx(net, tmp_path / "net.onnx")
    np.testing.assert_allclose(run(tmp_path / "net.onnx", y), expected, atol=1e-3)
    assert np.ptp(expected) > 1
    model = onnx.load(tmp_path / "net.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert "Sign" not in kinds and kinds.count("Where") == kinds.count("GreaterOrEqual") == 2
    onnx.checker.check_model(model, full_check=True)


def test_export_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    r = recipe.load("e2fif-srresnet-x3", ["net.args.channels=8", "net.args.blocks=1"])
    facts = {"recipe": r.model_dump(mode="json"), "stage": 0, "iteration": 3, "psnr": 20.0}
    torch.save({"net": build(r).state_dict(), **facts}, tmp_path / "best.pt")
    assert main(["export", str(tmp_path / "best.pt"), "-o", str(tmp_path / "net.onnx")]) == 0
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "net.onnx: " in err
    model = onnx.load(tmp_path / "net.onnx")
    assert {p.key: json.loads(p.value) for p in model.metadata_props if p.key in facts} == facts
    assert run(tmp_path / "net.onnx", np.zeros((1, 1, 5, 4), np.float32)).shape == (1, 1, 15, 12)
    assert main(["export", str(tmp_path / "none.pt"), "-o", str(tmp_path / "a.onnx")]) == 1
    assert not (tmp_path / "a.onnx").exists()
