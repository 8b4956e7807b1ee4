"""Quality against cost: delta_m over the seconds that a method takes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mtlrun.analysis.comparison.table import (
    DELTA_M,
    Cell,
    Column,
    Table,
    format_deviation,
    format_number,
)
from mtlrun.analysis.report.marks import line, mark, mark_class, picture, words
from mtlrun.analysis.report.markup import Markup, element, shortened
from mtlrun.analysis.statistics.front import pareto_front

WIDTH, HEIGHT = 860, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 16, 46
"""Of the picture and its margins, in pixels."""

COST = "seconds"
LONGEST = 30
"""Characters of a label."""


@dataclass(frozen=True)
class _Point:
    at: int
    label: str
    cost: Cell
    quality: Cell


@dataclass(frozen=True)
class Axis:
    """From figures to pixels.

    Attributes:
        low: figure at ``start``.
        high: figure at ``end``.
        logarithmic: whether equal factors are equally long.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """The pixel of a figure; those beyond the ends are moved there."""
        low, high, value = (
            map(math.log, (self.low, self.high, max(value, self.low)))
            if self.logarithmic
            else (self.low, self.high, value)
        )
        share = min(max((value - low) / (high - low), 0), 1)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round figures between the ends."""
        if self.logarithmic:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            candidates = [f * 10.0**p for p in range(first, last + 1) for f in (1, 2, 5)]
            return [tick for tick in candidates if self.low <= tick <= self.high]
        step = _round_step((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999)


def cost_picture(table: Table) -> Markup | None:
    """A point a method, with its spread over seeds; None with fewer than two methods."""
    places = {column.key: at for at, column in enumerate(table.columns)}
    if DELTA_M not in places or COST not in places:
        return None
    points = [
        _Point(at, label, row.cells[places[COST]], row.cells[places[DELTA_M]])
        for at, (label, row) in enumerate(zip(table.labels, table.rows, strict=True))
    ]
    points = [p for p in points if p.cost.mean > 0 and math.isfinite(p.quality.mean)]
    if len(points) < 2:
        return None
    pairs = [(point.quality.mean, point.cost.mean) for point in points]
    front = [points[at] for at in pareto_front(pairs, (True, False))]
    x, y = _axes(points)
    quality = table.columns[places[DELTA_M]]
    cost = table.columns[places[COST]]
    parts = [
        *_grid(x, y),
        *_front(front, x, y),
        *(part for point in points for part in _dot(point, x, y, (cost, quality))),
        *_labels(points, front, x, y),
    ]
    said = ", ".join(point.label for point in front)
    return picture(
        parts,
        "cost",
        WIDTH,
        HEIGHT,
        f"delta_m over metrics against seconds. No method is both better and cheaper than: {said}.",
    )


def _axes(points: Sequence[_Point]) -> tuple[Axis, Axis]:
    costs = [point.cost.mean for point in points]
    if max(costs) > 20 * min(costs):
        x = Axis(min(costs) / 1.3, max(costs) * 1.6, LEFT, WIDTH - RIGHT, logarithmic=True)
    else:
        x = Axis(0, max(costs) * 1.18, LEFT, WIDTH - RIGHT)
    spreads = [(p.quality.mean, _finite(p.quality.deviation)) for p in points]
    low = min(0, *(mean - spread for mean, spread in spreads))
    high = max(0, *(mean + spread for mean, spread in spreads))
    room = 0.07 * (high - low) or 1.0
    return x, Axis(low - room, high + room, HEIGHT - BOTTOM, TOP)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _grid(x: Axis, y: Axis) -> Iterator[Markup]:
    for tick in y.ticks():
        at = y.place(tick)
        yield line(LEFT, at, WIDTH - RIGHT, at, "zero" if tick == 0 else "grid")
        yield words(f"{tick:+.4g}" if tick else "0", LEFT - 8, at + 4, "end")
    for tick in x.ticks():
        yield words(f"{tick:.6g}", x.place(tick), HEIGHT - BOTTOM + 20)
    yield line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis")
    yield words("seconds", WIDTH - RIGHT, HEIGHT - 8, "end", "title")
    yield words("delta_m over metrics [%]", LEFT + 6, TOP + 4, "start", "title")


def _front(front: Sequence[_Point], x: Axis, y: Axis) -> Iterator[Markup]:
    """Steps along the methods that none is both better and cheaper than."""
    ordered = sorted(front, key=lambda point: point.cost.mean)
    path = ""
    for point in ordered:
        across, up = x.place(point.cost.mean), y.place(point.quality.mean)
        path += f"H{across:.1f}V{up:.1f}" if path else f"M{across:.1f} {up:.1f}"
    yield element("path", d=f"{path}H{WIDTH - RIGHT}", class_="front")


def _dot(point: _Point, x: Axis, y: Axis, columns: tuple[Column, Column]) -> Iterator[Markup]:
    across = x.place(point.cost.mean)
    spread = _finite(point.quality.deviation)
    ends = [y.place(point.quality.mean + sign * spread) for sign in (-1, 1)]
    cost, quality = columns
    deviation = format_deviation(point.quality, quality)
    told = (
        f"{point.label}\ndelta_m {format_number(point.quality.mean, quality)} %"
        + (f" ± {deviation}" if deviation else "")
        + f"\n{format_number(point.cost.mean, cost)} seconds"
    )
    yield element(
        "g",
        element("title", told),
        line(across, ends[0], across, ends[1], f"spread {mark_class(point.at)}"),
        mark(point.at, across, y.place(point.quality.mean), 6),
        element("circle", cx=across, cy=y.place(point.quality.mean), r=14, class_="target"),
        data_tip=told,
        tabindex=0,
    )


def _labels(
    points: Sequence[_Point], front: Sequence[_Point], x: Axis, y: Axis
) -> Iterator[Markup]:
    """Names beside the points, those of the front first, where there is room for them."""
    taken = [_box(x.place(p.cost.mean) - 8, y.place(p.quality.mean), 16) for p in points]
    for point in [*front, *(p for p in points if p not in front)]:
        text = shortened(point.label, LONGEST)
        width = 7.0 * len(text)
        across, up = x.place(point.cost.mean), y.place(point.quality.mean)
        for start, down in ((11, 0), (-11 - width, 0), (11, -14), (11, 14), (-11 - width, 14)):
            box = _box(across + start, up + down, width)
            inside = box[0] > LEFT and box[1] < WIDTH and TOP < up + down < HEIGHT - BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                if start > 0:
                    yield words(text, across + start, up + down + 4, "start")
                else:
                    yield words(text, across - 11, up + down + 4, "end")
                break


def _box(left: float, middle: float, width: float) -> tuple[float, float, float, float]:
    return left, left + width, middle - 8, middle + 8


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]
