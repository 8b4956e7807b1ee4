"""Small exact solvers on a T x T Gramian, float64 on the CPU.

None has an absolute tolerance: the answer does not depend on the scale of the losses. Each scales
the gradients to length 1 first, so that tasks of very different scale cost no accuracy, and checks
its answer by the conditions of optimality.

Here are the problems of non-negative least squares: the shortest convex combination, and the
projection onto the dual cone. :mod:`mtlrun.weighting._worst_task` and
:mod:`mtlrun.weighting._fairness` have the others.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

Array = NDArray[np.float64]

ITERATIONS_PER_TASK = 30
SMALLEST_RATIO = 1e-12
"""A gradient shorter than this times the longest counts as zero where it would be divided by."""
TOLERANCE = 1e-8
"""Of optimality conditions, for gradients of length 1."""


RIDGE = 1e-12


class SolverError(ArithmeticError):
    """A solver has no answer. The engine counts it and takes the last weights that there were."""


class Unit(NamedTuple):
    """Task gradients scaled to length 1.

    Attributes:
        cosines: their Gramian, [T, T], 1 on its diagonal.
        lengths: of the gradients as they were, [T].
    """

    cosines: Array
    lengths: Array


def to_unit(matrix: Array) -> Unit:
    """Scale gradients to length 1, none of which may be zero."""
    lengths = np.sqrt(matrix.diagonal())
    cosines = matrix / lengths[:, None] / lengths
    return Unit(cosines, lengths)


def finite(gramian: Tensor) -> Array:
    """The Gramian as an array.

    Raises:
        SolverError: it is not finite.
    """
    matrix: Array = gramian.detach().numpy()
    if not np.isfinite(matrix).all():
        raise SolverError("the Gramian of the task gradients is not finite")
    return matrix


def longer_than_zero(matrix: Array) -> NDArray[np.bool_]:
    """Which gradients are longer than :data:`SMALLEST_RATIO` of the longest, [T]."""
    squares = matrix.diagonal()
    longer: NDArray[np.bool_] = squares > SMALLEST_RATIO**2 * squares.max(initial=0.0)
    return longer


def square_root(cosines: Array) -> Array:
    """R with R' R = ``cosines`` + 1e-12 on the diagonal, [T, T].

    That much leaves answers as they are; without it, gradients that depend on each other up to
    rounding could get multipliers without bound.

    Args:
        cosines: [T, T], 1 on the diagonal, positive semi-definite up to rounding.
    """
    try:
        lower = np.linalg.cholesky(cosines + RIDGE * np.eye(len(cosines)))
        return np.asarray(lower.T, dtype=np.float64)
    except np.linalg.LinAlgError:  # negative by more than the ridge
        pass
    try:
        values, vectors = np.linalg.eigh(cosines)
    except np.linalg.LinAlgError as error:
        raise SolverError(f"eigenvalues of the Gramian: {error}") from error
    root: Array = np.sqrt(np.maximum(values, 0.0) + RIDGE)[:, None] * vectors.T
    return root


def least_squares(design: Array, target: Array) -> Array:
    """The x >= 0 of least |design x - target|.

    Raises:
        SolverError: no convergence.
    """
    try:
        solution, _ = nnls(design, target, maxiter=ITERATIONS_PER_TASK * design.shape[1])
    except RuntimeError as error:
        raise SolverError(f"non-negative least squares: {error}") from error
    answer: Array = solution
    return answer


def min_norm_point(gramian: Tensor) -> Tensor:
    """Weights of the shortest vector in the convex hull of the gradients.

    Minimises w' G w over the simplex as one non-negative least squares problem. The z >= 0 with
    least z' G z + (1 - sum z)^2 points the same way as the w wanted: along a ray z = t w that sum
    is least at t = 1 / (1 + w' G w), where it is an increasing function of w' G w. Gradients are
    scaled to length 1 first, which moves their lengths into the second term.

    Where gradients are linearly dependent several weights may give the shortest vector; this is
    one of them. Where some gradients are zero these share the weight.

    Args:
        gramian: [T, T], float64, positive semi-definite.

    Returns:
        [T], float64, non-negative, sum 1.

    Raises:
        SolverError: a Gramian that is not finite, or no convergence.
    """
    matrix = finite(gramian)
    zero = matrix.diagonal() <= 0
    if zero.any():
        return torch.from_numpy(zero / zero.sum())
    unit = to_unit(matrix)
    shares = unit.lengths.min() / unit.lengths  # in (0, 1]
    design = np.vstack([square_root(unit.cosines), shares])
    target = np.zeros(len(design))
    target[-1] = 1.0
    weights = least_squares(design, target) * shares
    return torch.from_numpy(weights / weights.sum())


def project_on_dual_cone(gramian: Tensor, combinations: Tensor) -> Tensor:
    """Combinations of the gradients, projected on the cone of directions that raise no loss.

    The projection of a vector d_0 is the d nearest to it with g_t . d >= 0 for all t. It is
    d = d_0 + sum_t z_t g_t with the z >= 0 that make d shortest (Moreau's decomposition), which is
    non-negative least squares on a factor of the Gramian. All projections share that factor. d is
    unique also where z is not, as in a singular Gramian; d is 0 where d_0 is a combination of the
    gradients and a combination with positive weights of all of them is 0.

    A gradient of less than 1e-12 of the longest one's length counts as zero: it forbids nothing.

    Args:
        gramian: [T, T], float64, positive semi-definite.
        combinations: a vector's weights u in each row, d_0 = sum_t u_t g_t; [R, T], float64.

    Returns:
        the weights of each projection, u + z, [R, T], float64.

    Raises:
        SolverError: a Gramian that is not finite, or no convergence.
    """
    matrix = finite(gramian)
    longer = longer_than_zero(matrix)
    projected = combinations.numpy().copy()
    if not longer.any():
        return torch.from_numpy(projected)
    unit = to_unit(matrix[np.ix_(longer, longer)])
    projected[:, longer] += _multipliers(unit, projected[:, longer] * unit.lengths) / unit.lengths
    return torch.from_numpy(projected)


def _multipliers(unit: Unit, combinations: Array) -> Array:
    """z of :func:`project_on_dual_cone`, for gradients of length 1."""
    multipliers = np.zeros_like(combinations)
    conflicting = ((combinations @ unit.cosines) < 0).any(axis=1)
    if not conflicting.any():
        return multipliers
    root = square_root(unit.cosines)
    for row in np.flatnonzero(conflicting):
        start = root @ combinations[row]
        length = np.sqrt(start @ start)
        added = least_squares(root, -start / length)
        products = root.T @ (start / length + root @ added)
        _check_projection(products, added)
        multipliers[row] = length * added
    return multipliers


def _check_projection(products: Array, added: Array) -> None:
    """No product with a gradient is below 0, and those with a multiplier are 0."""
    if products.min() < -TOLERANCE or abs(products @ added) > TOLERANCE * max(1.0, added.max()):
        raise SolverError("the projection on the dual cone did not converge")
