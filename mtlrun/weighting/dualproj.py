"""Projection of the mean gradient on the dual cone."""

from typing import Literal

import torch
from torch import Tensor

from mtlrun.settings import REDUCTIONS, check_choice
from mtlrun.weighting.base import GramianWeighting
from mtlrun.weighting.solvers import project_on_dual_cone


class DualProj(GramianWeighting):
    """DualProj (Lopez-Paz and Ranzato, GEM, NeurIPS 2017, eq. 11, applied to tasks by TorchJD).

    Gradient episodic memory projects the gradient of the task that is learned so that the losses of
    earlier tasks do not rise. For tasks learned together the mean gradient takes its place:

        d = the vector nearest to g_0 = (g_1 + ... + g_T) / T with g_t . d >= 0 for all t
          = v_1 g_1 + ... + v_T g_T with the v >= 1 / T of least v' G v.

    A long gradient that conflicts with the others is bent like the whole; :mod:`UPGrad
    <mtlrun.weighting.upgrad>` projects the gradients one by one. Heads train on the plain losses.

    Published code departs: TorchJD adds 1e-4 of the Gramian's trace to its diagonal, which leaves a
    little conflict, and takes the mean gradient where that trace is below 1e-4; here the
    projection is exact at any scale. GEM's own code adds 0.5 to the multipliers of its memories,
    which is for continual learning.

    Args:
        reduction: what is projected, the ``"mean"`` of the gradients (TorchJD) or their ``"sum"``.
    """

    claims = frozenset({"non_conflicting", "stationary", "homogeneous"})

    def __init__(self, reduction: Literal["sum", "mean"] = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        self.reduction = reduction

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        tasks = len(losses)
        each = 1.0 if self.reduction == "sum" else 1 / tasks
        start = torch.full((1, tasks), each, dtype=torch.float64)
        return project_on_dual_cone(gramian, start)[0]
