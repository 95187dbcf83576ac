"""Which outputs are done, kept in the output folder: files of JSON lines, a row an output.

Object stores cannot append to a file, and a file an output would double their number. So rows are
gathered and written every few seconds as a file of their own, ``done-NUMBER-RANDOM.jsonl``. A run
that is killed loses the rows of its last seconds: their images are made again, with the same bytes.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import asdict, fields

from ..errors import BitsrError
from .plan import FOLDER
from .stores import escaped, store
from .worker import Row

SECONDS = 10.0
"""The longest time that a finished image has no row on disk."""


class Manifest:
    """The rows of an output folder. Raises OSError where its store does."""

    def __init__(self, output: str, made_by: str) -> None:
        """made_by: what new rows are marked with, ``Worker.made_by``."""
        self._folder, self._store, self._made_by = f"{output}/{FOLDER}", store(output), made_by
        self._rows: list[Row] = []
        self._written = time.monotonic()
        self._files: list[str] = []

    def load(self) -> dict[str, tuple[str, Row]]:
        """By an output's name the mark and the row of its last making.

        Raises BitsrError where a file holds something else.
        """
        found: dict[str, tuple[str, Row]] = {}
        self._files = sorted(file.path for file in self._store.glob(f"{escaped(self._folder)}/done-*.jsonl"))
        known = {field.name for field in fields(Row)}
        for path in self._files:
            for line in self._store.read(path).splitlines():
                try:
                    entry = json.loads(line)
                    row = Row(**{key: value for key, value in entry.items() if key in known})
                    found[row.name] = entry["made_by"], row
                except (ValueError, TypeError, KeyError, AttributeError):
                    raise BitsrError(f"{path}: is not a list of what is done; move it away") from None
        return found

    def replace(self, rows: dict[str, tuple[str, Row]]) -> None:
        """Let these rows be all there are, in one file.

        The new file is there before the old ones go, so no moment is without the rows that stay.
        """
        old = self._files
        self._files = [self._write([_line(*entry) for entry in rows.values()])] if rows else []
        for path in old:
            self._store.remove(path)

    def add(self, row: Row) -> None:
        """Note an output that is made; at the latest ``SECONDS`` later, with another one, it is on
        disk."""
        self._rows.append(row)
        if time.monotonic() - self._written > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are not on disk."""
        if self._rows:
            self._files.append(self._write([_line(self._made_by, row) for row in self._rows]))
        self._rows, self._written = [], time.monotonic()

    def _write(self, lines: list[str]) -> str:
        """Write a file that comes after all others by its name."""
        last = max((int(path.rpartition("/done-")[2][:8]) for path in self._files), default=0)
        path = f"{self._folder}/done-{last + 1:08}-{secrets.token_hex(4)}.jsonl"
        self._store.write(path, "".join(lines).encode())
        return path


def _line(made_by: str, row: Row) -> str:
    return json.dumps({"made_by": made_by} | asdict(row)) + "\n"
