"""A chosen grouping for people and for programs."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich import box
from rich.console import Console
from rich.table import Table

from mtlrun.analysis.grouping.evidence import AFFINITIES, NEVER, Evidence
from mtlrun.analysis.grouping.file import Grouping
from mtlrun.analysis.grouping.training import shell_line, shown_folder


@dataclass(frozen=True)
class Chosen:
    """A grouping, and what it was chosen by.

    Attributes:
        grouping: the networks.
        evidence: what they were chosen by.
        proven: whether there is none better by that.
        file: where the grouping was written.
        replaced: whether another one was there.
        commands: the arguments of ``mtlrun`` that train the networks, for each command.
    """

    grouping: Grouping
    evidence: Evidence
    proven: bool
    file: Path
    replaced: bool
    commands: Sequence[Sequence[str]]

    @property
    def known(self) -> dict[str, float]:
        """The predicted values, without those of tasks that had to be left alone."""
        return {task: value for task, value in self.grouping.value.items() if value != NEVER}

    @property
    def compare(self) -> list[str]:
        """The arguments that compare the grouping with other runs."""
        return ["compare", str(shown_folder(self.file.parent.parent))]


def to_json(chosen: Chosen) -> str:
    """Everything that :func:`print_chosen` tells, as one object."""
    content = {
        "file": str(chosen.file),
        "replaced": chosen.replaced,
        "proven": chosen.proven,
        "unit": chosen.evidence.unit,
        "said": list(chosen.evidence.said),
        "grouping": json.loads(chosen.grouping.text()),
        "all_in_one": _plain(chosen.evidence.all_in_one),
        "alone": _plain(chosen.evidence.alone),
        "train": [shell_line(arguments) for arguments in chosen.commands],
        "compare": shell_line(chosen.compare),
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _plain(values: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if values is None else {t: v for t, v in values.items() if math.isfinite(v)}


def print_chosen(chosen: Chosen, console: Console) -> None:
    """The networks, what each task is predicted to gain, and what to do next."""
    grouping = chosen.grouping
    for line in chosen.evidence.said:
        _line(line, console)
    console.print()
    _line(_title(chosen), console, style="bold")
    console.print(_networks(grouping, console))
    console.print()
    _line(f"For each task, in {chosen.evidence.unit}:", console)
    console.print(_values(chosen, console))
    console.print()
    for line in _gains(chosen):
        _line(line, console)
    console.print()
    _line("Train the networks (what is there already is not trained again):", console)
    for arguments in chosen.commands:
        _line(f"  {shell_line(arguments)}", console, soft_wrap=True)
    _line("Then compare them with the other runs:", console)
    _line(f"  {shell_line(chosen.compare)}", console, soft_wrap=True)
    console.print()
    file = shown_folder(chosen.file.parent) / chosen.file.name
    before = ", in place of another one of that name" if chosen.replaced else ""
    _line(f"Written to {file}{before}", console, soft_wrap=True)


def _line(text: str, console: Console, *, style: str = "", soft_wrap: bool = False) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=soft_wrap)


def _title(chosen: Chosen) -> str:
    grouping = chosen.grouping
    count = len(grouping.groups)
    what = "network" if count == 1 else f"{count} networks"
    how = "the best" if chosen.proven else "the best found, not proven to be the best:"
    return (
        f"{grouping.name}: {how} {what} within a budget of {grouping.budget:g}, cost "
        f"{grouping.cost:g}"
    )


def _table(console: Console) -> Table:
    kind = box.ASCII_DOUBLE_HEAD if console.options.ascii_only else box.SIMPLE_HEAD
    return Table(box=kind, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def _networks(grouping: Grouping, console: Console) -> Table:
    table = _table(console)
    table.add_column("network", justify="right")
    for name in ("trained on", "serves", "helped by"):
        table.add_column(name, overflow="fold")
    table.add_column("cost", justify="right")
    for number, group in enumerate(grouping.groups, start=1):
        helpers = [task for task in group.tasks if task not in group.serves]
        lists = (", ".join(names) for names in (group.tasks, group.serves, helpers))
        table.add_row(str(number), *lists, f"{group.cost:g}")
    return table


def _values(chosen: Chosen, console: Console) -> Table:
    """For each task what is predicted, beside what the two plain ways would give."""
    grouping, evidence = chosen.grouping, chosen.evidence
    table = _table(console)
    table.add_column("task", overflow="fold")
    table.add_column("network", justify="right")
    own = "measured" if evidence.source == "runs" else "predicted"
    columns: dict[str, Mapping[str, float]] = {own: grouping.value}
    if evidence.all_in_one is not None:
        columns["all in one"] = evidence.all_in_one
    if evidence.alone is not None:
        columns["one a task"] = evidence.alone
    for name in columns:
        table.add_column(name, justify="right")
    for task in grouping.tasks:
        number = grouping.groups.index(grouping.network_of(task)) + 1
        figures = (_figure(values[task], evidence) for values in columns.values())
        table.add_row(task, str(number), *figures)
    table.add_section()
    means = (
        _figure(fmean(values[task] for task in chosen.known) if chosen.known else NEVER, evidence)
        for values in columns.values()
    )
    table.add_row("mean", "", *means)
    return table


def _figure(value: float, evidence: Evidence) -> str:
    if value == NEVER:
        return "not known"
    return f"{value:+.4g}" if evidence.source in AFFINITIES else f"{value:+.2f}"


def _gains(chosen: Chosen) -> Iterator[str]:
    """What the grouping is predicted to gain over the two plain ways, in the mean over tasks."""
    evidence, known = chosen.evidence, chosen.known
    if len(known) < len(chosen.grouping.tasks):
        yield (
            "What a task alone is worth is not known from affinities: of the tasks that are left "
            "alone nothing is predicted, and the mean is over the others."
        )
    if evidence.all_in_one is not None and known:
        whole = evidence.all_in_one
        gain = fmean(value - whole[task] for task, value in known.items())
        how = ", which is predicted likewise" if evidence.source == "pairs" else ""
        yield f"Against all tasks in one network{how}: {_gain(gain, evidence)}."
    elif known:
        yield "Against all tasks in one network: not known, as that was not trained."
    if evidence.alone is not None:
        gain = fmean(value - evidence.alone[task] for task, value in known.items())
        yield f"Against one network a task: {_gain(gain, evidence)}."
    else:
        yield "Against one network a task: not known from affinities."


def _gain(value: float, evidence: Evidence) -> str:
    if evidence.source in AFFINITIES:
        return f"{_figure(value, evidence)} of {evidence.unit} in the mean over tasks"
    return f"{_figure(value, evidence)} points of delta_m over tasks"
