"""A run whose auxiliary tasks fade out half way, whole and interrupted."""

import json
from pathlib import Path

import pytest
from commands import rows
from in_process import assert_same_figures, train, train_with_stops

from mtlrun.engine import checkpoint

FADING = (
    "weighting=pcgrad",
    "gradients.smoothing=0.5",
    "++tasks.primary=[digit]",
    "++tasks.anneal=0.5",
)


@pytest.mark.usefixtures("composing")
def test_auxiliaries_leave_half_way_and_are_evaluated_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, *FADING)
    train_with_stops(stopped, monkeypatch, *FADING)
    assert_same_figures(whole, stopped)

    result = json.loads((whole / "result.json").read_text())
    losses = rows(whole / "losses.csv")
    half = result["steps"] // 2
    last = {row["task"]: int(row["step"]) for row in losses}
    assert last["digit"] == result["steps"]
    assert half <= last["parity"] == last["ink"] <= half + 1  # rows of two steps
    weights = [float(row["weight"]) for row in losses if row["task"] == "ink"]
    assert weights[0] > weights[len(weights) // 2] > weights[-1] > 0
    evaluated = {(row["task"], row["epoch"]) for row in rows(whole / "metrics.csv")}
    assert evaluated >= {("ink", "2"), ("parity", "2"), ("digit", "2")}
    assert result["primary"] == ["digit"]
    assert result["tasks"]["ink"]["metrics"]["r2"]["test"] is not None
    best = result["tasks"]["digit"]["metrics"]["accuracy"]["best_epoch"]
    assert result["selected_epoch"] == best


@pytest.mark.usefixtures("composing")
def test_the_learning_rate_and_delta_m_look_at_primary_tasks(tmp_path: Path) -> None:
    alone, folder = tmp_path / "alone", tmp_path / "run"
    train(alone, "tasks=[digit]")
    assert json.loads((alone / "result.json").read_text())["primary"] is None
    # The single-task run knows nothing of the auxiliaries, and need not
    plateau = ("+scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",)
    train(folder, "++tasks.primary=[digit]", f"tracking.baseline={alone}", *plateau)
    losses = [
        float(row["value"])
        for row in rows(folder / "metrics.csv")
        if (row["split"], row["task"], row["metric"]) == ("val", "digit", "loss")
    ]
    state = checkpoint.read(folder / "checkpoints" / "last.pt")["scheduler"]
    assert state["best"] == pytest.approx(min(losses), rel=1e-6)
