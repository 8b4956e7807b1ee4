"""What runs achieved, as figures over seeds."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import pandas as pd

from mtlrun.analysis.delta_m import delta_m, relative_change
from mtlrun.analysis.groups import Group
from mtlrun.analysis.runs import Run
from mtlrun.analysis.table import Better, Cell

Which = Literal["test", "final", "best"]
"""Which figure of each metric: see :class:`mtlrun.analysis.runs.Figures`."""


class Figure(NamedTuple):
    """What a column is about.

    Attributes:
        group: the task, or what else the column belongs to.
        name: the metric.
        better: its direction.
    """

    group: str
    name: str
    better: Better | None


OVER_METRICS = Figure("delta_m", "over metrics", "higher")
OVER_TASKS = Figure("delta_m", "over tasks", "higher")
SECONDS = Figure("", "seconds", None)

Values = Mapping[Figure, float]
Statistics = dict[Group, dict[Figure, Cell]]


class NoDeltaMError(Exception):
    """Why there is no delta_m; the message completes ``delta_m is n/a for ...:``."""


def metric_values(run: Run, which: Which) -> Values:
    """The run's metrics; NaN where it has no number."""
    return {
        Figure(task, name, "higher" if figures.higher_is_better else "lower"): getattr(
            figures, which
        )
        for task, metrics in run.metrics.items()
        for name, figures in metrics.items()
    }


def delta_m_values(values: Values, baseline: Mapping[Figure, Cell]) -> Values:
    """Both definitions of delta_m of one run.

    Args:
        values: the run's metrics.
        baseline: what they are compared with, over its seeds.

    Raises:
        NoDeltaMError: a figure is missing on either side, or the baseline's is 0.
    """
    changes: dict[str, dict[str, float]] = {}
    for figure, value in values.items():
        against = baseline.get(figure, Cell()).mean
        name = f"{figure.group} {figure.name}"
        if math.isnan(value):
            raise NoDeltaMError(f"a run has no figure for {name}")
        if math.isnan(against):
            raise NoDeltaMError(f"the baseline has no figure for {name}")
        if against == 0:
            raise NoDeltaMError(f"{name} of the baseline is 0, and no change is relative to that")
        change = relative_change(value, against, higher_is_better=figure.better == "higher")
        changes.setdefault(figure.group, {})[figure.name] = change
    if not changes:
        raise NoDeltaMError("it has no metrics")
    both = delta_m(changes)
    return {OVER_METRICS: both.over_metrics, OVER_TASKS: both.over_tasks}


def over_seeds(values: Iterable[tuple[Group, Values]]) -> Statistics:
    """Mean and sample standard deviation over the runs of each group.

    A figure that some run of a group lacks (a diverged loss, say) is missing for the group: a mean
    over the seeds that went well would flatter the method.

    Args:
        values: for each run its group and its figures.
    """
    groups: dict[Group, int] = {}
    figures: dict[Figure, int] = {}
    rows = [
        (groups.setdefault(group, len(groups)), figures.setdefault(figure, len(figures)), value)
        for group, run_values in values
        for figure, value in run_values.items()
    ]
    frame = pd.DataFrame(rows, columns=["group", "figure", "value"])
    table = frame.groupby(["group", "figure"])["value"].agg(["mean", "std", "count"])
    group_of, figure_of = list(groups), list(figures)
    statistics: Statistics = {group: {} for group in groups}
    for at, figure_at, mean, deviation, count in table.reset_index().itertuples(index=False):
        group = group_of[at]
        whole = count == len(group.runs)
        cell = Cell(float(mean), float(deviation)) if whole else Cell()
        statistics[group][figure_of[figure_at]] = cell
    return statistics
