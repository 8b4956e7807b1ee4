"""How far a run is from a finished single-task run, task by task, while it trains."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from mtlrun.analysis.statistics.delta_m import relative_change
from mtlrun.errors import UserError
from mtlrun.tracking import folder as run_folder

Figures = Mapping[str, Mapping[str, float]]
Changes = Callable[[Figures], dict[str, float]]
"""From an evaluation's figures, for each task the mean relative change of its metrics against the
baseline, in percent, positive where better. Tasks without figures are left out."""


def changes_against(setting: str, path: str, tasks: Iterable[str]) -> Changes:
    """Compares with the run in a folder.

    Args:
        setting: how the user names the folder, for messages.
        path: the run folder.
        tasks: those of this run.

    Raises:
        UserError: the folder holds no finished run, or one without some of the tasks.
    """
    found_tasks = _tasks_of(setting, path, tasks)
    held = {name: facts["metrics"] for name, facts in found_tasks.items()}

    def changes(figures: Figures) -> dict[str, float]:
        found = {}
        for name, metrics in held.items():
            parts = [
                relative_change(
                    figures[name][metric], known["test"], higher_is_better=known["higher_is_better"]
                )
                for metric, known in metrics.items()
                if known["test"] and metric in figures.get(name, {})
            ]
            if parts:
                found[name] = fmean(parts)
        return found

    return changes


def headline_levels(setting: str, path: str, headlines: Mapping[str, str]) -> dict[str, float]:
    """For each task the best validation value of its headline metric in a finished run.

    Args:
        setting: how the user names the folder, for messages.
        path: the run folder.
        headlines: for each task of this run its headline metric.

    Raises:
        UserError: the folder holds no finished run, or one without some of the tasks or figures.
    """
    levels = {}
    for name, facts in _tasks_of(setting, path, headlines).items():
        best = facts["metrics"].get(headlines[name], {}).get("best")
        if best is None:
            raise UserError(
                f"{setting}={path}: that run has no {headlines[name]} of task {name}, which is "
                "what this run goes by. Name another folder, or give the levels yourself."
            )
        levels[name] = float(best)
    return levels


def _tasks_of(setting: str, path: str, tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What a finished run's result says of each of ``tasks``."""
    result = run_folder.finished(Path(path))
    if result is None:
        raise UserError(
            f"{setting}={path} holds no finished run ({run_folder.RESULT} is missing). "
            "Name the folder of a finished architecture=single_task run."
        )
    missing = [name for name in tasks if name not in result["tasks"]]
    if missing:
        raise UserError(f"{setting}={path} has no task {missing[0]}.")
    return {name: result["tasks"][name] for name in tasks}
