"""One stage of training: net, optimiser and the step, on one device or several."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from lightning_fabric import Fabric  # before any torch.compile, whose arguments it records
from torch import Tensor, nn

from ..errors import BitsrError
from ..layers.convs import BinaryConv2d, PAMSConv2d
from ..layers.ops import CompiledBlocks, TorchOps
from ..nets.blocks import FloatBlock
from .build import symmetry
from .crops import Crops
from .fast import accelerate
from .gan import Adversary
from .losses import LOSSES, PYRAMIDS
from .muon import Muon
from .recipe import Recipe
from .validate import estimate_bn


class TrainError(BitsrError):
    """A run that cannot start or go on; the message is one line."""


class Diverged(TrainError):
    """The loss is not finite any more."""


class Graphed:
    """Calls ``step`` as one CUDA graph: a few calls on a side stream, one capture, then replays.

    ``step`` must be free of host synchronisation and read its inputs from tensors that stay in
    place. The first calls are real iterations: they make lazy state (optimiser, cuDNN plans,
    compiled code) beforehand.
    """

    WARM = 4

    def __init__(self, step: Callable[[], None], optimiser: torch.optim.Optimizer) -> None:
        self.step, self.optimiser, self.calls = step, optimiser, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.side = torch.cuda.Stream()

    def __call__(self) -> None:
        current = torch.cuda.current_stream()
        if self.graph is None and self.calls < self.WARM:
            self.calls += 1
            self.side.wait_stream(current)
            with torch.cuda.stream(self.side):
                self.step()
            current.wait_stream(self.side)
            return
        if self.graph is None:
            self.optimiser.zero_grad(set_to_none=True)  # the captured backward owns its gradients
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.side):
                self.step()
        self.graph.replay()


def over_devices(fabric: Fabric, x: Tensor, op: str) -> float:
    """A 0-dim tensor reduced over all devices. Waits for them."""
    return cast(Tensor, fabric.all_reduce(x, reduce_op=op)).item()


class RunBy(nn.Module):
    """A net whose forward runs by other operations than those of ``TorchOps``."""

    def __init__(self, net: nn.Module, ops: TorchOps) -> None:
        super().__init__()
        self.net, self.ops = net, ops

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, self.ops)


class Pyramid(nn.Module):
    """A net seen by a loss over all its levels: forward is its ``pyramid``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.net.pyramid(x)  # type: ignore[operator]


class Trainer:
    """One stage's net, optimiser and step on the device.

    ``step(iteration, lr, progress)`` runs one iteration; ``loss_sum`` gathers its loss on the
    device. Modules with a buffer ``progress`` find in it how far the stage is, from 0 to 1.

    Raises TrainError for settings that do not go with the net or the devices.
    """

    def __init__(self, fabric: Fabric, recipe: Recipe, net: nn.Module, crops: Crops) -> None:
        t, device = recipe.train, fabric.device
        self.cuda, self.train = device.type == "cuda", t
        self.graph = t.graph and self.cuda
        if self.graph and fabric.world_size > 1:
            raise TrainError("train.graph works with one device only")
        if t.adversarial and fabric.world_size > 1:
            raise TrainError("train.adversarial works with one device only")
        self.fabric, self.crops, self.loss = fabric, crops, LOSSES[t.loss]
        self.net: nn.Module = net.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.progress = torch.zeros((), device=device)
        for module in self.net.modules():
            # One tensor for all: one write an iteration, which a captured step sees.
            if "progress" in module._buffers:
                module.progress = self.progress
        accelerate(self.net, device, int8=t.int8, half=t.precision == "half")
        self.symmetry = symmetry(recipe, self.net)
        # listed once: to walk a net takes longer than an iteration can spare
        self.parameters = list(self.net.named_parameters())
        self.buffers = list(self.net.named_buffers())
        self.average = copy.deepcopy(self.net).requires_grad_(False) if t.ema else None
        # a captured step reads lr from a tensor, so that the schedule can change it
        lr: float | Tensor = torch.zeros((), device=device) if self.graph else 0.0
        settings = {"lr": lr, "betas": t.betas, "eps": t.eps, "fused": True, "capturable": self.graph}
        adam: torch.optim.Adam = (
            self._muon(settings)
            if t.optimiser == "muon"
            else torch.optim.Adam(self.net.parameters(), **settings)
        )
        # Without ``tied`` the updates of Muon leave tied weights tied to within rounding, and
        # roundings add up.
        loose = adam.rms if isinstance(adam, Muon) and not adam.tied else ()
        self.loose = [(n, p) for n, p in self.parameters if p in loose]
        compiled = t.compiled(self.cuda)
        model = Pyramid(self.net) if t.loss in PYRAMIDS else self.net
        if compiled and getattr(model, "has_repeated_blocks", False):
            model = RunBy(self.net, CompiledBlocks())
        elif compiled:
            model = cast(nn.Module, torch.compile(model))
        self.model, self.optimiser = fabric.setup(model, adam)
        self.adam, self.lr = adam, lr
        self.adversary = Adversary(fabric, recipe) if t.adversarial else None
        self.iteration = torch.zeros((), dtype=torch.int64, device=device)
        self.loss_sum = torch.zeros((), device=device)
        self._step = Graphed(self._eager, adam) if self.graph else self._eager

    def _muon(self, settings: dict[str, Any]) -> Muon:
        binary = [m for m in self.net.modules() if isinstance(m, BinaryConv2d)]
        latents = [conv.weight for conv in binary if conv.weight_mode != "float"]
        blocks = [m for m in self.net.modules() if isinstance(m, FloatBlock)]
        floats = [conv.weight for block in blocks for conv in (block.conv1, block.conv2)]
        floats += [conv.weight for conv in binary if conv.weight_mode == "float"]
        floats += [m.weight for m in self.net.modules() if isinstance(m, PAMSConv2d)]
        known = {id(p) for p in (*latents, *floats)}
        others = [p for p in self.net.parameters() if id(p) not in known]
        try:
            tied = self.symmetry is not None and self.symmetry.order == 8
            return Muon(latents, others, floats, tied, **settings)
        except ValueError as error:
            raise TrainError(f"train.optimiser: {error}") from error

    def step(self, iteration: int, lr: float, progress: float) -> None:
        """One iteration at a learning rate; progress: how far the stage is, from 0 to 1."""
        self.iteration.fill_(iteration)
        self.progress.fill_(progress)
        if isinstance(self.lr, Tensor):
            self.lr.fill_(lr)
        else:
            for group in self.adam.param_groups:
                group["lr"] = lr
        self._step()

    def _eager(self) -> None:
        lr, hr = self.crops(self.iteration)
        parts = self.train.accumulate
        for number, (low, high) in enumerate(zip(lr.chunk(parts), hr.chunk(parts), strict=True), 1):
            with self.fabric.no_backward_sync(self.model, enabled=number < parts):
                self._gradients(low, high)
        if self.symmetry is not None:
            gradients = [(name, p.grad) for name, p in self.parameters]
            self.symmetry.gather(gradients + self.buffers)
        self.optimiser.step()
        if self.symmetry is not None:
            self.symmetry.hold(self.loose)
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            averages, latents = tuple(self.average.parameters()), tuple(self.net.parameters())
            weight = 1 - self.train.ema
            with torch.no_grad():  # else torch 2.13 leaks half a KiB a parameter here
                torch._foreach_lerp_(averages, latents, weight=weight)  # pyright: ignore[reportPrivateImportUsage]

    def _gradients(self, lr: Tensor, hr: Tensor) -> None:
        """Add the gradients and the loss of a part of the batch, as its share of the mean."""
        # No cache: each weight is cast once an iteration, and a captured graph must not reuse an
        # old cast.
        bf16 = self.train.precision == "bf16"
        with torch.autocast(lr.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            out = self.model(lr)
        levels = [level.float() for level in out] if isinstance(out, list) else out.float()
        loss = self.loss(levels, hr)
        if self.adversary is not None:
            sr = levels[-1] if isinstance(levels, list) else levels
            with torch.autocast(lr.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
                self.adversary.learn(sr, hr, self.adam.param_groups[0]["lr"])
                loss = torch.stack(list(self.adversary.parts(sr, hr, loss).values())).sum()
        if self.train.accumulate > 1:
            loss = loss / self.train.accumulate
        self.fabric.backward(loss)
        self.loss_sum.add_(loss.detach())

    def first_loss(self, count: int) -> float:
        """Mean loss of the ``count`` iterations so far on this device. Waits for it, clears nothing."""
        return self.loss_sum.item() / count

    def read_loss(self, count: int) -> float:
        """Mean loss of the last ``count`` iterations on all devices; clears the sum. Waits for the
        device."""
        mean = over_devices(self.fabric, self.loss_sum, "mean") / count
        self.loss_sum.zero_()
        return mean

    def validated(self) -> nn.Module:
        """The net that is validated and exported: the average with its own statistics, or the net
        itself."""
        if self.average is None:
            return self.net
        for mine, latest in zip(self.average.buffers(), self.net.buffers(), strict=True):
            mine.copy_(latest)  # for those that are not estimated next
        estimate_bn(self.average, self.crops)
        if self.symmetry is not None:
            self.symmetry.gather(self.average.named_buffers())
        return self.average

    def state(self) -> dict[str, Any]:
        """All that resuming needs, for ``load``."""
        return {
            "net": self.net.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimiser": self.adam.state_dict(),
            "loss_sum": self.loss_sum,
            "adversary": self.adversary.state() if self.adversary is not None else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.net.load_state_dict(state["net"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.adam.load_state_dict(state["optimiser"])
        # what is ours, not the file's: the tensor that the graph reads
        for group in self.adam.param_groups:
            group["lr"], group["capturable"] = self.lr, self.graph
        self.loss_sum.copy_(state["loss_sum"])
        if self.adversary is not None:
            self.adversary.load(state["adversary"])
