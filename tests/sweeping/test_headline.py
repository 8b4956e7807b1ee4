"""The line that says how a finished run did, by hand."""

from typing import Any

import pytest

from mtlrun.sweeping.headline import against, headline


def result(**tasks: dict[str, float | None]) -> dict[str, Any]:
    """What a run leaves; metrics called rmse are better when lower, the first one is headline."""
    return {
        "tasks": {
            task: {
                "headline": next(iter(metrics)),
                "metrics": {
                    name: {"higher_is_better": name != "rmse", "test": value}
                    for name, value in metrics.items()
                },
            }
            for task, metrics in tasks.items()
        }
    }


def test_each_tasks_headline_and_no_more_than_fit() -> None:
    run = result(a={"accuracy": 0.98765, "rmse": 1.0}, b={"rmse": 12345.678}, c={"r2": None})
    assert headline(run) == "a accuracy 0.9877, b rmse 1.235e+04, c r2 n/a"
    more = result(a={"r2": 0.0}, b={"r2": -0.5}, c={"r2": 1.0}, d={"r2": 1.0})
    assert headline(more) == "a r2 0, b r2 -0.5, c r2 1, ..."


def test_delta_m_is_over_metrics_of_the_test_split() -> None:
    alone = result(a={"accuracy": 0.5, "rmse": 2.0}, b={"r2": -0.5}, other={"r2": 1.0})
    run = result(a={"accuracy": 0.6, "rmse": 1.8}, b={"r2": -0.4})
    assert against(run, alone) == pytest.approx((20 + 10 + 20) / 3)
    assert against(run, run) == 0


@pytest.mark.parametrize(
    ("run", "alone"),
    [
        ({"a": {"r2": 0.5}}, {"a": {"r2": 0.0}}),
        ({"a": {"r2": 0.5}}, {"a": {"r2": None}}),
        ({"a": {"r2": None}}, {"a": {"r2": 0.5}}),
        ({"a": {"r2": 0.5, "rmse": 1.0}}, {"a": {"r2": 0.5}}),
        ({"a": {"r2": 0.5}, "b": {"r2": 0.5}}, {"a": {"r2": 0.5}}),
        ({}, {"a": {"r2": 0.5}}),
    ],
)
def test_no_delta_m_where_a_figure_is_missing(run: dict[str, Any], alone: dict[str, Any]) -> None:
    """Rather than one of other metrics than its neighbours' in the table."""
    assert against(result(**run), result(**alone)) is None
