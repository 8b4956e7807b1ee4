"""Balance of the tasks' neural tangent kernels."""

from typing import Literal

import torch
from torch import Tensor

from mtlrun.settings import REDUCTIONS, check_choice, check_positive
from mtlrun.weighting.base import GramianWeighting


class NTKMTL(GramianWeighting):
    """NTKMTL (Qin, Wang, Liao and Yan, NeurIPS 2025).

    A task learns as fast as the largest eigenvalue l_i of its neural tangent kernel, here the
    Gramian of its gradients on n batches, [n, n]. Its mean gradient over the batches is weighted by

        w_i = (mean(l) / l_i)^exponent

    With n = 1, where l_i is |g_i|^2, and the exponent 1/2 all weighted gradients have the same
    norm, the root mean square of the gradients' norms. A task with a gradient of 0 has the
    weight 0. Heads train on the plain losses.

    The paper splits a batch into n parts; here n batches of ``batch_size`` each are drawn.

    The paper's text could not be checked; others report its mean over l. The rest follows the
    official code, jianke0604/NTKMTL. Published code departs: it takes the sum over l in place of
    the mean and multiplies by the number of tasks (``reduction="sum"``), which matters where
    gradients are clipped afterwards, as they are there, to norm 1. Its NTKMTL-SR also trains heads
    on the weighted losses.

    Args:
        exponent: 0.5 is the paper's square root; the official NYUv2 script uses 0.75.
        batches: n; 1 in the paper's experiments with gradients on parameters.
        reduction: ``"mean"`` as above, or ``"sum"``, w_i = T (sum(l) / l_i)^exponent.
    """

    claims = frozenset({"homogeneous", "impartial"})

    def __init__(
        self,
        exponent: float = 0.5,
        batches: int = 1,
        reduction: Literal["sum", "mean"] = "mean",
    ) -> None:
        super().__init__()
        check_positive("exponent", exponent)
        if batches < 1:
            raise ValueError(f"batches={batches}: must be 1 or more")
        check_choice("reduction", reduction, REDUCTIONS)
        self.exponent = exponent
        self.batches = batches
        self.reduction = reduction

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        tasks = len(losses) // self.batches
        blocks = gramian.view(self.batches, tasks, self.batches, tasks)
        kernels = blocks.diagonal(dim1=1, dim2=3).permute(2, 0, 1)  # [T, n, n]
        largest = torch.linalg.eigvalsh(kernels)[:, -1]  # [T]
        total = largest.mean() if self.reduction == "mean" else largest.sum()
        factor = 1 if self.reduction == "mean" else tasks
        weights = torch.where(
            largest > 0, factor * (total / largest) ** self.exponent, torch.zeros_like(largest)
        )
        return (weights / self.batches).repeat(self.batches)
