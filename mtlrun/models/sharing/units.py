"""What stands between networks side by side, and between their stages and a head."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlrun.models.layers import only_tokens, pooled, resize, token_mask
from mtlrun.types import Layout


@dataclass(frozen=True)
class Place:
    """Where a unit stands.

    Attributes:
        stage: behind which it is, counted from 0.
        layout: of that stage's features.
        channels: of them.
        tasks: number of columns.
        rows: the columns, counted from 0, that go on with what the unit gives or are read there.
        together: whether all of these rows are seen by more than one task.
    """

    stage: int
    layout: Layout
    channels: int
    tasks: int
    rows: tuple[int, ...]
    together: bool


class Unit(nn.Module):
    """Makes each column's new features of all columns' features after a stage.

    What it learns is apart for each column that it serves (a row), because a row behind which
    nothing is exchanged any more belongs to one task alone.

    Args:
        place: where it stands.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    @abstractmethod
    def row(self, column: int) -> list[nn.Parameter]:
        """The parameters that make the features of one column of ``place.rows``."""

    @abstractmethod
    def forward(self, features: Sequence[Tensor], columns: Sequence[int]) -> list[Tensor]:
        """New features of some columns.

        Args:
            features: of all columns, of one shape.
            columns: some of ``place.rows``, at least one.
        """


@dataclass(frozen=True)
class Sources:
    """The stages of its column that a task's head reads in one.

    Attributes:
        stages: counted from 0, in their order; what is made of them takes the last one's place.
        layouts: of each.
        channels: of each.
    """

    stages: tuple[int, ...]
    layouts: tuple[Layout, ...]
    channels: tuple[int, ...]

    def aligned(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """The stages' features at the positions of the last of them.

        Maps are resized to its size; where it is a vector, maps and sequences give their mean.

        Args:
            outputs: of the column's stages.
        """
        last = outputs[self.stages[-1]]
        parts = []
        for stage, layout in zip(self.stages, self.layouts, strict=True):
            part = outputs[stage]
            if self.layouts[-1] == "map":
                part = resize(part, (last.shape[-2], last.shape[-1]))
            elif layout != self.layouts[-1]:
                part = pooled(part, layout)
            parts.append(part)
        return parts


def can_align(layout: Layout, last: Layout) -> bool:
    """Whether features of a layout can be brought to the positions of those of another one."""
    return last in (layout, "vector")


def blended(
    blocks: Sequence[Tensor], features: Sequence[Tensor], layout: Layout, together: bool
) -> list[Tensor]:
    """Linear combinations of features of one shape.

    Matrix products on the stacked features: on a CPU two to three times as fast, forward and
    backward, as sums of T products for each row, which walk the features some 4 T^2 times (with
    blocks of a single row, one after the other, still 1.5 times as fast).

    Args:
        blocks: of weights, each [R, T], or [R, T, C] for each channel by itself.
        features: T tensors.
        layout: theirs.
        together: whether the blocks may be one matrix. Then a loss on one of the combinations
            reaches all blocks, with gradient 0.

    Returns:
        a tensor for each row of each block. Sequences are not marked, see
        :func:`~mtlrun.models.layers.only_tokens`.
    """
    stacked = torch.stack(list(features))
    matrices = [torch.cat(list(blocks))] if together else blocks
    return [mixed for weights in matrices for mixed in _product(weights, stacked, layout)]


def _product(weights: Tensor, stacked: Tensor, layout: Layout) -> tuple[Tensor, ...]:
    """Combinations of T features, [T, N, ...], by weights [R, T] or [R, T, C]."""
    if weights.dim() == 2:
        mixed = (weights @ stacked.flatten(1)).view(-1, *stacked.shape[1:])
    elif layout == "map":
        mixed = torch.einsum("rtc,tnchw->rnchw", weights, stacked)
    else:
        rows, columns, channels = weights.shape
        middle = (1,) * (stacked.dim() - 2)
        mixed = (weights.view(rows, columns, *middle, channels) * stacked).sum(1)
    return mixed.unbind(0)


def with_padding_of(features: Tensor, mixed: Sequence[Tensor], layout: Layout) -> list[Tensor]:
    """Mixtures of features; where they are sequences, 0 exactly where the features are padding."""
    if layout != "sequence":
        return list(mixed)
    here = token_mask(features)
    return [only_tokens(sequence, here) for sequence in mixed]
