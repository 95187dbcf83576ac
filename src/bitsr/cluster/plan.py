"""Which images a batch has, and where their outputs go: known and checked before any work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from .. import names, photo
from ..errors import BitsrError
from .stores import File, fixed_part, is_pattern, is_url, place, store

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
    format = names.format_named(format)
    source, output = place(source), place(output)
    if source == output:
        raise BitsrError(f"{output}: the output folder is the input folder")
    found, note = _inputs(source, output)
    if not found:
        raise BitsrError(f"{source}: no images" + (f"; {note}" if note else ""))
    for name in found:
        if ".." in re.split(r"[/\\]", name):  # a store's names are any text
            raise BitsrError(f"{source}: {name}: the output would lie outside the output folder")
    targets = [names.target(PurePosixPath(name), format) for name in found]
    wanted = [
        (path, path.with_suffix(suffix))
        for path, (_, suffix) in zip(map(PurePosixPath, found), targets, strict=True)
    ]
    tasks = [
        Task(str(name), file.path, f"{output}/{name}", kind, file.size, file.tag)
        for name, file, (kind, _) in zip(names.told_apart(wanted), found.values(), targets, strict=True)
    ]
    _check(tasks)
    return Plan(sorted(tasks, key=lambda task: task.name), output, note or "")


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
    taken = {name: file for name, file in named.items() if names.is_image(PurePosixPath(name))}
    return taken, photo.passed_over(map(Path, named))


def _listed(source: str) -> dict[str, File]:
    """The files of a list. One that cannot be seen has size 0, and fails when its turn comes."""
    if unread := photo.passed_over([Path(source)]):
        raise BitsrError(f"{source}: {unread}")
    data = store(source).read(source)
    if b"\0" in data:
        raise BitsrError(f"{source}: neither an image nor a text file of paths")
    lines = data.decode("utf-8-sig", "surrogateescape").splitlines()
    folder = source.rpartition("/")[0]
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, lines)):
        name, path = line, f"{folder}/{line}"
        if is_url(line) or Path(line).expanduser().is_absolute():
            path = place(line)
            name = path.partition("://")[2].lstrip("/") or path[len(Path(path).anchor) :]
        if not PurePosixPath(name).name:
            raise BitsrError(f"{source}: {line}: a folder; a list is of files")
        found[str(PurePosixPath(name))] = path

    def look(path: str) -> File:
        try:
            return store(path).stat(path)
        except (OSError, BitsrError):
            return File(path, 0, "")

    with ThreadPoolExecutor(_REQUESTS) as pool:
        return dict(zip(found, pool.map(look, found.values()), strict=True))


def _check(tasks: Sequence[Task]) -> None:
    """``names.check``, which asks the system once a folder."""

    @cache
    def resolved(folder: str) -> str:
        return folder if "://" in folder else Path(folder).resolve().as_posix()

    def real(path: str) -> str:
        folder, _, name = path.rpartition("/")
        return f"{resolved(folder)}/{name}"

    inputs = {real(task.input) for task in tasks}
    links = (Path(task.input) for task in tasks if "://" not in task.input)
    inputs.update(path.resolve().as_posix() for path in links if path.is_symlink())
    names.check([(task.input, task.output) for task in tasks], real, inputs)
