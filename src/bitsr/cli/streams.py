"""Standard output and error that may be closed, full or a pipe that nobody reads.

What is said there is not worth the image that is being made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, TextIO, cast


class _Steady:
    """A text stream that goes silent when it can no longer be written to.

    strict: of the system's errors, a closed pipe alone is taken in silence.
    """

    def __init__(self, stream: TextIO, strict: bool) -> None:
        self._stream, self._strict = stream, strict

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._silenced():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._silenced():
            self._stream.flush()

    @contextlib.contextmanager
    def _silenced(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            # What is left in the buffer goes nowhere: Python would fail to flush it when it ends.
            with contextlib.suppress(OSError), Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())
            if self._strict and not _closed_pipe(error):
                raise OSError(error.errno, error.strerror, "standard output") from None


def _closed_pipe(error: OSError) -> bool:
    # Windows has no errno of its own for a pipe that nobody reads.
    return isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL)


@contextlib.contextmanager
def steady() -> Generator[None]:
    """Within the block, no line on stderr and no closed pipe ends a command."""
    # Else the next file that is opened becomes the standard error of libraries. It cannot be written
    # to: an image that goes to a closed standard output is an error.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:

        def there(stream: TextIO | None) -> TextIO:  # Python has None where it was closed
            return stream or stack.enter_context(Path(os.devnull).open("w"))

        sys.stdout = cast(TextIO, _Steady(there(sys.stdout), strict=True))
        sys.stderr = cast(TextIO, _Steady(there(sys.stderr), strict=False))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
