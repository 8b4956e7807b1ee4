"""Names that a user gives: metrics to show, the column to sort by, the reference."""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from mtlrun.analysis.comparison.figures import OVER_METRICS, Figure
from mtlrun.analysis.comparison.groups import Group
from mtlrun.analysis.comparison.measured import Comparison, Options
from mtlrun.analysis.comparison.table import Column
from mtlrun.errors import UserError, did_you_mean

WORDS = ("method", "study", "seeds")
"""What rows can be sorted by beside their figures."""


def check_wanted(comparisons: Sequence[Comparison], options: Options) -> None:
    """Refuse names that no table has.

    Raises:
        UserError: names the first of them, and what there is.
    """
    metrics = list(dict.fromkeys(figure for each in comparisons for figure in each.metrics))
    for pattern in options.columns:
        if not any(_matches(figure, pattern) for figure in metrics):
            known = [key_of(figure) for figure in metrics]
            raise UserError(
                f"--metrics {pattern}: no run has such a metric. " + _known(pattern, known)
            )
    tasks = list(dict.fromkeys(figure.group for figure in metrics))
    for task in options.tasks:
        if task not in tasks:
            raise UserError(f"--tasks {task}: no run has such a task. {_known(task, tasks)}")
    figures = list(dict.fromkeys(figure for each in comparisons for figure in each.figures()))
    if options.sort is not None and options.sort not in WORDS:
        found = _called(figures, options.sort)
        known = [*map(key_of, figures), *WORDS]
        if not found:
            raise UserError(
                f"--sort {options.sort}: there is no such column. {_known(options.sort, known)}"
            )
        if len(found) > 1:
            several = ", ".join(map(key_of, found))
            raise UserError(f"--sort {options.sort} names several columns: {several}. Give one.")
    if options.reference is not None:
        names = [
            name for each in comparisons for group in each.groups for name in each.names(group)
        ]
        if options.reference not in names:
            raise UserError(
                f"--reference {options.reference}: there is no such row. "
                f"{_known(options.reference, list(dict.fromkeys(names)))}"
            )


def _known(word: str, known: Sequence[str]) -> str:
    """:func:`did_you_mean` where there may be hundreds of words."""
    if len(known) <= 30:
        return did_you_mean(word, known)
    hint = did_you_mean(word, known).split("Known:")[0]
    return f"{hint}Known: {', '.join(known[:30])} and {len(known) - 30} more."


def key_of(figure: Figure) -> str:
    """The key of a figure's column: ``depth/rmse``."""
    return Column(*figure, decimals=0).key


def _matches(figure: Figure, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (figure.name, key_of(figure)))


def shown_figures(comparison: Comparison) -> list[Figure]:
    """The columns to show: all, or the metrics asked for and what is not of a metric."""
    patterns = comparison.options.columns
    metrics = set(comparison.metrics)
    return [
        figure
        for figure in comparison.figures()
        if not patterns
        or figure not in metrics
        or any(_matches(figure, pattern) for pattern in patterns)
    ]


def _called(figures: Sequence[Figure], name: str) -> list[Figure]:
    """The columns of a name, whichever way it is written."""
    wanted = name.lower().replace(" ", "_")
    found = [f for f in figures if wanted == key_of(f).lower()]
    if wanted == "delta_m":
        return [OVER_METRICS]
    return found or [f for f in figures if wanted == f.name.lower().replace(" ", "_")]


def ordered(comparison: Comparison) -> list[Group]:
    """The rows as the user wants them, best first.

    By default what the others are compared with comes first, then by delta_m. Rows of different
    tasks go by their number of tasks instead.
    """
    sort = comparison.options.sort
    labels = comparison.labels
    if sort is not None:
        if sort == "seeds":
            return sorted(comparison.groups, key=lambda g: (-len(g.runs), labels[g]))
        if sort in WORDS:
            study = sort == "study"
            return sorted(comparison.groups, key=lambda g: (g.study if study else "", labels[g]))
        found = _called(list(comparison.figures()), sort)
        if found:
            return sorted(
                comparison.groups, key=lambda g: (_rank(comparison, g, found[0]), labels[g])
            )
    first = comparison.baselines.candidates
    if not comparison.ranked:
        tasks = list(dict.fromkeys(figure.group for figure in comparison.metrics))
        return sorted(
            comparison.groups,
            key=lambda g: (g not in first, len(g.tasks), [*map(tasks.index, g.tasks)], labels[g]),
        )
    return sorted(
        comparison.groups,
        key=lambda g: (g not in first, _rank(comparison, g, OVER_METRICS), labels[g]),
    )


def _rank(comparison: Comparison, group: Group, figure: Figure) -> float:
    """Lower is better; what has no figure comes last."""
    mean = comparison.mean(group, figure)
    if math.isnan(mean):
        return math.inf
    return -mean if figure.better == "higher" else mean
