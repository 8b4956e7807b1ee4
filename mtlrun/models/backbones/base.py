"""The contract of a backbone."""

from collections.abc import Sequence

from torch import Tensor, nn


class Backbone(nn.Module):
    """A list of stages with known output channels. Architectures attach at stages.

    Every backbone takes the runtime fact ``input_shape`` (of one input, without the batch) as a
    keyword beside its own settings.

    Args:
        stages: modules to call one after the other.
        channels: output channels (or features) of each stage.
        spatial: whether each stage gives maps [N, C, H, W] (True) or vectors [N, C] (False).
    """

    def __init__(
        self, stages: Sequence[nn.Module], channels: Sequence[int], spatial: Sequence[bool]
    ) -> None:
        super().__init__()
        assert len(stages) == len(channels) == len(spatial) > 0
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(channels)
        self.spatial = tuple(spatial)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features of the last stage, [N, C] or [N, C, H, W]."""
        features = inputs
        for stage in self.stages:
            features = stage(features)
        return features

    def last_layer(self) -> list[nn.Parameter]:
        """The weight (not the bias, not a norm's scale) of the last layer that has a matrix."""
        weights = [p for p in self.stages.parameters() if p.dim() >= 2]
        return weights[-1:]
