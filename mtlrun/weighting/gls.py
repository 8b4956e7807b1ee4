"""Geometric loss strategy."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.weighting._positive import PositiveLossWeighting
from mtlrun.weighting.base import TaskInfo


class GLS(PositiveLossWeighting):
    """Geometric loss strategy (Chennupati, Sistu, Yogamani and Rawashdeh, CVPR Workshops 2019).

    Minimises the geometric mean of the losses of the step's T tasks,

        objective = (L_1 ... L_T)^(1/T) = exp(mean(log L)),   so   w_i = objective / (T L_i).

    The direction of the gradient does not depend on the scale of each loss; its length goes with
    the geometric mean. It is computed through logarithms, so that products of many losses neither
    vanish nor overflow.

    The formula asks for positive losses: one loss of 0 would stop all tasks and give its own an
    infinite weight. Here a task whose loss is 0, or has fallen to 1e-8 of the largest that it has
    had, sits the step out, and the mean is over the others; negative losses are refused after the
    epoch. The paper's variant that stresses chosen tasks is not offered.

    Args:
        tasks: the tasks of the run.

    Raises:
        UserError: a task's mean loss over an epoch is negative (when the next one starts).
    """

    compares = "losses"
    claims = frozenset({"homogeneous", "impartial"})

    def __init__(self, *, tasks: Sequence[TaskInfo]) -> None:
        super().__init__(tasks)

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        stacked = torch.stack(losses)
        unsolved = self.unsolved(stacked)
        logarithms = torch.where(unsolved, stacked, 1.0).log()  # 0 for tasks that sit out
        count = unsolved.sum()
        mean = torch.exp(logarithms.sum() / count.clamp(min=1))
        return torch.where(count > 0, mean, 0.0)
