"""Branches beside a 3x3 convolution in training, folded into it exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EDGES = (
    ((1, 0, -1), (2, 0, -2), (1, 0, -1)),
    ((1, 2, 1), (0, 0, 0), (-1, -2, -1)),
    ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
)
"""Sobel across, Sobel down and Laplacian, 3x3."""


class Branches(nn.Module):
    """Four branches that are added to a 3x3 convolution, (N, Cin, H, W) -> (N, Cout, H, W).

    One is a 1x1 convolution to 2 Cout channels and a 3x3 convolution of these. Three are a 1x1
    convolution to Cout channels and an edge filter of ``EDGES`` on each, with a learned scale and
    bias; a bias before them would count nothing, for their taps sum to 0. All are linear, so they are
    one 3x3 convolution. What a 1x1 convolution makes is padded by its bias, as if the input went on
    with zeros. Source: Zhang, Zeng, Zhang, ACM MM 2021 (ECBSR).
    """

    edges: Tensor

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(cin, 2 * cout, 1)
        self.shrink = nn.Conv2d(2 * cout, cout, 3)
        self.mix = nn.Conv2d(cin, len(EDGES) * cout, 1, bias=False)
        self.scale = nn.Parameter(1e-3 * torch.randn(len(EDGES), cout))
        self.bias = nn.Parameter(1e-3 * torch.randn(cout))
        self.register_buffer("edges", torch.tensor(EDGES, dtype=torch.float32), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        x = self._padded(self.expand, input)
        y = F.conv2d(x, self.shrink.weight, self.shrink.bias)
        x = self._padded(self.mix, input)
        n, cout = self.scale.shape
        kernels = (self.scale[..., None, None] * self.edges[:, None]).view(n * cout, 1, 3, 3)
        x = F.conv2d(x, kernels, groups=n * cout)
        x = x.reshape(len(x), n, cout, *x.shape[2:]).sum(1)
        return y + x + self.bias.view(-1, 1, 1)

    @staticmethod
    def _padded(conv: nn.Conv2d, x: Tensor) -> Tensor:
        return conv(F.pad(x, (1, 1, 1, 1)))

    def folded(self) -> tuple[Tensor, Tensor]:
        """The same as one convolution with zero padding: weight (Cout, Cin, 3, 3), bias (Cout,)."""
        n, cout = self.scale.shape
        first, low, high = self.expand.weight[:, :, 0, 0], self.expand.bias, self.shrink.bias
        assert low is not None and high is not None
        weight = torch.einsum("omhw,mi->oihw", self.shrink.weight, first)
        bias = torch.einsum("omhw,m->o", self.shrink.weight, low) + high + self.bias
        mix = self.mix.weight.view(n, cout, -1) * self.scale[..., None]
        weight = weight + torch.einsum("noi,nhw->oihw", mix, self.edges)
        return weight, bias
