"""The contract of a backbone."""

from collections.abc import Collection, Sequence
from typing import ClassVar

from torch import Tensor, nn

from mtlrun.types import InputKind, Layout

Kept = dict[str, Tensor]
"""What the stages of one backbone leave for later ones in one pass (pooling indices, skips)."""


class Backbone(nn.Module):
    """A list of stages with known output channels. Architectures attach at stages.

    A backbone takes, beside its own settings, those runtime facts of its inputs that it wants, as
    keywords: ``input_shape`` (of one input, without the batch), and for tokens and columns what
    :data:`~mtlrun.types.InputKind` names.

    An architecture walks it by :meth:`step`, stage after stage, with one :data:`Kept` a pass. It
    may change the features in between, but not their shape.

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
        kept: Kept = {}
        for number in range(len(self.stages)):
            features = self.step(number, features, kept)
        return features

    def step(self, number: int, features: Tensor, kept: Kept) -> Tensor:
        """What a stage, counted from 0, makes of the features before it.

        Backbones whose stages need more than those override :meth:`inner` and :meth:`outer`.

        Args:
            number: of the stage.
            features: of the stage before; the inputs for the first.
            kept: of this pass.
        """
        return self.outer(number, self.inner(number, features, kept)[1], kept)

    def inner(self, number: int, features: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        """A stage in halves, for architectures that attend inside it (MTAN).

        Returns:
            the features before its last part (a residual block, a convolution) and behind that, but
            before what changes the map's size at its end; where a stage has no such parts, its
            output twice. :meth:`outer` makes the output of the second.
        """
        del kept
        output = self.stages[number](features)
        return output, output

    def outer(self, number: int, features: Tensor, kept: Kept) -> Tensor:
        """What a stage does behind :meth:`inner`: nothing, or a pooling that may keep indices."""
        del number, kept
        return features

    def last_layer(self) -> list[nn.Parameter]:
        """The weight (not the bias, not a norm's scale) of the last layer that has a matrix."""
        weights = [p for p in self.stages.parameters() if p.dim() >= 2]
        return weights[-1:]

    def drop(self, stages: Collection[int]) -> None:
        """Let go of the modules of stages that will never be called."""
        for number in stages:
            self.stages[number] = nn.Identity()
