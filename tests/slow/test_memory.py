"""What the core does where memory ends: an error code or the right picture, never an abort."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from native import ROOT, need
from random_nets import attention, everything, srresnet

from bitsr import _core
from bitsr.engine import Engine, EngineError
from bitsr.model_file import ModelFile


def long_names(packed: ModelFile) -> ModelFile:
    """The same with names of buffers that no string holds within itself."""

    def long(name: str) -> str:
        return name if name in ("lr", "sr") else name + 20 * "_"

    ops = [replace(op, out=long(op.out), inputs=tuple(map(long, op.inputs))) for op in packed.ops]
    return replace(packed, ops=ops)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes the place of glibc's malloc")
@pytest.mark.parametrize("make", [srresnet, everything, attention])
def test_every_allocation_may_fail(tmp_path: Path, make) -> None:
    need("g++")
    program, core = tmp_path / "fail_allocation", _core.core_path()
    built = subprocess.run(
        ["g++", "-std=c++17", "-O1", "-I", str(ROOT / "csrc/include"), str(ROOT / "tests/cross/fail_allocation.cpp"),
         str(core), f"-Wl,-rpath,{core.parent}", "-o", str(program)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "__libc_malloc" in built.stderr:
        pytest.skip("not glibc")
    assert built.returncode == 0, built.stderr
    long_names(make(seed=1)).write(tmp_path / "net.bsr")
    done = subprocess.run(
        [str(program), str(tmp_path / "net.bsr")], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr[-500:])
    lines = done.stdout.splitlines()
    refused = [int(line.split()[-2]) for line in lines]
    assert len(lines) == 3 and refused[0] > 100 and refused[1] > 5


def test_a_picture_too_wide_is_refused() -> None:
    """Before memory is taken for it, whatever the system would promise."""
    engine = Engine(srresnet(), threads=1)
    with pytest.raises(EngineError, match="too wide: its rows in flight need more than 4 GiB"):
        engine.stream(8, 2**31 // 64 // engine.scale - 1)
    assert engine.run(np.zeros((1, 3), np.int16)).shape == (engine.scale, 3 * engine.scale)
