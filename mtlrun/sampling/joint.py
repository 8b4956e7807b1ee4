"""Every task in every step."""

from mtlrun.sampling.base import Sampler


class Joint(Sampler):
    """Every stream, and so every task, in each step.

    An epoch is one pass over the longest stream; shorter ones start again, reshuffled.
    """

    joint = True

    def draw(self, epoch: int, step: int) -> tuple[str, ...]:
        """See :meth:`Sampler.draw`."""
        del epoch, step
        return self.tasks
