"""One linear layer."""

from torch import Tensor, nn

from mtlrun.models.checks import expect_rows
from mtlrun.models.heads.base import Head
from mtlrun.models.layers import pooling
from mtlrun.types import Layout


class LinearHead(Head):
    """A linear layer on the features, pooled over their positions where they have any.

    Args:
        in_channels: of the features.
        out_channels: numbers to predict.
        layout: of the features.
        size: None; a dense task's (H, W) is refused.
        pool: ``mean`` or ``max`` over the positions of maps, or over the tokens of sequences.

    Raises:
        ValueError: where the task is dense, or ``pool`` is wrong or has no effect.
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
        expect_rows("heads=linear", size)
        self.layers = nn.Sequential(*pooling(layout, pool), nn.Linear(in_channels, out_channels))

    def forward(self, features: Tensor) -> Tensor:
        """Prediction, [N, out_channels]."""
        prediction: Tensor = self.layers(features)
        return prediction
