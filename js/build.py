"""Build what of the npm package is not TypeScript: dist/bitsr.wasm, by Zig's Clang, and dist/nets/.

    python js/build.py [FOLDER]        (default: js/dist)

The compiler is the package ``ziglang`` of the version below: the same source gives the same bytes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ZIG = "0.17.1"
NETS = (
    "bitsr-s-x2",
    "bitsr-s-x3",
    "bitsr-s-x4",
    "bitsr-m-x2",
    "bitsr-m-x3",
    "bitsr-m-x4",
    "bitsr-photo-m-x2",
    "bitsr-photo-m-x4",
)
"""The nets that come with the package; js/src/nets.ts names them too."""

ROOT = Path(__file__).resolve().parents[1]
EXPORTS = (
    *("malloc", "free", "bitsr_isa", "bitsr_model_open", "bitsr_model_scale", "bitsr_model_radius"),
    "bitsr_model_smooth",
    *("bitsr_stream_open", "bitsr_stream_push", "bitsr_stream_ready", "bitsr_luma", "bitsr_merge"),
)
FLAGS = (
    *("-target", "wasm32-wasi", "-mcpu=lime1+simd128", "-mexec-model=reactor"),
    # errors.h and threads.h of csrc say what stands for exceptions and threads.
    *("-std=c++17", "-O3", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-Wall", "-Wextra"),
    *("-Icsrc", "-Icsrc/include", "-s", "-Wl,--gc-sections", "-Wl,-z,stack-size=131072"),
    *(f"-Wl,--export={name}" for name in EXPORTS),
)
LEFT_OUT = {"colour_avx2.cpp", "jpeg_check.cpp"}  # another CPU's; a browser decodes JPEGs itself


def build(wasm: Path) -> None:
    """Write the module. Raises RuntimeError where the compiler is missing, another, or fails."""
    zig = [sys.executable, "-m", "ziglang"]
    version = subprocess.run([*zig, "version"], capture_output=True, text=True, check=False)
    if version.returncode:
        raise RuntimeError(f"needs Zig: pip install ziglang=={ZIG}")
    if version.stdout.strip() != ZIG:
        raise RuntimeError(f"needs Zig {ZIG}, not {version.stdout.strip()}: pip install ziglang=={ZIG}")
    folders = ("core", "core/ops", "kernels", "kernels/baseline", "kernels/scalar", "kernels/wasm", "wasm")
    found = (path for folder in folders for path in sorted((ROOT / "csrc" / folder).glob("*.cpp")))
    # Relative names: no path of this machine gets into the file.
    sources = [path.relative_to(ROOT).as_posix() for path in found if path.name not in LEFT_OUT]
    wasm.parent.mkdir(parents=True, exist_ok=True)
    command = [*zig, "c++", *FLAGS, *sources, "-o", str(wasm.resolve())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        raise RuntimeError(f"zig c++ failed:\n{done.stderr.strip()}")


def main(folder: Path) -> None:
    build(folder / "bitsr.wasm")
    nets = folder / "nets"
    nets.mkdir(exist_ok=True)
    for name in NETS:
        shutil.copyfile(ROOT / "src/bitsr/zoo" / f"{name}.bsr", nets / f"{name}.bsr")
    print(
        f"{folder / 'bitsr.wasm'}: {(folder / 'bitsr.wasm').stat().st_size / 1000:.0f} kB, {len(NETS)} nets"
    )


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "js" / "dist")
    except RuntimeError as error:
        sys.exit(str(error))
