"""Equal weighting."""

from typing import Literal

import torch
from torch import Tensor

from mtlrun.weighting._settings import REDUCTIONS, check_choice
from mtlrun.weighting.base import LossWeighting


class Equal(LossWeighting):
    """Every task with the same weight, the baseline of all other methods.

    Also called linear scalarisation. The literature's tables use the sum of the losses (Nash-MTL,
    FAMO, FairGrad); some code uses their mean. Under Adam the two differ only through epsilon,
    clipping and decay; under SGD the mean divides the learning rate by the number of tasks.

    Args:
        reduction: ``"sum"``, every weight is 1; ``"mean"``, every weight is 1 / T with T the tasks
            of the step.
    """

    def __init__(self, reduction: Literal["sum", "mean"] = "sum") -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        self.reduction = reduction

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        stacked = torch.stack(losses)
        return stacked.sum() if self.reduction == "sum" else stacked.mean()
