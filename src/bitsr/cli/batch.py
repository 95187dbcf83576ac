"""``bitsr batch``."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from . import net_folder, say

_LINES = 20
"""Failures that are printed; the report has all."""


def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Folder with its sub-folders, 'pattern', image, text file of paths, or URL.",
        ),
    ],
    output: Annotated[str, typer.Argument(metavar="DST", help="Folder, or URL of one.")],
    scale: Annotated[
        float | None, typer.Option("-s", "--scale", help="1 to 64; default that of -n, or 4.")
    ] = None,
    width: Annotated[int | None, typer.Option("--width", help="Width of results in pixels.")] = None,
    height: Annotated[
        int | None, typer.Option("--height", help="Height in pixels; with --width they fit into both.")
    ] = None,
    max_side: Annotated[int | None, typer.Option("--max-side", help="Longer side in pixels.")] = None,
    net: Annotated[
        str | None,
        typer.Option("-n", "--net", help="As in `bitsr upscale`. Default: auto."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("-m", "--models", help="Folder of .bsr files where -n is looked up.")
    ] = None,
    format: Annotated[
        str, typer.Option("-f", "--format", help="auto, png, jpg, webp, tif, gif, avif or jxl.")
    ] = "auto",
    quality: Annotated[
        int, typer.Option("-q", "--quality", min=1, max=100, help="Of JPEG, WebP, AVIF and JPEG XL.")
    ] = 95,
    ensemble: Annotated[
        bool, typer.Option("-x", "--ensemble", help="Mean of 8 flips and rotations: 8 times the work.")
    ] = False,
    rgb: Annotated[
        bool, typer.Option("--rgb", help="Run the net on red, green and blue: 3 times the work.")
    ] = False,
    first: Annotated[
        bool, typer.Option("--first", help="Take only the first of several frames or pages.")
    ] = False,
    allow_damaged: Annotated[
        bool, typer.Option("--allow-damaged", help="Take damaged images as far as they can be decoded.")
    ] = False,
    workers: Annotated[
        int, typer.Option("-j", "--workers", min=0, help="Images at a time, one CPU each; 0 is every CPU.")
    ] = 0,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Run on the Ray cluster at this address (auto, host:6379); local starts one here.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="File with a row for each image: .jsonl or .parquet.")
    ] = None,
) -> None:
    """Upscale very many images, on this machine or on a Ray cluster; a second run goes on where the
    first one ended."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from ..auto import choose
    from ..cluster import KEPT, Worker, on_ray, plan, pool, run
    from ..cluster.report import Report
    from ..errors import BitsrError
    from ..photo import Encoding
    from ..pipeline import Settings
    from ..sizes import Size

    nets_from = net_folder(folder)
    settings = Settings(
        size=Size(scale, width, height, max_side),
        ensemble=ensemble,
        rgb=rgb,
        first=first,
        allow_damaged=allow_damaged,
        encoding=Encoding(quality),
    )
    nets = choose(net, scale, folder=nets_from, threads=1)
    file = Report(report) if report else None
    todo = plan(source, output, format=format)
    if todo.output.startswith("memory://"):
        raise BitsrError(f"{todo.output}: what is there ends with the command; give another output")
    if todo.note:
        say(f"note: {todo.note}")
    worker = Worker(nets, settings, todo.output)
    work = partial(on_ray.work, address=ray, workers=workers) if ray else partial(pool.work, workers=workers)
    count = {"made": 0, KEPT: 0, "failed": 0}
    pixels, start = 0, time.perf_counter()
    # The bar goes by bytes, for images differ in size.
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        if file:
            stack.enter_context(file)
        shown = Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,  # where Ray prints, see on_ray
            disable=not sys.stderr.isatty(),
        )
        bar = stack.enter_context(shown)
        task = bar.add_task("", total=sum(task.size for task in todo.tasks))
        for status, row in stack.enter_context(closing(run(todo, worker, work))):
            count[status] += 1
            if file:
                file.add(row, status)
            if row.error and count["failed"] <= _LINES:
                bar.stop()  # its line would be written over
                say(row.error)
                bar.start()
            if status == "made":
                pixels += row.width * row.height
            bar.update(task, advance=row.size, description=f"{sum(count.values())}/{len(todo.tasks)} images")
    seconds = time.perf_counter() - start
    if (more := count["failed"] - _LINES) > 0:
        say(f"and {more} more" + ("" if report else "; --report FILE lists them"))
    images = "1 image" if count["made"] == 1 else f"{count['made']} images"
    parts = [f"{images}, {pixels / 1e6:.1f} MP in {seconds:.1f} s, {pixels / 1e6 / seconds:.1f} MP/s"]
    parts += [f"{count[KEPT]} were done"] * bool(count[KEPT])
    parts += [f"{count['failed']} failed"] * bool(count["failed"])
    print("; ".join(parts), file=sys.stderr)
    if count["failed"]:
        raise typer.Exit(1)
