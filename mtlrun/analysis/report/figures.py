"""The table of a comparison, to be sorted and read in a browser."""

import math
from collections.abc import Iterator
from itertools import groupby

from mtlrun.analysis.comparison.render import heading, row_header, row_names
from mtlrun.analysis.comparison.table import Cell, Column, Row, Table, format_mean, format_spread
from mtlrun.analysis.comparison.transfer import MARKS
from mtlrun.analysis.report.marks import method_cell
from mtlrun.analysis.report.markup import Markup, element

LOSES = f"{MARKS['loses']} the task loses against single-task training, see below."


def figures_table(table: Table) -> Markup:
    """A row a method, the method first; cells carry the figure to sort by."""
    return element(
        "table",
        element("thead", *_head(table)),
        element("tbody", *(_row(table, at, row) for at, row in enumerate(table.rows))),
        class_="sortable figures",
    )


def any_loses(table: Table) -> bool:
    """Whether some method makes some task worse than training it alone."""
    return any(transfer.verdict == "loses" for row in table.rows for transfer in row.transfer)


def _names(table: Table) -> list[str]:
    """Headings of what a row is, the method first: that column stays in sight."""
    return sorted(row_header(table), key=lambda name: name != "method")


def _head(table: Table) -> Iterator[Markup]:
    names = _names(table)
    groups = [
        element("th", group, colspan=len(list(members)), scope="colgroup")
        for group, members in groupby(table.columns, key=lambda column: heading(column)[0])
    ]
    yield element("tr", element("td"), element("td", colspan=len(names) - 1), *groups)
    own = [element("th", name, scope="col") for name in names]
    columns = [
        element("th", heading(column)[1], scope="col", data_better=column.better or "")
        for column in table.columns
    ]
    yield element("tr", *own, *columns)


def _row(table: Table, at: int, row: Row) -> Markup:
    named = dict(zip(row_header(table), row_names(table, row), strict=True))
    first, *others = _names(table)
    losing = {transfer.task for transfer in row.transfer if transfer.verdict == "loses"}
    cells = [
        _cell(cell, column, loses=column.group in losing and not math.isnan(cell.mean))
        for cell, column in zip(row.cells, table.columns, strict=True)
    ]
    own = (element("td", named[name], data_value=named[name]) for name in others)
    return element("tr", method_cell(at, named[first]), *own, *cells)


def _cell(cell: Cell, column: Column, *, loses: bool) -> Markup:
    number = format_mean(cell, column)
    spread = format_spread(cell, column)
    mark = cell.mark or (MARKS["loses"] if loses else "")
    return element(
        "td",
        element("strong", number) if cell.best else number,
        element("span", f" {spread}", class_="over") if spread else None,
        element("span", f" {mark}", class_="sign") if mark else None,
        element("span", " loses", class_="hidden") if loses else None,
        class_="best" if cell.best else None,
        data_value="" if math.isnan(cell.mean) else repr(cell.mean),
    )
