"""The loss balance of impartial multi-task learning."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlrun.weighting._absent import KeepsAbsent
from mtlrun.weighting._positive import RefusesNegative
from mtlrun.weighting.base import LossWeighting, TaskInfo


class IMTLL(KeepsAbsent, RefusesNegative, LossWeighting):
    """IMTL-L (Liu et al., ICLR 2021, section 3.2 and eq. 6).

    Each task has a learned scale s, trained beside the network on

        objective = sum_i base^s_i L_i - s_i

    so its weight is base^s_i, which at the optimum makes base^s_i L_i = 1 / log(base) for every
    task. The weights are those to which the sum of log losses jumps at once (weights 1 / L), but
    follow the losses slowly, which the paper wants against outliers. With base e this is
    ``weighting=uncertainty`` in its form ``notebook``, s negated: no factor for each likelihood.

    The paper derives the form for any base above 1 and uses e; as base^s = e^(s log base), another
    base changes how fast s moves, and the common factor 1 / log(base) of all weights.

    The paper takes losses to be positive. Here a loss of 0 or below gives its scale no gradient,
    as it would grow without end, and the task is trained with the weight that it has; negative mean
    losses are refused after the epoch. A task that is absent from a step keeps its scale.

    Args:
        base: of the power, above 1; the paper uses e.
        learning_rate: of s. None trains it like the network, as the paper does. It is never
            decayed: that would pull weights back to 1.
        tasks: the tasks of the run.

    Raises:
        UserError: a task's mean loss over an epoch is negative (when the next one starts).
    """

    claims = frozenset({"homogeneous"})

    def __init__(
        self,
        base: float = math.e,
        learning_rate: float | None = None,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__(tasks)
        if not (math.isfinite(base) and base > 1):
            raise ValueError(f"base={base}: must be a number greater than 1")
        self.base = base
        self.learning_rate = learning_rate
        self.log_weight = nn.Parameter(torch.zeros(len(tasks)))  # s, [tasks of the run]

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        stacked = torch.stack(losses)
        s = self.shown(self.log_weight)
        s = torch.where(stacked.detach() > 0, s, s.detach())
        return (torch.exp(math.log(self.base) * s) * stacked - s).sum()
