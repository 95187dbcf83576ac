"""A batch from its plan to its last image: what is done is left, what is made is remembered."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from ..errors import BitsrError
from .manifest import Manifest
from .plan import FOLDER, Plan, Task
from .stores import Local, store
from .worker import Row, Worker

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

KEPT = "kept"
"""The status of an image that an earlier run has made."""


def run(
    plan: Plan, worker: Worker, work: Callable[[Sequence[Task], Worker], Generator[Row]]
) -> Generator[tuple[str, Row]]:
    """Upscale what of a plan is not done yet; yields a status and a row an image, in any order.

    An image is done where its output is there, with the size that it was made with, of an input of
    the same size and tag, by the same nets and options. Its status is "kept"; others are "made" or
    "failed". work: yields a row a task, such as ``pool.work`` and ``on_ray.work``. Largest inputs
    come first, so that none of them begins when all others have ended. Close the generator if you
    leave it early: what is done is written then.

    Raises BitsrError where another run has the folder, and OSError where its store does.
    """
    with _alone(plan.output):
        at, made_by = store(plan.output), worker.made_by()
        manifest = Manifest(plan.output, made_by)
        rows = manifest.load()
        there = {file.path: file.size for file in at.find(plan.output)} if rows else {}
        todo: list[Task] = []
        kept: list[Row] = []
        for task in plan.tasks:
            mark, row = rows.get(task.name, ("", None))
            same = row and (row.size, row.tag, row.input) == (task.size, task.tag, task.input)
            if row and same and mark == made_by and there.get(task.output) == row.output_bytes:
                kept.append(row)
            else:
                rows.pop(task.name, None)
                todo.append(task)
        # Before an output is made anew nothing says any more that it is done.
        manifest.replace(rows)
        del rows, there
        while kept:  # which are forgotten meanwhile
            yield KEPT, kept.pop()
        todo.sort(key=lambda task: -task.size)
        try:
            with closing(work(todo, worker)) as results:
                for row in results:
                    if not row.error:
                        manifest.add(row)
                    yield "failed" if row.error else "made", row
        finally:
            manifest.flush()
        manifest.replace(manifest.load())


@contextmanager
def _alone(output: str) -> Generator[None]:
    """One run at a time in a folder of this machine, by a lock; unfinished files of killed ones
    go.

    In a store there is no lock. It is tried instead, for it may give what it does not take.
    """
    at = store(output)
    if not isinstance(at, Local):
        tried = f"{output}/{FOLDER}/tried"
        at.write(tried, b"")
        at.remove(tried)
        yield
        return
    folder = Path(output) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BitsrError(f"{output}: another run is at work in this folder") from None
            except OSError:  # a file system without locks
                pass
        shutil.rmtree(folder / "parts", ignore_errors=True)
        yield
        shutil.rmtree(folder / "parts", ignore_errors=True)
    finally:
        os.close(lock)
