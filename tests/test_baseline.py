import json
import re
from pathlib import Path
from typing import Any

import pytest

from mtlrun.baseline import changes_against, headline_levels
from mtlrun.errors import UserError


def metric(test: float | None, higher: bool) -> dict[str, Any]:
    return {"test": test, "higher_is_better": higher}


@pytest.fixture
def alone(tmp_path: Path) -> str:
    """The folder of a finished run."""
    tasks = {
        "digits": {"metrics": {"accuracy": metric(0.8, True)}},
        "depth": {
            "metrics": {
                "absolute": metric(2.0, False),
                "relative": metric(0.1, False),
                "r2": metric(-0.5, True),
                "unknown": metric(None, True),
                "zero": metric(0.0, True),
            }
        },
        "other": {"metrics": {"accuracy": metric(0.5, True)}},
    }
    (tmp_path / "result.json").write_text(json.dumps({"tasks": tasks}))
    return str(tmp_path)


def test_the_mean_change_of_a_tasks_metrics(alone: str) -> None:
    changes = changes_against("weighting.baseline", alone, {"digits": None, "depth": None})
    figures = {
        "digits": {"loss": 3.0, "accuracy": 0.84},
        "depth": {"absolute": 1.5, "relative": 0.12, "r2": -0.4, "unknown": 1.0, "zero": 1.0},
    }
    # +5 %; and the mean of +25, -20 and +20 %
    assert changes(figures) == pytest.approx({"digits": 5.0, "depth": 25 / 3})


def test_what_was_not_measured_is_left_out(alone: str) -> None:
    changes = changes_against("weighting.baseline", alone, {"digits": None, "depth": None})
    assert changes({"depth": {"absolute": 1.0}}) == {"depth": 50.0}
    assert changes({"digits": {"loss": 1.0}}) == {}
    assert changes({}) == {}


def test_folders_that_cannot_be_compared_with(alone: str, tmp_path: Path) -> None:
    empty = tmp_path / "nothing"
    message = (
        f"tracking.baseline={empty} holds no finished run (result.json is missing). Name the "
        "folder of a finished architecture=single_task run."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        changes_against("tracking.baseline", str(empty), {})
    message = f"weighting.baseline={alone} has no task sound."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        changes_against("weighting.baseline", alone, {"digits": None, "sound": None})


def test_levels_are_the_best_validation_figures_in_this_runs_headlines(tmp_path: Path) -> None:
    metrics = {"auc": {"best": 0.7, "test": 0.6}, "f1": {"best": 0.4, "test": 0.3}}
    tasks = {"a": {"headline": "f1", "metrics": metrics}, "b": {"metrics": {"auc": {"best": None}}}}
    (tmp_path / "result.json").write_text(json.dumps({"tasks": tasks}))
    path = str(tmp_path)
    assert headline_levels("sampler.baseline", path, {"a": "auc"}) == {"a": 0.7}
    for headlines, metric_name, task in (({"b": "auc"}, "auc", "b"), ({"a": "r2"}, "r2", "a")):
        message = f"sampler.baseline={path}: that run has no {metric_name} of task {task}, which"
        with pytest.raises(UserError, match=re.escape(message)):
            headline_levels("sampler.baseline", path, headlines)
