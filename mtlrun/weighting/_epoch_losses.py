"""The mean losses of an earlier epoch, by which later losses are measured."""

from collections.abc import Sequence

import torch
from torch import Tensor

ABSENT = -1e30
"""Exponent of a task that sits a step out: exp of it is 0, without the NaN of infinities."""


def epoch_losses(mean_losses: Sequence[Tensor], epoch: int, tasks: int) -> Tensor:
    """The mean training losses of one epoch.

    Args:
        mean_losses: of each finished epoch, see :meth:`Weighting.start_epoch`.
        epoch: which, counted from 0.
        tasks: number of tasks of the run.

    Returns:
        [tasks], float64; for a task whose mean loss in that epoch is missing or not positive that
        of the first later epoch where it is, NaN where there is none.
    """
    found = torch.full((tasks,), torch.nan, dtype=torch.float64)
    for means in mean_losses[epoch:]:
        found = torch.where(found.isnan() & (means > 0) & means.isfinite(), means, found)
    return found
