"""Gradient sign dropout."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from mtlrun.weighting._settings import REDUCTIONS, check_choice, per_task
from mtlrun.weighting.base import JacobianWeighting, TaskInfo


class GradDrop(JacobianWeighting):
    """GradDrop on parameter gradients (Chen et al., NeurIPS 2020, algorithm 1).

    Each element of the gradient keeps one sign. With the sign purity
    P = (1 + sum_i g_i / sum_i |g_i|) / 2 (eq. 1) and a uniform draw U for the element, positive
    task gradients stay where U < P and negative ones elsewhere; the rest is multiplied by the
    task's leak. The direction is the sum over tasks. Heads train on the plain losses.

    Published code departs: the paper's layer (tensorflow/lingvo, ``core/graddrop.py``) works on a
    shared *activation* x instead: it multiplies gradients by sign(x), sums them over the batch
    before it takes P, drops the same elements for all rows, and by default rescales the result.
    This is the variant on parameter gradients that the tables of CAGrad, FAMO and later papers
    report as GradDrop; their code takes the mean over tasks and multiplies it by T.

    Args:
        leak: how much passes where a sign is dropped, 0 to 1: one number for all tasks, or for some
            tasks theirs, and 0 for the rest. The paper uses 0, and 1 for a task that matters most.
        reduction: ``"sum"`` (the paper) or ``"mean"`` over the tasks of the step.
        tasks: the tasks of the run.

    Raises:
        UserError: a leak outside [0, 1], or for a name that is no task of the run.
    """

    claims = frozenset({"homogeneous"})
    leak: Tensor

    def __init__(
        self,
        leak: float | Mapping[str, float] = 0.0,
        reduction: Literal["sum", "mean"] = "sum",
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        self.reduction = reduction
        if not isinstance(leak, Mapping):
            leak = {task.name: leak for task in tasks}
        leaks = per_task("weighting.leak", leak, tasks, default=0.0, maximum=1.0)
        self.register_buffer("leak", leaks, persistent=False)

    def direction(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`JacobianWeighting.direction`."""
        del losses
        # drawn where the gradients are: moving a draw for each parameter costs more than the rest
        generator = torch.Generator(device=jacobian.device)
        generator.manual_seed(self.generator("graddrop").initial_seed())
        uniform = torch.rand(
            jacobian.shape[1], generator=generator, device=jacobian.device, dtype=jacobian.dtype
        )
        total = drop_signs(jacobian, uniform, self.pick(self.leak).to(jacobian))
        return total if self.reduction == "sum" else total / len(jacobian)


def drop_signs(jacobian: Tensor, uniform: Tensor, leak: Tensor) -> Tensor:
    """The sum of the task gradients after sign dropout.

    Args:
        jacobian: task gradients, [T, P].
        uniform: draws from [0, 1), [P].
        leak: [T].

    Returns:
        [P].
    """
    magnitude = torch.zeros_like(uniform)
    for row in jacobian:  # row by row: a second [T, P] may not fit
        magnitude += row.abs()
    purity = (1 + jacobian.sum(dim=0) / magnitude.clamp(min=torch.finfo(uniform.dtype).tiny)) / 2
    keep_positive = uniform < purity
    total = torch.zeros_like(uniform)
    for row, passed in zip(jacobian, leak, strict=True):
        total += torch.where((row > 0) == keep_positive, row, passed * row)
    return total
