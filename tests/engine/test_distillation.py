"""Teachers in the losses of every kind of step; the arithmetic of features."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from engine_toys import (
    NAMES,
    RATE,
    WIDTH,
    Given,
    branched_model,
    hps_model,
    mlp,
    mlp_model,
    task_infos,
    toy_batch,
    toy_tasks,
    training_step,
)
from test_loader import regressions
from test_probe import STREAMS, gradient, probe_of
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.data.base import TensorSource
from mtlrun.engine.backward import Forward
from mtlrun.engine.distillation import Adaptor, Distillation, Teacher, Teaching
from mtlrun.engine.step import TrainingStep, parameter_groups
from mtlrun.models.model import MultiTaskModel
from mtlrun.types import Batch
from mtlrun.weighting.base import Weighting
from mtlrun.weighting.equal import Equal
from mtlrun.weighting.famo import FAMO
from mtlrun.weighting.static import Static

HALF = Teaching(temperature=2, weight=0.25)


def teacher(
    seed: int, tasks: Sequence[str] = NAMES, model: MultiTaskModel | None = None
) -> Teacher:
    """A network that knows all toy tasks, and teaches some of them."""
    made = mlp_model(seed)[0] if model is None else model
    made.eval().requires_grad_(False)
    return Teacher(f"run {seed}", str(seed), Forward(made, toy_tasks()), tuple(tasks))


def taught(
    teachers: Sequence[Teacher],
    teaching: Teaching,
    weighting: Weighting | None = None,
    place: Any = None,
    model: MultiTaskModel | None = None,
    **options: Any,
) -> TrainingStep:
    model = mlp_model(0)[0] if model is None else model
    tasks = toy_tasks()
    made = Distillation(teachers, tasks, model, teaching, seed=7)
    return training_step(model, tasks, weighting or Equal(), place, distillation=made, **options)


def gradients(step: TrainingStep, batches: Sequence[Batch], number: int = 0) -> dict[str, Tensor]:
    """``.grad`` of the network and of what stands beside it, without an update."""
    step.optimizer.step = lambda *_: None  # type: ignore[assignment]
    assert step(batches, 0, number).nonfinite is None
    assert step.distillation is not None
    named = {**dict(step.model.named_parameters()), **dict(step.distillation.named_parameters())}
    return {name: p.grad.clone() for name, p in named.items() if p.grad is not None}


def predictions(model: MultiTaskModel, batch: Batch) -> dict[str, Tensor]:
    with torch.no_grad():
        return model({"rows": batch["rows"].inputs}, NAMES)


# -- the objective --------------------------------------------------------------------------------


def test_the_objective_of_taught_tasks() -> None:
    """Task a has two teachers, b one, and c none; by the definitions, row for row."""
    batch = toy_batch()
    targets = batch["rows"].targets
    targets["a"][2], targets["b"][5] = -1, torch.nan
    step = taught([teacher(1, ["a"]), teacher(2, ["a", "b"])], HALF)
    own = predictions(step.model, batch)
    one, two = (predictions(t.forward.model, batch) for t in step.distillation.teachers)
    losses = step([batch], 0, 0).losses

    known = targets["a"] != -1
    soft = ((one["a"] / 2).softmax(1) + (two["a"] / 2).softmax(1)) / 2
    at_2 = -4 * (soft * (own["a"] / 2).log_softmax(1)).sum(1)[known].mean()
    hard = F.cross_entropy(own["a"][known], targets["a"][known])
    torch.testing.assert_close(losses[0], 0.75 * hard + 0.25 * at_2)
    known = ~targets["b"].isnan()
    hard = F.mse_loss(own["b"][known, 0], targets["b"][known])
    soft = F.mse_loss(own["b"][known], two["b"][known])
    torch.testing.assert_close(losses[1], 0.75 * hard + 0.25 * soft)
    torch.testing.assert_close(losses[2], F.huber_loss(own["c"], targets["c"]))


def test_annealed_it_is_bams() -> None:
    """The cross-entropy to (1 - l) teacher + l labels, with l from 0 to 1 over the run."""
    batch = toy_batch()
    step = taught([teacher(1)], Teaching(weight=1, steps=8))
    step.optimizer.step = lambda *_: None  # type: ignore[assignment]
    own = predictions(step.model, batch)["a"]
    said = predictions(step.distillation.teachers[0].forward.model, batch)["a"].softmax(1)
    labels = F.one_hot(batch["rows"].targets["a"], 3)
    for number in (0, 2, 7):
        mixed = (1 - number / 8) * said + number / 8 * labels
        loss = step([batch], 0, number).losses[0]
        torch.testing.assert_close(loss, F.cross_entropy(own, mixed))


def test_a_teacher_that_says_the_labels_changes_nothing_but_the_temperature() -> None:
    class Sure(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features[:, :3] * 1e4

    batch = toy_batch()
    batch["rows"].inputs = F.one_hot(batch["rows"].targets["a"], 5).float()
    knows = hps_model(nn.Sequential(nn.Identity()), toy_tasks(), heads={"a": Sure()})
    sure = teacher(1, ["a"], knows)
    plain = taught([], Teaching())([copy.deepcopy(batch)], 0, 0).losses
    for weight in (0.3, 1):
        losses = taught([sure], Teaching(weight=weight))([copy.deepcopy(batch)], 0, 0).losses
        torch.testing.assert_close(losses, plain)


def test_absent_tasks_are_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    step = taught([teacher(1, ["a"]), teacher(2, ["b"])], HALF)
    asked: list[str] = []
    plain = Forward.prediction

    def noting(self: Forward, index: int, features: Tensor) -> Tensor:
        if self is not step.backward.forward:
            asked.append(self.names[index])
        return plain(self, index, features)

    monkeypatch.setattr(Forward, "prediction", noting)
    step([toy_batch(present=["b", "c"])], 0, 0)
    assert asked == ["b"]
    # A loss that is looked at again after the step rests on the answers that are there
    asked.clear()
    step = taught([teacher(1)], HALF, FAMO(tasks=task_infos(toy_tasks())))
    step([toy_batch()], 0, 0)
    assert sorted(asked) == ["a", "b", "c"]


# -- features -------------------------------------------------------------------------------------


def adaptor(layout: Any, weight: Tensor) -> Adaptor:
    made = Adaptor(weight.shape[1], weight.shape[0], layout)
    assert isinstance(made.layer.weight, nn.Parameter)
    with torch.no_grad():
        made.layer.weight.copy_(weight.view_as(made.layer.weight))
    return made


SAME = torch.eye(2)


def test_the_distance_of_features_by_hand() -> None:
    """Unit vectors (0.6, 0.8) and (1, 0): 0.16 + 0.64; opposed ones: 4; equal ones: 0."""
    features = torch.tensor([[3.0, 4], [0, -2], [5, 5]])
    wanted = torch.tensor([[7.0, 0], [0, 3], [-1, 0]])
    rows = torch.tensor([True, True, False])
    found = adaptor("vector", SAME).distance(features, wanted, rows)
    assert found.item() == pytest.approx((0.8 + 4) / 2, rel=1e-5)
    swapped = adaptor("vector", SAME.flip(0)).distance(features, wanted, rows)
    assert swapped.item() == pytest.approx(((0.2**2 + 0.6**2) + 2) / 2, rel=1e-5)
    assert adaptor("vector", SAME).distance(features, wanted, ~rows & False) == 0


def test_the_distance_is_taken_position_by_position() -> None:
    maps = torch.tensor([[3.0, 0], [4, -2]]).view(1, 2, 1, 2)
    wanted = torch.tensor([[7.0, 0], [0, 3]]).view(1, 2, 1, 2)
    row = torch.tensor([True])
    found = adaptor("map", SAME).distance(maps, wanted, row)
    assert found.item() == pytest.approx((0.8 + 4) / 2, rel=1e-5)
    tokens = torch.tensor([[[3.0, 4], [0, -2], [0, 0]]])  # the last one is padding
    wanted = torch.tensor([[[7.0, 0], [0, 3], [0, 0]]])
    found = adaptor("sequence", SAME).distance(tokens, wanted, row)
    assert found.item() == pytest.approx((0.8 + 4) / 2, rel=1e-5)


def test_maps_are_brought_to_the_teachers_size() -> None:
    maps = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    wanted = F.interpolate(maps, size=(8, 5), mode="bilinear", align_corners=False)
    rows = torch.tensor([True, True])
    assert adaptor("map", torch.eye(3)).distance(maps, wanted * 2, rows) < 1e-5
    assert adaptor("map", -torch.eye(3)).distance(maps, wanted, rows) > 3.9


def test_features_in_the_objective() -> None:
    batch = toy_batch()
    batch["rows"].targets["b"][3:] = torch.nan
    step = taught([teacher(1, ["b"]), teacher(2, ["b"])], Teaching(weight=0, features=0.5))
    hard = predictions(step.model, batch)["b"][:3, 0] - batch["rows"].targets["b"][:3]
    read = step.model.architecture({"rows": batch["rows"].inputs}, ["b"])["b"][:3]
    distances = []
    for number, other in enumerate(step.distillation.teachers):
        wanted = other.forward.model.architecture({"rows": batch["rows"].inputs}, ["b"])["b"][:3]
        weight = dict(step.distillation.named_parameters())[f"adaptors.0.{number}.layer.weight"]
        mapped, wanted = F.normalize(read @ weight.T), F.normalize(wanted)
        distances.append((mapped - wanted).square().sum(1).mean())
    expected = hard.square().mean() + 0.5 * (distances[0] + distances[1]) / 2
    torch.testing.assert_close(step([batch], 0, 0).losses[1], expected, atol=1e-5, rtol=1e-5)
    assert batch["rows"].lessons["b"].answer is None  # which at a weight of 0 nobody needs


def test_features_of_another_layout_are_refused() -> None:
    model, tasks = mlp_model()
    other = teacher(1)
    other.forward.model.architecture.layout = lambda _: "map"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"^the head of a reads vectors here, and in run 1 it"):
        Distillation([other], tasks, model, Teaching(features=1), 0)
    Distillation([other], tasks, model, Teaching(), 0)


# -- every kind of step ---------------------------------------------------------------------------

WEIGHTS = {"a": 0.5, "b": 2.0, "c": 0.75}
BOTH = Teaching(temperature=2, weight=0.25, features=0.5)


def static() -> Static:
    return Static(WEIGHTS, tasks=task_infos(toy_tasks()))


def balanced() -> Given:
    return Given(list(WEIGHTS.values()), heads="weighted")


PARAMETERS = [{}, {"memory": 0}, {"accumulate": 2}, {"every": 2}]


@pytest.mark.parametrize(
    ("make", "place", "options"),
    [
        *(
            (make, "parameters", more)
            for make in (mlp_model, branched_model)
            for more in PARAMETERS
        ),
        (mlp_model, "representation", {}),
        (mlp_model, "last_layer", {}),
        (branched_model, "last_layer", {}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_all_ways_to_the_gradient_agree(make: Any, place: Any, options: dict[str, int]) -> None:
    batches = [toy_batch(seed) for seed in range(options.get("accumulate", 1))]
    batches[0]["rows"].targets["a"][4:] = -1
    teachers = [teacher(1, ["a", "b"]), teacher(2, ["b"])]
    plain = taught(teachers, BOTH, static(), None, make()[0])
    expected = gradients(plain, copy.deepcopy(batches))
    assert len([name for name in expected if name.startswith("adaptors")]) == 3
    step = taught(teachers, BOTH, balanced(), place, make()[0], **options)
    if "every" in options:
        step(copy.deepcopy(batches), 0, 0)
        again = taught(teachers, BOTH, balanced(), place, make()[0], **options)
        again.backward.last_weights = step.backward.last_weights  # type: ignore[attr-defined]
        found = gradients(again, copy.deepcopy(batches), 1)
    else:
        found = gradients(step, copy.deepcopy(batches))
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert wanted.abs().max() > 1e-5
        torch.testing.assert_close(found[name], wanted, atol=2e-6, rtol=1e-4, msg=name)


class Twice(Given):
    """Two batches in a step, both with the fixed weights, halved."""

    batches = 2

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        return torch.cat([self.fixed, self.fixed]) / 2


def test_methods_of_several_batches_train_adaptors_too() -> None:
    batches = [toy_batch(1), toy_batch(2)]
    found = gradients(taught([teacher(1)], BOTH, Twice([1, 1, 1]), "parameters"), batches)
    single = [gradients(taught([teacher(1)], BOTH), [toy_batch(seed)]) for seed in (1, 2)]
    for name, wanted in found.items():
        torch.testing.assert_close(wanted, (single[0][name] + single[1][name]) / 2)


def test_a_sampler_is_shown_the_gradients_of_the_objective() -> None:
    """Compared with those of validation labels; here teachers stand for the training labels."""
    probe, model, splits = probe_of("val", "streams", 9, mlp())
    torch.manual_seed(1)
    other = hps_model(mlp(), regressions("abc"), streams=STREAMS).eval()
    knows = Teacher("other", "", Forward(other, regressions("abc")), tuple("abc"))
    probe.forward.distillation = Distillation(
        [knows], regressions("abc"), model, Teaching(weight=1), 0
    )
    said = {}
    for stream, tasks in STREAMS.items():
        source = splits["train"][stream]
        with torch.no_grad():
            answers = other({stream: source.inputs}, tasks)
        known = {task: ~source.targets[task].isnan() for task in tasks}
        targets = {t: torch.where(known[t], answers[t].squeeze(1), torch.nan) for t in tasks}
        said[stream] = TensorSource(source.inputs, targets)
    found = probe.cosines(probe.loader.sampler.units, 0, 0)
    for row, stream in enumerate(STREAMS):
        against = gradient(model, splits["val"][stream], STREAMS[stream])
        for column, own in enumerate(STREAMS):
            expected = gradient(model, said[own], STREAMS[own])
            cosine = F.cosine_similarity(against, expected, dim=0)
            assert found[row, column].item() == pytest.approx(cosine.item(), abs=1e-5)


def test_adaptors_have_the_networks_rate_and_its_limit() -> None:
    model, tasks = mlp_model()
    made = Distillation([teacher(1)], tasks, model, BOTH, 0)
    (group,) = parameter_groups(model, Equal(), RATE, made.parameters())
    trained = [*model.parameters(), *made.parameters()]
    assert [id(p) for p in group["params"]] == [id(p) for p in trained]  # type: ignore[attr-defined]
    found = gradients(taught([teacher(1)], BOTH, clip_norm=1e-3), [toy_batch()])
    norm = torch.stack([gradient.norm() for gradient in found.values()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_dropout_is_the_same_with_and_without_teachers() -> None:
    """Adaptors of zeros add a constant: gradients must not differ in a single bit."""

    def noisy() -> MultiTaskModel:
        torch.manual_seed(0)
        return hps_model(nn.Sequential(mlp(), nn.Dropout(0.5)), toy_tasks())

    plain = taught([], Teaching(), model=noisy())
    step = taught([teacher(1, model=noisy())], Teaching(weight=0, features=1), model=noisy())
    for parameter in step.distillation.parameters():
        nn.init.zeros_(parameter)
    expected, found = gradients(plain, [toy_batch()]), gradients(step, [toy_batch()])
    for name, wanted in expected.items():
        assert torch.equal(found[name], wanted), name


def test_adaptors_train_in_the_steps_of_their_tasks_heads() -> None:
    """Of architectures that take turns: here heads a and c, then the trunk alone."""
    for chosen in ("ac", ""):
        step = taught([teacher(1)], BOTH)
        heads = [p for name in chosen for p in step.model.head_of[name].parameters()]
        only = heads or list(step.model.architecture.parameters())
        step.model.architecture.only = lambda only=only: only  # type: ignore[method-assign]
        found = gradients(step, [toy_batch()])
        adaptors = {name for name in found if name.startswith("adaptors")}
        assert adaptors == {f"adaptors.{'abc'.index(name)}.0.layer.weight" for name in chosen}
        assert len(found) - len(adaptors) == len(only)


def test_teachers_stay_as_they_are() -> None:
    def normalised(seed: int) -> MultiTaskModel:
        torch.manual_seed(seed)
        return hps_model(nn.Sequential(mlp(), nn.BatchNorm1d(WIDTH)), toy_tasks())

    other = teacher(1, model=normalised(1))
    before = copy.deepcopy(other.forward.model.state_dict())
    step = taught([other], BOTH, model=normalised(0))
    step.model.train()
    for number in range(3):
        step([toy_batch(number)], 0, number)
    for name, value in other.forward.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    held = {id(p) for group in step.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in other.forward.model.parameters()}
    saved = [name for name in step.distillation.state_dict() if "adaptors" not in name]
    assert saved == ["_extra_state"]


def test_a_checkpoint_of_other_teachers_is_refused() -> None:
    model, tasks = mlp_model()
    made, other = (Distillation([teacher(n)], tasks, model, BOTH, 0) for n in (1, 2))
    made.load_state_dict(copy.deepcopy(made.state_dict()))
    with pytest.raises(ValueError, match=r"^the teacher run 2 has other weights now$"):
        other.load_state_dict(made.state_dict())
