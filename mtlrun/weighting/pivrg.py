"""Fairness by performance."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.settings import check_positive
from mtlrun.types import Evaluation
from mtlrun.weighting._fairness import fair_weights
from mtlrun.weighting.base import GramianWeighting, TaskInfo

POWER = 0.5
"""FairGrad's 1 / alpha at alpha = 2."""


class PIVRG(GramianWeighting):
    """PIVRG (Qin, Wang and Yan, "Revisiting Fairness in Multitask Learning", CVPR 2025).

    FairGrad with alpha = 2 in which tasks that do worse than alone get more say, so that changes
    against single-task training vary less between tasks. d = x_1 g_1 + ... + x_T g_T with

        G x = (omega / x)^(1 / 2)   for each task,   x > 0,
        omega = T softmax(s / temperature),
        temperature = max((max s - min s) / log(bound), min_temperature),

    where s_i is the mean relative change of task i's metrics against training it alone, in percent,
    positive where worse. No two omega differ by more than the factor ``bound``. s is 0 in the first
    epoch and measured anew after each. Heads train on the plain losses. These formulas are those of
    the authors' code; the paper's text could not be checked.

    The changes are measured on the validation split, against the run that ``baseline`` names. A
    task whose change cannot be measured keeps its last one. Without any changes s stays 0, which is
    FairGrad. For a Pareto stationary point see :class:`~mtlrun.weighting.fairgrad.FairGrad`.

    Published code departs: for NYUv2 and Cityscapes it takes s from training metrics, and always
    against the single-task results on the test split, which here stays unseen. It multiplies d by T
    (``multiply_by_tasks``) and clips the gradient of the shared parameters to length 1.

    Args:
        baseline: folder of a finished single-task run of the same tasks. A run needs it.
        bound: greater than 1. The authors use 2 on NYUv2 and CelebA, 1.8 on Cityscapes and QM9.
        min_temperature: in percent. The authors use 10 on NYUv2 and CelebA, 20 on Cityscapes, 100
            on QM9.
        multiply_by_tasks: whether d is multiplied by T, the tasks of the step.
        tasks: the tasks of the run.
    """

    uses_evaluation = True
    needs_baseline = True
    claims = frozenset({"non_conflicting"})
    scores: Tensor
    omega: Tensor

    def __init__(
        self,
        baseline: str | None = None,
        bound: float = 2.0,
        min_temperature: float = 10.0,
        multiply_by_tasks: bool = False,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        if not (math.isfinite(bound) and bound > 1):
            raise ValueError(f"bound={bound}: must be a number greater than 1")
        check_positive("min_temperature", min_temperature)
        self.baseline = baseline
        self.bound = bound
        self.min_temperature = min_temperature
        self.multiply_by_tasks = multiply_by_tasks
        self.names = [task.name for task in tasks]
        self.register_buffer("scores", torch.zeros(len(tasks), dtype=torch.float64))
        self.register_buffer("omega", torch.ones(len(tasks), dtype=torch.float64))

    def after_evaluation(self, evaluation: Evaluation) -> None:
        """Measure s and omega anew, see the class."""
        for index, name in enumerate(self.names):
            change = evaluation.changes.get(name, math.nan)
            if math.isfinite(change):
                self.scores[index] = -change
        spread = (self.scores.max() - self.scores.min()).item()
        temperature = max(spread / math.log(self.bound), self.min_temperature)
        self.omega.copy_(len(self.names) * torch.softmax(self.scores / temperature, dim=0))

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        weights = fair_weights(gramian, power=POWER, shares=self.pick(self.omega))
        return weights * len(losses) if self.multiply_by_tasks else weights
