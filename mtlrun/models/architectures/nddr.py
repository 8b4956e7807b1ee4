"""Neural discriminative dimensionality reduction."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.layers import (
    BatchNorm1d,
    BatchNorm2d,
    channel_dimension,
    make_activation,
    only_tokens,
    token_mask,
)
from mtlrun.models.sharing.columns import Columns, expect_rate
from mtlrun.models.sharing.units import Place, Sources, Unit
from mtlrun.types import Layout, Structure

MOMENTUM = 0.05
"""Of the norms' running statistics: the published code's decay is 0.95."""


class NDDR(Columns):
    """NDDR-CNN (Gao, Ma, Zhao, Liu and Yuille, CVPR 2019).

    One backbone a task. After stages the features of all columns are joined, T x C channels, and
    each task reduces them to C by a 1x1 convolution of its own (a linear layer for vectors and for
    tokens) without bias, batch normalisation and ReLU. The convolution begins as a diagonal:
    ``same`` times the task's own features, and equal parts of the others', 0.9 and 0.1 in the paper
    for two tasks; so it is a cross-stitch unit that may also mix channels.

    Vectors are normalised over the batch, maps over its positions, sequences over the tokens that
    are there: the statistics of the paper's layer, which a layer normalisation of each token would
    not be, since it changes the ratio of a token's channels to those of another.

    With ``shortcut`` it is NDDR-CNN-Shortcut: a head reads all of its column's reduced
    features side by side, resized to the last one's size (their mean, where that is a vector) and
    brought to its channels by a further 1x1 convolution, normalisation and ReLU.

    The paper begins with networks trained for each task alone: train ``architecture=single_task``
    first, and give its run as ``model.init_from``. It gives the layers 100 times the network's
    learning rate, under SGD. An Adam step is as large as its learning rate whatever the gradient:
    so the default is 1; use 100 with SGD.

    With one task there is nothing to reduce, and the network is that of ``single_task``.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        reads: for each task the stages that its head reads. With ``shortcut`` the last of them
            gives way to the joined ones.
        after: the stages followed by a reduction, counted from 1; None for all.
        same: weight of a task's own features at the beginning.
        shortcut: whether heads read all reduced features.
        activation: behind the normalisation, ``relu`` in the paper. A backbone whose features have
            signs that matter (lstm, transformer) may want ``leaky_relu`` or ``gelu``.
        rate: the reductions' learning rate is so many times the network's.

    Raises:
        ValueError: where a setting is wrong, or ``shortcut`` has nothing to join.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        reads: Mapping[str, Sequence[int]] | None = None,
        after: Sequence[int] | None = None,
        same: float = 0.9,
        shortcut: bool = False,
        activation: str = "relu",
        rate: float = 1.0,
    ) -> None:
        expect_rate(rate)
        super().__init__(
            make_backbone=make_backbone,
            streams=streams,
            reads=reads,
            after=after,
            name="nddr",
            make_unit=lambda place: Reductions(place, same, activation),
            make_reader=(lambda sources: Shortcut(sources, activation)) if shortcut else None,
        )
        self.rate = rate
        if shortcut and not self.reader_of:
            raise ValueError(
                "architecture=nddr with shortcut=true joins the features of several stages, and "
                "there is one here: use shortcut=false, more stages in after, or a backbone with "
                "more stages"
            )

    def learning_rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """The reductions' own."""
        return self.rates(self.rate)

    def structure(self) -> list[Structure]:
        """For each stage how much of each column a task takes.

        A row for each task that goes on, a column for each task: the Frobenius norm of that part of
        the convolution's weight, divided by sqrt(C), so that a diagonal of 0.9 shows as 0.9.
        """
        tables = []
        for unit in self.units:
            assert isinstance(unit, Reductions)
            values = torch.stack([unit.parts(column) for column in unit.place.rows])
            rows = tuple(self.tasks[column] for column in unit.place.rows)
            name = f"nddr/stage_{unit.place.stage + 1}"
            tables.append(Structure(name, rows, self.tasks, values))
        return tables


class Reduction(nn.Module):
    """Joined features to fewer channels: linear at each position, batch normalisation, activation.

    Args:
        layout: of the features.
        in_channels: that come in.
        out_channels: that go out.
        activation: see :func:`~mtlrun.models.layers.make_activation`.
    """

    def __init__(
        self, layout: Layout, in_channels: int, out_channels: int, activation: str
    ) -> None:
        super().__init__()
        self.linear: nn.Conv2d | nn.Linear
        self.norm: BatchNorm1d | BatchNorm2d | TokenBatchNorm
        if layout == "map":
            self.linear = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.norm = BatchNorm2d(out_channels, momentum=MOMENTUM)
        else:
            self.linear = nn.Linear(in_channels, out_channels, bias=False)
            norm = TokenBatchNorm if layout == "sequence" else BatchNorm1d
            self.norm = norm(out_channels, momentum=MOMENTUM)
        self.activation = make_activation(activation)

    def forward(self, joined: Tensor, here: Tensor | None) -> Tensor:
        """Features of the same layout.

        Args:
            joined: the features.
            here: where sequences have tokens, bool [N, L]; None for other layouts.
        """
        reduced: Tensor = self.linear(joined)
        if here is None:
            activated: Tensor = self.activation(self.norm(reduced))
            return activated
        return only_tokens(self.activation(self.norm(reduced, here)), here)


class Reductions(Unit):
    """The NDDR layer after one stage.

    Args:
        place: where it stands.
        same: weight of a column's own features at the beginning.
        activation: see :class:`Reduction`.
    """

    def __init__(self, place: Place, same: float, activation: str) -> None:
        super().__init__(place)
        channels = place.channels
        self.reductions = nn.ModuleList()
        for column in place.rows:
            made = Reduction(place.layout, place.tasks * channels, channels, activation)
            blocks = [torch.eye(channels) * (1 - same) / (place.tasks - 1)] * place.tasks
            blocks[column] = torch.eye(channels) * same
            with torch.no_grad():
                weight = made.linear.weight
                weight.copy_(torch.cat(blocks, 1).view_as(weight))
            self.reductions.append(made)

    def _of(self, column: int) -> Reduction:
        made = self.reductions[self.place.rows.index(column)]
        assert isinstance(made, Reduction)
        return made

    def row(self, column: int) -> list[nn.Parameter]:
        """The parameters of a column's reduction."""
        return list(self._of(column).parameters())

    def parts(self, column: int) -> Tensor:
        """How much of each column one takes, [T], see :meth:`NDDR.structure`."""
        weight = self._of(column).linear.weight.detach()
        blocks = weight.view(-1, self.place.tasks, self.place.channels)
        return blocks.square().sum((0, 2)).div(self.place.channels).sqrt()

    def forward(self, features: Sequence[Tensor], columns: Sequence[int]) -> list[Tensor]:
        """See :meth:`Unit.forward`."""
        joined = torch.cat(list(features), channel_dimension(self.place.layout))
        here = token_mask(features[0]) if self.place.layout == "sequence" else None
        return [self._of(column)(joined, here) for column in columns]


class Shortcut(nn.Module):
    """A column's stages side by side, reduced to the channels of the last.

    Args:
        sources: the stages.
        activation: see :class:`Reduction`.
    """

    def __init__(self, sources: Sources, activation: str) -> None:
        super().__init__()
        layout, channels = sources.layouts[-1], sources.channels
        self.layout = layout
        self.reduction = Reduction(layout, sum(channels), channels[-1], activation)
        nn.init.xavier_uniform_(self.reduction.linear.weight)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """What the head reads in place of the last stage."""
        joined = torch.cat(list(parts), channel_dimension(self.layout))
        here = token_mask(parts[-1]) if self.layout == "sequence" else None
        reduced: Tensor = self.reduction(joined, here)
        return reduced


class TokenBatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, ICML 2015) over the tokens of sequences, [N, L, C].

    Padding counts in no statistics; what stands there afterwards means nothing. A training batch of
    a single token is normalised by the running statistics, which it leaves as they are.

    Args:
        channels: C.
        momentum: by how much of the way running statistics follow those of a batch.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, features: Tensor, here: Tensor) -> Tensor:
        """Sequences of the same shape.

        Args:
            features: [N, L, C].
            here: where there are tokens, bool [N, L].
        """
        exact = features.to(torch.promote_types(features.dtype, torch.float32))
        mean, variance = self._batch(exact, here) if self.training else self._running()
        scale = (variance + self.eps).rsqrt() * self.weight
        return ((exact - mean) * scale + self.bias).to(features.dtype)

    def _running(self) -> tuple[Tensor, Tensor]:
        return self.running_mean, self.running_var

    def _batch(self, features: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """The batch's mean and variance, [C], which the running ones follow."""
        weights = here.unsqueeze(2).to(features.dtype)
        tokens = weights.sum()
        mean = (features * weights).sum((0, 1)) / tokens.clamp(min=1)
        variance = ((features - mean).square() * weights).sum((0, 1)) / tokens.clamp(min=1)
        several = tokens > 1
        with torch.no_grad():
            step = several * self.momentum
            unbiased = variance * tokens / (tokens - 1).clamp(min=1)
            self.running_mean += step * (mean - self.running_mean)
            self.running_var += step * (unbiased - self.running_var)
        return (
            torch.where(several, mean, self.running_mean),
            torch.where(several, variance, self.running_var),
        )
