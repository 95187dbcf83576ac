"""``bitsr upscale``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import BitsrError
from . import reason, say


def _threads(text: str) -> int | None:
    """Threads from "N" or the ncnn family's "load:proc:save", of which proc counts; 0 is every
    CPU."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(p.isdecimal() for p in parts):
        raise BitsrError(f"-j wants N or load:proc:save, not {text!r}")
    return int(parts[len(parts) // 2]) or None


def upscale(
    input: Annotated[str, typer.Option("-i", "--input", help="Image, or folder of images.")],
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", help="Image or folder to write; default NAME_x4.EXT beside the input."
        ),
    ] = None,
    scale: Annotated[
        int | None, typer.Option("-s", "--scale", help="2, 3 or 4; default that of -n, or 4.")
    ] = None,
    net: Annotated[
        str | None,
        typer.Option(
            "-n",
            "--net",
            "--model-name",
            help="Name of a net (see `bitsr models`), .bsr file, or auto: bitsr-m, and for compressed "
            "or noisy images bitsr-photo-m. [default: auto]",
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("-m", "--models", help="Folder of .bsr files where -n is looked up.")
    ] = None,
    tile: Annotated[
        int,
        typer.Option("-t", "--tile", min=0, help="Rows of a strip, 0 automatic; changes memory, no pixel."),
    ] = 0,
    format: Annotated[
        str, typer.Option("-f", "--format", "--ext", help="auto, png, jpg, webp, tif or gif.")
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
        bool, typer.Option("-x", "--ensemble", help="Mean of 8 flips and rotations: 8 times the work.")
    ] = False,
    rgb: Annotated[
        bool, typer.Option("--rgb", help="The net on red, green and blue: 3 times the work.")
    ] = False,
    gpu: Annotated[
        str | None, typer.Option("-g", "--gpu-id", help="Accepted and ignored: bitsr needs no GPU.")
    ] = None,
    first: Annotated[
        bool, typer.Option("--first", help="Of several frames or pages, the first alone.")
    ] = False,
    allow_damaged: Annotated[
        bool, typer.Option("--allow-damaged", help="Take damaged images as far as they can be decoded.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more.")] = False,
) -> None:
    """Upscale an image, or every image of a folder."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .. import batch
    from ..auto import Chooser, choose
    from ..zoo import ZOO

    if folder is not None and not folder.is_dir():
        raise BitsrError(f"{folder}: no such folder; -n names a net, -m a folder of nets")
    upscaler = choose(net, scale, folder=folder or ZOO, threads=_threads(threads))
    default = upscaler.clean if isinstance(upscaler, Chooser) else upscaler
    jobs = batch.plan(input, output, upscaler.scale, format=format, recursive=recursive)
    if skip_existing:
        jobs = [job for job in jobs if not job.output.exists()]
    failed: list[str] = []
    pixels, start = 0, time.perf_counter()
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        if verbose:
            engine = default.engine
            console.print(f"{default.name}, x{default.scale}, {engine.isa}, {engine.threads} threads")
        if unread := batch.passed_over(input, output, upscaler.scale, recursive):
            console.print(f"bitsr: {input}: note: {unread}")
        task = bar.add_task("")

        def begin(job: batch.Job) -> None:
            nonlocal task
            bar.remove_task(task)
            task = bar.add_task(job.input.name, total=None)

        for result in batch.run(
            jobs,
            upscaler,
            quality=quality,
            tile=tile,
            ensemble=ensemble,
            rgb=rgb,
            first=first,
            allow_damaged=allow_damaged,
            begin=begin,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            note=lambda job, text: console.print(f"bitsr: {job.input}: note: {text}"),
        ):
            job = result.job
            if result.error:
                text = reason(result.error)
                failed.append(text if text.startswith(f"{job.input}:") else f"{job.input}: {text}")
                continue
            pixels += result.height * result.width
            if verbose:
                console.print(f"{job.input} -> {job.output}, {result.width} x {result.height}")
                if result.why:
                    keep = f"-n {default.name} keeps it as it is"
                    console.print(f"{job.input}: {result.why}: {result.net}; {keep}")
    seconds = time.perf_counter() - start
    for text in failed:
        say(text)
    if made := len(jobs) - len(failed):
        images = "1 image" if made == 1 else f"{made} images"
        console.print(
            f"{images}, {pixels / 1e6:.1f} MP in {seconds:.1f} s, {pixels / 1e6 / seconds:.1f} MP/s"
        )
    if failed:
        raise typer.Exit(1)
