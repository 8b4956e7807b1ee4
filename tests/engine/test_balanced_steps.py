"""What methods that see task gradients do over micro-batches and from step to step."""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

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
    given,
    mlp_model,
    task_infos,
    toy_batch,
    toy_tasks,
    training_step,
    weights_of,
)
from torch import Tensor

from mtlrun.engine import kernels
from mtlrun.engine.balanced import FromGradients
from mtlrun.engine.rows import PlainRows, SweptRows
from mtlrun.weighting.base import Place
from mtlrun.weighting.gradnorm import GradNorm

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


# -- absent tasks ---------------------------------------------------------------------------------


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


# -- what is kept from step to step ---------------------------------------------------------------


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
    step = training_step(model, tasks, GivenDirection(list(WEIGHTS.values())))
    assert isinstance(step.backward, FromGradients)
    assert isinstance(step.backward.rows, PlainRows)
    places = set()
    for number in range(3):
        step([toy_batch(number)], 0, number)
        grads = [p.grad for p in model.shared_parameters()]
        places.add((step.backward.rows.held.buffer.data_ptr(), *(g.data_ptr() for g in grads)))
    assert len(places) == 1


def test_buffers_of_output_gradients_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MARGIN", math.inf)
    model, tasks = mlp_model()
    step = training_step(model, tasks, given())
    assert isinstance(step.backward, FromGradients)
    assert isinstance(step.backward.rows, SweptRows)
    places = set()
    for number in range(3):
        step([toy_batch(number)], 0, number)
        buffers = step.backward.rows._buffers.values()
        assert len(buffers) == 2
        places.add(tuple(buffer.data_ptr() for buffer in buffers))
    assert len(places) == 1
