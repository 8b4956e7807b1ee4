"""One unit a step, each as likely as any other."""

import torch
from torch import Tensor

from mtlrun.sampling.base import Sampler


class Uniform(Sampler):
    """One stream or task in each step, all with the same chance, whatever their rows.

    p_i = 1 / T: the limit of ``temperature`` at infinity. Small streams are read more often than
    large ones.
    """

    def probabilities(self, epoch: int) -> Tensor:
        """1 / T. See :meth:`Sampler.probabilities`."""
        del epoch
        return torch.full((len(self.units),), 1 / len(self.units), dtype=torch.float64)
