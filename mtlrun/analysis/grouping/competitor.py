"""A grouping as one competitor: each task's figures are of the network that serves it."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mtlrun.analysis.comparison.groups import (
    SPLIT_SEED,
    TASKS,
    TRAIN_ROWS,
    measures_affinities,
    narrowed_run,
)
from mtlrun.analysis.comparison.notes import listing, names
from mtlrun.analysis.grouping.file import FOLDER, Group, Grouping, grouping_files
from mtlrun.analysis.runs import DAMAGED, FoundRuns, Run, read_run
from mtlrun.analysis.settings import GROUPING, of_method
from mtlrun.errors import UserError

LONGEST = 90
"""Letters of a grouping in the name of its row; longer ones are told in a note."""

EQUAL = "equal"
"""The weighting that names leave out."""


@dataclass(frozen=True, eq=False)
class GroupedRun(Run):
    """The networks of a grouping under one seed, as if they were one run.

    Its folder is the grouping's file.

    Attributes:
        served: for each task the run whose network serves it; of single-task training what it
            says of this task.
    """

    served: Mapping[str, Run] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[Run, ...]:
        """The runs of its networks, each once."""
        return tuple(dict.fromkeys(self.served.values()))

    def source_of(self, task: str) -> Run:
        """The run of the network that serves a task."""
        return self.served[task]


@dataclass(frozen=True)
class Competitors:
    """What groupings contribute to a comparison.

    Attributes:
        runs: one for each grouping and seed.
        notes: sentences on groupings whose networks are not all there, and on long ones.
    """

    runs: tuple[GroupedRun, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Entry:
    """Groupings that stand for the same networks.

    Attributes:
        names: theirs.
        grouping: the first of them.
        file: where it lies.
        reference: the run whose settings its networks are trained with.
        others: of networks of another size the runs whose settings they have instead.
    """

    names: tuple[str, ...]
    grouping: Grouping
    file: Path
    reference: Run
    others: Mapping[Group, Run]

    def reference_of(self, group: Group) -> Run:
        """The run whose settings a network is trained with."""
        return self.others.get(group, self.reference)

    @property
    def name(self) -> str:
        return f"grouping {', '.join(self.names)}"

    @property
    def text(self) -> str:
        """``a+b | (b)+c``: the networks; what one has and does not serve is in parentheses."""
        return " | ".join(map(network_text, self.grouping.groups))

    @property
    def label(self) -> str:
        count = len(self.grouping.groups)
        return f"{self.name}: {self.text if len(self.text) <= LONGEST else f'{count} networks'}"


def network_text(group: Group) -> str:
    """``a+(b)``: a network's tasks, in parentheses those that it does not serve.

    Behind one that is not of the full size stands what it costs: ``a+b [0.5]``.
    """
    tasks = "+".join(task if task in group.serves else f"({task})" for task in group.tasks)
    return tasks if group.cost == 1 else f"{tasks} [{group.cost:g}]"


def find_competitors(folders: Sequence[Path], found: FoundRuns) -> Competitors:
    """The groupings whose files lie below some folders, with the networks that were found there.

    Args:
        folders: that were searched for runs.
        found: there.
    """
    notes: list[str] = []
    entries: dict[object, _Entry] = {}
    for file in _files(folders, found):
        try:
            entry = _entry(file)
        except UserError as error:
            notes.append(f"{error} It is left out.")
            continue
        settings = [
            frozenset(_settings(run).items()) for run in (entry.reference, *entry.others.values())
        ]
        known = entries.setdefault((file.parent, entry.text, *settings), entry)
        if known is not entry:
            merged = replace(known, names=(*known.names, *entry.names))
            entries[file.parent, entry.text, *settings] = merged
    runs: list[GroupedRun] = []
    for entry in entries.values():
        made, said = _made(entry, found.finished)
        runs += made
        notes += said
    return Competitors(tuple(runs), tuple(notes))


def _files(folders: Sequence[Path], found: FoundRuns) -> Iterator[Path]:
    tops = [folder.resolve() for folder in folders]
    for dataset in sorted({run_folder.parent.parent for run_folder in found.resolved}):
        if any((dataset / FOLDER).is_relative_to(top) for top in tops):
            yield from grouping_files(dataset)


def _entry(file: Path) -> _Entry:
    """Read a grouping and the settings of its networks.

    Raises:
        UserError: the file, or a run that it names, cannot be read.
    """
    grouping = Grouping.read(file)
    others = {
        group: _reference(grouping, grouping.reference_folder(file, group))
        for group in grouping.groups
        if group.reference is not None
    }
    reference = _reference(grouping, grouping.reference_folder(file))
    return _Entry((grouping.name,), grouping, file, reference, others)


def _reference(grouping: Grouping, folder: Path) -> Run:
    """The run whose settings a network has."""
    try:
        run = read_run(folder)
    except DAMAGED as error:
        raise UserError(
            f"{folder}, the reference run of grouping {grouping.name}, cannot be read."
        ) from error
    if not isinstance(run, Run):
        raise UserError(
            f"{folder}, the reference run of grouping {grouping.name}, is not there, or not "
            "finished: run it again, or write the grouping anew with `mtlrun group`."
        )
    if not run.has_config:
        raise UserError(
            f"config.yaml of {folder}, the reference run of grouping {grouping.name}, cannot be "
            "read."
        )
    return run


# -- which runs are a grouping's networks ----------------------------------------------------------

Networks = Mapping[Group, Mapping[int, Run]]
"""For each network its runs by seed."""


def _made(entry: _Entry, finished: Iterable[Run]) -> tuple[list[GroupedRun], list[str]]:
    """A run for each seed whose networks are all there, and what is to be said of the others."""
    place = entry.file.parent.parent
    near = [
        run
        for run in finished
        if (run.study, run.dataset) == (entry.reference.study, entry.reference.dataset)
        and run.has_config
        and run.folder.resolve().parent.parent == place
    ]
    # Of splits that are all alike, and those drawn by the runs' seeds, never some of both.
    ways = [_networks(entry, near, following=following) for following in (False, True)]
    networks = max(ways, key=lambda way: len(_common_seeds(way)))
    runs = [
        _grouped(entry, {group: by_seed[seed] for group, by_seed in networks.items()}, seed)
        for seed in _common_seeds(networks)
    ]
    notes = list(_missing(entry, networks))
    if runs and len(entry.text) > LONGEST:
        notes.append(f"{entry.label} are {entry.text}.")
    return runs, notes


def _common_seeds(networks: Networks) -> list[int]:
    first, *others = networks.values()
    return sorted(seed for seed in first if all(seed in by_seed for by_seed in others))


def _networks(entry: _Entry, near: Iterable[Run], *, following: bool) -> Networks:
    """For each network its runs.

    Args:
        entry: the grouping.
        near: runs of its study and dataset.
        following: whether the split is drawn by the run's seed.
    """
    fitting = [run for run in near if _same_split(run, entry.reference, following=following)]
    networks = {}
    for group in entry.grouping.groups:
        # One that was trained by itself stands before one of single-task training, and one that
        # did nothing else before one that measured affinities: it says its seconds, too.
        ordered = sorted(fitting, key=lambda run: (run.single_task, measures_affinities(run)))
        by_seed: dict[int, Run] = {}
        for run in ordered:
            if run.seed not in by_seed and _is_network(run, group, entry.reference_of(group)):
                by_seed[run.seed] = run
        networks[group] = by_seed
    return networks


def _same_split(run: Run, reference: Run, *, following: bool) -> bool:
    here, there = run.settings.get(SPLIT_SEED), reference.settings.get(SPLIT_SEED)
    return (here, there) == (str(run.seed), str(reference.seed)) if following else here == there


def _is_network(run: Run, group: Group, reference: Run) -> bool:
    """Whether a run trained a network, by itself or among those of single-task training."""
    if run.primary:  # in which other tasks count less
        return False
    if run.single_task:
        trained = len(group.tasks) == 1 and group.tasks[0] in run.metrics
    else:
        trained = set(run.metrics) == set(group.tasks)
    if not trained:
        return False

    def told(of: Run) -> dict[str, str]:
        settings = _settings(of)
        if not run.single_task:
            return settings
        # Teachers are no matter of how tasks share a network
        return {k: v for k, v in settings.items() if not of_method(k) or k.startswith("distill.")}

    return told(run) == told(reference) and _same_rows(run, reference, group)


def _same_rows(run: Run, reference: Run, group: Group) -> bool:
    """Whether a network's tasks have as many labelled rows; another split has others."""
    if run.settings.get(SPLIT_SEED) != reference.settings.get(SPLIT_SEED):
        return True
    keys = [f"{TRAIN_ROWS}{task}" for task in group.tasks]
    return all(
        run.settings.get(key) == reference.settings[key]
        for key in keys
        if key in reference.settings
    )


def _settings(run: Run) -> dict[str, str]:
    """Choices, and settings that neither its tasks nor its split decide."""
    choices = {f"{group}.": choice for group, choice in run.choices.items()}
    return {**choices, **_own_settings(run)}


def _own_settings(run: Run) -> dict[str, str]:
    return {
        key: value
        for key, value in run.settings.items()
        if key != SPLIT_SEED and not f"{key}.".startswith((f"{TASKS}.", TRAIN_ROWS))
    }


def _missing(entry: _Entry, networks: Networks) -> Iterator[str]:
    """A sentence on what has not been trained, if anything has not."""
    seeds = sorted({seed for by_seed in networks.values() for seed in by_seed})
    common = _common_seeds(networks)
    if seeds and seeds == common:
        return
    lacking = []
    for group, by_seed in networks.items():
        without = [str(seed) for seed in seeds if seed not in by_seed]
        if not by_seed:
            lacking.append(network_text(group))
        elif without:
            plural = "s" if len(without) > 1 else ""
            lacking.append(f"{network_text(group)} with seed{plural} {listing(without)}")
    has = "is in the table with" if common else "is not in the table"
    which = (
        f" seed{'s' if len(common) > 1 else ''} {listing(map(str, common))} only" if common else ""
    )
    yield (
        f"{entry.label} {has}{which}: not trained yet {'are' if len(lacking) > 1 else 'is'} "
        f"{listing(lacking)}. `mtlrun group` prints the command that trains them."
    )


# -- the run that they make ------------------------------------------------------------------------


def _grouped(entry: _Entry, networks: Mapping[Group, Run], seed: int) -> GroupedRun:
    """The networks of one seed as a run with the reference's settings."""
    reference, grouping = entry.reference, entry.grouping
    runs = {
        group: narrowed_run(run, group.tasks) if run.single_task else run
        for group, run in networks.items()
    }
    served = {task: runs[grouping.network_of(task)] for task in grouping.tasks}
    first = next(iter(runs.values()))
    of_data = {
        key: run.settings[key]
        for task, run in served.items()
        for key in (f"{TRAIN_ROWS}{task}", SPLIT_SEED)
        if key in run.settings
    }
    changed = _changed(reference)
    named = [f"{key}={value}" for key, value in (changed or {}).items()]
    return GroupedRun(
        folder=entry.file,
        study=first.study,
        dataset=first.dataset,
        method=",".join([entry.label, *named]),
        weighting=entry.label,
        changed=changed,
        architecture=reference.architecture,
        seed=seed,
        select_on=reference.select_on,
        metrics={task: run.metrics[task] for task, run in served.items()},
        headlines={
            task: run.headlines[task] for task, run in served.items() if task in run.headlines
        },
        seconds=_seconds(networks),
        machine=names(dict.fromkeys(run.machine for run in networks.values())),
        epochs_done=min(run.epochs_done for run in networks.values()),
        settings={
            **_own_settings(reference),
            **of_data,
            TASKS: ", ".join(grouping.tasks),
            GROUPING: entry.text,
        },
        choices=reference.choices,
        has_config=True,
        served=served,
    )


def _changed(reference: Run) -> dict[str, str] | None:
    """The changed settings of all its networks; None where the reference does not say."""
    if reference.changed is None:
        return None
    own = {
        key: value
        for key, value in reference.changed.items()
        if not f"{key}.".startswith((f"{TASKS}.", "engine.affinity"))
    }
    return own if reference.weighting == EQUAL else {"weighting": reference.weighting, **own}


def _seconds(networks: Mapping[Group, Run]) -> float:
    """Of all networks; NaN where single-task training trained others beside those that serve."""
    total, alone = 0.0, dict[Run, set[str]]()
    for group, run in networks.items():
        if run.single_task:
            alone.setdefault(run, set()).update(group.tasks)
        else:
            total += run.seconds
    for run, tasks in alone.items():
        total += run.seconds if tasks == set(run.metrics) else math.nan
    return total
