"""What an evaluation says of the tasks that a sampler draws."""

import math
from collections.abc import Sequence

from mtlrun.sampling.units import Unit
from mtlrun.types import Evaluation, MetricValue


def tasks_of(units: Sequence[Unit]) -> tuple[str, ...]:
    """The tasks of all units, in their order."""
    return tuple(task for unit in units for task in unit.tasks)


def headline_metrics(evaluation: Evaluation, tasks: Sequence[str]) -> dict[str, MetricValue]:
    """For each of the tasks its headline metric; without those that could not be measured."""
    found = {}
    for task in tasks:
        metric = evaluation.metrics.get(task, {}).get(evaluation.headlines.get(task, ""))
        if metric is not None and math.isfinite(metric.value):
            found[task] = metric
    return found
