"""What ``best.pt`` holds: independent networks are kept each from its own best epoch."""

import logging
from pathlib import Path

import torch
from engine_toys import NAMES, SEED, WIDTH, Toy, hps_model, linear_head, toy_targets, toy_tasks
from torch import Tensor, nn

from mtlrun.data.base import TensorSource
from mtlrun.engine import checkpoint
from mtlrun.engine.engine import Engine, Parts, Schedule
from mtlrun.engine.loader import Placement, TrainLoader
from mtlrun.engine.saving import entries_of
from mtlrun.engine.step import TrainingStep
from mtlrun.models.architectures.single_task import SingleTask
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.model import MultiTaskModel
from mtlrun.sampling.joint import Joint
from mtlrun.sampling.units import units_of
from mtlrun.tracking.console import Silent
from mtlrun.tracking.tracker import Description, Tracker
from mtlrun.weighting.equal import Equal


class Gated(SingleTask):
    """Independent networks, each with a trained number outside of any layer."""

    def __init__(self, **facts) -> None:
        super().__init__(**facts)
        self.gates = nn.ParameterList(torch.ones(()) for _ in NAMES)

    def features(self, inputs, tasks) -> dict[str, Tensor]:
        found = super().features(inputs, tasks)
        return {task: self.gates[NAMES.index(task)] * found[task] for task in tasks}

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        return [*super().task_parameters(task), self.gates[NAMES.index(task)]]


def independent_model() -> MultiTaskModel:
    def make_backbone(number: int) -> Backbone:
        torch.manual_seed(number)
        # A normalisation without parameters of its own, and a frozen layer.
        layers = nn.Linear(5, 8), nn.BatchNorm1d(8, affine=False), nn.Tanh(), nn.Linear(8, WIDTH)
        layers[3].requires_grad_(False)
        return Backbone([nn.Sequential(*layers)], [WIDTH], ["vector"])

    architecture = Gated(make_backbone=make_backbone, streams={"rows": NAMES})
    return MultiTaskModel(architecture, {n: linear_head(t) for n, t in toy_tasks().items()})


def engine_of(model: MultiTaskModel, folder: Path) -> Engine:
    tasks = toy_tasks()
    source = TensorSource(torch.randn(12, 5), toy_targets(12, seed=0))
    dataset = Toy({split: {"rows": source} for split in ("train", "val")}, {"rows": NAMES})
    placement = Placement(torch.device("cpu"))
    loader = TrainLoader(
        dataset,
        tasks,
        Joint(units=units_of({"rows": NAMES}, {"rows": 12}, {}, of="streams", batch_size=4)),
        accumulate=1,
        seed=SEED,
        placement=placement,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainingStep(model, tasks, Equal(), optimizer, seed=SEED)
    parts = Parts(
        dataset, tasks, model, step.weighting, optimizer, None, loader, step, placement, 4
    )
    tracker = Tracker(
        folder,
        NAMES,
        tensorboard=False,
        display=Silent(),
        description=Description("", {}, {}),
    )
    return Engine(parts, Schedule(epochs=1), folder, tracker, logging.Logger("test"))


def set_all(model: MultiTaskModel, value: int) -> None:
    with torch.no_grad():
        for entry in model.state_dict().values():
            entry.fill_(value)


def held(folder: Path) -> dict[str, int]:
    entries = checkpoint.read(folder / "best.pt")["model"]
    assert all(len(entry.unique()) == 1 for entry in entries.values())
    return {key: int(entry.flatten()[0]) for key, entry in entries.items()}


def test_each_network_is_kept_from_its_own_best_epoch(tmp_path: Path) -> None:
    model = independent_model()
    engine = engine_of(model, tmp_path)
    assert list(engine.selection.groups) == [("a",), ("b",), ("c",)]
    set_all(model, 1)
    engine.saving.keep_best(engine.selection, [0, 1, 2])
    assert set(held(tmp_path).values()) == {1}
    set_all(model, 2)
    engine.saving.keep_best(engine.selection, [1])
    set_all(model, 3)
    engine.saving.keep_best(engine.selection, [0, 1])
    set_all(model, 4)
    engine.saving.keep_best(engine.selection, [0])
    expected = {"0": 4, "1": 3, "2": 1}
    entries = held(tmp_path)
    assert set(entries) == set(model.state_dict())
    assert any("running_mean" in key for key in entries)
    assert any("gates" in key for key in entries)
    for key, value in entries.items():
        number = key.split(".")[1] if key.startswith("heads.") else key.split(".")[2]
        assert value == expected[number], key
    assert {int(entry.flatten()[0]) for entry in model.state_dict().values()} == {4}


def test_a_network_that_shares_is_kept_whole(tmp_path: Path) -> None:
    model = hps_model(nn.Sequential(nn.Linear(5, WIDTH), nn.BatchNorm1d(WIDTH)), toy_tasks())
    engine = engine_of(model, tmp_path)
    for value in (1, 2):
        set_all(model, value)
        engine.saving.keep_best(engine.selection, [0])
        assert set(held(tmp_path).values()) == {value}


def test_what_tasks_share_is_nobodys_own() -> None:
    """Running statistics of the trunk, too: no task takes them along when it leaves."""
    model = hps_model(nn.Sequential(nn.Linear(5, WIDTH), nn.BatchNorm1d(WIDTH)), toy_tasks())
    found = entries_of(model, [(name,) for name in NAMES])
    state = model.state_dict()
    assert found == [[k for k in state if k.startswith(f"heads.{n}.")] for n in range(len(NAMES))]
    assert all(found)
