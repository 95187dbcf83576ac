"""Every binarizer against its formula: forward signs with sign(0) = +1, and the surrogate gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from test_net_complexity import small
from torch import Tensor

from bitsr.layers import binarizers
from bitsr.layers.binarizers import ACTIVATIONS, WEIGHTS
from bitsr.layers.convs import BinaryConv2d, RunningNorm
from bitsr.nets import NETS


def signs(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0)


def mean(w: Tensor) -> Tensor:
    return w.abs().mean(dim=(1, 2, 3), keepdim=True)


def standardised(w: Tensor) -> Tensor:
    return (w - w.mean(dim=(1, 2, 3), keepdim=True)) / w.std(dim=(1, 2, 3), keepdim=True)


def power(w: Tensor) -> Tensor:
    return 2 ** mean(standardised(w)).log2().round()


def ede(x: Tensor, t: float = 10.0) -> Tensor:
    return max(1 / t, 1) * t * (1 - torch.tanh(t * x) ** 2)


def libra_gradient(w: Tensor, g: Tensor) -> Tensor:
    """Through v = (w - mean) / std, as for batch norm, but with n - 1 in std."""
    v, over = standardised(w), {"dim": (1, 2, 3), "keepdim": True}
    g = g * power(w) * ede(v)
    n = w[0].numel()
    inner = g - g.mean(**over) - v * (g * v).sum(**over) / (n - 1)
    return inner / w.std(**over)


# The gradient of x as the papers print it, from x and the incoming gradient g. A new binarizer needs a line here.
GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ste_sign": lambda x, g: g,
    "clipped_ste": lambda x, g: g * (x.abs() <= 1),
    "abc_half": lambda x, g: g * ((x + 0.5 >= 0) & (x + 0.5 <= 1)),
    "dorefa_activation": lambda x, g: g * 2 * ((x + 0.5 >= 0) & (x + 0.5 <= 1)),
    "approx_sign": lambda x, g: g * (2 - 2 * x.abs()).clamp(min=0),
    "ede": lambda x, g: g * ede(x),
    "magnitude_aware": lambda w, g: g * (w.abs() <= 1) * mean(w),
    "reactnet": lambda w, g: g * (w.abs() <= 1),
    "btm": lambda w, g: g * mean(w) * torch.where(w.abs() <= 0.4, 2 - 4 * w.abs(), 0.4 * (w.abs() <= 1)),
    "xnor": lambda w, g: g * (1 / w[0].numel() + mean(w) * (w.abs() <= 1)),
    "dorefa_weight": lambda w, g: g,
    "libra": libra_gradient,
    "identity": lambda x, g: g,
}
FORWARDS: dict[str, Callable[[Tensor], Tensor]] = {
    "magnitude_aware": lambda w: signs(w) * mean(w),
    "reactnet": lambda w: signs(w) * mean(w),
    "btm": lambda w: signs(w) * mean(w),
    "xnor": lambda w: signs(w) * mean(w),
    "dorefa_weight": lambda w: signs(w) * w.abs().mean(),
    "libra": lambda w: signs(standardised(w)) * power(w),
    "identity": lambda x: x,
}
ALL = {f.__name__: f for f in [*ACTIVATIONS.values(), *WEIGHTS.values()]}


def points() -> Tensor:
    """(8, 3, 3, 3), with both zeros and the corners of every gradient among the values."""
    x = torch.linspace(-2, 2, 8 * 27)
    x[:6] = torch.tensor([0.0, -0.0, 1.0, -1.0, 1.0 + 1e-6, -1.0 - 1e-6])
    return x.view(8, 3, 3, 3)


@pytest.mark.parametrize("name", sorted(ALL))
def test_forward_and_gradient(name: str) -> None:
    assert name in GRADIENTS, f"{name}: write its gradient formula into GRADIENTS"
    x = points().requires_grad_()
    out = ALL[name](x)
    torch.testing.assert_close(out, FORWARDS.get(name, signs)(x.detach()), rtol=0, atol=0)
    incoming = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad(out, x, incoming)
    torch.testing.assert_close(found, GRADIENTS[name](x.detach(), incoming), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted({f.__name__ for f in ACTIVATIONS.values()} | {"magnitude_aware"}))
def test_bfloat16(name: str) -> None:
    """Autocast hands over bfloat16: the same signs, and both ways in that dtype."""
    x = points().bfloat16().requires_grad_()
    out = ALL[name](x)
    (found,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert out.dtype == found.dtype == torch.bfloat16
    if name != "identity":
        assert torch.equal(out < 0, x < 0)
    expected = GRADIENTS[name](x.detach().float(), torch.ones(x.shape))
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02 * expected.max().item())


def test_ede_follows_the_progress() -> None:
    """t runs from 10^-3 (the identity, nearly) to 10 in equal ratios; the buffer is read in place."""
    x = points()
    for progress, t in ((0.0, 1e-3), (0.25, 1e-2), (0.75, 1.0), (1.0, 10.0)):
        leaf = x.clone().requires_grad_()
        binarizers.ede(leaf, torch.tensor(progress)).sum().backward()
        torch.testing.assert_close(leaf.grad, ede(x, t), rtol=1e-4, atol=1e-4)
    conv = BinaryConv2d(3, 2, act="ede", weight="libra")
    gradients = []
    for progress in (0.0, 1.0):
        conv.progress.fill_(progress)
        leaf = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
        conv(leaf).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0] * ede(torch.tensor(0.5)))
    assert "progress" not in conv.state_dict()


@pytest.mark.parametrize("name", sorted(set(ALL) - {"identity", "libra"}))
def test_zero_is_plus_one(name: str) -> None:
    zeros = torch.tensor([0.0, -0.0, 2.0, 2.0]).view(1, 1, 2, 2)
    assert (ALL[name](zeros) > 0).all()


def test_no_table_entry_is_spare() -> None:
    assert set(GRADIENTS) == set(ALL)


@pytest.mark.parametrize("k", [1, 3])
def test_convolution_counts_only_taps_inside(k: int) -> None:
    """acc = K_valid - 2 * mismatches: integers with the parity of the number of taps inside the image."""
    conv = BinaryConv2d(5, 4, k, act="approx_sign", weight="ste_sign")
    x = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(1))
    out = conv(x)
    inside = torch.nn.functional.conv2d(torch.ones(1, 5, 4, 6), torch.ones(1, 5, k, k), padding=k // 2)
    assert torch.equal(out, out.round())
    assert (out.abs() <= inside).all()
    assert torch.equal(out.detach() % 2, (inside % 2).expand_as(out))


@pytest.mark.parametrize("weight", sorted(set(WEIGHTS) - {"float"}))
def test_evaluation_sums_integers(weight: str) -> None:
    """The same as in training but for rounding, and a sum of 0 is 0 whatever the scale."""
    torch.manual_seed(0)
    conv, x = BinaryConv2d(64, 16, act="clipped_ste", weight=weight, bias=True), torch.randn(1, 64, 12, 13)
    torch.testing.assert_close(conv.eval()(x), conv.train()(x), rtol=1e-4, atol=1e-4)
    assert conv.bias is not None
    conv.bias.data.zero_()
    y = conv.eval()(x)
    size = conv.quantised_weight().abs().amax(dim=(1, 2, 3)).view(-1, 1, 1)
    sums = y / size
    torch.testing.assert_close(sums, sums.round(), rtol=1e-5, atol=1e-5)
    assert (y == 0).sum() == (sums.round() == 0).sum() > 0


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_net_maps_luma_to_scale(name: str) -> None:
    for scale in getattr(NETS[name], "scales", (2, 3, 4)):
        with torch.no_grad(), torch.device("meta"):
            out = NETS[name](scale=scale, **small(name))(torch.full((1, 1, 9, 7), 100.0))
        assert out.shape == (1, 1, 9 * scale, 7 * scale)


def test_running_norm_uses_what_it_gathered() -> None:
    """Statistics of the batches so far, the newest with a weight of 1/n, then ``momentum``; no gradient through them;
    in evaluation the same, and ``absolute`` is its inverse."""
    torch.manual_seed(0)
    norm = RunningNorm(3, momentum=0.25)
    mean, var = torch.zeros(3), torch.zeros(3)
    for n in range(1, 7):
        x = (torch.randn(2, 3, 4, 5) * n + torch.arange(3).view(-1, 1, 1)).requires_grad_()
        weight = max(1 / n, 0.25)
        mean = mean + weight * (x.mean((0, 2, 3)) - mean)
        var = var + weight * (x.transpose(0, 1).flatten(1).var(1) - var)
        y = norm(x)
        std = (var + norm.eps).sqrt()
        torch.testing.assert_close(y, (x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))
        g = torch.randn_like(y)
        (got,) = torch.autograd.grad(y, x, g)
        torch.testing.assert_close(got, g / std.view(-1, 1, 1).detach())
    norm.eval()
    torch.testing.assert_close(norm(x), y)
    threshold = torch.randn(3)
    torch.testing.assert_close(norm(norm.absolute(threshold).view(1, 3, 1, 1)).flatten(), threshold)
    torch.testing.assert_close(norm(norm.absolute(None).view(1, 3, 1, 1)), torch.zeros(1, 3, 1, 1))


def test_running_norm_lets_gradients_through_wide_streams() -> None:
    """The window of ApproxSign is as wide as the values, whatever their size and mean."""
    x = torch.randn(4, 2, 16, 16)
    for size, shift in ((1.0, 0.0), (40.0, 100.0)):
        wide = (x * size + shift).requires_grad_()
        (g,) = torch.autograd.grad(ACTIVATIONS["approx_sign"](RunningNorm(2)(wide)).sum(), wide)
        torch.testing.assert_close(g * size, (2 - 2 * x.abs()).clamp(min=0), atol=0.15, rtol=0)
