"""The ``Layer`` rows of a net in torch: recipes and checkpoints are counted like packed files.

They come from the operations that the net itself describes. No tensor is computed: a value is its
number of channels, its size and its receptive field. A net on the "meta" device will do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, inf
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..errors import BitsrError, printable
from ..layers.convs import BasesConv2d, BinaryConv2d, QuantConv2d, WeightBinaryConv2d
from ..layers.ops import Activation, FloatConv, Net, Ops
from ..methods import why_unpackable
from ..source import kind
from . import about
from .complexity import Layer, count, report

if TYPE_CHECKING:
    from ..train.recipe import Recipe


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


@dataclass(frozen=True)
class Source:
    """A recipe or a checkpoint, counted. facts: those of the checkpoint, without its recipe."""

    kind: str
    recipe: Recipe
    net: nn.Module
    facts: dict[str, Any]
    rows: list[Layer]
    radius: float

    @property
    def unpackable(self) -> str:
        """Why it does not pack; empty where nothing is known against it."""
        if not isinstance(self.net, Net):
            return f"a net of class {type(self.net).__name__} has no packed form"
        if reason := why_unpackable(self.net):
            return reason
        return "" if any(row.one_bit for row in self.rows) else "it is not binary"

    def title(self) -> str:
        args = ", ".join(f"{k} = {v}" for k, v in self.recipe.net.args.items())
        return f"{self.kind}: {self.recipe.net.name}{f' ({args})' if args else ''}, x{self.recipe.scale}"

    def describe(self) -> str:
        """What ``bitsr info`` prints."""
        r, size = self.recipe, count(self.rows).bytes_1_32 / 1024
        rows = [
            ("size", f"about {size:.0f} KiB (1 bit a binary weight, 32 any other); {about.work(self.rows)}"),
            ("sees", f"{about.field(self.radius)} around each"),
        ]
        if isinstance(self.net, Net) and self.net.colours == 3:
            theirs = count(as_published(self.rows, self.net.colours))
            counted = f"{theirs.at()[2]:.2f} G operations, {float(theirs.params) / 1e3:.0f} K parameters"
            rows.append(("in RGB", f"{counted}, as its paper counts"))
        reason = self.unpackable
        rows.append(("packs", f"no: {reason}" if reason else "yes"))
        schedule = f"{r.iterations:,} iterations of batch {r.data.batch}, LR patch {r.data.patch}"
        rows.append(("training", f"{r.objective}; {schedule}"))
        if isinstance(iteration := self.facts.get("iteration"), int):
            rows.append(("state", f"iteration {iteration:,} of {r.iterations:,}"))
        if isinstance(psnr := self.facts.get("psnr"), float):
            rows.append(("validation", f"PSNR-Y {psnr:.3f} dB, by the float net"))
        if r.source:
            rows.append(("source", r.source))
        if self.kind == "checkpoint":
            rows.append(("made by", about.made_by(self.facts.get("provenance"))))
        rows.append(("more", "--layers: each layer; --json: everything"))
        return about.page(self.title(), rows)

    def layers(self) -> str:
        """Every layer (Markdown)."""
        return "\n".join(map(printable, f"{self.title()}\n\n{report(self.rows, self.radius)}".split("\n")))

    def everything(self) -> str:
        """All that is known, as JSON."""
        body = {
            "name": self.recipe.net.name,
            "scale": self.recipe.scale,
            "kind": self.kind,
            "unpackable": self.unpackable or None,
            **about.numbers(self.rows, self.radius),
            "recipe": self.recipe.model_dump(mode="json"),
            "metadata": self.facts,
        }
        return json.dumps(body, indent=2) + "\n"


def read(source: str) -> Source:
    """A recipe or a checkpoint, by name or file.

    Raises CountError, CheckpointError, RecipeError or OSError.
    """
    from ..train import checkpoint, legacy, recipe  # counting alone needs none of them

    if kind(source, "recipe") == "checkpoint":
        net, facts = checkpoint.load_net(source)
        wanted = legacy.parse(facts.pop("recipe"), source)
        return Source("checkpoint", wanted, net, facts, *layers(net))
    wanted = recipe.load(source)
    net = recipe.outline(wanted, wanted.stages[-1])  # ties and first values do not count
    return Source("recipe", wanted, net, {}, *layers(net))
