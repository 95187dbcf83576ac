"""What is installed: libraries that are hardened and show no more than they should, and the pins."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bitsr import _core

toml: Any = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")


def libraries() -> list[Path]:
    train = _core.train()
    return [_core.core_path(), *([Path(train._name)] if train else [])]


def sanitized(path: Path) -> bool:
    return b"__asan_init" in path.read_bytes()


def readelf(*arguments: str) -> str:
    if not shutil.which("readelf"):
        pytest.skip("needs readelf")
    return subprocess.run(["readelf", "-W", *arguments], capture_output=True, text=True, check=True).stdout


@linux
@pytest.mark.parametrize("path", libraries(), ids=lambda p: p.name)
def test_hardening(path: Path) -> None:
    if sanitized(path):
        pytest.skip("a build with sanitizers")
    segments, dynamic = readelf("-l", str(path)), readelf("-d", str(path))
    assert "GNU_RELRO" in segments and "BIND_NOW" in dynamic  # the table of functions is read-only
    (stack,) = re.findall(r"GNU_STACK .* (\S+) +0x\S+$", segments, re.MULTILINE)
    assert "E" not in stack
    symbols = [line.split() for line in readelf("--dyn-syms", str(path)).splitlines()[4:]]
    wanted = [s[7] for s in symbols if s[6] == "UND" and len(s) > 7]
    shown = {s[7].split("@")[0] for s in symbols if s[6] != "UND"}
    assert any(name.startswith("__stack_chk_fail") for name in wanted)
    names = _core._UPSCALING if "core" in path.name else _core._TRAINING
    assert shown == {f"bitsr_{name}" for name in names}


@linux
def test_libraries_suit_a_wheel(tmp_path: Path) -> None:
    """They ask for the C library alone, or for no C++ library newer than that of manylinux_2_28."""
    pytest.importorskip("auditwheel")
    paths = libraries()
    if any(map(sanitized, paths)):
        pytest.skip("a build with sanitizers")
    wheel = tmp_path / "bitsr-0-py3-none-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for path in paths:
            file.write(path, f"bitsr/{path.name}")
        file.writestr(
            "bitsr-0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-linux_x86_64\n",
        )
        file.writestr("bitsr-0.dist-info/METADATA", "Metadata-Version: 2.1\nName: bitsr\nVersion: 0\n")
        file.writestr("bitsr-0.dist-info/RECORD", "".join(f"{name},,\n" for name in file.namelist()))
    done = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", str(wheel)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r'platform tag:\s+"(many|musl)linux_', done.stdout), done.stdout
    newest = max((int(n) for n in re.findall(r"GLIBCXX_3\.4\.(\d+)", done.stdout)), default=0)
    assert newest <= 25, done.stdout


def test_constraints_pin_what_the_test_command_installs() -> None:
    """What the pinned versions ask for is pinned as well; but for the GPU's part of torch."""
    pinned: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            (specifier,) = pin.specifier
            assert specifier.operator == "==", line
            if not pin.marker or pin.marker.evaluate():
                pinned[canonicalize_name(pin.name)] = specifier.version
    project = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    todo = [(line, "") for line in project["dependencies"] + extras["train"] + extras["test"]]
    seen: set[tuple[str, str]] = set()
    while todo:
        line, extra = todo.pop()
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if re.match("nvidia|cuda|triton", name):
            continue
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if name == "bitsr":  # of one extra in another
            todo += [(more, "") for wanted in requirement.extras for more in extras[wanted]]
            continue
        assert name in pinned, f"{line} is not pinned"
        for wanted in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, wanted))
            with suppress(PackageNotFoundError):  # of an extra that is not installed
                if version(name).split("+")[0] == pinned[name]:
                    todo += [(more, wanted) for more in requires(name) or []]
    assert len(seen) > 20


def test_the_source_archive_is_complete_and_small(tmp_path: Path) -> None:
    """Everything of the repository but the checkpoints, and what is for its own machines."""
    pytest.importorskip("scikit_build_core")
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no checkout")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    code = f"from scikit_build_core.build import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "out")
    (folder,) = (tmp_path / "out").iterdir()
    packed = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    left_out = re.compile(r"checkpoints/.*\.safetensors|\.ci/.*|\.github/.*")
    assert not {name for name in listed if not left_out.fullmatch(name)} - packed
    assert not {name for name in packed if left_out.fullmatch(name)}
    assert archive.stat().st_size < 4 << 20
