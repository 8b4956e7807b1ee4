"""Bargaining by directions."""

import torch
from torch import Tensor

from mtlrun.settings import check_positive
from mtlrun.weighting._cosines import norms_and_cosines, over_norms
from mtlrun.weighting.base import GramianWeighting


class DiBSMTL(GramianWeighting):
    """DiBS-MTL (Murthy, Gupta, Karabag, Fridovich-Keil and Topcu, arXiv 2509.23948, 2025).

    Tasks bargain over a step by directions alone, so that no monotonic transformation of a loss
    changes the outcome. Task i would like best to stand at -r u_i, with its unit gradient u_i and
    a radius r. From x = 0 the bargain takes a number of steps

        x <- x - step_size sum_i |x + r u_i| u_i

    and ends early where it leaves the radius. Weights are what the gradients got in all, so one
    step gives r step_size / |g_i|: the sum of the unit gradients. A gradient of 0 has the
    weight 0. The weighted losses train the heads too.

    This follows the released code (suryakmurthy/dibs-mtl); the paper's text could not be checked.
    In that code r is 0.001 wherever a network is trained, which makes gradients short: under Adam
    near its epsilon, under SGD a matter of the learning rate.

    Args:
        steps: of the bargain; the code has 1, and 5 (with ``step_size=0.0002``) as "T-step".
        step_size: see above.
        radius: r; lengthens all weights alike.
    """

    heads = "weighted"
    claims = frozenset({"invariant", "impartial"})

    def __init__(self, steps: int = 1, step_size: float = 0.01, radius: float = 0.001) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps={steps}: must be 1 or more")
        check_positive("step_size", step_size)
        check_positive("radius", radius)
        self.steps = steps
        self.step_size = step_size
        self.radius = radius

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        norms, cosines = norms_and_cosines(gramian)
        coefficients = torch.zeros_like(losses)  # x / r = -sum_i coefficients_i u_i
        for _ in range(self.steps):
            overlaps = cosines @ coefficients
            square = coefficients @ overlaps  # of the length of x / r
            if square > 1:
                break
            distances = (square - 2 * overlaps + cosines.diagonal()).clamp(min=0).sqrt()
            coefficients = coefficients + self.step_size * distances
        return self.radius * over_norms(coefficients, norms)
