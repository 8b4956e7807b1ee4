"""The backward pass of methods that see task gradients: Gramian or Jacobian.

Heads are walked once, on detached features: that gives the heads' own gradients and the tasks'
gradients on the features. The trunk is then walked once for each task
(``gradients.at=parameters``), or once in all (``representation`` and ``last_layer``, where the
weights are known before the trunk's backward pass).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlrun.engine.backward import (
    Backward,
    Forward,
    StepFigures,
    first_nonfinite,
    micro_batch_shares,
)
from mtlrun.engine.gradients import TaskGradients, gramian
from mtlrun.types import Batch, StepInfo
from mtlrun.weighting.base import GramianWeighting, JacobianWeighting, Place

OwnGradients = dict[nn.Parameter, Tensor]
"""Gradients of the parameters that one task alone trains."""


@dataclass
class HeadPass:
    """What one walk through the heads gives, for the tasks of a (micro-)batch.

    Attributes:
        features: the tensor that each task reads, part of the trunk's graph.
        cotangents: gradient of each task's loss on it.
        losses: the scalar losses, detached.
        own: gradients on each task's head.
    """

    features: list[Tensor]
    cotangents: list[Tensor]
    losses: list[Tensor]
    own: list[Sequence[Tensor | None]]


class FromGradients(Backward):
    """Balances task gradients.

    Args:
        forward: how the network is called.
        weighting: the method.
        place: where gradients are taken.
        every: steps between two refreshes of the weights; in between they are reused.
        check: whether losses and gradients are looked at before the update.
        accumulating: whether steps have several micro-batches.
    """

    def __init__(
        self,
        forward: Forward,
        weighting: GramianWeighting | JacobianWeighting,
        *,
        place: Place,
        every: int,
        check: bool,
        accumulating: bool,
    ) -> None:
        super().__init__(forward, check=check)
        model = forward.model
        self.weighting = weighting
        self.place = place
        self.every = every
        self.shared = model.shared_parameters()
        self.last_layer = _trainable(model.architecture.last_shared_layer())
        self.heads = [_trainable(model.head_of[name].parameters()) for name in forward.names]
        self.inside = [
            _trainable(model.architecture.task_parameters(name)) for name in forward.names
        ]
        # Rows on every shared parameter, or just one trunk pass with the weights already known. The
        # latter needs the whole step in one graph and no parameters of single tasks in the trunk.
        several_passes = accumulating or any(self.inside)
        assert not (several_passes and place == "representation")
        self.rows_everywhere = place == "parameters" or several_passes
        self.rows: TaskGradients | None = None
        self.last_weights = torch.full((len(forward.names),), torch.nan, dtype=torch.float64)

    def state_dict(self) -> dict[str, Tensor]:
        """See :meth:`Backward.state_dict`: the weights of the last refresh."""
        return {"last_weights": self.last_weights.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Backward.load_state_dict`."""
        self.last_weights.copy_(state["last_weights"])

    def __call__(self, batches: Sequence[Batch], info: StepInfo) -> StepFigures:
        """See :meth:`Backward.__call__`."""
        known = self._known_weights(info)
        if self.rows_everywhere:
            return self._from_rows(batches, info, known)
        return self._one_trunk_pass(batches[0], info, known)

    def _known_weights(self, info: StepInfo) -> Tensor | None:
        """The weights of the last refresh, where this step reuses them."""
        if self.every == 1 or info.step % self.every == 0:
            return None
        weights = self.last_weights[list(info.present)]
        return None if bool(weights.isnan().any()) else weights

    def _walk_heads(self, batch: Batch, present: Sequence[int]) -> HeadPass:
        features = self.forward.features(batch, present)
        leaves: dict[int, Tensor] = {}
        result = HeadPass([], [], [], [])
        for index in present:
            tensor = features[self.forward.names[index]]
            leaf = leaves.get(id(tensor))
            if leaf is None:
                leaf = leaves[id(tensor)] = tensor.detach().requires_grad_()
            loss = self.forward.loss(batch, index, leaf)
            wanted = [leaf, *self.heads[index]]
            cotangent, *own = torch.autograd.grad(loss, wanted, allow_unused=True)
            result.features.append(tensor)
            result.cotangents.append(torch.zeros_like(leaf) if cotangent is None else cotangent)
            result.losses.append(loss.detach())
            result.own.append(own)
        return result

    def _one_trunk_pass(self, batch: Batch, info: StepInfo, known: Tensor | None) -> StepFigures:
        heads = self._walk_heads(batch, info.present)
        figures = StepFigures(info.present, heads.losses)
        if self.check:
            figures.nonfinite = first_nonfinite(heads.losses, info.present)
            if figures.nonfinite is not None:
                return figures
        if known is None:
            rows = self._rows_of_place(heads)
            weights = self._weights(figures, gramian(rows))
        else:
            weights = figures.weights = known
        if weights is None:
            return figures
        combined: dict[int, tuple[Tensor, Tensor]] = {}
        for tensor, cotangent, weight in zip(
            heads.features, heads.cotangents, weights.tolist(), strict=True
        ):
            _, total = combined.get(id(tensor), (tensor, torch.zeros_like(cotangent)))
            combined[id(tensor)] = (tensor, total.add_(cotangent, alpha=weight))
        tensors, gradients = zip(*combined.values(), strict=True)
        torch.autograd.backward(tensors, gradients)
        own: list[OwnGradients] = [{} for _ in info.present]
        for place, index in enumerate(info.present):
            add_own(own[place], self.heads[index], heads.own[place], 1.0)
        self._give_own(own, weights)
        return figures

    def _rows_of_place(self, heads: HeadPass) -> Tensor:
        """Task gradients at the representation or at the last shared layer, [T, columns]."""
        if self.place == "representation":
            return torch.stack([cotangent.float().flatten() for cotangent in heads.cotangents])
        rows = []
        for tensor, cotangent in zip(heads.features, heads.cotangents, strict=True):
            gradients = torch.autograd.grad(
                tensor, self.last_layer, cotangent, retain_graph=True, allow_unused=True
            )
            rows.append(
                torch.cat(
                    [
                        (torch.zeros_like(parameter) if gradient is None else gradient).flatten()
                        for parameter, gradient in zip(self.last_layer, gradients, strict=True)
                    ]
                )
            )
        return torch.stack(rows)

    def _from_rows(
        self, batches: Sequence[Batch], info: StepInfo, known: Tensor | None
    ) -> StepFigures:
        if self.rows is None:
            self.rows = TaskGradients(self.shared, len(self.forward.names))
        self.rows.start()
        shares = micro_batch_shares(batches, self.forward.names, info.present)
        figures = StepFigures(info.present, [])
        own: list[OwnGradients] = [{} for _ in info.present]
        written: set[int] = set()
        for batch, share in zip(batches, shares, strict=True):
            places = [place for place, value in enumerate(share) if value > 0]
            tasks = [info.present[place] for place in places]
            heads = self._walk_heads(batch, tasks)
            if self.check:
                figures.nonfinite = first_nonfinite(heads.losses, tasks)
                if figures.nonfinite is not None:
                    return figures
            figures.losses = _add_losses(figures.losses, heads.losses, places, share)
            self._walk_trunk(heads, places, info.present, share, written, own)
        rows = self.rows.rows(len(info.present))
        if isinstance(self.weighting, JacobianWeighting):
            return self._from_jacobian(figures, rows, own)
        weights = known
        if weights is None:
            seen = rows
            if self.place == "last_layer":
                seen = self.rows.columns(self.last_layer, len(info.present))
            weights = self._weights(figures, gramian(seen))
        else:
            figures.weights = weights
        if weights is not None:
            self.rows.combine(weights)
            self._give_own(own, weights)
        return figures

    def _walk_trunk(
        self,
        heads: HeadPass,
        places: Sequence[int],
        present: Sequence[int],
        share: Sequence[float],
        written: set[int],
        own: list[OwnGradients],
    ) -> None:
        """One pass through the trunk for each task, its gradients into its row."""
        assert self.rows is not None
        for number, place in enumerate(places):
            index = present[place]
            inside = self.inside[index]
            cotangent = heads.cotangents[number]
            gradients = torch.autograd.grad(
                heads.features[number],
                [*self.shared, *inside],
                cotangent if share[place] == 1 else cotangent * share[place],
                retain_graph=number + 1 < len(places),
                allow_unused=True,
            )
            self.rows.write(place, gradients[: len(self.shared)], add=place in written)
            written.add(place)
            add_own(own[place], inside, gradients[len(self.shared) :], 1.0)
            add_own(own[place], self.heads[index], heads.own[number], share[place])

    def _weights(self, figures: StepFigures, inner: Tensor) -> Tensor | None:
        """Ask the method, on the host; None where the gradients are not finite."""
        assert isinstance(self.weighting, GramianWeighting)
        figures.gramian, losses = _to_host(inner, figures.losses)
        figures.nonfinite = _first_bad(figures.present, figures.gramian, losses)
        if figures.nonfinite is not None:
            return None
        with torch.no_grad():
            weights = self.weighting.weights(figures.gramian, losses).detach().clone()
        figures.weights = weights
        if len(weights) == len(self.last_weights):
            self.last_weights.copy_(weights)
        else:
            self.last_weights[list(figures.present)] = weights
        return weights

    def _from_jacobian(
        self, figures: StepFigures, rows: Tensor, own: list[OwnGradients]
    ) -> StepFigures:
        assert isinstance(self.weighting, JacobianWeighting)
        assert self.rows is not None
        losses = torch.stack(figures.losses)
        figures.gramian = gramian(rows).cpu()
        figures.nonfinite = _first_bad(figures.present, figures.gramian, losses.cpu())
        if figures.nonfinite is not None:
            return figures
        with torch.no_grad():
            self.rows.apply(self.weighting.direction(rows, losses))
        self._give_own(own, None)
        return figures

    def _give_own(self, own: Sequence[OwnGradients], weights: Tensor | None) -> None:
        """Fill ``.grad`` of the parameters of single tasks, weighted where the method says so."""
        scales = [1.0] * len(own)
        if self.weighting.heads == "weighted" and weights is not None:
            scales = weights.tolist()
        for gradients, scale in zip(own, scales, strict=True):
            if not gradients:  # all of the task's own parameters are frozen
                continue
            # New tensors: what autograd returns may be shared between parameters, and clipping
            # works in place.
            scaled = torch._foreach_mul(list(gradients.values()), scale)
            for parameter, gradient in zip(gradients, scaled, strict=True):
                parameter.grad = _laid_out_as(parameter, gradient)


def add_own(
    own: OwnGradients,
    parameters: Sequence[nn.Parameter],
    gradients: Sequence[Tensor | None],
    share: float,
) -> None:
    """Add a micro-batch's gradients, times its share, to those of one task's own parameters."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        part = gradient if share == 1 else gradient * share
        own[parameter] = own[parameter] + part if parameter in own else part


def _add_losses(
    sums: list[Tensor], losses: list[Tensor], places: Sequence[int], share: Sequence[float]
) -> list[Tensor]:
    """The step's losses so far, with those of a further micro-batch times their shares."""
    if all(value == 1 for value in share):  # the step's only micro-batch
        return losses
    sums = sums or [torch.zeros_like(losses[0]) for _ in share]
    for place, loss in zip(places, losses, strict=True):
        sums[place] = sums[place] + loss * share[place]
    return sums


def _to_host(inner: Tensor, losses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The Gramian, [T, T], and the losses, [T], on the host; from a GPU in one copy."""
    if inner.is_cpu:
        return inner, torch.tensor([loss.item() for loss in losses], dtype=torch.float64)
    tasks = len(losses)
    both = torch.cat([inner.flatten(), torch.stack(list(losses)).double()]).cpu()
    return both[: tasks * tasks].view(tasks, tasks), both[tasks * tasks :]


def _first_bad(present: Sequence[int], inner: Tensor, losses: Tensor) -> int | None:
    """The first task with a loss or gradient that is not finite; all on the host.

    The diagonal tells: a gradient with a NaN spoils its inner products with all others, too.
    """
    if math.isfinite(inner.trace().item() + losses.sum().item()):
        return None
    finite = torch.isfinite(inner.diagonal()) & torch.isfinite(losses)
    return None if bool(finite.all()) else present[int((~finite).nonzero()[0])]


def _laid_out_as(parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """The gradient in the parameter's memory order: fused optimizers do not look at strides."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]
