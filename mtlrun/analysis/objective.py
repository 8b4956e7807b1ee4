"""What a finished run achieved where its model was selected: what a search optimises."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlrun.analysis.runs import RESULT, primary_of
from mtlrun.analysis.statistics.delta_m import DeltaM, NoChangeError, changes_between, delta_m
from mtlrun.errors import UserError, did_you_mean

DELTA_M = {"delta_m": "over_metrics", "delta_m/over_tasks": "over_tasks"}
"""Objectives against a single-task run; others are ``task/metric``."""


@dataclass(frozen=True)
class Selected:
    """A run's figures of the selected epoch on the split that selected it.

    Attributes:
        figures: for each task its metrics by name.
        higher_is_better: likewise, their directions.
        primary: the tasks that the run is for.
    """

    figures: Mapping[str, Mapping[str, float]]
    higher_is_better: Mapping[str, Mapping[str, bool]]
    primary: Sequence[str]


def selected_figures(folder: Path) -> Selected:
    """The figures of a finished run.

    Raises:
        OSError, ValueError, KeyError: the run is not finished, or its files are damaged.
    """
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    split = "test" if result["select_on"] == "test" else "val"
    epochs = _epochs(result)
    directions = {
        task: {name: metric["higher_is_better"] for name, metric in facts["metrics"].items()}
        for task, facts in result["tasks"].items()
    }
    figures: dict[str, dict[str, float]] = {task: {} for task in directions}
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            task = row["task"]
            known = task in directions and row["metric"] in directions[task]
            if known and row["split"] == split and int(row["epoch"]) == epochs[task]:
                figures[task][row["metric"]] = float(row["value"] or "nan")
    return Selected(figures, directions, primary_of(result))


def _epochs(result: Mapping[str, Any]) -> dict[str, int]:
    """For each task the epoch that was selected; networks of their own have epochs of their own."""
    chosen = result["selected_epoch"]
    if not isinstance(chosen, dict):
        return dict.fromkeys(result["tasks"], chosen)
    # The first task of each network stands for those that follow it.
    epochs, epoch = {}, next(iter(chosen.values()))
    for task in result["tasks"]:
        epoch = chosen.get(task, epoch)
        epochs[task] = epoch
    return epochs


def validation_delta_m(folder: Path, baseline: Path) -> DeltaM:
    """delta_m of a run against a single-task run, both on the split that selected their models.

    Over the run's primary tasks. NaN where the run lacks a metric.

    Raises:
        UserError: the baseline lacks a metric, or has 0 there.
    """
    ours, alone = selected_figures(folder), selected_figures(baseline)
    directions = {task: ours.higher_is_better[task] for task in ours.primary}
    try:
        changes = changes_between(ours.figures, alone.figures, directions)
    except NoChangeError as none:
        raise UserError(
            f"There is no delta_m of {folder}: {none.task} {none.metric} of the baseline "
            f"{baseline} is {'missing' if math.isnan(none.value) else none.value}. Choose "
            "objective=TASK/METRIC."
        ) from none
    return delta_m(changes)


def is_maximised(objective: str, example: Path) -> bool:
    """Whether more of an objective is better.

    Args:
        objective: ``delta_m``, ``delta_m/over_tasks`` or ``task/metric``.
        example: a finished run with the same tasks.

    Raises:
        UserError: there is no such objective.
    """
    if objective in DELTA_M:
        return True
    directions = selected_figures(example).higher_is_better
    task, name = _split(objective, directions)
    return directions[task][name]


def objective_value(objective: str, folder: Path, baseline: Path | None) -> float:
    """What a finished run achieved.

    Raises:
        UserError: there is no such objective, or it needs a baseline and none is given.
    """
    if objective in DELTA_M:
        if baseline is None:
            raise UserError(
                f"objective={objective} needs a single-task run to compare with: name one with "
                "tracking.baseline=FOLDER, or choose objective=TASK/METRIC."
            )
        return float(getattr(validation_delta_m(folder, baseline), DELTA_M[objective]))
    selected = selected_figures(folder)
    task, name = _split(objective, selected.higher_is_better)
    return selected.figures[task].get(name, math.nan)


def _split(objective: str, known: Mapping[str, Mapping[str, object]]) -> tuple[str, str]:
    for task, metrics in known.items():
        for name in metrics:
            if objective == f"{task}/{name}":
                return task, name
    names = [*DELTA_M, *(f"{task}/{name}" for task, metrics in known.items() for name in metrics)]
    raise UserError(
        f"objective={objective}: there is no such figure. {did_you_mean(objective, names)}"
    )
