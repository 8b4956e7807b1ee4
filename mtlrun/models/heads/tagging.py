"""A prediction for each token."""

from collections.abc import Sequence

from torch import Tensor

from mtlrun.models.heads.base import Head
from mtlrun.models.heads.mlp import MLPHead
from mtlrun.types import Layout


class TaggingHead(Head):
    """The same linear layer on every token of a sequence, after hidden layers where there are any.

    Each hidden layer is linear - ReLU - dropout. Where a row is padded it predicts as well, and the
    task leaves that out.

    Args:
        in_channels: of the features.
        out_channels: numbers to predict for each token.
        layout: of the features; only sequences will do.
        size: None; the (H, W) of a task for each pixel is refused.
        hidden: width of each hidden layer.
        dropout: rate after each hidden layer.

    Raises:
        ValueError: where the task predicts for each pixel, the features are no sequences, or a
            setting is wrong.
    """

    per = "token"

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        layout: Layout,
        size: tuple[int, int] | None = None,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if size is not None:
            raise ValueError(
                "heads=tagging predicts for each token, and this task for each pixel: use "
                "heads=conv or heads=deeplab"
            )
        if layout != "sequence":
            raise ValueError(
                f"heads=tagging reads sequences, and this backbone ends in {layout}s: use a "
                "backbone that keeps tokens (backbone=lstm or transformer)"
            )
        if dropout > 0 and not hidden:
            raise ValueError(
                f"dropout={dropout} has no effect without hidden layers: name their widths in "
                "hidden, or leave dropout out"
            )
        # A linear layer works on the last dimension, so an MLP of vectors is one of tokens.
        self.layers = MLPHead(
            in_channels=in_channels,
            out_channels=out_channels,
            layout="vector",
            hidden=hidden,
            dropout=dropout,
        ).layers

    def forward(self, features: Tensor) -> Tensor:
        """Prediction, [N, L, out_channels]."""
        prediction: Tensor = self.layers(features)
        return prediction
