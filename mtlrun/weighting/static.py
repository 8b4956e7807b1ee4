"""Weights that the user fixes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlrun.errors import UserError
from mtlrun.settings import per_task
from mtlrun.weighting.base import LossWeighting, TaskInfo


class Static(LossWeighting):
    """A fixed weight for each task: the sum of w_i L_i.

    Weights are taken as given and not normalised. A well-searched set of them is a strong baseline
    (Xin et al. and Kurin et al., both NeurIPS 2022).

    Args:
        weights: for each task its weight, 0 or more; a task that is left out gets 1. None: all 1.
        tasks: the tasks of the run.

    Raises:
        UserError: a name that is no task of the run, a weight that is negative or not finite, or
            no weight above 0.
    """

    claims = frozenset({"homogeneous"})
    task_weights: Tensor

    def __init__(
        self, weights: Mapping[str, float] | None = None, *, tasks: Sequence[TaskInfo]
    ) -> None:
        super().__init__()
        task_weights = per_task("weighting.weights", weights or {}, tasks, default=1.0)
        if not (task_weights > 0).any():
            raise UserError(
                "weighting.weights gives every task the weight 0, so nothing would be trained. "
                "Give at least one task a weight above 0."
            )
        # a setting, not state: a checkpoint must not bring back other weights than those asked for
        self.register_buffer("task_weights", task_weights, persistent=False)

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        return (self.pick(self.task_weights) * torch.stack(losses)).sum()
