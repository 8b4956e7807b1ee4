"""From a folder of runs to what a choice of networks can rest on."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from mtlrun.analysis.comparison.groups import group_runs
from mtlrun.analysis.grouping.affinities import from_affinities, kinds_measured
from mtlrun.analysis.grouping.evidence import AFFINITIES, Evidence, narrowed, refuse_several
from mtlrun.analysis.grouping.networks import Family, Network, families, networks_of
from mtlrun.analysis.grouping.scores import Candidates, Measured, PairMeans
from mtlrun.analysis.grouping.training import command_like, dataset_folder, shown_folder
from mtlrun.analysis.runs import FoundRuns, Run, beside, find_runs
from mtlrun.errors import UserError

PERCENT = "% against training alone"


def evidence_below(
    folder: Path,
    source: str | None = None,
    wanted: Mapping[str, str] | None = None,
    *,
    cached: bool = False,
) -> Evidence:
    """What the runs below a folder say of the worth of networks.

    Args:
        folder: holds runs.
        source: one of :data:`~mtlrun.analysis.grouping.evidence.SOURCES`; None is the first that
            there is.
        wanted: settings or choices that the runs have to have, by key.
        cached: use what the user's cache knows of runs that have not changed, and add to it.

    Raises:
        UserError: there is nothing to go by, or too much to choose from.
    """
    found = find_runs([folder], cached=cached)
    runs = narrowed(found.finished, wanted or {})
    # Measuring changes no figure, so runs that measured one thing and another are alike elsewhere.
    measured = kinds_measured(runs) if source in (None, *AFFINITIES) else {}
    kind = source or next(iter(measured), None)
    if kind in AFFINITIES:
        if kind not in measured:
            raise UserError(_no_affinity(folder, str(kind), measured, runs))
        methods, twice = group_runs(measured[str(kind)])
        once = [run for method in methods for run in method.runs]
        evidence = from_affinities(str(kind), once)
        return replace(evidence, said=(*evidence.said, *twice, *_not_there(found)))
    known = families(
        _once([*runs, *(run for run in beside(runs, found.resolved) if run.single_task)])
    )
    if kind is None:
        fitting = [family for family in known if family.has_groups]
        complete = [family for family in fitting if family.has_pairs and not family.has_all_groups]
        kind = "pairs" if complete and len(complete) == len(fitting) else "runs"
        if not fitting:
            raise UserError(_nothing(folder, runs))
    evidence = _from_networks(kind, known)
    return replace(evidence, said=(*evidence.said, *_not_there(found)))


def _not_there(found: FoundRuns) -> Iterator[str]:
    """What may be missed."""
    if found.unfinished:
        count = len(found.unfinished)
        yield f"Not finished, and left out: {count} {'run' if count == 1 else 'runs'}."
    yield from found.unreadable


def _once(runs: Sequence[Run]) -> list[Run]:
    """One run for each method and seed; of splits drawn by the run's seed, this said in words."""
    methods, _ = group_runs(runs)
    return [run for method in methods for run in method.runs]


def _from_networks(source: str, known: Sequence[Family]) -> Evidence:
    """Networks by what they were measured to be worth, or predicted to be from pairs.

    Raises:
        UserError: no family has what is needed, or several have.
    """
    fitting = [f for f in known if (f.has_pairs if source == "pairs" else f.has_groups)]
    if not fitting:
        raise UserError(_missing(source, known))
    if len(fitting) > 1:
        refuse_several("runs of groups of tasks", [family.example for family in fitting])
    (family,) = fitting
    networks, left_out = networks_of(family)
    whole: Mapping[str, float] | None = None
    if source == "pairs":
        networks = [n for n in networks if len(n.tasks) <= 2 or not n.full_size]
        means, candidates = _from_pairs(family.tasks, networks)
        predicted = means.values(np.ones(len(family.tasks), dtype=bool))
        whole = dict(zip(family.tasks, map(float, predicted), strict=True))
    else:
        candidates = _by_cost(family.tasks, networks)
        whole = next((n.values for n in networks if n.tasks == family.tasks and n.full_size), None)
    seeds = sorted({seed for network in networks for seed in network.runs})
    reference = family.full.get(family.tasks)
    return Evidence(
        source=source,
        tasks=family.tasks,
        candidates=candidates,
        unit=PERCENT,
        reference=reference[min(reference)] if reference else family.example,
        seeds=tuple(seeds),
        said=(_told(source, family, networks, seeds), _costs_told(family, networks), *left_out),
        all_in_one=whole,
        alone=dict.fromkeys(family.tasks, 0.0),
        other_sizes={
            (network.tasks, network.cost): network.runs[min(network.runs)]
            for network in networks
            if not network.full_size
        },
    )


def _from_pairs(
    tasks: Sequence[str], networks: Sequence[Network]
) -> tuple[PairMeans, list[Candidates]]:
    """All networks by the mean of their pairs, and cheaper ones as they were measured."""
    place = {task: at for at, task in enumerate(tasks)}
    worth = np.zeros((len(tasks), len(tasks)))
    alone = np.full(len(tasks), -np.inf)
    known = set()
    for network in networks:
        if len(network.tasks) == 1 and network.cost == 1:
            alone[place[network.tasks[0]]] = network.values[network.tasks[0]]
        elif len(network.tasks) == 2 and network.full_size:
            known.add(frozenset(network.tasks))
            for task, other in (network.tasks, network.tasks[::-1]):
                worth[place[task], place[other]] = network.values[task]
    for pair in combinations(tasks, 2):
        if frozenset(pair) not in known:
            raise UserError(
                f"{' and '.join(pair)} were trained together, but with no seed that was also "
                "trained alone. Train both with the same seeds."
            )
    means = PairMeans(worth, alone)
    cheaper = [network for network in networks if network.cost != 1]
    return means, [means, *_by_cost(tasks, cheaper)]


def _by_cost(tasks: Sequence[str], networks: Sequence[Network]) -> list[Candidates]:
    place = {task: at for at, task in enumerate(tasks)}
    return [
        Measured.of(
            [
                {place[task]: value for task, value in network.values.items()}
                for network in networks
                if network.cost == cost
            ],
            len(tasks),
            cost,
        )
        for cost in sorted({network.cost for network in networks})
    ]


# -- what is said ----------------------------------------------------------------------------------


def _told(source: str, family: Family, networks: Sequence[Network], seeds: Sequence[int]) -> str:
    joint = sum(len(network.tasks) > 1 for network in networks)
    what = (
        "every two tasks, and larger groups predicted from these"
        if source == "pairs"
        else (f"{joint} groups of tasks, as they were trained")
    )
    split = "test" if family.example.select_on == "test" else "validation"
    return (
        f"By figures of {what}, on the {split} split, against each task alone: "
        f"{family.example.method} in {shown_folder(dataset_folder(family.example))}, seed "
        f"{', '.join(map(str, seeds))}."
    )


def _costs_told(family: Family, networks: Sequence[Network]) -> str:
    """What networks cost, by how many tasks they have and the size of their backbone."""
    kinds: dict[tuple[str, float], list[float]] = {}
    for network in networks:
        count = len(network.tasks)
        kind = "one task" if count == 1 else "several tasks"
        size = "" if network.full_size else " with another backbone"
        kinds.setdefault((f"{kind}{size}", network.cost), []).append(network.operations)
    parts = []
    for (kind, cost), shares in kinds.items():
        low, high = f"{min(shares):.2f}", f"{max(shares):.2f}"
        of = "unknown" if math.isnan(sum(shares)) else low if low == high else f"{low} to {high}"
        parts.append(f"{kind} {of}, counted as {cost:g}")
    whole = "the network of all tasks" if family.tasks in family.full else "the largest network"
    return f"Forward operations of a row, in those of {whole}: {'; '.join(parts)}."


def _no_affinity(
    folder: Path, kind: str, measured: Mapping[str, Sequence[Run]], runs: Sequence[Run]
) -> str:
    others = f" There is {', '.join(measured)}: --from {next(iter(measured))}." if measured else ""
    return (
        f"No finished run below {folder} measured the {AFFINITIES[kind]}.{others} To measure it: "
        f"{_like(runs, f'engine.affinity={kind}')}"
    )


def _nothing(folder: Path, runs: Sequence[Run]) -> str:
    return (
        f"Nothing below {folder} says which tasks help each other. Measure it while all are "
        f"trained together ({_like(runs, 'engine.affinity=tag')}), or train every two of them "
        f"({_like(runs, '+sweep=pairs')})."
    )


def _like(runs: Sequence[Run], more: str) -> str:
    """A command with the settings of the first joint run, where there is one."""
    joint = next((run for run in runs if not run.single_task), None)
    return command_like(joint, more) if joint else f"mtlrun {more} dataset=NAME"


def _missing(source: str, known: Sequence[Family]) -> str:
    """What ``--from pairs`` or ``--from runs`` lacks."""
    groups = [family for family in known if family.has_groups]
    if source == "pairs" and groups:
        most = max(groups, key=lambda family: sum(len(tasks) == 2 for tasks in family.full))
        lacking = [pair for pair in combinations(most.tasks, 2) if pair not in most.full]
        shown = ", ".join("+".join(pair) for pair in lacking[:6])
        return (
            f"Not every two tasks were trained together with the settings of {most.example.folder}:"
            f" {shown}{' and more are' if lacking[6:] else ' is' if not lacking[1:] else ' are'} "
            f"missing. Train them, {command_like(most.example, '+sweep=pairs')}; or go by the "
            "groups that are there with --from runs."
        )
    runs = [family.example for family in known]
    return (
        "There is no run of some of the tasks. Train every two of them "
        f"({_like(runs, '+sweep=pairs')}), or every group ({_like(runs, '+sweep=groups')})."
    )
