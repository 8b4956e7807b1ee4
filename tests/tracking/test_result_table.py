"""The table that a run ends with."""

import io

from rich.console import Console

from mtlrun.tracking.console import result_table


def task(test: float | None, metric: str = "auc") -> dict:
    figures = {"higher_is_better": True, "final": 0.5, "best": 0.75, "best_epoch": 3, "test": test}
    return {
        "headline": metric,
        "metrics": {metric: figures, "average_precision": figures},
        "loss": {"loss_ratio": 0.25},
        "weight": 1.0,
    }


def lines(tasks: dict[str, dict], width: int = 80, **others: object) -> list[str]:
    result = {
        "dataset": "d",
        "method": "equal",
        "seed": 0,
        "select_on": "validation",
        "selected_epoch": 3,
        "tasks": tasks,
        **others,
    }
    output = io.StringIO()
    Console(file=output, width=width).print(result_table(result))
    return output.getvalue().splitlines()


def test_many_tasks_of_one_headline_have_a_mean() -> None:
    tests = (0.1, 0.2, 0.4, 0.9)
    shown = lines({f"task_{n}": task(test) for n, test in enumerate(tests)})
    (mean,) = [line.split() for line in shown if line.strip().startswith("mean of 4")]
    assert mean == ["mean", "of", "4", "auc", "↑", "0.5000", "0.7500", "0.4000"]


def test_a_task_without_figures_leaves_no_mean() -> None:
    shown = lines({str(n): task(None if n else 0.5) for n in range(4)})
    (mean,) = [line.split() for line in shown if line.strip().startswith("mean of 4")]
    assert mean[-1] == "-"


def test_few_tasks_or_several_headlines_have_none() -> None:
    for tasks in (
        {str(n): task(0.5) for n in range(3)},
        {str(n): task(0.5, "auc" if n else "f1") for n in range(4)},
    ):
        assert not any("mean of" in line for line in lines(tasks))


def test_numbers_stay_whole_however_long_names_are() -> None:
    shown = lines({"a_task_with_quite_a_long_name_" * 2: task(0.1234)}, width=80)
    assert "0.1234" in "\n".join(shown)
    assert all(len(line) <= 80 and "…" not in line for line in shown)


def test_what_selected_the_model_is_said_where_it_is_one_for_all() -> None:
    tasks = {"a": task(0.5), "b": task(0.5)}
    shown = " ".join(lines(tasks, 200, primary=["a"]))
    assert "test: the model of epoch 3, the best on val by a. loss ratio" in shown
    alone = " ".join(lines(tasks, 200, primary=["a"], selected_epoch={"a": 3, "b": 1}))
    assert "the model of epoch 3 (a), epoch 1 (b), the best on val. loss ratio" in alone
