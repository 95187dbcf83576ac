"""Curves of a run: log.csv, its plot log.png, and the same for TensorBoard."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

from ..files import NewFile, naming

COLUMNS: tuple[str, ...] = ("iteration", "stage", "lr", "loss", "loss_d", "psnr_y", "it_per_s")


def _board(folder: Path, iteration: int) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise ImportError(f"{error}; its curves want: pip install 'bitsr[tensorboard]'") from error
    return SummaryWriter(str(folder), purge_step=iteration + 1)


class Log:
    """log.csv, one row a log interval or validation, and its plot log.png."""

    def __init__(self, folder: Path, iteration: int, title: str, tensorboard: bool = False) -> None:
        """Rows past ``iteration``, the checkpoint's, are dropped: they will be made again.

        tensorboard: write into ``folder``/tensorboard too. Raises ImportError where it is missing.
        """
        self.board = _board(folder / "tensorboard", iteration) if tensorboard else None
        self.path, self.plot, self.title = folder / "log.csv", folder / "log.png", title
        self.drawn = time.monotonic()
        rows = (
            [row for row in self.rows() if int(row["iteration"]) <= iteration] if self.path.exists() else []
        )
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        with NewFile(self.path) as new:
            new.file.write(text.getvalue().encode())

    def rows(self) -> list[dict[str, str]]:
        """All whole rows; a last line that was cut off by a crash is left out."""
        with self.path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if row["it_per_s"] is not None]

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; keys as ``COLUMNS``, those that are missing stay empty."""
        # 9 digits: all of a float32
        text = {k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()}
        with naming(self.path), self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, restval="").writerow(text)
        if self.board is not None:
            for key in row.keys() - {"iteration", "stage"}:
                self.board.add_scalar(key, row[key], row["iteration"])

    def close(self) -> None:
        """Finish what is written for TensorBoard."""
        if self.board is not None:
            self.board.close()

    def draw(self, every: float = 60.0) -> None:
        """Redraw log.png, at most once in ``every`` seconds."""
        if time.monotonic() - self.drawn < every:
            return
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 1, sharex=True)
        for ax, key, label in zip(
            axes, ("loss", "psnr_y"), ("training loss", "validation PSNR [dB]"), strict=True
        ):
            points = [(int(r["iteration"]), float(r[key])) for r in self.rows() if r[key]]
            ax.plot(
                *zip(*points, strict=True) if points else ([], []), marker="." if key == "psnr_y" else None
            )
            ax.set_ylabel(label)
            ax.grid(alpha=0.3)
        axes[0].set_title(self.title, fontsize=9)
        axes[1].set_xlabel("iteration")
        with NewFile(self.plot) as new:
            figure.savefig(new.file, format="png", dpi=100)
        self.drawn = time.monotonic()
