"""The finding of a comparison in words."""

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scipy import stats
from seeded_runs import (
    ALONE,
    EQUAL,
    GRADNORM,
    MGDA,
    SINGLE_TASK,
    deltas,
    report_of,
    row_of,
    table_of,
    write_seeds,
)

from mtlrun.analysis.comparison.significance import p_text
from mtlrun.analysis.comparison.transfer import transfer_block

if TYPE_CHECKING:
    from conftest import WriteRun


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.mark.parametrize("seeds", [3, 4])
def test_few_seeds_and_the_level_are_told(write_run: "WriteRun", outputs: Path, seeds: int) -> None:
    differences = {3: (0.01, 0.02, 0.03), 4: (0.0, 0.02, 0.02, 0.04)}[seeds]
    p = stats.ttest_1samp(differences, 0).pvalue
    assert 0.05 < p < 0.1
    write_seeds(write_run, "equal", [0.8] * seeds)
    write_seeds(write_run, SINGLE_TASK, [0.5] * seeds)
    write_seeds(write_run, "mgda", [0.8 + difference for difference in differences])
    answer = " ".join(table_of(outputs).answer)
    assert f"equal ({p_text(p)}) is within noise of it." in answer
    assert ("3 seeds tell little" in answer) == (seeds == 3)


def test_the_same_difference_each_time_is_told_as_such(
    write_run: "WriteRun", outputs: Path
) -> None:
    for method, values in ((SINGLE_TASK, (0.5, 0.75)), ("equal", (0.625, 0.875)), ("mgda", ALONE)):
        write_seeds(write_run, method, values)
    write_seeds(write_run, "famo", (0.5625, 0.8125))
    answer = " ".join(table_of(outputs).answer)
    assert "mgda is best" in answer
    write_seeds(write_run, "dwa", (0.9375, 1.1875))  # above all others by the same for each seed
    answer = " ".join(table_of(outputs).answer)
    assert "noise is not known: single-task training differs by the same each time." in answer
    assert "equal and famo differ from it by the same each time, which no test can judge." in answer
    assert "too few" not in answer


def test_means_that_further_seeds_turn_around_are_not_called_worse(
    write_run: "WriteRun", outputs: Path
) -> None:
    write_seeds(write_run, SINGLE_TASK, ALONE)
    write_seeds(write_run, "equal", (0.72, 0.7301, 0.711))
    write_seeds(write_run, "mgda", (0.70, 0.71, 0.6915))
    write_seeds(write_run, "mgda", (0.99, 0.99, 0.99), start=10)
    answer = table_of(outputs).answer
    assert answer[0].startswith("On digits, mgda is best by delta_m over metrics, +")
    both = "over the 3 seeds that both have"
    assert answer[1] == f"Seed by seed, it is worse than single-task training (p < .001 {both})."
    assert answer[2] == f"Seed by seed, equal (p < .001 {both}) is better than it."


def test_what_has_no_delta_m_is_named(write_run: "WriteRun", outputs: Path) -> None:
    for method, value in ((SINGLE_TASK, 0.8), ("equal", 0.8), ("mgda", 0.7)):
        write_run(method, {"digit": {"accuracy": value}})
    write_run("famo", {"digit": {"accuracy": None}})
    write_run("dwa", {"digit": {"accuracy": None}})
    answer = table_of(outputs).answer
    assert answer[0].startswith("No method beats single-task training on digits: ")
    assert "metrics is equal, 0.00 % over 1 seed" in answer[0]
    assert answer[-1] == "dwa and famo have no delta_m, see the notes, and are not judged here."


def test_a_single_method_is_no_best_one(write_run: "WriteRun", outputs: Path) -> None:
    write_run(SINGLE_TASK, {"digit": {"accuracy": 0.8}})
    for seed, value in enumerate((0.9, 0.94)):
        write_run("equal", {"digit": {"accuracy": value}}, seed=seed)
    table = table_of(outputs, reference="equal")
    assert table.answer == (
        "On digits, equal has a delta_m over metrics of +15.00 % ± 3.54 against single-task "
        "training, over 2 seeds.",
        "Whether that is more than noise is not known: single-task training was run with one seed.",
    )
    assert table.caption[1].startswith("delta_m: relative change of the metric, in percent")
    assert "Nothing is tested against equal: that takes a delta_m and two seeds of both." in (
        table.notes
    )
    block = transfer_block(table)
    assert block is not None
    assert block.caption[0].endswith(
        "without intervals, which take two seeds of each and changes that scatter."
    )


def test_a_baseline_without_a_delta_m_of_its_own(write_run: "WriteRun", outputs: Path) -> None:
    write_run(SINGLE_TASK, {"digit": {"accuracy": 0.8}, "ink": {"r2": 0.0}})
    write_run("equal", {"digit": {"accuracy": 0.9}})
    answer = table_of(outputs, pool=True).answer
    assert answer[0].startswith("On digits, equal has a delta_m over metrics of +12.50 %")


def test_the_finding_says_what_is_best_and_what_is_noise(
    write_run: "WriteRun", outputs: Path
) -> None:
    near = (0.834, 0.826, 0.811, 0.840)
    for method, values in (
        (SINGLE_TASK, ALONE),
        ("equal", near),
        ("gradnorm", GRADNORM),
        ("mgda", MGDA),
    ):
        write_seeds(write_run, method, values)
    answer = " ".join(table_of(outputs).answer)
    own = deltas(GRADNORM)
    assert answer.startswith(
        f"On digits, gradnorm is best by delta_m over metrics, +{statistics.mean(own):.2f} % ± "
        f"{statistics.stdev(own):.2f} over 4 seeds. That is better than single-task training"
    )
    largest = stats.ttest_rel(GRADNORM, near).pvalue  # of three: not changed by the correction
    assert f"equal ({p_text(largest)}) is within noise of it." in answer
    assert "mgda (p < .001) is worse." in answer
    assert answer.endswith(
        "Of 3 changes of a task against single-task training 1 is a loss by its 95 % interval, "
        "where chance alone gives 0.075: digit under mgda."
    )


def test_it_is_said_first_where_nothing_beats_single_task(
    write_run: "WriteRun", outputs: Path
) -> None:
    write_seeds(write_run, SINGLE_TASK, ALONE)
    write_seeds(write_run, "mgda", MGDA)
    write_seeds(write_run, "equal", [value - 0.01 for value in MGDA[:3]] + [0.6])
    answer = table_of(outputs).answer
    assert answer[0].startswith("No method beats single-task training on digits: the best by")
    assert answer[1].startswith("That is worse than single-task training (p ")
    assert answer[-1] == "digit loses against single-task training under every method."


def test_one_seed_says_nothing_of_noise(write_run: "WriteRun", outputs: Path) -> None:
    write_run(SINGLE_TASK, {"digit": {"accuracy": 0.8}})
    write_run("equal", {"digit": {"accuracy": 0.9}})
    write_run("mgda", {"digit": {"accuracy": 0.7}})
    table = table_of(outputs)
    assert table.answer == (
        "On digits, equal is best by delta_m over metrics, +12.50 % over 1 seed.",
        "Nothing is known of its noise: another seed may turn the order around.",
    )
    assert "p (Holm)" not in [column.name for column in table.columns]
    assert [t.verdict for t in row_of(table, "mgda").transfer] == ["unclear"]


def test_definitions_that_disagree_are_told(write_run: "WriteRun", outputs: Path) -> None:
    alone = {"segmentation": {"mIoU": 0.5}, "normals": {"mean": 20, "median": 15, "w30": 0.8}}
    torn = {"segmentation": {"mIoU": 0.6}, "normals": {"mean": 22, "median": 16.5, "w30": 0.72}}
    even = {"segmentation": {"mIoU": 0.51}, "normals": {"mean": 19.6, "median": 14.7, "w30": 0.816}}
    for method, metrics in ((SINGLE_TASK, alone), ("equal", torn), ("mgda", even)):
        write_run(method, metrics)
    answer = " ".join(table_of(outputs).answer)
    assert "By delta_m over tasks equal is best instead, +5.00 % against +2.00 %." in answer
    assert "disagree on the sign: equal (-2.50 % over metrics, +5.00 % over tasks)." in answer


def test_without_single_task_runs_the_finding_says_so(write_run: "WriteRun", outputs: Path) -> None:
    write_run("equal", {"digit": {"accuracy": 0.8, "f1": 0.3}})
    write_run("mgda", {"digit": {"accuracy": 0.9, "f1": 0.2}})
    assert table_of(outputs).answer == (
        "On digits, nothing says whether joint training pays: delta_m is n/a, see the notes.",
        "mgda has the best mean rank over the 2 metrics, 1.0 of 2.",
    )


def test_few_of_many_losing_tasks_are_named(write_run: "WriteRun", outputs: Path) -> None:
    names = [f"t{number}" for number in range(8)]
    for seed, (alone, other) in enumerate(((0.8, 0.7), (0.81, 0.705), (0.79, 0.69))):
        write_run(SINGLE_TASK, {name: {"accuracy": alone} for name in names}, seed=seed)
        write_run("mgda", {name: {"accuracy": other} for name in names}, seed=seed)
        write_run("equal", {name: {"accuracy": alone} for name in names}, seed=seed)
    answer = table_of(outputs).answer[-1]
    assert answer == (
        "Of 16 changes of a task against single-task training 8 are losses by their 95 % interval, "
        "where chance alone gives 0.4: t0 under mgda; t1 under mgda; t2 under mgda; t3 under mgda; "
        "t4 under mgda; 3 more tasks."
    )


def test_equal_mean_ranks_are_shared(write_run: "WriteRun", outputs: Path) -> None:
    for method in ("equal", "mgda"):
        write_run(method, {"digit": {"accuracy": 0.8}})
    answer = table_of(outputs).answer
    assert answer[1] == "equal and mgda share the best mean rank over the metric, 1.5 of 2."


def test_methods_of_several_datasets_are_ranked_over_them(
    write_run: "WriteRun", outputs: Path
) -> None:
    for dataset in ("digits", "cifar10"):
        for method, values in (("equal", EQUAL), ("gradnorm", GRADNORM), ("mgda", MGDA)):
            write_seeds(write_run, method, values, dataset=dataset)
    write_seeds(write_run, "dwa", EQUAL)
    report = report_of(outputs)
    assert report.ranking is not None
    assert report.ranking.labels == ("gradnorm", "equal", "mgda")
    assert report.ranking.blocks == 8
    assert report.answer == (
        "Over cifar10 and digits, gradnorm has the best mean rank, 1.00 of 3 methods; not told "
        "apart from it: equal.",
    )


def test_p_values_are_written_as_in_the_field() -> None:
    assert [p_text(p) for p in (0.0004, 0.0123, 0.4, 1.0)] == [
        "p < .001",
        "p = .012",
        "p = .4",
        "p = 1",
    ]
    # The level is 0.05: what is below it must not read as if it were not.
    assert [p_text(p) for p in (0.0496, 0.04999, 0.05, 0.0504)] == [
        "p = .0496",
        "p = .04999",
        "p = .05",
        "p = .05",
    ]


def test_the_level_against_the_baseline(write_run: "WriteRun", outputs: Path) -> None:
    gains = (0.01, 0.02, 0.03)
    write_seeds(write_run, SINGLE_TASK, [0.8] * 3)
    write_seeds(write_run, "equal", [0.8 + gain for gain in gains])
    p = p_text(stats.ttest_1samp(gains, 0).pvalue)
    assert p == "p = .074"
    assert table_of(outputs).answer[1] == f"That is within noise of single-task training ({p})."
