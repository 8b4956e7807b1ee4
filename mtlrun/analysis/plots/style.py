"""How pictures look: sizes, fonts and colours that fit a paper's columns."""

import io
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from mtlrun.errors import UserError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.4, 7.0
"""Widths in inches of one column and of both in a paper of two columns."""

TALLEST = 9.2
"""Height in inches that a page has for a picture."""

FONT, TITLE = 8.0, 8.5
"""Sizes in points."""

LINE = FONT / 72 * 1.5
"""Height of a line of text with the space around it, in inches."""

LINE_HANDLE, POINT_HANDLE = 2.2, 1.0
"""Lengths of a legend's handles, in widths of a letter, as are the gaps behind them."""

HANDLE_GAP, COLUMN_GAP = 0.5, 1.4

RC: Any = {
    "font.size": FONT,
    "axes.titlesize": TITLE,
    "axes.titlepad": 3,
    "axes.labelsize": FONT,
    "axes.labelpad": 2.5,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "legend.fontsize": FONT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "lines.linewidth": 1.2,
    "lines.markeredgewidth": 0.5,
    "legend.frameon": False,
    "legend.columnspacing": COLUMN_GAP,
    "legend.handletextpad": HANDLE_GAP,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.05,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for; the default is Type 3
    "svg.hashsalt": "mtlrun",  # else ids, and so files, differ from time to time
    "savefig.dpi": 300,
}

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours that can be told apart by colour-blind readers (jfly.uni-koeln.de/color,
2008), without yellow, which is too light for thin lines, and black, which is the baseline's."""

MARKERS = ("o", "s", "^", "D", "v", "<", ">")
UNFILLED, TRIANGLES = "x", "^v<>"
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
REST = "#BBBBBB"
NEUTRAL = "#777777"
GAIN, LOSS = COLOURS[0], COLOURS[1]


@dataclass(frozen=True)
class LineStyle:
    """How one method or task is drawn: told apart by colour, by marker and by dashes."""

    colour: str
    marker: str
    dashes: Any = "-"

    @property
    def edge(self) -> str:
        """The colour around its marker, which keeps markers apart that lie on each other."""
        return self.colour if self.marker in UNFILLED else "white"

    @property
    def size(self) -> float:
        """Of its marker in points; triangles look smaller than circles of the same width."""
        return 5.8 if self.marker in TRIANGLES else 4.6

    def of_line(self) -> dict[str, Any]:
        """Arguments of matplotlib for a line."""
        return self.of_point() | {"linestyle": self.dashes}

    def of_point(self) -> dict[str, Any]:
        """Arguments of matplotlib for a point."""
        return {
            "color": self.colour,
            "linestyle": "none",
            "marker": self.marker,
            "markeredgecolor": self.edge,
            "markeredgewidth": 1.2 if self.marker in UNFILLED else 0.5,
            "markersize": self.size,
        }


BASELINE = LineStyle("#000000", "x", DASHES[1])
"""Of single-task training."""


def line_style(index: int) -> LineStyle:
    """The style of the ``index``-th of several lines; the first 168 differ.

    Colours change first, then dashes; markers run through seven while colours run through six.
    """
    dashes = DASHES[index // len(COLOURS) % len(DASHES)]
    return LineStyle(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], dashes)


def require_matplotlib(purpose: str = "Plots are drawn") -> None:
    """Say what to install where it is missing.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{purpose} with matplotlib, which is not installed. Install it: "
            f"pip install 'mtlrun[plots]', or {sys.executable} -m pip install matplotlib."
        ) from error


@contextmanager
def print_style() -> Iterator[None]:
    """Draw and save in this, whatever style the user has at home."""
    from matplotlib import style

    with style.context(["default", RC]):
        yield


def to_bytes(figure: "Figure", file_format: str) -> bytes:
    """The picture as a file; the same picture gives the same bytes.

    Args:
        figure: drawn within :func:`print_style`, as this must be called.
        file_format: ``pdf``, ``png`` or ``svg``.
    """
    without_date: dict[str, Mapping[str, Any]] = {
        "pdf": {"CreationDate": None},
        "svg": {"Date": None},
        "png": {},
    }
    file = io.BytesIO()
    figure.savefig(file, format=file_format, metadata=dict(without_date[file_format]))
    return file.getvalue()


def panel_grid(
    count: int, height: float, columns: int, *, extra: float = 0.0, **options: Any
) -> tuple["Figure", list["Axes"]]:
    """A figure with ``count`` panels, as wide as a column for one and as a page for more.

    Args:
        count: of panels.
        height: of a row of panels in inches.
        columns: panels in a row.
        extra: height in inches for a legend or the like.
        options: of ``Figure.subplots``.
    """
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    width = COLUMN if count == 1 else PAGE
    figure = Figure((width, height * rows + extra), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for empty in panels[count:]:
        empty.remove()
    return figure, panels[:count]


def panel_width(panel: "Axes") -> float:
    """The share of the figure's width that a panel of :func:`panel_grid` has, in inches."""
    place = panel.get_subplotspec()
    assert place is not None
    columns = place.get_gridspec().ncols
    return COLUMN if columns == 1 else PAGE / columns


def name_axes(panels: Sequence["Axes"], *, x: str, y: str = "", same_scale: bool = True) -> None:
    """Name the axes of a grid once: y in the left column, x in the last row.

    Args:
        panels: in rows.
        x: name of the axis.
        y: name of the axis.
        same_scale: whether all have the same x axis, so that the last one's numbers in each column
            do for those above.
    """
    for index, panel in enumerate(panels):
        place = panel.get_subplotspec()
        assert place is not None
        columns = place.get_gridspec().ncols
        last = index + columns >= len(panels)
        panel.tick_params(axis="x", labelbottom=last or not same_scale)
        if index // columns == (len(panels) - 1) // columns:
            panel.set_xlabel(x)
        if index % columns == 0:
            panel.set_ylabel(y)


def legend_below(
    figure: "Figure", handles: Sequence["Artist"], handle_length: float = LINE_HANDLE
) -> None:
    """A legend below the panels, in as many columns as fit.

    Args:
        figure: with its width.
        handles: with labels.
        handle_length: widths of a letter that a handle takes.
    """
    labels = [str(handle.get_label()) for handle in handles]
    columns = legend_columns(labels, figure.get_figwidth(), handle_length)
    if columns:
        # Matplotlib fills columns first; readers read rows first.
        order = [at for first in range(columns) for at in range(first, len(labels), columns)]
        figure.legend(
            [handles[at] for at in order],
            [labels[at] for at in order],
            loc="outside lower center",
            ncols=columns,
            handlelength=handle_length,
        )


def legend_columns(labels: Sequence[str], width: float, handle_length: float = LINE_HANDLE) -> int:
    """How many columns of a legend fit into ``width`` inches; at least one, unless it is empty."""
    columns = len(labels)
    while columns > 1 and _legend_width(labels, columns, handle_length) > width:
        columns -= 1
    return columns


def legend_height(
    handles: Sequence["Artist"], width: float, handle_length: float = LINE_HANDLE
) -> float:
    """Height in inches of a legend in a figure of that width."""
    labels = [str(handle.get_label()) for handle in handles]
    columns = legend_columns(labels, width, handle_length)
    return (-(-len(labels) // columns) + 0.7) * LINE if columns else 0.0


def _legend_width(labels: Sequence[str], columns: int, handle_length: float) -> float:
    handle = (handle_length + HANDLE_GAP) * FONT / 72
    gaps = (columns - 1) * COLUMN_GAP * FONT / 72
    texts = [max(map(text_width, labels[first::columns])) for first in range(columns)]
    return sum(texts) + columns * handle + gaps + 0.15


@cache
def text_width(text: str) -> float:
    """The width of a text in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=FONT)
    points: float = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
    return points / 72


def fitted(text: str, width: float) -> str:
    """The text, cut at its end so that it is at most ``width`` inches wide as a title."""
    size = TITLE / FONT
    if size * text_width(text) <= width:
        return text
    while text and size * text_width(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def plain(text: str, longest: int = 40) -> str:
    """A name from outside as matplotlib shall print it: no mathematics, and not too long."""
    if len(text) > longest:
        tail = longest // 3
        text = f"{text[: longest - tail - 1]}…{text[-tail:]}"
    return text.replace("$", r"\$")


def step_axis(panel: "Axes") -> None:
    """Optimizer steps from left to right, thousands as ``k``."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 5, 10]))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda step, _: short_number(step)))


def short_number(value: float) -> str:
    """``950``, ``1500``, ``20k``, ``3M``."""
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def log_axis(axis: "XAxis | YAxis", low: float, high: float) -> None:
    """A logarithmic axis with few ticks, plain numbers where these are short.

    Args:
        axis: of a panel.
        low: its lower end, above 0.
        high: its upper end.
    """
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})
    ticks = log_ticks(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([_log_label(tick) for tick in ticks]))
    axis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Powers of ten between two positive numbers, every so many; steps between where few are."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= most:
            return inside
    return inside[:: -(-len(inside) // most)]


def _log_label(value: float) -> str:
    if 1e-3 <= value < 1e4:
        return f"{value:.3g}"
    return f"$10^{{{round(math.log10(value))}}}$"
