"""Released E2FIF state dicts: a synthetic one, run by the formulas of that net, is our net's picture."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pydantic")

from torch import Tensor
from torch.nn import functional as F

from bitsr.nets.srresnet import SRResNet
from bitsr.train.checkpoint import CheckpointError, initialise, load_any, load_net


def state_dict(scale: int, channels: int = 12, blocks: int = 2) -> dict[str, Tensor]:
    """Random, under the released names. Means and biases are multiples of 1/8, so that their difference is exact."""
    g = torch.Generator().manual_seed(scale)
    n, c = (lambda *shape: torch.randn(*shape, generator=g)), channels
    eye = torch.ones(1, 1, 1, 1)
    state = OrderedDict({"sub_mean.weight": eye, "sub_mean.bias": torch.tensor([-127.5])})
    state |= {"add_mean.weight": eye, "add_mean.bias": torch.tensor([127.5])}
    state |= {"head.0.conv1.0.weight": n(c, 1, 3, 3), "head.0.conv1.0.bias": n(c)}
    for i in range(blocks):
        for unit in ("conv1", "conv2"):
            at = f"body.{i}.{unit}"
            state |= {f"{at}.0.weight": n(c, c, 3, 3), f"{at}.0.bias": (24 * n(c)).round() / 8}
            state |= {f"{at}.1.weight": 20 * n(c), f"{at}.1.bias": n(c)}
            state |= {f"{at}.1.running_mean": (40 * n(c)).round() / 8, f"{at}.1.running_var": 9 + n(c) ** 2}
            state[f"{at}.1.num_batches_tracked"] = torch.tensor(7)
    return state | {"tail.0.weight": n(scale**2, c, 3, 3) / c, "tail.0.bias": n(scale**2)}


def released(state: dict[str, Tensor], y: Tensor, scale: int) -> Tensor:
    """The net as its paper and code define it, with the biases in their place."""
    x = head = F.conv2d(
        y + state["sub_mean.bias"], state["head.0.conv1.0.weight"], state["head.0.conv1.0.bias"], padding=1
    )
    for i in range(sum(key.endswith("conv1.1.weight") for key in state)):
        for unit in ("conv1", "conv2"):
            at = f"body.{i}.{unit}"
            v = F.conv2d(
                x.sign(), state[f"{at}.0.weight"].sign(), state[f"{at}.0.bias"], padding=1
            )  # no value is 0
            mean, var, weight, bias = (
                state[f"{at}.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
            )
            x = F.batch_norm(v, mean, var, weight, bias) + x
            if unit == "conv1":
                x = F.leaky_relu(x, 0.1)
    out = F.conv2d(x + head, state["tail.0.weight"], state["tail.0.bias"], padding=1)
    return F.pixel_shuffle(out, scale) + state["add_mean.bias"]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_same_picture(tmp_path: Path, scale: int) -> None:
    state, path = state_dict(scale), tmp_path / "model_best.pt"
    torch.save(state, path)
    net, facts = load_net(path)
    assert isinstance(net, SRResNet) and net.scale == scale
    assert facts["recipe"]["net"]["args"]["channels"] == 12 and "released" in facts["recipe"]["source"]
    y = torch.rand(1, 1, 9, 7, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        torch.testing.assert_close(net(y), released(state, y, scale), rtol=1e-5, atol=1e-3)
        lost = "body.0.conv1.0.bias"
        without = state | {lost: torch.zeros_like(state[lost])}
        assert (released(without, y, scale) - net(y)).abs().max() > 1


def test_a_run_may_start_from_it(tmp_path: Path) -> None:
    torch.save(state_dict(2), tmp_path / "x2.pt")
    net = SRResNet(4, channels=12, blocks=2)
    initialise(net, load_any(tmp_path / "x2.pt")["net"], ["tail"], "x2.pt")
    assert torch.equal(net.head.weight, state_dict(2)["head.0.conv1.0.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tail.0.weight": None, "tail.0.conv1.0.weight": torch.ones(16, 12, 3, 3)}, "light tail"),
        ({"tail.0.weight": torch.ones(5, 12, 3, 3)}, "1 colours in, 5 channels out"),
        ({"head.0.conv1.0.weight": torch.ones(12, 3, 3, 3)}, "3 colours in"),
        ({"sub_mean.bias": torch.tensor([-0.5])}, r"sub_mean.bias is -0\.5"),
        ({"extra.weight": torch.ones(1)}, "extra.weight has no place"),
        ({"body.1.conv2.1.running_var": None}, r"has no body\.1\.unit2\.bn\.running_var"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: dict, message: str) -> None:
    state = {k: v for k, v in (state_dict(2) | change).items() if v is not None}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"a\.pt: .*{message}"):
        load_net(tmp_path / "a.pt")


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    torch.save({**state_dict(2), "model": Path("x")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_net(tmp_path / "a.pt")
