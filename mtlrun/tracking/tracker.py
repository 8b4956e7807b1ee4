"""All that a run writes while it trains, behind one door."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mtlrun.tracking.console import Display
from mtlrun.tracking.files import EVENTS, FAILURE
from mtlrun.tracking.tables import ALWAYS, COLUMNS, Table
from mtlrun.types import Structure

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Description:
    """What TensorBoard says of a run beside its curves.

    Attributes:
        config: the configuration, as text.
        settings: the run's row of the HParams page.
        headlines: for each task the metric that the page shows.
        delta_m: the tag of the change against single-task training.
        delta_m_tracked: whether the run computes it.
    """

    config: str
    settings: Mapping[str, Any]
    headlines: Mapping[str, str]
    delta_m: str = "val/delta_m"
    delta_m_tracked: bool = False


class Tracker:
    """Writes the CSV files and TensorBoard events of a run, and tells the display.

    As a context it closes them, and TensorBoard is told of a run that fails.

    Args:
        folder: the run folder.
        tasks: names of the run's tasks.
        tensorboard: whether events are written.
        display: shows progress.
        description: of the run, for TensorBoard.
        files: names of the CSV files that the run has.
    """

    def __init__(
        self,
        folder: Path,
        tasks: Sequence[str],
        *,
        tensorboard: bool,
        display: Display,
        description: Description,
        files: Sequence[str] = ALWAYS,
    ) -> None:
        self.folder = folder
        self.tasks = tuple(tasks)
        self.display = display
        self.description = description
        self._tables = {name: Table(folder / name, COLUMNS[name]) for name in files}
        self._tensorboard = tensorboard
        self._events: Any = None
        self._step = 0

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._events and isinstance(error, Exception):  # one that is interrupted goes on
            self._events.failed(self._step)
        self.close()

    def open(self, state: Mapping[str, Any] | None, step: int) -> None:
        """Begin, or go on from what a checkpoint knows: files are cut back to it.

        Args:
            state: what :meth:`state_dict` gave; None for a new run.
            step: the checkpoint's step.
        """
        self._step = step
        for name, table in self._tables.items():
            table.open(state["sizes"][name] if state else 0)
        # What a failure left; or all that a run left that was killed before its first checkpoint
        for stale in self.folder.glob(FAILURE if state else EVENTS):
            stale.unlink()
        if self._tensorboard:
            # Imported here: it takes a second, and not every run wants it.
            from mtlrun.tracking.hparams import result_columns
            from mtlrun.tracking.tensorboard import EventWriter

            self._events = EventWriter(self.folder, step if state else None)
            if not state:
                about = self.description
                columns = result_columns(
                    about.headlines, about.delta_m, tracked=about.delta_m_tracked
                )
                self._events.text("config", about.config)
                self._events.hyperparameters(about.settings, columns)

    def state_dict(self) -> dict[str, Any]:
        """The sizes of the CSV files, made durable first."""
        for table in self._tables.values():
            table.sync()
        return {"sizes": {name: table.size for name, table in self._tables.items()}}

    def steps(self, losses: Sequence[Row], conflicts: Sequence[Row], step: int, epoch: int) -> None:
        """Rows of ``losses.csv`` and ``conflicts.csv``."""
        self._step = step
        self._tables["losses.csv"].append(losses)
        self._tables["conflicts.csv"].append(conflicts)
        if self._events:
            self._events.losses(losses)
            self._events.conflicts(conflicts)
        self.display.advance(step, epoch, losses)

    def terms(self, rows: Sequence[Row]) -> None:
        """Rows of ``terms.csv``: the architecture's auxiliary losses."""
        self._tables["terms.csv"].append(rows)
        for row in rows:
            self.scalar(f"train/term/{row['term']}", row["loss"], row["step"])

    def affinity(self, rows: Sequence[Row]) -> None:
        """Rows of ``affinity.csv``: what a step for one task would do for another."""
        self._tables["affinity.csv"].append(rows)

    def heatmap(
        self, tag: str, rows: Sequence[str], columns: Sequence[str], values: Tensor, step: int
    ) -> None:
        """A table of numbers, [rows, columns], as a picture for TensorBoard alone."""
        if self._events:
            self._events.heatmap(tag, rows, columns, values, step)

    def structure(self, learned: Sequence[Structure], epoch: int, step: int) -> None:
        """What an architecture has learned of who shares what: ``structure.csv``, and pictures."""
        for table in learned:
            values = table.values.detach().double().cpu().tolist()
            self._tables["structure.csv"].append(
                {
                    "epoch": epoch,
                    "step": step,
                    "name": table.name,
                    "row": row,
                    "column": column,
                    "value": value,
                }
                for row, numbers in zip(table.rows, values, strict=True)
                for column, value in zip(table.columns, numbers, strict=True)
            )
            if self._events:
                self._events.structure(table, step)

    def metrics(
        self, epoch: int, step: int, split: str, figures: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Metrics of a split, for each task by name."""
        rows: list[Row] = [
            {
                "epoch": epoch,
                "step": step,
                "split": split,
                "task": task,
                "metric": metric,
                "value": float(value),
            }
            for task, values in figures.items()
            for metric, value in values.items()
        ]
        self._tables["metrics.csv"].append(rows)
        if self._events:
            self._events.metrics(rows)

    def scalar(self, tag: str, value: float, step: int) -> None:
        """A figure for TensorBoard alone."""
        if self._events:
            self._events.scalar(tag, value, step)

    def images(self, tag: str, pictures: Tensor, step: int) -> None:
        """Rows of pictures for TensorBoard, uint8 [rows, N, 3, H, W]."""
        if self._events:
            self._events.images(tag, pictures, step)

    def finished(self, result: Mapping[str, Any], step: int) -> None:
        """The run's result, as ``result.json`` will hold it."""
        if self._events:
            self._events.finished(result, step)

    @property
    def wants_images(self) -> bool:
        """Whether anybody looks at pictures."""
        return self._events is not None

    def close(self) -> None:
        """Write out and close."""
        self.display.close()
        if self._events:
            self._events.close()
