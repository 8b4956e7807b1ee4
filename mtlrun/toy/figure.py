"""The toy's figure: for each method its paths over the landscape, and in the space of the losses.

Matplotlib is imported where it is needed: it is an optional dependency.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mtlrun.toy.problem import FRONT_ENDS, Floats, Problem
from mtlrun.toy.walk import Walk

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

Style = dict[str, Any]

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titlepad": 5,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.w_pad": 0.03,
}
DPI = 150
LAND = "Greys_r", 0.62, 1.0
"""A colour map and the part of it that is used: low land is grey, high land white."""

PROGRESS = "plasma", 0.0, 0.86
"""Likewise for paths, from start to end. Its lightness rises, so it reads without colours, too."""

HEIGHTS = 24
"""Height lines of the landscape."""

COLUMNS = 5
PANEL = 2.2
"""Width of a panel in inches."""

FLATNESS = 0.8
"""Height of a panel in loss space, by its width."""

BLOCK = PANEL * (1 + FLATNESS) + 0.85
"""Height of a method's two panels with their labels."""

LEGEND = 3.4
"""Least width of the figure."""

REACH = 10.8
"""The landscape is drawn from -REACH to REACH both ways, or farther where a start is."""

FRONT: Style = {"color": "#000000", "linewidth": 2.6, "solid_capstyle": "butt", "zorder": 3}
START: Style = {"marker": "o", "markersize": 4, "color": "black", "linestyle": "none", "zorder": 5}
END: Style = {
    "marker": "D",
    "markersize": 5,
    "markerfacecolor": "white",
    "markeredgecolor": "black",
    "markeredgewidth": 1.1,
    "linestyle": "none",
    "zorder": 6,
}


def picture_of(png: bytes) -> Any:
    """The pixels of a PNG file, uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def draw(problem: Problem, walks: Mapping[str, Sequence[Walk]]) -> bytes:
    """A PNG file with two panels a method: over the landscape, and below it in loss space.

    Args:
        problem: the two losses.
        walks: for each method its walks.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(walks))
    blocks = -(-len(walks) // columns)
    with style.context(["default", STYLE]):  # whatever style the user has at home
        size = max(PANEL * columns + 0.4, LEGEND), BLOCK * blocks + 0.4
        figure = Figure(size, layout="constrained")
        ratios = [1, FLATNESS] * blocks
        panels = figure.subplots(2 * blocks, columns, squeeze=False, height_ratios=ratios)
        for panel in panels.flat:
            panel.set_visible(False)
        scenery = _Scenery(problem, [one for of_method in walks.values() for one in of_method])
        for place, (name, of_method) in enumerate(walks.items()):
            block, column = divmod(place, columns)
            above, below = panels[2 * block : 2 * block + 2, column]
            scenery.landscape(above, labelled=column == 0)
            scenery.loss_space(below, labelled=column == 0)
            above.set_title(name)
            for one in of_method:
                _path(above, one.points)
                _path(below, one.losses)
        _legend(figure, columns)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


class _Scenery:
    """What is the same in the panels of all methods."""

    def __init__(self, problem: Problem, walks: Sequence[Walk]) -> None:
        starts = np.array([one.start for one in walks])
        self.reach = max(REACH, 1.1 * float(np.abs(starts).max()))
        self.axis = np.linspace(-self.reach, self.reach, 241)
        grid = np.stack(np.meshgrid(self.axis, self.axis), axis=-1)
        self.heights = problem.losses(grid).mean(axis=-1)
        x = np.linspace(*FRONT_ENDS, 141)
        self.front = np.stack([x, problem.front(x)], axis=-1)
        # Lines of equal share of the area: the plain above has structure, too.
        self.levels = np.unique(np.quantile(self.heights, np.linspace(0, 1, HEIGHTS)))
        self.front_losses = problem.losses(self.front)
        drawn = [one.losses[np.abs(one.points).max(axis=1) <= self.reach] for one in walks]
        seen = np.concatenate([self.front_losses, *drawn])
        low, high = seen.min(axis=0), seen.max(axis=0)
        margin = 0.06 * (high - low)
        self.limits = np.stack([low - margin, high + margin])  # [low and high, 2 losses]

    def landscape(self, panel: "Axes", *, labelled: bool) -> None:
        """Height lines of the mean loss, and the Pareto set."""
        panel.set_visible(True)
        land = (self.axis, self.axis, self.heights, self.levels)
        panel.contourf(*land, cmap=_part(*LAND), zorder=0)
        panel.contour(*land, colors="0.55", linewidths=0.3, linestyles="solid", zorder=1)
        panel.plot(*self.front.T, **FRONT)
        panel.set(
            aspect="equal",
            xlim=(-self.reach, self.reach),
            ylim=(-self.reach, self.reach),
        )
        panel.locator_params(nbins=3)
        panel.set_xlabel("$x_1$", labelpad=1)
        if labelled:
            panel.set_ylabel("$x_2$", labelpad=-8)
        else:
            panel.set_yticklabels([])

    def loss_space(self, panel: "Axes", *, labelled: bool) -> None:
        """The losses of the Pareto set."""
        panel.set_visible(True)
        panel.plot(*self.front_losses.T, **FRONT)
        panel.set(xlim=self.limits[:, 0], ylim=self.limits[:, 1], box_aspect=FLATNESS)
        panel.locator_params(nbins=4)
        panel.set_xlabel("$L_1$", labelpad=1)
        if labelled:
            panel.set_ylabel("$L_2$", labelpad=-4)
        else:
            panel.set_yticklabels([])


def _path(panel: "Axes", line: Floats) -> None:
    """A path, coloured by the part of its way that is behind."""
    from matplotlib.collections import LineCollection

    if len(line) > 1:
        segments = np.stack([line[:-1], line[1:]], axis=1)  # [K - 1, 2 ends, 2]
        style: Style = {"capstyle": "round", "zorder": 4}
        edge = LineCollection(list(segments), colors="white", linewidths=2.8, **style)
        path = LineCollection(list(segments), cmap=_part(*PROGRESS), linewidths=1.7, **style)
        path.set_array(np.cumsum(np.hypot(*(line[1:] - line[:-1]).T)))
        for collection in (edge, path):
            panel.add_collection(collection, autolim=False)
    panel.plot(*line[0], **START)
    panel.plot(*line[-1], **END)


def _part(name: str, low: float, high: float) -> "ListedColormap":
    """A part of a colour map."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[name](np.linspace(low, high, 256)))


def _legend(figure: "Figure", columns: int) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D

    gradient = _part(*PROGRESS)(np.linspace(0, 1, 7))
    way = tuple(Line2D([], [], color=colour, linewidth=2) for colour in gradient)
    handles: list[Any] = [
        Line2D([], [], **START),
        Line2D([], [], **END),
        Line2D([], [], **FRONT),
        way,
    ]
    labels = ["start", "end", "Pareto set (above) and front (below)", "way from start to end"]
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(handles) if columns > 2 else columns,
        frameon=False,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
    )
