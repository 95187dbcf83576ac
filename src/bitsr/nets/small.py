"""Small float nets: what a user would take instead of a binary one.

They run in PyTorch and have no packed form.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class _Scaled(nn.Sequential):
    """Y in [0, 255] outside, [0, 1] inside: (N, 1, h, w) -> (N, 1, scale*h, scale*w)."""

    scale: int

    def forward(self, input: Tensor) -> Tensor:
        y = cast(Tensor, super().forward(input / 255))  # pyright: ignore[reportUnknownMemberType]
        # Under autocast the net gives bfloat16, whose steps near 200 are whole levels: widen first.
        return y.to(input.dtype) * 255


class FSRCNN(_Scaled):
    """FSRCNN(d, s, m): 5x5 to d channels, 1x1 to s, m of 3x3, 1x1 to d, transposed 9x9 to the SR;
    PReLU between.

    Source: Dong, Loy, Tang, ECCV 2016 (arXiv 1608.00367); d = 56, s = 12, m = 4 is the paper's
    larger net.
    """

    def __init__(self, scale: int = 4, d: int = 56, s: int = 12, m: int = 4) -> None:
        def conv(cin: int, cout: int, k: int) -> tuple[nn.Module, nn.Module]:
            return nn.Conv2d(cin, cout, k, padding=k // 2), nn.PReLU(cout)

        mapping = [layer for _ in range(m) for layer in conv(s, s, 3)]
        up = nn.ConvTranspose2d(d, 1, 9, stride=scale, padding=4, output_padding=scale - 1)
        super().__init__(*conv(1, d, 5), *conv(d, s, 1), *mapping, *conv(s, d, 1), up)
        self.scale = scale


class ESPCN(_Scaled):
    """5x5 to C channels, ``layers`` of 3x3, 3x3 to scale^2, PixelShuffle; ReLU between. About 0.1 M
    parameters.

    In the manner of ESPCN (Shi et al., CVPR 2016, arXiv 1609.05158), wider: the size at which a
    small float net takes about the time of a binary SRResNet.
    """

    def __init__(self, scale: int = 4, channels: int = 64, layers: int = 2) -> None:
        body: list[nn.Module] = [nn.Conv2d(1, channels, 5, padding=2), nn.ReLU()]
        for _ in range(layers):
            body += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        super().__init__(*body, nn.Conv2d(channels, scale * scale, 3, padding=1), nn.PixelShuffle(scale))
        self.scale = scale
