"""A residual multi-layer perceptron."""

from collections.abc import Sequence

from torch import Tensor, nn

from mtlrun.models.backbones.base import Backbone


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


class ResidualMLP(Backbone):
    """``depth`` residual stages behind a linear layer; ``input_shape`` is given by mtlrun."""

    def __init__(self, width: int = 64, depth: int = 2, *, input_shape: Sequence[int]) -> None:
        inputs = 1
        for size in input_shape:
            inputs *= size
        first = nn.Sequential(nn.Flatten(), nn.Linear(inputs, width))
        stages = [first, *(Residual(width) for _ in range(depth))]
        super().__init__(stages, [width] * len(stages), ["vector"] * len(stages))
