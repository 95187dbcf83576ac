"""What a net is made of: one description that trains, packs and counts.

A net writes its walk once, as ``build(g, x)``, in the engine's operations. ``Eager`` runs them in torch (its
``forward``); the packer (``bitsr.train.pack``) gives another ``g`` that turns the same calls into a model file.
Names are the tensors' prefixes in that file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .binarizers import QuantConv2d, RunningNorm

Activation = float | Tensor | tuple[Tensor, Tensor, Tensor]
"""(Leaky) PReLU with one slope, PReLU with slopes (C,), or RPReLU (shift_in, slope, shift_out), each (C,):
PReLU(v - shift_in) + shift_out (ReActNet, arXiv 2003.03488, eq. 3). Slopes beyond [-1, 1] do not pack."""


def activate(v: Tensor, act: Activation) -> Tensor:
    """``act`` on v (N, C, H, W)."""
    if isinstance(act, tuple):
        shift_in, slope, shift_out = act
        return activate(v - shift_in.view(1, -1, 1, 1), slope) + shift_out.view(1, -1, 1, 1)
    return F.prelu(v, act.to(v.dtype)) if isinstance(act, Tensor) else F.leaky_relu(v, act)


class Walk:
    """Base of all that ``Net.build`` is given."""

    def part(self, part: nn.Module, x: Any, name: str) -> Any:
        """``part.build``, of one of the parts alike that a net's body is a row of."""
        return part.build(self, x, name)  # type: ignore[operator]


class Eager(Walk):
    """The operations in float32 torch; tensors are (N, C, H, W)."""

    def conv(
        self,
        name: str,
        conv: nn.Conv2d | nn.ConvTranspose2d,
        x: Tensor,
        *,
        act: float | Tensor | None = None,
    ) -> Tensor:
        """act(conv(x)): float k x k convolution, k odd, at most 9, zero padding ("replicate" for one channel); or
        a transposed one, 4 x 4, stride 2, padding 1. Packed: int16 weights and activations."""
        return self._epilogue(conv(x), None, None, None, act)

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
        map: Tensor | None = None,
    ) -> Tensor:
        """act(inner(bn(map * conv(sign(norm(x) - threshold)))) + skip), conv's own binarizers doing the signs.

        threshold: (Cin,). map: (N, 1 or 8, H, W), see ``map``; of 8, channel c takes c % 8. Packed: ``norm`` goes into
        the threshold.
        """
        v = x if norm is None else norm(x)
        v = conv(v if threshold is None else v - threshold.view(1, -1, 1, 1))
        if map is not None:
            v = v * (map if map.shape[1] == 1 else map.repeat(1, -(-v.shape[1] // 8), 1, 1)[:, : v.shape[1]])
        return self._epilogue(v, bn, inner, skip, act)

    def map(self, name: str, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """sum_c w_c |x_c|, (N, C, H, W) -> (N, 1 or 8, H, W): the size of a binary convolution's input, pixel by pixel.

        conv: a 1x1 convolution C -> 1 or 8 without bias, which has w.
        """
        if len(conv.weight) > 1:
            return F.conv2d(x.abs(), conv.weight)
        return (x.abs() * conv.weight).sum(dim=1, keepdim=True)

    def qconv(
        self,
        name: str,
        conv: nn.Conv2d | nn.ConvTranspose2d,
        x: Tensor,
        *,
        bn: nn.BatchNorm2d | None = None,
        inner: Activation | None = None,
        skip: Tensor | None = None,
        act: Activation | None = None,
    ) -> Tensor:
        """act(inner(bn(conv(x))) + skip). Packed: int8 activations, and weights as ``integers`` gives them."""
        return self._epilogue(conv(x), bn, inner, skip, act)

    @staticmethod
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

    def attend(self, name: str, down: nn.Conv2d, up: nn.Conv2d, slope: float, x: Tensor) -> Tensor:
        """Channel attention (RCAN, arXiv 1807.02758, eq. 7-9): x * sigmoid(up(leaky_relu(down(mean of x)))).

        The mean is over the whole picture; down and up are 1x1 convolutions.
        """
        return x * torch.sigmoid(up(F.leaky_relu(down(x.mean(dim=(2, 3), keepdim=True)), slope)))

    def beyond(self, f: Callable[..., Tensor], x: Tensor, *args: Any, whole: bool = False) -> Tensor:
        """f(x, *args), for what the engine has no operation for; the result has the shape of x.

        args: other values, and the modules or parameters that f uses. whole: whether f sees the whole picture.
        """
        return f(x, *args)

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        """Channels one after another. Packed: only binary convolutions may read it."""
        return torch.cat(tuple(parts), dim=1)

    def repeat(self, x: Tensor, times: int) -> Tensor:
        """Each channel ``times`` times; after a shuffle it is nearest-neighbour upsampling."""
        return x.repeat_interleave(times, dim=1)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def shuffle(self, x: Tensor, scale: int) -> Tensor:
        return F.pixel_shuffle(x, scale)


EAGER = Eager()


class ByParts(Eager):
    """The same with each part compiled: once for all that are alike, in seconds where a whole net takes minutes."""

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """backend: of ``torch.compile``."""
        self._part = torch.compile(lambda part, x: part.build(EAGER, x, ""), dynamic=False, backend=backend)

    def part(self, part: nn.Module, x: Tensor, name: str) -> Tensor:
        return self._part(part, x)


class Net(nn.Module):
    """Base of the nets: Y in [0, 255], (N, 1, h, w) -> (N, 1, scale*h, scale*w).

    Subclasses set ``scale`` and write ``build``, which gets (Y - ``mean``) / ``span`` and gives as much back. A span
    of 127.5 is for nets of papers that train on [-1, 1]: published rates and initialisations keep their meaning.
    """

    scale: int
    mean: float = 127.5
    span: float = 1.0
    colours: ClassVar[int] = 1
    """Of the picture for which the net's paper counts; see ``train.count.as_published``."""
    parted: ClassVar[bool] = False
    """Whether its walk has parts (``Walk.part``)."""
    order: int = 1
    """Channels of a field, where its weights are tied (``symmetry.Symmetry``): the packer gives them one unit."""

    @property
    def symmetric(self) -> bool:
        """Whether ``symmetry.Symmetry`` knows how to tie the net's weights."""
        return False

    def build(self, g: Any, x: Any) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor, g: Eager = EAGER) -> Tensor:
        # Under autocast build gives bfloat16, whose steps near 200 are whole levels: add the mean in float32.
        return self.build(g, (x - self.mean) / self.span).to(x.dtype) * self.span + self.mean

    @torch.no_grad()
    def upscale(self, y: Tensor) -> Tensor:
        """One plane (h, w) in float32, evaluation mode, for checks."""
        self.eval()
        return self(y[None, None].float())[0, 0]
