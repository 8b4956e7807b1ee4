"""A comparison as CSV, Markdown and LaTeX."""

import csv
import io
import math
import re
from collections.abc import Sequence
from itertools import groupby

from mtlrun.analysis.comparison.blocks import ranking_text
from mtlrun.analysis.comparison.table import (
    Cell,
    Column,
    Report,
    Row,
    Table,
    format_mean,
    format_spread,
)
from mtlrun.analysis.comparison.transfer import transfer_block

ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
UNITS = {"delta_m": "delta_m [%]"}
"""How a column group is headed where its name alone does not say its unit."""

BEST = "Best in bold."

LATER = ("delta_m/", "transfer/")
"""Columns of CSV files that stand behind those of all metrics."""

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "▼": r"$\bigtriangledown$",
    "▲": r"$\bigtriangleup$",
    "|": r"\textbar{}",
    "<": "$<$",
    ">": "$>$",
}


def to_csv(report: Report) -> str:
    """One row a method, figures in full; columns of tasks that a dataset lacks are empty.

    A metric's column is named ``<task>/<metric>``; ``.../sd`` holds its standard deviation, and
    ``.../low`` and ``.../high`` the ends of its interval where intervals were asked for.
    ``transfer/<task>`` is the change against single-task training.
    """
    rows = [(table, row, _csv_figures(table, row)) for table in report.tables for row in table.rows]
    keys = dict.fromkeys(key for *_, figures in rows for key in figures)
    metrics = {column.key for table in report.tables for column in table.columns if column.group}

    def place(key: str) -> int:
        """What all datasets have stays behind the last one's metrics."""
        if key.startswith(LATER):
            return 1 + [key.startswith(start) for start in LATER].index(True)
        return 0 if key in metrics or key.rsplit("/", 1)[0] in metrics else 1 + len(LATER)

    text = io.StringIO()
    head = ["dataset", "study", "method", "seeds", "baseline"]
    if any(table.apart for table in report.tables):
        head.append("protocol")
    writer = csv.DictWriter(
        text, [*head, *sorted(keys, key=place)], restval="", lineterminator="\n"
    )
    writer.writeheader()
    for table, row, figures in rows:
        apart = ", ".join(f"{key}={value}" for key, value in table.apart.items())
        names = [table.dataset, row.study, row.method, row.seeds, row.baseline, apart]
        writer.writerow({**dict(zip(head, names, strict=False)), **figures})
    return text.getvalue()


def _csv_figures(table: Table, row: Row) -> dict[str, str]:
    figures = {}
    for column, cell in zip(table.columns, row.cells, strict=True):
        figures[column.key] = _full(cell.mean)
        if column.spread:
            figures[f"{column.key}/sd"] = _full(cell.deviation)
        if column.spread and cell.has_interval:
            figures[f"{column.key}/low"], figures[f"{column.key}/high"] = map(_full, cell.interval)
    for transfer in row.transfer:
        key = f"transfer/{transfer.task}"
        figures[key] = _full(transfer.change)
        figures[f"{key}/low"], figures[f"{key}/high"] = _full(transfer.low), _full(transfer.high)
    return figures


def _full(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def to_markdown(report: Report) -> str:
    """A heading, the finding, pipe tables, captions and notes for each dataset."""
    parts = [markdown(" ".join(report.answer))]
    for table in report.tables:
        parts.append(f"## {markdown(table.title)}")
        parts.append(markdown(" ".join(table.answer)))
        parts.append(_pipe_table(table))
        parts.append(markdown(" ".join([*table.caption, BEST])))
        block = transfer_block(table)
        if block is not None:
            parts += [_pipe_table(block), " ".join(block.caption)]
        if table.ranking is not None:
            parts.append(markdown(ranking_text(table.ranking)))
        parts.append(_bullets(table.notes))
    parts.append(_bullets(report.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _pipe_table(table: Table) -> str:
    headings = (markdown(" ".join(heading(column)).strip()) for column in table.columns)
    header = [*row_header(table), *(text.replace("|", "\\|") for text in headings)]
    align = ["---"] * (len(header) - len(table.columns) - 1) + ["---:"]
    lines = [header, align + ["---:"] * len(table.columns)]
    lines += [
        [
            *(markdown(text).replace("|", "\\|") for text in row_names(table, row)),
            *(
                cell_text(cell, column, "**{}**")
                for cell, column in zip(row.cells, table.columns, strict=True)
            ),
        ]
        for row in table.rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(notes: Sequence[str]) -> str:
    return "\n".join(f"- {markdown(note)}" for note in notes)


def markdown(text: str) -> str:
    """``text`` in one line without HTML and emphasis that names in it may look like."""
    return re.sub(r"\*|<(?=[a-zA-Z/!?])", r"\\\g<0>", " ".join(text.split()))


def to_latex(report: Report) -> str:
    r"""A ``table`` environment for each dataset; the preamble must load ``booktabs``."""
    parts = [r"% \usepackage{booktabs}", *(_latex_table(table) for table in report.tables)]
    parts += map(_comment, report.notes)
    return "\n".join(parts) + "\n"


def _latex_table(table: Table) -> str:
    block = transfer_block(table)
    caption = " ".join([f"{table.title}.", *table.caption, BEST, *(block.caption if block else ())])
    label = re.sub(r"[^a-zA-Z0-9-]+", "-", table.title)
    said = [*table.answer, *([ranking_text(table.ranking)] if table.ranking else [])]
    return "\n".join(
        [
            *map(_comment, said),
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex(caption)}}}",
            rf"  \label{{tab:{label}}}",
            *_latex_tabular(table),
            *(["", r"  \medskip", *_latex_tabular(block)] if block else []),
            *(rf"  \par\footnotesize {latex(note)}" for note in table.notes),
            r"\end{table}",
        ]
    )


def _latex_tabular(table: Table) -> list[str]:
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
    return [
        rf"  \begin{{tabular}}{{{'l' * (len(names) - 1)}{'r' * (len(table.columns) + 1)}}}",
        r"    \toprule",
        f"    {' & '.join(top)} \\\\",
        f"    {' '.join(rules)}",
        f"    {' & '.join(second)} \\\\",
        r"    \midrule",
        *(f"    {line} \\\\" for line in body),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]


def _latex_row(table: Table, row: Row) -> str:
    figures = (
        # A hyphen is no minus sign in text mode.
        _in_math(cell_text(cell, column, r"\textbf{{{}}}"))
        for cell, column in zip(row.cells, table.columns, strict=True)
    )
    return " & ".join([*map(latex, row_names(table, row)), *figures])


def _in_math(text: str) -> str:
    for sign in "-±▼▲<":
        text = text.replace(sign, LATEX_SPECIAL.get(sign, f"${sign}$"))
    return text


def latex(text: str) -> str:
    """``text`` in one line, with LaTeX's special characters escaped."""
    line = " ".join(text.split())
    return "".join(LATEX_SPECIAL.get(character, character) for character in line)


def _comment(text: str) -> str:
    return f"% {' '.join(text.split())}"


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
    """``mean ± deviation``, or ``mean [low, high]``.

    Args:
        cell: the figure.
        column: how to print it.
        best: how the mean is set where it is the best of its column, such as ``**{}**``.
        other: how it is set elsewhere.
    """
    mean = (best if cell.best else other).format(format_mean(cell, column))
    spread = format_spread(cell, column)
    return " ".join(part for part in (mean, spread, cell.mark) if part)
