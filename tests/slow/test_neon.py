"""The NEON path on any machine: the core cross-compiled for aarch64, run under qemu, bit for bit
and without undefined behaviour."""

from __future__ import annotations

from native import Jobs, build, need


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
    jobs.run_everything()
    printed = jobs.done("qemu-aarch64", str(program))
    assert {line.split()[1] for line in printed if line.startswith("run ")} == {"neon", "scalar"}
