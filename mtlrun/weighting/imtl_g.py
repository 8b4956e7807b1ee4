"""Impartial multi-task learning, the gradient balance alone."""

import torch
from torch import Tensor

from mtlrun.weighting._cosines import equal_projections, norms_and_cosines, over_norms
from mtlrun.weighting.base import GramianWeighting
from mtlrun.weighting.solvers import SolverError

SMALLEST_SHARE = 1e-12


class IMTLG(GramianWeighting):
    """IMTL-G (Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021).

    The weights w, of sum 1, with which d = w_1 g_1 + ... + w_T g_T has the same projection on every
    gradient's unit vector u_i = g_i / |g_i|. With b = C^+ 1, where C holds the cosines u_i . u_j,

        w_i = (b_i / |g_i|) / sum_j (b_j / |g_j|)

    which is the paper's closed form g_1 U' (D U')^-1 wherever that exists. Weights may be negative.
    The line along which d lies does not depend on the scale of any loss. Its length and sign do,
    through the sum: for two tasks every projection is positive or 0, while for more and strongly
    correlated gradients the sum may be near 0, which makes d very long, or negative, so that d
    raises every loss. The method is kept as published.

    Where the closed form is singular:

    * parallel gradients: w_i in proportion to 1 / |g_i|;
    * other linearly dependent gradients: the direction whose projections come closest to equal
      ones, in the sense of least squares;
    * unit vectors that add up to 0, as for two opposed gradients: w_i in proportion to 1 / |g_i|,
      and d is 0;
    * a gradient of 0: weight 0, and the others are balanced among themselves.

    The paper takes gradients on the representation to save time (``gradients.at=representation``).
    The default is the shared parameters, as in Nash-MTL's tables: it is what the gradients stand in
    for, and serves architectures that have no single representation. Heads train on the plain
    losses.

    Published code departs: there is no official one; Nash-MTL's trains heads on the weighted losses
    too, and it adds 1e-8 to the diagonal of a matrix that it cannot invert.

    Raises:
        SolverError: in a step whose weights have no finite scale, since that sum is 0.
    """

    claims = frozenset({"homogeneous"})

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        del losses
        return impartial_weights(gramian)


def impartial_weights(gramian: Tensor) -> Tensor:
    """The weights of :class:`IMTLG`, [T].

    Args:
        gramian: [T, T], float64.

    Raises:
        SolverError: see :class:`IMTLG`.
    """
    norms, cosines = norms_and_cosines(gramian)
    if not (norms > 0).any():
        return torch.full_like(norms, 1 / len(norms))
    coefficients = equal_projections(cosines)
    if coefficients is None:
        coefficients = torch.ones_like(norms)
    unscaled = over_norms(coefficients, norms)
    total = unscaled.sum()
    if total.abs() <= SMALLEST_SHARE * unscaled.abs().sum():
        raise SolverError("IMTL-G: no weights of sum 1 give equal projections")
    return unscaled / total
