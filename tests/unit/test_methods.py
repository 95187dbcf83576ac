"""What is special to one method: each against its formula, its float twin, and what it says about packing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn
from torch.nn import functional as F

from bitsr.engine import Engine
from bitsr.eval.complexity import count
from bitsr.eval.net_complexity import layers, read
from bitsr.layers.binarizers import magnitude_aware
from bitsr.layers.ops import TORCH
from bitsr.methods import METHODS, units
from bitsr.methods.bitsr import Bitsr
from bitsr.methods.literature import XNOR
from bitsr.nets.blocks import Block
from bitsr.nets.srresnet import SRResNet
from bitsr.pack import PackError, pack
from bitsr.pack.fold import LUMA

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "e2fif": [{}, {"slope": 1.0}],
    "xnor": [{}, {"scale_map": False}],
    "dorefa": [{}, {"act_bits": 2}, {"act_bits": 3, "weight_bits": 2}],
    "abc": [{}, {"weights": 1, "activations": 2}],
    "pams": [{}, {"bits": 2}],
}
CASES = [(name, options) for name in METHODS for options in OPTIONS.get(name, [{}])]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def unit(method: str, cin: int = 5, cout: int = 5, **options: Any) -> Any:
    return units(method, options)(cin, cout)


def signs(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0)


def stirred(net: nn.Module) -> Any:
    """All parameters and statistics off their initial values, as after training."""
    with torch.no_grad():
        for p in net.parameters():
            if p.dim() == 1:
                p += 0.3 * torch.randn(p.shape) * (p.abs().mean() + 0.5)
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                assert m.running_mean is not None and m.running_var is not None
                m.running_mean.normal_(0, 5)
                m.running_var.uniform_(50, 300)
            # a map around 1, as those statistics want it
            if isinstance(m, Bitsr):
                m.scale_map.weight.uniform_(-0.0001, 0.001)
            if isinstance(m, XNOR) and m.mean is not None:
                m.mean.weight.mul_(0.03)
    return net.eval()


def scene(h: int, w: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:h, :w]
    return np.clip(
        90 + 60 * np.sin(x / 5) * np.cos(y / 7) + 60 * (x + y > h) + rng.normal(0, 3, (h, w)), 16, 235
    )


@pytest.mark.parametrize(("name", "options"), CASES)
def test_trains_in_bfloat16(name: str, options: dict[str, Any]) -> None:
    """Every parameter of every method gets a finite gradient, and some of it is not zero."""
    net = SRResNet(2, 8, 1, method=name, options=options).train()
    with torch.autocast("cpu", torch.bfloat16):
        sr = net(torch.from_numpy(np.stack([scene(12, 13), 0.7 * scene(12, 13)])).float()[:, None])
    sr.square().mean().backward()
    for key, p in net.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), key


@pytest.mark.parametrize(("name", "options"), CASES)
def test_packs_or_says_why(name: str, options: dict[str, Any]) -> None:
    """Two blocks through the engine agree with the float simulation, or the reason is given."""
    y = scene(29, 31)
    net = SRResNet(2, 64, 1, method=name, options=options).train()
    net(torch.from_numpy(y).float()[None, None])  # for what the first batch sets
    net = stirred(net)
    if reason := unit(name, **options).unpackable:
        with pytest.raises(PackError) as error:
            pack(net, [y], name)
        assert str(error.value) == reason
        return
    lr = np.rint((y - 127.5) * LUMA).astype(np.int16)
    packed = pack(net, [y], name)
    got = Engine(packed).run(lr) / LUMA + 127.5
    expected = net.upscale(torch.from_numpy(lr / LUMA + 127.5)).numpy()
    # Sums without a scale are as large as the stream: one sign that flips shows.
    tolerance = 0.1 if name == "plain" else 0.02
    assert np.sqrt(np.mean((got - expected) ** 2)) < tolerance * np.std(expected)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_float_twin(name: str, options: dict[str, Any]) -> None:
    """Without binarizers a unit is smooth: a step half as long moves its result half as far."""
    twin = units(name, options, binary=False)(5, 5).eval()
    half = units(name, options, binary="activations")(5, 5).eval()
    assert twin.state_dict().keys() == half.state_dict().keys() == unit(name, **options).state_dict().keys()
    x, d = torch.rand(1, 5, 6, 7).double() + 0.1, torch.randn(1, 5, 6, 7).double() * 1e-5
    twin, half = twin.double(), half.double()
    with torch.no_grad():
        at = [twin.build(TORCH, x + s * d, "u", skip=x) for s in (0, 1, 2)]
        torch.testing.assert_close(at[2] - at[0], 2 * (at[1] - at[0]), rtol=1e-3, atol=1e-9)
        assert (at[1] - at[0]).any()
        moved = half.build(TORCH, x * 1.001, "u") - half.build(TORCH, x, "u")
        assert moved.abs().max() < 1e-9 or name in ("bitsr", "xnor", "ma") or options  # these see sizes


def test_exchanged_binarizers() -> None:
    made: Any = units("bireal", act="ede", weight="dorefa")(4, 4)
    assert (made.conv.act, made.conv.weight_mode) == ("ede", "dorefa")
    made = units("ma", weight="approx_sign")(4, 4)
    assert made.conv.weight_mode == "approx_sign"
    with pytest.raises(ValueError, match="activations of 'ma' take no other"):
        units("ma", act="ede")(4, 4)
    with pytest.raises(ValueError, match="weights of 'dorefa' take no other"):
        units("dorefa", {"act_bits": 2}, weight="magnitude_aware")(4, 4)
    with pytest.raises(ValueError, match="unknown 'nothing'"):
        units("nothing")


def test_bitsr_formula() -> None:
    """bn(K * conv(sign(norm(x) - threshold), sign(w))) + skip; channel c takes map c % 8."""
    u = stirred(unit("bitsr", 16, 16))
    with torch.no_grad():
        u.norm.running_mean.normal_()
        u.norm.running_var.uniform_(0.5, 2)
        u.threshold.normal_()
    x, skip = torch.randn(2, 16, 6, 7), torch.randn(2, 16, 6, 7)
    mean, std = (v.view(1, -1, 1, 1) for v in (u.norm.running_mean, (u.norm.running_var + 1e-5).sqrt()))
    a = signs((x - mean) / std - u.threshold.view(1, -1, 1, 1))
    k = torch.einsum("mc,nchw->nmhw", u.scale_map.weight[:, :, 0, 0], x.abs())
    expected = u.bn(torch.cat([k, k], 1) * F.conv2d(a, signs(u.conv.weight), padding=1)) + skip
    torch.testing.assert_close(u.build(TORCH, x, "u", skip=skip), expected, rtol=1e-4, atol=1e-4)
    assert len({float(m.mean()) for m in k.unbind(1)}) == 8


def test_xnor_scales_by_the_mean_magnitude() -> None:
    """K of the paper: the mean over channels, then over the k x k window with zeros around it."""
    u, x = unit("xnor").eval(), torch.randn(2, 5, 6, 7)
    u.bn = torch.nn.Identity()
    w = u.conv.weight.detach()
    alpha = w.abs().mean(dim=(1, 2, 3), keepdim=True)
    k = F.conv2d(x.abs().mean(1, keepdim=True), torch.full((1, 1, 3, 3), 1 / 9), padding=1)
    expected = F.conv2d(signs(x), signs(w) * alpha, padding=1) * k + x
    torch.testing.assert_close(u.build(TORCH, x, "u", skip=x), expected)


def test_dorefa_of_one_bit_is_the_paper_inside_the_picture() -> None:
    """Signs with a threshold of 1/2, then batch norm: the bits {0, 1} of the paper, both ways."""
    u, x = unit("dorefa").train(), torch.randn(3, 5, 8, 9) * 0.7
    x[0, 0, 3, 3] = 0.5
    leaf = x.clone().requires_grad_()
    got = u.build(TORCH, leaf, "u")
    w = u.conv.weight.detach()
    published = x.clone().requires_grad_()
    clipped = published.clamp(0, 1)
    bits = clipped + ((x >= 0.5).float() - clipped).detach()
    padded = F.pad(bits, (1, 1, 1, 1), value=0.5)
    u.bn.eps = 1e-12
    got = u.build(TORCH, leaf, "u")
    expected = F.batch_norm(F.conv2d(padded, signs(w) * w.abs().mean()), None, None, training=True, eps=1e-12)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    g = torch.randn(got.shape)
    got.backward(g)
    expected.backward(g)
    torch.testing.assert_close(leaf.grad, published.grad, rtol=1e-3, atol=1e-4)


def test_dorefa_levels() -> None:
    conv = unit("dorefa", act_bits=2, weight_bits=3).conv
    a = conv.quantised(torch.tensor([-1.0, 0.1, 0.2, 0.5, 0.9, 7.0]))
    torch.testing.assert_close(a, torch.tensor([0, 0, 1, 2, 3, 3]) / 3)
    levels = (conv.quantised_weight().detach() + 1) * 7 / 2
    torch.testing.assert_close(levels, levels.round())
    assert levels.min() >= 0 and levels.max() <= 7 and len(levels.unique()) == 8
    w = conv.weight.detach()
    assert (conv.quantised_weight().detach() - (w.tanh() / w.tanh().abs().max())).abs().max() <= 1 / 7 + 1e-6
    with pytest.raises(ValueError, match="1 to 8"):
        unit("dorefa", act_bits=0)


def test_reactnet_and_bbcu_formulas() -> None:
    x = torch.randn(1, 5, 6, 7)
    for name in ("reactnet", "bbcu"):
        u = stirred(unit(name))
        p = {k: v.detach().view(1, -1, 1, 1) for k, v in u.named_parameters() if v.dim() == 1}
        w = u.conv.weight.detach()
        v = F.conv2d(signs(x - p["threshold"]), signs(w) * w.abs().mean((1, 2, 3), keepdim=True), padding=1)
        part = "after" if name == "reactnet" else "inner"

        def rprelu(v: Tensor, p: Any = p, part: str = part) -> Tensor:
            v = v - p[f"{part}.shift_in"]
            return torch.where(v > 0, v, p[f"{part}.slope"].clamp(-1, 1) * v) + p[f"{part}.shift_out"]

        expected = rprelu(u.bn(v) + x) if name == "reactnet" else rprelu(v) + x
        torch.testing.assert_close(u.build(TORCH, x, "u", skip=x), expected, rtol=1e-4, atol=1e-4)


def test_btm_starts_xavier_uniform() -> None:
    w = unit("btm", 64, 32).conv.weight.detach()
    bound = (6 / (9 * (64 + 32))) ** 0.5
    assert w.abs().max() <= bound and w.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_compiles_in_one_graph(name: str) -> None:
    """No graph breaks, which would cost speed."""
    net = SRResNet(2, 8, 1, method=name).train()
    torch._dynamo.reset()
    explained = torch._dynamo.explain(net)(torch.rand(1, 1, 8, 9) * 255)
    assert explained.graph_break_count == 0


@pytest.mark.parametrize(("name", "options"), CASES)
def test_counts(name: str, options: dict[str, Any]) -> None:
    """Every method's walk can be counted, and every parameter belongs to a row."""
    net = SRResNet(2, 8, 1, method=name, options=options)
    rows, radius = layers(net)
    total = count(rows)
    assert radius == 4
    if name == "abc":
        assert total.binary_macs == 2 * 8 * 8 * 9 * options.get("weights", 3) * options.get("activations", 3)
    else:
        owned = total.binary_weights + total.other_params
        assert owned == sum(p.numel() for p in net.parameters())


def test_abc_weights_are_the_least_squares_sum() -> None:
    """Against a solver; the sum of its parts is the convolution; the gradient is the sum of the scales."""
    u = stirred(unit("abc", weights=3, activations=2))
    conv, x = u.conv, torch.randn(1, 5, 6, 7)
    w = conv.weight.detach()
    bases = torch.stack([signs(w - w.mean() + offset * w.std()) for offset in (-1, 0, 1)])
    best = torch.linalg.lstsq(bases.flatten(1).T, w.flatten()[:, None]).solution[:, 0]
    got = conv.quantised_weight()
    torch.testing.assert_close(got.detach(), (best.view(-1, 1, 1, 1, 1) * bases).sum(0), rtol=1e-3, atol=1e-4)
    got.sum().backward()
    torch.testing.assert_close(conv.weight.grad, best.sum().expand_as(w), rtol=1e-3, atol=1e-4)
    assert (got.detach() - w).square().mean() < 0.5 * (magnitude_aware(w) - w).square().mean()
    parts = sum(F.conv2d(signs(x - t), w, padding=1) for t, w in conv.parts())
    torch.testing.assert_close(conv(x), parts, rtol=1e-3, atol=1e-4)


def test_bam_accumulates_over_the_block() -> None:
    block = stirred(Block(units("bam"), 5))
    one, two = block.unit1, block.unit2
    x = torch.randn(1, 5, 6, 7)

    def weights(w: Tensor, of: Tensor) -> Tensor:
        v = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return signs(v) * of.abs().mean((1, 2, 3), keepdim=True)

    def spread(x: Tensor) -> Tensor:
        return x * x.abs().mean(1, keepdim=True)

    w1, w2 = one.conv.weight.detach(), two.conv.weight.detach()
    y = one.bn(F.conv2d(signs(one.norm(spread(x))), weights(w1, w1), padding=1))
    a = signs(two.norm(spread(y) + two.beta * spread(x)))
    expected = two.bn(F.conv2d(a, weights(w2 + two.conv.alpha * w1, w2), padding=1)) + x
    torch.testing.assert_close(block.build(TORCH, x, "b"), expected, rtol=1e-4, atol=1e-4)


def test_pams_quantises_to_its_learned_range() -> None:
    """Levels, the first batch's range, and PACT's gradients."""
    conv = unit("pams").conv
    x = torch.randn(4, 5, 6, 7)
    conv.train()(x)
    start = x.abs().amax((1, 2, 3)).mean()
    torch.testing.assert_close(conv.start, start)
    conv(3 * x)
    assert torch.equal(conv.start, start)
    conv.factor.data.fill_(0.5)
    top = start / 2
    leaf, g = x.clone().requires_grad_(), torch.randn(x.shape)
    q = conv.quantised(leaf)
    torch.testing.assert_close(q, (x.clamp(-top, top) * 7 / top).round() * top / 7)
    q.backward(g)
    torch.testing.assert_close(leaf.grad, g * (x.abs() < top))
    torch.testing.assert_close(conv.factor.grad, start * (g * x.sign() * (x.abs() >= top)).sum())
    levels = conv.quantised_weight().detach() * 7 / conv.weight.detach().abs().max()
    torch.testing.assert_close(levels, levels.round())
    assert levels.abs().max().round() == 7


def test_pams_untrained_does_not_pack() -> None:
    with pytest.raises(PackError, match="largest activation has not been trained"):
        pack(SRResNet(2, 8, 1, method="pams").eval(), [scene(12, 12)], "pams")


def test_info_says_what_does_not_pack(tmp_path: Path) -> None:
    text = '[net]\nname = "srresnet"\nargs = {{ method = "{}", blocks = 1 }}\n[train]\niterations = 1\nlr = 1e-3\n'
    for name in ("bam", "bireal"):
        (tmp_path / "r.toml").write_text("scale = 2\n" + text.format(name))
        reason = unit(name).unpackable
        told = read(str(tmp_path / "r.toml")).describe()
        assert (f"no: {reason}\n" if reason else "packs     yes\n") in told
