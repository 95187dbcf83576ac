"""The comparison table: nets trained under one budget or loaded, measured alike, beside published
figures.

Each recipe has a run folder under the table's folder, so that a call that is stopped goes on where
it was. A net that packs is measured by its packed bits; one that does not, by its float simulation,
and the table says so.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache, partial
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from ..engine import Engine
from ..errors import BitsrError
from ..files import NewFile
from ..layers.convs import Int8Conv2d, QuantConv2d, WeightBinaryConv2d
from ..methods import METHODS
from ..model_file import ModelFile, ModelFileError
from ..pack import PackError, pack_checkpoint
from ..source import Kind, kind
from ..train import checkpoint
from ..train import run as loop
from ..train.build import build
from ..train.checkpoint import load_net, stage_number
from ..train.legacy import parse
from ..train.recipe import Recipe, load
from ..train.trainer import Diverged
from ..zoo import find
from .complexity import LR_SIZE, Layer, count, packed_layers
from .evaluate import evaluate, find_set
from .net_complexity import layers
from .protocols import PROTOCOLS
from .simulation import Simulation
from .speed import measure

PUBLISHED = Path(__file__).parent / "published.csv"
GRADES = {"P": "read in the paper", "R": "read in a repository", "S": "as another source quotes it"}
ADVERSARIAL = ", adversarial"
BACKBONES = {
    "srresnet": ("SRResNet", "SRResNet without BN"),
    "edsr": ("EDSR",),
    "msrresnet": ("SRResNet without BN", "SRResNet-Lite"),
    "ledig-srresnet": ("SRResNet",),
    f"ledig-srresnet{ADVERSARIAL}": ("SRGAN",),
}
"""Backbones of ``published.csv`` that stand beside a net of ours, by its name and whether its
training is adversarial.

"srresnet" has the published ones' blocks and E2FIF's head and tail, and batch norm where its method
has it: of E2FIF itself nothing is published that we could read, so both kinds stand beside it. What
is not here has no published rows.
"""
PACKED, SIMULATED, IN_PRINT, FAILED = "packed bits", "float simulation", "published", "failed"


class TableError(BitsrError):
    """A table that cannot be made; the message is one line."""


@dataclass(frozen=True)
class Row:
    """One net's line. figures: set -> (PSNR in dB, SSIM), published ones with the digits printed;
    ops in G; None where there is no such number."""

    method: str
    backbone: str
    scale: int
    how: str
    """PACKED, SIMULATED, IN_PRINT or FAILED."""
    figures: Mapping[str, tuple[float, float] | tuple[Decimal, Decimal]] = field(
        default_factory=dict[str, tuple[float, float] | tuple[Decimal, Decimal]]
    )
    ops: float | None = None
    kib: float | None = None
    """Of the packed file; where there is none, with one bit a binary weight and 32 any other
    parameter."""
    ms: float | None = None
    valid: float | None = None
    """PSNR in dB of the float simulation on the validation images of its recipe."""
    sharpness: float | None = None
    """Mean over the images of all sets (``metrics.sharpness``)."""
    about: str = ""
    """How it was trained, where it was published, or why it has no packed form."""


@cache
def published() -> tuple[Row, ...]:
    """The rows of ``published.csv``. Raises BitsrError for a row without a source or with a grade
    not in ``GRADES``."""
    lines = [x for x in PUBLISHED.read_text(encoding="utf-8").splitlines() if not x.startswith("#")]
    rows: list[Row] = []
    for line in csv.DictReader(lines):
        if line["grade"] not in GRADES or not line["source"]:
            raise BitsrError(f"{PUBLISHED.name}: no grade or source in {line}")
        figures: dict[str, tuple[Decimal, Decimal]] = {}
        for name in ("Set5", "Set14", "B100", "Urban100", "Manga109"):
            if line[name]:
                psnr, _, ssim = line[name].partition("/")
                figures[name] = Decimal(psnr), Decimal(ssim)
        about = f"{line['bits']}, {line['source']}"
        if line["grade"] != "P":
            about += f", {GRADES[line['grade']]}"
        ops = float(line["ops"]) if line["ops"] else None
        rows.append(
            Row(line["method"], line["backbone"], int(line["scale"]), IN_PRINT, figures, ops, about=about)
        )
    return tuple(rows)


def with_budget(recipe: Recipe, iterations: int, name: str) -> Recipe:
    """The recipe, called ``name``, with so many iterations in all.

    All that decides the weights and is counted in iterations keeps its share: stages, warm-up and
    milestones. How often is logged, validated and saved stays.
    """
    content = recipe.model_dump(mode="json")
    train = content["train"]
    train["warmup"] = round(recipe.train.warmup * iterations / recipe.iterations)
    train["milestones"] = []
    for milestone in recipe.train.milestones:
        first = train["milestones"][-1] + 1 if train["milestones"] else 1
        train["milestones"].append(max(round(milestone * iterations / recipe.iterations), first))
    stages, done = train["stages"], 0
    for stage, part in zip(stages, recipe.train.stages, strict=True):
        end = round(iterations * (done + part.iterations) / recipe.iterations)
        stage["iterations"] = max(end - round(iterations * done / recipe.iterations), 1)
        done += part.iterations
    if not stages:
        train["iterations"] = iterations
    return parse(content, name).changed(recipe, name)


def with_rate(recipe: Recipe, factor: float, name: str) -> Recipe:
    """The recipe, called ``name``, with every learning rate times ``factor``."""
    content = recipe.model_dump(mode="json")
    for place in content["train"]["stages"] or [content["train"]]:
        place["lr"] *= factor
    return parse(content, name).changed(recipe, name)


def parse_rates(text: str) -> tuple[float, ...]:
    """Factors of the learning rate from "0.3,1,3". Raises TableError for anything else."""
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < inf for rate in rates) or len(set(rates)) < len(rates):
        raise TableError(f"--rates wants factors of the learning rate, such as 0.3,1,3, not {text!r}")
    return rates


def parse_budget(text: str) -> tuple[int | None, float | None]:
    """(iterations, minutes) from "3000" or "30m". Raises TableError for anything else."""
    number = text.removesuffix("m")
    if not number.isdecimal() or int(number) == 0:
        raise TableError(
            f"a budget is a number of iterations, such as 3000, or of minutes, such as 30m, not {text!r}"
        )
    return (None, float(number)) if text.endswith("m") else (int(number), None)


def _about(recipe: Recipe, facts: dict[str, Any]) -> str:
    """The budget, and what of it the net has had."""
    seen = (
        f"iteration {facts['iteration']:,} of {recipe.iterations:,}"
        if "iteration" in facts
        else "not of our training"
    )
    rates = " then ".join(f"{stage.lr:.3g}" for stage in recipe.stages)
    return (
        f"{seen}, batch {recipe.data.batch}, patch {recipe.data.patch}, seed {recipe.train.seed},"
        f" learning rate {rates}"
    )


def _method(recipe: Recipe, stage: int) -> str:
    """The name of the method in ``METHODS`` and its options, or "Ma et al.", "int8" or "float"."""
    args = {**recipe.net.args, **recipe.stages[stage].args}
    with torch.device("meta"):
        net = build(recipe, recipe.stages[stage])
    used = {type(module) for module in net.modules()}
    names = [name for name, unit in METHODS.items() if unit in used]
    if args.get("binary", True) is False:
        return "float"
    if not names:
        convs = [m for m in net.modules() if isinstance(m, QuantConv2d) and m.weight_mode != "float"]
        kinds = {"Ma et al.": WeightBinaryConv2d, "int8": Int8Conv2d}
        return next((name for name, c in kinds.items() if any(isinstance(m, c) for m in convs)), "float")
    options = ", ".join(f"{k} = {v}" for k, v in args.get("options", {}).items())
    return f"{names[0]} ({options})" if options else names[0]


def _backbone(recipe: Recipe) -> str:
    """A row's backbone: the net, and whether its training is adversarial."""
    return recipe.net.name + (ADVERSARIAL if recipe.train.adversarial else "")


class _Meter:
    """Measures nets alike."""

    def __init__(
        self,
        sets: Sequence[str],
        protocol: str,
        data: Path | None,
        threads: int | None,
        images: Path | None,
        most: int | None,
    ) -> None:
        self.sets, self.protocol, self.data, self.threads = sets, protocol, data, threads
        self.images, self.most = images, most

    def measured(self, net: Any, row: Row) -> Row:
        """The row with the figures of the net."""
        made = evaluate(net, self.sets, self.protocol, data=self.data)
        figures = {mean.set: (mean.psnr, mean.ssim) for mean in made.means()}
        return replace(row, figures=figures, sharpness=fmean(image.sharpness for image in made.rows))

    def packed(
        self,
        model: ModelFile,
        rows: Sequence[Layer],
        method: str,
        backbone: str,
        about: str,
        valid: float | None = None,
    ) -> Row:
        engine = Engine(model, threads=self.threads)
        width, height = LR_SIZE
        timing = measure(
            model, width=width, height=height, threads=engine.threads, paths=[engine.isa], rounds=3
        )[-1]
        ops, kib = count(rows).at()[2], len(model.to_bytes()) / 1024
        row = Row(
            method,
            backbone,
            model.scale,
            PACKED,
            ops=ops,
            kib=kib,
            ms=timing.ms,
            valid=valid,
            about=about,
        )
        return self.measured(engine, row)

    def checkpoint(self, path: Path, name: str, store: Path) -> Row:
        """A net in torch, packed where it can be; the packed file goes to ``store``."""
        net, facts = load_net(path)
        recipe = parse(facts["recipe"], str(path))
        rows = layers(net)[0]
        head = _method(recipe, facts["stage"]), _backbone(recipe)
        about, valid = _about(recipe, facts), facts.get("psnr")
        try:
            model = pack_checkpoint(path, name, images=self.images, most=self.most)
        except PackError as error:
            total = count(rows)
            row = Row(
                *head,
                recipe.scale,
                SIMULATED,
                ops=total.at()[2],
                kib=total.bytes_1_32 / 1024,
                valid=valid,
                about=f"{about}; {error}",
            )
            return self.measured(Simulation(net, recipe.scale), row)
        model.write(store)
        return self.packed(model, rows, *head, about, valid)

    def file(self, path: Path) -> Row:
        model = ModelFile.read(path)
        try:
            facts = {
                k: json.loads(model.metadata[k])
                for k in ("recipe", "stage", "iteration")
                if k in model.metadata
            }
        except (ValueError, RecursionError):
            raise ModelFileError(f"{path}: the metadata are broken") from None
        if "recipe" not in facts:
            return self.packed(model, packed_layers(model), "-", model.metadata.get("net", model.name), "")
        recipe = parse(facts["recipe"], str(path))
        method = _method(recipe, stage_number(recipe, facts.get("stage", len(recipe.stages) - 1), str(path)))
        return self.packed(model, packed_layers(model), method, _backbone(recipe), _about(recipe, facts))


@dataclass(frozen=True)
class Table:
    """Measured rows in the order asked for. signal: what stopped the training of one (0:
    nothing)."""

    rows: tuple[Row, ...]
    sets: tuple[str, ...]
    protocol: str
    signal: int = 0

    def lines(self) -> Iterator[Row]:
        """By backbone and scale: the measured rows, then what was published for them
        (``BACKBONES``)."""
        places = dict.fromkeys((row.backbone, row.scale) for row in self.rows)
        for backbone, scale in places:
            yield from (row for row in self.rows if (row.backbone, row.scale) == (backbone, scale))
            for row in published():
                if (
                    row.scale == scale
                    and row.backbone in BACKBONES.get(backbone, ())
                    and set(self.sets) & set(row.figures)
                ):
                    yield row

    def markdown(self) -> str:
        """A GitHub table. Figures in italics are not ours."""
        width, height = LR_SIZE
        lines = [
            f"PSNR (dB) / SSIM, protocol {PROTOCOLS[self.protocol]}. OPs = FP MACs + binary MACs / 64, and time, at"
            f" {width}x{height} LR. Validation: PSNR of the float simulation, by the recipe. Sharpness: length of the"
            " gradient by that of HR, over all sets. Rows in italics are published figures, from other training data"
            " and schedules.",
            "",
            "| method | backbone | scale | validation | "
            + "".join(f"{s} | " for s in self.sets)
            + "sharpness | OPs G | KiB | ms | from |",
            "|---|---|---|" + "---:|" * (len(self.sets) + 5) + "---|",
        ]
        for row in self.lines():
            cells = [row.method, row.backbone, f"x{row.scale}"]
            cells.append("-" if row.valid is None else f"{row.valid:.2f}")
            for name in self.sets:
                psnr, ssim = row.figures.get(name, (None, None))
                ours = isinstance(psnr, float)
                cells.append(f"{psnr:.2f} / {ssim:.4f}" if ours else f"{psnr} / {ssim}" if psnr else "-")
            kib = (
                None if row.kib is None else f"{row.kib:.0f}" + ("" if row.how == PACKED else " (1 + 32 bit)")
            )
            cells.append("-" if row.sharpness is None else f"{row.sharpness:.3f}")
            cells += ["-" if row.ops is None else f"{row.ops:.2f}", kib or "-"]
            cells.append("-" if row.ms is None else f"{row.ms:.1f}")
            cells.append(": ".join(filter(None, (row.how, row.about.replace("|", "/")))))
            mark = "*" if row.how == IN_PRINT else ""
            lines.append("| " + " | ".join(c if c == "-" else f"{mark}{c}{mark}" for c in cells) + " |")
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """The same lines, a column a figure."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        columns = [f"{s}_{x}" for s in self.sets for x in ("psnr", "ssim")]
        writer.writerow(
            [
                *("method", "backbone", "scale", "validation", *columns),
                *("sharpness", "ops_g", "kib", "ms", "from", "about", "protocol"),
            ]
        )
        for row in self.lines():
            figures = [x for s in self.sets for x in row.figures.get(s, (None, None))]
            every = (row.valid, *figures, row.sharpness, row.ops, row.kib, row.ms)
            numbers = ["" if x is None else f"{x:.6g}" for x in every]
            protocol = "" if row.how == IN_PRINT else self.protocol
            writer.writerow([row.method, row.backbone, row.scale, *numbers, row.how, row.about, protocol])
        return out.getvalue()


def _name(source: str) -> str:
    """Of a row's files: the recipe's or the file's, the run's for last.pt and best.pt."""
    path = Path(source)
    stem = path.name.partition(".")[0] if path.suffix else path.name
    return path.resolve().parent.name if stem in ("last", "best", "latent") else stem


def _train(
    recipe: Recipe, name: str, trials: Mapping[Path, float], **settings: Any
) -> tuple[list[Path], int]:
    """Train a recipe in each folder at its factor of the learning rate: the folders of those that did
    not diverge, and the signal that stopped one (0: none). settings: of ``loop.train``.

    Raises Diverged where all of them do, and what ``loop.train`` raises otherwise.
    """
    done: list[Path] = []
    fault: Diverged | None = None
    for place, factor in trials.items():
        tried = recipe if factor == 1 else with_rate(recipe, factor, name)
        try:
            outcome = loop.train(tried, place, **settings)
        except Diverged as error:
            fault = error
            continue
        if outcome.signal:
            return done, outcome.signal
        done.append(place)
    if fault is not None and not done:
        raise fault
    return done, 0


def _validation(path: Path) -> float:
    """The validation PSNR of a run's best.pt, dB."""
    return checkpoint.load(path).get("psnr", -inf)


def compare(
    sources: Sequence[str],
    folder: str | Path,
    *,
    sets: Sequence[str] = ("Set5", "Set14", "B100"),
    protocol: str = "matlab-y",
    budget: str | None = None,
    rates: Sequence[float] = (1.0,),
    assignments: Sequence[str] = (),
    data: Path | None = None,
    images: Path | None = None,
    most: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    report: Callable[[str, int, dict[str, Any] | None], None] = lambda name, iteration, row: None,
) -> Table:
    """Train or load each source, measure it, and write table.md and table.csv in ``folder`` after
    each.

    sources: recipes (names or files), checkpoints, packed nets (names or files). A recipe's run is
    ``folder``/NAME; with a budget (``parse_budget``) it is trained there, or goes on; without one
    the run must be there. Minutes are for each call. rates: factors of the learning rate. Each
    recipe is trained with each, a factor beside 1 in ``folder``/NAME-rateFACTOR, and the run with
    the best validation PSNR is measured; one that diverges is passed over. A name of both a recipe and a net of the zoo
    is the recipe if there is a budget or a run. assignments: "train.seed=1" and the like, on every
    recipe. images, most: for calibration, as in ``pack_checkpoint``. report(name, iteration, row): during
    training, as in ``loop.train``.

    A source that fails becomes a row that says why. Raises TableError, RecipeError, ValueError or
    OSError for what is wrong before anything is trained: an unknown source, set or protocol, two
    recipes of one name.
    """
    folder = Path(folder)
    rows: list[Row] = []
    if protocol not in PROTOCOLS:
        raise TableError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    if not all(sets) or not sets:
        raise TableError("a test set without a name: --sets wants names, such as Set5,Set14")
    for name in sets:
        find_set(name, data)
    iterations, minutes = parse_budget(budget) if budget else (None, None)
    names = [_name(source) for source in sources]
    if twice := [name for name in names if names.count(name) > 1]:
        raise TableError(f"{twice[0]} is there twice: each row's files have its name")
    kinds: list[Kind] = []
    recipes: dict[str, Recipe] = {}
    trials: dict[str, dict[Path, float]] = {}  # run folder -> factor of the learning rate
    for source, name in zip(sources, names, strict=True):
        places = {folder / (name if f == 1 else f"{name}-rate{f:g}"): f for f in rates}
        there = {place: f for place, f in places.items() if (place / "best.pt").is_file()}
        trials[name] = places if budget else there
        kinds.append(kind(source, "recipe" if trials[name] else "packed"))
        if kinds[-1] == "recipe":
            recipe = load(source, assignments)
            recipes[name] = with_budget(recipe, iterations, name) if iterations else recipe
            if not trials[name]:
                raise TableError(
                    f"{folder / name}: no trained net of {source} is there; a budget trains one (--train)"
                )
    folder.mkdir(parents=True, exist_ok=True)
    meter, signal = _Meter(sets, protocol, data, threads, images, most), 0
    for source, name, what in zip(sources, names, kinds, strict=True):
        try:
            if what == "packed":
                rows.append(meter.file(find(source)))
                continue
            path = Path(source)
            if what == "recipe":
                places, signal = list(trials[name]), 0
                if budget:
                    places, signal = _train(
                        recipes[name],
                        name,
                        trials[name],
                        device=device,
                        max_minutes=minutes,
                        threads=threads,
                        report=partial(report, name),
                    )
                if signal:
                    break
                path = max((place / "best.pt" for place in places), key=_validation)
            rows.append(meter.checkpoint(path, name, folder / f"{name}.bsr"))
        except (ValueError, OSError) as error:
            recipe = recipes.get(name)
            backbone, scale = (_backbone(recipe), recipe.scale) if recipe else ("-", 0)
            rows.append(Row(name, backbone, scale, FAILED, about=str(error)))
        finally:
            made = Table(tuple(rows), tuple(sets), protocol, signal)
            for name, text in (("table.md", made.markdown()), ("table.csv", made.csv())):
                with NewFile(folder / name) as new:
                    new.file.write(text.encode())
    return Table(tuple(rows), tuple(sets), protocol, signal)
