"""Smoothing and rescaling of weights, by hand and in whole steps of each kind of method."""

import pytest
import torch
from engine_reference import assert_near, check_update, gradients_of, names_of, plain_gradients
from engine_toys import (
    NAMES,
    WEIGHTS,
    Given,
    GivenDirection,
    given,
    mlp_model,
    task_infos,
    toy_batch,
    training_step,
    weights_of,
)
from torch import Tensor

from mtlrun.engine.gradients import gramian
from mtlrun.engine.rules import WeightRules, norm_factor
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Task
from mtlrun.weighting.base import LossWeighting
from mtlrun.weighting.static import Static
from mtlrun.weighting.uncertainty import Uncertainty

# -- the rules by themselves ----------------------------------------------------------------------


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_smoothing_is_a_moving_average_from_the_first_weights_on() -> None:
    rules = WeightRules(3, smoothing=0.75)
    assert rules(vector(1, 2, 4), (0, 1, 2)).tolist() == [1, 2, 4]
    assert rules(vector(5, 2, 0), (0, 1, 2)).tolist() == [2, 2, 3]
    # Task 1 is absent: its average waits.
    assert rules(vector(6, 7), (0, 2)).tolist() == [3, 4]
    assert rules(vector(3, 6, 0), (0, 1, 2)).tolist() == [3, 3, 3]


def test_a_task_that_comes_later_starts_from_its_first_weight() -> None:
    rules = WeightRules(3, smoothing=0.5)
    rules(vector(1, 1), (0, 2))
    assert rules(vector(3, 9, 5), (0, 1, 2)).tolist() == [2, 9, 3]


def test_smoothed_weights_survive_a_checkpoint() -> None:
    rules, resumed = WeightRules(3, smoothing=0.9), WeightRules(3, smoothing=0.9)
    rules(vector(0.1, 2, 3), (0, 1, 2))
    resumed.load_state_dict(rules.state_dict())
    state = rules.state_dict()
    for number in range(3):
        new = vector(number, 1, 0.3)
        assert torch.equal(rules(new, (0, 1, 2)), resumed(new, (0, 1, 2)))
    assert state["smoothed"].tolist() == [0.1, 2, 3]  # a copy
    assert WeightRules(3, rescale="sum").state_dict() == {}


@pytest.mark.parametrize(
    ("weights", "rescaled"),
    [
        ((0.2, 0.2, 0.6), (0.6, 0.6, 1.8)),
        ((2e6, 2e6, 6e6), (0.6, 0.6, 1.8)),
        ((2e-9, 2e-9, 6e-9), (0.6, 0.6, 1.8)),
        ((4.0, -1.0, -1.0), (6.0, -1.5, -1.5)),
        ((1.0, -1.0, 0.0), (1.0, -1.0, 0.0)),
        ((-1.0, -2.0, 0.0), (-1.0, -2.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ],
)
def test_weights_are_brought_to_the_sum_of_the_number_of_tasks(
    weights: tuple[float, ...], rescaled: tuple[float, ...]
) -> None:
    found = WeightRules(5, rescale="sum")(vector(*weights), (0, 2, 4))
    assert found.tolist() == pytest.approx(list(rescaled), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_norm_is_that_of_the_plain_sum(scale: float) -> None:
    rows = scale * torch.randn(3, 5, dtype=torch.float64)
    weights = vector(0.3, 2, -0.1)
    found = WeightRules(3, rescale="norm")(weights, (0, 1, 2), rows @ rows.T)
    assert (found @ rows).norm().item() == pytest.approx(rows.sum(dim=0).norm().item(), rel=1e-9)
    assert (found / weights).std() < 1e-12


@pytest.mark.parametrize("weights", [(1.0, 1.0, 0.0), (0.0, 0.0, 0.0)])
def test_a_direction_that_vanishes_keeps_its_length(weights: tuple[float, ...]) -> None:
    rows = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [3.0, 0.0]], dtype=torch.float64)
    assert norm_factor(vector(*weights), rows @ rows.T) == 1


@pytest.mark.parametrize("seed", range(4))
def test_rounding_is_not_blown_up(seed: int) -> None:
    rows = torch.randn(3, 1000, generator=torch.Generator().manual_seed(seed))
    rows[2] = -0.3 * rows[0] - 1.7 * rows[1]
    weights = vector(0.1, 17 / 30, 1 / 3)  # the sum is 0, and the Gramian is of float32
    inner = gramian(rows)
    assert weights @ inner @ weights != 0
    assert norm_factor(weights, inner) == 1


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_direction_of_any_length_gets_that_of_the_plain_sum(scale: float) -> None:
    model, tasks = mlp_model()
    wanted = plain_norm(model, tasks)
    step = training_step(model, tasks, GivenDirection([scale] * 3), rescale="norm")
    step([toy_batch()], 0, 0)
    assert shared_norm(model) == pytest.approx(wanted, rel=1e-5)


def test_a_direction_of_zeros_stays() -> None:
    model, tasks = mlp_model()
    step = training_step(model, tasks, GivenDirection([0.0] * 3), rescale="norm")
    step([toy_batch()], 0, 0)
    assert shared_norm(model) == 0


def test_smoothing_comes_before_rescaling() -> None:
    rules = WeightRules(2, smoothing=0.5, rescale="sum")
    rules(vector(1, 3), (0, 1))
    assert rules(vector(4, 0), (0, 1)).tolist() == pytest.approx([1.25, 0.75])  # of (2.5, 1.5)


# -- whole steps ----------------------------------------------------------------------------------


def shared_norm(model: MultiTaskModel) -> float:
    grads = [p.grad.flatten().double() for p in model.shared_parameters()]
    return torch.cat(grads).norm().item()


def plain_norm(model: MultiTaskModel, tasks: dict[str, Task]) -> float:
    plain = plain_gradients(model, tasks, [toy_batch()])
    rows = plain.jacobian(names_of(model, model.shared_parameters()))
    return rows.sum(dim=0).norm().item()


def static(tasks: dict[str, Task]) -> Static:
    weights = {name: abs(weight) for name, weight in WEIGHTS.items()}
    return Static(weights, tasks=task_infos(tasks))


METHODS = {
    "gramian": lambda tasks: Given([0.5, 2.0, 0.75], "weighted"),
    "jacobian": lambda tasks: GivenDirection([0.5, 2.0, 0.75]),
    "losses": static,
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("memory", [0, 1e9])
@pytest.mark.parametrize("method", METHODS)
def test_the_shared_gradient_gets_the_norm_of_the_plain_sum(
    method: str, memory: float, accumulate: int
) -> None:
    model, tasks = mlp_model()
    wanted = plain_norm(model, tasks)
    weighting = METHODS[method](tasks)
    place = None if method == "losses" else "parameters"
    options = {"memory": memory, "accumulate": accumulate, "rescale": "norm"}
    step = training_step(model, tasks, weighting, place, **options)
    figures = step([toy_batch()] * accumulate, 0, 0)
    assert shared_norm(model) == pytest.approx(wanted, rel=1e-5)
    plain, _ = mlp_model()
    free = training_step(plain, tasks, METHODS[method](tasks), place)
    free([toy_batch()], 0, 0)
    factor = wanted / shared_norm(plain)
    assert not 0.9 < factor < 1.1
    for name, gradient in gradients_of(plain).items():
        scaled = method != "jacobian" or name.startswith("architecture")
        assert_near(gradients_of(model)[name], gradient * (factor if scaled else 1))
    if figures.weights is not None:
        assert weights_of(figures) == pytest.approx([f * factor for f in (0.5, 2, 0.75)], rel=1e-5)


@pytest.mark.parametrize("place", ["last_layer", "representation"])
def test_the_norm_is_taken_where_the_gradients_are(place) -> None:
    model, tasks = mlp_model()
    plain = plain_gradients(model, tasks, [toy_batch()])
    rows = torch.stack([plain.cotangents[task].flatten() for task in NAMES])
    if place == "last_layer":
        rows = plain.jacobian(["architecture.backbone.stages.0.2.weight"])
    weights = vector(*WEIGHTS.values())
    factor = rows.sum(dim=0).norm() / (weights @ rows).norm()
    figures = training_step(model, tasks, given(), place, rescale="norm")([toy_batch()], 0, 0)
    assert weights_of(figures) == pytest.approx((weights * factor).tolist(), rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("method", ["gramian", "losses"])
def test_a_sum_of_the_number_of_tasks_in_the_step(method: str, accumulate: int) -> None:
    model, tasks = mlp_model()
    place = "parameters" if method == "gramian" else None
    weighting = METHODS[method](tasks)
    step = training_step(model, tasks, weighting, place, rescale="sum", accumulate=accumulate)
    batch = toy_batch(0, present=("a", "c"))
    plain = plain_gradients(model, tasks, [batch])
    figures = step([batch] * accumulate, 0, 0)
    assert weights_of(figures) == pytest.approx([0.8, 1.2])
    shared = names_of(model, model.shared_parameters())
    check_update(model, plain, shared, {"a": 0.8, "c": 1.2}, "weighted")


class Walking(LossWeighting):
    """Weights 1 + step, 2, 3."""

    def objective(self, losses: list[Tensor]) -> Tensor:
        weights = torch.tensor([1.0 + self.step.step, 2.0, 3.0])
        return (self.pick(weights) * torch.stack(losses)).sum()


class WalkingGramian(Given):
    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        return self.pick(vector(1 + self.step.step, 2, 3))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("method", ["losses", "gramian"])
def test_smoothed_weights_apply(method: str, accumulate: int) -> None:
    model, tasks = mlp_model()
    weighting = Walking() if method == "losses" else WalkingGramian([1.0])
    place = "parameters" if method == "gramian" else None
    step = training_step(model, tasks, weighting, place, smoothing=0.5, accumulate=accumulate)
    shared = names_of(model, model.shared_parameters())
    for number, wanted in enumerate([1, 1.5, 2.25]):
        plain = plain_gradients(model, tasks, [toy_batch(number)])
        figures = step([toy_batch(number)] * accumulate, 0, number)
        assert weights_of(figures) == pytest.approx([wanted, 2, 3])
        heads = "weighted" if method == "losses" else "unweighted"
        check_update(model, plain, shared, {"a": wanted, "b": 2, "c": 3}, heads)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_methods_own_parameters_do_not_feel_the_rescaling(accumulate: int) -> None:
    grads = []
    for rescale in ("none", "sum", "norm"):
        model, tasks = mlp_model()
        weighting = Uncertainty(tasks=task_infos(tasks))
        with torch.no_grad():
            weighting.log_scale.copy_(torch.tensor([0.3, -0.5, 1.0]))
        step = training_step(model, tasks, weighting, None, rescale=rescale, accumulate=accumulate)
        step([toy_batch(number) for number in range(accumulate)], 0, 0)
        grads.append(weighting.log_scale.grad.clone())
    assert grads[0].abs().min() > 0.01
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(grads[2], grads[0], rtol=1e-5, atol=0)
