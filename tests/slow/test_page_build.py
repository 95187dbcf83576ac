"""The page in the package is what web/ builds, byte for byte."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from native import need

from bitsr.serve import PAGE

ROOT = Path(__file__).resolve().parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_page_is_built_from_its_source(tmp_path: Path) -> None:
    need("node")
    vite = ROOT / "web" / "node_modules" / "vite" / "bin" / "vite.js"
    if not vite.is_file():
        pytest.skip("needs Vite: npm ci in web")
    if not (ROOT / "js" / "dist" / "bitsr.wasm").is_file():
        pytest.skip("needs the npm package: just wasm")
    command = ["node", str(vite), "build", "--outDir", str(tmp_path), "--emptyOutDir"]
    done = subprocess.run(command, cwd=ROOT / "web", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built, shipped = contents(tmp_path), contents(PAGE)
    assert built.keys() == shipped.keys(), "just web"
    assert [name for name in built if built[name] != shipped[name]] == [], "just web"


def test_the_page_is_small() -> None:
    files = contents(PAGE)
    assert sum(map(len, files.values())) < 400_000
    text = b"".join(data for name, data in files.items() if not name.endswith((".wasm", ".png")))
    assert str(ROOT).encode() not in text and b"/node_modules/" not in text
