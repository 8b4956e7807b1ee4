"""Which runs are one row, and which rows are one table."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mtlrun.analysis import settings
from mtlrun.analysis.comparison.compare import compare
from mtlrun.analysis.comparison.measured import Options
from mtlrun.analysis.comparison.table import Report, Table
from mtlrun.analysis.runs import find_runs
from mtlrun.config import WITHOUT_EFFECT

if TYPE_CHECKING:
    from conftest import WriteRun

SINGLE_TASK = "equal,architecture=single_task"


def accuracy(digit: float, ink: float = 0.8) -> dict[str, Any]:
    return {"digit": {"accuracy": digit}, "ink": {"r2": ink}}


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def report_of(*folders: Path, **options: Any) -> Report:
    return compare(find_runs(list(folders)), options=Options(**options))


def figure(table: Table, label: str, key: str) -> float:
    at = [column.key for column in table.columns].index(key)
    (row,) = (row for row in table.rows if row.label == label)
    return row.cells[at].mean


def labels(table: Table) -> list[tuple[str, int]]:
    return [(row.label, row.seeds) for row in table.rows]


def test_folders_of_one_name_with_other_settings_are_two_rows(
    write_run: "WriteRun", tmp_path: Path
) -> None:
    for place, rate in (("one", 0.001), ("two", 0.01)):
        for seed in (0, 1):
            config = {"optimizer.lr": rate}
            write_run("equal", accuracy(rate), seed=seed, config=config, root=tmp_path / place)
    (table,) = report_of(tmp_path / "one", tmp_path / "two").tables
    assert labels(table) == [("equal,optimizer.lr=0.001", 2), ("equal,optimizer.lr=0.01", 2)]
    assert figure(table, "equal,optimizer.lr=0.01", "digit/accuracy") == 0.01
    assert [row.differs for row in table.rows] == [
        {"optimizer.lr": "0.001"},
        {"optimizer.lr": "0.01"},
    ]


def test_what_has_no_effect_on_figures_makes_no_row(write_run: "WriteRun", outputs: Path) -> None:
    threads = {"engine": {"threads": 1}, "dataset.root": "/a", "dataset.in_memory": True}
    others = {"engine": {"threads": 4, "device": "cpu"}, "dataset.root": "/b"}
    changed = {"engine.threads": "1"}
    write_run("equal,engine.threads=1", accuracy(0.8), config=threads, changed=changed)
    write_run("equal", accuracy(0.9), seed=1, config=others, changed={})
    clipped = {"engine": {"clip_norm": 1.0}}
    write_run(
        "equal,engine.clip_norm=1.0",
        accuracy(0.7),
        seed=2,
        config=clipped,
        changed={"engine.clip_norm": "1.0"},
    )
    (table,) = report_of(outputs).tables
    assert sorted(labels(table)) == [("equal", 2), ("equal,engine.clip_norm=1.0", 1)]
    assert any(row.differs == {"engine.clip_norm": "1.0"} for row in table.rows)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("gradients", ({"at": "parameters"}, {"at": "representation"})),
        ("engine", ({"amp": "none"}, {"amp": "bf16"})),
        ("engine", ({"accumulate": 1}, {"accumulate": 2})),
        ("sampler", ({"_target_": "x.Joint"}, {"_target_": "x.Joint", "epoch": "shortest"})),
        ("model", ({"init_from": None}, {"init_from": "outputs/a/seed=0"})),
        ("model", ({"init_from": "outputs/a/seed=0"}, {"init_from": "outputs/b/seed=0"})),
        ("model", ({"freeze": []}, {"freeze": ["backbone"]})),
        ("weighting", ({"alpha": 0.5}, {"alpha": 1.5})),
        ("backbone", ({"hidden": [64, 128]}, {"hidden": [128, 64]})),
        ("batch_size", (64, 128)),
    ],
)
def test_what_may_change_figures_is_never_averaged_over(
    write_run: "WriteRun", outputs: Path, key: str, values: tuple[Any, Any]
) -> None:
    for seed, value in enumerate(values):
        write_run("equal", accuracy(0.8), seed=seed, config={key: value})
    assert [row.seeds for row in report_of(outputs).tables[0].rows] == [1, 1]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("engine", ({"device": "cpu", "workers": 0}, {"device": "cuda", "workers": 4})),
        ("engine", ({"log_every": 1, "keep_data_on_device": True}, {"log_every": 20})),
        ("gradients", ({"memory_gb": 1.0}, {"memory_gb": 4.0})),
        ("tracking", ({"images": 0, "baseline": None}, {"images": 4, "baseline": "outputs/a"})),
        ("objective", ("delta_m", "digit/accuracy")),
        ("outputs", ("outputs", "/elsewhere")),
        ("tasks", (None, ["digit", "ink"])),
    ],
)
def test_what_changes_no_figure_splits_no_row(
    write_run: "WriteRun", outputs: Path, key: str, values: tuple[Any, Any]
) -> None:
    for seed, value in enumerate(values):
        write_run("equal", accuracy(0.8), seed=seed, config={key: value})
    assert [row.seeds for row in report_of(outputs).tables[0].rows] == [2]


def test_settings_without_effect_are_those_of_the_run_folder_and_more() -> None:
    assert set(WITHOUT_EFFECT) <= set(settings.WITHOUT_EFFECT)


def test_runs_that_start_from_runs_of_other_seeds_are_one_row(
    write_run: "WriteRun", outputs: Path
) -> None:
    for seed in (0, 1):
        config = {"model": {"init_from": f"pretrained/equal/seed={seed}"}}
        write_run("equal", accuracy(0.8), seed=seed, config=config)
    assert labels(report_of(outputs).tables[0]) == [("equal", 2)]


def test_of_the_same_run_with_and_without_affinities_the_seconds_of_training_count(
    write_run: "WriteRun", outputs: Path
) -> None:
    measured = {"engine": {"affinity": "tag"}}
    changed = {"engine.affinity": "tag"}
    options: dict[str, Any] = {"config": measured, "changed": changed, "seconds": 99.0}
    write_run("equal,engine.affinity=tag", accuracy(0.8), weighting="equal", **options)
    write_run("equal,epochs=30", accuracy(0.8), weighting="equal", changed={}, seconds=10.0)
    report = report_of(outputs)
    assert figure(report.tables[0], report.tables[0].rows[0].label, "seconds") == 10.0
    assert len(report.tables[0].rows) == 1
    assert "equal,engine.affinity=tag/seed=0 is left out" in report.notes[0]


def test_studies_are_merged_where_asked(write_run: "WriteRun", outputs: Path) -> None:
    write_run(SINGLE_TASK, accuracy(0.8), study="a")
    write_run("equal", accuracy(0.8), study="a")
    write_run("equal", accuracy(0.9), study="b", seed=1)
    (apart,) = report_of(outputs).tables
    assert len(apart.rows) == 3
    (table,) = report_of(outputs, merge_studies=True).tables
    assert [(row.study, row.seeds) for row in table.rows] == [("a", 1), ("a, b", 2)]
    assert figure(table, "equal", "delta_m/over_tasks") == pytest.approx(100 * 0.05 / 0.8 / 2)


def test_rows_tell_their_choices_and_changed_settings_apart(
    write_run: "WriteRun", outputs: Path
) -> None:
    write_run("equal", accuracy(0.8), config={"weighting": {"_target_": "x.Equal"}})
    for alpha in (1.5, 0.5):
        write_run(
            f"gradnorm,weighting.alpha={alpha}",
            accuracy(0.8),
            config={"weighting": {"_target_": "x.GradNorm", "alpha": alpha, "lr": 0.025}},
        )
    differs = {row.method: row.differs for row in report_of(outputs).tables[0].rows}
    assert differs == {
        "equal": {"weighting": "equal"},
        "gradnorm,weighting.alpha=0.5": {"weighting": "gradnorm", "weighting.alpha": "0.5"},
        "gradnorm,weighting.alpha=1.5": {"weighting": "gradnorm", "weighting.alpha": "1.5"},
    }


def test_other_epochs_or_data_are_other_tables_with_their_own_baselines(
    write_run: "WriteRun", outputs: Path
) -> None:
    for epochs, single in ((30, 0.8), (5, 0.5)):
        changed = {"epochs": epochs}
        alone = {"architecture": "single_task", **changed}
        name = f"{SINGLE_TASK},epochs={epochs}"
        write_run(name, accuracy(single), epochs=epochs, changed=alone)
        write_run(f"equal,epochs={epochs}", accuracy(1.0), epochs=epochs, changed=changed)
    write_run("mgda", accuracy(1.0), config={"dataset.fraction": 0.5})
    report = report_of(outputs)
    titles = {table.title: table for table in report.tables}
    assert list(titles) == [
        "digits, epochs=30, dataset.fraction=0.1",
        "digits, epochs=5, dataset.fraction=0.1",
        "digits, epochs=30, dataset.fraction=0.5",
    ]
    first, second, third = titles.values()
    assert figure(first, "equal", "delta_m/over_metrics") == pytest.approx(12.5)
    assert figure(second, "equal", "delta_m/over_metrics") == pytest.approx(50)
    assert first.protocol["epochs"] == "30"
    assert report.notes[0] == (
        "digits has 3 tables, since figures of runs that differ in epochs (30, 5), "
        "dataset.fraction (0.1, 0.5) do not compare. --pool puts them into one."
    )
    assert math.isnan(third.rows[0].cells[2].mean)
    assert third.notes == (
        "delta_m is n/a: the single-task runs on digits have dataset.fraction=0.1 instead of 0.5; "
        "--pool compares with them all the same.",
    )


def test_pooled_runs_are_one_table_with_notes(write_run: "WriteRun", outputs: Path) -> None:
    write_run(SINGLE_TASK, accuracy(0.8))
    write_run("equal,epochs=5", accuracy(1.0), epochs=5)
    (table,) = report_of(outputs, pool=True).tables
    assert figure(table, "equal,epochs=5", "delta_m/over_tasks") == pytest.approx(12.5)
    assert f"Rows differ in epochs: 30 ({SINGLE_TASK}); 5 (equal,epochs=5)." in table.notes
    assert "epochs" not in table.protocol
    assert table.protocol["dataset.fraction"] == "0.1"


def test_changed_files_under_one_name_are_other_data(write_run: "WriteRun", outputs: Path) -> None:
    for seed, rows in ((0, 100), (1, 120)):
        facts = {"metrics": {"accuracy": {"higher_is_better": True, "test": 0.5}}}
        write_run("equal", {}, seed=seed, tasks={"digit": {**facts, "train_rows": rows}})
    report = report_of(outputs)
    assert [table.apart for table in report.tables] == [
        {"train_rows.digit": "100"},
        {"train_rows.digit": "120"},
    ]


def test_the_root_of_own_images_says_which_data_it_is(write_run: "WriteRun", outputs: Path) -> None:
    for seed, root in ((0, "cats"), (1, "dogs")):
        config = {"dataset": {"root": root, "labels": "labels.csv"}}
        write_run("equal", accuracy(0.9), seed=seed, config=config)
    assert len(report_of(outputs).tables) == 2


def test_splits_drawn_by_the_seed_of_the_run_are_one_dataset(
    write_run: "WriteRun", outputs: Path
) -> None:
    for seed in (0, 1, 2):
        write_run("equal", accuracy(0.9), seed=seed, config={"dataset.seed": seed})
    write_run("mgda", accuracy(0.9), seed=1, config={"dataset.seed": 0})
    first, second = report_of(outputs).tables
    assert labels(first) == [("equal", 3)]
    assert first.apart == {"dataset.seed": "the run's seed"}
    assert second.apart == {"dataset.seed": "0"}


def test_single_task_runs_of_more_tasks_serve_a_subset(
    write_run: "WriteRun", outputs: Path
) -> None:
    write_run(SINGLE_TASK, accuracy(0.5, ink=0.8))
    write_run("equal", accuracy(0.9))
    write_run("equal,tasks=[ink]", {"ink": {"r2": 0.88}})
    whole, part = report_of(outputs).tables
    assert [row.label for row in whole.rows] == [SINGLE_TASK, "equal"]
    assert part.title == "digits, tasks=ink"
    assert [row.label for row in part.rows] == [SINGLE_TASK, "equal,tasks=[ink]"]
    assert figure(part, "equal,tasks=[ink]", "delta_m/over_metrics") == pytest.approx(10)
    assert figure(part, SINGLE_TASK, "ink/r2") == 0.8
    assert math.isnan(figure(part, SINGLE_TASK, "seconds"))
    assert any("trained further tasks, too" in note for note in part.notes)
    assert not any("has no figure" in note for note in part.notes)


def test_single_task_runs_of_other_tasks_do_not(write_run: "WriteRun", outputs: Path) -> None:
    write_run(SINGLE_TASK, {"digit": {"accuracy": 0.5}})
    write_run("equal,tasks=[ink]", {"ink": {"r2": 0.88}})
    notes = [note for table in report_of(outputs).tables for note in table.notes]
    assert any("have tasks=digit instead of ink" in note for note in notes)


def test_a_split_that_is_the_first_seed_by_chance_is_fixed(
    write_run: "WriteRun", outputs: Path
) -> None:
    for seed in (0, 1):
        write_run("equal", accuracy(0.9), seed=seed, config={"dataset.seed": 0})
    assert labels(report_of(outputs).tables[0]) == [("equal", 2)]


def test_joint_runs_of_more_tasks_do_not(write_run: "WriteRun", outputs: Path) -> None:
    folder = write_run("equal", accuracy(0.9))
    write_run("mgda,tasks=[ink]", {"ink": {"r2": 0.88}})
    report = compare(find_runs([outputs]), baseline=(folder, find_runs([folder])))
    alone = report.tables[1]
    assert math.isnan(figure(alone, "mgda,tasks=[ink]", "delta_m/over_metrics"))
    assert "have tasks=digit, ink instead of ink; --pool" in alone.notes[0]
