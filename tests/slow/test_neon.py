"""The NEON path on any machine: the core cross-compiled for aarch64, run under qemu, bit for bit
and without undefined behaviour."""

from __future__ import annotations

import itertools

import numpy as np
from native import Jobs, build, need
from random_nets import EXTREME_MAPS, Maker, attention, everything, extreme_maps, srresnet
from test_qconv import SHAPES, extreme, net

SIZES = [(1, 1), (1, 2), (2, 1), (3, 3), (1, 33), (17, 3), (5, 35), (2, 66)]


def plane(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-16320, 16321, (h, w), np.int16)


def test_neon_equals_the_reference(tmp_path):
    need("cmake", "aarch64-linux-gnu-g++", "qemu-aarch64")
    program = build(
        tmp_path / "build",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
        # NEON intrinsics of GCC are plain signed arithmetic in places, whose overflow is undefined.
        "-DCMAKE_CXX_FLAGS=-fsanitize=undefined -fno-sanitize-recover=all",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    )
    jobs = Jobs(tmp_path / "jobs")
    for make in (srresnet, everything, attention):
        packed = make(seed=1)
        for h, w in SIZES:
            jobs.run(packed, plane(h, w), (1, 0), (2, 2))
    for channels, scale in ((17, 2), (64, 1), (192, 3)):
        jobs.run(srresnet(channels, 1, scale, seed=channels), plane(4, 35, seed=scale), (2, 0))
    for value in (-32768, 32767, 0):  # sums wrap and saturate alike
        jobs.run(srresnet(blocks=1, seed=3), np.full((3, 37), value, np.int16), (1, 0))
    for maps in (1, 8):
        for shift, top in EXTREME_MAPS:
            jobs.run(extreme_maps(maps, shift, top), plane(2, 19), (1, 0))
    for cin, cout, k in SHAPES:
        for bits in (1, 4, 8):
            jobs.run(net(Maker(cin), cin, cout, k, bits), plane(2, 19), (1, 0))
    for bits in (1, 8):
        for cout, k in ((32, 3), (4, 3), (1, 9)):
            jobs.run(extreme(64, cout, k, bits), np.full((k, 7), -32768, np.int16), (1, 0))
    jobs.run(srresnet(blocks=1, seed=5), plane(70, 3), (2, 0))  # more rows than a ring has
    for depth, channels, scale, smooth in itertools.product((8, 16), (1, 3, 4), (2, 3), (False, True)):
        jobs.colour(depth, channels, 11, 37, scale, smooth)
    printed = jobs.done("qemu-aarch64", str(program))
    assert {line.split()[1] for line in printed if line.startswith("run ")} == {"neon", "scalar"}
