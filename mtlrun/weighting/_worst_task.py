"""CAGrad's problem: the best worst task within a ball around the mean gradient."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlrun.weighting.solvers import (
    TOLERANCE,
    Array,
    SolverError,
    finite,
    least_squares,
    longer_than_zero,
    square_root,
    to_unit,
)

ITERATIONS = 100
NARROW = 1e-5
"""A bracket of t this narrow, in units of the radius times the shortest gradient, is a point. The
ridge of the square root makes Pareto stationary points look improvable by a tenth of that."""


class _Step(NamedTuple):
    """From the mean gradient to the nearest d with g_i . d >= t for all i, the radius as unit.

    Attributes:
        multipliers: v >= 0, [T]: the step is the sum of v_i g_i / |g_i|.
        length: of the step.
    """

    multipliers: Array
    length: float


class _Ball(NamedTuple):
    """The problem with unit gradients and the radius as unit of length.

    Attributes:
        root: a factor of the cosines.
        cosines: of the gradients, [T, T], without what rounding made negative in them.
        means: products of the unit gradients with the mean gradient, over the radius, [T].
        shares: the gradients' lengths over the longest, [T]; t is in units of radius times longest.
    """

    root: Array
    cosines: Array
    means: Array
    shares: Array

    def margins(self, target: float) -> Array:
        """By how much products of unit gradients with the mean gradient miss the target, [T]."""
        return target / self.shares - self.means

    def nearest(self, target: float) -> _Step:
        """The shortest step x with g_i . x >= margin_i for all i.

        By least distance programming (Lawson and Hanson, chapter 23): with the residual r of the
        least squares problem min |(R' | margins)' u - (0 ... 0 1)|, u >= 0, x is R u / |r|^2, and
        |x|^2 = 1 / |r|^2 - 1. A target out of reach has the residual 0.
        """
        margins = self.margins(target)
        scales = 1 / np.sqrt(1 + margins**2)
        design = np.vstack([self.root, margins]) * scales
        wanted = np.zeros(len(design))
        wanted[-1] = 1.0
        solution = least_squares(design, wanted) * scales
        residual = float(1 - margins @ solution)
        if residual <= 0:
            return _Step(solution, np.inf)
        return _Step(solution / residual, math.sqrt(max(1 / residual - 1, 0.0)))

    def reaching(self, active: NDArray[np.bool_]) -> tuple[float, Array]:
        """The target at which the step that meets ``active`` tasks' margins exactly has length 1.

        Multipliers of the active tasks, C v = margins, are linear in the target, so that the
        squared length v' C v is a quadratic of it; the larger root is the one wanted. A target of
        NaN says that there is none.
        """
        multipliers = np.zeros(len(active))
        chosen = np.flatnonzero(active)
        try:
            both = np.linalg.solve(
                self.cosines[np.ix_(chosen, chosen)],
                np.stack([1 / self.shares[chosen], self.means[chosen]], axis=1),
            )
        except np.linalg.LinAlgError:
            return np.nan, multipliers
        slope, offset = both.T  # v = target * slope - offset
        a = slope @ (1 / self.shares[chosen])
        b = slope @ self.means[chosen]
        c = offset @ self.means[chosen] - 1
        discriminant = b * b - a * c
        if not (a > 0 and discriminant >= 0):
            return np.nan, multipliers
        target = float((b + np.sqrt(discriminant)) / a)
        multipliers[chosen] = target * slope - offset
        return target, multipliers

    def meets(self, target: float, multipliers: Array) -> bool:
        """Whether the step with these multipliers reaches the target for all tasks."""
        margins = self.margins(target)
        short = margins - self.cosines @ multipliers
        return bool((short <= TOLERANCE * (1 + np.abs(margins))).all())

    def optimal(self, target: float, multipliers: Array) -> bool:
        """Whether multipliers from :meth:`reaching` meet the conditions of optimality."""
        return bool(multipliers.min() >= 0) and self.meets(target, multipliers)


def worst_task_weights(gramian: Tensor, radius: float) -> Tensor:
    """Weights of the d within ``radius`` |g_0| of the mean gradient g_0 with the best worst task.

    Solves max_d min_i g_i . d subject to |d - g_0| <= c |g_0|. CAGrad's problem, the least
    g_w . g_0 + c |g_0| |g_w| over w in the simplex, is its dual: d = g_0 + c |g_0| g_w / |g_w|.
    The d nearest to g_0 with g_i . d >= t for all i comes by least squares; its distance grows with
    t, and the t wanted is where it is c |g_0|. Between changes of the set of tasks that are at t
    the squared distance is a quadratic of t, so that few least squares problems do. Stated so, also
    the case of g_w = 0 has its answer (a Pareto stationary point at which no d in the ball improves
    all tasks): the d nearest to g_0 with the best worst task, the limit of solutions with a small
    number added inside the dual's roots.

    Gradients shorter than 1e-12 of the longest count as zero: they hold t at 0 or below.

    Args:
        gramian: [T, T], float64, positive semi-definite.
        radius: c, 0 or more.

    Returns:
        [T], float64; the weights of g_0 are among them.

    Raises:
        SolverError: a Gramian that is not finite, or no convergence.
    """
    matrix = finite(gramian)
    tasks = len(matrix)
    weights = np.full(tasks, 1 / tasks)
    longer = longer_than_zero(matrix)
    mean_square = matrix.mean()
    if not longer.any() or mean_square <= 0 or radius == 0:
        return torch.from_numpy(weights)
    unit = to_unit(matrix[np.ix_(longer, longer)])
    distance = radius * np.sqrt(mean_square)
    root = square_root(unit.cosines)
    ball = _Ball(
        root,
        root.T @ root,
        matrix[longer].mean(axis=1) / (distance * unit.lengths),
        unit.lengths / unit.lengths.max(),
    )
    multipliers = _best(ball, zero_gradients=not longer.all())
    weights[longer] += distance * multipliers / unit.lengths
    return torch.from_numpy(weights)


def _best(ball: _Ball, zero_gradients: bool) -> Array:
    """Multipliers of the step with the greatest target within length 1."""
    products = ball.means * ball.shares
    low, high = float(products.min()), float((products + ball.shares).min())
    if zero_gradients:
        low, high = min(low, 0.0), min(high, 0.0)
        step = ball.nearest(high)
        if step.length <= 1:
            return _checked(ball, high, step.multipliers)
    narrow = NARROW * float(ball.shares.min())
    best = np.zeros(len(products))  # of a step that meets low
    target, multipliers = ball.reaching(products == products.min())
    for _ in range(ITERATIONS):
        if abs(target) > narrow and ball.optimal(target, multipliers):
            return multipliers
        target = _next_target(target, low, high, narrow)
        step = ball.nearest(target)
        if step.length <= 1 + TOLERANCE:
            low, best = target, step.multipliers
        else:
            high = target
        if high - low <= narrow:
            return _checked(ball, low, best)
        target, multipliers = ball.reaching(step.multipliers > 0)
    raise SolverError("the best direction within the ball did not converge")


def _next_target(guess: float, low: float, high: float, narrow: float) -> float:
    """A target inside the bracket: the guess; 0, the best of stationary points; the middle."""
    if low < guess < high and abs(guess) > narrow:
        return guess
    return 0.0 if low < 0.0 < high else (low + high) / 2


def _checked(ball: _Ball, target: float, multipliers: Array) -> Array:
    if not ball.meets(target, multipliers):
        raise SolverError("the best direction within the ball misses a task")
    return multipliers
