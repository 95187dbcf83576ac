"""MSRResNet, SRResNet without batch norm, as BBCU binarizes it (arXiv 2210.00405; read from the
released code)."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from torch import nn

from ..layers.modules import TypedModuleList
from ..layers.ops import Net, Ops, V
from ..methods import METHODS, Unit, units
from .blocks import Block, FloatBlock, kaiming
from .upsamplers import interpolation, steps

BINARIZED = ("none", "body", "all")
SLOPE = 0.1


class MSRResNet(Net):
    """16 blocks of 64 channels, an upsampler in steps of 2 (or one of 3), and two convolutions.

    head: float 3x3, 1 -> C, LeakyReLU(0.1); no skip over the body. After the upsampler come a
    convolution at the size of the SR image and the tail, to whose output the bilinearly upsampled
    LR image is added. binarized, what is binary:

        "none"  nothing: the published SRResNet. Float 3x3, shuffle, LeakyReLU for each step; float
                3x3, LeakyReLU
        "body"  the two convolutions of each block: BBCU-L with method "bbcu"
        "all"   also the upsampler (unit C -> C * s^2 with each channel of its input, repeated, as
                its skip, then the shuffle) and the unit at the size of the SR image, followed by
                LeakyReLU: BBCU-M. The method must have an option "slope" for that; of those
                published only BBCU goes so far.

    k: residual alignment. Y is centred and divided by 255 / k before the head, and multiplied by it
    at the end, so that the stream is of the size of the convolutions' results. The paper's 130 * C
    / 64 is for input in [0, 1].

    The published net takes and gives RGB in [0, 1]; this one Y in [0, 255], as all nets here, and
    subtracts 127.5, which the bilinear base carries through. Float convolutions inside pack with
    8-bit weights and activations (``qconv``), head and tail with 16: they make what is added to the
    base, and their rounding is 1 % of that.

    Input and output: (N, 1, h, w) -> (N, 1, scale*h, scale*w), Y in [0, 255].

    method, options, binary, act, weight: see ``methods.units``. Raises ValueError for a size below
    1, an unknown name or a method that does not fit ``binarized``.
    """

    colours: ClassVar[int] = 3

    has_repeated_blocks = True

    def __init__(
        self,
        scale: int = 4,
        channels: int = 64,
        blocks: int = 16,
        *,
        binarized: str = "body",
        method: str = "bbcu",
        options: dict[str, Any] | None = None,
        binary: bool | str = True,
        act: str | None = None,
        weight: str | None = None,
        k: float = 130.0,
    ) -> None:
        super().__init__()
        if scale < 1 or channels < 1 or blocks < 1 or not k > 0:
            raise ValueError("scale, channels and blocks must be at least 1, k above 0")
        if binarized not in BINARIZED:
            raise ValueError(f"unknown binarized {binarized!r}; known: {', '.join(BINARIZED)}")
        self.scale, self.span = scale, 255 / k
        self.factors = steps(scale)
        make = units(method, options, binary=binary, act=act, weight=weight)
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.body: TypedModuleList[Block | FloatBlock] = TypedModuleList(
            FloatBlock(channels) if binarized == "none" else Block(make, channels) for _ in range(blocks)
        )
        if binarized == "all":
            if "slope" not in inspect.signature(METHODS[method]).parameters:
                raise ValueError(f"binarized = 'all' wants a method with an option 'slope', not {method!r}")
            last = units(method, {**(options or {}), "slope": SLOPE}, binary=binary, act=act, weight=weight)
            up: list[Unit | nn.Conv2d] = [make(channels, channels * s * s) for s in self.factors]
            self.hr: Unit | nn.Conv2d = last(channels, channels)
        else:
            up = [nn.Conv2d(channels, channels * s * s, 3, padding=1) for s in self.factors]
            self.hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.up: TypedModuleList[Unit | nn.Conv2d] = TypedModuleList(up)
        self.tail = nn.Conv2d(channels, 1, 3, padding=1)
        for part in (self.head, self.up, self.hr, self.tail, *(self.body if binarized == "none" else ())):
            for conv in part.modules():
                if isinstance(conv, nn.Conv2d):
                    kaiming(conv, 0.1)  # as released
        self.base = interpolation(scale, "bilinear")

    def build(self, ops: Ops[V], x: V) -> V:
        lr = x
        x = ops.conv("head", self.head, lr, act=SLOPE)
        for i, block in enumerate(self.body):
            x = ops.repeated_block(block, x, f"body.{i}")
        for i, (up, s) in enumerate(zip(self.up, self.factors, strict=True)):
            if isinstance(up, Unit):
                skip = None if up.own_skip(x) is None else ops.repeat(x, s * s)
                x = up.build(ops, x, f"up.{i}", skip=skip, act=False)
            else:
                x = ops.qconv(f"up.{i}", up, x, act=SLOPE)
            x = ops.shuffle(x, s)
        if isinstance(self.hr, Unit):
            x = self.hr.build(ops, x, "hr", skip=self.hr.own_skip(x))
        else:
            x = ops.qconv("hr", self.hr, x, act=SLOPE)
        x = ops.conv("tail", self.tail, x)
        return ops.add(x, ops.shuffle(ops.conv("base", self.base, lr), self.scale))
