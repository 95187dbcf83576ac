"""SMFANet, a light float net of RGB images: a teacher to distil from. It has no packed form.

Source: Zheng, Sun, Dong, Pan, "SMFANet: A Lightweight Self-Modulation Feature Aggregation Network for
Efficient Image Super-Resolution", ECCV 2024.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DOWN = 8
"""LR pixels, each way, that share one value of the non-local branch."""


class _Detail(nn.Module):
    """The local branch: depthwise 3x3 to twice the channels, 1x1, GELU, 1x1 back."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv_0 = nn.Sequential(nn.Conv2d(c, 2 * c, 3, padding=1, groups=c), nn.Conv2d(2 * c, 2 * c, 1))
        self.conv_1 = nn.Conv2d(2 * c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_1(F.gelu(self.conv_0(x)))


class _Aggregation(nn.Module):
    """Half of the channels modulated by maxima and the variance over the whole image, half local."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.linear_0, self.linear_1, self.linear_2 = (nn.Conv2d(c, n, 1) for n in (2 * c, c, c))
        self.lde = _Detail(c)
        self.dw_conv = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.alpha = nn.Parameter(torch.ones(1, c, 1, 1))
        self.belt = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        y, x = self.linear_0(x).chunk(2, dim=1)
        coarse = self.dw_conv(F.adaptive_max_pool2d(x, (max(h // DOWN, 1), max(w // DOWN, 1))))
        variance = x.var(dim=(-2, -1), keepdim=True)
        gate = F.gelu(self.linear_1(coarse * self.alpha + variance * self.belt))
        return self.linear_2(x * F.interpolate(gate, size=(h, w), mode="nearest") + self.lde(y))


class _Mixing(nn.Module):
    """1x1 to twice the channels, GELU; a quarter of these through 3x3 and GELU; 1x1 back."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.part = c // 2
        self.conv_0, self.conv_2 = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(2 * c, c, 1)
        self.conv_1 = nn.Conv2d(self.part, self.part, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.conv_0(x))
        first = F.gelu(self.conv_1(x[:, : self.part]))
        rest = x[:, self.part :]
        return self.conv_2(torch.cat((first, rest), dim=1))


class _Block(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.smfa, self.pcfn = _Aggregation(c), _Mixing(c)

    def forward(self, x: Tensor) -> Tensor:
        x = self.smfa(F.normalize(x)) + x
        return self.pcfn(F.normalize(x)) + x


class SMFANet(nn.Module):
    """RGB in [0, 1]: (N, 3, h, w) -> (N, 3, scale*h, scale*w), not clipped.

    Its branches see the whole image, so what it makes of a crop depends on the crop.
    """

    def __init__(self, scale: int = 4, channels: int = 48, blocks: int = 12) -> None:
        super().__init__()
        self.scale = scale
        self.to_feat = nn.Conv2d(3, channels, 3, padding=1)
        self.feats = nn.Sequential(*(_Block(channels) for _ in range(blocks)))
        self.to_img = nn.Sequential(
            nn.Conv2d(channels, 3 * scale * scale, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.to_feat(x)
        return self.to_img(self.feats(x) + x)

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> SMFANet:
        """The net of published weights, its sizes by their shapes, in evaluation mode.

        Raises KeyError or RuntimeError for weights of another net.
        """
        channels = state["to_feat.weight"].shape[0]
        scale = round((state["to_img.0.weight"].shape[0] / 3) ** 0.5)
        blocks = len({key.split(".")[1] for key in state if key.startswith("feats.")})
        net = cls(scale, channels, blocks)
        net.load_state_dict(dict(state))
        return net.eval()
