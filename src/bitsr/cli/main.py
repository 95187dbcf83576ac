"""Command line: flags to calls. A user's error is one line on stderr and exit code 1, never a traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="1-bit super-resolution: upscale photos on the CPU; train, pack and measure 1-bit nets.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)


def _say(text: str) -> None:
    """One line on stderr."""
    print(" ".join(f"bitsr: {text}".split()), file=sys.stderr, flush=True)


def _reason(error: BaseException) -> str:
    """An error in one line; the system's errors as "FILE: what happened"."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"out of memory{f': {error}' if str(error) else ''}"
    return str(error) or type(error).__name__


def main(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for any error, 130 for Ctrl-C, 143 for SIGTERM."""
    args = list(sys.argv[1:] if args is None else args) or ["--help"]
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave by way of the clean-up
    try:
        command = typer.main.get_command(app)
        # Not command.main(): it prints usage errors in several lines and leaves with code 2.
        with command.make_context("bitsr", args) as context:
            command.invoke(context)
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, typer.Exit):
            return error.exit_code
        # A usage error of click, which typer may carry within itself.
        if usage := getattr(error, "format_message", None):
            _say(usage())
            return 1
        if os.environ.get("BITSR_DEBUG"):
            raise
        known = isinstance(error, (ValueError, OSError, MemoryError, ImportError))
        _say(_reason(error) if known else f"internal error, {type(error).__name__}: {error}")
        return 1


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(f"bitsr {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _threads(text: str) -> int | None:
    """Threads from "N" or the ncnn family's "load:proc:save", of which proc counts; 0 is every CPU."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(p.isdecimal() for p in parts):
        raise ValueError(f"-j wants N or load:proc:save, not {text!r}")
    return int(parts[len(parts) // 2]) or None


@app.command()
def upscale(
    input: Annotated[Path, typer.Option("-i", "--input", help="Picture, or folder of pictures.")],
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", help="Picture or folder to write; default NAME_x4.EXT beside the input."
        ),
    ] = None,
    scale: Annotated[
        int | None, typer.Option("-s", "--scale", help="2, 3 or 4; default that of -n, or 4.")
    ] = None,
    net: Annotated[
        str | None,
        typer.Option("-n", "--net", "--model-name", help="Name of a net (see `bitsr models`) or .bsr file."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("-m", "--models", help="Folder of .bsr files where -n is looked up.")
    ] = None,
    tile: Annotated[
        int,
        typer.Option("-t", "--tile", min=0, help="Rows of a strip, 0 automatic; changes memory, no pixel."),
    ] = 0,
    format: Annotated[
        str, typer.Option("-f", "--format", "--ext", help="auto, png, jpg, webp or tif.")
    ] = "auto",
    quality: Annotated[
        int, typer.Option("-q", "--quality", min=1, max=100, help="Of JPEG and WebP, 1 to 100.")
    ] = 95,
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="Take sub-folders along, mirrored.")
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave outputs that are there.")
    ] = False,
    threads: Annotated[
        str, typer.Option("-j", "--threads", help="N, or load:proc:save; 0 is every CPU.")
    ] = "0",
    ensemble: Annotated[
        bool, typer.Option("-x", "--ensemble", help="Mean of 8 flips and turns: 8 times the work.")
    ] = False,
    gpu: Annotated[
        str | None, typer.Option("-g", "--gpu-id", help="Accepted and ignored: bitsr needs no GPU.")
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more.")] = False,
) -> None:
    """Upscale a picture, or every picture of a folder."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .. import batch as jobs
    from ..upscaler import ZOO, choose
    from ..upscaler import upscale as upscale_file

    if folder is not None and not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; -n names a net, -m a folder of nets")
    upscaler = choose(net, scale, folder=folder or ZOO, threads=_threads(threads))
    todo = jobs.plan(input, output, upscaler.scale, format=format, recursive=recursive)
    if skip_existing:
        todo = [job for job in todo if not job.output.exists()]
    failed, pixels, start = [], 0, time.perf_counter()
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        if verbose:
            engine = upscaler.engine
            console.print(f"{upscaler.name}, x{upscaler.scale}, {engine.isa}, {engine.threads} threads")
        for job in todo:
            task = bar.add_task(job.input.name, total=None)
            try:
                job.make_folder()
                height, width = upscale_file(
                    job.input,
                    job.output,
                    net=upscaler,
                    format=job.format,
                    quality=quality,
                    tile=tile,
                    ensemble=ensemble,
                    progress=lambda done, total, task=task: bar.update(task, completed=done, total=total),
                    note=lambda text, job=job: console.print(f"bitsr: {job.input}: note: {text}"),
                )
                pixels += height * width
                if verbose:
                    console.print(f"{job.input} -> {job.output}, {width} x {height}")
            except (OSError, ValueError, MemoryError) as error:
                text = _reason(error)
                failed.append(text if text.startswith(f"{job.input}:") else f"{job.input}: {text}")
            bar.remove_task(task)
    seconds = time.perf_counter() - start
    for text in failed:
        _say(text)
    if made := len(todo) - len(failed):
        pictures = "1 picture" if made == 1 else f"{made} pictures"
        console.print(
            f"{pictures}, {pixels / 1e6:.1f} MP in {seconds:.1f} s, {pixels / 1e6 / seconds:.1f} MP/s"
        )
    if failed:
        raise typer.Exit(1)


@app.command()
def models() -> None:
    """List the nets that come with bitsr."""
    from ..upscaler import models

    for model in models():
        print(f"{model.name:<24} x{model.scale}  {model.size / 1024:6.0f} KiB")


@app.command()
def info(
    net: Annotated[
        str,
        typer.Argument(help="Name of a net (see `bitsr models`) or recipe, .bsr, checkpoint or recipe file."),
    ],
    card: Annotated[bool, typer.Option("--card", help="The model card of a packed net instead.")] = False,
) -> None:
    """Show a net: metadata, layers, parameters, MACs, OPs and receptive field."""
    from .. import source
    from ..eval.card import card as model_card
    from ..eval.complexity import describe
    from ..model_file import Packed
    from ..upscaler import find

    if card or source.kind(net) == "packed":
        path = find(net)
        show = model_card if card else describe
        print(show(Packed.read(path), path.stat().st_size), end="")
        return
    try:
        from ..eval import net_complexity as count
    except ImportError as error:
        raise ImportError(f"{error}; what is not packed wants: pip install 'bitsr[train]'") from error
    print(count.describe(net), end="")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or name of a packaged recipe.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="RUN_DIR", help="Folder of the run.")],
    resume: Annotated[
        bool | None,
        typer.Option("--resume/--no-resume", help="Demand or refuse a run to go on from. [default: if any]"),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: train.lr=1e-3; repeatable."),
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option("--max-minutes", min=0, help="Stop with a checkpoint after so long.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")] = "auto",
    devices: Annotated[int, typer.Option("--devices", min=1, help="How many of them, by DDP.")] = 1,
    threads: Annotated[int, typer.Option("-j", "--threads", min=0, help="Of the CPU, 0 automatic.")] = 0,
) -> None:
    """Train a net by a recipe; Ctrl-C stops with a checkpoint, the same command goes on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    try:
        from ..train import run as loop
        from ..train.recipe import load
    except ImportError as error:
        raise ImportError(f"{error}; training wants: pip install 'bitsr[train]'") from error

    wanted = load(recipe, assignments or ())
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=wanted.iterations, state="")

        def report(iteration: int, row: dict | None) -> None:
            bar.update(task, completed=iteration)
            if row is None:
                return
            forms = {"loss": "loss {:.4f}", "psnr_y": "PSNR-Y {:.3f} dB", "it_per_s": "{:.2f} it/s"}
            state = "  ".join(form.format(row[key]) for key, form in forms.items() if key in row)
            bar.update(task, state=state)
            if "psnr_y" in row or not sys.stderr.isatty():
                console.print(f"{iteration}/{wanted.iterations}  lr {row['lr']:.3g}  {state}")

        if wanted.train.adversarial or wanted.data.teachers:
            console.print(f"objective: {wanted.objective}")
        outcome = loop.train(
            wanted,
            output,
            resume=resume,
            device=device,
            devices=devices,
            max_minutes=max_minutes,
            threads=threads or None,
            report=report,
            say=console.print,
        )
    if os.environ.get("LOCAL_RANK", "0") == "0":
        word = "done" if outcome.complete else "stopped, the same command goes on"
        best = f"best validation PSNR-Y {outcome.best:.3f} dB"
        console.print(f"{output}: iteration {outcome.iteration}, {best}, {word}")
    if outcome.signal:
        raise typer.Exit(128 + outcome.signal)


@app.command()
def pack(
    checkpoint: Annotated[Path, typer.Argument(help="last.pt, best.pt or latent.safetensors of a run.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="NET.bsr", help="Model file to write.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the net; default that of the file.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            "--pictures", help="HR pictures to calibrate and check with; default valid/ of the data."
        ),
    ] = None,
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

    packed = pack_checkpoint(checkpoint, name or output.stem, pictures=pictures, note=_say)
    if sets:
        table = evaluate(Engine(packed), sets, name=packed.name)
        packed.metadata["evaluation"] = table.summary()
        print(table.markdown(), end="")
    packed.write(output)
    _say(f"{output}: {output.stat().st_size / 1024:.0f} KiB")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="last.pt, best.pt or latent.safetensors of a run.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="NET.onnx", help="File to write.")],
) -> None:
    """Write a trained net's float simulation as ONNX, for other runtimes; slow and large next to `bitsr pack`."""
    try:
        from ..pack.onnx import export_checkpoint
    except ImportError as error:
        raise ImportError(f"{error}; exporting wants: pip install 'bitsr[onnx]'") from error

    export_checkpoint(checkpoint, output)
    _say(f"{output}: {output.stat().st_size / 1024:.0f} KiB")


@app.command()
def evaluate(
    net: Annotated[str, typer.Argument(help="Name of a net (see `bitsr models`) or .bsr file.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="SETS", help="As --sets.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--sets", help="Test sets: names in --data, or folders. [default: Set5 Set14 B100]"),
    ] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="matlab-y, e2fif, srcnn or rgb.")] = "matlab-y",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the sets. [default: $BITSR_DATA, else ../shared/data]"),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("-x", "--ensemble", help="Mean of 8 flips and turns: 8 times the work.")
    ] = False,
    per_image: Annotated[bool, typer.Option("--per-image", help="A line for every picture, too.")] = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="File for every figure as CSV.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="File for every figure as JSON.")] = None,
    threads: Annotated[int, typer.Option("-j", "--threads", min=0, help="0 is every CPU.")] = 0,
) -> None:
    """Measure PSNR and SSIM of a net on test sets, from its packed bits."""
    from rich.console import Console

    from ..engine import Engine
    from ..eval.evaluate import evaluate
    from ..eval.metrics import PROTOCOLS
    from ..upscaler import find

    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    chosen = PROTOCOLS[protocol].with_self_ensemble() if ensemble else PROTOCOLS[protocol]
    engine = Engine(find(net), threads=threads or None)
    names = [*(sets or []), *(more or [])] or ["Set5", "Set14", "B100"]
    with Console(stderr=True).status("evaluating") as status:
        table = evaluate(
            engine, names, chosen, data=data, progress=lambda row: status.update(f"{row.set} {row.picture}")
        )
    for path, text in ((csv, table.csv), (json, table.json)):
        if path is not None:
            path.write_text(text(), encoding="utf-8")
    print(table.markdown(per_image), end="")


@app.command()
def table(
    sources: Annotated[
        list[str], typer.Argument(metavar="NET...", help="Recipes, checkpoints, packed nets: names or files.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder of the runs and of the table.")
    ],
    sets: Annotated[
        str, typer.Option("--sets", metavar="SET,SET...", help="Test sets: names in --data, or folders.")
    ] = "Set5,Set14,B100",
    budget: Annotated[
        str | None,
        typer.Option("--train", metavar="N|Nm", help="Train each recipe N iterations, or N minutes a call."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of every recipe; repeatable."),
    ] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="matlab-y, e2fif, srcnn or rgb.")] = "matlab-y",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the sets. [default: $BITSR_DATA, else ../shared/data]"),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="HR pictures to calibrate with, as in `bitsr pack`.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")] = "auto",
    threads: Annotated[int, typer.Option("-j", "--threads", min=0, help="Of the CPU, 0 automatic.")] = 0,
) -> None:
    """Compare nets, trained under one budget or loaded, with each other and with published figures.

    The same command goes on where it was stopped; table.md and table.csv grow in FOLDER.
    """
    from rich.console import Console

    try:
        from ..eval.table import FAILED
        from ..eval.table import table as compare
    except ImportError as error:
        raise ImportError(f"{error}; the table wants: pip install 'bitsr[train]'") from error

    with Console(stderr=True).status("") as status:
        made = compare(
            sources,
            output,
            sets=sets.split(","),
            protocol=protocol,
            budget=budget,
            assignments=assignments or (),
            data=data,
            pictures=pictures,
            device=device,
            threads=threads or None,
            report=lambda name, iteration, row: status.update(f"{name}: iteration {iteration}"),
        )
    print(made.markdown(), end="")
    if made.signal:
        raise typer.Exit(128 + made.signal)
    if any(row.how == FAILED for row in made.rows):
        raise typer.Exit(1)


@app.command()
def bench(
    net: Annotated[
        str, typer.Argument(help="Name of a net (see `bitsr models`) or .bsr file.")
    ] = "house-srresnet-x4",
    size: Annotated[str, typer.Option("--size", help="LR picture, WIDTHxHEIGHT.")] = "320x180",
    threads: Annotated[
        int, typer.Option("-j", "--threads", min=0, help="Most threads to try, 0 every CPU.")
    ] = 0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Runs of which the median counts.")] = 5,
) -> None:
    """Measure a net's speed on this machine: every path of the engine, one thread to all."""
    from ..eval.speed import bench, table
    from ..model_file import Packed
    from ..upscaler import find

    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError(f"--size wants WIDTHxHEIGHT, such as 320x180, not {size!r}")
    packed = Packed.read(find(net))
    timings = bench(packed, width=int(width), height=int(height), threads=threads or None, rounds=rounds)
    print(f"{packed.name}, x{packed.scale}, LR {width}x{height}, median of {rounds}\n")
    print(table(timings), end="")
