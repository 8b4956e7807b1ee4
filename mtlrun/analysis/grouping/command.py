"""``mtlrun group``."""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from mtlrun.analysis.grouping.bounded import Track
from mtlrun.analysis.grouping.evidence import NEVER, SOURCES, Evidence
from mtlrun.analysis.grouping.file import FOLDER, Group, Grouping
from mtlrun.analysis.grouping.printing import Chosen, print_chosen, to_json
from mtlrun.analysis.grouping.search import Selected, Selection, select
from mtlrun.analysis.grouping.sources import evidence_below
from mtlrun.analysis.grouping.training import dataset_folder, training_commands
from mtlrun.durable import write_output
from mtlrun.errors import UserError

EXAMPLES = """\
examples:
  mtlrun dataset=nyuv2 engine.affinity=tag         one run measures how tasks help each other
  mtlrun group outputs/default/nyuv2 --budget 2    the best two networks by that
  mtlrun +sweep=pairs dataset=nyuv2                or: every two tasks in a network
  mtlrun group outputs/default/nyuv2 --budget 2.5 --from pairs
  mtlrun group outputs --budget 3 --with weighting=gradnorm --format json

A network of all tasks costs 1, one of half its operations 0.5. A network may have tasks that
another one serves: they help it learn. The command that is printed trains the networks, after
which `mtlrun compare` has a row for the grouping.
"""


def group_command(arguments: list[str]) -> int:
    """Choose networks within a budget, write them to a file, and say how to train them.

    Args:
        arguments: what follows ``mtlrun group``.

    Returns:
        the exit code.

    Raises:
        UserError: there is nothing to choose by, or the budget is too small.
    """
    given = _parser().parse_args(arguments)
    evidence = evidence_below(
        given.folder, given.source, _wanted(given.wanted), cached=not given.no_cache
    )
    with _progress() as track:
        selection = select(evidence.candidates, given.budget, track)
    name = given.name or f"{evidence.source}-budget={given.budget:g}"
    if not re.fullmatch(r"[\w+-][\w.,=+-]*", name):
        raise UserError(f"--name {name}: use letters, digits and any of . , = + - _ for a file.")
    folder = dataset_folder(evidence.reference) / FOLDER
    grouping = _grouping(name, given.budget, evidence, selection, folder)
    file = folder / f"{name}.json"
    replaced = _write(grouping, file)
    chosen = Chosen(
        grouping, evidence, selection.proven, file, replaced, training_commands(evidence, grouping)
    )
    _show(chosen, given.format, given.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtlrun group",
        description="Choose which tasks to train together: the networks within a budget whose "
        "best ones for each task are worth most in sum, by what finished runs measured.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="holds runs of one dataset")
    parser.add_argument(
        "--budget",
        metavar="B",
        type=float,
        required=True,
        help="what the networks may cost together, a multiple of 0.5; all tasks in one cost 1",
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=SOURCES,
        help="what to go by. tag, cosine: affinities that runs with engine.affinity measured "
        "(Fifty et al., NeurIPS 2021); pairs: runs of every two tasks, larger groups predicted "
        "from them (Standley et al., ICML 2020); runs: the groups that were trained. By "
        "default the first of these that FOLDER holds, and runs where every group was trained",
    )
    parser.add_argument(
        "--with",
        dest="wanted",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="go by runs with this setting or choice, where there are several kinds",
    )
    parser.add_argument(
        "--name", help="of the grouping; default: what it goes by and the budget, tag-budget=2"
    )
    parser.add_argument("--format", choices=("text", "json"), help="of what is printed")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="write what is printed there (.json, .txt)",
    )
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="read every run folder, whatever the cache in ~/.cache/mtlrun knows of it",
    )
    return parser


def _wanted(texts: list[str]) -> Mapping[str, str]:
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UserError(f"--with {text}: give KEY=VALUE, for example weighting=gradnorm.")
        found[key] = value
    return found


@contextmanager
def _progress() -> Iterator[Track]:
    """A bar on a terminal's stderr; a search of few tasks is over before it shows."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("choosing networks")
        yield lambda done, of: progress.update(task, completed=done, total=of)


def _grouping(
    name: str, budget: float, evidence: Evidence, selection: Selection, folder: Path
) -> Grouping:
    tasks = evidence.tasks
    value = dict(zip(tasks, selection.values, strict=True))
    for network in selection.networks if evidence.alone is None else ():
        if len(network.tasks) == 1:
            value[tasks[network.tasks[0]]] = NEVER
    return Grouping(
        name=name,
        source=evidence.source,
        budget=budget,
        tasks=tasks,
        groups=tuple(_group(network, evidence, folder) for network in selection.networks),
        value=value,
        reference=_way(folder, evidence.reference.folder),
    )


def _group(network: Selected, evidence: Evidence, folder: Path) -> Group:
    names = tuple(evidence.tasks[at] for at in network.tasks)
    serves = tuple(evidence.tasks[at] for at in network.serves)
    run = evidence.other_sizes.get((names, network.cost))
    return Group(names, serves, network.cost, _way(folder, run.folder) if run else None)


def _way(start: Path, folder: Path) -> str:
    return Path(os.path.relpath(folder.resolve(), start)).as_posix()


def _write(grouping: Grouping, file: Path) -> bool:
    """Write the file; says whether another one was there."""
    try:
        before = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        before = ""
    except (OSError, ValueError):
        before = "?"
    if before != grouping.text():
        grouping.write(file)
    return before not in ("", grouping.text())


def _show(chosen: Chosen, text_format: str | None, output: Path | None) -> None:
    """Print, or write where asked: JSON for a .json file, where the format is not given."""
    if text_format is None:
        text_format = "json" if output and output.suffix.lower() == ".json" else "text"
    if output is None:
        if text_format == "json":
            sys.stdout.write(to_json(chosen))
        else:
            print_chosen(chosen, Console())
        return
    if output.is_dir():
        raise UserError(
            f"-o {output} is a folder. Give a file, for example {output}/grouping.json."
        )
    text = to_json(chosen)
    if text_format == "text":
        page = StringIO()
        print_chosen(chosen, Console(file=page, width=100))
        text = page.getvalue()
    write_output(output, text.encode())
    Console().print(f"Written to {output}", markup=False, highlight=False, soft_wrap=True)
