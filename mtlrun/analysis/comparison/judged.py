"""Which tasks rows are judged by: what delta_m, mean ranks and wins are over."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mtlrun.analysis.comparison.figures import Figure
from mtlrun.analysis.comparison.groups import TASKS, TRAIN_ROWS, Group, Protocol
from mtlrun.analysis.comparison.notes import listing, said_by


@dataclass(frozen=True)
class Judged:
    """What the rows of a table are judged by.

    Attributes:
        tasks: for each group those of its tasks that count.
        chosen: these, where they are the same for all rows and not simply all; else empty.
        notes: sentences on why.
    """

    tasks: Mapping[Group, frozenset[str]]
    chosen: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def counts(self, group: Group, figure: Figure) -> bool:
        """Whether a group is judged by a metric."""
        return figure.group in self.tasks[group]

    def beside(self, groups: Sequence[Group]) -> list[str]:
        """The tasks of some groups that rows are not judged by."""
        tasks = dict.fromkeys(task for group in groups for task in group.tasks)
        return [task for task in tasks if self.chosen and task not in self.chosen]

    def metrics(self, figures: Sequence[Figure]) -> list[Figure]:
        """Those of a table's metrics that any of its groups is judged by."""
        counted = frozenset[str]().union(*self.tasks.values())
        return [figure for figure in figures if figure.group in counted]


def judged_by(
    groups: Sequence[Group],
    labels: Mapping[Group, str],
    wanted: Sequence[str],
    *,
    ranked: bool,
) -> Judged:
    """The tasks that the user wants, else the primary ones that the runs name, else all.

    Rows that name no primary tasks are judged by those that the others name, so that they compete.
    Where rows name different ones, none of them count.

    Args:
        groups: of one table.
        labels: how they are called.
        wanted: names of tasks that the user gave; empty for none.
        ranked: whether groups compare with each other; otherwise each is judged by its own.
    """
    everything = {group: frozenset(group.tasks) for group in groups}
    named = {group: group.runs[0].primary for group in groups if group.runs[0].primary}
    if wanted:
        note = f"{_JUDGED} over {listing(wanted)}, as --tasks says."
        return Judged(_common(groups, wanted), tuple(wanted), (note,))
    if not ranked:
        own = {group: frozenset(primary) for group, primary in named.items()}
        return Judged(everything | own, notes=tuple(_on_own(groups, set(named.values()))))
    several = said_by((listing(sorted(tasks)), labels[group]) for group, tasks in named.items())
    if len(several) > 1:
        each = "; ".join(f"{tasks} ({listing(rows)})" for tasks, rows in several.items())
        note = (
            f"Rows name different primary tasks: {each}. {_JUDGED} over all tasks; --tasks "
            "chooses some."
        )
        return Judged(everything, notes=(note,))
    if not named:
        return Judged(everything)
    chosen = next(iter(named.values()))
    who = "all rows" if len(named) == len(groups) else listing(labels[group] for group in named)
    others = "" if len(named) == len(groups) else ", also for rows that name none"
    note = (
        f"{_JUDGED} over {listing(chosen)}, the primary task{'s' if len(chosen) > 1 else ''} of "
        f"{who}{others}."
    )
    return Judged(_common(groups, chosen), chosen, (note,))


_JUDGED = "delta_m, mean rank and wins are"


def _common(groups: Sequence[Group], tasks: Sequence[str]) -> dict[Group, frozenset[str]]:
    return {group: frozenset(tasks) & frozenset(group.tasks) for group in groups}


def _on_own(groups: Sequence[Group], named: Collection[tuple[str, ...]]) -> Iterator[str]:
    """What delta_m of rows of different tasks is over, and how those for the same ones compare."""
    if named:
        each = "; ".join(listing(primary) for primary in sorted(named))
        yield f"delta_m of rows that name primary tasks ({each}) is over these alone."
    for primary in named if len(named) == 1 else ():
        if all(set(primary) <= set(group.tasks) for group in groups):
            yield f"--tasks {','.join(primary)} compares these rows, by their primary tasks alone."


def protocol_for(group: Group, wanted: Sequence[str]) -> Protocol:
    """The settings under which figures of the wanted tasks compare, whatever else was trained."""
    if not wanted or not set(wanted) <= set(group.tasks):
        return group.protocol
    others = {f"{TRAIN_ROWS}{task}" for task in group.tasks if task not in wanted}
    kept = {key: value for key, value in group.protocol.items() if key not in others}
    return {**kept, TASKS: ", ".join(sorted(wanted))}
