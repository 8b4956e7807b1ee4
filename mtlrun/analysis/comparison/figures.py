"""What runs achieved, as figures over seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from mtlrun.analysis.comparison.groups import Group
from mtlrun.analysis.comparison.table import Better, Cell
from mtlrun.analysis.runs import Run
from mtlrun.analysis.statistics.bootstrap import (
    ChangeIntervals,
    bootstrap_change,
    bootstrap_interval,
    jackknife_change,
)
from mtlrun.analysis.statistics.delta_m import delta_m, relative_change
from mtlrun.analysis.statistics.seeds import NO_INTERVAL, Interval, t_interval

Which = Literal["test", "final", "best"]
"""Which figure of each metric: see :class:`mtlrun.analysis.runs.Figures`."""

Spread = Literal["sd", "bootstrap", "t"]
"""The standard deviation over seeds, or a 95 % interval for the mean."""


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
P_VALUE = Figure("", "p (Holm)", None)
MEAN_RANK = Figure("", "mean rank", "lower")
WINS = Figure("", "wins", "higher")
SECONDS = Figure("", "seconds", None)

Values = Mapping[Figure, float]
Samples = dict[Group, dict[Figure, list[float]]]
"""One value a run, in the order of the group's runs; NaN where a run has none."""
Statistics = dict[Group, dict[Figure, Cell]]


class NoDeltaMError(Exception):
    """Why there is no delta_m; the message completes ``delta_m is n/a for ...:``."""


def metric_values(run: Run, which: Which) -> dict[Figure, float]:
    """The run's metrics; NaN where it has no number."""
    return {
        Figure(task, name, "higher" if figures.higher_is_better else "lower"): getattr(
            figures, which
        )
        for task, metrics in run.metrics.items()
        for name, figures in metrics.items()
    }


def delta_m_values(values: Values, baseline: Values) -> Values:
    """Both definitions of delta_m of one run.

    Args:
        values: the run's metrics.
        baseline: what they are compared with: means over its seeds.

    Raises:
        NoDeltaMError: a figure is missing on either side, or the baseline's is 0.
    """
    changes: dict[str, dict[str, float]] = {}
    for figure, value in values.items():
        against = baseline.get(figure, math.nan)
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
        raise NoDeltaMError("it has no metrics of the tasks that delta_m is over")
    both = delta_m(changes)
    return {OVER_METRICS: both.over_metrics, OVER_TASKS: both.over_tasks}


def collected(values: Sequence[Values]) -> dict[Figure, list[float]]:
    """For each figure its values over runs, NaN where a run has none."""
    figures = dict.fromkeys(figure for run in values for figure in run)
    return {figure: [run.get(figure, math.nan) for run in values] for figure in figures}


def over_seeds(values: Sequence[float], spread: Spread = "sd") -> Cell:
    """Mean, sample standard deviation and, where asked for, a 95 % interval for the mean.

    Nothing where a run has no value (a diverged loss, say): a mean over the seeds that went well
    would flatter the method.
    """
    if not values or any(map(math.isnan, values)):
        return Cell()
    mean = sum(values) / len(values)
    if len(values) < 2:
        return Cell(mean)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Cell(mean, deviation, interval=interval_of(values, spread))


def interval_of(values: Sequence[float], spread: Spread) -> Interval:
    """The 95 % interval for the mean; NaN where the spread is no interval."""
    if spread == "t":
        return t_interval(values)
    return bootstrap_interval(values) if spread == "bootstrap" else NO_INTERVAL


def change_intervals(
    group: Group, baseline: Group, samples: Samples, figures: Sequence[Figure], spread: Spread
) -> ChangeIntervals:
    """95 % intervals of the change of ``group`` against ``baseline``, whose seeds count too.

    Args:
        group: at least one run.
        baseline: likewise.
        samples: of both.
        figures: the metrics.
        spread: ``bootstrap``, or else Student's, by the jackknife.
    """

    def table(of: Group) -> list[tuple[float, ...]]:
        missing = [math.nan] * len(of.runs)
        return list(zip(*(samples[of].get(figure, missing) for figure in figures), strict=True))

    intervals = bootstrap_change if spread == "bootstrap" else jackknife_change
    return intervals(
        table(group),
        table(baseline),
        [1 if figure.better == "higher" else -1 for figure in figures],
        [figure.group for figure in figures],
        paired=group.seeds == baseline.seeds,
    )


def means(statistics: Mapping[Figure, Cell], figures: Iterable[Figure]) -> dict[Figure, float]:
    """The means of some figures; NaN where there is none."""
    return {figure: statistics.get(figure, Cell()).mean for figure in figures}
