"""The backbones' wiring, against the papers' written out in plain torch."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

from bitsr.imresize import imresize
from bitsr.layers.convs import BinaryConv2d
from bitsr.layers.ops import CompiledBlocks
from bitsr.nets import NETS
from bitsr.nets.e2fif_ablation import (
    RCAN_VARIANTS,
    RCAN_WIRINGS,
    RDN_VARIANTS,
    TAILS,
    RCANAblation,
    RDNAblation,
    SRResNetAblation,
)
from bitsr.nets.float_backbones import FloatEDSR, FloatRCAN, FloatRDN
from bitsr.nets.msrresnet import BINARIZED, MSRResNet
from bitsr.nets.rcan import RCAN
from bitsr.nets.rdn import RDN
from bitsr.nets.srresnet import SRResNet
from bitsr.nets.upsamplers import back_projection, interpolation, steps


def settled(net: nn.Module) -> Any:
    """Evaluation mode, with batch norm that is not the identity."""
    g = torch.Generator().manual_seed(3)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            n = m.num_features
            assert m.running_mean is not None and m.running_var is not None
            m.running_mean.copy_(torch.randn(n, generator=g))
            m.running_var.copy_(torch.rand(n, generator=g) * 50 + 1)
            m.weight.data.copy_(torch.randn(n, generator=g))
            m.bias.data.copy_(torch.randn(n, generator=g))
    return net.eval()


def picture(h: int = 7, w: int = 9) -> Tensor:
    return torch.rand(2, 1, h, w, generator=torch.Generator().manual_seed(4)) * 255


def conv(unit: Any, x: Tensor) -> Tensor:
    """bn(conv(sign(x), sign(w))), or the convolution alone where there is no batch norm."""
    c = unit.conv
    y = F.conv2d(
        torch.where(x < 0, -1.0, 1.0), torch.where(c.weight < 0, -1.0, 1.0), c.bias, padding=c.padding
    )
    return unit.bn(y) if hasattr(unit, "bn") else y


def same(net: nn.Module, expected: Tensor, x: Tensor) -> None:
    torch.testing.assert_close(net(x), expected + 127.5, rtol=1e-4, atol=1e-3)


def test_steps() -> None:
    assert [steps(s) for s in (1, 2, 3, 4, 8)] == [[], [2], [3], [2, 2], [2, 2, 2]]


@torch.no_grad()
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("form", ["light", *TAILS])
def test_tails(form: str, scale: int) -> None:
    torch.manual_seed(0)
    net = settled(SRResNet(scale, 8, 1) if form == "light" else SRResNetAblation(scale, 8, 1, tail=form))
    x = picture()
    head = net.head(x - 127.5)
    y = F.leaky_relu(conv(net.body[0].unit1, head) + head, 0.1)
    y = conv(net.body[0].unit2, y) + y + head
    if form == "light":
        return same(net, F.pixel_shuffle(net.tail(y), scale), x)
    for unit, s in zip(net.up, steps(scale) if form == "steps" else [scale], strict=True):
        skip = F.interpolate(y, scale_factor=s, mode="nearest") if form == "repeat" else 0
        y = F.pixel_shuffle(conv(unit, y), s) + skip
    same(net, net.tail(y), x)


@torch.no_grad()
@pytest.mark.parametrize(
    ("variant", "wiring"), [("e2fif", ""), *((v, w) for v in RCAN_VARIANTS for w in RCAN_WIRINGS)]
)
def test_rcan(variant: str, wiring: str) -> None:
    """The ablation, and (no wiring) the net itself, which is its last step."""
    torch.manual_seed(0)
    args: dict[str, Any] = {"variant": variant, "wiring": wiring} if wiring else {}
    net = settled((RCANAblation if args else RCAN)(3, 32, 2, 2, **args))
    x = picture()
    y = head = net.head(x - 127.5)
    for group in net.body:
        start = y
        for block in group.blocks:
            z = F.leaky_relu(conv(block.unit1, y) + y, 0.1)
            z = conv(block.unit2, y if wiring == "released" else z) + z
            gate = F.leaky_relu(block.down(F.adaptive_avg_pool2d(z, 1)), 0.01)
            assert gate.shape[1] == 2  # 32 / 16
            y = z * torch.sigmoid(block.up(gate))
        y = conv(group.end, y) + (y if variant != "bireal" else 0) + start
        assert hasattr(group.end, "bn") == (variant != "bireal")
    if variant in ("bireal", "variant1"):
        assert not hasattr(net.end, "bn")
        y = conv(net.end, y)
    y = y + head
    if variant == "e2fif":
        return same(net, F.pixel_shuffle(net.tail(y), 3), x)
    assert not hasattr(net.up[0], "bn")
    same(net, net.tail(F.pixel_shuffle(conv(net.up[0], y), 3)), x)


@torch.no_grad()
@pytest.mark.parametrize("variant", [*RDN_VARIANTS, "e2fif"])
def test_rdn(variant: str) -> None:
    torch.manual_seed(0)
    args: dict[str, Any] = {} if variant == "e2fif" else {"variant": variant}
    net = settled((RDNAblation if args else RDN)(2, 8, blocks=2, convs=3, **args))
    x = picture()
    head = net.head(x - 127.5)
    y, outs = conv(net.first, head) + head, []
    for block in net.body:
        dense = [y]
        for i, unit in enumerate(block.units):
            z = conv(unit, torch.cat(dense, 1)) + (y if i == 0 else 0)
            dense.append(F.leaky_relu(z, 0.1))
        y = conv(block.fusion, torch.cat(dense, 1)) + y + (dense[-1] if variant != "bireal" else 0)
        outs.append(y)
    z = conv(net.fusion1, torch.cat(outs, 1))
    z = conv(net.fusion2, z) + z + head + (y if variant in ("variant2", "e2fif") else 0)
    if variant == "e2fif":
        return same(net, F.pixel_shuffle(net.tail(z), 2), x)
    same(net, net.tail(F.pixel_shuffle(conv(net.up[0], z), 2)), x)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 5), (7, 9)])
def test_bilinear_is_interpolate(scale: int, h: int, w: int) -> None:
    """Borders included; in float64, so that only roundings differ."""
    x = picture(h, w).double()
    expected = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
    base = interpolation(scale, "bilinear")
    assert not base.weight.requires_grad
    tolerance = 1e-5 if scale == 3 else 1e-12  # thirds are rounded
    torch.testing.assert_close(
        F.pixel_shuffle(base.double()(x), scale), expected, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize(("h", "w"), [(1, 5), (11, 14)])
def test_bicubic_is_imresize(scale: int, h: int, w: int) -> None:
    """Two pixels from the edge; a flat picture stays flat to the edge."""
    x = picture(h, w).double()
    base = interpolation(scale, "bicubic").double()
    assert not base.weight.requires_grad
    y = F.pixel_shuffle(base(x), scale)[0, 0]
    inner = slice(2 * scale, -2 * scale)
    expected = torch.from_numpy(imresize(x[0, 0].numpy(), scale))
    torch.testing.assert_close(y[inner, inner], expected[inner, inner], rtol=1e-5, atol=1e-4)
    flat = F.pixel_shuffle(base(torch.full_like(x, 100)), scale)
    torch.testing.assert_close(flat, torch.full_like(flat, 100), rtol=1e-6, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_back_projection(scale: int) -> None:
    """Shrinking is imresize; what is taken from a net's part is its orthogonal projection on what shrinking sees, to
    the fiftieth that cutting off the inverse costs."""
    convs = back_projection(scale)
    assert not any(conv.weight.requires_grad for conv in convs)
    left, minus_shrink, back = (conv.double() for conv in convs)
    base = interpolation(scale, "bicubic").double()

    def shrink(sr: Tensor) -> Tensor:
        return -minus_shrink(sr)

    torch.manual_seed(0)
    h, w, inner = 31, 33, slice(6, -6)
    hr = 20 * torch.randn(h * scale, w * scale, dtype=torch.float64)
    x = torch.from_numpy(imresize(hr.numpy(), Fraction(1, scale)))
    low = shrink(F.pixel_unshuffle(hr[None], scale))[0]
    torch.testing.assert_close(low[inner, inner], x[inner, inner], rtol=1e-5, atol=1e-4)

    n = torch.randn(scale**2, h, w, dtype=torch.float64)
    low = shrink(n)
    taken = back(low)
    assert float((low - shrink(taken))[0, inner, inner].norm()) < 0.02 * float(low[0, inner, inner].norm())
    assert float((n * taken).sum()) == pytest.approx(float(taken.square().sum()), rel=0.05)

    lr = torch.randn(1, h, w, dtype=torch.float64)
    rest = lr - shrink(base(lr))
    torch.testing.assert_close(left(lr)[0, inner, inner], rest[0, inner, inner], rtol=0, atol=1e-6)
    assert float(left(torch.full((1, h, w), 100.0, dtype=torch.float64)).abs().max()) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("skip_path", ["bicubic", "back-projection"])
def test_skip_path(skip_path: str) -> None:
    """Bicubic, and with back-projection the result shrinks to its LR image."""
    torch.manual_seed(0)
    net = settled(SRResNet(2, 8, 1, skip_path=skip_path))
    x = picture(23, 25)
    y = head = net.head(x - 127.5)
    y = F.leaky_relu(conv(net.body[0].unit1, y) + y, 0.1)
    y = F.pixel_shuffle(net.tail(conv(net.body[0].unit2, y) + y + head), 2)
    base = F.pixel_shuffle(interpolation(2, "bicubic")(x), 2)
    if skip_path == "bicubic":
        return same(net, y + base - 127.5, x)
    inner = slice(6, -6)

    def off(sr: Tensor) -> float:
        shrunk = imresize(sr[0, 0].numpy(), Fraction(1, 2))
        return float(abs(shrunk - x[0, 0].numpy())[inner, inner].mean())

    assert off(net(x)) < 0.05 * off(y + base)
    return None


@torch.no_grad()
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("binarized", BINARIZED)
def test_msrresnet(binarized: str, scale: int) -> None:
    """Against BasicSR's forward, with BBCU's units, in [0, 1] times k, less the mean that the base carries through."""
    torch.manual_seed(0)
    net = settled(MSRResNet(scale, 8, 2, binarized=binarized, k=90.0))
    for p in net.parameters():  # not the tenth it starts with
        if p.requires_grad:
            p += torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.1

    def unit(u: Any, x: Tensor) -> Tensor:
        signs = torch.where(x - u.threshold.view(1, -1, 1, 1) < 0, -1.0, 1.0)
        size = u.conv.weight.abs().mean((1, 2, 3), keepdim=True)
        y = F.conv2d(signs, torch.where(u.conv.weight < 0, -size, size), padding=1)
        r = [v.view(1, -1, 1, 1) for v in u.inner.triple()]
        y = y - r[0]
        return torch.where(y < 0, y * r[1], y) + r[2]

    x = picture()
    lr = (x - 127.5) / 255 * 90
    y = F.leaky_relu(net.head(lr), 0.1)
    for block in net.body:
        if binarized == "none":
            y = y + block.conv2(F.relu(block.conv1(y)))
        else:
            y = unit(block.unit1, y) + y
            y = unit(block.unit2, y) + y
    for up, s in zip(net.up, steps(scale), strict=True):
        if binarized == "all":
            y = F.pixel_shuffle(unit(up, y), s) + F.interpolate(y, scale_factor=s, mode="nearest")
        else:
            y = F.leaky_relu(F.pixel_shuffle(up(y), s), 0.1)
    y = F.leaky_relu(unit(net.hr, y) + y if binarized == "all" else net.hr(y), 0.1)
    base = F.interpolate(lr, scale_factor=scale, mode="bilinear", align_corners=False)
    same(net, (net.tail(y) + base) / 90 * 255, x)


def test_published_sizes() -> None:
    """Binary weights of the nets as published: 10 x (5 x 2 + 1) convolutions; dense blocks of growing width."""
    body = 64 * 64
    sizes = {}
    for name, net in (("rcan", RCAN()), ("rdn", RDN())):
        sizes[name] = sum(m.weight.numel() for m in net.modules() if type(m) is BinaryConv2d)
    assert sizes["rcan"] == 110 * 9 * body
    dense = sum(range(1, 9)) * 9 + 9
    assert sizes["rdn"] == (8 * dense + 2 * 9 + 8) * body


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RCANAblation(variant="best"), "unknown 'best'; known: bireal"),
        (lambda: RCANAblation(wiring="odd"), "unknown 'odd'; known: corrected"),
        (lambda: RCAN(groups=0), "at least 1"),
        (lambda: RDNAblation(variant="best"), "unknown 'best'; known: bireal, variant1, variant2"),
        (lambda: RDN(convs=0), "at least 1"),
        (lambda: MSRResNet(binarized="tail"), "unknown binarized 'tail'"),
        (lambda: MSRResNet(binarized="all", method="bnn"), "'slope', not 'bnn'"),
        (lambda: MSRResNet(k=0.0), "k above 0"),
        (lambda: SRResNet(binarized="all"), "unknown binarized 'all'"),
        (lambda: SRResNetAblation(tail="light"), "unknown 'light'; known: bireal, repeat, steps"),
        (lambda: SRResNet(skip_path="base"), "unknown skip_path 'base'; known: none, bicubic"),
        (lambda: SRResNet(method="none"), "unknown 'none'"),
    ],
)
def test_mistakes(make, words: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "name, args",
    [
        ("srresnet", {"channels": 8, "blocks": 4, "method": "bitsr"}),
        ("srresnet", {"channels": 8, "blocks": 4, "binarized": "none"}),
        ("msrresnet", {"channels": 8, "blocks": 3}),
        ("rcan", {"channels": 8, "groups": 2, "blocks": 2, "reduction": 2}),
        ("rdn", {"channels": 8, "blocks": 3, "convs": 2}),
        ("ledig-srresnet", {"channels": 8, "blocks": 3}),
    ],
)
def test_repeated_blocks_are_compiled_once(name: str, args: dict[str, Any]) -> None:
    """And the net, its gradients and its statistics are those of the usual operations."""
    torch._dynamo.reset()
    counter = CompileCounter()
    results = []
    for ops in (None, CompiledBlocks(backend=counter)):
        torch.manual_seed(0)
        net = NETS[name](scale=2, **args).train()
        assert net.has_repeated_blocks
        y = net(picture()) if ops is None else net(picture(), ops)
        y.square().mean().backward()
        gradients = {k: p.grad for k, p in net.named_parameters() if p.grad is not None}
        results.append((y, gradients, dict(net.named_buffers())))
    assert counter.frame_count == 1
    torch.testing.assert_close(results[0], results[1])


def own_tail(net: Any, y: Tensor) -> Tensor:
    """EDSR's upsampling in steps, and its last convolution."""
    for up, s in zip(net.up, steps(net.scale), strict=True):
        y = F.pixel_shuffle(up(y), s)
    return net.tail(y)


@torch.no_grad()
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_float_backbones(scale: int) -> None:
    """As their papers draw them."""
    torch.manual_seed(0)
    x = picture()
    net = FloatEDSR(scale, 8, 2, residual_scale=0.1)
    y = head = net.head(x - 127.5)
    for block in net.body:
        y = y + 0.1 * block.conv2(F.relu(block.conv1(y)))
    same(net, own_tail(net, net.end(y) + head), x)

    net = FloatRDN(scale, 8, 2, 3)
    head = net.head(x - 127.5)
    outs = [net.first(head)]
    for block in net.body:
        dense = outs[-1]
        for conv in block.convs:
            dense = torch.cat([dense, F.relu(conv(dense))], 1)
        outs.append(block.fusion(dense) + outs[-1])
    y = net.fusion2(net.fusion1(torch.cat(outs[1:], 1)))
    same(net, own_tail(net, y + head), x)

    net = FloatRCAN(scale, 32, 2, 2)
    y = head = net.head(x - 127.5)
    for group in net.body:
        start = y
        for block in group.blocks:
            z = block.conv2(F.relu(block.conv1(y)))
            gate = F.relu(block.down(z.mean((2, 3), keepdim=True)))
            assert gate.shape[1] == 2  # 32 / 16
            y = z * torch.sigmoid(block.up(gate)) + y
        y = group.end(y) + start
    same(net, own_tail(net, net.end(y) + head), x)


@pytest.mark.parametrize("name", ["edsr-float", "rdn-float", "rcan-float"])
def test_float_backbones_refuse_no_size(name: str) -> None:
    for key in ("scale", "channels", "blocks"):
        with pytest.raises(ValueError, match="must be at least 1"):
            NETS[name](**{key: 0})
