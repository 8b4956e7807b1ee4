"""Auxiliary tasks that fade out of the training."""

from collections.abc import Collection, Sequence


class Annealing:
    """What is left of each task's weight: of primary ones all, of the others less with each step.

    The factor of an auxiliary task falls linearly, 1 - step / steps, from 1 in the first step on,
    and is 0 after ``steps``: then the task takes no part in training any more, as if it had no
    labels. The factor multiplies the weight that a method gives, so no method balances it away. It
    follows from the number of the step alone.

    Args:
        tasks: names of the run's.
        primary: names of those that stay.
        steps: of the whole run, by whose end the others are out; above 0.
    """

    def __init__(self, tasks: Sequence[str], primary: Collection[str], steps: float) -> None:
        self.steps = steps
        self.auxiliary = frozenset(tasks) - frozenset(primary)
        self._fades = [task in self.auxiliary for task in tasks]

    def factor(self, step: int) -> float:
        """That of auxiliary tasks.

        Args:
            step: steps done before.
        """
        return max(0.0, 1 - step / self.steps)

    def factors(self, present: Sequence[int], step: int) -> list[float]:
        """For each task of a step its factor.

        Args:
            present: indices of its tasks.
            step: steps done before.
        """
        factor = self.factor(step)
        return [factor if self._fades[index] else 1.0 for index in present]

    def gone(self, step: int) -> frozenset[str]:
        """The tasks that take no part in a step any more.

        Args:
            step: steps done before.
        """
        return self.auxiliary if step >= self.steps else frozenset()
