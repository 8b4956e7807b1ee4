"""Parity of FORUM: its equations in NumPy, and q's gradients by autograd.

The published code needs cvxpy and a network. Here its problem, (11) in the submission to ICLR 2024,
is stated as there and solved by going through all sets of active constraints.
"""

from functools import partial
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from parity_kit import Row, close
from parity_stochastic import batches_of, gramian_method
from torch import Tensor

from mtlrun.weighting.base import GramianWeighting, StepInfo

Array = NDArray[np.float64]
RHO = 0.1
CONTENT = 1e-9


def problem_11(gradients: Array, constraint: Array, rho: float) -> Array:
    """lambda and gamma of the paper's quadratic program, the best of all points that may be it."""
    tasks, square = len(gradients), float(constraint @ constraint)
    rows = np.vstack([gradients, constraint])
    hessian = rows @ rows.T  # of half the squared length
    phi = rho / 2 * square
    slopes = np.zeros(tasks + 1)
    slopes[-1] = -phi
    pi = (2 * phi - gradients @ constraint) / square
    bounds = np.vstack([np.eye(tasks + 1), np.append(-pi, 1.0)])  # all of these are 0 or more
    whole = np.append(np.ones(tasks), 0.0)[None]
    best, least = np.zeros(tasks + 1), np.inf
    for count in range(tasks + 2):
        for active in combinations(range(tasks + 2), count):
            fixed = np.vstack([whole, bounds[list(active)]])
            size = len(fixed)
            system = np.block([[hessian, fixed.T], [fixed, np.zeros((size, size))]])
            right = np.concatenate([-slopes, [1.0], np.zeros(count)])
            point = np.linalg.lstsq(system, right, rcond=None)[0][: tasks + 1]
            feasible = (bounds @ point).min() >= -CONTENT and abs(whole @ point - 1) < CONTENT
            value = float(point @ hessian @ point / 2 + slopes @ point)
            if feasible and value < least:
                best, least = point, value
    return best


class Reference:
    """Algorithm 1 from line 8 on, with gradients of length 1 and Adam as in the published code."""

    def __init__(self, tasks: int, rho: float) -> None:
        self.rho = rho
        self.logits = np.zeros(tasks)
        self.first, self.second, self.count = np.zeros(tasks), np.zeros(tasks), 0
        self.averaged = np.zeros(tasks)

    def direction(
        self, train: Array, validation: Array, losses: Array, inner: Array, epoch: int
    ) -> Array:
        tasks = len(losses)
        weights = np.exp(self.logits) / np.exp(self.logits).sum()
        slope = np.diag(weights) - np.outer(weights, weights)  # dw / da
        constraint = np.concatenate([slope @ losses - slope @ inner, weights @ train])
        unit = validation / np.linalg.norm(validation, axis=1)[:, None]
        gradients = np.hstack([np.zeros((tasks, tasks)), unit])
        best = problem_11(gradients, constraint, self.rho)[:tasks]
        beta = 1 / (epoch + 1) ** (3 / 4)
        self.averaged = (1 - beta) * self.averaged + beta * best
        pi = self.rho - gradients @ constraint / (constraint @ constraint)
        whole = self.averaged @ gradients + max(self.averaged @ pi, 0) * constraint
        self._adam(whole[:tasks], 0.001)
        return whole[tasks:]

    def _adam(self, gradient: Array, rate: float) -> None:
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first = self.first / (1 - 0.9**self.count)
        second = self.second / (1 - 0.999**self.count)
        self.logits = self.logits - rate * first / (np.sqrt(second) + 1e-8)


def ask(
    method: GramianWeighting, train: Array, validation: Array, losses: Array, inner: Array, at: int
) -> Tensor:
    """The direction in step and epoch ``at``."""
    rows = torch.from_numpy(np.vstack([train, validation]))
    method.begin_step(StepInfo(0, at, at, tuple(range(len(losses))), 0.1))
    method.inner_losses = torch.from_numpy(inner)
    shown = torch.from_numpy(np.concatenate([losses, losses]))
    with torch.no_grad():
        return method.weights(rows @ rows.T, shown) @ rows


def forum() -> None:
    """Three epochs of a step each, for pulls below, at and beyond what the validation rows give."""
    for rho in (1e-2, 0.3, 3.0):
        for tasks, seed in ((2, 0), (3, 10), (3, 20)):
            method, reference = gramian_method("forum", tasks, rho=rho), Reference(tasks, rho)
            for step in range(3):
                train, validation = batches_of(tasks, 2, seed + step)
                train = train + 0.5 * validation
                losses = np.linspace(2.0, 0.5, tasks)
                inner = losses * np.linspace(0.5, 0.95, tasks)
                expected = reference.direction(train, validation, losses, inner, step)
                got = ask(method, train, validation, losses, inner, step)
                close(got, expected, 1e-7)
                close(method.logits, reference.logits, 1e-9)
                close(method.shares, reference.averaged, 1e-6)
    gradients_of_q()


def gradients_of_q() -> None:
    """By autograd, inner steps included: one task's nu dq is the direction less the unit row."""
    draws = torch.Generator().manual_seed(1)
    first, second = (torch.randn(3, 6, generator=draws, dtype=torch.float64) for _ in range(2))

    def losses_at(place: Tensor, matrix: Tensor) -> Tensor:
        return (matrix * place).sin().sum(dim=1).square()

    place = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    weights = logits.softmax(dim=0)
    moved = place.detach().clone().requires_grad_()
    for _ in range(5):
        total = weights.detach() @ losses_at(moved, first)
        (gradient,) = torch.autograd.grad(total, moved)
        moved = (moved - 0.02 * gradient).detach().requires_grad_()
    inner = losses_at(moved, first).detach()
    q = weights @ (losses_at(place, first) - inner)
    by_place, by_logits = torch.autograd.grad(q, [place, logits])
    assert q > 0.1

    start = place.detach()
    rows = [
        torch.autograd.functional.jacobian(partial(losses_at, matrix=matrix), start).numpy()
        for matrix in (first, second)
    ]
    method = gramian_method("forum", 3, rho=RHO)
    method.logits.copy_(logits.detach())
    train, validation = rows
    direction = ask(method, train, validation, losses_at(start, first).numpy(), inner.numpy(), 0)
    unit = torch.from_numpy(validation / np.linalg.norm(validation, axis=1)[:, None])
    along = direction - method.shares @ unit  # nu dq/dtheta
    multiplier = (along.norm() / by_place.norm()).item()
    assert multiplier > 0
    close(along, multiplier * by_place, 1e-9)
    square = by_place.square().sum() + by_logits.square().sum()
    close(torch.tensor(multiplier), RHO - (method.shares @ unit @ by_place) / square, 1e-9)
    close(method.adam.first, 0.1 * multiplier * by_logits, 1e-9)


ROWS = [Row("forum", "equations 8 to 11 in NumPy; q's gradients by autograd", forum)]
