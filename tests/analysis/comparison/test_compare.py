import json
import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mtlrun.analysis.comparison.compare import compare
from mtlrun.analysis.comparison.measured import Options
from mtlrun.analysis.comparison.table import Cell, Report, Row, Table
from mtlrun.analysis.runs import find_runs
from mtlrun.errors import UserError

if TYPE_CHECKING:
    from conftest import WriteRun

TABLES = json.loads(
    (Path(__file__).parents[2] / "reference" / "delta_m_tables.json").read_text(encoding="utf-8")
)["tables"]
SINGLE_TASK = "equal,architecture=single_task"


def digits(digit: float, ink: float | None = 0.8, mse: float | None = 0.1) -> dict[str, Any]:
    return {"digit": {"accuracy": digit}, "ink": {"r2": ink, "mse": mse}}


def report_of(*folders: Path, **options: Any) -> Report:
    return compare(find_runs(list(folders)), **options)


def table_of(*folders: Path, **options: Any) -> Table:
    (table,) = report_of(*folders, **options).tables
    return table


def row_of(table: Table, method: str) -> Row:
    (row,) = (row for row in table.rows if row.method == method)
    return row


def cell_of(table: Table, method: str, key: str) -> Cell:
    at = [column.key for column in table.columns].index(key)
    return row_of(table, method).cells[at]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def test_runs_that_differ_by_seed_are_one_row(write_run: "WriteRun", outputs: Path) -> None:
    for seed, accuracy in enumerate((0.90, 0.93, 0.96)):
        write_run("equal", digits(accuracy), seed=seed, seconds=10.0 + seed)
    write_run("mgda", digits(0.95))
    table = table_of(outputs)
    assert [(row.method, row.seeds) for row in table.rows] == [("equal", 3), ("mgda", 1)]
    cell = cell_of(table, "equal", "digit/accuracy")
    assert cell.mean == pytest.approx(0.93)
    assert cell.deviation == pytest.approx(statistics.stdev([0.90, 0.93, 0.96]))
    assert math.isnan(cell_of(table, "mgda", "digit/accuracy").deviation)
    assert cell_of(table, "equal", "seconds").mean == pytest.approx(11)


def test_columns_follow_the_tasks(write_run: "WriteRun", outputs: Path) -> None:
    write_run("equal", digits(0.9))
    assert [column.key for column in table_of(outputs).columns] == [
        "digit/accuracy",
        "ink/r2",
        "ink/mse",
        "delta_m/over_metrics",
        "delta_m/over_tasks",
        "seconds",
    ]


def test_the_best_is_marked_by_direction_as_printed(write_run: "WriteRun", outputs: Path) -> None:
    write_run("equal", digits(0.90000, 0.7, 0.2))
    write_run("mgda", digits(0.95001, 0.7, 0.1))
    write_run("pcgrad", digits(0.95002, 0.6, 0.3))
    table = table_of(outputs)
    best = {
        column.key: {row.method for row in table.rows if row.cells[at].best}
        for at, column in enumerate(table.columns)
    }
    assert best["digit/accuracy"] == {"mgda", "pcgrad"}  # both print as 0.9500
    assert best["ink/r2"] == {"equal", "mgda"}
    assert best["ink/mse"] == {"mgda"}  # lower is better
    assert best["seconds"] == set()


def test_one_row_has_no_best(write_run: "WriteRun", outputs: Path) -> None:
    write_run("equal", digits(0.9))
    assert not any(cell.best for cell in table_of(outputs).rows[0].cells)


@pytest.mark.parametrize("which", ["test", "final", "best"])
def test_which_figure_is_compared(write_run: "WriteRun", outputs: Path, which: str) -> None:
    folder = write_run("equal", digits(0.9))
    result = json.loads((folder / "result.json").read_text())
    result["tasks"]["digit"]["metrics"]["accuracy"] |= {"test": 0.1, "final": 0.2, "best": 0.3}
    (folder / "result.json").write_text(json.dumps(result))
    table = table_of(outputs, which=which)
    expected = {"test": 0.1, "final": 0.2, "best": 0.3}[which]
    assert cell_of(table, "equal", "digit/accuracy").mean == expected
    assert {"test": "Test split", "final": "Last epoch", "best": "best epoch"}[
        which
    ] in table.caption[0]
    assert "validation split" in table.caption[0]


@pytest.mark.parametrize("name", ["nyuv2", "cityscapes"])
def test_published_tables_come_back(write_run: "WriteRun", outputs: Path, name: str) -> None:
    published = TABLES[name]

    def metrics(values: list[float]) -> dict[str, dict[str, float]]:
        tasks: dict[str, dict[str, float]] = {}
        for metric, value in zip(published["metrics"], values, strict=True):
            tasks.setdefault(metric["task"], {})[metric["name"]] = value
        return tasks

    write_run(SINGLE_TASK, metrics(published["single_task"]), dataset=name)
    for method, row in published["rows"].items():
        write_run(method, metrics(row["values"]), dataset=name)
    table = table_of(outputs)
    assert table.rows[0].method == SINGLE_TASK
    for method, row in published["rows"].items():
        ours = cell_of(table, method, "delta_m/over_metrics").mean
        tolerance = 0.2 if method in published["inconsistent"] else published["tolerance"]
        assert -ours == pytest.approx(row["delta_m"], abs=tolerance)
        assert row_of(table, method).baseline == SINGLE_TASK
    ranks = [cell_of(table, row.method, "delta_m/over_metrics").mean for row in table.rows[1:]]
    assert ranks == sorted(ranks, reverse=True)


def test_delta_m_over_seeds_is_against_the_mean_of_the_baseline(
    write_run: "WriteRun", outputs: Path
) -> None:
    for seed, (single, joint) in enumerate([(0.8, 0.9), (0.6, 0.7)]):
        write_run(SINGLE_TASK, {"digit": {"accuracy": single}}, seed=seed)
        write_run("equal", {"digit": {"accuracy": joint}}, seed=seed)
    cell = cell_of(table_of(outputs), "equal", "delta_m/over_metrics")
    per_seed = [100 * (0.9 - 0.7) / 0.7, 100 * (0.7 - 0.7) / 0.7]
    assert cell.mean == pytest.approx(statistics.mean(per_seed))
    assert cell.deviation == pytest.approx(statistics.stdev(per_seed))


def test_both_definitions_where_they_disagree_in_sign(write_run: "WriteRun", outputs: Path) -> None:
    write_run(
        SINGLE_TASK,
        {"segmentation": {"mIoU": 0.5}, "normals": {"mean": 20, "median": 15, "w30": 0.8}},
    )
    write_run(
        "equal",
        {"segmentation": {"mIoU": 0.6}, "normals": {"mean": 22, "median": 16.5, "w30": 0.72}},
    )
    table = table_of(outputs)
    assert cell_of(table, "equal", "delta_m/over_metrics").mean == pytest.approx(-2.5)
    assert cell_of(table, "equal", "delta_m/over_tasks").mean == pytest.approx(5.0)
    assert "over all 4 metrics alike" in table.caption[1]
    assert "opposite sign" in table.caption[1]


def test_the_baseline_beside_is_found_and_named(write_run: "WriteRun", outputs: Path) -> None:
    write_run(SINGLE_TASK, digits(0.8, 0.8, 0.1))
    write_run("mgda", digits(0.7))
    folder = write_run("equal", digits(0.88, 0.8, 0.1))
    for asked in (folder, folder.parent):
        report = report_of(asked)
        (table,) = report.tables
        assert [row.method for row in table.rows] == [SINGLE_TASK, "equal"]
        assert cell_of(table, "equal", "delta_m/over_metrics").mean == pytest.approx(10 / 3)
        assert "lie beside" in report.notes[0]
        assert SINGLE_TASK in report.notes[0]


def test_without_single_task_runs_the_reason_is_said(write_run: "WriteRun", outputs: Path) -> None:
    write_run("equal", digits(0.9), study="paper")
    write_run(SINGLE_TASK, digits(0.9), study="other")
    table = table_of(outputs / "paper")
    assert math.isnan(cell_of(table, "equal", "delta_m/over_tasks").mean)
    assert table.notes == (
        "delta_m is n/a: study paper has no finished single-task run on digits; `mtlrun "
        "dataset=digits architecture=single_task study=paper` makes one.",
    )


@pytest.mark.parametrize(
    ("baseline", "reason"),
    [
        (digits(0.0), "digit accuracy of the baseline is 0"),
        (digits(0.9, ink=None), "the baseline has no figure for ink r2"),
    ],
)
def test_a_baseline_that_cannot_serve_is_named(
    write_run: "WriteRun", outputs: Path, baseline: dict[str, Any], reason: str
) -> None:
    write_run(SINGLE_TASK, baseline)
    write_run("equal", digits(0.9))
    table = table_of(outputs)
    assert math.isnan(cell_of(table, "equal", "delta_m/over_metrics").mean)
    assert any("delta_m is n/a" in note and reason in note for note in table.notes)


def test_a_seed_without_a_figure_is_not_averaged_away(write_run: "WriteRun", outputs: Path) -> None:
    write_run(SINGLE_TASK, digits(0.9))
    write_run("equal", digits(0.9, mse=0.1), seed=0)
    write_run("equal", digits(0.9, mse=None), seed=1)
    table = table_of(outputs)
    assert math.isnan(cell_of(table, "equal", "ink/mse").mean)
    assert cell_of(table, "equal", "ink/r2").mean == 0.8
    assert "equal: at least one of its seeds has no figure for ink mse." in table.notes
    assert "delta_m is n/a for equal: a run has no figure for ink mse." in table.notes


def test_a_named_baseline_may_be_any_one_method(write_run: "WriteRun", outputs: Path) -> None:
    write_run(SINGLE_TASK, digits(0.5))
    write_run("equal", digits(0.9, 0.8, 0.1), study="old")
    write_run("mgda", digits(0.99, 0.8, 0.1))
    folder = outputs / "old/digits/equal"
    table = table_of(outputs / "default", baseline=(folder, find_runs([folder])))
    assert table.studies == ("old", "default")
    assert cell_of(table, "mgda", "delta_m/over_metrics").mean == pytest.approx(10 / 3)
    assert row_of(table, "mgda").baseline == "old: equal"
    assert "against the baseline (old: equal, 1 seed)" in table.caption[1]


def test_a_named_baseline_of_several_methods_is_an_error(
    write_run: "WriteRun", outputs: Path
) -> None:
    write_run("equal", digits(0.9))
    write_run("mgda", digits(0.9))
    with pytest.raises(UserError, match=r"several methods on digits \(equal, mgda\)"):
        report_of(outputs, baseline=(outputs, find_runs([outputs])))


def test_a_named_baseline_prefers_its_single_task_runs(
    write_run: "WriteRun", outputs: Path
) -> None:
    write_run("equal", digits(0.9))
    write_run(SINGLE_TASK, digits(0.8), study="old")
    write_run("mgda", digits(0.7), study="old")
    folder = outputs / "old"
    table = table_of(outputs / "default", baseline=(folder, find_runs([folder])))
    assert [row.method for row in table.rows] == [SINGLE_TASK, "equal"]


def test_each_row_is_compared_with_the_baseline_most_like_it(
    write_run: "WriteRun", outputs: Path
) -> None:
    for size in (32, 64):
        backbone = {"backbone.hidden": [size]}
        suffix = f"backbone.hidden=[{size}]"
        write_run(f"{SINGLE_TASK},{suffix}", digits(size / 100), config=backbone)
        write_run(f"equal,{suffix}", digits(0.9), config=backbone)
    table = table_of(outputs)
    for size in (32, 64):
        row = row_of(table, f"equal,backbone.hidden=[{size}]")
        assert row.baseline == f"{SINGLE_TASK},backbone.hidden=[{size}]"
    assert not any("baseline has" in note for note in table.notes)
    assert "most like theirs" in table.caption[1]


def test_a_baseline_with_other_settings_is_noted(write_run: "WriteRun", outputs: Path) -> None:
    write_run(SINGLE_TASK, digits(0.8))
    write_run("equal,optimizer.lr=0.01", digits(0.9), config={"optimizer.lr": 0.01})
    assert (
        "delta_m of equal,optimizer.lr=0.01: the baseline has optimizer.lr=0.001 instead of 0.01."
    ) in table_of(outputs).notes


def test_rows_of_another_protocol_are_noted(write_run: "WriteRun", outputs: Path) -> None:
    write_run("equal", digits(0.9))
    write_run("mgda", digits(0.9), epochs=5, config={"dataset.fraction": 0.5, "dataset.root": "/x"})
    write_run("dwa", digits(0.9), select_on="test")
    notes = table_of(outputs, options=Options(pool=True)).notes
    assert "Rows differ in epochs: 30 (dwa, equal); 5 (mgda)." in notes
    assert "Rows differ in dataset.fraction: 0.1 (dwa, equal); 0.5 (mgda)." in notes
    assert "Rows differ in select_on: test (dwa); validation (equal, mgda)." in notes
    assert not any("dataset.root" in note for note in notes)


def test_a_run_that_stopped_early_is_of_the_same_protocol(
    write_run: "WriteRun", outputs: Path
) -> None:
    write_run("equal", digits(0.9))
    write_run("mgda", digits(0.9), epochs=12, config={"epochs": 30})
    notes = table_of(outputs).notes
    assert not any("Rows differ" in note for note in notes)
    assert "mgda stopped early, after 12 of 30 epochs." in notes


def test_rows_that_stop_by_other_rules_are_told_of(write_run: "WriteRun", outputs: Path) -> None:
    target = "mtlrun.engine.stopping.PerTaskStopping"
    config = {"stopping": {"_target_": target, "patience": 5, "revive": None}}
    write_run("equal", digits(0.9), stopping="none", config={"stopping": {"_target_": None}})
    write_run("dwa", digits(0.9))  # from before there was a choice
    write_run("mgda,stopping=per_task", digits(0.9), stopping="per_task", config=config)
    notes = table_of(outputs).notes
    told = "none (dwa, equal); per_task with patience=5 (mgda,stopping=per_task)"
    assert [note for note in notes if "Rows differ" in note] == [
        f"Rows differ in stopping: {told}."
    ]


def test_a_run_without_config_is_noted(write_run: "WriteRun", outputs: Path) -> None:
    (write_run("equal", digits(0.9)) / "config.yaml").unlink()
    write_run("mgda", digits(0.9))
    notes = table_of(outputs, options=Options(pool=True)).notes
    assert "equal: config.yaml cannot be read, settings are not compared." in notes
    assert "differ in config.yaml (not readable, readable) do not" in report_of(outputs).notes[0]


def test_seconds_of_several_machines_are_noted(write_run: "WriteRun", outputs: Path) -> None:
    write_run("equal", digits(0.9))
    write_run("mgda", digits(0.9), device="cuda")
    assert (
        "Seconds are of different machines: cpu with threads=1 (equal); cuda with threads=1 (mgda)."
    ) in table_of(outputs).notes


def test_unfinished_and_failed_runs_are_counted(write_run: "WriteRun", outputs: Path) -> None:
    write_run("equal", digits(0.9))
    write_run("mgda", digits(0.9), state="failed")
    (outputs / "default/digits/dwa/seed=1").mkdir(parents=True)
    (outputs / "default/nyuv2/dwa/seed=1").mkdir(parents=True)
    (outputs / "default/digits/uncertainty/seed=0").mkdir(parents=True)
    (outputs / "default/digits/uncertainty/seed=0/result.json").write_text("{")
    report = report_of(outputs)
    (table,) = report.tables
    assert (
        "2 runs are not in the table: dwa seed=1 (unfinished), mgda seed=0 (failed)."
    ) in table.notes
    assert "1 run is not in the table: dwa seed=1 (unfinished)." in report.notes
    assert any("uncertainty/seed=0/result.json cannot be read" in note for note in report.notes)


def test_each_dataset_has_its_table(write_run: "WriteRun", outputs: Path) -> None:
    for dataset in ("digits", "nyuv2"):
        write_run(SINGLE_TASK, digits(0.8), dataset=dataset)
        write_run("equal", digits(0.9), dataset=dataset)
    tables = report_of(outputs).tables
    assert [table.dataset for table in tables] == ["digits", "nyuv2"]
    assert all(len(table.rows) == 2 for table in tables)


def test_studies_keep_apart_and_have_their_own_baselines(
    write_run: "WriteRun", outputs: Path
) -> None:
    for study, single in (("a", 0.8), ("b", 0.5)):
        write_run(SINGLE_TASK, {"digit": {"accuracy": single}}, study=study)
        write_run("equal", {"digit": {"accuracy": 1.0}}, study=study)
    table = table_of(outputs)
    deltas = {row.study: row.cells[1].mean for row in table.rows if row.method == "equal"}
    assert deltas == pytest.approx({"a": 25.0, "b": 100.0})
    assert table.studies == ("a", "b")


def test_the_same_seed_from_two_places_counts_once(write_run: "WriteRun", tmp_path: Path) -> None:
    first = write_run("equal", digits(0.9), root=tmp_path / "one")
    second = write_run("equal", digits(0.5), root=tmp_path / "two")
    report = report_of(tmp_path / "one", tmp_path / "two")
    assert report.tables[0].rows[0].seeds == 1
    assert cell_of(report.tables[0], "equal", "digit/accuracy").mean == 0.9
    assert f"{second} is left out: {first} is the same method and seed" in report.notes[0]


def test_a_subset_of_tasks_leaves_its_other_cells_empty(
    write_run: "WriteRun", outputs: Path
) -> None:
    write_run(SINGLE_TASK, digits(0.8, 0.8, 0.1))
    write_run("equal", digits(0.9))
    write_run("equal,tasks=[ink]", {"ink": {"r2": 0.88, "mse": 0.09}})
    table = table_of(outputs, options=Options(pool=True))
    assert math.isnan(cell_of(table, "equal,tasks=[ink]", "digit/accuracy").mean)
    assert cell_of(table, "equal,tasks=[ink]", "delta_m/over_metrics").mean == pytest.approx(10)
    assert any("Rows differ in tasks" in note for note in table.notes)


def test_names_leave_out_the_settings_that_all_rows_have(
    write_run: "WriteRun", outputs: Path
) -> None:
    common = {"epochs": 8, "backbone": "resnet18"}
    write_run("equal,backbone=resnet18,epochs=8", digits(0.9), changed=common)
    changed = {**common, "weighting.alpha": 0.5}
    name = "gradnorm,backbone=resnet18,epochs=8,weighting.alpha=0.5"
    write_run(name, digits(0.8), changed=changed)
    table = table_of(outputs)
    assert {row.label for row in table.rows} == {"equal", "gradnorm,weighting.alpha=0.5"}
    assert {row.method for row in table.rows} == {"equal,backbone=resnet18,epochs=8", name}
    assert "All with backbone=resnet18, epochs=8." in table.caption


def test_names_stay_whole_where_a_run_does_not_say_what_was_changed(
    write_run: "WriteRun", outputs: Path
) -> None:
    write_run("equal,epochs=8", digits(0.9), changed={"epochs": 8})
    write_run("mgda,epochs=8", digits(0.8))
    assert {row.label for row in table_of(outputs).rows} == {"equal,epochs=8", "mgda,epochs=8"}
