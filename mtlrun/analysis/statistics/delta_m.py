"""delta_m: how much better than single-task training, in percent.

Positive is better here, as in Vandenhende et al. (TPAMI 2021), Auto-Lambda (Liu et al., TMLR 2022)
and LibMTL. Nash-MTL (Navon et al., ICML 2022) and what followed it (FAMO, FairGrad) print the
opposite sign.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

Figures = Mapping[str, Mapping[str, float]]
"""For each task its metrics by name."""


@dataclass(frozen=True)
class DeltaM:
    """The two definitions of the literature. They can disagree in sign.

    Attributes:
        over_metrics: mean over all metrics, so a task counts as often as it has metrics
            (Nash-MTL, FAMO, FairGrad, with their sign turned).
        over_tasks: mean over tasks of the means over each task's metrics (LibMTL, Auto-Lambda).
    """

    over_metrics: float
    over_tasks: float


def relative_change(value: float, baseline: float, *, higher_is_better: bool) -> float:
    """Change against ``baseline`` in percent of it, positive where ``value`` is better.

    The change is relative to the size of the baseline, so that the direction also holds for a
    metric below zero (an R2 worse than the mean's).

    Raises:
        ZeroDivisionError: the baseline is 0, and no change is relative to that.
    """
    change = 100 * (value - baseline) / abs(baseline)
    return change if higher_is_better else -change


class NoChangeError(Exception):
    """A metric of the baseline is missing or 0, and no change is relative to that.

    Attributes:
        task: whose metric it is.
        metric: its name.
        value: the baseline's; NaN where it is missing.
    """

    def __init__(self, task: str, metric: str, value: float) -> None:
        super().__init__(task, metric, value)
        self.task, self.metric, self.value = task, metric, value


def changes_between(
    figures: Figures, baseline: Figures, higher_is_better: Mapping[str, Mapping[str, bool]]
) -> dict[str, dict[str, float]]:
    """For each task the :func:`relative_change` of each metric; NaN where ``figures`` lacks it.

    Args:
        figures: for each task its metrics by name.
        baseline: likewise.
        higher_is_better: the metrics that are compared, and their directions.

    Raises:
        NoChangeError: ``baseline`` lacks one of them, or has 0 there.
    """
    changes: dict[str, dict[str, float]] = {}
    for task, directions in higher_is_better.items():
        for metric, better in directions.items():
            known = baseline.get(task, {}).get(metric, math.nan)
            if math.isnan(known) or known == 0:
                raise NoChangeError(task, metric, known)
            value = figures.get(task, {}).get(metric, math.nan)
            change = relative_change(value, known, higher_is_better=better)
            changes.setdefault(task, {})[metric] = change
    return changes


def delta_m(changes: Mapping[str, Mapping[str, float]]) -> DeltaM:
    """Both definitions.

    Args:
        changes: for each task the :func:`relative_change` of each of its metrics; none empty.
    """
    return DeltaM(
        over_metrics=fmean(change for task in changes.values() for change in task.values()),
        over_tasks=fmean(fmean(task.values()) for task in changes.values()),
    )
