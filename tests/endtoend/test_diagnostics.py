"""What ``result.json`` says of why a task fails, against the run's own files."""

import json
from pathlib import Path

import pytest
from commands import rows
from in_process import assert_same_figures, train, train_with_stops

from mtlrun.engine import noise


@pytest.mark.usefixtures("composing")
def test_figures_that_tell_why_a_task_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "EVERY", 2)
    monkeypatch.setattr(noise, "FEWEST", 5)
    settings = ("weighting=pcgrad", "engine.log_every=1", "epochs=3")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, *settings)
    train_with_stops(stopped, monkeypatch, *settings)
    assert_same_figures(whole, stopped)

    found = json.loads((whole / "result.json").read_text())
    tasks = found["tasks"]
    again = json.loads((stopped / "result.json").read_text())["tasks"]
    assert again == tasks  # to the last digit
    cosines: dict[frozenset[str], list[float]] = {}
    for row in rows(whole / "conflicts.csv"):  # one a step
        pair = frozenset((row["task_a"], row["task_b"]))
        cosines.setdefault(pair, []).append(float(row["cosine"]))
    shares = {pair: sum(c < 0 for c in found) / len(found) for pair, found in cosines.items()}
    assert min(shares.values()) < 0.5
    for name in tasks:
        assert tasks[name]["conflicts"] == {
            other: shares[frozenset((name, other))] for other in tasks if other != name
        }
    means = {
        row["task"]: float(row["value"])
        for row in rows(whole / "metrics.csv")
        if (row["split"], row["metric"], row["epoch"]) == ("train", "loss", "2")
    }
    for name, values in tasks.items():
        assert values["loss"]["loss_ratio_at_half"] == pytest.approx(
            means[name] / values["loss"]["initial"], rel=1e-8
        )
        assert (values["noise_steps"], values["rows_per_step"]) == (found["steps"] // 2, 60)
    assert 5 < tasks["digit"]["noise_scale"] < 100  # over all rows it is some 20


@pytest.mark.usefixtures("composing")
def test_methods_that_take_no_gradients_say_nothing_of_conflicts(tmp_path: Path) -> None:
    train(tmp_path, "weighting=equal", "epochs=1")
    tasks = json.loads((tmp_path / "result.json").read_text())["tasks"]
    assert all(values["conflicts"] is None for values in tasks.values())
    assert all(values["noise_scale"] is None for values in tasks.values())  # too few steps
    assert all(values["noise_steps"] == 1 for values in tasks.values())
