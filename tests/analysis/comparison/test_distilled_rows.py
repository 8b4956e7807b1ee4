"""Distilled runs beside their teachers and undistilled ones: which are one row, and its name."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from seeded_runs import ALONE, SINGLE_TASK, deltas, row_of, table_of, write_seeds

if TYPE_CHECKING:
    from conftest import WriteRun

TAUGHT = "equal,distill.teachers=[equal_architecture_single_task]-123456"
DEFAULTS = {"tasks": None, "temperature": 1.0, "weight": 0.5, "anneal": False, "cache_gb": 1.0}
ACCURACY = {"digit": {"accuracy": 0.8}}


def settings(*teachers: str, **others: Any) -> dict[str, Any]:
    return {"distill": {**DEFAULTS, **others, "teachers": list(teachers)}}


def told(*teachers: str, **others: Any) -> dict[str, Any]:
    """What a run's files say of its distillation."""
    changed = {f"distill.{key}": value for key, value in others.items()}
    return {
        "architecture": "hps",
        "config": settings(*teachers, **others),
        "changed": {"distill.teachers": list(teachers), **changed},
    }


def test_without_teachers_the_section_counts_as_absent(
    write_run: "WriteRun", tmp_path: Path
) -> None:
    write_run("equal", ACCURACY)
    write_run("equal", ACCURACY, seed=1, config=settings())
    write_run("equal", ACCURACY, seed=2, config=settings(weight=0.25, features=1.0))
    write_run("equal,x", ACCURACY, config=settings("outputs/a/digits/equal"))
    assert [row.seeds for row in table_of(tmp_path / "outputs").rows] == [3, 1]


@pytest.mark.parametrize(
    ("one", "other", "rows"),
    [
        ("outputs/a/digits/x", "/else/b/digits/x", [2]),
        ("outputs/a/digits/x/seed=0", "outputs/a/digits/x/seed=1", [2]),
        ("outputs/a/digits/x", "outputs/a/digits/y", [1, 1]),
        ("outputs/a/digits/x", "outputs/a/nyuv2/x", [1, 1]),
        ("outputs/a/digits/x", "outputs/a/digits/x/seed=1", [1, 1]),
    ],
)
def test_teachers_are_told_apart_by_dataset_and_method(
    write_run: "WriteRun", tmp_path: Path, one: str, other: str, rows: list[int]
) -> None:
    for seed, teacher in enumerate((one, other)):
        write_run("equal,t", ACCURACY, seed=seed, **told(teacher))
    assert [row.seeds for row in table_of(tmp_path / "outputs").rows] == rows


def test_the_chain_in_one_table(write_run: "WriteRun", tmp_path: Path) -> None:
    teacher = f"outputs/default/digits/{SINGLE_TASK}"
    write_seeds(write_run, SINGLE_TASK, ALONE, changed={"architecture": "single_task"})
    write_seeds(write_run, "equal", (0.82, 0.83), changed={})
    write_seeds(write_run, TAUGHT, (0.84, 0.85), **told(teacher))
    annealed = f"equal,distill.anneal=true,{TAUGHT[6:]}"
    write_seeds(write_run, annealed, (0.83, 0.84), **told(teacher, anneal=True))
    table = table_of(tmp_path / "outputs")
    names = {SINGLE_TASK, "equal", "equal,distilled", "equal,distilled,distill.anneal=True"}
    assert {row.label for row in table.rows} == names
    columns = [f"{column.group}/{column.name}" for column in table.columns]
    at = next(i for i, name in enumerate(columns) if "delta_m" in name and "metrics" in name)
    change = row_of(table, "equal,distilled").cells[at].mean
    assert change == pytest.approx(sum(deltas((0.84, 0.85))) / 2)
    assert f"distilled: with distill.teachers=[{SINGLE_TASK}]." in table.caption


def test_other_teachers_are_named_in_full(write_run: "WriteRun", tmp_path: Path) -> None:
    write_seeds(write_run, "equal,t1", (0.82, 0.83), **told("o/a/digits/x,y=1"))
    several = [f"o/a/digits/mgda/seed={seed}" for seed in (0, 1)]
    write_seeds(write_run, "equal,t2", (0.84, 0.85), **told(*several))
    table = table_of(tmp_path / "outputs")
    assert {row.label for row in table.rows} == {
        "equal,distill.teachers=[x,y=1]",
        "equal,distill.teachers=[2 of mgda]",
    }
    assert not any("distilled:" in line for line in table.caption)
