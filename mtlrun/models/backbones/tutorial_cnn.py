"""The small network of multi-task tutorials on CIFAR-10."""

from collections.abc import Sequence

from torch import nn

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_image, expect_probability

SMALLEST = 17
"""Pixels a side that two 3x3 convolutions and two 3x3 poolings leave one position of."""


class TutorialCNN(Backbone):
    """Two convolutions and two linear layers, for images of 32x32.

    Convolution 3x3 to 8 channels, ReLU, max-pooling 3x3; convolution 3x3 to 16 channels, ReLU,
    max-pooling 3x3; linear to 256, ReLU, dropout; linear to 128, ReLU, dropout. The tutorials put a
    linear layer for each task on it, the head ``linear``.

    Strides and padding are torch's defaults: a convolution moves by 1 and does not pad, a pooling
    moves by its 3 pixels and drops what is left over. So 3x32x32 becomes 8x30x30, 8x10x10, 16x8x8
    and 16x2x2, a vector of 64; the network has 50,928 parameters.

    Args:
        input_shape: [C, H, W], at least 17x17.
        dropout: rate after each of the two linear layers.

    Raises:
        ValueError: where inputs are no images or too small, or ``dropout`` is no rate.
    """

    def __init__(self, *, input_shape: Sequence[int], dropout: float = 0.3) -> None:
        channels, height, width = expect_image("backbone=tutorial_cnn", input_shape)
        expect_probability("dropout", dropout)
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"backbone=tutorial_cnn needs inputs of {SMALLEST}x{SMALLEST} pixels or more, and "
                f"these have {height}x{width}: use backbone=cnn or backbone=mlp"
            )
        vector = 16 * _side(_side(height)) * _side(_side(width))
        # Pooling first gives ReLU a ninth of the work and changes nothing
        stages = [
            nn.Sequential(nn.Conv2d(channels, 8, 3), nn.MaxPool2d(3), nn.ReLU()),
            nn.Sequential(nn.Conv2d(8, 16, 3), nn.MaxPool2d(3), nn.ReLU()),
            nn.Sequential(nn.Flatten(), *_dense(vector, 256, dropout)),
            nn.Sequential(*_dense(256, 128, dropout)),
        ]
        super().__init__(stages, (8, 16, 256, 128), ("map", "map", "vector", "vector"))


def _dense(inputs: int, outputs: int, dropout: float) -> list[nn.Module]:
    dropped = [nn.Dropout(dropout)] if dropout > 0 else []
    return [nn.Linear(inputs, outputs), nn.ReLU(), *dropped]


def _side(side: int) -> int:
    """Pixels a side after a 3x3 convolution without padding and a 3x3 pooling."""
    return (side - 2) // 3
