"""A step's task gradients on the shared parameters, for who looks at the step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TaskGradient = Sequence[Tensor | None]
"""One task's gradient on each of the shared parameters; None for those that it does not reach."""


@dataclass
class SharedGradients:
    """What a step's backward pass has of the tasks' gradients, or can still form.

    Attributes:
        of: the gradient of the plain loss of a task, from the task's place among the step's. It is
            not to be changed.
        gramian: their inner products, [T, T], float64, where these are known already.
    """

    of: Callable[[int], TaskGradient]
    gramian: Tensor | None = None


def from_graph(
    outputs: Sequence[Tensor],
    cotangents: Sequence[Tensor] | None,
    parameters: Sequence[nn.Parameter],
) -> Callable[[int], TaskGradient]:
    """Gradients that are formed when they are asked for; the graph is kept as long as this is.

    Args:
        outputs: for each task what is differentiated: its loss, or what its head reads.
        cotangents: the gradients on these; None for scalars.
        parameters: that are differentiated by.
    """

    def gradient(place: int) -> TaskGradient:
        if not outputs[place].requires_grad:
            return [None for _ in parameters]
        return torch.autograd.grad(
            outputs[place],
            parameters,
            None if cotangents is None else cotangents[place],
            retain_graph=True,
            allow_unused=True,
        )

    return gradient
