"""Weights by the size of the tasks' training sets."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.errors import UserError
from mtlrun.weighting.base import LossWeighting, TaskInfo


class InverseSize(LossWeighting):
    """Weights inversely proportional to the number of labelled training rows.

    With n_i rows of task i and T tasks in the run,

        w_i = T (1 / n_i) / (1 / n_1 + ... + 1 / n_T)

    and the objective is the sum of w_i L_i. The weights are fixed and sum to T; where tasks are
    absent from a step, the others keep theirs. A rule of thumb without a canonical paper.

    It undoes *sampling in proportion to size*: where each step draws task i with the probability
    n_i / (n_1 + ... + n_T), the expected weight of every task comes out the same. Where each step
    has a batch of every task (``sampler=joint``), tasks are treated alike already, since each loss
    is a mean over its rows: there this weighting favours small tasks.

    Args:
        tasks: the tasks of the run.

    Raises:
        UserError: a task has no labelled training row.
    """

    claims = frozenset({"homogeneous"})
    task_weights: Tensor

    def __init__(self, *, tasks: Sequence[TaskInfo]) -> None:
        super().__init__()
        empty = [task.name for task in tasks if task.train_rows <= 0]
        if empty:
            raise UserError(
                "weighting=inverse_size divides by the number of labelled training rows, and "
                f"there is none for {', '.join(empty)}. Leave such tasks out, or use "
                "weighting=equal."
            )
        inverse = 1 / torch.tensor([task.train_rows for task in tasks], dtype=torch.float64)
        weights = len(tasks) * inverse / inverse.sum()
        # a fact of the data, not state: a checkpoint must not bring back those of other data
        self.register_buffer("task_weights", weights.float(), persistent=False)

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        return (self.pick(self.task_weights) * torch.stack(losses)).sum()
