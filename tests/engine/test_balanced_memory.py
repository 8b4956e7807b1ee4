"""What the engine keeps from step to step for a method: weights, averages, failures."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from engine_reference import (
    assert_gramian,
    assert_near,
    check_update,
    gradients_of,
    names_of,
    plain_gradients,
)
from engine_toys import (
    NAMES,
    WEIGHTS,
    Given,
    GivenDirection,
    Heads,
    branched_model,
    given,
    mlp_model,
    toy_batch,
    training_step,
    weights_of,
)
from torch import Tensor

from mtlrun.engine.step import TrainingStep
from mtlrun.weighting.solvers import SolverError

EQUAL = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}


class OwnHeads(Given):
    """Heads have weights of their own."""

    factors = torch.tensor([3.0, 0.5, 1.5], dtype=torch.float64)

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        self.head_weights = self.pick(self.factors)
        return super().weights(gramian, losses)


def own_heads(heads: Heads = "weighted") -> OwnHeads:
    return OwnHeads(list(WEIGHTS.values()), heads)


# -- steps that reuse weights ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"memory": 0},
        {"accumulate": 2},
        {"place": "last_layer"},
        {"place": "last_layer", "accumulate": 2},
    ],
)
@pytest.mark.parametrize("branched", [False, True])
@pytest.mark.parametrize("method", ["weighted", "unweighted", "own"])
def test_weights_that_are_reused_apply_as_new_ones_do(
    method: Any, branched: bool, options: dict[str, Any]
) -> None:
    grads = []
    for every in (1, 3):
        model, tasks = branched_model() if branched else mlp_model()
        weighting = own_heads() if method == "own" else given(method)
        step = training_step(model, tasks, weighting, every=every, **options)
        batches = [toy_batch(seed) for seed in range(options.get("accumulate", 1))]
        # The second step lacks a task, and one in one micro-batch.
        later = [toy_batch(7, present=("a", "c")), toy_batch(8, present=("c",))][: len(batches)]
        step(batches, 0, 0)
        step(later, 0, 1)
        grads.append(gradients_of(model))
        assert len(weighting.gramians) == (2 if every == 1 else 1)
    for name, gradient in grads[0].items():
        assert_near(grads[1][name], gradient)


# -- a solver that fails --------------------------------------------------------------------------


class Failing(Given):
    """Fails in the steps named; else its weights are those given, times 1 + step."""

    def __init__(self, steps: Sequence[int], heads: Heads = "unweighted") -> None:
        super().__init__(list(WEIGHTS.values()), heads)
        self.steps = steps

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        if self.step.step in self.steps:
            raise SolverError("it went in circles")
        return super().weights(gramian, losses) * (1 + self.step.step)


@pytest.mark.parametrize("place", ["parameters", "last_layer", "representation"])
@pytest.mark.parametrize("heads", ["weighted", "unweighted"])
def test_a_failing_solver(heads: Heads, place: Any) -> None:
    model, tasks = mlp_model()
    step = training_step(model, tasks, Failing([0, 2, 3], heads), place)
    shared = names_of(model, model.shared_parameters())
    twice = {name: 2 * weight for name, weight in WEIGHTS.items()}
    five = {name: 5 * weight for name, weight in WEIGHTS.items()}
    remarks = ["there are none yet, so equal ones apply", None] + ["the last weights apply"] * 2
    for number, used in enumerate([EQUAL, twice, twice, twice, five]):
        plain = plain_gradients(model, tasks, [toy_batch(number)])
        figures = step([toy_batch(number)], 0, number)
        assert figures.nonfinite is None
        remark = [*remarks, None][number]
        message = f"no weights from the solver (it went in circles); {remark}"
        assert figures.remark == (message if remark else None)
        assert weights_of(figures) == pytest.approx(list(used.values()))
        check_update(model, plain, shared, used, heads)
    assert step.backward.failures == 3


def test_after_a_failure_without_weights_the_next_step_asks_again() -> None:
    model, tasks = mlp_model()
    step = training_step(model, tasks, Failing([0]), every=3)
    assert step([toy_batch(0)], 0, 0).remark is not None
    figures = step([toy_batch(1)], 0, 1)
    assert figures.remark is None
    assert weights_of(figures) == [2 * weight for weight in WEIGHTS.values()]


def test_a_task_without_weights_yet_makes_them_equal() -> None:
    model, tasks = mlp_model()
    step = training_step(model, tasks, Failing([1]))
    step([toy_batch(0, present=("a", "c"))], 0, 0)
    figures = step([toy_batch(1)], 0, 1)
    assert weights_of(figures) == pytest.approx([1 / 3] * 3)


def test_equal_weights_after_a_failure_are_rescaled_as_any() -> None:
    model, tasks = mlp_model()
    figures = training_step(model, tasks, Failing([0]), rescale="sum")([toy_batch()], 0, 0)
    assert weights_of(figures) == pytest.approx([1, 1, 1])


# -- tracked rows ---------------------------------------------------------------------------------


class Tracking(Given):
    """Averages the rows with another scale and rate for each task."""

    tracks_rows = True
    scales = torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64)
    rates = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)

    def tracking(self, losses: Tensor) -> tuple[Tensor, Tensor]:
        self.shown = losses.clone()
        return self.pick(self.scales), self.pick(self.rates)


def tracking() -> Tracking:
    return Tracking(list(WEIGHTS.values()))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_gramian_and_the_update_are_those_of_the_tracked_rows(accumulate: int) -> None:
    model, tasks = mlp_model()
    weighting = tracking()
    step = training_step(model, tasks, weighting, accumulate=accumulate)
    shared = names_of(model, model.shared_parameters())
    average = dict.fromkeys(NAMES, 0.0)
    for number, present in enumerate([NAMES, ("a", "c"), NAMES, ("b",)]):
        batches = [toy_batch(10 * number + i, present=present) for i in range(accumulate)]
        plain = plain_gradients(model, tasks, batches)
        for task, scale, rate in zip(NAMES, Tracking.scales, Tracking.rates, strict=True):
            if task in present:
                row = plain.row(task, shared)
                average[task] = average[task] + rate * (scale * row - average[task])
        figures = step(batches, 0, number)
        rows = torch.stack([average[task] for task in present])
        assert_gramian(weighting.gramians[number], rows @ rows.T)
        assert_gramian(figures.gramian, rows @ rows.T)
        assert_near(weighting.shown, torch.stack(list(plain.losses.values())), 1e-6)
        weights = torch.tensor([WEIGHTS[task] for task in present], dtype=torch.float64)
        grads = gradients_of(model)
        assert_near(torch.cat([grads[name].flatten() for name in shared]), weights @ rows)
        for task in present:
            for name in names_of(model, model.own_parameters(task)):
                assert_near(grads[name], plain.gradients[task][name])


def test_a_bad_step_leaves_the_average_clean() -> None:
    model, tasks = mlp_model()
    step = training_step(model, tasks, tracking(), check=False)
    step([toy_batch(0)], 0, 0)
    before = step.backward.state_dict()["tracked"]
    bad = toy_batch(1)
    bad["rows"].targets["b"][2] = torch.inf
    assert step([bad], 0, 1).nonfinite == 1
    assert torch.equal(step.backward.state_dict()["tracked"], before)


# -- each layer by itself -------------------------------------------------------------------------


class EachLayer(Given):
    """Layer n has the weights given, times n + 1."""

    per_layer = True

    def __init__(self, heads: Heads = "unweighted", fails: bool = False) -> None:
        super().__init__(list(WEIGHTS.values()), heads)
        self.fails = fails

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        weights = super().weights(gramian, losses)
        if self.fails and self.step.step:
            raise SolverError("no")
        return torch.stack([weights * (number + 1) for number in range(len(gramian))])


@pytest.mark.parametrize("heads", ["weighted", "unweighted"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("branched", [False, True])
def test_each_layer_has_a_gramian_and_weights(
    branched: bool, accumulate: int, heads: Heads
) -> None:
    model, tasks = branched_model() if branched else mlp_model()
    batches = [toy_batch(seed, present=("a", "c")) for seed in range(accumulate)]
    plain = plain_gradients(model, tasks, batches)
    weighting = EachLayer(heads)
    figures = training_step(model, tasks, weighting, accumulate=accumulate)(batches, 0, 0)
    layers = [names_of(model, layer) for layer in model.shared_layers()]
    assert [[name.rpartition(".")[2] for name in layer] for layer in layers] == [
        ["weight", "bias"]
    ] * 2
    (seen,) = weighting.gramians
    assert seen.shape == (2, 2, 2)
    for number, layer in enumerate(layers):
        assert_gramian(seen[number], plain.gramian(layer))
        used = {task: WEIGHTS[task] * (number + 1) for task in ("a", "c")}
        for name in layer:
            assert_near(model.get_parameter(name).grad, plain.combined(used, name))
    assert_gramian(figures.gramian, plain.gramian([n for layer in layers for n in layer]))
    mean = {task: 1.5 * WEIGHTS[task] for task in ("a", "c")}
    assert weights_of(figures) == pytest.approx(list(mean.values()))
    for task in ("a", "c"):
        for name in names_of(model, model.own_parameters(task)):
            own = mean if heads == "weighted" else dict.fromkeys(NAMES, 1.0)
            assert_near(model.get_parameter(name).grad, plain.combined({task: own[task]}, name))


def test_where_layers_have_no_answer_the_last_means_apply() -> None:
    model, tasks = mlp_model()
    step = training_step(model, tasks, EachLayer(fails=True))
    step([toy_batch(0)], 0, 0)
    plain = plain_gradients(model, tasks, [toy_batch(1)])
    figures = step([toy_batch(1)], 0, 1)
    mean = {task: 1.5 * weight for task, weight in WEIGHTS.items()}
    assert weights_of(figures) == pytest.approx(list(mean.values()))
    check_update(model, plain, names_of(model, model.shared_parameters()), mean, "unweighted")


# -- going on from a checkpoint -------------------------------------------------------------------


def present_in(number: int) -> tuple[str, ...]:
    return ("a", "c") if number % 3 == 1 else NAMES


def go(step: TrainingStep, numbers: Sequence[int]) -> None:
    for number in numbers:
        step([toy_batch(number, present=present_in(number))], 0, number)


@pytest.mark.parametrize("stop", [1, 2, 5])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (given, {"every": 4, "smoothing": 0.7, "rescale": "norm"}),
        (lambda: given("weighted"), {"every": 3, "place": "last_layer", "rescale": "sum"}),
        (own_heads, {"every": 4}),
        (own_heads, {"every": 2, "place": "representation", "smoothing": 0.5}),
        (tracking, {"smoothing": 0.9, "rescale": "norm"}),
        (EachLayer, {}),
        (lambda: EachLayer(fails=True), {}),
        (lambda: Failing([0, 2, 3, 5], "weighted"), {"smoothing": 0.5}),
        (lambda: GivenDirection([1.0, 2.0, 0.5]), {"rescale": "norm"}),
    ],
)
def test_a_run_that_is_resumed_ends_the_same(make, options: dict[str, Any], stop: int) -> None:
    def fresh() -> TrainingStep:
        model, tasks = mlp_model()
        return training_step(model, tasks, make(), optimizer=torch.optim.Adam, **options)

    whole, first, second = fresh(), fresh(), fresh()
    go(whole, range(7))
    go(first, range(stop))
    second.model.load_state_dict(copy.deepcopy(first.model.state_dict()))
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.backward.load_state_dict(copy.deepcopy(first.backward.state_dict()))
    go(second, range(stop, 7))
    for one, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)
    state, expected = second.backward.state_dict(), whole.backward.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0, equal_nan=True)
