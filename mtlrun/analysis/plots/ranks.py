"""The critical difference diagram (Demsar, JMLR 2006, section 3.2.4 and figure 1)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtlrun.analysis.comparison.blocks import LEAST_BLOCKS, LEAST_METHODS
from mtlrun.analysis.comparison.significance import p_text
from mtlrun.analysis.comparison.table import CriticalDifference
from mtlrun.analysis.plots.style import COLUMN, LINE, NEUTRAL, PAGE, plain, text_width
from mtlrun.analysis.plots.subject import NothingToDrawError, Picture, Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_IN_COLUMN = 10
"""So many methods fit into the width of a column."""

BAR = 0.07
"""Height between two bars in inches."""


def critical_difference(subject: Subject) -> Picture:
    """Mean ranks on a line, the best on the right; bars join methods that do not differ.

    Raises:
        NothingToDrawError: the comparison ranks nothing.
    """
    ranking = subject.table.ranking
    if ranking is None:
        raise NothingToDrawError(
            f"ranks take {LEAST_METHODS} methods with the same tasks, and {LEAST_BLOCKS} tasks "
            "times seeds."
        )
    from matplotlib.figure import Figure

    names, colours = _names_and_colours(subject, ranking.labels)
    count = len(names)
    widest = max(map(text_width, names))
    width = COLUMN if count <= MOST_IN_COLUMN and 2 * widest < 0.62 * COLUMN else PAGE
    levels = clique_levels(ranking.cliques)
    rows = -(-count // 2)
    above, bars = 0.5, BAR * (max(levels, default=-1) + 2)
    height = above + bars + LINE * (rows + 0.3)
    figure = Figure((width, height))
    panel = figure.add_axes((0, 0, 1, 1))
    panel.set(xlim=(0, width), ylim=(-(height - above), above))  # inches, the line at 0
    panel.axis("off")
    scale = _Scale.of(ranking, widest + 0.12, width)
    _axis(panel, scale, ranking.distance)
    for (first, last), level in zip(ranking.cliques, levels, strict=True):
        ends = scale.at(ranking.ranks[first]) + 0.03, scale.at(ranking.ranks[last]) - 0.03
        y = -BAR * (level + 1)
        panel.plot(ends, (y, y), color="black", linewidth=2.2, solid_capstyle="butt", zorder=3)
    for index, (name, colour, rank) in enumerate(zip(names, colours, ranking.ranks, strict=True)):
        best = index < rows  # on the right, the best on top
        row = index if best else count - 1 - index
        y, x = -(bars + LINE * (row + 0.5)), scale.at(rank)
        end = width - widest - 0.08 if best else widest + 0.08
        panel.plot((x, x, end), (0, y, y), color=colour, linewidth=0.8)
        panel.text(
            end + (0.04 if best else -0.04),
            y,
            name,
            ha="left" if best else "right",
            va="center",
        )
    return Picture(figure, _caption(ranking))


class _Scale:
    """Where a rank stands, in inches from the left; the best ranks are on the right."""

    def __init__(self, low: int, high: int, left: float, right: float) -> None:
        self.low, self.high, self.left, self.right = low, high, left, right

    @classmethod
    def of(cls, ranking: CriticalDifference, side: float, width: float) -> "_Scale":
        """From the best to the worst rank, and wide enough for the critical difference."""
        low, high = math.floor(ranking.ranks[0]), math.ceil(ranking.ranks[-1])
        high = max(high, low + 1, low + math.ceil(ranking.distance))
        return cls(low, high, side, width - side)

    def at(self, rank: float) -> float:
        return self.right - (rank - self.low) / (self.high - self.low) * (self.right - self.left)

    def length(self, difference: float) -> float:
        return difference / (self.high - self.low) * (self.right - self.left)


def _axis(panel: "Axes", scale: _Scale, distance: float) -> None:
    """The line with its ticks, and above it the critical difference."""
    panel.plot((scale.left, scale.right), (0, 0), color="black", linewidth=0.8)
    span = scale.high - scale.low
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if span / step <= 12)
    for rank in range(scale.low, scale.high + 1):
        if rank % step == 0 or (step > 1 and rank == 1):
            panel.plot([scale.at(rank)] * 2, (0, 0.05), color="black", linewidth=0.8)
            panel.text(scale.at(rank), 0.07, str(rank), ha="center", va="bottom")
    right = scale.left + scale.length(distance)
    y = 0.29
    panel.plot((scale.left, right), (y, y), color="black", linewidth=1.2)
    for x in (scale.left, right):
        panel.plot((x, x), (y - 0.03, y + 0.03), color="black", linewidth=1.2)
    panel.text((scale.left + right) / 2, y + 0.04, f"CD = {distance:.2f}", ha="center", va="bottom")


def clique_levels(cliques: Sequence[tuple[int, int]]) -> list[int]:
    """On which level each bar stands so that none touches another one; 0 is next to the line."""
    ends: list[int] = []  # of the last bar on each level
    levels = []
    for first, last in cliques:
        level = next((at for at, end in enumerate(ends) if end < first), len(ends))
        ends[level : level + 1] = [last]
        levels.append(level)
    return levels


def _names_and_colours(subject: Subject, labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """How pictures call the ranked rows; grey lines for those that others draw in grey."""
    known = dict(zip(subject.table.labels, subject.methods, strict=True))
    methods = [known.get(label) for label in labels]
    return (
        [m.name if m else plain(label) for m, label in zip(methods, labels, strict=True)],
        [m.style.colour if m and m.style else NEUTRAL for m in methods],
    )


def _caption(ranking: CriticalDifference) -> tuple[str, ...]:
    return (
        f"Mean ranks (1 is best) over {ranking.blocks} blocks, each {ranking.of}. Methods joined "
        "by a bar do not differ at the 5 % level: their mean ranks are closer than the critical "
        "difference CD of Nemenyi's test.",
        f"Friedman's test that all are equal: {p_text(ranking.p)}.",
    )
