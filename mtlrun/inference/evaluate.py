"""``mtlrun evaluate``."""

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mtlrun.durable import write_output
from mtlrun.engine.device import cpu_threads
from mtlrun.engine.evaluation import Figures
from mtlrun.errors import UserError
from mtlrun.inference.options import add_device, check_output, parser_of, run_of
from mtlrun.inference.trained import TrainedRun

EXAMPLES = """\
  mtlrun evaluate outputs/default/digits/equal/seed=0            the test split
  mtlrun evaluate RUN --split val --checkpoint last --format csv
  mtlrun evaluate RUN --data /data/nyuv2 -o figures.json         data that lies elsewhere now
"""


@dataclass(frozen=True)
class Measured:
    """What an evaluation found.

    Attributes:
        run: the run.
        split: what was evaluated.
        checkpoint: whose weights.
        figures: for each task its metrics, ``loss`` among them.
    """

    run: TrainedRun
    split: str
    checkpoint: str
    figures: Figures


def evaluate_command(arguments: list[str]) -> int:
    """Print the metrics of a finished run's network on a split, and write them where asked.

    Args:
        arguments: what follows ``mtlrun evaluate``.

    Returns:
        the exit code.

    Raises:
        UserError: there is no such run or split, or nowhere to write.
    """
    parser = parser_of(
        "evaluate", "Metrics of a finished run's network on one of its splits.", EXAMPLES
    )
    add_device(parser)
    parser.add_argument("--split", choices=("test", "val", "train"), default="test")
    parser.add_argument(
        "--format", choices=("console", *WRITERS), help="what to print, or with -o to write"
    )
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="a .csv or .json file")
    options = parser.parse_args(arguments)
    written = _format_of(options.output, options.format)
    if options.output is not None:
        check_output(options.output, options.run)
    run = run_of(options, options.device)
    for remark in run.stored.remarks:
        print(remark, file=sys.stderr)
    with cpu_threads(run.threads):
        figures = run.evaluate(options.split)
    measured = Measured(run, options.split, options.checkpoint, figures)
    if written is None or written == "console" or options.output is not None:
        _print(measured, Console())
    else:
        sys.stdout.write(WRITERS[written](measured))
    if options.output is not None and written is not None:
        write_output(options.output, WRITERS[written](measured).encode())
        print(f"Written to {options.output}")
    return 0


def _format_of(output: Path | None, asked: str | None) -> str | None:
    """The format to write or print, None for the console."""
    if output is None:
        return asked
    implied = output.suffix.lower().removeprefix(".")
    wanted = implied if asked in (None, "console") else asked
    if wanted not in WRITERS or (implied in WRITERS and implied != wanted):
        raise UserError(f"-o {output}: end the name in .csv or .json, or say --format csv or json.")
    return wanted


def to_csv(measured: Measured) -> str:
    """One row a figure, in full: run, split, checkpoint, task, metric, value; empty for NaN."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "split", "checkpoint", "task", "metric", "value"])
    of = [str(measured.run.stored.folder), measured.split, measured.checkpoint]
    for task, values in measured.figures.items():
        for metric, value in values.items():
            shown = "" if math.isnan(value) else repr(value)
            writer.writerow([*of, task, metric, shown])
    return text.getvalue()


def to_json(measured: Measured) -> str:
    """The figures in full, null for NaN, and what they are of."""
    run = measured.run
    tasks = {
        task: {
            metric: {
                "value": None if math.isnan(value) else value,
                "higher_is_better": _direction(run, task, metric),
            }
            for metric, value in values.items()
        }
        for task, values in measured.figures.items()
    }
    said = {
        "run": str(run.stored.folder),
        "split": measured.split,
        "checkpoint": measured.checkpoint,
        "epoch": run.epoch,
        "device": str(run.placement.device),
        "settings": list(run.stored.changed),
        "tasks": tasks,
    }
    return json.dumps(said, indent=1, allow_nan=False) + "\n"


def _direction(run: TrainedRun, task: str, metric: str) -> bool:
    metrics = run.tasks[task].metrics
    return metric in metrics and metrics[metric].higher_is_better


def _print(measured: Measured, console: Console) -> None:
    run, split, figures = measured.run, measured.split, measured.figures
    checkpoint, epoch = measured.checkpoint, run.epoch
    chosen = epoch if isinstance(epoch, int) else ", ".join(f"{e} ({t})" for t, e in epoch.items())
    console.print(run.stored.title, style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{split} split, {checkpoint} checkpoint, epoch {chosen}", highlight=False, soft_wrap=True
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("task", overflow="fold")
    table.add_column("metric", overflow="fold")
    table.add_column(split, justify="right", no_wrap=True)
    for task in run.tasks:
        name = task
        for metric, value in figures.get(task, {}).items():
            arrow = "↑" if _direction(run, task, metric) else "↓"
            table.add_row(name, f"{metric} {arrow}", "-" if math.isnan(value) else f"{value:.6g}")
            name = ""
        table.add_section()
    console.print(table)
    for task in run.tasks:
        if task not in figures:
            console.print(f"{task} has no label in this split.", highlight=False)
    if split == "test" and checkpoint == "best":
        console.print(_beside_result(run, figures), highlight=False, soft_wrap=True)


def _beside_result(run: TrainedRun, figures: Figures) -> str:
    """Whether the run found the same."""
    tasks: Mapping[str, Any] = run.stored.result["tasks"]
    differences = {
        f"{task} {metric}": (value, stored)
        for task, values in figures.items()
        for metric, value in values.items()
        if metric in tasks.get(task, {}).get("metrics", {})
        and not _same(value, stored := tasks[task]["metrics"][metric]["test"])
    }
    if not differences:
        return "These are the figures in result.json."
    name, (value, stored) = max(differences.items(), key=_distance)
    return (
        f"{len(differences)} of these figures differ from result.json, {name} the most: "
        f"{value:.6g} here and {'none' if stored is None else f'{stored:.6g}'} there."
    )


def _same(value: float, stored: float | None) -> bool:
    return math.isnan(value) if stored is None else value == stored


def _distance(item: tuple[str, tuple[float, float | None]]) -> float:
    value, stored = item[1]
    return math.inf if stored is None else abs(value - stored)


WRITERS: Mapping[str, Callable[[Measured], str]] = {"csv": to_csv, "json": to_json}
