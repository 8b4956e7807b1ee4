"""A comparison in the terminal."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as ConsoleTable

from mtlrun.analysis.comparison.blocks import ranking_text
from mtlrun.analysis.comparison.render import cell_text, heading, row_header, row_names
from mtlrun.analysis.comparison.table import Report, Row, Table
from mtlrun.analysis.comparison.transfer import transfer_block

GAP = 2
PLAIN = str.maketrans({"±": "+-", "↑": "^", "↓": "v", "▼": "v", "▲": "^"})
"""For terminals whose encoding lacks the signs."""


def print_report(report: Report, console: Console) -> None:
    """Print the findings, then each dataset's table.

    The best of a column is bold, and has a star where the output is no terminal.
    """
    best = "Best in bold." if console.is_terminal else "Best marked with *."
    findings = [" ".join(table.answer) for table in report.tables if table.answer]
    findings += [" ".join(report.answer)] if report.answer else []
    for finding in findings:
        _print_lines([finding], console)
        console.print()
    for table in report.tables:
        _print_table(table, table.title, console)
        _print_lines([*table.caption, best], console)
        block = transfer_block(table)
        if block is not None:
            console.print()
            _print_table(block, f"{table.title}: transfer", console)
            _print_lines(block.caption, console)
        if table.ranking is not None:
            console.print()
            _print_lines([ranking_text(table.ranking)], console)
        if table.notes:
            console.print()
        _print_lines((f"- {note}" for note in table.notes), console)
        console.print()
    _print_lines((f"- {note}" for note in report.notes), console)


def _print_table(table: Table, title: str, console: Console) -> None:
    """A table, in several parts where the terminal is too narrow for it."""
    for at, part in enumerate(_fitting_parts(table, console.width)):
        shown = title if at == 0 else f"{title} (continued)"
        console.print(shown, style="bold", markup=False, highlight=False)
        console.print(_console_table(table, part, console))
        console.print()


def _print_lines(lines: Iterable[str], console: Console) -> None:
    for line in lines:
        console.print(_readable(line, console), markup=False, highlight=False)


def _readable(text: str, console: Console) -> str:
    return text.translate(PLAIN) if console.options.ascii_only else text


def _console_table(table: Table, columns: Sequence[int], console: Console) -> ConsoleTable:
    shown = ConsoleTable(
        box=box.ASCII_DOUBLE_HEAD if console.options.ascii_only else box.SIMPLE_HEAD,
        padding=(0, GAP - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for name in row_header(table):
        long = name == "method"
        shown.add_column(
            f"\n{name}",
            justify="right" if name == "seeds" else "left",
            overflow="fold",
            max_width=_widest_method(console.width) if long else None,
            no_wrap=not long,
        )
    previous = ""
    for at in columns:
        group, name = heading(table.columns[at])
        text = escape(f"{group if group != previous else ''}\n{name}")
        shown.add_column(_readable(text, console), justify="right", no_wrap=True)
        previous = group
    for row in table.rows:
        figures = [_cell_text(table, row, at, terminal=console.is_terminal) for at in columns]
        cells = [*map(escape, row_names(table, row)), *figures]
        shown.add_row(*(_readable(cell, console) for cell in cells))
    return shown


def _cell_text(table: Table, row: Row, at: int, *, terminal: bool) -> str:
    """A cell, with room for the signs that its column has elsewhere."""
    cell, column = row.cells[at], table.columns[at]
    styles = ("[bold]{}[/bold]", "{}") if terminal else ("{}*", "{} " if column.better else "{}")
    text = cell_text(cell, column, *styles)
    marked = any(other.cells[at].mark for other in table.rows)
    return text if cell.mark or not marked else f"{text}  "


def _widest_method(width: int) -> int:
    return max(20, width // 3)


def _fitting_parts(table: Table, width: int) -> list[list[int]]:
    """The columns, by index, in parts that fit ``width`` beside the names of the rows.

    The columns of a task stay together where they can.
    """
    names = [row_header(table), *(row_names(table, row) for row in table.rows)]
    widest = _widest_method(width)
    room = width - sum(
        min(max(map(len, texts)), widest) + GAP for texts in zip(*names, strict=True)
    )
    needed = [
        GAP
        + max(
            *map(len, heading(column)),
            *(len(_cell_text(table, row, at, terminal=False)) for row in table.rows),
        )
        for at, column in enumerate(table.columns)
    ]
    parts: list[list[int]] = [[]]
    left = room
    for _, members in groupby(range(len(needed)), key=lambda at: table.columns[at].group):
        group = list(members)
        together = sum(needed[at] for at in group)
        for at in group:
            if parts[-1] and (needed[at] > left or (at == group[0] and left < together <= room)):
                parts.append([])
                left = room
            parts[-1].append(at)
            left -= needed[at]
    return parts
