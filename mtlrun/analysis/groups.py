"""Runs that differ by their seed only, and the single-task runs that each is compared with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from mtlrun.analysis.runs import Run


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of one method in one study and on one dataset, one a seed.

    Attributes:
        runs: at least one.
    """

    study: str
    dataset: str
    method: str
    runs: tuple[Run, ...]

    @property
    def single_task(self) -> bool:
        """Whether these are runs of one model a task."""
        return self.runs[0].single_task

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that any of the runs trains."""
        return tuple(dict.fromkeys(task for run in self.runs for task in run.metrics))

    @cached_property
    def settings(self) -> dict[str, str]:
        """What the figures depend on beside the method; several values where the seeds differ."""
        keys = dict.fromkeys(key for run in self.runs for key in run.settings)
        return {
            key: " or ".join(dict.fromkeys(run.settings.get(key, "unset") for run in self.runs))
            for key in keys
        }

    @property
    def has_config(self) -> bool:
        """Whether the settings of all its runs could be read."""
        return all(run.has_config for run in self.runs)


def group_runs(runs: Iterable[Run]) -> tuple[list[Group], list[str]]:
    """Groups in the order of their first run, and notes on seeds that were found twice."""
    members: dict[tuple[str, str, str], dict[int, Run]] = {}
    notes = []
    for run in runs:
        seeds = members.setdefault((run.study, run.dataset, run.method), {})
        if run.seed in seeds:
            notes.append(
                f"{run.folder} is left out: {seeds[run.seed].folder} is the same method and seed "
                f"of study {run.study}."
            )
        else:
            seeds[run.seed] = run
    groups = [Group(*names, tuple(seeds.values())) for names, seeds in members.items()]
    return groups, notes


def short_names(groups: Sequence[Group]) -> tuple[dict[Group, str], tuple[str, ...]]:
    """Names that leave out the changed settings that all groups have, and these settings.

    Where a run does not say what was changed, or there is one group only, names are whole.
    """
    changes = [group.runs[0].changed for group in groups]
    known = [change for change in changes if change is not None]
    if len(groups) < 2 or len(known) < len(groups):
        return {group: group.method for group in groups}, ()
    common = set.intersection(*(set(change.items()) for change in known))
    names = {
        group: ",".join(
            [group.runs[0].weighting]
            + [f"{key}={value}" for key, value in change.items() if (key, value) not in common]
        )
        for group, change in zip(groups, known, strict=True)
    }
    if len(set(names.values())) < len({group.method for group in groups}):
        return {group: group.method for group in groups}, ()
    return names, tuple(f"{key}={value}" for key, value in sorted(common))


def nearest(group: Group, candidates: Sequence[Group]) -> Group | None:
    """The candidate that trains the group's tasks with the settings that are most like its own."""
    if not candidates:
        return None
    if group in candidates:
        return group
    return min(
        candidates,
        key=lambda candidate: (
            len(set(group.tasks) - set(candidate.tasks)),
            len(differing_settings(group, candidate)),
            candidate.method,
        ),
    )


def differing_settings(one: Group, other: Group) -> list[str]:
    """The settings in which two groups differ; none are known where a config could not be read."""
    if not (one.has_config and other.has_config):
        return []
    keys = dict.fromkeys([*one.settings, *other.settings])
    return [key for key in keys if one.settings.get(key) != other.settings.get(key)]
