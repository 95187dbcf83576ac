"""The ``Layer`` rows of a net in torch: recipes and checkpoints are counted like packed files.

They come from the operations that the net itself describes. No tensor is computed: a value is its
number of channels, its size and its receptive field. A net on the "meta" device will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, inf
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import BitsrError, printable
from ..layers.convs import BasesConv2d, BinaryConv2d, QuantConv2d, WeightBinaryConv2d
from ..layers.ops import Activation, FloatConv, Net, Ops
from ..methods import why_unpackable
from ..source import kind
from .complexity import Layer, count, report


class CountError(BitsrError):
    """A net that cannot be counted; the message is one line."""


@dataclass(frozen=True)
class Size:
    """A value: channels, pixels for each LR pixel (each way), and the LR pixels to each side that
    one pixel depends on."""

    channels: int
    rate: int = 1
    radius: Fraction | float = Fraction(0)


def _tensors(source: Any) -> Iterator[Tensor]:
    """The trained tensors in an argument of an operation: a module's, itself, or those of a
    tuple."""
    if isinstance(source, nn.Module):
        yield from source.parameters()
    elif isinstance(source, Tensor):
        if source.requires_grad:  # a fixed slope is no parameter
            yield source
    elif isinstance(source, tuple):
        for part in cast("tuple[Any, ...]", source):
            yield from _tensors(part)


class Layers(Ops[Size]):
    """Fills ``rows``. An operation owns the trained tensors among its arguments."""

    def __init__(self) -> None:
        self.rows: list[Layer] = []

    def _layer(self, name: str, conv: FloatConv, x: Size, *others: Any, once: bool = False) -> Size:
        """once: for each image, not for each pixel."""
        assert not isinstance(conv.padding, str)
        cout, k = conv.out_channels, conv.kernel_size[0]
        stride, padding = conv.stride[0], conv.padding[0]
        transposed = isinstance(conv, nn.ConvTranspose2d)
        if x.channels != conv.in_channels or (stride != 1 and not transposed):
            raise CountError(f"{name}: no convolution of {x.channels} channels at stride 1")
        one_bit = isinstance(conv, (BinaryConv2d, WeightBinaryConv2d)) and conv.weight_mode != "float"
        binary = one_bit and isinstance(conv, BinaryConv2d) and conv.act != "float"
        owned = sum(t.numel() for t in _tensors((conv, *others))) - conv.weight.numel()
        self.rows.append(
            Layer(
                name,
                x.channels,
                cout,
                k,
                binary,
                pixels=0 if once else x.rate * x.rate,
                groups=conv.groups,
                others=owned,
                weight_only=one_bit and not binary,
            )
        )
        reach = x.radius + Fraction(ceil(max(padding, k - 1 - padding) / stride), x.rate)
        # Skips and scale maps are read at their own place alone.
        skips = [other.radius for other in others if isinstance(other, Size)]
        return Size(cout, x.rate * stride if transposed else x.rate, max(reach, *skips, Fraction(0)))

    def conv(self, name: str, conv: FloatConv, x: Size, *, act: Activation | None = None) -> Size:
        return self._layer(name, conv, x, act)

    def qconv(self, name: str, conv: FloatConv, x: Size, **more: Any) -> Size:
        return self._layer(name, conv, x, *more.values())

    def bconv(self, name: str, conv: QuantConv2d, x: Size, **more: Any) -> Size:
        if not isinstance(conv, BasesConv2d) or "float" in (conv.act, conv.weight_mode):
            return self._layer(name, conv, x, *more.values())
        y = x
        for i in range(len(conv.offsets) * len(conv.beta)):  # as it packs
            y = self._layer(f"{name}.{i}", conv, x, *more.values())
            self.rows[-1] = replace(self.rows[-1], binary=True, weight_only=False)
        return y

    def scale_map(self, name: str, conv: nn.Conv2d, x: Size) -> Size:
        return self._layer(name, conv, x)

    def attend(self, name: str, down: nn.Conv2d, up: nn.Conv2d, slope: float, x: Size) -> Size:
        self._layer(f"{name}.down", down, x, slope, once=True)
        self._layer(f"{name}.up", up, Size(down.out_channels), once=True)
        return Size(x.channels, x.rate, inf)

    def torch_only(self, f: Callable[..., Tensor], x: Size, *args: Any) -> Size:
        """It counts as no MAC; its parameters are the last convolution's."""
        self.rows[-1] = replace(
            self.rows[-1], others=self.rows[-1].others + sum(t.numel() for t in _tensors(args))
        )
        radius = max([x.radius, *(v.radius for v in args if isinstance(v, Size))])
        return Size(x.channels, x.rate, radius)

    def concat(self, parts: Sequence[Size]) -> Size:
        return Size(sum(x.channels for x in parts), parts[0].rate, max(x.radius for x in parts))

    def repeat(self, x: Size, times: int) -> Size:
        return Size(x.channels * times, x.rate, x.radius)

    def add(self, a: Size, b: Size) -> Size:
        return Size(a.channels, a.rate, max(a.radius, b.radius))

    def shuffle(self, x: Size, scale: int) -> Size:
        return Size(x.channels // (scale * scale), x.rate * scale, x.radius)


def _chain(ops: Layers, net: nn.Sequential, x: Size) -> Size:
    """The operations of a plain chain, such as ``nets.small``: an activation belongs to the
    convolution before it."""
    modules = list(net.named_children())
    for (name, module), following in zip(modules, [m for _, m in modules[1:]] + [None], strict=True):
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            act = following.weight if isinstance(following, nn.PReLU) else None
            x = ops.conv(name, module, x, act=act)
        elif isinstance(module, nn.PixelShuffle):
            x = ops.shuffle(x, module.upscale_factor)
        elif not isinstance(module, (nn.PReLU, nn.ReLU, nn.LeakyReLU)):
            raise CountError(f"{type(module).__name__} is not known to counting")
    return x


def layers(net: nn.Module) -> tuple[list[Layer], float]:
    """(rows, radius) of a net.

    rows: one for each convolution, in the order of the operations. radius: the LR pixels to each
    side that an SR pixel depends on, infinite where it is the whole image. Raises CountError for a
    net whose operations are not known.
    """
    ops, lr = Layers(), Size(1)
    with torch.enable_grad():  # what is computed from a parameter is known by its gradient
        if isinstance(net, Net):
            sr = net.build(ops, lr)
        elif isinstance(net, nn.Sequential):
            sr = _chain(ops, net, lr)
        else:
            raise CountError(f"a net of class {type(net).__name__} has no operations to count")
    return ops.rows, inf if sr.radius == inf else ceil(sr.radius)


def as_published(rows: Iterable[Layer], colours: int) -> list[Layer]:
    """The rows of a net as its paper counts it, with so many colours where ``head`` reads and
    ``tail`` writes.

    ``base`` is left out: it is interpolation, which we run as a convolution and papers do not
    count.
    """
    times = {"head": {"cin"}, "tail": {"cout", "others"}}
    return [
        replace(row, **{key: getattr(row, key) * colours for key in times.get(row.name, ())})
        for row in rows
        if row.name != "base"
    ]


def describe(source: str) -> str:
    """What ``bitsr info`` prints of a checkpoint or a recipe: facts, estimated size and ``report``
    (Markdown).

    Raises CountError, CheckpointError, RecipeError or OSError.
    """
    from ..train import build, checkpoint, legacy, recipe  # counting alone needs none of them

    if kind(source) == "checkpoint":
        net, facts = checkpoint.load_net(source)
        wanted = legacy.parse(facts.pop("recipe"), source)
    else:
        wanted, facts = recipe.load(source), {}
        with torch.device("meta"):
            net = build.build(wanted)
    rows, radius = layers(net)
    about = {
        "net": wanted.net.name,
        "scale": wanted.scale,
        **wanted.net.args,
        "source": wanted.source,
        **facts,
    }
    lines = [printable(f"- {key}: {value}") for key, value in about.items()]
    lines.append(
        f"- size, 1 bit a binary weight and 32 any other parameter: {count(rows).bytes_1_32:,} bytes"
    )
    if isinstance(net, Net) and net.colours == 3:
        theirs = count(as_published(rows, net.colours))
        lines.append(
            f"- with RGB in and out, as its paper counts: {theirs.at()[2]:.2f} G OPs,"
            f" {float(theirs.params) / 1e3:.0f} K parameters"
        )
    if reason := why_unpackable(net):
        lines.append(f"- does not pack: {reason}")
    return "\n".join(lines) + "\n" + report(rows, radius)
