"""What holds in each of the engine's ways to task gradients: precision, absence, tidiness."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy
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
    WIDTH,
    GivenDirection,
    given,
    hps_model,
    mlp_model,
    toy_batch,
    toy_tasks,
    training_step,
    weights_of,
)
from engine_trunks import TRUNKS, Trunk, vectors
from engine_ways import force, memory_of
from test_balanced_trunks import TRUNKS as ODD_TRUNKS
from torch import Tensor, nn

from mtlrun.engine.kernels import LinearKernel
from mtlrun.engine.step import TrainingStep
from mtlrun.tasks.base import Task

WAYS = ["plain", "kernels", "batched", "segments"]
PLACES = ["last_layer", "representation"]


# -- precision ------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """Changes a layer's inputs in place after it: under autocast the layer keeps a cast copy."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.clone()
        hidden = torch.tanh(self.first(inputs))
        inputs = inputs.mul_(5) if torch.is_autocast_enabled("cpu") else inputs * 5
        return self.last(hidden + inputs)


BFLOAT = {
    **{name: TRUNKS[name] for name in ("embedding", "tied_weight", "called_twice", "gru")},
    **{name: ODD_TRUNKS[name] for name in ("functional", "functional_first", "strided", "skips")},
    "scaled": Trunk(Scaled, vectors),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BFLOAT)
def test_bfloat16_is_near_float32(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    tasks = toy_tasks()
    model = hps_model(BFLOAT[name].make(), tasks)
    batch = toy_batch(inputs=BFLOAT[name].inputs(torch.Generator().manual_seed(2)))
    plain = plain_gradients(model, tasks, [batch])
    weighting = given()
    step = training_step(model, tasks, weighting, memory=memory_of(way), amp=True)
    force(way, step, monkeypatch)
    step([batch], 0, 0)
    shared = names_of(model, model.shared_parameters())
    assert_gramian(weighting.gramians[0], plain.gramian(shared), relative=0.04)
    check_update(model, plain, shared, WEIGHTS, "unweighted", relative=0.06)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("way", WAYS)
def test_a_network_in_float64(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tasks = mlp_model()
    model.double()
    batch = toy_batch()
    batch["rows"].inputs = batch["rows"].inputs.double()
    plain = plain_gradients(model, tasks, [batch])
    weighting = given()
    step = training_step(model, tasks, weighting, memory=memory_of(way))
    force(way, step, monkeypatch)
    step([batch], 0, 0)
    shared = names_of(model, model.shared_parameters())
    assert_gramian(weighting.gramians[0], plain.gramian(shared), 1e-6)  # predictions are float32
    check_update(model, plain, shared, WEIGHTS, "unweighted", 1e-6)
    assert all(p.grad.dtype == torch.float64 for p in model.parameters())


# -- tasks and batches of other sizes -------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_steps_with_other_tasks_and_rows(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tasks = mlp_model()
    weighting = given()
    step = training_step(model, tasks, weighting, memory=memory_of(way))
    force(way, step, monkeypatch)
    shared = names_of(model, model.shared_parameters())
    for number, (rows, present) in enumerate(
        [(7, NAMES), (4, NAMES), (7, ("a", "c")), (3, ("b",)), (7, NAMES)]
    ):
        batch = toy_batch(number, rows=rows, present=present)
        plain = plain_gradients(model, tasks, [batch])
        step([batch], 0, number)
        assert_gramian(weighting.gramians[number], plain.gramian(shared))
        used = {name: WEIGHTS[name] for name in present}
        check_update(model, plain, shared, used, "unweighted")


@pytest.mark.parametrize("way", WAYS)
def test_bad_gradients_leave_nothing_behind(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tasks = mlp_model()
    weighting = given()
    step = training_step(model, tasks, weighting, memory=memory_of(way), check=False)
    force(way, step, monkeypatch)
    bad = toy_batch(0)
    bad["rows"].targets["c"][0] = torch.inf
    assert step([bad], 0, 0).nonfinite == 2
    assert weighting.gramians == []
    plain = plain_gradients(model, tasks, [toy_batch(1)])
    step([toy_batch(1)], 0, 1)
    shared = names_of(model, model.shared_parameters())
    assert_gramian(weighting.gramians[0], plain.gramian(shared))
    check_update(model, plain, shared, WEIGHTS, "unweighted")


# -- the Jacobian at the representation -----------------------------------------------------------


class AtRepresentation(GivenDirection):
    place = "representation"

    def __init__(self, heads: str = "unweighted") -> None:
        super().__init__(list(WEIGHTS.values()))
        self.heads = heads  # type: ignore[misc]

    def direction(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        self.task_weights = self.pick(self.fixed)
        return super().direction(jacobian, losses)


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("heads", ["weighted", "unweighted"])
@pytest.mark.parametrize("present", [NAMES, ("a", "c")])
def test_a_direction_at_the_representation(present: Any, heads: Any, amp: bool) -> None:
    model, tasks = mlp_model()
    batch = toy_batch(present=present)
    plain = plain_gradients(model, tasks, [batch])
    weighting = AtRepresentation(heads)
    figures = training_step(model, tasks, weighting, "representation", amp=amp)([batch], 0, 0)
    relative = 0.04 if amp else 1e-5
    rows = torch.stack([plain.cotangents[task].flatten() for task in present])
    for row, expected in zip(weighting.jacobians[0], rows, strict=True):
        assert row.dtype == torch.float32
        assert_near(row, expected, relative)
    assert_gramian(figures.gramian, rows @ rows.T, relative)
    assert weights_of(figures) == [WEIGHTS[name] for name in present]
    used = {name: WEIGHTS[name] for name in present}
    shared = names_of(model, model.shared_parameters())
    check_update(model, plain, shared, used, heads, relative)


@pytest.mark.parametrize("place", PLACES)
def test_one_pass_needs_no_memory_for_rows(place: Any) -> None:
    model, tasks = mlp_model()
    backward = training_step(model, tasks, given(), place).backward
    assert backward.rows.held.buffer.numel() == 0
    backward = training_step(model, tasks, given(), "last_layer", accumulate=2).backward
    assert backward.rows.held.buffer.shape == (3, 102)


# -- nothing stays behind -------------------------------------------------------------------------


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


Memories = list["weakref.ref[Any]"]


def remembered(tensor: Tensor, memories: Memories) -> Tensor:
    """A copy in memory whose end shows."""
    array = tensor.detach().numpy().copy()
    memories.append(weakref.ref(array))
    return torch.from_numpy(array)


class Watched(torch.autograd.Function):
    """Gives a copy of its input in memory whose end shows."""

    @staticmethod
    def forward(context: Any, inputs: Tensor, memories: Memories) -> Tensor:
        return remembered(inputs, memories)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class WatchedTrunk(nn.Module):
    """Layers whose inputs and features are watched."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, WIDTH)
        self.memories: Memories = []
        self.fails = False

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = Watched.apply(torch.tanh(self.first(inputs)), self.memories)
        features = Watched.apply(self.last(hidden), self.memories)
        if self.fails:
            raise ZeroDivisionError
        return features


def watched_step(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[WatchedTrunk, TrainingStep, Callable[[int], Any]]:
    torch.manual_seed(0)
    tasks: dict[str, Task] = toy_tasks()
    trunk = WatchedTrunk()
    model = hps_model(trunk, tasks)
    place: Any = way if way in PLACES else "parameters"
    step = training_step(model, tasks, given(), place, memory=memory_of(way), check=False)
    if place == "parameters":
        force(way, step, monkeypatch)

    def go(number: int, bad: bool = False) -> Any:
        batch = toy_batch(number)
        batch["rows"].inputs = remembered(batch["rows"].inputs, trunk.memories)
        if bad:
            batch["rows"].targets["c"][0] = torch.inf
        return step([batch], 0, number)

    return trunk, step, go


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("way", WAYS + PLACES)
def test_a_step_keeps_no_tensor_of_its_batch(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, step, go = watched_step(way, monkeypatch)
    for number in range(2):
        figures = go(number)
        assert figures.nonfinite is None
        assert len(trunk.memories) == 3 * (number + 1)
        assert [memory() for memory in trunk.memories if memory() is not None] == []
    assert go(2, bad=True).nonfinite == 2
    assert [memory() for memory in trunk.memories if memory() is not None] == []
    assert not any(module._forward_hooks for module in step.model.modules())


@pytest.mark.parametrize("way", WAYS)
def test_the_next_step_is_right_after_a_forward_pass_that_failed(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk, step, go = watched_step(way, monkeypatch)
    trunk.fails = True
    with pytest.raises(ZeroDivisionError):
        go(0)
    assert not any(module._forward_hooks for module in step.model.modules())
    trunk.fails = False
    plain = plain_gradients(step.model, toy_tasks(), [toy_batch(1)])
    go(1)
    shared = names_of(step.model, step.model.shared_parameters())
    check_update(step.model, plain, shared, WEIGHTS, "unweighted")


def test_a_kernel_is_used_in_the_watched_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    combine = LinearKernel.combine

    def noted(kernel: LinearKernel, weights: Tensor) -> None:
        used.append(kernel.module)
        combine(kernel, weights)

    monkeypatch.setattr(LinearKernel, "combine", noted)
    trunk, _, go = watched_step("kernels", monkeypatch)
    go(0)
    assert used == [trunk.first, trunk.last]


def test_gradients_are_the_same_in_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    grads = []
    for way in WAYS:
        with monkeypatch.context() as patch:
            model, tasks = mlp_model()
            step = training_step(model, tasks, given(), memory=memory_of(way))
            force(way, step, patch)
            step([toy_batch()], 0, 0)
        grads.append(gradients_of(model))
    for other in grads[1:]:
        for name, gradient in grads[0].items():
            assert_near(other[name], gradient, 1e-6)


def test_memory_that_is_watched_is_seen_while_it_is_held() -> None:
    memories: Memories = []
    tensor = remembered(torch.zeros(3), memories)
    view = tensor.view(1, 3)
    del tensor
    assert isinstance(memories[0](), numpy.ndarray)
    del view
    assert memories[0]() is None
