"""Lets the gradient engine serve a method that sees losses only."""

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
            leaves = [loss.float().to(device).requires_grad_() for loss in losses]
            self.inner.objective(leaves).backward()
        parts = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]
        return torch.stack(parts).to(losses)
