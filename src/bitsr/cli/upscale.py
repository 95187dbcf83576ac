"""``bitsr upscale``."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BitsrError, printable
from . import net_folder, reason, say

if TYPE_CHECKING:
    from ..batch import Job, Result

_FILES, _SIZE, _NET, _FORMAT, _RUN = "Files", "Size", "Net", "Format and metadata", "Run"


def _threads(text: str) -> tuple[int | None, int | None]:
    """Threads of the net and outputs at a time, from "N" or the ncnn family's "load:proc:save"; None
    is the default, and 0 of threads every CPU."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(p.isdecimal() for p in parts):
        raise BitsrError(f"-j wants N or load:proc:save, not {text!r}")
    if len(parts) == 1:
        return int(text) or None, None
    return int(parts[1]) or None, min(int(parts[2]), 64) or None


def upscale(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Images, folders of images, or - for standard input."),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option("-i", "--input", help="Another way to name an input.", rich_help_panel=_FILES),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="Image or folder to write, or - for standard output; default NAME_x4.EXT beside the input.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    recursive: Annotated[
        bool,
        typer.Option("-r", "--recursive", help="Take sub-folders along, mirrored.", rich_help_panel=_FILES),
    ] = False,
    suffix: Annotated[
        str | None,
        typer.Option("--suffix", help="End of the names of outputs, such as _large.", rich_help_panel=_FILES),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace outputs that are there (default).", rich_help_panel=_FILES),
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave outputs that are there.", rich_help_panel=_FILES)
    ] = False,
    fail_existing: Annotated[
        bool,
        typer.Option("--fail-existing", help="Do nothing if an output is there.", rich_help_panel=_FILES),
    ] = False,
    scale: Annotated[
        float | None,
        typer.Option(
            "-s",
            "--scale",
            help="1 to 64, also 1.5 and the like; default that of -n, or 4.",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", help="Width of the result in pixels.", rich_help_panel=_SIZE)
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(
            "--height", help="Height in pixels; with --width it fits into both.", rich_help_panel=_SIZE
        ),
    ] = None,
    max_side: Annotated[
        int | None, typer.Option("--max-side", help="Longer side in pixels.", rich_help_panel=_SIZE)
    ] = None,
    net: Annotated[
        str | None,
        typer.Option(
            "-n",
            "--net",
            "--model-name",
            help="A name of `bitsr models`, with its scale or without (bitsr-l); a .bsr file; or auto: bitsr-m, "
            "and bitsr-photo-m for compressed or noisy images. Default: auto.",
            rich_help_panel=_NET,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "-m", "--models", help="Folder of .bsr files where -n is looked up.", rich_help_panel=_NET
        ),
    ] = None,
    ensemble: Annotated[
        bool,
        typer.Option(
            "-x",
            "--ensemble",
            help="Mean of 8 flips and rotations: 8 times the work.",
            rich_help_panel=_NET,
        ),
    ] = False,
    rgb: Annotated[
        bool,
        typer.Option(
            "--rgb", help="Run the net on red, green and blue: 3 times the work.", rich_help_panel=_NET
        ),
    ] = False,
    format: Annotated[
        str,
        typer.Option(
            "-f",
            "--format",
            "--ext",
            help="auto, png, jpg, webp, tif, gif, avif or jxl.",
            rich_help_panel=_FORMAT,
        ),
    ] = "auto",
    quality: Annotated[
        int,
        typer.Option(
            "-q",
            "--quality",
            min=1,
            max=100,
            help="Of JPEG, WebP, AVIF and JPEG XL.",
            rich_help_panel=_FORMAT,
        ),
    ] = 95,
    lossless: Annotated[
        bool | None,
        typer.Option(
            "--lossless/--lossy",
            help="Of WebP, AVIF and JPEG XL; default lossy, unless the input is a lossless WebP.",
            rich_help_panel=_FORMAT,
            show_default=False,
        ),
    ] = None,
    compression: Annotated[
        int,
        typer.Option(
            "--compression", min=0, max=9, help="Of PNG, 0 fast to 9 small.", rich_help_panel=_FORMAT
        ),
    ] = 6,
    progressive: Annotated[
        bool,
        typer.Option(
            "--progressive", help="JPEG that shows coarse first; takes more memory.", rich_help_panel=_FORMAT
        ),
    ] = False,
    first: Annotated[
        bool,
        typer.Option(
            "--first", help="Take only the first of several frames or pages.", rich_help_panel=_FORMAT
        ),
    ] = False,
    strip_metadata: Annotated[
        bool,
        typer.Option(
            "--strip-metadata",
            help="Drop EXIF, XMP, IPTC and texts; keep the colour profile.",
            rich_help_panel=_FORMAT,
        ),
    ] = False,
    dpi: Annotated[
        float | None,
        typer.Option(
            "--dpi", help="Resolution to note in the file; changes no pixel.", rich_help_panel=_FORMAT
        ),
    ] = None,
    preserve: Annotated[
        bool,
        typer.Option(
            "--preserve", help="Keep the input's modification time and permissions.", rich_help_panel=_FORMAT
        ),
    ] = False,
    allow_damaged: Annotated[
        bool,
        typer.Option(
            "--allow-damaged",
            help="Take damaged images as far as they can be decoded.",
            rich_help_panel=_FORMAT,
        ),
    ] = False,
    threads: Annotated[
        str,
        typer.Option(
            "-j",
            "--threads",
            help="N, or load:proc:save (save: outputs at a time); 0 is every CPU.",
            rich_help_panel=_RUN,
        ),
    ] = "0",
    tile: Annotated[
        int,
        typer.Option(
            "-t",
            "--tile",
            min=0,
            help="Rows of a strip; 0 is automatic. Changes memory, no pixel.",
            rich_help_panel=_RUN,
        ),
    ] = 0,
    gpu: Annotated[
        str | None,
        typer.Option(
            "-g", "--gpu-id", help="Accepted and ignored: bitsr needs no GPU.", rich_help_panel=_RUN
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be made, make nothing.", rich_help_panel=_RUN),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print a line of JSON for each image.", rich_help_panel=_RUN),
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more.", rich_help_panel=_RUN)] = False,
) -> None:
    """Upscale images and folders of images."""
    from rich.console import Console

    from .. import batch, photo
    from ..auto import choose
    from ..pipeline import Settings
    from ..sizes import Size

    inputs = [*(images or []), *(input or [])]
    if not inputs:
        raise BitsrError("name an image or a folder; bitsr upscale --help says more")
    nets_from = net_folder(folder)
    if overwrite + skip_existing + fail_existing > 1:
        raise BitsrError("--overwrite, --skip-existing or --fail-existing, one of them")
    if as_json and output == batch.STANDARD:
        raise BitsrError("--json and -o - both want standard output")
    for name, number, stream in (("input", 0, sys.stdin), ("output", 1, sys.stdout)):
        wanted = batch.STANDARD in (inputs if number == 0 else [output])
        if wanted and stream is not None and stream.isatty():  # pyright: ignore[reportUnnecessaryComparison] (closed)
            raise BitsrError(f"standard {name} is a terminal, not an image")
    settings = Settings(
        size=Size(scale, width, height, max_side),
        tile=tile,
        ensemble=ensemble,
        rgb=rgb,
        first=first,
        allow_damaged=allow_damaged,
        encoding=photo.Encoding(quality, compression, progressive=progressive),
        lossless=lossless,
        metadata=not strip_metadata,
        dpi=dpi,
        preserve=preserve,
    )
    proc, savers = _threads(threads)
    nets = choose(net, scale, folder=nets_from, threads=proc)
    label = settings.size.label(nets.scale)
    jobs = batch.plan(inputs, output, format=format, recursive=recursive, suffix=suffix, label=label)
    if fail_existing and (there := [job for job in jobs if not job.stdout and job.output.exists()]):
        more = f", and {len(there) - 1} more" if len(there) > 1 else ""
        raise BitsrError(f"{there[0].output}: is there{more}")
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    report = _Report(console, len(jobs), nets.clean.name, verbose=verbose, as_json=as_json, dry=dry_run)
    with _at_once(), report:
        if verbose:
            default = nets.clean
            engine = default.engine
            console.print(f"{default.name}, x{default.scale}, {engine.isa}, {engine.threads} threads")
        for path in inputs:
            if unread := batch.passed_over(path, output, recursive=recursive, label=label):
                console.print(f"bitsr: {path}: note: {unread}")
        with closing(
            batch.run(
                jobs,
                nets,
                settings=settings,
                existing=batch.SKIP if skip_existing else batch.FAIL if fail_existing else batch.OVERWRITE,
                savers=savers,
                dry=dry_run,
                begin=report.begin,
                progress=report.progress,
                note=report.note,
            )
        ) as results:
            for result in results:
                report.result(result)
    report.close()
    if report.failed:
        raise typer.Exit(1)


class _Report:
    """What is said of a run: two bars while it is at work, lines, and a summary. A context manager,
    within which the bars are shown."""

    def __init__(
        self, console: Any, jobs: int, default: str, *, verbose: bool, as_json: bool, dry: bool
    ) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.console, self.default = console, default
        self.verbose, self.as_json, self.dry = verbose, as_json, dry
        self.bar = Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())
        self.run = self.bar.add_task("images", total=jobs, visible=jobs > 1)
        self.image = self.bar.add_task("", total=None)
        self.failed: list[str] = []
        self.made = self.skipped = self.pixels = 0
        self.start = time.perf_counter()

    def __enter__(self) -> None:
        self.bar.start()

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def begin(self, job: Job) -> None:
        self.bar.remove_task(self.image)
        self.image = self.bar.add_task(printable(job.input.name), total=None)

    def progress(self, done: int, total: int) -> None:
        self.bar.update(self.image, completed=done, total=total)

    def note(self, job: Job, text: str) -> None:
        self.console.print(printable(f"bitsr: {job.input}: note: {text}"))

    def result(self, result: Result) -> None:
        job = result.job
        self.bar.advance(self.run)
        if self.as_json:
            print(json.dumps(self._line(result)), flush=True)
        if result.error:
            text = reason(result.error)
            self.failed.append(text if text.startswith(f"{job.input}:") else f"{job.input}: {text}")
            return
        if result.skipped:
            self.skipped += 1
            if self.verbose or self.dry or "another" in result.skipped:
                self.console.print(printable(f"bitsr: {job.input}: skipped: {result.skipped}"))
            return
        self.made += 1
        self.pixels += result.height * result.width
        size = f"{result.width} x {result.height}"
        if self.dry and not self.as_json:
            height, width = result.source
            nets = f", {result.net}" if result.net else ""
            print(printable(f"{job.input} -> {job.output}, {width} x {height} to {size}{nets}"))
        elif self.verbose:
            self.console.print(printable(f"{job.input} -> {job.output}, {size}"))
        if self.verbose and result.why:
            keep = f"-n {self.default} keeps it as it is"
            self.console.print(printable(f"{job.input}: {result.why}: {result.net}; {keep}"))

    def _line(self, result: Result) -> dict[str, Any]:
        job, (height, width) = result.job, result.source
        done = "planned" if self.dry else "made"
        return {
            "input": str(job.input),
            "output": str(job.output),
            "status": "failed" if result.error else "skipped" if result.skipped else done,
            "input_size": [width, height] if width else None,
            "output_size": [result.width, result.height] if result.width else None,
            "seconds": round(result.seconds, 4),
            "net_seconds": round(result.net_seconds, 4),
            "net": result.net.split(", ") if result.net else [],
            "why": result.why or result.skipped or None,
            "notes": list(result.notes),
            "error": reason(result.error) if result.error else None,
        }

    def close(self) -> None:
        """The failures and the summary."""
        for text in self.failed:
            say(text)
        if self.made and not self.dry:
            seconds = time.perf_counter() - self.start
            images = "1 image" if self.made == 1 else f"{self.made} images"
            skipped = f", {self.skipped} skipped" if self.skipped else ""
            megapixels = self.pixels / 1e6
            self.console.print(
                f"{images}, {megapixels:.1f} MP in {seconds:.1f} s, {megapixels / seconds:.1f} MP/s{skipped}"
            )


@contextmanager
def _at_once() -> Generator[None]:
    """Within the block the first Ctrl-C is as ever, and a second one ends the process at once."""
    from .. import files

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return

    def second(*_: object) -> None:
        files.sweep()
        os._exit(130)

    def first(*_: object) -> None:
        signal.signal(signal.SIGINT, second)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
