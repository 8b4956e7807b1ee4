"""Task gradients apart from their lengths: cosines, and the direction that all agree on."""

import torch
from torch import Tensor

RELATIVE_PRECISION = torch.finfo(torch.float32).eps
"""Of gradients and of their inner products; what differs by less is taken for equal."""


def norms_and_cosines(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths of the task gradients, [T], and the Gramian of their unit vectors, [T, T].

    A gradient of 0 has the unit vector 0.
    """
    norms = gramian.diagonal().clamp(min=0).sqrt()
    divisors = torch.where(norms > 0, norms, torch.ones_like(norms))
    return norms, gramian / divisors[:, None] / divisors


def over_norms(coefficients: Tensor, norms: Tensor) -> Tensor:
    """Coefficients of the unit vectors as those of the gradients; 0 for a gradient of 0."""
    return torch.where(norms > 0, coefficients / norms, torch.zeros_like(coefficients))


def rank_tolerance(largest: Tensor, size: int) -> Tensor:
    """Up to which an eigenvalue of a [size, size] matrix counts as 0, given its largest."""
    return largest * size * RELATIVE_PRECISION


def equal_projections(cosines: Tensor) -> Tensor | None:
    """Coefficients b of the unit vectors for a vector b_1 u_1 + ... that projects alike on each.

    That is b = C^+ 1 with the pseudo-inverse of their Gramian C: the projections are all 1 where
    the unit vectors are independent or otherwise allow it, and as close to 1 as can be, in the
    sense of least squares, where they do not. Among the b of that vector it is the shortest.

    Args:
        cosines: of the gradients, [T, T]; rows of 0 for gradients of 0, which are left out.

    Returns:
        [T]; None where the unit vectors add up to 0, so that the vector is 0.
    """
    values, vectors = torch.linalg.eigh(cosines)
    tolerance = rank_tolerance(values[-1], len(values))
    if cosines.sum() <= len(values) * tolerance:
        return None
    kept = values > tolerance
    basis = vectors[:, kept]
    coefficients: Tensor = basis @ (basis.sum(dim=0) / values[kept])
    return coefficients
