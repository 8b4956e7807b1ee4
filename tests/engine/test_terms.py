"""An architecture's auxiliary losses: in the objective of every kind of method, never lost."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from engine_reference import gradients_of
from engine_toys import (
    NAMES,
    WEIGHTS,
    WIDTH,
    Branched,
    GivenDirection,
    given,
    linear_head,
    task_infos,
    toy_batch,
    toy_tasks,
    training_step,
)
from torch import Tensor, nn

from mtlrun.engine.ledger import Ledger
from mtlrun.errors import UserError
from mtlrun.models.architectures.base import Architecture, Pass
from mtlrun.models.architectures.hps import HPS
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Task
from mtlrun.types import Batch
from mtlrun.weighting.auto_lambda import AutoLambda
from mtlrun.weighting.base import GramianWeighting, Weighting
from mtlrun.weighting.equal import Equal
from mtlrun.weighting.moco import MoCo
from mtlrun.weighting.modo import MoDo
from mtlrun.weighting.uncertainty import Uncertainty

SIZE, GUESS = 0.25, 0.5


class WithTerms(Branched):
    """A penalty on features through a layer that nothing else trains, and a guess at task b."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = nn.Linear(WIDTH, 1)
        self.guess = nn.Linear(8, 1)
        self.terms = {"size": SIZE, "guess": GUESS}

    def with_terms(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> Pass:
        features = self.features(inputs, tasks)
        size = sum(self.judge(value).square().mean() for value in features.values())
        assert isinstance(size, Tensor)
        below = torch.tanh(self.below(inputs["rows"]))
        guesses = {"guess": ("b", self.guess(below))} if "b" in tasks else {}
        return Pass(features, {"size": size}, guesses)


class SharedWithTerm(HPS):
    """Hard sharing with a penalty on the representation."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        backbone = Backbone([nn.Linear(5, WIDTH), nn.Tanh()], [WIDTH, WIDTH], ["vector", "vector"])
        super().__init__(make_backbone=lambda _: backbone, streams={"rows": NAMES})
        self.terms = {"size": SIZE}

    def with_terms(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> Pass:
        features = self.features(inputs, tasks)
        return Pass(features, {"size": next(iter(features.values())).square().mean()})


def model_with(architecture: type[Architecture]) -> tuple[MultiTaskModel, dict[str, Task]]:
    torch.manual_seed(0)
    tasks = toy_tasks()
    heads = {name: linear_head(task) for name, task in tasks.items()}
    return MultiTaskModel(architecture(), heads), tasks  # type: ignore[call-arg]


def term_gradients(
    model: MultiTaskModel, tasks: Mapping[str, Task], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """Plain autograd of the weighted terms, their mean over batches, by the parameter's name."""
    total = torch.zeros(())
    for batch in batches:
        part = batch["rows"]
        made = model.architecture.with_terms({"rows": part.inputs}, part.present)
        terms = dict(made.terms)
        for name, (task, prediction) in made.predictions.items():
            terms[name] = tasks[task].loss(prediction, part.targets[task])
        weights = model.architecture.terms
        total = total + sum(terms[n] * weights[n] for n in terms) / len(batches)
    named = dict(model.named_parameters())
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


def steps_apart(
    architecture: type[Architecture],
    weighting: Weighting,
    batches: Sequence[Batch],
    place: Any,
    **options: Any,
) -> None:
    """``.grad`` with terms less ``.grad`` without them is the terms' own gradient."""
    found = []
    for terms in (True, False):
        torch.manual_seed(5)
        model, tasks = model_with(architecture)
        if not terms:
            model.architecture.terms = {}
        step = training_step(model, tasks, copy.deepcopy(weighting), place, **options)
        step.optimizer.step = lambda *_: None  # type: ignore[assignment]  # .grad is looked at
        figures = step(batches, 0, 0)
        assert figures.nonfinite is None
        assert set(figures.terms) == (set(model.architecture.terms) if terms else set())
        found.append(gradients_of(model))
    model, tasks = model_with(architecture)
    expected = term_gradients(model, tasks, batches)
    assert expected
    for name, parameter in model.named_parameters():
        nothing = torch.zeros_like(parameter)
        both, without = (nothing if g.get(name) is None else g[name] for g in found)
        difference = both - without
        assert torch.allclose(difference, expected.get(name, nothing), atol=1e-6), name


PLACES = ("parameters", "last_layer")


@pytest.mark.parametrize("accumulate", [1, 3])
def test_methods_that_see_losses(accumulate: int) -> None:
    batches = [toy_batch(seed) for seed in range(accumulate)]
    for weighting in (Equal(), Uncertainty(tasks=task_infos(toy_tasks()))):
        steps_apart(WithTerms, weighting, batches, None, accumulate=accumulate)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_methods_that_see_the_gramian(place: str, accumulate: int) -> None:
    batches = [toy_batch(seed) for seed in range(accumulate)]
    steps_apart(WithTerms, given("weighted"), batches, place, accumulate=accumulate)


def test_rows_in_parts() -> None:
    steps_apart(WithTerms, given(), [toy_batch()], "parameters", memory=100)


def test_methods_that_see_the_jacobian() -> None:
    weighting = GivenDirection(list(WEIGHTS.values()))
    steps_apart(WithTerms, weighting, [toy_batch()], "parameters")


@pytest.mark.parametrize("place", ["parameters", "representation", "last_layer"])
def test_one_representation(place: str) -> None:
    steps_apart(SharedWithTerm, given(), [toy_batch()], place)


def test_moving_averages_and_several_batches_see_the_tasks_alone() -> None:
    infos = task_infos(toy_tasks())
    steps_apart(WithTerms, MoCo(tasks=infos), [toy_batch()], "parameters")
    batches = [toy_batch(seed) for seed in range(MoDo.batches)]
    steps_apart(WithTerms, MoDo(tasks=infos), batches, "parameters")


def test_beyond_a_trial_step_the_tasks_alone_are_looked_at() -> None:
    weighting = AutoLambda(tasks=task_infos(toy_tasks()))
    found = []
    for terms in (True, False):
        torch.manual_seed(5)
        model, tasks = model_with(WithTerms)
        if not terms:
            model.architecture.terms = {}
        step = training_step(model, tasks, copy.deepcopy(weighting), "parameters")
        step.optimizer.step = lambda *_: None  # type: ignore[assignment]  # .grad is looked at
        step([toy_batch(0), toy_batch(1)], 0, 0)
        found.append(gradients_of(model))
    model, tasks = model_with(WithTerms)
    expected = term_gradients(model, tasks, [toy_batch(0)])  # once, of the first batch
    for name, gradient in expected.items():
        without = found[1].get(name)
        difference = found[0][name] if without is None else found[0][name] - without
        assert torch.allclose(difference, gradient, atol=1e-6), name


def test_a_step_that_reuses_weights_keeps_the_terms() -> None:
    model, tasks = model_with(WithTerms)
    weighting: GramianWeighting = given("weighted")
    step = training_step(model, tasks, weighting, "parameters", every=2)
    step([toy_batch()], 0, 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = term_gradients(model, tasks, [toy_batch(1)])
    step([toy_batch(1)], 0, 1)
    judge = model.architecture.judge.weight  # nothing but a term trains it
    name = "architecture.judge.weight"
    assert torch.allclose(judge.detach(), before[name] - 0.1 * expected[name], atol=1e-6)


def test_terms_of_absent_tasks_are_left_out() -> None:
    model, tasks = model_with(WithTerms)
    step = training_step(model, tasks, Equal(), None)
    figures = step([toy_batch(present=("a", "c"))], 0, 0)
    assert set(figures.terms) == {"size"}
    assert figures.terms["size"] > 0


def test_a_bad_term_stops_the_step_and_is_named() -> None:
    model, tasks = model_with(WithTerms)
    with torch.no_grad():
        model.architecture.judge.bias.fill_(torch.inf)
    before = [p.detach().clone() for p in model.parameters()]
    figures = training_step(model, tasks, given(), "parameters")([toy_batch()], 0, 0)
    assert figures.nonfinite == len(NAMES)
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter.detach(), value)
    ledger = Ledger(NAMES, model.architecture.terms)
    figures.nonfinite = None
    ledger.add(7, figures)
    with pytest.raises(UserError, match="the auxiliary loss size is NaN or infinite at step 7"):
        ledger.read_back()


def test_the_files_have_their_means_and_weights() -> None:
    model, tasks = model_with(WithTerms)
    step = training_step(model, tasks, Equal(), None)
    ledger = Ledger(NAMES, model.architecture.terms)
    shown = []
    for number in range(2):
        figures = step([toy_batch(number)], 0, number)
        shown.append({name: float(value) for name, value in figures.terms.items()})
        ledger.add(number + 1, figures)
        state = ledger.state_dict()
        ledger = Ledger(NAMES, model.architecture.terms)
        ledger.load_state_dict(state)
    ledger.rows(2, 1)
    rows = ledger.term_rows(2, 1)
    assert rows == [
        {
            "step": 2,
            "epoch": 1,
            "term": name,
            "loss": pytest.approx((shown[0][name] + shown[1][name]) / 2),
            "weight": weight,
        }
        for name, weight in (("size", SIZE), ("guess", GUESS))
    ]
    assert ledger.term_rows(3, 1) == []


def test_no_gradient_is_held_between_steps() -> None:
    model, tasks = model_with(WithTerms)
    step = training_step(model, tasks, given(), "parameters")
    step([toy_batch()], 0, 0)
    held = [part for part in vars(step.backward.terms).values() if isinstance(part, list)]
    parameters = {id(p) for p in model.parameters()}
    for part in held:
        assert all(tensor is None or id(tensor) in parameters for tensor in part)


class Phases(Branched):
    """Trains its lower layer in odd steps, and everything else at ten times the rate."""

    step = -1

    def start_step(self, epoch: int, step: int) -> None:
        del epoch
        self.step = step

    def only(self) -> list[nn.Parameter] | None:
        return list(self.below.parameters()) if self.step % 2 else None

    def learning_rates(self) -> list[tuple[list[nn.Parameter], float]]:
        return [(list(self.above.parameters()), 10.0)]


def test_a_step_trains_what_the_architecture_says() -> None:
    for weighting, place in ((Equal(), None), (given(), "parameters")):
        model, tasks = model_with(Phases)
        step = training_step(model, tasks, weighting, place)  # type: ignore[arg-type]
        for number in range(4):
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            step([toy_batch(number)], 0, number)
            moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
            below = {"architecture.below.weight", "architecture.below.bias"}
            assert moved == (below if number % 2 else set(before))


def test_parts_of_the_network_may_have_another_learning_rate() -> None:
    model, tasks = model_with(Phases)
    step = training_step(model, tasks, Equal(), None)
    network, above = step.optimizer.param_groups
    assert above["lr"] == pytest.approx(10 * network["lr"])
    assert [id(p) for p in above["params"]] == [
        id(p) for p in model.architecture.above.parameters()
    ]
    assert len(network["params"]) + 2 == len(list(model.parameters()))


def test_frozen_parts_are_in_no_group_and_what_is_not_trained_is_not_clipped() -> None:
    model, tasks = model_with(Phases)
    model.architecture.above.requires_grad_(False)
    step = training_step(model, tasks, Equal(), None, clip_norm=1e-3)
    (network,) = step.optimizer.param_groups
    trained = [p for p in model.parameters() if p.requires_grad]
    assert [id(p) for p in network["params"]] == [id(p) for p in trained]
    step([toy_batch()], 0, 1)  # trains the lower layer alone
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_networks_tied_by_a_term_are_one_group() -> None:
    class Tied(Branched):
        def shared_parameters(self) -> list[nn.Parameter]:
            return []

    model, _ = model_with(Tied)
    assert model.independent_groups() == [("a",), ("b",), ("c",)]
    model.architecture.terms = {"distance": 1.0}
    assert model.independent_groups() == [NAMES]
    step = training_step(model, toy_tasks(), Equal(), None, clip_norm=1.0)
    assert [len(group) for group in step._clip_groups] == [len(list(model.parameters()))]
