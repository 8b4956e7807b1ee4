"""First-order multi-gradient bi-level optimisation of loss weights."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mtlrun.adam import Adam
from mtlrun.settings import check_positive, check_whole
from mtlrun.weighting._constrained import pulled_min_norm_point
from mtlrun.weighting._simplex import Shares, equal_shares
from mtlrun.weighting.base import GramianWeighting, TaskInfo
from mtlrun.weighting.solvers import SMALLEST_RATIO, SolverError, min_norm_point

DECAY = 0.75
"""Of the rate at which mu is averaged, a power of the epoch; the order of the paper's theorem."""

ROUNDING = 1e-12
"""A |dq|^2 of less than this beside the squares of what it is a sum of is rounding error."""


class _Parts(NamedTuple):
    """What a step shows of F_j, the second batch's losses, and of q.

    Attributes:
        lengths: of the gradients g'_j, [T]; infinite where one is 0.
        cosines: products of the g'_j / |g'_j|, [T, T].
        products: of these with dq, [T].
        by_logits: the part of dq by a, [T].
        square: |dq|^2; 0 where it is rounding error.
    """

    lengths: Tensor
    cosines: Tensor
    products: Tensor
    by_logits: Tensor
    square: float


class FORUM(GramianWeighting):
    """FORUM (Ye, Lin, Cao, Zhang and Tsang, ECAI 2024, equations 4 to 11 and algorithm 1).

    Equations are numbered as in the paper's submission to ICLR 2024, the text that was checked.

    Lowers the losses F_j of a second batch, while the network, theta, stays near what training with
    loss weights w = softmax(a), 1 / T at first, makes of it: a, theta together go down all F_j
    subject to q <= 0, where

        q(a, theta) = sum_i w_i (L_i(theta) - L_i(theta~))

    has the first batch's losses L_i, and theta~ comes from theta by ``inner_steps`` plain gradient
    steps on sum_i w_i L_i. With theta~ constant, and g_i the gradients of the L_i,

        dq/dtheta = sum_i w_i g_i,    dq/da_i = w_i (D_i - sum_j w_j D_j),   D = L - L(theta~)

    (heads are part of theta). With f_j = g'_j / |g'_j| the gradients of the F_j at length 1,

        pi_j = rho - f_j . dq / |dq|^2,    nu(mu) = max(sum_j mu_j pi_j, 0)                     (9)
        mu* = least |sum_j mu_j f_j + gamma dq|^2 - rho gamma |dq|^2 over the simplex,
              gamma >= nu(mu)                                                                  (11)
        mu <- mu + (epoch + 1)^(-3/4) (mu* - mu)
        direction = sum_j mu_j f_j + nu(mu) dq                                                 (8)

    so that q falls at the rate rho |dq|^2 at least. The optimizer moves theta, and an Adam of its
    own moves a. mu* is found exactly. As f_j has length 1 and dq has not, a loss times 10 counts
    more in dq, whose part of the direction rho scales. Where tasks are absent from a step, w is the
    softmax over the others, who divide their part of mu among them.

    Equation 9 has twice the phi = rho |dq|^2 / 2 that the multiplier of problem 7 would have; the
    published code follows it, and so does this. The appendices, with the settings of experiments,
    could not be checked; defaults are those of the authors' commands. From their code
    (Baijiong-Lin/FORUM) come lengths of 1, which the paper does not mention, the rate by epochs,
    Adam, and two batches of training data, where the paper's F is of validation data. Published
    code departs: the inner steps stop at a loss of 1e5, they draw new dropout masks each time (here
    those of the step), and 1e-8 is added to lengths and squares.

    Args:
        rho: how strongly q is to fall. The authors' commands have 0.1.
        inner_steps: steps to theta~, at least 1. Their commands have 5.
        inner_learning_rate: of these. Their commands have 0.1, and 0.01 on QM9. Where steps
            diverge, so that losses are not finite, the last weights apply.
        learning_rate: of a. Their code has 0.001.
        tasks: the tasks of the run.
    """

    heads = "weighted"
    batches = 2
    heads_in_rows = True
    logits: Tensor
    shares: Tensor

    def __init__(
        self,
        rho: float = 0.1,
        inner_steps: int = 5,
        inner_learning_rate: float = 0.1,
        learning_rate: float = 0.001,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_positive("rho", rho)
        check_positive("inner_learning_rate", inner_learning_rate)
        check_positive("learning_rate", learning_rate)
        check_whole("inner_steps", inner_steps, 1)
        self.rho = rho
        self.inner_steps = inner_steps
        self.inner_learning_rate = inner_learning_rate
        self.register_buffer("logits", torch.zeros(len(tasks), dtype=torch.float64))  # a
        self.register_buffer("shares", equal_shares(len(tasks)))  # mu
        self.adam = Adam(self.logits, learning_rate)

    def lookahead_weights(self) -> Tensor:
        """See :meth:`GramianWeighting.lookahead_weights`."""
        return self.pick(self.logits).softmax(dim=0)

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`; moves mu and a."""
        task_weights = self.lookahead_weights()
        parts = self._parts(gramian, losses, task_weights)
        shares = Shares(self, self.shares)
        rate = (self.step.epoch + 1) ** -DECAY
        averaged = shares.values + rate * (self._best_shares(parts) - shares.values)
        shares.move(averaged)
        multiplier = 0.0  # nu
        if parts.square > 0:
            multiplier = max(self.rho - float(averaged @ parts.products) / parts.square, 0.0)
        self.adam.move(self, self.logits, multiplier * parts.by_logits)
        return torch.cat([multiplier * task_weights, averaged / parts.lengths])

    def _parts(self, gramian: Tensor, losses: Tensor, task_weights: Tensor) -> _Parts:
        tasks = len(task_weights)
        assert self.inner_losses is not None
        fallen = losses[:tasks] - self.inner_losses
        if not bool(fallen.isfinite().all()):
            raise SolverError("the inner steps diverge, inner_learning_rate is too large")
        by_logits = task_weights * (fallen - task_weights @ fallen)
        here, beyond = gramian[:tasks, :tasks], gramian[tasks:, tasks:]
        lengths = beyond.diagonal().sqrt()
        lengths = torch.where(lengths > SMALLEST_RATIO * lengths.max(), lengths, torch.inf)
        summed = float(task_weights @ here.diagonal().sqrt()) ** 2 + float(fallen @ fallen)
        square = float(task_weights @ here @ task_weights + by_logits @ by_logits)
        return _Parts(
            lengths,
            beyond / lengths[:, None] / lengths,
            gramian[tasks:, :tasks] @ task_weights / lengths,
            by_logits,
            square if square > ROUNDING * summed else 0.0,
        )

    def _best_shares(self, parts: _Parts) -> Tensor:
        """mu*, [T]."""
        if parts.square == 0:
            return min_norm_point(parts.cosines)
        length = parts.square**0.5
        along = (parts.products / length).clamp(-1, 1)
        return pulled_min_norm_point(parts.cosines, along, self.rho * length)
