"""Auto-Lambda."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.adam import Adam
from mtlrun.settings import check_positive, per_task
from mtlrun.weighting.base import GramianWeighting, TaskInfo


class AutoLambda(GramianWeighting):
    """Auto-Lambda (Liu, James, Davison and Johns, TMLR 2022).

    Learns the weights lambda of the sum of lambda_i L_i so that training with them serves the
    primary tasks on other data. With the task gradients g_i of the training batch and the look
    ahead theta' = theta - lr (lambda_1 g_1 + ... + lambda_T g_T), the meta-loss is the sum of the
    primary tasks' losses at theta' on a second batch, with gradients h_j there, so that exactly

        d meta-loss / d lambda_i = -lr g_i . (sum over primary j of h_j).

    The weights move down this gradient by an Adam of their own, then the network takes its step
    with the new weights. As in the code the second batch, too, is of training data. Weights are not
    constrained: a task that harms the primary tasks may reach a negative weight. A task that is
    absent from a step keeps its weight, and without a primary task in it weights do not move.

    The paper's text could not be checked; the rule is that of the official code,
    lorenmt/auto-lambda. Published code departs: it finds g_i . h from a finite difference of the
    losses at theta +- 0.01 h / |h|, in forward passes that move the statistics of batch
    normalisation; and its look ahead includes the optimizer's momentum and weight decay, where here
    it is a plain gradient step. Adam's own constant, 1e-8, damps its steps where gradients are as
    small as that, so weights move less while losses are very small.

    Args:
        initial_value: of each weight. The code uses 0.1.
        learning_rate: of the weights; the code uses 1e-4 on NYUv2, 3e-5 on Cityscapes and 3e-4 on
            CIFAR-100.
        primary_tasks: names of the tasks that count in the meta-loss; None for all. The others are
            trained only as far as they help.
        tasks: the tasks of the run.

    Raises:
        UserError: a primary task that is no task of the run.
    """

    heads = "weighted"
    batches = 2
    lookahead = True
    task_weights: Tensor
    primary: Tensor

    def __init__(
        self,
        initial_value: float = 0.1,
        learning_rate: float = 1e-4,
        primary_tasks: Sequence[str] | None = None,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_positive("initial_value", initial_value)
        check_positive("learning_rate", learning_rate)
        names = [task.name for task in tasks] if primary_tasks is None else primary_tasks
        if not names:
            raise ValueError("primary_tasks is empty: name one task, or leave it out for all")
        primary = per_task("weighting.primary_tasks", dict.fromkeys(names, 1.0), tasks, 0.0)
        self.register_buffer("primary", primary.double(), persistent=False)  # 1 or 0
        weights = torch.full((len(tasks),), initial_value, dtype=torch.float64)
        self.register_buffer("task_weights", weights)
        self.adam = Adam(weights, learning_rate)

    def lookahead_weights(self) -> Tensor:
        """See :meth:`GramianWeighting.lookahead_weights`."""
        return self.pick(self.task_weights)

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`; moves the task weights."""
        tasks = len(losses) // self.batches
        primary = self.pick(self.primary)
        if primary.any():
            across = gramian[:tasks, tasks:]  # of g_i and h_j
            self.adam.move(self, self.task_weights, -self.step.learning_rate * (across @ primary))
        return self.pick(self.task_weights).clone()
