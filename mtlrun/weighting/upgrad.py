"""Unconflicting projection of gradients."""

from typing import Literal

import torch
from torch import Tensor

from mtlrun.settings import REDUCTIONS, check_choice
from mtlrun.weighting.base import GramianWeighting
from mtlrun.weighting.solvers import project_on_dual_cone


class UPGrad(GramianWeighting):
    """UPGrad (Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024).

    The mean of the projections of all task gradients on the dual cone of the gradients, the set of
    directions that raise no loss:

        d = (1 / T) sum_i p_i,   p_i = the p nearest to g_i with g_t . p >= 0 for all t.

    p_i = v_1 g_1 + ... + v_T g_T with the v >= e_i of least v' G v (arXiv 2406.16232, eq. 3 and
    proposition 1). Where no gradients conflict it is the mean gradient; it is 0 where a combination
    of all gradients with positive weights is. Scaling one loss scales its own share of d and
    changes no other's. Heads train on the plain losses.

    Published code departs: TorchJD adds 1e-4 of the Gramian's trace to its diagonal, which leaves a
    little conflict, and takes the mean gradient where that trace is below 1e-4; here the
    projections are exact at any scale.

    Args:
        reduction: ``"mean"`` of the projections (the paper) or their ``"sum"``.
    """

    claims = frozenset({"non_conflicting", "stationary", "homogeneous"})

    def __init__(self, reduction: Literal["sum", "mean"] = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        self.reduction = reduction

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        tasks = len(losses)
        projected = project_on_dual_cone(gramian, torch.eye(tasks, dtype=torch.float64)).sum(dim=0)
        return projected if self.reduction == "sum" else projected / tasks
