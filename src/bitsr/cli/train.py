"""What needs torch: ``bitsr train``, ``pack``, ``export`` and ``zoo build``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BitsrError
from . import say


def train(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or name of a packaged recipe.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="RUN_DIR", help="Folder of the run.")],
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume",
            help="Demand, or refuse, an earlier run in RUN_DIR. Default: go on if there is one.",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: train.lr=1e-3; repeatable."),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", min=0, help="Stop with a checkpoint after so many minutes."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")] = "auto",
    devices: Annotated[int, typer.Option("--devices", min=1, help="Number of devices, by DDP.")] = 1,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write curves for TensorBoard to RUN_DIR/tensorboard.")
    ] = False,
    threads: Annotated[
        int, typer.Option("-j", "--threads", min=0, help="Threads of the CPU; 0 is automatic.")
    ] = 0,
) -> None:
    """Train a net by a recipe; Ctrl-C stops with a checkpoint, the same command goes on.

    A run that is done goes on with more iterations: --set train.iterations=N.
    """
    try:
        from ..train import run as loop
        from ..train.recipe import load
    except ImportError as error:
        raise ImportError(f"{error}; training wants: pip install 'bitsr[train]'") from error

    wanted = load(recipe, assignments or ())
    with _progress() as (show, print_line):
        if wanted.train.adversarial or wanted.data.teachers:
            print_line(f"objective: {wanted.objective}")
        outcome = loop.train(
            wanted,
            output,
            resume=resume,
            device=device,
            devices=devices,
            max_minutes=max_minutes,
            threads=threads or None,
            prolong=True,
            tensorboard=tensorboard,
            report=lambda iteration, row: show(iteration, wanted.iterations, row),
            say=print_line,
        )
        if os.environ.get("LOCAL_RANK", "0") == "0":
            word = "done" if outcome.complete else "stopped, the same command goes on"
            best = f"best validation PSNR-Y {outcome.best:.3f} dB"
            print_line(f"{output}: iteration {outcome.iteration}, {best}, {word}")
    if outcome.signal:
        raise typer.Exit(128 + outcome.signal)


Show = Callable[[int, int, dict[str, Any] | None], None]


@contextlib.contextmanager
def _progress() -> Generator[tuple[Show, Callable[[str], None]]]:
    """A progress bar of a training on stderr: (what shows an iteration, what prints a line
    above)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None, state="")

        def show(iteration: int, total: int, row: dict[str, Any] | None) -> None:
            bar.update(task, completed=iteration, total=total)
            if row is None:
                return
            forms = {"loss": "loss {:.4f}", "psnr_y": "PSNR-Y {:.3f} dB", "it_per_s": "{:.2f} it/s"}
            state = "  ".join(form.format(row[key]) for key, form in forms.items() if key in row)
            bar.update(task, state=state)
            if "psnr_y" in row or not sys.stderr.isatty():
                console.print(f"{iteration}/{total}  lr {row['lr']:.3g}  {state}")

        yield show, console.print


def pack(
    checkpoint: Annotated[Path, typer.Argument(help="last.pt, best.pt or latent.safetensors of a run.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="NET.bsr", help="Model file to write.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the net; default that of the file.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="HR images to calibrate and check with; default valid/ of the data."),
    ] = None,
    pictures: Annotated[Path | None, typer.Option("--pictures", hidden=True)] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--sets", help="Test sets whose figures go into the file; repeatable."),
    ] = None,
) -> None:
    """Pack a trained net into a .bsr file: real bits, checked against the float net."""
    try:
        from ..pack import pack_checkpoint
    except ImportError as error:
        raise ImportError(f"{error}; packing wants: pip install 'bitsr[train]'") from error
    from ..engine import Engine
    from ..eval.evaluate import evaluate

    model = pack_checkpoint(checkpoint, name or output.stem, images=images or pictures, note=say)
    if sets:
        evaluation = evaluate(Engine(model), sets, name=model.name)
        model.metadata["evaluation"] = evaluation.summary()
        print(evaluation.markdown(), end="")
    model.write(output)
    say(f"{output}: {output.stat().st_size / 1024:.0f} KiB")


def export(
    net: Annotated[
        str,
        typer.Argument(
            help="last.pt, best.pt or latent.safetensors of a run, or name of a net (see `bitsr models`)."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="NET.onnx", help="File to write.")],
) -> None:
    """Write a trained net's float simulation as ONNX, for other runtimes; slow and large next to
    `bitsr pack`."""
    from ..latent import checkpoint_of

    try:
        from ..pack.onnx import export_checkpoint
    except ImportError as error:
        raise ImportError(f"{error}; exporting wants: pip install 'bitsr[onnx]'") from error

    export_checkpoint(checkpoint_of(net), output)
    say(f"{output}: {output.stat().st_size / 1024:.0f} KiB")


zoo = typer.Typer(help="The nets that come with bitsr, made anew.")


@zoo.callback()
def _zoo() -> None:
    pass


@zoo.command()
def build(
    name: Annotated[str, typer.Argument(help="Net of the chains, such as bitsr-m-x4.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder of NAME.bsr and its checkpoint.")
    ],
    chains: Annotated[
        Path | None, typer.Option("--chains", help="File of the chains; default that of bitsr.")
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the runs.")] = Path("runs") / "zoo",
    sets: Annotated[
        list[str] | None,
        typer.Option("--sets", help="Sets whose figures go into the file; repeatable. Default: valid."),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", min=0, help="Stop a step with a checkpoint after so many minutes."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")] = "auto",
    threads: Annotated[
        int, typer.Option("-j", "--threads", min=0, help="Threads of the CPU; 0 is automatic.")
    ] = 0,
) -> None:
    """Make a net by its chain of trainings: train, pack, measure; the same command goes on."""
    try:
        from ..zoo import build as maker
    except ImportError as error:
        raise ImportError(f"{error}; training wants: pip install 'bitsr[train]'") from error

    known = maker.chains(chains or maker.CHAINS)
    if name not in known:
        raise BitsrError(f"no chain named {name}; there are: {', '.join(known)}")
    chain = known[name]
    with _progress() as (show, print_line):
        if chain.history:
            print_line(f"note: the {name} that ships was made otherwise: {chain.history}")
        built = maker.build(
            chain,
            output,
            runs=runs,
            sets=sets or ("valid",),
            device=device,
            max_minutes=max_minutes,
            threads=threads or None,
            report=show,
            say=print_line,
        )
        if not built.done:
            print_line(f"{name}: stopped, the same command goes on")
    if built.evaluation and built.model:
        print(built.evaluation.markdown(), end="")
        say(f"{built.model}: {built.model.stat().st_size / 1024:.0f} KiB")
    if built.signal:
        raise typer.Exit(128 + built.signal)
