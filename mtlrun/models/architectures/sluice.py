"""Sluice networks."""

from collections.abc import Mapping, Sequence
from math import isfinite

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone, Pass
from mtlrun.models.checks import expect_choice
from mtlrun.models.layers import Pointwise, channel_dimension
from mtlrun.models.sharing.columns import Columns, expect_rate
from mtlrun.models.sharing.units import Place, Sources, Unit, blended, with_padding_of
from mtlrun.types import Structure

INITS = ("imbalanced", "balanced")
OWN = 0.9
"""What imbalanced weights begin with for a subspace's own features, and for the last stage."""


class Sluice(Columns):
    """Sluice networks (Ruder, Bingel, Augenstein and Sogaard, AAAI 2019).

    One backbone a task. The channels of each stage form ``subspaces``: with two of them the even
    and the odd ones, counted from 0 (units are alike before training, so that which of them form a
    half does not matter; of an odd number the first half has one more, which receives nothing from
    the second). After stages every subspace of every task becomes a linear combination of all of
    them with a learned matrix alpha, [subspaces x T, subspaces x T]. A task's head reads

        sum_l beta_l x_l

    over the stages of its column that a unit follows, and the last, with a learned weight for each.
    Neither is constrained. With one subspace and ``beta=none`` it is a cross-stitch network.

    In the paper all layers have one width. Here stages of other widths go through a linear layer
    without bias first, maps are resized to the last, and a head that reads vectors gets the mean of
    earlier maps and sequences. The word vectors of a text backbone are its first stage: ``after``
    without 1 leaves them out, as in the paper.

    ``orthogonality`` weighs the penalty

        sum over tasks and stages of ||G_1^T G_2||_F^2,

    with the weights of the units of either half as columns of G_1 and G_2: of the linear layers and
    convolutions of a stage that give as many channels as the stage (of all of them, where none
    does), and of each gate of a recurrent layer. So it is 0 where no unit of one half looks for
    what a unit of the other does.

    The published code (sebastianruder/sluice-networks) reads DyNet's column-major tensors as if
    they were row-major: its alpha mixes even and odd units where it would mix tasks, and its
    penalty compares units pair by pair. This follows the paper. Its ``imbalanced`` alpha for two
    subspaces has rows that sum to 2; here each begins with 0.9 for its own subspace and equal parts
    of 0.1 for the others, as for one.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        reads: for each task the stages that its head reads. The last of them gives way to the sum.
        after: the stages followed by a unit, counted from 1; None for all.
        subspaces: 1 or 2.
        alpha: ``imbalanced`` begins with 0.9 for a subspace itself, ``balanced`` with equal
            weights.
        beta: ``imbalanced`` begins with 0.9 for the last stage, ``balanced`` with equal weights;
            ``none``: heads read the last stage alone, as where there is no other.
        orthogonality: weight of the penalty; 0 for none, as the published code's default.
        rate: the learning rate of alpha, beta and their linear layers is so many times the
            network's.

    Raises:
        ValueError: where a setting is wrong, or the penalty has nothing to act on.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        reads: Mapping[str, Sequence[int]] | None = None,
        after: Sequence[int] | None = None,
        subspaces: int = 2,
        alpha: str = "imbalanced",
        beta: str = "imbalanced",
        orthogonality: float = 0.0,
        rate: float = 1.0,
    ) -> None:
        expect_rate(rate)
        expect_choice("alpha", alpha, INITS)
        expect_choice("beta", beta, (*INITS, "none"))
        _expect_subspaces(subspaces, orthogonality)
        super().__init__(
            make_backbone=make_backbone,
            streams=streams,
            reads=reads,
            after=after,
            name="sluice",
            make_unit=lambda place: Subspaces(place, subspaces, alpha),
            alone=subspaces > 1,
            make_reader=None if beta == "none" else lambda sources: LayerSum(sources, beta),
        )
        self.subspaces = subspaces
        self.rate = rate
        if orthogonality > 0:
            self.terms["orthogonality"] = orthogonality
            if not self._unit_weights():
                raise ValueError(
                    f"architecture=sluice with orthogonality={orthogonality} compares the weights "
                    "of linear, convolutional and recurrent layers, and the stages in after have "
                    "none with as many units as channels: use other stages or orthogonality=0"
                )

    def with_terms(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> Pass:
        """See :meth:`Architecture.with_terms`."""
        found = Pass(self.features(inputs, tasks))
        if self.terms:
            overlaps = [_overlap(weights) for weights in self._unit_weights()]
            found.terms["orthogonality"] = torch.stack(overlaps).sum()
        return found

    def _unit_weights(self) -> list[Tensor]:
        """The weights, each [units, inputs], of all columns that the penalty looks at."""
        found: list[Tensor] = []
        for unit in self.units:
            assert isinstance(unit, Subspaces)
            for column, _ in enumerate(self.tasks):
                stage = self._backbone(column).stages[unit.place.stage]
                found += _matrices(stage, unit.place.channels)
        return found

    def learning_rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """That of the units and layer sums."""
        return self.rates(self.rate)

    def structure(self) -> list[Structure]:
        """For each unit its matrix alpha, and beta with a row for each task."""
        tables = []
        for unit in self.units:
            assert isinstance(unit, Subspaces)
            rows = self._named([self.tasks[column] for column in unit.place.rows])
            matrix = torch.cat(list(unit.alpha)).detach()
            name = f"sluice/stage_{unit.place.stage + 1}"
            tables.append(Structure(name, rows, self._named(self.tasks), matrix))
        return [*tables, *self._betas()]

    def _named(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """The names of the subspaces of some tasks."""
        if self.subspaces == 1:
            return tuple(tasks)
        return tuple(f"{task} {1 + half}" for task in tasks for half in range(self.subspaces))

    def _betas(self) -> list[Structure]:
        """Beta, 0 for stages that a task's head gets nothing of; none where there is no beta."""
        if not self.reader_of:
            return []
        sources = {task: self.sources[self.tasks.index(task)] for task in self.reader_of}
        stages = sorted({stage for each in sources.values() for stage in each.stages})
        rows = []
        for task, reader in self.reader_of.items():
            assert isinstance(reader, LayerSum)
            weight_of = dict(zip(sources[task].stages, reader.beta.detach(), strict=True))
            nothing = torch.zeros_like(reader.beta[0])
            rows.append(torch.stack([weight_of.get(stage, nothing) for stage in stages]))
        names = tuple(f"stage_{stage + 1}" for stage in stages)
        return [Structure("sluice/beta", tuple(self.reader_of), names, torch.stack(rows))]


def _expect_subspaces(subspaces: int, orthogonality: float) -> None:
    """Raise a ValueError where one of them is wrong, or they do not fit together."""
    if subspaces not in (1, 2):
        raise ValueError(f"subspaces={subspaces} of architecture=sluice: use 1 or 2")
    if not (orthogonality >= 0 and isfinite(orthogonality)):
        raise ValueError(f"orthogonality={orthogonality} must be 0 or more")
    if orthogonality > 0 and subspaces == 1:
        raise ValueError(
            f"architecture=sluice with orthogonality={orthogonality} keeps two subspaces apart, "
            "and subspaces=1 leaves one: use subspaces=2 or orthogonality=0"
        )


def _matrices(stage: nn.Module, channels: int) -> list[Tensor]:
    """The weights of a stage's units, each [units, inputs]; a recurrent layer's gate by gate."""
    gates: list[Tensor] = []
    layers: list[Tensor] = []
    for module in stage.modules():
        if isinstance(module, nn.RNNBase):
            for weight in module.parameters():
                if weight.dim() == 2 and len(weight) % module.hidden_size == 0:
                    gates += weight.split(module.hidden_size)
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            layers.append(module.weight.flatten(1))
    whole = [weights for weights in layers if len(weights) == channels]
    return [weights for weights in [*gates, *(whole or layers)] if len(weights) > 1]


def _overlap(weights: Tensor) -> Tensor:
    """The sum of squared products of each even unit's weights with each odd unit's."""
    return (weights[0::2] @ weights[1::2].T).square().sum()


def _first_weights(own: int, count: int, init: str) -> Tensor:
    """Weights [count] that sum to 1, see ``INITS``."""
    if init == "balanced":
        return torch.full((count,), 1 / count)
    weights = torch.full((count,), (1 - OWN) / (count - 1))
    weights[own] = OWN
    return weights


class Subspaces(Unit):
    """The unit after one stage.

    Args:
        place: where it stands.
        subspaces: of each column's channels.
        init: of alpha.

    Attributes:
        alpha: for each column that goes on its rows of the matrix, [subspaces, T x subspaces], the
            subspaces of a task side by side.
    """

    def __init__(self, place: Place, subspaces: int, init: str) -> None:
        super().__init__(place)
        self.subspaces = subspaces
        count = place.tasks * subspaces
        self.alpha = nn.ParameterList()
        for column in place.rows:
            own = range(column * subspaces, (column + 1) * subspaces)
            rows = [_first_weights(subspace, count, init) for subspace in own]
            self.alpha.append(nn.Parameter(torch.stack(rows)))

    def row(self, column: int) -> list[nn.Parameter]:
        """A column's rows of the matrix."""
        return [self.alpha[self.place.rows.index(column)]]

    def forward(self, features: Sequence[Tensor], columns: Sequence[int]) -> list[Tensor]:
        """See :meth:`Unit.forward`."""
        blocks = [self.row(column)[0] for column in columns]
        parts = [part for column in features for part in self._split(column)]
        mixed = blended(blocks, parts, self.place.layout, self.place.together)
        joined = [
            self._join(mixed[at : at + self.subspaces])
            for at in range(0, len(mixed), self.subspaces)
        ]
        return with_padding_of(features[0], joined, self.place.layout)

    def _split(self, features: Tensor) -> tuple[Tensor, ...]:
        """The subspaces of features, of one shape: a missing last channel is 0."""
        if self.subspaces == 1:
            return (features,)
        dimension = channel_dimension(self.place.layout)
        if self.place.channels % self.subspaces:
            first = features.narrow(dimension, 0, 1)
            features = torch.cat([features, torch.zeros_like(first)], dimension)
        split: Tensor = features.unflatten(dimension, (-1, self.subspaces))
        return split.unbind(dimension + 1)

    def _join(self, parts: Sequence[Tensor]) -> Tensor:
        """Features of their subspaces, the inverse of :meth:`_split`."""
        if self.subspaces == 1:
            return parts[0]
        dimension = channel_dimension(self.place.layout)
        joined = torch.stack(list(parts), dimension + 1).flatten(dimension, dimension + 1)
        return joined.narrow(dimension, 0, self.place.channels)


class LayerSum(nn.Module):
    """A weighted sum of a column's stages, in the shape of the last.

    Args:
        sources: the stages, two or more.
        init: of beta.

    Attributes:
        beta: a weight for each, [stages].
    """

    def __init__(self, sources: Sources, init: str) -> None:
        super().__init__()
        self.layout = sources.layouts[-1]
        count, width = len(sources.stages), sources.channels[-1]
        self.beta = nn.Parameter(_first_weights(count - 1, count, init))
        self.widths = nn.ModuleList(
            nn.Identity() if channels == width else Pointwise(self.layout, channels, width, False)
            for channels in sources.channels
        )

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """What the head reads in place of the last stage."""
        alike = [widen(part) for widen, part in zip(self.widths, parts, strict=True)]
        mixed = blended([self.beta.unsqueeze(0)], alike, self.layout, together=True)
        return with_padding_of(parts[-1], mixed, self.layout)[0]
