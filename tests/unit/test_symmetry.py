"""Tied weights: the net flips and turns with its picture, in torch and in packed bits, and trains as if it had its free
weights alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("pydantic", reason="recipes need pydantic")

from test_pack import q, scene
from torch import Tensor, nn
from torch.nn import functional as F

from bitsr import reference
from bitsr.engine import Engine, isas
from bitsr.pack import pack
from bitsr.symmetry import ORIENTATIONS, expand_symmetric, times
from bitsr.train import checkpoint, recipe
from bitsr.train.build import build, symmetry
from bitsr.train.equivariance import Symmetry, shaped
from bitsr.upscaler import Upscaler

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "bitsr": ("srresnet", {"method": "bitsr", "channels": 16, "blocks": 2, "skip_path": "bicubic"}),
    "alone": ("srresnet", {"method": "bitsr", "channels": 16, "blocks": 2}),
    "e2fif": ("srresnet", {"channels": 8, "blocks": 2}),
    "weight": ("srresnet", {"channels": 8, "blocks": 1, "method": "bbcu"}),
    "float": ("srresnet", {"channels": 8, "blocks": 2, "binarized": "none", "skip_path": "back-projection"}),
    "rdn": ("rdn", {"channels": 8, "blocks": 2, "convs": 2}),
}
FLIPS: dict[int, list[Callable[[Tensor], Tensor]]] = {
    2: [lambda x: x.flip(-1)],
    4: [lambda x: x.flip(-1), lambda x: x.flip(-2)],
    8: [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.transpose(-1, -2)],
}
"""What makes each group."""


def make(net: str, order: int, scale: int = 2) -> recipe.Recipe:
    name, args = NETS[net]
    return recipe.parse(
        {
            "scale": scale,
            "net": {"name": name, "args": args, "symmetry": order},
            "train": {"iterations": 1, "lr": 1e-3},
        },
        "test",
    )


def trained(r: recipe.Recipe, steps: int = 4) -> nn.Module:
    """By the loop's way: gradients and statistics gathered, then Adam."""
    torch.manual_seed(0)
    net = build(r)
    ties = symmetry(r, net)
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    net.train()
    for _ in range(steps):
        x = torch.rand(2, 1, 9, 8) * 255
        adam.zero_grad()
        F.l1_loss(net(x), F.interpolate(x, scale_factor=r.scale)).backward()
        if ties is not None:
            gradients = [(name, p.grad) for name, p in net.named_parameters()]
            ties.gather([*gradients, *net.named_buffers()])
        adam.step()
    return net.eval()


def off(net: nn.Module, order: int) -> float:
    """How far the net is from flipping with its picture, by how far from doing nothing to it, in float64."""
    net = net.double()
    x = torch.rand(1, 1, 11, 7, dtype=torch.float64) * 255
    with torch.no_grad():
        y = net(x)
        worst = max((net(flip(x)) - flip(y)).abs().max() for flip in FLIPS[order])
        return float(worst / (y - F.interpolate(x, scale_factor=y.shape[-1] // 7)).std())


@pytest.mark.parametrize("order", [2, 4, 8])
@pytest.mark.parametrize(
    "name, scale", [*((name, 2) for name in NETS), ("bitsr", 3), ("bitsr", 4), ("float", 3), ("float", 4)]
)
def test_net_turns_with_its_picture(name: str, scale: int, order: int) -> None:
    """Also after training, with random and with trained numbers in every place; and no more than it was asked to."""
    r = make(name, order, scale)
    net = trained(r)
    ties = symmetry(r, net)
    assert ties is not None
    assert off(net, order) < 1e-4  # what float32 has left; a sign that differs would be far more
    with torch.no_grad():
        for key, p in net.named_parameters():
            if not key.startswith("base"):
                p += 0.3 * torch.randn(p.shape) * p.std().nan_to_num().clamp(min=0.1)
    free = off(net, order)
    ties.tie(net)
    assert off(net, order) < 1e-9 < 1e-3 < free
    if order < 8:
        assert off(net, 2 * order) > 1e-3


def test_group() -> None:
    for order in (2, 4, 8):
        group = set(ORIENTATIONS[:order])
        for m in group:
            assert {times(m, n) for n in group} == group


@pytest.mark.parametrize("name", NETS)
def test_gathered_gradient_is_that_of_the_free_weights(name: str) -> None:
    """The gradient of each free number, by autograd through what spreads it, is its orbit's mean times its places."""
    torch.manual_seed(1)
    r = make(name, 8)
    net = build(r).double()
    ties = symmetry(r, net)
    assert ties is not None
    x = torch.rand(2, 1, 6, 5, dtype=torch.float64) * 255

    def loss(parameters: Mapping[str, Tensor]) -> Tensor:
        y = torch.func.functional_call(net, parameters, x)
        return (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum()

    net.eval()
    own = {k: p for k, p in net.named_parameters() if p.requires_grad}
    free = {k: ties.ties[k].free(p.detach()).requires_grad_() for k, p in own.items()}
    loss({k: shaped(ties.ties[k].spread(v), own[k]) for k, v in free.items()}).backward()
    loss(own).backward()
    ties.gather((k, p.grad) for k, p in own.items())
    seen = 0
    for k, p in own.items():
        if p.grad is None:
            continue
        tied, places = ties.ties[k], torch.bincount(ties.ties[k].whose)
        torch.testing.assert_close(tied.free(p.grad) * places, free[k].grad)
        assert torch.equal(shaped(tied.spread(tied.free(p.grad)), p), p.grad)
        seen += int(p.grad.abs().max() > 0)
    assert seen > 5


def test_every_eighth_filter_is_enough() -> None:
    net = trained(make("alone", 8))
    ties = symmetry(make("alone", 8), net)
    assert ties is not None
    ties.tie(net)
    weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d)]
    tied = [w for w in weights if w.shape[1] == 16 and len(w) in (8, 16)]
    assert {tuple(w.shape) for w in tied} == {(16, 16, 3, 3), (8, 16, 1, 1)}
    for w in tied:
        filters = w.detach().numpy().transpose(0, 2, 3, 1)
        assert np.array_equal(expand_symmetric(filters[::8]), filters)


def test_free_numbers() -> None:
    """Eight places for each weight of a body, 18 kB of bits for the 147 of bitsr-m."""
    r = recipe.load("bitsr-m-x4")
    assert r.net.symmetry == 8
    net = build(r)
    ties = symmetry(r, net)
    assert ties is not None
    state = net.state_dict()
    free = ties.free(state)
    bits = [k for k in state if k.endswith("conv.weight")]
    assert sum(state[k].numel() for k in bits) == 8 * sum(free[k].numel() for k in bits) == 32 * 64 * 576
    back = ties.spread(free, net)
    assert back.keys() == state.keys() and all(torch.equal(back[k], state[k]) for k in state)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize(
    "name, scale", [("bitsr", 2), ("bitsr", 3), ("bitsr", 4), ("alone", 4), ("e2fif", 2)]
)
def test_packed_net_turns_bit_for_bit(name: str, scale: int, isa: str) -> None:
    """And its file holds an eighth of the filters."""
    y = scene(23, 18)
    r = make(name, 8, scale)
    net = trained(r)
    ties = symmetry(r, net)
    assert ties is not None
    ties.tie(net)
    packed = pack(net, [y], "turns")  # type: ignore[arg-type]
    convs = [op for op in packed.ops if op.kind == "bconv"]
    assert all(op.attrs["turns"] == 8 for op in convs)
    assert {len(packed.tensors[f"{op.name}.weight"]) for op in convs} == {r.net.args["channels"] // 8}
    engine = Engine(packed, isa=isa)
    lr = q(y)
    sr = engine.run(lr)
    assert np.abs(np.diff(sr.astype(int))).max() > 1000
    np.testing.assert_array_equal(sr, reference.run(packed, lr))
    for flip in (np.flipud, np.fliplr, np.transpose, np.rot90):
        assert np.array_equal(engine.run(np.ascontiguousarray(flip(lr))), flip(sr))


def test_self_ensemble_of_such_a_net_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).integers(0, 256, (15, 21, 3), np.uint8)
    for order in (1, 4, 8):
        r = make("alone", order)
        net = trained(r)
        if ties := symmetry(r, net):
            ties.tie(net)
        up = Upscaler(Engine(pack(net, [scene(23, 18)], "turns")))  # type: ignore[arg-type]
        assert up.equivariant == (order == 8)
        plain, mean = up(x), up(x, ensemble=True)
        assert np.array_equal(plain, mean) == (order == 8)
        if order == 8:
            assert np.array_equal(up(np.ascontiguousarray(x[:, ::-1])), plain[:, ::-1])
            monkeypatch.setattr(up.engine, "run", None)  # the mean's way
            assert np.array_equal(up(x, ensemble=True), plain)


def test_latent_file_holds_the_free_weights(tmp_path: Path) -> None:
    sizes = {}
    for order in (1, 8):
        r = make("bitsr", order)
        net = trained(r)
        if ties := symmetry(r, net):
            ties.tie(net)
        path = tmp_path / f"{order}.latent.safetensors"
        content = {
            "net": net.state_dict(),
            "recipe": r.model_dump(mode="json"),
            "stage": 0,
            "iteration": 4,
            "psnr": 1.0,
        }
        checkpoint.export_latent(path, content)
        loaded, facts = checkpoint.load_net(path)
        assert facts["iteration"] == 4
        x = torch.rand(1, 1, 9, 7) * 255
        with torch.no_grad():
            assert torch.equal(loaded(x), net(x))
        sizes[order] = sum(t.numel() for t in checkpoint.load_any(path)["net"].values()), path.stat().st_size
    assert sizes[1][0] == sizes[8][0] and sizes[8][1] < sizes[1][1] / 2


def test_start_from_a_net_without(tmp_path: Path) -> None:
    """Loading ties: the file's numbers may be anybody's."""
    r = make("e2fif", 8)
    net = trained(make("e2fif", 1))
    assert off(net, 8) > 1e-3
    torch.save(
        {"net": net.float().state_dict(), "recipe": r.model_dump(mode="json"), "stage": 0},
        tmp_path / "net.pt",
    )
    assert off(checkpoint.load_net(tmp_path / "net.pt")[0], 8) < 1e-9


@pytest.mark.parametrize(
    "name, args, reason",
    [
        ("rcan", {"blocks": 1, "groups": 1}, "no symmetry is known for this RCAN"),
        ("srresnet-ablation", {}, "no symmetry is known for this SRResNetAblation"),
        ("espcn", {}, "no symmetry is known for this ESPCN"),
        ("srresnet", {"channels": 12}, "12 channels are no fields of 8 orientations"),
    ],
)
def test_refused(name: str, args: dict[str, Any], reason: str) -> None:
    table = {
        "scale": 2,
        "net": {"name": name, "args": args, "symmetry": 8},
        "train": {"iterations": 1, "lr": 1e-3},
    }
    with pytest.raises(recipe.RecipeError, match=f"^net.symmetry: {reason}"):
        build(recipe.parse(table, "test"))
    with pytest.raises(ValueError, match="no symmetry is known"):
        Symmetry(nn.Sequential(), 8)
