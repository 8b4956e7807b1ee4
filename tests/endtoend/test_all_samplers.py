"""Every sampler through the real engine, on streams and on tasks, stopped and resumed."""

import csv
import json
from pathlib import Path

import pytest
from in_process import assert_same_run, train, train_with_stops
from omegaconf import OmegaConf
from uneven import Uneven

from mtlrun.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
SAMPLERS = sorted(path.stem for path in (CONFIGS / "sampler").glob("*.yaml"))
REGRESSION = "mtlrun.tasks.regression.Regression"
UNEVEN: dict[str, object] = {
    "_target_": f"{Uneven.__module__}.Uneven",
    "tasks": {task: {"_target_": REGRESSION} for task in "pqr"},
}


def settings(sampler: str, first: str, tasks: list[str]) -> list[str]:
    """What the sampler needs to be told, and to learn something within a few steps."""
    config = OmegaConf.load(CONFIGS / "sampler" / f"{sampler}.yaml")
    found = [f"sampler={sampler}"]
    if "targets" in config:
        found.append(f"sampler.targets={{{', '.join(f'{task}: 0.9' for task in tasks)}}}")
    if "primary" in config:
        found.append(f"sampler.primary={first}")
    if "refresh_every" in config:
        found.append("sampler.refresh_every=3")
    return found


@pytest.mark.parametrize("of", ["streams", "tasks"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_and_resumes(
    sampler: str, of: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, composing: None
) -> None:
    config = OmegaConf.load(CONFIGS / "sampler" / f"{sampler}.yaml")
    first = {"streams": "wide", "tasks": "p"}[of]
    chosen = [*settings(sampler, first, ["p", "q", "r"]), "batch_size=20"]
    if "of" in config:
        chosen.append(f"sampler.of={of}")
    elif of == "tasks":
        pytest.skip("draws all there is")
    if "tasks_per_step" in config and of == "streams":
        chosen.append("sampler.tasks_per_step=1")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, *chosen, dataset=UNEVEN)
    initial = train_with_stops(stopped, monkeypatch, *chosen, dataset=UNEVEN)
    assert_same_run(whole, stopped, initial)

    result = json.loads((whole / "result.json").read_text())
    assert set(result["drawn"]) == ({"wide", "narrow"} if of == "streams" else set("pqr"))
    assert all(result["drawn"].values())
    with (whole / "metrics.csv").open() as file:
        chances = [row for row in csv.DictReader(file) if row["metric"] == "sampling_probability"]
    assert len(chances) == (0 if sampler == "joint" else 2 * 3)
    if sampler in ("active", "annealed", "multi_dds", "similarity"):
        first, second = ([row["value"] for row in chances if row["epoch"] == e] for e in "12")
        assert first != second  # it has learnt, or knows the epoch
    if sampler == "annealed":
        share = {"streams": 260 / 370, "tasks": 260 / (260 + 55 + 110)}[of]
        assert float(chances[0]["value"]) == pytest.approx(share)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "joint"])
def test_tasks_of_one_stream(sampler: str, tmp_path: Path, composing: None) -> None:
    chosen = settings(sampler, "digit", ["digit", "parity", "ink"])
    train(tmp_path / "run", *chosen, "epochs=1", "sampler.epoch=shortest")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["drawn"]) == {"digit", "parity", "ink"}
    assert sum(result["drawn"].values()) == result["steps"] * (2 if sampler == "task_subset" else 1)


@pytest.mark.parametrize("weighting", ["mgda", "gradnorm", "famo", "gls", "random"])
def test_methods_with_nothing_to_compare_are_refused(
    weighting: str, tmp_path: Path, composing: None
) -> None:
    with pytest.raises(UserError, match=r"of tasks in one step, and sampler=.*weighting=equal"):
        train(tmp_path / "run", "sampler=round_robin", f"weighting={weighting}")


@pytest.mark.parametrize("weighting", ["mgda", "gradnorm", "famo", "moco", "graddrop"])
def test_methods_that_compare_the_tasks_of_a_subset(
    weighting: str, tmp_path: Path, composing: None
) -> None:
    train(tmp_path / "run", "sampler=task_subset", f"weighting={weighting}", "epochs=1")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["skipped_steps"] == 0
    with (tmp_path / "run" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["task"] for row in rows} == {"digit", "parity", "ink"}


def test_the_common_settings_are_checked(tmp_path: Path, composing: None) -> None:
    for override, message in (
        ("sampler.of=rows", "of=rows: choose one of auto, streams, tasks"),
        ("sampler.epoch=longst", "epoch=longst: choose one of longest, shortest, mean"),
        ("sampler.batch_sizes={digits: 3}", "batch_sizes names digits, and what is drawn are"),
    ):
        with pytest.raises(UserError, match=message):
            train(tmp_path / override.split("=")[0], "sampler=round_robin", override)


def test_own_batch_sizes(tmp_path: Path, composing: None) -> None:
    sizes = "sampler.batch_sizes={wide: 52, narrow: 10}"
    train(tmp_path / "run", sizes, "sampler.epoch=longest", dataset=UNEVEN)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 2 * 11  # of narrow: 110 rows by 10
