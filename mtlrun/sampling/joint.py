"""Every task in every step."""

import torch
from torch import Tensor

from mtlrun.sampling.base import Sampler
from mtlrun.sampling.units import Unit


class Joint(Sampler):
    """Every stream, and so every task, in each step.

    Streams that are shorter than the epoch start again, reshuffled.
    """

    joint = True
    several = True

    @property
    def per_step(self) -> int:
        """All of them."""
        return len(self.units)

    def probabilities(self, epoch: int) -> Tensor:
        """Each unit has its share. See :meth:`Sampler.probabilities`."""
        del epoch
        return torch.full((len(self.units),), 1 / len(self.units), dtype=torch.float64)

    def draw(self, epoch: int, step: int) -> tuple[Unit, ...]:
        """See :meth:`Sampler.draw`."""
        del epoch, step
        return self.units
