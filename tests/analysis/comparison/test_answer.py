"""The finding of a comparison, the tests behind it, transfer and ranking."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scipy import stats

from mtlrun.analysis.comparison.blocks import ranking_text
from mtlrun.analysis.comparison.compare import compare
from mtlrun.analysis.comparison.measured import Options
from mtlrun.analysis.comparison.significance import p_text
from mtlrun.analysis.comparison.table import Report, Row, Table
from mtlrun.analysis.comparison.transfer import transfer_block
from mtlrun.analysis.runs import find_runs

if TYPE_CHECKING:
    from conftest import WriteRun

SINGLE_TASK = "equal,architecture=single_task"
ALONE = (0.800, 0.805, 0.795, 0.802)
EQUAL = (0.818, 0.826, 0.811, 0.823)
GRADNORM = (0.830, 0.833, 0.824, 0.834)
MGDA = (0.700, 0.703, 0.694, 0.699)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


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
        "Of 3 changes of a task against single-task training 1 is a loss by its 95 % interval: "
        "digit under mgda."
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
