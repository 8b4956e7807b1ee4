"""Lets the gradient engine serve a method that sees losses only."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.weighting.base import GramianWeighting, LossWeighting


class LossesAsGramian(GramianWeighting):
    """A loss weighting's weights, for steps that need task gradients for another reason.

    Args:
        inner: the method. Its state, hooks and parameters stay its own.
    """

    inner: LossWeighting

    def __init__(self, inner: LossWeighting) -> None:
        super().__init__()
        self.__dict__["inner"] = inner  # not a submodule: the checkpoint has it already
        self.heads = inner.heads  # type: ignore[misc]  # the method's choice

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        del gramian
        state = [*self.inner.parameters(), *self.inner.buffers()]
        device = state[0].device if state else losses.device
        with torch.enable_grad():
            weights = derivatives(self.inner, list(losses.float().to(device)))
        return torch.stack(weights).to(losses)


def derivatives(weighting: LossWeighting, losses: Sequence[Tensor]) -> list[Tensor]:
    """The weights that a method applies to losses; its own parameters get their gradients.

    Args:
        weighting: the method.
        losses: scalars, detached.
    """
    leaves = [loss.clone().requires_grad_() for loss in losses]
    weighting.objective(leaves).backward()
    return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
