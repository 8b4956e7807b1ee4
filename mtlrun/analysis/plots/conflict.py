"""Conflict over time: the cosines between the gradients of pairs of tasks, as heat maps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mtlrun.analysis.curves import Curve, Floats, pair_curves
from mtlrun.analysis.plots.style import (
    COLUMN,
    LINE,
    PAGE,
    fitted,
    name_axes,
    panel_width,
    plain,
    step_axis,
)
from mtlrun.analysis.plots.subject import Method, NothingToDrawError, Picture, Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

Pair = tuple[str, str]
PairCurves = Mapping[Pair, Sequence[Curve]]

MOST_BINS = 24
MOST_PAIRS = 24
MOST_PANELS = 9
COLOUR_MAP = "RdBu"
"""Red is conflict (-1), white orthogonal (0), blue agreement (1)."""

SCALE_HEIGHT = 0.55
"""Of the colour scale with its numbers, in inches."""


def conflict(subject: Subject) -> Picture:
    """A panel a method and a row a pair of tasks; for a single pair one panel, a row a method.

    Raises:
        NothingToDrawError: no run has ``conflicts.csv`` with rows.
    """
    if len(subject.tasks) < 2:
        raise NothingToDrawError("it shows pairs of tasks, and there is one task.")
    every = {method: _cosines(method, subject.tasks) for method in subject.methods}
    cosines = {method: curves for method, curves in every.items() if curves}
    pairs = list(dict.fromkeys(pair for curves in cosines.values() for pair in curves))
    if not pairs:
        raise NothingToDrawError(
            "no run has cosines of gradients in conflicts.csv; methods that read the tasks' "
            "gradients write it."
        )
    edges = bin_edges([one for of in cosines.values() for curves in of.values() for one in curves])
    if len(pairs) == 1:
        return _one_pair(subject, cosines, pairs[0], edges)
    return _several_pairs(subject, cosines, pairs, edges)


def bin_edges(curves: Sequence[Curve], most: int = MOST_BINS) -> Floats:
    """Edges of at most ``most`` bins over all steps, none of them empty for the longest curve.

    Args:
        curves: with finite values.
        most: bins.
    """
    steps = np.unique(max((curve.finite().steps for curve in curves), key=len))
    low = min(float(curve.steps[0]) for curve in curves)
    high = max(float(curve.steps[-1]) for curve in curves)
    if len(steps) <= most:
        return np.concatenate([[low], (steps[1:] + steps[:-1]) / 2, [max(high, low + 1)]])
    for count in range(most, 1, -1):
        edges = np.linspace(low, high, count + 1)
        if np.histogram(steps, edges)[0].all():
            return edges
    return np.array([low, high])


def binned(curves: Sequence[Curve], edges: Floats) -> Floats:
    """The mean of all points of the curves in each bin, shape [len(edges) - 1]; NaN without any."""
    known = [curve.finite() for curve in curves]
    steps = np.concatenate([curve.steps for curve in known])
    values = np.concatenate([curve.values for curve in known])
    counts, _ = np.histogram(steps, edges)
    sums, _ = np.histogram(steps, edges, weights=values)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _cosines(method: Method, tasks: Sequence[str]) -> dict[Pair, list[Curve]]:
    """For each pair of ``tasks`` the curves of the seeds."""
    found: dict[Pair, list[Curve]] = {}
    for run in method.row.runs:
        for (first, second), curve in pair_curves(run.folder).items():
            if first in tasks and second in tasks:
                found.setdefault((first, second), []).append(curve)
    return found


def _one_pair(
    subject: Subject, cosines: Mapping[Method, PairCurves], pair: Pair, edges: Floats
) -> Picture:
    from matplotlib.figure import Figure

    methods = list(cosines)
    figure = Figure((COLUMN, LINE * (len(methods) + 3.2) + SCALE_HEIGHT), layout="constrained")
    panel = figure.subplots()
    image = np.stack([binned(cosines[method][pair], edges) for method in methods])
    mesh = _heat_map(panel, image, edges, [method.name for method in methods])
    panel.set_title(_pair_name(pair))
    panel.set_xlabel("steps")
    _scale(figure, mesh, [panel])
    return Picture(figure, _caption(subject, methods, ()))


def _several_pairs(
    subject: Subject, cosines: Mapping[Method, PairCurves], pairs: Sequence[Pair], edges: Floats
) -> Picture:
    from matplotlib.figure import Figure

    notes: list[str] = []
    drawn = list(cosines) if subject.chosen else list(cosines)[:MOST_PANELS]
    if len(drawn) < len(cosines):
        notes.append(f"{len(cosines) - len(drawn)} more methods are not drawn.")
    images = {
        method: {pair: binned(curves, edges) for pair, curves in cosines[method].items()}
        for method in drawn
    }
    kept = most_in_conflict(images, pairs)
    if len(kept) < len(pairs):
        notes.append(f"The {len(kept)} of {len(pairs)} pairs whose mean cosine is lowest.")
    columns = {1: 1, 2: 2, 4: 2}.get(len(drawn), 3)
    rows = -(-len(drawn) // columns)
    height = rows * LINE * (len(kept) + 2) + 2 * LINE + SCALE_HEIGHT
    figure = Figure((COLUMN if columns == 1 else PAGE, height), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for empty in panels[len(drawn) :]:
        empty.remove()
    panels = panels[: len(drawn)]
    nothing = np.full(len(edges) - 1, np.nan)
    for index, (panel, method) in enumerate(zip(panels, drawn, strict=True)):
        image = np.stack([images[method].get(pair, nothing) for pair in kept])
        mesh = _heat_map(panel, image, edges, [_pair_name(pair) for pair in kept])
        panel.set_title(fitted(method.name, panel_width(panel)))
        panel.tick_params(axis="y", labelleft=index % columns == 0)
    name_axes(panels, x="steps")
    _scale(figure, mesh, panels)
    return Picture(figure, _caption(subject, drawn, notes))


def most_in_conflict(
    images: Mapping[Method, Mapping[Pair, Floats]],
    pairs: Sequence[Pair],
    most: int = MOST_PAIRS,
) -> list[Pair]:
    """At most so many pairs, those with the lowest mean cosine, in the order they came in."""
    if len(pairs) <= most:
        return list(pairs)
    means = {
        pair: float(np.nanmean([np.nanmean(of[pair]) for of in images.values() if pair in of]))
        for pair in pairs
        if any(pair in of for of in images.values())
    }
    lowest = set(sorted(means, key=lambda pair: means[pair])[:most])
    return [pair for pair in pairs if pair in lowest]


def _heat_map(panel: "Axes", image: Floats, edges: Floats, names: Sequence[str]) -> "QuadMesh":
    """One heat map, first row on top; grey where there is no figure."""
    panel.set_facecolor("0.88")
    rows = np.arange(len(names) + 1) - 0.5
    mesh = panel.pcolormesh(edges, rows, image, cmap=COLOUR_MAP, vmin=-1, vmax=1)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_yticks(np.arange(len(names)), names)
    panel.tick_params(axis="y", length=0)
    step_axis(panel)
    for spine in panel.spines.values():
        spine.set_visible(False)
    return mesh


def _scale(figure: "Figure", mesh: "QuadMesh", panels: Sequence["Axes"]) -> None:
    """The colours from conflict to agreement, below the panels."""
    height = figure.get_figheight() - SCALE_HEIGHT
    bar = figure.colorbar(
        mesh,
        ax=list(panels),
        location="bottom",
        label="cosine of gradients (below 0: conflict)",
        ticks=[-1, -0.5, 0, 0.5, 1],
        shrink=0.8 if figure.get_figwidth() == COLUMN else 0.5,
        fraction=0.1 / height,
        pad=0.05 / height,
        aspect=30,
    )
    bar.outline.set_linewidth(0.5)


def _pair_name(pair: Pair) -> str:
    return " – ".join(plain(task, 20) for task in pair)


def _caption(subject: Subject, methods: Sequence[Method], notes: Sequence[str]) -> tuple[str, ...]:
    return (
        "Cosine between the tasks' gradients on what they share, mean over the steps of a bin and "
        f"over {subject.seeds(methods)}; below 0 (red) they conflict. Grey: no figure.",
        *notes,
    )
