"""The core under the sanitizers of g++: no bad access, no undefined behaviour, no race; and the right SR besides."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from native import Jobs, build, need
from random_nets import Maker, attention, everything, srresnet
from test_model_file import GOOD, HOSTILE
from test_qconv import SHAPES, extreme, net

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sanitizers of g++ on Linux")

SIZES = [(1, 1), (1, 2), (2, 1), (3, 3), (1, 33), (15, 17), (2, 66), (7, 129)]


def plane(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-16320, 16321, (h, w), np.int16)


def sanitized(tmp_path, kinds: str):
    """run_model with sanitizers that end it at the first report; skips where g++ has none."""
    need("cmake", "g++")
    probe = tmp_path / "probe"
    flags = f"-fsanitize={kinds} -fno-sanitize-recover=all"
    made = subprocess.run(
        ["g++", *flags.split(), "-x", "c++", "-", "-o", str(probe)],
        input="int main() {}", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode or subprocess.run([str(probe)], capture_output=True, check=False).returncode:
        pytest.skip(f"g++ -fsanitize={kinds} does not work here")
    return build(
        tmp_path / "build",
        "-DCMAKE_CXX_COMPILER=g++",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -g1",
        f"-DCMAKE_CXX_FLAGS={flags}",
    )


def test_addresses_and_undefined_behaviour(tmp_path):
    program = sanitized(tmp_path, "address,undefined")
    jobs = Jobs(tmp_path / "jobs")
    for make in (srresnet, everything, attention):
        packed = make(seed=1)
        for h, w in SIZES:
            jobs.run(packed, plane(h, w), (1, 0), (2, 3), (5, 1))
    for channels, scale in ((17, 2), (32, 3), (192, 1)):
        jobs.run(srresnet(channels, 1, scale, seed=channels), plane(5, 35, seed=scale), (2, 0))
    for cin, cout, k in SHAPES:
        for bits in (1, 8):
            jobs.run(net(Maker(cin), cin, cout, k, bits), plane(2, 51), (1, 0))
    jobs.run(extreme(64, 32, 3, 8), np.full((3, 50), -32768, np.int16), (1, 0))
    for value in (-32768, 32767):
        jobs.run(srresnet(blocks=1, seed=3), np.full((3, 37), value, np.int16), (1, 0))
    jobs.run(srresnet(blocks=1, seed=5), plane(70, 3), (1, 0), (2, 0), (5, 7))  # through the rings
    for depth, channels, (h, w), scale, smooth in itertools.product(
        (8, 16), (1, 2, 3, 4), ((1, 1), (5, 19)), (1, 2, 3, 7), (False, True)
    ):
        jobs.colour(depth, channels, h, w, scale, smooth)
    for sizes in (
        (1, 1, 1, 64, 64, 1, 1),
        (2, 3, 5, 64, 128, 3, 2),
        (3, 2, 33, 64, 64, 5, 1),
        (1, 6, 50, 64, 64, 3, 2),
    ):
        jobs.train(*sizes)
    for data in HOSTILE.values():
        jobs.open(data)
    jobs.open(GOOD)
    # No refused file gets as far as a large allocation: one would be reported.
    printed = jobs.done(str(program), env={**os.environ, "ASAN_OPTIONS": "max_allocation_size_mb=64"})
    assert printed[-1] == "accepted"
    assert sum(line.startswith("refused ") for line in printed) == len(HOSTILE)


def test_races(tmp_path):
    program = sanitized(tmp_path, "thread")
    jobs = Jobs(tmp_path / "jobs")
    for packed in (srresnet(blocks=2, seed=1), everything(seed=1), attention(seed=1)):
        for h, w in ((1, 1), (9, 5), (60, 3)):  # the last one through the rings
            jobs.run(packed, plane(h, w), (2, 0), (5, 4), (3, 0))
    jobs.train(2, 5, 9, 64, 64, 3, 4)
    jobs.done(str(program))
