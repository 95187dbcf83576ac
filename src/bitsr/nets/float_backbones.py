"""The float backbones that E2FIF binarizes, with the blocks and the tails of their own papers.

What E2FIF compares with: EDSR, RDN and RCAN as published, but on the Y channel. SRResNet as
published is ``srgan.LedigSRResNet`` with ``binary = False``; the released code of E2FIF takes EDSR
of 16 blocks of 64 channels at its place. They are float alone and have no packed form.

Input and output of each: (N, 1, h, w) -> (N, 1, scale*h, scale*w), Y in [0, 255]. The constant
127.5 is subtracted where the papers subtract the mean of the training images.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..layers.modules import TypedModuleList
from ..layers.ops import Net, Ops, V
from .rcan import REDUCTION
from .upsamplers import steps

RELU = 0.0
"""As the slope of a LeakyReLU."""


def _conv(cin: int, cout: int, k: int = 3) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, k, padding=k // 2)


def _wanted(**sizes: int) -> None:
    if min(sizes.values()) < 1:
        raise ValueError(f"{', '.join(sizes)} must be at least 1")


class _FloatBackbone(Net):
    """Head 1 -> C, what a subclass puts in ``_body``, and the tail of EDSR (Lim et al. 2017, arXiv
    1707.02921): for each of ``steps(scale)`` a 3x3 convolution C -> C s^2 and PixelShuffle, then
    3x3, C -> 1 at the size of the SR image."""

    has_repeated_blocks = True
    packs = False

    def __init__(self, scale: int, channels: int) -> None:
        super().__init__()
        self.scale, self.factors = scale, steps(scale)
        self.head = _conv(1, channels)
        self.up: TypedModuleList[nn.Conv2d] = TypedModuleList(
            _conv(channels, channels * s * s) for s in self.factors
        )
        self.tail = _conv(channels, 1)

    def _body(self, ops: Ops[V], x: V) -> V:
        raise NotImplementedError

    def build(self, ops: Ops[V], x: V) -> V:
        head = ops.conv("head", self.head, x)
        x = ops.add(self._body(ops, head), head)
        for i, (up, s) in enumerate(zip(self.up, self.factors, strict=True)):
            x = ops.shuffle(ops.conv(f"up.{i}", up, x), s)
        return ops.conv("tail", self.tail, x)


class _ResidualBlock(nn.Module):
    """x + residual_scale * conv(relu(conv(x)))."""

    def __init__(self, channels: int, residual_scale: float) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(channels, channels), _conv(channels, channels)
        self.residual_scale = residual_scale

    def build(self, ops: Ops[V], x: V, name: str) -> V:
        y = ops.conv(f"{name}.conv2", self.conv2, ops.conv(f"{name}.conv1", self.conv1, x, act=RELU))
        if self.residual_scale != 1:
            y = ops.torch_only(self._scaled, y)
        return ops.add(y, x)

    def _scaled(self, v: Tensor) -> Tensor:
        return v * self.residual_scale


class FloatEDSR(_FloatBackbone):
    """EDSR (Lim et al. 2017, arXiv 1707.02921): 32 blocks of 256 channels, no batch norm.

    residual_scale: what a block adds is multiplied by it; 0.1 at 256 channels, 1 for the smaller
    net of 16 blocks of 64 channels. A 3x3 convolution ends the body, under the global skip. Raises
    ValueError for a size below 1.
    """

    def __init__(
        self, scale: int = 4, channels: int = 256, blocks: int = 32, *, residual_scale: float = 0.1
    ) -> None:
        _wanted(scale=scale, channels=channels, blocks=blocks)
        super().__init__(scale, channels)
        self.body: TypedModuleList[_ResidualBlock] = TypedModuleList(
            _ResidualBlock(channels, residual_scale) for _ in range(blocks)
        )
        self.end = _conv(channels, channels)

    def _body(self, ops: Ops[V], x: V) -> V:
        for i, block in enumerate(self.body):
            x = ops.repeated_block(block, x, f"body.{i}")
        return ops.conv("end", self.end, x)


class _DenseBlock(nn.Module):
    """Each 3x3 convolution with ReLU reads all before it; a 1x1 one fuses; a skip over the whole."""

    def __init__(self, channels: int, convs: int) -> None:
        super().__init__()
        self.convs: TypedModuleList[nn.Conv2d] = TypedModuleList(
            _conv((i + 1) * channels, channels) for i in range(convs)
        )
        self.fusion = _conv((convs + 1) * channels, channels, 1)

    def build(self, ops: Ops[V], x: V, name: str) -> V:
        parts = [x]
        for i, conv in enumerate(self.convs):
            parts.append(ops.conv(f"{name}.{i}", conv, ops.concat(parts), act=RELU))
        return ops.add(ops.conv(f"{name}.fusion", self.fusion, ops.concat(parts)), x)


class FloatRDN(_FloatBackbone):
    """RDN (Zhang et al. 2018, arXiv 1802.08797): 16 dense blocks of 8 convolutions, G0 = G = 64.

    head is SFENet1; SFENet2; the blocks; global fusion by 1x1 and 3x3; global skip from the head.
    E2FIF takes 8 blocks. Raises ValueError for a size below 1.
    """

    def __init__(self, scale: int = 4, channels: int = 64, blocks: int = 16, convs: int = 8) -> None:
        _wanted(scale=scale, channels=channels, blocks=blocks, convs=convs)
        super().__init__(scale, channels)
        self.first = _conv(channels, channels)
        self.body: TypedModuleList[_DenseBlock] = TypedModuleList(
            _DenseBlock(channels, convs) for _ in range(blocks)
        )
        self.fusion1 = _conv(blocks * channels, channels, 1)
        self.fusion2 = _conv(channels, channels)

    def _body(self, ops: Ops[V], x: V) -> V:
        outs = [ops.conv("first", self.first, x)]
        for i, block in enumerate(self.body):
            outs.append(ops.repeated_block(block, outs[-1], f"body.{i}"))
        x = ops.conv("fusion1", self.fusion1, ops.concat(outs[1:]))
        return ops.conv("fusion2", self.fusion2, x)


class _AttendedBlock(nn.Module):
    """x + attention(conv(relu(conv(x))))."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(channels, channels), _conv(channels, channels)
        hidden = max(1, channels // reduction)
        self.down, self.up = _conv(channels, hidden, 1), _conv(hidden, channels, 1)

    def build(self, ops: Ops[V], x: V, name: str) -> V:
        y = ops.conv(f"{name}.conv2", self.conv2, ops.conv(f"{name}.conv1", self.conv1, x, act=RELU))
        return ops.add(ops.attend(f"{name}.attention", self.down, self.up, RELU, y), x)


class _Group(nn.Module):
    """Blocks, a 3x3 convolution, and a skip over all of it."""

    def __init__(self, channels: int, blocks: int, reduction: int) -> None:
        super().__init__()
        self.blocks: TypedModuleList[_AttendedBlock] = TypedModuleList(
            _AttendedBlock(channels, reduction) for _ in range(blocks)
        )
        self.end = _conv(channels, channels)

    def build(self, ops: Ops[V], x: V, name: str) -> V:
        y = x
        for i, block in enumerate(self.blocks):
            y = ops.repeated_block(block, y, f"{name}.{i}")
        return ops.add(ops.conv(f"{name}.end", self.end, y), x)


class FloatRCAN(_FloatBackbone):
    """RCAN (Zhang et al. 2018, arXiv 1807.02758): 10 groups of 20 blocks of 64 channels.

    Channel attention with reduction 16 in each block, on the mean over the whole image. A 3x3
    convolution ends the body, under the global skip. E2FIF takes 5 blocks a group. Raises
    ValueError for a size below 1.
    """

    def __init__(
        self,
        scale: int = 4,
        channels: int = 64,
        blocks: int = 20,
        groups: int = 10,
        *,
        reduction: int = REDUCTION,
    ) -> None:
        _wanted(scale=scale, channels=channels, blocks=blocks, groups=groups, reduction=reduction)
        super().__init__(scale, channels)
        self.body: TypedModuleList[_Group] = TypedModuleList(
            _Group(channels, blocks, reduction) for _ in range(groups)
        )
        self.end = _conv(channels, channels)

    def _body(self, ops: Ops[V], x: V) -> V:
        for i, group in enumerate(self.body):
            x = group.build(ops, x, f"body.{i}")
        return ops.conv("end", self.end, x)
