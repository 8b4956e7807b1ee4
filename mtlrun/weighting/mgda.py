"""The multiple-gradient descent algorithm."""

from typing import Literal

import torch
from torch import Tensor

from mtlrun.settings import REDUCTIONS, check_choice
from mtlrun.weighting.base import GramianWeighting
from mtlrun.weighting.solvers import min_norm_point

Normalisation = Literal["none", "l2", "loss", "loss+"]
NORMALISATIONS: tuple[Normalisation, ...] = ("none", "l2", "loss", "loss+")

SMALLEST_RATIO = 1e-12


class MGDA(GramianWeighting):
    """MGDA (Désidéri, Comptes Rendus Mathematique 2012; Sener and Koltun, NeurIPS 2018, eq. 3).

    The weights w >= 0, sum 1, of least |w_1 g_1 + ... + w_T g_T|^2: a direction that lowers every
    loss, or 0 at a Pareto stationary point, such as where one gradient is 0. The weighted sum of
    the losses trains the heads too. ``gradients.at=representation`` is the paper's upper bound,
    MGDA-UB.

    The official code may divide gradients by a number before it solves for w. The weights then
    apply to the gradients and losses as they are.

    Published code departs: the official solver takes Frank-Wolfe or projected steps until a
    tolerance and clips two-task weights to [0.001, 0.999], and Nash-MTL's copy multiplies by T;
    here the answer is exact. The official ``loss`` turns a gradient round where the loss is
    negative; here the divisor is the loss's magnitude.

    Args:
        normalisation: what gradients are divided by: ``"none"``, 1 (the paper); ``"l2"``, their
            norm; ``"loss"``, the task's loss; ``"loss+"``, both (the official sample settings).
        reduction: ``"mean"``, weights sum to 1 (the paper); ``"sum"``, to T, the tasks of the step,
            as in Nash-MTL's tables.
    """

    heads = "weighted"
    claims = frozenset({"non_conflicting", "stationary", "homogeneous"})

    def __init__(
        self, normalisation: Normalisation = "none", reduction: Literal["sum", "mean"] = "mean"
    ) -> None:
        super().__init__()
        check_choice("normalisation", normalisation, NORMALISATIONS)
        check_choice("reduction", reduction, REDUCTIONS)
        self.normalisation = normalisation
        self.reduction = reduction

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        divisors = self._divisors(gramian, losses)
        weights = min_norm_point(gramian / divisors[:, None] / divisors)
        return weights if self.reduction == "mean" else weights * len(weights)

    def _divisors(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """What gradients are divided by, [T], up to a common factor."""
        divisors = torch.ones_like(losses)
        if self.normalisation in ("loss", "loss+"):
            divisors = divisors * losses.abs()
        if self.normalisation in ("l2", "loss+"):
            divisors = divisors * gramian.diagonal().clamp(min=0).sqrt()
        largest = divisors.max()
        if largest == 0:
            return torch.ones_like(losses)
        return (divisors / largest).clamp(min=SMALLEST_RATIO)
