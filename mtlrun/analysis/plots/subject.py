"""What is drawn: the methods of a comparison on one dataset, how each is called and looks."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mtlrun.analysis.comparison.figures import Which
from mtlrun.analysis.comparison.notes import listing
from mtlrun.analysis.comparison.table import DELTA_M, Cell, Row, Table
from mtlrun.analysis.curves import Band, LossFigure, loss_curves_of, over_seeds, smoothed
from mtlrun.analysis.plots.style import BASELINE, REST, LineStyle, line_style, plain
from mtlrun.analysis.runs import RESULT, Run
from mtlrun.analysis.settings import without_effect

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIGHLIGHTED = 6
"""Methods in colour beside the baselines, where there are many."""

BARELY_MORE = 8
"""So few methods are all drawn in colour."""

LONG_VALUE = 20
"""Letters in a setting's value beyond which names do without it if they can."""


class NothingToDrawError(Exception):
    """Why there is no picture; the message completes ``<kind> is not drawn:``."""


@dataclass(frozen=True)
class Picture:
    """A figure, and sentences for its caption that say what it shows."""

    figure: "Figure"
    caption: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What pictures need of ``result.json`` beside the metrics; NaN where unknown.

    Attributes:
        weights: for each task the last step's weight.
        parameters: numbers in the network.
        forward_flops: floating-point operations of a row's forward pass.
    """

    weights: Mapping[str, float]
    parameters: float
    forward_flops: float


def read_facts(run: Run) -> Facts:
    """Read the ``result.json`` of a finished run; of a grouping those of all its networks.

    Of single-task runs that serve as the baseline of fewer tasks than they trained, the parameters
    are those of these tasks' models.
    """
    if run.sources != (run,):
        of = {source: read_facts(source) for source in run.sources}
        serving = {task: of[run.source_of(task)] for task in run.metrics}
        return Facts(
            weights={task: facts.weights[task] for task, facts in serving.items()},
            parameters=sum(facts.parameters for facts in of.values()),
            forward_flops=sum(facts.forward_flops for facts in of.values()),
        )
    result = json.loads((run.folder / RESULT).read_text(encoding="utf-8"))
    tasks: Mapping[str, Any] = result["tasks"]
    parameters: Mapping[str, Any] = result.get("parameters") or {}
    count, flops = _number(parameters.get("total")), _number(result.get("forward_flops"))
    if set(run.metrics) < set(tasks):
        of_tasks = parameters.get("tasks") or {}
        parts = [parameters.get("shared"), *(of_tasks.get(task) for task in run.metrics)]
        count, flops = sum(map(_number, parts)), math.nan
    return Facts(
        weights={task: _number(facts.get("weight")) for task, facts in tasks.items()},
        parameters=count,
        forward_flops=flops,
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


@dataclass(frozen=True, eq=False)
class Method:
    """A row of the comparison.

    Attributes:
        name: how it is called in pictures.
        style: None for those that are drawn in grey, without a name.
    """

    row: Row
    name: str
    style: LineStyle | None

    @property
    def single_task(self) -> bool:
        """Whether it is a baseline of one model a task."""
        return self.row.single_task

    @property
    def colour(self) -> str:
        """Of its lines and points."""
        return self.style.colour if self.style else REST

    @cached_property
    def facts(self) -> tuple[Facts, ...]:
        """Of each of its runs."""
        return tuple(map(read_facts, self.row.runs))

    @property
    def parameters(self) -> float:
        """Numbers in its network, the mean over runs; NaN where unknown."""
        return fmean(facts.parameters for facts in self.facts)

    @property
    def forward_flops(self) -> float:
        """Floating-point operations of a row's forward pass; NaN where unknown."""
        return fmean(facts.forward_flops for facts in self.facts)

    def bands(self, figure: LossFigure, window: float) -> dict[str, Band]:
        """For each task a figure of its losses over its seeds."""
        of_runs = [loss_curves_of(run, figure) for run in self.row.runs]
        found = {}
        for task in dict.fromkeys(task for curves in of_runs for task in curves):
            curves = [smoothed(curves[task], window) for curves in of_runs if task in curves]
            band = over_seeds(curves)
            if len(band.steps):
                found[task] = band
        return found


@dataclass(frozen=True, eq=False)
class Subject:
    """What is to be drawn.

    Attributes:
        methods: in the order of the table: baselines first, then the best.
        tasks: those to draw; pictures of pairs draw these against each other.
        chosen: whether the user named the methods.
        which: which figure of each metric.
        window: of the smoothing, in steps; 0 for none.
    """

    table: Table
    methods: tuple[Method, ...]
    tasks: tuple[str, ...]
    chosen: bool = False
    which: Which = "test"
    window: float = 0

    @cached_property
    def highlighted(self) -> tuple[Method, ...]:
        """Those with a colour and a name."""
        return tuple(method for method in self.methods if method.style)

    @cached_property
    def others(self) -> tuple[Method, ...]:
        """Those in grey."""
        return tuple(method for method in self.methods if not method.style)

    def cell(self, method: Method, key: str) -> Cell:
        """The figure of a method in the column of that name."""
        return self.table.cell(method.row, key)

    def baseline_of(self, method: Method) -> Method | None:
        """The method that its delta_m is against."""
        several = len(self.table.studies) > 1
        for other in self.methods:
            whole = f"{other.row.study}: {other.row.method}" if several else other.row.method
            if whole == method.row.baseline:
                return other
        return None

    def against(self, methods: Sequence[Method]) -> str:
        """What the delta_m of some methods is against, in words."""
        baselines = dict.fromkeys(filter(None, map(self.baseline_of, methods)))
        if all(baseline.single_task for baseline in baselines):
            return "single-task training"
        return listing(baseline.name for baseline in baselines)

    def seeds(self, methods: Sequence[Method] | None = None) -> str:
        """``3 seeds``, ``1 to 3 seeds``."""
        counts = [method.row.seeds for method in methods or self.methods]
        low, high = min(counts), max(counts)
        text = f"{low}" if low == high else f"{low} to {high}"
        return f"{text} seed{'s' if high > 1 else ''}"

    def others_note(self) -> tuple[str, ...]:
        """What grey means, where something is grey."""
        if not self.others:
            return ()
        scored = not math.isnan(self.cell(self.others[0], DELTA_M).mean)
        which = "with the best delta_m" if scored else "first"
        return (
            f"In colour the {HIGHLIGHTED} methods {which}; in grey the other {len(self.others)}.",
        )


def subject_of(
    table: Table, tasks: Sequence[str], *, chosen: bool, which: Which, window: float
) -> Subject:
    """The rows of a table with names and styles.

    Args:
        table: of one dataset.
        tasks: to draw.
        chosen: whether the user named the methods, so that all of them get a colour.
        which: which figure of each metric.
        window: of the smoothing, in steps.
    """
    single = [row.single_task for row in table.rows]
    count = len(table.rows) - sum(single)
    coloured = count if chosen or count <= BARELY_MORE else HIGHLIGHTED
    methods = []
    baselines = others = 0
    for row, name, is_single in zip(table.rows, display_names(table), single, strict=True):
        style: LineStyle | None
        if is_single:
            style = LineStyle(BASELINE.colour, "x*"[baselines % 2], BASELINE.dashes)
            baselines += 1
        else:
            style = line_style(others) if others < coloured else None
            others += 1
        methods.append(Method(row, plain(name), style))
    return Subject(table, tuple(methods), tuple(tasks), chosen, which, window)


def display_names(table: Table) -> list[str]:
    """Short names of the rows: what they differ in, without the names of the settings' groups.

    ``equal,architecture=mtan`` is ``equal, mtan``, or ``mtan`` where all rows have equal weighting.
    Long values, such as paths, are left out where names differ without them.
    """
    rows = table.rows
    labels = [row.label for row in rows]
    if all(row.runs and row.runs[0].changed is not None for row in rows):
        for longest in (LONG_VALUE, 10_000):
            names = _names_by_differences(rows, longest)
            if len(set(zip((row.study for row in rows), names, strict=True))) == len(rows):
                labels = names
                break
    if len(table.studies) > 1:
        return [f"{row.study}: {label}" for row, label in zip(rows, labels, strict=True)]
    return labels


def _names_by_differences(rows: Sequence[Row], longest_value: int) -> list[str]:
    runs = [row.runs[0] for row in rows]
    joint = [run for run in runs if not run.single_task]
    several_weightings = len({run.weighting for run in joint}) > 1
    several_architectures = len({run.architecture for run in joint}) > 1
    changes = [
        {key: value for key, value in (run.changed or {}).items() if not without_effect(key)}
        for run in runs
    ]
    common = set.intersection(*(set(change.items()) for change in changes))
    names = []
    for run, change in zip(runs, changes, strict=True):
        parts = []
        if several_weightings and not run.single_task:
            parts.append(run.weighting)
        if several_architectures or run.single_task:
            parts.append(run.architecture)
        parts += [
            f"{key.rpartition('.')[2]}={value}" if "." in key else value
            for key, value in change.items()
            if key != "architecture" and (key, value) not in common and len(value) <= longest_value
        ]
        names.append(", ".join(parts) or run.weighting)
    return names
