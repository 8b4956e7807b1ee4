"""What a run shows while it goes on, and the table at its end."""

import math
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Protocol

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mtlrun.tracking.summary import by_primary


class Display(Protocol):
    """Shows how far a run is."""

    def note(self, text: str) -> None:
        """Something out of the ordinary."""

    def advance(self, step: int, epoch: int, losses: Sequence[Mapping[str, Any]]) -> None:
        """Steps done, the epoch from 1, and the latest rows of ``losses.csv``."""

    def epoch(self, epoch: int, text: str) -> None:
        """An epoch is over; ``text`` says how it went."""

    def close(self) -> None:
        """The run is over or stops."""


class Silent:
    """Shows nothing."""

    def note(self, text: str) -> None:
        """See :class:`Display`."""

    def advance(self, step: int, epoch: int, losses: Sequence[Mapping[str, Any]]) -> None:
        """See :class:`Display`."""

    def epoch(self, epoch: int, text: str) -> None:
        """See :class:`Display`."""

    def close(self) -> None:
        """See :class:`Display`."""


class Lines(Silent):
    """A line an epoch, at most one every two seconds: for logs and pipes."""

    def __init__(self, console: Console, epochs: int) -> None:
        self.console = console
        self.epochs = epochs
        self._last = -math.inf

    def note(self, text: str) -> None:
        """See :class:`Display`."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def epoch(self, epoch: int, text: str) -> None:
        """See :class:`Display`."""
        if epoch == self.epochs or time.monotonic() - self._last > 2:
            self._last = time.monotonic()
            self.console.print(f"epoch {epoch}/{self.epochs}  {text}", highlight=False)


class Bar(Silent):
    """A progress bar with the loss ratios and the last epoch's metrics."""

    def __init__(self, console: Console, epochs: int, steps: int, done: int) -> None:
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
        )
        self.epochs = epochs
        self.bar = self.progress.add_task("", total=steps, completed=done, epoch="", text="")
        self.progress.start()

    def note(self, text: str) -> None:
        """See :class:`Display`."""
        self.progress.console.print(text, highlight=False, soft_wrap=True)

    def advance(self, step: int, epoch: int, losses: Sequence[Mapping[str, Any]]) -> None:
        """See :class:`Display`."""
        ratios = ", ".join(f"{row['task']} {row['loss_ratio']:.2f}" for row in losses)
        self.progress.update(
            self.bar, completed=step, epoch=f"{epoch}/{self.epochs}", text=f"loss ratios: {ratios}"
        )

    def epoch(self, epoch: int, text: str) -> None:
        """See :class:`Display`."""
        self.progress.update(self.bar, epoch=f"{epoch}/{self.epochs}", text=text)

    def close(self) -> None:
        """See :class:`Display`."""
        self.progress.stop()


def display(kind: str, console: Console, epochs: int, steps: int, done: int) -> Display:
    """The display asked for by ``tracking.progress``."""
    if kind == "none":
        return Silent()
    if kind == "bar" or (kind == "auto" and console.is_terminal):
        return Bar(console, epochs, steps, done)
    return Lines(console, epochs)


def result_table(result: Mapping[str, Any]) -> Table:
    """A run's result: a row a metric, with the task's loss ratio and weight. Fits 80 columns."""
    split = "test" if result["select_on"] == "test" else "val"
    table = Table(
        title=f"{result['dataset']}: {result['method']}, seed {result['seed']}",
        title_justify="left",
        caption=f"test: the model of {_selected(result)}, the best on {split}"
        f"{by_primary(result)}. loss ratio: mean training loss of the last epoch by the first "
        "loss. weight: of the last step.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("task", "metric"):
        table.add_column(name, overflow="fold")
    figures_of = (f"{split}\nfinal", f"{split}\nbest", "of\nepoch", "test", "loss\nratio", "weight")
    for name in figures_of:
        table.add_column(name, justify="right", no_wrap=True, min_width=6)
    for task, values in result["tasks"].items():
        of_task = [_shown(values["loss"]["loss_ratio"]), _shown(values["weight"])]
        for metric, figures in values["metrics"].items():
            arrow = "↑" if figures["higher_is_better"] else "↓"
            shown = [_shown(figures["final"]), _shown(figures["best"]), str(figures["best_epoch"])]
            table.add_row(task, f"{metric} {arrow}", *shown, _shown(figures["test"]), *of_task)
            task, of_task = "", ["", ""]
        table.add_section()
    mean = _mean_headline(result["tasks"])
    if mean is not None:
        name, figures = mean
        table.add_row(f"mean of {len(result['tasks'])}", name, *figures, "", "")
    return table


MANY = 4
"""Tasks from which on their mean is shown."""


def _mean_headline(tasks: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """Means over many tasks that all have the same headline metric, as a line of the table."""
    headlines = {values["headline"] for values in tasks.values()}
    if len(headlines) > 1 or len(tasks) < MANY:
        return None
    (name,) = headlines
    figures = [values["metrics"][name] for values in tasks.values()]
    arrow = "↑" if figures[0]["higher_is_better"] else "↓"
    final, best, test = (
        _shown(fmean([f[key] if f[key] is not None else math.nan for f in figures]))
        for key in ("final", "best", "test")
    )
    return f"{name} {arrow}", [final, best, "", test]


def _selected(result: Mapping[str, Any]) -> str:
    """The epoch that was selected; for independent networks each task's."""
    chosen = result["selected_epoch"]
    if isinstance(chosen, dict):
        return ", ".join(f"epoch {epoch} ({task})" for task, epoch in chosen.items())
    return f"epoch {chosen}"


def _shown(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4f}" if 1e-3 < abs(value) < 1 else f"{value:.4g}"
