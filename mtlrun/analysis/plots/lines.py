"""Loss ratios and weights over the steps, as small multiples: a panel a task, or a panel a method.

Loss ratios are what GradNorm (Chen et al., ICML 2018) balances the training rates of tasks by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlrun.analysis.curves import Band, LossFigure
from mtlrun.analysis.plots.limits import Limits
from mtlrun.analysis.plots.style import (
    COLUMN,
    PAGE,
    REST,
    LineStyle,
    fitted,
    legend_below,
    legend_height,
    line_style,
    log_axis,
    name_axes,
    panel_grid,
    panel_width,
    plain,
    step_axis,
)
from mtlrun.analysis.plots.subject import Method, NothingToDrawError, Picture, Subject

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Bands = Mapping[Method, Mapping[str, Band]]
Drawn = Sequence[tuple[LineStyle | None, Band]]

MOST_PANELS = 40
MOST_TASKS = 12
"""Lines of tasks in one panel that can still be told apart."""

WIDE_RANGE = 10.0
"""Where the largest figure is so many times the smallest, the axis is logarithmic."""

START = 0.05
"""The part of the steps in which a loss may fall so fast that it hides what comes after."""

MARKS = 5
"""Markers on a line."""


@dataclass(frozen=True)
class Quantity:
    """What is drawn over the steps.

    Attributes:
        figure: the column of ``losses.csv``.
        label: of the axis.
        definition: for the caption.
        of_baselines: whether it means anything for single-task training.
        one_scale: whether tasks share the axis.
    """

    figure: LossFigure
    label: str
    definition: str
    of_baselines: bool
    one_scale: bool


LOSS_RATIO = Quantity(
    figure="loss_ratio",
    label="loss ratio",
    definition="Loss ratio: training loss by the loss of the first step.",
    of_baselines=True,
    one_scale=False,
)
WEIGHT = Quantity(
    figure="weight",
    label="weight",
    definition="Weight: of a task's loss, or its gradient, in the update of what the tasks share.",
    of_baselines=False,
    one_scale=True,
)


def loss_ratios(subject: Subject) -> Picture:
    """Loss ratios, a panel a task and a line a method."""
    return _panel_a_task(subject, LOSS_RATIO)


def loss_ratios_by_method(subject: Subject) -> Picture:
    """Loss ratios, a panel a method and a line a task."""
    return _panel_a_method(subject, LOSS_RATIO)


def weights(subject: Subject) -> Picture:
    """Weights, a panel a task and a line a method."""
    return _panel_a_task(subject, WEIGHT)


def weights_by_method(subject: Subject) -> Picture:
    """Weights, a panel a method and a line a task."""
    return _panel_a_method(subject, WEIGHT)


def _panel_a_task(subject: Subject, quantity: Quantity) -> Picture:
    bands = _bands(subject, subject.methods, quantity)
    tasks = [task for task in subject.tasks if any(task in of for of in bands.values())]
    if len(tasks) > MOST_PANELS:
        raise NothingToDrawError(f"{len(tasks)} tasks are too many: name some with --task.")
    drawn = {
        task: [(method.style, of[task]) for method, of in bands.items() if task in of]
        for task in tasks
    }
    handles = _method_handles(list(bands))
    figure, panels = _figure(len(tasks), handles, one_scale=quantity.one_scale)
    everything = [one for of_task in drawn.values() for one in of_task]
    cut = False
    for panel, (task, lines) in zip(panels, drawn.items(), strict=True):
        for place, (style, band) in enumerate(lines):
            _draw(panel, band, style, place, sum(style is not None for style, _ in lines))
        cut |= _finish(panel, plain(task), everything if quantity.one_scale else lines)
    name_axes(panels, x="steps", y=quantity.label)
    legend_below(figure, handles)
    named = [method for method in bands if method.style]
    return Picture(figure, (*_caption(subject, quantity, named, cut=cut), *subject.others_note()))


def _panel_a_method(subject: Subject, quantity: Quantity) -> Picture:
    bands = _bands(subject, subject.highlighted, quantity)
    if len(subject.tasks) > MOST_TASKS:
        raise NothingToDrawError(
            f"{len(subject.tasks)} tasks in one panel cannot be told apart: name up to "
            f"{MOST_TASKS} with --task."
        )
    if len(bands) > MOST_PANELS:
        raise NothingToDrawError(f"{len(bands)} methods are too many: name some with --methods.")
    tasks = [task for task in subject.tasks if any(task in of for of in bands.values())]
    styles = {task: line_style(index) for index, task in enumerate(tasks)}
    handles = [_handle(style, plain(task)) for task, style in styles.items()]
    figure, panels = _figure(len(bands), handles, one_scale=True)
    everything = [(styles[task], band) for of in bands.values() for task, band in of.items()]
    cut = False
    for panel, (method, of) in zip(panels, bands.items(), strict=True):
        for place, task in enumerate(task for task in tasks if task in of):
            _draw(panel, of[task], styles[task], place, len(of))
        cut |= _finish(panel, method.name, everything)
    name_axes(panels, x="steps", y=quantity.label)
    legend_below(figure, handles)
    rest = len(subject.others)
    note = (f"The first {len(bands)} methods of the table; {rest} more are not drawn.",)
    return Picture(
        figure, (*_caption(subject, quantity, list(bands), cut=cut), *(note if rest else ()))
    )


def _bands(subject: Subject, methods: Sequence[Method], quantity: Quantity) -> Bands:
    """Of the methods that have any.

    Raises:
        NothingToDrawError: none has, or all weights stay what they were.
    """
    bands = {}
    for method in methods:
        if quantity.of_baselines or not method.single_task:
            every = method.bands(quantity.figure, subject.window)
            of_tasks = {task: band for task, band in every.items() if task in subject.tasks}
            if of_tasks:
                bands[method] = of_tasks
    if not bands:
        raise NothingToDrawError(f"the runs' losses.csv hold no {quantity.label}.")
    values = [band for of in bands.values() for band in of.values()]
    if quantity is WEIGHT and all(np.ptp([band.low, band.high]) == 0 for band in values):
        raise NothingToDrawError("all weights stay what they were at the first step.")
    return bands


def _figure(
    count: int, handles: Sequence["Artist"], *, one_scale: bool
) -> tuple["Figure", list["Axes"]]:
    """Panels of a height that suits their number, with room for the legend."""
    columns = _columns(count)
    height = {1: 2.1, 2: 1.8, 3: 1.5, 4: 1.25, 5: 1.1}[columns]
    below = legend_height(handles, PAGE if count > 1 else COLUMN) + 0.25
    return panel_grid(count, height, columns, extra=below, sharex=True, sharey=one_scale)


def _columns(count: int) -> int:
    """Panels in a row: few of them are large, and few places stay empty."""
    if count <= 3:
        return count
    return {4: 2, 5: 3, 6: 3, 9: 3}.get(count, 4 if count <= 20 else 5)


def _draw(panel: "Axes", band: Band, style: LineStyle | None, place: int, lines: int) -> None:
    """A line with a band around it; a thin one in grey without a style.

    Args:
        panel: where to draw.
        band: what to draw.
        style: None for grey.
        place: its number among the lines of the panel.
        lines: in colour in the panel; the more, the paler the bands, which lie on each other.
    """
    if style is None:
        panel.plot(band.steps, band.mean, color=REST, linewidth=0.5, zorder=1)
        return
    look: dict[str, Any] = style.of_line() | {"markevery": _marks(len(band.steps), place)}
    panel.plot(band.steps, band.mean, zorder=3, **look)
    if band.seeds > 1:
        look = {"color": style.colour, "alpha": min(0.18, 0.5 / lines), "linewidth": 0}
        panel.fill_between(band.steps, band.low, band.high, zorder=2, **look)


def _marks(points: int, place: int) -> list[int]:
    """Where a line has markers: at even distances, those of the next line a bit further on."""
    at = points / MARKS * (np.arange(MARKS) + (0.35 + 0.17 * place) % 1)
    return sorted({min(max(int(index), 1), points - 1) for index in at})


def _finish(panel: "Axes", title: str, drawn: Drawn) -> bool:
    """Title, axes and limits; gives back whether the start runs out of the axis."""
    panel.set_title(fitted(title, panel_width(panel)))
    step_axis(panel)
    panel.set_xlim(0, max(float(band.steps[-1]) for _, band in drawn))
    limits, cut = value_limits(drawn)
    if _is_wide(limits):
        log_axis(panel.yaxis, limits.low / 1.1, limits.high * 1.1)
        return cut
    if 0 <= limits.low < 0.4 * limits.high:
        limits = Limits(0.0, limits.high)
    margin = 0.04 * (limits.high - limits.low or 1.0)
    panel.set_ylim(limits.low - (margin if limits.low else 0), limits.high + margin)
    panel.locator_params(axis="y", nbins=5)
    return cut


def value_limits(drawn: Drawn) -> tuple[Limits, bool]:
    """What the axis holds: the lines in colour with their bands, and most of those in grey.

    Returns:
        the limits; whether the lines fall so fast in the first steps that what comes after would
        fill less than half of the axis, so that the start is left to run out of it.
    """
    end = max(float(band.steps[-1]) for _, band in drawn)
    whole, later = _limits_from(drawn, 0), _limits_from(drawn, START * end)
    if _is_wide(whole) or whole.high - whole.low <= 2 * (later.high - later.low):
        return whole, False
    return later, True


def _is_wide(limits: Limits) -> bool:
    return limits.low > 0 and limits.high / limits.low > WIDE_RANGE


def _limits_from(drawn: Drawn, first_step: float) -> Limits:
    """Around the lines in colour from a step on, and around nine tenths of the grey figures."""
    coloured, grey = [], []
    for style, band in drawn:
        shown = band.steps >= min(first_step, float(band.steps[-1]))
        if style:
            coloured += [band.low[shown], band.high[shown]]
        else:
            grey.append(band.mean[shown])
    most = [np.quantile(np.concatenate(grey), [0.05, 0.95])] if grey else []
    held = np.concatenate([*coloured, *most])
    return Limits(float(held.min()), float(held.max()))


def _method_handles(methods: Sequence[Method]) -> list["Artist"]:
    handles = [_handle(method.style, method.name) for method in methods if method.style]
    rest = sum(1 for method in methods if not method.style)
    if rest:
        handles.append(_handle(None, f"{rest} others"))
    return handles


def _handle(style: LineStyle | None, label: str) -> "Artist":
    from matplotlib.lines import Line2D

    options: dict[str, Any] = style.of_line() if style else {"color": REST, "linewidth": 0.8}
    return Line2D([], [], label=label, **options)


def _caption(
    subject: Subject, quantity: Quantity, methods: Sequence[Method], *, cut: bool
) -> tuple[str, ...]:
    seeds = subject.seeds(methods)
    lines = f"Lines: mean over {seeds}; bands: from the lowest to the highest seed."
    smooth = f"Smoothed: centred mean over {subject.window:g} steps."
    return (
        quantity.definition,
        lines if seeds != "1 seed" else "One seed.",
        *([smooth] if subject.window > 0 else []),
        *(["The steep start runs out of the axes."] if cut else []),
    )
