"""One unit a step, in turn."""

from mtlrun.sampling.uniform import Uniform
from mtlrun.sampling.units import Unit


class RoundRobin(Uniform):
    """One stream or task in each step, in turn: unit number (step mod T). Nothing is random.

    The order is that of the run's streams or tasks, and goes on from epoch to epoch.
    """

    def draw(self, epoch: int, step: int) -> tuple[Unit, ...]:
        """See :meth:`Sampler.draw`."""
        del epoch
        return (self.units[step % len(self.units)],)
