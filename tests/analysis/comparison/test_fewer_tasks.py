"""Networks of some of a dataset's tasks: they have one table, behind that of all tasks."""

import csv
import io
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from mtlrun.analysis.comparison.compare import compare
from mtlrun.analysis.comparison.console import print_report
from mtlrun.analysis.comparison.measured import Options
from mtlrun.analysis.comparison.render import to_csv, to_markdown
from mtlrun.analysis.comparison.table import Cell, Report, Row, Table
from mtlrun.analysis.runs import find_runs

if TYPE_CHECKING:
    from conftest import WriteRun

SINGLE_TASK = "equal,architecture=single_task"
ALONE = {"a": 0.50, "b": 0.80, "c": 0.40}
PAIRS = {"ab": (0.51, 0.72), "ac": (0.55, 0.38), "bc": (0.76, 0.44)}


def network(tasks: str, values: tuple[float, ...]) -> dict[str, Any]:
    return {task: {"accuracy": value} for task, value in zip(tasks, values, strict=True)}


def write_network(
    write_run: "WriteRun", tasks: str, *values: float, weighting: str = "equal", **more: Any
) -> None:
    listed = f"[{', '.join(map(repr, tasks))}]"
    changed = {} if tasks == "abc" else {"tasks": listed}
    name = weighting if tasks == "abc" else f"{weighting},tasks=[{'_'.join(tasks)}]"
    settings = {"weighting": {"_target_": f"x.{weighting}"}}
    write_run(name, network(tasks, values), changed=changed, config=settings, **more)


@pytest.fixture
def outputs(write_run: "WriteRun", tmp_path: Path) -> Path:
    """What ``+sweep=pairs`` trains, with two seeds that have the same figures but for b."""
    for seed in (0, 1):
        alone = network("abc", tuple(ALONE.values()))
        write_run(SINGLE_TASK, alone, seed=seed, changed={"architecture": "single_task"})
        write_network(write_run, "abc", 0.5, 0.5, 0.5, seed=seed)
        for tasks, (first, second) in PAIRS.items():
            shift = 0.02 * seed if tasks == "bc" else 0.0
            write_network(write_run, tasks, first + shift, second, seed=seed)
    return tmp_path / "outputs"


def report_of(outputs: Path, **options: Any) -> Report:
    return compare(find_runs([outputs]), options=Options(**options))


def row_of(table: Table, label: str) -> Row:
    (row,) = (row for row in table.rows if row.label == label)
    return row


def cell_of(table: Table, label: str, key: str) -> Cell:
    return table.cell(row_of(table, label), key)


def test_all_tasks_have_the_first_table_and_the_others_one_more(outputs: Path) -> None:
    whole, fewer = report_of(outputs).tables
    assert whole.title == "digits, tasks=a, b, c"
    assert [row.label for row in whole.rows] == [SINGLE_TASK, "equal"]
    assert fewer.title == "digits, tasks=some of them"
    assert [row.label for row in fewer.rows] == [
        SINGLE_TASK,
        "equal,tasks=[a,b]",
        "equal,tasks=[a,c]",
        "equal,tasks=[b,c]",
    ]
    # The table of all tasks is what it is without the others.
    for tasks in PAIRS:
        for seed in (0, 1):
            folder = outputs / "default/digits" / f"equal,tasks=[{'_'.join(tasks)}]/seed={seed}"
            (folder / "result.json").unlink()
    (alone,) = report_of(outputs).tables
    assert [row.cells for row in alone.rows] == [row.cells for row in whole.rows]


def test_each_row_has_the_delta_m_of_its_own_tasks(outputs: Path) -> None:
    _, fewer = report_of(outputs).tables
    change = (100 * (0.51 - 0.5) / 0.5 + 100 * (0.72 - 0.8) / 0.8) / 2
    key = "delta_m/over_metrics"
    assert cell_of(fewer, "equal,tasks=[a,b]", key).mean == pytest.approx(change)
    assert [t.task for t in row_of(fewer, "equal,tasks=[a,c]").transfer] == ["a", "c"]
    assert [t.change for t in row_of(fewer, "equal,tasks=[a,c]").transfer] == pytest.approx(
        [10, -5]
    )
    # A row's own tasks have figures, others are absent, and absent is not unknown.
    missing = cell_of(fewer, "equal,tasks=[a,c]", "b/accuracy")
    assert missing.absent
    assert math.isnan(missing.mean)
    assert not any("n/a" in note or "no figure" in note for note in fewer.notes)


def test_rows_of_different_tasks_are_not_ranked(outputs: Path) -> None:
    whole, fewer = report_of(outputs).tables
    assert {"mean rank", "wins"} <= {column.name for column in whole.columns}
    assert [column.name for column in fewer.columns] == [
        *["accuracy"] * 3,
        *("over metrics", "over tasks", "seconds"),
    ]
    assert (fewer.reference, fewer.ranking) == ("", None)
    best = {
        column.key: [row.label for row, cell in zip(fewer.rows, cells, strict=True) if cell.best]
        for column, cells in zip(
            fewer.columns, zip(*(r.cells for r in fewer.rows), strict=True), strict=True
        )
    }
    assert best == {
        "a/accuracy": ["equal,tasks=[a,c]"],
        "b/accuracy": [SINGLE_TASK],
        "c/accuracy": ["equal,tasks=[b,c]"],
        **{key: [] for key in ("delta_m/over_metrics", "delta_m/over_tasks", "seconds")},
    }
    assert not any(note.startswith("Rows differ in") for note in fewer.notes)


def test_the_finding_names_the_partners_of_each_task(outputs: Path) -> None:
    _, fewer = report_of(outputs).tables
    assert fewer.answer == (
        "On digits, tasks=some of them, against single-task training: "
        "a does best beside c (+10.0 %) and worst beside b (+2.0 %); "
        "b does best beside c (-3.8 %) and worst beside a (-10.0 %); "
        "c does best beside b (+10.0 %) and worst beside a (-5.0 %).",
        "Changes that are more than noise, by their 95 % intervals: gains 0, losses 0, of 1.",
    )


def test_texts_leave_absent_figures_empty(outputs: Path) -> None:
    report = report_of(outputs)
    line = next(line for line in to_markdown(report).split("\n") if "tasks=[a,c]" in line)
    assert [cell.strip() for cell in line.split("|")[1:6]] == [
        *("equal,tasks=[a,c]", "2", "**0.5500** ± 0.0000", "", "0.3800 ± 0.0000")
    ]
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    (row,) = (row for row in rows if row["method"] == "equal,tasks=[a_c]")
    assert (row["b/accuracy"], row["transfer/b"], float(row["c/accuracy"])) == ("", "", 0.38)
    assert row["protocol"] == "tasks=some of them"
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(report, console)
    assert "n/a" not in console.export_text().split("tasks=some of them\n")[1]


def test_enough_methods_to_rank_keep_a_table_of_their_own(
    outputs: Path, write_run: "WriteRun"
) -> None:
    for weighting in ("mgda", "pcgrad"):
        write_network(write_run, "ab", 0.6, 0.7, weighting=weighting)
    # It has the most rows, and does not hide that of all tasks.
    whole, fewer, ab = report_of(outputs).tables
    assert [whole.title, ab.title] == ["digits, tasks=a, b, c", "digits, tasks=a, b"]
    assert {row.label for row in ab.rows} == {SINGLE_TASK, "equal", "mgda", "pcgrad"}
    assert any(column.name == "mean rank" for column in ab.columns)
    assert [row.label for row in fewer.rows][1:] == ["equal,tasks=[a,c]", "equal,tasks=[b,c]"]


def test_one_set_of_fewer_tasks_has_its_own_table(write_run: "WriteRun", tmp_path: Path) -> None:
    write_run(SINGLE_TASK, network("abc", (0.5, 0.5, 0.5)))
    write_network(write_run, "abc", 0.5, 0.5, 0.5)
    write_network(write_run, "ab", 0.5, 0.5)
    _, part = report_of(tmp_path / "outputs").tables
    assert part.title == "digits, tasks=a, b"


def test_without_a_table_of_all_tasks_each_set_has_its_own(
    write_run: "WriteRun", tmp_path: Path
) -> None:
    for tasks in PAIRS:
        write_network(write_run, tasks, 0.5, 0.5)
    assert len(report_of(tmp_path / "outputs").tables) == 3


def test_other_data_stay_apart(outputs: Path, write_run: "WriteRun") -> None:
    for tasks in itertools.combinations("abc", 2):
        named = f"equal,dataset.fraction=0.5,tasks=[{'_'.join(tasks)}]"
        write_run(named, network("".join(tasks), (0.5, 0.5)), config={"dataset.fraction": 0.5})
    tables = report_of(outputs).tables
    assert [len(table.rows) for table in tables] == [2, 4, 1, 1, 1]


def test_pooled_rows_say_their_tasks(outputs: Path) -> None:
    (table,) = report_of(outputs, pool=True).tables
    assert {row.label for row in table.rows} == {
        *(SINGLE_TASK, "equal"),
        *("equal,tasks=[a,b]", "equal,tasks=[a,c]", "equal,tasks=[b,c]"),
    }


def test_networks_under_several_weightings(outputs: Path, write_run: "WriteRun") -> None:
    for tasks in PAIRS:
        write_network(write_run, tasks, 0.6, 0.6, weighting="mgda")
    _, fewer = report_of(outputs).tables
    assert [row.label for row in fewer.rows][1:3] == ["equal,tasks=[a,b]", "mgda,tasks=[a,b]"]
    assert (
        "a does best beside b under mgda (+20.0 %) and worst beside b under equal (+2.0 %)"
        in (fewer.answer[0])
    )
