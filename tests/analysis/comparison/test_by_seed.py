"""Tests by seed, transfer with its intervals, ranking."""

import math
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
    row_of,
    table_of,
    write_seeds,
)

from mtlrun.analysis.comparison.blocks import ranking_text
from mtlrun.analysis.comparison.compare import compare
from mtlrun.analysis.comparison.transfer import transfer_block
from mtlrun.analysis.runs import find_runs
from mtlrun.analysis.statistics.bootstrap import jackknife_change
from mtlrun.analysis.statistics.seeds import t_interval

if TYPE_CHECKING:
    from conftest import WriteRun


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def test_rows_are_tested_by_seed_and_corrected(write_run: "WriteRun", outputs: Path) -> None:
    for method, values in ((SINGLE_TASK, ALONE), ("equal", EQUAL), ("gradnorm", GRADNORM)):
        write_seeds(write_run, method, values)
    table = table_of(outputs)
    assert table.reference == "equal"
    p = {
        label: stats.ttest_rel(values, EQUAL).pvalue
        for label, values in ((SINGLE_TASK, ALONE), ("gradnorm", GRADNORM))
    }
    smaller, larger = sorted(p.values())
    holm = {smaller: 2 * smaller, larger: max(2 * smaller, larger)}
    for label, value in p.items():
        test = row_of(table, label).test
        assert test is not None
        assert test.p == pytest.approx(value)
        assert test.adjusted == pytest.approx(holm[value])
        assert (test.against, test.pairs) == ("equal", 4)
    test = row_of(table, "gradnorm").test
    assert test is not None
    difference = [a - b for a, b in zip(deltas(GRADNORM), deltas(EQUAL), strict=True)]
    assert test.difference == pytest.approx(sum(difference) / 4)
    assert row_of(table, "equal").test is None
    at = [column.key for column in table.columns].index("p_Holm")
    assert row_of(table, "gradnorm").cells[at].mean == test.adjusted
    assert "corrected for the 2 rows tested" in table.caption[2]
    # t(0.975, 3) / sqrt(4)
    assert "1.6 times the standard deviation" in table.caption[3]


def test_without_shared_seeds_welchs_test_is_made(write_run: "WriteRun", outputs: Path) -> None:
    write_seeds(write_run, SINGLE_TASK, ALONE)
    write_seeds(write_run, "equal", EQUAL)
    write_seeds(write_run, "mgda", MGDA[:3], start=4)
    test = row_of(table_of(outputs, reference="mgda"), "equal").test
    assert test is not None
    assert test.pairs == 0
    assert test.p == pytest.approx(stats.ttest_ind(EQUAL, MGDA[:3], equal_var=False).pvalue)


def test_a_difference_without_scatter_has_no_p_value(write_run: "WriteRun", outputs: Path) -> None:
    write_seeds(write_run, SINGLE_TASK, (0.8, 0.8))
    write_seeds(write_run, "equal", (0.9, 0.8))
    write_seeds(write_run, "mgda", (0.8, 0.7))
    write_seeds(write_run, "pcgrad", (0.9, 0.8))
    table = table_of(outputs)
    same, other = (row_of(table, label).test for label in ("pcgrad", "mgda"))
    assert same is not None
    assert other is not None
    assert same.p == 1
    assert math.isnan(other.p)


def test_one_shared_seed_makes_no_pairs(write_run: "WriteRun", outputs: Path) -> None:
    write_seeds(write_run, SINGLE_TASK, ALONE)
    write_seeds(write_run, "equal", EQUAL)
    write_seeds(write_run, "mgda", MGDA, start=3)
    test = row_of(table_of(outputs), "mgda").test
    assert test is not None
    assert test.pairs == 0
    assert test.difference == pytest.approx(
        statistics.mean(deltas(MGDA)) - statistics.mean(deltas(EQUAL))
    )
    assert test.p == pytest.approx(stats.ttest_ind(EQUAL, MGDA, equal_var=False).pvalue)


def test_pairs_are_of_one_seed(write_run: "WriteRun", outputs: Path) -> None:
    write_seeds(write_run, SINGLE_TASK, ALONE)
    write_seeds(write_run, "equal", EQUAL)  # seeds 0 to 3
    write_seeds(write_run, "mgda", MGDA, start=1)  # seeds 1 to 4
    test = row_of(table_of(outputs), "mgda").test
    assert test is not None
    assert test.pairs == 3
    assert test.p == pytest.approx(stats.ttest_rel(MGDA[:3], EQUAL[1:]).pvalue)
    change = statistics.mean(deltas(MGDA[:3])) - statistics.mean(deltas(EQUAL[1:]))
    assert test.difference == pytest.approx(change)


def test_of_several_references_the_one_of_most_seeds_is_taken(
    write_run: "WriteRun", outputs: Path
) -> None:
    for study, values in (("a", EQUAL[:2]), ("b", EQUAL)):
        write_seeds(write_run, SINGLE_TASK, ALONE, study=study)
        write_seeds(write_run, "equal", values, study=study)
    assert table_of(outputs).reference == "b: equal"
    found = find_runs([outputs])
    baseline = outputs / "b" / "digits" / "equal"
    (table,) = compare(found, baseline=(baseline, find_runs([baseline]))).tables
    assert table.reference == "a: equal"  # and not the baseline, although it has more seeds


def test_other_seeds_without_scatter_have_no_p_value(write_run: "WriteRun", outputs: Path) -> None:
    write_seeds(write_run, SINGLE_TASK, (0.8, 0.8))
    write_seeds(write_run, "equal", (0.9, 0.9))
    write_seeds(write_run, "mgda", (0.7, 0.7), start=5)
    test = row_of(table_of(outputs), "mgda").test
    assert test is not None
    assert math.isnan(test.p)


def test_transfer_is_the_change_of_each_task_with_its_interval(
    write_run: "WriteRun", outputs: Path
) -> None:
    write_seeds(write_run, SINGLE_TASK, (0.8, 0.8, 0.8), start=10)  # other seeds, no scatter
    write_seeds(write_run, "equal", (0.84, 0.86, 0.82))
    table = table_of(outputs)
    (transfer,) = row_of(table, "equal").transfer
    changes = [5.0, 7.5, 2.5]
    reach = stats.t.ppf(0.975, 2) * 2.5 / math.sqrt(3)
    assert transfer.change == pytest.approx(5)
    assert (transfer.low, transfer.high) == pytest.approx((5 - reach, 5 + reach))
    assert sum(changes) / 3 == pytest.approx(transfer.change)
    assert row_of(table, SINGLE_TASK).transfer == ()
    block = transfer_block(table)
    assert block is not None
    assert [row.label for row in block.rows] == ["equal"]


def test_intervals_pair_the_same_seeds_only(write_run: "WriteRun", outputs: Path) -> None:
    write_seeds(write_run, SINGLE_TASK, ALONE, start=10)
    write_seeds(write_run, "equal", EQUAL)
    (transfer,) = row_of(table_of(outputs), "equal").transfer
    columns = [[value] for value in EQUAL], [[value] for value in ALONE]
    (apart,) = jackknife_change(*columns, [1], ["digit"], paired=False).tasks
    (paired,) = jackknife_change(*columns, [1], ["digit"], paired=True).tasks
    assert (transfer.low, transfer.high) == pytest.approx(apart)
    assert transfer.low != pytest.approx(paired[0])


def test_the_interval_of_a_baseline_is_of_its_seeds(write_run: "WriteRun", outputs: Path) -> None:
    write_seeds(write_run, SINGLE_TASK, ALONE)
    table = table_of(outputs, spread="t")
    at = [column.key for column in table.columns].index("delta_m/over_metrics")
    assert table.rows[0].cells[at].interval == pytest.approx(t_interval(deltas(ALONE)))


def test_changes_without_scatter_have_no_verdict(write_run: "WriteRun", outputs: Path) -> None:
    write_seeds(write_run, SINGLE_TASK, (0.8, 0.8))
    write_seeds(write_run, "equal", (0.9, 0.9))
    (transfer,) = row_of(table_of(outputs), "equal").transfer
    assert transfer.change == pytest.approx(12.5)
    assert math.isnan(transfer.low)
    assert transfer.verdict == "unclear"


def test_transfer_is_against_single_task_training_only(
    write_run: "WriteRun", outputs: Path
) -> None:
    write_seeds(write_run, "equal", EQUAL)
    write_seeds(write_run, "mgda", MGDA)
    baseline = outputs / "default" / "digits" / "equal"
    (table,) = compare(find_runs([outputs]), baseline=(baseline, find_runs([baseline]))).tables
    assert table.answer[0].endswith("against equal, over 4 seeds.")
    assert transfer_block(table) is None


def test_losing_tasks_are_marked_by_a_sign(write_run: "WriteRun", outputs: Path) -> None:
    write_seeds(write_run, SINGLE_TASK, ALONE)
    write_seeds(write_run, "equal", GRADNORM)
    write_seeds(write_run, "mgda", MGDA)
    block = transfer_block(table_of(outputs))
    assert block is not None
    assert {row.label: row.cells[0].mark for row in block.rows} == {"equal": "▲", "mgda": "▼"}


def test_ranking_is_over_the_headlines_of_tasks_and_seeds(
    write_run: "WriteRun", outputs: Path
) -> None:
    values = {
        "equal": [(0.9, 3.0), (0.8, 2.7), (0.85, 2.6)],
        "mgda": [(0.8, 2.0), (0.7, 2.5), (0.86, 2.5)],
        "pcgrad": [(0.7, 4.0), (0.6, 5.0), (0.5, 4.0)],
    }
    for method, seeds in values.items():
        for seed, (accuracy, error) in enumerate(seeds):
            folder = write_run(
                method, {"a": {"f1": 0.1, "accuracy": accuracy}, "b": {"mse": error}}, seed=seed
            )
            text = (folder / "result.json").read_text()
            (folder / "result.json").write_text(
                text.replace('"a": {', '"a": {"headline": "accuracy", ')
            )
    write_run("dwa", {"a": {"f1": 0.1, "accuracy": 0.9}, "b": {"mse": 1}})  # one seed only
    ranking = table_of(outputs).ranking
    assert ranking is not None
    assert ranking.labels == ("mgda", "equal", "pcgrad")
    assert ranking.ranks == pytest.approx((8 / 6, 10 / 6, 3))
    assert ranking.blocks == 6
    scores = [[a for a, _ in seeds] + [-b for _, b in seeds] for seeds in values.values()]
    assert ranking.p == pytest.approx(stats.friedmanchisquare(*scores).pvalue)
    assert "not independent" in ranking.of
    assert "mgda 1.33, equal 1.67, pcgrad 3.00" in ranking_text(ranking)


def test_few_methods_or_blocks_are_not_ranked(write_run: "WriteRun", outputs: Path) -> None:
    for method in ("equal", "mgda", "pcgrad"):
        write_seeds(write_run, method, MGDA[:3])
    assert table_of(outputs).ranking is None
    for method in ("equal", "mgda"):
        write_seeds(write_run, method, MGDA, study="two")
    assert table_of(outputs / "two").ranking is None
