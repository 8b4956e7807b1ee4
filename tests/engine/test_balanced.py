"""Steps of methods that see task gradients, against plain autograd."""

import copy

import pytest
import torch
from engine_reference import assert_gramian, assert_near, check_update, names_of, plain_gradients
from engine_toys import (
    NAMES,
    RATE,
    WEIGHTS,
    WIDTH,
    Given,
    GivenDirection,
    Heads,
    branched_model,
    given,
    hps_model,
    mlp,
    mlp_model,
    toy_batch,
    toy_targets,
    toy_tasks,
    training_step,
    weights_of,
)
from engine_trunks import ROWS, TRUNKS
from engine_ways import WAYS, force, memory_of
from torch import Tensor, nn

from mtlrun.types import Batch, StreamBatch
from mtlrun.weighting.base import Place

# -- trunks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "heads"), [*((way, "unweighted") for way in WAYS), ("chosen", "weighted")]
)
@pytest.mark.parametrize("name", TRUNKS)
def test_gramian_and_update_are_those_of_plain_autograd(
    name: str, way: str, heads: Heads, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = TRUNKS[name]
    torch.manual_seed(1)
    tasks = toy_tasks()
    model = hps_model(trunk.make(), tasks)
    inputs = trunk.inputs(torch.Generator().manual_seed(2))
    batch = toy_batch(rows=ROWS, inputs=inputs)
    plain = plain_gradients(model, tasks, [batch], double=not trunk.random, step=4)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    weighting = given(heads)
    step = training_step(model, tasks, weighting, memory=memory_of(way))
    force(way, step, monkeypatch)

    figures = step([batch], epoch=0, step=4)

    shared = names_of(model, model.shared_parameters())
    (seen,) = weighting.gramians
    assert_gramian(seen, plain.gramian(shared))
    assert seen.diagonal().min() > 0
    assert torch.linalg.eigvalsh(seen).min() > -1e-6 * seen.trace()
    assert torch.equal(figures.gramian, seen)
    assert_near(weighting.losses[0], torch.stack(list(plain.losses.values())), 1e-6)
    check_update(model, plain, shared, WEIGHTS, heads)
    for name, parameter in model.named_parameters():
        moved = 0 if parameter.grad is None else RATE * parameter.grad
        torch.testing.assert_close(parameter.detach(), before[name] - moved)


def test_running_statistics_advance_once_a_step() -> None:
    torch.manual_seed(1)
    tasks = toy_tasks()
    model = hps_model(TRUNKS["batch_norm"].make(), tasks)
    inputs = TRUNKS["batch_norm"].inputs(torch.Generator().manual_seed(2))
    once = copy.deepcopy(model)
    once.architecture({"rows": inputs}, NAMES)
    training_step(model, tasks, given())([toy_batch(rows=ROWS, inputs=inputs)], 0, 0)
    buffers = dict(model.named_buffers())
    assert any("running_mean" in name for name in buffers)
    for name, buffer in once.named_buffers():
        assert torch.equal(buffers[name], buffer), name


def test_a_dropout_mask_is_the_same_for_all_tasks_and_new_each_step() -> None:
    torch.manual_seed(1)
    tasks = toy_tasks()
    model = hps_model(nn.Sequential(nn.Linear(5, WIDTH), nn.Dropout(0.5)), tasks)
    weighting = given()
    step = training_step(model, tasks, weighting, optimizer=Still)
    for number in (0, 1, 0):
        step([toy_batch()], 0, number)
    first, second, again = weighting.gramians
    assert torch.equal(first, again)
    assert not torch.allclose(first, second, rtol=1e-3)


class Still(torch.optim.SGD):
    """Moves nothing."""

    def __init__(self, groups, lr: float) -> None:
        super().__init__(groups, lr=0.0)


# -- where gradients are taken --------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["unweighted", "weighted"])
@pytest.mark.parametrize("place", ["parameters", "last_layer", "representation"])
def test_places_by_their_definitions(place: Place, heads: Heads) -> None:
    model, tasks = mlp_model()
    batch = toy_batch()
    plain = plain_gradients(model, tasks, [batch])
    weighting = given(heads)
    step = training_step(model, tasks, weighting, place)
    figures = step([batch], 0, 0)

    shared = names_of(model, model.shared_parameters())
    if place == "parameters":
        expected = plain.gramian(shared)
    elif place == "last_layer":
        expected = plain.gramian(["architecture.backbone.stages.0.2.weight"])
    else:
        rows = torch.stack([plain.cotangents[task].flatten() for task in NAMES])
        assert rows.shape == (3, 7 * WIDTH)
        expected = rows @ rows.T
    assert_gramian(weighting.gramians[0], expected)
    assert weights_of(figures) == list(WEIGHTS.values())
    # Wherever they are seen, the weights apply to the gradients on all shared parameters.
    check_update(model, plain, shared, WEIGHTS, heads)


def test_representation_of_maps() -> None:
    class Pooled(nn.Module):
        def __init__(self, outputs: int) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, outputs)

        def forward(self, features: Tensor) -> Tensor:
            return self.linear(features.mean((2, 3)))

    torch.manual_seed(0)
    tasks = toy_tasks()
    heads = {name: Pooled(task.output_size) for name, task in tasks.items()}
    model = hps_model(nn.Conv2d(3, WIDTH, 3), tasks, heads=heads)
    batch = toy_batch(rows=4, inputs=torch.randn(4, 3, 6, 6))
    plain = plain_gradients(model, tasks, [batch])
    weighting = given()
    training_step(model, tasks, weighting, "representation")([batch], 0, 0)
    rows = torch.stack([plain.cotangents[task].flatten() for task in NAMES])
    assert rows.shape == (3, 4 * WIDTH * 16)
    assert_gramian(weighting.gramians[0], rows @ rows.T)
    check_update(model, plain, names_of(model, model.shared_parameters()), WEIGHTS, "unweighted")


@pytest.mark.parametrize("heads", ["unweighted", "weighted"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("place", ["parameters", "last_layer"])
def test_parameters_of_single_tasks_inside_the_trunk(
    place: Place, accumulate: int, heads: Heads
) -> None:
    model, tasks = branched_model()
    batches = [toy_batch(seed) for seed in range(accumulate)]
    plain = plain_gradients(model, tasks, batches)
    weighting = given(heads)
    training_step(model, tasks, weighting, place, accumulate=accumulate)(batches, 0, 0)
    shared = names_of(model, model.shared_parameters())
    assert [name.split(".")[1] for name in shared] == ["below", "below", "above", "above"]
    seen = shared if place == "parameters" else ["architecture.above.weight"]
    assert_gramian(weighting.gramians[0], plain.gramian(seen))
    check_update(model, plain, shared, WEIGHTS, heads)
    assert model.architecture.middle[1].weight.grad is not None


def test_the_representation_is_one_tensor_that_all_tasks_read() -> None:
    model, tasks = branched_model()
    with pytest.raises(AssertionError):
        training_step(model, tasks, given(), "representation")


# -- several streams ------------------------------------------------------------------------------


def two_streams(seed: int) -> Batch:
    x, y = toy_targets(7, seed), toy_targets(4, seed + 1)
    draws = torch.Generator().manual_seed(seed)
    return {
        "x": StreamBatch(torch.randn(7, 5, generator=draws), {"a": x["a"]}, ("a",)),
        "y": StreamBatch(
            torch.randn(4, 5, generator=draws), {"b": y["b"], "c": y["c"]}, ("b", "c")
        ),
    }


@pytest.mark.parametrize("heads", ["unweighted", "weighted"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("place", ["parameters", "last_layer"])
def test_streams_of_different_sizes(place: Place, accumulate: int, heads: Heads) -> None:
    layers = nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, WIDTH)
    tasks = toy_tasks()
    model = hps_model(nn.Sequential(*layers), tasks, streams={"x": ("a",), "y": ("b", "c")})
    batches = [two_streams(seed) for seed in range(accumulate)]
    plain = plain_gradients(model, tasks, batches)
    weighting = given(heads)
    training_step(model, tasks, weighting, place, accumulate=accumulate)(batches, 0, 0)
    shared = names_of(model, model.shared_parameters())
    seen = shared if place == "parameters" else ["architecture.backbone.stages.0.3.weight"]
    assert_gramian(weighting.gramians[0], plain.gramian(seen))
    check_update(model, plain, shared, WEIGHTS, heads)
    batch_norm = model.architecture.backbone.stages[0][1]
    assert batch_norm.num_batches_tracked == 2 * accumulate  # a pass for each stream


# -- methods that see the Jacobian ----------------------------------------------------------------


def test_the_jacobian_is_that_of_plain_autograd() -> None:
    model, tasks = mlp_model()
    batches = [toy_batch(0), toy_batch(1, present=("a", "b"))]
    plain = plain_gradients(model, tasks, batches)
    weighting = GivenDirection(list(WEIGHTS.values()))
    figures = training_step(model, tasks, weighting, accumulate=2)(batches, 0, 0)
    shared = names_of(model, model.shared_parameters())
    (seen,) = weighting.jacobians
    assert seen.dtype == torch.float32
    for row, expected in zip(seen, plain.jacobian(shared), strict=True):
        assert_near(row, expected)
    assert figures.weights is None
    assert figures.gramian is not None
    assert_gramian(figures.gramian, plain.gramian(shared))
    check_update(model, plain, shared, WEIGHTS, "unweighted")


def test_one_task() -> None:
    torch.manual_seed(0)
    tasks = {"b": toy_tasks()["b"]}
    model = hps_model(mlp(), tasks)
    batch = toy_batch()
    plain = plain_gradients(model, tasks, [batch])
    weighting = Given([3.0])
    training_step(model, tasks, weighting)([batch], 0, 0)
    shared = names_of(model, model.shared_parameters())
    assert_gramian(weighting.gramians[0], plain.gramian(shared))
    check_update(model, plain, shared, {"b": 3.0}, "unweighted")
