"""Dynamic task prioritization."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlrun.errors import UserError, nearest_hint
from mtlrun.settings import per_task
from mtlrun.weighting.base import Evaluation, LossWeighting, TaskInfo


class DTP(LossWeighting):
    """Dynamic task prioritization (Guo, Haque, Huang, Yeung and Fei-Fei, ECCV 2018).

    Tasks that perform badly weigh more. Performance is a KPI of the task, a metric between 0 and 1
    of which higher is better, smoothed over evaluations; the weight has the form of a focal loss:

        k_i <- alpha KPI_i + (1 - alpha) k_i
        w_i = -(1 - k_i)^gamma_i log k_i

    and the objective is the sum of w_i L_i. Weights are not normalised: as tasks get better, all of
    them fall.

    The paper counts training iterations; here KPIs are measured on the validation split at each
    epoch's end. Before the first evaluation all weights are 1, and the first KPI starts the
    average. A KPI that could not be measured leaves its average as it is. KPIs are kept ``margin``
    away from 0, where the weight is infinite, and from 1, where a task would be given up for good;
    a value below 0 (R^2 can be) counts as 0. The paper also gives each *example* a focal loss and
    orders tasks along the network; both are other parts' business and not offered here.

    Published code departs: there is none by the authors. The rule was checked against summaries of
    the paper, its values of alpha and gamma could not be: the defaults are ours.

    Args:
        kpi: for each task the name of the metric that is its KPI. A task that is left out has its
            headline metric.
        alpha: share of the new KPI in the average, above 0 and up to 1.
        gamma: how strongly good tasks are discounted, 0 or more: one number for all tasks, or for
            some tasks theirs, and 2 for the rest. With 0 the weight is -log k.
        margin: least distance of a KPI to 0 and 1, above 0 and below 0.5.
        tasks: the tasks of the run.

    Raises:
        UserError: a name that is no task of the run; a gamma below 0; a metric that there is not,
            or of which lower is better; at the first evaluation, one above 1.
    """

    uses_evaluation = True
    claims = frozenset({"homogeneous"})
    gamma: Tensor
    performance: Tensor
    task_weights: Tensor

    def __init__(
        self,
        kpi: Mapping[str, str] | None = None,
        alpha: float = 0.5,
        gamma: float | Mapping[str, float] = 2.0,
        margin: float = 0.01,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha={alpha}: must be above 0 and at most 1")
        if not 0 < margin < 0.5:
            raise ValueError(f"margin={margin}: must be above 0 and below 0.5")
        self.names = tuple(task.name for task in tasks)
        self.kpi = _known_tasks(kpi or {}, self.names)
        for task in tasks:
            if task.metrics:
                name = self.kpi.get(task.name, next(iter(task.metrics)))
                _refuse_unsuitable(task.name, name, {**task.metrics, "loss": False})
        self.alpha = alpha
        self.margin = margin
        if not isinstance(gamma, Mapping):
            gamma = dict.fromkeys(self.names, gamma)
        gammas = per_task("weighting.gamma", gamma, tasks, default=2.0)
        self.register_buffer("gamma", gammas, persistent=False)
        # smoothed KPIs; NaN: none seen yet
        self.register_buffer("performance", torch.full((len(tasks),), torch.nan))
        self.register_buffer("task_weights", torch.ones(len(tasks)))

    def after_evaluation(self, evaluation: Evaluation) -> None:
        """Set the weights by the tasks' KPIs, see :meth:`Weighting.after_evaluation`."""
        values = [self._measured(evaluation, name) for name in self.names]
        new = torch.tensor(values).to(self.performance)
        old = torch.where(self.performance.isnan(), new, self.performance)
        smoothed = self.alpha * new + (1 - self.alpha) * old
        self.performance.copy_(torch.where(new.isnan(), self.performance, smoothed))
        clamped = self.performance.clamp(self.margin, 1 - self.margin)
        weights = -((1 - clamped) ** self.gamma) * clamped.log()  # NaN where never measured
        self.task_weights.copy_(torch.where(weights.isnan(), 1.0, weights))

    def _measured(self, evaluation: Evaluation, task: str) -> float:
        """A task's KPI, NaN where it could not be measured."""
        metrics = evaluation.metrics.get(task)
        if not metrics:
            return math.nan
        name = self.kpi.get(task, evaluation.headlines[task])
        directions = {key: metric.higher_is_better for key, metric in metrics.items()}
        above = {key: metric.value for key, metric in metrics.items() if metric.value > 1}
        _refuse_unsuitable(task, name, directions, above)
        value = metrics[name].value
        return math.nan if math.isnan(value) else max(value, 0.0)

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        return (self.pick(self.task_weights) * torch.stack(losses)).sum()


def _known_tasks(kpi: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    for task, metric in kpi.items():
        if task not in names:
            raise UserError(
                f"weighting.kpi.{task}={metric}: this run has no task of that name. "
                f"{nearest_hint(task, names)}Its tasks are {', '.join(names)}."
            )
    return dict(kpi)


def _refuse_unsuitable(
    task: str, name: str, directions: Mapping[str, bool], above: Mapping[str, float] | None = None
) -> None:
    """Refuse a metric that cannot be a KPI, and say what the user can do.

    Args:
        task: the task's name.
        name: of the metric.
        directions: for each of the task's metrics whether higher is better.
        above: the values of those above 1.
    """
    above = above or {}
    fit = [key for key, higher in directions.items() if higher and key not in above]
    if name in fit:
        return
    advice = "None of its metrics is one: use another weighting, such as weighting=dwa."
    if fit:
        advice = f"Name one with weighting.kpi={{{task}:{fit[0]}}}; it has {', '.join(fit)}."
    if name not in directions:
        raise UserError(
            f"weighting.kpi.{task}={name}: the task has no metric of that name. "
            f"{nearest_hint(name, directions)}{advice}"
        )
    reason = f"is above 1 ({above[name]:.4g})" if directions[name] else "is better when lower"
    raise UserError(
        "weighting=dtp needs for each task a metric between 0 and 1 of which higher is better, "
        f"and {name} of {task} {reason}. {advice}"
    )
