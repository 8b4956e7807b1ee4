"""The backward pass of methods that see several batches a step, or look beyond a step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mtlrun.engine.backward import StepFigures, kept
from mtlrun.engine.balanced import FromGradients
from mtlrun.engine.heads import HeadPass, OwnGradients, add_own, give_own, trainable
from mtlrun.engine.rows import PlainRows
from mtlrun.engine.shares import (
    add_losses,
    first_bad,
    first_nonfinite,
    labelled,
    micro_batch_shares,
    to_host,
)
from mtlrun.randomness import seed_global_step
from mtlrun.types import Batch, StepInfo
from mtlrun.weighting.base import GramianWeighting


class FromBatches(FromGradients):
    """Balances the rows of several batches, see :class:`GramianWeighting`.

    A step is left out where one of its batches has no label at all. A task without labels in one
    batch of the step has a zero row, and a loss of 0, there; its head learns from the others.
    """

    def __call__(self, batches: Sequence[Batch], info: StepInfo) -> StepFigures:
        """See :meth:`Backward.__call__`."""
        weighting = self.weighting
        assert isinstance(weighting, GramianWeighting)
        assert isinstance(self.rows, PlainRows)
        if len(batches) < weighting.batches:
            return StepFigures((), [])
        self.rows.start()
        if weighting.lookahead:
            assert not weighting.heads_in_rows
            assert not weighting.inner_steps
            return self._look_ahead(batches, info)
        count, tasks = len(batches), len(info.present)
        figures = StepFigures(info.present, [])
        own: list[OwnGradients] = []  # of each row
        losses: list[Tensor] = []
        shares = micro_batch_shares(batches, self.forward.names, info.present)
        for number, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            shown, found = self._batch(batch, number, figures)
            if figures.nonfinite is not None:
                return figures
            losses += shown
            figures.losses = add_losses(figures.losses, shown, range(tasks), share)
            own += found
        inner = self.rows.gramian(count * tasks)
        if weighting.heads_in_rows:
            inner += own_products(own).to(inner.device)
        if weighting.inner_steps:
            weighting.inner_losses = self._inner_losses(batches[0], info)
        weights = self._ask(figures, inner, losses)
        if weights is not None:
            applied = self.faded(weights.view(count, tasks)).flatten()
            weights = weights.view(count, tasks).sum(dim=0)
            self.rows.combine(applied)
            figures.weights = weights
            if weighting.heads_in_rows:
                give_own(summed_own(own, applied.tolist(), tasks), [1.0] * tasks)
            else:
                means = summed_own(own, [part for share in shares for part in share], tasks)
                self._give_own(means, info.present, weights)
        return figures

    def _ask(self, figures: StepFigures, inner: Tensor, losses: list[Tensor]) -> Tensor | None:
        """The weights of all rows that have one; None where a gradient is not finite."""
        assert isinstance(self.weighting, GramianWeighting)
        tasks = len(figures.present)
        count = len(losses) // tasks
        inner, shown = to_host(inner, losses)
        figures.gramian = inner[:tasks, :tasks]
        figures.nonfinite = first_bad(figures.present, inner, shown)
        if figures.nonfinite is not None:
            return None
        weights = self.solved(figures, inner, shown)
        if weights is None:
            assert isinstance(figures.weights, Tensor)
            used = 1 if self.weighting.lookahead else count  # batches whose rows have weights
            return figures.weights.repeat(used) / used
        self.last_weights[list(figures.present)] = weights.view(-1, tasks).sum(dim=0)
        return weights

    def _batch(
        self, batch: Batch, number: int, figures: StepFigures
    ) -> tuple[list[Tensor], list[OwnGradients]]:
        """The rows of one batch; its losses and what single tasks train, for each task."""
        present = figures.present
        labels = set(labelled(batch, self.forward.names))
        tasks = [task for task in present if task in labels]
        places = [present.index(task) for task in tasks]
        # Beyond a trial step only the tasks are looked at
        heads = self._pass(batch, tasks, terms=number == 0 or not self.weighting.lookahead)
        losses = [torch.zeros_like(heads.losses[0]) for _ in present]
        for place, loss in zip(places, heads.losses, strict=True):
            losses[place] = loss
        if self.check:
            figures.nonfinite = first_nonfinite(heads.losses, tasks)
            if figures.nonfinite is not None:
                return losses, []
        return losses, self._rows_of(heads, tasks, places, number, len(present))

    def _rows_of(
        self, heads: HeadPass, tasks: Sequence[int], places: Sequence[int], number: int, count: int
    ) -> list[OwnGradients]:
        assert isinstance(self.rows, PlainRows)
        self.rows.clear(range(number * count, (number + 1) * count))
        rows = [number * count + place for place in places]
        inside = [self.inside[task] for task in tasks]
        found = self.rows.collect(heads, rows, [1.0] * len(rows), inside)
        own: list[OwnGradients] = [{} for _ in range(count)]
        for position, place in enumerate(places):
            add_own(own[place], inside[position], found[position], 1.0)
            add_own(own[place], self.heads[tasks[position]], heads.own[position], 1.0)
        return own

    # -- looking ahead -----------------------------------------------------------------------------

    def _inner_losses(self, batch: Batch, info: StepInfo) -> Tensor:
        """Losses of a batch after plain gradient steps on it, which are taken back, [T]."""
        weighting, forward = self.weighting, self.forward
        assert isinstance(weighting, GramianWeighting)
        labels = set(labelled(batch, forward.names))
        places = [place for place, task in enumerate(info.present) if task in labels]
        tasks = [info.present[place] for place in places]
        weights = weighting.lookahead_weights()[places].tolist()
        beside = [p for name in forward.names for p in forward.adaptor_parameters(name)]
        parameters = trainable([*forward.model.parameters(), *beside])

        def losses_here() -> list[Tensor]:
            seed_global_step(info.seed, "dropout", info.epoch, info.step)
            return forward.losses(batch, tasks)

        with forward.kept_buffers(), kept(parameters):
            for _ in range(weighting.inner_steps):
                total = sum(w * loss for w, loss in zip(weights, losses_here(), strict=True))
                assert isinstance(total, Tensor)
                descend(total, parameters, weighting.inner_learning_rate)
            with torch.no_grad():
                beyond = torch.stack(losses_here()).double().cpu()
        losses = torch.zeros(len(info.present), dtype=torch.float64)
        losses[places] = beyond
        return losses

    def _look_ahead(self, batches: Sequence[Batch], info: StepInfo) -> StepFigures:
        weighting = self.weighting
        assert isinstance(weighting, GramianWeighting)
        assert isinstance(self.rows, PlainRows)
        tasks = len(info.present)
        figures = StepFigures(info.present, [])
        losses, own = self._batch(batches[0], 0, figures)
        if figures.nonfinite is not None:
            return figures
        weights = weighting.lookahead_weights()
        moves = self._moves(weights, own, -info.learning_rate)
        with self.forward.kept_buffers(), moved(moves):
            further, beyond = self._batch(batches[1], 1, figures)
            if figures.nonfinite is not None:
                return figures
        inner = self.rows.gramian(2 * tasks)
        inner += own_products([*own, *beyond]).to(inner.device)
        asked = self._ask(figures, inner, losses + further)
        here = labelled(batches[0], self.forward.names)  # other tasks have a loss beyond alone
        figures.losses = [
            near if task in here else far
            for task, near, far in zip(info.present, losses, further, strict=True)
        ]
        if asked is not None:
            figures.weights = asked
            self.rows.combine(self.faded(asked))
            self._give_own(own, info.present, asked)
        return figures

    def _moves(
        self, weights: Tensor, own: Sequence[OwnGradients], step: float
    ) -> list[tuple[nn.Parameter, Tensor]]:
        """A plain gradient step: what is added to each parameter."""
        assert isinstance(self.rows, PlainRows)
        moves = self.rows.held.combined(weights * step)
        for gradients, weight in zip(own, weights.tolist(), strict=True):
            moves += [(p, gradient * (weight * step)) for p, gradient in gradients.items()]
        return moves


@contextmanager
def moved(moves: Sequence[tuple[nn.Parameter, Tensor]]) -> Iterator[None]:
    """Parameters with something added; afterwards they are, bit for bit, as before."""
    with kept([parameter for parameter, _ in moves]):
        with torch.no_grad():
            for parameter, move in moves:
                parameter.add_(move)
        yield


def descend(total: Tensor, parameters: Sequence[nn.Parameter], learning_rate: float) -> None:
    """One plain gradient step."""
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.sub_(gradient, alpha=learning_rate)


def summed_own(
    own: Sequence[OwnGradients], scales: Sequence[float], tasks: int
) -> list[OwnGradients]:
    """What single tasks train: for each task the sum of its rows' gradients times the scales."""
    sums: list[OwnGradients] = [{} for _ in range(tasks)]
    for row, (gradients, scale) in enumerate(zip(own, scales, strict=True)):
        add_own(sums[row % tasks], list(gradients), list(gradients.values()), scale)
    return sums


def own_products(own: Sequence[OwnGradients]) -> Tensor:
    """Inner products of gradients on parameters of single tasks, [rows, rows], float64."""
    of_parameter: dict[nn.Parameter, dict[int, Tensor]] = {}
    for row, gradients in enumerate(own):
        for parameter, gradient in gradients.items():
            of_parameter.setdefault(parameter, {})[row] = gradient.flatten()
    products = torch.zeros(len(own), len(own), dtype=torch.float64)
    for parameter, held in of_parameter.items():
        products = products.to(parameter.device)  # read back once, by the caller
        flat, rows = torch.stack(list(held.values())).double(), list(held)
        for row, of_row in zip(rows, flat @ flat.T, strict=True):
            products[row, rows] += of_row
    return products
