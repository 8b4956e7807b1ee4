"""Improvable gap balancing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.settings import check_not_negative
from mtlrun.weighting._epoch_losses import ABSENT, epoch_losses
from mtlrun.weighting._positive import PositiveLossWeighting
from mtlrun.weighting.base import TaskInfo


class IGB(PositiveLossWeighting):
    """Improvable gap balancing, IGBv1 (Dai, Fei and Lu, UAI 2023).

    Minimises the sum of w_i log L_i. Up to and with epoch ``base_epoch`` every w_i is 1; the mean
    training losses b_i of that epoch are then what progress is measured by:

        w_i = T softmax(L_1 / b_1, ..., L_T / b_T)_i, held constant,

    so a task that is still far from its final loss weighs more. The rule is that of the official
    code (YanqiDai/IGB4MTL); what the paper says beyond it could not be checked. The paper's
    second algorithm, IGBv2, chooses weights by reinforcement learning and is not this one.

    Where the code is silent: T counts the tasks of the step; a task that had no positive mean loss
    in epoch ``base_epoch`` takes that of its first later epoch, and has the ratio 1 until then; a
    task whose loss is 0, or has fallen to 1e-8 of the largest that it has had, sits the step out;
    negative losses are refused after the epoch.

    Args:
        base_epoch: from 0, the epoch whose mean losses are the base. Published code uses 1.
        tasks: the tasks of the run.

    Raises:
        UserError: a task's mean loss over an epoch is negative (when the next one starts).
    """

    compares = "losses"
    claims = frozenset({"invariant", "impartial"})
    base_losses: Tensor

    def __init__(self, base_epoch: int = 1, *, tasks: Sequence[TaskInfo]) -> None:
        super().__init__(tasks)
        check_not_negative(base_epoch=base_epoch)
        self.base_epoch = base_epoch
        self.register_buffer("base_losses", torch.full((len(tasks),), torch.nan))  # NaN: not known

    def start_epoch(self, mean_losses: Sequence[Tensor]) -> None:
        """Note the base losses once their epoch is over, see :meth:`Weighting.start_epoch`."""
        super().start_epoch(mean_losses)
        self.base_losses.copy_(epoch_losses(mean_losses, self.base_epoch, len(self.base_losses)))

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        stacked = torch.stack(losses)
        unsolved = self.unsolved(stacked)
        logs = torch.where(unsolved, stacked, 1.0).log()  # 0 for tasks that sit out
        if self.step.epoch <= self.base_epoch:
            return logs.sum()
        base = self.pick(self.base_losses)
        ratios = torch.where(base.isnan(), 1.0, stacked.detach() / base)
        shares = torch.softmax(torch.where(unsolved, ratios, ABSENT), dim=0)
        return unsolved.sum() * (shares * logs).sum()
