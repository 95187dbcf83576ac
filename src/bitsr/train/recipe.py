"""Recipes: one TOML file holds everything that decides a training run.

``load`` reads a file or a packaged name into a checked, frozen ``Recipe``. Every mistake in the
file is a ``RecipeError`` of one line that names the file, the key and the fault. The docstring
below each key is its entry in docs/training.md (``bitsr.train.reference``).
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
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
    PrivateAttr,
    ValidationError,
    model_validator,
)
from torch import nn

from ..errors import BitsrError
from ..folders import packaged_recipe, packaged_recipes
from ..nets import NETS
from ..zoo import alias
from .losses import LOSSES, PYRAMIDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class RecipeError(BitsrError):
    """A recipe that cannot be trained; the message is one line."""


AUTO, BICUBIC = "auto", "bicubic"
"""Words of ``data.lr`` that name no folder: LR as the layout has it, and LR made of HR."""


def net_name(path: str | Path) -> str:
    """The name of the net in a file of it: ``x4`` of ``runs/x4.latent.safetensors``."""
    return Path(path).stem.removesuffix(".latent")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Net(_Section):
    """[net]: which net, and with which arguments."""

    name: str
    """Name of the net, a key of `bitsr.nets.NETS`."""
    args: dict[str, Any] = {}
    """Keyword arguments of the net besides the scale."""
    stream_init_scale: PositiveFloat = 1.0
    """At initialisation the weights of the head are multiplied by it and those of the tail divided
    by it. It sets how wide the residual stream is against the window in which a binarizer passes
    a gradient."""
    latent_init_scale: PositiveFloat = 1.0
    """At initialisation the latent weights of binary convolutions are multiplied by it. Adam moves
    a weight by the learning rate whatever its size, so smaller weights change sign sooner."""
    symmetry: Literal[1, 2, 4, 8] = 1
    """Number of orientations over which the weights are tied, so that the net is equivariant:
    2 left and right, 4 also top and bottom, 8 also transposed, 1 none."""


class Data(_Section):
    """[data]: images and crops."""

    root: str = ""
    """Folder below which the others lie. Empty: the environment variable BITSR_DATA, else
    ../shared/data from the current folder or the checkout."""
    train: list[str] = Field(default=["auto"], min_length=1)
    """Folders of high-resolution (HR) training images. "auto" finds train/, train/HR or
    DIV2K_train_HR in the BasicSR or EDSR layout."""
    valid: list[str] = Field(default=["auto"], min_length=1)
    """Folders of HR validation images, found alike."""
    lr: list[str] = []
    """Folders of ready low-resolution (LR) training images, one for each of `train`: a folder of any
    name, "auto" for that of the BasicSR or EDSR layout where it is there, or "bicubic" for LR made
    of HR. Empty: "auto" for all. The file of 0001.png is 0001.png or 0001x4.png."""
    valid_lr: list[str] = []
    """The same for `valid`."""
    hr_scales: list[Annotated[float, Field(gt=0, lt=1)]] = []
    """Each training image comes again, shrunk to each of these shares of its size."""
    degrade: NonNegativeInt = 0
    """How many LR images each HR image has, blurred, noisy and compressed (`bitsr.degrade`), for
    nets that restore photographs. 0: one clean LR image by bicubic. Validation then has one
    degraded image too."""
    rendered: NonNegativeInt = 0
    """How many rendered images of text, line art and screens stand beside the training images."""
    patch: PositiveInt = 48
    """Side of a training crop in LR pixels."""
    batch: PositiveInt = 16
    """Crops in a batch, over all devices together."""
    crop_candidates: PositiveInt = 1
    """Crops drawn for each place of a batch. The one with the most detail is kept."""
    teachers: list[str] = []
    """Nets whose mean output is the soft target of the loss in place of HR (distillation). Names or
    .bsr files of packed nets, which the engine runs; checkpoints (.pt, .safetensors) and published
    weights of SMFANet (.safetensors), which torch runs; or ONNX files on Y in [0, 255] or RGB in
    [0, 1] (.onnx). They always see the clean LR image."""
    hr_weight: float = Field(default=0.0, ge=0, le=1)
    """With teachers: weight of HR in the target, against 1 - hr_weight of the soft target."""
    valid_crop: NonNegativeInt = 0
    """Validation runs on the central square of so many LR pixels a side. 0: on whole images."""

    @model_validator(mode="after")
    def _check(self) -> Data:
        if self.valid_crop in (1, 2):
            raise ValueError("valid_crop must be 0 or at least 3: the PSNR leaves out one LR pixel a side")
        if self.hr_weight and not self.teachers:
            raise ValueError("hr_weight has no meaning without teachers")
        for low, high in (("lr", "train"), ("valid_lr", "valid")):
            if getattr(self, low) and len(getattr(self, low)) != len(getattr(self, high)):
                raise ValueError(f"{low} wants as many folders as {high}")
        if set(self.lr) - {AUTO, BICUBIC}:
            for key in ("degrade", "hr_scales", "rendered"):
                if getattr(self, key):
                    raise ValueError(f"{key} makes LR images of HR, which do not go with those of lr")
        return self


class Stage(_Section):
    """[[train.stages]]: one of several runs in a row over the same weights, each with a fresh
    optimiser."""

    iterations: PositiveInt
    """Iterations of this stage."""
    lr: PositiveFloat
    """Learning rate of this stage."""
    args: dict[str, Any] = {}
    """Net arguments that differ in this stage, such as binary = "activations"."""


class Adversarial(_Section):
    """[train.adversarial]: the objective of SRGAN (`train.gan`):

    pixel * loss + perceptual * (mean squared difference of VGG-19 features) - weight * log D(SR).

    Each stage starts with a fresh discriminator D.
    """

    weight: PositiveFloat = 1e-3
    """Weight of the adversarial loss."""
    pixel: NonNegativeFloat = 1.0
    """Weight of `train.loss`, which is taken on [0, 255]. The mean squared error of images in
    [-1, 1] is 1 / 127.5^2 of it."""
    perceptual: NonNegativeFloat = 0.006
    """Weight of the perceptual loss."""
    vgg: str = ""
    """State dict of torchvision's VGG-19 (.pth). Empty: no perceptual loss."""


class Train(_Section):
    """[train]: optimiser, schedule and bookkeeping. Counts are iterations (optimiser steps)."""

    iterations: PositiveInt | None = None
    """Iterations of the run."""
    lr: PositiveFloat | None = None
    """Learning rate."""
    stages: list[Stage] = []
    """Several runs in a row, in place of `iterations` and `lr`."""

    optimiser: Literal["adam", "muon"] = "adam"
    """muon: orthogonalised momentum for the weights of convolutions inside the net, Adam for the
    others (`train.muon`)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's two moments."""
    eps: PositiveFloat = 1e-8
    """Adam's epsilon."""

    schedule: Literal["constant", "step", "cosine"] = "constant"
    """Course of the learning rate in each stage. cosine: down to 0 at the end."""
    warmup: NonNegativeInt = 0
    """The learning rate rises linearly over so many first iterations of each stage."""
    milestones: list[PositiveInt] = []
    """schedule = "step": the learning rate is multiplied by gamma at these iterations of each
    stage."""
    gamma: PositiveFloat = 0.5
    """Factor at the milestones."""

    loss: str = "l1"
    """Loss between a result and its target, on Y in [0, 255]: l1, mse, psnr, charbonnier, or
    charbonnier-pyramid for nets with a pyramid."""
    adversarial: Adversarial | None = None
    """SRGAN's objective in place of the loss alone."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the exponential moving average of the weights. The average is what is validated and
    exported, with its own batch norm statistics. 0: none."""

    precision: Annotated[Literal["half", "bf16", "32"], BeforeValidator(lambda v: "32" if v == 32 else v)] = (
        "32"
    )
    """32: float32. half: on CUDA, the convolutions of the body in half precision, signs exactly
    (`train.fast.half`). bf16: autocast of the net."""
    int8: bool = False
    """On a CPU: binary convolutions exactly, by products of bytes, their gradients rounded to
    8 bits (`train.fast.int8`). Not worth compiling then. No effect on CUDA."""
    compile: bool | Literal["auto"] = "auto"
    """torch.compile the net, once for all of its blocks that are alike. auto: on CUDA."""
    graph: bool = False
    """Capture the whole step as one CUDA graph, on one CUDA device."""
    accumulate: PositiveInt = 1
    """The batch is computed in so many equal parts, one after the other, whose gradients are added:
    less memory for the same step. Batch norm sees a part at a time."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights and of the crops."""

    init_from: str = ""
    """Checkpoint (.pt or .safetensors) whose weights the run starts from."""
    init_skip: list[str] = []
    """Parameters that keep their fresh values: those whose name starts with one of these words or
    matches it as a pattern, such as "tail" or "*.threshold"."""
    init_grow: bool = False
    """The net may have more blocks (body.N) than that of init_from. New blocks start as the
    identity: the weights of their batch norms are 0."""

    max_minutes: NonNegativeFloat = 0.0
    """Stop with a checkpoint after so many minutes. The schedule keeps to iterations. 0: never."""
    log_every: PositiveInt = 100
    """Iterations from one row of log.csv to the next."""
    validate_every: PositiveInt = 1000
    """Iterations from one validation to the next."""
    checkpoint_every: PositiveInt = 5000
    """Iterations from one checkpoint to the next."""
    checkpoint_minutes: PositiveFloat = 10.0
    """A checkpoint is also written after so many minutes."""

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
            f"{a.perceptual:g} VGG-19 relu5_4" if a.vgg else "no perceptual loss (no VGG weights given)"
        )
        return f"SRGAN: {a.pixel:g} {self.loss} + {a.weight:g} adversarial, {perceptual}"


class Recipe(_Section):
    """The top of the file."""

    scale: int = Field(ge=1, le=8)
    """Factor of super-resolution."""
    source: str = ""
    """Where the recipe comes from, for the model card."""
    net: Net
    """Section [net]."""
    data: Data = Data()
    """Section [data]."""
    train: Train
    """Section [train]."""
    _overrides: dict[str, Any] = PrivateAttr(default_factory=dict[str, Any])

    @property
    def overrides(self) -> dict[str, Any]:
        """``section.key -> value`` of what ``load`` was given beside the recipe that ``source``
        speaks of."""
        return self._overrides

    def changed(self, origin: Recipe, name: str) -> Recipe:
        """The same with what differs from recipe ``origin``, called ``name``, in ``overrides`` and
        ``source``: "settings from ..." are then not what it says there."""
        old, new = (_flat(settings(r.model_dump(mode="json"))) for r in (origin, self))
        overrides = {k: new.get(k) for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)}
        if not overrides:
            return self
        overrides = origin.overrides | overrides
        told = ", ".join(f"{k} = {json.dumps(v)}" for k, v in overrides.items())
        _, _, first = origin.source.partition(_AFTER)
        after = first if origin.overrides else origin.source.partition(";")[0]
        source = f"recipe {name} with {told}" + (f"{_AFTER}{after}" if after else "")
        out = self.model_copy(update={"source": source})
        out._overrides = overrides
        return out

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.net.name not in NETS:
            raise ValueError(f"unknown net {self.net.name!r}; known: {', '.join(NETS)}")
        if self.train.loss in PYRAMIDS and not hasattr(NETS[self.net.name], "pyramid"):
            raise ValueError(f"loss {self.train.loss!r} wants a net with a pyramid, such as lapsrn")
        if self.train.adversarial and self.data.teachers:
            raise ValueError("train.adversarial wants images, not soft targets (data.teachers)")
        if self.data.batch % self.train.accumulate:
            raise ValueError(f"data.batch = {self.data.batch} does not divide by train.accumulate")
        if self.train.adversarial and self.train.accumulate > 1:
            raise ValueError("train.adversarial takes the batch at once: train.accumulate = 1")
        if self.train.adversarial and self.data.patch * self.scale < 16:
            raise ValueError("train.adversarial wants HR crops of at least 16 pixels (data.patch)")
        for stage in self.stages:
            try:
                outline(self, stage)
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
        lr = "clean LR" if d.degrade else "LR"
        mixed = f", mixed with {d.hr_weight:g} of HR" if d.hr_weight else ""
        return f"{self.train.objective} from what {names} make{'s' * (len(d.teachers) == 1)} of {lr}{mixed}"

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


_AFTER = "; the recipe is after "
"""In the ``source`` of a changed recipe, before that of the recipe."""
FREE = {
    "": {"source"},
    "data": {"root"},
    "train": {
        "max_minutes",
        "log_every",
        "validate_every",
        "checkpoint_every",
        "checkpoint_minutes",
        "compile",
        "graph",
    },
}
"""Settings that do not touch the weights. A run and its resumption may differ in them."""


def settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Flat ``section.key -> value`` of a recipe as JSON without the free keys."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        for name, entry in value.items() if isinstance(value, dict) else [("", value)]:
            if (name or key) not in FREE.get(key if name else "", ()):
                flat[f"{key}.{name}" if name else key] = entry
    return flat


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``a.b.c -> value`` of tables in tables."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


@cache
def _outline(cls: type[nn.Module], scale: int, args: str) -> nn.Module:
    with torch.device("meta"):
        return _make(cls, scale, json.loads(args))


def outline(recipe: Recipe, stage: Stage) -> nn.Module:
    """As ``construct``, on torch's meta device, which allocates nothing; one for all who ask, so
    read only."""
    args = json.dumps({**recipe.net.args, **stage.args}, sort_keys=True, default=str)
    return _outline(NETS[recipe.net.name], recipe.scale, args)


def _make(cls: type[nn.Module], scale: int, args: dict[str, Any]) -> nn.Module:
    # bound first, for a TypeError that does not name __init__
    inspect.signature(cls).bind(scale=scale, **args)
    return cls(scale=scale, **args)


def construct(recipe: Recipe, stage: Stage) -> nn.Module:
    """The bare net of a stage as its class makes it; ``build.build`` makes the one that is trained.

    Raises TypeError or ValueError for arguments that the net does not take.
    """
    return _make(NETS[recipe.net.name], recipe.scale, {**recipe.net.args, **stage.args})


def names() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(packaged_recipes())


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
    """A recipe from a parsed TOML table of today's keys; ``name`` stands in error messages.

    Tables from checkpoints and model files may be older: ``legacy.parse`` reads those.
    """
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
        # old names of nets were names of recipes too
        stem = str(recipe).removesuffix("-cpu")
        recipe = alias(stem) + str(recipe)[len(stem) :]
        if (found := packaged_recipe(recipe)) is None:
            raise RecipeError(f"{recipe}: no such recipe file; packaged recipes: {', '.join(names())}")
        path = found
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error


def _packaged(path: Path) -> bool:
    found = packaged_recipe(path.stem)
    return found is not None and found == path.resolve()


def _merged(path: Path) -> tuple[dict[str, Any], Path]:
    """A recipe file with all that it extends; and the file whose ``source`` it has: the first on the
    way that has one of its own or is packaged."""
    path, table = _read(path, Path())
    file, seen = path, {path}
    origin: Path | None = path if "source" in table or _packaged(path) else None
    while "extends" in table:
        parent = table.pop("extends")
        if not isinstance(parent, str):
            raise RecipeError(f"{file}: extends: the name of a recipe is wanted")
        file, below = _read(parent, file.parent)
        if file in seen:
            raise RecipeError(f"{path}: extends: {parent!r} leads back to itself")
        seen.add(file)
        if origin is None and ("source" in below or _packaged(file)):
            origin = file
        table = _merge(below, table)
    return table, origin or path


def load(recipe: str | Path, assignments: Iterable[str] = ()) -> Recipe:
    """Read a recipe file or a packaged recipe by name, with ``a.b=value`` assignments on top.

    A recipe may say ``extends = "NAME"``, a packaged recipe or a file beside it, and then hold only
    what differs: sections are merged key by key, lists are replaced. Where settings differ from
    those that ``source`` speaks of, ``source`` and ``overrides`` say so (``Recipe.changed``).

    Raises RecipeError for a name that is neither, bad TOML, and any key or value that is wrong.
    """
    path, _ = _read(recipe, Path())
    table, origin = _merged(path)
    changed = copy.deepcopy(table)
    sourced = False
    for assignment in assignments:
        _set(changed, assignment)
        sourced |= assignment.partition("=")[0].strip() == "source"
    out = parse(changed, str(path))
    if sourced:
        return out
    with suppress(RecipeError):  # a file to be extended alone need not be whole
        return out.changed(parse(_merged(origin)[0], str(origin)), origin.stem)
    return out
