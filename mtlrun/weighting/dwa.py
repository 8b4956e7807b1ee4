"""Dynamic weight average."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.settings import check_positive
from mtlrun.weighting.base import LossWeighting, TaskInfo


class DWA(LossWeighting):
    """Dynamic weight average (Liu, Johns and Davison, CVPR 2019, eq. 7).

    In epoch e (from 0) task i has the weight w_i = T softmax(r / temperature)_i with the ratio
    r_i = L_i(e - 1) / L_i(e - 2) of its mean unweighted training losses: a task whose loss falls
    more slowly weighs more. In the first two epochs every weight is 1. T counts the tasks of the
    run, and a task keeps its weight through steps where other tasks are absent.

    The paper does not say what to do without a ratio: a task that had no label in one of the two
    epochs, or whose earlier mean loss was 0, has the ratio 1, that of a loss that stood still.

    Published code departs: Nash-MTL, FAMO and FairGrad compare windows of 25 iterations instead of
    epochs and minimise the mean instead of the sum of w_i L_i.

    Args:
        temperature: of the softmax; the paper uses 2. Larger makes weights more equal.
        tasks: the tasks of the run.
    """

    claims = frozenset({"homogeneous"})
    task_weights: Tensor

    def __init__(self, temperature: float = 2.0, *, tasks: Sequence[TaskInfo]) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.register_buffer("task_weights", torch.ones(len(tasks)))

    def start_epoch(self, mean_losses: Sequence[Tensor]) -> None:
        """Set this epoch's weights, see :meth:`Weighting.start_epoch`."""
        if len(mean_losses) < 2:
            self.task_weights.fill_(1.0)
            return
        ratios = mean_losses[-1] / mean_losses[-2]  # [tasks of the run]
        ratios = torch.where(ratios.isfinite(), ratios, torch.ones_like(ratios))
        self.task_weights.copy_(len(ratios) * torch.softmax(ratios / self.temperature, dim=0))

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        return (self.pick(self.task_weights) * torch.stack(losses)).sum()
