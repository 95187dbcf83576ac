"""A batch on the cores of this machine: a process an image, each with one thread of the engine.

Processes, not threads: decoding, encoding and colour hold Python's lock now and then, and an image
that kills a process by way of a decoder ends one image.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from .plan import Task
from .worker import Row, Worker, failed

TRIES = 4
"""How often an image is begun whose worker is killed meanwhile."""


def cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work(tasks: Sequence[Task], worker: Worker, workers: int = 0) -> Generator[Row]:
    """A row a task, in the order of completion; ``workers`` images at a time, 0 a CPU each.

    A worker that is killed is replaced, and its image tried again, up to ``TRIES`` times in all.
    """
    todo = deque(tasks)
    tries: Counter[str] = Counter()
    busy: dict[Connection, tuple[BaseProcess, Task]] = {}
    idle: list[tuple[Connection, BaseProcess]] = []
    limit = min(workers or cpus(), len(todo))
    try:
        while todo or busy:
            while todo and len(busy) < limit:
                connection, process = idle.pop() if idle else _start(worker)
                task = todo.popleft()
                tries[task.name] += 1
                with suppress(OSError):  # a dead worker is seen below
                    connection.send(task)
                busy[connection] = process, task
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                process, task = busy.pop(ready)
                try:
                    row: Row = ready.recv()
                except (EOFError, OSError):
                    ready.close()
                    process.join()
                    if tries[task.name] < TRIES:
                        todo.appendleft(task)
                        continue
                    row = failed(task, f"{task.input}: {TRIES} workers ended at work on it")
                else:
                    idle.append((ready, process))
                del tries[task.name]
                yield row
    finally:
        every = idle + [(connection, process) for connection, (process, _) in busy.items()]
        for connection, process in every:
            connection.close()
            process.terminate()
        for _, process in every:
            process.join()


def _start(worker: Worker) -> tuple[Connection, BaseProcess]:
    # spawn: libvips does not survive a fork.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(worker, theirs), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _serve(worker: Worker, connection: Connection) -> None:
    """The life of a worker's process: a task in, a row out, until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who waits for us
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            connection.send(worker(connection.recv()))


def _leave(number: int, _: Any) -> None:
    """Leave by way of the clean-up."""
    sys.exit(128 + number)


def _end_with_parent() -> None:
    """Work for nobody is not worth its end: what is unfinished is swept by the next run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
