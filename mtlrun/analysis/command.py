"""``mtlrun compare``."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from mtlrun.analysis.compare import compare
from mtlrun.analysis.console import print_report
from mtlrun.analysis.render import to_csv, to_latex, to_markdown
from mtlrun.analysis.runs import find_runs
from mtlrun.analysis.table import Report
from mtlrun.durable import replace_file
from mtlrun.errors import UserError

WRITERS: Mapping[str, Callable[[Report], str]] = {
    "csv": to_csv,
    "markdown": to_markdown,
    "latex": to_latex,
}
FORMAT_OF = {".csv": "csv", ".md": "markdown", ".markdown": "markdown", ".tex": "latex"}
FILES = {"csv": "comparison.csv", "markdown": "comparison.md", "latex": "comparison.tex"}

EXAMPLES = """\
examples:
  mtlrun compare outputs                        every dataset and study below outputs
  mtlrun compare outputs/default/digits -o paper         writes comparison.csv, .md and .tex
  mtlrun compare outputs -o table.tex --metrics final
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
    options = _parser().parse_args(arguments)
    targets = _targets(options.output, options.format)
    found = find_runs(options.folders)
    baseline = options.baseline and (options.baseline, find_runs([options.baseline]))
    if not found.finished:
        states = [f"{run.folder} is {run.state}" for run in found.unfinished]
        raise UserError(
            "There is no finished run to compare: "
            + "; ".join([*states[:5], *(["and so on"] if states[5:] else []), *found.unreadable])
        )
    report = compare(found, options.metrics, baseline)
    if targets or options.format in (None, "console"):
        print_report(report, Console())
    else:
        _print_text(report, options.format)
    for path, text_format in targets.items():
        _write(path, WRITERS[text_format](report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtlrun compare",
        description="Compare finished runs: a row a method, mean and standard deviation over "
        "seeds, and delta_m against the single-task runs found among or beside them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path, help="holds runs")
    parser.add_argument(
        "--metrics",
        choices=("test", "final", "best"),
        default="test",
        help="test: the selected model on the test split (default); final: the last epoch, and "
        "best: each metric's best epoch, both on the split that models are selected on",
    )
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
        help="a file (.csv, .md, .tex), or a folder for all three",
    )
    parser.add_argument(
        "--baseline",
        metavar="PATH",
        type=Path,
        help="runs to compute delta_m against, instead of the single-task runs found",
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
        notes = [note for table in report.tables for note in table.notes]
        for note in [*notes, *report.notes]:
            print(note, file=sys.stderr)


def _write(path: Path, text: str) -> None:
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    Console().print(f"Written to {path}", markup=False, highlight=False)
