import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlrun.analysis.statistics.delta_m import delta_m, relative_change

TABLES = json.loads(
    (Path(__file__).parents[2] / "reference" / "delta_m_tables.json").read_text(encoding="utf-8")
)["tables"]
ROWS = [(table, name) for table in TABLES for name in TABLES[table]["rows"]]


def changes_of(table: dict[str, Any], values: list[float]) -> dict[str, dict[str, float]]:
    changes: dict[str, dict[str, float]] = {}
    for metric, value, baseline in zip(table["metrics"], values, table["single_task"], strict=True):
        changes.setdefault(metric["task"], {})[metric["name"]] = relative_change(
            value, baseline, higher_is_better=metric["higher_is_better"]
        )
    return changes


@pytest.mark.parametrize(("table_name", "method"), ROWS)
def test_published_rows_give_their_printed_delta_m(table_name: str, method: str) -> None:
    table = TABLES[table_name]
    row = table["rows"][method]
    ours = delta_m(changes_of(table, row["values"])).over_metrics
    if method in table["inconsistent"]:
        assert ours == pytest.approx(0.60, abs=0.01)
        assert -ours != pytest.approx(row["delta_m"], abs=0.1)
    else:
        # These papers print the opposite sign.
        assert -ours == pytest.approx(row["delta_m"], abs=table["tolerance"])


def test_the_two_definitions_can_disagree_in_sign() -> None:
    changes = {
        "segmentation": {"mIoU": relative_change(0.6, 0.5, higher_is_better=True)},
        "normals": {
            "mean": relative_change(22.0, 20.0, higher_is_better=False),
            "median": relative_change(16.5, 15.0, higher_is_better=False),
            "within_30": relative_change(0.72, 0.8, higher_is_better=True),
        },
    }
    assert changes["segmentation"]["mIoU"] == pytest.approx(20)
    assert list(changes["normals"].values()) == pytest.approx([-10, -10, -10])
    both = delta_m(changes)
    assert both.over_metrics == pytest.approx(-2.5)  # (20 - 30) / 4
    assert both.over_tasks == pytest.approx(5.0)  # (20 - 10) / 2


def test_a_baseline_below_zero_keeps_the_direction() -> None:
    assert relative_change(0.1, -0.2, higher_is_better=True) == pytest.approx(150)
    assert relative_change(-0.4, -0.2, higher_is_better=True) == pytest.approx(-100)


def test_a_baseline_of_zero_has_no_relative_change() -> None:
    with pytest.raises(ZeroDivisionError):
        relative_change(1.0, 0.0, higher_is_better=True)


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=6),
    st.lists(st.floats(-50, 50), min_size=1, max_size=6),
)
def test_definitions_agree_for_tasks_of_as_many_metrics(one: list[float], two: list[float]) -> None:
    size = min(len(one), len(two))
    tasks = {"a": dict(enumerate(one[:size])), "b": dict(enumerate(two[:size]))}
    both = delta_m({task: {str(k): v for k, v in m.items()} for task, m in tasks.items()})
    assert both.over_metrics == pytest.approx(both.over_tasks, abs=1e-9)
