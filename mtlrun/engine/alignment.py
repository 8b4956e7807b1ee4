"""The heads' part in methods that align the task gradients on the features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlrun.engine.heads import HeadPass, OwnGradients
from mtlrun.weighting.base import GramianWeighting, Weighting


class HeadAlignment:
    """Adds to the heads' gradients what :class:`GramianWeighting` says of ``aligns_heads``.

    Args:
        weighting: the method. For one that does not ask for it nothing happens here.
        heads: for each task of the run the trainable parameters of its head.
    """

    def __init__(self, weighting: Weighting, heads: Sequence[Sequence[nn.Parameter]]) -> None:
        self._weighting: GramianWeighting | None = None
        if isinstance(weighting, GramianWeighting) and weighting.aligns_heads:
            self._weighting = weighting
        self.heads = heads
        self._tasks: list[Sequence[nn.Parameter]] = []
        self._linked: list[Tensor] = []

    @property
    def wanted(self) -> bool:
        """Whether the method asks for it."""
        return self._weighting is not None

    def note(self, present: Sequence[int], walked: HeadPass) -> None:
        """Keep a step's walk through the heads until its weights are known."""
        if self.wanted:
            self._tasks = [self.heads[index] for index in present]
            self._linked = walked.linked

    def add(self, own: Sequence[OwnGradients]) -> None:
        """Add the term to each task's own gradients, and let go of the heads' graph."""
        linked, self._linked = self._linked, []
        weighting = self._weighting
        if weighting is None or weighting.alignment is None or weighting.alignment_limits is None:
            return
        common = torch.zeros_like(linked[0])
        for delta, coefficient in zip(linked, weighting.alignment.tolist(), strict=True):
            common.add_(delta.detach(), alpha=coefficient)
        limits = weighting.alignment_limits.tolist()
        for parameters, delta, limit, gradients in zip(
            self._tasks, linked, limits, own, strict=True
        ):
            if limit > 0 and parameters and delta.requires_grad:
                _add_term(gradients, parameters, -(delta * common).sum(), limit)


def _add_term(
    gradients: OwnGradients, parameters: Sequence[nn.Parameter], term: Tensor, limit: float
) -> None:
    """Add the term's gradient, no longer than ``limit`` times the loss's."""
    found = torch.autograd.grad(term, parameters, allow_unused=True)
    terms = {p: g for p, g in zip(parameters, found, strict=True) if g is not None}
    losses = [gradients[p] for p in parameters if p in gradients]
    if not terms or not losses:
        return
    length = _length(list(terms.values()))
    allowed = limit * _length(losses)
    factor = torch.where(length > allowed, allowed / length, 1.0)
    for parameter, gradient in terms.items():
        part = factor * gradient
        gradients[parameter] = gradients[parameter] + part if parameter in gradients else part


def _length(parts: list[Tensor]) -> Tensor:
    length: Tensor = torch.stack(torch._foreach_norm(parts)).norm()
    return length
