"""``bitsr video``."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BitsrError, printable


def _seconds(text: str | None, option: str) -> float | None:
    """Seconds from "75", "1:15" or "0:01:15.5"."""
    if text is None:
        return None
    try:
        parts = [float(part) for part in text.split(":")]
        if len(parts) > 3 or any(part < 0 for part in parts) or any(part >= 60 for part in parts[1:]):
            raise ValueError
    except ValueError:
        raise BitsrError(f"{option} wants seconds, M:SS or H:MM:SS, not {text!r}") from None
    return sum(part * 60**i for i, part in enumerate(reversed(parts)))


def video(
    input: Annotated[str, typer.Argument(metavar="IN", help="Clip, or - for standard input.")],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", help=".mp4, .mov, .mkv, .webm, .gif, .webp or .y4m; - is YUV4MPEG on stdout."
        ),
    ],
    scale: Annotated[
        int | None, typer.Option("-s", "--scale", help="2, 3 or 4; default that of -n, or 2.")
    ] = None,
    net: Annotated[
        str | None,
        typer.Option(
            "-n",
            "--net",
            help="Name of a net (see `bitsr models`), .bsr file, or auto: bitsr-photo-m for clips of "
            "lossy codecs, bitsr-m for others. Default: auto.",
        ),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option("--codec", help="libx264, libx265, libsvtav1, libvpx-vp9, ffv1 or another of FFmpeg's."),
    ] = None,
    crf: Annotated[
        float | None, typer.Option("--crf", help="Quality; lower is better and larger. libx264: 18.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="Effort of the encoder; libx264: ultrafast to veryslow.")
    ] = None,
    pix_fmt: Annotated[
        str | None, typer.Option("--pix-fmt", help="FFmpeg's pixel format; default the input's.")
    ] = None,
    start: Annotated[str | None, typer.Option("--start", help="Seconds or H:MM:SS to begin at.")] = None,
    end: Annotated[str | None, typer.Option("--end", help="Seconds or H:MM:SS to end before.")] = None,
    max_height: Annotated[
        int | None, typer.Option("--max-height", help="Rows at most; more are scaled down (Lanczos).")
    ] = None,
    deinterlace: Annotated[
        bool, typer.Option("--deinterlace", help="Make whole frames of interlaced ones (bwdif).")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished output, with the same options.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("-y", "--overwrite", help="Replace the output.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at a damaged frame, in place of leaving it out.")
    ] = False,
    threads: Annotated[int, typer.Option("-j", "--threads", min=0, help="Threads; 0 is every CPU.")] = 0,
    progress: Annotated[
        str,
        typer.Option(
            "--progress", help="bar, json (a line a second on stdout, with -o - on stderr) or none."
        ),
    ] = "bar",
) -> None:
    """Upscale a clip; sound, subtitles and the rest are copied."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from .. import video as clips
    from ..video.sink import clock

    if progress not in ("bar", "json", "none"):
        raise BitsrError(f"--progress is bar, json or none, not {progress}")
    stop = threading.Event()

    def interrupt(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, interrupt)
        except ValueError:  # not the main thread
            break
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    lines = sys.stderr if output == "-" else sys.stdout
    said = 0.0
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f} frames, {task.fields[rate]:.1f}/s", markup=False),
        TimeRemainingColumn(),
    )
    shown = progress == "bar" and sys.stderr.isatty()
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(printable(Path(output).name), total=None, rate=0.0)

        def tell(now: clips.Progress) -> None:
            nonlocal said
            rate = now.done / now.elapsed if now.elapsed else 0.0
            bar.update(task, completed=now.frames, total=now.total, rate=rate)
            if progress == "json" and now.elapsed - said >= 1:
                said = now.elapsed
                left = (now.total - now.frames) / rate if now.total and rate else None
                fields = {
                    "frame": now.frames,
                    "frames": now.total,
                    "time": round(now.seconds, 3),
                    "fps": round(rate, 3),
                    "elapsed": round(now.elapsed, 1),
                    "left": None if left is None else round(max(left, 0), 1),
                }
                print(json.dumps(fields), file=lines, flush=True)

        begun = time.perf_counter()
        try:
            result = clips.upscale(
                input,
                output,
                scale,
                net,
                codec=codec,
                crf=crf,
                preset=preset,
                pix_fmt=pix_fmt,
                start=_seconds(start, "--start"),
                end=_seconds(end, "--end"),
                max_height=max_height,
                deinterlace=deinterlace,
                strict=strict,
                overwrite=overwrite,
                resume=resume,
                threads=threads or None,
                progress=tell,
                cancel=stop.is_set,
                note=lambda text: console.print(f"bitsr: {printable(f'{input}: note: {text}')}"),
            )
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    spent = time.perf_counter() - begun
    if progress == "json":
        last = {"frame": result.frames, "time": round(result.seconds, 3), "elapsed": round(spent, 1)}
        print(json.dumps({**last, "done": not result.cancelled}), file=lines, flush=True)
    if result.cancelled:
        again = "" if output == "-" else f"; {output} plays to there"
        console.print(f"bitsr: stopped at {clock(result.seconds)}{again}")
        raise typer.Exit(130)
    console.print(
        f"{result.frames} frames of {result.width}x{result.height} by {result.net} in {spent:.1f} s, "
        f"{result.frames / spent:.1f} frames/s"
    )
