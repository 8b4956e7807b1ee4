"""The contract of a sampler."""

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Sampler(ABC):
    """Chooses the tasks of a step.

    A sampler's ``__init__`` takes its settings and the runtime fact ``tasks`` (names) as a
    keyword. Draws are addressed by the step, so a sampler needs no history to resume.

    Attributes:
        joint: whether every step trains every task, as methods that compare gradients need.
    """

    joint: bool = False

    def __init__(self, *, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)

    @abstractmethod
    def draw(self, epoch: int, step: int) -> tuple[str, ...]:
        """The tasks of this step, in the order of the run's tasks."""
