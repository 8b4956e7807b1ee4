"""The sum of log losses."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.weighting._positive import PositiveLossWeighting
from mtlrun.weighting.base import TaskInfo


class LogLoss(PositiveLossWeighting):
    """Scale-invariant weighting, SI: the sum of log losses (a baseline of Navon et al., ICML 2022).

        objective = sum_i log L_i,   so   w_i = 1 / L_i

    The gradient does not change when a loss is multiplied by a positive number. It has the
    direction of GLS, and the weights to which uncertainty weighting and IMTL-L lead.

    The formula asks for positive losses. Here a task whose loss is 0, or has fallen to 1e-8 of the
    largest that it has had, sits the step out; negative losses are refused after the epoch.
    Published code departs: Nash-MTL's takes the plain logarithm, which gives NaN at 0; others add
    1e-8 to the loss, which makes the answer depend on its scale.

    Args:
        tasks: the tasks of the run.

    Raises:
        UserError: a task's mean loss over an epoch is negative (when the next one starts).
    """

    claims = frozenset({"invariant", "impartial"})

    def __init__(self, *, tasks: Sequence[TaskInfo]) -> None:
        super().__init__(tasks)

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        stacked = torch.stack(losses)
        return torch.where(self.unsolved(stacked), stacked, 1.0).log().sum()
