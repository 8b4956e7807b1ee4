"""A good selection of networks where there are too many tasks to find the best one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtlrun.analysis.grouping.scores import Candidates, Floats
from mtlrun.errors import UserError

STARTS = 8
"""First networks, of each kind, that are tried."""

ROUNDS = 1000
"""Exchanges after which a climb ends whatever it finds."""

Track = Callable[[int, int], None]
"""Is told how much is done, and of how much."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """A network that was chosen.

    Attributes:
        members: [T], whether the task is in it.
        candidates: those that it is one of.
    """

    members: NDArray[np.bool_]
    candidates: Candidates

    @property
    def tasks(self) -> tuple[int, ...]:
        """That it has, ascending."""
        return tuple(map(int, np.flatnonzero(self.members)))

    @property
    def cost(self) -> float:
        """In full networks."""
        return self.candidates.cost

    @property
    def values(self) -> Floats:
        """[T]; -inf for tasks that it has not."""
        return self.candidates.values(self.members)


@dataclass(frozen=True)
class Climb:
    """Adds the network that gains most for its cost, then exchanges one at a time.

    Attributes:
        candidates: all on the same tasks.
        budget: what the networks may cost together.
        slack: what two sums may differ by and be the same.
    """

    candidates: Sequence[Candidates]
    budget: float
    slack: float

    def best(self, track: Track) -> list[Chosen]:
        """The best of climbs from several first networks.

        Args:
            track: is told of the progress.

        Raises:
            UserError: no selection that serves all tasks was found.
        """
        nothing = np.full(self.candidates[0].task_count, self.floor)
        starts = [
            Chosen(members, one)
            for one in self.candidates
            if one.cost <= self.budget
            for members in one.good_beside(nothing, STARTS)
        ]
        best: list[Chosen] = []
        for done, start in enumerate(starts, start=1):
            chosen = self._exchanged(self._grown([start]))
            if self._total(chosen) > self._total(best) + self.slack:
                best = chosen
            track(done, len(starts))
        if (self._worth(best) == self.floor).any():
            raise UserError(
                f"No selection of networks that serves all {len(nothing)} tasks with --budget "
                f"{self.budget:g} was found. Give a larger one."
            )
        return best

    @property
    def floor(self) -> float:
        """What a task without a network is worth: serving it counts for more than all else."""
        count = self.candidates[0].task_count
        return -2 * (count + 1) * (max(one.scale for one in self.candidates) or 1.0)

    def _grown(self, chosen: Sequence[Chosen]) -> list[Chosen]:
        """As many more networks as the budget has room for and as gain anything."""
        grown = list(chosen)
        while True:
            left = self.budget - sum(one.cost for one in grown)
            worth = self._worth(grown)
            options = [
                Chosen(one.good_beside(worth, 1)[0], one)
                for one in self.candidates
                if one.cost <= left
            ]
            gains = [float(np.maximum(one.values - worth, 0).sum()) / one.cost for one in options]
            if not gains or max(gains) <= self.slack:
                return grown
            grown.append(options[int(np.argmax(gains))])

    def _exchanged(self, chosen: Sequence[Chosen]) -> list[Chosen]:
        """Replace a network, until none can be replaced by a better one."""
        best = list(chosen)
        for _ in range(ROUNDS):
            others = (self._grown([*best[:at], *best[at + 1 :]]) for at in range(len(best)))
            enough = self._total(best) + self.slack
            better = next((other for other in others if self._total(other) > enough), None)
            if better is None:
                break
            best = better
        return best

    def _total(self, chosen: Sequence[Chosen]) -> float:
        return float(self._worth(chosen).sum())

    def _worth(self, chosen: Sequence[Chosen]) -> Floats:
        """[T], what each task has of the network that is best for it."""
        worth = np.full(self.candidates[0].task_count, self.floor)
        for one in chosen:
            worth = np.maximum(worth, one.values)
        return worth
