"""Convolutions in half precision: exact on signs, gradients of bfloat16."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn
from torch.nn import functional as F

from bitsr.layers.convs import BinaryConv2d
from bitsr.nets.blocks import FloatBlock
from bitsr.train.fast import accelerate
from bitsr.train.fast.half import half_conv


def near(a: Tensor, b: Tensor, share: float) -> bool:
    """Whether they differ by at most ``share`` of the largest."""
    return bool((a - b).abs().max() <= share * b.abs().max())


@pytest.mark.parametrize("c, o, k", [(64, 64, 3), (200, 8, 3), (5, 3, 1), (8, 7, 5)])
def test_signs_are_summed_exactly(c: int, o: int, k: int) -> None:
    torch.manual_seed(0)
    x = torch.where(torch.randn(2, c, 9, 7) >= 0, 1.0, -1.0).requires_grad_()
    w = torch.where(torch.randn(o, c, k, k) >= 0.5, 1.0, -1.0).requires_grad_()
    y, exact = half_conv(x, w), F.conv2d(x, w, padding=k // 2)
    assert y.dtype == torch.float32 and torch.equal(y, exact)
    g = torch.randn_like(y)
    for a, b in zip(*(torch.autograd.grad(v, (x, w), g) for v in (y, exact)), strict=True):
        assert a.dtype == torch.float32 and near(a, b, 2**-6) and not torch.equal(a, b)


def test_only_the_gradients_that_are_wanted() -> None:
    w = torch.ones(2, 2, 3, 3, requires_grad=True)
    half_conv(torch.ones(1, 2, 4, 4), w).sum().backward()
    assert w.grad is not None and w.grad.shape == w.shape


def test_modules_train_by_it_and_are_validated_without() -> None:
    """A binary convolution to the last bit, those of a float block to 11 bits; on a CPU none."""
    torch.manual_seed(0)
    x = torch.randn(1, 16, 6, 5) * 30
    net = nn.ModuleList(
        [
            BinaryConv2d(16, 8, act="approx_sign", weight="ste_sign"),
            BinaryConv2d(16, 8, act="approx_sign", weight="magnitude_aware"),
            FloatBlock(16),
            nn.Conv2d(16, 8, 3, padding=1),
        ]
    )
    binary, scaled, block, alone = net
    assert isinstance(block, FloatBlock)

    def results() -> list[Tensor]:
        return [binary(x), scaled(x), block.conv1(x), alone(x)]

    usual, classes, keys = results(), [type(m) for m in net.modules()], list(net.state_dict())
    accelerate(net, "cpu", half=True)
    assert [type(m) for m in net.modules()] == classes
    accelerate(net, "cuda", half=True)
    assert list(net.state_dict()) == keys
    found = results()
    assert torch.equal(found[0], usual[0]) and type(binary) is not BinaryConv2d
    assert torch.equal(found[1], usual[1]) and torch.equal(found[3], usual[3])
    assert near(found[2], usual[2], 2**-9) and not torch.equal(found[2], usual[2])
    assert torch.equal(block.eval().conv1(x), usual[2])
