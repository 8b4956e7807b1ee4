"""Rows of one part of the trunk at a time: where it is cut, and that nothing is lost thereby."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from engine_reference import assert_gramian, check_update, names_of, plain_gradients
from engine_toys import (
    NAMES,
    WEIGHTS,
    WIDTH,
    branched_model,
    given,
    hps_model,
    linear_head,
    toy_batch,
    toy_tasks,
    training_step,
)
from torch import Tensor, nn

from mtlrun.engine import segments
from mtlrun.engine.balanced import FromGradients
from mtlrun.engine.segments import SegmentRows
from mtlrun.engine.step import TrainingStep
from mtlrun.models.architectures.base import Architecture
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Task
from mtlrun.types import Layout

DEEP = 6


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The rows of each part, in the order in which they are formed."""
    seen: list[Tensor] = []

    def spied(rows: Tensor) -> Tensor:
        seen.append(rows.clone())
        return whole(rows)

    whole = segments.gramian
    monkeypatch.setattr(segments, "gramian", spied)
    return seen


def check(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    memory: float = 0,
    present: Sequence[str] = NAMES,
) -> TrainingStep:
    """One step in parts: the Gramian and all gradients are those of plain autograd."""
    batch = toy_batch(present=present)
    plain = plain_gradients(model, tasks, [batch])
    weighting = given()
    step = training_step(model, tasks, weighting, memory=memory)
    assert isinstance(step.backward, FromGradients)
    assert isinstance(step.backward.rows, SegmentRows)
    step([batch], 0, 0)
    shared = names_of(model, model.shared_parameters())
    assert_gramian(weighting.gramians[0], plain.gramian(shared))
    weights = {name: WEIGHTS[name] for name in present}
    check_update(model, plain, shared, weights, "unweighted")
    return step


def layers(model: MultiTaskModel) -> Tensor:
    """How many numbers each shared layer has."""
    return torch.tensor([sum(p.numel() for p in layer) for layer in model.shared_layers()])


# -- where the trunk is cut -----------------------------------------------------------------------


def deep_model() -> tuple[MultiTaskModel, dict[str, Task]]:
    torch.manual_seed(0)
    tasks = toy_tasks()
    middle = [part for _ in range(DEEP) for part in (nn.Linear(8, 8), nn.Tanh())]
    trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), *middle, nn.Linear(8, WIDTH))
    return hps_model(trunk, tasks), tasks


LAYER = 8 * 8 + 8
ROW = 4 * len(NAMES)
"""Bytes of one number in all rows."""


@pytest.mark.parametrize(
    ("memory", "widths"),
    [
        (0, [54, *[LAYER] * DEEP, 48]),
        (ROW * LAYER, [54, *[LAYER] * DEEP, 48]),
        (ROW * 2 * LAYER, [54 + LAYER, LAYER * 2, LAYER * 2, LAYER + 48]),
        (ROW * (2 * LAYER - 1), [54 + LAYER, *[LAYER] * (DEEP - 2), LAYER + 48]),
        (ROW * (54 + DEEP * LAYER + 47), [54 + DEEP * LAYER, 48]),
    ],
)
def test_as_many_layers_make_a_part_as_fit_the_budget(
    memory: float, widths: list[int], parts: list[Tensor]
) -> None:
    model, tasks = deep_model()
    check(model, tasks, memory)
    assert [rows.shape[1] for rows in parts] == widths
    assert all(rows.shape[0] == len(NAMES) for rows in parts)
    if memory >= ROW * LAYER:
        assert all(rows.numel() * rows.element_size() <= memory for rows in parts)


def test_rows_that_fit_are_not_formed_in_parts() -> None:
    model, tasks = deep_model()
    step = training_step(model, tasks, given(), memory=ROW * (54 + DEEP * LAYER + 48))
    assert isinstance(step.backward, FromGradients)
    assert not isinstance(step.backward.rows, SegmentRows)


class Skipping(nn.Module):
    """Blocks with skip connections, and one that reaches over all of them."""

    def __init__(self, over_all: bool) -> None:
        super().__init__()
        self.first = nn.Linear(5, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, WIDTH)) for _ in range(3)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.over_all = over_all

    def forward(self, inputs: Tensor) -> Tensor:
        first = hidden = self.first(inputs)
        for block in self.blocks:
            hidden = hidden + torch.tanh(block(hidden))
        return self.norm(hidden + first if self.over_all else hidden)


@pytest.mark.parametrize("over_all", [False, True])
def test_no_cut_passes_a_skip_connection_by(over_all: bool, parts: list[Tensor]) -> None:
    torch.manual_seed(0)
    tasks = toy_tasks()
    model = hps_model(Skipping(over_all), tasks)
    check(model, tasks)
    block = WIDTH * 8 + 8 + 8 * WIDTH + WIDTH
    # The sum after a block is no module's output: blocks stay together, the first layer does not.
    assert [rows.shape[1] for rows in parts] == [2 * WIDTH + 3 * block, 6 * WIDTH]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.tanh(self.inner(inputs))


def test_cuts_between_residual_blocks(parts: list[Tensor]) -> None:
    torch.manual_seed(0)
    tasks = toy_tasks()
    model = hps_model(nn.Sequential(nn.Linear(5, WIDTH), *[Residual() for _ in range(3)]), tasks)
    check(model, tasks)
    assert [rows.shape[1] for rows in parts] == [WIDTH * 7] * 3 + [WIDTH * 6]


def test_layers_that_share_a_weight_stay_together(parts: list[Tensor]) -> None:
    torch.manual_seed(0)
    tasks = toy_tasks()
    trunk = nn.Sequential(
        nn.Linear(5, WIDTH), *[nn.Linear(WIDTH, WIDTH) for _ in range(4)], nn.Tanh()
    )
    trunk[3].weight = trunk[1].weight
    check(hps_model(trunk, tasks), tasks)
    assert [rows.shape[1] for rows in parts] == [42, 42 + 6 + 42, 36]


# -- networks of other shapes ---------------------------------------------------------------------


@pytest.mark.parametrize("present", [NAMES, ("a", "c"), ("b",)])
def test_absent_tasks(present: Sequence[str], parts: list[Tensor]) -> None:
    model, tasks = deep_model()
    check(model, tasks, present=present)
    assert all(len(rows) == len(present) for rows in parts)


@pytest.mark.parametrize("present", [NAMES, ("a", "c")])
def test_parameters_of_single_tasks_between_the_shared_ones(present: Sequence[str]) -> None:
    model, tasks = branched_model()
    check(model, tasks, present=present)


class Stacked(Architecture):
    """Layers of which tasks read different ones, and layers of single tasks anywhere."""

    def __init__(self) -> None:
        super().__init__(streams={"rows": NAMES})
        self.own_a = nn.Linear(5, 5)
        self.low = nn.Linear(5, WIDTH)
        self.high = nn.Linear(WIDTH, WIDTH)
        self.own_c = nn.Linear(WIDTH, WIDTH)

    def shared_parameters(self) -> list[nn.Parameter]:
        return [*self.low.parameters(), *self.high.parameters()]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        return list({"a": self.own_a, "b": nn.Identity(), "c": self.own_c}[task].parameters())

    def last_shared_layer(self) -> list[nn.Parameter]:
        return [self.high.weight]

    def out_channels(self, task: str) -> int:
        return WIDTH

    def layout(self, task: str) -> Layout:
        return "vector"

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        low = torch.tanh(self.low(inputs["rows"]))
        found = {"b": low, "c": self.own_c(torch.tanh(self.high(low)))}
        if "a" in tasks:
            found["a"] = self.high(torch.tanh(self.low(torch.tanh(self.own_a(inputs["rows"])))))
        return {task: found[task] for task in tasks}


class OwnBelow(Stacked):
    """Shared layers on top of layers of single tasks."""

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        rows = inputs["rows"]
        below = {"a": lambda: self.own_a(rows), "b": lambda: rows, "c": lambda: self.own_c(six)}
        six = torch.cat([rows, rows[:, :1]], dim=1)
        found = {}
        for task in tasks:
            hidden = torch.tanh(below[task]())[:, :5]
            found[task] = self.high(torch.tanh(self.low(hidden)))
        return found


class Towers(Stacked):
    """Tasks a and b read one tower, c another: what lies below one is beside the other."""

    def shared_parameters(self) -> list[nn.Parameter]:
        return [*self.low.parameters(), *self.high.parameters(), *self.own_c.parameters()]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        return list(self.own_a.parameters()) if task == "c" else []

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        left = self.high(torch.tanh(self.low(inputs["rows"])))
        right = self.own_c(torch.tanh(nn.functional.pad(self.own_a(inputs["rows"]), (0, 1))))
        return {task: right if task == "c" else left for task in tasks}


@pytest.mark.parametrize("present", [NAMES, ("a", "c"), ("c",)])
@pytest.mark.parametrize("kind", [Stacked, OwnBelow, Towers])
def test_tasks_that_read_different_tensors(
    kind: type[Architecture], present: Sequence[str]
) -> None:
    torch.manual_seed(0)
    tasks = toy_tasks()
    model = MultiTaskModel(kind(), {name: linear_head(task) for name, task in tasks.items()})
    check(model, tasks, present=present)


class Halves(nn.Module):
    """A layer whose output is read in two halves, one of them past the next layer."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Linear(5, 8)
        self.next = nn.Linear(4, 4)
        self.last = nn.Linear(8, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        one, two = self.below(inputs).chunk(2, dim=1)
        return self.last(torch.cat([torch.tanh(self.next(one)), two], dim=1))


class Several(nn.Module):
    """A recurrent layer gives several tensors at once, and all are read."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Linear(1, 4)
        self.layer = nn.LSTM(4, 3, batch_first=True)
        self.middle = nn.Linear(3, 3)
        self.last = nn.Linear(6, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        found, (hidden, _) = self.layer(torch.tanh(self.below(inputs[..., None])))
        return self.last(torch.cat([self.middle(found.mean(1)), hidden[0]], dim=1))


class Splitting(nn.Module):
    """Gives half of a layer's output, and keeps the other half aside."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        one, self.aside = self.layer(inputs).chunk(2, dim=1)
        return one


class Aside(Halves):
    """What a module gives passes the next layer, and what it kept aside passes it by."""

    def __init__(self) -> None:
        super().__init__()
        self.below = Splitting()  # type: ignore[assignment]

    def forward(self, inputs: Tensor) -> Tensor:
        one = torch.tanh(self.next(self.below(inputs)))
        return self.last(torch.cat([one, self.below.aside], dim=1))


@pytest.mark.parametrize("kind", [Halves, Several, Aside])
def test_outputs_of_several_parts(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    tasks = toy_tasks()
    check(hps_model(kind(), tasks), tasks)


def test_the_next_step_is_right_after_one_that_was_left_out() -> None:
    model, tasks = deep_model()
    step = check(model, tasks)
    bad = toy_batch(1)
    bad["rows"].targets["b"][2] = torch.inf
    assert step([bad], 0, 1).nonfinite == 1
    batch = toy_batch(2)
    plain = plain_gradients(model, tasks, [batch])
    step([batch], 0, 2)
    shared = names_of(model, model.shared_parameters())
    check_update(model, plain, shared, WEIGHTS, "unweighted")
