"""Weights of fair bargains: the equation of Nash-MTL, FairGrad and PIVRG."""

import math

import numpy as np
import torch
from scipy.linalg.lapack import dposv
from torch import Tensor

from mtlrun.weighting.solvers import (
    Array,
    SolverError,
    finite,
    longer_than_zero,
    square_root,
    to_unit,
)

RIDGE = 1e-8
"""Added to the diagonal of the Gramian of unit gradients."""
ITERATIONS = 300
LAST_STEP = 1e-5
"""Newton's method converges quadratically: after a step this small the error is its square."""
LONGEST_STEP = 0.99
"""Towards zero, as a part of x."""


def fair_weights(gramian: Tensor, power: float = 1.0, shares: Tensor | None = None) -> Tensor:
    """The x > 0 with (G x)_t = (s_t / x_t)^power for all tasks t.

    It is where the gradient of a strictly convex function of x > 0 is zero,

        x' G x / 2 - sum_t s_t^power h(x_t),   h(x) = log x or x^(1 - power) / (1 - power),

    which damped Newton steps find. There is exactly one x unless the point is Pareto stationary:
    there x grows without bound. To have an answer always, 1e-8 is added to the diagonal of the
    Gramian of the gradients scaled to length 1: at a Pareto stationary point the direction is then
    (nearly) 0, and x at most about 1e8^(1 / (1 + power)) for unit gradients and shares. Where the
    shortest convex combination of the unit gradients has length m, it moves x by about 1e-8 / m^2
    of itself.

    For gradients shorter than 1e-12 of the longest there is no bargain; they get the mean weight of
    the others, or 1 where all gradients are zero.

    Args:
        gramian: [T, T], float64, positive semi-definite.
        power: greater than 0.
        shares: s, [T], float64, greater than 0. None means 1 for every task.

    Returns:
        x, [T], float64.

    Raises:
        SolverError: a Gramian that is not finite, or no convergence.
    """
    matrix = finite(gramian)
    weights = np.ones(len(matrix))
    longer = longer_than_zero(matrix)
    if not longer.any():
        return torch.from_numpy(weights)
    unit = to_unit(matrix[np.ix_(longer, longer)])
    # With y = |g| x for unit gradients C: C y = b y^-power, b = s^power |g|^(power - 1).
    logs = (power - 1) * np.log(unit.lengths)  # of b, which itself may be too large for a number
    if shares is not None:
        logs += power * np.log(shares.numpy()[longer])
    common = logs.max()
    solution = _solve(unit.cosines, np.exp(logs - common), power) * np.exp(common / (1 + power))
    weights[longer] = solution / unit.lengths
    weights[~longer] = weights[longer].mean()
    return torch.from_numpy(weights)


def _solve(cosines: Array, right: Array, power: float) -> Array:
    """The x > 0 with C x = b x^-power, for 0 <= b <= 1."""
    if right.min() == 0:
        raise SolverError("fair task weights differ too much for double precision")
    ridge = RIDGE * np.eye(len(cosines))
    with np.errstate(over="ignore"):  # a curvature may be too large for a number: x stays there
        solution = _newton(cosines + ridge, right, power)
        if solution is None:  # perhaps rounding made the Gramian a little indefinite
            root = square_root(cosines)
            solution = _newton(root.T @ root + ridge, right, power)
    if solution is None:
        raise SolverError("Newton's method for fair task weights did not converge")
    return solution


def _newton(matrix: Array, right: Array, power: float) -> Array | None:
    """The same for any positive definite matrix; None without convergence.

    A Newton step dx is shortened so that the slope along it stays negative. With
    r = max_t(-dx_t / x_t) the curvature along the step grows at most by (1 - t r)^-(power + 1), so
    that t = (1 - (1 + power r)^(-1 / power)) / r is safe. It is 1 / (1 + r) for power 1, the
    damping of self-concordant functions, and near 1 where r is small.
    """
    x = right ** (1 / (1 + power))
    square = x @ matrix @ x
    if square <= 0:
        return None
    x *= ((right * x ** (1 - power)).sum() / square) ** (1 / (1 + power))  # the best on its ray
    for _ in range(ITERATIONS):
        pull = right * x**-power
        hessian = matrix.copy()
        hessian.flat[:: len(x) + 1] += power * pull / x
        _, step, failed = dposv(hessian, pull - matrix @ x)
        relative = step / x
        down = -float(relative.min())
        if failed or not math.isfinite(down):
            return None
        if max(down, relative.max()) < LAST_STEP:
            answer: Array = x + step
            return answer
        damping = 1.0
        if down > 0:
            damping = min(LONGEST_STEP, -math.expm1(-math.log1p(power * down) / power)) / down
        x = x + damping * step
    return None
