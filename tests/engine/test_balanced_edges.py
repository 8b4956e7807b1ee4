"""Methods that see task gradients, where networks, numbers or gradients are out of the ordinary."""

from collections.abc import Mapping, Sequence

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
    WEIGHTS,
    WIDTH,
    Branched,
    Given,
    GivenDirection,
    given,
    hps_model,
    linear_head,
    mlp,
    mlp_model,
    toy_batch,
    toy_tasks,
    training_step,
)
from engine_trunks import TRUNKS
from torch import Tensor, nn

from mtlrun.models.model import MultiTaskModel
from mtlrun.weighting.base import Place

# -- parameters that are not reached, frozen, or laid out otherwise -------------------------------


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
        model = hps_model(mlp(), tasks)
        weighting = Given([0.5, 2.0])
        step = training_step(model, tasks, weighting, compiled=compiled)
        step([toy_batch()], 0, 0)
        results.append((weighting.gramians[0], gradients_of(model)))
    assert_gramian(results[1][0], results[0][0])
    for name, gradient in results[0][1].items():
        assert_near(results[1][1][name], gradient)
