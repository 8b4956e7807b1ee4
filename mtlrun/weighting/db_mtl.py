"""Dual balancing, of losses and of gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.settings import check_not_negative
from mtlrun.weighting._positive import PositiveLosses
from mtlrun.weighting.base import GramianWeighting, TaskInfo


class DBMTL(PositiveLosses, GramianWeighting):
    """DB-MTL (Lin et al., "Dual-Balancing for Multi-Task Learning", arXiv 2308.12029, 2023).

    Losses are balanced by their logarithms, whose gradients g_i / L_i are averaged over the steps
    k = 1, 2, ... and brought to the length of the longest:

        y_i <- g_i / L_i + (beta / k^decay) (y_i - g_i / L_i),  y = 0 at first
        direction = sum_i (max_j |y_j| / |y_i|) y_i

    Heads train on the sum of log L_i. A task whose average is 0 has the weight 0.

    The formula asks for positive losses. Here a task whose loss is 0, or has fallen to 1e-8 of the
    largest that it has had, sits the step out; negative losses are refused after the epoch.

    The paper's text could not be checked. The above is what its first author's code does, in
    LibMTL. Published code departs: there 1e-8 is added to every loss and length, which makes the
    answer depend on their scale.

    Args:
        beta: how much of the average is kept, 0 <= beta < 1. With 0 there is no average.
        decay: of beta over the steps, 0 or more. LibMTL's defaults are beta 0.9 without decay.
        tasks: the tasks of the run.

    Raises:
        UserError: a task's mean loss over an epoch is negative (when the next one starts).
    """

    heads = "weighted"
    tracks_rows = True
    claims = frozenset({"invariant", "impartial"})

    def __init__(self, beta: float = 0.9, decay: float = 0.0, *, tasks: Sequence[TaskInfo]) -> None:
        super().__init__(tasks)
        if not 0 <= beta < 1:
            raise ValueError(f"beta={beta}: must be 0 or more and less than 1")
        check_not_negative(decay=decay)
        self.beta = beta
        self.decay = decay

    def tracking(self, losses: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`GramianWeighting.tracking`; the averages of solved tasks stay as they are."""
        derivatives = self._log_derivatives(losses)
        kept = self.beta / (self.step.step + 1) ** self.decay
        return derivatives, (1 - kept) * (derivatives > 0).to(losses.dtype)

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`; sets the weights of the heads."""
        self.head_weights = self._log_derivatives(losses)
        lengths = gramian.diagonal().clamp(min=0).sqrt() * (self.head_weights > 0)
        return torch.where(lengths > 0, lengths.max() / lengths, 0.0)

    def _log_derivatives(self, losses: Tensor) -> Tensor:
        """Derivatives of the logarithms of the losses, [T]; 0 for solved tasks."""
        return torch.where(self.unsolved(losses), 1 / losses, 0.0)
