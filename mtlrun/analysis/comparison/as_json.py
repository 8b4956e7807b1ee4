"""A comparison as JSON: everything that was computed, for other programs."""

import json
import math
from dataclasses import asdict
from typing import Any

from mtlrun.analysis.comparison.table import Cell, CriticalDifference, Report, Row, Table

FORMAT = 1


def to_json(report: Report) -> str:
    """The whole report; figures that there are none of are null."""
    data = {
        "format": FORMAT,
        "answer": report.answer,
        "tables": [_table(table) for table in report.tables],
        "ranking": _ranking(report.ranking),
        "notes": report.notes,
    }
    return json.dumps(_plain(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _table(table: Table) -> dict[str, Any]:
    return {
        "dataset": table.dataset,
        "title": table.title,
        "apart": table.apart,
        "protocol": table.protocol,
        "answer": table.answer,
        "reference": table.reference,
        "judged": table.judged or None,
        "columns": [
            {"key": c.key, "group": c.group, "name": c.name, "better": c.better}
            for c in table.columns
        ],
        "rows": [_row(table, row) for row in table.rows],
        "ranking": _ranking(table.ranking),
        "caption": table.caption,
        "notes": table.notes,
    }


def _row(table: Table, row: Row) -> dict[str, Any]:
    return {
        "study": row.study,
        "method": row.method,
        "label": row.label,
        "seeds": row.seeds,
        "baseline": row.baseline,
        "differs": row.differs,
        "figures": {
            column.key: _cell(cell) for column, cell in zip(table.columns, row.cells, strict=True)
        },
        "transfer": [
            {**asdict(transfer), "verdict": transfer.verdict} for transfer in row.transfer
        ],
        "test": asdict(row.test) if row.test else None,
        "runs": [
            {"seed": run.seed, "folder": str(folder)}
            for run in row.runs
            for folder in dict.fromkeys(source.folder for source in run.sources)
        ],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    low, high = cell.interval
    return {
        "mean": cell.mean,
        "deviation": cell.deviation,
        "low": low,
        "high": high,
        "best": cell.best,
    }


def _ranking(ranking: CriticalDifference | None) -> dict[str, Any] | None:
    return asdict(ranking) if ranking else None


def _plain(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
