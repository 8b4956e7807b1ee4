"""What rows are judged by where runs name primary tasks, or the user does."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from seeded_runs import SINGLE_TASK, report_of, row_of, table_of

from mtlrun.analysis.comparison.as_json import to_json
from mtlrun.analysis.objective import validation_delta_m
from mtlrun.analysis.runs import find_runs
from mtlrun.errors import UserError
from mtlrun.sweeping.headline import against, headline

if TYPE_CHECKING:
    from conftest import WriteRun

    from mtlrun.analysis.comparison.table import Row, Table

PRIMARY = "tasks.primary=[digit]"


def three(digit: float, r2: float, ink: float) -> dict[str, Any]:
    return {"digit": {"accuracy": digit, "r2": r2}, "ink": {"mse": ink}}


@pytest.fixture
def outputs(write_run: "WriteRun", tmp_path: Path) -> Path:
    """Single-task training, a run that is for digit, and one that is for both tasks."""
    write_run(SINGLE_TASK, three(0.80, 0.50, 0.10))
    named(write_run, f"equal,{PRIMARY}", three(0.88, 0.56, 0.30), ["digit"])
    write_run("mgda", three(0.84, 0.51, 0.05))
    return tmp_path / "outputs"


def named(write_run: "WriteRun", method: str, metrics: Any, primary: list[str]) -> Path:
    settings = {"tasks": {"primary": primary}}
    changed = {"tasks.primary": primary}
    return write_run(method, metrics, primary=primary, config=settings, changed=changed)


def figure(table: "Table", row: "Row", key: str) -> float:
    return table.cell(row, key).mean


def figures(table: "Table", method: str) -> list[float]:
    (row,) = (row for row in table.rows if row.method == method)
    keys = ("delta_m/over_metrics", "delta_m/over_tasks", "mean_rank", "wins")
    return [figure(table, row, key) for key in keys]


def test_all_rows_compete_on_the_primary_tasks_that_some_name(outputs: Path) -> None:
    table = table_of(outputs)
    # digit: accuracy +10 % and r2 +12 %; +5 % and +2 %
    assert figures(table, f"equal,{PRIMARY}") == pytest.approx([11, 11, 1, 2])
    assert figures(table, "mgda") == pytest.approx([3.5, 3.5, 2, 0])
    assert figures(table, SINGLE_TASK) == pytest.approx([0, 0, 3, 0])
    assert table.judged == ("digit",)
    assert table.notes[0] == (
        f"delta_m, mean rank and wins are over digit, the primary task of equal,{PRIMARY}, also "
        "for rows that name none."
    )
    assert any("over all 2 metrics of digit alike" in sentence for sentence in table.caption)
    assert "ink/mse" in [column.key for column in table.columns]
    (row,) = (row for row in table.rows if row.method == "mgda")
    assert figure(table, row, "ink/mse") == 0.05
    assert [t.task for t in row.transfer] == ["digit", "ink"]  # what each task gains stays
    assert json.loads(to_json(report_of(outputs)))["tables"][0]["judged"] == ["digit"]
    assert table.answer[0].startswith(f"On digits, equal,{PRIMARY} is best by delta_m")


def test_the_user_chooses_other_tasks(outputs: Path) -> None:
    table = table_of(outputs, tasks=("ink",))
    assert figures(table, f"equal,{PRIMARY}") == pytest.approx([-200, -200, 3, 0])
    assert figures(table, "mgda") == pytest.approx([50, 50, 1, 1])
    assert table.notes[0] == "delta_m, mean rank and wins are over ink, as --tasks says."
    whole = table_of(outputs, tasks=("digit", "ink"))
    assert figures(whole, "mgda")[:2] == pytest.approx([(5 + 2 + 50) / 3, (3.5 + 50) / 2])
    with pytest.raises(UserError, match=r"--tasks inc: .* Did you mean ink\?"):
        report_of(outputs, tasks=("inc",))


def test_different_primary_tasks_do_not_decide(write_run: "WriteRun", outputs: Path) -> None:
    named(write_run, "famo,tasks.primary=[ink]", three(0.80, 0.50, 0.05), ["ink"])
    table = table_of(outputs)
    assert table.judged == ()
    assert figures(table, "mgda")[:2] == pytest.approx([(5 + 2 + 50) / 3, (3.5 + 50) / 2])
    assert table.notes[0].startswith("Rows name different primary tasks: digit (equal")
    assert table.notes[0].endswith("are over all tasks; --tasks chooses some.")


def test_auxiliaries_are_compared_by_what_they_do_for_the_wanted_task(
    write_run: "WriteRun", tmp_path: Path
) -> None:
    write_run(SINGLE_TASK, {"a": {"accuracy": 0.5}, "b": {"r2": 0.4}, "c": {"r2": 0.2}})
    named(write_run, "equal,tasks=[a_b]", {"a": {"accuracy": 0.6}, "b": {"r2": 0.1}}, ["a"])
    named(write_run, "equal,tasks=[a_c]", {"a": {"accuracy": 0.45}, "c": {"r2": 0.3}}, ["a"])
    table = table_of(tmp_path / "outputs", tasks=("a",))
    assert figures(table, "equal,tasks=[a_b]") == pytest.approx([20, 20, 1, 1])
    assert figures(table, "equal,tasks=[a_c]") == pytest.approx([-10, -10, 3, 0])
    assert not any("train_rows" in note for note in table.notes)
    apart = report_of(tmp_path / "outputs").tables[-1]
    assert figures(apart, "equal,tasks=[a_b]")[:2] == pytest.approx([20, 20])  # by its own
    assert apart.notes[0] == "delta_m of rows that name primary tasks (a) is over these alone."
    assert apart.notes[1].startswith("--tasks a compares these rows")


def test_only_rows_of_the_auxiliaries_themselves_are_passed_over(
    write_run: "WriteRun", tmp_path: Path
) -> None:
    metrics = {task: {"accuracy": 0.5} for task in ("ink", "ink2", "ink.x")}
    for method, add in (("equal", 0), ("mgda", 1)):
        path = write_run(method, metrics) / "result.json"
        result = json.loads(path.read_text())
        for facts in result["tasks"].values():
            facts["train_rows"] = 10 + add
        path.write_text(json.dumps(result))
    (table,) = report_of(tmp_path, pool=True, tasks=("ink2", "ink.x")).tables
    told = [note.split(":")[0] for note in table.notes if note.startswith("Rows differ in")]
    assert told == ["Rows differ in train_rows.ink2", "Rows differ in train_rows.ink.x"]


def test_runs_that_name_primary_tasks_are_rows_of_their_own(
    write_run: "WriteRun", outputs: Path
) -> None:
    write_run("equal", three(0.86, 0.50, 0.20), changed={})
    labels = {row.label for row in table_of(outputs).rows}
    assert labels >= {"equal", f"equal,{PRIMARY}"}
    run = next(run for run in find_runs([outputs], cached=True).finished if run.primary)
    again = next(run for run in find_runs([outputs], cached=True).finished if run.primary)
    assert run.primary == again.primary == ("digit",)  # also as the cache has it


def test_ranks_over_seeds_are_of_the_primary_tasks(write_run: "WriteRun", tmp_path: Path) -> None:
    for seed in range(4):
        for place, method in enumerate(("equal", "mgda", "famo")):
            metrics = three(0.9 - 0.1 * place, 0.5, 0.1 - 0.01 * place)
            write_run(method, metrics, seed=seed, primary=["digit"])
    table = table_of(tmp_path / "outputs")
    assert table.ranking is not None
    assert (table.ranking.blocks, table.ranking.ranks) == (4, (1, 2, 3))
    assert table_of(tmp_path / "outputs", tasks=("ink",)).ranking != table.ranking
    assert row_of(table, "equal").seeds == 4


def test_sweeps_and_searches_look_at_the_primary_tasks(
    write_run: "WriteRun", tmp_path: Path
) -> None:
    chosen = {"primary": ["digit"], "selected_epoch": 1}
    ours = write_run("equal", three(0.88, 0.56, 0.30), **chosen)
    alone = write_run(SINGLE_TASK, three(0.80, 0.50, 0.10), selected_epoch=1)
    for folder, values in ((ours, (0.9, 0.6, 9.0)), (alone, (0.5, 0.5, 1.0))):
        named_figures = (("digit", "accuracy"), ("digit", "r2"), ("ink", "mse"))
        rows = [
            f"1,1,val,{task},{metric},{value}"
            for (task, metric), value in zip(named_figures, values, strict=True)
        ]
        text = "\n".join(["epoch,step,split,task,metric,value", *rows])
        (folder / "metrics.csv").write_text(f"{text}\n")
    found = validation_delta_m(ours, alone)
    assert (found.over_metrics, found.over_tasks) == pytest.approx((50, 50))  # +80 % and +20 %

    results = [json.loads((folder / "result.json").read_text()) for folder in (ours, alone)]
    for result in results:
        result["tasks"]["digit"]["headline"] = "accuracy"
        result["tasks"]["ink"]["headline"] = "mse"
    assert against(*results) == pytest.approx(11)
    assert headline(results[0]) == "digit accuracy 0.88"
    assert headline(results[1]) == "digit accuracy 0.8, ink mse 0.1"
