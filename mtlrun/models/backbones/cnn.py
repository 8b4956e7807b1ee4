"""A plain convolutional network."""

from collections.abc import Sequence

from torch import nn

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_image, expect_widths
from mtlrun.models.layers import convolution


class CNN(Backbone):
    """Plain stages of convolution - normalisation - ReLU - max-pooling.

    Args:
        input_shape: [C, H, W].
        channels: output channels of each stage, one or more.
        kernel_size: of the convolutions, odd.
        pool: factor by which each stage shrinks its map; 1 keeps it.
        norm: ``batch``, ``group`` or ``none``.

    Raises:
        ValueError: where a setting is outside these, inputs are no images, or the stages shrink
            them to nothing.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        channels: Sequence[int] = (32, 64, 128),
        kernel_size: int = 3,
        pool: int = 2,
        norm: str = "batch",
    ) -> None:
        channels_before, height, width = expect_image("backbone=cnn", input_shape)
        widths = expect_widths("channels", channels)
        if pool < 1:
            raise ValueError(f"pool={pool} must be 1 (none) or more")
        if min(height, width) < pool ** len(widths):
            raise ValueError(
                f"backbone=cnn: inputs of {height}x{width} are too small for {len(widths)} stages "
                f"that each shrink them by pool={pool}: use fewer channels=[...] or pool=1"
            )
        stages: list[nn.Module] = []
        for out_channels in widths:
            layers = convolution(channels_before, out_channels, kernel_size, norm)
            if pool > 1:
                layers.append(nn.MaxPool2d(pool))
            stages.append(nn.Sequential(*layers))
            channels_before = out_channels
        super().__init__(stages, widths, ["map"] * len(stages))
