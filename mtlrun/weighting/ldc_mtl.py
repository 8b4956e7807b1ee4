"""Loss discrepancy control for multi-task learning."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mtlrun.settings import check_choice, check_not_negative
from mtlrun.weighting._absent import KeepsAbsent
from mtlrun.weighting.base import LossWeighting, TaskInfo

Normalisation = Literal["ones", "initial_ratio", "log_ratio"]
NORMALISATIONS: tuple[Normalisation, ...] = ("ones", "initial_ratio", "log_ratio")
ROUTERS = ("softmax", "sigmoid")
PAIRS = ("neighbours", "all")


class LDCMTL(KeepsAbsent, LossWeighting):
    """LDC-MTL, loss discrepancy control (Xiao, Dong, Zou and Ji, 2025, arXiv 2502.08585).

    Two levels, solved side by side in one loop by first-order steps: below, the network minimises
    the weighted sum of the normalised losses l; above, a router chooses the weights s so that the
    weighted losses differ little. With the router's logits v, s = softmax(v) or sigmoid(v), both
    minimise

        (s_1 l_1 + ... + s_T l_T) / sum(s) held constant
            + penalty * (|s_1 l_1 - s_2 l_2| + ... + |s_(T-1) l_(T-1) - s_T l_T|),

    each by the run's optimizer. The sum runs over neighbours in the order of the run's tasks, so
    for three tasks and more the order matters; ``pairs="all"`` is without that.

    This follows the official code (OptMN-Lab/LDC-MTL), which differs by dataset; the paper's text
    could not be checked. There the router is

    * for NYUv2 and Cityscapes the softmax of a linear layer on pooled features. Here it sees no
      features, so its logits are T numbers, from 0;
    * for CelebA the sigmoid of T numbers that start from 1, as here with ``router="sigmoid"``.
      Sigmoids all shrink in training, and the discrepancy with them;
    * for QM9 like CelebA, with random starts.

    For Cityscapes the code's discrepancy leaves the weights out, |l_1 - l_2|; here they stand in it
    always. Where the code is silent: a task that is absent from a step is no neighbour and keeps
    its logit, and the softmax is over the tasks of the step; a task whose first loss is 0 or less
    has the ratio 1 until a positive one comes.

    Args:
        penalty: weight of the discrepancy; the code uses 0.1 for Cityscapes, 0.05 for NYUv2 and
            QM9, 0.01 for CelebA. With softmax no task's weight turns negative below 0.5.
        normalisation: l is the loss itself (``"ones"``; Cityscapes, CelebA), the loss over the
            ratio of its first value to the smallest of all tasks' first values
            (``"initial_ratio"``; NYUv2), or the logarithm of the loss over its first value
            (``"log_ratio"``; QM9, where the code takes the first value anew in each epoch).
        router: ``"softmax"`` or ``"sigmoid"``.
        pairs: whose discrepancies count: ``"neighbours"`` in the tasks' order (the code), or
            ``"all"`` pairs.
        learning_rate: of the router; None means the network's, as in the code.
        tasks: the tasks of the run.
    """

    compares = "losses"
    claims = frozenset({"homogeneous"})
    linear = False
    order_matters: ClassVar[bool] = True
    initial_losses: Tensor

    def __init__(
        self,
        penalty: float = 0.05,
        normalisation: Normalisation = "ones",
        router: Literal["softmax", "sigmoid"] = "softmax",
        pairs: Literal["neighbours", "all"] = "neighbours",
        learning_rate: float | None = None,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_not_negative(penalty=penalty)
        check_choice("normalisation", normalisation, NORMALISATIONS)
        check_choice("router", router, ROUTERS)
        check_choice("pairs", pairs, PAIRS)
        self.penalty = penalty
        self.normalisation = normalisation
        self.router = router
        self.pairs = pairs
        self.learning_rate = learning_rate
        self.logits = nn.Parameter(torch.full((len(tasks),), 1.0 if router == "sigmoid" else 0.0))
        initial_losses = torch.full((len(tasks),), torch.nan)  # NaN: not seen yet
        self.register_buffer("initial_losses", initial_losses)

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        logits = self.shown(self.logits)
        weights = logits.softmax(dim=0) if self.router == "softmax" else logits.sigmoid()
        weighted = weights * self._normalised(torch.stack(losses))
        return weighted.sum() / weights.sum().detach() + self.penalty * self._discrepancy(weighted)

    def _discrepancy(self, weighted: Tensor) -> Tensor:
        if self.pairs == "neighbours":
            return (weighted[:-1] - weighted[1:]).abs().sum()
        return (weighted[:, None] - weighted).abs().sum() / 2

    def _normalised(self, losses: Tensor) -> Tensor:
        """The losses l that the router weighs, [T]; notes the first losses of new tasks."""
        if self.normalisation == "ones":
            return losses
        now = losses.detach()
        initial = self.pick(self.initial_losses)
        initial = torch.where(initial.isnan() & (now > 0), now, initial)
        self.put(self.initial_losses, initial)
        if self.normalisation == "log_ratio":
            references = torch.where(initial.isnan(), _logs(now), initial.log())
            return _logs(losses) - references
        known = self.initial_losses.nan_to_num(nan=torch.inf)
        return losses * torch.where(initial.isnan(), 1.0, known.min() / initial)


def _logs(losses: Tensor) -> Tensor:
    """Logarithms of losses. A loss of 0 or less has no logarithm and gets no gradient here."""
    return losses.clamp(min=torch.finfo(losses.dtype).tiny).log()
