"""Branches beside a 3x3 convolution are one 3x3 convolution."""

import pytest
import torch
from torch.nn import functional as F

from bitsr.layers.branches import Branches


@pytest.mark.parametrize(("cin", "cout", "size"), [(1, 16, (7, 5)), (5, 3, (9, 11)), (16, 16, (1, 3))])
def test_folded_is_what_the_branches_make(cin, cout, size):
    """To the edge: what a 1x1 convolution makes is padded by its bias there."""
    torch.manual_seed(0)
    branches, x = Branches(cin, cout), torch.randn(2, cin, *size)
    torch.nn.init.normal_(branches.scale)
    weight, bias = branches.folded()
    y = branches(x)
    torch.testing.assert_close(F.conv2d(x, weight, bias, padding=1), y, rtol=1e-5, atol=2e-5)
    assert y.shape == (2, cout, *size)
