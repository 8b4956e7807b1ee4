"""The contract of a head."""

from typing import ClassVar

from torch import Tensor, nn


class Head(nn.Module):
    """From features to one task's prediction.

    Every head takes, beside its own settings, the runtime facts ``in_channels`` (of the features),
    ``out_channels`` (the task's output size), ``spatial`` (whether features are maps) and ``size``
    ((H, W) of a dense prediction, None for a task with one prediction a row) as keywords.

    Attributes:
        dense: whether it gives a prediction for each pixel, [N, out_channels, H, W].
    """

    dense: ClassVar[bool] = False

    def forward(self, features: Tensor) -> Tensor:
        """Prediction, [N, out_channels] or [N, out_channels, H, W]."""
        raise NotImplementedError  # abstract
