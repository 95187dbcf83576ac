"""A batch on a cluster, by Ray Data: a pool of actors with a net each, fed with blocks of tasks.

What travels through Ray is tasks and rows, both small. Images go from the store to an actor's
process and back, so no memory of Ray's depends on their sizes.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import socket
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import BitsrError, reason
from .plan import Task
from .pool import Isolated
from .worker import Row, Worker

LOCAL = "local"
"""As an address: a cluster of this machine, for this run."""
_LEAST_BYTES, _MOST_BYTES, _MOST_TASKS = 1 << 18, 1 << 22, 16
"""Of a block. At a few microseconds a pixel the least is about a second of work, so that what Ray
does for a block counts little; the most is about a minute, which is what a killed run makes again."""
_PATIENCE = 10.0
"""Seconds in which the address of a cluster must answer."""
_BLOCKS = 64
"""Wanted for each actor, so that all of them end at about the same time."""


def work(tasks: Sequence[Task], worker: Worker, address: str, workers: int = 0) -> Generator[Row]:
    """A row a task, in the order of completion, from a cluster.

    address: of a cluster, as ``ray.init`` takes it, or ``LOCAL``. workers: actors, 0 a CPU of the
    cluster each. An actor or a node that is killed is replaced, and its block tried again without
    limit, as is Ray Data's way. An image that kills processes does not end its actor (``Isolated``).

    Raises ImportError without Ray, and BitsrError where the cluster cannot be used.
    """
    if not tasks:
        return
    ray = _ray()
    with _connected(ray, address, workers):
        actors = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        blocks = _blocks(tasks, actors)
        try:
            yield from _rows(ray, blocks, worker, min(actors, len(blocks)))
        except ray.exceptions.RayError as error:
            raise BitsrError(f"Ray: {str(error).strip().splitlines()[-1]}") from None


def _ray() -> Any:
    """Ray with its part Data."""
    try:
        importlib.import_module("ray.data")
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(f"{error}; --ray wants: pip install 'bitsr[ray]'") from None


def _blocks(tasks: Sequence[Task], actors: int) -> list[list[Task]]:
    """Tasks in blocks of about equal bytes: a large image is a block, small ones share one."""
    total = sum(task.size for task in tasks)
    limit = min(max(total // (actors * _BLOCKS), _LEAST_BYTES), _MOST_BYTES)
    most = max(1, min(_MOST_TASKS, len(tasks) // (actors * 4)))
    blocks: list[list[Task]] = []
    filled = limit
    for task in tasks:
        if filled + task.size > limit or len(blocks[-1]) >= most:
            blocks.append([])
            filled = 0
        blocks[-1].append(task)
        filled += task.size
    return blocks


class _Actor:
    """A worker as Ray Data calls it: a batch of one block of tasks in, a batch of their rows out.

    Both are JSON: one type for every column, and any file name goes through.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = Isolated(worker)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        (block,) = batch["block"]
        rows = [self._worker(Task(**task)) for task in json.loads(block)]
        return {"row": [json.dumps(asdict(row)) for row in rows]}


def _rows(ray: Any, blocks: list[list[Task]], worker: Worker, actors: int) -> Iterator[Row]:
    """The rows of the blocks, as Ray brings them back."""
    items = [{"block": json.dumps([asdict(task) for task in block])} for block in blocks]
    results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Actor,
        fn_constructor_args=(worker,),
        batch_size=1,
        batch_format="numpy",
        num_cpus=1,
        # One block at a time, so that none waits behind a large image.
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
    )
    for table in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in table["row"].to_pylist():
            yield Row(**json.loads(row))


@contextmanager
def _connected(ray: Any, address: str, workers: int) -> Generator[None]:
    """Within the block, a connection to a cluster that says nothing of its own; one that is there
    is used."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to its makers
    quiet = not os.environ.get("BITSR_DEBUG")
    if quiet:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        ray.data.DataContext.get_current().enable_progress_bars = False
    _reach(address)
    here: dict[str, Any] = {"num_cpus": workers or None, "include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        with _no_stderr() if quiet else nullcontext():
            ray.init(
                address,
                logging_level=logging.ERROR,
                log_to_driver=not quiet,
                **(here if address == LOCAL else {}),
            )
    except Exception as error:
        raise BitsrError(f"no Ray cluster at {address}: {' '.join(str(error).split())}") from None
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray takes it for itself
    try:
        # One of Ray's threads prints what is killed.
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere) if quiet else nullcontext():
            yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise BitsrError where nobody listens at HOST:PORT: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # "auto", or what Ray knows
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise BitsrError(f"no Ray cluster at {address}: {reason(error)}") from None


@contextmanager
def _no_stderr() -> Generator[None]:
    """Within the block, what is written to file 2 goes nowhere: Ray's core says what it logs."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
