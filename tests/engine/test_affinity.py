"""Inter-task affinity, against steps that are really taken; and training that does not notice."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from engine_toys import (
    NAMES,
    RATE,
    SEED,
    GivenDirection,
    branched_model,
    given,
    hps_model,
    linear_head,
    mlp,
    mlp_model,
    task_infos,
    toy_batch,
    toy_targets,
    toy_tasks,
    training_step,
)
from engine_ways import WAYS, force, memory_of
from test_several import Ahead, OfBatches
from torch import Tensor, nn
from torch.optim import SGD, Adam

from mtlrun.engine.affinity import Affinity, Kind
from mtlrun.engine.step import TrainingStep
from mtlrun.models.model import MultiTaskModel
from mtlrun.randomness import seed_global_step
from mtlrun.tasks.base import Task
from mtlrun.types import Batch, StreamBatch
from mtlrun.weighting.base import Weighting
from mtlrun.weighting.equal import Equal
from mtlrun.weighting.famo import FAMO
from mtlrun.weighting.gls import GLS
from mtlrun.weighting.graddrop import GradDrop
from mtlrun.weighting.mgda import MGDA
from mtlrun.weighting.moco import MoCo
from mtlrun.weighting.modo import MoDo
from mtlrun.weighting.pcgrad import PCGrad

EPOCH, STEP = 2, 4
Pairs = dict[tuple[str, str], float]


def watched(step: TrainingStep, kind: Kind = "tag", every: int = 1) -> Affinity:
    watcher = Affinity(kind, every, step.backward)
    step.watchers.append(watcher)
    return watcher


def pairs(watcher: Affinity, at: int = STEP + 1) -> Pairs:
    rows = watcher.state_dict()["rows"]
    return {(row["source"], row["target"]): row["value"] for row in rows if row["step"] == at}


def losses_of(
    model: MultiTaskModel, tasks: dict[str, Task], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """The step's losses by hand: means over the batches that have a task."""
    seed_global_step(SEED, "dropout", EPOCH, STEP)
    found: dict[str, list[Tensor]] = {}
    for batch in batches:
        present = [name for name in tasks if any(name in part.present for part in batch.values())]
        targets = {name: t for part in batch.values() for name, t in part.targets.items()}
        inputs = {stream: part.inputs for stream, part in batch.items()}
        predictions = model(inputs, present)
        for name in present:
            loss = tasks[name].loss(predictions[name], targets[name])
            found.setdefault(name, []).append(loss)
    return {name: torch.stack(found[name]).mean() for name in tasks if name in found}


def by_hand(
    model: MultiTaskModel, tasks: dict[str, Task], batches: Sequence[Batch], rate: float = RATE
) -> Pairs:
    """Each task's step really taken, by an optimizer on a copy of the network."""
    before = losses_of(copy.deepcopy(model), tasks, batches)
    found = {}
    for source in before:
        twin = copy.deepcopy(model)
        losses_of(twin, tasks, batches)[source].backward()
        SGD(twin.shared_parameters(), lr=rate).step()
        for target, after in losses_of(twin, tasks, batches).items():
            found[source, target] = (1 - after.double() / before[target].double()).item()
    return found


def assert_pairs(found: Pairs, expected: Pairs) -> None:
    assert list(found) == list(expected)
    torch.testing.assert_close(
        torch.tensor(list(found.values())),
        torch.tensor(list(expected.values())),
        rtol=1e-4,
        atol=2e-6,
    )
    assert max(map(abs, expected.values())) > 1e-3


def noisy_model() -> tuple[MultiTaskModel, dict[str, Task]]:
    """With batch normalisation and dropout in the trunk, and dropout in a head."""
    torch.manual_seed(1)
    tasks = toy_tasks()
    parts = (nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 6))
    head = nn.Sequential(nn.Dropout(0.3), linear_head(tasks["b"]))
    return hps_model(nn.Sequential(*parts), tasks, heads={"b": head}), tasks


def two_batches() -> list[Batch]:
    """Of different sizes; b has no label in the first, and c in the second."""
    return [toy_batch(0, 6, present=("a", "c")), toy_batch(1, 9, present=("a", "b"))]


def make(
    model: MultiTaskModel, tasks: dict[str, Task], weighting: Weighting, place: Any, **options: Any
) -> TrainingStep:
    return training_step(
        model.train(), tasks, weighting, place, lambda g, lr: Adam(g, lr=lr), **options
    )  # type: ignore[arg-type]  # called like a class


def assert_as_by_hand(
    made: tuple[MultiTaskModel, dict[str, Task]],
    weighting: Weighting,
    batches: Sequence[Batch],
    place: Any = "parameters",
    **options: Any,
) -> None:
    model, tasks = made
    step = make(model, tasks, weighting, place, **options)
    watcher = watched(step)
    expected = by_hand(model, tasks, batches)
    figures = step(batches, EPOCH, STEP)
    assert figures.shared is None
    assert_pairs(pairs(watcher), expected)


# -- lookaheads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_rows_of_a_balancing_method(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tasks = noisy_model()
    step = make(model, tasks, given(), "parameters", memory=memory_of(way))
    force(way, step, monkeypatch)
    watcher = watched(step)
    expected = by_hand(model, tasks, [toy_batch()])
    taken = []
    monkeypatch.setattr(Affinity, "_taken", _noting(Affinity._taken, taken))
    step([toy_batch()], EPOCH, STEP)
    assert_pairs(pairs(watcher), expected)
    assert len(taken) == (way == "segments")  # the others have their rows already


def _noting(function: Callable[..., Any], calls: list[object]) -> Callable[..., Any]:
    def noted(*arguments: object) -> Any:
        calls.append(arguments)
        return function(*arguments)

    return noted


@pytest.mark.parametrize("place", ["representation", "last_layer"])
def test_the_trunk_is_walked_for_methods_that_balance_further_up(place: Any) -> None:
    assert_as_by_hand(noisy_model(), given(), [toy_batch()], place)


def test_methods_that_see_losses() -> None:
    assert_as_by_hand(noisy_model(), GLS(tasks=task_infos(toy_tasks())), [toy_batch()], None)
    assert_as_by_hand(mlp_model(), Equal(), [toy_batch(present=("a", "c"))], None)


def test_losses_rescaled_by_the_norm_and_bfloat16_which_is_measured_in_float32() -> None:
    assert_as_by_hand(noisy_model(), Equal(), [toy_batch()], None, rescale="norm")
    assert_as_by_hand(noisy_model(), given(), [toy_batch()], amp=True)


def test_the_jacobian_and_parameters_of_one_task_inside_the_trunk() -> None:
    assert_as_by_hand(branched_model(), GivenDirection([1.0, -1.0, 2.0]), [toy_batch()])
    assert_as_by_hand(branched_model(), given(), [toy_batch()], "last_layer")


@pytest.mark.parametrize("weighting", [Equal(), given()], ids=["losses", "rows"])
def test_several_micro_batches_and_partial_labels(weighting: Weighting) -> None:
    place = None if isinstance(weighting, Equal) else "parameters"
    assert_as_by_hand(noisy_model(), weighting, two_batches(), place, accumulate=2)


def test_steps_that_reuse_weights() -> None:
    model, tasks = mlp_model()
    reusing = make(model, tasks, given(), "parameters", every=3)
    reusing([toy_batch(8)], EPOCH, 3)
    watcher = watched(reusing)
    expected = by_hand(model, tasks, [toy_batch(9)])
    reusing([toy_batch(9)], EPOCH, STEP)
    assert_pairs(pairs(watcher), expected)


def test_methods_of_several_batches_and_averaged_rows() -> None:
    both = [toy_batch(0), toy_batch(1)]
    assert_as_by_hand(noisy_model(), OfBatches(2), both)
    assert_as_by_hand(noisy_model(), Ahead(), both)
    model, tasks = noisy_model()
    assert_as_by_hand((model, tasks), MoCo(tasks=task_infos(tasks)), [toy_batch()])


def test_two_streams() -> None:
    torch.manual_seed(2)
    tasks = toy_tasks()
    streams = {"first": ("a",), "second": ("b", "c")}
    model = hps_model(mlp(), tasks, streams)
    batch = {}
    for number, (stream, names) in enumerate(streams.items()):
        targets = {name: toy_targets(5 + number, number)[name] for name in names}
        batch[stream] = StreamBatch(torch.randn(5 + number, 5), targets, names)
    assert_as_by_hand((model, tasks), Equal(), [batch], None)
    assert_as_by_hand((model, tasks), given(), [batch])


def test_the_learning_rate_is_that_of_the_step() -> None:
    model, tasks = mlp_model()
    step = make(model, tasks, Equal(), None)
    watcher = watched(step)
    step.optimizer.param_groups[0]["lr"] = 0.02
    expected = by_hand(model, tasks, [toy_batch()], rate=0.02)
    step([toy_batch()], EPOCH, STEP)
    assert_pairs(pairs(watcher), expected)


def test_a_task_that_reaches_nothing_shared_and_a_loss_of_zero() -> None:
    torch.manual_seed(0)
    tasks = toy_tasks()
    model = hps_model(mlp(), tasks, heads={"c": Constant()})
    batch = toy_batch()
    batch["rows"].targets["c"].zero_()
    step = make(model, tasks, Equal(), None)
    watcher = watched(step)
    step([batch], EPOCH, STEP)
    found = pairs(watcher)
    assert found["c", "a"] == found["c", "b"] == 0
    assert all(math.isnan(found[name, "c"]) for name in NAMES)
    assert found["a", "a"] > 1e-3


class Constant(nn.Module):
    """A head that looks at nothing, and is right with zeros."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.zeros(len(features), 2)


# -- cosines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weighting", "place"),
    [(Equal(), None), (given(), "parameters"), (given(), "representation")],
    ids=["losses", "parameters", "representation"],
)
def test_cosines_are_those_of_the_gramian(weighting: Weighting, place: Any) -> None:
    model, tasks = noisy_model()
    reference = given()
    make(copy.deepcopy(model), tasks, reference, "parameters")([toy_batch()], EPOCH, STEP)
    (inner,) = reference.gramians
    norms = inner.diagonal().sqrt()
    step = make(model, tasks, weighting, place)
    watcher = watched(step, "cosine")
    step([toy_batch()], EPOCH, STEP)
    expected = (inner / norms / norms[:, None]).flatten()
    found = torch.tensor(list(pairs(watcher).values()), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_cosine_with_a_gradient_of_zero_is_no_number() -> None:
    torch.manual_seed(0)
    tasks = toy_tasks()
    model = hps_model(mlp(), tasks, heads={"c": Constant()})
    step = make(model, tasks, Equal(), None)
    watcher = watched(step, "cosine")
    step([toy_batch()], EPOCH, STEP)
    found = pairs(watcher)
    assert math.isnan(found["a", "c"])
    assert math.isnan(found["c", "c"])
    assert found["a", "b"] == found["b", "a"]


# -- training --------------------------------------------------------------------------------------

KINDS: dict[str, tuple[Callable[[Any], Weighting], Any, dict[str, Any]]] = {
    "equal": (lambda _: Equal(), None, {}),
    "equal, accumulated": (lambda _: Equal(), None, {"accumulate": 2}),
    "famo": (lambda infos: FAMO(tasks=infos), None, {}),
    "pcgrad": (lambda _: PCGrad(), "parameters", {}),
    "pcgrad, clipped": (lambda _: PCGrad(), "parameters", {"clip_norm": 0.1}),
    "mgda": (lambda _: MGDA(), "representation", {}),
    "graddrop": (lambda infos: GradDrop(tasks=infos), "parameters", {}),
    "moco": (lambda infos: MoCo(tasks=infos), "parameters", {}),
    "modo": (lambda infos: MoDo(tasks=infos), "parameters", {}),
    "bf16": (lambda _: PCGrad(), "parameters", {"amp": True}),
}


@pytest.mark.parametrize("kind", ["tag", "cosine"])
@pytest.mark.parametrize("name", KINDS)
def test_training_is_what_it_is_without(name: str, kind: Kind) -> None:
    build, place, options = KINDS[name]
    states = []
    for looked_at in (False, True):
        model, tasks = noisy_model()
        weighting = build(task_infos(tasks))
        step = make(model, tasks, weighting, place, **options)
        watcher = watched(step, kind, every=2) if looked_at else None
        count = max(options.get("accumulate", 1), weighting.batches)
        losses = []
        for number in range(4):
            batches = [toy_batch(10 * number + place) for place in range(count)]
            losses += step(batches, 0, number).losses
        if watcher is not None:
            assert [row["step"] for row in watcher.state_dict()["rows"]] == [1] * 9 + [3] * 9
        parts = (model, weighting, step.optimizer, step.backward)
        states.append([str(losses), *(part.state_dict() for part in parts)])
    assert repr_of(states[0]) == repr_of(states[1])


def repr_of(state: Any) -> Any:
    """Nested states with tensors as bytes, to the last bit."""
    if isinstance(state, Tensor):
        return state.dtype, state.detach().numpy().tobytes()
    if isinstance(state, dict):
        return {key: repr_of(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [repr_of(value) for value in state]
    return state


def test_steps_that_are_not_due_or_have_one_task_are_left_out() -> None:
    model, tasks = mlp_model()
    step = make(model, tasks, Equal(), None)
    watcher = watched(step, every=3)
    for number in range(7):
        present = ("b",) if number == 3 else NAMES
        step([toy_batch(number, present=present)], 0, number)
    assert [row["step"] for row in watcher.state_dict()["rows"]] == [1] * 9 + [7] * 9


def test_a_step_with_a_bad_loss_is_not_measured() -> None:
    model, tasks = mlp_model()
    step = make(model, tasks, Equal(), None)
    watcher, batch = watched(step), toy_batch()
    batch["rows"].targets["b"][0] = torch.inf
    assert step([batch], 0, 0).nonfinite == 1
    assert watcher.state_dict()["rows"] == []
