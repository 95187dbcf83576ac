"""Every binarizer against its formula: forward signs with sign(0) = +1, and the surrogate gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from bitsr.nets import NETS  # noqa: E402
from bitsr.nets.binary import ACTIVATIONS, WEIGHTS, BinaryConv2d  # noqa: E402

# d out / d x as the papers print it, for an incoming gradient of one. A new binarizer needs a line here.
GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sign_identity": lambda x: torch.ones_like(x),
    "sign_clip": lambda x: (x.abs() <= 1).float(),
    "sign_triangle": lambda x: (2 - 2 * x.abs()).clamp(min=0),
    "sign_mean": lambda w: (w.abs() <= 1).float() * w.abs().mean(dim=(1, 2, 3), keepdim=True),
    "identity": lambda x: torch.ones_like(x),
}
FORWARDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sign_mean": lambda w: torch.where(w < 0, -1.0, 1.0) * w.abs().mean(dim=(1, 2, 3), keepdim=True),
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
    sign = FORWARDS.get(name, lambda x: torch.where(x < 0, -1.0, 1.0))
    torch.testing.assert_close(out, sign(x.detach()), rtol=0, atol=0)
    incoming = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    out.backward(incoming)
    torch.testing.assert_close(x.grad, incoming * GRADIENTS[name](x.detach()))


@pytest.mark.parametrize("name", sorted(ALL))
def test_bfloat16(name: str) -> None:
    """Autocast hands over bfloat16: the same signs, and both ways in that dtype."""
    x = points().bfloat16().requires_grad_()
    out = ALL[name](x)
    out.backward(torch.ones_like(out))
    assert out.dtype == x.grad.dtype == torch.bfloat16
    if name != "identity":
        assert torch.equal(out < 0, x < 0)
    torch.testing.assert_close(x.grad.float(), GRADIENTS[name](x.detach().float()), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"identity"}))
def test_zero_is_plus_one(name: str) -> None:
    zeros = torch.tensor([0.0, -0.0, 2.0, 2.0]).view(1, 1, 2, 2)
    assert (ALL[name](zeros) > 0).all()


def test_no_table_entry_is_spare() -> None:
    assert set(GRADIENTS) == set(ALL)


@pytest.mark.parametrize("k", [1, 3])
def test_convolution_counts_only_taps_inside(k: int) -> None:
    """acc = K_valid - 2 * mismatches: integers with the parity of the number of taps inside the picture."""
    conv = BinaryConv2d(5, 4, k, act="triangle", weight="identity")
    x = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(1))
    out = conv(x)
    inside = torch.nn.functional.conv2d(torch.ones(1, 5, 4, 6), torch.ones(1, 5, k, k), padding=k // 2)
    assert torch.equal(out, out.round())
    assert (out.abs() <= inside).all()
    assert torch.equal(out.detach() % 2, (inside % 2).expand_as(out))


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_net_maps_luma_to_scale(name: str) -> None:
    for scale in getattr(NETS[name], "scales", (2, 3, 4)):
        with torch.no_grad(), torch.device("meta"):
            out = NETS[name](scale=scale)(torch.full((1, 1, 9, 7), 100.0))
        assert out.shape == (1, 1, 9 * scale, 7 * scale)
