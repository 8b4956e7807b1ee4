"""Multi-objective gradients with double sampling."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mtlrun.settings import REDUCTIONS, check_choice, check_not_negative
from mtlrun.weighting._simplex import Shares, equal_shares, project_on_simplex
from mtlrun.weighting.base import GramianWeighting, TaskInfo


class MoDo(GramianWeighting):
    """MoDo (Chen, Fernando, Ying and Chen, "Three-Way Trade-Off", NeurIPS 2023 and JMLR 2024).

    Each step has two independent batches, so that a product of their gradients G_1 and G_2 (rows
    are tasks) is unbiased. With P the projection on the simplex,

        lambda <- P(lambda - gamma (G_1 G_2' + rho I) lambda),  1 / T at first
        direction = sum_i lambda_i (g_1i + g_2i) / 2

    Where tasks are absent from a step, see :class:`~mtlrun.weighting._simplex.Shares`: the others
    divide their part of lambda among them. Heads train on the plain losses of both batches.

    The step of lambda grows with the squared scale of the losses, so gamma has to suit it: a large
    one puts all weight on one task at a time.

    The paper's text could not be checked. The above is the authors' toy code in
    heshandevaka/Trade-Off-MOL, and torchjd quotes the mean of the batches as the JMLR paper's
    equation 2.9b. Published code departs: the authors' benchmark code takes the sum of the batches
    (``reduction="sum"``) and leaves the half to the learning rate; LibMTL takes the direction from
    a third batch, and gamma 0.001.

    Args:
        gamma: step size of lambda, 0 or more. The authors' code offers 0.1.
        rho: pull of lambda towards equal weights, 0 or more. Their benchmark code offers 0.1.
        reduction: ``"mean"`` or ``"sum"`` of the batches.
        tasks: the tasks of the run.
    """

    batches = 2
    shares: Tensor

    def __init__(
        self,
        gamma: float = 0.1,
        rho: float = 0.1,
        reduction: Literal["sum", "mean"] = "mean",
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_not_negative(gamma=gamma, rho=rho)
        check_choice("reduction", reduction, REDUCTIONS)
        self.gamma = gamma
        self.rho = rho
        self.reduction = reduction
        self.register_buffer("shares", equal_shares(len(tasks)))  # lambda

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`; moves lambda first. Both batches weigh the same."""
        shares = Shares(self, self.shares)
        tasks = len(losses) // self.batches
        gradient = gramian[:tasks, tasks:] @ shares.values + self.rho * shares.values
        moved = torch.from_numpy(
            project_on_simplex((shares.values - self.gamma * gradient).numpy())
        )
        shares.move(moved)
        return (moved if self.reduction == "sum" else moved / 2).repeat(2)
