"""Convolutions of signs in int8: exact forward, gradients those of a rounded incoming gradient."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from bitsr.nets.binary import BinaryConv2d  # noqa: E402
from bitsr.nets.int8 import int8_conv, int8_conv_weight, sign_conv  # noqa: E402


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
def test_sums_and_gradients(k: int, shape: tuple[int, ...], layout: torch.memory_format) -> None:
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
    x, w = torch.ones(2, 5, 4, 3, dtype=torch.int8), torch.ones(27, 6, dtype=torch.int8)
    torch.library.opcheck(int8_conv, (x, w, 3))
    torch.library.opcheck(int8_conv_weight, (x, torch.ones(2, 5, 4, 6, dtype=torch.int8), 3))


@pytest.mark.parametrize(
    ("act", "weight", "exact"),
    [
        ("triangle", "identity", True),
        ("blocked", "clip", True),
        ("triangle", "mean", False),
        ("float", "identity", False),
    ],
)
def test_a_binary_convolution_takes_it_where_both_sides_are_signs(act: str, weight: str, exact: bool) -> None:
    torch.manual_seed(0)
    conv, x = BinaryConv2d(8, 8, act=act, weight=weight), torch.randn(1, 8, 6, 5, requires_grad=True)
    plain, incoming = conv(x), torch.randn(1, 8, 6, 5)
    conv.int8 = True
    out = conv(x)
    assert torch.equal(out, plain)
    of_weight, of_plain = (torch.autograd.grad(y, conv.weight, incoming)[0] for y in (out, plain))
    assert torch.equal(of_weight, of_plain) != exact  # rounded, or the same computation
    torch.testing.assert_close(of_weight, of_plain, rtol=0.05, atol=0.1)
    torch.testing.assert_close(conv.eval()(x), plain)
