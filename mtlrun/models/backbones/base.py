"""The contract of a backbone."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from mtlrun.types import InputKind, Layout


class Backbone(nn.Module):
    """A list of stages with known output channels. Architectures attach at stages.

    A backbone takes, beside its own settings, those runtime facts of its inputs that it wants, as
    keywords: ``input_shape`` (of one input, without the batch), and for tokens and columns what
    :data:`~mtlrun.types.InputKind` names.

    Args:
        stages: modules to call one after the other.
        channels: output channels (or features) of each stage.
        layouts: of each stage's output, see :data:`~mtlrun.types.Layout`.

    Attributes:
        reads: the kinds of input that it takes.
    """

    reads: ClassVar[tuple[InputKind, ...]] = ("values",)

    def __init__(
        self, stages: Sequence[nn.Module], channels: Sequence[int], layouts: Sequence[Layout]
    ) -> None:
        super().__init__()
        assert len(stages) == len(channels) == len(layouts) > 0
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(channels)
        self.layouts = tuple(layouts)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features of the last stage."""
        features = inputs
        for stage in self.stages:
            features = stage(features)
        return features

    def last_layer(self) -> list[nn.Parameter]:
        """The weight (not the bias, not a norm's scale) of the last layer that has a matrix."""
        weights = [p for p in self.stages.parameters() if p.dim() >= 2]
        return weights[-1:]
