"""DeepLabV3's decoder."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlrun.models.checks import expect_maps, expect_probability
from mtlrun.models.heads.base import Head
from mtlrun.models.layers import convolution, resize
from mtlrun.types import Layout


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., "Rethinking Atrous Convolution for Semantic
    Image Segmentation", 2017, arXiv 1706.05587, section 3.3).

    A 1x1 convolution, one 3x3 convolution for each rate and the map's mean, side by side, each with
    batch normalisation and ReLU; then a 1x1 projection of all of them, and dropout.

    Args:
        in_channels: of the features.
        channels: of each branch, and of the output.
        rates: dilations of the 3x3 convolutions.
        dropout: rate after the projection.
    """

    def __init__(
        self, in_channels: int, channels: int, rates: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*convolution(in_channels, channels, 1)),
                *(nn.Sequential(*convolution(in_channels, channels, 3, dilation=r)) for r in rates),
            ]
        )
        # Its normalisation sees one value a row: layers.BatchNorm2d takes a batch of one, too
        self.image = nn.Sequential(*convolution(in_channels, channels, 1))
        self.project = nn.Sequential(
            *convolution((len(rates) + 2) * channels, channels, 1), nn.Dropout(dropout)
        )

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, channels, H, W]."""
        maps = [branch(features) for branch in self.branches]
        image = self.image(features.mean((2, 3), keepdim=True))
        maps.append(image.expand(-1, -1, *features.shape[2:]))
        projected: Tensor = self.project(torch.cat(maps, 1))
        return projected


class DeepLabHead(Head):
    """DeepLabV3's decoder: ASPP, a 3x3 and a 1x1 convolution, bilinear resizing to the task's size.

    The layout is that of torchvision's ``DeepLabHead``, which LibMTL uses for NYUv2 as well.

    Args:
        in_channels: of the features.
        out_channels: numbers to predict for each pixel.
        layout: of the features; only maps will do.
        size: (H, W) of the prediction.
        channels: of the decoder.
        rates: dilations of the pyramid. The paper's are 6, 12, 18 for a backbone of output stride
            16 and twice that, the default here as in torchvision and LibMTL, for output stride 8.
            A rate that is larger than the map reads padding beside its centre.
        dropout: rate after the pyramid's projection.

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
        channels: int = 256,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.size = expect_maps("heads=deeplab", layout, size)
        expect_probability("dropout", dropout)
        if channels < 1 or not rates or min(rates) < 1:
            raise ValueError(
                f"channels={channels} and each of rates={list(rates)} must be 1 or more"
            )
        self.layers = nn.Sequential(
            ASPP(in_channels, channels, rates, dropout),
            *convolution(channels, channels, 3),
            nn.Conv2d(channels, out_channels, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Prediction, [N, out_channels, H, W]."""
        return resize(self.layers(features), self.size)
