"""The C libraries: the one that upscales carries no training, and that of training may be missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitsr import _core

PACKAGE = Path(_core.__file__).parent


def test_the_library_that_upscales_carries_no_training() -> None:
    data = _core.core_path().read_bytes()
    assert b"bitsr_model_open" in data
    for name in _core._TRAINING:
        assert f"bitsr_{name}".encode() not in data


def sums(isa: bytes | None = None, name: str = "sign_conv") -> int | None:
    """The sum of 64 products of 1 and 1, by the training library; None where it has not done it."""
    one, y = np.ones(64 * 64, np.int8), np.zeros(64, np.int32)
    sizes = (1, 1, 1, 64, 64, 1, 0, 1)
    done = _core.train_call(name, *(a.ctypes.data for a in (one, one, y)), *sizes, isa=isa)
    return int(y[0]) if done else None


def test_the_training_library_counts() -> None:
    paths = set(_core.isas()) & {"avx2", "avx512"}
    if not paths:
        pytest.skip("this CPU has no path of it")
    assert _core.train() is not None and sums() == 64
    assert all(sums(isa.encode()) == 64 for isa in paths)
    assert sums(b"scalar") is None and sums(b"none") is None
    assert sums(name="float_conv") is None  # a name that it does not have


@pytest.mark.parametrize("name", ["BITSR_TRAIN_LIB", "BITSR_LIB"])
def test_training_goes_on_without_its_library(name: str, tmp_path: Path) -> None:
    """And imports nothing of the one that upscales: neither is at the named place."""
    code = (
        "from bitsr import _core\n"
        "assert _core.train() is None\n"
        "assert not _core.train_call('sign_conv', *[0] * 11, isa=None)\n"
        "assert not _core.train_unit('forward', {}, isa=None)\n"
        "try: _core.core()\n"
        "except ImportError as error: assert 'cannot load' in str(error)\n"
        f"else: assert {name != 'BITSR_LIB'}\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "BITSR_TRAIN_LIB"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**env, "PYTHONPATH": str(PACKAGE.parent), name: str(tmp_path / "nothing.so")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
