"""``mtlrun compare``."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from mtlrun.analysis.comparison.as_json import to_json
from mtlrun.analysis.comparison.console import print_report
from mtlrun.analysis.comparison.options import add_options, compared
from mtlrun.analysis.comparison.render import to_csv, to_latex, to_markdown
from mtlrun.analysis.comparison.table import Report
from mtlrun.durable import write_output
from mtlrun.errors import UserError

WRITERS: Mapping[str, Callable[[Report], str]] = {
    "csv": to_csv,
    "markdown": to_markdown,
    "latex": to_latex,
    "json": to_json,
}
FORMAT_OF = {
    ".csv": "csv",
    ".md": "markdown",
    ".markdown": "markdown",
    ".tex": "latex",
    ".json": "json",
}
FILES = {
    "csv": "comparison.csv",
    "markdown": "comparison.md",
    "latex": "comparison.tex",
    "json": "comparison.json",
}

EXAMPLES = """\
examples:
  mtlrun compare outputs                        every dataset and study below outputs
  mtlrun compare outputs --spread t --sort wins          intervals; ordered by metrics won
  mtlrun compare outputs --metrics final,mean_iou,'depth/*'   last epoch; some metrics only
  mtlrun compare outputs --reference gradnorm            tests every row against gradnorm
  mtlrun compare outputs/default/digits -o paper         writes comparison.csv, .md, .tex, .json
"""


def compare_command(arguments: list[str]) -> int:
    """Print the comparison of the runs below some folders, and write it where asked.

    Args:
        arguments: what follows ``mtlrun compare``.

    Returns:
        the exit code.

    Raises:
        UserError: there is nothing to compare, or nowhere to write it.
    """
    given = _parser().parse_args(arguments)
    targets = _targets(given.output, given.format)
    _, report = compared(given)
    if targets or given.format in (None, "console"):
        print_report(report, Console())
    else:
        _print_text(report, given.format)
    for path, text_format in targets.items():
        _write(path, WRITERS[text_format](report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtlrun compare",
        description="Compare finished runs: which method is best and how sure that is, a row a "
        "method, and delta_m against the single-task runs found among or beside them. Runs that "
        "differ by their seed only are one row, and so is a grouping of tasks whose networks are "
        "there; runs on other data, or of other epochs or tasks, have tables of their own.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.add_argument(
        "--format",
        choices=("console", *WRITERS),
        default=None,
        help="what to print, or with -o what to write",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        type=Path,
        help="a file (.csv, .md, .tex, .json), or a folder for all of them",
    )
    return parser


def _targets(output: Path | None, text_format: str | None) -> dict[Path, str]:
    """The files to write, each with its format."""
    if output is None:
        return {}
    wanted = None if text_format in (None, "console") else text_format
    if output.is_dir() or not output.suffix:
        return {output / FILES[name]: name for name in ([wanted] if wanted else WRITERS)}
    implied = FORMAT_OF.get(output.suffix.lower())
    if wanted is None and implied is None:
        raise UserError(
            f"-o {output}: the extension names no format. Use {', '.join(FORMAT_OF)}, a folder, "
            "or say it with --format."
        )
    if wanted and implied and wanted != implied:
        raise UserError(f"-o {output} is for {implied}, and --format asks for {wanted}.")
    return {output: wanted or implied or ""}


def _print_text(report: Report, text_format: str) -> None:
    """Print a text format so that it can be piped; what it has no room for goes to stderr."""
    sys.stdout.write(WRITERS[text_format](report))
    if text_format == "csv":
        said = [line for table in report.tables for line in (*table.answer, *table.notes)]
        for note in [*report.answer, *said, *report.notes]:
            print(note, file=sys.stderr)


def _write(path: Path, text: str) -> None:
    write_output(path, text.encode())
    Console().print(f"Written to {path}", markup=False, highlight=False)
