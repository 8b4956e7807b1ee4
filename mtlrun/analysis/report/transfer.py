"""What joint training does to each task: a table with a dot and a bar a cell."""

import math
from collections.abc import Sequence

from mtlrun.analysis.comparison.table import (
    Cell,
    Column,
    Table,
    Transfer,
    format_mean,
    format_spread,
)
from mtlrun.analysis.comparison.transfer import transfer_block
from mtlrun.analysis.report.marks import line, method_cell
from mtlrun.analysis.report.markup import Markup, element

WIDTH, HEIGHT = 132, 20
"""Of a cell's picture, in pixels."""

SCALE = "The bars of a task have the scale in its heading; an arrow goes on beyond it."


def transfer_table(table: Table) -> tuple[Markup, str] | None:
    """A row a method, a column a task, and what they mean; None without single-task runs."""
    block = transfer_block(table)
    if block is None:
        return None
    limits = {
        column.name: picture_limit(
            [t for row in block.rows for t in row.transfer if t.task == column.name]
        )
        for column in block.columns
    }
    head = element(
        "tr",
        element("th", "method", scope="col"),
        *(
            element(
                "th",
                task,
                element("small", f"±{limit:g} %", class_="scale"),
                scope="col",
                data_better="higher",
            )
            for task, limit in limits.items()
        ),
    )
    places = [
        (at, label)
        for at, (label, row) in enumerate(zip(table.labels, table.rows, strict=True))
        if row.transfer
    ]
    body = []
    for (at, label), row in zip(places, block.rows, strict=True):
        of = {transfer.task: transfer for transfer in row.transfer}
        cells = [
            _cell(of.get(column.name), cell, column, limits[column.name])
            for cell, column in zip(row.cells, block.columns, strict=True)
        ]
        body.append(element("tr", method_cell(at, label), *cells))
    drawn = element(
        "table", element("thead", head), element("tbody", *body), class_="sortable transfers"
    )
    return drawn, " ".join([*block.caption, SCALE])


def picture_limit(transfers: Sequence[Transfer]) -> float:
    """The change in percent at which the pictures of a task end, on both sides of 0.

    What goes beyond is cut and ends in an arrow: one method that went astray, or the endless
    interval of two seeds, must not flatten all the others.
    """
    sizes = sorted(abs(transfer.change) for transfer in transfers)
    ends = [abs(end) for t in transfers for end in (t.change, t.low, t.high) if math.isfinite(end)]
    typical = sizes[3 * len(sizes) // 4]
    return _rounded_up(max(min(max(ends), 3 * typical), 0.1))


def _rounded_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 5, 7 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(f * power for f in (1, 1.5, 2, 3, 5, 7, 10) if f * power >= value * 0.999)


def _cell(transfer: Transfer | None, cell: Cell, column: Column, limit: float) -> Markup:
    change, spread = format_mean(cell, column), format_spread(cell, column)
    if transfer is None:
        return element("td", change, data_value="")
    return element(
        "td",
        _picture(transfer, limit),
        element("b", f"{change} {cell.mark}" if cell.mark else change),
        element("span", f" {transfer.verdict} ", class_="hidden") if cell.mark else None,
        element("small", spread) if spread else None,
        class_=transfer.verdict,
        data_value=repr(transfer.change),
    )


def _picture(transfer: Transfer, limit: float) -> Markup:
    """A dot for the change and a bar for its interval, 0 in the middle."""
    middle = HEIGHT / 2

    def place(value: float) -> float:
        return WIDTH / 2 + min(max(value / limit, -1), 1) * (WIDTH / 2 - 8)

    parts = [line(WIDTH / 2, 0, WIDTH / 2, HEIGHT, "zero")]
    if not math.isnan(transfer.low):
        ends = [(end, place(end)) for end in (transfer.low, transfer.high)]
        parts.append(line(ends[0][1], middle, ends[1][1], middle, "interval"))
        for end, x in ends:
            beyond = abs(end) > limit
            parts.append(_arrow(x, end) if beyond else line(x, middle - 4, x, middle + 4, "cap"))
    if abs(transfer.change) > limit:
        parts.append(_arrow(place(transfer.change), transfer.change))
    else:
        parts.append(element("circle", cx=place(transfer.change), cy=middle, r=4, class_="dot"))
    return element("svg", *parts, width=WIDTH, height=HEIGHT, aria_hidden="true")


def _arrow(x: float, direction: float) -> Markup:
    step = math.copysign(7, direction)
    return element("path", d=f"M{x + step:.1f} {HEIGHT / 2}l{-step} -5v10z", class_="arrow")
