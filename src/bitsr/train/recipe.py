"""Recipes: one TOML file holds everything that decides a training run.

``load`` reads a file or a packaged name into a checked, frozen ``Recipe``; every mistake in the file is a
``RecipeError`` of one line that names the file, the key and the fault.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from torch import nn

from ..folders import RECIPES
from ..layers.convs import BinaryConv2d
from ..nets import NETS
from .equivariance import Symmetry
from .losses import LOSSES, PYRAMIDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class RecipeError(ValueError):
    """A recipe that cannot be trained; the message is one line."""


def net_name(path: str | Path) -> str:
    """The name of the net in a model file or checkpoint: ``x4`` of ``runs/x4.latent.safetensors``."""
    return Path(path).stem.removesuffix(".latent")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Net(_Section):
    """[net]: which net, and with which arguments."""

    name: str
    """Key of ``bitsr.nets.NETS``."""
    args: dict[str, Any] = {}
    """Keyword arguments of the net besides the scale."""
    gain: PositiveFloat = 1.0
    """At initialisation head weights are multiplied and tail weights divided by it: it moves the spread of
    the residual stream against the window |x| <= 1 in which a binarizer passes a gradient."""
    latent: PositiveFloat = 1.0
    """At initialisation the latent weights of binary convolutions are multiplied by it. Where only their sign
    counts, it divides their rate: Adam moves them by the learning rate, whatever their size."""
    symmetry: Literal[1, 2, 4, 8] = 1
    """Weights are tied so that the net flips (2: left and right, 4: and top and bottom) and turns (8) with its
    picture (``nets.symmetry``); 1: free."""


class Data(_Section):
    """[data]: pictures and crops. Folders are relative to ``root``."""

    root: str = ""
    """Empty: the environment's BITSR_DATA, else ../shared/data from the current folder or the checkout."""
    train: list[str] = Field(default=["auto"], min_length=1)
    """HR folders; "auto" finds train/ or DIV2K_train_HR in the BasicSR or EDSR layout."""
    valid: list[str] = Field(default=["auto"], min_length=1)
    repeats: list[PositiveInt] = []
    """How often each train folder counts; empty: once each."""
    shrink: list[Annotated[float, Field(gt=0, lt=1)]] = []
    """Each training picture comes again at these shares of its size: other, sharper edges of the same scenes."""
    turned: list[tuple[Annotated[float, Field(gt=0, lt=90)], Annotated[float, Field(gt=0, lt=1)]]] = []
    """And turned by these angles in degrees, its largest upright rectangle shrunk to these shares."""
    phases: bool = False
    """Crops begin at any HR pixel and LR is made with them, so that a scene has scale^2; without, on LR's grid."""
    layout: Literal["auto", "hr"] = "auto"
    """auto: take LR from the folder that belongs to the HR folder, if it is there; hr: always make it."""
    patch: PositiveInt = 48
    """LR side of a training crop in pixels."""
    batch: PositiveInt = 16
    """Crops an iteration, over all devices together."""
    tries: PositiveInt = 1
    """Crops drawn for each of the batch; the one with the most detail is taken (``data.detail``)."""
    teachers: list[str] = []
    """Nets whose mean picture stands in HR's place in the target (distillation): what they cannot know of HR, which is
    nearly all the noise in a gradient, is not asked of the net either. Names or .bsr files of packed nets, by the
    engine, or checkpoints (.pt, .safetensors), by torch on the device that trains (``train.teach``)."""
    truth: float = Field(default=0.0, ge=0, le=1)
    """With teachers: the share of HR that stays in the target."""
    degraded: NonNegativeInt = 0
    """How many LR images each HR image has, blurred, noisy and stored with losses (``train.degrade``), for nets that
    restore photographs; 0: one, clean, by bicubic. Validation has one of the same kind."""
    colour: Literal["y"] = "y"
    valid_crop: NonNegativeInt = 0
    """Validate on the central square of so many LR pixels a side; 0: on whole pictures."""

    @model_validator(mode="after")
    def _check(self) -> Data:
        if self.repeats and len(self.repeats) != len(self.train):
            raise ValueError("repeats must have one entry for each folder in train")
        if self.valid_crop in (1, 2):
            raise ValueError("valid_crop must be 0 or at least 3: the PSNR leaves out one LR pixel a side")
        if self.truth and not self.teachers:
            raise ValueError("truth has no meaning without teachers")
        if self.degraded and (self.phases or self.teachers):
            raise ValueError("degraded images go neither with phases nor with teachers")
        if self.phases and self.teachers:
            raise ValueError("phases do not go with teachers, who know LR's own grid alone")
        return self


class Stage(_Section):
    """[[train.stages]]: one of several runs in a row over the same weights, with a fresh optimiser each."""

    iterations: PositiveInt
    lr: PositiveFloat
    args: dict[str, Any] = {}
    """Net arguments that differ in this stage, such as binary = "activations"."""


class Adversarial(_Section):
    """[train.adversarial]: SRGAN's objective (``bitsr.train.adversarial``):

    pixel * loss + perceptual * (mean squared difference of VGG-19 features) + weight * -log D(SR).

    Each stage starts with a fresh discriminator.
    """

    weight: PositiveFloat = 1e-3
    pixel: NonNegativeFloat = 1.0
    """Of ``train.loss``, which is taken on [0, 255]; the mse of pictures in [-1, 1] is 1 / 127.5^2 of it."""
    perceptual: NonNegativeFloat = 0.006
    vgg: str = ""
    """State dict of torchvision's VGG-19 (.pth); empty: no perceptual loss. Nothing is downloaded."""
    layer: Literal["conv2_2", "relu2_2", "conv5_4", "relu5_4"] = "relu5_4"
    lr_ratio: PositiveFloat = 1.0
    """Learning rate of the discriminator by that of the net."""
    channels: PositiveInt = 64
    """Width of the discriminator's first convolution."""


class Train(_Section):
    """[train]: optimiser, schedule and bookkeeping. Counts are iterations (optimiser steps)."""

    iterations: PositiveInt | None = None
    lr: PositiveFloat | None = None
    stages: list[Stage] = []
    """Instead of ``iterations`` and ``lr``."""

    optimiser: Literal["adam", "muon"] = "adam"
    """muon: Adam, but orthogonalised momentum for the latent weights of binary convolutions, those that a stage leaves
    float too, and the weights of ``FloatBlock`` (``train.muon``)."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    clip: NonNegativeFloat = 0.0
    """Largest norm of the whole gradient; 0: no clipping."""

    schedule: Literal["constant", "step", "cosine"] = "constant"
    warmup: NonNegativeInt = 0
    """Linear from lr/warmup to lr over the first iterations of each stage, times the schedule."""
    milestones: list[PositiveInt] = []
    """step: lr is multiplied by gamma at each of these iterations of the stage."""
    gamma: PositiveFloat = 0.5

    loss: str = "l1"
    adversarial: Adversarial | None = None
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the exponential moving average of the latent weights; 0: none. Where set, the average is what
    is validated and exported, with batch norm statistics estimated anew."""
    bn_batches: PositiveInt = 32
    """Training batches for that estimate."""

    precision: Annotated[Literal["half", "bf16", "32"], BeforeValidator(lambda v: "32" if v == 32 else v)] = (
        "32"
    )
    """half: on CUDA, binary convolutions and those of float blocks in half precision, signs exactly, and all else in
    float32 (``nets.half``); no effect on a CPU. bf16: autocast of the net; latent weights, loss and optimiser stay
    float32."""
    int8: bool = False
    """On a CPU: convolutions of signs exactly, by products of bytes with signs, their gradients rounded to 8 bits
    (``nets.int8``); units of the house net, in float32, in one piece (``nets.fused``). Not worth compiling
    then: their loops are compiled already. No effect on CUDA."""
    freeze_bn: NonNegativeInt = 0
    """From this iteration of each stage on batch norm keeps its statistics, estimated then anew; 0: never."""
    compile: bool | Literal["auto"] = "auto"
    """torch.compile the parts that the net is a row of, once for all that are alike, or the net where it has none;
    auto: on CUDA."""
    graph: bool = False
    """Capture the whole step as one CUDA graph; CUDA with one device only."""
    seed: NonNegativeInt = 0

    init_from: str = ""
    """Checkpoint (.pt or .safetensors) whose net the run starts from."""
    init_skip: list[str] = []
    """Parameters whose name starts with one of these, or matches it, are left fresh: ["tail"] starts another scale,
    ["*.threshold", "*.inner.*"] a house net from one of E2FIF."""
    init_grow: bool = False
    """Blocks (``body.N``) behind those of init_from's net begin as nothing (the weights of their batch norms at 0) but
    their activations: with ``slope = 1.0`` a deeper net starts as the one that it was."""

    max_minutes: NonNegativeFloat = 0.0
    """Stop with a checkpoint after so much wall-clock time; 0: never. The schedule keeps to iterations."""
    log_every: PositiveInt = 100
    validate_every: PositiveInt = 1000
    checkpoint_every: PositiveInt = 5000
    checkpoint_minutes: PositiveFloat = 10.0

    @model_validator(mode="after")
    def _check(self) -> Train:
        if self.stages and (self.iterations or self.lr):
            raise ValueError("give either stages or iterations and lr")
        if not self.stages and not (self.iterations and self.lr):
            raise ValueError("iterations and lr are wanted (or stages)")
        if self.milestones and self.schedule != "step":
            raise ValueError(f"milestones have no meaning with schedule = {self.schedule!r}")
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule = 'step' wants milestones")
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError("milestones must increase")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        if self.loss not in LOSSES:
            raise ValueError(f"unknown loss {self.loss!r}; known: {', '.join(LOSSES)}")
        if self.graph and self.adversarial:
            raise ValueError("one CUDA graph (graph = true) does not hold an adversarial step")
        return self

    def compiled(self, cuda: bool) -> bool:
        """Whether ``compile`` asks for it, on CUDA or not."""
        return cuda if self.compile == "auto" else self.compile

    @property
    def objective(self) -> str:
        """What is minimised, in words, between a result and its target."""
        a = self.adversarial
        if a is None:
            return self.loss
        perceptual = (
            f"{a.perceptual:g} VGG-19 {a.layer}" if a.vgg else "no perceptual loss (no VGG weights given)"
        )
        return f"SRGAN: {a.pixel:g} {self.loss} + {a.weight:g} adversarial, {perceptual}"


class Recipe(_Section):
    """A whole recipe. ``scale`` is the factor of super-resolution."""

    scale: int = Field(ge=1, le=8)
    source: str = ""
    """Where the recipe comes from, for the model card."""
    net: Net
    data: Data = Data()
    train: Train

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.net.name not in NETS:
            raise ValueError(f"unknown net {self.net.name!r}; known: {', '.join(NETS)}")
        if self.train.loss in PYRAMIDS and not hasattr(NETS[self.net.name], "pyramid"):
            raise ValueError(f"loss {self.train.loss!r} wants a net with a pyramid, such as lapsrn")
        if self.train.adversarial and self.data.teachers:
            raise ValueError("train.adversarial wants pictures, not what data.teachers make of them")
        if self.train.adversarial and self.data.patch * self.scale < 16:
            raise ValueError("train.adversarial wants HR crops of at least 16 pixels (data.patch)")
        for stage in self.stages:
            try:
                with torch.device("meta"):  # checks the arguments, allocates nothing
                    _construct(self, stage)
            except (TypeError, ValueError) as error:
                raise ValueError(f"net arguments: {error}") from error
        return self

    @property
    def stages(self) -> list[Stage]:
        """The stages, at least one."""
        t = self.train
        return t.stages or [Stage(iterations=t.iterations, lr=t.lr)]  # type: ignore[arg-type]

    @property
    def objective(self) -> str:
        """What is minimised, in words."""
        d = self.data
        if not d.teachers:
            return self.train.objective
        names = ", ".join(map(net_name, d.teachers))
        mixed = f", mixed with {d.truth:g} of HR" if d.truth else ""
        return f"{self.train.objective} from what {names} make{'s' * (len(d.teachers) == 1)} of LR{mixed}"

    @property
    def iterations(self) -> int:
        """Iterations of all stages together."""
        return sum(stage.iterations for stage in self.stages)

    def rate(self, stage: Stage, iteration: int) -> float:
        """Learning rate of a stage's 0-based iteration."""
        t, rate = self.train, stage.lr
        if iteration < t.warmup:
            rate *= (iteration + 1) / t.warmup
        if t.schedule == "step":
            rate *= t.gamma ** sum(iteration >= m for m in t.milestones)
        elif t.schedule == "cosine":
            rate *= 0.5 + 0.5 * math.cos(math.pi * iteration / stage.iterations)
        return rate


def _construct(recipe: Recipe, stage: Stage) -> nn.Module:
    cls, args = NETS[recipe.net.name], {**recipe.net.args, **stage.args}
    inspect.signature(cls).bind(scale=recipe.scale, **args)  # a TypeError that does not name __init__
    return cls(scale=recipe.scale, **args)


def build(recipe: Recipe, stage: Stage | None = None) -> nn.Module:
    """The recipe's net as a stage (default: the last) trains it, freshly initialised, float32.

    The weights depend on torch's random state alone: seed before the call.
    """
    net = _construct(recipe, stage or recipe.stages[-1])
    if recipe.net.gain != 1:
        head, tail = getattr(net, "head", None), getattr(net, "tail", None)
        if head is None or tail is None:
            raise RecipeError(f"net.gain: net {recipe.net.name!r} has no head and tail")
        with torch.no_grad():
            head.weight *= recipe.net.gain
            tail.weight /= recipe.net.gain
    if recipe.net.latent != 1:
        with torch.no_grad():
            for conv in net.modules():
                if isinstance(conv, BinaryConv2d):
                    conv.weight *= recipe.net.latent
    if ties := symmetry(recipe, net):
        ties.tie(net)
        net.order = ties.order  # type: ignore[assignment]
    return net


def symmetry(recipe: Recipe, net: nn.Module) -> Symmetry | None:
    """The ties of the recipe's net, on its device; None where its weights are free."""
    if recipe.net.symmetry == 1:
        return None
    try:
        return Symmetry(net, recipe.net.symmetry)
    except ValueError as error:
        raise RecipeError(f"net.symmetry: {error}") from error


def names() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def _merge(table: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """table with changes on top, section by section."""
    out = dict(table)
    for key, value in changes.items():
        old = out.get(key)
        out[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


def _set(table: dict[str, Any], assignment: str) -> None:
    """Apply ``a.b=value``; the value is read as TOML, else taken as a string."""
    key, equals, text = assignment.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise RecipeError(f"--set wants key=value, such as train.lr=1e-3, not {assignment!r}")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {assignment}: {part!r} is a value, not a section")
    table[parts[-1]] = value


def parse(table: Mapping[str, Any], name: str) -> Recipe:
    """A recipe from a parsed TOML table; ``name`` stands in error messages."""
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        fault = (
            "unknown key"
            if first["type"] == "extra_forbidden"
            else first["msg"].removeprefix("Value error, ")
        )
        raise RecipeError(f"{name}: {where + ': ' if where else ''}{fault}") from error


def _read(recipe: str | Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """(file, table) of a recipe file, relative to ``folder``, or of a packaged recipe by name."""
    path = folder / recipe
    if not path.is_file():
        path = RECIPES / f"{recipe}.toml"
        if Path(recipe).name != str(recipe) or not path.is_file():
            raise RecipeError(f"{recipe}: no such recipe file; packaged recipes: {', '.join(names())}")
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error


def load(recipe: str | Path, assignments: Iterable[str] = ()) -> Recipe:
    """Read a recipe file or a packaged recipe by name, with ``a.b=value`` assignments on top.

    A recipe may name another as ``base = "NAME"``, a packaged one or a file beside it, and hold only what differs:
    sections are merged key by key, lists replaced.

    Raises RecipeError with one line for a name that is neither, bad TOML, and any key or value that is wrong.
    """
    path, table = _read(recipe, Path())
    file, seen = path, {path}
    while "base" in table:
        base = table.pop("base")
        if not isinstance(base, str):
            raise RecipeError(f"{file}: base: the name of a recipe is wanted")
        file, below = _read(base, file.parent)
        if file in seen:
            raise RecipeError(f"{path}: base: {base!r} leads back to itself")
        seen.add(file)
        table = _merge(below, table)
    for assignment in assignments:
        _set(table, assignment)
    return parse(table, str(path))
