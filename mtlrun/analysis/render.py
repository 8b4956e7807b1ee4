"""A comparison as CSV, Markdown and LaTeX."""

import csv
import io
import math
import re
from collections.abc import Sequence
from itertools import groupby

from mtlrun.analysis.table import (
    Cell,
    Column,
    Report,
    Row,
    Table,
    format_deviation,
    format_number,
)

ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
UNITS = {"delta_m": "delta_m [%]"}
"""How a column group is headed where its name alone does not say its unit."""

BEST = "Best in bold."

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def to_csv(report: Report) -> str:
    """One row a method, figures in full; columns of tasks that a dataset lacks are empty.

    A metric's column is named ``<task>/<metric>``, and ``.../sd`` holds its standard deviation.
    """
    keys = dict.fromkeys(
        name
        for table in report.tables
        for column in table.columns
        for name in (column.key, *([f"{column.key}/sd"] if column.spread else []))
    )
    # What all datasets have stays behind the last one's metrics.
    ordered = sorted(keys, key=lambda key: (key == "seconds", key.startswith("delta_m/")))
    text = io.StringIO()
    head = ["dataset", "study", "method", "seeds", "baseline"]
    writer = csv.DictWriter(text, [*head, *ordered], restval="", lineterminator="\n")
    writer.writeheader()
    for table in report.tables:
        for row in table.rows:
            names = [table.dataset, row.study, row.method, row.seeds, row.baseline]
            writer.writerow({**dict(zip(head, names, strict=True)), **_csv_figures(table, row)})
    return text.getvalue()


def _csv_figures(table: Table, row: Row) -> dict[str, str]:
    figures = {}
    for column, cell in zip(table.columns, row.cells, strict=True):
        figures[column.key] = _full(cell.mean)
        if column.spread:
            figures[f"{column.key}/sd"] = _full(cell.deviation)
    return figures


def _full(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def to_markdown(report: Report) -> str:
    """A heading, a pipe table, its caption and its notes for each dataset."""
    parts = []
    for table in report.tables:
        header = [*row_header(table), *(" ".join(heading(c)).strip() for c in table.columns)]
        align = ["---"] * (len(header) - len(table.columns) - 1) + ["---:"]
        lines = [header, align + ["---:"] * len(table.columns)]
        lines += [
            [
                *(text.replace("|", "\\|") for text in row_names(table, row)),
                *(
                    cell_text(cell, column, "**{}**")
                    for cell, column in zip(row.cells, table.columns, strict=True)
                ),
            ]
            for row in table.rows
        ]
        parts.append(f"## {table.dataset}")
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        parts.append(" ".join([*table.caption, BEST]))
        parts.append(_bullets(table.notes))
    parts.append(_bullets(report.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _bullets(notes: Sequence[str]) -> str:
    return "\n".join(f"- {note}" for note in notes)


def to_latex(report: Report) -> str:
    r"""A ``table`` environment for each dataset; the preamble must load ``booktabs``."""
    parts = [r"% \usepackage{booktabs}", *(_latex_table(table) for table in report.tables)]
    parts += [f"% {note}" for note in report.notes]
    return "\n".join(parts) + "\n"


def _latex_table(table: Table) -> str:
    names = row_header(table)
    groups = [
        (group, len(list(members)))
        for group, members in groupby(table.columns, key=lambda column: heading(column)[0])
    ]
    spans, rules, at = [], [], len(names) + 1
    for group, width in groups:
        if not group:
            spans += [""] * width
        else:
            spans.append(rf"\multicolumn{{{width}}}{{c}}{{{latex(group)}}}")
            rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
        at += width
    top = [""] * len(names) + spans
    second = [latex(text) for text in [*names, *(heading(column)[1] for column in table.columns)]]
    body = [_latex_row(table, row) for row in table.rows]
    label = re.sub(r"[^a-zA-Z0-9-]+", "-", table.dataset)
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex(' '.join([f'{table.dataset}.', *table.caption, BEST]))}}}",
            rf"  \label{{tab:{label}}}",
            rf"  \begin{{tabular}}{{{'l' * (len(names) - 1)}{'r' * (len(table.columns) + 1)}}}",
            r"    \toprule",
            f"    {' & '.join(top)} \\\\",
            f"    {' '.join(rules)}",
            f"    {' & '.join(second)} \\\\",
            r"    \midrule",
            *(f"    {line} \\\\" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            *(rf"  \par\footnotesize {latex(note)}" for note in table.notes),
            r"\end{table}",
        ]
    )


def _latex_row(table: Table, row: Row) -> str:
    figures = (
        # A hyphen is no minus sign in text mode.
        cell_text(cell, column, r"\textbf{{{}}}").replace("-", "$-$").replace("±", r"$\pm$")
        for cell, column in zip(row.cells, table.columns, strict=True)
    )
    return " & ".join([*map(latex, row_names(table, row)), *figures])


def latex(text: str) -> str:
    """``text`` with LaTeX's special characters escaped."""
    return "".join(LATEX_SPECIAL.get(character, character) for character in text)


def row_header(table: Table) -> list[str]:
    """Headings of :func:`row_names`."""
    return [*(["study"] if len(table.studies) > 1 else []), "method", "seeds"]


def row_names(table: Table, row: Row) -> list[str]:
    """What a row is, before its figures: its study where there are several, method, seeds."""
    return [*([row.study] if len(table.studies) > 1 else []), row.label, str(row.seeds)]


def heading(column: Column) -> tuple[str, str]:
    """The heading that a column shares with its neighbours, and its own with its direction."""
    return UNITS.get(column.group, column.group), f"{column.name}{ARROWS[column.better]}"


def cell_text(cell: Cell, column: Column, best: str, other: str = "{}") -> str:
    """``mean ± deviation``.

    Args:
        cell: the figure.
        column: how to print it.
        best: how the mean is set where it is the best of its column, such as ``**{}**``.
        other: how it is set elsewhere.
    """
    mean = (best if cell.best else other).format(format_number(cell.mean, column))
    deviation = format_deviation(cell, column)
    return mean if deviation is None else f"{mean} ± {deviation}"
