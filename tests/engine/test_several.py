"""Methods that see several batches a step, or look beyond a step, against plain autograd."""

import copy
from collections.abc import Mapping, Sequence

import pytest
import torch
from engine_reference import (
    Plain,
    assert_gramian,
    assert_near,
    gradients_of,
    names_of,
    plain_gradients,
)
from engine_toys import (
    NAMES,
    RATE,
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
from mtlrun.types import Batch
from mtlrun.weighting.solvers import SolverError

FACTORS = {"a": 0.5, "b": 2.0, "c": -0.75}
TRIAL = {"a": 3.0, "b": 1.0, "c": 0.25}


class OfBatches(Given):
    """Weights a task, another factor for each batch: 1, 2, ..."""

    def __init__(self, batches: int, heads: str = "unweighted") -> None:
        super().__init__(list(FACTORS.values()), heads)  # type: ignore[arg-type]
        self.batches = batches  # type: ignore[misc]
        self.fails = False

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        weights = super().weights(gramian, losses)
        if self.fails:
            raise SolverError("no answer")
        return torch.cat([weights * (number + 1) for number in range(self.batches)])


class Ahead(OfBatches):
    lookahead = True

    def __init__(self, heads: str = "unweighted") -> None:
        super().__init__(2, heads)

    def lookahead_weights(self) -> Tensor:
        return self.pick(torch.tensor(list(TRIAL.values()), dtype=torch.float64))

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        return super().weights(gramian, losses)[: len(self.step.present)]


def stacked(
    model: MultiTaskModel, plains: Sequence[Plain], names: Sequence[str], tasks: Sequence[str]
) -> Tensor:
    """The rows of all batches, zeros where a task has no labels or does not reach."""

    def row(plain: Plain, task: str) -> Tensor:
        found = plain.gradients.get(task, {})
        parts = [found.get(name) for name in names]
        zeros = [torch.zeros_like(model.get_parameter(name)) for name in names]
        pairs = zip(parts, zeros, strict=True)
        return torch.cat([(z if g is None else g).flatten().double() for g, z in pairs])

    return torch.stack([row(plain, task) for plain in plains for task in tasks])


def gradient_row(model: MultiTaskModel, names: Sequence[str]) -> Tensor:
    grads = gradients_of(model)
    return torch.cat([grads[name].flatten() for name in names]).double()


# -- several batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["unweighted", "weighted"])
@pytest.mark.parametrize("batches", [2, 3])
@pytest.mark.parametrize("branched", [False, True])
def test_rows_of_all_batches(branched: bool, batches: int, heads: str) -> None:
    model, tasks = branched_model() if branched else mlp_model()
    shown = [toy_batch(seed, rows=5 + seed) for seed in range(batches)]
    plains = [plain_gradients(model, tasks, [batch]) for batch in shown]
    weighting = OfBatches(batches, heads)
    figures = training_step(model, tasks, weighting)(shown, 0, 0)

    shared = names_of(model, model.shared_parameters())
    rows = stacked(model, plains, shared, NAMES)
    (seen,) = weighting.gramians
    assert seen.shape == (3 * batches, 3 * batches)
    assert_gramian(seen, rows @ rows.T)
    losses = [plain.losses[task] for plain in plains for task in NAMES]
    assert_near(weighting.losses[0], torch.stack(losses), 1e-6)
    weights = torch.tensor(
        [w * (number + 1) for number in range(batches) for w in FACTORS.values()]
    ).double()
    assert_near(gradient_row(model, shared), weights @ rows)
    totals = {task: w * batches * (batches + 1) / 2 for task, w in FACTORS.items()}
    assert weights_of(figures) == pytest.approx(list(totals.values()))
    means = torch.stack(losses).view(batches, 3).mean(dim=0)
    assert_near(torch.stack(figures.losses), means, 1e-6)
    assert_gramian(figures.gramian, (rows @ rows.T)[:3, :3])
    for task in NAMES:
        scale = totals[task] if heads == "weighted" else 1.0
        for name in names_of(model, model.own_parameters(task)):
            mean = sum(plain.gradients[task][name] for plain in plains) / batches
            assert_near(model.get_parameter(name).grad, scale * mean)


def test_a_task_without_labels_in_one_batch() -> None:
    model, tasks = mlp_model()
    step = training_step(model, tasks, weighting := OfBatches(2))
    step([toy_batch(5), toy_batch(6)], 0, 0)  # rows that must not show up again
    shown = [toy_batch(0, present=("a", "b")), toy_batch(1, present=("b",))]
    plains = [plain_gradients(model, tasks, [batch]) for batch in shown]
    figures = step(shown, 0, 1)

    assert figures.present == (0, 1)
    shared = names_of(model, model.shared_parameters())
    rows = stacked(model, plains, shared, ("a", "b"))
    assert bool((rows[2] == 0).all())
    assert_gramian(weighting.gramians[1], rows @ rows.T)
    assert weighting.losses[1][2] == 0
    weights = torch.tensor([0.5, 2.0, 1.0, 4.0]).double()
    assert_near(gradient_row(model, shared), weights @ rows)
    # The loss that is shown, and the head's gradient, are those of the batches with labels.
    losses = [plain.losses for plain in plains]
    assert_near(figures.losses[0], losses[0]["a"], 1e-6)
    assert_near(figures.losses[1], (losses[0]["b"] + losses[1]["b"]) / 2, 1e-6)
    for name in names_of(model, model.own_parameters("a")):
        assert_near(model.get_parameter(name).grad, plains[0].gradients["a"][name])
    assert all(parameter.grad is None for parameter in model.own_parameters("c"))


def test_a_step_with_a_batch_without_labels_is_left_out() -> None:
    model, tasks = mlp_model()
    before = copy.deepcopy(model.state_dict())
    weighting = OfBatches(2)
    figures = training_step(model, tasks, weighting)([toy_batch(0), toy_batch(1, present=())], 0, 0)
    assert figures.present == ()
    assert weighting.gramians == []
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("fault", ["loss", "inputs"])
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("kind", [Ahead, lambda: OfBatches(2)])
def test_a_bad_batch_spoils_the_step(kind, check: bool, number: int, fault: str) -> None:
    model, tasks = mlp_model()
    before = copy.deepcopy(model.state_dict())
    shown = [toy_batch(0), toy_batch(1)]
    if fault == "loss":
        shown[number]["rows"].targets["b"][0] = torch.inf
    else:
        shown[number]["rows"].inputs[0, 0] = torch.nan
    weighting = kind()
    figures = training_step(model, tasks, weighting, check=check)(shown, 0, 0)
    assert figures.nonfinite == (1 if fault == "loss" else 0)
    assert weighting.gramians == []
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# -- looking ahead --------------------------------------------------------------------------------


def moved_copy(model: MultiTaskModel, plain: Plain) -> MultiTaskModel:
    """The network after a plain step on the first batch, heads included, in float64."""
    copied = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            gradient = plain.combined({t: TRIAL[t] for t in plain.gradients}, name)
            if gradient is not None:
                parameter -= RATE * gradient
    return copied


@pytest.mark.parametrize("heads", ["unweighted", "weighted"])
@pytest.mark.parametrize("branched", [False, True])
def test_the_second_batch_is_seen_from_beyond_a_step(branched: bool, heads: str) -> None:
    model, tasks = branched_model() if branched else mlp_model()
    shown = [toy_batch(0), toy_batch(1, rows=9)]
    first = plain_gradients(model, tasks, shown[:1])
    second = plain_gradients(moved_copy(model, first), tasks, shown[1:])
    here = plain_gradients(model, tasks, shown[1:])
    weighting = Ahead(heads)
    before = copy.deepcopy(model.state_dict())
    step = training_step(model, tasks, weighting)
    step.optimizer.step = lambda: None  # type: ignore[method-assign, assignment, return-value]
    figures = step(shown, 0, 0)

    rows = stacked(model, [first, second], first.names, NAMES)
    assert_gramian(weighting.gramians[0], rows @ rows.T)
    wrong = stacked(model, [first, here], first.names, NAMES)
    assert (rows @ rows.T - wrong @ wrong.T).norm() > 0.01 * (rows @ rows.T).norm()
    losses = [*first.losses.values(), *second.losses.values()]
    assert_near(weighting.losses[0], torch.stack(losses), 1e-6)
    assert_near(torch.stack(figures.losses), torch.stack(losses[:3]), 1e-6)
    assert weights_of(figures) == list(FACTORS.values())

    shared = names_of(model, model.shared_parameters())
    for name, parameter in model.named_parameters():
        own = FACTORS if name in shared or heads == "weighted" else dict.fromkeys(NAMES, 1.0)
        assert_near(parameter.grad, first.combined(own, name))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_running_statistics_are_those_of_the_first_batch() -> None:
    torch.manual_seed(0)
    tasks = toy_tasks()
    trunk = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, WIDTH))
    model = hps_model(trunk, tasks)
    once = copy.deepcopy(model)
    shown = [toy_batch(0), toy_batch(1)]
    once.architecture({"rows": shown[0]["rows"].inputs}, NAMES)
    training_step(model, tasks, Ahead())(shown, 0, 0)
    buffers = dict(model.named_buffers())
    for name, buffer in once.named_buffers():
        assert torch.equal(buffers[name], buffer), name


@pytest.mark.parametrize("missing", [0, 1])
def test_looking_ahead_without_labels_in_one_batch(missing: int) -> None:
    model, tasks = mlp_model()
    shown: list[Batch] = [toy_batch(0), toy_batch(1)]
    shown[missing] = toy_batch(missing, present=("a", "c"))
    first = plain_gradients(model, tasks, shown[:1])
    second = plain_gradients(moved_copy(model, first), tasks, shown[1:])
    weighting = Ahead()
    figures = training_step(model, tasks, weighting)(shown, 0, 0)
    rows = stacked(model, [first, second], first.names, NAMES)
    assert_gramian(weighting.gramians[0], rows @ rows.T)
    used: Mapping[str, float] = {t: w for t, w in FACTORS.items() if t in first.gradients}
    for name in names_of(model, model.shared_parameters()):
        assert_near(model.get_parameter(name).grad, first.combined(used, name))
    assert figures.present == (0, 1, 2)


# -- a solver that fails --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "total"), [(lambda: OfBatches(2), 3.0), (lambda: OfBatches(3), 6.0), (Ahead, 1.0)]
)
def test_where_the_solver_fails_the_last_weights_apply(kind, total: float) -> None:
    model, tasks = mlp_model()
    step = training_step(model, tasks, weighting := kind())
    batches = [toy_batch(seed) for seed in range(weighting.batches)]
    step(batches, 0, 0)
    wanted = [total * factor for factor in FACTORS.values()]
    assert step.backward.state_dict()["last_weights"].tolist() == pytest.approx(wanted)
    for number in (1, 2):
        plains = [plain_gradients(model, tasks, [batch]) for batch in batches]
        weighting.fails = True
        figures = step(batches, 0, number)
        assert "the last weights apply" in figures.remark
        assert weights_of(figures) == pytest.approx(wanted)
        shared = names_of(model, model.shared_parameters())
        used = plains[:1] if weighting.lookahead else plains
        rows = stacked(model, used, shared, NAMES)
        weights = torch.tensor(wanted * len(used)).double() / len(used)
        assert_near(gradient_row(model, shared), weights @ rows)
    assert step.backward.state_dict()["failures"] == 2
