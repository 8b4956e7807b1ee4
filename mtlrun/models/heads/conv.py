"""A small convolutional decoder."""

from torch import Tensor, nn

from mtlrun.models.checks import expect_maps
from mtlrun.models.heads.base import Head
from mtlrun.models.layers import convolution, resize
from mtlrun.types import Layout


class ConvHead(Head):
    """Convolutions 3x3 - normalisation - ReLU, one 1x1, and bilinear resizing to the task's size.

    Args:
        in_channels: of the features.
        out_channels: numbers to predict for each pixel.
        layout: of the features; only maps will do.
        size: (H, W) of the prediction.
        hidden: channels of the 3x3 convolutions.
        depth: how many of them; 0 leaves the 1x1 alone.
        norm: ``batch``, ``group`` or ``none``.

    Raises:
        ValueError: where the task is not dense, the features are no maps, or a setting is wrong.
    """

    per = "pixel"

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        layout: Layout,
        size: tuple[int, int] | None,
        hidden: int = 128,
        depth: int = 1,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.size = expect_maps("heads=conv", layout, size)
        if depth < 0 or hidden < 1:
            raise ValueError(
                f"depth={depth} must be 0 or more, and hidden={hidden} must be 1 or more"
            )
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += convolution(in_channels, hidden, 3, norm)
            in_channels = hidden
        self.layers = nn.Sequential(*layers, nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Prediction, [N, out_channels, H, W]."""
        return resize(self.layers(features), self.size)
