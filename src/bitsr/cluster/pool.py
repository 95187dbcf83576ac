"""A batch on the cores of this machine: an image a process, each with one thread of the engine.

Processes, not threads: decoding, encoding and colour hold Python's lock now and then, and an image
that crashes a decoder, or for which there is no memory, ends one process.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, BinaryIO

from ..engine import cpus
from .plan import Task
from .worker import Row, Worker, failed

TRIES = 3
"""How often an image is begun whose process ends meanwhile."""


class Isolated:
    """A worker in a process of its own, which begins with the first image. One thread at a time.

    Not by multiprocessing: its processes import the main module first, which on Ray is Ray.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def __call__(self, task: Task) -> Row:
        """As a Worker. A process that ends at work is replaced, and the image tried again, up to
        ``TRIES`` times in all."""
        for _ in range(TRIES):
            if self._closed:
                break
            process = self._process = self._process or self._start()
            assert process.stdin and process.stdout
            # What a process that is killed leaves: a pipe without an end, or half an answer.
            with suppress(OSError, EOFError, pickle.UnpicklingError):
                pickle.dump(task, process.stdin)
                process.stdin.flush()
                return pickle.load(process.stdout)
            self._end(process)
            self._process = None
        return failed(task, f"{task.input}: {TRIES} processes ended at work on it")

    def _start(self) -> subprocess.Popen[bytes]:
        code = f"import sys; sys.path[:] = {sys.path!r}; from bitsr.cluster.pool import serve; serve()"
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with suppress(OSError):  # a process that is killed at once is seen by what it answers
            assert process.stdin
            pickle.dump(self._worker, process.stdin)
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                assert pipe
                pipe.close()

    def stop(self) -> None:
        """Tell the process to end. An image at work is left, and its call returns; any thread may
        ask."""
        self._closed = True
        if process := self._process:
            process.terminate()

    def close(self) -> None:
        """End the process, and wait until it has."""
        self.stop()
        if process := self._process:
            process.wait()

    __del__ = stop


def serve() -> None:
    """The life of such a process: a worker in, then a task in and a row out until the input ends.

    That is also when the asking process is killed; then an image at work is left at once. The next
    run sweeps what is unfinished.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the asking process
    signal.signal(signal.SIGTERM, _leave)
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # Not sys.stdin, which Python closes at its end while the thread waits for it.
    questions = os.fdopen(os.dup(0), "rb")
    threading.Thread(target=_receive, args=(questions, tasks), daemon=True).start()
    worker: Worker = tasks.get()
    with suppress(OSError):
        while True:
            pickle.dump(worker(tasks.get()), answers)
            answers.flush()


def _receive(pipe: BinaryIO, tasks: queue.SimpleQueue[Any]) -> None:
    with suppress(OSError, EOFError, pickle.UnpicklingError):
        while True:
            tasks.put(pickle.load(pipe))
    os._exit(1)


def _leave(number: int, _: Any) -> None:
    """Leave by way of the clean-up, which a second signal does not disturb."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def work(tasks: Sequence[Task], worker: Worker, workers: int = 0) -> Generator[Row]:
    """A row a task, in the order of completion; ``workers`` images at a time, 0 a CPU each."""
    free = [Isolated(worker) for _ in range(min(workers or cpus(), len(tasks)))]
    every = tuple(free)
    busy: dict[Future[Row], Isolated] = {}
    with ThreadPoolExecutor(max(1, len(free))) as threads:
        try:
            for task in tasks:
                if not free:
                    for done in wait(busy, return_when=FIRST_COMPLETED).done:
                        free.append(busy.pop(done))
                        yield done.result()
                isolated = free.pop()
                busy[threads.submit(isolated, task)] = isolated
            while busy:
                for done in wait(busy, return_when=FIRST_COMPLETED).done:
                    del busy[done]
                    yield done.result()
        finally:
            for isolated in every:
                isolated.stop()
            for isolated in every:
                isolated.close()
