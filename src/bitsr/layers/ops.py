"""The operations that a net is made of: one description that trains, packs and counts.

A net writes its operations once, as ``build(ops, x)``. ``Ops`` says what it may call. Who runs a
net passes its own ``ops``, and with it the type of the values:

    ``TorchOps``          tensors; the ``forward`` of the net
    ``pack.Calibrator``   tensors with the fixed-point unit of each channel
    ``pack.Packer``       names of buffers in the model file
    ``eval.Layers``       shapes, to count operations

The ``name`` of an operation is the prefix of its tensors in the model file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .convs import QuantConv2d, RunningNorm

Slope = float | Tensor
"""Of a PReLU: one for all channels, or (C,)."""
Activation = Slope | tuple[Tensor, Tensor, Tensor]
"""PReLU, or RPReLU (shift_in, slope, shift_out), each (C,): PReLU(v - shift_in) + shift_out
(ReActNet, arXiv 2003.03488, eq. 3). Slopes beyond [-1, 1] do not pack."""
FloatConv = nn.Conv2d | nn.ConvTranspose2d

V = TypeVar("V")
"""What flows through a net: tensors, or what stands for them."""


def activate(v: Tensor, act: Activation) -> Tensor:
    """``act`` on v (N, C, H, W)."""
    if isinstance(act, tuple):
        shift_in, slope, shift_out = act
        return activate(v - shift_in.view(1, -1, 1, 1), slope) + shift_out.view(1, -1, 1, 1)
    return F.prelu(v, act.to(v.dtype)) if isinstance(act, Tensor) else F.leaky_relu(v, act)


class Block(Protocol):
    """A part of a net with operations of its own."""

    def build(self, ops: Ops[V], x: V, name: str) -> V: ...


class Ops(Protocol[V]):
    """All operations that a net may call. Values stand for tensors (N, C, H, W)."""

    def repeated_block(self, block: Block, x: V, name: str) -> V:
        """``block.build``, of one of the equal blocks that the body of a net is a row of."""
        return block.build(self, x, name)

    def conv(self, name: str, conv: FloatConv, x: V, *, act: Slope | None = None) -> V:
        """act(conv(x)), in float, packed with int16 weights and activations.

        conv: k x k, k odd and at most 9, stride 1, zero padding k // 2 ("replicate" for one input
        channel); or transposed, 4 x 4, stride 2, padding 1.
        """
        ...

    def bconv(
        self,
        name: str,
        conv: QuantConv2d,
        x: V,
        *,
        bn: nn.BatchNorm2d | None = None,
        norm: RunningNorm | None = None,
        threshold: Tensor | None = None,
        inner: Activation | None = None,
        skip: V | None = None,
        act: Activation | None = None,
        scale_map: V | None = None,
    ) -> V:
        """act(inner(bn(scale_map * conv(sign(norm(x) - threshold)))) + skip), a binary convolution.

        The binarizers of conv make the signs. threshold: (Cin,). scale_map: (N, 1 or 8, H, W), see
        ``scale_map``; of 8, channel c takes c % 8. Packed, ``norm`` goes into the threshold.
        """
        ...

    def scale_map(self, name: str, conv: nn.Conv2d, x: V) -> V:
        """sum_c w_c |x_c|, (N, C, H, W) -> (N, 1 or 8, H, W): the magnitude of each pixel of x.

        conv: a 1x1 convolution C -> 1 or 8 without bias, which holds w.
        """
        ...

    def qconv(
        self,
        name: str,
        conv: FloatConv,
        x: V,
        *,
        bn: nn.BatchNorm2d | None = None,
        inner: Activation | None = None,
        skip: V | None = None,
        act: Activation | None = None,
    ) -> V:
        """act(inner(bn(conv(x))) + skip), packed with int8 activations.

        The weights are packed as ``pack.fold.integers`` gives them. conv: as for ``conv``.
        """
        ...

    def attend(self, name: str, down: nn.Conv2d, up: nn.Conv2d, slope: float, x: V) -> V:
        """Channel attention (RCAN, arXiv 1807.02758, eq. 7-9).

        x * sigmoid(up(leaky_relu(down(mean of x)))); the mean is over the whole image, down and up
        are 1x1 convolutions.
        """
        ...

    def torch_only(self, f: Callable[..., Tensor], x: V, *args: Any) -> V:
        """f(x, *args), for what the engine has no operation for; the result has the shape of x.

        args: other values, and the modules or parameters that f uses. A pixel of the result depends
        on its own place alone.
        """
        ...

    def concat(self, parts: Sequence[V]) -> V:
        """Channels one after another. Packed, only binary convolutions may read the result."""
        ...

    def repeat(self, x: V, times: int) -> V:
        """Each channel ``times`` times; after a shuffle this is nearest-neighbour upsampling."""
        ...

    def add(self, a: V, b: V) -> V:
        """a + b, of one shape."""
        ...

    def shuffle(self, x: V, scale: int) -> V:
        """PixelShuffle: (N, C scale^2, H, W) -> (N, C, H scale, W scale)."""
        ...


class TorchOps(Ops[Tensor]):
    """The operations in torch, in the dtype of the tensors."""

    def conv(self, name: str, conv: FloatConv, x: Tensor, *, act: Slope | None = None) -> Tensor:
        return _epilogue(conv(x), None, None, None, act)

    def bconv(
        self,
        name: str,
        conv: QuantConv2d,
        x: Tensor,
        *,
        bn: nn.BatchNorm2d | None = None,
        norm: RunningNorm | None = None,
        threshold: Tensor | None = None,
        inner: Activation | None = None,
        skip: Tensor | None = None,
        act: Activation | None = None,
        scale_map: Tensor | None = None,
    ) -> Tensor:
        v = x if norm is None else norm(x)
        v = conv(v if threshold is None else v - threshold.view(1, -1, 1, 1))
        if scale_map is not None:
            if scale_map.shape[1] != 1:
                scale_map = scale_map.repeat(1, -(-v.shape[1] // 8), 1, 1)[:, : v.shape[1]]
            v = v * scale_map
        return _epilogue(v, bn, inner, skip, act)

    def scale_map(self, name: str, conv: nn.Conv2d, x: Tensor) -> Tensor:
        if len(conv.weight) > 1:
            return F.conv2d(x.abs(), conv.weight)
        return (x.abs() * conv.weight).sum(dim=1, keepdim=True)

    def qconv(
        self,
        name: str,
        conv: FloatConv,
        x: Tensor,
        *,
        bn: nn.BatchNorm2d | None = None,
        inner: Activation | None = None,
        skip: Tensor | None = None,
        act: Activation | None = None,
    ) -> Tensor:
        return _epilogue(conv(x), bn, inner, skip, act)

    def attend(self, name: str, down: nn.Conv2d, up: nn.Conv2d, slope: float, x: Tensor) -> Tensor:
        return x * torch.sigmoid(up(F.leaky_relu(down(x.mean(dim=(2, 3), keepdim=True)), slope)))

    def torch_only(self, f: Callable[..., Tensor], x: Tensor, *args: Any) -> Tensor:
        return f(x, *args)

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(parts), dim=1)

    def repeat(self, x: Tensor, times: int) -> Tensor:
        return x.repeat_interleave(times, dim=1)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def shuffle(self, x: Tensor, scale: int) -> Tensor:
        return F.pixel_shuffle(x, scale)


def _epilogue(
    v: Tensor,
    bn: nn.BatchNorm2d | None,
    inner: Activation | None,
    skip: Tensor | None,
    act: Activation | None,
) -> Tensor:
    if bn is not None:
        v = bn(v)
    if inner is not None:
        v = activate(v, inner)
    if skip is not None:
        v = v + skip
    return v if act is None else activate(v, act)


TORCH = TorchOps()


class CompiledBlocks(TorchOps):
    """The same with repeated blocks compiled, once for all that are equal.

    That takes seconds where compiling a whole net takes minutes. backend: of ``torch.compile``.
    """

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        def run(block: Block, x: Tensor) -> Tensor:
            return block.build(TORCH, x, "")

        compiled: Any = torch.compile(run, dynamic=False, backend=backend)  # pyright: ignore[reportUnknownMemberType]
        self._run = cast(Callable[[Block, Tensor], Tensor], compiled)

    def repeated_block(self, block: Block, x: Tensor, name: str) -> Tensor:
        return self._run(block, x)


class Net(nn.Module):
    """Base of the nets: Y in [0, 255], (N, 1, h, w) -> (N, 1, scale*h, scale*w), float32.

    Subclasses set ``scale`` and write ``build``, which gets (Y - ``mean``) / ``span`` and returns
    values of the same kind. A span of 127.5 is for nets of papers that train on [-1, 1]: published
    learning rates and initialisations keep their meaning.
    """

    scale: int
    mean: float = 127.5
    span: float = 1.0
    colours: ClassVar[int] = 1
    """Colours of the image for which the paper of the net counts operations."""
    has_repeated_blocks: ClassVar[bool] = False
    """Whether ``build`` calls ``Ops.repeated_block``."""
    packs: ClassVar[bool] = True
    """False: the net is float alone, to compare with, and has no packed form."""
    order: int = 1
    """Of the group of symmetries under which the net is equivariant, its weights being tied
    (``train.equivariance``): channels come in fields of so many. 1: none."""

    @property
    def symmetric(self) -> bool:
        """Whether ``train.equivariance`` knows how to tie the weights of the net."""
        return False

    def build(self, ops: Ops[V], x: V) -> V:
        """The operations of the net. x: one channel."""
        raise NotImplementedError

    def forward(self, x: Tensor, ops: TorchOps = TORCH) -> Tensor:
        # Under autocast build gives bfloat16, whose steps near 200 are whole levels: add the mean
        # in float32.
        return self.build(ops, (x - self.mean) / self.span).to(x.dtype) * self.span + self.mean

    @torch.no_grad()
    def upscale(self, y: Tensor) -> Tensor:
        """One plane (h, w) in float32 -> (scale*h, scale*w), in evaluation mode, for checks."""
        self.eval()
        return self(y[None, None].float())[0, 0]
