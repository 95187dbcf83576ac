"""Speed-ups of training and validation: ``accelerate`` applies them to a finished net.

It gives modules a faster class in place of their own. Parameters, buffers and their names stay, so
that checkpoints fit with and without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...layers.binarizers import UNSCALED
from ...layers.convs import BinaryConv2d
from ...nets.blocks import FloatBlock
from .fused import FusedBitsr, can_fuse
from .half import half_conv
from .int8 import sign_conv


class Int8BinaryConv2d(BinaryConv2d):
    """The convolution by ``int8.sign_conv``: the same sums, gradients rounded to 8 bits."""

    def forward(self, input: Tensor) -> Tensor:
        return sign_conv(self.quantised(input), self.quantised_weight())


class HalfBinaryConv2d(BinaryConv2d):
    """The convolution in half precision while it trains: the same sums, gradients of bfloat16."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        return half_conv(self.quantised(input), self.quantised_weight())


class HalfConv2d(nn.Conv2d):
    """A float convolution with bias, in half precision while it trains."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.bias is None:
            return super().forward(input)
        return half_conv(input, self.weight) + self.bias.view(-1, 1, 1)


def _of_signs(module: nn.Module) -> bool:
    """Whether a module convolves +-1 with +-1 and does nothing else.

    Subclasses may scale their weights, whatever their binarizer.
    """
    return (
        type(module) is BinaryConv2d
        and module.weight_mode in UNSCALED
        and module.act != "float"
        and module.bias is None
    )


def accelerate(net: nn.Module, device: torch.device | str, *, int8: bool = False, half: bool = False) -> None:
    """Swap modules of a net, which is not changed otherwise from now on, for faster ones.

    int8 (``train.int8``): on a CPU, binary convolutions of +-1 with +-1 by int8 products, exactly
    but for their gradients, which are rounded to 8 bits; units of method "bitsr" in one piece.
    Convolutions with scaled weights stay as they are. half (``train.precision = "half"``): on CUDA,
    those binary convolutions and the convolutions of float blocks in half precision while they
    train. On the other device each has no effect.
    """
    cuda = torch.device(device).type == "cuda"
    for module in list(net.modules()):
        if int8 and not cuda:
            if can_fuse(module):
                module.__class__ = FusedBitsr
            elif _of_signs(module):
                module.__class__ = Int8BinaryConv2d
        if half and cuda:
            if _of_signs(module):
                module.__class__ = HalfBinaryConv2d
            elif isinstance(module, FloatBlock):
                module.conv1.__class__ = module.conv2.__class__ = HalfConv2d


@contextmanager
def accelerated(
    net: nn.Module, device: torch.device | str = "cpu", *, int8: bool = True, half: bool = False
) -> Iterator[None]:
    """``accelerate`` for a while, such as that of an evaluation; then each module as it was."""
    classes = [(module, type(module)) for module in net.modules()]
    try:
        accelerate(net, device, int8=int8, half=half)
        yield
    finally:
        for module, own in classes:
            module.__class__ = own
