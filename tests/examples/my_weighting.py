"""Two ways of adding up losses."""

import torch
from torch import Tensor

from mtlrun.weighting.base import GramianWeighting, LossWeighting


class GeometricMean(LossWeighting):
    """Sees the losses, and gives back the scalar to minimise: here their geometric mean."""

    linear = False  # in the losses, so a step cannot be accumulated over micro-batches

    def objective(self, losses: list[Tensor]) -> Tensor:
        return torch.stack(losses).log().mean().exp()


class UnitGradients(GramianWeighting):
    """Sees the inner products of the task gradients, [T, T]; here every task pulls alike."""

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        return 1 / gramian.diagonal().clamp(min=1e-12).sqrt()
