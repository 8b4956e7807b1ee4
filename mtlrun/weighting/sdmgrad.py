"""Stochastic direction-oriented multi-objective gradient descent."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mtlrun.settings import (
    REDUCTIONS,
    check_choice,
    check_not_negative,
    check_positive,
)
from mtlrun.weighting._simplex import Shares, equal_shares, project_on_simplex
from mtlrun.weighting.base import GramianWeighting, TaskInfo
from mtlrun.weighting.solvers import Array

Sampling = Literal["three", "last"]
SAMPLINGS: tuple[Sampling, ...] = ("three", "last")

SMALLEST_RATIO = 1e-12
"""Of the square of the mean length to the largest product, against overflow."""


class SDMGrad(GramianWeighting):
    """SDMGrad (Xiao, Ban and Ji, "Direction-oriented Multi-objective Learning", NeurIPS 2023).

    MGDA that is pulled towards the mean gradient g_0: the weights w on the simplex P are to make
    |sum_i w_i g_i + pull g_0|^2 / 2 small. Each step has three independent batches, with gradients
    G_1, G_2, G_3 (rows are tasks). From where the step before left it, w takes some steps of
    projected stochastic gradient descent with momentum, whose gradient the last two batches give
    without bias; the first gives the direction:

        A = G_2 G_3' / s^2,  s = mean_i sqrt(max(A_ii, 0)) before the division
        v <- momentum v + A (w + pull / T);  w <- P(w - step_size v)       (v = 0 in each step)
        direction = (sum_i w_i g_1i + pull g_0) / (1 + pull)

    Where no A_ii is positive, A is divided by its largest entry. Where tasks are absent from a
    step, see :class:`~mtlrun.weighting._simplex.Shares`: the others divide their part of w among
    them. Heads train on the plain losses of all three batches.

    The paper's text could not be checked; the above is the official code, OptMN-Lab/sdmgrad, and so
    are the defaults, ``pull`` being what its scripts use. With its step size of 10 the iteration
    does not converge: it jumps between corners of the simplex. If all batches are the same, step
    sizes below 2 / T^2 converge, to the w that is best (below 2 / T for gradients of one length).
    Published code departs: a mistake lets the last batch stand for all three (``sampling="last"``),
    and the direction is multiplied by T (``reduction="sum"``); its scripts for NYUv2 and
    Cityscapes run so. It adds 0.0001 under the root of s. LibMTL has the step size 5.

    Args:
        pull: towards the mean gradient, 0 or more; the paper's lambda. 0 is MGDA, and a large pull
            is the mean gradient.
        steps: of w in each training step.
        step_size: of w, once gradients have been divided by their mean length s.
        momentum: of w, 0 or more and less than 1.
        sampling: ``"three"`` batches, or the ``"last"`` of them alone in all places.
        reduction: ``"mean"``, the above, or ``"sum"``, T times as much.
        tasks: the tasks of the run.
    """

    batches = 3
    claims = frozenset({"homogeneous"})
    shares: Tensor

    def __init__(
        self,
        pull: float = 0.3,
        steps: int = 20,
        step_size: float = 10.0,
        momentum: float = 0.5,
        sampling: Sampling = "three",
        reduction: Literal["sum", "mean"] = "mean",
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_not_negative(pull=pull)
        check_positive("steps", steps)
        check_positive("step_size", step_size)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: must be 0 or more and less than 1")
        check_choice("sampling", sampling, SAMPLINGS)
        check_choice("reduction", reduction, REDUCTIONS)
        self.pull = pull
        self.steps = steps
        self.step_size = step_size
        self.momentum = momentum
        self.sampling = sampling
        self.reduction = reduction
        self.register_buffer("shares", equal_shares(len(tasks)))  # w

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`; moves w first."""
        shares = Shares(self, self.shares)
        tasks = len(losses) // self.batches
        second, last = slice(tasks, 2 * tasks), slice(2 * tasks, 3 * tasks)
        products = gramian[last if self.sampling == "last" else second, last]
        moved = torch.from_numpy(
            self._descend(_normalised(products).numpy(), shares.values.numpy())
        )
        shares.move(moved)
        weights = torch.zeros_like(losses)
        combined = (moved + self.pull / tasks) / (1 + self.pull)
        used = last if self.sampling == "last" else slice(tasks)
        weights[used] = combined if self.reduction == "mean" else tasks * combined
        return weights

    def _descend(self, products: Array, weights: Array) -> Array:
        """The weights w after this step's iterations, [T]."""
        velocity = np.zeros_like(weights)
        for _ in range(self.steps):
            gradient = products @ (weights + self.pull / len(weights))
            velocity = self.momentum * velocity + gradient
            weights = project_on_simplex(weights - self.step_size * velocity)
        return weights


def _normalised(products: Tensor) -> Tensor:
    """Products of gradients divided by the square of their mean length, see the class."""
    largest = products.abs().max()
    if largest == 0:
        return products
    squared = products.diagonal().clamp(min=0).sqrt().mean().square()
    return products / (squared.clamp(min=SMALLEST_RATIO * largest) if squared > 0 else largest)
