"""Methods with a few seeds each, and their comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlrun.analysis.comparison.compare import compare
from mtlrun.analysis.comparison.measured import Options
from mtlrun.analysis.comparison.table import Report, Row, Table
from mtlrun.analysis.runs import find_runs

if TYPE_CHECKING:
    from conftest import WriteRun

SINGLE_TASK = "equal,architecture=single_task"
ALONE = (0.800, 0.805, 0.795, 0.802)
EQUAL = (0.818, 0.826, 0.811, 0.823)
GRADNORM = (0.830, 0.833, 0.824, 0.834)
MGDA = (0.700, 0.703, 0.694, 0.699)


def report_of(folder: Path, **options: Any) -> Report:
    return compare(find_runs([folder]), options=Options(**options))


def table_of(folder: Path, **options: Any) -> Table:
    (table,) = report_of(folder, **options).tables
    return table


def row_of(table: Table, label: str) -> Row:
    (row,) = (row for row in table.rows if row.label == label)
    return row


def write_seeds(
    write_run: "WriteRun", method: str, values: Sequence[float], start: int = 0, **options: Any
) -> None:
    for seed, value in enumerate(values, start=start):
        write_run(method, {"digit": {"accuracy": value}}, seed=seed, **options)


def deltas(values: Sequence[float]) -> list[float]:
    baseline = sum(ALONE) / len(ALONE)
    return [100 * (value - baseline) / baseline for value in values]
