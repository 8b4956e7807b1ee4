"""Ranking methods over tasks and seeds: Friedman's test and Nemenyi's critical difference."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mtlrun.analysis.comparison.figures import Figure, Samples
from mtlrun.analysis.comparison.groups import Group
from mtlrun.analysis.comparison.notes import listing, names
from mtlrun.analysis.comparison.significance import LEVEL, p_text
from mtlrun.analysis.comparison.table import CriticalDifference
from mtlrun.analysis.statistics.ranking import critical_difference

LEAST_METHODS, LEAST_BLOCKS = 3, 4
OF = "the headline metric of a task under a seed"
DEPENDENT = "tasks of one network and seeds on one dataset are not independent, so p is too small"


@dataclass(frozen=True)
class Blocks:
    """Scores that can be ranked, higher is better.

    Attributes:
        labels: of the methods.
        scores: for each method one a block.
    """

    labels: tuple[str, ...]
    scores: Mapping[str, Sequence[float]]

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(next(iter(self.scores.values()), ()))

    def ranking(self, of: str) -> CriticalDifference | None:
        """None where there are too few methods or blocks."""
        if len(self.labels) < LEAST_METHODS or self.count < LEAST_BLOCKS:
            return None
        rows = list(zip(*(self.scores[label] for label in self.labels), strict=True))
        return critical_difference(self.labels, rows, f"{of}; {DEPENDENT}")


def blocks_of(
    groups: Sequence[Group],
    samples: Samples,
    labels: Mapping[Group, str],
    judged: Mapping[Group, Collection[str]],
) -> Blocks:
    """A block for each task and seed: the task's headline metric, by which models are selected.

    Only tasks that a group is judged by count. Methods that lack seeds are left out, or else seeds
    that methods lack, whichever ranks more figures; methods without a figure are left out.
    """
    whole = {}
    for group in groups:
        scores = _scores(group, samples, judged[group])
        if not any(map(math.isnan, scores.values())):
            whole[group] = scores
    tasks = max((set(judged[group]) for group in whole), key=len, default=set())
    whole = {group: scores for group, scores in whole.items() if set(judged[group]) == tasks}

    def having(seeds: frozenset[int]) -> list[Group]:
        return [group for group in whole if seeds <= set(group.seeds)]

    kept: frozenset[int] = max(
        {frozenset(group.seeds) for group in whole},
        key=lambda seeds: (len(seeds) * len(having(seeds)), len(seeds), sorted(seeds)),
        default=frozenset(),
    )
    order = [(task, seed) for task in sorted(tasks) for seed in sorted(kept)]
    ranked = having(kept)
    scores_of = {labels[group]: [whole[group][block] for block in order] for group in ranked}
    return Blocks(tuple(labels[group] for group in ranked), scores_of)


def _scores(group: Group, samples: Samples, tasks: Collection[str]) -> dict[tuple[str, int], float]:
    """For each task and seed its headline metric, turned so that higher is better."""
    scores = {}
    of_task: dict[str, dict[str, Figure]] = {}
    for figure in samples[group]:
        of_task.setdefault(figure.group, {})[figure.name] = figure
    for at, run in enumerate(group.runs):
        for task, metrics in run.metrics.items():
            if task not in tasks:
                continue
            headline = run.headlines.get(task, "")
            figure = of_task[task][headline if headline in metrics else next(iter(metrics))]
            value = samples[group][figure][at]
            scores[task, run.seed] = value if figure.better == "higher" else -value
    return scores


def over_datasets(blocks: Mapping[str, Blocks]) -> tuple[CriticalDifference | None, list[str]]:
    """The ranking over several tables of the methods that all of them have, and which they are.

    Args:
        blocks: of each table, by its title; those of too few methods are left out.
    """
    used = {title: of for title, of in blocks.items() if len(of.labels) >= LEAST_METHODS}
    if len(used) < 2:
        return None, []
    first, *others = used.values()
    common = tuple(
        label for label in first.labels if all(label in other.labels for other in others)
    )
    scores = {label: [s for of in used.values() for s in of.scores[label]] for label in common}
    return Blocks(common, scores).ranking(f"{OF} in one of {len(used)} tables"), list(used)


def ranking_text(ranking: CriticalDifference) -> str:
    """What a critical difference diagram shows, in words."""
    ranks = names(
        (f"{label} {rank:.2f}" for label, rank in zip(ranking.labels, ranking.ranks, strict=True)),
        limit=8,
    )
    start = f"Mean ranks over {ranking.blocks} blocks, each {ranking.of}: {ranks}."
    found = f"Friedman's test that all are equal: {p_text(ranking.p)}."
    if ranking.p >= LEVEL:
        return f"{start} {found}"
    if not ranking.cliques:
        return f"{start} {found} All of them differ (Nemenyi, 5 %, {ranking.distance:.2f} ranks)."
    groups = listing(
        (
            f"from {ranking.labels[first]} down to {ranking.labels[last]}"
            for first, last in ranking.cliques
        ),
        4,
    )
    return (
        f"{start} {found} Those less than {ranking.distance:.2f} ranks apart do not differ "
        f"(Nemenyi, 5 %): {groups}."
    )
