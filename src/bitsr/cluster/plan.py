"""Which images a batch has, and where their outputs go: known and checked before any work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from .. import photo
from ..errors import BitsrError
from .stores import File, fixed_part, is_pattern, place, store

FOLDER = ".bitsr"
"""In the output folder: what is done (``manifest``), and files that are not finished."""
_REQUESTS = 32
"""Files of a list that are looked up at a time, for a store may be far away."""


@dataclass(frozen=True, slots=True)
class Task:
    """One image. name: of the output, relative to the output folder. input, output: places. format: a
    key of photo.FORMATS. size, tag: of the input (``stores.File``)."""

    name: str
    input: str
    output: str
    format: str
    size: int
    tag: str


@dataclass(frozen=True)
class Plan:
    """The tasks of a batch by name, its output folder, and what a user should know of it, or ""."""

    tasks: list[Task]
    output: str
    note: str = ""


def plan(source: str, output: str, *, format: str = "auto") -> Plan:
    """The tasks that a command line asks for.

    source: a folder, whose sub-folders are mirrored; a pattern with wildcards, which mirrors what
    comes after its fixed folders; an image; or a text file with a path or URL a line. Its relative
    paths start at its own folder and are mirrored, others keep their whole path below the output
    folder. Hidden files, and what lies in an output folder inside the source, are left out. output:
    a folder. Both may be URLs. format: "auto" keeps the input's where it can be written, else PNG.

    Raises OSError for what is not there or cannot be read, and BitsrError for what cannot be meant,
    such as an output that is an input, or one output of two inputs.
    """
    if not source or not output:
        raise BitsrError("an input or output of no name; the current folder is .")
    if format != "auto" and format not in photo.FORMATS:
        format = photo.format_of(f"x.{format}") or format
    if format != "auto" and format not in photo.FORMATS:
        raise BitsrError(f"no output format {format}; there are auto, {', '.join(photo.FORMATS)}")
    source, output = place(source), place(output)
    if source == output:
        raise BitsrError(f"{output}: the output folder is the input folder")
    found, note = _inputs(source, output)
    if not found:
        raise BitsrError(f"{source}: no images" + (f"; {note}" if note else ""))
    targets = [_target(name, format) for name in found]
    count = Counter(name for name, _ in targets)
    tasks: list[Task] = []
    for (name, file), (target, kind) in zip(found.items(), targets, strict=True):
        # a.gif and a.png, both to a.png: a.gif.png and a.png
        if count[target] > 1 and PurePosixPath(target).suffix != PurePosixPath(name).suffix:
            target = name + PurePosixPath(target).suffix
        tasks.append(Task(target, file.path, f"{output}/{target}", kind, file.size, file.tag))
    _check(tasks)
    return Plan(sorted(tasks, key=lambda task: task.name), output, note or "")


def _target(name: str, format: str) -> tuple[str, str]:
    """Name and format of an input's output."""
    path = PurePosixPath(name)
    kept = photo.format_of(name)
    # GIF has too few colours for what an image becomes: only where it is asked for.
    if format == "auto" and (kept is None or kept == "gif"):
        format = "png"
    elif format in ("auto", kept):
        return name, kept or format
    return str(path.with_suffix(f".{format}")), format


def _inputs(source: str, output: str) -> tuple[dict[str, File], str | None]:
    """The files of a source by relative name, and what is passed over, in a line."""
    at = store(source)
    if at.is_folder(source):
        root, files = source, at.find(source)
    elif is_pattern(source) and not at.is_file(source):
        root, files = fixed_part(source), at.glob(source)
    elif photo.format_of(source) or PurePosixPath(source).suffix.lower() in photo.SUFFIXES:
        return {PurePosixPath(source).name: at.stat(source)}, None
    else:
        return _listed(source), None
    named = {
        file.path[len(root) :].lstrip("/"): file
        for file in files
        if not file.path.startswith(f"{output}/") and not PurePosixPath(file.path).name.startswith(".")
    }
    taken = {name: f for name, f in named.items() if PurePosixPath(name).suffix.lower() in photo.SUFFIXES}
    return taken, photo.passed_over(map(Path, named))


def _listed(source: str) -> dict[str, File]:
    """The files of a list. One that is not there has size 0, and fails when its turn comes."""
    lines = store(source).read(source).decode("utf-8", "surrogateescape").splitlines()
    folder = source.rpartition("/")[0]
    names: dict[str, str] = {}
    for line in filter(None, map(str.strip, lines)):
        name, path = line, f"{folder}/{line}"
        if "://" in line or Path(line).expanduser().is_absolute():
            path = place(line)
            name = path.partition("://")[2].lstrip("/") or path[len(Path(path).anchor) :]
        if ".." in PurePosixPath(name).parts:
            raise BitsrError(f"{source}: {line}: the output would lie outside the output folder")
        names[str(PurePosixPath(name))] = path

    def look(path: str) -> File:
        try:
            return store(path).stat(path)
        except OSError:
            return File(path, 0, "")

    with ThreadPoolExecutor(_REQUESTS) as pool:
        return dict(zip(names, pool.map(look, names.values()), strict=True))


def _check(tasks: Iterable[Task]) -> None:
    """Raise BitsrError where two tasks have one output, or an output is an input, also by way of
    links."""

    @cache
    def resolved(folder: str) -> str:
        return folder if "://" in folder else Path(folder).resolve().as_posix()

    def real(path: str) -> str:
        folder, _, name = path.rpartition("/")
        return f"{resolved(folder)}/{name}"

    tasks = list(tasks)
    inputs = {real(task.input) for task in tasks}
    links = (Path(task.input) for task in tasks if "://" not in task.input)
    inputs.update(path.resolve().as_posix() for path in links if path.is_symlink())
    taken: dict[str, Task] = {}
    for task in tasks:
        output = real(task.output)
        first = taken.setdefault(output, task)
        if first is not task:
            raise BitsrError(f"{first.input} and {task.input} would both be written to {task.output}")
        if output in inputs:
            raise BitsrError(f"{task.output}: the output would overwrite an input")
