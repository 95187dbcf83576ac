"""The core built for other systems by the compiler of their wheels, zig (`pip install ziglang`).

Windows runs under wine, aarch64 under qemu, and x86-64 with musl or an old glibc directly, bit for bit;
macOS is compiled and linked alone.
A first build for a system compiles zig's C++ library too, which takes minutes: `just cross` runs them.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from native import ROOT, Jobs, build, need

from bitsr import _core

pytestmark = pytest.mark.skipif(
    "BITSR_CROSS" not in os.environ, reason="takes minutes: BITSR_CROSS=1, as `just cross` sets"
)
WINE = shutil.which("wine64") or shutil.which("wine64", path="/usr/lib/wine") or shutil.which("wine")
SIZES = (1, 6, 50, 64, 64, 3, 2)  # of a training job


def zig(folder: Path, system: str, target: str) -> Path:
    if not find_spec("ziglang"):
        pytest.skip("needs ziglang")
    need("cmake")
    return build(
        folder,
        f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'cmake/zig.cmake'}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DBITSR_TARGET={system}",
        target=target,
    )


def jobs(tmp_path: Path) -> Jobs:
    made = Jobs(tmp_path / "jobs")
    made.run_everything()
    made.train(*SIZES)
    return made


def isas(printed: list[str]) -> set[str]:
    return {line.split()[1] for line in printed if line.startswith("run ")}


def test_windows_equals_the_reference(tmp_path: Path) -> None:
    if not WINE:
        pytest.skip("needs wine64")
    program = zig(tmp_path / "build", "x86_64-windows-gnu", "run_model").with_suffix(".exe")
    env = {**os.environ, "WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all"}
    try:
        # The first start sets up a folder, and talks about it.
        subprocess.run([WINE, "wineboot"], env=env, capture_output=True, check=True, timeout=300)
        printed = jobs(tmp_path).done(WINE, str(program), env=env)
    finally:
        if server := shutil.which("wineserver") or shutil.which("wineserver", path="/usr/lib/wine"):
            subprocess.run([server, "-k"], env=env, capture_output=True, check=False)
    assert isas(printed) == set(_core.isas())


@pytest.mark.parametrize(
    ("system", "runner"),
    [
        ("aarch64-linux-musl", ["qemu-aarch64"]),
        ("aarch64-linux-gnu.2.28", ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]),
        ("x86_64-linux-musl", []),
        ("x86_64-linux-gnu.2.28", []),
    ],
)
def test_linux_equals_the_reference(tmp_path: Path, system: str, runner: list[str]) -> None:
    """Of another CPU under qemu, with the C library of Debian's cross compiler; of this one directly."""
    if runner:
        need(runner[0])
        if not Path(runner[-1]).exists() and len(runner) > 1:
            pytest.skip(f"needs {runner[-1]}")
    elif not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        pytest.skip("runs on x86-64 with Linux")
    program = zig(tmp_path / "build", system, "run_model")
    printed = jobs(tmp_path).done(*runner, str(program))
    assert isas(printed) == ({"neon", "scalar"} if runner else set(_core.isas()))


@pytest.mark.parametrize(
    ("system", "file", "magic"),
    [
        ("x86_64-windows-gnu", "{}.dll", b"MZ"),
        ("x86_64-macos", "lib{}.dylib", b"\xcf\xfa\xed\xfe"),
        ("aarch64-macos", "lib{}.dylib", b"\xcf\xfa\xed\xfe"),
        ("x86_64-linux-musl", "lib{}.so", b"\x7fELF"),
        ("x86_64-linux-gnu.2.28", "lib{}.so", b"\x7fELF"),
        ("aarch64-linux-gnu.2.28", "lib{}.so", b"\x7fELF"),
    ],
)
def test_libraries_of_other_systems(tmp_path: Path, system: str, file: str, magic: bytes) -> None:
    """Both are linked, under the names that ``_core`` looks for, with their functions in them."""
    zig(tmp_path, system, "all")
    for library, functions in (("bitsr_core", _core._UPSCALING), ("bitsr_train", _core._TRAINING)):
        data = (tmp_path / file.format(library)).read_bytes()
        assert data.startswith(magic)
        assert all(b"bitsr_" + name.encode() in data for name in functions)
