"""How the nets that come with bitsr are made: a chain of trainings each, read from ``zoo.toml``.

A net is a table of that file::

    [NAME]
    history = "..."                  # what is left of how the net that ships was made, as text
    [[NAME.steps]]
    recipe = "..."                   # name or file, as for `bitsr train`
    set = ["train.lr=4e-3", ...]     # changes to the recipe, as --set
    init_from = "..."                # checkpoint to start from; default: the step before

``build`` runs the steps, packs the last net, measures it and writes it. Files in ``init_from`` and
in the recipes are relative to the current folder: that of a checkout for the chains that come with
bitsr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..engine import Engine
from ..errors import BitsrError
from ..eval.evaluate import Evaluation, evaluate
from ..files import NewFile
from ..pack import pack_checkpoint
from ..train.recipe import Recipe, load
from ..train.run import train

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHAINS = Path(__file__).with_name("zoo.toml")


class ChainError(BitsrError):
    """A chain that cannot be read or built; the message is one line."""


@dataclass(frozen=True)
class Step:
    """One training: recipe (name or file), changes to it, and the checkpoint that it starts from.

    init_from: "" is the result of the step before; the first step starts fresh.
    """

    recipe: str
    set: tuple[str, ...] = ()
    init_from: str = ""

    def load(self, before: Path | None = None) -> Recipe:
        """The checked recipe, which starts from ``init_from`` or ``before``. Raises RecipeError."""
        start = self.init_from or before
        return load(self.recipe, [*self.set, *([f'train.init_from="{start}"'] if start else [])])

    def __str__(self) -> str:
        text = f"recipe {self.recipe}" + (f" with {', '.join(self.set)}" if self.set else "")
        return text + (f", from {self.init_from}" if self.init_from else "")


@dataclass(frozen=True)
class Chain:
    """How one net is made. history: how the net that ships was, where ``steps`` are not that."""

    name: str
    steps: tuple[Step, ...]
    history: str = ""

    def __str__(self) -> str:
        """One sentence for the model card."""
        steps = [f"({i}) {step}" for i, step in enumerate(self.steps, 1)]
        return f"Made by `bitsr zoo build {self.name}`: {'; '.join(steps)}."


def chains(path: str | Path = CHAINS) -> dict[str, Chain]:
    """The chains of a file, by name of the net. Raises ChainError for a wrong one, OSError."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ChainError(f"{path}: {error}") from None
    return {name: _chain(name, table, f"{path}: {name}") for name, table in content.items()}


def _chain(name: str, found: object, where: str) -> Chain:
    table = _table(found, {"history", "steps"}, f"{where}: a chain has steps and history, and nothing else")
    steps, history = table.get("steps"), table.get("history", "")
    if not isinstance(history, str) or not isinstance(steps, list) or not steps:
        raise ChainError(f"{where}: wants at least one step, and history as text")
    made = [_step(step, where) for step in cast("list[object]", steps)]
    return Chain(name, tuple(made), " ".join(history.split()))


def _step(found: object, where: str) -> Step:
    known = {"recipe", "set", "init_from"}
    table = _table(found, known, f"{where}: a step has recipe, set and init_from, and nothing else")
    recipe, start, changes = table.get("recipe"), table.get("init_from", ""), table.get("set", [])
    texts = isinstance(changes, list) and {type(x) for x in cast("list[object]", changes)} <= {str}
    if not isinstance(recipe, str) or not isinstance(start, str) or not texts:
        raise ChainError(f"{where}: recipe and init_from are text, set is a list of KEY=VALUE")
    return Step(recipe, tuple(cast("list[str]", changes)), start)


def _table(found: object, keys: set[str], fault: str) -> dict[str, object]:
    """``found`` as a table of these keys alone; else ChainError says ``fault``."""
    if not isinstance(found, dict) or cast("dict[str, object]", found).keys() - keys:
        raise ChainError(fault)
    return cast("dict[str, object]", found)


@dataclass(frozen=True)
class Built:
    """What ``build`` made. signal: what stopped it before the end (0: nothing, or out of time)."""

    done: bool
    signal: int = 0
    model: Path | None = None
    latent: Path | None = None
    evaluation: Evaluation | None = None


def build(
    chain: Chain,
    output: str | Path,
    *,
    runs: str | Path = Path("runs") / "zoo",
    sets: Sequence[str] = ("valid",),
    images: Path | None = None,
    device: str = "auto",
    max_minutes: float | None = None,
    threads: int | None = None,
    report: Callable[[int, int, dict[str, Any] | None], None] = lambda iteration, total, row: None,
    say: Callable[[str], None] = lambda line: None,
) -> Built:
    """Train the steps of a chain, pack and measure the last net, and write it to folder ``output``.

    Step i trains in ``runs``/NAME/i, where the same call goes on that was stopped. Then NAME.bsr
    and NAME.latent.safetensors are written. sets: what the net is measured on, by protocol
    matlab-y, for its metadata. images: folder of HR images to calibrate and check with, as in
    ``pack_checkpoint``. max_minutes: for each step, in this call. report(iteration, iterations in
    all, row): during a step, row as in ``train``. say: called with what a user should know, one
    line each.

    Raises RecipeError for a wrong step before anything is trained, and as ``train``,
    ``pack_checkpoint`` and ``evaluate`` do.
    """
    folder, output = Path(runs) / chain.name, Path(output)
    results = [folder / str(i) / "latent.safetensors" for i in range(1, len(chain.steps) + 1)]
    recipes = [step.load(before) for step, before in zip(chain.steps, [None, *results[:-1]], strict=True)]
    for i, (recipe, result) in enumerate(zip(recipes, results, strict=True)):
        say(f"{chain.name}: step {i + 1} of {len(recipes)}, {chain.steps[i]}")
        outcome = train(
            recipe,
            result.parent,
            device=device,
            max_minutes=max_minutes,
            threads=threads,
            report=lambda iteration, row, n=recipe.iterations: report(iteration, n, row),
            say=say,
        )
        if not outcome.complete:
            return Built(False, outcome.signal)
    model = pack_checkpoint(results[-1], chain.name, images=images, note=say)
    evaluation = evaluate(Engine(model, threads=threads), sets, name=chain.name)
    model.metadata |= {"training": str(chain), "evaluation": evaluation.summary()}
    output.mkdir(parents=True, exist_ok=True)
    packed, latent = output / f"{chain.name}.bsr", output / f"{chain.name}.latent.safetensors"
    with NewFile(latent) as new:
        new.file.write(results[-1].read_bytes())
    model.write(packed)
    return Built(True, 0, packed, latent, evaluation)
