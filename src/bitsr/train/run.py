"""The training loop: ``train(recipe, run_dir)``.

RUN_DIR holds recipe.json, log.csv and log.png (curves), last.pt (to resume), best.pt (best validation) and,
once the run ends or stops, latent.safetensors (``checkpoint.export_latent``).

A run is a function of its recipe: batches depend on (seed, iteration) alone, so a run that is killed and
resumed gives the losses of one that was not, on the CPU bit for bit. Nothing in an iteration waits for the
device: the loss is summed there and read every ``log_every`` iterations.
"""

from __future__ import annotations

import copy
import csv
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric  # before any torch.compile, whose arguments it records
from torch import Tensor, nn

from ..folders import data_folder
from ..layers.convs import BinaryConv2d
from ..layers.ops import CompiledBlocks, TorchOps
from ..nets.blocks import FloatBlock
from . import checkpoint, data
from .distill import teach
from .fast import accelerate
from .gan import Adversary
from .losses import LOSSES, PYRAMIDS
from .muon import Muon
from .recipe import Recipe, Stage, build, parse, symmetry

COLUMNS: tuple[str, ...] = ("iteration", "stage", "lr", "loss", "loss_d", "psnr_y", "it_per_s")
FREE = {  # settings that may differ between a run and its resumption: they do not touch the weights
    "data": {"root"},
    "train": {"max_minutes", "log_every", "validate_every", "checkpoint_every", "checkpoint_minutes"}
    | {"compile", "graph"},
}
Report = Callable[[int, "dict[str, Any] | None"], None]


class TrainError(ValueError):
    """A run that cannot start or go on; the message is one line."""


@dataclass(frozen=True)
class Outcome:
    """How ``train`` ended: finished iterations, whether all are done, best validation PSNR in dB (-inf: none)
    and the signal that stopped it (0: none)."""

    iteration: int
    complete: bool
    best: float
    signal: int = 0


# Validation -------------------------------------------------------------------------------------------------


def protocol(pairs: data.Pairs, crop: int = 0) -> str:
    """The words that go with a validation PSNR; crop as in ``validate``."""
    part = f" (central {crop} x {crop} LR pixels)" if crop else ""
    return f"PSNR on Y, 8-bit rounded, crop {pairs.scale}, mean of {len(pairs)} validation pictures{part}"


@contextmanager
def mode(net: nn.Module, training: bool) -> Iterator[None]:
    """net in training or evaluation mode for a while; then each of its modules in the one that it had."""
    modes = [(module, module.training) for module in net.modules()]
    net.train(training)
    yield
    for module, had in modes:
        module.training = had


@torch.no_grad()
def validate(net: nn.Module, pairs: data.Pairs, crop: int = 0) -> float:
    """Mean over pictures of the Y PSNR in dB: clipped to [0, 255], rounded, ``scale`` border pixels cut off.

    The net runs in float32, as packing sees it. crop: only the central square of so many LR pixels; 0: all.
    """
    s, scores = pairs.scale, []
    # Sizes differ from picture to picture, so no autotuning; and no TF32, which moves values across zero.
    fixed = torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False)
    with mode(net, False), fixed:
        for index in range(len(pairs)):
            lr, hr = pairs.picture(index)
            if crop:
                y, x = (max(n - crop, 0) // 2 for n in lr.shape)
                lr = lr[y : y + crop, x : x + crop]
                hr = hr[s * y : s * (y + crop), s * x : s * (x + crop)]
            sr = net(lr[None, None].contiguous())[0, 0]
            error = ((sr.clamp(0, 255) + 0.5).floor() - (hr + 0.5).floor())[s:-s, s:-s].double()
            scores.append(10 * torch.log10(255.0**2 / error.square().mean().clamp(min=1e-10)))
    return float(torch.stack(scores).mean())  # the one read from the device


@torch.no_grad()
def estimate_bn(net: nn.Module, crops: data.Crops, batches: int) -> None:
    """Set every batch norm's running statistics to their mean over training batches.

    Averaged weights meet signs that no single net produced, so statistics gathered on the way do not fit
    them. The batches are the same each time and lie outside the run's own sequence.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
    with mode(net, True):
        for i in range(batches):
            net(crops(torch.tensor(2**31 + i, device=crops.ends.device))[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


# Curves -----------------------------------------------------------------------------------------------------


class Log:
    """log.csv, one row a log interval or validation, and its picture log.png."""

    def __init__(self, folder: Path, iteration: int, title: str) -> None:
        """Rows past ``iteration``, the checkpoint's, are dropped: they will be made again."""
        self.path, self.picture, self.title = folder / "log.csv", folder / "log.png", title
        self.drawn = time.monotonic()
        rows = (
            [row for row in self.rows() if int(row["iteration"]) <= iteration] if self.path.exists() else []
        )
        with self.path.with_suffix(".part").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        self.path.with_suffix(".part").replace(self.path)

    def rows(self) -> list[dict[str, str]]:
        """All whole rows; a last line that was cut off by a crash is left out."""
        with self.path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if row["it_per_s"] is not None]

    def write(self, row: dict[str, Any]) -> None:
        text = {
            k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()
        }  # 9 digits: all of a float32
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, restval="").writerow(text)

    def draw(self, every: float = 60.0) -> None:
        """Redraw log.png, at most once in ``every`` seconds."""
        if time.monotonic() - self.drawn < every:
            return
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 1, sharex=True)
        for ax, key, label in zip(
            axes, ("loss", "psnr_y"), ("training loss", "validation PSNR [dB]"), strict=True
        ):
            points = [(int(r["iteration"]), float(r[key])) for r in self.rows() if r[key]]
            ax.plot(
                *zip(*points, strict=True) if points else ([], []), marker="." if key == "psnr_y" else None
            )
            ax.set_ylabel(label)
            ax.grid(alpha=0.3)
        axes[0].set_title(self.title, fontsize=9)
        axes[1].set_xlabel("iteration")
        checkpoint.write_atomic(self.picture, lambda part: figure.savefig(part, format="png", dpi=100))
        self.drawn = time.monotonic()


# The step ---------------------------------------------------------------------------------------------------


class Graphed:
    """Calls ``step`` as one CUDA graph: a few calls on a side stream, then one capture, then replays.

    ``step`` must be free of host synchronisation and read its inputs from tensors that stay in place. The
    first calls are real iterations: they make lazy state (optimiser, cuDNN plans, compiled code) beforehand.
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


class Walked(nn.Module):
    """A net whose forward walks with g."""

    def __init__(self, net: nn.Module, g: TorchOps) -> None:
        super().__init__()
        self.net, self.g = net, g

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, self.g)


class Pyramid(nn.Module):
    """A net seen by a loss over all its levels: forward is its ``pyramid``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.net.pyramid(x)  # type: ignore[operator]


class Trainer:
    """One stage's net, optimiser and step on the device.

    ``step(iteration, lr, progress)`` runs one iteration; ``loss_sum`` gathers its loss on the device. Modules with a
    buffer ``progress`` find in it how far the stage is, from 0 to 1.
    """

    def __init__(self, fabric: Fabric, recipe: Recipe, net: nn.Module, crops: data.Crops) -> None:
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
        self.frozen = False
        accelerate(self.net, device, int8=t.int8, half=t.precision == "half")
        self.symmetry = symmetry(recipe, self.net)
        self.parameters = list(
            self.net.named_parameters()
        )  # to walk a net takes longer than an iteration can spare
        self.buffers = list(self.net.named_buffers())
        self.average = copy.deepcopy(self.net).requires_grad_(False) if t.ema else None
        # a captured step reads lr from a tensor, so that the schedule can change it
        lr: float | Tensor = torch.zeros((), device=device) if self.graph else 0.0
        settings = {"lr": lr, "betas": t.betas, "eps": t.eps, "fused": True, "capturable": self.graph}
        adam = (
            self._muon(settings) if t.optimiser == "muon" else torch.optim.Adam(net.parameters(), **settings)
        )
        # Without ``turns`` Muon's updates leave tied weights tied to within rounding, and roundings add up.
        loose = adam.rms if isinstance(adam, Muon) and not adam.turns else ()
        self.loose = [(n, p) for n, p in self.parameters if p in loose]
        compiled = t.compiled(self.cuda)
        model = Pyramid(self.net) if t.loss in PYRAMIDS else self.net
        if compiled and getattr(model, "has_repeated_blocks", False):
            model = Walked(self.net, CompiledBlocks())
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
        known = {id(p) for p in (*latents, *floats)}
        others = [p for p in self.net.parameters() if id(p) not in known]
        try:
            turns = self.symmetry is not None and self.symmetry.order == 8
            return Muon(latents, others, floats, turns, **settings)
        except ValueError as error:
            raise TrainError(f"train.optimiser: {error}") from error

    def freeze(self, estimate: bool) -> None:
        """From now on batch norm keeps its statistics; estimate: after they have been estimated anew."""
        if estimate:
            estimate_bn(self.net, self.crops, self.train.bn_batches)
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        self.frozen = True
        if self.graph:  # the captured step has the other mode in it
            self._step = Graphed(self._eager, self.adam)

    def step(self, iteration: int, lr: float, progress: float) -> None:
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
        # No cache: each weight is cast once an iteration, and a captured graph must not reuse an old cast.
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
        self.fabric.backward(loss)
        if self.symmetry is not None:
            gradients = [(name, p.grad) for name, p in self.parameters]
            self.symmetry.gather(gradients + self.buffers)
        if self.train.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.train.clip, error_if_nonfinite=False)
        self.optimiser.step()
        if self.symmetry is not None:
            self.symmetry.hold(self.loose)
        self.optimiser.zero_grad(set_to_none=True)
        self.loss_sum.add_(loss.detach())
        if self.average is not None:
            averages, latents = tuple(self.average.parameters()), tuple(self.net.parameters())
            weight = 1 - self.train.ema
            with torch.no_grad():  # else torch 2.13 leaks half a KiB a parameter here
                torch._foreach_lerp_(averages, latents, weight=weight)  # pyright: ignore[reportPrivateImportUsage]

    def read_loss(self, count: int) -> float:
        """Mean loss of the last ``count`` iterations on all devices; clears the sum. Waits for the device."""
        mean = over_devices(self.fabric, self.loss_sum, "mean") / count
        self.loss_sum.zero_()
        return mean

    def validated(self) -> nn.Module:
        """The net that is validated and exported: the average with its own statistics, or the net itself."""
        if self.average is None:
            return self.net
        for mine, latest in zip(self.average.buffers(), self.net.buffers(), strict=True):
            mine.copy_(latest)  # for those that are not estimated next
        if not self.frozen:
            estimate_bn(self.average, self.crops, self.train.bn_batches)
            if self.symmetry is not None:
                self.symmetry.gather(self.average.named_buffers())
        return self.average

    def state(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimiser": self.adam.state_dict(),
            "loss_sum": self.loss_sum,
            "adversary": self.adversary.state() if self.adversary is not None else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.adam.load_state_dict(state["optimiser"])
        for group in self.adam.param_groups:  # what is ours, not the file's: the tensor that the graph reads
            group["lr"], group["capturable"] = self.lr, self.graph
        self.loss_sum.copy_(state["loss_sum"])
        if self.adversary is not None:
            self.adversary.load(state["adversary"])


# The run ----------------------------------------------------------------------------------------------------


@contextmanager
def _interruptible() -> Iterator[Callable[[], int]]:
    """SIGINT and SIGTERM are noted, for the given function to tell (0: none); a second one acts as usual."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield lambda: 0
        return
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, old[signal.Signals(number)])

    for number in old:
        signal.signal(number, handle)
    try:
        yield lambda: caught[0] if caught else 0
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _settings(recipe: dict[str, Any], free: dict[str, set[str]]) -> dict[str, Any]:
    """Flat ``section.key -> value`` without the free keys."""
    flat = {}
    for key, value in recipe.items():
        for name, entry in value.items() if isinstance(value, dict) else [("", value)]:
            if name not in free.get(key, ()):
                flat[f"{key}.{name}" if name else key] = entry
    return flat


def _resume(folder: Path, recipe: Recipe, resume: bool | None) -> dict[str, Any] | None:
    """The checkpoint to go on from, or None for a fresh run. resume: None is "if there is one"."""
    last = folder / "last.pt"
    if not last.exists():
        if resume:
            raise TrainError(f"{folder}: nothing to resume, there is no last.pt")
        return None
    if resume is False:
        raise TrainError(f"{folder} holds a run already: resume it, or take another folder")
    state = checkpoint.load(last)
    if "optimiser" not in state or "recipe" not in state:
        raise TrainError(f"{last}: not written by this loop; start from it by train.init_from")
    # parsed: a setting that is younger than the run has its default
    ran = parse(state["recipe"], str(last))
    old, new = (_settings(r.model_dump(mode="json"), FREE) for r in (ran, recipe))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise TrainError(f"{folder}: the run has {key} = {old.get(key)!r}, the recipe {new.get(key)!r}")
    return state


def _load_data(
    recipe: Recipe,
    device: torch.device,
    rank: int,
    world: int,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[data.Crops, data.Pairs]:
    d = recipe.data
    root = Path(d.root).expanduser() if d.root else data_folder()
    sets = data.find_pairs(root, d.train, "train", recipe.scale, d.layout)
    held = data.find_pairs(root, d.valid, "valid", recipe.scale, d.layout)
    if both := {p for s in sets for p, _ in s} & {p for s in held for p, _ in s}:
        raise data.DataError(f"{min(both)} is both a training and a validation picture")
    repeats = d.repeats or [1] * len(sets)
    files = [pair for s in sets for pair in s]
    if d.phases and any(lr for _, lr in files):
        raise data.DataError(
            'data.phases makes LR itself, and there is ready LR: data.layout = "hr" leaves it out'
        )
    pairs = data.load_pairs(files, recipe.scale, shrink=d.shrink, turned=d.turned, degraded=d.degraded)
    if d.teachers:
        pairs = teach(pairs, d.teachers, say=say, device=device)
    pairs = pairs.to(device)
    degraded = min(d.degraded, 1)
    # another seed than that of training, and always the same
    valid = data.load_pairs([pair for s in held for pair in s], recipe.scale, degraded=degraded, seed=1).to(
        device
    )
    if valid.sizes.min() < 3:
        raise data.DataError(f"a validation picture is below {3 * recipe.scale} pixels a side")
    if d.batch % world:
        raise TrainError(f"data.batch = {d.batch} does not divide among {world} devices")
    share = d.batch // world
    forms = len(pairs) // len(files)  # of each picture: itself, shrunk and turned
    crops = data.Crops(
        pairs,
        d.patch,
        d.batch,
        recipe.train.seed,
        repeats=torch.tensor([n for n, s in zip(repeats, sets, strict=True) for _ in range(len(s) * forms)]),
        samples=range(rank * share, (rank + 1) * share),
        tries=d.tries,
        truth=d.truth,
        phases=d.phases,
    )
    if device.type == "cuda" and recipe.train.compiled(True):  # here, for stages share them
        crops.compile()
    return crops, valid


class _Run:
    """What outlives a stage: the files, the validation pictures, the deadline, and how far the run is."""

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        folder: Path,
        valid: data.Pairs,
        state: dict[str, Any] | None,
        report: Report,
        interrupted: Callable[[], int],
    ) -> None:
        self.fabric, self.recipe, self.folder, self.valid = fabric, recipe, folder, valid
        self.report, self.interrupted, self.deadline = report, interrupted, math.inf
        self.iteration: int = state["iteration"] if state else 0  # finished, over all stages
        self.count = 0  # iterations in the loss sum
        self.best = -math.inf
        title = f"loss: {recipe.objective}\n{protocol(valid, recipe.data.valid_crop)}"
        self.log = Log(folder, self.iteration, title) if fabric.is_global_zero else None

    def stage(self, trainer: Trainer, number: int, stage: Stage, begin: int) -> bool:
        """Iterate to the end of the stage that starts at iteration ``begin``; False: stopped before."""
        t, end = self.recipe.train, begin + stage.iterations
        saved = clock = time.monotonic()
        timed = 0
        while self.iteration < end:
            if 0 < t.freeze_bn <= self.iteration - begin and not trainer.frozen:
                trainer.freeze(estimate=t.freeze_bn == self.iteration - begin)  # past it: resumed
            lr = self.recipe.rate(stage, self.iteration - begin)
            trainer.step(self.iteration, lr, (self.iteration - begin) / stage.iterations)
            self.iteration += 1
            self.count += 1
            timed += 1

            last, row = self.iteration == end, {}
            if self.iteration % t.log_every == 0 or last:
                row["loss"] = trainer.read_loss(self.count)
                if trainer.adversary is not None:
                    row["loss_d"] = trainer.adversary.read_loss(self.count)
                row["it_per_s"] = timed / (time.monotonic() - clock)
                self.count = timed = 0
                if not math.isfinite(row["loss"]):
                    where = f"at iteration {self.iteration}"
                    raise TrainError(f"the loss is {row['loss']} {where}: try a lower train.lr")
            stop = not last and self._stop()
            if self.log is not None:
                if self.iteration % t.validate_every == 0 or last or (stop and not self.interrupted()):
                    row["psnr_y"] = self._validate(trainer, number)
                if row:
                    row = {"iteration": self.iteration, "stage": number + 1, "lr": lr, **row}
                    self.log.write(row)
                    self.log.draw()
                # at log intervals alone, where the loss has just been seen to be finite
                overdue = self.count == 0 and time.monotonic() - saved > 60 * t.checkpoint_minutes
                if self.iteration % t.checkpoint_every == 0 or last or stop or overdue:
                    self._save(trainer, number)
                    saved = time.monotonic()
                self.report(self.iteration, row or None)
            if timed == 0:
                clock = time.monotonic()  # what comes after the loss is read does not count into it/s
            if stop:
                return False
        return True

    def _stop(self) -> bool:
        """Whether to stop now; several devices have to agree, so they ask at log intervals."""
        stop = bool(self.interrupted()) or time.monotonic() > self.deadline
        if self.fabric.world_size == 1:
            return stop
        if self.iteration % self.recipe.train.log_every:
            return False
        flag = torch.tensor(float(stop), device=self.fabric.device)
        return over_devices(self.fabric, flag, "max") > 0

    def _facts(self, number: int) -> dict[str, Any]:
        return {"recipe": self.recipe.model_dump(mode="json"), "stage": number, "iteration": self.iteration}

    def _validate(self, trainer: Trainer, number: int) -> float:
        net = trainer.validated()
        score = validate(net, self.valid, self.recipe.data.valid_crop)
        if score > self.best:
            self.best = score
            content = {"net": net.state_dict(), **self._facts(number), "psnr": score}
            checkpoint.save(self.folder / "best.pt", content)
        return score

    def _save(self, trainer: Trainer, number: int) -> None:
        content = {**trainer.state(), **self._facts(number), "best": self.best, "count": self.count}
        checkpoint.save(self.folder / "last.pt", content)

    def close(self) -> None:
        """Draw the curves and export the best net."""
        if self.log is not None:
            self.log.draw(every=0)
            if (self.folder / "best.pt").exists():
                best = checkpoint.load(self.folder / "best.pt")
                checkpoint.export_latent(self.folder / "latent.safetensors", best)
        self.fabric.barrier()


def train(
    recipe: Recipe,
    run_dir: str | Path,
    *,
    resume: bool | None = None,
    device: str = "auto",
    devices: int = 1,
    max_minutes: float | None = None,
    threads: int | None = None,
    report: Report | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Train ``recipe`` in the folder ``run_dir`` and return when it is done, out of time, or interrupted.

    resume: True wants a checkpoint to go on from, False refuses a used folder, None takes what there is.
    device: "cpu", "cuda" or "auto" (CUDA if there is one); devices: how many, by DDP (batch norm per device).
    max_minutes: wall-clock budget of this call, in place of the recipe's; 0: none.
    report(iteration, row): called on the first device after every iteration; row as in log.csv, or None.
    say(line): called before the teachers' pictures are made, and each of the minutes that it takes.

    Raises RecipeError, DataError, CheckpointError or TrainError (all ValueError) or OSError, each one line.
    """
    start = time.monotonic()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise TrainError(f"device {device!r}: cpu, cuda or auto is wanted")
    if device == "cuda" and torch.cuda.device_count() < devices:
        raise TrainError(f"{devices} CUDA device(s) wanted, {torch.cuda.device_count()} found")
    if threads:
        torch.set_num_threads(threads)
    minutes = recipe.train.max_minutes if max_minutes is None else max_minutes
    folder = Path(run_dir)
    state = _resume(folder, recipe, resume)  # before anything slow or written

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(accelerator=device, devices=devices, precision="32-true")
    fabric.launch()
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False  # float32 is what the recipe says
    with fabric.rank_zero_first():
        crops, valid = _load_data(recipe, fabric.device, fabric.global_rank, fabric.world_size, say)

    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        if state is None:  # left by a run that died before its first checkpoint
            for file in ("best.pt", "latent.safetensors"):
                (folder / file).unlink(missing_ok=True)
        (folder / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json"), indent=1) + "\n")
    weights, name, skip, grow = None, str(folder), (), False
    if state is not None:
        weights = state["net"]
    elif recipe.train.init_from:
        name, skip, grow = recipe.train.init_from, recipe.train.init_skip, recipe.train.init_grow
        weights = checkpoint.load_any(Path(name).expanduser())["net"]

    with _interruptible() as interrupted:
        run = _Run(fabric, recipe, folder, valid, state, report or (lambda iteration, row: None), interrupted)
        run.deadline = start + 60 * minutes if minutes else math.inf
        end, complete = 0, True
        for number, stage in enumerate(recipe.stages):
            begin, end = end, end + stage.iterations
            if run.iteration >= end and number + 1 < len(recipe.stages):
                continue
            torch.manual_seed(recipe.train.seed)
            net = build(recipe, stage)
            if weights is not None:
                if grow:
                    skip = [*skip, *checkpoint.blank(net, weights, name)]
                checkpoint.initialise(net, weights, skip, name)
                if state is None and (ties := symmetry(recipe, net)):  # they may come from a net without
                    ties.tie(net)
            trainer = Trainer(fabric, recipe, net, crops)
            if state is not None and state["stage"] == number:
                trainer.load(state)
                run.best, run.count = state["best"], state["count"]
            else:  # another stage's PSNR belongs to another kind of net
                run.best, run.count = -math.inf, 0
            complete = run.stage(trainer, number, stage, begin)
            if not complete:
                break
            weights, skip, grow = trainer.net.state_dict(), (), False
        run.close()
    return Outcome(run.iteration, complete, run.best, interrupted())
