"""How far a run is from a finished single-task run, task by task, while it trains."""

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean

from mtlrun.analysis.delta_m import relative_change
from mtlrun.errors import UserError
from mtlrun.tracking import folder as run_folder

Figures = Mapping[str, Mapping[str, float]]
Changes = Callable[[Figures], dict[str, float]]
"""From an evaluation's figures, for each task the mean relative change of its metrics against the
baseline, in percent, positive where better. Tasks without figures are left out."""


def changes_against(setting: str, path: str, tasks: Mapping[str, object]) -> Changes:
    """Compares with the run in a folder.

    Args:
        setting: how the user names the folder, for messages.
        path: the run folder.
        tasks: those of this run.

    Raises:
        UserError: the folder holds no finished run, or one without some of the tasks.
    """
    result = run_folder.finished(Path(path))
    if result is None:
        raise UserError(
            f"{setting}={path} holds no finished run ({run_folder.RESULT} is missing). "
            "Name the folder of a finished architecture=single_task run."
        )
    missing = [name for name in tasks if name not in result["tasks"]]
    if missing:
        raise UserError(f"{setting}={path} has no task {missing[0]}.")
    held = {name: result["tasks"][name]["metrics"] for name in tasks}

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
