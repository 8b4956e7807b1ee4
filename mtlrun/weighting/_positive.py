"""What methods share that divide by losses or take their logarithms."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.errors import UserError
from mtlrun.weighting.base import LossWeighting, TaskInfo, Weighting

SOLVED = 1e-8
"""A loss below this share of the largest that its task has had counts as 0."""


class RefusesNegative(Weighting):
    """For losses of 0 or more: a task whose mean loss over an epoch is negative ends the run.

    Args:
        tasks: the tasks of the run.
    """

    def __init__(self, tasks: Sequence[TaskInfo]) -> None:
        super().__init__()
        self.names = tuple(task.name for task in tasks)

    def start_epoch(self, mean_losses: Sequence[Tensor]) -> None:
        """Refuse negative losses, see :meth:`Weighting.start_epoch`."""
        refuse_negative(mean_losses, self.names)


class PositiveLosses(RefusesNegative):
    """For positive losses only, which weigh about 1 / loss.

    A loss that is 0, or has fallen to :data:`SOLVED` of the largest that its task has had, would
    ask for an infinite weight. It counts as solved: the task sits the step out, with the weight 0,
    as if it were absent. The share is of the task's own losses, so the scale of losses does not
    matter.

    Args:
        tasks: the tasks of the run.
    """

    largest_losses: Tensor

    def __init__(self, tasks: Sequence[TaskInfo]) -> None:
        super().__init__(tasks)
        self.register_buffer("largest_losses", torch.zeros(len(tasks), dtype=torch.float64))

    def unsolved(self, losses: Tensor) -> Tensor:
        """Which of the step's tasks take part, bool [T]; notes their losses, [T].

        A loss that is not finite takes part, so that it is seen, but is not noted.
        """
        losses = losses.detach().double()
        largest = self.pick(self.largest_losses)
        largest = torch.where(losses.isfinite(), torch.maximum(largest, losses), largest)
        self.put(self.largest_losses, largest)
        # the smallest normal number: 1 / loss is to be finite in float32
        return ~(losses <= (SOLVED * largest).clamp(min=torch.finfo(torch.float32).tiny))


class PositiveLossWeighting(PositiveLosses, LossWeighting):
    """The same for methods that see losses only."""

    linear = False


def refuse_negative(mean_losses: Sequence[Tensor], names: Sequence[str]) -> None:
    """Refuse tasks whose mean loss in the last epoch was below 0.

    Args:
        mean_losses: see :meth:`Weighting.start_epoch`.
        names: of the tasks of the run.

    Raises:
        UserError: names the tasks and their losses.
    """
    if not mean_losses:
        return
    negative = [
        f"{name} {loss:.4g}"
        for name, loss in zip(names, mean_losses[-1].tolist(), strict=True)
        if loss < 0
    ]
    if negative:
        raise UserError(
            "This weighting needs positive losses, and the mean training loss of the last epoch "
            f"was negative: {', '.join(negative)}. Use a method that does not look at the size of "
            "losses, such as weighting=equal or weighting=static."
        )
