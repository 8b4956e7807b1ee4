"""What a comparison is before it is rendered: rows of means and spreads, with words around them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mtlrun.analysis.runs import Run

Better = Literal["higher", "lower"]
Verdict = Literal["gains", "loses", "unclear"]

DELTA_M = "delta_m/over_metrics"
"""The key of the column that methods are ordered by."""


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        group: heading that neighbouring columns share (the task), or empty.
        name: the column's own heading (the metric).
        better: the direction, None where there is none.
        decimals: digits after the point.
        signed: whether a plus is printed.
        spread: whether the spread over seeds is printed.
        least: what is below is printed as ``<least``; None where every number is printed.
    """

    group: str
    name: str
    better: Better | None
    decimals: int
    signed: bool = False
    spread: bool = True
    least: float | None = None

    @property
    def key(self) -> str:
        """The column's name in CSV files: ``digit/accuracy``, ``delta_m/over_tasks``."""
        parts = (self.group, self.name.replace("(", "").replace(")", ""))
        return "/".join(part.replace(" ", "_") for part in parts if part)


@dataclass(frozen=True)
class Cell:
    """A figure over seeds; NaN where there is none.

    Attributes:
        mean: over the seeds.
        deviation: sample standard deviation (n - 1); NaN for one seed.
        best: whether it is the best of its column, as printed.
        interval: ends of a 95 % interval for the mean; NaN where none was asked for, or there is
            one seed.
        mark: a sign to print after it.
        absent: whether its row is of something that has no such figure, as of fewer tasks.
    """

    mean: float = math.nan
    deviation: float = math.nan
    best: bool = False
    interval: tuple[float, float] = (math.nan, math.nan)
    mark: str = ""
    absent: bool = False

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval to print."""
        return not math.isnan(self.interval[0])


@dataclass(frozen=True)
class Transfer:
    """What joint training does to one task.

    Attributes:
        task: the task.
        change: mean over seeds of the mean relative change of the task's metrics against
            single-task training, in percent, positive where better.
        low: lower end of its 95 % interval; NaN where there is one seed.
        high: upper end.
    """

    task: str
    change: float
    low: float = math.nan
    high: float = math.nan

    @property
    def verdict(self) -> Verdict:
        """``loses`` (negative transfer) or ``gains`` where the interval leaves 0 out."""
        if self.high < 0:
            return "loses"
        return "gains" if self.low > 0 else "unclear"


@dataclass(frozen=True)
class PairedTest:
    """A method against another one, seed by seed.

    Attributes:
        against: label of the other row.
        difference: mean over seeds of the difference in delta_m over metrics, in percentage
            points, positive where this row is better.
        p: of the paired test, two-sided; NaN with fewer than two pairs.
        adjusted: ``p`` corrected for the number of rows compared.
        pairs: seeds that both have, and the test is paired by; 0 for Welch's test, where both
            have fewer than two.
    """

    against: str
    difference: float
    p: float
    adjusted: float
    pairs: int


@dataclass(frozen=True)
class CriticalDifference:
    """Friedman's test and Nemenyi's groups (Demsar, JMLR 2006, section 3.2.2).

    Attributes:
        labels: of the rows that were ranked, best mean rank first.
        ranks: their mean ranks over the blocks; 1 is best.
        blocks: how many rankings were averaged.
        of: what a block is, in words.
        p: of Friedman's test that all are equal.
        distance: the mean ranks of two methods differ at the 5 % level where they are further
            apart than this.
        cliques: for each bar of the diagram first and last index into ``labels`` of methods that
            do not differ.
    """

    labels: tuple[str, ...]
    ranks: tuple[float, ...]
    blocks: int
    of: str
    p: float
    distance: float
    cliques: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Row:
    """A method.

    Attributes:
        method: its whole name, as the folder says.
        label: its name in this table, without the settings that all rows have.
        baseline: the name of the row that its delta_m is against; empty where there is none.
        cells: one for each of the table's columns.
        runs: one a seed.
        differs: its values of those settings in which the rows of its table differ.
        transfer: what it does to each task; empty where there is no single-task baseline.
        test: against the table's reference; None where there is none, or it is the reference.
    """

    study: str
    method: str
    label: str
    seeds: int
    baseline: str
    cells: tuple[Cell, ...]
    runs: tuple[Run, ...] = ()
    differs: Mapping[str, str] = field(default_factory=dict)
    transfer: tuple[Transfer, ...] = ()
    test: PairedTest | None = None

    @property
    def single_task(self) -> bool:
        """Whether its runs trained one model a task."""
        return bool(self.runs) and self.runs[0].single_task


@dataclass(frozen=True)
class Table:
    """The comparison of the methods on one dataset.

    Attributes:
        caption: sentences that define what is printed.
        notes: sentences on what is missing, and on what should not be compared.
        protocol: what all its rows share and figures depend on: data, epochs, tasks.
        apart: the part of it that tells this table from others of the same dataset.
        reference: label of the row that the others were tested against; empty where none was.
        judged: the tasks that delta_m, mean rank and wins are over; empty for all.
        answer: the finding in a few sentences: what is best, what is within noise of it, which
            tasks lose.
        ranking: None where there are too few rows or blocks to rank.
    """

    dataset: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: tuple[str, ...]
    notes: tuple[str, ...]
    protocol: Mapping[str, str] = field(default_factory=dict)
    answer: tuple[str, ...] = ()
    ranking: CriticalDifference | None = None
    apart: Mapping[str, str] = field(default_factory=dict)
    reference: str = ""
    judged: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The dataset, and what tells this table from others of it."""
        said = [f"{key}={value}" for key, value in self.apart.items()]
        more = [f"and {len(said) - 4} more"] if len(said) > 4 else []
        return ", ".join([self.dataset, *said[:4], *more])

    @property
    def studies(self) -> tuple[str, ...]:
        """The studies that its rows come from."""
        return tuple(dict.fromkeys(row.study for row in self.rows))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the rows that differ from each other: with the study where there are several."""
        several = len(self.studies) > 1
        return tuple(f"{row.study}: {row.label}" if several else row.label for row in self.rows)

    def cell(self, row: Row, key: str) -> Cell:
        """The figure of one of its rows in the column of that key; empty where there is none."""
        cells = zip(self.columns, row.cells, strict=True)
        return next((cell for column, cell in cells if column.key == key), Cell())


@dataclass(frozen=True)
class Report:
    """A table for each dataset and protocol, and what belongs to none of them.

    Attributes:
        answer: the finding over all datasets, where several have the same methods.
        ranking: over all datasets; None where there is nothing to rank.
    """

    tables: tuple[Table, ...]
    notes: tuple[str, ...] = field(default=())
    answer: tuple[str, ...] = ()
    ranking: CriticalDifference | None = None


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
    if column.least is not None and abs(value) < column.least:
        return f"<{column.least:.{column.decimals}f}"
    plus = "+" if (column.signed if signed is None else signed) else ""
    if abs(value) >= 1e6:
        return f"{value:{plus}.3g}"
    text = f"{value:{plus}.{column.decimals}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def format_mean(cell: Cell, column: Column) -> str:
    """The mean of a cell as its column prints it; nothing where its row has no such figure."""
    return "" if cell.absent else format_number(cell.mean, column)


def format_deviation(cell: Cell, column: Column) -> str | None:
    """The standard deviation of a cell as its column prints it; None where none is printed."""
    if not column.spread or math.isnan(cell.deviation):
        return None
    return format_number(cell.deviation, column, signed=False)


def format_spread(cell: Cell, column: Column) -> str:
    """The spread of a cell as its column prints it: ``± 0.12``, ``[-0.1, +0.2]``, or nothing."""
    if column.spread and cell.has_interval:
        low, high = (format_number(end, column) for end in cell.interval)
        return f"[{low}, {high}]"
    deviation = format_deviation(cell, column)
    return "" if deviation is None else f"± {deviation}"
