"""A multi-layer perceptron."""

from collections.abc import Sequence
from math import prod

from torch import nn

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_widths
from mtlrun.models.layers import dense_stages


class MLP(Backbone):
    """Fully connected layers on the flattened input; a stage is one of them.

    A stage is linear - normalisation - activation - dropout.

    Args:
        input_shape: shape of one input, without the batch; any.
        hidden: width of each layer, one or more.
        activation: ``relu``, ``leaky_relu``, ``elu``, ``gelu``, ``silu``, ``tanh`` or ``sigmoid``.
        dropout: rate after each layer.
        norm: ``none``, ``batch`` or ``layer``.

    Raises:
        ValueError: where a setting is outside these.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        hidden: Sequence[int] = (128, 128),
        activation: str = "relu",
        dropout: float = 0.0,
        norm: str = "none",
    ) -> None:
        widths = expect_widths("hidden", hidden)
        flat = [nn.Flatten()] if len(input_shape) != 1 else []
        stages = dense_stages(prod(input_shape), widths, activation, dropout, norm, before=flat)
        super().__init__(stages, widths, ["vector"] * len(stages))
