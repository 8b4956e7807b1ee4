"""The critical-difference diagram of mean ranks."""

from collections.abc import Iterator, Mapping

from mtlrun.analysis.comparison.table import CriticalDifference
from mtlrun.analysis.report.marks import line, mark_class, picture, words
from mtlrun.analysis.report.markup import Markup, element, shortened

WIDTH, SIDE = 860, 270
"""Of the picture, and of the room for labels on either side, in pixels."""

AXIS, CLIQUE, LABEL = 62, 9, 22
"""Where the axis lies; from one bar to the next; from one label to the next."""

LONGEST = 28
"""Characters of a label."""


def rank_diagram(ranking: CriticalDifference, rows: Mapping[str, int]) -> Markup:
    """Mean ranks on an axis, best on the left (Demsar, JMLR 2006, figure 1).

    Args:
        ranking: what it shows.
        rows: for each label its row, which gives its colour.
    """
    count = len(ranking.labels)
    below = AXIS + 18 + CLIQUE * len(ranking.cliques)
    height = below + LABEL * ((count + 1) // 2) + 4
    parts = [*_axis(count), *_distance(ranking, count)]
    for at, (first, last) in enumerate(ranking.cliques):
        y = AXIS + 14 + CLIQUE * at
        ends = (_place(ranking.ranks[first], count), _place(ranking.ranks[last], count))
        parts.append(line(ends[0] - 5, y, ends[1] + 5, y, "clique"))
    for at in range(count):
        parts += _method(ranking, at, below, rows)
    said = ", ".join(
        f"{label} {rank:.2f}" for label, rank in zip(ranking.labels, ranking.ranks, strict=True)
    )
    return picture(parts, "ranks", WIDTH, height, f"Mean ranks, best first: {said}.")


def _place(rank: float, count: int) -> float:
    return SIDE + (rank - 1) / max(count - 1, 1) * (WIDTH - 2 * SIDE)


def _axis(count: int) -> Iterator[Markup]:
    yield line(SIDE, AXIS, WIDTH - SIDE, AXIS, "axis")
    step = 1 if count <= 12 else 5
    for rank in [1, *range(step, count + 1, step)]:
        x = _place(rank, count)
        yield line(x, AXIS - 5, x, AXIS, "axis")
        yield words(str(rank), x, AXIS - 10)


def _distance(ranking: CriticalDifference, count: int) -> Iterator[Markup]:
    """The critical difference, drawn above the axis; cut where it is longer than that."""
    whole = ranking.distance <= count - 1
    left = _place(1, count)
    right = _place(1 + min(ranking.distance, count - 1), count)
    yield line(left, 16, right, 16, "distance")
    for x in (left, right) if whole else (left,):
        yield line(x, 11, x, 21, "distance")
    text = f"critical difference {ranking.distance:.2f}"
    yield words(text if whole else f"{text}: beyond the axis", right + 8, 20, "start")


def _method(
    ranking: CriticalDifference, at: int, below: float, rows: Mapping[str, int]
) -> Iterator[Markup]:
    """A line from the axis to the label: the better half on the left, the others on the right."""
    label, rank, count = ranking.labels[at], ranking.ranks[at], len(ranking.labels)
    left = at < (count + 1) // 2
    y = below + LABEL * (at if left else count - 1 - at) + 10
    end = SIDE - 12 if left else WIDTH - SIDE + 12
    look = mark_class(rows.get(label, at))
    yield element(
        "path", d=f"M{_place(rank, count):.1f} {AXIS}V{y:.0f}H{end}", class_=f"leader {look}"
    )
    shown = shortened(label, LONGEST)
    yield element(
        "text",
        element("title", label),
        f"{shown}  {rank:.2f}" if left else f"{rank:.2f}  {shown}",
        x=end - 6 if left else end + 6,
        y=y + 4,
        text_anchor="end" if left else "start",
    )
