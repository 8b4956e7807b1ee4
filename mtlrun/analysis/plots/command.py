"""``mtlrun plot``."""

import argparse
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path

from rich.console import Console

from mtlrun.analysis.comparison.options import add_options, compared, which_and_columns
from mtlrun.analysis.comparison.table import Report, Table
from mtlrun.analysis.plots.style import print_style, require_matplotlib, to_bytes
from mtlrun.analysis.plots.subject import (
    NothingToDrawError,
    Picture,
    Subject,
    display_names,
    subject_of,
)
from mtlrun.durable import write_output
from mtlrun.errors import UserError, did_you_mean

KINDS = {
    "loss_ratios": "lines",
    "loss_ratios_by_method": "lines",
    "weights": "lines",
    "weights_by_method": "lines",
    "conflict": "conflict",
    "pareto": "pareto",
    "cost": "cost",
    "critical_difference": "ranks",
    "transfer": "transfer",
}
"""For each kind of picture the module whose function of that name draws it."""

FORMATS = ("pdf", "png", "svg")

EXAMPLES = """\
kinds:
  loss_ratios, weights      over the steps; a panel a task, a line a method
  loss_ratios_by_method, weights_by_method      a panel a method, a line a task
  conflict                  cosines between the gradients of pairs of tasks over the steps
  pareto                    the headline metrics of two tasks against each other, and the front
  cost                      delta_m against seconds, parameters and floating-point operations
  critical_difference       mean ranks, and which differences are within noise (Demsar 2006)
  transfer                  for each task the change against single-task training

examples:
  mtlrun plot outputs/default/digits -o figures
  mtlrun plot outputs -o figures --kind pareto --task segmentation,depth --format pdf,png
  mtlrun plot outputs -o figures --kind weights --methods gradnorm,uncertainty --smooth 100
"""


def plot_command(arguments: list[str]) -> int:
    """Draw the runs below some folders, a file a kind of picture and table.

    Args:
        arguments: what follows ``mtlrun plot``.

    Returns:
        the exit code.

    Raises:
        UserError: nothing can be drawn, or not what was asked for; what can be is drawn before.
    """
    given = _parser().parse_args(arguments)
    kinds = _known(given.kind, tuple(KINDS), "kind") or list(KINDS)
    formats = _known(given.format, FORMATS, "format")
    if given.smooth < 0:
        raise UserError(f"--smooth {given.smooth:g}: give a number of steps, or 0 for none.")
    require_matplotlib()
    report = _chosen(given)
    subjects = _subjects(report, given)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    drawn: set[str] = set()
    refused: list[tuple[str, str]] = []
    for stem, subject in subjects.items():
        for kind in kinds:
            try:
                paths = _draw(subject, kind, formats, given.output / f"{stem}_{kind}")
            except NothingToDrawError as reason:
                refused.append((kind, f"{kind} of {subject.table.title}: {reason}"))
                continue
            drawn.add(kind)
            console.print(f"Written to {', '.join(map(str, paths))}")
    wanted = [line for kind, line in refused if kind not in drawn]
    if wanted and (given.kind or not drawn):
        raise UserError(f"Not drawn: {' '.join(wanted)}")
    for _, line in refused:
        console.print(f"Not drawn: {line}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtlrun plot",
        description="Draw finished runs for print: vector graphics in the widths of a paper's "
        "columns (3.4 and 7 inches), beside each a text file with sentences for its caption.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the pictures"
    )
    parser.add_argument(
        "--kind",
        metavar="KIND[,KIND]",
        type=_words,
        default=[],
        help="what to draw; by default all that the runs have the figures for",
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT[,FORMAT]",
        type=_words,
        default=["pdf"],
        help="pdf (default), png (300 dots an inch), svg",
    )
    parser.add_argument(
        "--task", metavar="TASK[,TASK]", type=_words, default=[], help="tasks to draw; else all"
    )
    parser.add_argument(
        "--methods",
        metavar="METHOD",
        nargs="+",
        default=[],
        help="methods to draw, all in colour, with * for any letters; by default all, the best few "
        "in colour where there are many. The single-task runs are always there",
    )
    parser.add_argument(
        "--smooth",
        metavar="STEPS",
        type=float,
        default=0.0,
        help="draw lines over steps as the mean over so many; 0, the default, draws what is there",
    )
    add_options(parser)
    return parser


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _known(given: Sequence[str], known: Sequence[str], option: str) -> list[str]:
    for word in given:
        if word not in known:
            raise UserError(f"--{option} {word}: there is none. {did_you_mean(word, known)}")
    return list(dict.fromkeys(given))


def _chosen(given: argparse.Namespace) -> Report:
    """The comparison of the methods that the user named, or of all.

    It is made anew for those named, so that ranks are among them.
    """
    _, report = compared(given)
    if not given.methods:
        return report
    chosen: set[Path] = set()
    for pattern in given.methods:
        for part in [pattern] if _matches(report, pattern) else _words(pattern):
            matched = _matches(report, part)
            if not matched:
                called = [name for table in report.tables for name in display_names(table)]
                known = did_you_mean(part, dict.fromkeys(called))
                raise UserError(f"--methods {part}: no method has that name. {known}")
            chosen |= matched
    return compared(argparse.Namespace(**{**vars(given), "reference": None}), only=chosen)[1]


def _matches(report: Report, pattern: str) -> set[Path]:
    """The folders of the runs whose method is called so in pictures, in the table or on disk."""
    # Names of methods have brackets: only * is special.
    literal = re.sub(r"([\[?])", r"[\1]", pattern)
    return {
        run.folder
        for table in report.tables
        for row, name in zip(table.rows, display_names(table), strict=True)
        if any(fnmatchcase(text, literal) for text in (name, row.label, row.method))
        for run in row.runs
    }


def _subjects(report: Report, given: argparse.Namespace) -> Mapping[str, Subject]:
    """What is drawn of each table, by the beginning of the names of its files.

    Raises:
        UserError: no table has a task that the user named.
    """
    which, _ = which_and_columns(given.metrics)
    tasks = {table.title: _tasks(table) for table in report.tables}
    every = list(dict.fromkeys(task for of in tasks.values() for task in of))
    for task in given.task:
        if task not in every:
            raise UserError(f"--task {task}: no run has it. {did_you_mean(task, every)}")
    subjects: dict[str, Subject] = {}
    for table in report.tables:
        drawn = list(dict.fromkeys(given.task)) or tasks[table.title]
        if not set(drawn) <= set(tasks[table.title]):
            continue
        stem = re.sub(r"[^\w.-]+", "-", table.title)[:80]
        while stem in subjects:
            stem = f"{stem}-more"
        subjects[stem] = subject_of(
            table, drawn, chosen=bool(given.methods), which=which, window=given.smooth
        )
    if not subjects:
        raise UserError(f"--task {','.join(given.task)}: no table has them all.")
    return subjects


def _tasks(table: Table) -> list[str]:
    return list(
        dict.fromkeys(task for row in table.rows for run in row.runs for task in run.metrics)
    )


def _draw(subject: Subject, kind: str, formats: Sequence[str], start: Path) -> list[Path]:
    """Draw one kind and write it in each format, and its caption.

    Args:
        subject: what to draw.
        kind: how.
        formats: of the files.
        start: their path without the extension.

    Returns:
        the pictures.

    Raises:
        NothingToDrawError: the runs lack what it shows.
    """
    module = import_module(f"mtlrun.analysis.plots.{KINDS[kind]}")
    with print_style():
        picture: Picture = getattr(module, kind)(subject)
        files = {f".{name}": to_bytes(picture.figure, name) for name in formats}
    pictures = [Path(f"{start}{ending}") for ending in files]
    files[".txt"] = (" ".join(picture.caption) + "\n").encode()
    for ending, content in files.items():
        write_output(Path(f"{start}{ending}"), content)
    return pictures
