"""``bitsr serve``."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def serve(
    port: Annotated[int, typer.Option("--port", "-p", help="Port of 127.0.0.1; 0 takes a free one.")] = 8417,
    native: Annotated[
        bool, typer.Option(help="Upscale by the native engine, or by WebAssembly in the browser.")
    ] = True,
    open: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    threads: Annotated[
        int, typer.Option("-j", "--threads", min=0, help="Threads of the native engine; 0 is every CPU.")
    ] = 0,
    export: Annotated[
        Path | None, typer.Option(help="Only write the page to this new folder, for any web server.")
    ] = None,
) -> None:
    """Open the page that upscales images in the browser. It needs no internet and uploads nothing."""
    from .. import serve as page

    if export is not None:
        print(f"{export}: {page.export(export) / 1e6:.1f} MB")
        return
    from ..serve.server import PageServer

    with PageServer(port, native=native, threads=threads) as server:
        print(f"{server.url} (Ctrl-C ends)", flush=True)
        if open and _has_screen():
            import webbrowser

            webbrowser.open(server.url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _has_screen() -> bool:
    """Whether a browser would have a window; one of the terminal would take the terminal."""
    windows = sys.platform in ("darwin", "win32")
    return windows or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
