"""Robust multi-task learning with excess risks."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mtlrun.errors import UserError
from mtlrun.settings import (
    REDUCTIONS,
    check_choice,
    check_not_negative,
    check_positive,
)
from mtlrun.weighting._multiplicative import reweigh
from mtlrun.weighting.base import JacobianWeighting, TaskInfo


class ExcessMTL(JacobianWeighting):
    """ExcessMTL (He et al., ICML 2024, equations 6, 7 and 9).

    A noisy task has a large loss, but is not far from the best that it can reach; so tasks are
    weighed by how far they are from convergence, their excess risk. It is estimated to second
    order, with the diagonal curvature that AdaGrad would take, S_i being the sum of the squares of
    task i's gradients in all steps, element by element:

        excess_i = sum over elements of g_i^2 / sqrt(S_i)
        w_i <- w_i exp(step_size excess_i / baseline_i), scaled back to the sum that they had.

    The first ``warmup_epochs`` epochs are trained with equal weights, and baseline_i is the mean
    excess risk of task i in them. The new weights already count in the step that they come from,
    for heads too. S_i takes as much memory as the gradients of all tasks.

    Numbers of equations, the weights on the simplex and the three warm-up epochs of the paper's
    appendix C.1 are as TorchJD's documentation reports them; the paper's text could not be checked.

    Where the paper is silent: a task that is absent from a step keeps its weight and what is known
    of it; a task first seen after the warm-up has its first excess risk above 0 as baseline; an
    element whose gradient was 0 in all steps adds nothing.

    Published code departs (yifei-he/ExcessMTL): it takes the excess risk of the first step as
    baseline, which is ``warmup_epochs=0``; its weights sum to the number of tasks, which is
    ``reduction="sum"``; and it adds 1e-7 to S_i, which makes the answer depend on the scale of the
    losses. The sum in excess_i has no such number here, since g_i^2 never exceeds S_i.

    Args:
        step_size: of the weights. The official README uses 1, its code's default is 0.01.
        warmup_epochs: epochs with equal weights that set the baseline; 3 in the paper, 0 takes the
            first step's.
        reduction: ``"mean"``, weights sum to 1 over the tasks of the step (the paper); ``"sum"``,
            to their number.
        tasks: the tasks of the run.
    """

    heads = "weighted"
    is_weighted_sum = True
    claims = frozenset({"homogeneous"})
    squares: Tensor
    log_weights: Tensor
    excess_sums: Tensor
    excess_counts: Tensor

    def __init__(
        self,
        step_size: float = 1.0,
        warmup_epochs: int = 3,
        reduction: Literal["sum", "mean"] = "mean",
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_positive("step_size", step_size)
        check_not_negative(warmup_epochs=warmup_epochs)
        check_choice("reduction", reduction, REDUCTIONS)
        self.step_size = step_size
        self.warmup_epochs = warmup_epochs
        self.reduction = reduction
        self.register_buffer("squares", torch.zeros(0))  # S, [tasks of the run, P] from step 1 on
        for name in ("log_weights", "excess_sums", "excess_counts"):
            self.register_buffer(name, torch.zeros(len(tasks), dtype=torch.float64))

    def direction(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`JacobianWeighting.direction`."""
        excess = self._excess_risks(jacobian)
        if self.step.epoch < self.warmup_epochs:
            self.put(self.excess_sums, self.pick(self.excess_sums) + excess)
            self.put(self.excess_counts, self.pick(self.excess_counts) + 1)
        else:
            changes = self.step_size * self._relative(excess)
            self.put(self.log_weights, reweigh(self.pick(self.log_weights), changes))
        weights = torch.softmax(self.pick(self.log_weights), dim=0)
        weights = weights if self.reduction == "mean" else weights * len(losses)
        self.task_weights = weights.to(jacobian)
        return self.task_weights @ jacobian

    def _excess_risks(self, jacobian: Tensor) -> Tensor:
        """Adds to S and gives the excess risks, [T], float64."""
        size = jacobian.shape[1]
        if self.squares.numel() == 0:
            self.squares = jacobian.new_zeros(len(self.log_weights), size)
        if self.squares.shape[1] != size:
            raise UserError(
                f"weighting=excess_mtl keeps squares of {self.squares.shape[1]} gradient elements "
                f"and was shown {size}. Use gradients.at=parameters, where they stay the same."
            )
        risks = []
        for task, gradient in zip(self.step.present, jacobian, strict=True):
            total = self.squares[task].addcmul_(gradient, gradient)
            parts = torch.where(total > 0, gradient.square() / total.sqrt(), 0.0)
            risks.append(parts.sum(dtype=torch.float64))
        return torch.stack(risks)

    def _relative(self, excess: Tensor) -> Tensor:
        """Excess risks over their baselines, [T]; notes the baselines of tasks without one."""
        sums, counts = self.pick(self.excess_sums), self.pick(self.excess_counts)
        new = sums <= 0
        sums, counts = torch.where(new, excess, sums), torch.where(new, 1.0, counts)
        self.put(self.excess_sums, sums)
        self.put(self.excess_counts, counts)
        return torch.where(excess > 0, excess * counts / sums, 0.0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Makes room for the checkpoint's S, whose size is not known before the first step."""
        saved = state_dict.get(f"{prefix}squares")
        if saved is not None and saved.shape != self.squares.shape:
            self.squares = self.squares.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *others)
