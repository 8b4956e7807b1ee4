"""Choosing networks within a budget: for each task the best of them, summed over tasks.

Serving a task by another network than its best only lowers the sum, so the best selection is the
best way of splitting the tasks into sets, each served by one network whose further tasks only help
it learn. That is a dynamic program over sets of served tasks, which takes 3^T steps for each half
network of the budget whatever the values are. The branch and bound of the literature (Standley et
al., ICML 2020; Fifty et al., NeurIPS 2021) goes through selections of the 2^T - 1 networks, whose
number grows with the budget, and its bound prunes little where many networks are about as good.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mtlrun.analysis.grouping.bounded import Chosen, Climb, Track
from mtlrun.analysis.grouping.scores import Candidates, Floats, Sets, rounding
from mtlrun.errors import UserError

EXACT_TASKS = 20
"""Up to as many tasks the best selection is found, and proven; a minute, and some 200 MB."""

LOW_TASKS = 11
"""Tasks whose sets are gone through by numpy in one go; those of the others by Python."""


def _untracked(done: int, of: int) -> None:
    del done, of


@dataclass(frozen=True)
class Selected:
    """A network of a selection.

    Attributes:
        tasks: that it has, ascending.
        serves: those of them that it is best for; never empty.
        cost: in full networks.
    """

    tasks: tuple[int, ...]
    serves: tuple[int, ...]
    cost: float


@dataclass(frozen=True)
class Selection:
    """Networks that serve all tasks.

    Attributes:
        networks: in the order of the first task that they serve.
        values: for each task that of the network that serves it.
        proven: whether there is none better.
    """

    networks: tuple[Selected, ...]
    values: tuple[float, ...]
    proven: bool


@dataclass(frozen=True)
class _Table:
    """What networks of one cost are worth to the tasks that they serve."""

    units: int
    value: Floats  # [2 ** T]
    network: Sets  # [2 ** T]
    candidates: Candidates


def select(candidates: Sequence[Candidates], budget: float, track: Track = _untracked) -> Selection:
    """The networks within a budget that serve the tasks best.

    Equally good selections are told apart by their cost, then by the size of their networks, then
    by the order of tasks. Beyond :data:`EXACT_TASKS` tasks a good one is looked for instead.

    Args:
        candidates: all on the same tasks.
        budget: what the networks may cost together, a multiple of 1/2.
        track: is told of the progress.

    Raises:
        UserError: the budget is none, or too small to serve all tasks; says what would do.
    """
    task_count = candidates[0].task_count
    slack = rounding(task_count, max(one.scale for one in candidates))
    if not (budget > 0 and float(2 * budget).is_integer()):
        raise UserError(f"--budget {budget:g}: give a multiple of 0.5, for example 2.")
    if task_count > EXACT_TASKS:
        return _selection(Climb(candidates, budget, slack).best(track), task_count, proven=False)
    tables = [_table(one) for one in sorted(candidates, key=lambda one: one.cost)]
    levels, best = _levels(tables, task_count, int(2 * budget), slack, track)
    units = int(np.argmax(best >= best[-1] - slack))
    return _selection(_traced(tables, levels, units, best, slack), task_count, proven=True)


def _table(candidates: Candidates) -> _Table:
    value, network = candidates.by_served()
    return _Table(int(2 * candidates.cost), value, network, candidates)


def _levels(
    tables: Sequence[_Table], task_count: int, budget: int, slack: float, track: Track
) -> tuple[list[Floats], Floats]:
    """The best that each number of half networks gives.

    Returns:
        for each number, from 0, what sets of all tasks but the first are worth, [2 ** (T - 1)];
        and for each number what all tasks are worth.
    """
    half = 1 << (task_count - 1)
    limit = sum(max(table.value[1 << task] for table in tables) for task in range(task_count))
    budget = min(budget, task_count * max(table.units for table in tables))
    nothing = np.full(half, -np.inf)
    nothing[0] = 0
    levels, best = [nothing], [-np.inf]
    while len(best) <= budget:
        units = len(best)
        fitting = [table for table in tables if table.units <= units]
        # All tasks: one network serves the first and others, the rest is worth what it is worth.
        best.append(max([best[-1], *(_with_first(table, levels, units) for table in fitting)]))
        if best[-1] >= limit - slack or units == budget:
            break
        level = levels[-1].copy()
        for at, table in enumerate(fitting):
            for done, of in _combine(level, table.value[:half], levels[units - table.units]):
                track((units * len(tables) + at) * of + done, budget * len(tables) * of)
        levels.append(level)
    if best[-1] == -np.inf:
        raise UserError(_too_small(tables, task_count, budget))
    return levels, np.array(best)


def _with_first(table: _Table, levels: Sequence[Floats], units: int) -> float:
    half = len(levels[0])
    rest = levels[units - table.units][::-1]  # of the complements of the sets with the first task
    return float((table.value[half:] + rest).max())


def _combine(out: Floats, served: Floats, rest: Floats) -> Iterator[tuple[int, int]]:
    """``out[S] = max(out[S], served[A] + rest[S - A])`` over the parts A of each set S, in place.

    Of a set with tasks beyond the low ones, A has the highest: some network has to serve it.

    Yields:
        how many of the sets of high tasks are done, and of how many.
    """
    low = min(LOW_TASKS, len(out).bit_length() - 1)
    part, others, starts = _parts(low)
    rows = len(out) >> low
    out, served, rest = (table.reshape(rows, -1) for table in (out, served, rest))
    useful = np.isfinite(served).any(axis=1)
    for high in np.flatnonzero(useful):
        values = served[high][part]
        top = 1 << int(high).bit_length()
        # The sets that have these high tasks and any others below the highest one.
        for whole in range(high, top if high else 1):
            if whole & high == high:
                sums = values + rest[whole ^ high][others]
                np.maximum(out[whole], np.maximum.reduceat(sums, starts), out=out[whole])
        yield int(high) + 1, rows


@lru_cache(maxsize=2)
def _parts(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """All splits of the sets of some tasks: the part, the others, and where each set starts."""
    sets, parts = np.zeros(1, dtype=np.intp), np.zeros(1, dtype=np.intp)
    for task in range(count):
        bit = 1 << task
        sets = np.concatenate([sets, sets | bit, sets | bit])
        parts = np.concatenate([parts, parts, parts | bit])
    order = np.argsort(sets, kind="stable")
    sets, parts = sets[order], parts[order]
    return parts, sets ^ parts, np.searchsorted(sets, np.arange(1 << count))


def _traced(
    tables: Sequence[_Table],
    levels: Sequence[Floats],
    units: int,
    best: Floats,
    slack: float,
) -> list[Chosen]:
    """The networks that make up the best value of all tasks with so many half networks."""
    chosen = []
    tasks, target = 2 * len(levels[0]) - 1, float(best[units])
    while tasks:
        served = _with_highest(tasks)
        ties = []
        for table in tables:
            if table.units <= units:
                totals = table.value[served] + levels[units - table.units][tasks ^ served]
                ties += [
                    (int(table.network[part]).bit_count(), -int(table.network[part]), -part, table)
                    for part in map(int, served[totals >= target - slack])
                ]
        _, network, part, table = min(ties, key=lambda tie: tie[:3])
        members = _members(-network, table.candidates.task_count)
        chosen.append(Chosen(members, table.candidates))
        tasks, units = tasks ^ -part, units - table.units
        target = float(levels[units][tasks])
    return chosen


def _with_highest(tasks: int) -> Sets:
    """The subsets of a set that have its highest bit, its first task."""
    top = 1 << (tasks.bit_length() - 1)
    found = np.array([top], dtype=np.int64)
    for at in range(top.bit_length() - 1):
        if tasks >> at & 1:
            found = np.concatenate([found, found | (1 << at)])
    return found


def _members(network: int, task_count: int) -> NDArray[np.bool_]:
    return np.array([network >> at & 1 for at in reversed(range(task_count))], dtype=bool)


def _selection(chosen: Sequence[Chosen], task_count: int, *, proven: bool) -> Selection:
    """Each task with the network that is best for it; of equals the cheapest, then the smallest."""
    ordered = sorted(
        {(one.cost, one.tasks): one for one in chosen}.values(),
        key=lambda one: (one.cost, len(one.tasks), one.tasks),
    )
    values = np.array([one.values for one in ordered])  # [N, T]
    best = values.argmax(axis=0)
    networks = [
        Selected(one.tasks, tuple(map(int, np.flatnonzero(best == at))), one.cost)
        for at, one in enumerate(ordered)
    ]
    return Selection(
        tuple(sorted((n for n in networks if n.serves), key=lambda network: network.serves)),
        tuple(map(float, values[best, np.arange(task_count)])),
        proven,
    )


def _too_small(tables: Sequence[_Table], task_count: int, budget: int) -> str:
    """What budget would do: the cheapest networks that have all tasks."""
    cost = np.full(1 << task_count, np.inf)  # of serving a set, by one network
    for table in tables:
        there = np.isfinite(table.value)
        cost[there] = np.minimum(cost[there], table.units)
    cheapest = np.full(1 << task_count, -np.inf)
    cheapest[0] = 0
    for _ in range(task_count):
        grown = cheapest.copy()
        for _ in _combine(grown, -cost, cheapest):
            pass
        if (grown == cheapest).all():
            break
        cheapest = grown
    least = -cheapest[-1] / 2
    if not np.isfinite(least):
        return "Some task is in none of the networks that were measured, so none can serve it."
    return (
        f"--budget {budget / 2:g} is too small: serving all tasks takes {least:g} networks. Use "
        f"--budget {least:g} or more."
    )
