"""Smooth Tchebycheff scalarization."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.settings import check_not_negative, check_positive
from mtlrun.weighting._epoch_losses import ABSENT, epoch_losses
from mtlrun.weighting._positive import PositiveLossWeighting
from mtlrun.weighting.base import TaskInfo


class STCH(PositiveLossWeighting):
    """Smooth Tchebycheff scalarization, STCH (Lin et al., ICML 2024).

    The paper replaces the largest of the objectives f_i, with preferences p_i and an ideal point z,
    by a smooth bound that tends to it as mu falls to 0:

        mu log sum_i exp(p_i (f_i - z_i) / mu).

    For multi-task learning the authors' code (Xi-L/STCH, ``STCH_MTL``) takes f_i = log(L_i / n_i),
    the logarithm of the loss over its nadir n_i, p_i = 1 and z = 0, and multiplies by the number of
    tasks T. That is the rule here; the paper's text could not be checked. Task i then has the
    weight T softmax(f / mu)_i / L_i: a small mu looks at the worst task only, and a large mu makes
    the method the sum of the log losses. That sum is minimised in the first ``warmup_epochs``
    epochs and the one after, whose mean training losses are the nadir.

    Where the code is silent: T counts the tasks of the step; a task that had no positive mean loss
    in the nadir's epoch takes that of its first later epoch, and until then each loss counts as its
    own nadir. Where the code adds 1e-20 to a loss before it takes the logarithm, a task whose loss
    is 0, or has fallen to 1e-8 of the largest that it has had, sits the step out; negative losses
    are refused after the epoch.

    Args:
        mu: smoothness. Published code uses 1.
        warmup_epochs: epochs before the one that sets the nadir. Published code uses 4, so that
            the smooth maximum starts with the sixth epoch.
        tasks: the tasks of the run.

    Raises:
        UserError: a task's mean loss over an epoch is negative (when the next one starts).
    """

    compares = "losses"
    claims = frozenset({"invariant", "impartial"})
    nadirs: Tensor

    def __init__(
        self, mu: float = 1.0, warmup_epochs: int = 4, *, tasks: Sequence[TaskInfo]
    ) -> None:
        super().__init__(tasks)
        check_positive("mu", mu)
        check_not_negative(warmup_epochs=warmup_epochs)
        self.mu = mu
        self.warmup_epochs = warmup_epochs
        self.register_buffer("nadirs", torch.full((len(tasks),), torch.nan))  # NaN: not known

    def start_epoch(self, mean_losses: Sequence[Tensor]) -> None:
        """Note the nadir once its epoch is over, see :meth:`Weighting.start_epoch`."""
        super().start_epoch(mean_losses)
        self.nadirs.copy_(epoch_losses(mean_losses, self.warmup_epochs, len(self.nadirs)))

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        stacked = torch.stack(losses)
        unsolved = self.unsolved(stacked)
        logs = torch.where(unsolved, stacked, 1.0).log()
        if self.step.epoch <= self.warmup_epochs:
            return logs.sum()
        nadirs = self.pick(self.nadirs)
        references = torch.where(nadirs.isnan(), logs.detach(), nadirs.log())
        exponents = torch.where(unsolved, (logs - references) / self.mu, ABSENT)  # f / mu, [T]
        return unsolved.sum() * self.mu * exponents.logsumexp(dim=0)
