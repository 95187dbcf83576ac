"""The command line as a whole: its commands, and how errors end it.

A user's error is one line on stderr and exit code 1, never a traceback.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import warnings
from collections.abc import Generator
from typing import Annotated, Any

import typer

from ..errors import BitsrError
from . import measure, reason, say, train
from .batch import batch
from .serve import serve
from .streams import steady
from .upscale import upscale
from .video import video

app = typer.Typer(
    help="Upscale images and clips on the CPU by one-bit nets; train, pack and measure such nets.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)
for command in (
    *(upscale, video, batch, serve, measure.models, measure.recipes, measure.info),
    *(train.train, train.pack, train.export),
    *(measure.evaluate, measure.shrink, measure.degrade, measure.table, measure.bench),
):
    app.command()(command)
app.add_typer(train.zoo, name="zoo")


def main(args: list[str] | None = None) -> int:
    """Run the command line. The exit code: 0, 1 for any error, 130 for Ctrl-C, 143 for SIGTERM, 129
    for SIGHUP, 149 for Ctrl-Break and a closed window on Windows."""
    args = list(sys.argv[1:] if args is None else args) or ["--help"]
    for before, given in zip(["bitsr", *args], args, strict=False):
        if not given or re.fullmatch(r"--[a-z-]+=", given):  # a path of no name is the current folder
            say(f"{(given or before).rstrip('=')} wants a value, not an empty one")
            return 1
    with contextlib.suppress(ValueError):  # not the main thread
        for number in _STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
                signal.signal(number, _stop)
    try:
        with steady():
            code = _run(args)
            try:
                sys.stdout.flush()
            except OSError as error:
                say(reason(error))
                return code or 1
            return code
    except KeyboardInterrupt:  # after the run
        _end_in_peace()
        return 130


def _run(args: list[str]) -> int:
    try:
        with _old_names_said():
            command = typer.main.get_command(app)
            # Not command.main(): it prints usage errors in several lines and leaves with code 2.
            with command.make_context("bitsr", args) as context:
                command.invoke(context)
        return 0
    except KeyboardInterrupt:
        _end_in_peace()
        return 130
    except Exception as error:
        if isinstance(error, typer.Exit):
            return error.exit_code
        # A usage error of click, which typer may carry within itself.
        if usage := getattr(error, "format_message", None):
            say(usage())
            return 1
        if os.environ.get("BITSR_DEBUG"):
            raise
        known = isinstance(error, (BitsrError, OSError, MemoryError, ImportError))
        say(reason(error) if known else f"internal error, {type(error).__name__}: {error}")
        return 1


_STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


def _end_in_peace() -> None:
    """Ignore Ctrl-C from now on: a second one would break into Python's own end with a traceback."""
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop(number: int, _: object) -> None:
    """Leave by way of the clean-up."""
    sys.exit(128 + number)


@contextlib.contextmanager
def _old_names_said() -> Generator[None]:
    """Within the block, the warning of an old name of a net (``zoo.alias``) is one line, said
    once."""
    said: set[str] = set()
    other = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, DeprecationWarning):
            other(message, category, *where, **more)
        elif str(message) not in said:
            said.add(str(message))
            say(f"note: {message}")

    with warnings.catch_warnings():
        warnings.filterwarnings("always", ".*; the old name goes", DeprecationWarning)
        warnings.showwarning = show
        yield


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(f"bitsr {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass
