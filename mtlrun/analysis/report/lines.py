"""The curves of a table's runs, a line a method, small enough to be part of a page."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mtlrun.analysis.comparison.table import Row, Table
from mtlrun.analysis.curves import (
    Band,
    Curve,
    Floats,
    loss_curves_of,
    metric_curves_of,
    over_seeds,
    pair_curves,
)
from mtlrun.analysis.runs import Run

MOST_POINTS = 300
"""Of a line."""

FEWEST_POINTS = 20
"""Of a line where there are very many of them."""

BUDGET = 400_000
"""Numbers in the curves of one page: some 2.6 MB."""

MOST_PAIRS = 15
"""Of tasks whose cosines are drawn apart; of more of them the mean is drawn."""

Curves = Mapping[str, Curve]


@dataclass(frozen=True)
class Kind:
    """What can be chosen to be drawn.

    Attributes:
        name: as the page says it.
        read: the curves of a run.
        logarithmic: whether the axis of values is logarithmic at first.
        count: how many curves a run has at the most.
    """

    name: str
    read: Callable[[Run], Curves]
    logarithmic: bool
    count: Callable[[Run], int]


def _selection(run: Run) -> Curves:
    """The metrics of a run and its losses, on the split that it selects on."""
    curves = metric_curves_of(run, "val" if run.select_on == "validation" else "test")
    return {
        f"{task} {name}": curves[f"{task}/{name}"]
        for task, metrics in run.metrics.items()
        for name in (*metrics, "loss")
        if f"{task}/{name}" in curves
    }


def _cosines(run: Run) -> Curves:
    pairs = pair_curves(run.folder)
    if len(pairs) <= MOST_PAIRS:
        return {f"{one} and {other}": pairs[one, other] for one, other in sorted(pairs)}
    mean = over_seeds(list(pairs.values()), 10 * MOST_POINTS)
    return {f"mean of {len(pairs)} pairs": Curve(mean.steps, mean.mean)}


def _count_pairs(run: Run) -> int:
    pairs = math.comb(len(run.metrics), 2)
    return pairs if pairs <= MOST_PAIRS else 1


def _count_tasks(run: Run) -> int:
    return len(run.metrics)


KINDS = (
    Kind("loss ratio", lambda run: loss_curves_of(run, "loss_ratio"), True, _count_tasks),
    Kind("weight", lambda run: loss_curves_of(run, "weight"), False, _count_tasks),
    Kind(
        "metric while training",
        _selection,
        False,
        lambda run: sum(len(metrics) + 1 for metrics in run.metrics.values()),
    ),
    Kind("cosine of gradients", _cosines, False, _count_pairs),
)


def points_for(tables: Iterable[Table]) -> int:
    """How many points a line may have, so that all curves of a page fit :data:`BUDGET`."""
    arrays = sum(
        kind.count(row.runs[0]) * (3 if len(row.runs) > 1 else 1)
        for table in tables
        for row in table.rows
        if row.runs
        for kind in KINDS
    )
    return min(max(BUDGET // max(arrays, 1), FEWEST_POINTS), MOST_POINTS)


@dataclass
class _Steps:
    """Lists of steps, each kept once: most lines of a table share theirs."""

    lists: list[list[float]] = field(default_factory=list)
    places: dict[tuple[float, ...], int] = field(default_factory=dict)

    def place(self, steps: Floats) -> int:
        key = tuple(steps.tolist())
        if key not in self.places:
            self.places[key] = len(self.lists)
            self.lists.append([round(step) for step in key])
        return self.places[key]


def curve_data(table: Table, labels: Sequence[str], points: int) -> dict[str, Any]:
    """What the page's script draws.

    Args:
        table: rows with their runs.
        labels: of the rows.
        points: that a line may have.

    Returns:
        ``methods``: names of the rows; ``steps``: lists of steps; ``kinds``: for each its name and
        ``items``, tasks or metrics, whose ``lines`` are ``[method, steps, mean, low, high]``. The
        first two are indices; the last two are missing where they are as the mean.
    """
    steps = _Steps()
    kinds = []
    for kind in KINDS:
        items: dict[str, list[list[Any]]] = {}
        for at, row in enumerate(table.rows):
            for name, band in _bands(row, kind, points):
                items.setdefault(name, []).append([at, *_line(band, steps)])
        if items:
            entries = [{"name": name, "lines": lines} for name, lines in items.items()]
            kinds.append({"name": kind.name, "log": kind.logarithmic, "items": entries})
    return {"methods": list(labels), "steps": steps.lists, "kinds": kinds}


def _bands(row: Row, kind: Kind, points: int) -> Iterator[tuple[str, Band]]:
    found: dict[str, list[Curve]] = {}
    for run in row.runs:
        for name, curve in kind.read(run).items():
            found.setdefault(name, []).append(curve)
    for name, curves in found.items():
        band = over_seeds(curves, points)
        if band.steps.size:
            yield name, band


def _line(band: Band, steps: _Steps) -> list[Any]:
    mean, low, high = map(_short, (band.mean, band.low, band.high))
    if low == high and len(set(mean)) == 1:  # a weight that never moves: its ends are enough
        ends = sorted({0, len(mean) - 1})
        return [steps.place(band.steps[ends]), [mean[end] for end in ends]]
    place = steps.place(band.steps)
    return [place, mean] if low == high else [place, mean, low, high]


def _short(values: Floats) -> list[float]:
    """With four digits, which is more than a picture shows; whole numbers without a point."""
    rounded = [float(f"{value:.4g}") for value in values.tolist()]
    return [int(value) if value.is_integer() else value for value in rounded]
