"""Methods as points, with a legend."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mtlrun.analysis.plots.style import REST, LineStyle
from mtlrun.analysis.plots.subject import Method

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

LARGE = 1.2
"""Times the size of a line's marker."""

REST_AREA = 8.0
"""Of a marker in grey, in square points."""


def draw_point(
    panel: "Axes", x: float, y: float, style: LineStyle | None, *, inside: bool = True
) -> None:
    """A marker; small and grey without a style.

    Args:
        panel: where to draw.
        x: where.
        y: where.
        style: None for grey.
        inside: False for a hollow marker at the edge, for what lies outside of the axes.
    """
    colour = style.colour if style else REST
    look: dict[str, Any] = {"color": colour}
    if not inside:
        look = {"facecolor": "white", "edgecolor": colour, "linewidth": 0.9}
    elif style:
        look = {"facecolor": colour, "edgecolor": style.edge, "linewidth": 0.5}
        if style.edge != "white":
            look = {"color": colour, "linewidth": 1.2}
    marker, area = (style.marker, (LARGE * style.size) ** 2) if style else ("o", REST_AREA)
    layer = 4 if style else 1.5
    panel.scatter([x], [y], s=area, marker=marker, zorder=layer, clip_on=inside, **look)


def point_handles(methods: Iterable[Method]) -> list["Artist"]:
    """A legend's entries: each method in colour, and how many there are in grey."""
    from matplotlib.lines import Line2D

    known = list(methods)
    handles: list[Artist] = [
        Line2D([], [], label=method.name, **method.style.of_point())
        for method in known
        if method.style
    ]
    rest = sum(1 for method in known if not method.style)
    if rest:
        look: dict[str, Any] = {"color": REST, "marker": "o", "linestyle": "none", "markersize": 3}
        handles.append(Line2D([], [], label=f"{rest} others", **look))
    return handles
