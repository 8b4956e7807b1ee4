"""Equal weighting."""

import torch
from torch import Tensor

from mtlrun.weighting.base import LossWeighting


class Equal(LossWeighting):
    """The sum of the losses: every weight is 1, the baseline of all other methods.

    Also called linear scalarisation. The tables of papers use the sum (Nash-MTL, FAMO, FairGrad);
    some code uses the mean, which divides the learning rate by the number of tasks under SGD and
    differs under Adam only through epsilon, clipping and decay.
    """

    claims = frozenset({"homogeneous"})

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        return torch.stack(losses).sum()
