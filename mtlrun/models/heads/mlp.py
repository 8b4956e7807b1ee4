"""A multi-layer perceptron for one task."""

from collections.abc import Sequence

from torch import Tensor, nn

from mtlrun.models.checks import expect_probability, expect_rows, expect_widths
from mtlrun.models.heads.base import Head
from mtlrun.models.layers import pooling
from mtlrun.types import Layout


class MLPHead(Head):
    """Fully connected layers on the features, pooled over their positions where they have any.

    Each hidden layer is linear - ReLU - dropout. With ``hidden=[50]`` it is the task part of Sener
    and Koltun's LeNet for MultiMNIST (NeurIPS 2018).

    Args:
        in_channels: of the features.
        out_channels: numbers to predict.
        layout: of the features.
        size: None; a dense task's (H, W) is refused.
        hidden: width of each hidden layer.
        dropout: rate after each hidden layer.
        pool: ``mean`` or ``max`` over the positions of maps, or over the tokens of sequences.

    Raises:
        ValueError: where the task is dense, or a setting is wrong.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        layout: Layout,
        size: tuple[int, int] | None = None,
        hidden: Sequence[int] = (50,),
        dropout: float = 0.0,
        pool: str = "mean",
    ) -> None:
        super().__init__()
        expect_rows("heads=mlp", size)
        expect_probability("dropout", dropout)
        layers = pooling(layout, pool)
        width_before = in_channels
        for width in expect_widths("hidden", hidden, empty=True):
            layers += [nn.Linear(width_before, width), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            width_before = width
        self.layers = nn.Sequential(*layers, nn.Linear(width_before, out_channels))

    def forward(self, features: Tensor) -> Tensor:
        """Prediction, [N, out_channels]."""
        prediction: Tensor = self.layers(features)
        return prediction
