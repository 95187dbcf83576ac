"""Float convolutions of training by Winograd's products: torch's results and gradients, to their rounding."""

from __future__ import annotations

from ctypes import c_void_p
from typing import Any

import pytest

torch = pytest.importorskip("torch")
isas = pytest.importorskip("bitsr.engine").isas

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from bitsr.nets import int8, winograd  # noqa: E402
from bitsr.nets.binary import BinaryConv2d  # noqa: E402
from bitsr.nets.graph import EAGER  # noqa: E402
from bitsr.nets.methods import FloatBlock  # noqa: E402
from bitsr.nets.winograd import Conv3x3, conv3x3  # noqa: E402

PATHS = [isa for isa in isas() if isa in ("avx512", "avx2")]
needed = pytest.mark.skipif(not winograd.available(), reason="this CPU has no path for them")


def near(found: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=3e-5 * float(exact.detach().abs().max()))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@needed
@pytest.mark.parametrize("isa", PATHS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("shape", "o"),
    [
        ((1, 32, 1, 1), 32),
        ((2, 64, 4, 4), 64),
        ((3, 64, 17, 31), 64),
        ((1, 96, 2, 65), 32),
        ((5, 32, 33, 3), 160),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution(
    monkeypatch: Any, isa: str, threads: int, shape: tuple[int, ...], o: int, layout: torch.memory_format
) -> None:
    """On odd sizes, whose tiles at the edges are cut off, and with more tiles than a block."""
    monkeypatch.setattr(int8, "ISA", isa.encode())
    x, w, b = normal(*shape, seed=0), normal(o, shape[1], 3, 3, seed=1), normal(o, seed=2)
    exact = F.conv2d(x.double(), w.double(), b.double(), padding=1)
    g = normal(*exact.shape, seed=3).detach()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = conv3x3(x.contiguous(memory_format=layout), w, b)
        grads = torch.autograd.grad(y, (x, w, b), g.contiguous(memory_format=layout))
    finally:
        torch.set_num_threads(before)
    near(y, exact)
    assert y.is_contiguous(memory_format=torch.channels_last)
    for found, right in zip(grads, torch.autograd.grad(exact, (x, w, b), g.double()), strict=True):
        near(found, right.double())


@needed
def test_results_do_not_depend_on_the_threads() -> None:
    x, w, b = normal(2, 64, 40, 40, seed=0), normal(64, 64, 3, 3, seed=1), normal(64, seed=2)
    before, found = torch.get_num_threads(), []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        y = conv3x3(x, w, b)
        found.append((y, *torch.autograd.grad(y.square().sum(), (x, w))))
    torch.set_num_threads(before)
    (y1, x1, w1), (y4, x4, w4) = found
    assert torch.equal(y1, y4) and torch.equal(x1, x4)  # sums over tiles are grouped by thread
    torch.testing.assert_close(w1, w4, rtol=0, atol=1e-5 * float(w1.abs().max()))


@needed
def test_a_block_trains_by_them_and_validates_without() -> None:
    seen: list[bool] = []

    class Seen(Conv3x3):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(winograd.fits(self, input, self.weight))
            return super().forward(input)

    torch.manual_seed(0)
    block = FloatBlock(64, 0.1, fine=True)
    for name in ("conv1", "conv2"):
        getattr(block, name).__class__ = Seen
    x = normal(1, 64, 9, 10, seed=0)
    exact = F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1)
    exact = x + F.conv2d(F.leaky_relu(exact, 0.1), block.conv2.weight, block.conv2.bias, padding=1)
    near(block.build(EAGER, x, "b"), exact.double())
    assert seen == [True, True]
    assert torch.equal(block.eval().build(EAGER, x, "b"), exact) and seen == [True, True, False, False]
    with torch.autocast("cpu", torch.bfloat16):
        block.train().build(EAGER, x, "b")
    assert not any(seen[2:])
    narrow = Conv3x3(48, 64)
    assert not winograd.fits(narrow, normal(1, 48, 9, 10, seed=0), narrow.weight)
    assert isinstance(block.conv1, nn.Conv2d)  # what packing looks for


@needed
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("binary", "bias"), [(False, True), ("activations", False), (True, False)])
def test_float_twins_train_by_them(monkeypatch: Any, binary: bool | str, bias: bool, k: int) -> None:
    """Also where one side alone is of one bit; where both are, sums are integers and stay exact."""
    calls: list[tuple[int, ...]] = []
    conv3x3 = winograd.conv3x3
    monkeypatch.setattr(winograd, "conv3x3", lambda x, w, b: (calls.append(w.shape), conv3x3(x, w, b))[1])
    torch.manual_seed(0)
    conv = BinaryConv2d(64, 32, k, act="triangle", weight="mean", bias=bias)
    conv.binarize(binary)
    x = normal(1, 64, 9, 10, seed=0)
    with torch.no_grad():
        exact = F.conv2d(
            conv.quantised(x).double(),
            conv.quantised_weight().double(),
            None if conv.bias is None else conv.bias.double(),
            padding=k // 2,
        )
    near(conv(x), exact)
    assert calls == ([(32, 64, 3, 3)] if binary is not True and k == 3 else [])


SIZES = """0 4 4 32 32 1, 1 4 -1 32 32 1, 1 4 4 48 32 1, 1 4 4 32 31 1, 1 4 4 32 32 0, 65536 65536 1 32 32 1,
1 2147483647 1 32 32 1, 1 4 4 0 32 1"""


@pytest.mark.parametrize("sizes", SIZES.split(","))
def test_the_library_refuses_other_sizes(sizes: str) -> None:
    some = torch.zeros(64)
    pointers = [t.data_ptr() for t in (some, some, some, some)]
    for name, count in (("float_conv", 4), ("float_conv_weight", 3)):
        assert not int8.call(name, *map(c_void_p, pointers[:count]), *map(int, sizes.split()))
