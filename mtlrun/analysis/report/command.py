"""``mtlrun report``."""

import argparse
from datetime import datetime
from pathlib import Path

from rich.console import Console

from mtlrun.analysis.comparison.notes import names
from mtlrun.analysis.comparison.options import add_options, compared
from mtlrun.analysis.comparison.table import Report
from mtlrun.analysis.report.page import page
from mtlrun.durable import write_output
from mtlrun.errors import UserError

NAME = "report.html"
SUFFIXES = (".html", ".htm")

EXAMPLES = """\
examples:
  mtlrun report outputs                                writes report.html
  mtlrun report outputs/default/digits -o digits.html --title "Digits: which weighting?"
  mtlrun report outputs --spread t --reference gradnorm     options of mtlrun compare
"""


def report_command(arguments: list[str]) -> int:
    """Write the comparison of the runs below some folders as one page.

    Args:
        arguments: what follows ``mtlrun report``.

    Returns:
        the exit code.

    Raises:
        UserError: there is nothing to compare, or nowhere to write it.
    """
    given = _parser().parse_args(arguments)
    target = _target(given.output)
    found, report = compared(given)
    made = datetime.now().astimezone()
    text = page(report, found.unfinished, given.title or _title(report), made)
    write_output(target, text.encode())
    Console().print(f"Written to {target}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtlrun report",
        description="Write one page that says which method to use: tables, pictures and curves of "
        "all runs. It needs no network and can be mailed as it is.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        type=Path,
        default=Path(NAME),
        help=f"a file (.html), or a folder for {NAME}; default: {NAME}",
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page")
    add_options(parser)
    return parser


def _target(output: Path) -> Path:
    """The file to write; in a folder that is there one of the usual name."""
    if output.is_dir():
        return output / NAME
    if output.suffix.lower() not in SUFFIXES:
        raise UserError(f"-o {output}: give a file whose name ends in .html, or a folder.")
    return output


def _title(report: Report) -> str:
    datasets = dict.fromkeys(table.dataset for table in report.tables)
    return f"Which method for {names(datasets, limit=3)}?"
