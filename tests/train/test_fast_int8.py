"""Convolutions of signs in int8: exact forward, gradients those of a rounded incoming gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, memory_format
from torch.nn import functional as F

from bitsr.layers.convs import BinaryConv2d
from bitsr.layers.ops import TORCH
from bitsr.methods import METHODS, units
from bitsr.methods.bitsr import Bitsr
from bitsr.nets.srresnet import SRResNet
from bitsr.train.fast import FusedBitsr, accelerate, accelerated, fused, int8
from bitsr.train.fast.int8 import int8_conv, int8_conv_weight, sign_conv


def signs(*shape: int, seed: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(x >= 0, 1.0, -1.0).requires_grad_()


def rounded(g: Tensor, over: tuple[int, ...]) -> Tensor:
    """g in 127 steps of its largest over the dimensions ``over``."""
    step = g.abs().amax(over, keepdim=True).clamp(min=1e-30) / 127
    return (g / step).round() * step


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 7, 3), (1, 64, 2, 17), (3, 33, 1, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sums_and_gradients(k: int, shape: tuple[int, ...], layout: memory_format) -> None:
    a, b = signs(*shape, seed=0), signs(6, shape[1], k, k, seed=1)
    out = sign_conv(a.contiguous(memory_format=layout), b)
    exact = F.conv2d(a, b, padding=k // 2)
    assert torch.equal(out, exact) and out.dtype == torch.float32
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    g[0, 0, 0, 0] = 0.0
    of_a, of_b = torch.autograd.grad(out, (a, b), g)
    expected_a = torch.autograd.grad(exact, a, rounded(g, (0, 1, 2, 3)), retain_graph=True)[0]
    expected_b = torch.autograd.grad(exact, b, rounded(g, (0, 2, 3)))[0]
    torch.testing.assert_close(of_a, expected_a, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of_b, expected_b, rtol=1e-4, atol=1e-4)


def test_no_gradient_is_no_gradient() -> None:
    """A channel whose gradient is zero, and a gradient that is zero altogether, give zeros and no nan."""
    a, b = signs(2, 3, 4, 5, seed=0), signs(2, 3, 3, 3, seed=1)
    for g in (torch.zeros(2, 2, 4, 5), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(2, 2, 4, 5)):
        of_a, of_b = torch.autograd.grad(sign_conv(a, b), (a, b), g)
        assert (of_b[0] == 0).all() and of_a.isfinite().all() and (of_b[1] == 0).all() == (g == 0).all()


def test_operations_are_sound() -> None:
    """What torch asks of an operation that it compiles around: shapes, strides, no hidden aliasing."""
    for c, o in ((3, 6), (64, 128)):  # by torch, and by the library
        x, g = torch.ones(2, c, 5, 4, dtype=torch.int8), torch.ones(2, o, 5, 4, dtype=torch.int8)
        w = torch.ones(o, c, 3, 3, dtype=torch.int8)
        torch.library.opcheck(int8_conv, (x, w, False))
        torch.library.opcheck(int8_conv, (g, w, True))
        torch.library.opcheck(int8_conv_weight, (x, g, 3))


@pytest.mark.parametrize(
    ("act", "weight", "exact"),
    [
        ("approx_sign", "ste_sign", True),
        ("ste_sign", "clipped_ste", True),
        ("approx_sign", "magnitude_aware", False),
        ("float", "ste_sign", False),
    ],
)
def test_a_binary_convolution_takes_it_where_both_sides_are_signs(act: str, weight: str, exact: bool) -> None:
    torch.manual_seed(0)
    conv, x = BinaryConv2d(8, 8, act=act, weight=weight), torch.randn(1, 8, 6, 5, requires_grad=True)
    plain, incoming = conv(x), torch.randn(1, 8, 6, 5)
    accelerate(conv, "cuda", int8=True)
    assert type(conv) is BinaryConv2d
    accelerate(conv, "cpu", int8=True)
    assert (type(conv) is BinaryConv2d) != exact
    out = conv(x)
    assert torch.equal(out, plain)
    of_weight, of_plain = (torch.autograd.grad(y, conv.weight, incoming)[0] for y in (out, plain))
    assert torch.equal(of_weight, of_plain) != exact  # rounded, or the same computation
    torch.testing.assert_close(of_weight, of_plain, rtol=0.05, atol=0.1)
    torch.testing.assert_close(conv.eval()(x), plain)


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_every_method_computes_the_same_with_it(method: str) -> None:
    """Also those whose weights are scaled; and state dicts fit, with and without."""
    torch.manual_seed(0)
    net = SRResNet(2, 64, 1, method=method).train()
    x = torch.rand(2, 1, 6, 7) * 255
    net(x)  # for what the first batch sets
    net.eval()
    expected, state = net(x), net.state_dict()
    accelerate(net, "cpu", int8=True)
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-3)
    assert list(net.state_dict()) == list(state)
    net.load_state_dict(state)


def lines(*shape: int, seed: int, most: int) -> Tensor:
    """int8, channels_last, from -most to most."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-most, most + 1, shape, dtype=torch.int8, generator=g)
    return x.contiguous(memory_format=torch.channels_last)


def paths() -> list[str]:
    engine = pytest.importorskip("bitsr.engine")
    return [isa for isa in engine.isas() if isa in ("avx512", "avx2")]


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(
    "shape", [(1, 64, 1, 1), (2, 64, 5, 7), (1, 128, 3, 26), (3, 192, 1, 2), (1, 64, 70, 65)]
)
def test_sums_of_the_library(monkeypatch, isa: str, threads: int, k: int, shape: tuple[int, ...]) -> None:
    """Both ways and the weights', at the ends of the range: sums of 16 bits must not overflow."""
    if isa not in paths():
        pytest.skip(f"this CPU has no {isa}")
    n, c, h, w = shape
    o = 128
    for seed, most in ((0, 127), (1, 1)):
        q, g = lines(*shape, seed=seed, most=most), lines(n, o, h, w, seed=seed + 2, most=most)
        s, b = lines(*shape, seed=seed + 4, most=1), lines(o, c, k, k, seed=seed + 6, most=1)
        if seed:
            q, g, s, b = (torch.full_like(t, v) for t, v in ((q, 127), (g, -128), (s, 1), (b, -1)))

        exact = {}  # float32 holds these integers
        x, v = s.float().requires_grad_(), b.float().requires_grad_()
        y = F.conv2d(x, v, padding=k // 2)
        exact["transposed"], exact["weight"] = torch.autograd.grad(y, (x, v), g.float())
        exact["conv"] = F.conv2d(q.float(), b.float(), padding=k // 2)
        before = torch.get_num_threads()
        with monkeypatch.context() as patch:
            patch.setattr(int8, "ISA", isa.encode())
            torch.set_num_threads(threads)
            try:
                assert int8.native(
                    "sign_conv", (q, b, torch.empty(n, h, w, o, dtype=torch.int32)), n, h, w, c, o, k, 0
                )
                found = {
                    "conv": int8_conv(q, b, False),
                    "transposed": int8_conv(g, b, True),
                    "weight": int8_conv_weight(s, g, k),
                }
            finally:
                torch.set_num_threads(before)
        for name, sums in found.items():
            assert torch.equal(sums, exact[name].int()), name


def unit(c: int, k: int) -> FusedBitsr:
    torch.manual_seed(c + k)
    made = Bitsr(c, c, k)
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn_like(p))
        made.scale_map.weight.mul_(2 * torch.rand(8, c, 1, 1))
    accelerate(made, "cpu", int8=True)
    assert isinstance(made, FusedBitsr)
    return made


def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of the fused unit from now on."""
    calls: list[str] = []
    own = fused._call

    def counted(name: str, *args: Any) -> None:
        calls.append(name)
        own(name, *args)

    monkeypatch.setattr(fused, "_call", counted)
    return calls


def by_operations(made: FusedBitsr) -> Bitsr:
    """A copy that computes the same by the usual operations, with the int8 products."""
    made = copy.deepcopy(made)
    made.__class__ = Bitsr  # pyright: ignore[reportAttributeAccessIssue]
    assert type(made) is Bitsr
    return made


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("shape", "k"), [((2, 64, 7, 9), 3), ((1, 128, 5, 3), 1), ((4, 64, 24, 24), 3), ((1, 64, 1, 2), 5)]
)
def test_fused_unit(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], k: int, threads: int, isa: str
) -> None:
    """Result, gradients and running statistics are those of the operations; in evaluation too, which changes none."""
    if isa not in paths():
        pytest.skip(f"this CPU has no {isa}")
    monkeypatch.setattr(int8, "ISA", isa.encode())
    one = unit(shape[1], k)
    two = by_operations(one)
    before = torch.get_num_threads()
    try:
        for batch in range(3):
            generator = torch.Generator().manual_seed(batch)
            x = 3 * torch.randn(shape, generator=generator) + torch.arange(shape[1]).view(-1, 1, 1) / 10
            g = torch.randn(shape, generator=generator)
            x[0, :, 0, 0] = 0  # where |x| has no slope
            x.requires_grad_()
            torch.set_num_threads(threads)
            y = one.build(TORCH, x, "u", skip=x)
            assert "Fused" in type(y.grad_fn).__name__
            found = torch.autograd.grad(y, [x, *one.parameters()], g)
            torch.set_num_threads(before)
            expected_y = two.build(TORCH, x, "u", skip=x)
            expected = torch.autograd.grad(expected_y, [x, *two.parameters()], g)
            torch.testing.assert_close(y, expected_y, rtol=1e-4, atol=1e-4)
            for name, a, b in zip(["x", *dict(one.named_parameters())], found, expected, strict=True):
                # A gradient at the middle between two steps may be rounded either way.
                assert (a - b).norm() <= 2e-3 * b.norm() + 1e-4, name
            for (name, a), b in zip(one.named_buffers(), two.buffers(), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=name)
        had = [b.clone() for b in one.buffers()]
        x = x.detach()
        with torch.no_grad():
            two.load_state_dict(one.state_dict())  # the same thresholds to the last bit
            one.eval()
            two.eval()
            calls = fused_calls(monkeypatch)
            torch.set_num_threads(threads)
            y = one.build(TORCH, x, "u", skip=x)
            torch.set_num_threads(before)
            assert len(calls) == 1
            torch.testing.assert_close(y, two.build(TORCH, x, "u", skip=x), rtol=1e-4, atol=1e-4)
        for now, then in zip(one.buffers(), had, strict=True):
            assert torch.equal(now, then)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("change", ["", "gradient in evaluation", "frozen", "autocast", "no skip", "double"])
def test_what_is_not_fused(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """What the fused unit does not compute goes by the usual operations."""
    made, x = unit(64, 3), torch.randn(1, 64, 4, 4)
    skip: Tensor | None = x
    if change == "gradient in evaluation":
        made.eval()
    elif change == "frozen":
        made.bn.eval()
    elif change == "no skip":
        skip = None
    elif change == "double":
        made, x = made.double().eval(), x.double()
        skip = x
    calls = fused_calls(monkeypatch)
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"),
        torch.set_grad_enabled(change != "double"),
    ):
        assert made.build(TORCH, x, "u", skip=skip).shape == x.shape
    assert len(calls) == (change == "")


@pytest.mark.parametrize("change", ["another binarizer", "float", "narrow", "wider", "another method"])
def test_what_cannot_be_fused(change: str) -> None:
    cin, cout = {"narrow": (32, 32), "wider": (64, 128)}.get(change, (64, 64))
    method = "e2fif" if change == "another method" else "bitsr"
    settings = {"another binarizer": {"act": "ste_sign"}, "float": {"binary": False}}.get(change, {})
    made = units(method, **settings)(cin, cout)
    accelerate(made, "cpu", int8=True)
    assert not isinstance(made, FusedBitsr)
    assert (type(made.conv) is BinaryConv2d) == (change == "float")


def test_accelerated_for_a_while() -> None:
    """The same sums, and each module as it was, an error or not."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(*(BinaryConv2d(64, 64, act="approx_sign", weight="ste_sign") for _ in range(2)))
    accelerate(net[1], "cpu", int8=True)
    classes = [type(m) for m in net]
    x = torch.randn(1, 64, 5, 6)
    with torch.no_grad():
        expected = F.conv2d(net[0].quantised(x), net[0].quantised_weight(), padding=1)
        with pytest.raises(KeyError), accelerated(net):
            assert type(net[0]) is type(net[1]) is classes[1]
            assert torch.equal(net[0](x), expected)
            raise KeyError
    assert [type(m) for m in net] == classes and classes[0] is BinaryConv2d
