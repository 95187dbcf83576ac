"""Every backbone, scale and variant, and every method: trained, packed, run on every path, its float simulation."""

from __future__ import annotations

import re
from inspect import signature
from typing import Any, ClassVar, cast

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("pydantic", reason="recipes need pydantic")

from test_pack import q, scene
from torch import Tensor, nn
from torch.nn import functional as F

from bitsr import reference
from bitsr.engine import Engine, isas
from bitsr.layers.binarizers import ACTIVATIONS
from bitsr.layers.convs import BasesConv2d
from bitsr.layers.ops import TORCH, Net, Ops, V
from bitsr.methods import METHODS, Unit, units
from bitsr.model_file import ModelFile, Op
from bitsr.nets import NETS
from bitsr.nets.e2fif_ablation import RCAN_VARIANTS, RDN_VARIANTS, TAILS
from bitsr.nets.msrresnet import BINARIZED
from bitsr.nets.srresnet import SKIP_PATHS, SRResNet
from bitsr.pack import PackError, pack
from bitsr.pack.calibrate import Calibrator
from bitsr.pack.emit import Packer
from bitsr.pack.fold import LUMA, expand_bases
from bitsr.train import recipe
from bitsr.train.build import build

SMALL: dict[str, list[dict[str, Any]]] = {
    "srresnet": [
        *({"blocks": 1, "skip_path": path} for path in SKIP_PATHS),
        {"blocks": 1, "binarized": "none", "skip_path": "bicubic"},
    ],
    "srresnet-ablation": [{"blocks": 1, "tail": tail} for tail in TAILS],
    "edsr": [{"blocks": 1}],
    "rcan": [{"blocks": 1, "groups": 1}],
    "rcan-ablation": [
        *({"blocks": 1, "groups": 1, "variant": v} for v in RCAN_VARIANTS if v != "e2fif"),
        {"blocks": 1, "groups": 1, "variant": "e2fif", "wiring": "released"},
    ],
    "rdn": [{"blocks": 2, "convs": 2}],
    "rdn-ablation": [{"blocks": 2, "convs": 2, "variant": v} for v in RDN_VARIANTS],
    "msrresnet": [{"blocks": 1, "binarized": part} for part in BINARIZED],
    "ledig-srresnet": [{"blocks": 1}],
    "lapsrn": [{"depth": 1}],
    "plain": [{"layers": 2}],
}
"""Arguments that keep a net's width and every kind of layer, and leave out depth."""
CASES = [
    pytest.param(name, scale, args, id="-".join([name, f"x{scale}", *(v for v in args.values() if isinstance(v, str))]))
    for name, variants in SMALL.items()
    for scale in getattr(NETS[name], "scales", (2, 3, 4))
    for args in variants
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # nets this small gain nothing from more
    yield
    torch.set_num_threads(threads)


def train(net: Net) -> None:
    """Two steps on random crops: each parameter gets a gradient and moves."""
    g = torch.Generator().manual_seed(1)
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    adam = torch.optim.Adam(trained.values(), lr=1e-3)
    net.train()
    for _ in range(2):
        y = torch.rand(2, 1, 6, 7, generator=g) * 255
        adam.zero_grad()
        loss = F.l1_loss(net(y), F.interpolate(y, scale_factor=net.scale))
        loss.backward()
        adam.step()
        assert torch.isfinite(loss)
    still = [name for name, p in trained.items() if torch.equal(p, before[name])]
    assert not still, f"not trained: {still}"


def spread(net: Net) -> None:
    """What starts at 0 or 1 gets a value that shows when it is lost; batch norm the statistics of a picture."""
    g = torch.Generator().manual_seed(2)

    def away(n: int, size: Tensor) -> Tensor:
        """Of either sign, 0.5 to 1.5 times the size."""
        signs = torch.where(torch.rand(n, generator=g) < 0.5, -1.0, 1.0)
        return signs * (torch.rand(n, generator=g) + 0.5) * size

    def of_its_output(conv: nn.Conv2d, _: Any, out: Tensor) -> Tensor:
        assert conv.bias is not None
        delta = away(len(conv.bias), out.std() / 2)
        conv.bias += delta
        out = out + delta.view(1, -1, 1, 1)
        if len(conv.bias) == 1:  # a picture, to the size of one
            size = 20 / (net.span * float(out.std()))
            conv.weight *= size
            conv.bias *= size
            out = out * size
        return out

    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    convs = [
        m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)) and m.bias is not None
    ]
    biases = {id(m.bias) for m in convs}
    net.train()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.dim() == 1 and "slope" not in name and id(p) not in biases:
                p += away(len(p), p.abs().mean().clamp(min=0.5))
        hooks = [m.register_forward_hook(of_its_output) for m in convs]
        net(torch.from_numpy(scene(24, 20)).float()[None, None])
        for hook in hooks:
            hook.remove()
        for m in norms:
            m.momentum = None  # the mean of what follows
            m.reset_running_stats()
        for seed in range(2):
            net(torch.from_numpy(scene(24, 20, seed)).float()[None, None])
    net.eval()


def rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.asarray(x, np.float64) ** 2)))


class Value:
    """A handle of the packer, and the tensor that its integers stand for."""

    def __init__(self, handle: Any, tensor: Tensor) -> None:
        self.handle, self.tensor = handle, tensor


def side(x: Any, name: str) -> Any:
    """An argument with its values replaced by their handles or tensors."""
    if isinstance(x, list):
        return [side(part, name) for part in x]
    return getattr(x, name) if isinstance(x, Value) else x


class Lockstep:
    """``Ops`` that run a net in torch and in packed integers at once, each operation on the same numbers.

    Torch gets what the integers of its inputs stand for, so that a sign which rounding has turned does not spread, and
    the results differ by the roundings of one operation: by ``allowed``. Each tensor of the file is also left out in
    turn, which must show twice as much.
    """

    ROUNDED: ClassVar = {"bconv": 0.0, "conv": 0.02, "qconv": 0.025, "map": 0.001, "attend": 0.0}
    """Kinds that round: how much of what the weights give may change by their rounding. Other kinds move integers."""
    PARTS: ClassVar = {
        "sign": ["threshold"],
        "quant": ["mul"],
        "map": ["weight"],
        "attend": ["down.weight", "down.bias", "slope", "up.weight", "up.bias"],
        "bconv": ["weight", "bias", "mul", "add", "inner_slope", "inner_add", "slope", "slope_add"],
    }  # the others as bconv

    def __init__(self, net: Net, y: np.ndarray) -> None:
        seen = Calibrator(1 / (LUMA * net.span))
        seen.run(net, y)
        self.emit, self.done = Packer(seen), 0
        self.allowed: dict[
            str, float
        ] = {}  # of a buffer: root mean square of the differences, in steps of int16
        self.buffers = {"lr": q(y)[:, :, None]}
        net.build(cast(Ops[Value], self), self._value("lr"))

    def _value(self, handle: str) -> Value:
        floats = self.buffers[handle] * self.emit.units[handle]
        return Value(handle, torch.from_numpy(floats).float().permute(2, 0, 1)[None])

    def repeated_block(self, block: Any, x: Value, name: str) -> Value:
        return block.build(self, x, name)

    def __getattr__(self, kind: str) -> Any:
        return lambda *args, **kw: self._step(kind, args, kw)

    def _step(self, kind: str, args: tuple, kw: dict[str, Any]) -> Value:
        if kind == "bconv" and isinstance(args[1], BasesConv2d):
            # That its parts make the sum is for test_methods.py.
            return expand_bases(cast(Ops[Value], self), *args, **kw)
        handle = getattr(self.emit, kind)(
            *(side(x, "handle") for x in args), **{k: side(x, "handle") for k, x in kw.items()}
        )
        made, self.done = self.emit.ops[self.done :], len(self.emit.ops)
        for op in made:
            self._run(op)
        allowed = max((self.allowed[op.out] for op in made), default=0.0)
        if (norm := kw.get("norm")) is not None:
            packed = self._threshold(args[2].handle, norm.absolute(kw["threshold"]))
            kw["threshold"] = norm(packed.view(1, -1, 1, 1)).flatten()  # by its forward, not by its inverse
        elif kw.get("threshold") is not None:
            kw["threshold"] = self._threshold(args[2].handle, kw["threshold"])
        expected = getattr(TORCH, kind)(
            *(side(x, "tensor") for x in args), **{k: side(x, "tensor") for k, x in kw.items()}
        )
        if kind == "concat":
            return Value(handle, expected)
        got, unit = self._value(handle), torch.from_numpy(self.emit.units[handle]).view(1, -1, 1, 1)
        found = rms((got.tensor - expected) / unit)
        assert found <= allowed, f"{kind} {args[0]}: {found:.2f} of {allowed:.2f} steps"
        return got

    def _run(self, op: Op) -> None:
        inputs, tensors = [self.buffers[name] for name in op.inputs], self.emit.tensors
        out = self.buffers[op.out] = reference._run(op, inputs, tensors)
        names = (
            [f"{op.name}.{part}" for part in self.PARTS.get(op.kind, self.PARTS["bconv"])] if op.name else []
        )
        changes = {}
        for name in [name for name in names if name in tensors and tensors[name].any()]:
            lost = reference._run(op, inputs, {**tensors, name: np.zeros_like(tensors[name])})
            changes[name] = rms(lost - out.astype(np.float64))
        share = self.ROUNDED.get(op.kind)
        given = changes.get(f"{op.name}.mul", changes.get(f"{op.name}.weight", rms(out)))
        self.allowed[op.out] = 1e-3 if share is None else 1 + share * given
        for name, change in changes.items():
            assert change >= 2 * self.allowed[op.out], f"{name} could be lost unseen: {change:.2f} steps"

    def _threshold(self, handle: str, threshold: Tensor) -> Tensor:
        """The packed threshold q, which is at most half a step off; below it lies all that is less than q - 1/2."""
        unit = torch.from_numpy(self.emit.units[handle])
        ops = {op.out: op for op in self.emit.ops}
        sign = ops[self.emit.ops[-1].inputs[0]]  # of the convolution just made; it may share another's
        packed = torch.from_numpy(self.emit.tensors.get(f"{sign.name}.threshold", np.zeros(len(unit))))
        assert (packed - threshold / unit).abs().max() <= 0.5 + 1e-6
        return ((packed - 0.5) * unit).float()


@torch.no_grad()
def equals_its_simulation(net: Net) -> None:
    """Packed and run: the reference bit for bit on every path; each operation as in torch; and the whole like torch,
    but for twice what torch itself makes of an input 1/8 level away: these nets are discontinuous."""
    y = scene(*((11, 13) if net.scale < 8 else (5, 7)), 5)
    packed = ModelFile.from_bytes(pack(net, [y], "small").to_bytes())
    assert packed.scale == net.scale
    lr = q(y)
    got = reference.run(packed, lr)
    for isa in isas():
        np.testing.assert_array_equal(Engine(packed, isa=isa, threads=2).run(lr), got, isa)
    Lockstep(net, y)
    given = lr / LUMA + net.mean
    expected, near = (
        net.upscale(torch.from_numpy(x)).numpy()
        for x in (given, given + np.resize([1, -1, -1], lr.shape) / 8)
    )
    moved = rms(near - expected)
    assert rms(got / LUMA + net.mean - expected) < 2 * moved + 0.04 * np.std(expected)


@pytest.mark.parametrize(("name", "scale", "args"), CASES)
def test_backbone(name: str, scale: int, args: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = NETS[name](scale=scale, **args)
    assert isinstance(net, Net)
    train(net)
    spread(net)
    equals_its_simulation(net)


@pytest.mark.parametrize("method", METHODS)
def test_method(method: str) -> None:
    torch.manual_seed(0)
    net = SRResNet(2, blocks=1, method=method)
    train(net)
    spread(net)
    reasons = {unit.unpackable for unit in net.modules() if isinstance(unit, Unit)} - {""}
    if reasons:
        with pytest.raises(PackError, match="|".join(map(re.escape, reasons))):
            pack(net, [scene(11, 13)], method)
    else:
        equals_its_simulation(net)


NARROW: dict[str, list[dict[str, Any]]] = {
    "srresnet": [{}],
    "edsr": [{}],
    "rcan": [{"groups": 1}],
    "rdn": [{"convs": 2}],
    "srresnet-ablation": [{"tail": tail} for tail in TAILS],
    "rcan-ablation": [{"groups": 1, "variant": v} for v in RCAN_VARIANTS],
    "rdn-ablation": [{"convs": 2, "variant": v} for v in RDN_VARIANTS],
    "msrresnet": [{"binarized": "body"}, {"binarized": "all"}],
}
"""The nets that take any method, as README.md and CONTRIBUTING.md say."""


@pytest.mark.parametrize("method", METHODS)
def test_the_nets_that_take_any_method(method: str) -> None:
    """They are those of ``NARROW`` and no other; BBCU-M's takes the methods with an option "slope" alone."""
    y = torch.rand(1, 1, 5, 6) * 255
    for name, variants in NARROW.items():
        for args in variants:
            args = {"channels": 8, "blocks": 1, "method": method, **args}
            if args.get("binarized") == "all" and "slope" not in signature(METHODS[method]).parameters:
                with pytest.raises(ValueError, match="wants a method with an option 'slope'"):
                    NETS[name](2, **args)
                continue
            net = NETS[name](2, **args)
            assert type(next(m for m in net.modules() if isinstance(m, Unit))) is METHODS[method]
            assert net(y).shape == (1, 1, 10, 12)
    for name in NETS.keys() - NARROW:
        with pytest.raises(TypeError, match="method"):
            NETS[name](2, method=method)


class Toy(Net):
    """The net of CONTRIBUTING.md: a class with its operations."""

    def __init__(
        self,
        scale: int = 4,
        channels: int = 64,
        *,
        method: str = "e2fif",
        options: dict[str, Any] | None = None,
        binary: bool | str = True,
        act: str | None = None,
        weight: str | None = None,
    ) -> None:
        super().__init__()
        make = units(method, options, binary=binary, act=act, weight=weight)
        self.scale = scale
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.unit = make(channels, channels)
        self.tail = nn.Conv2d(channels, scale * scale, 3, padding=1)

    def build(self, ops: Ops[V], x: V) -> V:
        x = ops.conv("head", self.head, x)
        x = self.unit.build(ops, x, "unit", skip=x)
        return ops.shuffle(ops.conv("tail", self.tail, x), self.scale)


class ToySign(torch.autograd.Function):
    """sign(x); gradient g / (1 + |x|)^2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x < 0, -1.0, 1.0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g / (1 + ctx.saved_tensors[0].abs()) ** 2


def test_a_toy_net_and_a_toy_binarizer(monkeypatch, tmp_path) -> None:
    """What CONTRIBUTING.md asks for to add a net and a binarizer is enough.

    By a recipe the net is built with the binarizer, with every method and as its float twin; it trains and packs."""
    monkeypatch.setitem(ACTIVATIONS, "toy", ToySign.apply)
    monkeypatch.setitem(NETS, "toy", Toy)
    file = tmp_path / "toy.toml"
    file.write_text(
        'scale = 2\nnet.name = "toy"\nnet.stream_init_scale = 0.5\ntrain = { iterations = 1, lr = 1e-3 }\n'
    )

    def made(*settings: str) -> Any:
        torch.manual_seed(0)
        return build(recipe.load(file, [f"net.args.{setting}" for setting in settings]))

    twin = made("binary=false", "act=toy")
    assert (twin.unit.conv.act, twin.unit.conv.weight_mode) == ("float", "float")
    for method in METHODS:
        assert type(made(f"method={method}").unit) is METHODS[method]
    assert made("weight=magnitude_aware").unit.conv.weight_mode == "magnitude_aware"
    net = made("act=toy")
    assert net.unit.conv.act == "toy" and isinstance(net, Toy)
    train(net)
    spread(net)
    equals_its_simulation(net)


def test_every_net_is_here() -> None:
    assert set(SMALL) == {name for name, cls in NETS.items() if issubclass(cls, Net) and cls.packs}
