"""Fast adaptive multitask optimization."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlrun.adam import Adam
from mtlrun.errors import UserError
from mtlrun.settings import check_not_negative, check_positive, per_task
from mtlrun.weighting.base import LossWeighting, TaskInfo

SMALLEST_GAP = 1e-8
"""Least distance of a loss from its lower bound, as a part of the largest one in the step."""


class FAMO(LossWeighting):
    """FAMO (Liu, Feng, Stone and Liu, NeurIPS 2023, algorithm 1).

    Weighs tasks so that the one whose loss falls most slowly, in relation to itself, falls faster.
    With the gap D_i = L_i - min_i, the task logits xi and z = softmax(xi), the network minimises

        c sum_i z_i log D_i,  c = 1 / (z_1 / D_1 + ... + z_T / D_T) held constant,

    so task i has the weight (z_i / D_i) c, and weights sum to 1. The losses of the same batch are
    taken again after the step, and with delta_i = log D_i(before) - log D_i(after) the logits move
    down z_i (delta_i - z . delta) + gamma xi_i, by an Adam of their own: a task that improved more
    than the others loses weight.

    Here, besides:

    * a gap is at least 1e-8 of the step's largest, so a loss of 0, or one below its bound, gets
      nearly all the weight but no infinite one; the code adds 1e-8 to each loss instead, which
      makes the answer depend on the scale of the losses;
    * a task that is absent from a step keeps its logit;
    * a loss that is not finite when it is taken again counts as unchanged.

    The paper's text could not be checked; the rule is that of the official code, Cranial-XIX/FAMO.
    Published code departs: the paper is reported to write a gradient step for the logits, the code
    takes Adam's, as here. The stand-alone ``famo.py`` clips shared gradients to norm 1; the code of
    the published tables clips before the backward pass, which does nothing, so those are without
    clipping. The code of the 2-D toy moves the logits by the next iteration's losses.

    Args:
        learning_rate: of the logits; published code uses 0.025.
        gamma: pull of the logits towards equal weights, Adam's weight decay. The authors' scripts
            use 0.001 on NYUv2, CelebA and QM9, 0.01 on Cityscapes and 0 on the toy.
        min_losses: for single tasks a lower bound of the loss other than 0.
        tasks: the tasks of the run.

    Raises:
        UserError: a lower bound for a name that is no task of the run, or one that is not finite.
    """

    compares = "losses"
    claims = frozenset({"homogeneous"})
    reevaluates = True
    linear = False
    logits: Tensor
    min_losses: Tensor

    def __init__(
        self,
        learning_rate: float = 0.025,
        gamma: float = 0.001,
        min_losses: Mapping[str, float] | None = None,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_positive("learning_rate", learning_rate)
        check_not_negative(gamma=gamma)
        self.register_buffer("logits", torch.zeros(len(tasks)))
        self.register_buffer("min_losses", _bounds(min_losses or {}, tasks), persistent=False)
        self.adam = Adam(self.logits, learning_rate, weight_decay=gamma)
        self._before: tuple[Tensor, Tensor] | None = None  # gaps of this step and their unit

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        shown = torch.stack(losses)
        distances = shown.detach() - self.pick(self.min_losses)
        largest = distances.abs().max()
        unit = torch.where(largest > 0, largest, torch.ones_like(largest))
        gaps = (distances / unit).clamp(min=SMALLEST_GAP)
        self._before = gaps, unit
        weights = torch.softmax(self.pick(self.logits), dim=0) / gaps
        return (weights / weights.sum() * shown).sum()

    def reevaluated(self, losses: Tensor) -> None:
        """See :meth:`LossWeighting.reevaluated`; moves the logits."""
        assert self._before is not None
        before, unit = self._before
        after = ((losses - self.pick(self.min_losses)) / unit).clamp(min=SMALLEST_GAP)
        improvements = (before / after).log()  # [T]
        improvements = torch.where(improvements.isfinite(), improvements, 0.0)
        shares = torch.softmax(self.pick(self.logits), dim=0)
        gradient = shares * (improvements - (shares * improvements).sum())
        self.adam.move(self, self.logits, gradient)


def _bounds(min_losses: Mapping[str, float], tasks: Sequence[TaskInfo]) -> Tensor:
    """Lower bounds of the losses, [tasks of the run]."""
    per_task("weighting.min_losses", dict.fromkeys(min_losses, 0.0), tasks, 0.0)  # are they tasks?
    for name, value in min_losses.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value)):
            raise UserError(f"weighting.min_losses.{name}={value}: give a finite number.")
    return torch.tensor([float(min_losses.get(task.name, 0.0)) for task in tasks])
