"""What the engine does for methods that look at the representation, or align gradients there."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from engine_reference import assert_near, in_double, names_of, plain_gradients
from engine_toys import (
    NAMES,
    RATE,
    WIDTH,
    Given,
    GivenDirection,
    branched_model,
    hps_model,
    mlp,
    mlp_model,
    task_infos,
    toy_batch,
    toy_tasks,
    training_step,
)
from torch import Tensor, nn

from mtlrun.engine.compatibility import check_compatible, resolve_place
from mtlrun.engine.saving import entries_of
from mtlrun.errors import UserError
from mtlrun.models.model import MultiTaskModel
from mtlrun.sampling.joint import Joint
from mtlrun.sampling.units import Unit
from mtlrun.tasks.base import Task
from mtlrun.types import Batch
from mtlrun.weighting.base import Place, Weighting
from mtlrun.weighting.cons_mtl import ConsMTL
from mtlrun.weighting.graddrop import GradDrop
from mtlrun.weighting.great import Great
from mtlrun.weighting.rotograd import Rotation, RotoGrad
from mtlrun.weighting.solvers import SolverError

# -- the representation ---------------------------------------------------------------------------


class Looking(GivenDirection):
    """Notes the representation that it sees."""

    place = "representation"

    def __init__(self, sees: bool) -> None:
        super().__init__([1.0, 1.0, 1.0])
        self.sees_representation = sees
        self.seen: list[Tensor | None] = []

    def direction(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        self.seen.append(self.representation)
        return super().direction(jacobian, losses)


@pytest.mark.parametrize("sees", [False, True])
def test_the_representation_is_shown_to_those_who_ask(sees: bool) -> None:
    model, tasks = mlp_model()
    weighting = Looking(sees)
    batch = toy_batch()
    expected = model.architecture({"rows": batch["rows"].inputs}, NAMES)["a"].detach()
    training_step(model, tasks, weighting, "representation")([batch], 0, 0)
    (seen,) = weighting.seen
    assert weighting.representation is None
    if not sees:
        assert seen is None
        return
    assert seen is not None
    assert not seen.requires_grad
    assert torch.equal(seen, expected)
    assert weighting.jacobians[0].shape == (3, expected.numel())


def test_graddrop_takes_the_place_that_its_setting_needs() -> None:
    infos = task_infos(toy_tasks())
    assert resolve_place(GradDrop(tasks=infos), "auto", 1) == "parameters"
    assert resolve_place(GradDrop(of="activations", tasks=infos), "auto", 1) == "representation"


@pytest.mark.parametrize("method", ["great", "graddrop"])
def test_the_trunk_gets_what_the_method_makes_of_the_features_gradients(method: str) -> None:
    """First step: GREAT's scales are 1, and GradDrop with a leak of 1 drops nothing."""
    model, tasks = mlp_model()
    infos = task_infos(tasks)
    weighting: Weighting = Great(tasks=infos, channels=WIDTH)
    if method == "graddrop":
        weighting = GradDrop(leak=1.0, of="activations", tasks=infos)
    batch = toy_batch()
    plain = plain_gradients(model, tasks, [batch])
    training_step(model, tasks, weighting, "representation")([batch], 0, 0)
    for name in names_of(model, model.shared_parameters()):
        parameter = model.get_parameter(name)
        assert_near(parameter.grad, plain.combined(dict.fromkeys(NAMES, 1.0), name))


# -- aligned heads --------------------------------------------------------------------------------


class Aligned(Given):
    """Fixed weights, and heads aligned with fixed coefficients."""

    aligns_heads = True

    def __init__(self, coefficients: Sequence[float], limits: Sequence[float]) -> None:
        super().__init__([0.5, 2.0, 0.75])
        self.coefficients = torch.tensor(coefficients, dtype=torch.float64)
        self.limits = torch.tensor(limits, dtype=torch.float64)

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        self.alignment = self.pick(self.coefficients)
        self.alignment_limits = self.pick(self.limits)
        return super().weights(gramian, losses)


def curved_head(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh(), nn.Linear(4, outputs))


def curved_model() -> tuple[MultiTaskModel, dict[str, Task]]:
    torch.manual_seed(5)
    tasks = toy_tasks()
    heads = {name: curved_head(task.output_size) for name, task in tasks.items()}
    return hps_model(mlp(), tasks, heads=heads), tasks


def aligned_by_autograd(
    model: MultiTaskModel,
    tasks: dict[str, Task],
    batch: Batch,
    coefficients: Sequence[float],
    limits: Sequence[float],
) -> dict[str, Tensor]:
    """The heads' gradients from plain double backward passes."""
    part = batch["rows"]
    present = [name for name in tasks if name in part.present]
    chosen = [NAMES.index(name) for name in present]
    features = model.architecture({"rows": part.inputs}, present)[present[0]]
    losses = [tasks[n].loss(model.head_of[n](features), part.targets[n]) for n in present]
    deltas = [torch.autograd.grad(loss, features, create_graph=True)[0] for loss in losses]
    common = sum(coefficients[i] * d.detach() for i, d in zip(chosen, deltas, strict=True))
    found = {}
    for index, name, loss, delta in zip(chosen, present, losses, deltas, strict=True):
        own = list(model.head_of[name].parameters())
        plain = torch.autograd.grad(loss, own, retain_graph=True)
        term = torch.autograd.grad(
            -(delta * common).sum(), own, retain_graph=True, allow_unused=True
        )
        term = [torch.zeros_like(p) if g is None else g for p, g in zip(own, term, strict=True)]
        lengths = [torch.cat([g.flatten() for g in group]).norm() for group in (plain, term)]
        factor = min(1.0, limits[index] * (lengths[0] / lengths[1]).item())
        for key, one, other in zip(names_of(model, own), plain, term, strict=True):
            found[key] = one + factor * other
    return found


@pytest.mark.parametrize("place", ["parameters", "last_layer", "representation"])
@pytest.mark.parametrize("present", [NAMES, ("a", "c")])
def test_heads_are_aligned_as_by_double_backward(place: Place, present: tuple[str, ...]) -> None:
    """In float64. The first task's limit shortens the term, the second's does not, the third's
    leaves it out."""
    coefficients, limits = [3.0, 0.4, 1.5], [0.05, 1e9, 0.0]
    model, tasks = curved_model()
    model, batch = model.double(), in_double(toy_batch(present=present))
    expected = aligned_by_autograd(model, tasks, batch, coefficients, limits)
    plain = plain_gradients(model, tasks, [batch])
    step = training_step(model, tasks, Aligned(coefficients, limits), place)
    step.backward.forward.prediction = _in_double(step.backward.forward)  # type: ignore[method-assign]
    step([batch], 0, 0)
    for name, gradient in expected.items():
        assert_near(model.get_parameter(name).grad, gradient, 1e-9)
    for task in present:
        for name in names_of(model, list(model.head_of[task].parameters())):
            same = torch.allclose(expected[name], plain.gradients[task][name], rtol=1e-6)
            assert same == (task == "c")
    weights = {"a": 0.5, "b": 2.0, "c": 0.75}
    used = {task: weights[task] for task in present}
    for name in names_of(model, model.shared_parameters()):
        assert_near(model.get_parameter(name).grad, plain.combined(used, name), 1e-5)


def _in_double(forward: Any) -> Any:
    """The engine's predictions are float32; here they are to stay as they are."""
    return lambda index, features: forward.head_of[forward.names[index]](features)


def test_a_head_that_is_linear_in_its_features_and_its_loss_has_a_term_too() -> None:
    """delta depends on the weights, but not on the bias: that one has no second gradient."""
    model, tasks = mlp_model()
    batch = toy_batch()
    expected = aligned_by_autograd(model, tasks, batch, [1.0] * 3, [0.1] * 3)
    training_step(model, tasks, Aligned([1.0] * 3, [0.1] * 3))([batch], 0, 0)
    for name, gradient in expected.items():
        assert_near(model.get_parameter(name).grad, gradient, 1e-4)


def test_frozen_heads_are_left_alone() -> None:
    model, tasks = mlp_model()
    model.head_of["b"].requires_grad_(False)
    training_step(model, tasks, Aligned([1.0] * 3, [0.1] * 3))([toy_batch()], 0, 0)
    assert all(p.grad is None for p in model.head_of["b"].parameters())
    assert all(p.grad is not None for p in model.head_of["a"].parameters())


class Failing(ConsMTL):
    """Its solver works in the first step only."""

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        return super().weights(gramian if self.step.step == 0 else gramian * torch.nan, losses)


def test_without_weights_there_is_no_alignment() -> None:
    model, tasks = curved_model()
    weighting = Failing(strength=100.0, tasks=task_infos(tasks))
    step = training_step(model, tasks, weighting)
    step([toy_batch()], 0, 0)
    assert weighting.alignment is not None
    plain = plain_gradients(model, tasks, [toy_batch(1)])
    figures = step([toy_batch(1)], 0, 1)
    assert "not finite" in (figures.remark or "")
    for task in NAMES:
        for name in names_of(model, list(model.head_of[task].parameters())):
            assert_near(model.get_parameter(name).grad, plain.gradients[task][name])
    with pytest.raises(SolverError):
        weighting.weights(torch.eye(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))


SETTINGS = {"accumulate": 1, "amp": "none", "every": 1, "compile": False}


def check(
    model: MultiTaskModel,
    weighting: Weighting | None = None,
    place: Place = "parameters",
    **settings: object,
) -> None:
    check_compatible(
        weighting=weighting or ConsMTL(tasks=task_infos(toy_tasks())),
        weighting_name="chosen",
        architecture_name="built",
        sampler_name="joint",
        model=model,
        sampler=Joint(units=[Unit("x", "x", tuple(NAMES), 8, 4)]),
        place=place,
        device=torch.device("cpu"),
        settings={**SETTINGS, **settings},
    )


def test_what_stands_in_the_way_of_alignment_is_refused() -> None:
    check(mlp_model()[0])
    with pytest.raises(UserError, match=r"one tensor .* architecture=built .* architecture=hps"):
        check(branched_model()[0])
    for setting, value, advice in (
        ("accumulate", 2, "engine.accumulate=2 does not go with that: use engine.accumulate=1"),
        ("every", 5, "gradients.every=5 does not go with that: use gradients.every=1"),
        ("compile", True, "engine.compile=true does not go with that: use engine.compile=false"),
    ):
        with pytest.raises(UserError, match=advice):
            check(mlp_model()[0], **{setting: value})


@pytest.mark.parametrize("make", [RotoGrad, Great])
def test_methods_at_the_representation_need_one(make: type[RotoGrad | Great]) -> None:
    for model in (mlp_model()[0], branched_model()[0]):
        weighting = make(tasks=task_infos(toy_tasks()), channels=WIDTH)
        model.attach(weighting.adapters())
        if model.architecture.one_representation:
            check(model, weighting, "representation")
            continue
        with pytest.raises(UserError, match=r"one tensor .* architecture=built on this dataset"):
            check(model, weighting, "representation")


# -- adapters -------------------------------------------------------------------------------------


def with_rotations(
    model: MultiTaskModel, tasks: dict[str, Task], **options: Any
) -> tuple[MultiTaskModel, RotoGrad]:
    weighting = RotoGrad(tasks=task_infos(tasks), channels=WIDTH, **options)
    model.attach(weighting.adapters())
    return model, weighting


def test_adapters_change_nothing_before_training_and_are_part_of_the_network() -> None:
    model, tasks = mlp_model()
    inputs = {"rows": toy_batch()["rows"].inputs}
    before = model(inputs, NAMES)
    trained = [len(model.own_parameters(task)) for task in NAMES]
    model, weighting = with_rotations(model, tasks)
    for task, prediction in model(inputs, NAMES).items():
        assert torch.equal(prediction, before[task])
    assert [len(model.own_parameters(task)) for task in NAMES] == trained
    for task, adapter in weighting.adapters().items():
        assert model.head_of[task][0] is adapter
    matrices = [key for key in model.state_dict() if key.endswith("matrix")]
    assert len(matrices) == len(NAMES)
    (entries,) = entries_of(model, model.independent_groups())
    assert set(matrices) <= set(entries)  # so best.pt has them
    assert not any("matrix" in key for key in weighting.state_dict())


@pytest.mark.parametrize("size", [WIDTH, 3])
def test_rotations_train_on_the_published_objective(size: int) -> None:
    """Against the objective written out on the rotated features, in the second step."""
    model, weighting = with_rotations(*mlp_model(), size=size, learning_rate=3.0)
    tasks = toy_tasks()
    step = training_step(model, tasks, weighting, "representation")
    step([toy_batch()], 0, 0)
    lengths = [weighting.initial_lengths.clone()]
    batch = toy_batch(1)
    features = model.architecture({"rows": batch["rows"].inputs}, NAMES)["a"].detach()
    angles = weighting.angles.detach().clone().requires_grad_()
    rotations = weighting.rotations(angles)
    gradients, rotated_gradients = [], []
    for name, rotation in zip(NAMES, rotations.detach(), strict=True):
        assert (rotation - torch.eye(size)).norm() > 0.01
        whole = torch.eye(WIDTH)
        whole[:size, :size] = rotation
        leaf = (features @ whole.T).requires_grad_()
        loss = tasks[name].loss(model.head_of[name][1](leaf), batch["rows"].targets[name])
        rotated_gradients.append(torch.autograd.grad(loss, leaf)[0])
        gradients.append(rotated_gradients[-1] @ whole)
    lengths.append(torch.stack([g.norm() for g in gradients]).double())
    units = [g / g.norm() for g in gradients]
    mean = sum(units) / 3
    objective = -sum(
        ((g[:, :size] @ rotation) * mean[:, :size]).sum()
        for g, rotation in zip(rotated_gradients, rotations, strict=True)
    )
    (expected,) = torch.autograd.grad(objective, angles)
    ratios = lengths[1] / lengths[0]
    common = (ratios / ratios.sum() * lengths[1]).sum()
    direction = common.float() * sum(units)

    trunk = [p.detach().clone() for p in model.shared_parameters()]
    step([batch], 0, 1)
    assert_near(weighting.angles.grad, expected, 1e-4)
    assert all(p.grad is None or "matrix" not in n for n, p in model.named_parameters())
    with torch.no_grad():
        for parameter, old in zip(model.shared_parameters(), trunk, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter, old - RATE * parameter.grad)
            parameter.copy_(old)
    again = model.architecture({"rows": batch["rows"].inputs}, NAMES)["a"]
    for parameter, gradient in zip(
        model.shared_parameters(),
        torch.autograd.grad(again, model.shared_parameters(), direction),
        strict=True,
    ):
        assert_near(parameter.grad, gradient, 1e-4)


def test_the_network_rotates_with_what_was_learnt() -> None:
    model, weighting = with_rotations(*mlp_model(), learning_rate=0.3)
    step = training_step(model, toy_tasks(), weighting, "representation", torch.optim.Adam)
    for number in range(5):
        step([toy_batch(number)], 0, number)
    expected = weighting.rotations(weighting.angles.detach())
    for rotation, adapter in zip(expected, weighting.adapters().values(), strict=True):
        assert torch.equal(adapter.get_buffer("matrix"), rotation)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(WIDTH), rtol=0, atol=1e-5)
        assert torch.linalg.det(rotation).item() == pytest.approx(1, abs=1e-4)
        assert (rotation - torch.eye(WIDTH)).norm() > 0.1


def test_a_rotation_turns_the_channels_of_maps_at_each_position() -> None:
    rotation = Rotation(2)
    rotation.matrix.copy_(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([-maps[:, 1], maps[:, 0], maps[:, 2]], dim=1)
    torch.testing.assert_close(rotation(maps), expected)
    assert torch.equal(rotation(maps.mean(dim=(2, 3)))[:, 2], maps[:, 2].mean(dim=(1, 2)))
