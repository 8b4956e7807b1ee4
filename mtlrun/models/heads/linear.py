"""One linear layer."""

from torch import Tensor, nn

from mtlrun.models.checks import expect_rows
from mtlrun.models.heads.base import Head
from mtlrun.models.layers import GlobalAveragePool


class LinearHead(Head):
    """A linear layer on the features, averaged over their positions where they are maps.

    Args:
        in_channels: of the features.
        out_channels: numbers to predict.
        spatial: whether features are maps.
        size: None; a dense task's (H, W) is refused.

    Raises:
        ValueError: where the task is dense.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        spatial: bool,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        expect_rows("heads=linear", size)
        pool = [GlobalAveragePool()] if spatial else []
        self.layers = nn.Sequential(*pool, nn.Linear(in_channels, out_channels))

    def forward(self, features: Tensor) -> Tensor:
        """Prediction, [N, out_channels]."""
        prediction: Tensor = self.layers(features)
        return prediction
