"""Steps of methods that see losses, against hand-written PyTorch loops."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from engine_reference import assert_near, gradients_of, plain_gradients
from engine_toys import (
    NAMES,
    RATE,
    SEED,
    WIDTH,
    hps_model,
    linear_head,
    mlp,
    mlp_model,
    task_infos,
    toy_batch,
    toy_tasks,
    training_step,
    weights_of,
)
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from mtlrun.engine.step import TrainingStep, parameter_groups
from mtlrun.models.architectures.single_task import SingleTask
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.model import MultiTaskModel
from mtlrun.randomness import seed_global_step
from mtlrun.tasks.base import Task
from mtlrun.types import Batch
from mtlrun.weighting.base import LossWeighting
from mtlrun.weighting.equal import Equal
from mtlrun.weighting.uncertainty import Uncertainty

MakeOptimizer = Callable[[Iterable[Any]], Optimizer]


def adam(groups: Iterable[Any]) -> Optimizer:
    return Adam(groups, lr=0.01, weight_decay=0.02)


def fused_adam(groups: Iterable[Any]) -> Optimizer:
    return Adam(groups, lr=0.01, fused=True)


def sgd(groups: Iterable[Any]) -> Optimizer:
    return SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01)


def step_of(
    model: MultiTaskModel,
    tasks: dict[str, Task],
    weighting: LossWeighting,
    make: MakeOptimizer,
    **options: Any,
) -> TrainingStep:
    optimizer = make(parameter_groups(model, weighting, RATE))
    return TrainingStep(model, tasks, weighting, optimizer, seed=SEED, **options)


def batches(count: int) -> list[Batch]:
    return [toy_batch(seed) for seed in range(count)]


def assert_equal_models(one: nn.Module, other: nn.Module) -> None:
    state, expected = one.state_dict(), other.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in state)


# -- the hand-written loop ------------------------------------------------------------------------


@pytest.mark.parametrize("make", [adam, fused_adam, sgd])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_equal_weights_are_a_plain_loop_to_the_last_bit(
    make: MakeOptimizer, clip_norm: float | None
) -> None:
    torch.manual_seed(0)
    tasks = toy_tasks()
    trunk = nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(8, 6)
    )
    model = hps_model(trunk, tasks)
    plain = copy.deepcopy(model)
    step = step_of(model, tasks, Equal(), make, clip_norm=clip_norm)
    optimizer = make(plain.parameters())
    norms = []
    for number, batch in enumerate(batches(20)):
        figures = step([batch], epoch=number // 7, step=number)

        seed_global_step(SEED, "dropout", number // 7, number)
        inputs, targets = batch["rows"].inputs, batch["rows"].targets
        features = plain.architecture.backbone(inputs)
        losses = [tasks[n].loss(plain.head_of[n](features), targets[n]) for n in NAMES]
        optimizer.zero_grad()
        sum(losses).backward()  # type: ignore[union-attr]
        if clip_norm is not None:
            norms.append(torch.nn.utils.clip_grad_norm_(plain.parameters(), clip_norm).item())
        optimizer.step()

        assert_equal_models(model, plain)
        assert [loss.item() for loss in figures.losses] == [loss.item() for loss in losses]
        assert weights_of(figures) == [1, 1, 1]
    assert clip_norm is None or max(norms) > clip_norm


def test_the_clipped_gradient_has_the_norm_asked_for() -> None:
    model, tasks = mlp_model()
    free, _ = mlp_model()
    step_of(free, tasks, Equal(), sgd)(batches(1), 0, 0)
    gradients = [p.grad for p in free.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])).item()
    step_of(model, tasks, Equal(), sgd, clip_norm=norm / 3)(batches(1), 0, 0)
    for clipped, whole in zip(model.parameters(), free.parameters(), strict=True):
        assert clipped.grad is not None
        torch.testing.assert_close(clipped.grad, whole.grad / 3, rtol=1e-4, atol=1e-7)


# -- independent networks -------------------------------------------------------------------------


def single_task_model(names: Sequence[str]) -> tuple[MultiTaskModel, dict[str, Task]]:
    def make_backbone(number: int) -> Backbone:
        torch.manual_seed(number)
        return Backbone([mlp()], [WIDTH], [False])

    tasks = {name: task for name, task in toy_tasks().items() if name in names}
    architecture = SingleTask(make_backbone=make_backbone, streams={"rows": tuple(names)})
    heads = {}
    for name, task in tasks.items():
        torch.manual_seed(NAMES.index(name))
        heads[name] = linear_head(task)
    return MultiTaskModel(architecture, heads), tasks


@pytest.mark.parametrize("make", [adam, sgd])
def test_independent_networks_are_clipped_each_by_itself(make: MakeOptimizer) -> None:
    limit = 0.3
    together, tasks = single_task_model(NAMES)
    step = step_of(together, tasks, Equal(), make, clip_norm=limit)
    for number, batch in enumerate(batches(10)):
        step([batch], 0, number)
    norms = [_norm(together.own_parameters(name)) for name in NAMES]
    assert max(norms) == pytest.approx(limit, rel=1e-4)  # it was clipped, and not as one whole
    assert sum(n > 0.99 * limit for n in norms) >= 2
    for name in NAMES:
        alone, task = single_task_model([name])
        step = step_of(alone, task, Equal(), make, clip_norm=limit)
        for number, batch in enumerate(batches(10)):
            step([batch], 0, number)
        for one, other in zip(
            together.own_parameters(name), alone.own_parameters(name), strict=True
        ):
            assert torch.equal(one, other)


def _norm(parameters: Sequence[nn.Parameter]) -> float:
    grads = [p.grad.norm() for p in parameters if p.grad is not None]
    return torch.stack(grads).norm().item()


# -- the weighting's own parameters ---------------------------------------------------------------


def test_a_methods_parameters_are_in_a_group_of_their_own() -> None:
    model, tasks = mlp_model()
    model.head_of["a"].requires_grad_(False)
    weighting = Uncertainty(tasks=task_infos(tasks), learning_rate=0.025)
    network, own = parameter_groups(model, weighting, RATE)
    assert network["params"] == [p for p in model.parameters() if p.requires_grad]
    assert own == {"params": [weighting.log_scale], "lr": 0.025, "weight_decay": 0.0}
    following = Uncertainty(tasks=task_infos(tasks))
    assert parameter_groups(model, following, RATE)[1]["lr"] == RATE
    assert len(parameter_groups(model, Equal(), RATE)) == 1


def test_a_methods_parameters_are_neither_decayed_nor_clipped() -> None:
    model, tasks = mlp_model()
    weighting = Uncertainty("half", initial_value=0.4, tasks=task_infos(tasks), learning_rate=0.1)
    step = step_of(
        model, tasks, weighting, lambda g: SGD(g, lr=0.01, weight_decay=0.5), clip_norm=1e-3
    )
    figures = step(batches(1), 0, 0)
    # d/ds (exp(-s) L / 2 + s / 2), from s = 0.4
    losses = torch.stack(figures.losses)
    gradient = 0.5 - 0.5 * torch.exp(torch.tensor(-0.4)) * losses
    torch.testing.assert_close(weighting.log_scale.grad, gradient)
    torch.testing.assert_close(weighting.log_scale.detach(), 0.4 - 0.1 * gradient)
    assert weights_of(figures) == pytest.approx([0.5 * 0.670320046] * 3)
    assert _norm(list(model.parameters())) == pytest.approx(1e-3, rel=1e-3)


# -- accumulation ---------------------------------------------------------------------------------


def partial_batches() -> list[Batch]:
    """Task a is in all three micro-batches, b in two, c in one; the last is without any."""
    present = [("a", "b"), ("a", "b", "c"), ("a",), ()]
    return [toy_batch(n, rows=4 + n, present=names) for n, names in enumerate(present)]


@pytest.mark.parametrize("method", ["equal", "uncertainty"])
@pytest.mark.parametrize("check", [True, False])
def test_accumulation_is_exact(method: str, check: bool) -> None:
    model, tasks = mlp_model()
    weighting = Equal() if method == "equal" else Uncertainty(tasks=task_infos(tasks))
    if isinstance(weighting, Uncertainty):
        with torch.no_grad():
            weighting.log_scale.copy_(torch.tensor([0.3, -0.5, 1.0]))
    plain = plain_gradients(model, tasks, partial_batches())
    step = step_of(model, tasks, weighting, sgd, accumulate=4, check=check)

    # the objective of the means over micro-batches, by autograd
    means = [plain.losses[name].clone().requires_grad_() for name in NAMES]
    wanted = copy.deepcopy(weighting).double()
    wanted.step = step.weighting.step = _info()
    wanted.objective(means).backward()
    weights = {name: mean.grad.item() for name, mean in zip(NAMES, means, strict=True)}

    figures = step(partial_batches(), 0, 0)

    assert_near(torch.stack(figures.losses), torch.stack([m.detach() for m in means]), 1e-6)
    assert weights_of(figures) == pytest.approx(list(weights.values()), rel=1e-6)
    for name, gradient in gradients_of(model).items():
        assert_near(gradient, plain.combined(weights, name))
    if isinstance(weighting, Uncertainty):
        assert_near(weighting.log_scale.grad, wanted.log_scale.grad)
        assert weighting.log_scale.grad.abs().min() > 0.01


def _info():
    from mtlrun.types import StepInfo

    return StepInfo(SEED, 0, 0, (0, 1, 2))


def test_accumulation_over_equal_parts_is_the_whole_batch() -> None:
    whole = toy_batch(0, rows=12)
    parts = []
    for rows in torch.arange(12).split(4):
        part = copy.deepcopy(whole)
        part["rows"].inputs = part["rows"].inputs[rows]
        part["rows"].targets = {t: v[rows] for t, v in part["rows"].targets.items()}
        parts.append(part)
    ends = []
    for accumulate, used in ((1, [whole]), (3, parts)):
        model, tasks = mlp_model()
        weighting = Uncertainty(tasks=task_infos(tasks))
        step = step_of(model, tasks, weighting, sgd, accumulate=accumulate)
        for number in range(5):
            step(used, 0, number)
        ends.append([*model.parameters(), weighting.log_scale])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


# -- absent tasks, NaN ----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [adam, sgd])
def test_an_absent_task_keeps_its_head_and_its_momentum(make: MakeOptimizer) -> None:
    model, tasks = mlp_model()
    weighting = Uncertainty(tasks=task_infos(tasks))
    step = step_of(model, tasks, weighting, make)
    step(batches(1), 0, 0)
    head = list(model.head_of["b"].parameters())
    weights = [p.detach().clone() for p in head]
    state = copy.deepcopy([step.optimizer.state[p] for p in head])
    figures = step([toy_batch(1, present=("a", "c"))], 0, 1)
    assert figures.present == (0, 2)
    assert len(figures.losses) == 2
    assert weighting.log_scale.grad is not None
    assert weighting.log_scale.grad[1] == 0
    for parameter, before, held in zip(head, weights, state, strict=True):
        assert parameter.grad is None
        assert torch.equal(parameter, before)
        now = step.optimizer.state[parameter]
        assert all(torch.equal(now[key], held[key]) for key in held if held[key] is not None)


def test_a_step_without_any_label_does_nothing() -> None:
    model, tasks = mlp_model()
    step = step_of(model, tasks, Equal(), adam)
    step(batches(1), 0, 0)
    before = copy.deepcopy(model)
    figures = step([toy_batch(1, present=())], 0, 1)
    assert figures.present == ()
    assert figures.losses == []
    assert_equal_models(model, before)


class Noting(Equal):
    """Notes the losses that it saw, and whether it was told that the parameters moved."""

    moved = 0

    def __init__(self) -> None:
        super().__init__()
        self.finite: list[bool] = []

    def objective(self, losses: list[Tensor]) -> Tensor:
        self.finite += [math.isfinite(loss.item()) for loss in losses]
        return super().objective(losses)

    def after_step(self) -> None:
        self.moved += 1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_bad_loss_changes_nothing_and_is_named(accumulate: int) -> None:
    model, tasks = mlp_model()
    weighting = Noting()
    step = step_of(model, tasks, weighting, adam, accumulate=accumulate)
    step(batches(accumulate), 0, 0)
    before = copy.deepcopy(model)
    state = copy.deepcopy(step.optimizer.state_dict())
    bad = batches(accumulate)
    bad[-1]["rows"].targets["b"][0] = torch.inf
    figures = step(bad, 0, 1)
    assert figures.nonfinite == 1
    assert weighting.moved == 1
    assert all(weighting.finite)
    assert_equal_models(model, before)
    assert all(p.grad is None for p in model.parameters())
    now = step.optimizer.state_dict()["state"]
    for number, held in state["state"].items():
        assert all(torch.equal(now[number][key], held[key]) for key in held)
    assert step(batches(accumulate), 0, 2).nonfinite is None
    assert weighting.moved == 2


# -- what a weighting is shown --------------------------------------------------------------------


class Geometric(LossWeighting):
    """The geometric mean of the losses: not linear, its weights are mean / (T L)."""

    linear = False
    shown: tuple[int, int, tuple[int, ...]] | None = None

    def objective(self, losses: list[Tensor]) -> Tensor:
        self.shown = (self.step.epoch, self.step.step, self.step.present)
        return torch.stack(losses).log().mean().exp()


def test_applied_weights_are_the_derivatives_by_the_losses() -> None:
    model, tasks = mlp_model()
    plain = plain_gradients(model, tasks, [toy_batch(0, present=("b", "c"))])
    weighting = Geometric()
    step = training_step(model, tasks, weighting, place=None)
    figures = step([toy_batch(0, present=("b", "c"))], epoch=2, step=31)
    assert weighting.shown == (2, 31, (1, 2))
    b, c = (plain.losses[name].item() for name in ("b", "c"))
    mean = (b * c) ** 0.5
    assert weights_of(figures) == pytest.approx([mean / (2 * b), mean / (2 * c)], rel=1e-5)
    weights = {"b": mean / (2 * b), "c": mean / (2 * c)}
    for name, gradient in gradients_of(model).items():
        assert_near(gradient, plain.combined(weights, name))


def test_bfloat16_is_near_float32() -> None:
    grads = []
    for amp in (False, True):
        model, tasks = mlp_model()
        figures = step_of(model, tasks, Equal(), sgd, amp=amp)(batches(1), 0, 0)
        assert all(loss.dtype == torch.float32 for loss in figures.losses)
        grads.append(gradients_of(model))
    for name, gradient in grads[0].items():
        assert grads[1][name].dtype == torch.float32
        assert not torch.equal(grads[1][name], gradient)
        assert_near(grads[1][name], gradient, relative=0.03)


def test_dropout_does_not_depend_on_what_was_drawn_before() -> None:
    ends = []
    for drawn in (0, 5):
        torch.manual_seed(0)
        tasks = toy_tasks()
        model = hps_model(nn.Sequential(nn.Linear(5, WIDTH), nn.Dropout(0.5)), tasks)
        step = step_of(model, tasks, Equal(), sgd)
        for number, batch in enumerate(batches(3)):
            torch.rand(drawn)
            step([batch], 0, number)
        ends.append(model)
    assert_equal_models(*ends)
