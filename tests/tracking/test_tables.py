import csv
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtlrun.errors import UserError
from mtlrun.tracking.tables import COLUMNS, Table, shown

COSINES = COLUMNS["conflicts.csv"]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    opened = Table(tmp_path / "conflicts.csv", COSINES)
    opened.open(0)
    return opened


def row(step: int, cosine: float, task: str = "a") -> dict[str, object]:
    return {"cosine": cosine, "step": step, "task_a": task, "task_b": "b", "other": "ignored"}


def lines(table: Table) -> list[str]:
    return table.path.read_text().splitlines()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1 / 3, "0.333333333"),
        (123456789.4, "123456789"),
        (1e-12, "1e-12"),
        (2.0, "2"),
        (-0.0, "-0"),
        (math.nan, ""),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (np.float64("nan"), ""),
        (np.float64(0.25), "0.25"),
        (7, "7"),
        ("depth", "depth"),
    ],
)
def test_figures_as_the_files_print_them(value: object, text: str) -> None:
    assert shown(value) == text


def test_rows_under_their_columns(table: Table) -> None:
    table.append([row(1, 0.5), row(1, math.nan)])
    table.append([])
    table.append([row(2, -1 / 3)])
    assert lines(table) == [
        "step,task_a,task_b,cosine",
        "1,a,b,0.5",
        "1,a,b,",
        "2,a,b,-0.333333333",
    ]
    assert table.path.stat().st_size == table.size


def test_names_with_commas_and_quotes_come_back(table: Table) -> None:
    names = ["a,b", 'say "x"', "größe", " "]
    table.append([row(1, 0.0, name) for name in names])
    with table.path.open(newline="") as file:
        assert [line["task_a"] for line in csv.DictReader(file)] == names
    assert pd.read_csv(table.path)["task_a"].tolist() == names
    assert table.path.stat().st_size == table.size  # counted in bytes


def test_a_column_that_a_row_lacks_is_our_mistake(table: Table) -> None:
    with pytest.raises(KeyError, match="cosine"):
        table.append([{"step": 1, "task_a": "a", "task_b": "b"}])


def test_cutting_back_to_what_a_checkpoint_knows(table: Table) -> None:
    table.append([row(1, 0.1), row(2, 0.2)])
    table.sync()
    size = table.size
    table.append([row(3, 0.3, "größe")])
    with table.path.open("a") as file:
        file.write("4,a,")  # what a killed process left half written
    resumed = Table(table.path, COSINES)
    resumed.open(size)
    assert lines(resumed) == ["step,task_a,task_b,cosine", "1,a,b,0.1", "2,a,b,0.2"]
    resumed.append([row(3, 0.4)])
    assert lines(resumed)[-1] == "3,a,b,0.4"
    assert resumed.path.stat().st_size == resumed.size


def test_a_new_run_starts_the_file_anew(table: Table) -> None:
    table.append([row(1, 0.1)])
    fresh = Table(table.path, COSINES)
    fresh.open(0)
    assert lines(fresh) == ["step,task_a,task_b,cosine"]
    assert fresh.size == len("step,task_a,task_b,cosine\n")


@pytest.mark.parametrize("damage", ["shortened", "removed"])
def test_a_file_that_lost_rows_is_refused(damage: str, table: Table) -> None:
    table.append([row(1, 0.1)])
    size = table.size
    if damage == "removed":
        table.path.unlink()
    else:
        os.truncate(table.path, size - 1)
    with pytest.raises(
        UserError, match=r"conflicts\.csv is shorter than the run's checkpoint says"
    ):
        Table(table.path, COSINES).open(size)


def test_the_files_of_a_run() -> None:
    assert COLUMNS == {
        "metrics.csv": ("epoch", "step", "split", "task", "metric", "value"),
        "losses.csv": ("step", "epoch", "task", "loss", "loss_ratio", "weight", "grad_norm"),
        "conflicts.csv": ("step", "task_a", "task_b", "cosine"),
        "terms.csv": ("step", "epoch", "term", "loss", "weight"),
        "structure.csv": ("epoch", "step", "name", "row", "column", "value"),
        "affinity.csv": ("step", "source", "target", "value"),
    }
