"""What a search optimises, against figures worked out by hand."""

import math
from pathlib import Path

import pytest
from sweep_folders import write_run

from mtlrun.analysis.objective import is_maximised, objective_value, selected_figures
from mtlrun.errors import UserError

FIRST = {"a": {"accuracy": 0.4, "rmse": 3.0}, "b": {"r2": -0.5}}
SECOND = {"a": {"accuracy": 0.5, "rmse": 2.0}, "b": {"r2": -0.8}}
RUN = {"a": {"accuracy": 0.6, "rmse": 1.8}, "b": {"r2": -0.4}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", [FIRST, RUN, SECOND], selected=2, test=FIRST)
    return tmp_path / "run"


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """Two networks: that of a was best after the second epoch, that of b after the first."""
    write_run(tmp_path / "alone", [FIRST, SECOND], selected={"a": 2, "b": 1}, test=RUN)
    return tmp_path / "alone"


def test_figures_are_of_the_selected_epoch_of_the_selecting_split(run: Path, alone: Path) -> None:
    assert selected_figures(run).figures == RUN
    assert selected_figures(alone).figures == {"a": SECOND["a"], "b": FIRST["b"]}
    directions = {"a": {"accuracy": True, "rmse": False}, "b": {"r2": True}}
    assert selected_figures(run).higher_is_better == directions


def test_the_literatures_protocol_selects_on_the_test_split(tmp_path: Path) -> None:
    write_run(tmp_path, [FIRST, SECOND], selected=1, test=RUN, select_on="test")
    assert selected_figures(tmp_path).figures == RUN


def test_delta_m_by_hand(run: Path, alone: Path) -> None:
    # accuracy 0.5 -> 0.6: +20 %; rmse 2.0 -> 1.8, lower is better: +10 %; r2 -0.5 -> -0.4: +20 %
    assert objective_value("delta_m", run, alone) == pytest.approx(50 / 3)
    assert objective_value("delta_m/over_tasks", run, alone) == pytest.approx((15 + 20) / 2)
    assert objective_value("delta_m", alone, alone) == 0


def test_a_metric_and_its_direction(run: Path) -> None:
    assert objective_value("a/rmse", run, None) == 1.8
    assert objective_value("b/r2", run, None) == -0.4
    names = ("delta_m", "delta_m/over_tasks", "a/accuracy", "a/rmse", "b/r2")
    assert [is_maximised(name, run) for name in names] == [True, True, True, False, True]


def test_a_network_of_several_tasks_has_one_epoch(tmp_path: Path) -> None:
    """The first task of a network stands for those that follow it."""
    write_run(tmp_path, [FIRST, SECOND], selected={"a": 2})
    assert selected_figures(tmp_path).figures == SECOND


def test_a_figure_that_is_not_there(tmp_path: Path) -> None:
    write_run(tmp_path, [{"a": {"accuracy": math.nan, "rmse": 1.0}}])
    assert math.isnan(objective_value("a/accuracy", tmp_path, None))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("a/acuracy", "objective=a/acuracy: there is no such figure. Did you mean a/accuracy?"),
        ("accuracy", "objective=accuracy: there is no such figure."),
        ("delta_m", "objective=delta_m needs a single-task run to compare with: name one with"),
    ],
)
def test_objectives_that_there_are_not(objective: str, message: str, run: Path) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        objective_value(objective, run, None)


def test_a_baseline_that_nothing_is_relative_to(run: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "zero", [{"a": {"accuracy": 0.0, "rmse": 1.0}, "b": {"r2": 1.0}}])
    with pytest.raises(UserError, match=r"a accuracy of the baseline .*zero is 0\.0"):
        objective_value("delta_m", run, tmp_path / "zero")
    write_run(tmp_path / "nan", [{"a": {"accuracy": 0.5, "rmse": math.nan}, "b": {"r2": 1.0}}])
    with pytest.raises(UserError, match=r"a rmse of the baseline .*nan is missing"):
        objective_value("delta_m", run, tmp_path / "nan")
    write_run(tmp_path / "less", [{"a": {"accuracy": 0.5, "rmse": 1.0}}])
    with pytest.raises(UserError, match=r"b r2 of the baseline .*less is missing"):
        objective_value("delta_m", run, tmp_path / "less")


def test_a_run_that_lacks_a_figure_has_no_delta_m(run: Path, alone: Path) -> None:
    table = run / "metrics.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if ",rmse," not in line))
    assert math.isnan(objective_value("delta_m", run, alone))
