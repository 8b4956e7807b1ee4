"""Auxiliary tasks that fade out: what each kind of step gives them, and what is left at the end."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from engine_reference import Plain, assert_near, gradients_of, names_of, plain_gradients
from engine_toys import (
    NAMES,
    WEIGHTS,
    Given,
    GivenDirection,
    Toy,
    branched_model,
    mlp_model,
    numbered,
    task_infos,
    toy_batch,
    training_step,
    weights_of,
)
from torch import Tensor

from mtlrun import build
from mtlrun.config import Config
from mtlrun.engine.annealing import Annealing
from mtlrun.engine.evaluation import Selection
from mtlrun.engine.loader import Placement, TrainLoader
from mtlrun.engine.step import TrainingStep
from mtlrun.engine.terms import TermGradients
from mtlrun.models.architectures.base import Architecture
from mtlrun.models.model import MultiTaskModel
from mtlrun.sampling.joint import Joint
from mtlrun.sampling.units import units_of
from mtlrun.tasks.base import Task
from mtlrun.tasks.classification import Classification
from mtlrun.tasks.regression import Regression
from mtlrun.weighting.base import Weighting
from mtlrun.weighting.cagrad import CAGrad
from mtlrun.weighting.equal import Equal
from mtlrun.weighting.excess_mtl import ExcessMTL
from mtlrun.weighting.gls import GLS
from mtlrun.weighting.gradnorm import GradNorm
from mtlrun.weighting.mgda import MGDA
from mtlrun.weighting.moco import MoCo
from mtlrun.weighting.pcgrad import PCGrad
from mtlrun.weighting.uncertainty import Uncertainty

STEPS = 4
FADING = Annealing(NAMES, ("a",), STEPS)
STEP = 3
LEFT = {"a": 1.0, "b": 0.25, "c": 0.25}
"""What the fourth of four steps leaves."""

Facts = dict[str, Any]
Made = tuple[MultiTaskModel, dict[str, Task]]


class InRows(Given):
    """Two batches a step, whose rows go on into the heads; the second's weigh twice."""

    batches = 2
    heads_in_rows = True

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        weights = super().weights(gramian, losses)
        return torch.cat([weights, 2 * weights])


class OfBatches(InRows):
    heads_in_rows = False


class Ahead(OfBatches):
    lookahead = True

    def lookahead_weights(self) -> Tensor:
        return self.pick(self.fixed)

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        return super().weights(gramian, losses)[: len(self.step.present)]


class PerLayer(Given):
    """The second layer's rows weigh ten times those of the first."""

    per_layer = True

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        weights = super().weights(gramian, losses)
        return torch.stack([weights * 10**number for number in range(len(gramian))])


class Weighed(GivenDirection):
    is_weighted_sum = True

    def direction(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        self.task_weights = self.pick(self.fixed)
        return super().direction(jacobian, losses)


class WeighedFeatures(Weighed):
    place = "representation"


def pair(
    make: Callable[[], Made], weighting: Callable[[Facts], Weighting], place: Any, **options: Any
) -> tuple[TrainingStep, TrainingStep, dict[str, Task]]:
    """A step that fades, and the same one without."""
    model, tasks = make()
    steps = []
    for annealing in (FADING, None):
        torch.manual_seed(1)
        own = weighting({"tasks": task_infos(tasks)})
        steps.append(
            training_step(copy.deepcopy(model), tasks, own, place, annealing=annealing, **options)
        )
    return steps[0], steps[1], tasks


def check_own(fading: TrainingStep, whole: TrainingStep) -> None:
    """What single tasks train gets what is left of what it got."""
    for task in NAMES:
        expected = gradients_of(whole.model)
        for name in names_of(fading.model, fading.model.own_parameters(task)):
            found = fading.model.get_parameter(name).grad
            gradient = expected[name]
            assert gradient is not None
            assert_near(found, LEFT[task] * gradient, 1e-6)


def check_shared(
    model: MultiTaskModel, plains: Sequence[Plain], weights: Sequence[Mapping[str, float]]
) -> None:
    """The shared parameters get the sum over batches and tasks of weight times gradient."""
    for name in names_of(model, model.shared_parameters()):
        parts = [plain.combined(own, name) for plain, own in zip(plains, weights, strict=True)]
        expected = torch.stack([part for part in parts if part is not None]).sum(dim=0)
        assert_near(model.get_parameter(name).grad, expected, 2e-5)


def test_factors_fall_in_a_line_and_end_at_nothing() -> None:
    found = [FADING.factors((0, 2), step) for step in range(6)]
    assert found == [[1, 1], [1, 0.75], [1, 0.5], [1, 0.25], [1, 0], [1, 0]]
    assert [sorted(FADING.gone(step)) for step in (0, 3, 4, 9)] == [[], [], ["b", "c"], ["b", "c"]]
    third = Annealing(NAMES, ("b", "c"), 0.3 * 5)  # ends between two steps
    assert third.factors((0, 1), 1) == pytest.approx([1 / 3, 1])
    assert third.factors((0, 1), 2) == [0, 1]


@pytest.mark.parametrize(("share", "last"), [(0.55, 55), (0.29, 29), (0.255, 26), (1, 100)])
def test_the_share_of_the_run_is_taken_as_it_is_written(share: float, last: int) -> None:
    assert 0.55 * 100 > 55  # in binary
    config = Config(tasks={"primary": ["a"], "anneal": share})
    made = build.annealing(config, NAMES, ("a",), Equal(), 100)
    assert made is not None
    assert made.factor(last) == 0 < 1 / 200 < made.factor(last - 1)
    assert [bool(made.gone(step)) for step in (last - 1, last)] == [False, True]


@pytest.mark.parametrize(
    ("weighting", "place", "options"),
    [
        (lambda _: Equal(), None, {}),
        (lambda facts: GLS(**facts), None, {}),
        (lambda facts: Uncertainty(**facts), None, {"smoothing": 0.5, "rescale": "sum"}),
        (lambda facts: GLS(**facts), None, {"rescale": "norm"}),
        (lambda _: PCGrad(), "parameters", {"smoothing": 0.5, "rescale": "sum"}),
        (lambda _: PCGrad(), "parameters", {"memory": 0}),
        (lambda _: MGDA(), "representation", {}),
        (lambda facts: GradNorm(**facts), "last_layer", {}),
        (lambda facts: ExcessMTL(**facts), "parameters", {}),
        (lambda _: Weighed([0.5, 2.0, -0.75]), "parameters", {}),
        (lambda _: WeighedFeatures([0.5, 2.0, -0.75]), "representation", {}),
    ],
)
def test_the_method_is_asked_as_ever_and_its_weights_fade(
    weighting: Callable[[Facts], Weighting], place: Any, options: dict[str, Any]
) -> None:
    fading, whole, tasks = pair(mlp_model, weighting, place, **options)
    batch = toy_batch()
    plain = plain_gradients(fading.model, tasks, [batch])
    found, before = fading([batch], 0, STEP), whole([batch], 0, STEP)
    expected = dict(zip(NAMES, weights_of(before), strict=True))
    faded = {task: weight * LEFT[task] for task, weight in expected.items()}
    assert weights_of(found) == pytest.approx(list(faded.values()), rel=1e-6)
    assert expected["a"] != 0
    check_shared(fading.model, [plain], [faded])
    check_own(fading, whole)
    for own, other in zip(fading.weighting.parameters(), whole.weighting.parameters(), strict=True):
        assert own.grad is not None
        assert other.grad is not None
        assert torch.equal(own.grad, other.grad)  # what the method learns is as ever


@pytest.mark.parametrize("heads", ["weighted", "unweighted"])
def test_parameters_of_tasks_inside_the_trunk_fade(heads: Any) -> None:
    fading, whole, tasks = pair(branched_model, lambda _: given_weights(heads), "parameters")
    plain = plain_gradients(fading.model, tasks, [toy_batch()])
    fading([toy_batch()], 0, STEP)
    whole([toy_batch()], 0, STEP)
    check_shared(fading.model, [plain], [{t: WEIGHTS[t] * LEFT[t] for t in NAMES}])
    check_own(fading, whole)


def given_weights(heads: Any = "unweighted") -> Given:
    return Given(list(WEIGHTS.values()), heads)


@pytest.mark.parametrize("weighting", [lambda _: Equal(), lambda _: given_weights()])
def test_accumulated_steps_fade(weighting: Callable[[Facts], Weighting]) -> None:
    place = None if isinstance(weighting({}), Equal) else "parameters"
    fading, whole, tasks = pair(mlp_model, weighting, place, accumulate=2)
    batches = [toy_batch(0), toy_batch(1)]
    plain = plain_gradients(fading.model, tasks, batches)
    found, before = fading(batches, 0, STEP), whole(batches, 0, STEP)
    faded = {t: w * LEFT[t] for t, w in zip(NAMES, weights_of(before), strict=True)}
    assert weights_of(found) == pytest.approx(list(faded.values()))
    check_shared(fading.model, [plain], [faded])
    check_own(fading, whole)


@pytest.mark.parametrize("branched", [False, True])
def test_weights_that_are_reused_fade_on(branched: bool) -> None:
    make = branched_model if branched else mlp_model
    fading, _, tasks = pair(make, lambda _: given_weights(), "parameters", every=2)
    fading([toy_batch(0)], 0, 2)
    plain = plain_gradients(fading.model, tasks, [toy_batch(1)])
    found = fading([toy_batch(1)], 0, STEP)
    assert isinstance(fading.weighting, Given)
    assert len(fading.weighting.gramians) == 1
    faded = {task: weight * LEFT[task] for task, weight in WEIGHTS.items()}
    assert weights_of(found) == pytest.approx(list(faded.values()))
    check_shared(fading.model, [plain], [faded])


def test_a_moving_average_is_kept_whole() -> None:
    fading, whole, _ = pair(mlp_model, lambda facts: MoCo(**facts), "parameters")
    fading([toy_batch()], 0, STEP)
    before = weights_of(whole([toy_batch()], 0, STEP))
    kept = [step.backward.tracked for step in (fading, whole)]  # type: ignore[attr-defined]
    assert torch.equal(kept[0], kept[1])
    weights = torch.tensor([w * LEFT[t] for t, w in zip(NAMES, before, strict=True)])
    shared = [p.grad for p in fading.model.shared_parameters() if p.grad is not None]
    assert_near(torch.cat([g.flatten() for g in shared]), weights @ kept[0])
    check_own(fading, whole)


def test_each_layers_weights_fade() -> None:
    fading, whole, tasks = pair(mlp_model, lambda _: PerLayer([0.5, 2.0, -0.75]), "parameters")
    plain = plain_gradients(fading.model, tasks, [toy_batch()])
    fading([toy_batch()], 0, STEP)
    whole([toy_batch()], 0, STEP)
    for number, parameters in enumerate(fading.model.shared_layers()):
        scales = {task: WEIGHTS[task] * LEFT[task] * 10**number for task in NAMES}
        for name in names_of(fading.model, parameters):
            found = fading.model.get_parameter(name).grad
            assert_near(found, plain.combined(scales, name), 2e-5)
    check_own(fading, whole)


@pytest.mark.parametrize("heads", ["weighted", "unweighted"])
@pytest.mark.parametrize("kind", [OfBatches, InRows, Ahead])
def test_methods_of_several_batches_fade(kind: type[OfBatches], heads: Any) -> None:
    values = list(WEIGHTS.values())
    fading, whole, tasks = pair(mlp_model, lambda _: kind(values, heads), "parameters")
    batches = [toy_batch(0), toy_batch(1, rows=9)]
    plains = [plain_gradients(fading.model, tasks, [batch]) for batch in batches]
    found = fading(batches, 0, STEP)
    whole(batches, 0, STEP)
    faded = {task: weight * LEFT[task] for task, weight in WEIGHTS.items()}
    second = 0 if kind is Ahead else 2
    of_second = {task: second * weight for task, weight in faded.items()}
    check_shared(fading.model, plains, [faded, of_second])
    assert weights_of(found) == pytest.approx([(1 + second) * w for w in faded.values()])
    check_own(fading, whole)


@pytest.mark.parametrize(
    ("weighting", "place"),
    [
        (lambda facts: GLS(**facts), None),
        (lambda _: CAGrad(), "parameters"),
        (lambda _: MGDA(), "last_layer"),
    ],
)
def test_a_run_that_fades_nothing_is_bit_for_bit_the_same(weighting: Any, place: Any) -> None:
    model, tasks = mlp_model()
    grads = []
    for annealing in (None, Annealing(NAMES, NAMES, STEPS)):
        twin = copy.deepcopy(model)
        own = weighting({"tasks": task_infos(tasks)})
        step = training_step(twin, tasks, own, place, annealing=annealing)
        step([toy_batch()], 0, STEP)
        grads.append(gradients_of(twin))
    assert all(torch.equal(value, grads[1][name]) for name, value in grads[0].items())


def test_losses_of_intermediate_predictions_fade_with_their_task() -> None:
    architecture = branched_model()[0].architecture
    assert isinstance(architecture, Architecture)
    architecture.terms = {"initial_b": 0.5, "orthogonality": 0.5}
    terms = TermGradients(architecture, {"initial_b": "b"})
    terms.start(2, LEFT)
    total = terms.weighted({"initial_b": torch.tensor(8.0), "orthogonality": torch.tensor(16.0)})
    assert total == 8 * 0.5 / 2 * LEFT["b"] + 16 * 0.5 / 2
    assert terms.values == {"initial_b": 4, "orthogonality": 8}


def test_at_the_end_their_labels_are_not_there_and_their_streams_not_read() -> None:
    streams = {"x": ("a", "b"), "y": ("c",)}
    sources = {"x": numbered(12, ("a", "b")), "y": numbered(8, ("c",))}
    tasks: dict[str, Task] = {name: Regression(name=name) for name in NAMES}

    def loaded(annealing: Annealing | None) -> tuple[list[Any], TrainLoader]:
        loader = TrainLoader(
            Toy({"train": sources}, streams),
            tasks,
            Joint(units=units_of(streams, {"x": 12, "y": 8}, {"c": 8}, of="streams", batch_size=2)),
            accumulate=1,
            seed=0,
            placement=Placement(torch.device("cpu")),
        )
        loader.annealing = annealing
        steps = [step for epoch in range(2) for (step,) in loader.epoch(epoch, 0)]
        return steps, loader

    whole, _ = loaded(None)
    faded, loader = loaded(Annealing(NAMES, ("a",), 0.75 * 12))  # of two epochs of 6 steps
    present = [{stream: part.present for stream, part in step.items()} for step in faded]
    assert present == [streams] * 9 + [{"x": ("a",)}] * 3
    assert loader.drawn == {"x": 12, "y": 9}
    for step, other in zip(faded, whole, strict=True):
        for stream, part in step.items():
            assert torch.equal(part.inputs, other[stream].inputs)  # the others' rows are as ever


TASKS: dict[str, Task] = {
    "k": Classification(name="k", classes=2),
    "r": Regression(name="r"),
    "s": Regression(name="s"),
}


def test_primary_tasks_select_and_groups_without_any_select_by_their_own() -> None:
    def figures(accuracy: float, *r2: float) -> dict[str, dict[str, float]]:
        found = {"k": {"accuracy": accuracy, "f1_macro": 0.0}}
        for name, value in zip("rs", r2, strict=True):
            found[name] = {"r2": value, "rmse": 0.0, "mae": 0.0}
        return found

    epochs = [figures(0.5, 0.0, 0.0), figures(0.7, 0.1, 0.5), figures(0.6, 0.9, 0.2)]

    def selected(groups: Sequence[tuple[str, ...]], primary: Sequence[str]) -> Selection:
        selection = Selection(groups, primary)
        for number, each in enumerate(epochs, start=1):
            selection.update(TASKS, each, number)
        return selection

    assert selected([("k", "r", "s")], ("k",)).epoch == [2]
    assert selected([("k", "r", "s")], ("k",)).score == [pytest.approx(0.6)]
    assert selected([("k", "r", "s")], ("r", "k")).epoch == [3]
    assert selected([("k", "r", "s")], ("r", "k")).score == [pytest.approx((0.8 + 0.1) / 2)]
    assert selected([("k",), ("r",), ("s",)], ("r",)).epoch == [2, 3, 2]
    assert (
        selected([("k", "r", "s")], ())
        == selected([("k", "r", "s")], ())
        != selected([("k", "r", "s")], ("k",))
    )
