"""Steps of methods that see task gradients, against plain autograd."""

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
import torch
from engine_toys import (
    NAMES,
    RATE,
    WIDTH,
    Given,
    GivenDirection,
    Heads,
    assert_gramian,
    assert_near,
    gradients_of,
    hps_model,
    linear_head,
    mlp,
    mlp_model,
    names_of,
    plain_gradients,
    task_infos,
    toy_batch,
    toy_targets,
    toy_tasks,
    training_step,
    weights_of,
)
from engine_trunks import ROWS, TRUNKS
from torch import Tensor, nn

from mtlrun.engine.balanced import FromGradients
from mtlrun.models.architectures.base import Architecture
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Task
from mtlrun.types import Batch, StreamBatch
from mtlrun.weighting.base import Place
from mtlrun.weighting.gradnorm import GradNorm

WEIGHTS = {"a": 0.5, "b": 2.0, "c": -0.75}


def given(heads: Heads = "unweighted") -> Given:
    return Given(list(WEIGHTS.values()), heads)


def check_update(
    model: MultiTaskModel,
    plain,
    shared: Sequence[str],
    weights: Mapping[str, float],
    heads: Heads,
    relative: float = 1e-5,
) -> None:
    """``.grad`` of every parameter is the weighted sum, or the task's own."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None
            continue
        own = weights if name in shared or heads == "weighted" else dict.fromkeys(weights, 1.0)
        assert_near(parameter.grad, plain.combined(own, name), relative)


# -- trunks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["unweighted", "weighted"])
@pytest.mark.parametrize("name", TRUNKS)
def test_gramian_and_update_are_those_of_plain_autograd(name: str, heads: Heads) -> None:
    trunk = TRUNKS[name]
    torch.manual_seed(1)
    tasks = toy_tasks()
    model = hps_model(trunk.make(), tasks)
    inputs = trunk.inputs(torch.Generator().manual_seed(2))
    batch = toy_batch(rows=ROWS, inputs=inputs)
    plain = plain_gradients(model, tasks, [batch], double=not trunk.random, step=4)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    weighting = given(heads)
    step = training_step(model, tasks, weighting)

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


class Branched(Architecture):
    """A shared layer, a layer of each task, and a second shared layer on top of it."""

    def __init__(self) -> None:
        super().__init__(make_backbone=lambda _: None, streams={"rows": NAMES})  # type: ignore[arg-type, return-value]
        self.below = nn.Linear(5, 8)
        self.middle = nn.ModuleList(nn.Linear(8, 8) for _ in NAMES)
        self.above = nn.Linear(8, WIDTH)

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        below = torch.tanh(self.below(inputs["rows"]))
        branches = {task: self.middle[NAMES.index(task)](below) for task in tasks}
        return {task: self.above(torch.tanh(hidden)) for task, hidden in branches.items()}

    def shared_parameters(self) -> list[nn.Parameter]:
        return [*self.below.parameters(), *self.above.parameters()]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        return list(self.middle[NAMES.index(task)].parameters())

    def last_shared_layer(self) -> list[nn.Parameter]:
        return [self.above.weight]

    def out_channels(self, task: str) -> int:
        return WIDTH

    def spatial(self, task: str) -> bool:
        return False


def branched_model() -> tuple[MultiTaskModel, dict[str, Task]]:
    torch.manual_seed(0)
    tasks = toy_tasks()
    heads = {name: linear_head(task) for name, task in tasks.items()}
    return MultiTaskModel(Branched(), heads), tasks


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


# -- micro-batches --------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["unweighted", "weighted"])
@pytest.mark.parametrize("place", ["parameters", "last_layer"])
def test_rows_of_micro_batches_add(place: Place, heads: Heads) -> None:
    model, tasks = mlp_model()
    # Task b has labels in the second alone, c in the first alone: their shares are 1, a's a half.
    batches = [toy_batch(0, rows=7, present=("a", "c")), toy_batch(1, rows=5, present=("a", "b"))]
    plain = plain_gradients(model, tasks, batches)
    weighting = given(heads)
    figures = training_step(model, tasks, weighting, place, accumulate=2)(batches, 0, 0)
    shared = names_of(model, model.shared_parameters())
    seen = shared if place == "parameters" else ["architecture.backbone.stages.0.2.weight"]
    assert figures.present == (0, 1, 2)
    assert_near(torch.stack(figures.losses), torch.stack([plain.losses[n] for n in NAMES]), 1e-6)
    order = {task: plain.gradients[task] for task in NAMES}
    plain.gradients = order
    assert_gramian(weighting.gramians[0], plain.gramian(seen))
    check_update(model, plain, shared, WEIGHTS, heads)


def test_a_micro_batch_without_any_label_counts_for_nothing() -> None:
    batches = [toy_batch(0), toy_batch(1, present=())]
    grads = []
    for used, accumulate in ((batches, 2), (batches[::-1], 2), (batches[:1], 1)):
        model, tasks = mlp_model()
        training_step(model, tasks, given(), accumulate=accumulate)(used, 0, 0)
        grads.append(gradients_of(model))
    for name, expected in grads[2].items():
        assert_near(grads[0][name], expected, 1e-7)
        assert_near(grads[1][name], expected, 1e-7)


# -- absent tasks and unreached parameters --------------------------------------------------------


@pytest.mark.parametrize("place", ["parameters", "last_layer", "representation"])
def test_an_absent_task_is_left_alone(place: Place) -> None:
    model, tasks = mlp_model()
    weighting = given()
    step = training_step(model, tasks, weighting, place, torch.optim.Adam)
    step([toy_batch(0)], 0, 0)
    head = model.head_of["b"]
    weights = [parameter.detach().clone() for parameter in head.parameters()]
    state = copy.deepcopy([step.optimizer.state[parameter] for parameter in head.parameters()])

    batch = toy_batch(1, present=("a", "c"))
    plain = plain_gradients(model, tasks, [batch])
    figures = step([batch], 0, 1)

    assert figures.present == (0, 2)
    assert weighting.gramians[1].shape == (2, 2)
    assert weights_of(figures) == [WEIGHTS["a"], WEIGHTS["c"]]
    shared = names_of(model, model.shared_parameters())
    present = {"a": WEIGHTS["a"], "c": WEIGHTS["c"]}
    check_update(model, plain, shared, present, "unweighted")
    for parameter, before, held in zip(head.parameters(), weights, state, strict=True):
        assert parameter.grad is None
        assert torch.equal(parameter, before)
        now = step.optimizer.state[parameter]
        assert all(torch.equal(now[key], held[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_a_parameter_that_no_task_reaches_is_not_decayed() -> None:
    torch.manual_seed(1)
    tasks = toy_tasks()
    model = hps_model(TRUNKS["unused_and_frozen"].make(), tasks)
    unused = model.architecture.backbone.stages[0].unused.weight
    before = unused.detach().clone()
    step = training_step(model, tasks, given(), optimizer=Decaying)
    for number in range(3):
        step([toy_batch(number)], 0, number)
    assert unused.grad is None
    assert torch.equal(unused, before)
    assert unused not in step.optimizer.state


class Decaying(torch.optim.SGD):
    def __init__(self, groups, lr: float) -> None:
        super().__init__(groups, lr=lr, momentum=0.9, weight_decay=0.1)


class Detached(Branched):
    """Task b reads the inputs themselves: it reaches no shared parameter."""

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        found = super().features(inputs, [task for task in tasks if task != "b"])
        own = self.middle[1](torch.nn.functional.pad(inputs["rows"], (0, 3)))[:, :WIDTH]
        return {task: found.get(task, own) for task in tasks}


@pytest.mark.parametrize("place", ["parameters", "last_layer"])
def test_a_task_that_reaches_no_shared_parameter_has_a_zero_gradient(place: Place) -> None:
    torch.manual_seed(0)
    tasks = toy_tasks()
    heads = {name: linear_head(task) for name, task in tasks.items()}
    model = MultiTaskModel(Detached(), heads)
    plain = plain_gradients(model, tasks, [toy_batch()])
    weighting = given()
    training_step(model, tasks, weighting, place)([toy_batch()], 0, 0)
    assert weighting.gramians[0][1].tolist() == [0, 0, 0]
    assert weighting.gramians[0][0, 0] > 0
    check_update(model, plain, names_of(model, model.shared_parameters()), WEIGHTS, "unweighted")


@pytest.mark.parametrize("place", ["parameters", "last_layer", "representation"])
def test_a_frozen_head_still_sends_its_gradient_to_the_trunk(place: Place) -> None:
    model, tasks = mlp_model()
    model.head_of["b"].requires_grad_(False)
    plain = plain_gradients(model, tasks, [toy_batch()])
    training_step(model, tasks, given(), place)([toy_batch()], 0, 0)
    check_update(model, plain, names_of(model, model.shared_parameters()), WEIGHTS, "unweighted")


class Crosswise(nn.Module):
    """A head with a parameter that lies in memory by columns; its gradient comes by rows."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, outputs)
        self.crosswise = nn.Parameter(torch.zeros(2, 3).t())
        self.register_buffer("factors", torch.randn(3, 2))

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features) + (self.crosswise * self.factors).sum()


class FusedAdam(torch.optim.Adam):
    def __init__(self, groups, lr: float) -> None:
        super().__init__(groups, lr=lr, fused=True)


@pytest.mark.parametrize("place", ["parameters", "last_layer", "representation"])
def test_fused_optimizers_get_gradients_laid_out_as_the_parameters(place: Place) -> None:
    # They walk memory in order whatever the strides say, and say nothing.
    ends = []
    for optimizer in (FusedAdam, torch.optim.Adam):
        torch.manual_seed(0)
        tasks = toy_tasks()
        heads = {"c": Crosswise(2)}
        trunk = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, WIDTH)
        )
        model = hps_model(trunk, tasks, heads=heads)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        step = training_step(model, tasks, given(), place, optimizer)
        for number in range(3):
            inputs = torch.randn(7, 3, 6, 6, generator=torch.Generator().manual_seed(number))
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            step([toy_batch(number, inputs=inputs)], 0, number)
        ends.append(model)
    for fused, plain in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


# -- refreshes ------------------------------------------------------------------------------------


class Counting(Given):
    """Call number n gives the weights 10 n + 1, 10 n + 2, 10 n + 3."""

    def __init__(self) -> None:
        super().__init__([1.0, 2.0, 3.0])

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        return super().weights(gramian, losses) + 10 * (len(self.gramians) - 1)


@pytest.mark.parametrize("place", ["parameters", "last_layer", "representation"])
def test_weights_are_reused_between_refreshes(place: Place) -> None:
    model, tasks = mlp_model()
    weighting = Counting()
    step = training_step(model, tasks, weighting, place, every=3)
    shown = []
    for number in range(7):
        batch = toy_batch(number)
        plain = plain_gradients(model, tasks, [batch])
        figures = step([batch], 0, number)
        assert (figures.gramian is not None) == (number % 3 == 0)
        shown.append(weights_of(figures)[0])
        used = dict(zip(NAMES, weights_of(figures), strict=True))
        shared = names_of(model, model.shared_parameters())
        check_update(model, plain, shared, used, "unweighted")
    assert shown == [1, 1, 1, 11, 11, 11, 21]
    assert len(weighting.gramians) == 3


def test_reused_weights_survive_a_checkpoint() -> None:
    def run(numbers: Sequence[int], state=None, model=None):
        if model is None:
            model, tasks = mlp_model()
        tasks = toy_tasks()
        weighting = Counting()
        step = training_step(model, tasks, weighting, every=4)
        if state is not None:
            step.backward.load_state_dict(state)
        weights = [step([toy_batch(n)], 0, n).weights for n in numbers]
        return weights, step.backward.state_dict(), model, weighting

    whole, _, expected, _ = run(range(4))
    _, state, model, _ = run(range(2))
    assert state["last_weights"].tolist() == [1, 2, 3]
    resumed, _, model, weighting = run([2, 3], state, model)
    assert [w.tolist() for w in resumed] == [w.tolist() for w in whole[2:]]
    assert weighting.gramians == []  # nothing was asked anew
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_task_without_weights_yet_asks_for_a_refresh() -> None:
    model, tasks = mlp_model()
    weighting = Counting()
    step = training_step(model, tasks, weighting, every=10)
    step([toy_batch(0, present=("a", "c"))], 0, 0)
    assert step([toy_batch(1, present=("a", "c"))], 0, 1).gramian is None
    figures = step([toy_batch(2)], 0, 2)
    assert figures.gramian is not None
    assert weights_of(figures) == [11, 12, 13]


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


# -- NaN and infinity -----------------------------------------------------------------------------


class Root(nn.Module):
    """Finite predictions, and infinite gradients on the features where ``broken``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features) + (features[:, :1] * 0).abs().sqrt()


def snapshot(step) -> list[Tensor]:
    state = [v for s in step.optimizer.state.values() for v in s.values() if v is not None]
    parts = [*step.model.state_dict().values(), *step.backward.state_dict().values(), *state]
    return [part.clone() for part in parts]


def assert_same(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("fault", ["infinite loss", "NaN loss", "infinite gradient"])
@pytest.mark.parametrize(
    ("method", "place"),
    [
        ("gramian", "parameters"),
        ("gramian", "last_layer"),
        ("gramian", "representation"),
        ("jacobian", "parameters"),
    ],
)
def test_nothing_moves_where_a_loss_or_gradient_is_not_finite(
    fault: str, method: str, place: Place
) -> None:
    model, tasks = mlp_model(heads={"b": Root()} if fault == "infinite gradient" else None)
    weighting = given() if method == "gramian" else GivenDirection(list(WEIGHTS.values()))
    step = training_step(model, tasks, weighting, place, torch.optim.Adam)
    good = toy_batch(0, present=("a", "c"))
    assert step([good], 0, 0).nonfinite is None
    before = snapshot(step)
    asked = len(weighting.state_dict()), len(getattr(weighting, "gramians", []))

    bad = toy_batch(1)
    if fault == "infinite loss":
        bad["rows"].targets["b"][2] = torch.inf
    elif fault == "NaN loss":
        bad["rows"].inputs[0, 0] = torch.nan
    figures = step([bad], 0, 1)

    assert figures.nonfinite == (0 if fault == "NaN loss" else 1)
    if fault == "infinite gradient":
        assert bool(torch.isfinite(torch.stack(figures.losses)).all())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert_same(snapshot(step), before)
    assert (len(weighting.state_dict()), len(getattr(weighting, "gramians", []))) == asked


@pytest.mark.parametrize("micro", [0, 1])
def test_a_bad_micro_batch_spoils_its_step(micro: int) -> None:
    model, tasks = mlp_model()
    step = training_step(model, tasks, given(), accumulate=2)
    batches = [toy_batch(0), toy_batch(1)]
    batches[micro]["rows"].targets["c"][0, 1] = torch.inf
    before = snapshot(step)
    assert step(batches, 0, 0).nonfinite == 2
    assert_same(snapshot(step), before)
    assert step([toy_batch(2), toy_batch(3)], 0, 1).nonfinite is None


def test_without_the_check_a_bad_loss_is_seen_in_the_gramian() -> None:
    model, tasks = mlp_model()
    step = training_step(model, tasks, given(), check=False)
    bad = toy_batch(1)
    bad["rows"].targets["b"][2] = torch.inf
    before = snapshot(step)
    assert step([bad], 0, 0).nonfinite == 1
    assert_same(snapshot(step), before)


# -- precision and compilation --------------------------------------------------------------------


@pytest.mark.parametrize("place", ["parameters", "last_layer", "representation"])
def test_bfloat16_is_near_float32(place: Place) -> None:
    results = []
    for amp in (False, True):
        model, tasks = mlp_model()
        weighting = given()
        training_step(model, tasks, weighting, place, amp=amp)([toy_batch()], 0, 0)
        results.append((weighting.gramians[0], gradients_of(model)))
    (exact, wanted), (rough, found) = results
    assert not torch.equal(rough, exact)
    assert_gramian(rough, exact, relative=0.03)
    for name, gradient in wanted.items():
        assert found[name].dtype == torch.float32
        assert_near(found[name], gradient, relative=0.03)


@pytest.mark.slow
def test_compiled_parts_give_the_same_step() -> None:
    results = []
    tasks = {name: task for name, task in toy_tasks().items() if name != "c"}
    for compiled in (False, True):
        torch.manual_seed(0)
        model = hps_model(nn.Linear(5, WIDTH), tasks)
        weighting = Given([0.5, 2.0])
        step = training_step(model, tasks, weighting, compiled=compiled)
        step([toy_batch()], 0, 0)
        results.append((weighting.gramians[0], gradients_of(model)))
    assert_gramian(results[1][0], results[0][0])
    for name, gradient in results[0][1].items():
        assert_near(results[1][1][name], gradient)


# -- GradNorm's own parameters --------------------------------------------------------------------


def test_trainable_weights_move_at_refreshes_only() -> None:
    model, tasks = mlp_model()
    weighting = GradNorm(tasks=task_infos(tasks))
    step = training_step(model, tasks, weighting, "last_layer", torch.optim.Adam, every=2)
    held = [weighting.task_weights.detach().clone()]
    for number in range(4):
        step([toy_batch(number)], 0, number)
        held.append(weighting.task_weights.detach().clone())
    moved = [not torch.equal(a, b) for a, b in pairwise(held)]
    assert moved == [True, False, True, False]
    assert held[-1].sum().item() == pytest.approx(3, rel=1e-12)


def test_buffers_of_rows_are_made_once() -> None:
    model, tasks = mlp_model()
    step = training_step(model, tasks, given())
    assert isinstance(step.backward, FromGradients)
    places = set()
    for number in range(3):
        step([toy_batch(number)], 0, number)
        assert step.backward.rows is not None
        grads = [p.grad for p in model.shared_parameters()]
        places.add((step.backward.rows.buffer.data_ptr(), *(g.data_ptr() for g in grads)))
    assert len(places) == 1


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
