"""Conflict-free inverse gradients."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from mtlrun.settings import check_choice
from mtlrun.weighting._cosines import equal_projections, norms_and_cosines, over_norms
from mtlrun.weighting.base import GramianWeighting

Length = Literal["projection", "min", "max", "harmonic", "arithmetic", "geometric"]

COMMON_NORMS: Mapping[Length, Callable[[Tensor], Tensor]] = {
    "min": torch.min,
    "max": torch.max,
    "harmonic": lambda norms: 1 / (1 / norms).mean(),
    "arithmetic": torch.mean,
    "geometric": lambda norms: norms.log().mean().exp(),
}
"""One norm in place of all, from those that are not 0."""


class ConFIG(GramianWeighting):
    """ConFIG (Liu, Chu and Thuerey, ICLR 2025, eq. 2).

    With the unit vectors u_i = g_i / |g_i| as the rows of U and x = U^+ 1, the direction is

        d = (sum_i g_i . x / |x|) x / |x|

    For linearly independent gradients x projects alike on every u_i, so d lowers every loss, and
    its orientation does not depend on the scale of any loss. This is what is claimed for d. For
    dependent gradients (some are parallel, or there are more tasks than parameters) x is the least
    squares solution and may conflict with some tasks, but never with the sum of the losses. d is 0
    where the unit vectors add up to 0, as for two opposed gradients. Gradients of 0 are left out.
    Heads train on the plain losses.

    The official code offers other lengths of d: each gradient counts as if it had the same norm in
    the sum above, some mean of the norms of the gradients (those that are not 0).

    M-ConFIG, which takes one task's gradient in each step and keeps a momentum of each, is not
    covered by this class.

    Args:
        length: ``"projection"``, as above (the paper), or that sum with each norm replaced by their
            ``"min"``, ``"max"``, or ``"harmonic"``, ``"arithmetic"`` or ``"geometric"`` mean.
    """

    claims = frozenset({"non_conflicting", "homogeneous", "impartial"})

    def __init__(self, length: Length = "projection") -> None:
        super().__init__()
        check_choice("length", length, ("projection", *COMMON_NORMS))
        self.length = length

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        del losses
        norms, cosines = norms_and_cosines(gramian)
        if not (norms > 0).any():
            return torch.zeros_like(norms)
        coefficients = equal_projections(cosines)
        if coefficients is None:
            return torch.zeros_like(norms)
        projections = cosines @ coefficients  # of x on each unit vector
        square = coefficients @ projections  # of the length of x
        scale = (self._counted_norms(norms) @ projections) / square
        return scale * over_norms(coefficients, norms)

    def _counted_norms(self, norms: Tensor) -> Tensor:
        """The norms that gradients count with in the length of d, [T]."""
        if self.length == "projection":
            return norms
        positive = norms[norms > 0]
        common = COMMON_NORMS[self.length](positive)
        return torch.where(norms > 0, common, torch.zeros_like(norms))
