"""Rows that go on into the heads, and steps taken and taken back, against plain autograd."""

import copy
from collections.abc import Mapping, Sequence
from unittest.mock import patch

import pytest
import torch
from engine_reference import (
    Plain,
    assert_gramian,
    assert_near,
    gradients_of,
    in_double,
    names_of,
    plain_gradients,
)
from engine_toys import (
    NAMES,
    SEED,
    WIDTH,
    Given,
    branched_model,
    hps_model,
    mlp_model,
    toy_batch,
    toy_tasks,
    training_step,
    weights_of,
)
from torch import Tensor, nn

from mtlrun.models.model import MultiTaskModel
from mtlrun.randomness import seed_global_step
from mtlrun.tasks.base import Task
from mtlrun.types import Batch
from mtlrun.weighting.solvers import SolverError

INNER_RATE = 0.3
INNER = {"a": 0.5, "b": 0.3, "c": 0.2}
ROW_WEIGHTS = [0.5, 2.0, -0.75, 1.5, 0.0, 3.0]
"""Of the tasks' rows of the first batch, then of the second."""


class Inner(Given):
    """A weight for each row of two batches, and steps on the first."""

    batches = 2
    heads_in_rows = True
    inner_learning_rate = INNER_RATE

    def __init__(self, steps: int = 0) -> None:
        super().__init__(ROW_WEIGHTS, "weighted")
        self.inner_steps = steps
        self.fails = False
        self.beyond: list[Tensor] = []

    def lookahead_weights(self) -> Tensor:
        return self.pick(torch.tensor(list(INNER.values()), dtype=torch.float64))

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        self.gramians.append(gramian.clone())
        self.losses.append(losses.clone())
        if self.inner_losses is not None:
            self.beyond.append(self.inner_losses.clone())
        if self.fails:
            raise SolverError("no answer")
        return self.fixed.view(2, 3)[:, list(self.step.present)].flatten()


def whole_rows(plains: Sequence[Plain], model: MultiTaskModel, tasks: Sequence[str]) -> Tensor:
    """Gradients on all parameters, zeros where a task has no labels or does not reach."""
    rows = []
    for plain in plains:
        for task in tasks:
            found = plain.gradients.get(task, {})
            parts = [
                torch.zeros_like(p).double() if found.get(name) is None else found[name]
                for name, p in model.named_parameters()
            ]
            rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def after_plain_steps(
    model: MultiTaskModel, tasks: Mapping[str, Task], batch: Batch, steps: int, *, double: bool
) -> dict[str, Tensor]:
    """The losses of ``batch`` after plain steps on a copy, with the step's dropout masks."""
    model = copy.deepcopy(model)
    if double:
        model, batch = model.double(), in_double(batch)
    present = [task for task in tasks if task in batch["rows"].present]

    def losses() -> dict[str, Tensor]:
        seed_global_step(SEED, "dropout", 0, 0)
        features = model.architecture({"rows": batch["rows"].inputs}, present)
        targets = batch["rows"].targets
        return {t: tasks[t].loss(model.head_of[t](features[t]), targets[t]) for t in present}

    optimizer = torch.optim.SGD(model.parameters(), lr=INNER_RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(INNER[task] * loss for task, loss in losses().items()).backward()
        optimizer.step()
    return {task: loss.detach() for task, loss in losses().items()}


# -- rows that go on into the heads ---------------------------------------------------------------


@pytest.mark.parametrize("branched", [False, True])
def test_heads_count_and_take_their_rows_weights(branched: bool) -> None:
    model, tasks = branched_model() if branched else mlp_model()
    shown = [toy_batch(0), toy_batch(1, rows=9)]
    plains = [plain_gradients(model, tasks, [batch]) for batch in shown]
    weighting = Inner()
    figures = training_step(model, tasks, weighting)(shown, 0, 0)

    rows = whole_rows(plains, model, NAMES)
    assert_gramian(weighting.gramians[0], rows @ rows.T)
    assert weighting.inner_losses is None
    got = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert_near(got, torch.tensor(ROW_WEIGHTS).double() @ rows)
    assert weights_of(figures) == [2.0, 2.0, 2.25]


def test_a_task_without_labels_in_one_batch() -> None:
    model, tasks = mlp_model()
    shown = [toy_batch(0, present=("b", "c")), toy_batch(1, present=("a", "b"))]
    plains = [plain_gradients(model, tasks, [batch]) for batch in shown]
    expected = after_plain_steps(model, tasks, shown[0], 2, double=True)
    weighting = Inner(2)
    training_step(model, tasks, weighting)(shown, 0, 0)

    rows = whole_rows(plains, model, NAMES)
    assert_gramian(weighting.gramians[0], rows @ rows.T)
    got = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert_near(got, torch.tensor(ROW_WEIGHTS).double() @ rows)
    wanted = torch.stack([torch.zeros(()).double(), expected["b"], expected["c"]])
    assert_near(weighting.beyond[0], wanted, 1e-5)


def test_where_the_solver_fails_each_batch_has_half_of_the_last_weights() -> None:
    model, tasks = mlp_model()
    shown = [toy_batch(0), toy_batch(1)]
    step = training_step(model, tasks, weighting := Inner(1))
    step(shown, 0, 0)
    weighting.fails = True
    plains = [plain_gradients(model, tasks, [batch]) for batch in shown]
    figures = step(shown, 0, 1)
    assert weights_of(figures) == [2.0, 2.0, 2.25]
    rows = whole_rows(plains, model, NAMES)
    got = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert_near(got, torch.tensor([1.0, 1.0, 1.125, 1.0, 1.0, 1.125]).double() @ rows)


# -- steps that are taken back --------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("branched", [False, True])
def test_losses_beyond_plain_steps_on_the_first_batch(branched: bool, steps: int) -> None:
    model, tasks = branched_model() if branched else mlp_model()
    shown = [toy_batch(0), toy_batch(1)]
    expected = after_plain_steps(model, tasks, shown[0], steps, double=True)
    weighting = Inner(steps)
    training_step(model, tasks, weighting)(shown, 0, 0)
    assert weighting.beyond[0].dtype == torch.float64
    assert_near(weighting.beyond[0], torch.stack(list(expected.values())), 1e-5)
    fallen = weighting.losses[0][:3] - weighting.beyond[0]
    assert fallen @ torch.tensor(list(INNER.values())).double() > 0.01


def test_weights_are_those_of_the_tasks_present() -> None:
    model, tasks = mlp_model()
    shown = [toy_batch(0, present=("b", "c")), toy_batch(1, present=("b", "c"))]
    expected = after_plain_steps(model, tasks, shown[0], 2, double=True)
    weighting = Inner(2)
    training_step(model, tasks, weighting)(shown, 0, 0)
    assert_near(weighting.beyond[0], torch.stack(list(expected.values())), 1e-5)


def stochastic_model() -> tuple[MultiTaskModel, dict[str, Task]]:
    torch.manual_seed(0)
    tasks = toy_tasks()
    trunk = nn.Sequential(
        nn.Linear(5, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, WIDTH)
    )
    return hps_model(trunk, tasks), tasks


def test_dropout_masks_are_those_of_the_rows() -> None:
    model, tasks = stochastic_model()
    shown = [toy_batch(0, rows=16), toy_batch(1, rows=16)]
    before = after_plain_steps(model, tasks, shown[0], 0, double=False)
    expected = after_plain_steps(model, tasks, shown[0], 3, double=False)
    weighting = Inner(3)
    training_step(model, tasks, weighting)(shown, 0, 0)
    assert_near(weighting.losses[0][:3], torch.stack(list(before.values())), 1e-6)
    assert_near(weighting.beyond[0], torch.stack(list(expected.values())), 1e-5)


def test_everything_returns_to_where_it_was() -> None:
    """The update and the running statistics are, bit for bit, those without inner steps."""
    model, tasks = stochastic_model()
    other = copy.deepcopy(model)
    shown = [toy_batch(0, rows=16), toy_batch(1, rows=16)]
    training_step(model, tasks, weighting := Inner(3))(shown, 0, 0)
    training_step(other, tasks, Inner(0))(shown, 0, 0)
    assert weighting.beyond
    for (name, value), wanted in zip(
        model.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, wanted), name
    for name, gradient in gradients_of(model).items():
        assert torch.equal(gradient, other.get_parameter(name).grad), name


def test_frozen_parameters_stay_in_the_inner_steps() -> None:
    model, tasks = mlp_model()
    frozen = model.shared_parameters()[0]
    frozen.requires_grad_(False)
    name = names_of(model, [frozen])[0]
    expected = after_plain_steps(model, tasks, toy_batch(0), 2, double=True)
    weighting = Inner(2)
    training_step(model, tasks, weighting)([toy_batch(0), toy_batch(1)], 0, 0)
    assert_near(weighting.beyond[0], torch.stack(list(expected.values())), 1e-5)
    assert model.get_parameter(name).grad is None


def test_steps_that_diverge_are_taken_back() -> None:
    model, tasks = mlp_model()
    before = copy.deepcopy(model.state_dict())
    weighting = Inner(60)
    weighting.inner_learning_rate = 1e12
    step = training_step(model, tasks, weighting)
    with patch.object(step.optimizer, "step"):
        figures = step([toy_batch(0), toy_batch(1)], 0, 0)
    assert figures.nonfinite is None
    assert not bool(weighting.beyond[0].isfinite().all())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
