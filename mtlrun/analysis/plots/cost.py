"""What methods gain against what they cost."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtlrun.analysis.comparison.table import DELTA_M, Cell
from mtlrun.analysis.plots.limits import Limits, robust_limits
from mtlrun.analysis.plots.points import draw_point, point_handles
from mtlrun.analysis.plots.style import (
    COLUMN,
    NEUTRAL,
    PAGE,
    POINT_HANDLE,
    legend_below,
    legend_height,
    log_axis,
    panel_grid,
)
from mtlrun.analysis.plots.subject import Method, NothingToDrawError, Picture, Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SECONDS = "seconds"
WIDE_RANGE = 20.0
"""Where the largest cost is so many times the smallest, the axis is logarithmic."""


@dataclass(frozen=True)
class Cost:
    """A cost of each method.

    Attributes:
        name: for the caption.
        label: of the axis, with its unit.
        of: for each method that has one.
    """

    name: str
    label: str
    of: Mapping[Method, float]


def cost(subject: Subject) -> Picture:
    """delta_m against seconds, parameters and floating-point operations, a panel each.

    Raises:
        NothingToDrawError: no method has a delta_m, or none of the costs.
    """
    scored = [
        method for method in subject.methods if not math.isnan(subject.cell(method, DELTA_M).mean)
    ]
    if sum(not method.single_task for method in scored) < 1:
        raise NothingToDrawError("there is no delta_m: it takes single-task runs to compare with.")
    costs = [one for one in _costs(subject, scored) if one.of]
    varied = [one for one in costs if _varies(one)]
    if not varied:
        raise NothingToDrawError("the runs have no seconds, parameters or operations that differ.")
    handles = point_handles(scored)
    width = COLUMN if len(varied) == 1 else PAGE
    below = legend_height(handles, width, POINT_HANDLE)
    figure, panels = panel_grid(len(varied), 2.0, len(varied), extra=below + 0.15, sharey=True)
    limits = _delta_m_limits(subject, scored)
    for panel, one in zip(panels, varied, strict=True):
        _draw(panel, subject, one, limits)
    panels[0].set_ylabel(r"$\Delta_m$ [%]")
    legend_below(figure, handles, POINT_HANDLE)
    same = [one for one in costs if one not in varied]
    return Picture(figure, (*_caption(subject, scored, limits, same), *subject.others_note()))


def _costs(subject: Subject, methods: Sequence[Method]) -> list[Cost]:
    seconds = {
        method: subject.cell(method, SECONDS).mean
        for method in methods
        if not math.isnan(subject.cell(method, SECONDS).mean)
    }
    return [
        Cost(SECONDS, "training and testing [s]", seconds),
        _relative(subject, methods, "parameters", lambda method: method.parameters, ""),
        _relative(subject, methods, "forward FLOPs", lambda method: method.forward_flops, "FLOPs"),
    ]


def _relative(
    subject: Subject,
    methods: Sequence[Method],
    name: str,
    cost_of: Callable[[Method], float],
    unit: str,
) -> Cost:
    """A cost by that of the baseline, whose own is named where there is one."""
    ratios, references = {}, set()
    for method in methods:
        baseline = subject.baseline_of(method)
        reference = cost_of(baseline) if baseline else math.nan
        ratio = cost_of(method) / reference if reference else math.nan
        if not math.isnan(ratio):
            ratios[method] = ratio
            references.add(reference)
    of = f" ({with_prefix(references.pop(), unit)})" if len(references) == 1 else ""
    against = subject.against(methods).removesuffix(" training")
    return Cost(name, f"{name} relative to\n{against}{of}", ratios)


def with_prefix(value: float, unit: str) -> str:
    """``0.5 GFLOPs``, ``8.84 M``: a number with three digits and the prefix of its size."""
    size, prefix = next(
        (
            (size, prefix)
            for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
            if abs(value) >= 0.1 * size
        ),
        (1.0, ""),
    )
    return f"{value / size:.3g} {prefix}{unit}".strip()


def _varies(one: Cost) -> bool:
    """Whether the jointly trained methods differ in it by more than a hundredth."""
    values = [value for method, value in one.of.items() if not method.single_task]
    return bool(values) and max(values) > 1.01 * min(values)


def _delta_m_limits(subject: Subject, methods: Sequence[Method]) -> Limits:
    cells = [subject.cell(method, DELTA_M) for method in methods]
    rough = robust_limits((cell.mean for cell in cells), always=[0.0])
    ends = [end for cell in cells if rough.hold(cell.mean) for end in spread_of(cell)]
    margin = 0.05 * (max(ends) - min(ends)) or 1.0
    return Limits(min(*ends, 0.0) - margin, max(*ends, 0.0) + margin)


def spread_of(cell: Cell) -> tuple[float, float]:
    """The ends of its interval where one was asked for, else a standard deviation on both sides."""
    if cell.has_interval:
        return cell.interval
    deviation = 0.0 if math.isnan(cell.deviation) else cell.deviation
    return cell.mean - deviation, cell.mean + deviation


def _draw(panel: "Axes", subject: Subject, one: Cost, limits: Limits) -> None:
    panel.axhline(0, color=NEUTRAL, linewidth=0.6, zorder=1)
    for method, value in one.of.items():
        cell = subject.cell(method, DELTA_M)
        inside = limits.hold(cell.mean)
        draw_point(panel, value, limits.nearest(cell.mean), method.style, inside=inside)
        if method.style and inside:
            look: Any = {"color": method.colour, "linewidth": 0.8, "zorder": 3}
            panel.plot((value, value), spread_of(cell), **look)
    panel.set_ylim(*limits)
    panel.locator_params(axis="y", nbins=6)
    panel.set_xlabel(one.label)
    values = list(one.of.values())
    if min(values) > 0 and max(values) > WIDE_RANGE * min(values):
        log_axis(panel.xaxis, min(values) / 1.3, max(values) * 1.3)
    else:
        panel.set_xlim(0, 1.08 * max(values))
        panel.locator_params(axis="x", nbins=5)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _caption(
    subject: Subject, methods: Sequence[Method], limits: Limits, same: Sequence[Cost]
) -> list[str]:
    intervals = any(subject.cell(method, DELTA_M).has_interval for method in methods)
    spread = "95 % interval" if intervals else "standard deviation"
    against = subject.against(methods)
    sentences = [
        f"Mean relative change over all metrics against {against} (positive is better) "
        f"against cost; mean and {spread} over {subject.seeds(methods)}."
    ]
    for one in same:
        value = next(value for method, value in one.of.items() if not method.single_task)
        sentences.append(
            "All methods take about the same time."
            if one.name == SECONDS
            else f"Joint training has {value:.3g} times the {one.name} of {against}."
        )
    outside = [
        f"{method.name} ({subject.cell(method, DELTA_M).mean:+.1f} %)"
        for method in methods
        if not limits.hold(subject.cell(method, DELTA_M).mean)
    ]
    if outside:
        sentences.append(f"Hollow, outside of the axes: {', '.join(outside)}.")
    machines = {run.machine for method in methods for run in method.row.runs}
    if len(machines) > 1:
        sentences.append(f"Seconds are of different machines: {', '.join(sorted(machines))}.")
    return sentences
