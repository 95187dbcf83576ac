"""A unit of method "bitsr" in two calls, forward and backward, for training on a CPU (``csrc/train``).

Without gradients it serves evaluation too. It computes what ``methods.bitsr.Bitsr`` describes, in
one pass over memory where that takes several. Convolutions and the rounding of their gradients are
those of ``int8.sign_conv``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ... import _core
from ...layers.convs import RunningNorm
from ...layers.ops import Ops, V
from ...methods.bitsr import Bitsr
from . import int8
from .int8 import LAST, native


@cache
def available() -> bool:
    """Whether the library is there and has a path for this CPU."""
    one = torch.ones(64, 64, 1, 1, dtype=torch.int8)
    return native("sign_conv", (one[:1], one, torch.empty(64, dtype=torch.int32)), 1, 1, 1, 64, 64, 1, False)


def can_fuse(module: nn.Module) -> bool:
    """Whether ``FusedBitsr`` can take the place of a module on this CPU."""
    if type(module) is not Bitsr:
        return False
    conv = module.conv
    cout, cin = conv.weight.shape[:2]
    return (
        (conv.act, conv.weight_mode) == ("approx_sign", "ste_sign")
        and cout == cin
        and cout % 64 == 0
        # The sum of all taps fits int16.
        and conv.weight[0].numel() <= 32767
        and available()
    )


def _call(name: str, settings: dict[str, float], arrays: dict[str, Tensor]) -> None:
    x = arrays["x"]
    n, c, h, w = x.shape
    k, maps, threads = arrays["weight"].shape[-1], len(arrays["size"]), torch.get_num_threads()
    pointers = {key: t.data_ptr() for key, t in arrays.items()}
    sizes = {"n": n, "h": h, "w": w, "c": c, "k": k, "maps": maps, "threads": threads}
    if not _core.train_unit(name, {**sizes, **settings, **pointers}, isa=int8.ISA):
        raise MemoryError("a unit of the net needs more memory")


def _momentum(bn: nn.BatchNorm2d) -> float:
    """One more batch: how much of it the running statistics take over, as torch has it."""
    assert bn.num_batches_tracked is not None
    bn.num_batches_tracked.add_(1)
    return 1 / int(bn.num_batches_tracked) if bn.momentum is None else bn.momentum


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        threshold: Tensor,
        size: Tensor,
        scale: Tensor,
        shift: Tensor,
        norm: RunningNorm,
        bn: nn.BatchNorm2d,
    ) -> Tensor:
        x, weight = x.contiguous(memory_format=LAST), weight.contiguous(memory_format=LAST)
        n, c, h, w = x.shape
        inputs = {
            "x": x, "weight": weight, "threshold": threshold, "size": size, "scale": scale, "shift": shift,
            **{name: x.new_empty(c) for name in ("mean", "deviation", "batch_mean", "batch_inverse")},
            "sizes": x.new_empty(n, h, w, len(size)), "sums": x.new_empty((n, h, w, c), dtype=torch.int16),
        }  # fmt: skip
        running = {
            "norm_mean": norm.running_mean, "norm_variance": norm.running_var,
            "bn_mean": bn.running_mean, "bn_variance": bn.running_var,
        }  # fmt: skip
        settings = {"norm_eps": norm.eps, "bn_eps": bn.eps, "running": not bn.training}
        if bn.training:
            settings |= {"norm_weight": norm.advance().item(), "bn_weight": _momentum(bn)}
        y = torch.empty_like(x, memory_format=LAST)
        _call("forward", settings, {**inputs, **running, "y": y})  # type: ignore[dict-item]
        ctx.names = tuple(inputs)
        ctx.save_for_backward(*inputs.values())
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        inputs = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        of = ("x", "weight", "threshold", "size", "scale", "shift")
        out = [torch.empty_like(inputs[name]) for name in of]
        names = ("gx", *(f"g_{name}" for name in of[1:]))
        _call(
            "backward",
            {},
            {**inputs, "g": g.contiguous(memory_format=LAST), **dict(zip(names, out, strict=True))},
        )
        return *out, None, None


_apply: Any = torch.compiler.disable(_Fused.apply)  # the compiler goes round it


class FusedBitsr(Bitsr):
    """A unit whose input is its own skip, in one piece."""

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        if skip is x and self._fits(x):
            return _apply(
                x,
                self.conv.weight,
                self.threshold,
                self.scale_map.weight,
                self.bn.weight,
                self.bn.bias,
                self.norm,
                self.bn,
            )
        return super().build(ops, x, name, skip=skip, act=act)

    def _fits(self, x: object) -> bool:
        """Whether it computes what is wanted of x now."""
        return (
            # No stand-in of torch.export, and no value of another ``ops``.
            type(x) is Tensor
            and (self.training or not torch.is_grad_enabled())
            and self.bn.training is self.norm.training is self.training
            and x.dtype == torch.float32
            and x.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
        )
