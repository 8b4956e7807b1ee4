"""CSV files that grow row by row and can be cut back to what a checkpoint knows."""

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mtlrun.errors import UserError

COLUMNS = {
    "metrics.csv": ("epoch", "step", "split", "task", "metric", "value"),
    "losses.csv": ("step", "epoch", "task", "loss", "loss_ratio", "weight", "grad_norm"),
    "conflicts.csv": ("step", "task_a", "task_b", "cosine"),
    "terms.csv": ("step", "epoch", "term", "loss", "weight"),
    "structure.csv": ("epoch", "step", "name", "row", "column", "value"),
    "affinity.csv": ("step", "source", "target", "value"),
}
"""The files of a run and their columns."""

ALWAYS = ("metrics.csv", "losses.csv", "conflicts.csv")
"""Those that every run has; the others hang on the architecture, and on what is measured."""


def shown(value: object) -> str:
    """A figure as the files print it: nine significant digits, nothing for NaN."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    return str(value)


class Table:
    """One CSV file of a run.

    Args:
        path: the file.
        columns: its header.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)
        self.size = 0

    def open(self, size: int) -> None:
        """Cut the file back to ``size`` bytes (0 starts it anew, with its header)."""
        if size > 0 and self.path.exists() and self.path.stat().st_size >= size:
            os.truncate(self.path, size)
            self.size = size
            return
        if size > 0:
            raise UserError(
                f"{self.path} is shorter than the run's checkpoint says: somebody changed or "
                "removed it. Delete the run's folder to start it again."
            )
        self.path.write_text("")
        self.size = 0
        self._append(",".join(self.columns) + "\n")

    def append(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Write rows. What a full disk leaves half written is cut off on resume."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([shown(row[column]) for column in self.columns] for row in rows)
        if text.getvalue():
            self._append(text.getvalue())

    def _append(self, text: str) -> None:
        data = text.encode()
        with self.path.open("ab") as file:
            file.write(data)
        self.size += len(data)

    def sync(self) -> None:
        """Make what was written durable."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
