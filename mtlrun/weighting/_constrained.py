"""FORUM's problem: the shortest convex combination of vectors, pulled against a further one."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from mtlrun.weighting.solvers import (
    TOLERANCE,
    Array,
    SolverError,
    finite,
    min_norm_point,
    square_root,
)

NARROW = 1e-14


def pulled_min_norm_point(cosines: Tensor, along: Tensor, pull: float) -> Tensor:
    """The weights mu in the simplex, and gamma, of the shortest u_mu + gamma e, pulled along e.

    For vectors u_i of length 1 or 0, e of length 1, and u_mu = sum_i mu_i u_i, minimises

        |u_mu + gamma e|^2 - pull gamma    over mu and gamma >= max(pull - u_mu . e, 0)

    gamma is at its bound, which leaves |v|^2 + h(c) to minimise, v being the part of u_mu that is
    orthogonal to e and c = u_mu . e: h is pull c up to c = pull, and c^2 beyond. The slope of h is
    pull; at c = pull anything up to twice that; and 2 c beyond. The least |v|^2 + s (c - k)^2 over
    mu is a shortest convex combination, whose c grows with k (no faster than it), and has the slope
    2 s (c - k). So k is the root of a monotone function of one variable.

    Args:
        cosines: products of the u_i, [T, T], float64.
        along: u_i . e, [T], float64.
        pull: more than 0.

    Returns:
        mu, [T], float64.

    Raises:
        SolverError: numbers that are not finite, or no convergence.
    """
    products, near = _consistent(finite(cosines), finite(along))
    if not 0 < pull < np.inf:
        raise SolverError("the gradient of the constraint is not finite")
    steepness = max(1.0, pull)  # s
    lag = pull / (2 * steepness)  # of k behind c where the slope is pull
    orthogonal = products - np.outer(near, near)

    def shares_at(k: float) -> Array:
        shifted = near - k
        inner = orthogonal + steepness * np.outer(shifted, shifted)
        shares: Array = min_norm_point(torch.from_numpy(inner)).numpy()
        return shares

    def reached(k: float) -> float:
        return float(shares_at(k) @ near)

    shares = min_norm_point(torch.from_numpy(products)).numpy()
    if shares @ near >= pull:
        return _checked(shares, orthogonal, near, 2 * float(shares @ near))
    if reached(pull - lag) >= pull:  # c = pull; then pull is at most 1, and s is 1
        k = _root(lambda k: reached(k) - pull, 0.0, pull - lag)
        slope = float(np.clip(2 * (pull - k), pull, 2 * pull))
    else:
        highest = min(pull, float(near.max()))
        k = _root(lambda k: reached(k) - k - lag, float(near.min()) - lag, highest - lag)
        slope = pull
    return _checked(shares_at(k), orthogonal, near, slope)


def _consistent(cosines: Array, along: Array) -> tuple[Array, Array]:
    """Products of the u_i, and of these with e, of vectors that there are.

    Float32 gradients give a Gramian that may be a little indefinite, and then nothing is shortest.
    """
    root = square_root(np.block([[cosines, along[:, None]], [along, 1.0]]))
    products: Array = root.T @ root
    return products[:-1, :-1], products[:-1, -1] / np.sqrt(products[-1, -1])


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a monotone function is 0; the nearest end where rounding hides a change of sign."""
    ends = function(low), function(high)
    if ends[0] * ends[1] >= 0:
        return low if abs(ends[0]) <= abs(ends[1]) else high
    return float(brentq(function, low, high, xtol=NARROW))


def _checked(shares: Array, orthogonal: Array, near: Array, slope: float) -> Tensor:
    """No task with more weight would make it less: |v|^2 + h(c) is convex, so this is the least."""
    rises = 2 * orthogonal @ shares + slope * near
    if shares @ rises - rises.min() > TOLERANCE * max(1.0, slope):
        raise SolverError("the weights of the validation gradients did not converge")
    return torch.from_numpy(shares)
