"""Runs that differ by their seed only, and the single-task runs that each is compared with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mtlrun.analysis.runs import Run
from mtlrun.analysis.settings import of_method, of_protocol

Protocol = Mapping[str, str]
"""What figures hang on beside the method: data, epochs, tasks, the split that selects."""

TASKS = "tasks"
TRAIN_ROWS = "train_rows."
"""The settings of a run that name its tasks: which they are, and the number of rows of each."""

SPLIT_SEED = "dataset.seed"
FOLLOWS = "the run's seed"

UNREADABLE = "config.yaml"
"""What stands in a protocol for settings that could not be read."""


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of one method in one study and on one dataset, one a seed.

    Attributes:
        study: the study; several, joined by a comma, where studies are merged.
        method: of the first run.
        runs: at least one, ordered by seed.
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
        """The tasks that its runs train."""
        return tuple(self.runs[0].metrics)

    @property
    def seeds(self) -> tuple[int, ...]:
        """One for each run."""
        return tuple(run.seed for run in self.runs)

    @property
    def folders(self) -> tuple[Path, ...]:
        """One for each run, as found."""
        return tuple(run.folder for run in self.runs)

    @property
    def settings(self) -> Mapping[str, str]:
        """What the figures depend on, the same for all its runs."""
        return self.runs[0].settings

    @property
    def has_config(self) -> bool:
        """Whether the settings of its runs could be read."""
        return self.runs[0].has_config

    @cached_property
    def protocol(self) -> Protocol:
        """The settings under which figures compare; tasks in any order are the same."""
        found = {key: value for key, value in self.settings.items() if of_protocol(key)}
        found[TASKS] = ", ".join(sorted(self.tasks))
        return found if self.has_config else {**found, UNREADABLE: "not readable"}


def group_runs(
    runs: Iterable[Run], *, merge_studies: bool = False
) -> tuple[list[Group], list[str]]:
    """Groups in the order of their first run, and notes on seeds that were found twice.

    Runs of one group have the same settings, whatever their folders are called; where these cannot
    be read, they have the same name.
    """
    members: dict[tuple[str, str, object], dict[int, Run]] = {}
    notes = []
    # Of two that are the same but for that, the one whose seconds are of training alone
    for run in sorted(_with_split_seeds_named(list(runs)), key=measures_affinities):
        what: object = run.method
        if run.has_config:
            what = frozenset([*run.settings.items(), *run.choices.items()])
        key = ("" if merge_studies else run.study, run.dataset, what)
        seeds = members.setdefault(key, {})
        if run.seed in seeds:
            notes.append(
                f"{run.folder} is left out: {seeds[run.seed].folder} is the same method and seed "
                f"of study {seeds[run.seed].study}."
            )
        else:
            seeds[run.seed] = run
    groups = []
    for seeds in members.values():
        ordered = tuple(seeds[seed] for seed in sorted(seeds))
        study = ", ".join(dict.fromkeys(run.study for run in ordered))
        groups.append(Group(study, ordered[0].dataset, ordered[0].method, ordered))
    return groups, notes


def measures_affinities(run: Run) -> bool:
    """Whether it measured affinities beside its training, which takes seconds of its own."""
    return (run.changed or {}).get("engine.affinity", "none") != "none"


def _with_split_seeds_named(runs: Sequence[Run]) -> list[Run]:
    """The runs, and of sweeps whose splits are drawn by the run's seed, this said in words.

    ``'dataset.seed=${seed}'`` draws other splits for each seed. That is one way of repeating a
    run, and not another dataset for each seed.
    """
    drawn: dict[object, list[Run]] = {}
    for run in runs:
        if run.settings.get(SPLIT_SEED) == str(run.seed):
            rest = frozenset(_without_split(run.settings).items())
            drawn.setdefault((run.study, run.dataset, rest), []).append(run)
    following = {
        run for alike in drawn.values() if len({run.seed for run in alike}) > 1 for run in alike
    }
    return [
        replace(run, settings={**_without_split(run.settings), SPLIT_SEED: FOLLOWS})
        if run in following
        else run
        for run in runs
    ]


def _without_split(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings that do not change with the split; numbers of labelled rows may."""
    return {
        key: value
        for key, value in settings.items()
        if key != SPLIT_SEED and not key.startswith(TRAIN_ROWS)
    }


def narrowed(group: Group, tasks: Sequence[str]) -> Group:
    """The same runs as if they had trained some of their tasks only: see :func:`narrowed_run`."""
    runs = tuple(narrowed_run(run, tasks) for run in group.runs)
    return Group(group.study, group.dataset, group.method, runs)


def narrowed_run(run: Run, tasks: Sequence[str]) -> Run:
    """A run as if it had trained some of its tasks only; its seconds are unknown.

    True of single-task runs, whose models know nothing of each other.
    """
    settings = {
        key: value
        for key, value in run.settings.items()
        if not key.startswith(TRAIN_ROWS) or key.removeprefix(TRAIN_ROWS) in tasks
    }
    return replace(
        run,
        metrics={task: run.metrics[task] for task in tasks},
        seconds=float("nan"),
        settings={**settings, TASKS: ", ".join(tasks)},
    )


def nearest(group: Group, candidates: Sequence[Group]) -> Group | None:
    """The candidate that trains the group's tasks with the settings that are most like its own."""
    if not candidates:
        return None
    if group in candidates:
        return group
    if len(candidates) == 1:
        return candidates[0]
    return min(
        candidates,
        key=lambda candidate: (
            len(set(group.tasks) - set(candidate.tasks)),
            len(differing_settings(group, candidate)),
            candidate.method,
        ),
    )


def differing_settings(one: Group, other: Group) -> list[str]:
    """The settings, beside the method's own, in which two groups differ.

    None are known where a config could not be read.
    """
    if not (one.has_config and other.has_config):
        return []
    keys = dict.fromkeys([*one.settings, *other.settings])
    return [
        key
        for key in keys
        if not of_method(key) and one.settings.get(key) != other.settings.get(key)
    ]


def differing_protocol(protocols: Iterable[Protocol]) -> list[str]:
    """The settings in which protocols differ, as far as they are known."""
    several = list(protocols)
    keys = dict.fromkeys(key for protocol in several for key in protocol)

    def differ(key: str) -> bool:
        if key.startswith(TRAIN_ROWS):  # those of a task that is not there say nothing
            holders = [protocol for protocol in several if key in protocol]
        else:
            holders = [p for p in several if key in p or key == UNREADABLE or UNREADABLE not in p]
        return len({value_of(protocol, key) for protocol in holders}) > 1

    return [key for key in keys if differ(key)]


def value_of(protocol: Protocol, key: str) -> str:
    """The setting, in words where it is not there."""
    return protocol.get(key, "readable" if key == UNREADABLE else "unset")


def lends_to(candidate: Group, group: Group, *, pool: bool) -> bool:
    """Whether figures of ``candidate`` may be what those of ``group`` are compared with.

    Under the same protocol; and single-task runs of more tasks, whose further models change
    nothing of these.
    """
    if pool or candidate.protocol == group.protocol:
        return True
    if not candidate.single_task or not set(group.tasks) < set(candidate.tasks):
        return False
    return narrowed(candidate, group.tasks).protocol == group.protocol
