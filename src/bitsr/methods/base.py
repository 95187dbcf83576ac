"""What all binary methods are made of."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ..layers.ops import Ops, V


class RPReLU(nn.Module):
    """PReLU(v - shift_in) + shift_out, all (C,), the slopes held in [-1, 1] to pack.

    Source: ReActNet (arXiv 2003.03488), eq. 3.
    """

    def __init__(self, channels: int, slope: float = 0.25) -> None:
        super().__init__()
        self.shift_in = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), slope))
        self.shift_out = nn.Parameter(torch.zeros(channels))

    def triple(self) -> tuple[Tensor, Tensor, Tensor]:
        """The activation, as ``Ops`` takes it."""
        return self.shift_in, self.slope.clamp(-1, 1), self.shift_out


class Unit(nn.Module):
    """One binarized k x k convolution, cin -> cout, with all that a method puts around it.

    skips: where the method has its full-precision skips: "conv", over each convolution, or
    "block", over the two of a residual block. unpackable: "" if the engine runs the method, else
    why not; the unit then uses ``Ops.torch_only``.
    """

    skips: ClassVar[str] = "conv"
    unpackable: str = ""

    def __init__(self, cin: int, cout: int, k: int = 3, **options: Any) -> None:
        super().__init__()

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        """The operations of the unit. skip: what is added to the result, None for nothing. act:
        whether the activation that stands between the convolutions of a block follows."""
        raise NotImplementedError

    def own_skip(self, x: V) -> V | None:
        """The skip of a unit outside of blocks: x where skips go over each convolution, else
        None."""
        return x if self.skips == "conv" else None

    def lead(self, second: Unit) -> None:
        """Called once when a block is made of this unit and a second one, for what they share."""

    def block(self, second: Unit, ops: Ops[V], x: V, name: str) -> V:
        """A residual block of this unit and a second one of its kind. The activation stands between
        them, none after."""
        y = self.build(ops, x, f"{name}.unit1", skip=self.own_skip(x))
        skip = y if self.skips == "conv" else x
        return second.build(ops, y, f"{name}.unit2", skip=skip, act=False)


class MakeUnit(Protocol):
    """Makes a unit of some method."""

    def __call__(self, cin: int, cout: int, k: int = 3) -> Unit: ...


def why_unpackable(net: nn.Module) -> str:
    """Why the method of a net does not pack, in its own words; "" if it does."""
    units = (unit for unit in net.modules() if isinstance(unit, Unit))
    return next((unit.unpackable for unit in units if unit.unpackable), "")
