"""Tasks that are absent from a step."""

import torch
from torch import Tensor

from mtlrun.weighting.base import Weighting


class KeepsAbsent(Weighting):
    """For methods that train one tensor with a row for each task by the run's optimizer.

    An optimizer with momentum moves rows without a gradient, too. Those of tasks that are absent
    from a step are put back after it.
    """

    _noted: tuple[Tensor, Tensor] | None = None

    def shown(self, parameter: Tensor) -> Tensor:
        """The rows of this step's tasks in ``parameter``; notes the others."""
        absent = len(self.step.present) < len(parameter)
        self._noted = (parameter, parameter.detach().clone()) if absent else None
        return self.pick(parameter)

    def after_step(self) -> None:
        """See :meth:`Weighting.after_step`."""
        if self._noted is not None:
            restore_absent(self, *self._noted)
            self._noted = None


@torch.no_grad()
def restore_absent(weighting: Weighting, parameter: Tensor, before: Tensor) -> None:
    """Give tasks that are absent from the step the values that they had before it.

    Args:
        weighting: the method.
        parameter: of the method, with one row a task of the run.
        before: its values before the step.
    """
    if len(weighting.step.present) < len(parameter):
        kept = before.clone()
        weighting.put(kept, weighting.pick(parameter))
        parameter.copy_(kept)
