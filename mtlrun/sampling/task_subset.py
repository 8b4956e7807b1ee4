"""A few units a step."""

from collections.abc import Sequence

import torch

from mtlrun.sampling.uniform import Uniform
from mtlrun.sampling.units import Unit
from mtlrun.settings import check_whole


class TaskSubset(Uniform):
    """Some of the streams or tasks in each step, drawn without replacement, all alike.

    Made for datasets of one stream with many tasks: a step trains ``tasks_per_step`` of them on the
    same rows. With all of them each step trains what ``joint`` trains. A common device without a
    canonical paper.

    Args:
        tasks_per_step: how many, at most all.
        units: what there is to draw.
        epochs: of the run.
        seed: the run's.

    Raises:
        ValueError: there are fewer of them, or none is to be drawn.
    """

    several = True

    def __init__(
        self, tasks_per_step: int = 2, *, units: Sequence[Unit], epochs: int = 1, seed: int = 0
    ) -> None:
        super().__init__(units=units, epochs=epochs, seed=seed)
        check_whole("tasks_per_step", tasks_per_step, 1)
        if tasks_per_step > len(units):
            raise ValueError(
                f"tasks_per_step={tasks_per_step}: there are {len(units)} to draw from "
                f"({', '.join(unit.name for unit in units)}); use at most {len(units)}"
            )
        self.tasks_per_step = tasks_per_step

    @property
    def per_step(self) -> int:
        """As many as the setting says."""
        return self.tasks_per_step

    def draw(self, epoch: int, step: int) -> tuple[Unit, ...]:
        """The units of this step, in the run's order. See :meth:`Sampler.draw`."""
        order = torch.randperm(len(self.units), generator=self.generator(epoch, step))
        return tuple(self.units[number] for number in sorted(order[: self.per_step].tolist()))
