"""The npm package in Node: its own tests, its size, and the bytes of the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from native import need
from PIL import Image
from wasm_core import JS, build_script

from bitsr.zoo import ZOO


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=JS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def package():
    """js/dist, built."""
    need("node", "npm")
    pytest.importorskip("ziglang", reason="needs ziglang, which builds bitsr.wasm")
    tsc = JS / "node_modules" / "typescript" / "bin" / "tsc"
    if not tsc.exists():
        pytest.skip("needs TypeScript: npm ci in js")
    build_script().main(JS / "dist")
    run("node", str(tsc))
    return JS / "dist"


def test_its_own_tests(package):
    run("node", "--test")


def test_what_is_packed(package):
    packed = json.loads(run("npm", "pack", "--dry-run", "--json"))[0]
    assert packed["size"] < 600_000
    assert (package / "bitsr.wasm").stat().st_size < 250_000
    names = {file["path"] for file in packed["files"]}
    assert {"README.md", "dist/index.js", "dist/index.d.ts", "dist/worker.js", "dist/bitsr.wasm"} <= names
    assert {f"dist/nets/{net}.bsr" for net in build_script().NETS} <= names
    index = (JS / "src" / "nets.ts").read_text()
    assert all(f'"./nets/{net}.bsr"' in index for net in build_script().NETS)


def image(height: int, width: int, channels: int) -> np.ndarray:
    """Noise, flat areas and strong colours; of alpha a third clear, a third opaque."""
    rng = np.random.default_rng(height * width + channels)
    x = rng.integers(-100, 356, (height, width, channels)).clip(0, 255).astype(np.uint8)
    x[height // 3 :, width // 2 :] = rng.integers(0, 256, channels)
    if channels % 2 == 0:
        x[: height // 2, : width // 3, -1] = 0
    return x


def test_the_bytes_of_the_command_line(package, tmp_path):
    jobs, expected = [], {}

    def job(net: str, pixels: np.ndarray, out: np.ndarray, workers: int, strip: int) -> None:
        name = f"{len(jobs)}"
        (tmp_path / f"{name}.in").write_bytes(pixels.tobytes())
        height, width, _ = pixels.shape
        files = {"in": f"{name}.in", "out": f"{name}.out"}
        jobs.append(
            {"net": net, "width": width, "height": height, "workers": workers, "strip": strip, **files}
        )
        expected[name] = out.tobytes()

    sizes = {
        "bitsr-s-x2": (167, 23),
        "bitsr-s-x3": (31, 1),
        "bitsr-s-x4": (1, 37),
        "bitsr-photo-m-x4": (13, 29),
    }
    for net, size in sizes.items():
        lr, sr = tmp_path / net, tmp_path / f"{net}-sr"
        lr.mkdir()
        for channels in (1, 2, 3, 4):
            pixels = image(*size, channels)
            Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(lr / f"{channels}.png")
        command = ["upscale", "-i", str(lr), "-o", str(sr), "-n", net, "-s", net[-1], "-f", "png", "-j", "1"]
        subprocess.run([sys.executable, "-m", "bitsr", *command], check=True, capture_output=True)
        for channels in (1, 2, 3, 4):
            pixels = image(*size, channels)
            with Image.open(sr / f"{channels}.png") as png:
                right = np.asarray(png).reshape(*(int(net[-1]) * n for n in size), channels)
                rgba = np.asarray(png.convert("RGBA"))  # as the canvas of a browser has it
            for workers, strip in ((0, 0), (3, 0), (1, 5)):
                job(net, pixels, right, workers, strip)
            with Image.open(lr / f"{channels}.png") as png:
                job(net, np.asarray(png.convert("RGBA")), rgba, 0, 0)
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    run("node", "run.mjs", str(tmp_path / "jobs.json"))
    for name, right in expected.items():
        assert (tmp_path / f"{name}.out").read_bytes() == right, jobs[int(name)]


def test_the_nets_are_those_of_the_zoo(package):
    for net in build_script().NETS:
        assert (package / "nets" / f"{net}.bsr").read_bytes() == (ZOO / f"{net}.bsr").read_bytes()


def test_the_module_is_the_same_byte_for_byte(package, tmp_path):
    build_script().build(tmp_path / "bitsr.wasm")
    assert (tmp_path / "bitsr.wasm").read_bytes() == (package / "bitsr.wasm").read_bytes()
    assert str(JS.parent).encode() not in (package / "bitsr.wasm").read_bytes()
