"""Networks of fewer tasks than a dataset's others: what each is worth to its own tasks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan

from mtlrun.analysis.comparison.blocks import LEAST_METHODS
from mtlrun.analysis.comparison.figures import OVER_METRICS
from mtlrun.analysis.comparison.groups import TASKS, TRAIN_ROWS, Group, Protocol
from mtlrun.analysis.comparison.notes import listing
from mtlrun.analysis.comparison.table import Column, Transfer, format_number

FEWER = "some of them"
"""What a table of networks of different tasks has for its tasks."""

MOST_TASKS = 6
"""Tasks that the finding names before it counts the others."""

CHANGE = Column(*OVER_METRICS, decimals=1, signed=True)


@dataclass(frozen=True)
class Members:
    """What one table is made of.

    Attributes:
        protocol: what its groups share.
        groups: at least one.
        ranked: whether its groups compare with each other; not where they train different tasks.
    """

    protocol: Protocol
    groups: list[Group]
    ranked: bool = True

    @cached_property
    def tasks(self) -> frozenset[str]:
        """The tasks of any of its groups."""
        return frozenset(task for group in self.groups for task in group.tasks)

    @property
    def methods(self) -> int:
        """How many groups it has beside single-task training."""
        return sum(not group.single_task for group in self.groups)


def gathered(tables: Sequence[Members]) -> list[Members]:
    """The tables of one dataset, where one stands for several of fewer tasks with few rows each.

    A sweep over pairs of tasks has a method or two for each pair: too few to rank, and too many
    tables to read. Where another table has all these tasks, and there are two such sets or more,
    one table behind that has them all. The others of fewer tasks come last.

    Args:
        tables: none of different tasks, one for each protocol.
    """
    tables = sorted(tables, key=lambda table: any(_is_part(table, other) for other in tables))
    parts: dict[int, list[Members]] = {}
    for table in tables:
        above = [at for at, other in enumerate(tables) if _is_part(table, other)]
        if above and table.methods < LEAST_METHODS:
            whole = max(above, key=lambda at: len(tables[at].tasks))
            parts.setdefault(whole, []).append(table)
    taken = [table for few in parts.values() if len(few) > 1 for table in few]
    found = []
    for at, table in enumerate(tables):
        if table not in taken:
            found.append(table)
        if len(parts.get(at, ())) > 1:
            found.append(_together(parts[at]))
    return found


def _is_part(table: Members, other: Members) -> bool:
    """Whether one table's protocol is the other's, but for tasks that it lacks."""
    return table.tasks < other.tasks and all(
        table.protocol.get(key) == other.protocol.get(key)
        for key in {*table.protocol, *other.protocol}
        if key != TASKS and (key in table.protocol or not key.startswith(TRAIN_ROWS))
    )


def _together(parts: Sequence[Members]) -> Members:
    shared = set.intersection(*(set(part.protocol.items()) for part in parts))
    first = parts[0].protocol
    protocol = {key: value for key, value in first.items() if (key, value) in shared}
    groups = [group for part in parts for group in part.groups]
    return Members({**protocol, TASKS: FEWER}, groups, ranked=False)


def partners(title: str, transfers: Mapping[Group, Sequence[Transfer]]) -> Iterator[str]:
    """The finding of such a table: beside which tasks each does best and worst.

    Args:
        title: of the table.
        transfers: what each network does to its tasks; nothing for the baseline.
    """
    changes: dict[str, list[tuple[float, Group]]] = {}
    for group, moved in transfers.items():
        for transfer in moved:
            if not group.single_task:
                changes.setdefault(transfer.task, []).append((transfer.change, group))
    if not changes:
        return
    several = len({group.runs[0].weighting for of in changes.values() for _, group in of}) > 1
    told = [
        _best_and_worst(task, of, weightings=several)
        for task, of in list(changes.items())[:MOST_TASKS]
    ]
    more = (
        f"; {len(changes) - MOST_TASKS} more tasks are in the table"
        if len(changes) > MOST_TASKS
        else ""
    )
    yield f"On {title}, against single-task training: {'; '.join(told)}{more}."
    known = [transfer for of in transfers.values() for transfer in of if not isnan(transfer.low)]
    gains = sum(transfer.verdict == "gains" for transfer in known)
    losses = sum(transfer.verdict == "loses" for transfer in known)
    if known:
        yield (
            "Changes that are more than noise, by their 95 % intervals: "
            f"gains {gains}, losses {losses}, of {len(known)}."
        )


def _best_and_worst(task: str, changes: Sequence[tuple[float, Group]], *, weightings: bool) -> str:
    """``depth does best beside normals (+1.2 %) and worst beside segmentation (-0.3 %)``."""

    def beside(change: float, group: Group) -> str:
        others = [other for other in group.tasks if other != task]
        where = f"beside {listing(others)}" if others else "by itself"
        under = f" under {group.runs[0].weighting}" if weightings else ""
        return f"{where}{under} ({format_number(change, CHANGE)} %)"

    by_change = sorted(changes, key=lambda entry: -entry[0])
    if len(by_change) == 1:
        return f"{task} was trained {beside(*by_change[0])} only"
    return f"{task} does best {beside(*by_change[0])} and worst {beside(*by_change[-1])}"
