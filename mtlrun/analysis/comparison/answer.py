"""The finding of a comparison in words: what is best, how sure that is, which tasks lose."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from mtlrun.analysis.comparison.figures import MEAN_RANK, OVER_METRICS, OVER_TASKS, Figure
from mtlrun.analysis.comparison.groups import Group
from mtlrun.analysis.comparison.measured import Comparison
from mtlrun.analysis.comparison.notes import listing, metrics_text, seeds_text
from mtlrun.analysis.comparison.significance import LEVEL, p_text, tests_against
from mtlrun.analysis.comparison.table import (
    Cell,
    Column,
    CriticalDifference,
    PairedTest,
    Transfer,
    format_number,
    format_spread,
)

LISTED = 4
"""Methods that a sentence names before it counts the others."""

MOST_TASKS = 5
"""Losing tasks that a sentence names before it counts the others."""

CHANCE = 0.025
"""The part of 95 % intervals that lie below 0 where nothing changes."""

FEW = 3
"""Seeds of which a test says little."""

CHANGE = Column(*OVER_METRICS, decimals=2, signed=True)
"""How a delta_m is written."""


def answer(
    title: str, comparison: Comparison, transfers: Mapping[Group, Sequence[Transfer]]
) -> Iterator[str]:
    """The finding on one dataset, a sentence at a time.

    Args:
        title: of the table.
        comparison: its figures.
        transfers: what each group does to each task.
    """
    comparison = replace(comparison, labels=comparison.spoken)
    baselines = set(comparison.against.values())
    methods = [g for g in comparison.against if g not in baselines and not g.single_task]
    if not methods:
        yield from _without_delta_m(title, comparison)
        return
    best = max(methods, key=lambda group: comparison.mean(group, OVER_METRICS))
    tests = tests_against(
        best, [*methods, comparison.against[best]], comparison.samples, comparison.labels
    )
    yield _headline(title, comparison, best, alone=len(methods) == 1)
    yield from _against_baseline(comparison, best, tests)
    yield from _against_others(comparison, best, methods, tests)
    yield from _definitions(comparison, best, methods)
    yield from _tasks(comparison, methods, transfers)
    yield from _not_judged(comparison)


def _without_delta_m(title: str, comparison: Comparison) -> Iterator[str]:
    ranked = [g for g in comparison.groups if not math.isnan(comparison.mean(g, MEAN_RANK))]
    joint = [group for group in comparison.groups if not group.single_task]
    if not joint or any(group not in comparison.no_delta_m for group in joint):
        return
    yield f"On {title}, nothing says whether joint training pays: delta_m is n/a, see the notes."
    if len(ranked) > 1:
        rank = min(comparison.mean(group, MEAN_RANK) for group in ranked)
        first = [comparison.labels[g] for g in ranked if comparison.mean(g, MEAN_RANK) == rank]
        have = "has" if len(first) == 1 else "share"
        metrics = metrics_text(len(comparison.judged.metrics(comparison.metrics)))
        yield (
            f"{listing(first, LISTED)} {have} the best mean rank over {metrics}, {rank:.1f} of "
            f"{len(ranked)}."
        )


def _headline(title: str, comparison: Comparison, best: Group, *, alone: bool) -> str:
    label, baseline = comparison.labels[best], _baseline_text(comparison, best)
    figure = _percent(comparison.statistics[best][OVER_METRICS])
    seeds = seeds_text(len(best.runs))
    if alone:
        change = f"a delta_m over metrics of {figure} against {baseline}"
        return f"On {title}, {label} has {change}, over {seeds}."
    if comparison.mean(best, OVER_METRICS) > 0:
        return f"On {title}, {label} is best by delta_m over metrics, {figure} over {seeds}."
    return (
        f"No method beats {baseline} on {title}: the best by delta_m over metrics is {label}, "
        f"{figure} over {seeds}."
    )


def _percent(cell: Cell) -> str:
    """``+3.10 % ± 0.40``."""
    return f"{format_number(cell.mean, CHANGE)} % {format_spread(cell, CHANGE)}".rstrip()


def _baseline_text(comparison: Comparison, group: Group) -> str:
    baseline = comparison.against[group]
    return "single-task training" if baseline.single_task else comparison.labels[baseline]


def _against_baseline(
    comparison: Comparison, best: Group, tests: Mapping[Group, PairedTest]
) -> Iterator[str]:
    baseline, name = comparison.against[best], _baseline_text(comparison, best)
    test = tests.get(baseline)  # of more tasks it may have no delta_m itself
    if test is None or len(best.runs) == 1:
        return
    if math.isnan(test.adjusted):
        why = (
            "was run with one seed" if len(baseline.runs) == 1 else "differs by the same each time"
        )
        yield f"Whether that is more than noise is not known: {name} {why}."
        return
    p, better = _p_text(test, best, baseline), test.difference < 0
    if test.adjusted >= LEVEL:
        yield f"That is within noise of {name} ({p})."
    elif better == (comparison.mean(best, OVER_METRICS) > 0):
        yield f"That is {'better' if better else 'worse'} than {name} ({p})."
    else:  # the seeds that only one of them has turn the means around
        yield f"Seed by seed, it is {'better' if better else 'worse'} than {name} ({p})."


def _p_text(test: PairedTest, best: Group, other: Group) -> str:
    """The p-value, and over how many seeds where that is not all of both."""
    all_of_them = test.pairs in (0, max(len(best.runs), len(other.runs)))
    shared = "" if all_of_them else f" over the {test.pairs} seeds that both have"
    return f"{p_text(test.adjusted)}{shared}"


def _against_others(
    comparison: Comparison,
    best: Group,
    methods: Sequence[Group],
    tests: Mapping[Group, PairedTest],
) -> Iterator[str]:
    others = [group for group in methods if group is not best]
    others.sort(key=lambda group: -comparison.mean(group, OVER_METRICS))
    unknown = [group for group in others if math.isnan(tests[group].adjusted)]
    known = [group for group in others if group not in unknown]

    def told(groups: Sequence[Group]) -> str:
        return listing(
            (f"{comparison.labels[g]} ({_p_text(tests[g], best, g)})" for g in groups), LISTED
        )

    near = [group for group in known if tests[group].adjusted >= LEVEL]
    beyond = [group for group in known if tests[group].adjusted < LEVEL]
    worse = [group for group in beyond if tests[group].difference < 0]
    better = [group for group in beyond if group not in worse]  # but for seeds that one of them has
    pairs = [tests[group].pairs for group in near if tests[group].pairs]
    if near:
        all_of_them = len(near) == len(others) > LISTED
        every = f"All {len(near)} others are" if all_of_them else f"{told(near)} {_are(near)}"
        yield f"{every} within noise of it."
        if pairs and min(pairs) <= FEW:
            yield f"{min(pairs)} seeds tell little: only very large differences show."
    if worse:
        yield f"{told(worse)} {_are(worse)} worse."
    if better:
        yield f"Seed by seed, {told(better)} {_are(better)} better than it."
    if len(best.runs) == 1:
        yield "Nothing is known of its noise: another seed may turn the order around."
        return
    once = [group for group in unknown if len(group.runs) == 1]
    always = [group for group in unknown if group not in once]
    if once:
        labels = listing((comparison.labels[group] for group in once), LISTED)
        yield f"How {labels} would do with other seeds is not known: one was run."
    if always:
        labels = listing((comparison.labels[group] for group in always), LISTED)
        verb = "differs" if len(always) == 1 else "differ"
        yield f"{labels} {verb} from it by the same each time, which no test can judge."


def _are(groups: Sequence[Group]) -> str:
    return "is" if len(groups) == 1 else "are"


def _definitions(comparison: Comparison, best: Group, methods: Sequence[Group]) -> Iterator[str]:
    """Where the two definitions of delta_m disagree on the best, or on a sign."""

    def shown(group: Group, figure: Figure) -> str:
        return f"{format_number(comparison.mean(group, figure), CHANGE)} %"

    other = max(methods, key=lambda group: comparison.mean(group, OVER_TASKS))
    if shown(other, OVER_TASKS) != shown(best, OVER_TASKS):
        yield (
            f"By delta_m over tasks {comparison.labels[other]} is best instead, "
            f"{shown(other, OVER_TASKS)} against {shown(best, OVER_TASKS)}."
        )
    torn = [
        f"{comparison.labels[group]} ({shown(group, OVER_METRICS)} over metrics, "
        f"{shown(group, OVER_TASKS)} over tasks)"
        for group in methods
        if round(comparison.mean(group, OVER_METRICS), 2)
        * round(comparison.mean(group, OVER_TASKS), 2)
        < 0
    ]
    if torn:
        yield f"The two definitions of delta_m disagree on the sign: {listing(torn, LISTED)}."


def _tasks(
    comparison: Comparison,
    methods: Sequence[Group],
    transfers: Mapping[Group, Sequence[Transfer]],
) -> Iterator[str]:
    """Which tasks lose against single-task training, beyond the noise of the seeds."""
    seen: dict[str, int] = {}
    losing: dict[str, list[str]] = {}
    for group in methods:
        for transfer in transfers.get(group, ()):
            if transfer.task not in comparison.judged.tasks[group]:
                continue
            seen[transfer.task] = seen.get(transfer.task, 0) + 1
            if transfer.verdict == "loses":
                losing.setdefault(transfer.task, []).append(comparison.labels[group])
    always = [task for task, who in losing.items() if len(who) == len(methods)]
    if always and len(methods) > 1:
        verb = "loses" if len(always) == 1 else "lose"
        yield f"{listing(always)} {verb} against single-task training under every method."
    if len(methods) == 1:
        always = []
    rest = {task: who for task, who in losing.items() if task not in always}
    if rest:
        count = sum(map(len, rest.values()))
        total = sum(number for task, number in seen.items() if task not in always)
        told = [f"{task} under {_some(who, seen[task])}" for task, who in rest.items()]
        more = [f"{len(told) - MOST_TASKS} more tasks"] if len(told) > MOST_TASKS + 1 else []
        chance = f"{CHANCE * total:.2g}" if CHANCE * total < 10 else f"{CHANCE * total:.0f}"
        listed = "; ".join([*(told[:MOST_TASKS] if more else told), *more])
        yield (
            f"Of {total} {'other ' if always else ''}changes of a task against single-task "
            f"training {count} "
            f"{'is a loss' if count == 1 else 'are losses'} by {'its' if count == 1 else 'their'} "
            f"95 % interval, where chance alone gives {chance}: {listed}."
        )


def _not_judged(comparison: Comparison) -> Iterator[str]:
    """Which methods the finding leaves out, since they have no delta_m."""
    left_out = [group for group in comparison.no_delta_m if not group.single_task]
    if left_out:
        have = "has" if len(left_out) == 1 else "have"
        labels = listing((comparison.labels[group] for group in left_out), LISTED)
        yield f"{labels} {have} no delta_m, see the notes, and {_are(left_out)} not judged here."


def _some(labels: Sequence[str], of: int) -> str:
    return listing(labels) if len(labels) <= LISTED else f"{len(labels)} of {of} methods"


def overall_answer(ranking: CriticalDifference, datasets: Sequence[str]) -> str:
    """What the ranking over several datasets says, in a sentence."""
    first, rank = ranking.labels[0], ranking.ranks[0]
    start = (
        f"Over {listing(datasets)}, {first} has the best mean rank, {rank:.2f} of "
        f"{len(ranking.labels)} methods"
    )
    if ranking.p >= LEVEL:
        return f"{start}; Friedman's test finds no difference between them ({p_text(ranking.p)})."
    near = [
        label
        for label, other in zip(ranking.labels[1:], ranking.ranks[1:], strict=True)
        if other - rank <= ranking.distance
    ]
    if not near:
        return f"{start}, ahead of all others by more than the critical difference."
    return f"{start}; not told apart from it: {listing(near)}."
