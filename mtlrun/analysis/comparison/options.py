"""The options with which runs are compared, the same for all verbs that compare them."""

import argparse
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from mtlrun.analysis.comparison.compare import compare
from mtlrun.analysis.comparison.figures import Spread, Which
from mtlrun.analysis.comparison.measured import Options
from mtlrun.analysis.comparison.table import Report
from mtlrun.analysis.grouping.competitor import find_competitors
from mtlrun.analysis.runs import FoundRuns, find_runs
from mtlrun.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which runs to compare, and how."""
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path, help="holds runs")
    parser.add_argument(
        "--metrics",
        metavar="LIST",
        action="append",
        default=[],
        help="test: the selected model on the test split (default); final: the last epoch, and "
        "best: each metric's best epoch, both on the split that models are selected on. Names of "
        "metrics, and patterns such as 'depth/*', show these only; delta_m is over all",
    )
    parser.add_argument(
        "--tasks",
        metavar="LIST",
        action="append",
        default=[],
        help="tasks that delta_m, mean ranks and wins are over, for example depth,normals; runs "
        "that have them all are in one table, whatever else they train. Default: the primary "
        "tasks that runs name (tasks.primary), or else all",
    )
    parser.add_argument(
        "--spread",
        choices=get_args(Spread),
        default="sd",
        help="beside each mean: its standard deviation over seeds (sd), or a 95 %% interval for "
        "the mean, Student's (t) or the bootstrap's, which is too short for few seeds",
    )
    parser.add_argument(
        "--sort",
        metavar="COLUMN",
        help="order rows by a column's name or key, best first; default: the baseline, then "
        "delta_m over metrics",
    )
    parser.add_argument(
        "--reference",
        metavar="METHOD",
        help="test every row against this one; default: equal weighting, or else the baseline",
    )
    parser.add_argument(
        "--baseline",
        metavar="PATH",
        type=Path,
        help="runs to compute delta_m against, instead of the single-task runs found",
    )
    parser.add_argument(
        "--pool",
        action="store_true",
        help="one table a dataset, also of runs that do not compare; notes say in what they differ",
    )
    parser.add_argument(
        "--merge-studies",
        action="store_true",
        help="runs of several studies that differ by their seed only are one row",
    )
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="read every run folder, whatever the cache in ~/.cache/mtlrun knows of it",
    )


def compared(
    given: argparse.Namespace, only: Container[Path] | None = None
) -> tuple[FoundRuns, Report]:
    """Find the runs and compare them, as the options of :func:`add_options` say.

    Args:
        given: the options.
        only: the folders of the runs to compare, and the files of groupings; None for all.

    Returns:
        the runs, one for each grouping and seed whose networks are all there among them; and what
        comparing them gives.

    Raises:
        UserError: there is nothing to compare, or an option names what is not there.
    """
    which, columns = which_and_columns(given.metrics)
    options = Options(
        spread=given.spread,
        pool=given.pool,
        merge_studies=given.merge_studies,
        columns=columns,
        sort=given.sort,
        reference=given.reference,
        tasks=tuple(dict.fromkeys(split_words(given.tasks))),
    )
    found = find_runs(given.folders, cached=not given.no_cache)
    baseline = given.baseline and (given.baseline, find_runs([given.baseline]))
    if not found.finished:
        states = [
            f"{run.folder} is {run.state}{f' ({run.reason})' if run.reason else ''}"
            for run in found.unfinished
        ]
        raise UserError(
            "There is no finished run to compare: "
            + "; ".join([*states[:5], *(["and so on"] if states[5:] else []), *found.unreadable])
        )
    groupings = find_competitors(given.folders, found)
    found = replace(found, finished=[*found.finished, *groupings.runs])
    if only is not None:
        found = _narrowed(found, only)
        return found, compare(found, which, baseline, options)
    report = compare(found, which, baseline, options)
    return found, replace(report, notes=(*report.notes, *groupings.notes))


def _narrowed(found: FoundRuns, only: Container[Path]) -> FoundRuns:
    """Some of the runs; the single-task runs beside them can be found again."""
    kept = [run for run in found.finished if run.folder in only]
    return FoundRuns(kept, resolved={run.folder.resolve() for run in kept})


def split_words(texts: Sequence[str]) -> list[str]:
    """``["a,b", "c"]`` as ``a``, ``b`` and ``c``."""
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def which_and_columns(words: Sequence[str]) -> tuple[Which, tuple[str, ...]]:
    """Of the words of ``--metrics`` the one that says which figures, and those that name some."""
    listed = split_words(words)
    which = list(dict.fromkeys(word for word in listed if word in get_args(Which)))
    if len(which) > 1:
        raise UserError(f"--metrics {','.join(which)}: give one of {', '.join(get_args(Which))}.")
    columns = tuple(word for word in listed if word not in which)
    return cast(Which, which[0] if which else "test"), columns
