"""The shared trunk of MultiMNIST."""

from collections.abc import Sequence

from torch import nn

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_image, expect_probability

SMALLEST = 16
"""Pixels a side that two 5x5 convolutions and two poolings leave one position of."""


class LeNet(Backbone):
    """The shared part of the LeNet of Sener and Koltun (NeurIPS 2018, section 5.1).

    Convolution 5x5 to 10 channels, max-pooling, convolution 5x5 to 20 channels, max-pooling, fully
    connected to 50, each followed by a ReLU. Their task part, 50 -> 50 -> classes, is the head
    ``mlp`` with ``hidden=[50]``.

    Their code (isl-org/MultiObjectiveOptimization) also drops channels of the second convolution,
    the same ones in all examples of a batch, and units of the task part, both at rate 0.5 and
    without scaling up what is left. ``dropout=0.5`` here (and in the head) is torch's: masks for
    each example, scaled. On their inputs, scaled to 28x28, the last layer is 320 -> 50 as theirs.

    Args:
        input_shape: [C, H, W], at least 16x16; MultiMNIST's is [1, 36, 36], or [1, 28, 28] scaled.
        dropout: rate at which channels of the second convolution are dropped.

    Raises:
        ValueError: where inputs are no images or too small, or ``dropout`` is no rate.
    """

    def __init__(self, *, input_shape: Sequence[int], dropout: float = 0.0) -> None:
        channels, height, width = expect_image("backbone=lenet", input_shape)
        expect_probability("dropout", dropout)
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"backbone=lenet needs inputs of {SMALLEST}x{SMALLEST} pixels or more, and these "
                f"have {height}x{width}: use backbone=cnn or backbone=mlp"
            )
        positions = _side(_side(height)) * _side(_side(width))
        second: list[nn.Module] = [nn.Conv2d(10, 20, 5)]
        if dropout > 0:
            second.append(nn.Dropout2d(dropout))
        # Pooling first gives ReLU a quarter of the work and changes nothing
        stages = [
            nn.Sequential(nn.Conv2d(channels, 10, 5), nn.MaxPool2d(2), nn.ReLU()),
            nn.Sequential(*second, nn.MaxPool2d(2), nn.ReLU()),
            nn.Sequential(nn.Flatten(), nn.Linear(20 * positions, 50), nn.ReLU()),
        ]
        super().__init__(stages, (10, 20, 50), ("map", "map", "vector"))


def _side(side: int) -> int:
    """Pixels a side after a 5x5 convolution without padding and a 2x2 pooling."""
    return (side - 4) // 2
