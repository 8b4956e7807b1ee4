"""The backward pass of methods that see task gradients: Gramian or Jacobian.

Heads are walked once, on detached features: that gives the heads' own gradients and the tasks'
gradients on the features. The trunk is then walked once for each task
(``gradients.at=parameters``), or once in all where the weights are known before the trunk's
backward pass: ``representation``, ``last_layer``, and steps that reuse weights.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlrun.engine.alignment import HeadAlignment
from mtlrun.engine.backward import Backward, Forward, GradientSettings, StepFigures
from mtlrun.engine.gradients import gramian
from mtlrun.engine.heads import (
    HeadPass,
    OwnGradients,
    add_own,
    combined_cotangents,
    give_own,
    rows_on,
    trainable,
    trunk_gradients,
    walk_heads,
)
from mtlrun.engine.rows import PlainRows
from mtlrun.engine.rules import WeightRules
from mtlrun.engine.shared_gradients import SharedGradients
from mtlrun.engine.shares import add_losses, first_bad, first_nonfinite, micro_batch_shares, to_host
from mtlrun.engine.ways import rows_for
from mtlrun.types import Batch, StepInfo
from mtlrun.weighting.base import GramianWeighting, JacobianWeighting
from mtlrun.weighting.solvers import SolverError


class FromGradients(Backward):
    """Balances task gradients.

    Args:
        forward: how the network is called.
        weighting: the method.
        settings: where and how often gradients are taken, and what becomes of the weights.
        check: whether losses and gradients are looked at before the update.
        accumulating: whether steps have several micro-batches.
    """

    def __init__(
        self,
        forward: Forward,
        weighting: GramianWeighting | JacobianWeighting,
        settings: GradientSettings,
        *,
        check: bool,
        accumulating: bool,
    ) -> None:
        super().__init__(forward, check=check)
        model = forward.model
        tasks = len(forward.names)
        assert settings.place is not None
        self.weighting = weighting
        self.place = settings.place
        self.every = settings.every
        self.rules = WeightRules(tasks, settings.smoothing, settings.rescale)
        self.last_layer = trainable(model.architecture.last_shared_layer())
        self.heads = [
            trainable([*model.head_of[name].parameters(), *forward.adaptor_parameters(name)])
            for name in forward.names
        ]
        self.inside = [
            trainable(model.architecture.task_parameters(name)) for name in forward.names
        ]
        # Rows on every shared parameter, or just one trunk pass with the weights already known. The
        # latter needs the whole step in one graph and no parameters of single tasks in the trunk.
        several_passes = accumulating or any(self.inside)
        assert not (several_passes and self.place == "representation")
        self.rows_everywhere = self.place == "parameters" or several_passes
        self.rows = rows_for(
            forward, weighting, settings, everywhere=self.rows_everywhere, accumulating=accumulating
        )
        self.layers = model.shared_layers()
        self.tracked: Tensor | None = None
        self.alignment = HeadAlignment(weighting, self.heads)
        assert not (self.alignment.wanted and (several_passes or self.every > 1))
        self.last_weights = torch.full((tasks,), torch.nan, dtype=torch.float64)
        self.last_head_weights = torch.full_like(self.last_weights, torch.nan)

    # -- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """See :meth:`Backward.state_dict`: last weights, solver failures, tracked rows."""
        state = {
            "last_weights": self.last_weights.clone(),
            "last_head_weights": self.last_head_weights.clone(),
            "failures": torch.tensor(self.failures),
            **self.rules.state_dict(),
        }
        if self.tracked is not None:
            state["tracked"] = self.tracked.cpu().clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Backward.load_state_dict`."""
        self.last_weights.copy_(state["last_weights"])
        self.last_head_weights.copy_(state["last_head_weights"])
        self.failures = int(state["failures"])
        self.rules.load_state_dict(state)
        if "tracked" in state:
            self.tracked = state["tracked"].to(self.shared[0].device)

    # -- one step ----------------------------------------------------------------------------------

    def __call__(self, batches: Sequence[Batch], info: StepInfo) -> StepFigures:
        """See :meth:`Backward.__call__`."""
        known = self._known_weights(info)
        if known is not None and self._one_scale():
            return self._reuse(batches, info, known)
        if self.rows_everywhere:
            return self._from_rows(batches, info, known)
        return self._one_trunk_pass(batches[0], info)

    def _known_weights(self, info: StepInfo) -> Tensor | None:
        """The weights of the last refresh, where this step reuses them."""
        if self.every == 1 or info.step % self.every == 0:
            return None
        weights = self.last_weights[list(info.present)]
        return None if bool(weights.isnan().any()) else weights

    def _one_scale(self) -> bool:
        """Whether what single tasks train inside the trunk is scaled as the shared parameters."""
        if not any(self.inside):
            return True
        own = not bool(self.last_head_weights.isnan().all())
        return self.weighting.heads == "weighted" and not own

    def _pass(self, batch: Batch, present: Sequence[int], *, terms: bool = True) -> HeadPass:
        with self.rows.noting():
            features = self.features(batch, present, terms)
        wanted = self.alignment.wanted
        heads = walk_heads(self.forward, self.heads, batch, present, features, link=wanted)
        self.alignment.note(present, heads)
        return heads

    def _reuse(self, batches: Sequence[Batch], info: StepInfo, weights: Tensor) -> StepFigures:
        """A step whose weights are known: the trunk is walked once."""
        applied = self.faded(weights)
        figures = StepFigures(info.present, [], weights)
        own: list[OwnGradients] = [{} for _ in info.present]
        shares = micro_batch_shares(batches, self.forward.names, info.present)
        for batch, share in zip(batches, shares, strict=True):
            places = [place for place, value in enumerate(share) if value > 0]
            tasks = [info.present[place] for place in places]
            features = self.features(batch, tasks)
            heads = walk_heads(self.forward, self.heads, batch, tasks, features)
            if self.check:
                figures.nonfinite = first_nonfinite(heads.losses, tasks)
                if figures.nonfinite is not None:
                    return figures
            figures.losses = add_losses(figures.losses, heads.losses, places, share)
            scales = [applied[place].item() * share[place] for place in places]
            shows = self.shows and len(batches) == 1
            torch.autograd.backward(*combined_cotangents(heads, scales), retain_graph=shows)
            if shows:
                figures.shared = trunk_gradients(heads, self.shared)
            for number, place in enumerate(places):
                task = info.present[place]
                add_own(own[place], self.heads[task], heads.own[number], share[place])
        self._give_own(own, figures.present, weights)
        return figures

    def _one_trunk_pass(self, batch: Batch, info: StepInfo) -> StepFigures:
        """Gradients at the representation or the last shared layer; then the trunk, once."""
        heads = self._pass(batch, info.present)
        figures = StepFigures(info.present, heads.losses)
        if self.check:
            figures.nonfinite = first_nonfinite(heads.losses, info.present)
            if figures.nonfinite is not None:
                return figures
        if self.place == "representation":
            rows = torch.stack([cotangent.float().flatten() for cotangent in heads.cotangents])
        else:
            rows = rows_on(heads, self.last_layer)
        weights: Tensor | None
        if isinstance(self.weighting, JacobianWeighting):
            if self.weighting.sees_representation:
                self.weighting.representation = heads.features[0].detach()
            direction = self._direction(figures, rows)
            self.weighting.representation = None
            if direction is None:
                return figures
            tensors = [heads.features[0]]
            gradients = [direction.view(tensors[0].shape).to(tensors[0])]
            weights = self.weighting.task_weights
        else:
            weights = self._weights(figures, gramian(rows))
            if weights is None:
                return figures
            tensors, gradients = combined_cotangents(heads, self.faded(weights).tolist())
        torch.autograd.backward(tensors, gradients, retain_graph=self.shows)
        if self.shows:
            figures.shared = trunk_gradients(heads, self.shared)
        own: list[OwnGradients] = [{} for _ in info.present]
        for place, index in enumerate(info.present):
            add_own(own[place], self.heads[index], heads.own[place], 1.0)
        self._give_own(own, figures.present, weights)
        return figures

    def _from_rows(
        self, batches: Sequence[Batch], info: StepInfo, known: Tensor | None
    ) -> StepFigures:
        """Rows of all shared parameters; the methods' weights; their sum."""
        figures = StepFigures(info.present, [])
        own: list[OwnGradients] = [{} for _ in info.present]
        self.rows.start()
        shares = micro_batch_shares(batches, self.forward.names, info.present)
        for batch, share in zip(batches, shares, strict=True):
            self._collect(batch, share, figures, own)
            if figures.nonfinite is not None:
                return figures
        # Before the sum takes the first row's place; a moving average takes those of all rows.
        tracks = isinstance(self.weighting, GramianWeighting) and self.weighting.tracks_rows
        rows = self.rows.hold() if self.shows and not tracks else None
        if isinstance(self.weighting, JacobianWeighting):
            self._from_jacobian(figures, own)
        else:
            self._from_weights(figures, own, known)
        if rows is not None:
            inner = figures.gramian if self.place == "parameters" else None
            figures.shared = SharedGradients(rows, inner)
        return figures

    def _from_weights(
        self, figures: StepFigures, own: list[OwnGradients], known: Tensor | None
    ) -> None:
        """The rows' sum, with the weights that the method gives them."""
        assert isinstance(self.weighting, GramianWeighting)
        tasks = len(figures.present)
        if known is not None:
            weights: Tensor | None = known
            figures.weights = known
        elif self.weighting.tracks_rows:
            weights = self._tracked_weights(figures)
        elif self.weighting.per_layer:
            weights = self._layer_weights(figures)
        else:
            inner = self.rows.gramian(tasks)
            if self.place == "last_layer":
                assert isinstance(self.rows, PlainRows)
                inner = gramian(self.rows.held.columns(self.last_layer, tasks))
            weights = self._weights(figures, inner)
        if weights is None:
            self.rows.start()  # nothing of a step that is left out stays behind
            return
        if weights.ndim == 1:
            self.rows.combine(self.faded(weights))
        self._give_own(own, figures.present, weights)

    def _collect(
        self,
        batch: Batch,
        share: Sequence[float],
        figures: StepFigures,
        own: list[OwnGradients],
    ) -> None:
        """One micro-batch: losses, rows, and the gradients of what single tasks train."""
        places = [place for place, value in enumerate(share) if value > 0]
        tasks = [figures.present[place] for place in places]
        heads = self._pass(batch, tasks)
        if self.check:
            figures.nonfinite = first_nonfinite(heads.losses, tasks)
            if figures.nonfinite is not None:
                return
        figures.losses = add_losses(figures.losses, heads.losses, places, share)
        inside = [self.inside[task] for task in tasks]
        found = self.rows.collect(heads, places, [share[place] for place in places], inside)
        for number, place in enumerate(places):
            task = figures.present[place]
            add_own(own[place], inside[number], found[number], 1.0)
            add_own(own[place], self.heads[task], heads.own[number], share[place])

    # -- methods -----------------------------------------------------------------------------------

    def _weights(self, figures: StepFigures, inner: Tensor) -> Tensor | None:
        """Ask the method, on the host; None where the gradients are not finite."""
        assert isinstance(self.weighting, GramianWeighting)
        figures.gramian, losses = to_host(inner, figures.losses)
        figures.nonfinite = first_bad(figures.present, figures.gramian, losses)
        if figures.nonfinite is not None:
            return None
        weights = self.solved(figures, figures.gramian, losses)
        if weights is None:
            return figures.weights  # type: ignore[return-value]  # those of the last step
        weights = self.rules(weights, figures.present, figures.gramian)
        self._keep(figures, weights)
        return weights

    def solved(self, figures: StepFigures, inner: Tensor, losses: Tensor) -> Tensor | None:
        """The method's weights; None where its solver failed, which is counted and said.

        Then ``figures.weights`` are the last ones that there were.
        """
        assert isinstance(self.weighting, GramianWeighting)
        try:
            with torch.no_grad():
                weights = self.weighting.weights(inner, losses).detach().clone()
            if self.weighting.head_weights is not None:
                self.last_head_weights[list(figures.present)] = self.weighting.head_weights
            return weights
        except SolverError as error:
            self.failures += 1
            last = self.last_weights[list(figures.present)]
            known = not bool(last.isnan().any())
            used = "the last weights apply" if known else "there are none yet, so equal ones apply"
            figures.remark = f"no weights from the solver ({error}); {used}"
            weights = last if known else torch.full_like(last, 1 / len(last))
            figures.weights = self.rules.rescaled(weights, inner)
            return None

    def _keep(self, figures: StepFigures, weights: Tensor) -> None:
        figures.weights = weights
        self.last_weights[list(figures.present)] = weights

    def _tracked_weights(self, figures: StepFigures) -> Tensor | None:
        """Weights on a moving average of the rows, which takes their place in the buffer."""
        assert isinstance(self.weighting, GramianWeighting)
        assert isinstance(self.rows, PlainRows)
        rows = self.rows.held.rows(len(figures.present))
        inner, losses = to_host(gramian(rows), figures.losses)
        figures.nonfinite = first_bad(figures.present, inner, losses)
        if figures.nonfinite is not None:
            return None  # the average stays clean
        scales, rates = (part.to(rows)[:, None] for part in self.weighting.tracking(losses))
        if self.tracked is None:
            self.tracked = torch.zeros_like(self.rows.held.buffer)
        places = list(figures.present)
        rows.mul_(scales * rates).add_(self.tracked[places] * (1 - rates))
        self.tracked[places] = rows
        return self._weights(figures, gramian(rows))

    def _layer_weights(self, figures: StepFigures) -> Tensor | None:
        """Weights for each layer, applied at once. The figures show their mean over layers."""
        assert isinstance(self.rows, PlainRows)
        held, tasks = self.rows.held, len(figures.present)
        parts = held.by_layer(self.layers, tasks)
        inner = torch.stack([gramian(part) for part in parts])
        figures.gramian, losses = to_host(inner.sum(dim=0), figures.losses)
        figures.nonfinite = first_bad(figures.present, figures.gramian, losses)
        if figures.nonfinite is not None:
            return None
        weights = self.solved(figures, inner.cpu(), losses)
        if weights is None:
            return figures.weights  # type: ignore[return-value]  # those of the last step
        pieces = [w.to(part) @ part for w, part in zip(self.faded(weights), parts, strict=True)]
        held.apply(torch.cat(pieces))
        self._keep(figures, weights.mean(dim=0))
        return weights

    def _from_jacobian(self, figures: StepFigures, own: list[OwnGradients]) -> None:
        assert isinstance(self.weighting, JacobianWeighting)
        assert isinstance(self.rows, PlainRows)
        direction = self._direction(figures, self.rows.held.rows(len(figures.present)))
        if direction is not None:
            self.rows.held.apply(direction)
            self._give_own(own, figures.present, self.weighting.task_weights)

    def _direction(self, figures: StepFigures, rows: Tensor) -> Tensor | None:
        """What the method makes of the rows; None where they are not finite."""
        assert isinstance(self.weighting, JacobianWeighting)
        losses = torch.stack(figures.losses)
        inner = gramian(rows)
        figures.gramian, shown = to_host(inner, figures.losses)
        figures.nonfinite = first_bad(figures.present, figures.gramian, shown)
        if figures.nonfinite is not None:
            return None
        with torch.no_grad():
            given = direction = self.weighting.direction(rows, losses)
            weights = figures.weights = self.weighting.task_weights
            if self.factors is not None and weights is not None:
                direction = self.faded(weights) @ rows
            if self.rules.rescale == "norm":
                norms = inner.sum().clamp(min=0).sqrt(), given.norm()
                direction = direction * torch.where(norms[1] > 0, norms[0] / norms[1], 1.0)
        return direction

    def _give_own(
        self, own: Sequence[OwnGradients], present: Sequence[int], weights: Tensor | None
    ) -> None:
        """Fill ``.grad`` of the parameters of single tasks, weighted where the method says so."""
        self.alignment.add(own)
        scales = [1.0] * len(own)
        chosen = self.last_head_weights[list(present)]
        if not bool(chosen.isnan().any()):
            scales = chosen.tolist()
        elif self.weighting.heads == "weighted" and weights is not None:
            scales = (weights if weights.ndim == 1 else weights.mean(dim=0)).tolist()
        factors = self.factors or [1.0] * len(own)
        give_own(own, [scale * factor for scale, factor in zip(scales, factors, strict=True)])
