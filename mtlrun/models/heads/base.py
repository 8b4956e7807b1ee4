"""The contract of a head."""

from typing import ClassVar

from torch import Tensor, nn

from mtlrun.types import Per


class Head(nn.Module):
    """From features to one task's prediction.

    Every head takes, beside its own settings, the runtime facts ``in_channels`` (of the features),
    ``out_channels`` (the task's output size), ``layout`` (of the features) and ``size``
    ((H, W) of a prediction for each pixel, None for other tasks) as keywords.

    Attributes:
        per: what it gives a prediction for: a row, [N, out_channels]; each pixel, [N, out_channels,
            H, W]; or each token, [N, L, out_channels].
    """

    per: ClassVar[Per] = "row"

    def forward(self, features: Tensor) -> Tensor:
        """Prediction, see ``per``."""
        raise NotImplementedError  # abstract
