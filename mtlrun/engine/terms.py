"""Auxiliary losses of an architecture: terms of the objective beside the tasks' losses."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mtlrun.models.architectures.base import Architecture


class TermGradients:
    """One step's auxiliary losses, and their gradients.

    Methods that balance the tasks' gradients fill ``.grad`` piece by piece; what the terms want is
    formed first, waits here, and is added when ``.grad`` stands. No weighting changes it. Over
    micro-batches a term is a mean over all of them, also over those without labels for the task
    whose intermediate prediction it looks at. Such a term fades with its task.

    Args:
        architecture: whose terms they are.
        task_of: for terms that look at an intermediate prediction of a task, this task.

    Attributes:
        values: the step's terms by name, without their weights, detached: means over the batches.
    """

    def __init__(
        self, architecture: Architecture, task_of: Mapping[str, str] | None = None
    ) -> None:
        self.task_of = {} if task_of is None else task_of
        self.weights = architecture.terms
        self.parameters = [p for p in architecture.parameters() if p.requires_grad]
        self.values: dict[str, Tensor] = {}
        self._share = 1.0
        self._factors: Mapping[str, float] = {}
        self._gradients: list[Tensor | None] = []

    def start(self, batches: int, factors: Mapping[str, float] | None = None) -> None:
        """Begin a step whose terms are means over so many batches.

        Args:
            batches: this many.
            factors: for tasks that fade what is left of their terms.
        """
        self.values = {}
        self._factors = factors or {}
        self._share = 1 / batches
        self._gradients = [None] * len(self.parameters)

    def weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        """What a batch's terms add to the objective, a scalar; their values are noted."""
        parts = []
        for name, value in terms.items():
            factor = self._factors.get(self.task_of.get(name, ""), 1.0)
            parts.append(value * (self.weights[name] * self._share * factor))
            shown = value.detach() * self._share
            self.values[name] = self.values[name] + shown if name in self.values else shown
        return torch.stack(parts).sum() if parts else torch.zeros(())

    def take(self, terms: Mapping[str, Tensor]) -> None:
        """Form the gradients of a batch's terms; the graph is kept for the tasks' passes."""
        if not terms:
            return
        total = self.weighted(terms)
        if not total.requires_grad:
            return
        found = torch.autograd.grad(total, self.parameters, retain_graph=True, allow_unused=True)
        for number, gradient in enumerate(found):
            if gradient is not None:
                held = self._gradients[number]
                self._gradients[number] = gradient if held is None else held + gradient

    def add(self) -> None:
        """Add what waits here to ``.grad``."""
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            if gradient is None:
                continue
            total = gradient if parameter.grad is None else parameter.grad + gradient
            # A new tensor in the parameter's memory order: fused optimizers do not look at strides
            parameter.grad = torch.empty_like(parameter).copy_(total)
        self._gradients = [None] * len(self.parameters)  # not held until the next step
