"""The report of a batch: a row an image, as JSON lines or Parquet."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import BitsrError
from ..files import NewFile
from .worker import Row

_ROWS = 10_000
"""Rows that a Parquet file is written by."""
_TYPES = {
    "status": "string",
    "input": "string",
    "output": "string",
    "input_bytes": "int64",
    "output_bytes": "int64",
    "width": "int64",
    "height": "int64",
    "net": "string",
    "seconds": "float64",
    "notes": "string",
    "error": "string",
}
"""Columns and their types in Parquet."""


class Report:
    """A file of the rows of a batch, whole at the end of the block or not there: a context manager.

    path: .jsonl or .parquet. Raises BitsrError for another suffix, ImportError without pyarrow,
    OSError where the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path, self._rows = Path(path), list[dict[str, Any]]()
        self._parquet: Any = None
        if self._path.suffix not in (".jsonl", ".parquet"):
            raise BitsrError(f"{path}: a report is a .jsonl or a .parquet")
        if self._path.suffix == ".parquet":
            try:
                importlib.import_module("pyarrow.parquet")
                self._arrow: Any = importlib.import_module("pyarrow")
            except ImportError as error:
                raise ImportError(f"{error}; a Parquet report wants: pip install 'bitsr[ray]'") from None
            self._schema = self._arrow.schema(list(_TYPES.items()))

    def __enter__(self) -> Report:
        self._new = NewFile(self._path).__enter__()
        if self._path.suffix == ".parquet":
            self._parquet = self._arrow.parquet.ParquetWriter(self._new.file, self._schema)
        return self

    def add(self, row: Row, status: str) -> None:
        """Add an image; status: "made", "kept" (by an earlier run) or "failed"."""
        values = asdict(row) | {"status": status, "input_bytes": row.size}
        self._rows.append({key: values[key] for key in _TYPES})
        if len(self._rows) >= _ROWS:
            self._write()

    def _write(self) -> None:
        rows, self._rows = self._rows, []
        if self._parquet is None:
            self._new.file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
            return
        for row in rows:  # names that are no UTF-8
            for key, kind in _TYPES.items():
                if kind == "string":
                    row[key] = row[key].encode("utf-8", "backslashreplace").decode()
        self._parquet.write_table(self._arrow.Table.from_pylist(rows, self._schema))

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        if kind is None:
            try:
                self._write()
                if self._parquet is not None:
                    self._parquet.close()
            except BaseException:
                self._new.discard()
                raise
        self._new.__exit__(kind, value, trace)
