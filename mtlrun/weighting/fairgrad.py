"""Fair resource allocation among tasks."""

from torch import Tensor

from mtlrun.settings import check_positive
from mtlrun.weighting._fairness import fair_weights
from mtlrun.weighting.base import GramianWeighting


class FairGrad(GramianWeighting):
    """FairGrad (Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024,
    eq. 4).

    Treats how fast losses fall, g_i . d, as a resource and shares it out alpha-fairly: d maximises
    the sum of (g_i . d)^(1 - alpha) / (1 - alpha) over a ball. It is d = x_1 g_1 + ... + x_T g_T
    where

        G x = x^(-1 / alpha)   for each task,   x > 0.

    alpha = 1 is proportional fairness, Nash-MTL's x; 2 is minimum potential delay; as alpha grows
    the slowest task counts more. Heads train on the plain losses.

    With alpha other than 1, d's length depends on the scale of the losses: all losses times s make
    it s^((1 - alpha) / (1 + alpha)) times as long. At a Pareto stationary point there is no x;
    adding 1e-8 to the diagonal of the Gramian of unit gradients gives one, and a small d.

    Published code departs: it multiplies d by T (``multiply_by_tasks``), clips the gradient of the
    shared parameters to length 1, and solves by SciPy's least squares, which may stop early; here
    Newton's method gives the answer to 1e-6.

    Args:
        alpha: greater than 0. The published scripts use 2 for every table, the code's default is 1.
            Above about 20 the equation is too stiff for double precision.
        multiply_by_tasks: whether d is multiplied by T, the tasks of the step.
    """

    claims = frozenset({"non_conflicting"})

    def __init__(self, alpha: float = 2.0, multiply_by_tasks: bool = False) -> None:
        super().__init__()
        check_positive("alpha", alpha)
        self.alpha = alpha
        self.multiply_by_tasks = multiply_by_tasks

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        weights = fair_weights(gramian, power=1 / self.alpha)
        return weights * len(losses) if self.multiply_by_tasks else weights
