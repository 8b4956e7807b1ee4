"""One score and ordered thresholds."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.checks import expect_rows
from mtlrun.models.heads.base import Head
from mtlrun.models.layers import pooling
from mtlrun.types import Layout


class OrdinalHead(Head):
    """The proportional-odds model: logits of P(y > k), one score minus a threshold for each k.

    McCullagh, "Regression models for ordinal data", 1980. Every threshold is the one before plus a
    softplus, so the logits never rise with k, whatever is learnt. At first the thresholds stand
    where a score of 0 makes all classes equally probable. For tasks of kind ``ordinal``.

    Args:
        in_channels: of the features.
        out_channels: number of thresholds, one less than there are classes.
        layout: of the features.
        size: None; a dense task's (H, W) is refused.
        pool: ``mean`` or ``max`` over the positions of maps, or over the tokens of sequences.

    Raises:
        ValueError: where the task is dense, there is no threshold, or ``pool`` is wrong or has no
            effect.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        layout: Layout,
        size: tuple[int, int] | None = None,
        pool: str = "mean",
    ) -> None:
        super().__init__()
        expect_rows("heads=ordinal", size)
        if out_channels < 1:
            raise ValueError(
                f"heads=ordinal needs at least one threshold, and this task asks for {out_channels}"
            )
        # The thresholds can move together, so the score needs no bias of its own.
        self.layers = nn.Sequential(*pooling(layout, pool), nn.Linear(in_channels, 1, bias=False))
        classes = out_channels + 1
        even = [math.log(k / (classes - k)) for k in range(1, classes)]
        gaps = [math.log(math.expm1(after - before)) for before, after in pairwise(even)]
        # The lowest threshold, then what softplus makes the distance to each next.
        self.steps = nn.Parameter(torch.tensor([even[0], *gaps]))

    def thresholds(self) -> Tensor:
        """In rising order, [out_channels]."""
        lowest, gaps = self.steps[:1], F.softplus(self.steps[1:])
        return torch.cat([lowest, lowest + gaps.cumsum(0)])

    def forward(self, features: Tensor) -> Tensor:
        """Logits of P(y > k), [N, out_channels]."""
        score: Tensor = self.layers(features)
        return score - self.thresholds()
