"""Analytical uncertainty weighting."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mtlrun.settings import check_choice, check_positive
from mtlrun.weighting._positive import PositiveLossWeighting
from mtlrun.weighting.base import TaskInfo


class SoftUncertainty(PositiveLossWeighting):
    """Soft optimal uncertainty weighting, UW-SO (Kirchdorfer et al., GCPR 2024).

    Uncertainty weighting's noise scales have a closed form: L / s + log s is least at s = L, where
    the task's weight is 1 / L. So nothing is learned; with losses taken as constants in the weights
    w, the objective is the sum of w_i L_i with, by the form,

    * ``inverse`` (the paper's UW-O): w_i = 1 / L_i;
    * ``softmax`` (UW-SO): w_i = softmax over tasks of 1 / (temperature L)_i.

    The paper derives 1 / L for an L1 loss and drops the constant factors that other likelihoods
    have; so does this method. Weights of ``softmax`` sum to 1 over the tasks of the step and depend
    on the *scale* of the losses: the temperature must be chosen for it, anew for each data set. A
    low one gives nearly all weight to the task with the smallest loss, a high one equal weights.

    The paper does not say what to do at a loss of 0. Here a task whose loss is 0, or has fallen to
    1e-8 of the largest that it has had, sits the step out; negative losses are refused after the
    epoch. No official code is known; ports add 1e-8 to the loss.

    Args:
        form: which of these.
        temperature: of the softmax. The paper searches it for each data set, so the default of 1 is
            a place to start from. It means nothing to ``inverse``.
        tasks: the tasks of the run.

    Raises:
        UserError: a task's mean loss over an epoch is negative (when the next one starts).
    """

    def __init__(
        self,
        form: Literal["softmax", "inverse"] = "softmax",
        temperature: float = 1.0,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__(tasks)
        check_choice("form", form, ("softmax", "inverse"))
        check_positive("temperature", temperature)
        self.form = form
        self.compares = "losses" if form == "softmax" else "nothing"
        self.temperature = temperature

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        stacked = torch.stack(losses)
        unsolved = self.unsolved(stacked)
        inverse = 1 / stacked.detach().double()  # [T]; float64, for it may be huge
        if self.form == "softmax":
            logits = torch.where(unsolved, inverse / self.temperature, -torch.inf)
            inverse = torch.softmax(logits, dim=0)
        weights = torch.where(unsolved, inverse, 0.0).to(stacked.dtype)
        return (weights * stacked).sum()
