"""Cross-stitch networks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.sharing.columns import Columns, expect_rate
from mtlrun.models.sharing.units import Place, Unit, blended, with_padding_of
from mtlrun.types import Structure


class CrossStitch(Columns):
    """Cross-stitch networks (Misra, Shrivastava, Gupta and Hebert, CVPR 2016, eq. 1).

    One backbone a task. After stages a unit replaces each column's features by a linear combination
    of all columns' features,

        x_i' = sum_j alpha_ij x_j,

    with a learned T x T matrix alpha for each stage, without softmax or constraint. It begins with
    ``same`` on its diagonal and equal other entries, in rows that sum to 1 so that features keep
    their size. The paper has units after pooling and fully connected layers; here
    they follow the stages of any backbone.

    The paper begins with networks trained for each task alone: train ``architecture=single_task``
    first, and give its run as ``model.init_from``. It also gives alpha 100 to 1000 times the
    network's learning rate, under plain SGD. An Adam step is as large as its learning rate whatever
    the gradient, so the default is 1; use 100 and more with SGD.

    The code of MTAN (Liu et al., CVPR 2019) has a baseline of this name with a vector of T weights
    for each layer, the same for all tasks. This is the paper's.

    With one task there is no unit, and the network is that of ``single_task``.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        reads: for each task the stages that its head reads.
        after: the stages followed by a unit, counted from 1; None for all.
        per_channel: a matrix for each channel of a stage, instead of one for all of them.
        same: alpha_ii at the beginning.
        rate: the units' learning rate is so many times the network's.

    Raises:
        ValueError: where a setting is wrong.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        reads: Mapping[str, Sequence[int]] | None = None,
        after: Sequence[int] | None = None,
        per_channel: bool = False,
        same: float = 0.9,
        rate: float = 1.0,
    ) -> None:
        expect_rate(rate)
        super().__init__(
            make_backbone=make_backbone,
            streams=streams,
            reads=reads,
            after=after,
            name="cross_stitch",
            make_unit=lambda place: Stitch(place, same, per_channel),
        )
        self.rate = rate

    def learning_rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """The units' own."""
        return self.rates(self.rate)

    def structure(self) -> list[Structure]:
        """For each unit its matrix: a row for each task that goes on, a column for each task."""
        tables = []
        for unit in self.units:
            assert isinstance(unit, Stitch)
            matrix = torch.stack(list(unit.alpha)).detach()
            rows = tuple(self.tasks[column] for column in unit.place.rows)
            values = matrix.mean(2) if matrix.dim() == 3 else matrix
            name = f"cross_stitch/stage_{unit.place.stage + 1}"
            tables.append(Structure(name, rows, self.tasks, values))
        return tables


class Stitch(Unit):
    """The cross-stitch unit after one stage.

    Args:
        place: where it stands.
        same: weight of a column's own features at the beginning.
        per_channel: whether each channel has weights of its own.

    Attributes:
        alpha: for each column that goes on its row of the matrix, [T], or [T, C] per channel.
    """

    def __init__(self, place: Place, same: float, per_channel: bool) -> None:
        super().__init__(place)
        self.alpha = nn.ParameterList()
        for column in place.rows:
            row = torch.full((place.tasks,), (1 - same) / (place.tasks - 1))
            row[column] = same
            if per_channel:
                row = row.unsqueeze(1).repeat(1, place.channels)
            self.alpha.append(nn.Parameter(row))

    def row(self, column: int) -> list[nn.Parameter]:
        """A column's row of the matrix."""
        return [self.alpha[self.place.rows.index(column)]]

    def forward(self, features: Sequence[Tensor], columns: Sequence[int]) -> list[Tensor]:
        """See :meth:`Unit.forward`."""
        rows = [self.row(column)[0].unsqueeze(0) for column in columns]
        layout = self.place.layout
        mixed = blended(rows, features, layout, self.place.together)
        return with_padding_of(features[0], mixed, layout)
