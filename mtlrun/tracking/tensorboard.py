"""TensorBoard events: scalars, pictures, the configuration, hparams in the run itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from mtlrun.tracking.heatmap import heatmap
from mtlrun.types import Structure

Row = Mapping[str, Any]


class EventWriter:
    """Writes one run's event file.

    Args:
        folder: the run folder.
        tasks: names of the run's tasks.
        step: the step that the run goes on from; events after it, which a killed run left, are
            hidden from TensorBoard. None for a new run.
    """

    def __init__(self, folder: Path, tasks: Sequence[str], step: int | None) -> None:
        purge = None if step is None else step + 1
        self.writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=30)
        if step is None:
            self.writer.add_custom_scalars(layout(tasks))

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
        picture = heatmap(table.rows, table.columns, table.values.detach().double().cpu().numpy())
        self.writer.add_image(f"structure/{table.name}", picture, step, dataformats="HWC")

    def text(self, tag: str, text: str) -> None:
        """A text, shown in a fixed-width font."""
        self.writer.add_text(tag, "\n".join(f"    {line}" for line in text.splitlines()))

    def hyperparameters(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """This run's row of the HParams page: settings, and tags of its headline metrics."""
        shown = {k: v if isinstance(v, (bool, int, float)) else str(v) for k, v in settings.items()}
        assert self.writer.file_writer is not None
        for summary in hparams(shown, dict.fromkeys(metrics, 0.0)):
            self.writer.file_writer.add_summary(summary)

    def close(self) -> None:
        """Write out and close."""
        self.writer.close()


def layout(tasks: Sequence[str]) -> dict[str, dict[str, list[object]]]:
    """Custom charts that draw the figures of all tasks together."""
    figures = ("loss_ratio", "weight", "loss", "grad_norm")
    return {
        "tasks together": {
            figure: ["Multiline", [f"train/{figure}/{task}" for task in tasks]]
            for figure in figures
        }
    }
