"""Many images: what to read and what to write, expanded before any work begins, and the work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import photo
from .auto import Chooser
from .errors import BitsrError
from .upscaler import Upscaler, upscale


@dataclass(frozen=True)
class Job:
    """One image: input file, output file, output format (a key of photo.FORMATS).

    folder: whether the output's directory is ours to make; that of an output named as a file must
    exist.
    """

    input: Path
    output: Path
    format: str
    folder: bool = False

    def make_folder(self) -> None:
        """Make the output's directory where that is ours to do. Raises OSError."""
        if self.folder:
            self.output.parent.mkdir(parents=True, exist_ok=True)


def plan(
    input: str | Path, output: str | Path | None, scale: int, *, format: str = "auto", recursive: bool = False
) -> list[Job]:
    """The jobs that a command line asks for, in the order of their names.

    input: a file, or a folder, of which every file with an image's suffix is taken (with recursive,
    those of its sub-folders too, mirrored in the output). output: a file, or a folder; default
    NAME_x4.EXT or NAME_x4/ beside the input. format: "auto" keeps the input's where it can be
    written, else PNG. Raises OSError for an input that is not there and BitsrError for what cannot
    be meant, such as an output that is an input, or one output of two inputs.
    """
    folder_wanted = output is not None and str(output).endswith(("/", "\\"))
    if not str(input) or (output is not None and not str(output)):
        raise BitsrError("an input or output of no name; the current folder is .")
    input, output = Path(input), None if output is None else Path(output)
    if format != "auto" and format not in photo.FORMATS:
        format = photo.format_of(f"x.{format}") or format  # jpeg, tiff
    if format != "auto" and format not in photo.FORMATS:
        raise BitsrError(f"no output format {format}; there are auto, {', '.join(photo.FORMATS)}")

    def target(path: Path) -> tuple[str, str]:
        """Format and suffix of an input's output."""
        kept = photo.format_of(path)
        # GIF has too few colours for what an image becomes: only where it is asked for.
        kept = None if kept == "gif" else kept
        if format == "auto":
            return (kept, path.suffix) if kept else ("png", ".png")
        return format, path.suffix if kept == format else f".{format}"

    if input.is_dir():
        return _folder(input, output, scale, target, recursive)
    regular = input.is_file()
    input.stat()  # the system's own words for what is missing
    kind, suffix = target(input)
    if output is None and not regular:
        raise BitsrError(f"{input}: is no file beside which an output could lie; give -o")
    if output is None:
        return [Job(input, input.with_name(f"{input.stem}_x{scale}{suffix}"), kind)]
    if folder_wanted or output.is_dir():
        job = Job(input, output / (input.stem + suffix), kind, folder=True)
    else:
        named = photo.format_of(output)
        if format == "auto" and named is None:
            raise BitsrError(f"{output}: name it .png, .jpg, .webp or .tif, or give -f")
        if format != "auto" and named not in (None, format):
            raise BitsrError(f"{output}: its suffix says {named}, -f says {format}")
        job = Job(input, output, named or format)
    _spare_inputs([job], [input])
    return [job]


def passed_over(
    input: str | Path, output: str | Path | None, scale: int, recursive: bool = False
) -> str | None:
    """What ``plan`` passes over of a folder, in one line: images of formats that are not read."""
    input = Path(input)
    if not input.is_dir():
        return None
    inside = _folder_of(input, None if output is None else Path(output), scale).resolve()
    return photo.passed_over(
        path
        for path in (input.rglob("*") if recursive else input.iterdir())
        if not path.name.startswith(".") and path.is_file() and inside not in path.resolve().parents
    )


def _folder_of(input: Path, output: Path | None, scale: int) -> Path:
    whole = input.resolve()
    return whole.with_name(f"{whole.name}_x{scale}") if output is None else output


@dataclass(frozen=True)
class Result:
    """How a job ended: SR size in pixels (0 where it failed), and why it failed; the net that made
    it, and where a photo net was chosen for it, why (``auto.faults``)."""

    job: Job
    height: int = 0
    width: int = 0
    error: Exception | None = None
    net: str = ""
    why: str = ""


def run(
    jobs: Iterable[Job],
    upscaler: Upscaler | Chooser,
    *,
    quality: int = 95,
    tile: int = 0,
    ensemble: bool = False,
    rgb: bool = False,
    first: bool = False,
    allow_damaged: bool = False,
    begin: Callable[[Job], object] = lambda job: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
    note: Callable[[Job, str], object] = lambda job, text: None,
) -> Iterator[Result]:
    """Upscale the jobs one after another, and yield how each ended; a failure does not stop the
    rest.

    quality, tile, ensemble, rgb, first, allow_damaged: as in ``upscaler.upscale``. begin: called
    before each job. progress: called with (SR rows done, SR rows in all) of the job at work. note:
    called with what a user should know of a job. A failure is an OSError, ValueError or MemoryError; others are raised.
    """
    for job in jobs:
        begin(job)
        try:
            job.make_folder()
            chosen, why = (
                upscaler.pick(job.input, allow_damaged=allow_damaged)
                if isinstance(upscaler, Chooser)
                else (upscaler, "")
            )
            height, width = upscale(
                job.input,
                job.output,
                net=chosen,
                format=job.format,
                quality=quality,
                tile=tile,
                ensemble=ensemble,
                rgb=rgb,
                first=first,
                allow_damaged=allow_damaged,
                progress=progress,
                note=lambda text, job=job: note(job, text),
            )
        except (OSError, ValueError, MemoryError) as error:
            yield Result(job, error=error)
        else:
            yield Result(job, height, width, net=chosen.name, why=why)


def _folder(
    input: Path,
    output: Path | None,
    scale: int,
    target: Callable[[Path], tuple[str, str]],
    recursive: bool,
) -> list[Job]:
    output = _folder_of(input, output, scale)
    if output.exists() and not output.is_dir():
        raise BitsrError(f"{output}: the input is a folder, so the output must be one")
    inside = output.resolve()
    files = sorted(
        path
        for path in (input.rglob("*") if recursive else input.iterdir())
        # Dot files: a Mac leaves a ._NAME.jpg beside images it copies. Earlier results are no
        # input.
        if path.suffix.lower() in photo.SUFFIXES and not path.name.startswith(".") and path.is_file()
        if inside == input.resolve() or inside not in path.resolve().parents
    )
    if not files:
        text = f"{input}: no images in this folder" + ("" if recursive else " (-r takes sub-folders)")
        unread = passed_over(input, output, scale, recursive)
        raise BitsrError(f"{text}; {unread}" if unread else text)
    outputs = [(output / path.relative_to(input)).with_suffix(target(path)[1]) for path in files]
    count = Counter(outputs)
    jobs: list[Job] = []
    for path, out in zip(files, outputs, strict=True):
        if (
            count[out] > 1 and out.suffix != path.suffix
        ):  # a.gif and a.png, both to a.png: a.gif.png and a.png
            out = out.with_name(path.name + out.suffix)
        jobs.append(Job(path, out, target(path)[0], folder=True))
    _keep_apart(jobs)
    _spare_inputs(jobs, files)
    return jobs


def _keep_apart(jobs: list[Job]) -> None:
    """Raise BitsrError where two jobs have one output, also by way of a link."""
    taken: dict[Path, Job] = {}
    for job in jobs:
        first = taken.setdefault(job.output.resolve(), job)
        if first is not job:
            raise BitsrError(f"{first.input} and {job.input} would both be written to {job.output}")


def _spare_inputs(jobs: list[Job], inputs: list[Path]) -> None:
    taken = {path.resolve() for path in inputs}
    for job in jobs:
        if job.output.resolve() in taken:
            raise BitsrError(f"{job.output}: the output would overwrite an input")
