"""The figures that say in a line how a finished run did."""

from collections.abc import Mapping
from typing import Any

from mtlrun.analysis.statistics.delta_m import delta_m, relative_change

FEW = 3
"""Tasks whose headline metrics fit into a line."""

Result = Mapping[str, Any]


def headline(result: Result) -> str:
    """The tasks' headline metrics on the test split.

    Args:
        result: what ``result.json`` holds.
    """
    figures = [
        f"{task} {facts['headline']} {_shown(facts['metrics'][facts['headline']]['test'])}"
        for task, facts in list(result["tasks"].items())[:FEW]
    ]
    return ", ".join([*figures, *(["..."] if len(result["tasks"]) > FEW else [])])


def against(result: Result, alone: Result) -> float | None:
    """delta_m over metrics on the test split; None where a figure is missing.

    Args:
        result: of the run.
        alone: of the single-task run that it is compared with.
    """
    changes: dict[str, dict[str, float]] = {}
    for task, facts in result["tasks"].items():
        for name, metric in facts["metrics"].items():
            known = alone["tasks"].get(task, {}).get("metrics", {}).get(name, {}).get("test")
            if not known or metric["test"] is None:
                return None
            changes.setdefault(task, {})[name] = relative_change(
                metric["test"], known, higher_is_better=metric["higher_is_better"]
            )
    return delta_m(changes).over_metrics if changes else None


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"
