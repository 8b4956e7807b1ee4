"""What a comparison is before it is rendered: rows of means and spreads, with words around them."""

import math
from dataclasses import dataclass, field
from typing import Literal

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        group: heading that neighbouring columns share (the task), or empty.
        name: the column's own heading (the metric).
        better: the direction, None where there is none.
        decimals: digits after the point.
        signed: whether a plus is printed.
        spread: whether the standard deviation is printed.
    """

    group: str
    name: str
    better: Better | None
    decimals: int
    signed: bool = False
    spread: bool = True

    @property
    def key(self) -> str:
        """The column's name in CSV files: ``digit/accuracy``, ``delta_m/over_tasks``."""
        return "/".join(part.replace(" ", "_") for part in (self.group, self.name) if part)


@dataclass(frozen=True)
class Cell:
    """A figure over seeds; NaN where there is none.

    Attributes:
        mean: over the seeds.
        deviation: sample standard deviation (n - 1); NaN for one seed.
        best: whether it is the best of its column, as printed.
    """

    mean: float = math.nan
    deviation: float = math.nan
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A method.

    Attributes:
        method: its whole name, as the folder says.
        label: its name in this table, without the settings that all rows have.
        baseline: the name of the row that its delta_m is against; empty where there is none.
        cells: one for each of the table's columns.
    """

    study: str
    method: str
    label: str
    seeds: int
    baseline: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """The comparison of the methods on one dataset.

    Attributes:
        caption: sentences that define what is printed.
        notes: sentences on what is missing, and on what should not be compared.
    """

    dataset: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def studies(self) -> tuple[str, ...]:
        """The studies that its rows come from."""
        return tuple(dict.fromkeys(row.study for row in self.rows))


@dataclass(frozen=True)
class Report:
    """A table for each dataset, and what belongs to none of them."""

    tables: tuple[Table, ...]
    notes: tuple[str, ...] = field(default=())


def suited_decimals(values: list[float], digits: int = 4) -> int:
    """Digits after the point that show a typical one of ``values`` with ``digits`` digits.

    The median decides, so that one method that went astray does not round the others away.
    """
    sizes = sorted(abs(value) for value in values if math.isfinite(value) and value != 0)
    if not sizes:
        return digits - 1
    magnitude = math.floor(math.log10(sizes[len(sizes) // 2]))
    return min(max(digits - 1 - magnitude, 0), 8)


def format_number(value: float, column: Column, *, signed: bool | None = None) -> str:
    """``value`` as the column prints it; ``n/a`` for NaN."""
    if math.isnan(value):
        return "n/a"
    plus = "+" if (column.signed if signed is None else signed) else ""
    if abs(value) >= 1e6:
        return f"{value:{plus}.3g}"
    text = f"{value:{plus}.{column.decimals}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def format_deviation(cell: Cell, column: Column) -> str | None:
    """The spread of a cell as its column prints it; None where none is printed."""
    if not column.spread or math.isnan(cell.deviation):
        return None
    return format_number(cell.deviation, column, signed=False)
