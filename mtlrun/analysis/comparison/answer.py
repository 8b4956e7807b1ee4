"""The finding of a comparison in words: what is best, how sure that is, which tasks lose."""

import math
from collections.abc import Iterator, Mapping, Sequence

from mtlrun.analysis.comparison.figures import MEAN_RANK, OVER_METRICS, OVER_TASKS, Figure
from mtlrun.analysis.comparison.groups import Group
from mtlrun.analysis.comparison.measured import Comparison
from mtlrun.analysis.comparison.notes import listing, seeds_text
from mtlrun.analysis.comparison.significance import LEVEL, p_text, tests_against
from mtlrun.analysis.comparison.table import Cell, CriticalDifference, PairedTest, Transfer

LISTED = 4
"""Methods that a sentence names before it counts the others."""

FEW = 3
"""Seeds of which a test says little."""


def answer(
    title: str, comparison: Comparison, transfers: Mapping[Group, Sequence[Transfer]]
) -> Iterator[str]:
    """The finding on one dataset, a sentence at a time.

    Args:
        title: of the table.
        comparison: its figures.
        transfers: what each group does to each task.
    """
    baselines = set(comparison.against.values())
    methods = [g for g in comparison.against if g not in baselines and not g.single_task]
    if not methods:
        yield from _without_delta_m(title, comparison)
        return
    best = max(methods, key=lambda group: comparison.mean(group, OVER_METRICS))
    tests = tests_against(
        best, [*methods, comparison.against[best]], comparison.samples, comparison.labels
    )
    yield _headline(title, comparison, best)
    yield from _against_baseline(comparison, best, tests)
    yield from _against_others(comparison, best, methods, tests)
    yield from _definitions(comparison, best, methods)
    yield from _tasks(comparison, methods, transfers)


def _without_delta_m(title: str, comparison: Comparison) -> Iterator[str]:
    ranked = [g for g in comparison.groups if not math.isnan(comparison.mean(g, MEAN_RANK))]
    joint = [group for group in comparison.groups if not group.single_task]
    if not joint or any(group not in comparison.no_delta_m for group in joint):
        return
    yield f"On {title}, nothing says whether joint training pays: delta_m is n/a, see the notes."
    if len(ranked) > 1:
        best = min(ranked, key=lambda group: comparison.mean(group, MEAN_RANK))
        rank = comparison.mean(best, MEAN_RANK)
        yield (
            f"{comparison.labels[best]} has the best mean rank over the "
            f"{len(comparison.metrics)} metrics, {rank:.1f} of {len(ranked)}."
        )


def _headline(title: str, comparison: Comparison, best: Group) -> str:
    label = comparison.labels[best]
    figure = _percent(comparison.statistics[best][OVER_METRICS])
    over = f"{figure} over {seeds_text(len(best.runs))}"
    if comparison.mean(best, OVER_METRICS) > 0:
        return f"On {title}, {label} is best by delta_m over metrics, {over}."
    return (
        f"No method beats {_baseline_text(comparison, best)} on {title}: the best by delta_m over "
        f"metrics is {label}, {over}."
    )


def _percent(cell: Cell) -> str:
    """``+3.10 % ± 0.40``."""
    low, high = cell.interval
    text = f"{_signed(cell.mean)} %"
    if cell.has_interval:
        return f"{text} [{_signed(low)}, {_signed(high)}]"
    return text if math.isnan(cell.deviation) else f"{text} ± {cell.deviation:.2f}"


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _baseline_text(comparison: Comparison, group: Group) -> str:
    baseline = comparison.against[group]
    return "single-task training" if baseline.single_task else comparison.labels[baseline]


def _against_baseline(
    comparison: Comparison, best: Group, tests: Mapping[Group, PairedTest]
) -> Iterator[str]:
    test = tests[comparison.against[best]]
    name = _baseline_text(comparison, best)
    if math.isnan(test.adjusted):
        return
    if test.adjusted >= LEVEL:
        yield f"That is within noise of {name} ({p_text(test.adjusted)})."
    else:
        found = "better" if test.difference < 0 else "worse"
        yield f"That is {found} than {name} ({p_text(test.adjusted)})."


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
            (f"{comparison.labels[g]} ({p_text(tests[g].adjusted)})" for g in groups), LISTED
        )

    near = [group for group in known if tests[group].adjusted >= LEVEL]
    worse = [group for group in known if tests[group].adjusted < LEVEL]
    pairs = [tests[group].pairs for group in near if tests[group].pairs]
    if near:
        all_of_them = len(near) == len(others) > LISTED
        every = f"All {len(near)} others are" if all_of_them else f"{told(near)} {_are(near)}"
        yield f"{every} within noise of it."
        if pairs and min(pairs) <= FEW:
            yield f"{min(pairs)} seeds tell little: only very large differences show."
    if worse:
        yield f"{told(worse)} {_are(worse)} worse."
    if len(best.runs) == 1:
        yield "Nothing is known of its noise: another seed may turn the order around."
    elif unknown:
        labels = listing((comparison.labels[group] for group in unknown), LISTED)
        yield f"How {labels} would do with other seeds is not known: too few were run."


def _are(groups: Sequence[Group]) -> str:
    return "is" if len(groups) == 1 else "are"


def _definitions(comparison: Comparison, best: Group, methods: Sequence[Group]) -> Iterator[str]:
    """Where the two definitions of delta_m disagree on the best, or on a sign."""

    def shown(group: Group, figure: Figure) -> str:
        return f"{_signed(comparison.mean(group, figure))} %"

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
            seen[transfer.task] = seen.get(transfer.task, 0) + 1
            if transfer.verdict == "loses":
                losing.setdefault(transfer.task, []).append(comparison.labels[group])
    always = [task for task, who in losing.items() if len(who) == seen[task]]
    if always and len(methods) > 1:
        verb = "loses" if len(always) == 1 else "lose"
        yield f"{listing(always)} {verb} against single-task training under every method."
    if len(methods) == 1:
        always = []
    rest = {task: who for task, who in losing.items() if task not in always}
    if rest:
        count = sum(map(len, rest.values()))
        total = sum(number for task, number in seen.items() if task not in always)
        told = "; ".join(f"{task} under {_some(who, seen[task])}" for task, who in rest.items())
        yield (
            f"Of {total} {'other ' if always else ''}changes of a task against single-task "
            f"training {count} "
            f"{'is a loss' if count == 1 else 'are losses'} by {'its' if count == 1 else 'their'} "
            f"95 % interval: {told}."
        )


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
        if other - rank < ranking.distance
    ]
    if not near:
        return f"{start}, ahead of all others by more than the critical difference."
    return f"{start}; not told apart from it: {listing(near)}."
