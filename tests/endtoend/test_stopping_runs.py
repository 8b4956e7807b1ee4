"""Runs whose tasks leave one by one: killed and resumed, told of, and against networks alone."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from commands import Moment, assert_same_run, mtlrun, only_run, result
from in_process import assert_same_figures, train, train_with_stops
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtlrun.engine import checkpoint

if TYPE_CHECKING:
    from conftest import Undisturbed

LEAVING = ("stopping=per_task", "stopping.patience=1", "optimizer.lr=0.05")


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def assert_left_as_kept(folder: Path) -> list[str]:
    """The tasks that have left: their part of the network is, bit for bit, that which was kept."""
    state = checkpoint.read(folder / "checkpoints" / "last.pt")
    stopped = list(state["stopping"]["stopping"]["stopped"])
    for task in stopped:
        for key, value in state["stopping"]["kept"][task].items():
            assert torch.equal(state["model"][key], value), key
    return stopped


def test_killed_after_a_task_has_left(tmp_path: Path, undisturbed: "Undisturbed") -> None:
    arguments = (*LEAVING, "epochs=6", "batch_size=16", "engine.log_every=7")
    moment = Moment(tmp_path)

    def left() -> bool:
        return moment.exists("run.log")() and " leaves " in moment.file("run.log").read_text()

    mtlrun(tmp_path, *arguments).until(moment.then_grows(left, "losses.csv")).kill()
    mtlrun(tmp_path, *arguments).finish()
    folder, whole = only_run(tmp_path), undisturbed(*arguments)
    assert "stopping=per_task" in folder.parent.name
    assert_same_run(folder, whole)
    found = result(whole)
    assert found["stopping"] == "per_task"
    stopped = {task: facts["stopped_epoch"] for task, facts in found["tasks"].items()}
    everybody = all(stopped.values())
    assert any(stopped.values())
    assert (found["ended"] == "all epochs") == (not everybody)
    assert (found["epochs"] == 6) == (not everybody or max(stopped.values()) == 6)
    log = (whole / "run.log").read_text()
    events = EventAccumulator(str(whole)).Reload()
    steps = found["steps"] // found["epochs"]
    for task, epoch in stopped.items():
        facts = found["tasks"][task]
        active = {e.step // steps: e.value for e in events.Scalars(f"train/active/{task}")}
        assert active == {n: float(not epoch or n < epoch) for n in range(1, found["epochs"] + 1)}
        if epoch:
            assert facts["best_epoch"] == epoch - 1
            assert f"epoch {epoch}: Task {task} leaves after 1 epoch " in log
    assert sorted(assert_left_as_kept(whole)) == sorted(t for t, epoch in stopped.items() if epoch)


def test_networks_alone_stop_whole_and_each_as_in_a_run_of_its_own(
    tmp_path: Path, composing: None
) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    shape = ("batch_size=150", "epochs=20", "engine.checkpoint_minutes=10")
    settings = ("architecture=single_task", *LEAVING, *shape)
    train(together, *settings)
    train(alone, *settings, "tasks=[parity]")
    both, one = told(together), told(alone)["tasks"]["parity"]
    assert both["ended"].startswith("all tasks have stopped")
    assert both["epochs"] == max(facts["stopped_epoch"] for facts in both["tasks"].values()) < 20
    assert both["tasks"]["parity"]["stopped_epoch"] == one["stopped_epoch"]
    assert both["tasks"]["parity"]["best_epoch"] == one["best_epoch"]
    for name, figures in one["metrics"].items():
        assert both["tasks"]["parity"]["metrics"][name]["test"] == figures["test"]
    last, best = (checkpoint.read(together / "checkpoints" / f"{n}.pt") for n in ("last", "best"))
    for key, value in best["model"].items():
        assert torch.equal(last["model"][key], value), key


@pytest.mark.parametrize("method", ["dwa", "gradnorm", "rotograd weighting.size=4"])
def test_methods_go_on_with_fewer_tasks(
    method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, composing: None
) -> None:
    """DWA looks at epochs' means, GradNorm keeps weights, RotoGrad moves layers of the heads."""
    own = f"weighting={method}".split()
    settings = (*own, *LEAVING, "epochs=4", "engine.checkpoint_minutes=10")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, *settings)
    train_with_stops(stopped, monkeypatch, *settings, stops=(65,))
    assert_same_figures(whole, stopped)
    assert assert_left_as_kept(whole)
    found = told(whole)
    assert found["skipped_steps"] == 0
    for facts in found["tasks"].values():
        assert facts["loss"]["final"] > 0


def test_the_whole_run_ends_early_or_not(tmp_path: Path, composing: None) -> None:
    settings = ("epochs=12", "optimizer.lr=0.03", "engine.checkpoint_minutes=10")
    joint, none = tmp_path / "joint", tmp_path / "none"
    train(joint, *settings, "stopping=joint", "stopping.patience=1", "stopping.monitor=ink/loss")
    found = told(joint)
    rows = [line.split(",") for line in (joint / "metrics.csv").read_text().splitlines()]
    losses = [float(row[5]) for row in rows if row[2:5] == ["val", "ink", "loss"]]
    assert found["epochs"] == len(losses) < 12
    assert losses[-1] >= losses[-2] == min(losses)
    assert losses[:-1] == sorted(losses[:-1], reverse=True)
    assert found["ended"].startswith("ink/loss has not got better for 1 epoch")
    train(none, "epochs=1")
    found = told(none)
    assert found["ended"] == "all epochs"
    assert {facts["stopped_epoch"] for facts in found["tasks"].values()} == {None}
