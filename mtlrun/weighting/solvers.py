"""Small exact solvers on a T x T Gramian, float64 on the CPU.

None has an absolute tolerance: the answer does not depend on the scale of the losses.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

Array = NDArray[np.float64]

ITERATIONS_PER_TASK = 30


class SolverError(ArithmeticError):
    """A solver has no answer. The engine counts it and takes the last weights that there were."""


def min_norm_point(gramian: Tensor) -> Tensor:
    """Weights of the shortest vector in the convex hull of the gradients.

    Minimises w' G w over the simplex as one non-negative least squares problem. The z >= 0 with
    least z' G z + (1 - sum z)^2 points the same way as the w wanted: along a ray z = t w that sum
    is least at t = 1 / (1 + w' G w), where it is an increasing function of w' G w. Gradients are
    scaled to length 1 first, which moves their lengths into the second term, so tasks of very
    different scale do not cost accuracy.

    Where gradients are linearly dependent several weights may give the shortest vector; this is
    one of them. Where some gradients are zero these share the weight.

    Args:
        gramian: [T, T], float64, positive semi-definite.

    Returns:
        [T], float64, non-negative, sum 1.

    Raises:
        SolverError: a Gramian that is not finite, or no convergence.
    """
    matrix = gramian.detach().numpy()
    if not np.isfinite(matrix).all():
        raise SolverError("the Gramian of the task gradients is not finite")
    lengths = np.sqrt(np.maximum(matrix.diagonal(), 0.0))
    zero = lengths == 0
    if zero.any():
        return torch.from_numpy(zero / zero.sum())
    shares = lengths.min() / lengths  # in (0, 1]
    design = np.vstack([_square_root(matrix / lengths[:, None] / lengths), shares])
    target = np.zeros(len(design))
    target[-1] = 1.0
    try:
        solution, _ = nnls(design, target, maxiter=ITERATIONS_PER_TASK * len(lengths))
    except RuntimeError as error:
        raise SolverError(f"non-negative least squares: {error}") from error
    weights = solution * shares
    return torch.from_numpy(weights / weights.sum())


def _square_root(matrix: Array) -> Array:
    """R with R' R = ``matrix``, positive semi-definite up to rounding."""
    try:
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    except np.linalg.LinAlgError as error:
        raise SolverError(f"eigenvalues of the Gramian: {error}") from error
    root: Array = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    return root
