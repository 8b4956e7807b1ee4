"""delta_m: how much better than single-task training, in percent.

Positive is better here, as in Vandenhende et al. (TPAMI 2021), Auto-Lambda (Liu et al., TMLR 2022)
and LibMTL. Nash-MTL (Navon et al., ICML 2022) and what followed it (FAMO, FairGrad) print the
opposite sign.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean


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


def delta_m(changes: Mapping[str, Mapping[str, float]]) -> DeltaM:
    """Both definitions.

    Args:
        changes: for each task the :func:`relative_change` of each of its metrics; none empty.
    """
    return DeltaM(
        over_metrics=fmean(change for task in changes.values() for change in task.values()),
        over_tasks=fmean(fmean(task.values()) for task in changes.values()),
    )
