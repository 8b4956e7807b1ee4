"""``mtlrun list``: what can be chosen, read from the configs without importing what they name.

A choice is described by the first comment line of its YAML file, ``# Name: description (paper).
What it needs.``; where there is none, by the docstring's first line of the class in ``_target_``.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mtlrun.analysis.source import ancestors, docstring
from mtlrun.analysis.yaml_files import read_settings
from mtlrun.errors import UserError, nearest_hint

SEEN = {"LossWeighting": "losses", "GramianWeighting": "Gramian", "JacobianWeighting": "Jacobian"}
"""What a weighting needs to see, by the contract that it extends."""

PAPER = re.compile(r"\s*\(([^()]*\b(?:19|20)\d\d\b[^()]*)\)")
NEEDS = re.compile(r"needs (the )?", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """One YAML file of a group.

    Attributes:
        name: what the user types.
        path: of the YAML file.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class Description:
    """What is known of a choice; empty where nothing is.

    Attributes:
        text: name and description.
        paper: authors, venue, year.
        needs: what it needs to see.
        remark: what else the comment says.
    """

    text: str
    paper: str = ""
    needs: str = ""
    remark: str = ""


def list_command(arguments: list[str], config_folder: Path) -> int:
    """Print every group with its choices, or one group with papers and needs.

    Args:
        arguments: what follows ``mtlrun list``.
        config_folder: the package's own configs.

    Returns:
        the exit code.

    Raises:
        UserError: no such group, or no such folder.
    """
    options = _parser().parse_args(arguments)
    for folder in options.config_dir:
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder} is not a folder.")
    groups = read_groups([config_folder, *options.config_dir])
    console = Console()
    if options.group is None:
        _print_all(groups, console)
    else:
        name = options.group.strip("/")
        if name not in groups:
            raise UserError(_no_such_group(name, groups))
        _print_group(name, groups[name], console)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtlrun list",
        description="List what can be chosen: all groups, or one with its papers and needs.",
    )
    parser.add_argument("group", metavar="GROUP", nargs="?", help="for example weighting")
    parser.add_argument(
        "--config-dir",
        "-cd",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="list the choices of this folder as well",
    )
    return parser


def read_groups(folders: Sequence[Path]) -> dict[str, list[Choice]]:
    """For each group its choices by name; a choice of an earlier folder hides a later namesake.

    Groups come in the order of the first folder's ``config.yaml``, others after them by name.
    """
    groups: dict[str, dict[str, Choice]] = {name: {} for name in _order(folders[0])}
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")):
            group = path.parent.relative_to(folder).as_posix()
            if group != "." and not group.startswith("hydra"):
                groups.setdefault(group, {}).setdefault(path.stem, Choice(path.stem, path))
    return {
        group: [choices[name] for name in sorted(choices)]
        for group, choices in groups.items()
        if choices
    }


def _order(folder: Path) -> Iterator[str]:
    """The groups in the defaults list of ``config.yaml``; none where there is no such file."""
    config = read_settings(folder / "config.yaml") or {}
    for default in config.get("defaults") or []:
        if isinstance(default, dict):
            yield from (str(key).removeprefix("optional ") for key in default)


def describe(choice: Choice, group: str) -> Description:
    """What is known of a choice."""
    target = _target(choice.path, group)
    comment = _first_comment(choice.path)
    if comment is None:
        comment = docstring(target).strip().split("\n")[0] if target else ""
    paper = PAPER.search(comment)
    text, _, remark = PAPER.sub("", comment, count=1).partition(". ")
    remark = remark.strip().rstrip(".")
    needs = ""
    if stated := NEEDS.match(remark):
        needs, remark = remark[stated.end() :], ""
    seen = next((SEEN[name] for name in ancestors(target) if name in SEEN), "") if target else ""
    if seen:
        more = re.sub(r"^losses( only)?[,;]? ?", "", needs) if seen == "losses" else needs
        more = more or ("" if seen == "losses" else "per-task gradients")
        needs = f"{seen} ({more})" if more else seen
    return Description(text.strip().rstrip("."), paper[1] if paper else "", needs, remark)


def _first_comment(path: Path) -> str | None:
    """The first comment line, unless it is one of Hydra's ``@package``; None before any setting."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return "(cannot be read)"
    for line in lines:
        if line.strip() and not line.startswith("#"):
            return None
        text = line.lstrip("# ").strip()
        if text and not text.startswith("@package"):
            return text
    return None


def _target(path: Path, group: str) -> str | None:
    """The class that a choice names, at its top or, in a global package, below its group."""
    settings = read_settings(path) or {}
    below = settings.get(group)
    target = settings.get("_target_") or (below.get("_target_") if isinstance(below, dict) else "")
    return str(target) if target else None


def _no_such_group(name: str, groups: Mapping[str, Sequence[Choice]]) -> str:
    owners = [group for group, choices in groups.items() if name in (c.name for c in choices)]
    if owners:
        verbs = " and ".join(f"`mtlrun list {group}`" for group in owners)
        return f"{name} is no group but a choice, see {verbs}."
    hint = nearest_hint(name, groups)
    return f"There is no group {name}. {hint}The groups are {', '.join(groups)}."


def _print_all(groups: Mapping[str, Sequence[Choice]], console: Console) -> None:
    width = max((len(c.name) for choices in groups.values() for c in choices), default=0)
    lines = []
    for group, choices in groups.items():
        lines.append(f"[bold]{group}[/bold]")
        for choice in choices:
            lines.append(f"  {choice.name:<{width}}  {escape(describe(choice, group).text)}")
    for line in lines:
        if console.is_terminal:  # one line each
            console.print(line, highlight=False, no_wrap=True, overflow="ellipsis")
        else:  # all of it, for a file or a pipe
            console.print(line, highlight=False, soft_wrap=True)
    console.print(
        "\nChoose with GROUP=CHOICE, as in weighting=gradnorm; `mtlrun list GROUP` says more.",
        highlight=False,
    )


def _print_group(group: str, choices: Sequence[Choice], console: Console) -> None:
    described = [(choice.name, describe(choice, group)) for choice in choices]
    columns = {
        "description": [description.text for _, description in described],
        "paper": [description.paper for _, description in described],
        "needs": [description.needs for _, description in described],
        "remark": [description.remark for _, description in described],
    }
    filled = {heading: texts for heading, texts in columns.items() if any(texts)}
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    shown.add_column(group, no_wrap=True)
    for heading in filled:
        shown.add_column(heading)
    for name, *texts in zip([name for name, _ in described], *filled.values(), strict=True):
        shown.add_row(name, *map(escape, texts))
    console.print(shown)
