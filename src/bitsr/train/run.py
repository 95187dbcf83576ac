"""The training loop: ``train(recipe, run_dir)``.

RUN_DIR holds recipe.json, log.csv and log.png (curves), last.pt (to resume), best.pt (best
validation) and, once the run ends or stops, latent.safetensors (``checkpoint.export_latent``). One
run at a time works in it, by a lock on its file .lock.

A run is a function of its recipe: batches depend on (seed, iteration) alone, so a run that is
killed and resumed gives the losses of one that was not, on the CPU bit for bit. Nothing in an
iteration waits for the device: the loss is summed there and read every ``log_every`` iterations.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric  # before any torch.compile, whose arguments it records

from ..files import NewFile
from ..folders import data_folder
from . import checkpoint, data, legacy
from .build import build, symmetry
from .crops import Crops
from .distill import soft_targets
from .log import Log
from .provenance import provenance
from .recipe import Recipe, Stage, settings
from .trainer import Diverged, Trainer, TrainError, over_devices
from .validate import protocol, validate

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Report = Callable[[int, "dict[str, Any] | None"], None]


@dataclass(frozen=True)
class Outcome:
    """How ``train`` ended: finished iterations, whether all are done, best validation PSNR in dB
    (-inf: none) and the signal that stopped it (0: none)."""

    iteration: int
    complete: bool
    best: float
    signal: int = 0


class _Lock:
    """One run at a time in a folder: a lock on its file .lock, until the block or the process ends.

    Raises TrainError where another run has it. Nothing is locked where the system has no flock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._file = folder, -1

    def take(self) -> None:
        """Lock the folder if it is there and not locked by us yet."""
        other_rank = os.environ.get("LOCAL_RANK", "0") != "0"  # of one run on several devices
        if self._file >= 0 or fcntl is None or other_rank or not self.folder.is_dir():
            return
        file = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise TrainError(f"{self.folder}: another run is at work in this folder") from None
        except OSError:  # a file system without locks
            os.close(file)
            return
        self._file = file

    def __enter__(self) -> _Lock:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)


@contextmanager
def _interruptible() -> Iterator[Callable[[], int]]:
    """Note SIGINT, SIGTERM, Windows' SIGBREAK and SIGHUP (unless it is ignored, as by nohup), for the
    given function to tell (0: none); a second one acts as usual."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield lambda: 0
        return
    names = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]
    if (hup := getattr(signal, "SIGHUP", None)) and signal.getsignal(hup) is not signal.SIG_IGN:
        names.append(hup)
    old = {number: signal.getsignal(number) for number in names}

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


def _resume(
    folder: Path, recipe: Recipe, resume: bool | None, prolong: bool, say: data.Say
) -> dict[str, Any] | None:
    """The checkpoint to go on from, or None for a fresh run. resume: None is "if there is one".

    prolong: whether the recipe may have more iterations than the run had.
    """
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
    ran = legacy.parse(state["recipe"], str(last))
    old, new = (settings(r.model_dump(mode="json")) for r in (ran, recipe))
    differ = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    at, length = state["iteration"], "train.iterations"
    longer = prolong and length in differ and not recipe.train.stages and not ran.train.stages
    for key in differ:
        if key == length and longer and new[key] > old[key]:
            continue
        hint = "; a run may only be made longer" if key == length and longer else ""
        raise TrainError(f"{folder}: the run has {key} = {old.get(key)!r}, the recipe {new.get(key)!r}{hint}")
    if at < recipe.iterations:
        say(f"{folder}: going on from iteration {at:,}")
    if length in differ:
        (before,), (stage,) = ran.stages, recipe.stages
        rates = ran.rate(before, max(at - 1, 0)), recipe.rate(stage, at)
        say(
            f"note: the run was to have {old[length]:,} iterations and now has {new[length]:,}. Schedule and"
            f" annealing go by the new length: the learning rate was {rates[0]:.3g} and goes on at {rates[1]:.3g}"
        )
    return state


def load_data(
    recipe: Recipe,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    say: data.Say = data.silent,
) -> tuple[Crops, data.Pairs]:
    """Training crops of device number ``rank`` out of ``world``, and validation images, on
    ``device``.

    say(line): called as images are decoded and soft targets made, and with what a user should know
    of the LR images. Raises DataError, TrainError or OSError.
    """
    d, scale = recipe.data, recipe.scale
    root = Path(d.root).expanduser() if d.root else data_folder()
    train, valid = (
        [pair for found in data.find_pairs(root, folders, role, scale, lr, say) for pair in found]
        for role, folders, lr in (("train", d.train, d.lr), ("valid", d.valid, d.valid_lr))
    )
    if d.degrade and any(lr for _, lr in train):
        say("note: the ready LR images are not used: data.degrade makes them of HR")
    if any(lr for _, lr in train) and not d.degrade and not all(lr for _, lr in valid):
        say("note: validation runs on LR images by bicubic, unlike training (data.valid_lr)")
    if both := {hr for hr, _ in train} & {hr for hr, _ in valid}:
        raise data.DataError(f"{min(both)} is both a training and a validation image")
    load = partial(data.load_pairs, scale=scale, hr_scales=d.hr_scales, rendered=d.rendered, say=say)
    pairs = load(train, degrade=d.degrade)
    if d.teachers:
        clean = pairs
        if d.degrade:  # teachers know clean images alone
            train = [(hr, None) for hr, _ in train]
            clean = load(train)
        rgb = data.lr_images(train, scale, d.hr_scales, d.rendered)
        soft = soft_targets(clean, d.teachers, say=say, device=device, rgb=rgb)
        pairs = replace(pairs, soft=soft)
    pairs = pairs.to(device)
    # drawn by another seed than those of training, which is always the same
    held = data.load_pairs(valid, scale, degrade=min(d.degrade, 1), seed=1, say=say).to(device)
    if held.sizes.min() < 3:
        raise data.DataError(f"a validation image is below {3 * scale} pixels a side")
    if d.batch % (world * recipe.train.accumulate):
        parts = f" of {recipe.train.accumulate} parts each" if recipe.train.accumulate > 1 else ""
        raise TrainError(f"data.batch = {d.batch} does not divide among {world} devices{parts}")
    share = d.batch // world
    crops = Crops(
        pairs,
        d.patch,
        d.batch,
        recipe.train.seed,
        samples=range(rank * share, (rank + 1) * share),
        candidates=d.crop_candidates,
        hr_weight=d.hr_weight,
    )
    if device.type == "cuda" and recipe.train.compiled(True):  # here, for stages share them
        crops.compile()
    return crops, held


FIRST = 2.0
"""Seconds after which a stage first tells loss and speed, where its first log row takes longer; the
next time is after twice as long."""


class _Run:
    """What outlives a stage: the files, the validation images, the deadline, and how far the run
    is."""

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        folder: Path,
        train: data.Pairs,
        valid: data.Pairs,
        state: dict[str, Any] | None,
        tensorboard: bool,
        report: Report,
        interrupted: Callable[[], int],
    ) -> None:
        self.fabric, self.recipe, self.folder, self.valid = fabric, recipe, folder, valid
        self.report, self.interrupted, self.deadline = report, interrupted, math.inf
        self.iteration: int = state["iteration"] if state else 0  # finished, over all stages
        self.count = 0  # iterations in the loss sum
        self.best = -math.inf
        here = provenance(recipe, fabric.device, train, valid)
        before: list[dict[str, Any]] = state.get("provenance", []) if state else []
        # one entry for each machine or version that the run went on with
        self.provenance = before if before[-1:] == [here] else [*before, here]
        title = f"loss: {recipe.objective}\n{protocol(valid, recipe.data.valid_crop)}"
        if recipe.train.adversarial:
            title += "\nbest.pt: the last validated state"
        self.log = Log(folder, self.iteration, title, tensorboard) if fabric.is_global_zero else None

    def stage(self, trainer: Trainer, number: int, stage: Stage, begin: int) -> bool:
        """Iterate to the end of the stage that starts at iteration ``begin``; False: stopped
        before."""
        t, end = self.recipe.train, begin + stage.iterations
        saved = clock = time.monotonic()
        timed, early, wait = 0, True, FIRST
        while self.iteration < end:
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
                self.count, timed, early = 0, 0, False
                if not math.isfinite(row["loss"]):
                    where = f"at iteration {self.iteration}"
                    raise Diverged(f"the loss is {row['loss']} {where}: try a lower train.lr")
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
                if early and not row and time.monotonic() - clock > wait:
                    wait *= 2
                    loss, speed = trainer.first_loss(self.count), timed / (time.monotonic() - clock)
                    row = {"lr": lr, "loss": loss, "it_per_s": speed}
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
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "stage": number,
            "iteration": self.iteration,
            "provenance": self.provenance,
        }

    def _validate(self, trainer: Trainer, number: int) -> float:
        net = trainer.validated()
        score = validate(net, self.valid, self.recipe.data.valid_crop)
        better = score > self.best
        self.best = max(self.best, score)
        # An adversarial objective lowers the PSNR, which then cannot choose: the last state counts.
        if better or self.recipe.train.adversarial:
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
            self.log.close()
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
    prolong: bool = False,
    tensorboard: bool = False,
    report: Report | None = None,
    say: data.Say = data.silent,
) -> Outcome:
    """Train ``recipe`` in the folder ``run_dir`` and return when it is done, out of time, or
    interrupted.

    resume: True wants a checkpoint to go on from, False refuses a used folder, None takes what
    there is.
    device: "cpu", "cuda" or "auto" (CUDA if there is one); devices: how many, by DDP (batch norm
    per device).
    max_minutes: wall-clock budget of this call, in place of the recipe's; 0: none.
    prolong: a run may go on with more iterations than it was begun with; the schedule then goes by
    the new number.
    tensorboard: write the curves for TensorBoard too, into ``run_dir``/tensorboard.
    report(iteration, row): called on the first device after every iteration; row as in log.csv, or
    None. Before the first row of the log there may be rows of loss, lr and it_per_s alone.
    say(line): called as each silent part begins (decoding, resuming, soft targets, compiling), and
    with what a user should know.

    Raises RecipeError, DataError, CheckpointError or TrainError (all BitsrError) or OSError, each
    one line.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise TrainError(f"device {device!r}: cpu, cuda or auto is wanted")
    if device == "cuda" and torch.cuda.device_count() < devices:
        raise TrainError(f"{devices} CUDA device(s) wanted, {torch.cuda.device_count()} found")
    if threads:
        torch.set_num_threads(threads)
    minutes = recipe.train.max_minutes if max_minutes is None else max_minutes
    if os.environ.get("LOCAL_RANK", "0") != "0":  # one of several devices says it for all
        say = data.silent
    with _Lock(Path(run_dir)) as lock:
        state = _resume(lock.folder, recipe, resume, prolong, say)  # before anything slow or written
        report = report or (lambda iteration, row: None)
        return _train(recipe, lock, state, device, devices, minutes, tensorboard, report, say)


def _train(
    recipe: Recipe,
    lock: _Lock,
    state: dict[str, Any] | None,
    device: str,
    devices: int,
    minutes: float,
    tensorboard: bool,
    report: Report,
    say: data.Say,
) -> Outcome:
    start = time.monotonic()
    folder = lock.folder

    if recipe.train.adversarial:
        say(
            "note: best.pt and latent.safetensors keep the last validated state, not that of the best"
            " PSNR-Y: that would be an early one, for the objective trades PSNR for sharpness"
        )
        if state is None and not recipe.train.init_from:
            say("note: adversarial training starts from random weights; train.init_from names a trained net")

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(accelerator=device, devices=devices, precision="32-true")
    fabric.launch()
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False  # float32 is what the recipe says
    with fabric.rank_zero_first():
        crops, valid = load_data(recipe, fabric.device, fabric.global_rank, fabric.world_size, say)

    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        lock.take()
        if state is None:  # left by a run that died before its first checkpoint
            for file in ("best.pt", "latent.safetensors"):
                (folder / file).unlink(missing_ok=True)
        with NewFile(folder / "recipe.json") as new:
            new.file.write(f"{json.dumps(recipe.model_dump(mode='json'), indent=1)}\n".encode())
    weights, name, skip, grow = None, str(folder), (), False
    if state is not None:
        weights = state["net"]
    elif recipe.train.init_from:
        name, skip, grow = recipe.train.init_from, recipe.train.init_skip, recipe.train.init_grow
        weights = checkpoint.load_any(Path(name).expanduser())["net"]

    with _interruptible() as interrupted:
        run = _Run(fabric, recipe, folder, crops.pairs, valid, state, tensorboard, report, interrupted)
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
            if recipe.train.compiled(trainer.cuda) and run.iteration < end:
                say("compiling the net: the first iteration takes a while")
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
