"""What joint training does to each task, with how sure that is."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtlrun.analysis.comparison.table import Transfer, Verdict
from mtlrun.analysis.plots.limits import Limits, robust_limits
from mtlrun.analysis.plots.style import (
    COLUMN,
    GAIN,
    LINE,
    LOSS,
    NEUTRAL,
    PAGE,
    TALLEST,
    fitted,
    legend_below,
    name_axes,
    panel_width,
    plain,
)
from mtlrun.analysis.plots.subject import Method, NothingToDrawError, Picture, Subject

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

MOST_COLUMNS = 4
HOLLOW: dict[str, Any] = {
    "marker": "o",
    "color": NEUTRAL,
    "markerfacecolor": "white",
    "markersize": 4,
    "markeredgewidth": 0.8,
}
MARKS: Mapping[Verdict | None, tuple[str, dict[str, Any]]] = {
    "gains": ("better", {"marker": ">", "color": GAIN, "markersize": 5}),
    "unclear": ("interval holds 0", HOLLOW),
    "loses": ("worse", {"marker": "<", "color": LOSS, "markersize": 5}),
    None: ("no interval", HOLLOW | {"linestyle": "none"}),
}
"""For each verdict the legend's words and the marker; None is for a change without interval."""


def transfer(subject: Subject) -> Picture:
    """A panel a task, a row a method: the mean change, with its 95 % interval.

    Raises:
        NothingToDrawError: no method has a change against single-task training.
    """
    changes = {
        method: {one.task: one for one in method.row.transfer if one.task in subject.tasks}
        for method in subject.methods
        if not method.single_task
    }
    changes = {method: of for method, of in changes.items() if of}
    tasks = [task for task in subject.tasks if any(task in of for of in changes.values())]
    if not tasks:
        raise NothingToDrawError(
            "there is no change against single-task training: that takes single-task runs of the "
            "same study, or --baseline."
        )
    columns = min(MOST_COLUMNS, len(tasks))
    rows = -(-len(tasks) // columns)
    drawn, note = _that_fit(changes, rows)
    figure, panels = _figure(len(tasks), columns, len(drawn))
    outside: list[str] = []
    cut = False
    for index, (panel, task) in enumerate(zip(panels, tasks, strict=True)):
        beyond, goes_on = _draw(panel, task, drawn)
        outside += beyond
        cut |= goes_on
        panel.set_title(fitted(plain(task), panel_width(panel)))
        panel.tick_params(axis="y", labelleft=index % columns == 0)
    name_axes(panels, x="change [%]", same_scale=False)
    legend_below(figure, _handles(drawn, tasks))
    return Picture(figure, (*_caption(subject, drawn, outside, cut=cut), *note))


def _that_fit(
    changes: Mapping[Method, Mapping[str, Transfer]], rows: int
) -> tuple[dict[Method, Mapping[str, Transfer]], tuple[str, ...]]:
    """All methods, or those in colour where a page is too short for all."""
    if _height(len(changes), rows) <= TALLEST:
        return dict(changes), ()
    kept = {method: of for method, of in changes.items() if method.style}
    return kept, (f"The other {len(changes) - len(kept)} methods are not drawn.",)


def _height(methods: int, rows: int) -> float:
    """Of the figure in inches."""
    return rows * (LINE * (methods + 0.8) + 0.45) + 0.55


def _figure(count: int, columns: int, methods: int) -> tuple[Any, list["Axes"]]:
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    size = (COLUMN if columns == 1 else PAGE, _height(methods, rows))
    figure = Figure(size, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for empty in panels[count:]:
        empty.remove()
    return figure, panels[:count]


def _draw(
    panel: "Axes", task: str, changes: Mapping[Method, Mapping[str, Transfer]]
) -> tuple[list[str], bool]:
    """One task.

    Returns:
        the methods outside of the axis, which are drawn at its end, with their figures; whether an
        interval is longer than the axis.
    """
    found = [
        (row, method, of[task])
        for row, (method, of) in enumerate(changes.items())
        if task in of and math.isfinite(of[task].change)
    ]
    limits = _limits([one for _, _, one in found])
    outside, cut = [], False
    panel.axvline(0, color=NEUTRAL, linewidth=0.6, zorder=1)
    for row, method, one in found:
        _, mark = MARKS[_verdict(one)]
        held = limits.hold(one.change)
        if held and not math.isnan(one.low):
            ends = limits.nearest(one.low), limits.nearest(one.high)
            cut |= ends != (one.low, one.high)
            panel.plot(ends, (row, row), color=mark["color"], linewidth=1, zorder=2)
        if held:
            panel.plot(one.change, row, **{**mark, "linestyle": "none"}, zorder=3, clip_on=False)
        else:
            outside.append(f"{method.name} on {task} ({one.change:+.1f} %)")
            _at_the_end(panel, one, row, limits)
    panel.set_xlim(*limits)
    panel.set_ylim(len(changes) - 0.4, -0.6)
    panel.set_yticks(range(len(changes)), [method.name for method in changes])
    panel.tick_params(axis="y", length=0)
    panel.locator_params(axis="x", nbins=4)
    panel.grid(axis="y", color="0.92", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines["left"].set_visible(False)
    return outside, cut


def _verdict(one: Transfer) -> Verdict | None:
    return None if math.isnan(one.low) else one.verdict


def _at_the_end(panel: "Axes", one: Transfer, row: int, limits: Limits) -> None:
    """The number of a method that lies beyond the axis, at the end on which it lies."""
    left = one.change < limits.low
    number = f"{one.change:+.0f}".replace("-", "−")
    panel.annotate(
        f"← {number}" if left else f"{number} →",
        (limits.low if left else limits.high, row),
        color=MARKS[_verdict(one)][1]["color"],
        ha="left" if left else "right",
        va="center_baseline",
    )


def _limits(found: Sequence[Transfer]) -> Limits:
    """Around the changes that are not far out, and as much of their intervals as helps."""
    if not found:
        return Limits(-1.0, 1.0)
    rough = robust_limits((one.change for one in found), always=[0.0])
    wide = rough.high - rough.low
    ends = [0.0]
    for one in found:
        if rough.hold(one.change):
            ends.append(one.change)
            # An interval from two seeds may be a hundred times as wide as all the changes.
            ends += [max(one.low, one.change - wide), min(one.high, one.change + wide)]
    known = [end for end in ends if math.isfinite(end)]
    margin = 0.06 * (max(known) - min(known)) or 1.0
    return Limits(min(known) - margin, max(known) + margin)


def _handles(
    changes: Mapping[Method, Mapping[str, Transfer]], tasks: Sequence[str]
) -> list["Artist"]:
    from matplotlib.lines import Line2D

    there = {_verdict(one) for of in changes.values() for task, one in of.items() if task in tasks}
    return [
        Line2D([], [], label=label, **{"linestyle": "-", "linewidth": 1, **mark})
        for verdict, (label, mark) in MARKS.items()
        if verdict in there
    ]


def _caption(
    subject: Subject, changes: Mapping[Method, object], outside: Sequence[str], *, cut: bool
) -> tuple[str, ...]:
    return (
        "Mean relative change of each task's metrics against single-task training, in percent, "
        f"positive where better; mean over {subject.seeds(list(changes))}, with 95 % intervals.",
        *(["Intervals that reach the end of an axis go on."] if cut else []),
        *([f"Outside of the axes: {'; '.join(outside)}."] if outside else []),
    )
