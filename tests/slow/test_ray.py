"""``bitsr batch --ray`` on a cluster of two nodes: actors, nodes and the command itself are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
import pyvips

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'bitsr[ray]'")
if not sys.platform.startswith("linux"):
    pytest.skip("looks at /proc", allow_module_level=True)

from ray.cluster_utils import Cluster

from bitsr.auto import choose
from bitsr.cluster import Worker, plan, run
from bitsr.cluster.on_ray import _blocks
from bitsr.cluster.plan import FOLDER, Task
from bitsr.pipeline import Settings

IMAGES = 500


def patiently(start):
    """What ``start`` gives. Ray grants a node 30 seconds to begin, which a busy machine may not."""
    for left in range(3, 0, -1):
        with suppress(Exception) if left > 1 else nullcontext():
            return start()
    raise AssertionError


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each, on this machine."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (else the lowest priority)
    head = {"num_cpus": 1, "include_dashboard": False}
    made = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    second = patiently(lambda: made.add_node(num_cpus=1))
    yield made, second
    made.shutdown()


def outputs(folder):
    found = (
        path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != FOLDER
    )
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def descendants(pid):
    """The ids of the processes that a process has started, and theirs."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            yield child
            yield from descendants(child)


def processes(name):
    """The ids of the processes of this test's cluster that have a name in their command line."""
    found = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):  # it has ended meanwhile
            if name in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
                found.append(pid)
    return found


def start(*args):
    line = [sys.executable, "-m", "bitsr", "batch", *map(str, args)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def made_by(process, folder, count):
    """Wait until a command has made so many outputs."""
    end = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < end:
        if sum(1 for path in folder.glob("*.png")) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"ended before {count} outputs: {process.communicate()[1]}")


def kill(name):
    """Kill -9 one of the processes of that name."""
    found = processes(name)
    assert found, f"no process {name}"
    os.kill(random.choice(found), signal.SIGKILL)


def test_nothing_is_lost_or_made_twice(cluster, net_file, tmp_path):
    nodes, second = cluster
    source, out, report = tmp_path / "in", tmp_path / "out", tmp_path / "report.jsonl"
    source.mkdir()
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        array = rng.integers(0, 256, (*rng.integers(5, 20, 2), 3)).astype(np.uint8)
        pyvips.Image.new_from_array(array).pngsave(str(source / f"{i:03}.png"))
    (source / "bad.png").write_text("no image")
    command = (source, out, "-n", net_file, "--ray", nodes.address, "--report", report)
    first = start(*command)
    made_by(first, out, IMAGES // 20)
    kill("MapWorker(MapBatches(_Actor)")  # an actor
    made_by(first, out, IMAGES // 8)
    kill("bitsr.cluster.pool import serve")  # the process of an actor's net
    made_by(first, out, IMAGES // 5)
    nodes.remove_node(second, allow_graceful=False)  # a node with its actor
    made_by(first, out, IMAGES // 4)
    patiently(lambda: nodes.add_node(num_cpus=1))
    made_by(first, out, IMAGES // 3)
    first.kill()  # the command
    said = first.communicate()
    assert said == ("", "") and not report.exists()  # Ray says nothing of what was killed
    before = outputs(out)
    second_run = start(*command)
    _, text = second_run.communicate()
    lines = text.splitlines()
    assert second_run.returncode == 1, text
    assert lines[0] == f"bitsr: {source}/bad.png: not an image in a known format" and len(lines) == 2, text
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert sorted(row["input"] for row in rows) == sorted(str(path) for path in source.iterdir())
    assert sum(row["status"] == "failed" for row in rows) == 1
    # The bytes of a run within one process.
    todo = plan(str(source), str(tmp_path / "expected"))
    worker = Worker(choose(net_file, threads=1), Settings(), todo.output)
    list(run(todo, worker, lambda tasks, worker: (worker(task) for task in tasks)))
    found = outputs(out)
    assert len(found) == IMAGES and found == outputs(tmp_path / "expected")
    assert all(found[name] == data for name, data in before.items())
    assert not list(out.rglob(".bitsr-*")) and not (out / FOLDER / "parts").exists()


def test_a_cluster_that_is_not_there_is_one_line(net_file, tmp_path):
    pyvips.Image.black(5, 5).pngsave(str(tmp_path / "a.png"))
    process = start(tmp_path / "a.png", tmp_path / "out", "-n", net_file, "--ray", "no-such-host.invalid:1")
    _, text = process.communicate()
    assert process.returncode == 1 and len(text.splitlines()) == 1, text
    assert text.startswith("bitsr: no Ray cluster at no-such-host.invalid:1: ")


def test_blocks_hold_every_image_once_and_large_ones_alone():
    sizes = [50 << 20, *(5 << 20, 1 << 20) * 3, *range(1000, 500_000, 500)]
    tasks = [Task(str(i), "", "", "png", size, "") for i, size in enumerate(sizes)]
    for actors in (1, 7, 1000):
        blocks = _blocks(tasks, actors)
        assert [task for block in blocks for task in block] == tasks
        for block in blocks:
            assert len(block) == 1 or sum(task.size for task in block) <= 4 << 20
            assert 1 <= len(block) <= 16
    assert _blocks(tasks[:1], 1) == [tasks[:1]]
