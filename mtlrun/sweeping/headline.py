"""The figures that say in a line how a finished run did."""

import math
from collections.abc import Mapping
from typing import Any

from mtlrun.analysis.runs import primary_of
from mtlrun.analysis.statistics.delta_m import NoChangeError, changes_between, delta_m

FEW = 3
"""Tasks whose headline metrics fit into a line."""

Result = Mapping[str, Any]


def headline(result: Result) -> str:
    """The headline metrics of the tasks that the run is for, on the test split.

    Args:
        result: what ``result.json`` holds.
    """
    tasks = {task: result["tasks"][task] for task in primary_of(result)}
    figures = [
        f"{task} {facts['headline']} {_shown(facts['metrics'][facts['headline']]['test'])}"
        for task, facts in list(tasks.items())[:FEW]
    ]
    return ", ".join([*figures, *(["..."] if len(tasks) > FEW else [])])


def against(result: Result, alone: Result) -> float | None:
    """delta_m over the primary tasks' metrics on the test split; None where a figure is missing.

    Args:
        result: of the run.
        alone: of the single-task run that it is compared with.
    """
    directions = {
        task: {
            name: metric["higher_is_better"]
            for name, metric in result["tasks"][task]["metrics"].items()
        }
        for task in primary_of(result)
    }
    try:
        changes = changes_between(_on_test(result), _on_test(alone), directions)
    except NoChangeError:
        return None
    change = delta_m(changes).over_metrics if changes else math.nan
    return None if math.isnan(change) else change


def _on_test(result: Result) -> dict[str, dict[str, float]]:
    """A result's figures on the test split; NaN for none."""
    return {
        task: {
            name: math.nan if metric["test"] is None else metric["test"]
            for name, metric in facts["metrics"].items()
        }
        for task, facts in result["tasks"].items()
    }


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"
