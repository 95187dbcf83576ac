"""The core as WebAssembly: built by js/build.py, run in wasmtime as the npm package runs it in a browser."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

JS = Path(__file__).resolve().parents[1] / "js"
LINE = 256


def build_script() -> Any:
    """js/build.py as a module."""
    spec = importlib.util.spec_from_file_location("bitsr_js_build", JS / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(folder: Path) -> Path:
    """bitsr.wasm, built in ``folder``; skips where Zig is missing."""
    pytest.importorskip("ziglang", reason="needs ziglang, which builds bitsr.wasm")
    build_script().build(folder / "bitsr.wasm")
    return folder / "bitsr.wasm"


class Refused(Exception):
    """What the core refuses, in one line."""


class Module:
    """bitsr.wasm, compiled once."""

    def __init__(self, path: Path) -> None:
        self.wasmtime: Any = pytest.importorskip("wasmtime", reason="needs wasmtime, which runs bitsr.wasm")
        self.engine = self.wasmtime.Engine()
        self.module = self.wasmtime.Module.from_file(self.engine, str(path))


class Instance:
    """An instance of the core for one net; memory: bytes it may take at most."""

    def __init__(self, module: Module, net: bytes, isa: str | None = None, memory: int | None = None) -> None:
        wasmtime = module.wasmtime
        self.store = wasmtime.Store(module.engine)
        if memory is not None:
            self.store.set_limits(memory_size=memory)
        line = wasmtime.FuncType([wasmtime.ValType.i32()], [])
        linker = wasmtime.Linker(module.engine)
        linker.define(self.store, "bitsr", "fail", wasmtime.Func(self.store, line, self._fail))
        self.exports = linker.instantiate(self.store, module.module).exports(self.store)
        self.memory = self.exports["memory"]
        self.call("_initialize")
        self.err = self.put(b"\0" * LINE)
        name = self.put(isa.encode() + b"\0") if isa else 0
        self.model = self.call("bitsr_model_open", self.put(net), len(net), name, self.err, LINE)
        self.scale = self.call("bitsr_model_scale", self.model)

    def _fail(self, text: int) -> None:
        raise Refused(self.text(text))

    def call(self, name: str, *arguments: int) -> int:
        return self.exports[name](self.store, *arguments)

    def text(self, address: int) -> str:
        return bytes(self.memory.read(self.store, address, address + LINE)).split(b"\0")[0].decode()

    def put(self, data: bytes) -> int:
        address = self.call("malloc", len(data) or 1)
        if not address:
            raise Refused("no memory")
        self.memory.write(self.store, data, address)
        return address

    def isas(self) -> list[str]:
        names: list[str] = []
        while address := self.call("bitsr_isa", len(names)):
            names.append(self.text(address))
        return names

    def run(self, lr: NDArray[np.int16], portion: int = 0) -> NDArray[np.int16]:
        """The plane, fed ``portion`` rows at a time; 0: all of them."""
        h, w = lr.shape
        stream = self.call("bitsr_stream_open", self.model, h, w, 1, 0, self.err, LINE)
        parts = []
        for y in range(0, h, portion or h):
            rows = lr[y : y + (portion or h)]
            ready = self.call("bitsr_stream_ready", stream, len(rows))
            size = 2 * ready * w * self.scale
            data, out = self.put(rows.tobytes()), self.put(b"\0" * size)
            made = self.call("bitsr_stream_push", stream, data, len(rows), out, ready, self.err, LINE)
            assert made == ready
            parts.append(bytes(self.memory.read(self.store, out, out + size)))
        return np.frombuffer(b"".join(parts), np.int16).reshape(h * self.scale, w * self.scale)
