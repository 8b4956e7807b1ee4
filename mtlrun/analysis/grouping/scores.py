"""What networks are worth to their tasks, from what was measured; higher values are better.

Sets of T tasks are whole numbers: task ``i`` is the bit of ``2 ** (T - 1 - i)``, so that of two
sets of the same size the one with the earlier tasks is the greater number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Sets = NDArray[np.int64]

ROWS = 1 << 13
"""Sets of tasks that are looked at in one go."""


class Candidates(Protocol):
    """Networks of one cost that may be chosen."""

    @property
    def cost(self) -> float:
        """In full networks, a multiple of 1/2."""

    @property
    def task_count(self) -> int:
        """T."""

    @property
    def scale(self) -> float:
        """The greatest size of a value: what rounding is relative to."""

    def by_served(self) -> tuple[Floats, Sets]:
        """For each set of served tasks the network that is best for them all together.

        Returns:
            the sum of its values over the set, [2 ** T], -inf where no network has all of them;
            and the tasks of that network, [2 ** T]: of equally good ones the smallest, then
            the one with the earlier tasks.
        """

    def values(self, members: NDArray[np.bool_]) -> Floats:
        """The values of the network of some tasks, [T]; -inf for those that it has not.

        Args:
            members: [T], whether the task is in the network; a network that may be chosen.
        """

    def good_beside(self, current: Floats, most: int) -> NDArray[np.bool_]:
        """The networks that add most to what each task has, as far as they are found.

        Args:
            current: [T], finite: what the tasks are worth already.
            most: so many networks.

        Returns:
            [up to ``most``, T], their members, the best first.
        """


@dataclass(frozen=True)
class Measured:
    """Networks that were each measured.

    Attributes:
        table: [N, T], the values; -inf for tasks that a network has not. No two networks have
            the same tasks.
        cost: of each of them.
    """

    table: Floats
    cost: float = 1.0

    @staticmethod
    def of(networks: Sequence[Mapping[int, float]], task_count: int, cost: float) -> "Measured":
        """From the values of each network by task."""
        table = np.full((len(networks), task_count), -np.inf)
        for row, values in zip(table, networks, strict=True):
            row[list(values)] = list(values.values())
        return Measured(table, cost)

    @property
    def task_count(self) -> int:
        """T."""
        return int(self.table.shape[1])

    @property
    def scale(self) -> float:
        """See :class:`Candidates`."""
        return float(np.abs(self.table[np.isfinite(self.table)]).max(initial=0))

    def by_served(self) -> tuple[Floats, Sets]:
        """See :class:`Candidates`. The work is that of the subsets of each network."""
        best = np.full(1 << self.task_count, -np.inf)
        network = np.zeros(1 << self.task_count, dtype=np.int64)
        slack = rounding(self.task_count, self.scale)
        masks = _masks(np.isfinite(self.table))
        sizes = np.isfinite(self.table).sum(axis=1)
        for at in np.lexsort((-masks, sizes)):
            served, sums = np.zeros(1, dtype=np.int64), np.zeros(1)
            for task in np.flatnonzero(np.isfinite(self.table[at])):
                bit = 1 << (self.task_count - 1 - int(task))
                served = np.concatenate([served, served | bit])
                sums = np.concatenate([sums, sums + self.table[at, task]])
            better = sums > best[served] + slack
            best[served[better]] = sums[better]
            network[served[better]] = masks[at]
        best[0] = -np.inf
        return best, network

    def values(self, members: NDArray[np.bool_]) -> Floats:
        """See :class:`Candidates`."""
        same = (np.isfinite(self.table) == members).all(axis=1)
        found: Floats = self.table[int(same.argmax())]
        return found

    def good_beside(self, current: Floats, most: int) -> NDArray[np.bool_]:
        """See :class:`Candidates`. They are the best."""
        totals = np.maximum(self.table, current).sum(axis=1)
        members: NDArray[np.bool_] = np.isfinite(self.table[np.argsort(-totals)[:most]])
        return members


@dataclass(frozen=True)
class PairMeans:
    """All networks, each worth to a task the mean of what its other tasks are worth to it.

    That is how TAG reads a matrix of affinities (Fifty et al., NeurIPS 2021, section 3.2) and how
    higher orders are approximated from pairs (Standley et al., ICML 2020, section 4.3).

    Attributes:
        of: [T, T], ``of[task, other]``: what the network of both is worth to the task.
        alone: [T], what a network of its own is worth to a task; -inf where there is none.
        cost: of each network.
    """

    of: Floats
    alone: Floats
    cost: float = 1.0

    @property
    def task_count(self) -> int:
        """T."""
        return len(self.alone)

    @property
    def scale(self) -> float:
        """See :class:`Candidates`."""
        known = self.alone[np.isfinite(self.alone)]
        return float(max(np.abs(self._pairs).max(initial=0), np.abs(known).max(initial=0)))

    @cached_property
    def _pairs(self) -> Floats:
        """Without what a task is worth to itself."""
        pairs = self.of.astype(np.float64)
        np.fill_diagonal(pairs, 0)
        return pairs

    def by_served(self) -> tuple[Floats, Sets]:
        """See :class:`Candidates`.

        No network is written down: to served tasks A a further task adds a sum over A that does
        not hang on which other tasks there are, so the best network of each size has those that
        add most.
        """
        sets = np.arange(1 << self.task_count, dtype=np.int64)
        parts = [self._by_served(sets[row : row + ROWS]) for row in range(0, len(sets), ROWS)]
        best, network = map(np.concatenate, zip(*parts, strict=True))
        best[0] = -np.inf
        return best, network

    def _by_served(self, served: Sets) -> tuple[Floats, Sets]:
        bits = 1 << np.arange(self.task_count - 1, -1, -1, dtype=np.int64)
        member = (served[:, None] & bits) != 0  # [R, T]
        count = member.sum(axis=1, keepdims=True)
        adds = member.astype(np.float64) @ self._pairs  # [R, T], of each task to the served ones
        within = (adds * member).sum(axis=1, keepdims=True)
        adds[member] = -np.inf
        order = np.argsort(-adds, axis=1, kind="stable")
        helped = within + np.take_along_axis(adds, order, axis=1).cumsum(axis=1)
        others = count + np.arange(self.task_count + 1) - 1  # of each task, with 0 to T helpers
        totals = np.concatenate([within, helped], axis=1) / np.maximum(others, 1)
        single = count[:, 0] == 1
        totals[single, 0] = self.alone[member[single].argmax(axis=1)]
        slack = rounding(self.task_count, self.scale)
        most = totals.max(axis=1, keepdims=True)
        helpers = (totals >= most - slack).argmax(axis=1)  # the first, so the fewest
        rows = np.arange(len(served))
        added = np.concatenate([np.zeros((len(served), 1), np.int64), bits[order]], axis=1)
        return totals[rows, helpers], served + added.cumsum(axis=1)[rows, helpers]

    def values(self, members: NDArray[np.bool_]) -> Floats:
        """See :class:`Candidates`."""
        found: Floats = self._values(members[None])[0]
        return found

    def _values(self, members: NDArray[np.bool_]) -> Floats:
        """:meth:`values` of several networks, [N, T]."""
        others = members.sum(axis=1, keepdims=True) - 1
        means = members.astype(np.float64) @ self._pairs.T / np.maximum(others, 1)
        means = np.where(others == 0, self.alone, means)
        return np.where(members, means, -np.inf)

    def good_beside(self, current: Floats, most: int) -> NDArray[np.bool_]:
        """See :class:`Candidates`. Climbs from all tasks, and from the best pair of each."""
        gains = np.maximum(self._pairs - current[:, None], 0)
        gains = gains + gains.T
        np.fill_diagonal(gains, -np.inf)
        starts = np.eye(self.task_count, dtype=bool)
        starts[np.arange(self.task_count), gains.argmax(axis=1)] = True
        climbs = [self._climbed(start, current) for start in (np.ones_like(starts[0]), *starts)]
        climbs.sort(key=lambda climb: -climb[0])
        distinct = {climb.tobytes(): climb for _, climb in climbs}
        return np.array(list(distinct.values())[:most])

    def _climbed(
        self, members: NDArray[np.bool_], current: Floats
    ) -> tuple[float, NDArray[np.bool_]]:
        """Add or take away the task that helps most, until none does."""
        slack = rounding(self.task_count, self.scale)
        total = float(np.maximum(self.values(members), current).sum())
        while True:
            moves = members ^ np.eye(self.task_count, dtype=bool)  # [M, T]
            moves = moves[moves.any(axis=1)]
            worth = np.maximum(self._values(moves), current).sum(axis=1)
            best = int(worth.argmax())
            if worth[best] <= total + slack:
                return total, members
            total, members = float(worth[best]), moves[best]


def from_affinity(affinity: Floats) -> PairMeans:
    """All networks, by the affinities of their tasks, TAG's or cosines.

    Args:
        affinity: [T, T], ``affinity[source, target]``: what a step for the source does for the
            target.

    A network of its own is worth less to a task than all affinities together, so that it is chosen
    when nothing else is left. The authors' code takes -1e6 for it (Fifty et al., NeurIPS 2021),
    beside which small affinities would be nothing but rounding.
    """
    count = len(affinity)
    scale = PairMeans(affinity.T, np.zeros(count)).scale or 1.0
    return PairMeans(affinity.T, np.full(count, -4 * count * scale))


def rounding(task_count: int, scale: float) -> float:
    """Sums over tasks that are nearer to each other than this are the same number.

    A sum of T values of size ``scale`` is off by T ** 2 half units in the last place at most.
    """
    return 4 * task_count**2 * float(np.finfo(np.float64).eps) * scale


def _masks(members: NDArray[np.bool_]) -> Sets:
    """Sets of tasks, [N], from their members, [N, T]."""
    bits = 1 << np.arange(members.shape[1] - 1, -1, -1, dtype=np.int64)
    masks: Sets = (members * bits).sum(axis=1)
    return masks
