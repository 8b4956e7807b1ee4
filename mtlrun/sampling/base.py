"""The contract of a sampler."""

import math
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mtlrun.randomness import generator
from mtlrun.sampling.units import Unit
from mtlrun.types import Evaluation

Compared = Literal["nothing", "training", "validation"]
"""Gradients of which split's batches a sampler compares the training gradients with."""


class Sampler(ABC):
    """Chooses the tasks of a step.

    It draws units: streams, or single tasks (see :class:`~mtlrun.sampling.units.Unit`). A sampler's
    ``__init__`` takes its settings and, as keywords, those runtime facts that it wants: ``units``,
    ``epochs`` and ``seed`` of the run, and ``levels`` (for each task the headline metric of the run
    that the setting ``baseline`` names; empty where there is no such setting).

    Draws are addressed by the step. What a sampler learns on the way is in :meth:`state_dict`, and
    may change what it draws at an epoch's start, and every ``refresh_every`` steps; in between the
    chances are not asked for again.

    Args:
        units: what there is to draw.
        epochs: of the run.
        seed: the run's.

    Attributes:
        joint: whether every step trains every task.
        several: whether a step draws several units; tasks of one stream then share their rows.
        uses_evaluation: whether it learns from validation metrics (:meth:`after_evaluation`).
        compares: which gradients it learns from (:meth:`refresh`), every ``refresh_every`` steps.
        refresh_every: steps between two of these; 0 for never.
    """

    joint: ClassVar[bool] = False
    several: ClassVar[bool] = False
    uses_evaluation: bool = False
    compares: Compared = "nothing"
    refresh_every: int = 0

    def __init__(self, *, units: Sequence[Unit], epochs: int = 1, seed: int = 0) -> None:
        self.units = tuple(units)
        self.epochs = epochs
        self.seed = seed
        self._bounds: tuple[tuple[int, int], list[float]] | None = None

    @property
    def per_step(self) -> int:
        """Units drawn in a step."""
        return 1

    @property
    def fewest_tasks(self) -> int:
        """The smallest number of tasks that a step may train."""
        return sum(sorted(len(unit.tasks) for unit in self.units)[: self.per_step])

    @abstractmethod
    def probabilities(self, epoch: int) -> Tensor:
        """The chance that a draw gives each unit: float64 [units], of sum 1.

        Args:
            epoch: counted from 0.
        """

    def draw(self, epoch: int, step: int) -> tuple[Unit, ...]:
        """The units of this step.

        Args:
            epoch: counted from 0.
            step: steps done before, over the whole run.
        """
        stretch = (epoch, step // self.refresh_every if self.refresh_every else 0)
        if self._bounds is None or self._bounds[0] != stretch:
            self._bounds = (stretch, self._checked(epoch).cumsum(0).tolist())
        bounds = self._bounds[1]
        place = torch.rand((), generator=self.generator(epoch, step), dtype=torch.float64).item()
        return (self.units[bisect(bounds, place * bounds[-1], hi=len(bounds) - 1)],)

    def _checked(self, epoch: int) -> Tensor:
        """The chances, where they are some."""
        chances = self.probabilities(epoch)
        if not (bool((chances >= 0).all()) and math.isclose(float(chances.sum()), 1)):
            raise ValueError(
                f"{type(self).__name__}: the probabilities of epoch {epoch} are "
                f"{chances.tolist()}, and must be 0 or more and sum to 1"
            )
        return chances

    def generator(self, epoch: int, step: int) -> torch.Generator:
        """A CPU generator for a step's draw; the same each time it is asked for."""
        return generator(self.seed, "sampler", epoch, step)

    def after_evaluation(self, evaluation: Evaluation) -> None:
        """Called at each epoch's end where ``uses_evaluation``."""
        del evaluation

    def refresh(self, cosines: Tensor) -> None:
        """Called every ``refresh_every`` steps where it compares gradients.

        Args:
            cosines: float64 [units, units]; row v, column i the cosine between the gradient of unit
                v on a batch of the split that ``compares`` names and that of unit i on a training
                batch, on the shared parameters.
        """
        del cosines

    def state_dict(self) -> dict[str, Any]:
        """What it has learnt, as tensors and plain data for the checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
        del state


def by_size(units: Sequence[Unit], exponent: float) -> Tensor:
    """Chances proportional to the units' rows to a power: float64 [units], of sum 1."""
    rows = torch.tensor([unit.rows for unit in units], dtype=torch.float64)
    return torch.softmax(exponent * rows.log(), 0)
