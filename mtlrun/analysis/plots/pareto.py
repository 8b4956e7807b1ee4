"""Two tasks against each other: the methods as points, and the front of those not dominated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlrun.analysis.curves import Floats
from mtlrun.analysis.plots.limits import Limits, robust_limits
from mtlrun.analysis.plots.points import draw_point, point_handles
from mtlrun.analysis.plots.style import (
    BASELINE,
    COLUMN,
    NEUTRAL,
    PAGE,
    LineStyle,
    legend_below,
    legend_height,
    plain,
)
from mtlrun.analysis.plots.subject import Method, NothingToDrawError, Picture, Subject
from mtlrun.analysis.statistics.front import pareto_front

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HANDLE = 1.7
"""Length of a legend's handle, for points and lines alike, in widths of a letter."""

FIXED = "static"
SCALARIZED = ("equal", FIXED)
"""Weightings whose weights are fixed, so that their runs minimise weighted sums of the losses."""

WEIGHTS_STYLE = LineStyle(NEUTRAL, "h")
"""Of methods whose fixed weights the user chose."""

FRONT: Any = {"color": "#000000", "linewidth": 0.9, "zorder": 2}
WEIGHTED: Any = {"color": NEUTRAL, "linewidth": 0.9, "linestyle": (0, (1.2, 1.2)), "zorder": 2}
REFERENCE: Any = {"color": NEUTRAL, "linewidth": 0.6, "linestyle": BASELINE.dashes, "zorder": 1}

Points = Mapping[Method, Floats]
"""For each method its seeds, shape [S, 2]."""


@dataclass(frozen=True)
class Axis:
    """The headline metric of a task."""

    task: str
    metric: str
    higher_is_better: bool

    @property
    def label(self) -> str:
        """Its name, and which way is better."""
        arrow = "↑" if self.higher_is_better else "↓"
        return plain(f"{self.task} {self.metric.replace('_', ' ')} {arrow}")


def pareto(subject: Subject) -> Picture:
    """A panel for each pair of tasks, turned so that up and right are better.

    Raises:
        NothingToDrawError: there are not two or three tasks, or fewer than two methods have both.
    """
    if not 2 <= len(subject.tasks) <= 3:
        count = f"{len(subject.tasks)} task{'s' if len(subject.tasks) > 1 else ''}"
        raise NothingToDrawError(f"it shows two or three tasks, and there are {count}: --task A,B.")
    axes = {task: _axis(subject, task) for task in subject.tasks}
    pairs = [(axes[one], axes[other]) for one, other in combinations(subject.tasks, 2)]
    drawn = [_points(subject, pair) for pair in pairs]
    if max(sum(not method.single_task for method in points) for points in drawn) < 2:
        raise NothingToDrawError("it takes two methods with figures for both tasks.")
    sums = [weighted_sums(points, pair) for points, pair in zip(drawn, pairs, strict=True)]
    handles = _handles(drawn, sums)
    figure, panels = _figure(len(pairs), handles)
    outside: dict[str, None] = {}
    for panel, pair, points, families in zip(panels, pairs, drawn, sums, strict=True):
        outside |= dict.fromkeys(_draw_panel(panel, pair, points, families))
    legend_below(figure, handles, HANDLE)
    notes = (*_ends(sums), *subject.others_note())
    return Picture(figure, (*_caption(subject, list(outside)), *notes))


def weighted_sums(points: Points, pair: Sequence[Axis]) -> list[list[Method]]:
    """Families of methods that differ in fixed weights only, in the order of a line through them.

    With two tasks that is the order of the first one's share of the weight; with more, a line joins
    those that are not dominated by others of the family.

    Returns:
        The families of three and more.
    """
    families: dict[object, list[Method]] = {}
    for method in points:
        run = method.row.runs[0]
        if run.weighting in SCALARIZED and not method.single_task and run.changed is not None:
            others = frozenset(
                (key, value)
                for key, value in run.changed.items()
                if not key.startswith("weighting.")
            )
            families.setdefault((run.study, others), []).append(method)
    better = [axis.higher_is_better for axis in pair]
    ordered = []
    for family in families.values():
        if all(len(run.metrics) == 2 for method in family for run in method.row.runs):
            ordered.append(sorted(family, key=lambda method: _share(method, pair)))
        else:
            means = [points[method].mean(axis=0) for method in family]
            ordered.append([family[at] for at in pareto_front(means, better)])
    return [family for family in ordered if len(family) >= 3]


def _share(method: Method, pair: Sequence[Axis]) -> float:
    """The first task's part of the weights of both."""
    first, second = (
        fmean(facts.weights.get(axis.task, 0.0) for facts in method.facts) for axis in pair
    )
    return first / (first + second) if first + second > 0 else 0.5


def _axis(subject: Subject, task: str) -> Axis:
    for method in subject.methods:
        for run in method.row.runs:
            metrics = run.metrics.get(task, {})
            metric = run.headlines.get(task) or next(iter(metrics), "")
            if metric in metrics:
                return Axis(task, metric, metrics[metric].higher_is_better)
    raise NothingToDrawError(f"no run has a metric of {task}.")


def _points(subject: Subject, pair: Sequence[Axis]) -> Points:
    """Of the methods all of whose seeds have both figures."""
    points = {}
    for method in subject.methods:
        seeds = [
            [
                getattr(run.metrics[axis.task][axis.metric], subject.which)
                for axis in pair
                if axis.metric in run.metrics.get(axis.task, {})
            ]
            for run in method.row.runs
        ]
        if seeds and all(len(seed) == 2 and np.isfinite(seed).all() for seed in seeds):
            points[method] = np.array(seeds, np.float64)
    return points


def _figure(count: int, handles: Sequence["Artist"]) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure

    width = COLUMN if count == 1 else PAGE
    height = (2.7 if count == 1 else 2.3) + legend_height(handles, width, HANDLE)
    figure = Figure((width, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False).flat)


def _draw_panel(
    panel: "Axes", pair: Sequence[Axis], points: Points, families: Sequence[Sequence[Method]]
) -> list[str]:
    """Draw one pair of tasks.

    Returns:
        the methods outside of the axes, which are drawn at the edge, with their figures.
    """
    means = {method: seeds.mean(axis=0) for method, seeds in points.items()}
    limits = [_limits(points, means, at) for at in (0, 1)]
    better = [axis.higher_is_better for axis in pair]
    outside = []
    for method, mean in means.items():
        inside = all(one.hold(value) for one, value in zip(limits, mean, strict=True))
        _draw_method(panel, method, points[method], limits)
        if not inside:
            figures = ", ".join(
                f"{axis.task} {value:.4g}" for axis, value in zip(pair, mean, strict=True)
            )
            outside.append(f"{method.name} ({figures})")
        if method.single_task:
            panel.axvline(mean[0], **REFERENCE)
            panel.axhline(mean[1], **REFERENCE)
    joint = [mean for method, mean in means.items() if not method.single_task]
    panel.plot(*_staircase(joint, better, limits).T, label="front", **FRONT)
    for family in families:
        panel.plot(*np.array([means[method] for method in family]).T, label="weights", **WEIGHTED)
    for name, axis, one in zip("xy", pair, limits, strict=True):
        ends = (one.low, one.high) if axis.higher_is_better else (one.high, one.low)
        panel.set(**{f"{name}lim": ends, f"{name}label": axis.label})
    panel.locator_params(nbins=5)
    panel.set_title("better ↗", loc="right", color=NEUTRAL, fontsize="medium")
    return outside


def _draw_method(panel: "Axes", method: Method, seeds: Floats, limits: Sequence[Limits]) -> None:
    """Seeds small and pale, the mean large; hollow at the edge where it lies outside."""
    style = _style(method)
    mean = [float(value) for value in seeds.mean(axis=0)]
    inside = all(one.hold(value) for one, value in zip(limits, mean, strict=True))
    x, y = (one.nearest(value) for one, value in zip(limits, mean, strict=True))
    draw_point(panel, x, y, style, inside=inside)
    if style and len(seeds) > 1:
        look: Any = {"s": 5, "color": style.colour, "alpha": 0.55, "linewidth": 0, "zorder": 3}
        panel.scatter(seeds[:, 0], seeds[:, 1], **look)


def _style(method: Method) -> LineStyle | None:
    """All methods with weights of the user's look the same: their line tells them apart."""
    return WEIGHTS_STYLE if method.row.runs[0].weighting == FIXED else method.style


def _limits(points: Points, means: Mapping[Method, Floats], at: int) -> Limits:
    """Around the means that are not far out, and their seeds."""
    single = [float(mean[at]) for method, mean in means.items() if method.single_task]
    rough = robust_limits((float(mean[at]) for mean in means.values()), always=single)
    kept = [method for method, mean in means.items() if rough.hold(float(mean[at]))]
    seeds = [
        float(value) for m in kept for value in (points[m][:, at] if m.style else means[m][[at]])
    ]
    low, high = min(seeds), max(seeds)
    margin = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
    return Limits(low - margin, high + margin)


def _staircase(means: Sequence[Floats], better: Sequence[bool], limits: Sequence[Limits]) -> Floats:
    """The border of what the means dominate, shape [K, 2], from one edge to the other."""
    front = [means[at] for at in pareto_front(means, better)]
    worst = [one.low if up else one.high for one, up in zip(limits, better, strict=True)]
    corners = [np.array([worst[0], front[0][1]])]
    for point, following in zip(front, [*front[1:], None], strict=True):
        corners.append(point)
        corners.append(np.array([point[0], worst[1] if following is None else following[1]]))
    return np.array(corners)


def _handles(drawn: Sequence[Points], sums: Sequence[Sequence[Sequence[Method]]]) -> list["Artist"]:
    from matplotlib.lines import Line2D

    methods = dict.fromkeys(method for points in drawn for method in points)
    fixed = [method for method in methods if _style(method) is WEIGHTS_STYLE]
    handles = point_handles(method for method in methods if method not in fixed)
    if fixed:
        line = WEIGHTED if any(sums) else {}
        look = WEIGHTS_STYLE.of_point() | line
        handles.append(Line2D([], [], label="fixed weights", **look))
    return [*handles, Line2D([], [], label="not dominated", **FRONT)]


def _ends(sums: Sequence[Sequence[Sequence[Method]]]) -> list[str]:
    """Which weights the lines begin and end with."""
    ends = dict.fromkeys((family[0].name, family[-1].name) for of in sums for family in of)
    return [f"Dotted: fixed weights, from {first} to {last}." for first, last in ends]


def _caption(subject: Subject, outside: Sequence[str]) -> tuple[str, ...]:
    where = {"test": "test split", "final": "last epoch", "best": "best epoch of each metric"}
    return (
        f"Headline metric of each task, {where[subject.which]}; large: mean over "
        f"{subject.seeds()}, small: the seeds; up and right are better. "
        "The line bounds what the means of joint training dominate; dashed: single-task training.",
        *([f"Hollow, outside of the axes: {'; '.join(outside)}."] if outside else []),
    )
