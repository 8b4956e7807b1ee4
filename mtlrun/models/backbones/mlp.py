"""A multi-layer perceptron."""

from collections.abc import Sequence
from math import prod

from torch import nn

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_probability, expect_widths
from mtlrun.models.layers import activation as make_activation
from mtlrun.models.layers import vector_norm


class MLP(Backbone):
    """Fully connected layers on the flattened input; a stage is one of them.

    A stage is linear - normalisation - activation - dropout.

    Args:
        input_shape: shape of one input, without the batch; any.
        hidden: width of each layer, one or more.
        activation: ``relu``, ``leaky_relu``, ``elu``, ``gelu``, ``silu`` or ``tanh``.
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
        expect_probability("dropout", dropout)
        stages: list[nn.Module] = []
        width_before = prod(input_shape)
        for width in widths:
            layers: list[nn.Module] = []
            if not stages and len(input_shape) != 1:
                layers.append(nn.Flatten())
            layers += [nn.Linear(width_before, width, bias=norm != "batch")]
            layers += [*vector_norm(norm, width), make_activation(activation)]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            stages.append(nn.Sequential(*layers))
            width_before = width
        super().__init__(stages, widths, [False] * len(stages))
