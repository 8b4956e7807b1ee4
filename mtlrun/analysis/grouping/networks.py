"""Networks that were trained: what each is worth to its tasks, and what it costs."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from mtlrun.analysis.comparison.groups import Group as Method
from mtlrun.analysis.comparison.groups import group_runs, lends_to, nearest
from mtlrun.analysis.grouping.evidence import result_of
from mtlrun.analysis.grouping.training import command_like
from mtlrun.analysis.objective import Selected, selected_figures
from mtlrun.analysis.runs import Run
from mtlrun.analysis.statistics.delta_m import Figures, NoChangeError, changes_between
from mtlrun.errors import UserError

BySeed = Mapping[int, Run]
Names = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Family:
    """Runs of groups of tasks that differ in these, and in the size of their backbone.

    Attributes:
        sizes: the runs by their backbone, the full one first; each by its tasks, then by seed.
        alone: single-task training to compare with, by seed; empty where there is none.
        tasks: all that its runs train, in the dataset's order.
    """

    sizes: tuple[Mapping[Names, BySeed], ...]
    alone: BySeed
    tasks: Names

    @property
    def full(self) -> Mapping[Names, BySeed]:
        """Networks of the full size by their tasks."""
        return self.sizes[0]

    @property
    def has_pairs(self) -> bool:
        """Whether every two tasks were trained together."""
        return len(self.tasks) > 1 and all(
            pair in self.full for pair in combinations(self.tasks, 2)
        )

    @property
    def has_all_groups(self) -> bool:
        """Whether every group of two tasks and more was trained."""
        known = len([tasks for tasks in self.full if len(tasks) > 1])
        return known == (1 << len(self.tasks)) - len(self.tasks) - 1

    @property
    def has_groups(self) -> bool:
        """Whether some of the tasks, but not all, were trained together."""
        return any(1 < len(tasks) < len(self.tasks) for size in self.sizes for tasks in size)

    @property
    def example(self) -> Run:
        """The run of most tasks, of the full size and the lowest seed."""
        runs = self.full[max(self.full, key=len)]
        return runs[min(runs)]


@dataclass(frozen=True)
class Network:
    """A network that was trained.

    Attributes:
        tasks: that it has.
        operations: of a row's forward pass, in those of the full network; NaN where unknown.
        values: for each of its tasks the mean change of its metrics in percent, against training
            it alone, over the seeds; figures are of the split that selected the models.
        runs: by seed.
        full_size: whether it has the full backbone.
    """

    tasks: Names
    operations: float
    values: Mapping[str, float]
    runs: BySeed
    full_size: bool = True

    @property
    def cost(self) -> float:
        """In full networks, to the nearest half."""
        if math.isnan(self.operations):
            return 1.0
        return max(0.5, math.floor(2 * self.operations + 0.5) / 2)


def families(runs: Sequence[Run]) -> list[Family]:
    """Runs that differ in their tasks alone, or in these and the backbone."""
    joint: dict[object, list[Run]] = {}
    for run in runs:
        if not run.single_task and run.has_config and not run.primary:
            joint.setdefault((run.study, run.dataset, _rest(run)), []).append(run)
    singles = [run for run in runs if run.single_task]
    return [_family(members, singles) for members in joint.values()]


def _rest(run: Run) -> frozenset[tuple[str, str]]:
    free = ("tasks", "train_rows", "backbone")
    told = {**run.choices, **run.settings}
    return frozenset((key, value) for key, value in told.items() if key.split(".")[0] not in free)


def _family(runs: Sequence[Run], singles: Sequence[Run]) -> Family:
    sizes: dict[object, dict[Names, dict[int, Run]]] = {}
    for run in runs:
        told = {**run.choices, **run.settings}
        backbone = frozenset(part for part in told.items() if part[0].split(".")[0] == "backbone")
        networks = sizes.setdefault(backbone, {})
        networks.setdefault(tuple(run.metrics), {}).setdefault(run.seed, run)
    ordered = sorted(
        sizes.values(),
        key=lambda size: (max(map(len, size)), max(map(_operations, size.values()))),
        reverse=True,
    )
    longest = sorted(ordered[0], key=len, reverse=True)
    tasks = tuple(dict.fromkeys(task for one in longest for task in one))
    known = set(tasks)
    alone = _alone(ordered[0], singles)
    if alone:  # in the dataset's order, which a run of some tasks may not tell
        order = list(next(iter(alone.values())).metrics)
        tasks = tuple(sorted(known, key=order.index))
    in_order = [
        {tuple(task for task in tasks if task in of): by_seed for of, by_seed in size.items()}
        for size in ordered
    ]
    return Family(tuple(in_order), alone, tasks)


def _alone(networks: Mapping[Names, BySeed], singles: Sequence[Run]) -> dict[int, Run]:
    """The single-task runs whose settings are most like those of some networks."""
    trained, _ = group_runs([run for by_seed in networks.values() for run in by_seed.values()])
    alone, _ = group_runs(singles)
    fitting = [
        single
        for single in alone
        if single.study == trained[0].study
        and single.dataset == trained[0].dataset
        and all(lends_to(single, method, pool=False) for method in trained)
    ]
    chosen: Method | None = nearest(max(trained, key=lambda method: len(method.tasks)), fitting)
    return {run.seed: run for run in chosen.runs} if chosen else {}


# -- what they are worth, and cost -----------------------------------------------------------------


def networks_of(family: Family) -> tuple[list[Network], list[str]]:
    """The networks of a family, of the same tasks and cost the one with the greater backbone.

    Single-task training gives a network of each task.

    Returns:
        the networks, and sentences on what was left out.

    Raises:
        UserError: it is not known what the tasks are worth alone.
    """
    alone = _figures_alone(family)
    whole = family.full.get(family.tasks) or max(family.full.values(), key=_operations)
    unit = _operations(whole)
    found: dict[tuple[Names, float], Network] = {}
    said = []
    for network in [*_singles(family, unit), *_joint(family, alone, unit)]:
        if not network.runs:
            said.append(f"{'+'.join(network.tasks)}: no seed was also trained alone, left out.")
        elif not all(map(math.isfinite, network.values.values())):
            said.append(f"{'+'.join(network.tasks)}: a figure is missing or infinite, left out.")
        else:
            found.setdefault((network.tasks, network.cost), network)
    return list(found.values()), [*said, *_seeds_told(family, list(found.values()), set(alone))]


def _seeds_told(
    family: Family, networks: Sequence[Network], alone: Collection[int]
) -> Iterator[str]:
    """Which seeds do not count, and which means are over fewer of them than others."""
    trained = {seed for size in family.sizes for runs in size.values() for seed in runs}
    without = ", ".join(str(seed) for seed in sorted(trained - set(alone)))
    if without:
        yield f"Left out, as not every task was trained alone with it: seed {without}."
    joint = [network for network in networks if len(network.tasks) > 1]
    most = {seed for network in joint for seed in network.runs}
    fewer = [
        f"{'+'.join(network.tasks)} (seed {', '.join(map(str, sorted(network.runs)))})"
        for network in joint
        if set(network.runs) != most
    ]
    if fewer:
        yield f"Over fewer seeds than others, so less sure: {', '.join(fewer)}."


def _singles(family: Family, unit: float) -> Iterator[Network]:
    if family.alone:
        count = len(next(iter(family.alone.values())).metrics)
        share = _operations(family.alone) / count / unit
        for task in family.tasks:
            yield Network((task,), share, {task: 0.0}, family.alone)


def _joint(family: Family, alone: Mapping[int, Figures], unit: float) -> Iterator[Network]:
    for at, size in enumerate(family.sizes):
        for tasks, by_seed in size.items():
            shared = {seed: run for seed, run in by_seed.items() if seed in alone}
            changes = [_changes(run, alone[seed]) for seed, run in shared.items()]
            values = {task: fmean(one[task] for one in changes) for task in tasks if changes}
            yield Network(tasks, _operations(by_seed) / unit, values, shared, at == 0)


def _figures_alone(family: Family) -> dict[int, Figures]:
    """By seed the figures of each task that was trained alone."""
    if family.alone:
        return {seed: _selected(run).figures for seed, run in family.alone.items()}
    single = [family.full.get((task,), {}) for task in family.tasks]
    seeds = set.intersection(*(set(runs) for runs in single))
    if not seeds:
        run = family.example
        trained = sorted({seed for by_seed in family.full.values() for seed in by_seed})
        raise UserError(
            "It is not known what the tasks are worth alone, which groups are compared with: "
            f"there is no single-task run with the settings of {run.folder}. Train it: "
            f"{command_like(run, alone=True, seeds=trained)}"
        )
    return {
        seed: {
            task: _selected(runs[seed]).figures[task]
            for task, runs in zip(family.tasks, single, strict=True)
        }
        for seed in seeds
    }


def _changes(run: Run, alone: Figures) -> dict[str, float]:
    """For each task of a run the mean change of its metrics."""
    ours = _selected(run)
    try:
        changes = changes_between(ours.figures, alone, ours.higher_is_better)
    except NoChangeError as none:
        value = "missing" if math.isnan(none.value) else f"{none.value:g}"
        raise UserError(
            f"{none.task} {none.metric} is {value} where {none.task} is trained alone with seed "
            f"{run.seed}, and no change is relative to that. Repeat the run that did so, or leave "
            "its seed out by giving a folder without it."
        ) from none
    return {task: fmean(metrics.values()) for task, metrics in changes.items()}


def _selected(run: Run) -> Selected:
    try:
        return selected_figures(run.folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{run.folder} cannot be read ({error}). Delete it and repeat the command that made it."
        ) from error


def _operations(by_seed: BySeed) -> float:
    """Of a row's forward pass; NaN where unknown."""
    value = result_of(by_seed[min(by_seed)]).get("forward_flops")
    return float(value) if isinstance(value, int | float) and value > 0 else math.nan
