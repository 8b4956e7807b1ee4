"""TensorBoard events: scalars, pictures, texts, the run's row of the HParams page."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from mtlrun.tracking import hparams
from mtlrun.tracking.heatmap import heatmap
from mtlrun.tracking.summary import markdown_summary
from mtlrun.types import Structure

Row = Mapping[str, Any]


class EventWriter:
    """Writes one run's event file.

    Args:
        folder: the run folder.
        step: the step that the run goes on from; events after it, which a killed run left, are
            hidden from TensorBoard. None for a new run.
    """

    def __init__(self, folder: Path, step: int | None) -> None:
        self.folder = folder
        purge = None if step is None else step + 1
        self.writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=30)
        if step is None:
            self.writer.add_custom_scalars(LAYOUT)
        self._scalar(hparams.FINISHED, 0.0, step or 0)

    def losses(self, rows: Sequence[Row]) -> None:
        """Rows of ``losses.csv`` as ``train/<figure>/<task>``."""
        for row in rows:
            for figure in ("loss", "loss_ratio", "weight", "grad_norm"):
                self._scalar(f"train/{figure}/{row['task']}", row[figure], row["step"])

    def conflicts(self, rows: Sequence[Row]) -> None:
        """Rows of ``conflicts.csv`` as ``train/cosine/<a>-<b>``."""
        for row in rows:
            tag = f"train/cosine/{row['task_a']}-{row['task_b']}"
            self._scalar(tag, row["cosine"], row["step"])

    def metrics(self, rows: Sequence[Row]) -> None:
        """Rows of ``metrics.csv`` of ``val`` and ``test`` as ``<split>/<task>/<metric>``.

        Of those of ``train`` what the steps do not show, as ``train/<metric>/<task>``.
        """
        for row in rows:
            if row["split"] != "train":
                tag = f"{row['split']}/{row['task']}/{row['metric']}"
                self._scalar(tag, row["value"], row["step"])
            elif row["metric"] != "loss":
                self._scalar(f"train/{row['metric']}/{row['task']}", row["value"], row["step"])

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Any other figure."""
        self._scalar(tag, value, step)

    def _scalar(self, tag: str, value: float, step: int) -> None:
        if value == value:  # TensorBoard draws NaN as markers that hide the curve
            self.writer.add_scalar(tag, value, step)

    def images(self, tag: str, pictures: Tensor, step: int) -> None:
        """Rows of pictures side by side, uint8 [rows, N, 3, H, W], as one image."""
        rows, columns, channels, height, width = pictures.shape
        grid = pictures.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)
        self.writer.add_image(tag, grid, step)

    def structure(self, table: Structure, step: int) -> None:
        """What an architecture has learned, as the picture ``structure/<name>``."""
        self.heatmap(f"structure/{table.name}", table.rows, table.columns, table.values, step)

    def heatmap(
        self, tag: str, rows: Sequence[str], columns: Sequence[str], values: Tensor, step: int
    ) -> None:
        """A table of numbers, [rows, columns] on any device, as a picture."""
        picture = heatmap(rows, columns, values.detach().double().cpu().numpy())
        self.writer.add_image(tag, picture, step, dataformats="HWC")

    def text(self, tag: str, text: str) -> None:
        """A text, shown in a fixed-width font."""
        self.writer.add_text(tag, "\n".join(f"    {line}" for line in text.splitlines()))

    def hyperparameters(self, settings: Mapping[str, Any], columns: Mapping[str, str]) -> None:
        """This run's row of the HParams page.

        Args:
            settings: of the run.
            columns: the figures that the page shows: what it calls each, by tag.
        """
        self._record(hparams.experiment(settings, columns))
        self._record(hparams.session_start(settings))
        self.writer.flush()  # so that a run that has just begun is seen

    def finished(self, result: Mapping[str, Any], step: int) -> None:
        """The result as the text ``summary`` and as figures, and that the run has finished."""
        for tag, value in hparams.result_figures(result).items():
            self._scalar(tag, value, step)
        self.writer.add_text("summary", markdown_summary(result), step)
        self._record(hparams.session_end("STATUS_SUCCESS"))

    def failed(self, step: int) -> None:
        """That the run has failed; a full disk, which may be why, keeps it from being said."""
        self._scalar(hparams.FINISHED, -1.0, step)
        with suppress(OSError):
            hparams.write_failure(self.folder)

    def _record(self, summary: Any) -> None:
        assert self.writer.file_writer is not None
        self.writer.file_writer.add_summary(summary)

    def close(self) -> None:
        """Write out and close."""
        self.writer.close()


CHARTS = {
    "loss ratio: now / first": r"train/loss_ratio/.*",
    "weight": r"train/weight/.*",
    "training loss": r"train/loss/.*",
    "validation loss": r"val/[^/]+/loss",
    "gradient norm": r"train/grad_norm/.*",
    "cosine between task gradients": r"train/cosine/.*",
    "share of steps in conflict": r"train/conflict_share/.*",
    "gradient noise scale: rows": r"train/noise_scale/.*",
}
"""Custom charts, each with the tags that it draws. Patterns, so that all runs have the same charts:
TensorBoard shows those of all runs one after the other where they differ."""

LAYOUT = {"tasks together": {title: ["Multiline", [tags]] for title, tags in CHARTS.items()}}
