"""Gradient sign dropout."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from mtlrun.settings import REDUCTIONS, check_choice, per_task
from mtlrun.weighting.base import JacobianWeighting, TaskInfo


class GradDrop(JacobianWeighting):
    """GradDrop (Chen et al., "Just Pick a Sign", NeurIPS 2020, algorithm 1).

    Each element of the gradient keeps one sign. With the sign purity
    P = (1 + sum_i g_i / sum_i |g_i|) / 2 (eq. 1) and a uniform draw U for the element, positive
    task gradients stay where U < P and negative ones elsewhere; the rest is multiplied by the
    task's leak. The direction is the sum over tasks. Heads train on the plain losses.

    The paper's layer sits on the activations z that all tasks read (``of="activations"``). There P
    and U are taken for each feature, from sign(z) g_i summed over the rows of the batch, and all
    rows keep or drop a task's feature together. On parameter gradients (``of="parameters"``) the
    elements stand for themselves; that is what the tables of CAGrad, FAMO and later papers report
    as GradDrop.

    Published code departs: the official layer (tensorflow/lingvo, ``core/graddrop.py``) brings the
    result to the length of the plain sum of the gradients (``keep_norm``), and adds 1e-7 to
    divisors, which makes P depend on the scale of the losses; the tables' code on parameters takes
    the mean over tasks and multiplies it by T.

    Args:
        leak: how much passes where a sign is dropped, 0 to 1: one number for all tasks, or for some
            tasks theirs, and 0 for the rest. The paper uses 0, and 1 for a task that matters most.
        reduction: ``"sum"`` (the paper) or ``"mean"`` over the tasks of the step.
        of: what the gradients are of: ``"parameters"`` or ``"activations"``.
        keep_norm: whether the direction gets the length of the tasks' plain sum or mean. None means
            as published: for activations.
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
        of: Literal["parameters", "activations"] = "parameters",
        keep_norm: bool | None = None,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_choice("of", of, ("parameters", "activations"))
        check_choice("reduction", reduction, REDUCTIONS)
        if of == "activations":
            self.place = "representation"
            self.sees_representation = True
        self.keep_norm = of == "activations" if keep_norm is None else keep_norm
        self.reduction = reduction
        if not isinstance(leak, Mapping):
            leak = {task.name: leak for task in tasks}
        leaks = per_task("weighting.leak", leak, tasks, default=0.0, maximum=1.0)
        self.register_buffer("leak", leaks, persistent=False)

    def direction(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`JacobianWeighting.direction`."""
        del losses
        leak = self.pick(self.leak).to(jacobian)
        if self.place == "representation":
            assert self.representation is not None
            total = self._on_activations(jacobian, self.representation, leak)
        else:
            total = drop_signs(jacobian, self._uniform(jacobian[0]), leak)
        if self.keep_norm:
            norm, before = total.norm(), jacobian.sum(dim=0).norm()
            total *= torch.where(norm > 0, before / norm, 1.0)
        return total if self.reduction == "sum" else total / len(jacobian)

    def _uniform(self, like: Tensor) -> Tensor:
        # drawn where the gradients are: moving a draw for each parameter costs more than the rest
        generator = torch.Generator(device=like.device)
        generator.manual_seed(self.generator("graddrop").initial_seed())
        return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)

    def _on_activations(self, jacobian: Tensor, features: Tensor, leak: Tensor) -> Tensor:
        gradients = jacobian.view(len(jacobian), len(features), -1)  # [T, N, elements]
        signs = features.sign().to(jacobian).view(len(features), -1)
        signed = torch.stack([(signs * rows).sum(dim=0) for rows in gradients])
        keep_positive = self._uniform(signed[0]) < purity(signed)
        passed = [
            torch.where((of_task > 0) == keep_positive, 1.0, one).where(of_task != 0, 1.0)
            for of_task, one in zip(signed, leak, strict=True)
        ]
        return sum(
            (rows * part for rows, part in zip(gradients, passed, strict=True)),
            torch.zeros_like(gradients[0]),
        ).flatten()


def purity(gradients: Tensor) -> Tensor:
    """The sign purity P of each element of the task gradients, [T, P]; 1/2 where all are 0."""
    magnitude = torch.zeros_like(gradients[0])
    for row in gradients:  # row by row: a second [T, P] may not fit
        magnitude += row.abs()
    tiny = torch.finfo(gradients.dtype).tiny
    return (1 + gradients.sum(dim=0) / magnitude.clamp(min=tiny)) / 2


def drop_signs(jacobian: Tensor, uniform: Tensor, leak: Tensor) -> Tensor:
    """The sum of the task gradients after sign dropout.

    Args:
        jacobian: task gradients, [T, P].
        uniform: draws from [0, 1), [P].
        leak: [T].

    Returns:
        [P].
    """
    keep_positive = uniform < purity(jacobian)
    total = torch.zeros_like(uniform)
    for row, passed in zip(jacobian, leak, strict=True):
        total += torch.where((row > 0) == keep_positive, row, passed * row)
    return total
