"""The gradient noise scale: against closed forms, and without a trace in the training."""

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from engine_toys import (
    NAMES,
    WEIGHTS,
    WIDTH,
    Given,
    GivenDirection,
    hps_model,
    mlp,
    mlp_model,
    task_infos,
    toy_batch,
    toy_tasks,
    training_step,
)
from torch import Tensor, nn

from mtlrun.engine import noise
from mtlrun.engine.noise import NoiseScale, Sums
from mtlrun.engine.step import TrainingStep
from mtlrun.models.architectures.hps import HPS
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Task
from mtlrun.tasks.regression import Regression
from mtlrun.tracking.tracker import Tracker
from mtlrun.types import Batch, StreamBatch
from mtlrun.weighting.base import Weighting
from mtlrun.weighting.equal import Equal
from mtlrun.weighting.log_loss import LogLoss

given = list(WEIGHTS.values())


class Scalars:
    """Stands where the tracker does; keeps what it is given."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def scalar(self, tag: str, value: float, step: int) -> None:
        self.found[f"{tag}@{step}"] = value


@pytest.fixture(autouse=True)
def _every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "EVERY", 1)
    monkeypatch.setattr(noise, "FEWEST", 1)


def watched(
    model: MultiTaskModel, tasks: dict[str, Task], weighting: Weighting, **options: Any
) -> tuple[TrainingStep, NoiseScale]:
    place = None if weighting.__class__ in (Equal, LogLoss) else "parameters"
    step = training_step(model, tasks, weighting, place, **options)
    watcher = NoiseScale(step.backward.forward, tasks)  # all tasks may lack labels
    step.watchers.append(watcher)
    return step, watcher


def parts_by_hand(model: MultiTaskModel, tasks: dict[str, Task], batch: Batch, name: str) -> Tensor:
    """Gradients of the labelled rows' own losses on a gain of each channel, [B, C]."""
    part = batch["rows"]
    target = part.targets[name]
    rows = []
    for row in tasks[name].labelled(target).nonzero().flatten().tolist():
        one = slice(row, row + 1)
        gain = torch.ones(WIDTH, requires_grad=True)
        features = model.architecture({"rows": part.inputs[one]}, [name])[name]
        shaped = gain[:, None, None] if features.dim() == 4 else gain
        loss = tasks[name].loss(model.head_of[name](features * shaped), target[one])
        rows.append(torch.autograd.grad(loss, gain)[0])
    return torch.stack(rows).double()


def by_pairs(rows: Tensor) -> tuple[float, float]:
    """The trace of the covariance, and |G|^2, as means over the pairs of two rows."""
    pairs = list(itertools.combinations(rows, 2))
    trace = sum(float((one - other).square().sum()) for one, other in pairs) / 2
    return trace / len(pairs), sum(float(one @ other) for one, other in pairs) / len(pairs)


def half_labelled(seed: int, rows: int) -> Batch:
    batch = toy_batch(seed, rows)
    batch["rows"].targets["b"][::2] = torch.nan
    batch["rows"].targets["a"][1] = -1
    return batch


# -- the figure -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weighting", [Equal(), Given(given, "weighted"), GivenDirection([1e-3, 5.0, 0.0])]
)
def test_each_step_gives_the_means_over_pairs_of_rows(weighting: Weighting) -> None:
    model, tasks = mlp_model()
    step, watcher = watched(model, tasks, weighting)
    expected = dict.fromkeys(NAMES, (0.0, 0.0, 0))
    for number, rows in enumerate((9, 4)):
        batch = half_labelled(number, rows)
        for name in NAMES:
            parts = parts_by_hand(model, tasks, batch, name)
            trace, square = by_pairs(parts)
            before, count = expected[name], len(parts)
            sums = before[0] + count * trace, before[1] + count * square
            expected[name] = *sums, before[2] + count
        step([batch], 0, number)
    found = watcher.found()
    assert [expected[name][2] for name in NAMES] == [11, 6, 13]
    for name, sums in zip(NAMES, watcher.run, strict=True):
        trace, square, rows = expected[name]
        assert sums.trace == pytest.approx(trace, rel=1e-4)
        assert sums.square == pytest.approx(square, rel=1e-3)
        assert sums.rows == rows
        assert found[name]["noise_steps"] == 2
        assert found[name]["rows_per_step"] == rows / 2
        assert found[name]["noise_drowns"] == (square < 0)
        if square > 0:
            assert found[name]["noise_scale"] == pytest.approx(trace / square, rel=1e-3)


def test_maps_are_summed_over_places() -> None:
    torch.manual_seed(0)
    tasks: dict[str, Task] = {"b": Regression(name="b")}
    trunk = nn.Conv2d(2, WIDTH, 3)
    backbone = Backbone([trunk], [WIDTH], ["map"])
    architecture = HPS(make_backbone=lambda _: backbone, streams={"rows": ["b"]})
    assert architecture.layout("b") == "map"
    head = nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * WIDTH, 1))
    model = MultiTaskModel(architecture, {"b": cast("Any", head)})
    batch = {"rows": StreamBatch(torch.randn(5, 2, 6, 6), {"b": torch.randn(5)}, ("b",))}
    expected = by_pairs(parts_by_hand(model, tasks, batch, "b"))
    step, watcher = watched(model, tasks, Equal())
    step([batch], 0, 0)
    watcher.read_back()
    (sums,) = watcher.run
    assert (sums.trace / 5, sums.square / 5) == pytest.approx(expected, rel=1e-4)


def test_sequences_are_summed_over_tokens() -> None:
    torch.manual_seed(0)
    tasks: dict[str, Task] = {"b": Regression(name="b")}
    backbone = Backbone([nn.Linear(2, WIDTH)], [WIDTH], ["sequence"])
    architecture = HPS(make_backbone=lambda _: backbone, streams={"rows": ["b"]})
    head = nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(4 * WIDTH, 1))
    model = MultiTaskModel(architecture, {"b": cast("Any", head)})
    batch = {"rows": StreamBatch(torch.randn(5, 4, 2), {"b": torch.randn(5)}, ("b",))}
    expected = by_pairs(parts_by_hand(model, tasks, batch, "b"))
    step, watcher = watched(model, tasks, Equal())
    step([batch], 0, 0)
    watcher.read_back()
    (sums,) = watcher.run
    assert (sums.trace / 5, sums.square / 5) == pytest.approx(expected, rel=1e-4)


def test_linear_regression_with_known_noise() -> None:
    """y = x (w - v) + e, x and e normal: the k-th part is 2 (x v - e) w_k x_k."""
    tasks: dict[str, Task] = {"b": Regression(name="b")}
    model = hps_model(nn.Linear(WIDTH, WIDTH, bias=False), tasks)
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.5, -1.0])
    away, deviation = 0.8 * torch.tensor([1.0, 1.0, -1.0, 0.5, 0.0, 2.0]), 1.5
    with torch.no_grad():
        cast("nn.Linear", model.architecture.shared_parameters()[0]).copy_(torch.eye(WIDTH))
        for parameter in model.head_of["b"].parameters():
            parameter.copy_(weight[None] if parameter.dim() == 2 else torch.zeros(1))
    step, watcher = watched(model, tasks, Equal())
    step.optimizer.param_groups[0]["lr"] = 0.0
    draws = torch.Generator().manual_seed(0)
    for number in range(300):
        inputs = torch.randn(64, WIDTH, generator=draws)
        noises = deviation * torch.randn(64, generator=draws)
        target = inputs @ (weight - away) + noises
        step([{"rows": StreamBatch(inputs, {"b": target}, ("b",))}], 0, number)
    squares = weight.square() * 4
    expected_square = float(squares @ away.square())
    expected_trace = float(squares @ (away @ away + away.square() + deviation**2))
    assert (expected_square, expected_trace) == pytest.approx((29.44, 511.74))
    found = watcher.found()["b"]["noise_scale"]
    (sums,) = watcher.run
    assert sums.trace / sums.rows == pytest.approx(expected_trace, rel=0.05)
    assert sums.square / sums.rows == pytest.approx(expected_square, rel=0.05)
    assert found == pytest.approx(17.38, rel=0.05)


def test_noise_that_drowns_the_gradient_is_no_figure() -> None:
    sums = Sums()
    sums.add(square=1.0, squares=2.0, rows=4.0, batches=1)  # four rows, two opposed pairs
    assert (sums.trace, sums.square) == pytest.approx((4 * 7 * 4 / 3, -4 * 4 / 3))
    assert math.isnan(sums.scale)
    assert sums.drowned
    sums.add(square=9.0, squares=2.5, rows=4.0, batches=1)
    assert sums.scale == pytest.approx((7 + 1) / (-1 + 6.5))
    assert not sums.drowned
    before = copy.copy(sums)
    for nothing in ((1.0, 1.0, 1.0, 1), (math.nan, 1.0, 4.0, 1), (0.0, 0.0, 0.0, 1)):
        sums.add(*nothing)
    assert sums == before


def test_the_scale_of_the_weights_is_not_seen() -> None:
    def found(weighting: Weighting) -> dict[str, Any]:
        model, tasks = mlp_model()
        step, watcher = watched(model, tasks, weighting)
        for group in step.optimizer.param_groups:
            group["lr"] = 0.0
        for number in range(3):
            step([toy_batch(number)], 0, number)
        return watcher.found()

    logarithms = LogLoss(tasks=task_infos(toy_tasks()))
    plain = found(Equal())
    assert plain["a"]["noise_steps"] == 3
    for weighting in (Given([1e-6] * 3, "weighted"), Given([1e6, -3.0, 0.0]), logarithms):
        assert found(weighting) == plain


# -- which steps ----------------------------------------------------------------------------------


def test_each_task_has_its_turn_by_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "EVERY", 5)
    model, tasks = mlp_model()
    step, watcher = watched(model, tasks, Given(given))
    steps = dict.fromkeys(NAMES, 0)
    for number in range(24):
        present = [NAMES[number % 2], "c"]
        step([toy_batch(number, present=present)], 0, number)
        for name in present:
            steps[name] += 1
    assert steps == {"a": 12, "b": 12, "c": 24}
    looked = {name: values["noise_steps"] for name, values in watcher.found().items()}
    assert looked == {"a": 2, "b": 2, "c": 5}  # the steps 3, 8, 13, ... of each


def test_steps_that_are_left_out_do_not_count() -> None:
    model, tasks = mlp_model()
    step, watcher = watched(model, tasks, Equal())
    broken = toy_batch(1)
    broken["rows"].targets["b"][0] = torch.inf  # what was noted of the others is finite
    for number, batch in enumerate((toy_batch(0), broken, toy_batch(2))):
        step([batch], 0, number)
    assert watcher.found()["a"]["noise_steps"] == 2


def test_of_micro_batches_the_first_with_the_task_is_looked_at() -> None:
    model, tasks = mlp_model()
    batches = [toy_batch(0, 4, present=("a",)), toy_batch(1, 6), toy_batch(2, 6)]
    expected = by_pairs(parts_by_hand(model, tasks, batches[1], "c"))
    step, watcher = watched(model, tasks, Given(given), accumulate=3)
    step(batches, 0, 0)
    found = watcher.found()
    assert [found[name]["rows_per_step"] for name in NAMES] == [12, 12, 12]
    sums = watcher.run[2]
    assert (sums.trace / 6, sums.square / 6) == pytest.approx(expected, rel=1e-4)


def test_a_trunk_that_is_not_trained_has_no_figure() -> None:
    model, tasks = mlp_model()
    model.freeze(["architecture"])
    step, watcher = watched(model, tasks, Equal())
    step([toy_batch(0)], 0, 0)
    values = watcher.found()["b"]
    assert math.isnan(values["noise_scale"])
    assert (values["noise_steps"], values["noise_drowns"]) == (0, False)


# -- beside the training --------------------------------------------------------------------------


def dropout_model() -> tuple[MultiTaskModel, dict[str, Task]]:
    torch.manual_seed(0)
    tasks = toy_tasks()
    head = nn.Sequential(nn.Dropout(0.4), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 1))
    return hps_model(nn.Sequential(mlp(), nn.Dropout(0.2)), tasks, heads={"b": head}), tasks


@pytest.mark.parametrize("weighting", [Equal(), Given(given), GivenDirection(given)])
@pytest.mark.parametrize("micro", [1, 2])
def test_training_does_not_notice(weighting: Weighting, micro: int) -> None:
    def trained(watch: bool) -> dict[str, Tensor]:
        model, tasks = dropout_model()
        step, _ = watched(model, tasks, copy.deepcopy(weighting), accumulate=micro)
        if not watch:
            step.watchers.clear()
        for number in range(6):
            batches = [half_labelled(micro * number + n, 8) for n in range(micro)]
            step(batches, 0, number)
        return model.state_dict()

    plain, beside = trained(False), trained(True)
    assert all(torch.equal(beside[key], value) for key, value in plain.items())


def run_in_portions(cuts: Sequence[int], logs: int) -> tuple[str, dict[str, float]]:
    model, tasks = mlp_model()
    step, watcher = watched(model, tasks, Given(given))
    scalars = Scalars()
    tracker = cast("Tracker", scalars)
    for number in range(24):
        step([half_labelled(number, 6)], 0, number)
        if (number + 1) % logs == 0:
            watcher.log(tracker, number + 1, 1)
        if (number + 1) % 8 == 0:
            watcher.close_epoch(tracker, number + 1, (number + 1) // 8)
        if number in cuts:
            state = copy.deepcopy(watcher.state_dict())
            watcher = NoiseScale(step.backward.forward, tasks)
            watcher.load_state_dict(state)
            step.watchers[:] = [watcher]
    return repr(watcher.found()), scalars.found


def test_a_checkpoint_anywhere_changes_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "EVERY", 2)
    whole, curves = run_in_portions([], 5)
    assert "'noise_steps': 12" in whole
    assert {f"train/noise_scale/{name}@8" for name in NAMES} <= set(curves)
    assert len(curves) == 9
    for cuts, logs in (([0, 3, 4, 11], 5), (range(24), 7)):
        again, others = run_in_portions(cuts, logs)
        assert again == whole
        assert repr(others) == repr(curves)


def test_a_point_of_the_curve_waits_for_enough_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "FEWEST", 12)
    _, curves = run_in_portions([], 5)
    assert set(curves) == {f"train/noise_scale/{name}@16" for name in NAMES}
