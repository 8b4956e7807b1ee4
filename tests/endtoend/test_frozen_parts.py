"""One task is improved without moving the others: ``model.freeze`` and ``model.init_from``."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import train
from torch import Tensor

from mtlrun.engine import checkpoint
from mtlrun.errors import UserError

SMALL = ("backbone=cnn", "backbone.channels=[4,6]", "backbone.norm=batch", "optimizer=adamw")
OTHERS = ("digit", "parity")


def state_of(folder: Path, name: str = "last.pt") -> dict[str, Tensor]:
    model: dict[str, Tensor] = checkpoint.read(folder / "checkpoints" / name)["model"]
    return model


def figures_of(folder: Path) -> dict[str, dict[str, float]]:
    tasks: dict[str, Any] = json.loads((folder / "result.json").read_text())["tasks"]
    return {t: {m: v["test"] for m, v in task["metrics"].items()} for t, task in tasks.items()}


@pytest.fixture(scope="module")
def first_run(composing: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    del composing
    folder = tmp_path_factory.mktemp("runs") / "first"
    train(folder, *SMALL)
    return folder


@pytest.mark.parametrize("weighting", ["equal", "uncertainty"])
def test_one_task_is_improved_and_the_others_stay_bit_for_bit(
    first_run: Path, tmp_path: Path, weighting: str
) -> None:
    folder = tmp_path / "second"
    frozen = f"model.freeze=[backbone,{','.join(f'heads.{task}' for task in OTHERS)}]"
    start = f"model.init_from={first_run}"
    train(folder, *SMALL, start, frozen, f"weighting={weighting}", "optimizer.weight_decay=0.1")
    before, after = state_of(first_run, "best.pt"), state_of(folder)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("heads.2.") for name in moved)  # running statistics stayed, too
    tests = figures_of(first_run), figures_of(folder)
    for task in OTHERS:
        assert tests[1][task] == tests[0][task]
    assert tests[1]["ink"] != tests[0]["ink"]
    parameters = json.loads((folder / "result.json").read_text())["parameters"]
    assert parameters["trained"] == 6 + 1 < parameters["total"]


def test_stages_may_be_frozen_under_a_gradient_method(first_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "second"
    start = f"model.init_from={first_run}"
    train(folder, *SMALL, start, "model.freeze=[backbone.1]", "weighting=pcgrad")
    before, after = state_of(first_run, "best.pt"), state_of(folder)
    for name, value in after.items():
        below = name.startswith("architecture.backbone.stages.0.")
        assert torch.equal(value, before[name]) == below, name


def test_a_task_may_hang_on_frozen_stages_alone(first_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "second"
    reads = "+heads.of.digit.stages=[1]"
    for weighting in ("equal", "mgda", "graddrop"):
        run = folder / weighting
        train(run, *SMALL, reads, "model.freeze=[backbone.1]", f"weighting={weighting}", "epochs=1")
        assert (run / "result.json").exists()
    del first_run


def test_networks_of_single_tasks_start_from_one_that_is_shared(
    first_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "second"
    start = f"model.init_from={first_run}"
    tiny = ("architecture=single_task", "tasks=[ink,digit]", "optimizer.lr=1e-30", "epochs=1")
    train(folder, *SMALL, *tiny, "optimizer.weight_decay=0", start)
    before, after = state_of(first_run, "best.pt"), state_of(folder)
    weight = "stages.0.0.weight"
    for place, task in enumerate(("digit", "ink")):
        source = before[f"architecture.backbone.{weight}"]
        assert torch.equal(after[f"architecture.backbones.{place}.{weight}"], source), task
    heads = ("digit", "parity", "ink")
    for place, task in enumerate(("digit", "ink")):
        there = before[f"heads.{heads.index(task)}.layers.1.weight"]
        assert torch.equal(after[f"heads.{place}.layers.1.weight"], there)
    log = (folder / "run.log").read_text()
    assert "backbone of digit, backbone of ink, head of digit, head of ink." in log


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("model.freeze=[heads.colour]",), "model.freeze=heads.colour: the tasks are digit,"),
        (("model.freeze=[backbone.3]",), "this backbone has the stages 1 to 2"),
        (("model.freeze=[encoder]",), "model.freeze=encoder: use backbone, backbone.N"),
        (("model.freeze=[architecture,heads]",), "every one of them is frozen"),
        (("model.freeze=[backbone]", "weighting=mgda"), "shares none that are trained"),
        (("model.init_from=nowhere",), "model.init_from=nowhere: no finished run is there"),
        (("model.init_from=FIRST", "backbone.channels=[4,8]"), "use the same dataset, backbone"),
        (("model.init_from=FIRST", "backbone.channels=[4,6,6]"), "lacks the rest"),
        (
            ("model.init_from=FIRST", "backbone=mlp", "backbone.norm=none"),
            "use the same dataset, backbone",
        ),
    ],
)
def test_what_does_not_fit_is_said(
    first_run: Path, tmp_path: Path, settings: tuple[str, ...], message: str
) -> None:
    asked = [setting.replace("FIRST", str(first_run)) for setting in settings]
    small = SMALL[:3] if "backbone=mlp" not in settings else ()
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        train(tmp_path / "run", *small, *asked)
