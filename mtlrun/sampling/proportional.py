"""One unit a step, as often as it has rows."""

from torch import Tensor

from mtlrun.sampling.base import Sampler, by_size


class Proportional(Sampler):
    """One stream or task in each step, drawn with a chance proportional to its training rows.

    So each row is as likely as any other, as where all batches of all tasks are shuffled together
    (MT-DNN: Liu et al., ACL 2019, algorithm 1).
    """

    def probabilities(self, epoch: int) -> Tensor:
        """n_i / sum n. See :meth:`Sampler.probabilities`."""
        del epoch
        return by_size(self.units, 1.0)
